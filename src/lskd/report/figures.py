"""Figures as PNG and SVG: of a figure each series' mean over seeds, with whiskers from minimum to maximum; of a table
with a `diagram` the reliability of its cells, or what a probe saw of them.

The files depend on the numbers alone (no dates, fixed ids in the SVG), so that unchanged results are unchanged files.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lskd.errors import InputError
from lskd.files import write_atomically
from lskd.probes import Seen
from lskd.report.filled import FilledTable
from lskd.report.tables import banner, metric_title
from lskd.report.values import Summary

# Okabe & Ito's palette, which colour-blind readers can tell apart; its yellow is too pale for lines on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "lskd",
    "text.parse_math": False,  # a label is text, with whatever $ is in it
    "font.size": 11,
    "legend.fontsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLORS),
    "grid.alpha": 0.3,
    "lines.markersize": 6,
}


def drawable(filled: FilledTable) -> bool:
    """Whether there is a point to draw."""
    if filled.table.kind == "figure":
        return any(_is_point(cell) for cell in filled.cells)
    return any(cell.diagrams or cell.last_readings for cell in filled.cells)


def write(filled: FilledTable, folder: Path) -> list[Path]:
    """`folder`/NAME.png and .svg; nothing where no point has been run."""
    if not drawable(filled):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{filled.table.name}.png", folder / f"{filled.table.name}.svg"
    with matplotlib.rc_context(STYLE):
        figure = DRAW.get(filled.table.diagram, draw_seen)(filled)
        _save(figure, png, dpi=150, metadata={"Software": None})
        _save(figure, svg, metadata={"Date": None})
    return [png, svg]


def _save(figure: Figure, path: Path, **how: Any) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:], **how))


def draw(filled: FilledTable) -> Figure:
    # A Figure of its own, without pyplot: no display, no global state.
    figure = Figure(figsize=(7.5, 5.5), layout="constrained")
    axes: Axes = figure.add_subplot()
    for i, row in enumerate(filled.table.rows):
        _draw_series(axes, filled, row, i)
    axes.set_xlabel(filled.table.x_label or _x_title(filled))
    axes.set_ylabel(filled.table.y_label or _titled(filled.table.metric.name, filled.table.metric.unit))
    _title(figure, axes, filled, caption(filled))
    for label, level in (filled.table.levels or {}).items():
        axes.axhline(level, linestyle=":", linewidth=1, color="#404040", zorder=1)
        axes.annotate(label, (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9)
    columns = 1 if max(len(line.label) for line in filled.table.rows.values()) > 35 else 2
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)
    return figure


def draw_reliability(filled: FilledTable) -> Figure:
    """Accuracy over confidence, bin by bin, of the cells that show a calibration error (Guo 2017, Figure 1)."""
    figure = Figure(figsize=(6.5, 6.8), layout="constrained")
    axes: Axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], "--", color="#808080", linewidth=1, label="perfectly calibrated")
    cells = [cell for cell in filled.cells if cell.diagrams]
    for i, cell in enumerate(cells):
        pooled = [_pooled([bins[number] for bins in cell.diagrams.values()]) for number in range(_bins(cell))]
        points = [entry for entry in pooled if entry is not None]
        xs, means, lowest, highest = np.array(points).T
        label = filled.column_label(cell)
        if len(filled.table.rows) > 1:
            label = f"{filled.row_label(cell.cell.row)}, {label}"
        axes.errorbar(
            xs, means, yerr=[means - lowest, highest - means], fmt=f"{'osD^v'[i % 5]}-", color=COLORS[i % len(COLORS)],
            label=f"{label} (n = {len(cell.diagrams)})", elinewidth=1, capsize=3 + 1.5 * i,
        )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")
    counted = f"{_bins(cells[0])} bins; all runs of a cell pooled, whiskers from the lowest run to the highest."
    _title(figure, axes, filled, f"Reliability: {counted}")
    figure.legend(loc="outside lower center", ncols=1, frameon=False)
    return figure


def draw_seen(filled: FilledTable) -> Figure:
    """What a probe saw of each cell's first seed, as the probe draws it. Cells of the same runs are drawn once."""
    probe = filled.planned.probe
    assert probe is not None  # see `tables.table.Table`
    cells = {tuple(cell.ids.values()): cell for cell in filled.cells if cell.last_readings}.values()
    seen = [Seen(filled.column_label(cell), *min(cell.last_readings.items())) for cell in cells]
    figure = Figure(layout="constrained")
    text = probe.settings.draw(filled.table.diagram, figure, seen)
    _title(figure, None, filled, text)
    return figure


DRAW = {"": draw, "reliability": draw_reliability}  # other diagrams are pictures of probes


def _bins(cell: Summary) -> int:
    return len(next(iter(cell.diagrams.values())))


def _pooled(entries: list[list[float]]) -> tuple[float, float, float, float] | None:
    """One bin of several runs, each [examples, confidence, accuracy] or [0]: (confidence, accuracy, and the lowest and
    highest accuracy of a run); None where it is empty in all of them."""
    filled = np.array([entry for entry in entries if entry[0]])
    if not len(filled):
        return None
    count, confidence, accuracy = filled.T
    mean = float(np.average(accuracy, weights=count))
    return float(np.average(confidence, weights=count)), mean, float(accuracy.min()), float(accuracy.max())


def _title(figure: Figure, axes: Axes | None, filled: FilledTable, text: str) -> None:
    """The table's title above, and the warning and `text` below it, over `axes` or (of several) over all."""
    width = figure.get_figwidth()
    title = textwrap.fill(filled.table.title, round(11.4 * width))
    below_title = "\n".join(textwrap.fill(line, round(12.7 * width)) for line in (banner(filled), text) if line)
    style: dict[str, Any] = {"fontsize": 9, "color": "#B00000" if filled.experiment.shortened else "#404040"}
    figure.suptitle(title, fontsize=12)
    if axes is not None:
        axes.set_title(below_title, **style)
    else:
        figure.supxlabel(below_title, **style)


def caption(filled: FilledTable) -> str:
    """What whiskers are, and how much of the figure is there."""
    points = sum(not _is_point(cell) for cell in filled.cells)
    text = f"Mean over seeds; whiskers from minimum to maximum. {filled.done} of {len(filled.runs)} runs."
    return f"{text} {points} of {len(filled.cells)} points are missing." if points else text


def _draw_series(axes: Axes, filled: FilledTable, row: str, i: int) -> None:
    line = filled.table.rows[row]
    color = line.color or COLORS[i % len(COLORS)]
    cells = [cell for cell in filled.cells if cell.cell.row == row and _is_point(cell)]
    if not cells:
        return
    xs, means = np.array([cell.x for cell in cells], float), np.array([cell.mean for cell in cells], float)
    lowest = np.array([min(cell.values.values()) for cell in cells])
    highest = np.array([max(cell.values.values()) for cell in cells])
    try:
        axes.errorbar(
            xs, means, yerr=[means - lowest, highest - means],
            fmt=line.style, color=color, label=re.sub("^_", " _", line.label), elinewidth=1,
            capsize=3 + 1.5 * i,  # series often share their x: the caps tell their whiskers apart
        )  # fmt: skip
    except ValueError as error:
        where = f"table.{filled.table.name}.rows.{row}"
        raise InputError(f"{where}.style = {line.style!r}, color = {line.color!r}: {error}") from None


def _is_point(cell: Summary) -> bool:
    return cell.mean is not None and cell.x is not None


def _x_title(filled: FilledTable) -> str:
    """The metric on the horizontal axis, or the setting that the series vary."""
    x = filled.table.x
    if x is not None:
        return _titled(x.name, x.unit)
    return ", ".join(dict.fromkeys(line.over for line in filled.table.rows.values()))


def _titled(metric: str, unit: str) -> str:
    return metric_title(metric) + (f" ({unit})" if unit else "")
