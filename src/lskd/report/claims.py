"""Whether the runs bear out what a paper claims.

A claim is a conjunction of tests, a test a statement about one number: a difference of two cells, a slope, a mean. Each
test says in which region that number lies:

    less (-∞, 0)   greater (0, ∞)   equal (-within, within)      of the mean of `of` - `than`
    falling (-∞, 0)   rising (0, ∞)                              of the least-squares slope over the series' values
    below (-∞, within)   above (within, ∞)                       of the mean of `of`

One rule judges all of them. *Reproduced*: the 95 % interval of the number lies in the region. *Contradicted*: the
interval lies wholly outside. *Undecided*: anything else, and always where one seed is all there is, or where all seeds
agree to the last digit, so that nothing shows how far chance reaches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lskd.plan import Cell, Claim, Grid, Metric, Test, terms
from lskd.report import statistics
from lskd.report.statistics import LEVEL, Estimate
from lskd.report.values import Values

Verdict = Literal["reproduced", "contradicted", "undecided", "not run"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "contradicted", "undecided", "not run")

SIGNS = {"less": "<", "greater": ">", "equal": "=", "below": "<", "above": ">"}


@dataclass(frozen=True)
class Part:
    """A test about definite cells, what was found, and the verdict on it alone."""

    test: Test
    of: str  # "row/column", "row/column - row/column", "series@x", or "series/*" in a test of a slope
    than: str
    verdict: Verdict
    text: str  # what was found, in words
    effect: Estimate | None = None

    @property
    def statement(self) -> str:
        """What is tested, such as `ls/student > hard/student`."""
        if self.test.test in ("rising", "falling"):
            through = f" through {self.test.through[-1]:g}" if self.test.through else ""
            return f"{self.of} {self.test.test}{through}"
        bound = f"{self.test.within:g}" if self.test.within is not None else ""
        operand = self.than or bound
        tolerance = f" ± {bound}" if self.test.test == "equal" else ""
        return f"{self.of} {SIGNS[self.test.test]} {operand}{tolerance}"


@dataclass(frozen=True)
class Finding:
    """A claim with the verdict on it."""

    claim: Claim
    verdict: Verdict
    parts: tuple[Part, ...]
    missing: tuple[str, ...]  # the cells, as "row/column", that the claim needs and that have no finished run


def evaluate(grid: Grid, values: Values) -> tuple[Finding, ...]:
    """The verdict on each claim of the sheet."""
    return tuple(_evaluate(grid, claim, values) for claim in grid.sheet.claims)


def _evaluate(grid: Grid, claim: Claim, values: Values) -> Finding:
    """Reproduced if all parts are, each at the 95 % level: an intersection-union test needs no correction (it errs
    only if a false part passes). Contradicted if any part is, at the Bonferroni-corrected level 1 - 0.05/parts: with
    many parts, some would be contradicted by chance. Not run if a cell that is needed has no finished run.
    """
    tests = [(test, of, than) for test in claim.tests for of, than in expand(grid, test)]
    parts = tuple(_part(grid, test, of, than, values, level=1 - (1 - LEVEL) / len(tests)) for test, of, than in tests)
    needed = [cell for test, of, than in tests for cell in _needed(grid, test, of, than)]
    without_run = [f"{cell.row}/{cell.column}" for cell in needed if not _any_done(grid, cell, values)]
    verdicts = {part.verdict for part in parts}
    verdict: Verdict
    if without_run:
        verdict = "not run"
    elif verdicts == {"reproduced"}:
        verdict = "reproduced"
    else:
        verdict = "contradicted" if "contradicted" in verdicts else "undecided"
    return Finding(claim, verdict, parts, tuple(dict.fromkeys(without_run)))


def expand(grid: Grid, test: Test) -> list[tuple[str, str]]:
    """The operands (of, than) of each part of a test: a wildcard "row/*" is one part a column of that row.

    Two wildcards go through their columns together. A slope is one part: its wildcard is the whole series.
    """
    wild = [operand.removesuffix("/*") for operand in (test.of, test.than) if operand.endswith("/*")]
    if test.test in ("rising", "falling") or not wild:
        return [(test.of, test.than)]

    def at(operand: str, column: str) -> str:
        return f"{operand[:-1]}{column}" if operand.endswith("/*") else operand

    columns = test.columns or [cell.column for cell in _row(grid, wild[0])]
    return [(at(test.of, column), at(test.than, column)) for column in columns]


def region(test: Test) -> tuple[float, float]:
    """The open interval in which the claim says that the number lies."""
    bound = test.within or 0.0
    if test.test == "equal":
        return -bound, bound
    return (-math.inf, bound) if test.test in ("less", "falling", "below") else (bound, math.inf)


def judge(test: Test, effect: Estimate, corrected: float = LEVEL) -> tuple[Verdict, str]:
    """The verdict on one number, and the reason where it is undecided. `corrected`: the level of contradictions."""
    interval = effect.interval()
    if interval is None:
        return "undecided", "one seed decides nothing"
    if not effect.has_spread:
        return "undecided", "all seeds agree exactly, so nothing shows how far chance reaches"
    lowest, highest = region(test)
    low, high = interval
    if lowest < low and high < highest:
        return "reproduced", ""
    low, high = effect.interval(corrected) or interval
    if high < lowest or highest < low:
        return "contradicted", ""
    if interval[1] < lowest or highest < interval[0]:
        return "undecided", f"against the claim at {LEVEL:.0%}, but not at {corrected:.1%}, corrected for its parts"
    return "undecided", ""


def _any_done(grid: Grid, cell: Cell, values: Values) -> bool:
    return any(values.done(run, grid.observation) for run in cell.runs)


# ---- one part -----------------------------------------------------------------------------------------------------


def _part(grid: Grid, test: Test, of: str, than: str, values: Values, level: float) -> Part:
    cells = _needed(grid, test, of, than)
    if not all(_any_done(grid, cell, values) for cell in cells):
        return Part(test, of, than, "not run", "")
    metric = test.metric or cells[0].metric
    wanted = max(len({run.seed for run in cell.runs}) for cell in cells)
    note = ""
    if test.test in ("rising", "falling"):
        slopes = _slopes(grid, cells, test.metric, values)
        effect = statistics.one_sample(list(slopes.values())) if slopes else None
    else:
        numbers, outside = _operand(grid, of, than, test.metric, values)
        others, beyond = _operand(grid, than, of, test.metric, values) if than else ({}, False)
        note = "extrapolated: nearest end used" if outside or beyond else ""
        if not numbers or (than and not others):
            effect = None
        else:
            effect = statistics.difference(numbers, others) if than else statistics.one_sample(list(numbers.values()))
    if effect is None:
        return Part(test, of, than, "undecided", "no seed has all the numbers that this needs")
    verdict, reason = judge(test, effect, level)
    over = grid.sheet.rows[cells[0].row].over
    words = [_in_words(test, effect, metric, over, wanted), reason, note]
    return Part(test, of, than, verdict, "; ".join(filter(None, words)), effect)


def _row(grid: Grid, row: str) -> list[Cell]:
    return [cell for cell in grid.cells if cell.row == row]


def _needed(grid: Grid, test: Test, of: str, than: str) -> list[Cell]:
    """All cells that a part looks at, those of `of` first."""
    cells = []
    for operand in terms(of, than):
        if operand.endswith("@x"):
            cells += _row(grid, operand.removesuffix("@x"))
        elif operand.endswith("/*"):
            cells += [c for c in _row(grid, operand.removesuffix("/*")) if not test.through or c.x in test.through]
        else:
            cells.append(grid.cell(*operand.split("/")))
    return cells


def _operand(
    grid: Grid, operand: str, other: str, metric: Metric | None, values: Values
) -> tuple[Mapping[int, float], bool]:
    """The numbers of an operand by seed, and whether a series had to be continued beyond its ends."""
    if operand.endswith("@x"):
        series = _row(grid, operand.removesuffix("@x"))
        return _interpolate(grid, series, grid.cell(*other.split("/")), metric, values)
    if " - " in operand:
        first, second = (values.of(grid, grid.cell(*term.split("/")), metric) for term in terms(operand))
        return {seed: first[seed] - second[seed] for seed in first if seed in second}, False
    return values.of(grid, grid.cell(*operand.split("/")), metric), False


def _interpolate(
    grid: Grid, series: list[Cell], at: Cell, metric: Metric | None, values: Values
) -> tuple[dict[int, float], bool]:
    """The metric of `series` at the x of the cell `at`, seed by seed: linear between points, constant beyond the ends.

    Only seeds of which every point of the series is there: a gap would change what is interpolated.
    """
    import numpy as np

    points = [(values.x(grid, cell), values.of(grid, cell, metric)) for cell in series]
    numbers, outside = {}, False
    for seed, x in values.x(grid, at).items():
        if all(seed in xs and seed in ys for xs, ys in points):
            known_x, known_y = zip(*sorted((xs[seed], ys[seed]) for xs, ys in points), strict=True)
            numbers[seed] = float(np.interp(x, known_x, known_y))
            outside = outside or not known_x[0] <= x <= known_x[-1]
    return numbers, outside


def _slopes(grid: Grid, cells: list[Cell], metric: Metric | None, values: Values) -> dict[int, float]:
    """The slope of the metric over the cells' x, of each seed that has all cells."""
    xs = [cell.x for cell in cells if cell.x is not None]
    columns = [values.of(grid, cell, metric) for cell in cells]
    seeds = [seed for seed in columns[0] if all(seed in column for column in columns)]
    return {seed: statistics.slope(xs, [column[seed] for column in columns]) for seed in seeds}


def _in_words(test: Test, effect: Estimate, metric: Metric, over: str, wanted: int) -> str:
    """Such as "0.17 lower [0.08, 0.26] over 5 seeds, p = 0.004"."""
    number, interval = effect.mean, effect.interval()
    kind = test.test
    pairwise = bool(test.than)
    if pairwise and number < 0:  # "0.17 lower", with the interval of how much lower
        number, interval = -number, (-interval[1], -interval[0]) if interval else None

    def show(value: float) -> str:
        # A slope's size depends on the units of x, so its decimals are not the metric's.
        return (f"{value:.3g}" if kind in ("rising", "falling") else f"{value:.{metric.digits}f}").replace("-", "−")

    if pairwise:
        text = f"{show(number)} {'lower' if effect.mean < 0 else 'higher'}"
    elif kind in ("rising", "falling"):
        text = f"slope {show(number)}"
    else:
        text = show(number)
    if interval is not None:
        text += f" [{show(interval[0])}, {show(interval[1])}]"
    if kind in ("rising", "falling"):
        text += f" per unit of {over}"
    if len(effect.n) == 2:
        text += f" over {effect.n[0]} and {effect.n[1]} seeds (none shared)"
    else:
        n = effect.n[0]
        counted = f"{n} of {wanted}" if n < wanted else f"{n}"
        text += f" over {counted} seed" + ("" if counted == "1" else "s")
    p = None if kind == "equal" else effect.p_value(test.within or 0.0)
    return text if p is None else f"{text}, {'p < 0.001' if p < 0.001 else f'p = {p:.3f}'}"
