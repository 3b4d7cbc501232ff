"""Figures as PNG, SVG and PDF: of a figure each series' mean over seeds with whiskers; of a table with a `diagram` the
reliability of its cells, or what a probe saw of them.

For a page on a screen an image has its title and notes within; for a paper it has neither, and is as wide as a column
or a page. Series differ by colours that colour-blind readers tell apart, and by markers and lines, for print in grey.
The files depend on the numbers alone (no dates, fixed ids in the SVG), so that unchanged results are unchanged files.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from matplotlib.transforms import ScaledTranslation, Transform

from lskd.errors import InputError
from lskd.files import write_atomically
from lskd.probes import Seen
from lskd.report import statistics
from lskd.report.filled import FilledTable
from lskd.report.layout import banner
from lskd.report.statistics import LEAST
from lskd.report.values import Summary
from lskd.report.words import outputs
from lskd.tables.metric import Metric

# Okabe & Ito's palette, which colour-blind readers can tell apart; its yellow is too pale for lines on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("o-", "s--", "D-.", "^:", "v-", "P--", "X-.")  # of series that say none
LINES = ("-", "--", "-.", ":")  # of those in bands
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---")  # of bars

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "lskd",
    "pdf.fonttype": 42,  # whole letters (TrueType), which publishers ask for, not drawings of letters (Type 3)
    "text.parse_math": False,  # a label is text, with whatever $ is in it
    "legend.fontsize": "medium",
    "legend.frameon": False,
    "axes.labelsize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLORS),
    "grid.alpha": 0.3,
}


@dataclass(frozen=True)
class Form:
    """What an image is for: its width in inches, how large its letters are in points, and whether its title and what is
    to be said of it stand within."""

    width: float
    letters: float
    notes: bool

    @property
    def style(self) -> dict[Any, Any]:
        size = self.letters / 11
        return {**STYLE, "font.size": self.letters, "lines.markersize": 6 * size, "lines.linewidth": 1.5 * size}


SCREEN = Form(7.5, 11, notes=True)
# The columns and the page of most two-column papers; \textwidth of article lies between them.
PAPER = {"column": Form(3.25, 8, notes=False), "page": Form(6.75, 8, notes=False)}

# No dates and no versions.
METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def drawable(filled: FilledTable) -> bool:
    """Whether there is a point to draw."""
    if filled.table.kind == "figure":
        return any(_is_point(cell) for cell in filled.cells)
    if filled.table.diagram == "scatter":
        return any(pair.shared for pair in _pairs(filled))
    return any(cell.diagrams or cell.last_readings for cell in filled.cells)


def write(filled: FilledTable, folder: Path) -> list[Path]:
    """`folder`/NAME.png, .pdf and .svg, for a page on a screen; nothing where no point has been run."""
    if not drawable(filled):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{filled.table.name}.{suffix}" for suffix in ("png", "pdf", "svg")]
    _save(filled, SCREEN, paths)
    return paths


def write_for_paper(filled: FilledTable, folder: Path) -> tuple[list[Path], str]:
    """`folder`/NAME_column.pdf and NAME_page.pdf, without titles and notes, and what is to be said of them below; no
    files where no point has been run."""
    if not drawable(filled):
        return [], ""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{filled.table.name}_{name}.pdf" for name in PAPER}
    [text] = {_save(filled, form, [paths[name]]) for name, form in PAPER.items()}
    return list(paths.values()), text


def _save(filled: FilledTable, form: Form, paths: Sequence[Path]) -> str:
    """The image, in files; what is to be said of it."""
    with matplotlib.rc_context(form.style):
        figure, text = picture(filled, form)
        if engine := figure.get_layout_engine():
            engine.execute(figure)
        figure.set_layout_engine("none")  # arranged once, not for each file
        for path in paths:
            kind = path.suffix[1:]
            how: dict[str, Any] = {"format": kind, "dpi": 150, "metadata": METADATA[kind]}
            write_atomically(path, lambda temporary, how=how: figure.savefig(temporary, **how))  # type: ignore[misc]
    return text


def picture(filled: FilledTable, form: Form = SCREEN) -> tuple[Figure, str]:
    """The image, and what is to be said of it."""
    # A Figure of its own, without pyplot: no display, no global state.
    figure = Figure(figsize=(form.width, form.width), layout="constrained")
    text = DRAW.get(filled.table.diagram, draw_seen)(figure, filled)
    if form.notes:
        _title(figure, filled, text)
    return figure, text


# ---- series -------------------------------------------------------------------------------------------------------


def draw_series(figure: Figure, filled: FilledTable) -> str:
    """Each series' mean over seeds, with whiskers or in a band, in its panel. (Whatever draws does so on an empty
    figure of the width that it has, sets its height, and gives what is shown in words.)"""
    table = filled.table
    names = list(dict.fromkeys(line.panel for line in table.rows.values()))
    axes: list[Axes] = []
    for name in names:
        axes.append(figure.add_subplot(len(names), 1, len(axes) + 1, sharex=axes[0] if axes else None))
        _draw_panel(figure, axes[-1], filled, [row for row, line in table.rows.items() if line.panel == name])
        axes[-1].set_ylabel(_broken(name or table.y_label or _titled(table.metric), figure, 0.4))
        axes[-1].tick_params(which="both", labelbottom=len(axes) == len(names))
    axes[-1].set_xlabel(_broken(table.x_label or _x_title(filled), figure))
    for label, level in (table.levels or {}).items():
        axes[0].axhline(level, linestyle=(0, (1, 3)), linewidth=1, color="#404040", zorder=1)
        place = {"ha": "right", "va": "bottom", "fontsize": "small"}
        axes[0].annotate(label, (1, level), xycoords=("axes fraction", "data"), **place)  # type: ignore[arg-type]
    lines = _legend(figure, *figure.axes)
    tall = 0.58 if len(axes) == 1 else 0.4 * len(axes)
    figure.set_figheight(tall * figure.get_figwidth() + lines * 1.5 * _letters())
    return caption(filled)


def _draw_panel(figure: Figure, axes: Axes, filled: FilledTable, rows: Sequence[str]) -> None:
    """The series `rows`, those of one panel, on its vertical axis or on the one on its right."""
    table = filled.table
    there = [row for row in rows if any(cell.cell.row == row and _is_point(cell) for cell in filled.cells)]
    sides = {"": axes}
    if right := next((name for row in rows if (name := table.rows[row].right)), ""):
        sides[right] = _right_of(axes)
        sides[right].set_ylabel(_broken(right, figure, 0.4))
    corners: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for i, row in enumerate(rows):
        if row in there:
            # Series over one setting share their x: their points stand side by side.
            beside = 0.0 if table.x is not None or table.draw != "lines" else there.index(row) - (len(there) - 1) / 2
            side = table.rows[row].right
            corners[side] += _draw_series(sides[side], filled, row, i, beside)
    if not there:
        axes.set_yticks([])
        axes.annotate("nothing yet", (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color="#808080")
        return
    declared = [] if table.x is not None else [cell.x for cell in filled.cells if cell.x is not None]
    for side, found in corners.items():
        if table.draw == "lines" and found:  # whose markers may be moved, and then do not set the limits
            sides[side].dataLim.update_from_data_xy(found, ignore=True)
            if declared:  # room for all points, so that those that are missing are seen to be
                sides[side].update_datalim([(x, 0.0) for x in declared], updatey=False)
            sides[side].autoscale_view()
    if table.x_axis == "log":
        axes.set_xscale("log")
        _tick_log(axes, declared)
    elif declared and all(float(x).is_integer() for x in declared) and table.x_axis == "linear":
        axes.locator_params(axis="x", integer=True)
    elif table.x_axis == "category":
        axes.set_xticks(list(table.positions.values()), list(table.positions))


def _tick_log(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic horizontal axis with labels in plain numbers (by matplotlib they are mathematics, which labels here
    are not), at the `values` where there are any."""
    if values:
        places = sorted(set(values))
        axes.set_xticks(places, [f"{value:g}" for value in places])
        axes.set_xticks([], minor=True)
    else:
        axes.xaxis.set_major_formatter(LogFormatter())
        axes.xaxis.set_minor_formatter(LogFormatter())


def _right_of(axes: Axes) -> Axes:
    """Axes over the same horizontal axis, whose vertical one is on the right."""
    right: Axes = axes.twinx()
    right.spines["right"].set_visible(True)
    right.grid(False)  # there is one already, of the left axis
    return right


def caption(filled: FilledTable) -> str:
    """What whiskers are, and how much of the figure is there."""
    counts = [cell.n for cell in filled.cells if _is_point(cell)]
    drawn = "bands" if filled.table.draw == "bands" else "whiskers"
    if filled.table.draw == "points":
        sentences = ["A point a run."]
    elif filled.table.whiskers == "extremes":
        paper = ", as in the paper" if drawn == "whiskers" else ""
        sentences = [f"Mean over seeds; {drawn} from minimum to maximum{paper}."]
    elif max(counts, default=0) < LEAST:
        sentences = [f"Mean over seeds, without intervals: no point has {LEAST} runs."]
    else:
        none = f" (none of fewer than {LEAST} runs)" if min(counts) < LEAST else ""
        sentences = [f"Mean over seeds; {drawn}: the 95 % interval of the mean, by Student's t{none}."]
        if filled.table.claims and filled.table.spread != "independent":
            sentences.append(f"Claims are tested on differences seed by seed, which these {drawn} do not show.")
    missing = sum(not _is_point(cell) for cell in filled.cells)
    sentences.append(f"{filled.progress.replace(' done', '')}.")
    if missing:
        sentences.append(f"{missing} of {len(filled.cells)} points are missing.")
    return " ".join(sentences)


def _draw_series(axes: Axes, filled: FilledTable, row: str, i: int, beside: float) -> list[tuple[float, float]]:
    """Draw the row's points; where they and the ends of their whiskers are."""
    line = filled.table.rows[row]
    cells = [cell for cell in filled.cells if cell.cell.row == row and _is_point(cell)]
    xs, means = np.array([cell.x for cell in cells], float), np.array([cell.mean for cell in cells], float)
    ends = np.array([_whisker(cell, filled.table.whiskers) for cell in cells], float).T
    style, color = line.style or STYLES[i % len(STYLES)], line.color or COLORS[i % len(COLORS)]
    label = re.sub("^_", " _", line.label) + (" (right axis)" if line.right else "")
    try:
        if filled.table.draw == "bars":
            place, width = _bar(filled, i)
            axes.bar(
                xs + place, means, width, yerr=abs(ends - means), color=color, label=label,
                hatch=HATCHES[i % len(HATCHES)], edgecolor="white", error_kw={"capsize": 2.5, "elinewidth": 0.8},
            )  # fmt: skip
        elif filled.table.draw == "points":
            points = [(cell.xs[seed], y) for cell in cells for seed, y in cell.values.items() if seed in cell.xs]
            axes.plot(*np.array(points).T, style.rstrip("-:.") or "o", color=color, label=label)
            return points
        elif filled.table.draw == "bands":
            axes.fill_between(xs, *ends, color=color, alpha=0.2, linewidth=0)
            axes.plot(xs, means, line.style or LINES[i % len(LINES)], color=color, label=label)
        else:
            axes.errorbar(
                xs, means, yerr=abs(ends - means), fmt=style, color=color, label=label,
                elinewidth=0.8, capsize=2.5 if beside else 2.5 + i, transform=_moved(axes, beside),
            )  # fmt: skip
    except ValueError as error:
        where = f"table.{filled.table.name}.rows.{row}"
        raise InputError(f"{where}.style = {line.style!r}, color = {line.color!r}: {error}") from None
    return [(x, y) for x, *ys in zip(xs, means, *ends, strict=True) for y in ys if not np.isnan(y)]


def _whisker(cell: Summary, kind: str) -> tuple[float, float]:
    """The ends of a point's whisker: of the interval that a claim about the cell uses, where one would be decided."""
    nothing = float("nan"), float("nan")
    if kind == "extremes":
        return (min(cell.values.values()), max(cell.values.values())) if cell.n > 1 else nothing
    return cell.interval or nothing if cell.n >= LEAST else nothing


def _moved(axes: Axes, beside: float) -> Transform:
    """The data's coordinates, moved to the right on the page by so many steps, a little less than a marker each."""
    inches = beside * 0.6 * matplotlib.rcParams["lines.markersize"] / 72
    shift = ScaledTranslation(inches, 0, axes.figure.dpi_scale_trans)
    return axes.transData + shift


def _bar(filled: FilledTable, i: int) -> tuple[float, float]:
    """Where the bars of series number `i` stand beside an x, and how wide they are: side by side, over four fifths of
    the space between two x."""
    xs = sorted({cell.x for cell in filled.cells if cell.x is not None})
    step = min((later - earlier for earlier, later in itertools.pairwise(xs)), default=1.0)
    width = 0.8 * step / len(filled.table.rows)
    return (i - (len(filled.table.rows) - 1) / 2) * width, width


def _is_point(cell: Summary) -> bool:
    return cell.mean is not None and cell.x is not None


def _x_title(filled: FilledTable) -> str:
    """The metric on the horizontal axis, or the setting that the series vary."""
    x = filled.table.x
    if x is not None:
        return _titled(x)
    return ", ".join(dict.fromkeys(line.varied for line in filled.table.rows.values()))


def _titled(metric: Metric) -> str:
    return metric.quantity.title + (f" ({metric.unit})" if metric.unit else "")


# ---- reliability --------------------------------------------------------------------------------------------------

COUNTED = 0.01  # of the images: a bin with fewer is drawn small, for in it chance decides


def draw_reliability(figure: Figure, filled: FilledTable) -> str:
    """Accuracy over confidence, bin by bin, of the cells that show a calibration error (Guo 2017, Figure 1), over the
    shares of the images that are in the bins."""
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    axes.plot([0, 1], [0, 1], color="#808080", linewidth=0.8, label="perfectly calibrated")
    cells = [cell for cell in filled.cells if cell.diagrams]
    for i, cell in enumerate(cells):
        color, style = COLORS[i % len(COLORS)], STYLES[i % len(STYLES)]
        label = filled.column_label(cell)
        if len(filled.table.rows) > 1:
            label = f"{filled.row_label(cell.cell.row)}, {label}"
        bins = [_bin(entries) for entries in zip(*cell.diagrams.values(), strict=True)]
        total = sum(one.examples for one in bins if one is not None)
        points = [one for one in bins if one is not None and one.examples >= COUNTED * total]
        xs, means, low, high = np.array([[p.confidence, p.accuracy, *p.interval] for p in points]).T
        axes.errorbar(
            xs, means, yerr=[means - low, high - means], fmt=style, color=color, elinewidth=0.8, capsize=2,
            label=f"{label} (n = {len(cell.diagrams)})", clip_on=False,
        )  # fmt: skip
        rest = [one for one in bins if one is not None and one.examples < COUNTED * total]
        if rest:  # without a point it would be at the figure's corner, and pull its axes there
            axes.plot(
                [p.confidence for p in rest], [p.accuracy for p in rest], style[0], color=color, fillstyle="none",
                markersize=0.6 * matplotlib.rcParams["lines.markersize"], markeredgewidth=0.7, alpha=0.7, clip_on=False,
            )  # fmt: skip
        shares = [100 * one.examples / total if one is not None else 0.0 for one in bins]
        dashes = {"linestyle": style[1:], "color": color, "linewidth": 1}
        below.stairs(shares, np.linspace(0, 1, len(bins) + 1), **dashes)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    counted = outputs(cells[0].cell.runs[0])
    below.set(xlabel="confidence", ylabel=f"{counted} (%)", yscale="log", yticks=[0.1, 1, 10, 100])
    below.set_yticks([], minor=True)
    below.set_yticklabels(["0.1", "1", "10", "100"])
    lines = _legend(figure, axes)
    figure.set_figheight(0.85 * figure.get_figwidth() + lines * 1.5 * _letters())
    few = f" (none of fewer than {LEAST})" if any(len(cell.diagrams) < LEAST for cell in cells) else ""
    return (
        f"Reliability in {_bins(cells[0])} bins, all runs of a cell pooled; whiskers: 95 % interval over runs{few}. "
        f"Small open markers: bins with less than {100 * COUNTED:g} % of the {counted}. Below: their share in each bin."
    )


@dataclass(frozen=True)
class _Bin:
    """One bin of a cell's runs, pooled."""

    examples: float
    confidence: float
    accuracy: float
    interval: tuple[float, float]  # of the accuracy, at 95 % over runs; not numbers where there is none


def _bin(entries: Sequence[Sequence[float]]) -> _Bin | None:
    """Of several runs, each [examples, confidence, accuracy] or [0]; None where it is empty in all of them."""
    whole = np.array([[*entry, 0.0, 0.0][:3] for entry in entries])
    count, confidence, accuracy = whole.T
    if not count.sum():
        return None
    estimate = statistics.ratio(list(count * accuracy), list(count))
    interval = estimate.interval() if len(whole) >= LEAST else None
    nothing = float("nan"), float("nan")
    return _Bin(
        examples=count.sum(),
        confidence=float(np.average(confidence, weights=count)),
        accuracy=estimate.mean,
        interval=nothing if interval is None else (max(0.0, interval[0]), min(1.0, interval[1])),
    )


def _bins(cell: Summary) -> int:
    return len(next(iter(cell.diagrams.values())))


# ---- scatter ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """A row of the table as a point: the cells of the column across and of one upwards."""

    x: Summary
    y: Summary

    @property
    def shared(self) -> list[int]:
        """The seeds that both have."""
        return statistics.shared_seeds([self.x.values, self.y.values])

    @property
    def printed(self) -> tuple[float, float] | None:
        """What the paper prints of both."""
        return None if self.x.paper is None or self.y.paper is None else (self.x.paper, self.y.paper)


def _pairs(filled: FilledTable) -> list[_Pair]:
    scatter = filled.table.scatter
    assert scatter is not None  # see `Table`
    cells = {(cell.cell.row, cell.cell.column): cell for cell in filled.cells}
    keys = [
        ((row, scatter.x), (row, y)) for y in scatter.ys for row, line in filled.table.rows.items() if not line.derive
    ]
    return [_Pair(cells[x], cells[y]) for x, y in keys if x in cells and y in cells]


def draw_scatter(figure: Figure, filled: FilledTable) -> str:
    """The numbers of columns of a table against those of another: a small point a run, a large one a mean over seeds,
    and an open one where the paper's are. With the rank correlations over rows."""
    scatter, columns = filled.table.scatter, filled.table.columns
    assert scatter is not None  # see `Table`
    axes: Axes = figure.add_subplot()
    size = float(matplotlib.rcParams["lines.markersize"])
    said = []
    for i, y in enumerate(scatter.ys):
        pairs = [pair for pair in _pairs(filled) if pair.y.cell.column == y]
        marker, color = STYLES[i % len(STYLES)][0], COLORS[i % len(COLORS)]
        for pair in pairs:
            seeds = pair.shared
            if seeds:
                xs, ys = ([one.values[seed] for seed in seeds] for one in (pair.x, pair.y))
                axes.plot(xs, ys, marker, color=color, markersize=0.5 * size, alpha=0.4)
                middle = statistics.mean(xs), statistics.mean(ys)
                axes.plot(*middle, marker, color=color, markersize=size, label=columns[y].title)
                label = filled.row_label(pair.x.cell.row)
                axes.annotate(label, middle, xytext=(4, 4), textcoords="offset points", fontsize="small")
            if pair.printed is not None:
                axes.plot(*pair.printed, marker, color=color, markersize=size, fillstyle="none", label="the paper's")
        said.append(f"{columns[y].title}: {_ranked(pairs)}")
    axes.set_xlabel(_broken(columns[scatter.x].title, figure))
    axes.set_ylabel(_broken(", ".join(columns[y].title for y in scatter.ys), figure, 0.4))
    lines = _legend(figure, axes)
    figure.set_figheight(0.7 * figure.get_figwidth() + lines * 1.5 * _letters())
    return (
        f"A small point a run, a large one a mean over seeds. Spearman's rank correlation over rows: {'; '.join(said)}."
    )


def _ranked(pairs: Sequence[_Pair]) -> str:
    """The rank correlation over rows: the mean over the seeds that all of them have; and of what the paper prints."""
    whole = [pair for pair in pairs if pair.shared]
    numbers = [one.values for pair in whole for one in (pair.x, pair.y)]
    seeds = statistics.shared_seeds(numbers) if len(whole) > 2 else []
    words = []
    if seeds:
        rhos = [
            statistics.rank_correlation([p.x.values[seed] for p in whole], [p.y.values[seed] for p in whole])
            for seed in seeds
        ]
        words.append(f"{statistics.mean(rhos):.2f} of {len(whole)} rows within seeds, mean over {len(seeds)}")
    printed = [pair.printed for pair in pairs if pair.printed is not None]
    if len(printed) > 2:
        rho = statistics.rank_correlation(*zip(*printed, strict=True))
        words.append(f"{rho:.2f} of the paper's {len(printed)}")
    return ", ".join(words) or "none of fewer than three rows"


# ---- what a probe saw ---------------------------------------------------------------------------------------------


def draw_seen(figure: Figure, filled: FilledTable) -> str:
    """What a probe saw of each cell's first seed, as the probe draws it. Cells of the same runs are drawn once."""
    probe = filled.planned.painter
    assert probe is not None  # see `tables.table.Table`
    cells = {tuple(cell.ids.values()): cell for cell in filled.cells if cell.last_readings}.values()
    seen = [
        Seen(filled.column_label(cell), *min(cell.last_readings.items()), outputs(cell.cell.runs[0])) for cell in cells
    ]
    text: str = probe.settings.draw(filled.table.diagram, figure, seen)
    return text


DRAW = {"": draw_series, "reliability": draw_reliability, "scatter": draw_scatter}


# ---- text ---------------------------------------------------------------------------------------------------------


def _letters() -> float:
    """How large letters are, in inches."""
    return float(matplotlib.rcParams["font.size"]) / 72


def _broken(text: str, figure: Figure, share: float = 0.85) -> str:
    """`text` in lines within that share of the figure's width. (A letter is about half as wide as high.)"""
    return textwrap.fill(text, round(share * figure.get_figwidth() / (0.53 * _letters())))


def _legend(figure: Figure, *axes: Axes) -> int:
    """The legend, below, in which each label stands once; how many lines it has."""
    entries = [pair for one in axes for pair in zip(*one.get_legend_handles_labels(), strict=True)]
    found = {label: handle for handle, label in reversed(entries)}
    labels = list(dict.fromkeys(label for _, label in entries))
    handles = [found[label] for label in labels]
    room = figure.get_figwidth() / (0.53 * _letters())  # in letters
    columns = 2 if 2 * max(map(len, labels)) + 16 < room else 1
    broken = [textwrap.fill(label, max(20, round(room / columns - 8))) for label in labels]
    figure.legend(handles, broken, loc="outside lower center", ncols=columns)
    return sum(text.count("\n") + 1 for text in broken) // columns + 1


def _title(figure: Figure, filled: FilledTable, text: str) -> None:
    """The table's title above; the warning and `text` below it, or of several panels below them. The figure grows."""
    title = _broken(filled.table.title, figure, 0.75)
    notes = "\n".join(_broken(line, figure, 1.05) for line in (banner(filled), text) if line)
    figure.set_figheight(figure.get_figheight() + _letters() * (1.6 * title.count("\n") + notes.count("\n") + 4))
    style: Mapping[str, Any] = {"fontsize": "small", "color": "#B00000" if filled.experiment.shortened else "#404040"}
    figure.suptitle(title, fontsize="large")
    if figure.axes[0].get_title():
        figure.supxlabel(notes, **style)
    else:
        figure.axes[0].set_title(notes, **style)
