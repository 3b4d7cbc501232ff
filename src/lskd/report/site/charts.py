"""Small SVG charts of our own, for pages: forest plots, curves, reliability. Colours and fonts are the page's (CSS)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]

# The plot area of a chart in its own units, which scale with the page.
WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 106, 12, 36


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers in [low, high], at most `most`, 1, 2 or 5 times a power of ten apart."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    power = math.floor(math.log10(span / most))
    step = next(
        step for factor in (1, 2, 5, 10, 20) if (step := factor * 10.0**power) and span / step <= most - 1 + 1e-9
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def show_tick(value: float) -> str:
    """Such as −0.5; 0 without a sign."""
    return f"{value:.6g}".replace("-", "−") if abs(value) > 1e-12 else "0"


# ---- forest plots -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """The horizontal axis that the rows of a panel share, from -limit to limit, so that zero is in the middle."""

    limit: float

    def at(self, value: float) -> float:
        """Where a value stands, in per cent of the width; beyond the ends, at the end."""
        return round(50 + 50 * max(-1.0, min(1.0, value / self.limit)), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(place in per cent, label)."""
        return [(self.at(value), show_tick(value)) for value in ticks(-self.limit, self.limit)]


@dataclass(frozen=True)
class Bar:
    """An effect with its interval (None: its spread is not known), and where it would bear out what is claimed."""

    mean: float
    interval: tuple[float, float] | None
    region: tuple[float, float]

    @property
    def reach(self) -> float:
        """How far from 0 it is drawn."""
        bounds = [abs(bound) for bound in self.region if math.isfinite(bound)]
        return max([abs(self.mean), *map(abs, self.interval or ()), *bounds])


def axis_of(bars: Iterable[tuple[Bar, bool]]) -> Axis:
    """The axis for (bar, whether its runs are enough to decide anything): as long as those need. Others may be of any
    length, and are cut at its ends; where there are but those, it has room for their means."""
    bars = list(bars)
    reach = max((bar.reach for bar, enough in bars if enough), default=0.0)
    reach = reach or 2 * max((abs(bar.mean) for bar, _ in bars), default=0.0)
    return Axis(1.08 * reach or 1.0)


def forest_row(bar: Bar, axis: Axis) -> Markup:
    """One row of a forest plot. It fills its box, whatever its shape: strokes and dots keep theirs."""
    low, high = (axis.at(bound) for bound in bar.region)
    parts = [f'<rect class="region" x="{low}" y="0" width="{round(high - low, 2)}" height="10"/>']
    parts += ['<path class="zero" d="M50 0V10"/>']
    if bar.interval is not None:
        ends = [axis.at(end) for end in bar.interval]
        parts.append(f'<path class="bar" d="M{ends[0]} 5H{ends[1]}"/>')
    if abs(bar.mean) <= axis.limit:
        parts.append(f'<path class="dot" d="M{axis.at(bar.mean)} 5h0"/>')
    cut = [bar.mean, *(bar.interval or ())]
    arrows = ('<i class="cut before"></i>' if min(cut) < -axis.limit else "") + (
        '<i class="cut after"></i>' if max(cut) > axis.limit else ""
    )
    body = "".join(parts)
    return Markup(f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{body}</svg>{arrows}')


# ---- curves -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """Points joined by a line. What it is called stands at its end."""

    label: str
    points: Sequence[Point]
    dots: bool = False


@dataclass(frozen=True)
class Frame:
    """Where numbers stand in a chart."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, point: Point) -> Point:
        (x0, x1), (y0, y1) = self.x, self.y
        across, up = (point[0] - x0) / (x1 - x0), (point[1] - y0) / (y1 - y0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def curves(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x: tuple[float, float] | None = None,
    y: tuple[float, float] | None = None,
    diagonal: str = "",
) -> Markup:
    """Lines over one horizontal axis. `x`, `y`: the ends of the axes, those of the points unless given; `diagonal`:
    what the line from corner to corner is called, if there is one."""
    drawn = [one for one in series if one.points]
    if not drawn:
        return Markup("")
    xs, ys = ([point[i] for one in drawn for point in one.points] for i in (0, 1))
    frame = Frame(x or _span(min(xs), max(xs)), y or _padded(min(ys), max(ys)))
    parts = []
    for value in ticks(*frame.y):
        _, up = frame.at((frame.x[0], value))
        parts.append(f'<path class="grid" d="M{LEFT} {up:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{up + 3.5:.1f}">{show_tick(value)}</text>')
    for value in ticks(*frame.x):
        across, _ = frame.at((value, frame.y[0]))
        parts.append(f'<path class="tick" d="M{across:.1f} {HEIGHT - BOTTOM}v4"/>')
        parts.append(f'<text class="x" x="{across:.1f}" y="{HEIGHT - BOTTOM + 16}">{show_tick(value)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    parts.append(f'<text class="x" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 4}">{escape(x_label)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text class="y-label" transform="translate(11 {middle:.0f}) rotate(-90)">{escape(y_label)}</text>')
    if diagonal:
        ends = [frame.at((frame.x[i], frame.y[i])) for i in (0, 1)]
        parts.append(f'<path class="diagonal" d="{_path(ends)}"/>')
    names = []
    for i, one in enumerate(drawn):
        places = [frame.at(point) for point in thinned(one.points)]
        parts.append(f'<path class="line s{i % 6}" d="{_path(places)}"/>')
        if one.dots or len(places) == 1:
            dots = "".join(f"M{across:.1f} {up:.1f}h0" for across, up in places)
            parts.append(f'<path class="dots s{i % 6}" d="{dots}"/>')
        names.append((places[-1][1], i, one.label))
    if diagonal:
        names.append((TOP, 6, diagonal))
    for up, i, label in _apart(names):
        parts.append(f'<text class="name s{i % 7}" x="{WIDTH - RIGHT + 7}" y="{up + 3.5:.1f}">{escape(label)}</text>')
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
    return Markup(head + "".join(parts) + "</svg>")


def thinned(points: Sequence[Point], most: int = 200) -> Sequence[Point]:
    """At most `most` of the points, evenly, the last one among them: more than a line can show."""
    every = -(-len(points) // most)
    return points if every < 2 else [*points[:-1:every], points[-1]]


def _span(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = 0.04 * (high - low) or 0.5
    return (low - pad if low < 0 or low > 2 * pad else 0.0), high + pad


def _path(points: Iterable[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _apart(names: list[tuple[float, int, str]], least: float = 13.0) -> list[tuple[float, int, str]]:
    """Labels by height, moved apart so that none stands on another, and none below the axis."""
    placed: list[tuple[float, int, str]] = []
    for up, i, label in sorted(names):
        placed.append((max(up, placed[-1][0] + least) if placed else up, i, label))
    floor = float(HEIGHT - BOTTOM)
    for k in range(len(placed) - 1, -1, -1):
        up, i, label = placed[k]
        placed[k] = min(up, floor), i, label
        floor = placed[k][0] - least
    return placed
