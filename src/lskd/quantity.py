"""What a number is: how it is printed, and which of two is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["", "higher", "lower", "zero"]  # zero: the nearer to 0 the better; "": none is
By = Literal["", "class", "temperature"]


@dataclass(frozen=True)
class Quantity:
    """A number: title in words, unit ("" = a pure number), the decimals that a table shows, and which is better.

    by: (of a probe) there is one for each class, by its number in the data, or for each of the probe's `temperatures`.
    Recorded by `key`: {"0": ..., "1": ...}, {"1": ..., "1.13": ...}.
    """

    title: str
    unit: str = ""
    digits: int = 3
    better: Better = ""
    by: By = ""


def key(value: float) -> str:
    """A class or a temperature as the name that its number has in a record."""
    return f"{value:g}"


def merit(better: Better, value: float) -> float:
    """`value` as a number that is the greater the better it is."""
    return {"higher": value, "lower": -value, "zero": -abs(value)}[better]
