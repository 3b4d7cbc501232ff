"""How often the verdicts err, by simulation: the rates that docs/statistics.md quotes. Ten minutes on one core.

    python scripts/simulate_verdicts.py [replicates] [seed]

Numbers of made-up runs go through the report's own code (`lskd.report.claims.evaluate`, `lskd.report.statistics`). A
cell's runs are normal with the spread σ = 1, and seeds change all cells independently, unless a line says otherwise.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lskd.config_groups import Conf
from lskd.plan import Cell, TablePlan, plan_table
from lskd.report import statistics
from lskd.report.claims import evaluate
from lskd.report.values import Values
from lskd.schema import parse
from lskd.store import Store
from lskd.tables.metric import Metric
from lskd.tables.table import Table

NAMES = "abcdefghijklmnop"


class Simulated(Values):
    """Every run is done; its number is that of its cell and seed."""

    def __init__(self, numbers: Mapping[str, Sequence[float]]) -> None:
        super().__init__(Store(Path("nowhere")))
        self.numbers = numbers

    def of(self, planned: TablePlan, cell: Cell, metric: Metric | None = None) -> dict[int, float]:
        return {run.seed: float(x) for run, x in zip(cell.runs, self.numbers[f"{cell.row}/{cell.column}"], strict=True)}

    def done(self, run: Any, probe: Any = None) -> bool:
        return True

    def diverged(self, runs: Any) -> int:
        return 0


def planned_of(tests: Sequence[Mapping[str, Any]], n: int, k: int = 2, spread: str = "paired") -> TablePlan:
    """A figure of one series "s" with k points, and one claim."""
    base = {"dataset": "digits", "arch": "mlp", "recipe": "quickstart"}
    values = [i / 100 for i in range(k)]
    content = {
        "title": "Made up", "kind": "figure", "seeds": list(range(n)), "base": base, "spread": spread,
        "rows": {"s": {"label": "s", "over": "alpha", "values": values}},
        "claims": [{"id": "C", "text": "", "tests": list(tests)}],
    }  # fmt: skip
    return plan_table(parse(Table, content, "table.simulated"), Conf())


def rates(
    planned: TablePlan,
    draw: Callable[[np.random.Generator, int, int], np.ndarray],
    rng: np.random.Generator,
    replicates: int,
) -> Counter[str]:
    """How often each outcome comes, in percent; `draw(rng, k, n)` gives the (k, n) numbers of the cells."""
    cells, n = [f"{cell.row}/{cell.column}" for cell in planned.cells], len(planned.seeds)
    counts: Counter[str] = Counter()
    for _ in range(replicates):
        numbers = dict(zip(cells, draw(rng, len(cells), n), strict=True))
        [finding] = evaluate(planned, Simulated(numbers))
        counts[finding.outcome] += 1
    return Counter({outcome: 100 * count / replicates for outcome, count in counts.items()})


def normal(means: Sequence[float] | float = 0.0, spreads: Sequence[float] | float = 1.0, seed: float = 0.0) -> Any:
    """Cells with these means and spreads; `seed`: the spread of what a seed does to all of them alike."""

    def draw(rng: np.random.Generator, k: int, n: int) -> np.ndarray:
        noise = np.broadcast_to(spreads, k)[:, None] * rng.standard_normal((k, n))
        return np.broadcast_to(means, k)[:, None] + noise + seed * rng.standard_normal(n)

    return draw


LESS = {"test": "greater", "of": "s/0", "than": "s/0.01"}


def verdicts(rng: np.random.Generator, replicates: int) -> Iterator[tuple[str, str]]:
    """(what, "reproduced x %, contradicted y %")."""

    def line(what: str, planned: TablePlan, draw: Any) -> tuple[str, str]:
        found = rates(planned, draw, rng, replicates)
        return what, f"reproduced {found['holds']:.1f} %, contradicted {found['fails']:.1f} %"

    for n in (3, 5, 10):
        for spread in ("paired", "independent", "pooled"):
            k = 2 if spread != "pooled" else 6
            yield line(f"superiority, no difference, {spread}, n = {n}", planned_of([LESS], n, k, spread), normal())
    for n in (3, 5, 10):
        yield line(
            f"pooled, 6 cells, seeds shared (σ_seed = 2), n = {n}", planned_of([LESS], n, 6, "pooled"), normal(seed=2)
        )
        for ratio in (2, 3):
            draw = normal(spreads=[ratio, ratio, 1, 1, 1, 1])
            what = f"pooled, no difference, the two cells with {ratio} times the spread of four others, n = {n}"
            yield line(what, planned_of([LESS], n, 6, "pooled"), draw)
    several = [{"test": "greater", "of": "s/0", "than": f"s/0.0{i}"} for i in range(1, 6)]
    yield line("5 parts, no differences, n = 5", planned_of(several, 5, 6), normal())
    yield line(
        "5 parts, four large differences and one of none, n = 5", planned_of(several, 5, 6), normal([9, 0, 0, 0, 0, 9])
    )
    counted = [{"test": "greater", "of": "s/0", "than": [f"s/0.0{i}" for i in range(1, 6)], "at_least": 3}]
    yield line(
        "at least 3 of 5, two large differences and three of none, n = 5",
        planned_of(counted, 5, 6),
        normal([9, 0, 0, 9, 9, 9]),
    )
    equal = [{"test": "equal", "of": "s/0", "than": "s/0.01", "within": 2.0, "margin": "ours"}]
    for n in (3, 5, 10):
        yield line(f"equality, true difference at the margin, n = {n}", planned_of(equal, n), normal([2, 0]))
    for n in (3, 5, 10):
        error = np.sqrt(2 / n)
        said = 100 * statistics.power_of_equality(2.0, float(error), n - 1)
        yield line(
            f"equality within 2σ, no difference, n = {n} (printed power {said:.1f} %)", planned_of(equal, n), normal()
        )
        seen = statistics.smallest_difference(float(error), n - 1)
        yield line(
            f"superiority, the smallest difference seen with 80 %, n = {n}", planned_of([LESS], n), normal([seen, 0])
        )
    rising = [{"test": "rising", "of": "s/*"}]
    for n, k in ((3, 4), (5, 5), (10, 5)):
        yield line(f"order of {k}, no differences, n = {n}", planned_of(rising, n, k), normal())
        yield line(
            f"order of {k}, independent, no differences, n = {n}", planned_of(rising, n, k, "independent"), normal()
        )
    peak = [{"test": "largest", "of": "s/0.02"}]
    yield line("largest of 5, no differences, n = 5", planned_of(peak, 5, 5), normal())
    steady = [{"test": "not_falling", "of": "s/*", "within": 2.0, "margin": "ours"}]
    yield line("never falls by 2σ, one step falls by 2σ, n = 5", planned_of(steady, 5, 4), normal([0, 4, 2, 6]))


def associations(rng: np.random.Generator, replicates: int) -> Iterator[tuple[str, str]]:
    for n, points in ((3, 8), (5, 8), (10, 5)):
        above = 0
        for _ in range(replicates):
            xs, ys = rng.standard_normal((2, n, points))
            rhos = [statistics.rank_correlation(x, y) for x, y in zip(xs, ys, strict=True)]
            above += statistics.association(rhos, points)[1] <= 0.025
        yield (
            f"rank correlation of {points} cells, none, n = {n}",
            f"shown to be positive {100 * above / replicates:.1f} %",
        )


def readings(rng: np.random.Generator, replicates: int) -> Iterator[tuple[str, str]]:
    """What it would cost to count a verdict at the first look at which it comes out."""
    for sizes in ((5,), (3, 5), (3, 4, 5)):
        tables = [planned_of([LESS], n) for n in sizes]
        counts: Counter[str] = Counter()
        for _ in range(replicates):
            numbers = rng.standard_normal((2, max(sizes)))
            found = [
                evaluate(g, Simulated({"s/0": numbers[0][:n], "s/0.01": numbers[1][:n]}))
                for g, n in zip(tables, sizes, strict=True)
            ]
            counts.update({finding.outcome for [finding] in found})
        words = f"ever reproduced {100 * counts['holds'] / replicates:.1f} %"
        yield f"no difference, looks at n = {', '.join(map(str, sizes))}", words


def predictions(rng: np.random.Generator, replicates: int) -> Iterator[tuple[str, str]]:
    """How often the number of a paper that has the same distribution is called "outside"."""
    for n in (2, 3, 5, 10):
        for runs, sd in ((1, False), (5, False), (5, True)):
            outside = naive = 0
            for _ in range(replicates):
                ours, theirs = rng.standard_normal(n), rng.standard_normal(runs)
                printed = float(theirs.std(ddof=1)) if sd else None
                estimate = statistics.prediction(list(ours), runs, printed)
                assert estimate is not None
                low, high = estimate.interval()  # type: ignore[misc]
                outside += not low <= theirs.mean() <= high
                low, high = statistics.one_sample(list(ours)).interval()  # type: ignore[misc]
                naive += not low <= theirs.mean() <= high
            what = f"paper prints the mean of {runs}{' and its sd' if sd else ''}, n = {n}"
            words = (
                f"outside {100 * outside / replicates:.1f} % (of the mean's interval {100 * naive / replicates:.1f} %)"
            )
            yield what, words
    images, part, rate = 50_000, 10_000, 0.72
    for n in (3, 5, 10):
        outside = without = 0
        for _ in range(max(replicates // 10, 100)):
            # How likely each image is to be told right: many surely, some surely not (mean 0.72).
            chance = rng.beta(0.72 * 1.5, 0.28 * 1.5, images)
            mine, yours = (rng.choice(images, part, replace=False) for _ in range(2))
            ours = [float(100 * (rng.random(part) < chance[mine]).mean()) for _ in range(n)]
            theirs = 100 * float((rng.random(part) < chance[yours]).mean())
            spread = statistics.standard_deviation(ours) or 0.0
            split = 100**2 * statistics.split_variance(statistics.mean(ours) / 100, part, spread / 100)
            for i, extra in enumerate((split, 0.0)):
                low, high = statistics.prediction(ours, 1, None, extra).interval()  # type: ignore[union-attr, misc]
                if i:
                    without += not low <= theirs <= high
                else:
                    outside += not low <= theirs <= high
        total = max(replicates // 10, 100)
        what = f"another held-out part of 10,000 of 50,000 images, {rate:.0%} right, one run, n = {n}"
        yield what, f"outside {100 * outside / total:.1f} % (without the binomial share {100 * without / total:.1f} %)"


def main() -> None:
    replicates = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    print(
        f"{replicates:,} replicates, seed {seed}; "
        f"standard error of a rate of 2.5 %: {100 * (0.025 * 0.975 / replicates) ** 0.5:.2f}"
    )
    for part in (verdicts, readings, associations, predictions):
        rng = np.random.default_rng(seed)
        for what, found in part(rng, replicates):
            print(f"{what}: {found}", flush=True)


if __name__ == "__main__":
    main()
