"""What a design can decide, before its runs are made: a line for each claim of a table, for `lskd-run … plan=true`.

Of a comparison the smallest true difference that is seen (p ≤ 0.05) with 80 %; of a margin the chance to show it where
the true difference is 0; of an order the smallest even rise from end to end (by a linear contrast; Page's test is about
as good). The spread of a cell is that of the runs that there are of the claim's cells, at least three in one, else what
the table declares (`Table.sd`), else 0.3 points of a percentage; seeds are reckoned to change cells independently.
"""

from __future__ import annotations

import math
import statistics as samples
from collections.abc import Iterator

from lskd.plan import TablePlan
from lskd.report import statistics
from lskd.report.claims import Evidence
from lskd.report.statistics import LEAST, LEVEL, MARGIN_LEVEL, POWER
from lskd.report.values import Values
from lskd.tables.claim import Claim, Statement

ASSUMED = 0.3  # points: the spread of accuracies over seeds that this field prints most


def lines(planned: TablePlan, values: Values) -> Iterator[str]:
    """One line a claim."""
    evidence = Evidence(planned, values)
    for claim in planned.table.claims:
        yield f"claim {claim.id}: {_decides(claim, evidence)}"


def _decides(claim: Claim, evidence: Evidence) -> str:
    n = len(evidence.planned.seeds)
    if n < LEAST:
        return f"nothing is decided on fewer than {LEAST} seeds"
    differences: dict[str, list[float]] = {}  # by the unit that they are in
    chances, untold, spreads = [], 0, {}
    for test in claim.tests:
        statements = evidence.planned.table.statements(test)
        correction = len(statements) - (test.at_least or len(statements)) + 1
        for statement in statements:
            spread, whence = _spread(statement, evidence)
            metric, kind = evidence.metric(statement), test.kind
            spreads[metric.name] = f"sd {metric.name} {whence}"
            if spread is None or kind.number == "correlation" or not evidence.of_runs(statement):
                untold += 1
                continue
            error, df = _error(statement, evidence, spread, n)
            if kind.margin and not kind.direction:
                level = (1 - MARGIN_LEVEL) / correction
                chances.append(statistics.power_of_equality(test.within or 0.0, error, df, level))
            elif kind.margin:
                level = (1 - MARGIN_LEVEL) / correction
                chances.append(statistics.power(test.within or 0.0, error, df, level))
            else:
                seen = statistics.smallest_difference(error, df, (1 - LEVEL) / correction)
                differences.setdefault(f"{metric.name}.{metric.digits}", []).append(seen)
    found = []
    for key, smallest in differences.items():
        name, digits = key.rsplit(".", 1)
        found.append(f"{name} {_range(smallest, int(digits))} is seen with {POWER:.0%}")
    if chances:
        found.append(f"its margin is shown with {_percent(chances)} where there is no difference")
    if untold:
        found.append(f"{untold} part{'s' if untold > 1 else ''} without a known power")
    return f"n = {n}, {'; '.join(found)} ({', '.join(spreads.values())})"


def _spread(statement: Statement, evidence: Evidence) -> tuple[float | None, str]:
    """The standard deviation over seeds of one cell, and where it comes from."""
    metric = evidence.metric(statement)
    found = [list(evidence.numbers(cell, statement.test.metric).values()) for cell in evidence.cells(statement)]
    found = [numbers for numbers in found if len(numbers) >= LEAST]
    if found:
        df = sum(len(numbers) - 1 for numbers in found)
        spread = math.sqrt(sum((len(x) - 1) * samples.variance(x) for x in found) / df)
        if spread > statistics.ROUNDING:
            return spread, f"{spread:.2g} of {sum(map(len, found))} runs"
    if metric.name in evidence.planned.table.sd:
        return evidence.planned.table.sd[metric.name], f"{evidence.planned.table.sd[metric.name]:.2g} declared"
    return (ASSUMED, f"{ASSUMED} assumed") if metric.rate else (None, "not known")


def _error(statement: Statement, evidence: Evidence, spread: float, n: int) -> tuple[float, float]:
    """The standard error of the number that is tested, and its degrees of freedom, at n seeds."""
    if statement.test.kind.number == "trend":
        k = len(evidence.cells(statement))
        weights = [j - (k - 1) / 2 for j in range(k)]
        squares = (k - 1) ** 2 / sum(w**2 for w in weights)
        return spread * math.sqrt(squares / n), n - 1
    counts, df = statement.coefficients.values(), n - 1
    linear = len(counts) > 1 and all(term.kind == "cell" for term in statement.terms)
    if linear and evidence.planned.table.spread == "independent":
        df = len(counts) * (n - 1)
    if linear and evidence.planned.table.spread == "pooled":
        df = (n - 1) * (max(len(evidence.alike(evidence.shown(statement)[0].metric)), 2) - 1)
    return spread * math.sqrt(sum(c**2 for c in counts) / n), df


def _range(numbers: list[float], digits: int) -> str:
    low, high = (f"{number:.{digits}f}" for number in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"


def _percent(chances: list[float]) -> str:
    low, high = (f"{chance:.0%}" for chance in (min(chances), max(chances)))
    return low if low == high else f"{low} to {high}"
