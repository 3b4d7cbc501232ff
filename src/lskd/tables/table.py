"""A paper's table or figure as data (conf/table/NAME.yaml): rows, columns, settings, printed values, claims."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lskd.config_groups import Conf
from lskd.errors import InputError, require, unknown
from lskd.probes import PROBES
from lskd.schema import parse
from lskd.tables.claim import ASSOCIATIONS, ORDERS, PEAKS, STEPS, Claim, Operand, Statement, Term, Test
from lskd.tables.metric import Metric


@dataclass(frozen=True)
class Line:
    """A row or column of a table, or a series of a figure: a label, and settings laid over the table's base.

    take: the cell is the run that the settings describe, or that run's teacher.
    over, values: (figures) the setting that varies along the series, and its values; over=step: the steps at which an
        probe looked at one run; over=epoch: the epochs of one run, counted from 1.
    style: (figures) matplotlib's line format, such as "o--".
    """

    label: str
    run: dict[str, Any] = field(default_factory=dict)
    take: Literal["run", "teacher"] = "run"
    metric: Metric | None = None
    over: str = ""
    values: tuple[float, ...] = ()
    style: str = "o-"
    color: str = ""


@dataclass(frozen=True)
class Printed:
    """A number that somebody printed: its standard deviation, where given; the number of runs behind it, where stated;
    and, of a replication, whose it is."""

    value: Any  # as printed: a number, or a string such as "7.0 / 6.7"; None where it is not at hand
    std: float | None = None
    runs: int | None = None
    source: str = ""

    def __post_init__(self) -> None:
        kinds = type(self.value) in (int, float, str) or self.value is None
        require(kinds, "value", self.value, "a number, a string, or null where it is not at hand")
        require(self.std is None or self.std >= 0, "std", self.std, ">= 0")
        require(self.runs is None or self.runs >= 1, "runs", self.runs, ">= 1")


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
    probe: dict[str, Any] = field(default_factory=dict)  # what gives the metrics: a probe's name and settings
    # Tables: draw, too, "reliability", the diagrams of the cells that show a calibration error (`ece15`), or one of the
    # `pictures` of the table's probe, from what it saw of each cell's first seed.
    diagram: str = ""
    levels: dict[str, float] | None = None  # figures: horizontal lines by what they stand for
    x: Metric | None = None  # figures: the horizontal axis, a metric of the run; None = the value of `over`
    x_label: str = ""
    y_label: str = ""
    # What the paper prints: row -> column -> number, or {value, std, runs}; null where its number is not at hand.
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
        require(bool(self.rows), "rows", {}, "given")
        for key, line in self.rows.items():
            given = bool(line.over and line.values)
            where = f"rows.{key}.over"
            require(given == (self.kind == "figure"), where, line.over, "given, with values, in a figure only")
            whole = line.over not in ("step", "epoch") or all(value.is_integer() for value in line.values)
            require(whole, f"rows.{key}.values", list(line.values), f"whole numbers with over={line.over}")
            shown = {f"{value:g}" for value in line.values}
            distinct = len(shown) == len(line.values)
            require(distinct, f"rows.{key}.values", list(line.values), "all different, in their first 6 digits")
        require(self.kind == "table" or not self.diagram, "diagram", self.diagram, "given in a table only")
        painters = [name for name, probe in PROBES.items() if self.diagram in probe.pictures]
        if self.diagram not in ("", "reliability") and not painters:
            known = (picture for probe in PROBES.values() for picture in probe.pictures)
            raise unknown("diagram", self.diagram, ["reliability", *known])
        fits = not painters or self.probe.get("name") in painters
        require(fits, "diagram", self.diagram, f"given with the probe {' or '.join(painters)}")
        require(self.kind == "figure" or not self.levels, "levels", self.levels, "given in a figure only")
        columns = self.kind != "figure"
        require(bool(self.columns) == columns, "columns", list(self.columns), "given in a table, and only there")
        for key, of_rows in (("skip", self.skip), ("cells", self.cells)):
            for row, of_columns in of_rows.items():
                if row not in self.rows:
                    raise unknown(key, row, self.rows)
                if wrong := of_columns.keys() - set(self._columns(row)):
                    raise unknown(f"{key}.{row}", min(wrong), self._columns(row))
        require(runs or not self.cells, "cells", list(self.cells), "given where there are runs")
        keys = {f"{row}/{column}" for row, column in self.keys()}
        for key in ("paper", "replications"):
            for row, printed in getattr(self, key).items():
                if row not in self.rows:
                    raise unknown(key, row, self.rows)
                for column in printed if isinstance(printed, Mapping) else [None]:
                    if f"{row}/{column}" not in keys:
                        raise unknown(
                            f"{key}.{row}", column, (k.split("/")[1] for k in keys if k.startswith(f"{row}/"))
                        )
        require(self.paper_runs is None or self.paper_runs >= 1, "paper_runs", self.paper_runs, ">= 1")
        for metric, sd in self.sd.items():
            require(sd > 0, f"sd.{metric}", sd, "> 0")
        for row, column in self.keys():
            self.printed(row, column)
            for number in self.replicated(row, column):
                require(bool(number.source), f"replications.{row}.{column}.source", "", "given")
        for claim in self.claims:
            for test in claim.tests:
                found = self.statements(test, f"claims.{claim.id}")
                fits = test.at_least is None or 1 <= test.at_least <= len(found)
                require(fits, f"claims.{claim.id}.at_least", test.at_least, f"from 1 to {len(found)}, its comparisons")

    def statements(self, test: Test, where: str = "") -> list[Statement]:
        """The parts of `test`; `InputError` unless the table has the cells that it is about."""
        found: list[Statement] = []
        of_series = test.test in (*ORDERS, *ASSOCIATIONS, *STEPS)
        for of, than in test.operands:
            for term in of + than:
                self._check(term, where)
            if of_series:
                found += self._of_series(test, of, than, where)
            elif test.test in PEAKS:
                found += self._of_peak(test, of, where)
            else:
                found += self._of_cells(test, of, than, where)
        wild = {term.wild for of, than in test.operands for term in of + than}
        chosen = not test.columns or "columns" in wild or test.test in PEAKS
        require(chosen, f"{where}.columns", list(test.columns), "given with row/* only")
        require(not test.rows or "rows" in wild, f"{where}.rows", list(test.rows), "given with */column only")
        ordered = of_series and test.test not in ASSOCIATIONS and self.kind == "figure"
        require(
            not test.through or ordered, f"{where}.through", list(test.through), "given with the order of a series only"
        )
        require(bool(found), where, str(test.of), "about cells that the table has")
        for statement in found:
            if not statement.coefficients:
                raise InputError(f"{where} = {test.of!r}: {' - '.join(map(str, statement.of))} is compared with itself")
        return found

    def _check(self, term: Term, where: str) -> None:
        """`InputError` unless the term is of this table."""
        if term.kind != "cell" or term.wild == "columns":
            if term.row not in self.rows:
                raise unknown(where, str(term), self.rows)
            require(term.kind != "x" or self.kind == "figure", where, str(term), "a cell; only figures have an x")
        elif term.wild == "rows":
            known = {column for row in self.rows for column in self._columns(row)}
            if term.column not in known:
                raise unknown(where, str(term), known)
        elif (term.row, term.column) not in self.keys():
            raise unknown(where, str(term), (f"{row}/{column}" for row, column in self.keys()))

    def _of_cells(self, test: Test, of: Operand, than: Operand, where: str) -> list[Statement]:
        """Comparisons, one for each key that the wildcards stand for."""
        terms = of + than
        at_x = [term for term in terms if term.kind == "x"]
        alone = len(of) == len(than) == len(at_x) == 1
        require(not at_x or alone, where, " - ".join(map(str, at_x)), "one operand, beside a cell that says at which x")
        if test.test in ("less", "greater"):
            for extreme in (term for term in terms if term.kind in ("max", "min")):
                trivial = len(terms) == 2 and all(term.row == extreme.row for term in terms)
                require(not trivial, where, str(extreme), "compared with a bound: no cell of its row lies beyond it")
        wild = {term.wild for term in terms if term.wild}
        require(len(wild) < 2, where, " and ".join(map(str, terms)), "wildcards of columns, or of rows, not of both")
        if not wild:
            return [Statement(test, of, than)]
        every = [term for term in terms if term.wild]
        keys = self.series(every[0], test, where, skipped=True)
        for term in every[1:]:
            same = set(keys) <= set(self.series(term, test, where, skipped=True))
            require(same, where, str(term), f"of what {every[0]} is of")
        existing = set(self.keys())
        kept = [k for k in keys if all((term.at(k).row, term.at(k).column) in existing for term in every)]
        return [Statement(test, tuple(t.at(key) for t in of), tuple(t.at(key) for t in than)) for key in kept]

    def _of_series(self, test: Test, of: Operand, than: Operand, where: str) -> list[Statement]:
        """Orders and associations: one part about the whole series; of not_rising and not_falling, one a step."""
        words = "a whole row, as row/*" if test.test not in ASSOCIATIONS else "row/* or */column"
        for operand in (of, than) if than else (of,):
            whole = len(operand) == 1 and bool(operand[0].wild)
            whole = whole and (test.test in ASSOCIATIONS or operand[0].wild == "columns")
            require(whole, where, " - ".join(map(str, operand)), words)
        if than:
            require(of[0].wild == than[0].wild, where, str(than[0]), f"of what {of[0]} is of")
            require(len(self.paired_keys(of[0], than[0], test)) > 3, where, str(of[0]), "at least four cells")
            return [Statement(test, of, than)]
        keys = self.series(of[0], test, where)
        require(len(keys) > 1, f"{where}.through", list(test.through), f"at least two of {self._columns(of[0].row)}")
        if test.test in ORDERS:
            require(len(keys) > 2, where, str(of[0]), "at least three cells; of two, one is greater or less")
            return [Statement(test, of)]
        cells = [(of[0].at(key),) for key in keys]
        return [Statement(test, later, earlier) for earlier, later in itertools.pairwise(cells)]

    def _of_peak(self, test: Test, of: Operand, where: str) -> list[Statement]:
        single = len(of) == 1 and of[0].kind == "cell" and not of[0].wild
        require(single, where, " - ".join(map(str, of)), f"a cell with {test.test}")
        others = [key for key in self.series(Term(of[0].row, "*"), test, where) if key != of[0].column]
        return [Statement(test, of, (Term(of[0].row, key),)) for key in others]

    def series(self, term: Term, test: Test, where: str = "", *, skipped: bool = False) -> list[str]:
        """The columns (or rows) that a wildcard stands for in `test`, in reading order; with `skipped`, those that do
        not exist, too."""
        existing = set(self.keys())
        if term.wild == "rows":
            known, chosen = [row for row in self.rows if term.column in self._columns(row)], test.rows
        else:
            known, chosen = self._columns(term.row), test.columns
            if self.kind == "figure":
                known = [f"{value:g}" for value in sorted(self.rows[term.row].values)]
            if test.through:
                chosen = tuple(f"{value:g}" for value in test.through)
        for key in chosen:
            if key not in known:
                raise unknown(f"{where}.{'through' if test.through else term.wild}", key, known)
        cells = [(key, term.at(key)) for key in known if not chosen or key in chosen]
        return [key for key, cell in cells if skipped or (cell.row, cell.column) in existing]

    def paired_keys(self, of: Term, than: Term, test: Test) -> list[str]:
        """The columns (or rows) at which both wildcards of an association have cells."""
        others = set(self.series(than, test))
        return [key for key in self.series(of, test) if key in others]

    def places(self, statement: Statement) -> list[tuple[str, str]]:
        """(row, column) of all cells that a part looks at, those of `of` first."""
        found: dict[tuple[str, str], None] = {}
        for term in statement.terms:
            if term.wild:
                keys = self.series(term, statement.test)
                if statement.than:
                    keys = self.paired_keys(statement.of[0], statement.than[0], statement.test)
                found.update(dict.fromkeys((term.at(key).row, term.at(key).column) for key in keys))
            elif term.kind == "cell":
                found[term.row, term.column] = None
            else:
                found.update(dict.fromkeys(key for key in self.keys() if key[0] == term.row))
        return list(found)

    def keys(self) -> list[tuple[str, str]]:
        """(row, column) of every cell, in reading order."""
        return [(row, c) for row in self.rows for c in self._columns(row) if c not in self.skip.get(row, ())]

    def _columns(self, row: str) -> list[str]:
        return [f"{v:g}" for v in self.rows[row].values] if self.kind == "figure" else list(self.columns)

    @property
    def has_cells(self) -> bool:
        """Whether its numbers come from runs."""
        return self.kind != "reference"

    def printed(self, row: str, column: str) -> Printed | None:
        """What the paper prints in a cell; None where it prints nothing. Its value is None where it is not at hand."""
        if column not in self.paper.get(row, {}):
            return None
        number = read_printed(self.paper[row][column], f"paper.{row}.{column}")
        return number if number.runs is not None else replace(number, runs=self.paper_runs)

    def replicated(self, row: str, column: str) -> list[Printed]:
        """What others got."""
        given = self.replications.get(row, {}).get(column, [])
        where = f"replications.{row}.{column}"
        return [read_printed(one, where) for one in (given if isinstance(given, (list, tuple)) else [given])]


def read_printed(given: Any, where: str) -> Printed:
    return parse(Printed, given, where) if isinstance(given, Mapping) else parse(Printed, {"value": given}, where)


def load_table(name: str, conf: Conf) -> Table:
    return parse(Table, {"name": name, **without_nulls(conf.load("table", name))}, f"table.{name}")


def without_nulls(content: Mapping[str, Any]) -> dict[str, Any]:
    """A table's `content` without its null rows and columns, and what else there is of them: with `rows: {NAME: null}`
    a file leaves out a row that it would have from its `defaults`, with `paper: {NAME: null}` only what the paper
    prints of it.
    """

    def left(values: Any, gone: set[str]) -> Any:
        mapping = isinstance(values, Mapping)
        return {key: value for key, value in values.items() if key not in gone} if mapping else values

    def nulls(key: str) -> set[str]:
        lines = content.get(key)
        return {name for name, line in lines.items() if line is None} if isinstance(lines, Mapping) else set()

    rows, columns = nulls("rows"), nulls("columns")
    kept = {key: left(value, columns if key == "columns" else rows) for key, value in content.items()}
    for key in ("paper", "skip", "cells"):
        if isinstance(kept.get(key), Mapping):
            kept[key] = {row: left(of_row, columns) for row, of_row in kept[key].items() if of_row is not None}
    return kept
