"""The claims of a paper as statistical statements about the cells of a table."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from lskd.errors import InputError, require, unknown
from lskd.tables.chains import chain_of
from lskd.tables.metric import Metric


@dataclass(frozen=True)
class Term:
    """What stands between the minus signs of an operand: a cell `row/column`, where "*" stands for every row or every
    column, and a row "NAME.*" for every generation of a chain (`lskd.tables.chains`); `series@x`, the series
    interpolated, seed by seed, at the x of the other operand's cell; `max(row)`, `min(row)`, the largest or smallest of
    a run's numbers along the row, seed by seed; or `best(row)`, the number of the run that the table's `select` chooses
    along the row, seed by seed."""

    row: str
    column: str = ""
    kind: Literal["cell", "x", "max", "min", "best"] = "cell"

    def __str__(self) -> str:
        return {"cell": f"{self.row}/{self.column}", "x": f"{self.row}@x"}.get(self.kind, f"{self.kind}({self.row})")

    @property
    def wild(self) -> str:
        """What a "*" goes over: "columns", "rows", or nothing."""
        if self.kind != "cell":
            return ""
        return "columns" if self.column == "*" else "rows" if self.row == "*" or self.chain else ""

    @property
    def chain(self) -> str:
        """The chain over whose generations a "*" goes, if it does."""
        return chain_of(self.row)

    def at(self, key: str) -> Term:
        """One of the cells that a "*" stands for."""
        if self.wild == "columns":
            return replace(self, column=key)
        if self.wild == "rows":
            return replace(self, row=f"{self.chain}.{key}" if self.chain else key)
        return self


Operand = tuple[Term, ...]  # the first less the others


def read_operand(text: str) -> Operand:
    """ "ls/small - hard/small" as its terms."""
    terms = []
    for word in text.split(" - "):
        if along := re.fullmatch(r"(max|min|best)\((.+)\)", word):
            terms.append(Term(along[2], kind=along[1]))  # type: ignore[arg-type]
        elif word.endswith("@x"):
            terms.append(Term(word.removesuffix("@x"), kind="x"))
        else:
            row, _, column = word.rpartition("/")
            if not row or not column:
                allowed = "row/column, series@x, max(row), min(row) or best(row)"
                raise InputError(f"operand = {text!r}: {word!r} must be {allowed}, with spaces around a minus")
            terms.append(Term(row, column))
    return tuple(terms)


# ---- kinds of tests -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of test: what it is about, where the number of each of its statements must lie, and how it reads.

    about: "cells": each cell of `of`, with one of `than` if there is such. "peak": a cell with each other one of its
        row. "steps": each cell of a row with the one before. "row": a whole row, in its order. "pairs": the cells of a
        row or column, each with its partner of `than`.
    than: what stands there: "cells", a "number", or nothing.
    region: the open interval in which the number must lie, from the bound: the number in `than`, or the margin in
        `within` if `margin`, else 0. A margin is tested on one side, anything else on both.
    number: "difference": `of` - `than`, or `of` alone, mean over seeds. "trend": the rise of a row from end to end,
        by Page's test. "correlation": rank correlation, within each seed. (`lskd.report.claims` computes them.)
    words: of a statement, from its operands {of} and {than}, the {bound}, {whose} it is, and where a row is taken
        {through}.
    """

    about: Literal["cells", "peak", "steps", "row", "pairs"]
    than: Literal["cells", "number", ""]
    low: float  # of the region, in multiples of the bound; -inf and inf are open ends
    high: float
    words: str
    margin: bool = False
    number: Literal["difference", "trend", "correlation"] = "difference"

    def region(self, bound: float) -> tuple[float, float]:
        low, high = (end * bound if math.isfinite(end) else end for end in (self.low, self.high))
        return low, high

    @property
    def direction(self) -> Literal["up", "down", ""]:
        """Which way the region is open; "" where it has two ends."""
        if math.isfinite(self.low) and math.isfinite(self.high):
            return ""
        return "up" if math.isfinite(self.low) else "down"


INFINITE = math.inf

# Adding one is a line here. The region is in multiples of the bound: (1, INFINITE) is above it, (-1, 1) within it.
TESTS: dict[str, Kind] = {
    "less": Kind("cells", "cells", -INFINITE, 0, "{of} < {than}"),
    "greater": Kind("cells", "cells", 0, INFINITE, "{of} > {than}"),
    "equal": Kind("cells", "cells", -1, 1, "{of} = {than} ± {bound:g} ({whose})", margin=True),
    "below": Kind("cells", "number", -INFINITE, 1, "{of} < {bound:g} ({whose})"),
    "above": Kind("cells", "number", 1, INFINITE, "{of} > {bound:g} ({whose})"),
    "largest": Kind("peak", "", 0, INFINITE, "{of} > {than}"),
    "smallest": Kind("peak", "", -INFINITE, 0, "{of} < {than}"),
    "not_falling": Kind("steps", "", -1, INFINITE, "{of} > {than} - {bound:g} ({whose})", margin=True),
    "not_rising": Kind("steps", "", -INFINITE, 1, "{of} < {than} + {bound:g} ({whose})", margin=True),
    "rising": Kind("row", "", 0, INFINITE, "{of} rising{through}", number="trend"),
    "falling": Kind("row", "", -INFINITE, 0, "{of} falling{through}", number="trend"),
    "correlated": Kind("pairs", "cells", 0, INFINITE, "{of} correlated with {than}", number="correlation"),
    "anticorrelated": Kind("pairs", "cells", -INFINITE, 0, "{of} anticorrelated with {than}", number="correlation"),
}
WHOSE: Mapping[str, str] = MappingProxyType({"paper": "the paper's", "ours": "ours", "": ""})


@dataclass(frozen=True)
class Test:
    """One statistical statement about cells, tested over seeds (`lskd.report.claims`).

    Operands (`Term`) are "row/column" (figures: "series/value"), or differences of such: "cell - cell", seed by seed.
    `of` and `than` may be lists: each of `of` is compared with each of `than`. "row/*" stands for every column (or for
    `columns`), "*/column" for every row (or for `rows`); several "*" in one comparison go together; cells in `skip` are
    left out, and so are derived ones, unless they are named. "series@x" is that series interpolated at the x of the
    other operand; "max(row)" is a run's own maximum along the row, which is never below the row's cells: compare it
    with a bound, or with another maximum; "best(row)" is the row at the column that the table's `select` chooses, seed
    by seed.

    less, greater: of < than, of > than. equal: |of - than| < within.
    below, above: of < than, of > than, a number.
    rising, falling: the row `of` rises (falls) along its columns, or along the values of a series named in `through`;
        of "NAME.*/column", along the generations of a chain.
    not_falling, not_rising: nowhere along the row from one to the next does it fall (rise) by `within` or more.
    largest, smallest: the cell `of` is the largest (smallest) of its row, or of its row's `columns`.
    correlated, anticorrelated: over the cells of `of`, a "row/*" or "*/column", the numbers of `of` and `than` go
        together (against one another): rank correlation within each seed.

    margin: whose number `within`, or the number in `than`, is: the paper's or ours; it is printed.
    at_least: how many of the comparisons must hold; None: all. (1: at least one; it is corrected for the choice.)
    """

    __test__ = False  # not a pytest class

    test: str
    of: str | tuple[str, ...]
    than: float | str | tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    within: float | None = None
    margin: Literal["", "paper", "ours"] = ""
    through: tuple[float, ...] = ()
    at_least: int | None = None
    metric: Metric | None = None

    def __post_init__(self) -> None:
        if self.test not in TESTS:
            raise unknown("test", self.test, TESTS)
        require(bool(self.of), "of", self.of, "given")
        kind, given = self.kind, f"given with {self.test}"
        if kind.than == "number":
            require(isinstance(self.than, (int, float)), "than", self.than, f"a number with {self.test}")
        else:
            cells = not isinstance(self.than, (int, float))
            require(cells, "than", self.than, f"{'cells' if kind.than else 'not given'} with {self.test}")
            require(bool(self.than) == bool(kind.than), "than", self.than, f"{'' if kind.than else 'not '}{given}")
        require(
            (self.within is not None) == kind.margin, "within", self.within, f"{'' if kind.margin else 'not '}{given}"
        )
        require(not kind.margin or (self.within or 0) > 0, "within", self.within, f"> 0 with {self.test}")
        bounded = kind.margin or kind.than == "number"
        allowed = f"{given}: paper or ours" if bounded else f"not {given}"
        require(bool(self.margin) == bounded, "margin", self.margin, allowed)
        _ = self.operands  # which are read now: what cannot be is an error of the file

    @property
    def kind(self) -> Kind:
        return TESTS[self.test]

    @property
    def bound(self) -> float:
        """What the region of its kind is in multiples of."""
        return float(self.than) if isinstance(self.than, (int, float)) else self.within or 0.0

    @property
    def region(self) -> tuple[float, float]:
        """The open interval in which the number must lie."""
        return self.kind.region(self.bound)

    @functools.cached_property
    def operands(self) -> tuple[tuple[Operand, Operand], ...]:
        """Each of `of` with each of `than`, wildcards as they are."""
        of = (self.of,) if isinstance(self.of, str) else self.of
        than = (self.than,) if isinstance(self.than, str) else self.than if isinstance(self.than, tuple) else ()
        others = [read_operand(text) for text in than] or [()]
        return tuple((one, other) for one in map(read_operand, of) for other in others)


@dataclass(frozen=True)
class Statement:
    """A part of a test, about definite cells: a comparison of two operands (`than` is empty where there is but one),
    or, in orders and associations, of rows or columns of cells."""

    test: Test
    of: Operand
    than: Operand = ()

    def __str__(self) -> str:
        """What is tested, such as `ls/student > hard/student`."""
        test = self.test
        of, than = (" - ".join(map(str, operand)) for operand in (self.of, self.than))
        through = f" through {test.through[-1]:g}" if test.through else ""
        return test.kind.words.format(of=of, than=than, bound=test.bound, whose=WHOSE[test.margin], through=through)

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
