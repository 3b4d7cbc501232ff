"""Rows and columns of a table that follow from others, seed by seed: differences, means, ranks, wins, the best.

A derived cell is made of groups of cells, one for each line in `of`: the cell in that line, followed by those that it
is compared with. It exists where all of them do, and has a number for each seed that all of them have: nothing is
filled in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lskd.errors import require, unknown
from lskd.quantity import Better

Groups = Sequence[Sequence[float]]  # the numbers of one seed


@dataclass(frozen=True)
class Kind:
    """A kind of derivation.

    number: from the numbers of one seed. All have been given such a sign that more is better if `directed`; `choice`
        has, for each group, the number by which the table's `select` chooses, as more is better, too.
    compares: what stands behind the first cell of a group: nothing, the line `than`, all that are `among` them, or the
        cell `before` it: of a figure at the value before, of a chain of generations the one before.
    many: whether `of` is several lines.
    words: what the number is, before the words for the numbers that it is made of.
    digits, unit, better: of the number, where they are not those of what it is made of.
    """

    number: Callable[[Groups, Sequence[float]], float]
    words: str
    compares: Literal["", "than", "among", "before"] = ""
    across: bool = False  # `than` and `among` are rows for a column and columns for a row; else lines of its own kind
    many: bool = True
    directed: bool = False
    chooses: bool = False
    digits: int | None = None
    unit: str | None = None
    better: Better = ""


def difference(groups: Groups, choice: Sequence[float]) -> float:
    """`of` less `than`."""
    [(one, other)] = groups
    return one - other


def mean(groups: Groups, choice: Sequence[float]) -> float:
    """The mean over `of`."""
    return sum(group[0] for group in groups) / len(groups)


def rank(groups: Groups, choice: Sequence[float]) -> float:
    """The rank among `among`, 1 being the best, ties sharing theirs; its mean over `of`."""
    ranks = []
    for own, *others in groups:
        ranks.append(1 + sum(other > own for other in others) + 0.5 * sum(other == own for other in others))
    return sum(ranks) / len(ranks)


def wins(groups: Groups, choice: Sequence[float]) -> float:
    """In how many of `of` it is better than `than`; a tie is no win."""
    return float(sum(one > other for one, other in groups))


def best(groups: Groups, choice: Sequence[float]) -> float:
    """The number of that one of `of` which `select` chooses; of equals the first."""
    return groups[max(range(len(groups)), key=lambda i: (choice[i], -i))][0]


# Adding one is a line here.
DERIVED: dict[str, Kind] = {
    "difference": Kind(difference, "difference of", "than", many=False),
    "change": Kind(difference, "change from the one before of", "before", many=False),
    "mean": Kind(mean, "mean over cells of"),
    "rank": Kind(rank, "rank (1: the best) by", "among", across=True, directed=True, digits=1, unit="", better="lower"),
    "wins": Kind(wins, "how often better by", "than", across=True, directed=True, digits=1, unit="", better="higher"),
    "best": Kind(best, "the one of several that `select` chooses, seed by seed, by its", chooses=True),
}


@dataclass(frozen=True)
class Derivation:
    """How the cells of a row or column follow from those of others.

    kind: `DERIVED`. of: rows for a row, columns for a column; "*": all that are not derived. than: (difference) the
    line to subtract; (wins) of a column the row, of a row the column, to be better than. among: (rank) of a column the
    rows, of a row the columns, that are ranked; all that are not derived, unless given.
    """

    kind: str
    of: str | tuple[str, ...]
    than: str = ""
    among: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in DERIVED:
            raise unknown("kind", self.kind, DERIVED)
        kind = DERIVED[self.kind]
        require(bool(self.of), "of", self.of, "given")
        one = kind.many or (isinstance(self.of, str) and self.of != "*")
        require(one, "of", self.of, f"one row or column with kind={self.kind}")
        given = kind.compares == "than"
        require(bool(self.than) == given, "than", self.than, f"{'' if given else 'not '}given with kind={self.kind}")
        fits = not self.among or kind.compares == "among"
        require(fits, "among", list(self.among), f"not given with kind={self.kind}")

    @property
    def lines(self) -> tuple[str, ...]:
        """`of` as a list; ("*",) stands for all."""
        return (self.of,) if isinstance(self.of, str) else self.of
