"""Rows, columns and series of a table, and what others printed in their cells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lskd.errors import InputError, require
from lskd.quantity import key
from lskd.schema import parse
from lskd.tables.derived import Derivation
from lskd.tables.metric import Metric

# What a series may go over without being several runs: which choice of its metric (`Metric`) a value is.
OF_ONE_RUN: Mapping[str, str] = {
    "step": "step", "epoch": "at_epoch", "class": "at_class", "at_temperature": "at_temperature",
}  # fmt: skip
COUNTED = ("step", "epoch", "class", "generation")  # and of which values are whole numbers from 0 or 1 on


@dataclass(frozen=True)
class Line:
    """A row or column of a table, or a series of a figure: a label, and settings laid over the table's base. (Rows that
    are chains of generations have been spelled out: `lskd.tables.chains`.)

    group: (columns of tables) a heading over the columns of this name that stand side by side.
    take: the cell is the run that the settings describe, or its teacher, or that one's (`teacher.teacher`), and so on.
    taught_by: the teacher is the run of this row (of a column: of this column), with all its settings: a generation.
    started_from: its weights come, as it begins, from the run of this row (of a column: of this column).
    derive: instead of settings: the cells follow from those of other rows (of a column: columns).
    over, values: (figures) the setting that varies along the series, and its values: numbers, or of a categorical axis
        names; over=step: the steps at which a probe looked at one run; over=epoch: the epochs of one run, from 1;
        over=class: the classes of one run, by their numbers from 0, of what a probe gives for each;
        over=at_temperature: the temperatures by which a probe divides the outputs of one run's network;
        over=generation: the networks of a chain, each taught by the one before, of which 0 is the teacher of the first.
    panel: (figures) the series stands in a panel of this name, its vertical axis; panels are one above the other, over
        one horizontal axis. All series have one, or none.
    right: (figures) the series has a vertical axis of its own, of this name, on the right of its panel, where there is
        one for all that have it.
    style: (figures) matplotlib's line format, such as "o--"; "" = one by its place among the series.
    """

    label: str
    group: str = ""
    run: dict[str, Any] = field(default_factory=dict)
    take: str = "run"
    taught_by: str = ""
    started_from: str = ""
    derive: Derivation | None = None
    metric: Metric | None = None
    over: str = ""
    values: tuple[float | str, ...] = ()
    panel: str = ""
    right: str = ""
    style: str = ""
    color: str = ""

    def __post_init__(self) -> None:
        allowed = "run, teacher, or teacher.teacher and so on"
        require(bool(re.fullmatch(r"run|teacher(\.teacher)*", self.take)), "take", self.take, allowed)
        given = (self.run, self.taught_by, self.started_from, self.metric, self.over, self.values)
        if self.derive is not None and (any(given) or self.take != "run"):
            raise InputError(
                "derive: must be given without run, take, taught_by, started_from, metric, over and values"
            )

    @property
    def title(self) -> str:
        """The label, where no heading stands over it."""
        return f"{self.group}: {self.label}" if self.group else self.label

    @property
    def varied(self) -> str:
        """What a series goes over, as an axis says it."""
        return "temperature" if self.over == "at_temperature" else self.over

    @property
    def ancestor(self) -> int:
        """How many generations above the run that the settings describe the run is that the cell shows."""
        return 0 if self.take == "run" else self.take.count("teacher")


@dataclass(frozen=True)
class Scatter:
    """The columns of a table that a scatter shows: one across, others upwards; a point a row."""

    x: str
    y: str | tuple[str, ...]

    @property
    def ys(self) -> tuple[str, ...]:
        return (self.y,) if isinstance(self.y, str) else self.y


def value_key(value: float | str) -> str:
    """A value of a series, as the name of its column."""
    return value if isinstance(value, str) else key(value)


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


def read_printed(given: Any, where: str) -> Printed:
    return parse(Printed, given, where) if isinstance(given, Mapping) else parse(Printed, {"value": given}, where)
