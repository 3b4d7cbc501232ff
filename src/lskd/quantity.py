"""What a number is, for whoever prints or compares it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Quantity:
    """A number's title in words, its unit ("" = a pure number), the decimals that a table shows, and which direction is
    better ("" = neither)."""

    title: str
    unit: str = ""
    digits: int = 3
    better: Literal["", "higher", "lower"] = ""
