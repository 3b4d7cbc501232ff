"""From an experiment to its runs: what a paper's tables and figures need, each run once, teachers before students.

Nothing here imports torch: a plan of hundreds of runs takes well under a second.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lskd.compose import build_run, normal_form, parse_probe
from lskd.config_groups import Conf, merge
from lskd.errors import InputError
from lskd.networks import PEERS
from lskd.quantity import Better
from lskd.recipe import AS_IS
from lskd.run import LINEAGE, ProbeSpec, Run
from lskd.start import RUN
from lskd.tables import statements
from lskd.tables.cells import Key
from lskd.tables.derived import DERIVED, Derivation
from lskd.tables.experiment import Experiment
from lskd.tables.line import COUNTED, OF_ONE_RUN
from lskd.tables.metric import Metric, probed
from lskd.tables.recorded import check_probed, check_recorded
from lskd.tables.table import Table, load_table


@dataclass(frozen=True)
class Cell:
    """One configuration of a table, under its seeds."""

    row: str
    column: str
    settings: dict[str, Any]  # normal form, without the seed
    runs: tuple[Run, ...]  # one a seed, in the order of the table's seeds
    metric: Metric
    x: float | None = None  # figures: the value of the series' `over`
    derive: Derivation | None = None  # how it follows from others, if it does; it then has the runs of all of them
    made_of: tuple[tuple[Cell, ...], ...] = ()  # from which, in groups (`lskd.tables.derived`)

    @property
    def plain(self) -> tuple[Cell, ...]:
        """The cells with settings of their own behind it: itself, or those that it is made of."""
        if not self.made_of:
            return (self,)
        return tuple({id(one): one for group in self.made_of for cell in group for one in cell.plain}.values())

    @property
    def number(self) -> tuple[Any, ...]:
        """What it shows, however that is printed; ranks, for instance, are other numbers than what is ranked."""
        if self.derive is None:
            return (replace(self.metric, digits=0, unit=""),)
        inner = self.made_of[0][0].number
        return (self.derive.kind, *inner) if DERIVED[self.derive.kind].directed else inner

    def better(self, metric: Metric | None = None) -> Better:
        """Which of its numbers, or of others in their place, is better."""
        own: Better = DERIVED[self.derive.kind].better if self.derive is not None else ""
        return own or (metric or self.metric).quantity.better


@dataclass(frozen=True)
class TablePlan:
    """A table with its cells filled with runs."""

    table: Table
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    probes: tuple[ProbeSpec, ...] = ()
    declared: tuple[int, ...] = ()  # the seeds of the files, where others were asked for

    @property
    def declared_seeds(self) -> tuple[int, ...]:
        return self.declared or self.seeds

    @property
    def as_declared(self) -> bool:
        """Whether the seeds are those that were declared, no fewer and no others."""
        return set(self.seeds) == set(self.declared_seeds)

    def probe(self, metric: Metric) -> ProbeSpec | None:
        """The one that gives the number, if a probe does."""
        name = probed().get(metric.name)
        return next((probe for probe in self.probes if probe.name == name), None)

    @property
    def painter(self) -> ProbeSpec | None:
        """The one that draws the table's diagram, if a probe does."""
        return next((probe for probe in self.probes if self.table.diagram in probe.settings.pictures), None)

    def cell(self, row: str, column: str) -> Cell:
        return self._by_key[row, column]

    def along(self, row: str) -> list[Cell]:
        """The cells of a row, but for those in derived columns."""
        return [self.cell(*key) for key in self.table.along(row)]

    @functools.cached_property
    def _by_key(self) -> dict[Key, Cell]:
        return {(cell.row, cell.column): cell for cell in self.cells}


Probes = Mapping[str, tuple[ProbeSpec, ...]]  # what is to be looked at, by the id of the run


@dataclass(frozen=True)
class Plan:
    """An experiment, its tables, and all runs that they need: each once, every teacher before its students."""

    experiment: Experiment
    tables: tuple[TablePlan, ...]
    runs: tuple[Run, ...]
    probes: Probes = field(default_factory=dict)


def make_plan(
    experiment: Experiment, conf: Conf, seeds: Sequence[int] = (), known: dict[str, Run] | None = None
) -> Plan:
    """All runs of `experiment`, under `seeds` where others than the declared ones are asked for. Every setting of every
    cell is checked here, before anything is trained. `known`: see `plan_table`."""
    known = {} if known is None else known
    tables = tuple(plan_table(load_table(name, conf), conf, experiment, seeds, known) for name in experiment.tables)
    runs = in_order(run for planned in tables for cell in planned.cells for run in cell.runs)
    others = [plan_table(load_table(name, conf), conf, experiment, seeds, known) for name in experiment.probe_for]
    here = {run.id for run in runs}
    asked: dict[str, dict[ProbeSpec, None]] = {}
    for planned in (*tables, *others):
        for probe in planned.probes:
            for id in (run.id for cell in planned.cells for run in cell.runs if run.id in here):
                asked.setdefault(id, {})[probe] = None
    return Plan(experiment, tables, runs, {id: tuple(probes) for id, probes in asked.items()})


def plan_table(
    table: Table,
    conf: Conf,
    experiment: Experiment | None = None,
    asked: Sequence[int] = (),
    known: dict[str, Run] | None = None,
) -> TablePlan:
    """The table with the runs of its cells. Every setting of every cell is checked. `known` has the runs of other
    tables, by id (and recipe's name) and by the settings that describe them: what is the same run is the same object
    (an identity is computed once), and is added to."""
    known = {} if known is None else known
    where = f"table.{table.name}"
    declared = experiment.seeds if experiment is not None and experiment.seeds else table.seeds
    seeds = tuple(asked) or declared
    probes = tuple(parse_probe(given, f"{where}.probe") for given in table.probes)
    over_all = normal_form(experiment.settings, "experiment.settings") if experiment is not None else {}
    keys = table.keys() if table.has_cells else []
    described: dict[Key, list[Run]] = {}  # the runs that the settings describe, whatever the cell takes of them
    cells: dict[Key, Cell] = {}
    for key, form in forms_of(table, keys, over_all).items():
        with _in_cell(where, key):
            described[key] = runs_of_seeds(form, seeds, conf, known)
            for name, by in table.parents(*key).items():
                _check_parents(described[key], name, described[by], by)
            if not table.has(*key):
                continue
            x, metric = shown(table, *key)
            runs = tuple(_ancestor(run, table.ancestor(*key)) for run in described[key])
            check_recorded(metric, runs[0], conf)
            check_probed(metric, probes, runs[0], conf)
            cells[key] = Cell(*key, form, runs, metric, x)

    def add(key: Key) -> Cell:
        """A cell, if it is derived after those that it is made of."""
        if key not in cells:
            made_of = tuple(tuple(add(other) for other in group) for group in table.made_of(*key))
            with _in_cell(where, key):
                cells[key] = derived_cell(table, key, made_of)
        return cells[key]

    planned = TablePlan(table, seeds, tuple(add(key) for key in keys), probes, declared)
    check_compared(planned)
    check_metrics(planned, conf)
    return planned


@contextlib.contextmanager
def _in_cell(where: str, key: Key) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}, cell {'/'.join(key)}: {error}") from None


def forms_of(table: Table, keys: Iterable[Key], over_all: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
    """The settings, in normal form and without the seed, of each cell that is not derived, after those of its teacher
    (whether the table shows that or not); `over_all` are laid over them."""
    where = f"table.{table.name}"
    base = normal_form(table.base, f"{where}.base")
    rows = {key: normal_form(line.run, f"{where}.rows.{key}.run") for key, line in table.rows.items()}
    columns = {key: normal_form(line.run, f"{where}.columns.{key}.run") for key, line in table.columns.items()}
    forms: dict[Key, dict[str, Any]] = {}

    def add(key: Key) -> dict[str, Any]:
        if key in forms:
            return forms[key]
        row, column = key
        line, form = table.rows[row], merge(merge({}, base), rows[row])
        if table.kind == "figure" and line.over not in OF_ONE_RUN:
            value = table.value_at(row, column)
            whole = int(value) if isinstance(value, float) and value.is_integer() else value
            setting = {line.over: whole}
            if line.over == "generation":
                setting = {"generations": max(1, int(value))}
            merge(form, normal_form(setting, f"{where}.rows.{row}.over"))
        elif table.kind != "figure":
            merge(form, columns[column])
            if rows[row].get("teacher", ...) is None:  # a row without teachers, whatever they are in the columns
                form["teacher"] = None
                form.pop("teacher_mode", None)
            if rows[row].get("peer", ...) is None:
                form["peer"] = None
        given = table.parents(row, column)
        for name, by in given.items():
            if by[1] not in table.columns_of(by[0]):
                raise InputError(f"{where}, cell {row}/{column}: {name}: there is no cell {'/'.join(by)}")
            form[name] = copy.deepcopy(add(by))
        left_out = {*given, *(() if form.get("teacher") is not None else ("teacher", "teacher_mode"))}
        if form.get("started_from") is None:
            left_out.add("started_from")
        if form.get("peer") is None:
            left_out |= {*PEERS, "peers", "peer_views"}
        if own := table.cells.get(row, {}).get(column):
            merge(form, normal_form(own, f"{where}.cells.{row}.{column}"))
        over = {key: value for key, value in over_all.items() if key not in left_out}
        if form.get("recipe", {}).get("") == AS_IS and "recipe" in over:  # shorter or not, nothing is trained
            over["recipe"] = {name: value for name, value in over["recipe"].items() if name not in ("epochs", "steps")}
        merge(form, over)
        forms[key] = as_chain(form, forms[given["teacher"]]) if "teacher" in given else form
        return forms[key]

    for key in keys:
        if not table.made_of(*key):
            add(key)
    return forms


def as_chain(form: dict[str, Any], teacher: Mapping[str, Any]) -> dict[str, Any]:
    """The `form` of a run that `teacher` teaches; where that is a chain of generations, as one: not nested."""
    own, its = ({**one, "teacher": None, "generations": None} for one in (form, teacher))
    if own != its or teacher.get("teacher") is None:
        return form
    generations = sum(one.get("generations") or 1 for one in (form, teacher))
    return {**copy.deepcopy(dict(teacher)), "generations": generations}


def _check_parents(runs: Sequence[Run], name: str, parents: Sequence[Run], by: Key) -> None:
    for run, parent in zip(runs, parents, strict=True):
        found = getattr(run, name)
        if found is None or found.id != parent.id:
            why = "settings of its student are laid over it; give a recipe, and target.mass, in both or in the base"
            if name != "teacher":
                why = "settings are laid over it; give a recipe in both or in the base"
            what = "taught_by: the teacher" if name == "teacher" else f"{name}: it"
            raise InputError(f"{what} would not be the run of {'/'.join(by)}: {why}")


def _ancestor(run: Run, generations: int) -> Run:
    """Its teacher (1), its teacher's teacher (2), ...; the run itself (0)."""
    for generation in range(generations):
        if run.teacher is None:
            raise InputError(f"take = {'.'.join(['teacher'] * generations)}: {_RELATIONS[min(generation, 1)]}")
        run = run.teacher
    return run


_RELATIONS = ("the run has no teacher", "its teacher has none")


def shown(table: Table, row: str, column: str) -> tuple[float | None, Metric]:
    """Where a cell stands on the axis of a figure, and which number it shows."""
    line = table.rows[row]
    lines = [table.columns[column], line] if column in table.columns else [line]
    metric = next((entry.metric for entry in lines if entry.metric is not None), table.metric)
    if table.kind != "figure":
        return None, metric
    if table.x_axis == "category":
        return float(table.positions[column]), metric
    x = float(table.value_at(row, column))
    if choice := OF_ONE_RUN.get(line.over):
        chosen: dict[str, Any] = {choice: int(x) if line.over in COUNTED else x}
        metric = replace(metric, **chosen)
    return x, metric


def derived_cell(table: Table, key: Key, made_of: tuple[tuple[Cell, ...], ...]) -> Cell:
    """The cell `key`, which follows from groups of others (`lskd.tables.derived`)."""
    derive = table.derivation(*key)
    assert derive is not None
    kind, first = DERIVED[derive.kind], made_of[0][0]
    alike = made_of if kind.directed else (tuple(cell for group in made_of for cell in group),)
    for cells in alike:
        for cell in cells:
            if cell.number != cells[0].number:
                names = [f"{one.row}/{one.column}" for one in (cells[0], cell)]
                raise InputError(f"derive.kind = {derive.kind}: {' and '.join(names)} show different numbers")
    for cell in (group[0] for group in made_of if kind.directed):
        if not cell.better():
            raise InputError(f"derive.kind = {derive.kind}: neither more nor less {cell.metric.name} is better")
    metric = replace(
        first.metric,
        digits=first.metric.digits if kind.digits is None else kind.digits,
        unit=first.metric.unit if kind.unit is None else kind.unit,
    )
    runs = {run.id: run for group in made_of for cell in group for run in cell.runs}
    return Cell(*key, {}, tuple(runs.values()), metric, first.x, derive, made_of)


def check_compared(planned: TablePlan) -> None:
    """`InputError` for a test that compares numbers of the same runs with themselves, under whatever names."""
    for claim in planned.table.claims:
        for test in claim.tests:
            for statement in planned.table.statements(test) if test.kind.number == "difference" else ():
                counts: dict[Any, float] = {}
                for term, count in statement.coefficients.items():
                    cell = planned.cell(term.row, term.column) if term.kind == "cell" else None
                    key: Any = term
                    if cell is not None and cell.derive is None:
                        key = test.metric or cell.metric, tuple(run.id for run in cell.runs)
                    counts[key] = counts.get(key, 0.0) + count
                if not any(counts.values()):
                    terms = " and ".join(map(str, statement.coefficients))
                    where = f"table.{planned.table.name}.claims.{claim.id}"
                    raise InputError(f"{where} = {terms!r}: are the same number of the same runs")


def check_metrics(planned: TablePlan, conf: Conf) -> None:
    """`InputError` unless the runs record the numbers by which the table selects, and those that its tests ask for."""
    table = planned.table
    asked: list[tuple[str, Metric | None, list[Cell]]] = []
    asked.append(("select", table.select, [cell for cell in planned.cells if cell.derive is None]))
    for claim in table.claims:
        for test in claim.tests:
            places = [key for statement in table.statements(test) for key in statements.places(table, statement)]
            cells = [one for key in dict.fromkeys(places) for one in planned.cell(*key).plain]
            asked.append((f"claims.{claim.id}", test.metric, cells))
    for where, metric, cells in asked:
        if metric is None:
            continue
        for cell in cells:
            with _in_cell(f"table.{table.name}.{where}", (cell.row, cell.column)):
                check_recorded(metric, cell.runs[0], conf)
                check_probed(metric, planned.probes, cell.runs[0], conf)


def runs_of_seeds(form: Mapping[str, Any], seeds: Sequence[int], conf: Conf, known: dict[str, Run]) -> list[Run]:
    """The run that `form` describes under each seed. Settings are checked once: the others differ in their seeds alone,
    teachers' included, unless one of those is fixed. For `known`, see `plan_table`."""
    if _is_fixed(form):
        return [_run({"seed": seed, **form}, conf, known) for seed in seeds]
    first = _run({"seed": seeds[0], **form}, conf, known)
    return [first, *(first.reseeded(seed) for seed in seeds[1:])]


def _is_fixed(form: Mapping[str, Any]) -> bool:
    """Whether some run of the lineage that `form` describes has a seed of its own, or is named by its id."""
    named = str((form.get("start") or {}).get("", "")).startswith(RUN)
    return (
        named
        or "seed" in form
        or any(_is_fixed(form[name]) for name in (*LINEAGE, *PEERS) if form.get(name) is not None)
    )


def _run(form: Mapping[str, Any], conf: Conf, known: dict[str, Run]) -> Run:
    """The run of a form. (Most cells of many tables say what others said before.)"""
    said = json.dumps(form, sort_keys=True, default=repr)
    if said not in known:
        known[said] = _shared(build_run(form, conf), known)
    return known[said]


def _shared(run: Run, known: dict[str, Run]) -> Run:
    """The known run that is this one, if there is one; its teacher, and what it starts from, likewise."""
    same = f"{run.id} {_recipes(run)}"
    if same not in known:
        parents = {name: _shared(one, known) for name in LINEAGE if (one := getattr(run, name)) is not None}
        others: dict[str, Any] = {name: one for name, one in parents.items() if one is not getattr(run, name)}
        known[same] = replace(run, **others) if others else run
    return known[same]


def _recipes(run: Run) -> list[Any]:
    """The names of its recipe and its parents': two papers may train alike, and each says where it has that from."""
    return [run.recipe.name, *map(_recipes, run.parents)]


def in_order(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The runs, all their teachers, and what they start from, each once, and these before them."""
    ordered: dict[str, Run] = {}

    def add(run: Run) -> None:
        if run.id not in ordered:
            for parent in run.parents:
                add(parent)
            ordered[run.id] = run

    for run in runs:
        add(run)
    return tuple(sorted(ordered.values(), key=lambda run: run.generation))


def training_examples(run: Run, conf: Conf) -> int:
    """Images in the run's training part."""
    return conf.spec_of(run.dataset).train
