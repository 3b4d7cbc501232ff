"""From an experiment to its runs: what a paper's tables and figures need, each run once, teachers before students.

Nothing here imports torch: a plan of hundreds of runs takes well under a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lskd.compose import build_run, normal_form, parse_probe
from lskd.config_groups import Conf, merge
from lskd.errors import InputError, require
from lskd.run import ProbeSpec, Run
from lskd.tables.claim import ASSOCIATIONS, ORDERS
from lskd.tables.experiment import Experiment
from lskd.tables.metric import Metric, probed, watched
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


@dataclass(frozen=True)
class TablePlan:
    """A table with its cells filled with runs."""

    table: Table
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    probe: ProbeSpec | None = None
    declared: tuple[int, ...] = ()  # the seeds of the files, where others were asked for

    @property
    def declared_seeds(self) -> tuple[int, ...]:
        return self.declared or self.seeds

    @property
    def as_declared(self) -> bool:
        """Whether the seeds are those that were declared, no fewer and no others."""
        return set(self.seeds) == set(self.declared_seeds)

    def cell(self, row: str, column: str) -> Cell:
        return next(cell for cell in self.cells if (cell.row, cell.column) == (row, column))


Probes = Mapping[str, tuple[ProbeSpec, ...]]  # what is to be looked at, by the id of the run


@dataclass(frozen=True)
class Plan:
    """An experiment, its tables, and all runs that they need: each once, every teacher before its students."""

    experiment: Experiment
    tables: tuple[TablePlan, ...]
    runs: tuple[Run, ...]
    probes: Probes = field(default_factory=dict)


def make_plan(experiment: Experiment, conf: Conf, seeds: Sequence[int] = ()) -> Plan:
    """All runs of `experiment`, under `seeds` where others than the declared ones are asked for. Every setting of every
    cell is checked here, before anything is trained."""
    tables = tuple(plan_table(load_table(name, conf), conf, experiment, seeds) for name in experiment.tables)
    runs = in_order(run for planned in tables for cell in planned.cells for run in cell.runs)
    others = [plan_table(load_table(name, conf), conf, experiment, seeds) for name in experiment.probe_for]
    here = {run.id for run in runs}
    asked: dict[str, dict[ProbeSpec, None]] = {}
    for planned in (*tables, *others):
        if planned.probe is not None:
            for id in (run.id for cell in planned.cells for run in cell.runs if run.id in here):
                asked.setdefault(id, {})[planned.probe] = None
    return Plan(experiment, tables, runs, {id: tuple(probes) for id, probes in asked.items()})


def plan_table(table: Table, conf: Conf, experiment: Experiment | None = None, asked: Sequence[int] = ()) -> TablePlan:
    where = f"table.{table.name}"
    declared = experiment.seeds if experiment is not None and experiment.seeds else table.seeds
    seeds = tuple(asked) or declared
    over_all = normal_form(experiment.settings, "experiment.settings") if experiment is not None else {}
    base = normal_form(table.base, f"{where}.base")
    probe = parse_probe(table.probe, f"{where}.probe") if table.probe else None
    cells = []
    for row, column in table.keys() if table.has_cells else ():
        line, x = table.rows[row], None
        of_row = normal_form(line.run, f"{where}.rows.{row}.run")
        form = merge(merge({}, base), of_row)
        if table.kind == "figure":
            x = next(value for value in line.values if f"{value:g}" == column)
            if line.over not in ("step", "epoch"):
                merge(form, normal_form({line.over: x}, f"{where}.rows.{row}.over"))
            lines = [line]
        else:
            other = table.columns[column]
            merge(form, normal_form(other.run, f"{where}.columns.{column}.run"))
            lines = [other, line]
            if of_row.get("teacher", ...) is None:  # a row without teachers, whatever they are in the columns
                form["teacher"] = None
                form.pop("teacher_mode", None)
        of_teacher = () if form.get("teacher") is not None else ("teacher", "teacher_mode")
        if own := table.cells.get(row, {}).get(column):
            merge(form, normal_form(own, f"{where}.cells.{row}.{column}"))
        merge(form, {key: value for key, value in over_all.items() if key not in of_teacher})
        try:
            seeded = runs_of_seeds(form, seeds, conf)
        except InputError as error:
            raise InputError(f"{where}, cell {row}/{column}: {error}") from None
        runs = []
        for run in seeded:
            if _take(table, row, column) == "teacher":
                if run.teacher is None:
                    raise InputError(f"{where}, cell {row}/{column}: take = teacher: the run has no teacher")
                run = run.teacher
            runs.append(run)
        metric = next((entry.metric for entry in lines if entry.metric is not None), table.metric)
        if table.rows[row].over == "step":
            assert x is not None
            metric = replace(metric, step=int(x))
        if table.rows[row].over == "epoch":
            assert x is not None
            metric = replace(metric, at_epoch=int(x))
        try:
            check_recorded(metric, runs[0], conf)
            check_probed(metric, probe, runs[0], conf)
        except InputError as error:
            raise InputError(f"{where}, cell {row}/{column}: {error}") from None
        cells.append(Cell(row, column, form, tuple(runs), metric, x))
    planned = TablePlan(table, seeds, tuple(cells), probe, declared)
    check_compared(planned)
    return planned


def check_compared(planned: TablePlan) -> None:
    """`InputError` for a test that compares numbers of the same runs with themselves, under whatever names."""
    for claim in planned.table.claims:
        for test in claim.tests:
            for statement in planned.table.statements(test) if test.test not in (*ORDERS, *ASSOCIATIONS) else ():
                counts: dict[Any, float] = {}
                for term, count in statement.coefficients.items():
                    cell = planned.cell(term.row, term.column) if term.kind == "cell" else None
                    key = term if cell is None else (test.metric or cell.metric, tuple(run.id for run in cell.runs))
                    counts[key] = counts.get(key, 0.0) + count
                if not any(counts.values()):
                    terms = " and ".join(map(str, statement.coefficients))
                    where = f"table.{planned.table.name}.claims.{claim.id}"
                    raise InputError(f"{where} = {terms!r}: are the same number of the same runs")


def runs_of_seeds(form: Mapping[str, Any], seeds: Sequence[int], conf: Conf) -> list[Run]:
    """The run that `form` describes under each seed. Settings are checked once: the others differ in their seeds alone,
    teachers' included, unless one of those is fixed."""
    level: Mapping[str, Any] | None = form
    while level is not None:
        if "seed" in level:
            return [build_run({"seed": seed, **form}, conf) for seed in seeds]
        level = level.get("teacher")
    first = build_run({"seed": seeds[0], **form}, conf)
    return [first, *(reseeded(first, seed) for seed in seeds[1:])]


def reseeded(run: Run, seed: int) -> Run:
    return replace(run, seed=seed, teacher=None if run.teacher is None else reseeded(run.teacher, seed))


def check_recorded(metric: Metric, run: Run, conf: Conf) -> None:
    """`InputError` unless `run` records the metric of its cell, if that is not a probe's."""
    method = run.method
    if metric.name in watched() and metric.name not in method.settings.watched:
        watches = ", ".join(method.settings.watched) or "nothing"
        raise InputError(f"metric.name = {metric.name}: method={method.name} as it is set here watches {watches}")
    if metric.at_epoch is None:
        return
    examples, recipe = training_examples(run, conf), run.recipe
    last = -(-recipe.total_steps(examples) // recipe.steps_per_epoch(examples))
    require(1 <= metric.at_epoch <= last, "epoch", metric.at_epoch, f"from 1 to {last}")
    every = 1 if metric.name in watched() or metric.part == "train" else recipe.evaluate_every
    allowed = f"a multiple of {every}, or {last}: the epochs that are evaluated"
    require(metric.at_epoch % every == 0 or metric.at_epoch == last, "epoch", metric.at_epoch, allowed)


def check_probed(metric: Metric, probe: ProbeSpec | None, run: Run, conf: Conf) -> None:
    """`InputError` unless a table's probe, if it has one, can look at `run` and gives the metric of its cell."""
    if probe is not None:
        if probe.settings.needs_teacher and (run.teacher is None or run.teacher_mode != "eval"):
            raise InputError(f"probe.name = {probe.name}: the run must have a teacher, with teacher_mode=eval")
        try:
            probe.settings.check(conf.spec(run.dataset.name))
        except InputError as error:
            raise InputError(f"probe.{error}") from None
    if metric.name not in probed():
        return
    source = probed()[metric.name]
    if probe is None or source != probe.name:
        raise InputError(f"metric.name = {metric.name}: must be in a table with probe: {{name: {source}}}")
    steps, every = run.recipe.total_steps(training_examples(run, conf)), probe.settings.every
    if metric.step is not None and metric.step != steps and (not every or metric.step % every or metric.step > steps):
        allowed = f"a multiple of {every} up to {steps}, or {steps}" if every else f"{steps}, the end of the training"
        raise InputError(f"step = {metric.step}: must be {allowed}")


def _take(table: Table, row: str, column: str) -> str:
    lines = [table.rows[row]] + ([table.columns[column]] if column in table.columns else [])
    return "teacher" if any(line.take == "teacher" for line in lines) else "run"


def in_order(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The runs and all their teachers, each once, teachers first."""
    ordered: dict[str, Run] = {}

    def add(run: Run) -> None:
        if run.id not in ordered:
            if run.teacher is not None:
                add(run.teacher)
            ordered[run.id] = run

    for run in runs:
        add(run)
    return tuple(sorted(ordered.values(), key=lambda run: run.generation))


def training_examples(run: Run, conf: Conf) -> int:
    """Images in the run's training part."""
    return run.dataset.examples(conf.spec(run.dataset.name))
