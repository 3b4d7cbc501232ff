"""Whether the runs bear out what a paper claims.

A claim is a conjunction of tests; a test is one or several statements about definite cells. A comparison says in which
region a number lies, the mean over seeds of `of` - `than` (or of `of` alone):

    less, smallest (-∞, 0)   greater, largest (0, ∞)   equal (-within, within)   below (-∞, within)   above (within, ∞)
    not_falling (-within, ∞)   not_rising (-∞, within)                  of each step along a row

An order (rising, falling) is tested by Page's L, and no step may contradict it; an association by rank correlation
within each seed. One rule judges all of them:

- p is the p-value of the statement, *against* that of its opposite; superiority counts both sides, a margin one, so
  that 0.05 is the limit of both: a statement holds where p ≤ 0.05 (the 95 % interval lies in the region; of a margin
  the 90 % interval), and fails where against ≤ 0.05 (the 95 % interval lies wholly outside).
- Of a test at least `at_least` statements must hold, by default all: a partial conjunction (`statistics.at_least`).
- A claim holds where all its tests do: an intersection-union test needs no correction, for it errs only if a false part
  passes. It fails where any test does, at the Bonferroni-corrected level: of many parts some would fail by chance.

Nothing is decided on fewer than 3 seeds in a cell; where all seeds agree to the last digit, so that nothing shows how
far chance reaches; beyond the ends of a series (`series@x`); or on the survivors of divergence.

The words: *reproduced* and *contradicted* at a paper's protocol, *agrees* and *disagrees* at one of our own; both with
*so far* while the seeds are not those that were declared, all of them. Else *undecided*, or *not run*.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lskd.plan import TablePlan
from lskd.report import orders, statistics
from lskd.report.evidence import LIMIT, Evidence
from lskd.report.statistics import LEAST, LEVEL, MARGIN_LEVEL, Estimate
from lskd.report.values import Values
from lskd.report.words import counted, number, show_interval, with_p
from lskd.tables import statements
from lskd.tables.claim import Claim, Statement, Test

Outcome = Literal["holds", "fails", "undecided", "not run"]
WORDS = {
    "paper": {"holds": "reproduced", "fails": "contradicted"},
    "own": {"holds": "agrees", "fails": "disagrees"},
}
SO_FAR = " so far"
VERDICTS = (
    *(word + suffix for words in WORDS.values() for suffix in ("", SO_FAR) for word in words.values()),
    "undecided",
    "not run",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A statement about definite cells, what was found, and what it comes to alone.

    p, against: see above; None where nothing can be decided. improvement: the chance that a run of `of` is above one of
    `than`, or below, where that is what the test says.
    """

    about: Statement
    outcome: Outcome
    verdict: str
    text: str  # what was found, in words
    effect: Estimate | None = None
    p: float | None = None
    against: float | None = None
    improvement: float | None = None
    digits: int = 2

    @property
    def statement(self) -> str:
        return str(self.about)


@dataclass(frozen=True)
class Count:
    """A test of several statements that need not all hold: how many do, each taken alone."""

    at_least: int
    wins: int
    losses: int
    of: int
    improvement: float | None

    def __str__(self) -> str:
        text = f"{self.wins} of {self.of} hold, {self.of - self.wins - self.losses} undecided, {self.losses} fail"
        text += f"; at least {self.at_least} must hold" if self.at_least < self.of else "; all must hold"
        if self.improvement is not None:
            text += f"; mean probability of improvement {self.improvement:.2f}"
        return text


@dataclass(frozen=True)
class Finding:
    """A claim with the verdict on it.

    p, against: of the whole claim, corrected for its parts; 1 where a part decides nothing. n: the fewest runs in one
    of its cells. final: whether the runs of all its cells are those that were declared.
    """

    claim: Claim
    outcome: Outcome
    final: bool
    own: bool
    parts: tuple[Part, ...]
    counts: tuple[Count, ...]
    missing: tuple[str, ...]  # the cells, as "row/column", that the claim needs and that have no finished run
    n: int
    p: float
    against: float

    @property
    def verdict(self) -> str:
        return word(self.outcome, final=self.final, own=self.own)

    @property
    def weakest(self) -> Part | None:
        """The part on which the verdict hangs: of a claim that fails the one that fails most clearly, else the one that
        holds least clearly."""
        tested = [part for part in self.parts if part.effect is not None]
        if self.outcome == "fails":
            return min(tested, key=lambda part: 1.0 if part.against is None else part.against, default=None)
        return max(tested, key=lambda part: 2.0 if part.p is None else part.p, default=None)


def word(outcome: Outcome, *, final: bool, own: bool) -> str:
    words: Mapping[str, str] = WORDS["own" if own else "paper"]
    return words[outcome] + ("" if final else SO_FAR) if outcome in words else outcome


def evaluate(planned: TablePlan, values: Values, *, own: bool = False) -> tuple[Finding, ...]:
    """The verdict on each claim of the table; `own`: at a protocol that is no paper's."""
    evidence = Evidence(planned, values)
    return tuple(_evaluate(claim, evidence, own) for claim in planned.table.claims)


def _evaluate(claim: Claim, evidence: Evidence, own: bool) -> Finding:
    planned = evidence.planned
    groups = [(test, planned.table.statements(test)) for test in claim.tests]
    needed = {
        (cell.row, cell.column, test.metric): cell
        for test, group in groups
        for s in group
        for cell in evidence.cells(s)
    }
    counted = [(cell, len(evidence.numbers(cell, metric))) for (*_, metric), cell in needed.items()]
    # (One run may stand under several seeds.)
    final = planned.as_declared and all(n == len({run.id for run in cell.runs}) for cell, n in counted)
    total = sum(len(group) for _, group in groups)
    parts, counts, p_values, opposites = [], [], [], []
    for test, group in groups:
        n, k = len(group), test.at_least or len(group)
        # Of statements that all must hold, one fails at the corrected level; those that are counted stand alone.
        correction = total if test.at_least is None else 1
        found = [_part(statement, evidence, correction, final=final, own=own) for statement in group]
        p_values.append(statistics.at_least(k, [_or_one(part.p) for part in found]))
        against = statistics.at_least(n - k + 1, [_or_one(part.against) for part in found])
        opposites.append(min(1.0, against * total / n))
        parts += found
        if test.at_least is not None:
            counts.append(_count(k, found))
    without_run = [f"{cell.row}/{cell.column}" for cell in needed.values() if not evidence.any_done(cell)]
    p, against = max(p_values), min(opposites)
    outcome: Outcome = "holds" if p <= LIMIT else "fails" if against <= LIMIT else "undecided"
    return Finding(
        claim=claim,
        outcome="not run" if without_run else outcome,
        final=final,
        own=own,
        parts=tuple(parts),
        counts=tuple(counts),
        missing=tuple(dict.fromkeys(without_run)),
        n=min(n for _, n in counted),
        p=p,
        against=against,
    )


def _or_one(p: float | None) -> float:
    return 1.0 if p is None else p


def _count(k: int, parts: list[Part]) -> Count:
    chances = [part.improvement for part in parts if part.improvement is not None]
    outcomes = [part.outcome for part in parts]
    mean = statistics.mean(chances) if len(chances) == len(parts) else None
    return Count(k, outcomes.count("holds"), outcomes.count("fails"), len(parts), mean)


# ---- one part -----------------------------------------------------------------------------------------------------


def _part(statement: Statement, evidence: Evidence, correction: float, *, final: bool, own: bool) -> Part:
    cells = evidence.cells(statement)
    if not all(evidence.any_done(cell) for cell in cells):
        return Part(statement, "not run", "not run", "")
    metric = evidence.metric(statement)
    diverged, without = evidence.gaps(cells, statement.test.metric)
    chance = _improvement(statement, evidence) if statement.test.kind.number == "difference" else None
    effect, p, against, text, wrong = NUMBERS[statement.test.kind.number](statement, evidence)
    if effect is None:
        reasons = [diverged, without, wrong, "no seed has all the numbers that this needs"]
        return Part(statement, "undecided", "undecided", "; ".join(filter(None, reasons)))
    reasons = [f"survivors: {diverged}" if diverged else "", wrong]
    if min(effect.n) < LEAST:
        reasons.append("one seed decides nothing" if min(effect.n) == 1 else f"fewer than {LEAST} seeds decide nothing")
    elif p is None:
        reasons.append("all seeds agree exactly, so nothing shows how far chance reaches")
    outcome: Outcome = "undecided"
    if any(reasons):
        p = against = None
    elif p is not None and against is not None:
        outcome = "holds" if p <= LIMIT else "fails" if against * correction <= LIMIT else "undecided"
        if outcome == "undecided" and against <= LIMIT:
            level = 1 - LIMIT / correction
            reasons.append(f"against the claim at {LEVEL:.0%}, but not at {level:.1%}, corrected for its parts")
    words = "; ".join(filter(None, [text, *reasons, without]))
    verdict = word(outcome, final=final, own=own)
    return Part(statement, outcome, verdict, words, effect, p, against, chance, metric.digits)


Tested = tuple[Estimate | None, float | None, float | None, str, str]  # effect, p, against, in words, what is wrong


def p_values(test: Test, effect: Estimate) -> tuple[float | None, float | None]:
    """That the number lies in the region of `test`, and that it lies outside."""
    low, high = test.region
    above, below = effect.p_above(low), effect.p_below(high)  # of an infinite end: 0
    if above is None or below is None:
        return None, None
    sides = 1 if test.kind.margin else 2
    outside = [effect.p_below(low) or 0.0] if math.isfinite(low) else []
    outside += [effect.p_above(high) or 0.0] if math.isfinite(high) else []
    return min(1.0, sides * max(above, below)), min(1.0, 2 * min(outside))


def _comparison(statement: Statement, evidence: Evidence) -> Tested:
    test = statement.test
    effect, how, wrong = evidence.estimate(statement)
    if effect is None:
        return None, None, None, "", wrong
    p, against = p_values(test, effect)
    metric, mean, one_sided = evidence.metric(statement), effect.mean, test.kind.margin
    interval = effect.interval(MARGIN_LEVEL if one_sided else LEVEL)
    pairwise = len(statement.terms) > 1
    if pairwise and mean < 0:  # "0.17 lower", with the interval of how much lower
        mean, interval = -mean, (-interval[1], -interval[0]) if interval else None
    text = number(mean, metric.digits)
    text += (" lower" if effect.mean < 0 else " higher") if pairwise else ""
    if interval is not None:
        text += show_interval(interval, metric.digits, "90 %: " if one_sided else "")
    text += f" over {counted(effect.n, evidence.wanted)}" + (f" ({how})" if how else "")
    return effect, p, against, text + with_p(p), wrong


def _improvement(statement: Statement, evidence: Evidence) -> float | None:
    """Of two cells: the chance that a run of the first is better than one of the second, as the test has it."""
    direction = statement.test.kind.direction
    if len(statement.of) != 1 or len(statement.than) != 1 or not direction:
        return None
    numbers = [evidence.term(term, statement.terms, statement.test.metric)[0] for term in statement.terms]
    if not all(numbers):
        return None
    chance = statistics.improvement(numbers[0].values(), list(numbers[1].values()))
    return chance if direction == "up" else 1 - chance


def _order(statement: Statement, evidence: Evidence) -> Tested:
    """Page's test (Jonckheere's of independent cells) of the whole row, if no step contradicts it; the effect is the
    difference of its ends. It fails where the row has the opposite order, or where a step goes the other way, corrected
    for the number of these."""
    test, metric = statement.test, evidence.metric(statement)
    samples = [evidence.numbers(cell, test.metric) for cell in evidence.shown(statement)]
    seeds = statistics.shared_seeds(samples)
    independent = evidence.planned.table.spread == "independent"
    if not seeds and not independent:
        return None, None, None, "", ""
    sign = 1.0 if test.kind.direction == "up" else -1.0
    steps = [
        evidence.contrast([(sign, later), (-sign, earlier)], metric)[0]
        for earlier, later in itertools.pairwise(samples)
    ]
    effect, how = evidence.contrast([(1.0, samples[-1]), (-1.0, samples[0])], metric)
    if effect is None or min(effect.n) < LEAST:
        return effect, None, None, f"ends differ by {number(effect.mean, metric.digits) if effect else '?'}", ""
    rows = [[sign * sample[seed] for sample in samples] for seed in seeds]
    if independent:
        rows = [[sign * x for x in sample.values()] for sample in samples]
    trend = orders.jonckheere if independent else orders.page_trend
    value, up = trend(rows)
    _, down = trend([[-x for x in row] for row in rows])
    wrong_way = [2 * p for step in steps if step is not None and (p := step.p_below(0.0)) is not None]
    p = 1.0 if min(wrong_way, default=1.0) <= LIMIT else min(1.0, 2 * up)
    against = min(1.0, (len(steps) + 1) * min([2 * down, *wrong_way]))
    right = sum(step is not None and step.mean > 0 for step in steps)
    name = "Jonckheere’s J" if independent else "Page’s L"
    text = f"{name} = {value:g}, {right} of {len(steps)} steps {test.test} on average, ends differ by "
    text += number(effect.mean, metric.digits)
    if interval := effect.interval():
        text += show_interval(interval, metric.digits)
    text += f" over {counted(effect.n, evidence.wanted)}" + (f" ({how})" if how else "")
    return effect, p, against, text + with_p(p), ""


def _association(statement: Statement, evidence: Evidence) -> Tested:
    """Spearman's ρ over the cells, within each seed, and its mean over seeds."""
    test, (of,), (than,) = statement.test, statement.of, statement.than
    keys = statements.paired_keys(evidence.planned.table, of, than, test)
    cells = [[evidence.planned.cell(term.at(k).row, term.at(k).column) for k in keys] for term in (of, than)]
    xs, ys = ([evidence.numbers(cell, test.metric) for cell in side] for side in cells)
    seeds = statistics.shared_seeds(xs + ys)
    if not seeds:
        return None, None, None, "", ""
    rhos = [statistics.rank_correlation([x[s] for x in xs], [y[s] for y in ys]) for s in seeds]
    effect, above, below = statistics.association(rhos, len(keys))
    p, against = (above, below) if test.kind.direction == "up" else (below, above)
    text = f"mean rank correlation {number(effect.mean, 2)}"
    if effect.has_spread and (interval := effect.interval()):
        text += show_interval(interval, 2)
    p, against = min(1.0, 2 * p), min(1.0, 2 * against)
    return effect, p, against, f"{text} of {len(keys)} cells, over {counted(effect.n, evidence.wanted)}{with_p(p)}", ""


NUMBERS = {"difference": _comparison, "trend": _order, "correlation": _association}
