"""The one error a user can cause."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """What a user gave cannot be used. The message is one line: what was given, and what is allowed.

    Command-line programs print it without a traceback and exit with code 2.
    """


def unknown(kind: str, given: object, allowed: Iterable[str]) -> InputError:
    """`InputError` for a name that is not one of `allowed`, with the nearest one as a suggestion."""
    return InputError(f"{kind} = {given!r}: {choices(given, allowed)}")


def one_line(error: BaseException) -> str:
    """The kind of an error and the first line of its message that says something."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def choices(given: object, allowed: Iterable[str]) -> str:
    """What stands instead of `given`: "did you mean 'x'? allowed: x, y"."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}allowed: {', '.join(names) or 'none'}"


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """`InputError` "name = value: must be allowed" unless `holds`: the range check of a config field."""
    if not holds:
        raise InputError(f"{name} = {value!r}: must be {allowed}")
