"""What pages say of experiments: their progress, their tables' cells, and the runs behind them."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

from lskd.recipe import Recipe
from lskd.report import Report, layout
from lskd.report.filled import FilledTable
from lskd.report.site.library import Library, cell_id, has_runs, place_of
from lskd.report.site.runs import said
from lskd.report.site.verdicts import sign_of
from lskd.report.values import Summary
from lskd.report.words import number
from lskd.run import Run
from lskd.schema import flat, identity, show
from lskd.store import Store


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
        count = Counter((sign_of(f.outcome, f.final), f.verdict) for f in findings)
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


def headings(filled: FilledTable) -> list[tuple[str, int]]:
    """What stands over the headers of a table's columns, and over how many; nothing where none has a heading."""
    groups = [line.group for line in filled.table.columns.values()]
    return layout.spans(groups) if any(groups) else []


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
                number(cell.values[seed], digits) if seed in cell.values else "not recorded",
                cell.ids.get(seed, ""),
            )
            for seed in (cell.ids or cell.values)
        ]
        behind = [by_place[one.row, one.column] for one in cell.cell.plain] if cell.cell.derive is not None else []
        cells = [(place_of(filled, one), cell_id(filled, one) if has_runs(one) else "") for one in behind]
        label = filled.row_label(cell.cell.row), filled.column_label(cell)
        found.append(CellRuns(cell_id(filled, cell), *label, shown, cells))
    return found


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
