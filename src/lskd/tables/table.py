"""A paper's table or figure as data (conf/table/NAME.yaml): rows, columns, settings, printed values, claims."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lskd.config_groups import Conf
from lskd.errors import InputError, require, unknown
from lskd.probes import PROBES
from lskd.schema import parse
from lskd.tables import statements
from lskd.tables.cells import Groups, Key, find_cells
from lskd.tables.chains import spelled_out
from lskd.tables.claim import Claim, Statement, Test
from lskd.tables.derived import DERIVED, Derivation
from lskd.tables.line import COUNTED, Line, Printed, Scatter, read_printed, value_key
from lskd.tables.metric import Metric

DIAGRAMS = ("reliability", "scatter")  # that are drawn of numbers that every run has
PARENTS = {"taught_by": "teacher", "started_from": "started_from"}  # of a line: which other run of a cell it says


@dataclass(frozen=True)
class Table:
    """A table (rows × columns) or a figure (rows are its series, columns their `values`) as data."""

    title: str
    rows: dict[str, Line]
    seeds: tuple[int, ...] = ()
    columns: dict[str, Line] = field(default_factory=dict)
    name: str = ""
    # reference: numbers that the paper quotes, printed as they are; it has no runs.
    kind: Literal["table", "figure", "reference"] = "table"
    source: str = ""  # where in which paper
    base: dict[str, Any] = field(default_factory=dict)
    metric: Metric = field(default_factory=Metric)
    # What gives the metrics: a probe's name and settings; or a list of several probes.
    probe: dict[str, Any] | tuple[dict[str, Any], ...] = field(default_factory=dict)
    # Tables: draw, too, "reliability", the diagrams of the cells that show a calibration error (`ece15`); "scatter",
    # the numbers of columns against one another; or one of the `pictures` of the table's probe, from what it saw of
    # each cell's first seed.
    diagram: str = ""
    scatter: Scatter | None = None  # which columns
    # Figures: what whiskers show: the 95 % interval of the mean that claims use or, where the paper's do, the extremes.
    whiskers: Literal["interval", "extremes"] = "interval"
    levels: dict[str, float] | None = None  # figures: horizontal lines by what they stand for
    x: Metric | None = None  # figures: the horizontal axis, a metric of the run; None = the value of `over`
    x_axis: Literal["linear", "log", "category"] = "linear"  # figures; category: `values` are names, side by side
    # Figures: means with whiskers, joined by lines or as bars; lines in bands instead of whiskers; a point for each
    # run.
    draw: Literal["lines", "bands", "bars", "points"] = "lines"
    x_label: str = ""
    y_label: str = ""
    select: Metric | None = None  # by which number the best of several is chosen: `kind: best` and best(row)
    # What the paper prints: row -> column -> number, or {value, std, runs}; what is left out is not at hand.
    paper: dict[str, Any] = field(default_factory=dict)
    paper_runs: int | None = None  # how many runs are behind each of the paper's numbers; None: it does not say
    # What others got who repeated the paper: row -> column -> {value, std, runs, source}, or a list of them. A line of
    # its own in the table; nothing is computed from it.
    replications: dict[str, Any] = field(default_factory=dict)
    # How the spread of a difference is estimated; declared before the runs. paired: from the differences seed by seed.
    # independent: from each cell's own spread. pooled: one spread for all cells of a metric (`report.statistics`).
    spread: Literal["paired", "independent", "pooled"] = "paired"
    sd: dict[str, float] = field(default_factory=dict)  # by metric: the spread over seeds that the design reckons with
    # row -> column -> why there is no such cell: the table prints "n/a", and the reason below.
    skip: dict[str, dict[str, str]] = field(default_factory=dict)
    # row -> column -> settings of that cell alone, laid over those of its row and column.
    cells: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        runs = self.kind != "reference"
        require(bool(self.seeds) == runs, "seeds", list(self.seeds), "a list of at least one seed, of a reference none")
        require(len(set(self.seeds)) == len(self.seeds), "seeds", list(self.seeds), "all different")
        require(self.paper_runs is None or self.paper_runs >= 1, "paper_runs", self.paper_runs, ">= 1")
        for metric, sd in self.sd.items():
            require(sd > 0, f"sd.{metric}", sd, "> 0")
        if self.select is not None:
            directed = bool(self.select.quantity.better)
            require(directed, "select", self.select.name, "a metric of which more or less is better")
        self._check_kind()
        for axis, lines in (("rows", self.rows), ("columns", self.columns)):
            for key, line in lines.items():
                self._check_line(f"{axis}.{key}", line, lines)
        self._check_places()
        for claim in self.claims:  # read once, here
            for test in claim.tests:
                found = self._statements[test] = statements.make(self, test, f"claims.{claim.id}")
                fits = test.at_least is None or 1 <= test.at_least <= len(found)
                require(fits, f"claims.{claim.id}.at_least", test.at_least, f"from 1 to {len(found)}, its comparisons")

    def _check_kind(self) -> None:
        """`InputError` for what only the other kinds of tables have."""
        figure = self.kind == "figure"
        require(bool(self.rows), "rows", {}, "given")
        require(bool(self.columns) != figure, "columns", list(self.columns), "given in a table, and only there")
        require(self.kind == "table" or not self.diagram, "diagram", self.diagram, "given in a table only")
        painters = [name for name, probe in PROBES.items() if self.diagram in probe.pictures]
        if self.diagram not in ("", *DIAGRAMS) and not painters:
            known = (picture for probe in PROBES.values() for picture in probe.pictures)
            raise unknown("diagram", self.diagram, [*DIAGRAMS, *known])
        fits = not painters or any(probe.get("name") in painters for probe in self.probes)
        require(fits, "diagram", self.diagram, f"given with the probe {' or '.join(painters)}")
        scatter = self.scatter
        require((scatter is None) == (self.diagram != "scatter"), "scatter", scatter, "given with diagram=scatter only")
        for column in (scatter.x, *scatter.ys) if scatter is not None else ():
            if column not in self.columns:
                raise unknown("scatter", column, self.columns)
        names = [probe.get("name") for probe in self.probes]
        require(len(set(names)) == len(names), "probe", names, "of different names")
        panels = {bool(line.panel) for line in self.rows.values()}
        require(len(panels) < 2, "panel", [line.panel for line in self.rows.values()], "of all rows, or of none")
        require(figure or panels != {True}, "panel", self.title, "given in a figure only")
        for panel in dict.fromkeys(line.panel for line in self.rows.values()):
            right = list(dict.fromkeys(line.right for line in self.rows.values() if line.panel == panel))
            require(figure or right == [""], "right", self.title, "given in a figure only")
            fits = "" in right and len(right) <= 2
            require(fits, "right", right, "one name in a panel, of some of its series, not of all")
        drawn = self.kind == "figure" or self.whiskers == "interval"
        require(drawn, "whiskers", self.whiskers, "given in a figure only")
        require(figure or not self.levels, "levels", self.levels, "given in a figure only")
        require(figure or self.x_axis == "linear", "x_axis", self.x_axis, "given in a figure only")
        require(figure or self.draw == "lines", "draw", self.draw, "given in a figure only")
        numbers = self.x_axis != "category" or self.x is None
        require(numbers, "x_axis", self.x_axis, "linear or log with x, a number of each run")
        require(self.kind != "reference" or not self.cells, "cells", list(self.cells), "given where there are runs")

    def _check_line(self, where: str, line: Line, lines: Mapping[str, Line]) -> None:
        """`InputError` unless a row or column names what there is, and is of a figure where it must be."""
        require(not line.group or lines is self.columns, f"{where}.group", line.group, "given for columns only")
        if line.derive is not None:
            self._check_derivation(f"{where}.derive", line.derive, lines)
            return
        for of in PARENTS:
            if by := getattr(line, of):
                plain = {key for key, other in lines.items() if other.derive is None}
                if by not in plain:
                    raise unknown(f"{where}.{of}", by, plain)
                seen, left = set[str](), [by]
                while left:
                    key = left.pop()
                    rule = f"another: it is {of.replace('_', ' ')} itself"
                    require(key != where.partition(".")[2], f"{where}.{of}", by, rule)
                    if key not in seen and key in lines:
                        seen.add(key)
                        left += [other for one in PARENTS if (other := getattr(lines[key], one))]
        given = bool(line.over and line.values)
        series = self.kind == "figure" and lines is self.rows
        require(given == series, f"{where}.over", line.over, "given, with values, in a figure only")
        values, shown = f"{where}.values", list(line.values)
        names = any(isinstance(value, str) for value in line.values)
        require(not names or self.x_axis == "category", values, shown, "numbers but with x_axis=category")
        counted = line.over in COUNTED
        whole = all(isinstance(value, float) and value.is_integer() and value >= 0 for value in line.values)
        require(whole or not counted, values, shown, f"whole numbers, none below 0, with over={line.over}")
        positive = self.x_axis != "log" or self.x is not None or all(float(value) > 0 for value in line.values)
        require(positive, values, shown, "> 0 with x_axis=log")
        distinct = len(set(map(value_key, line.values))) == len(line.values)
        require(distinct, values, shown, "all different, in their first 6 digits")

    def _check_derivation(self, where: str, derive: Derivation, lines: Mapping[str, Line]) -> None:
        """`InputError` unless a derived row or column follows from what there is."""
        kind = DERIVED[derive.kind]
        fits = self.kind == "table" or (self.kind == "figure" and not kind.across)
        simple = ", ".join(name for name, other in DERIVED.items() if not other.across)
        require(fits, f"{where}.kind", derive.kind, f"in a table, or in a figure one of {simple}")
        here = self.kind == "figure" or kind.compares != "before"
        require(here, f"{where}.kind", derive.kind, "of a figure's series, or of the generations of a row, as NAME.*")
        given = not kind.chooses or self.select is not None
        require(given, "select", None, f"given with kind={derive.kind}: the number by which it is chosen")
        across = self.columns if lines is self.rows else self.rows
        rival = [derive.than] if derive.than else []
        own, others = ([], rival) if kind.across else (rival, [])
        for names, known in (([*derive.lines, *own], lines), ([*derive.among, *others], across)):
            for name in names:
                if name not in known and name != "*":
                    raise unknown(where, name, known)

    def _check_places(self) -> None:
        """`InputError` for what is said of cells that there are not."""
        for key, of_rows in (("skip", self.skip), ("cells", self.cells)):
            for row, of_columns in of_rows.items():
                if row not in self.rows:
                    raise unknown(key, row, self.rows)
                if wrong := of_columns.keys() - set(self.columns_of(row)):
                    raise unknown(f"{key}.{row}", min(wrong), self.columns_of(row))
        for row, own in self.cells.items():
            for column, settings in own.items():
                plain = self.derivation(row, column) is None
                require(plain, f"cells.{row}.{column}", settings, "left out: the cell follows from others")
        for name, given in (("paper", self.paper), ("replications", self.replications)):
            for row, printed in given.items():
                if row not in self.rows:
                    raise unknown(name, row, self.rows)
                for one in printed if isinstance(printed, Mapping) else [""]:
                    if not self.has(row, one):
                        raise unknown(f"{name}.{row}", one, (other for of, other in self.keys() if of == row))
        for row, column in self.keys():
            self.printed(row, column)
            for number in self.replicated(row, column):
                require(bool(number.source), f"replications.{row}.{column}.source", "", "given")

    @functools.cached_property
    def _statements(self) -> dict[Test, list[Statement]]:
        return {}

    @property
    def probes(self) -> tuple[dict[str, Any], ...]:
        """`probe` as a list."""
        return self.probe if isinstance(self.probe, tuple) else (self.probe,) if self.probe else ()

    # ---- its cells ------------------------------------------------------------------------------------------------

    def statements(self, test: Test) -> list[Statement]:
        """The parts of `test`; `InputError` unless the table has the cells that it is about."""
        return self._statements.get(test) or statements.make(self, test)

    def keys(self) -> list[Key]:
        """(row, column) of every cell, in reading order."""
        return list(self._cells)

    def has(self, row: str, column: str) -> bool:
        """Whether there is such a cell."""
        return (row, column) in self._cells

    def made_of(self, row: str, column: str) -> Groups:
        """The groups of cells that a derived cell is made of (`lskd.tables.derived`); none of another one."""
        return self._cells[row, column]

    def ancestor(self, row: str, column: str) -> int:
        """How many generations above the run of its settings the run of a cell is. Generation 0 of a chain is the
        teacher of the first."""
        first = self.rows[row].over == "generation" and not self.value_at(row, column)
        return first + max(line.ancestor for line in (self.rows[row], self.columns.get(column)) if line is not None)

    def parents(self, row: str, column: str) -> dict[str, Key]:
        """The cells whose runs are, by these names (`run.LINEAGE`), other runs of the cell's own; the settings say what
        is left of those."""
        found: dict[str, Key] = {}
        for of, name in PARENTS.items():
            if by := getattr(self.rows[row], of):
                found[name] = by, column
                continue
            alone = name in self.rows[row].run and self.rows[row].run[name] is None
            if column in self.columns and not alone and (by := getattr(self.columns[column], of)):
                found[name] = row, by
        return found

    def derivation(self, row: str, column: str) -> Derivation | None:
        """How a cell follows from others. Where a derived row crosses a derived column, it is derived as the row is, of
        the column's cells."""
        of_column = self.columns[column].derive if column in self.columns else None
        return self.rows[row].derive or of_column

    @functools.cached_property
    def _cells(self) -> dict[Key, Groups]:
        return find_cells(self)

    def columns_of(self, row: str) -> list[str]:
        """The columns of a row; of a figure's series, its values."""
        return [value_key(value) for value in self.values_of(row)] if self.kind == "figure" else list(self.columns)

    def in_order(self, row: str) -> list[str]:
        """The columns of a row as an order goes through them: numbers from the least on, else as they are read."""
        numbers = self.kind == "figure" and self.x_axis != "category"
        return sorted(self.columns_of(row), key=float) if numbers else self.columns_of(row)

    def values_of(self, row: str) -> tuple[float | str, ...]:
        """The values of a figure's series; of a derived one, those of the first that it is made of."""
        return self.rows[self.plain_row(row)].values

    def value_at(self, row: str, column: str) -> float | str:
        """The value of a figure's series that a column stands for."""
        return next(value for value in self.values_of(row) if value_key(value) == column)

    def plain_row(self, row: str) -> str:
        """The row itself; of a derived one, the first that it is made of and that is not derived."""
        seen = []
        while (derive := self.rows[row].derive) is not None:
            seen.append(row)
            plain = next(name for name, line in self.rows.items() if line.derive is None)
            row = plain if derive.lines == ("*",) else derive.lines[0]
            require(row not in seen, f"rows.{row}.derive", row, "of others: it would follow from itself")
        return row

    @functools.cached_property
    def positions(self) -> dict[str, int]:
        """Where each name of a categorical axis stands: 0, 1, ... in reading order."""
        values = dict.fromkeys(value_key(value) for line in self.rows.values() for value in line.values)
        return {value: i for i, value in enumerate(values)}

    def is_derived(self, axis: str, key: str) -> bool:
        """Whether a row or column (`axis`: "rows", "columns") follows from others."""
        lines = self.rows if axis == "rows" else self.columns
        return key in lines and lines[key].derive is not None

    def along(self, row: str) -> list[Key]:
        """The cells of a row, but for those in derived columns."""
        return [(one, c) for one, c in self.keys() if one == row and not self.is_derived("columns", c)]

    @property
    def has_cells(self) -> bool:
        """Whether its numbers come from runs."""
        return self.kind != "reference"

    def printed(self, row: str, column: str) -> Printed | None:
        """What the paper prints in a cell; None where it is not at hand, or where it prints nothing."""
        if column not in self.paper.get(row, {}):
            return None
        number = read_printed(self.paper[row][column], f"paper.{row}.{column}")
        return number if number.runs is not None else replace(number, runs=self.paper_runs)

    def replicated(self, row: str, column: str) -> list[Printed]:
        """What others got."""
        given = self.replications.get(row, {}).get(column, [])
        where = f"replications.{row}.{column}"
        return [read_printed(one, where) for one in (given if isinstance(given, (list, tuple)) else [given])]


def load_table(name: str, conf: Conf) -> Table:
    return read_table({"name": name, **conf.load("table", name)}, f"table.{name}")


def read_table(content: Mapping[str, Any], where: str) -> Table:
    """A table from what its file says."""
    try:
        spelt = spelled_out(without_nulls(content))
    except InputError as error:
        raise InputError(f"{where}.{error}") from None
    return parse(Table, spelt, where)


def without_nulls(content: Mapping[str, Any]) -> dict[str, Any]:
    """A table's `content` without its null rows and columns, and what else there is of them: with `rows: {NAME: null}`
    a file leaves out a row that it would have from its `defaults`, with `paper: {NAME: null}`, or null for one of its
    cells, only what the paper prints of it.
    """

    def left(values: Any, gone: set[str]) -> Any:
        mapping = isinstance(values, Mapping)
        return {key: value for key, value in values.items() if not is_gone(key, gone)} if mapping else values

    def is_gone(key: str, gone: set[str]) -> bool:  # of a chain that is left out, each of its generations
        return key in gone or (key.rpartition(".")[0] in gone and key not in content["rows"])

    def nulls(key: str) -> set[str]:
        lines = content.get(key)
        return {name for name, line in lines.items() if line is None} if isinstance(lines, Mapping) else set()

    rows, columns = nulls("rows"), nulls("columns")
    kept = {key: left(value, columns if key == "columns" else rows) for key, value in content.items()}
    for key in ("paper", "skip", "cells"):
        if isinstance(kept.get(key), Mapping):
            kept[key] = {row: left(of_row, columns) for row, of_row in kept[key].items() if of_row is not None}
    if isinstance(kept.get("paper"), Mapping):
        kept["paper"] = {
            row: {c: v for c, v in of_row.items() if v is not None} if isinstance(of_row, Mapping) else of_row
            for row, of_row in kept["paper"].items()
        }
    return kept
