"""From an experiment to its runs: what a paper's tables and figures need, each run once, teachers before students.

Tables and figures are data (conf/table/NAME.yaml, conf/experiment/NAME.yaml). Both are *sheets* of cells; a cell is one
configuration under several seeds. Nothing here imports torch: a plan of hundreds of runs takes well under a second.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from lskd.config import Observation, Run, cost_key, table_bytes, without_code
from lskd.errors import InputError, unknown
from lskd.methods import METHODS
from lskd.methods.method import require
from lskd.observers import OBSERVERS
from lskd.settings import Conf, build_run, merge, normal_form, override_words, parse_observation, teacher_form
from lskd.store import Store
from lskd.strict import parse, show

METRICS = ("top1", "error", "top5", "nll", "ece15", "gap", "least_gap", "gamma", "temperature")
BINNED = ("gap", "least_gap")  # what follows from a record's reliability diagram
SCALED = ("nll", "ece15", "temperature", *BINNED)  # what a record has of temperature-scaled outputs


def observed() -> dict[str, str]:
    """The observer that gives a number, by the number's name."""
    return {name: observer for observer, settings in OBSERVERS.items() for name in settings.gives}


def watched() -> dict[str, str]:
    """What methods may watch while they train (`Method.watches`), by name, in words."""
    return {name: words for method in METHODS.values() for name, words in method.watches.items()}


def gap(bins: Sequence[Sequence[float]]) -> float:
    """Mean confidence less accuracy, from the bins of a reliability diagram (`metrics.reliability`): above 0 where a
    network is over-confident. The calibration error is the mean over the bins of its size, this one of it as it is."""
    filled = [entry for entry in bins if entry[0]]
    return sum(n * (confidence - accuracy) for n, confidence, accuracy in filled) / sum(n for n, *_ in filled)


def least_gap(bins: Sequence[Sequence[float]], share: float = 0.01) -> float:
    """The least gap of a bin that holds at least `share` of the examples: above 0 where a network is over-confident at
    every confidence. (In a bin of a few examples, chance decides.)"""
    least = share * sum(entry[0] for entry in bins)
    return min(entry[1] - entry[2] for entry in bins if entry[0] and entry[0] >= least)


@dataclass(frozen=True)
class Metric:
    """Which number of a run's record a cell shows, or which that its method watches while it trains (`Method.watches`),
    or that an observer gives (`lskd.observers`).

    epoch: "last" (the default of every paper unless it says otherwise), or the best one by top-1 on the validation part
    or on the test part ("best_on_test" only where the paper did so: the table's header then says it).
    part: "evaluate" is the part that the data set's configuration names.
    scaled_on: temperature scaling, with the temperature of the least loss on that part: held-out, or ("evaluate", if
    `part` is) a posteriori. "" = outputs as they are.
    step: of an observer's numbers, those at this step; None = at the end of the training.
    at_epoch: the number of this epoch, counted from 1, from the run's log; None = of the one that `epoch` says.
    total: of what a method watches, the sum over the training images, as often as an epoch shows them; else the mean.
    """

    name: str = "top1"
    part: Literal["evaluate", "validation", "test", "train"] = "evaluate"
    epoch: Literal["last", "best_on_validation", "best_on_test"] = "last"
    scaled_on: Literal["", "evaluate", "validation", "test"] = ""
    step: int | None = None
    at_epoch: int | None = None
    total: bool = False
    digits: int = 2
    unit: str = "%"

    def __post_init__(self) -> None:
        of_method, of_observer = watched(), observed()
        if self.name not in METRICS and self.name not in of_observer and self.name not in of_method:
            raise unknown("name", self.name, [*METRICS, *of_observer, *of_method])
        if self.name in of_observer:
            require(self.epoch == "last", "epoch", self.epoch, f"last with name={self.name}; an observer has steps")
        if self.name in of_method:  # a record keeps it of the last epoch alone
            require(self.epoch == "last", "epoch", self.epoch, f"last with name={self.name}")
        require(not self.total or self.name in of_method, "total", True, f"given with {', '.join(of_method)} only")
        if self.at_epoch is not None:
            logged = self.name not in ("gamma", *of_observer, *BINNED) and not self.scaled_on and self.epoch == "last"
            require(logged, "at_epoch", self.at_epoch, "given with what is logged in each epoch, and epoch=last, only")
        fits = self.step is None or self.name in of_observer
        require(fits, "step", self.step, f"given with {', '.join(of_observer)} only")
        if self.scaled_on:
            require(self.name in SCALED, "name", self.name, f"one of {', '.join(SCALED)} with scaled_on")
            plain = self.epoch == "last" and self.part != "train"
            require(plain, "scaled_on", self.scaled_on, "empty but for the last epoch and held-out parts")
        if self.name in BINNED:
            require(self.epoch == "last", "epoch", self.epoch, f"last with name={self.name}")
            require(self.part != "train", "part", self.part, f"a held-out part with name={self.name}")
        require(self.name != "temperature" or bool(self.scaled_on), "scaled_on", "", "given with name=temperature")
        require(self.digits >= 0, "digits", self.digits, ">= 0")
        if self.part == "train":  # a record keeps the training part of the last epoch alone
            require(self.epoch == "last", "epoch", self.epoch, "last with part=train")

    def of(self, run: Run, result: Mapping[str, Any]) -> float | None:
        """The value in `result`, the record of `run`; None where the record has no such number."""
        if self.name == "gamma":
            return result.get("gamma")
        if self.name in watched():
            mean = result["train"].get(self.name)
            return mean * result["examples"] if self.total and mean is not None else mean
        part = run.dataset.evaluate if self.part == "evaluate" else self.part
        if self.name in BINNED:
            bins = self._calibration(run, result).get("reliability")
            return None if bins is None else {"gap": gap, "least_gap": least_gap}[self.name](bins)
        if self.scaled_on:
            return self._calibration(run, result).get(self.name)
        if part == "train":
            return result["train"].get(self.name)
        if self.epoch == "last":
            return result["last"].get(part, {}).get(self.name)
        best = result["best"].get(self.epoch.removeprefix("best_on_"), {})
        return best.get(part, {}).get(self.name)

    def logged(self, run: Run, result: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> float | None:
        """The value at `at_epoch`, from the log `epochs` of `run` whose record is `result`; None if it is not there."""
        line = next((line for line in epochs if line["epoch"] + 1 == self.at_epoch and "stage" not in line), None)
        return None if line is None else self.of(run, {**result, "last": line, "train": line["train"]})

    def seen(self, run: Run, looks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """What there is of its part in `looks`, what an observer saw of `run`; None if it did not look at that step."""
        if self.step is not None:
            looks = [look for look in looks if look["step"] == self.step]
        part = run.dataset.evaluate if self.part == "evaluate" else self.part
        return looks[-1].get(part) if looks else None

    def observed(self, run: Run, looks: Sequence[Mapping[str, Any]]) -> float | None:
        """The value in `looks`; None where there is none."""
        return (self.seen(run, looks) or {}).get(self.name)

    def reliability(self, run: Run, result: Mapping[str, Any]) -> list[list[float]] | None:
        """The bins (`metrics.reliability`) behind a calibration error; None where the record has none."""
        plain = self.name == "ece15" and self.epoch == "last" and self.part != "train"
        return self._calibration(run, result).get("reliability") if plain else None

    def _calibration(self, run: Run, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """What `metrics.calibration` says about the part, scaled if this metric is. Old records have nothing of it."""
        part = run.dataset.evaluate if self.part == "evaluate" else self.part
        of_part: Mapping[str, Any] = result.get("calibration", {}).get(part, {})
        other = run.dataset.evaluate if self.scaled_on == "evaluate" else self.scaled_on
        return of_part.get("scaled", {}).get(other, {}) if other else of_part


@dataclass(frozen=True)
class Line:
    """A row or column of a table, or a series of a figure: a label, and settings laid over the sheet's base.

    take: the cell is the run that the settings describe, or that run's teacher.
    over, values: (figures) the setting that varies along the series, and its values; over=step: the steps at which an
        observer looked at one run; over=epoch: the epochs of one run, counted from 1.
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
class Term:
    """What stands between the minus signs of an operand: a cell `row/column`, where "*" stands for every row or every
    column; `series@x`, the series interpolated, seed by seed, at the x of the other operand's cell; or `max(row)`,
    `min(row)`, the largest or smallest of a run's numbers along the row, seed by seed."""

    row: str
    column: str = ""
    kind: Literal["cell", "x", "max", "min"] = "cell"

    def __str__(self) -> str:
        return {"cell": f"{self.row}/{self.column}", "x": f"{self.row}@x"}.get(self.kind, f"{self.kind}({self.row})")

    @property
    def wild(self) -> str:
        """What a "*" goes over: "columns", "rows", or nothing."""
        return "columns" if self.column == "*" else "rows" if self.row == "*" else ""

    def at(self, key: str) -> Term:
        """One of the cells that a "*" stands for."""
        if self.wild == "columns":
            return replace(self, column=key)
        return replace(self, row=key) if self.wild == "rows" else self


Operand = tuple[Term, ...]  # the first less the others


def read_operand(text: str) -> Operand:
    """ "ls/small - hard/small" as its terms."""
    terms = []
    for word in text.split(" - "):
        if extreme := re.fullmatch(r"(max|min)\((.+)\)", word):
            terms.append(Term(extreme[2], kind=extreme[1]))  # type: ignore[arg-type]
        elif word.endswith("@x"):
            terms.append(Term(word.removesuffix("@x"), kind="x"))
        else:
            row, _, column = word.rpartition("/")
            terms.append(Term(row, column))
    return tuple(terms)


ORDERS = ("rising", "falling")
ASSOCIATIONS = ("correlated", "anticorrelated")
STEPS = ("not_rising", "not_falling")  # of each step along a row
PEAKS = ("largest", "smallest")


@dataclass(frozen=True)
class Test:
    """One statistical statement about cells, tested over seeds (`lskd.report.claims`).

    Operands (`Term`) are "row/column" (figures: "series/value"), or differences of such: "cell - cell", seed by seed.
    `of` and `than` may be lists: each of `of` is compared with each of `than`. "row/*" stands for every column (or for
    `columns`), "*/column" for every row (or for `rows`); several "*" in one comparison go together; cells in `skip` are
    left out. "series@x" is that series interpolated at the x of the other operand; "max(row)" is a run's own maximum
    along the row, which is never below the row's cells: compare it with a bound, or with another maximum.

    less, greater: of < than, of > than. equal: |of - than| < within.
    below, above: of < within, of > within.
    rising, falling: the row `of` rises (falls) along its columns, or along the values of a series named in `through`.
    not_falling, not_rising: nowhere along the row from one to the next does it fall (rise) by `within` or more.
    largest, smallest: the cell `of` is the largest (smallest) of its row, or of its row's `columns`.
    correlated, anticorrelated: over the cells of `of`, a "row/*" or "*/column", the numbers of `of` and `than` go
        together (against one another): rank correlation within each seed.

    margin: whose number `within` is, the paper's or ours; it is printed.
    at_least: how many of the comparisons must hold; None: all. (1: at least one; it is corrected for the choice.)
    """

    __test__ = False  # not a pytest class

    test: Literal[
        "less", "greater", "equal", "below", "above", "rising", "falling", "not_rising", "not_falling",
        "largest", "smallest", "correlated", "anticorrelated",
    ]  # fmt: skip
    of: str | tuple[str, ...]
    than: str | tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    within: float | None = None
    margin: Literal["", "paper", "ours"] = ""
    through: tuple[float, ...] = ()
    at_least: int | None = None
    metric: Metric | None = None

    def __post_init__(self) -> None:
        require(bool(self.of), "of", self.of, "given")
        pairwise = self.test in ("less", "greater", "equal", *ASSOCIATIONS)
        require(bool(self.than) == pairwise, "than", self.than, f"{'' if pairwise else 'not '}given with {self.test}")
        bounded = self.test in ("equal", "below", "above", *STEPS)
        given = f"{'' if bounded else 'not '}given with {self.test}"
        require((self.within is not None) == bounded, "within", self.within, given)
        require(bool(self.margin) == bounded, "margin", self.margin, f"{given}: paper or ours" if bounded else given)
        tolerance = self.test in ("equal", *STEPS)
        require(not tolerance or (self.within or 0) > 0, "within", self.within, f"> 0 with {self.test}")

    @property
    def operands(self) -> list[tuple[Operand, Operand]]:
        """Each of `of` with each of `than`, wildcards as they are."""
        of, than = ((one,) if isinstance(one, str) else one for one in (self.of, self.than))
        return [(read_operand(a), read_operand(b) if b else ()) for a in of for b in than or ("",)]


@dataclass(frozen=True)
class Statement:
    """A part of a test, about definite cells: a comparison of two operands (`than` is empty where there is but one),
    or, in orders and associations, of rows or columns of cells."""

    test: Test
    of: Operand
    than: Operand = ()

    @property
    def terms(self) -> Operand:
        return self.of + self.than

    @property
    def coefficients(self) -> dict[Term, float]:
        """With which each term counts in `of` - `than`; without those that cancel."""
        counts: dict[Term, float] = {}
        for side, operand in ((1.0, self.of), (-1.0, self.than)):
            for i, term in enumerate(operand):
                counts[term] = counts.get(term, 0.0) + (-side if i else side)
        return {term: count for term, count in counts.items() if count}


@dataclass(frozen=True)
class Claim:
    """A checkable sentence of the paper; it holds where all its tests do."""

    id: str
    text: str
    tests: tuple[Test, ...]

    def __post_init__(self) -> None:
        require(bool(self.tests), "tests", [], "at least one test")


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
class Sheet:
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
    metric: Metric = Metric()
    observe: dict[str, Any] = field(default_factory=dict)  # what gives the metrics: an observer's name and settings
    # Tables: draw, too, the reliability diagrams of the cells that show a calibration error (`ece15`), or what an
    # observer saw of each cell's first seed: projected penultimate activations, or the matrix of class resemblance.
    diagram: Literal["", "reliability", "projection", "matrix"] = ""
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
        observer = {"projection": "penultimate", "matrix": "resemblance"}.get(self.diagram)
        fits = observer is None or self.observe.get("name") == observer
        require(fits, "diagram", self.diagram, f"given with the observer {observer}")
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
        """The parts of `test`; `InputError` unless the sheet has the cells that it is about."""
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
        """`InputError` unless the term is of this sheet."""
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


@dataclass(frozen=True)
class Experiment:
    """What `lskd-run experiment=NAME` trains and prints."""

    title: str
    sheets: tuple[str, ...]
    name: str = ""
    description: str = ""
    cost: str = ""
    seeds: tuple[int, ...] = ()  # instead of those of its sheets
    # Sheets of other experiments whose observers look at these runs, too, where they are theirs: they need not be
    # trained again.
    observe_for: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)  # laid over every cell; a teacher's, where there is one
    threads: int = 0  # CPU threads that suit its networks, where runtime.threads = 0 leaves the choice open
    # Not the paper's protocol, and why: the report says so, and prints no paper values beside these numbers.
    shortened: str = ""
    # Whose protocol it is. What is found at one of our own (every shortened one is) neither reproduces nor contradicts
    # a paper: it agrees or disagrees at this protocol.
    protocol: Literal["paper", "own"] = "paper"

    def __post_init__(self) -> None:
        require(bool(self.sheets), "sheets", [], "a list of names in conf/table")
        require(len(set(self.sheets)) == len(self.sheets), "sheets", list(self.sheets), "all different")
        require(len(set(self.seeds)) == len(self.seeds), "seeds", list(self.seeds), "all different")
        require(self.threads >= 0, "threads", self.threads, ">= 0")

    @property
    def own(self) -> bool:
        """Whether the protocol is one of our own."""
        return self.protocol == "own" or bool(self.shortened)


@dataclass(frozen=True)
class Cell:
    """One configuration of a sheet, under its seeds."""

    row: str
    column: str
    settings: dict[str, Any]  # normal form, without the seed
    runs: tuple[Run, ...]  # one a seed, in the order of the sheet's seeds
    metric: Metric
    x: float | None = None  # figures: the value of the series' `over`


@dataclass(frozen=True)
class Grid:
    """A sheet with its cells filled with runs."""

    sheet: Sheet
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    observation: Observation | None = None
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


Observations = Mapping[str, tuple[Observation, ...]]  # what is to be looked at, by the id of the run


@dataclass(frozen=True)
class Plan:
    """An experiment, its sheets, and all runs that they need: each once, every teacher before its students."""

    experiment: Experiment
    grids: tuple[Grid, ...]
    runs: tuple[Run, ...]
    observations: Observations = field(default_factory=dict)

    def command(self, run: Run, given: Sequence[str] = ()) -> str:
        """The command line that trains exactly this run, where a cell of the plan describes it; `given`: see there."""
        return command_line(self._forms[run.id], given)

    @functools.cached_property
    def _forms(self) -> dict[str, dict[str, Any]]:
        """The settings of each run in normal form, by its id."""
        forms: dict[str, dict[str, Any]] = {}
        for grid in self.grids:
            for cell in grid.cells:
                for seed, taken in zip(grid.seeds, cell.runs, strict=True):
                    form = {"seed": seed, **cell.settings}
                    if _take(grid.sheet, cell.row, cell.column) == "teacher":
                        form = teacher_form(form)
                    if taken.id not in forms:
                        forms |= lineage(taken, form)
        return forms


def load_experiment(content: Mapping[str, Any], name: str = "") -> Experiment:
    """An experiment from the content of its file (as composed by Hydra, or read from conf/experiment)."""
    if "tables" in content:
        raise InputError(f"experiment.tables = {show(content['tables'])}: unknown key; did you mean 'sheets'?")
    return parse(Experiment, {"name": name, **content} if name else content, "experiment")


def load_sheet(name: str, conf: Conf) -> Sheet:
    return parse(Sheet, {"name": name, **without_nulls(conf.load("table", name))}, f"table.{name}")


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


def make_plan(experiment: Experiment, conf: Conf, seeds: Sequence[int] = ()) -> Plan:
    """All runs of `experiment`, under `seeds` where others than the declared ones are asked for. Every setting of every
    cell is checked here, before anything is trained."""
    grids = tuple(make_grid(load_sheet(name, conf), conf, experiment, seeds) for name in experiment.sheets)
    runs = in_order(run for grid in grids for cell in grid.cells for run in cell.runs)
    others = [make_grid(load_sheet(name, conf), conf, experiment, seeds) for name in experiment.observe_for]
    here = {run.id for run in runs}
    asked: dict[str, dict[Observation, None]] = {}
    for grid in (*grids, *others):
        if grid.observation is not None:
            for id in (run.id for cell in grid.cells for run in cell.runs if run.id in here):
                asked.setdefault(id, {})[grid.observation] = None
    return Plan(experiment, grids, runs, {id: tuple(observations) for id, observations in asked.items()})


def make_grid(sheet: Sheet, conf: Conf, experiment: Experiment | None = None, asked: Sequence[int] = ()) -> Grid:
    where = f"table.{sheet.name}"
    declared = experiment.seeds if experiment is not None and experiment.seeds else sheet.seeds
    seeds = tuple(asked) or declared
    over_all = normal_form(experiment.settings, "experiment.settings") if experiment is not None else {}
    base = normal_form(sheet.base, f"{where}.base")
    observation = parse_observation(sheet.observe, f"{where}.observe") if sheet.observe else None
    cells = []
    for row, column in sheet.keys() if sheet.has_cells else ():
        line, x = sheet.rows[row], None
        of_row = normal_form(line.run, f"{where}.rows.{row}.run")
        form = merge(merge({}, base), of_row)
        if sheet.kind == "figure":
            x = next(value for value in line.values if f"{value:g}" == column)
            if line.over not in ("step", "epoch"):
                merge(form, normal_form({line.over: x}, f"{where}.rows.{row}.over"))
            lines = [line]
        else:
            other = sheet.columns[column]
            merge(form, normal_form(other.run, f"{where}.columns.{column}.run"))
            lines = [other, line]
            if of_row.get("teacher", ...) is None:  # a row without teachers, whatever they are in the columns
                form["teacher"] = None
                form.pop("teacher_mode", None)
        of_teacher = () if form.get("teacher") is not None else ("teacher", "teacher_mode")
        if own := sheet.cells.get(row, {}).get(column):
            merge(form, normal_form(own, f"{where}.cells.{row}.{column}"))
        merge(form, {key: value for key, value in over_all.items() if key not in of_teacher})
        try:
            seeded = runs_of_seeds(form, seeds, conf)
        except InputError as error:
            raise InputError(f"{where}, cell {row}/{column}: {error}") from None
        runs = []
        for run in seeded:
            if _take(sheet, row, column) == "teacher":
                if run.teacher is None:
                    raise InputError(f"{where}, cell {row}/{column}: take = teacher: the run has no teacher")
                run = run.teacher
            runs.append(run)
        metric = next((entry.metric for entry in lines if entry.metric is not None), sheet.metric)
        if sheet.rows[row].over == "step":
            assert x is not None
            metric = replace(metric, step=int(x))
        if sheet.rows[row].over == "epoch":
            assert x is not None
            metric = replace(metric, at_epoch=int(x))
        try:
            check_recorded(metric, runs[0], conf)
            check_observed(metric, observation, runs[0], conf)
        except InputError as error:
            raise InputError(f"{where}, cell {row}/{column}: {error}") from None
        cells.append(Cell(row, column, form, tuple(runs), metric, x))
    grid = Grid(sheet, seeds, tuple(cells), observation, declared)
    check_compared(grid)
    return grid


def check_compared(grid: Grid) -> None:
    """`InputError` for a test that compares numbers of the same runs with themselves, under whatever names."""
    for claim in grid.sheet.claims:
        for test in claim.tests:
            for statement in grid.sheet.statements(test) if test.test not in (*ORDERS, *ASSOCIATIONS) else ():
                counts: dict[Any, float] = {}
                for term, count in statement.coefficients.items():
                    cell = grid.cell(term.row, term.column) if term.kind == "cell" else None
                    key = term if cell is None else (test.metric or cell.metric, tuple(run.id for run in cell.runs))
                    counts[key] = counts.get(key, 0.0) + count
                if not any(counts.values()):
                    terms = " and ".join(map(str, statement.coefficients))
                    where = f"table.{grid.sheet.name}.claims.{claim.id}"
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
    """`InputError` unless `run` records the metric of its cell, if that is not an observer's."""
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


def check_observed(metric: Metric, observation: Observation | None, run: Run, conf: Conf) -> None:
    """`InputError` unless a sheet's observer, if it has one, can look at `run` and gives the metric of its cell."""
    if observation is not None:
        if observation.settings.needs_teacher and (run.teacher is None or run.teacher_mode != "eval"):
            raise InputError(f"observe.name = {observation.name}: the run must have a teacher, with teacher_mode=eval")
        try:
            observation.settings.check(conf.spec(run.dataset.name))
        except InputError as error:
            raise InputError(f"observe.{error}") from None
    if metric.name not in observed():
        return
    source = observed()[metric.name]
    if observation is None or source != observation.name:
        raise InputError(f"metric.name = {metric.name}: must be in a table with observe: {{name: {source}}}")
    steps, every = run.recipe.total_steps(training_examples(run, conf)), observation.settings.every
    if metric.step is not None and metric.step != steps and (not every or metric.step % every or metric.step > steps):
        allowed = f"a multiple of {every} up to {steps}, or {steps}" if every else f"{steps}, the end of the training"
        raise InputError(f"step = {metric.step}: must be {allowed}")


def _take(sheet: Sheet, row: str, column: str) -> str:
    lines = [sheet.rows[row]] + ([sheet.columns[column]] if column in sheet.columns else [])
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


def to_train(runs: Sequence[Run], store: Store, observations: Observations = MappingProxyType({})) -> list[Run]:
    """Those of `runs`, and of their teachers, that there is something to do for: the missing ones, finished teachers of
    missing students whose weights are not here (results are shared without weights), and finished ones that an observer
    has not looked at. What is damaged is left as it is."""
    needed: dict[str, Run] = {}

    def want(run: Run, weights: bool) -> None:
        if run.id in needed or is_complete(run, store, observations, weights=weights):
            return
        if store.state(run) == "damaged":
            return
        if run.teacher is not None and not looks_suffice(run, store, observations):
            want(run.teacher, True)
        needed[run.id] = run

    for run in runs:
        want(run, False)
    return list(needed.values())


def damages(runs: Iterable[Run], store: Store, observations: Observations = MappingProxyType({})) -> list[str]:
    """What in the store's records of `runs` cannot be used, each in one line that says what to do."""
    found = []
    for run in runs:
        if (reason := store.damage(run)) is not None:
            found.append(reason)
        for one in observations.get(run.id, ()):
            try:
                store.looks(run, one)
            except InputError as error:
                found.append(str(error))
    return found


def is_complete(run: Run, store: Store, observations: Observations, *, weights: bool) -> bool:
    """Whether the run is finished and has been looked at (and, if `weights`, its weights are here)."""
    if store.state(run) != "done" or (weights and not store.weights(run).is_file()):
        return False
    return not unseen(run, store, observations)


def unseen(run: Run, store: Store, observations: Observations) -> list[Observation]:
    """The observations of `run` that have not been made."""
    return [one for one in observations.get(run.id, ()) if not store.seen(run, one)]


def looks_suffice(run: Run, store: Store, observations: Observations) -> bool:
    """Whether all that a finished run lacks can be seen of its weights (and, if need be, of its teacher's), which are
    here: it need not be trained."""
    if store.state(run) != "done" or not store.weights(run).is_file():
        return False
    lacking = [one.settings for one in unseen(run, store, observations)]
    shown = run.teacher if any(one.needs_teacher for one in lacking) else None
    return not any(one.every for one in lacking) and (shown is None or store.weights(shown).is_file())


def by_other_code(runs: Iterable[Run], store: Store) -> dict[str, list[str]]:
    """Of each of `runs` the ids of finished runs that differ from it in nothing but the code that computed them.

    Looked for are older ones, of runs whose code is not the first version of the package's own."""
    wanted: dict[str, str] = {}
    for run in runs:
        given = run.identity()
        if without_code(given) != given:
            wanted[_plain_words(given)] = run.id
    found: dict[str, list[str]] = {}
    for id, config in store.configs() if wanted else ():
        new = wanted.get(_plain_words(config))
        if new is not None and new != id:
            found.setdefault(new, []).append(id)
    return found


def _plain_words(config: Mapping[str, Any]) -> str:
    return json.dumps(without_code(config), sort_keys=True)


def lineage(run: Run, form: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings in normal form of `run`, which `form` describes, of its teacher, and so on, by their ids."""
    forms = {run.id: form}
    while run.teacher is not None:
        run, form = run.teacher, teacher_form(form)
        forms[run.id] = form
    return forms


def command_line(form: Mapping[str, Any], given: Sequence[str] = ()) -> str:
    """`lskd-run …` for settings in normal form. `given`: words that are no settings, such as runtime.results=…"""
    return " ".join(["lskd-run", *map(_quote, [*given, *override_words(form)])])


def _quote(word: str) -> str:
    """`word` for a shell; in double quotes where they do, because Hydra's own are single ones."""
    if re.search(r'["$`\\!]', word):
        return shlex.quote(word)
    return f'"{word}"' if shlex.quote(word) != word else word


# ---- cost ---------------------------------------------------------------------------------------------------------


class Costs:
    """Seconds of the device that runs take: those of a step of finished runs of the same kind (`Run.cost_key`) on a
    device of the same type, divided by the number of runs that trained side by side."""

    def __init__(self, store: Store, runs: Iterable[Run], device_type: str) -> None:
        """From the records in `store`, `ENOUGH` of each kind that `runs` are of. `device_type`: "cpu" or "cuda"."""
        samples: dict[str, list[float]] = {run.cost_key: [] for run in runs}
        lacking = set(samples)
        for config, env, result in store.results(lambda config: _kind(config) in lacking) if lacking else ():
            seconds = seconds_per_step(config, env, result)
            if seconds is not None and (env.get("threads") is None) == (device_type == "cuda"):
                key = cost_key(config)
                samples[key].append(seconds)
                if len(samples[key]) == ENOUGH:
                    lacking.remove(key)
            if not lacking:
                break
        self.seconds_per_step = {key: sorted(values)[len(values) // 2] for key, values in samples.items() if values}

    def learn(self, run: Run, store: Store) -> None:
        """Of `run`, which has finished here and now, how long its kind takes."""
        seconds = seconds_per_step(run.identity(), store.env(run), store.result(run) or {})
        if seconds is not None:
            self.seconds_per_step[run.cost_key] = seconds

    def estimate(self, run: Run, examples: int) -> float | None:
        per_step = self.seconds_per_step.get(run.cost_key)
        return None if per_step is None else per_step * all_steps(run, examples)


ENOUGH = 5  # finished runs of a kind, to know what it costs


def _kind(config: dict[str, Any]) -> str | None:
    try:
        return cost_key(config)
    except (AttributeError, KeyError, TypeError):  # of another version, or no run's at all
        return None


def seconds_per_step(config: Mapping[str, Any], env: Mapping[str, Any], result: Mapping[str, Any]) -> float | None:
    """Of a finished run, those of a stage before the training proper among its steps; None where records do not say."""
    try:
        steps = result["steps"]
        if initial := result.get("initial"):
            steps += initial["epochs"] * math.ceil(result["examples"] / config["recipe"]["batch_size"])
        seconds = float(result["seconds"] / env.get("fleet", 1) / max(steps, 1))
    except (AttributeError, KeyError, TypeError, ZeroDivisionError):
        return None
    return seconds if math.isfinite(seconds) else None


def all_steps(run: Run, examples: int) -> int:
    """The steps of a run, those of a stage before the training proper among them."""
    initial = run.method.settings.initial()
    before = 0 if initial is None else initial.epochs * run.recipe.steps_per_epoch(examples)
    return before + run.recipe.total_steps(examples)


def training_examples(run: Run, conf: Conf) -> int:
    """Images in the run's training part."""
    return run.dataset.examples(conf.spec(run.dataset.name))


def teacher_table(run: Run, conf: Conf) -> tuple[int, int, int] | None:
    """(images, views, classes) of the table that a run's teacher fills; None where there is no use for one."""
    looked_up = run.method.settings.teacher_use == "logits" and run.teacher_mode == "eval"
    if run.teacher is None or not looked_up or run.recipe.augment.resized is not None:
        return None
    spec = conf.spec(run.dataset.name)
    return training_examples(run, conf), math.prod(run.recipe.augment.shape(*spec.shape[1:])), spec.num_classes


def teachers(runs: Iterable[Run], conf: Conf) -> Iterator[str]:
    """How the teachers of `runs` are evaluated, in words: a line for each kind of table (`lskd.engine.teacher`)."""
    tables: dict[str, set[str]] = {}
    for run in runs:
        if run.teacher is None:
            continue
        use = run.method.settings.teacher_use
        what = "evaluated at every step: streamed images are decoded once"
        if run.teacher_mode == "batch_stats":
            what = "evaluated at every step: with teacher_mode=batch_stats its logits depend on the whole batch"
        elif use != "logits":
            what = "evaluated at every step, for its features" + (
                "" if use == "features" else ", before the training proper"
            )
        if (table := teacher_table(run, conf)) is not None:
            images, views, classes = table
            size = f"{table_bytes(*table) / 1e9:.3g} GB"
            what = (
                f"evaluated once a view, for all its students: {images:,} images × {views} view{'s' * (views > 1)} × "
                f"{classes} logits, {size} (once an epoch, where memory has no room for that)"
            )
        tables.setdefault(what, set()).add(run.teacher.id)
    for what, ids in tables.items():
        yield f"{len(ids)} {'teacher' if len(ids) == 1 else 'teachers, each'} {what}"


def grouped(runs: Iterable[Run]) -> Iterator[tuple[str, list[Run]]]:
    """Runs that differ in their seeds alone, under one label, which says what tells them from others of that label."""
    groups: dict[str, dict[frozenset[str], list[Run]]] = {}
    for run in runs:
        label = str(run).rpartition(", seed ")[0]
        groups.setdefault(label, {}).setdefault(frozenset(_flat(run.identity())), []).append(run)
    for label, by_settings in groups.items():
        common = frozenset.intersection(*by_settings)
        for settings, group in by_settings.items():
            yield ", ".join([label, *sorted(settings - common)]), group


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """{"recipe": {"augment": {"pad": 4}}, "seed": 1} -> "recipe.augment.pad=4"."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key != "seed":
            yield f"{prefix}{key}={value if isinstance(value, str) else show(value)}"
