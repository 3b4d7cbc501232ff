"""The claims of a paper as statistical statements about the cells of a table."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from lskd.errors import require
from lskd.tables.metric import Metric


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
