"""What the pages say, gathered from the reports and the store: plain values, which the templates lay out."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lskd.commands import Commands
from lskd.compose import build_run
from lskd.config_groups import Conf
from lskd.errors import InputError
from lskd.methods import METHODS, Method
from lskd.metrics import METRICS, Measured
from lskd.quantity import Quantity
from lskd.recipe import Recipe
from lskd.report import Report, layout
from lskd.report.claims import Finding, Part
from lskd.report.filled import FilledTable
from lskd.report.index import Entry
from lskd.report.site import charts
from lskd.report.site.charts import Axis, Bar, Series
from lskd.report.site.links import anchor
from lskd.report.statistics import LEAST, LEVEL, holm
from lskd.report.values import Summary, Values
from lskd.report.words import show_p
from lskd.run import Run, without_code
from lskd.schema import flat, identity, show, unfolded
from lskd.snapshot import Snapshot
from lskd.store import Store
from lskd.tables import statements

NOBODY = "Questions of our own"  # where a paper's name would stand


@dataclass(frozen=True)
class Place:
    """Where in the tables a run's number stands."""

    filled: FilledTable
    cell: Summary

    @property
    def experiment(self) -> str:
        return self.filled.experiment.name

    @property
    def id(self) -> str:
        return cell_id(self.filled, self.cell)

    @property
    def label(self) -> str:
        return place_of(self.filled, self.cell)


def name_of(entry: Entry) -> str:
    """Such as "Müller 2019, C10"; of no paper's "Q1"."""
    return ", ".join(filter(None, [entry.filled.paper, entry.finding.claim.id]))


def table_id(filled: FilledTable) -> str:
    return anchor("table", filled.experiment.name, filled.table.name)


def cell_id(filled: FilledTable, cell: Summary) -> str:
    return anchor("cell", filled.experiment.name, filled.table.name, cell.cell.row, cell.cell.column)


def claim_id(filled: FilledTable, finding: Finding) -> str:
    return anchor("claim", filled.experiment.name, filled.table.name, finding.claim.id)


def evaluated() -> dict[str, Quantity]:
    """What every evaluation of a network measures."""
    return {name: quantity for name, quantity in METRICS.items() if isinstance(quantity, Measured)}


class Library:
    """All that there is to write about, and who refers to whom."""

    def __init__(self, reports: Sequence[Report], store: Store, conf: Conf, *, whole: bool = True) -> None:
        """`whole`: of all experiments, so that runs of none of them have pages, too."""
        self.reports = sorted(reports, key=lambda report: report.plan.experiment.name)
        self.store, self.conf = Snapshot.of(store), conf
        self.values, self.commands = Values(self.store), Commands(conf)
        self.runs = {run.id: run for report in reports for run in report.plan.runs if self._is_here(run)}
        self.planned = {run.id for report in reports for run in report.plan.runs}
        if whole:
            for id, config in self.store.configs():
                if id not in self.planned and (run := _restored(config)) is not None:
                    self.runs[id] = run
        self.students: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs.values():
            if run.teacher is not None:
                self.students[run.teacher.id].append(run)
        self.places: dict[str, list[Place]] = defaultdict(list)
        for filled in self.tables:
            for cell in filled.cells:
                for id in dict.fromkeys(cell.ids.values()):
                    self.places[id].append(Place(filled, cell))
        self.entries = sorted((Entry(f, finding) for f in self.tables for finding in f.findings), key=lambda e: e.order)

    def _is_here(self, run: Run) -> bool:
        return self.values.done(run) or self.store.failure(run) is not None

    @functools.cached_property
    def done(self) -> int:
        """How many runs are finished."""
        return sum(self.values.done(run) for run in self.runs.values())

    @property
    def tables(self) -> Iterator[FilledTable]:
        return (filled for report in self.reports for filled in report.tables)

    @functools.cached_property
    def methods(self) -> dict[str, Method]:
        """Those that there are; a plug-in's among them."""
        return dict(sorted(METHODS.items()))

    @functools.cached_property
    def recipes(self) -> dict[str, Recipe]:
        """By name, as their files have them. What is none by itself (a part of others) is left out."""
        from lskd.schema import parse

        found = {}
        for name in self.conf.names("recipe"):
            try:
                found[name] = parse(Recipe, self.conf.load("recipe", name), f"recipe.{name}")
            except InputError:
                continue
        return found


def _restored(config: Mapping[str, Any]) -> Run | None:
    """The run of a config.json; None where the code that is here makes another one of it."""
    try:
        return Run.of(config)
    except (InputError, KeyError, TypeError):
        return None


# ---- verdicts -----------------------------------------------------------------------------------------------------


def mark(outcome: str, final: bool) -> str:
    """The sign of a verdict: a name of a symbol in the pages."""
    return outcome.replace(" ", "-") + ("" if final or outcome not in ("holds", "fails") else "-so-far")


@dataclass(frozen=True)
class ForestRow:
    """A part of a claim, as a row of a forest plot."""

    entry: Entry
    part: Part
    bar: Bar | None
    axis: Axis | None = None

    @property
    def mark(self) -> str:
        return mark(self.part.outcome, self.entry.finding.final)

    @property
    def drawing(self) -> Markup:
        return Markup() if self.bar is None or self.axis is None else charts.forest_row(self.bar, self.axis)

    @property
    def effect(self) -> str:
        return layout.MISSING if self.bar is None else layout.number(self.bar.mean, self.part.digits)

    @property
    def interval(self) -> str:
        if self.bar is None or self.bar.interval is None:
            return ""
        low, high = (layout.number(end, self.part.digits) for end in self.bar.interval)
        return f"[{low}, {high}]"

    @property
    def n(self) -> str:
        return f"{self.entry.finding.n} of {len(self.entry.filled.planned.declared_seeds)}"

    @property
    def enough(self) -> bool:
        """Whether its runs can decide anything."""
        return self.part.effect is not None and min(self.part.effect.n) >= LEAST

    @property
    def more(self) -> int:
        """How many parts of the claim there are besides."""
        return len(self.entry.finding.parts) - 1


@dataclass(frozen=True)
class Panel:
    """Rows of a forest plot that share an axis."""

    title: str
    unit: str
    axis: Axis
    rows: tuple[ForestRow, ...]


def row_of(entry: Entry, part: Part) -> ForestRow:
    effect = part.effect
    if effect is None:
        return ForestRow(entry, part, None)
    return ForestRow(entry, part, Bar(effect.mean, effect.interval(LEVEL), part.about.test.region))


def words_of(filled: FilledTable, part: Part) -> list[tuple[str, str]]:
    """The words of a statement, those that are cells with the anchor of their runs."""
    anchors = {f"{cell.cell.row}/{cell.cell.column}": cell_id(filled, cell) for cell in filled.cells if has_runs(cell)}
    return [(word, anchors.get(word, "")) for word in part.statement.split(" ")]


def unit(entry: Entry, part: Part) -> str:
    """What the effect of a part is counted in."""
    test, planned = part.about.test, entry.filled.planned
    if test.kind.number == "correlation":
        return "rank correlation"
    metric = test.metric or planned.cell(*statements.places(planned.table, part.about)[0]).metric
    return "percentage points" if metric.rate else titled(metric.quantity, metric.unit)


def titled(quantity: Quantity, unit: str | None = None) -> str:
    """Such as "top-1 accuracy (%)"."""
    unit = quantity.unit if unit is None else unit
    return quantity.title + (f" ({unit})" if unit else "")


def panels(title: str, rows: Iterable[ForestRow]) -> list[Panel]:
    """The rows by what they are counted in, each group with an axis of its own; those that decide nothing last."""
    groups: dict[str, list[ForestRow]] = defaultdict(list)
    for row in rows:
        groups[unit(row.entry, row.part)].append(row)
    found = []
    for name, group in groups.items():
        group.sort(key=lambda row: not row.enough)
        axis = charts.axis_of((row.bar, row.enough) for row in group if row.bar is not None)
        found.append(Panel(title, name, axis, tuple(ForestRow(row.entry, row.part, row.bar, axis) for row in group)))
    return found


SECTIONS = {
    "final": "At the papers’ protocols",
    "interim": "At the papers’ protocols, so far: not all declared seeds",
    "own": "At protocols of our own: neither for nor against a paper",
}


def forest(entries: Sequence[Entry]) -> list[Panel]:
    """Every claim of which there are numbers, by the part on which its verdict hangs."""
    found = []
    for section, title in SECTIONS.items():
        chosen = [entry for entry in entries if entry.section == section]
        rows = [row_of(entry, part) for entry in chosen for part in [entry.finding.weakest] if part is not None]
        found += panels(title, rows)
    return found


@dataclass(frozen=True)
class PaperClaims:
    """A paper's part of the matrix: its claims, and what became of each at either kind of protocol."""

    paper: str
    claims: dict[str, str]  # id: text
    rows: dict[str, dict[str, list[Entry]]]  # by protocol, by claim

    @property
    def heads(self) -> list[tuple[str, int]]:
        """(C14, how many claims are called so: "C14", "C14, no better than …") for the columns."""
        return list(Counter(id.partition(",")[0] for id in self.claims).items())


def matrix(entries: Sequence[Entry]) -> list[PaperClaims]:
    by_paper: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_paper[entry.filled.paper].append(entry)
    found = []
    for paper in sorted(by_paper, key=lambda name: (not name, name)):
        claims = {entry.finding.claim.id: entry.finding.claim.text for entry in by_paper[paper]}
        rows: dict[str, dict[str, list[Entry]]] = {"the paper’s": defaultdict(list), "our own": defaultdict(list)}
        for entry in by_paper[paper]:
            protocol = "our own" if entry.filled.experiment.own else "the paper’s"
            rows[protocol][entry.finding.claim.id].append(entry)
        found.append(PaperClaims(paper, claims, {key: row for key, row in rows.items() if row}))
    return found


@dataclass(frozen=True)
class ClaimLine:
    """A claim in the list of all."""

    entry: Entry
    row: ForestRow | None
    p: str
    p_value: float | None
    holm: str


def claim_lines(entries: Sequence[Entry]) -> dict[str, list[ClaimLine]]:
    """By section; Holm's p over the final ones."""
    found: dict[str, list[ClaimLine]] = {}
    for section in (*SECTIONS, "not run"):
        chosen = [entry for entry in entries if entry.section == section]
        corrected = holm([entry.p for entry in chosen])
        lines = []
        for entry, adjusted in zip(chosen, corrected, strict=True):
            finding = entry.finding
            decided = finding.outcome != "undecided" or any(part.p is not None for part in finding.parts)
            decided = decided and section != "not run"
            weakest = finding.weakest
            lines.append(
                ClaimLine(
                    entry,
                    None if weakest is None else row_of(entry, weakest),
                    _p(entry.p) if decided else layout.MISSING,
                    entry.p if decided else None,
                    _p(adjusted) if decided and section == "final" else "",
                )
            )
        found[section] = lines
    return found


def _p(p: float) -> str:
    return show_p(p).removeprefix("p = ").removeprefix("p ")


def counts(entries: Iterable[Entry]) -> Counter[str]:
    """How many claims have which verdict, those of the papers' protocols and ours apart."""
    return Counter(entry.finding.verdict for entry in entries)


def in_words(entry: Entry) -> list[Part]:
    """The parts that say what was found: all of them if they are few, else the one on which the verdict hangs."""
    finding = entry.finding
    few = len(finding.parts) <= 3 or finding.weakest is None
    return list(finding.parts) if few else [part for part in [finding.weakest] if part is not None]


def decided(entries: Sequence[Entry], section: str) -> list[Entry]:
    return [entry for entry in entries if entry.section == section and entry.finding.outcome in ("holds", "fails")]


# ---- experiments --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """How much of an experiment is there."""

    report: Report
    states: Counter[str]

    @property
    def total(self) -> int:
        return len(self.report.plan.runs)

    @property
    def done(self) -> int:
        return self.report.done

    @property
    def status(self) -> str:
        if not self.total:
            return "quoted"
        if self.done == self.total:
            return "complete"
        return "in part" if self.done else "not run"

    @property
    def order(self) -> tuple[int, str]:
        """What there is first."""
        return ["complete", "in part", "not run", "quoted"].index(self.status), self.report.plan.experiment.name

    @property
    def papers(self) -> str:
        return ", ".join(dict.fromkeys(filled.paper for filled in self.report.tables if filled.paper))

    @property
    def words(self) -> str:
        """Such as "2 begun, 16 missing"."""
        names = {"started": "begun", "diverged": "diverged", "failed": "failed", "damaged": "damaged"}
        parts = [f"{self.states[state]} {name}" for state, name in names.items() if self.states[state]]
        missing = self.states["missing"]
        return ", ".join([*parts, *([f"{missing} missing"] if missing else [])])

    @property
    def verdicts(self) -> list[tuple[str, str, int]]:
        """(mark, verdict, how many)."""
        findings = [finding for filled in self.report.tables for finding in filled.findings]
        count = Counter((mark(f.outcome, f.final), f.verdict) for f in findings)
        return [(sign, verdict, number) for (sign, verdict), number in count.items()]


def progress(library: Library, report: Report) -> Progress:
    return Progress(report, Counter(_state(library.store, run) for run in report.plan.runs))


def _state(store: Store, run: Run) -> str:
    """Its state; begun is also what has no checkpoint yet."""
    state = store.state(run)
    return "started" if state == "missing" and store.directory(run).is_dir() else state


@dataclass(frozen=True)
class Number:
    """What stands in a cell of a table."""

    text: str
    value: float | None = None  # by which it is sorted
    note: str = ""  # small, beside it
    part: str = ""  # the anchor of the runs that it is of
    kind: str = ""


@dataclass(frozen=True)
class Line:
    kind: str  # ours, paper, others, Δ; "" where there is but ours
    numbers: list[Number]


@dataclass(frozen=True)
class Group:
    """A row of a table: a label, and lines of numbers."""

    label: str
    lines: list[Line]


def ours(filled: FilledTable, cell: Summary | None) -> Number:
    if cell is None:
        return Number(layout.NOT_AT_HAND, kind="absent")
    text, _, n = layout.ours(cell).partition(" (")
    here = cell_id(filled, cell) if has_runs(cell) else ""
    return Number(text, cell.mean, f"({n}", here, "" if cell.mean is not None else "absent")


def has_runs(cell: Summary) -> bool:
    """Whether there are runs behind it; behind a derived one, other cells."""
    return bool(cell.ids or cell.values)


def delta(cell: Summary | None) -> Number:
    if cell is None:
        return Number(layout.NOT_AT_HAND, kind="absent")
    text, _, where = layout.delta(cell).partition(" ")
    return Number(text, cell.delta, where, kind=where or "absent")


def plain(text: str) -> Number:
    """What somebody else printed."""
    absent = text in (layout.NOT_AT_HAND, layout.MISSING)
    try:
        value = float(text.split(" ")[0].replace("−", "-"))
    except ValueError:
        value = None
    return Number(text, value, kind="absent" if absent else "printed")


def groups(filled: FilledTable) -> list[Group]:
    """rows × columns: ours, the paper's, others', and Δ."""
    table, by_place = filled.table, {(cell.cell.row, cell.cell.column): cell for cell in filled.cells}
    _, lines = layout.grid(filled)
    labels, found = layout.label_columns(filled), []
    for row, of_row in itertools.groupby(lines, key=lambda line: line.row):
        cells = [by_place.get((row, column)) for column in table.columns]
        own = {"ours": [ours(filled, cell) for cell in cells], "Δ": [delta(cell) for cell in cells]}
        shown = [
            Line(line.kind, own.get(line.kind) or [plain(text) for text in line.texts[labels:]]) for line in of_row
        ]
        found.append(Group(filled.row_label(row), shown))
    return found


def points(filled: FilledTable) -> tuple[list[str], list[tuple[list[str], list[Number]]]]:
    """The points of a figure: headers, and of each (labels, numbers). Its number of seeds stands with its mean."""
    headers, lines = layout.grid(filled)
    labels, found = layout.label_columns(filled), []
    kept = [i for i, header in enumerate(headers) if i >= labels and header != "n"]
    for cell, line in zip(filled.cells, lines, strict=True):
        own = {"mean ± sd": ours(filled, cell), "Δ": delta(cell)}
        numbers = [own.get(headers[i]) or plain(line.texts[i]) for i in kept]
        found.append(([filled.row_label(cell.cell.row), *line.texts[1:labels]], numbers))
    return [*headers[:labels], *(headers[i] for i in kept)], found


@dataclass(frozen=True)
class CellRuns:
    """The runs behind a number, or of a derived one the cells that it follows from."""

    id: str
    row: str
    column: str
    runs: list[tuple[int, str, str]]  # seed, number, id of the run ("" of a derived number)
    cells: list[tuple[str, str]]  # label, anchor ("" where there is nothing yet)


def cell_runs(filled: FilledTable) -> list[CellRuns]:
    by_place, found = {(cell.cell.row, cell.cell.column): cell for cell in filled.cells}, []
    for cell in filter(has_runs, filled.cells):
        digits = cell.cell.metric.digits
        shown = [
            (
                seed,
                layout.number(cell.values[seed], digits) if seed in cell.values else "not recorded",
                cell.ids.get(seed, ""),
            )
            for seed in (cell.ids or cell.values)
        ]
        behind = [by_place[one.row, one.column] for one in cell.cell.plain] if cell.cell.derive is not None else []
        cells = [(place_of(filled, one), cell_id(filled, one) if has_runs(one) else "") for one in behind]
        label = filled.row_label(cell.cell.row), filled.column_label(cell)
        found.append(CellRuns(cell_id(filled, cell), *label, shown, cells))
    return found


def place_of(filled: FilledTable, cell: Summary) -> str:
    return f"{filled.row_label(cell.cell.row)} / {filled.column_label(cell)}"


def notes(filled: FilledTable) -> list[str]:
    return [*filled.table.notes, *layout.legend(filled, str)]


def conventions(filled: FilledTable) -> str:
    return layout.conventions(filled) if filled.table.has_cells else ""


def recipes_of(library: Library, filled: FilledTable) -> list[tuple[str, list[str], list[str]]]:
    """(name, networks, settings that differ from the file's) of each recipe of the runs and of their teachers."""
    used: dict[str, tuple[Recipe, set[str]]] = {}
    for run in filled.runs:
        key = show([run.recipe.name, identity(run.recipe)])
        used.setdefault(key, (run.recipe, set()))[1].add(run.network)
    return [
        (recipe.name, sorted(networks), different(recipe, library.recipes.get(recipe.name)))
        for recipe, networks in used.values()
    ]


def different(recipe: Recipe, base: Recipe | None) -> list[str]:
    """The settings of a recipe that are not those of its file."""
    if base is None:
        return []
    own, its = flat(recipe), flat(base)
    return [f"{key} {said(value)}" for key, value in own.items() if its.get(key, ...) != value]


# ---- runs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    name: str
    value: str
    given: bool  # not at its default


def said(value: Any) -> str:
    """A value as a user would write it."""
    return value if isinstance(value, str) and value else show(value)


def settings(run: Run) -> dict[str, list[Setting]]:
    """Every setting that can change a run's numbers, by group. A teacher's are on its own page."""
    own = unfolded({key: value for key, value in run.identity().items() if key != "teacher"})
    found: dict[str, list[Setting]] = {}
    for name, value in run.settings.items():
        group, _, rest = name.rpartition(".") if name.count(".") == 0 else name.partition(".")
        of_teacher = group == "teacher" or (run.teacher is None and name in ("teacher_mode", "streams"))
        if not of_teacher and (_given(name, own) or value not in ("", None)):
            found.setdefault(group or "run", []).append(Setting(rest, said(value), _given(name, own)))
    return found


def _given(name: str, own: Mapping[str, Any]) -> bool:
    """Whether a setting, or a part of it, is among those that are not at their defaults."""
    return any(key == name or key.startswith(f"{name}.") for key in own)


@dataclass(frozen=True)
class Results:
    """The numbers of a run's record: a line for each part and epoch."""

    names: list[str]
    lines: list[tuple[str, list[str]]]


def measured(record: Mapping[str, Any]) -> Results:
    known = evaluated()
    found: dict[str, Mapping[str, Any]] = {}
    for part, numbers in record["last"].items():
        found[f"{part} part, last epoch"] = numbers
    for chosen, best in record["best"].items():
        for part, numbers in best.items():
            if isinstance(numbers, Mapping):
                found[f"{part} part, best epoch on the {chosen} part ({best['epoch'] + 1})"] = numbers
    for part, calibration in record.get("calibration", {}).items():
        for on, scaled in calibration.get("scaled", {}).items():
            label = f"{part} part, scaled by T = {scaled['temperature']:.3g} (chosen on the {on} part)"
            found[label] = {key: value for key, value in scaled.items() if key in known}
    found["training part, last epoch"] = {key: value for key, value in record["train"].items() if key in known}
    names = [name for name in known if any(name in numbers for numbers in found.values())]
    lines = [
        (label, [_shown(numbers.get(name), known[name].digits) for name in names])
        for label, numbers in found.items()
        if numbers
    ]
    return Results([titled(known[name]) for name in names], lines)


def training(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a run's record says of its training, in words. (Old ones say less.)"""
    found = []
    if (gamma := record.get("gamma")) is not None:
        found.append(("equivalent label smoothing γ", layout.number(gamma, 4)))
    units = {"steps": "steps", "epochs": "epochs", "examples": "images", "parameters": "parameters"}
    words = [f"{record[key]:,} {unit}" for key, unit in units.items() if key in record]
    words += [f"{record['seconds']:,.1f} s"] if "seconds" in record else []
    return [*found, *([("training", ", ".join(words))] if words else [])]


def _shown(value: Any, digits: int) -> str:
    return layout.number(value, digits) if isinstance(value, (int, float)) else ""


def learning(epochs: Sequence[Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    """(title, chart): the curves of a run's log: accuracy, loss, and the terms that are minimised."""
    proper = [line for line in epochs if "stage" not in line]
    parts = list(
        dict.fromkeys(
            name
            for line in proper
            for name, v in line.items()
            if name in ("train", "validation", "test") and isinstance(v, Mapping)
        )
    )

    def series(metric: str, of: Iterable[str]) -> list[Series]:
        found = []
        for part in of:
            pairs = [(line["epoch"] + 1, line[part][metric]) for line in proper if metric in line.get(part, {})]
            found.append(Series(part if len(parts) > 1 else metric, pairs))
        return [one for one in found if one.points]

    drawn = [
        ("Accuracy", "top-1 (%)", series("top1", parts)),
        ("Loss on held-out parts", "NLL (nats)", series("nll", [part for part in parts if part != "train"])),
    ]
    known = evaluated()
    terms = list(dict.fromkeys(name for line in proper for name in line.get("train", {}) if name not in known))
    by_term = [
        Series(term, [(line["epoch"] + 1, line["train"][term]) for line in proper if term in line.get("train", {})])
        for term in terms
    ]
    drawn.append(("Terms of the training loss", "mean of an epoch", by_term))
    return [
        (title, charts.curves(lines, title=f"{title} over the epochs", x_label="epoch", y_label=y))
        for title, y, lines in drawn
        if lines
    ]


def calibration(record: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """(caption, chart): the reliability diagram of each part, and after temperature scaling."""
    found = []
    for part, of_part in record.get("calibration", {}).items():
        series = []
        if bins := of_part.get("reliability"):
            series.append(Series("as it is", [(b[1], b[2]) for b in bins if b[0]], dots=True))
        for scaled in of_part.get("scaled", {}).values():
            if bins := scaled.get("reliability"):
                label = f"T = {scaled['temperature']:.3g}"
                series.append(Series(label, [(b[1], b[2]) for b in bins if b[0]], dots=True))
        if series:
            chart = charts.curves(
                series,
                title=f"Reliability on the {part} part: accuracy over confidence, by bin",
                x_label="confidence",
                y_label="accuracy",
                x=(0.0, 1.0),
                y=(0.0, 1.0),
                diagonal="calibrated",
            )
            found.append((part, chart))
    return found


@dataclass(frozen=True)
class RunLine:
    """A run in a list."""

    run: Run
    state: str
    network: str
    method: str
    temperature: float | None
    teacher: str
    teacher_alpha: float | None
    top1: float | None
    nll: float | None
    ece: float | None


def run_line(library: Library, run: Run) -> RunLine:
    record = library.values.record(run)
    numbers = {} if record is None else record["last"].get(run.dataset.evaluate, {})
    teacher = run.teacher
    return RunLine(
        run,
        "done" if record is not None else library.store.state(run),
        run.network,
        run.method.name,
        getattr(run.method.settings, "temperature", None),
        "" if teacher is None else teacher.network,
        None if teacher is None else teacher.smoothing.alpha,
        numbers.get("top1"),
        numbers.get("nll"),
        numbers.get("ece15"),
    )


def environment(env: Mapping[str, Any]) -> list[tuple[str, str]]:
    order = ("device", "torch", "lskd", "commit", "python", "threads", "fleet")
    rest = {key: value for key, value in env.items() if key not in (*order, "command")}
    known = {key: env[key] for key in order if key in env}
    return [(key, said(value)) for key, value in unfolded({**known, **rest}).items()]


def command(library: Library, run: Run) -> str:
    """The command that repeats a run; "" of one of no plan where no words say all of its settings."""
    try:
        if run.id not in library.planned and build_run(library.commands.form(run), library.conf).id != run.id:
            return ""
        return library.commands.line(run)
    except InputError:
        return ""


def label(run: Run) -> str:
    """A run without its seed."""
    return str(run).rpartition(", seed ")[0]


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in their seeds alone."""

    label: str
    own: list[str]  # what tells them from others of that label
    runs: list[Run]


def grouped(runs: Iterable[Run]) -> list[RunGroup]:
    """Runs that differ in their seeds alone together. Of groups that are called alike each says what it alone has."""
    found: dict[str, dict[frozenset[str], list[Run]]] = {}
    for run in runs:
        described = unfolded(_without_seeds(without_code(run.identity())))
        key = frozenset(f"{name}={said(value)}" for name, value in described.items())
        found.setdefault(label(run), {}).setdefault(key, []).append(run)
    groups = []
    for name, by_settings in sorted(found.items()):
        common = frozenset.intersection(*by_settings)
        for settings, group in sorted(by_settings.items(), key=lambda item: sorted(item[0])):
            groups.append(RunGroup(name, sorted(settings - common), sorted(group, key=lambda run: run.seed)))
    return groups


def _without_seeds(described: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without its seed, and its teacher's where that is the same."""
    kept = {key: value for key, value in described.items() if key != "seed"}
    if isinstance(teacher := kept.get("teacher"), Mapping):
        same = teacher["seed"] == described["seed"]
        kept["teacher"] = _without_seeds(teacher) | ({} if same else {"seed": teacher["seed"]})
    return kept


# ---- methods and recipes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A piece of a docstring: a paragraph, a list of items, or a table whose first row is its head."""

    kind: str  # text, list, table
    lines: list[str]

    @property
    def rows(self) -> list[list[str]]:
        """Of a table; without the line below its head."""
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in self.lines]
        return [row for row in cells if not all(re.fullmatch(":?-+:?", cell) for cell in row)]


def blocks(text: str) -> list[Block]:
    """A docstring, which is as simple as Markdown can be."""
    found: list[Block] = []
    fresh = True  # a blank line ends what was before it
    for line in map(str.strip, text.splitlines()):
        kind = "table" if line.startswith("|") else "list" if line.startswith("- ") else "text"
        if not line:
            fresh = True
        elif kind == "text" and not fresh and found[-1].kind != "table":
            found[-1].lines[-1] += f" {line}"  # it goes on
        elif fresh or kind != found[-1].kind:
            found.append(Block(kind, [line.removeprefix("- ")]))
        else:
            found[-1].lines.append(line.removeprefix("- "))
        fresh = not line
    return found


@dataclass(frozen=True)
class MethodPage:
    """What the code says of a method."""

    name: str
    heading: str  # the first paragraph of its docstring: of most the formula
    text: list[Block]  # the rest of it
    source: str  # the first paragraph of its module's: whose it is
    knobs: list[Setting]
    needs: list[str]
    watches: dict[str, str]  # in words
    code: str  # the file


def method_page(name: str, method: Method) -> MethodPage:
    kind = type(method)
    said_of = blocks(inspect.getdoc(kind) or "")
    module = inspect.getmodule(kind)
    source = blocks(inspect.getdoc(module) or "") if module is not None else []
    knobs = [Setting(key, said(value), True) for key, value in flat(method).items()]
    needs = {
        "none": ["no teacher"],
        "logits": ["the teacher’s logits"],
        "features": ["the teacher’s logits and features"],
    }[method.teacher_use]
    needs += ["a stage before the training"] if method.initial() is not None else []
    needs += ["modules of its own"] if kind.build is not Method.build else []
    needs += ["the whole batch"] if method.whole_batch else []
    code = kind.__module__.replace(".", "/") + ".py"
    heading = said_of.pop(0).lines[0] if said_of and said_of[0].kind == "text" else ""
    whose = source[0].lines[0] if source else ""
    return MethodPage(
        name, heading, said_of, whose, knobs, needs, {name: one.title for name, one in method.watches.items()}, code
    )


@dataclass(frozen=True)
class RecipePage:
    name: str
    recipe: Recipe
    settings: list[Setting]
    variants: list[tuple[list[str], list[str], list[str]]]  # differences, networks, experiments
    experiments: list[str]


def recipe_page(library: Library, name: str, recipe: Recipe) -> RecipePage:
    own = unfolded(identity(recipe))
    shown = [Setting(key, said(value), _given(key, own)) for key, value in flat(recipe).items() if value is not None]
    used: dict[tuple[str, ...], tuple[dict[str, None], dict[str, None]]] = {}
    seen: dict[int, tuple[str, ...]] = {}  # runs that differ in their seeds alone have one recipe
    for report in library.reports:
        for run in report.plan.runs:
            if run.recipe.name == name:
                if id(run.recipe) not in seen:
                    seen[id(run.recipe)] = tuple(different(run.recipe, recipe))
                networks, experiments = used.setdefault(seen[id(run.recipe)], ({}, {}))
                networks[run.network] = experiments[report.plan.experiment.name] = None
    variants = [(list(key), list(of), list(names)) for key, (of, names) in sorted(used.items())]
    users = sorted({name for _, _, names in variants for name in names})
    return RecipePage(name, recipe, shown, variants, users)
