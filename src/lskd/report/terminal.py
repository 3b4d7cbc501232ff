"""What is printed on a terminal, no wider than it is."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from tabulate import tabulate

NARROWEST = 40  # columns; less is printed as if it were so many
GAP = 2  # columns between two of a table
MARKS = re.compile(r"(\s*)((?:> |- |#+ )?)")  # what a line of Markdown begins with


def wrapped(text: str, width: int) -> str:
    """Paragraphs and lists, broken between words."""
    lines = []
    for line in text.splitlines():
        mark = MARKS.match(line)
        indent, sign = mark.groups() if mark is not None else ("", "")
        below = indent + (sign if sign == "> " else " " * len(sign))
        lines += textwrap.wrap(
            line, max(width, NARROWEST), subsequent_indent=below, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return "\n".join(lines)


def fits(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> bool:
    """Whether a table fits as it is."""
    return sum(max(map(len, column)) + GAP for column in zip(headers, *rows, strict=True)) - GAP <= width


def fitted(headers: Sequence[str], rows: Sequence[Sequence[str]], fixed: int, width: int) -> str:
    """A table in blocks of columns that fit, each with the first `fixed` columns, which are labels. Headers are broken
    between words; so are labels, where they would take more than half of the width."""
    width = max(width, NARROWEST)
    natural = [max(len(row[i]) for row in (headers, *rows)) for i in range(len(headers))]
    columns = [
        natural[i] if i < fixed else max(max((len(row[i]) for row in rows), default=0), _longest_word(headers[i]))
        for i in range(len(headers))
    ]
    for i in sorted(range(fixed), key=lambda i: -columns[i]):
        others = sum(columns[j] + GAP for j in range(fixed) if j != i)
        least = max(_longest_word(row[i]) for row in (headers, *rows))
        columns[i] = min(columns[i], max(width // 2 - others, least))
    labels = sum(columns[i] + GAP for i in range(fixed))
    blocks: list[list[int]] = [[]]
    left = width - labels
    for i in range(fixed, len(headers)):
        if blocks[-1] and columns[i] > left:
            blocks.append([])
            left = width - labels
        blocks[-1].append(i)
        left -= columns[i] + GAP
    return "\n\n".join(_block(headers, rows, fixed, [*range(fixed), *block], columns) for block in blocks)


def _block(
    headers: Sequence[str], rows: Sequence[Sequence[str]], fixed: int, chosen: Sequence[int], columns: Sequence[int]
) -> str:
    return tabulate(
        [[_broken(row[i], columns[i]) for i in chosen] for row in rows],
        [_broken(headers[i], columns[i]) for i in chosen],
        tablefmt="simple",
        colalign=["left" if i < fixed else "right" for i in chosen],
        disable_numparse=True,
    )


def _broken(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False))


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)
