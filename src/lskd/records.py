"""Whether the record of a finished run can be believed: its parts are there, its numbers finite and in range."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lskd.networks import ENSEMBLE, of_networks
from lskd.schema import show

PERCENT, SHARE, NOT_NEGATIVE, ANY = (0.0, 100.0), (0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)
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
    for key in ("last", "best", "train", "calibration", "solved"):
        for reason in wrong_numbers(record.get(key, {}), key):
            return reason
    for name, one in of_networks(record).items():
        for key in ("last", "best", *(() if name == ENSEMBLE else ("train",))):
            if not isinstance(one.get(key), dict):
                return f"{name}.{key} = {show(one.get(key))}: must be a mapping"
        for key in ("last", "best", "train", "calibration"):
            for reason in wrong_numbers(one.get(key, {}), f"{name}.{key}"):
                return reason
    for key in ("examples", "steps", "epochs", "seconds", "gamma"):
        if record.get(key) is not None:
            for reason in wrong_numbers(record[key], key):
                return reason
    return None


def wrong_numbers(value: Any, where: str, lines: Collection[str] = (), texts: Collection[str] = ()) -> Iterator[str]:
    """Of the numbers in nested mappings and lists, what is wrong with those that are none, or out of their range.
    `lines`: the keys of lists of lines of text, each of which holds numbers between blanks; `texts`: of text."""
    if _is_sound(value, where.rpartition(".")[2]):
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
        if not (number and math.isfinite(value) and low <= value <= high):
            limits = f" in [{low:g}, {high:g}]" if high < math.inf else " >= 0" if low == 0.0 else ""
            yield f"{where} = {show(value)}: must be a finite number{limits}"


def _is_sound(value: Any, key: str) -> bool:
    """Whether there is nothing that `wrong_numbers` would find: without its words, and quick, for records are long."""
    kind = type(value)
    if kind is float or kind is int:
        low, high = LIMITS.get(key, ANY)
        return math.isfinite(value) and low <= value <= high
    if kind is dict:
        for name, item in value.items():
            if not (_is_sound(item, name) if name in LIMITS or type(item) is not float else math.isfinite(item)):
                return False
        return True
    if kind is not list:
        return False
    kinds = {*map(type, value)}
    if kinds == {list}:  # of many short ones, as bins are: all at once
        value = list(itertools.chain.from_iterable(value))
        kinds = {*map(type, value)}
    if kinds <= {int, float}:
        return all(map(math.isfinite, value))
    return all([_is_sound(item, "") for item in value])
