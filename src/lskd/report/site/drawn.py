"""The figures of tables (`lskd.report.figures`) as part of a page: text that is text, colours that are the page's."""

from __future__ import annotations

import io
import re

from markupsafe import Markup, escape

from lskd.report.filled import FilledTable

# What matplotlib draws in black on white is the page's ink on its paper, in the light and in the dark.
COLORS = {"#ffffff": "var(--paper)", "#000000": "var(--ink)", "#404040": "var(--quiet)", "#b00000": "var(--fails)"}


def is_drawn(filled: FilledTable) -> bool:
    """Whether there may be something to draw: told without a second of matplotlib."""
    drawable = any(cell.values or cell.diagrams or cell.last_readings for cell in filled.cells)
    return drawable and (filled.table.kind == "figure" or bool(filled.table.diagram))


def figure(filled: FilledTable, prefix: str) -> tuple[Markup, str] | None:
    """The figure as an SVG element, and what is to be said of it; None where there is nothing to draw. `prefix` keeps
    its ids apart from others'."""
    if not is_drawn(filled):
        return None
    import matplotlib

    from lskd.report import figures

    if not figures.drawable(filled):
        return None
    form, text = figures.Form(figures.SCREEN.width, figures.SCREEN.letters, notes=False), io.StringIO()
    with matplotlib.rc_context({**form.style, "svg.fonttype": "none"}):
        image, said = figures.picture(filled, form)
        image.savefig(text, format="svg", metadata=figures.METADATA["svg"])
    return Markup(inline(text.getvalue(), filled.table.title, prefix)), said


def inline(svg: str, title: str, prefix: str) -> str:
    """An SVG file of matplotlib as an element."""

    def rewritten(tag: re.Match[str]) -> str:
        text = tag[0].replace("xlink:href", "href")
        text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
        text = re.sub("|".join(COLORS), lambda color: COLORS[color[0]], text)
        return re.sub(r"(\d+\.\d{2})\d+", r"\1", text)  # hundredths of a point are enough

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", rewritten, svg)  # in tags alone: what stands between them is labels
    box = re.search(r'viewBox="0 0 ([\d.]+) [\d.]+"', svg)
    width = f"{float(box[1]) / 11:.1f}rem" if box else "46rem"  # its letters, of 11 points, as large as the page's
    head = f'<svg class="drawn" role="img" aria-label="{escape(title)}" {box[0] if box else ""}'
    return re.sub(r"^<svg[^>]*>", lambda _: f'{head} style="max-width:{width}">', svg, count=1)
