"""A table as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

from lskd.report.characters import tex
from lskd.report.filled import FilledTable
from lskd.report.layout import banner, conventions, grid, label_columns


def environment(filled: FilledTable) -> str:
    r"""A table environment for `\usepackage{booktabs}`. The warning of a shortened experiment is in its caption."""
    headers, rows = grid(filled)
    labels = label_columns(filled)
    sentences = [banner(filled), f"{filled.table.title}.", f"{filled.table.source}." if filled.table.source else ""]
    caption = " ".join(filter(None, [*sentences, conventions(filled) if filled.table.has_cells else ""]))
    lines = [
        r"% Written by lskd-report. Needs \usepackage{booktabs}.",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{tex(caption)}}}",
        rf"\begin{{tabular}}{{{'l' * labels}{'r' * (len(headers) - labels)}}}",
        r"\toprule",
        _tex_line(headers),
        r"\midrule",
    ]
    for i, row in enumerate(rows):
        if i and row[0] and not all(line[0] for line in rows):  # a new group of lines
            lines.append(r"\addlinespace")
        lines.append(_tex_line(row))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _tex_line(cells: Sequence[str]) -> str:
    line = " & ".join(map(tex, cells)) + r" \\"
    return "{}" + line if line[0] in "[*" else line  # which the \\ before it would take for its argument
