"""Whether the record of a finished run can be believed: its parts are there, its numbers finite and in range."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lskd.networks import ENSEMBLE, of_networks
from lskd.schema import show

MOST = sys.float_info.max
PERCENT, SHARE, NOT_NEGATIVE, ANY = (0.0, 100.0), (0.0, 1.0), (0.0, MOST), (-MOST, MOST)
NUMBERS = re.compile(r"-?\d+(\.\d+)?( -?\d+(\.\d+)?)*")
LIMITS = {
    "top1": PERCENT,
    "top3": PERCENT,
    "top5": PERCENT,
    "error": PERCENT,
    "ece15": SHARE,
    "ece20": SHARE,
    "nll": NOT_NEGATIVE,
}


def fault(record: Mapping[str, Any]) -> str | None:
    """What is wrong with the record of a finished run, as in "last.test.top1 = 12345: must be a number in [0, 100]";
    None if nothing is."""
    for key in ("last", "best", "train"):
        if not isinstance(record.get(key), dict):
            return f"{key} = {show(record.get(key))}: must be a mapping"
    numbers = [(key, record.get(key, {})) for key in ("last", "best", "train", "calibration", "solved")]
    for name, one in of_networks(record).items():
        for key in ("last", "best", *(() if name == ENSEMBLE else ("train",))):
            if not isinstance(one.get(key), dict):
                return f"{name}.{key} = {show(one.get(key))}: must be a mapping"
        numbers += [(f"{name}.{key}", one.get(key, {})) for key in ("last", "best", "train", "calibration")]
    scalars = ("examples", "steps", "epochs", "seconds", "gamma")
    numbers += [(key, record[key]) for key in scalars if record.get(key) is not None]
    for where, value in numbers:
        if not is_sound(value):
            return next(wrong_numbers(value, where))
    return None


def wrong_numbers(value: Any, where: str, lines: Collection[str] = (), texts: Collection[str] = ()) -> Iterator[str]:
    """Of the numbers in nested mappings and lists, what is wrong with those that are none, or out of their range.
    `lines`: the keys of lists of lines of text, each of which holds numbers between blanks; `texts`: of text."""
    if is_sound(value, where.rpartition(".")[2]):
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in texts or not isinstance(item, str):
                yield from wrong_numbers(item, f"{where}.{key}", lines, texts)
    elif isinstance(value, list):
        of_lines = where.rpartition(".")[2] in lines
        for place, item in enumerate(value):
            here = f"{where}[{place}]"
            if of_lines and isinstance(item, str) and NUMBERS.fullmatch(item):
                yield from wrong_numbers([float(word) for word in item.split()], here)
            else:
                yield from wrong_numbers(item, here, lines, texts)
    else:
        low, high = LIMITS.get(where.rpartition(".")[2], ANY)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and low <= value <= high):  # nor is NaN, nor an integer beyond all floats
            limits = f" in [{low:g}, {high:g}]" if high < MOST else " >= 0" if low == 0.0 else ""
            yield f"{where} = {show(value)}: must be a finite number{limits}"


def is_sound(value: Any, key: str = "") -> bool:
    """Whether there is nothing that `wrong_numbers` would find in the value of `key`: without its words, and quick, for
    records are long."""
    kind = type(value)
    if kind is float or kind is int:
        low, high = LIMITS.get(key, ANY)
        return low <= value <= high
    if kind is dict:
        for name, item in value.items():
            if type(item) is float:
                low, high = LIMITS.get(name, ANY)
                if not low <= item <= high:
                    return False
            elif not is_sound(item, name):
                return False
        return True
    if kind is not list:
        return False
    kinds = {*map(type, value)}
    if kinds == {list}:  # of many short ones, as bins are: all at once
        value = list(itertools.chain.from_iterable(value))
        kinds = {*map(type, value)}
    if kinds <= {int, float}:
        with contextlib.suppress(OverflowError):  # an integer beyond all floats
            if math.isfinite(sum(value)):
                return True
    return all([is_sound(item) for item in value])
