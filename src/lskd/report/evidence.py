"""The numbers that statements are about, from the cells of a table."""

from __future__ import annotations

import math
from dataclasses import replace

from lskd.plan import Cell, TablePlan
from lskd.report import statistics, words
from lskd.report.statistics import LEVEL, BySeed, Contrast, Estimate, Pool
from lskd.report.values import Values, derive
from lskd.tables import statements
from lskd.tables.claim import Operand, Statement, Term
from lskd.tables.derived import best
from lskd.tables.metric import Metric

LIMIT = 1 - LEVEL


class Evidence:
    """The numbers that statements are about, from the cells of a table."""

    def __init__(self, planned: TablePlan, values: Values) -> None:
        self.planned, self.values = planned, values
        self._pools: dict[Metric, Pool | None] = {}

    def shown(self, statement: Statement) -> list[Cell]:
        """The cells that a statement names, those of `of` first."""
        return [self.planned.cell(*key) for key in statements.places(self.planned.table, statement)]

    def cells(self, statement: Statement) -> list[Cell]:
        """The cells with runs that it rests on: in place of derived ones those that they follow from."""
        return list({id(cell): cell for one in self.shown(statement) for cell in one.plain}.values())

    def of_runs(self, statement: Statement) -> bool:
        """Whether the cells that it names are numbers of runs, none of them derived."""
        return all(cell.derive is None for cell in self.shown(statement))

    def metric(self, statement: Statement) -> Metric:
        """Which number it is about."""
        return statement.test.metric or self.shown(statement)[0].metric

    @property
    def wanted(self) -> int:
        """How many seeds were declared."""
        return len(self.planned.declared_seeds)

    def numbers(self, cell: Cell, metric: Metric | None = None) -> dict[int, float]:
        return self.values.of(self.planned, cell, metric)

    def any_done(self, cell: Cell) -> bool:
        return any(self.values.done(run, self.planned.probes) for run in cell.runs)

    def gaps(self, cells: list[Cell], metric: Metric | None) -> tuple[str, str]:
        """Which cells have diverged runs, and which have finished runs without the number, in words."""
        diverged, without = [], []
        for cell in cells:
            runs = list({run.id: run for run in cell.runs}.values())
            name = f"`{cell.row}/{cell.column}`"
            if count := self.values.diverged(runs):
                diverged.append(f"{count} of {len(runs)} runs of {name} diverged")
            done = sum(self.values.done(run, self.planned.probes) for run in runs)
            if count := done - len(self.numbers(cell, metric)):
                without.append(f"{count} of {done} finished runs of {name} have no such number")
        return words.some(diverged), words.some(without)

    def term(self, term: Term, beside: Operand, metric: Metric | None) -> tuple[BySeed, str]:
        """The numbers of a term by seed, and what is wrong with them. `beside` has the cell whose x is asked for."""
        if term.kind == "cell":
            return self.numbers(self.planned.cell(term.row, term.column), metric), ""
        series = self.planned.along(term.row)
        if term.kind == "x":
            [at] = (self.planned.cell(other.row, other.column) for other in beside if other.kind == "cell")
            return self._interpolate(series, at, metric)
        columns = [self.numbers(cell, metric) for cell in series]
        if term.kind == "best":
            return derive(best, [[column] for column in columns], self.values.choice(self.planned, series)), ""
        extreme = max if term.kind == "max" else min
        return {s: extreme(column[s] for column in columns) for s in statistics.shared_seeds(columns)}, ""

    def _interpolate(self, series: list[Cell], at: Cell, metric: Metric | None) -> tuple[BySeed, str]:
        """The metric of `series` at the x of the cell `at`, seed by seed: linear between points; beyond the ends the
        nearest, which decides nothing.

        Only seeds of which every point of the series is there: a gap would change what is interpolated.
        """
        import numpy as np

        points = [(self.values.x(self.planned, cell), self.numbers(cell, metric)) for cell in series]
        numbers, outside = {}, 0
        for seed, x in self.values.x(self.planned, at).items():
            if all(seed in xs and seed in ys for xs, ys in points):
                known_x, known_y = zip(*sorted((xs[seed], ys[seed]) for xs, ys in points), strict=True)
                numbers[seed] = float(np.interp(x, known_x, known_y))
                outside += not known_x[0] <= x <= known_x[-1]
        row = series[0].row
        return numbers, f"extrapolated: beyond the ends of `{row}` in {words.seeds(outside)}" if outside else ""

    def estimate(self, statement: Statement) -> tuple[Estimate | None, str, str]:
        """`of` - `than` as the table's spread says (`Table.spread`), how that was, and what is wrong with it."""
        metric, terms = statement.test.metric, statement.terms
        found = {term: self.term(term, terms, metric) for term in statement.coefficients}
        wrong = words.some([fault for _, fault in found.values() if fault])
        contrast = [(c, found[term][0]) for term, c in statement.coefficients.items()]
        if not all(numbers for _, numbers in contrast):
            return None, "", wrong
        linear = all(term.kind == "cell" for term in terms) and self.of_runs(statement)
        estimate, how = self.contrast(contrast, self.metric(statement), linear=linear)
        return estimate, how, wrong

    def contrast(self, contrast: Contrast, metric: Metric, *, linear: bool = True) -> tuple[Estimate | None, str]:
        """Σ cᵢ mᵢ by the table's model of the spread, and which one it was where that is not the declared one."""
        declared = self.planned.table.spread
        if len(contrast) == 1:
            return statistics.paired(contrast), ""
        if declared == "independent" and linear:
            return statistics.independent(contrast), "independent"
        if not statistics.by_seed(contrast):  # a teacher with a seed of its own, for instance
            return (statistics.independent(contrast), "independent: no seed is shared") if linear else (None, "")
        if declared == "paired":
            return statistics.paired(contrast), ""
        if not linear or not math.isclose(sum(c for c, _ in contrast), 0.0, abs_tol=1e-9):
            return statistics.paired(contrast), f"paired, not {declared}: no contrast of cells"
        common, estimate = self.pool(metric), statistics.paired(contrast)
        if common is None or not common.large_enough or estimate.n[0] < common.n:
            return estimate, "paired, not pooled: fewer than 3 cells or seeds"
        if common.equal <= LIMIT:
            return estimate, f"paired, not pooled: the spreads of the cells differ, {words.show_p(common.equal)}"
        if (p := common.covers(contrast)) <= statistics.COVERED:
            return estimate, f"paired, not pooled: these cells spread more than the others, {words.show_p(p)}"
        return common.estimate(contrast), f"spread pooled over {common.k} cells, df {common.df}"

    def alike(self, metric: Metric) -> list[Cell]:
        """The different cells with runs of their own that show this metric; those of the same runs count once."""
        number = _number(metric)
        cells = [cell for cell in self.planned.cells if cell.derive is None and _number(cell.metric) == number]
        return list({tuple(run.id for run in cell.runs): cell for cell in cells}.values())

    def pool(self, metric: Metric) -> Pool | None:
        """The spread that they share."""
        key = _number(metric)
        if key not in self._pools:
            samples = [numbers for numbers in map(self.numbers, self.alike(metric)) if numbers]
            most = max((len(numbers) for numbers in samples), default=0)
            self._pools[key] = statistics.pool([numbers for numbers in samples if len(numbers) == most])
        return self._pools[key]


def _number(metric: Metric) -> Metric:
    """The metric without what is only its printing."""
    return replace(metric, digits=0, unit="")
