r"""A table or a figure as LaTeX floats, for `\usepackage{booktabs}` (and graphicx).

A table fits \textwidth of the class article: with the letters of the text, else with smaller ones. What is wider is a
`table*`, which spans the columns of a two-column page; what is wider than that is broken into blocks of columns, and
what is higher than a page into several floats. Widths are reckoned with the metrics of Computer Modern, so that
nothing here needs TeX; `tests/report/test_report_latex.py` has TeX measure them.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lskd.report.characters import tex
from lskd.report.filled import FilledTable
from lskd.report.layout import (
    Line,
    banner,
    best,
    common_n,
    conventions,
    grid,
    headings,
    label_columns,
    legend,
    selected_on_test,
    spans,
)

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

# Points: \textwidth of article at 10 pt, in one column and in two (A4; letter paper has more), and what is left of its
# height.
WIDTHS = {"table": 345.0, "table*": 452.0}
HEIGHT = 500.0
SLACK = 4.0  # what the reckoned width may be short by: kerning, and letters that the font does not have


@dataclass(frozen=True)
class Fit:
    """How a table may be set: the environment, the size of its letters, with their width and the height of a line, and
    the space on both sides of a column. (Smaller letters of Computer Modern are wider for their size.)"""

    environment: str
    size: str
    scale: float
    line: float
    space: float

    @property
    def width(self) -> float:
        return WIDTHS[self.environment] - SLACK


SIZES = (("", 1.0, 12.0, 6.0), (r"\small", 0.925, 11.0, 4.0), (r"\footnotesize", 0.85, 9.5, 4.0))
FITS = [Fit(environment, *size) for environment in WIDTHS for size in SIZES]  # from the best on


def environment(filled: FilledTable, *, bold: bool = False) -> str:
    """The table's floats, as a file to \\input; `bold`: the best mean of each column, or row, is bold (`layout.best`).

    The caption is the title and what must be read before the numbers; what else belongs to them is a note below.
    """
    fit, blocks = _arranged(_Body.of(filled, bold=bold))
    floats: list[list[str]] = []
    room = 0.0
    for block in blocks:
        for lines in block.pages(fit, HEIGHT - _height_of_text(filled)):
            height = block.height(fit, lines)
            if not floats or height > room:
                floats.append([])
                room = HEIGHT - _height_of_text(filled)
            floats[-1].append(block.tabular(fit, lines))
            room -= height
    parts = [_head(fit, blocks)]
    for i, tabulars in enumerate(floats):
        parts += _float(filled, fit, tabulars, first=i == 0, last=i == len(floats) - 1)
    return "\n".join(parts) + "\n"


def figure(filled: FilledTable, image: str, text: str, *, wide: bool) -> str:
    r"""A figure's float: `image` as wide as the column or (`wide`) the page, `text` on it below its caption."""
    name, width = ("figure*", r"\textwidth") if wide else ("figure", r"\columnwidth")
    return "\n".join([
        r"% Written by lskd-report. Needs \usepackage{graphicx}.",
        rf"\begin{{{name}}}",
        r"\centering",
        rf"\includegraphics[width={width}]{{{image}}}",
        rf"\caption{{{_caption(filled)}}}",
        rf"\label{{{_label('fig', filled)}}}",
        _note([text]),
        rf"\end{{{name}}}",
        "",
    ])  # fmt: skip


# ---- the float ----------------------------------------------------------------------------------------------------


def _head(fit: Fit, blocks: Sequence[_Body]) -> str:
    width = f"{max(block.width(fit) for block in blocks):.0f} pt wide"
    more = rf", more than \textwidth of article ({WIDTHS['table']:.0f} pt)" if fit.environment == "table*" else ""
    return rf"% Written by lskd-report. Needs \usepackage{{booktabs}}. {width}{more}."


def _float(filled: FilledTable, fit: Fit, tabulars: Sequence[str], *, first: bool, last: bool) -> list[str]:
    lines = [rf"\begin{{{fit.environment}}}", r"\centering"]
    if first:
        lines += [rf"\caption{{{_caption(filled)}}}", rf"\label{{{_label('tab', filled)}}}"]
    else:
        lines += [r"\addtocounter{table}{-1}", rf"\caption{{{tex(filled.table.title)} (continued).}}"]
    size = rf"{fit.size}\setlength{{\tabcolsep}}{{{fit.space:g}pt}}" if fit.size else ""
    lines += [rf"\par\smallskip{size}", "\n\\par\\medskip\n".join(tabulars)]
    if last:
        lines.append(_note(_said(filled)))
        lines += [f"% {' '.join(note.split())}" for note in filled.table.notes]
    return [*filter(None, lines), rf"\end{{{fit.environment}}}"]


def _caption(filled: FilledTable) -> str:
    source = f"{filled.table.source}." if filled.table.source else ""
    sentences = [banner(filled), selected_on_test(filled), f"{filled.table.title}.", source]
    return tex(" ".join(filter(None, sentences)))


def _label(kind: str, filled: FilledTable) -> str:
    """No two tables of all experiments have one label."""
    names = dict.fromkeys([filled.experiment.name, filled.table.name])
    return ":".join([kind, *filter(None, names)])


def _said(filled: FilledTable) -> list[str]:
    said = [conventions(filled, common_n(filled))] if filled.table.has_cells else []
    return [*said, *(f"{line}." for line in legend(filled, str))]


def _note(said: Sequence[str]) -> str:
    if not said:
        return ""
    return rf"\par\smallskip{{\footnotesize\raggedright {tex(' '.join(said))}\par}}"


def _height_of_text(filled: FilledTable) -> float:
    """Of the caption and the note."""
    caption, note = measure(_caption(filled)), measure(" ".join(_said(filled))) * 0.85
    return 30 + 12 * caption / WIDTHS["table"] + 9.5 * note / WIDTHS["table"]


# ---- what is in it ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Body:
    """Headers and lines of a table, or of a block of its columns."""

    headers: tuple[tuple[str, ...], ...]  # of each column, in lines
    lines: tuple[Line, ...]
    labels: int  # columns on the left
    headings: tuple[str, ...]  # of each column what stands over its header, once for those side by side
    bold: frozenset[tuple[int, int]] = frozenset()  # (line, column)
    apart: bool = False  # whether a row's label stands in a line of its own, over the row's lines
    wrapped: float = float("inf")  # the width of the first column, within which its labels are broken into lines

    @classmethod
    def of(cls, filled: FilledTable, *, bold: bool) -> _Body:
        headers, lines = grid(filled)
        if n := common_n(filled):  # which the note says once
            lines = [line._replace(texts=[text.removesuffix(f" ({n})") for text in line.texts]) for line in lines]
        labels = label_columns(filled)
        chosen = best(filled) if bold else set()
        places = [
            (i, labels + j)
            for i, line in enumerate(lines)
            for j, column in enumerate(filled.table.columns)
            if line.kind == "ours" and (line.row, column) in chosen
        ]
        above = tuple(headings(filled))
        return cls(tuple((header,) for header in headers), tuple(lines), labels, above, frozenset(places))

    @property
    def grouped(self) -> bool:
        """Whether rows have several lines, which a label may stand over."""
        return self.labels > 1

    def columns(self, chosen: Sequence[int]) -> _Body:
        """The labels, and of the other columns those chosen."""
        kept = [*range(self.labels), *chosen]
        lines = tuple(line._replace(texts=[line.texts[i] for i in kept]) for line in self.lines)
        places = frozenset((i, kept.index(j)) for i, j in self.bold if j in kept)
        headers, above = tuple(self.headers[i] for i in kept), tuple(self.headings[i] for i in kept)
        return replace(self, headers=headers, headings=above, lines=lines, bold=places)

    # -- how wide and how high it is

    def cell(self, i: int, j: int) -> float:
        """The width of a cell at 10 pt."""
        text = self.lines[i].texts[j]
        if (i, j) in self.bold:
            mean, _, rest = text.partition(" ")
            return 1.16 * measure(mean) + measure(f" {rest}")
        if j == 0:
            return max(map(measure, wrap(text, self.wrapped)))
        return measure(text)

    @functools.cached_property
    def widths(self) -> list[float]:
        """Of the columns, at 10 pt and without the space between them."""
        found = []
        for j, header in enumerate(self.headers):
            cells = [self.cell(i, j) for i in range(len(self.lines))]
            found.append(max([*cells, *map(measure, header)]))
        end = 0
        for heading, columns in spans(self.headings):  # TeX makes the last one wider
            end += columns
            found[end - 1] += max(0.0, measure(heading) - sum(found[end - columns : end]))
        if self.apart:
            found[1] += INDENT
            del found[0]
        return found

    def width(self, fit: Fit) -> float:
        width = sum(self.widths) * fit.scale + 2 * fit.space * len(self.widths)
        if self.apart:
            longest = max(measure(line.texts[0]) for line in self.lines)
            width = max(width, min(longest, WIDEST) * fit.scale + 2 * fit.space)
        return width

    def label(self, fit: Fit, i: int) -> list[str]:
        """The label that a line (the first of its row, or of a page) has, broken into lines: at most as wide as the
        table where it is `apart`."""
        text = next(line.texts[0] for line in self.lines if line.row == self.lines[i].row)
        width = (self.width(fit) - 2 * fit.space) / fit.scale if self.apart else self.wrapped
        return wrap(text if self.grouped else self.lines[i].texts[0], width)

    def groups(self) -> list[list[int]]:
        """The lines of each row, by their number."""
        numbered = itertools.groupby(range(len(self.lines)), key=lambda i: self.lines[i].row)
        return [list(group) for _, group in numbered]

    def height(self, fit: Fit, lines: Sequence[int]) -> float:
        """With these lines."""
        count = max(map(len, self.headers)) + 1.5 + 1.2 * any(self.headings)
        for position, i in enumerate(lines):
            labels = len(self.label(fit, i)) if self.starts(position, lines) else 0
            count += max(labels, 1) if not self.grouped else 1 + labels * self.apart + 0.5 * (labels > 0)
        return count * fit.line

    def starts(self, position: int, lines: Sequence[int]) -> bool:
        """Whether the line there is the first of its row, or of its page."""
        here, before = (self.lines[lines[i]].row for i in (position, position - 1))
        return not self.grouped or position == 0 or here != before

    def pages(self, fit: Fit, height: float) -> list[list[int]]:
        """The lines in portions that are not higher; a row's lines stay together where they may."""
        pages: list[list[int]] = [[]]
        for group in self.groups():
            parts = [group] if self.height(fit, group) <= height else [[i] for i in group]
            for part in parts:
                if pages[-1] and self.height(fit, [*pages[-1], *part]) > height:
                    pages.append([])
                pages[-1] += part
        return pages

    # -- how it is written

    def tabular(self, fit: Fit, lines: Sequence[int]) -> str:
        columns = len(self.widths)
        left = self.labels - self.apart
        headers = [_stacked(header, "b", "l" if j < self.labels else "r") for j, header in enumerate(self.headers)]
        written = [
            rf"\begin{{tabular}}{{{'l' * left}{'r' * (columns - left)}}}",
            r"\toprule",
            *self._headings(),
            _row(headers[self.apart :]),
            r"\midrule",
        ]
        for position, i in enumerate(lines):
            starts = self.starts(position, lines)
            label = self.label(fit, i) if starts else [""]
            if position and starts and self.grouped:
                written.append(r"\addlinespace")
            if self.apart and starts:
                written += [_row([rf"\multicolumn{{{columns}}}{{l}}{{{tex(part)}}}"]) for part in label]
            cells = [self._text(i, j) for j in range(1, len(self.headers))]
            if self.apart:
                written.append(_row([rf"\quad {cells[0]}", *cells[1:]]))
            else:
                written.append(_row([_stacked(label, "t", "l"), *cells]))
        return "\n".join([*written, r"\bottomrule", r"\end{tabular}"])

    def _headings(self) -> list[str]:
        """The line of headings, and the rules below them."""
        if not any(self.headings):
            return []
        cells, rules, end = [], [], 0
        for heading, columns in spans(self.headings[self.apart :]):
            cells.append(rf"\multicolumn{{{columns}}}{{c}}{{{tex(heading)}}}" if heading else "")
            rules += [rf"\cmidrule(lr){{{end + 1}-{end + columns}}}"] if heading else []
            end += columns
        return [_row(cells), " ".join(rules)]

    def _text(self, i: int, j: int) -> str:
        text = self.lines[i].texts[j]
        if (i, j) not in self.bold:
            return tex(text)
        mean, space, rest = text.partition(" ")
        return rf"\textbf{{{tex(mean)}}}{space}{tex(rest)}"


INDENT = 10.0  # \quad
NARROWEST, WIDEST = 90.0, 200.0  # to which labels are broken beside, and over, narrower lines


def _arranged(body: _Body) -> tuple[Fit, list[_Body]]:
    """The first way to set the table within its width, and its blocks of columns."""
    for fit in FITS:
        for one in _variants(body, fit):
            if one.width(fit) <= fit.width:
                return fit, [one]
    *_, one = _variants(body, fit)
    columns, blocks = range(one.labels, len(one.headers)), [one]
    for count in range(2, len(columns) + 1):
        size = math.ceil(len(columns) / count)
        blocks = [one.columns(columns[start : start + size]) for start in range(0, len(columns), size)]
        if all(block.width(fit) <= fit.width for block in blocks):
            break
    return fit, blocks


def _variants(body: _Body, fit: Fit) -> list[_Body]:
    """The table as it is, with headers in several lines, and with labels in lines of their own or in several."""
    headers = []
    for j, (header,) in enumerate(body.headers):
        width = max((body.cell(i, j) for i in range(len(body.lines))), default=0.0)
        headers.append(tuple(wrap(header, width) if j >= body.labels else [header]))
    low = replace(body, headers=tuple(headers))
    if body.grouped:
        return [body, low, replace(low, apart=True)]
    others = sum(low.widths[1:]) * fit.scale + 2 * fit.space * len(low.widths)
    room = max((fit.width - others) / fit.scale, NARROWEST)
    return [body, low, replace(low, wrapped=room)]


# ---- text ---------------------------------------------------------------------------------------------------------


@functools.cache
def _font() -> FreeTypeFont:
    import matplotlib
    from PIL import ImageFont

    path = f"{matplotlib.get_data_path()}/fonts/ttf/cmr10.ttf"
    return ImageFont.truetype(path, 1000, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def measure(text: str) -> float:
    """How wide `text` is in Computer Modern at 10 pt. What is no letter there counts as wide as ±, and α is less."""
    letters = [
        one for one in unicodedata.normalize("NFD", text.translate(PUNCTUATION)) if not unicodedata.combining(one)
    ]
    known = "".join(filter(str.isascii, letters))
    return _font().getlength(known) / 100 + 8.0 * (len(letters) - len(known))


PUNCTUATION = str.maketrans({"–": "--", "—": "---", "“": '"', "”": '"', "‘": "'", "’": "'"})


def wrap(text: str, width: float) -> list[str]:
    """`text` in lines not wider than `width`, or than its longest word; "T = 4" is one word."""
    words = re.split(r"(?<!=)\s+(?!=)", text.strip())
    lines = [words[0]]
    width = max([width, *map(measure, words)])
    for word in words[1:]:
        if measure(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _stacked(lines: Sequence[str], place: str, align: str) -> str:
    if len(lines) == 1:
        return tex(lines[0])
    stack = r"\\".join(map(tex, lines))
    return rf"\begin{{tabular}}[{place}]{{@{{}}{align}@{{}}}}{stack}\end{{tabular}}"


def _row(cells: Sequence[str]) -> str:
    line = " & ".join(cells) + r" \\"
    return "{}" + line if line[0] in "[*" else line  # which the \\ before it would take for its argument
