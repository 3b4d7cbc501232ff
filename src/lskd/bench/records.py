"""What was measured, as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lskd.bench.cases import AS_IT_COMES, CACHED, CE, FILLING, LIVE, PUBLIC, TEACHER, USUAL, Case
from lskd.bench.floor import Floor


def with_filling(cases: Sequence[Case]) -> list[Case]:
    """`cases` with FILLING in place of TEACHER: each image is first looked at by the teacher, then trained on."""
    cached = {case.precision: case for case in cases if case.name == CACHED and case.fleet == 1}
    result = []
    for case in cases:
        if case.name == TEACHER:
            both = zip(case.rates, cached[case.precision].rates, strict=True)
            rates = [1 / (1 / teacher + 1 / student) for teacher, student in both]
            case = replace(case, name=FILLING, rates=rates, steps=cached[case.precision].steps)
        result.append(case)
    return result


def records(
    cases: Sequence[Case], batch_size: int, examples: int, floors: Callable[[str, str, int], Floor]
) -> list[dict[str, Any]]:
    """What is printed and written of each case. Ratios are taken within a turn, in which the machine was the same, and
    between cases of one precision; but for `times_public`, whose base is the usual loop as public codes leave it.

    images/s are of all runs of a fleet together, and so are the times: those of a step and an epoch of one run, in a
    fleet of n the n-th part of what n of them take. `floors` gives the floor of a case's step, by its name, precision
    and fleet.
    """
    of = {(case.name, case.precision, case.fleet): case.rates for case in cases}

    def ratio(rates: Sequence[float], base: Sequence[float] | None) -> dict[str, float] | None:
        return spread([rate / other for rate, other in zip(rates, base, strict=True)]) if base else None

    result = []
    for case in cases:
        rate = statistics.median(case.rates)
        time_of_ce = of.get((CE, case.precision, case.fleet))
        milliseconds = 1e3 * batch_size / rate
        floor, usual = floors(case.name, case.precision, case.fleet), USUAL[case.name]
        public = of.get((PUBLIC[usual], AS_IT_COMES, 1), of.get((usual, "fp32", 1)))
        result.append(
            {
                "case": case.name,
                "precision": case.precision,
                "fleet": case.fleet,
                "images_per_second": {**spread(case.rates), "each": list(case.rates)},
                "images_per_second_per_run": rate / case.fleet,
                "ms_per_step": milliseconds,
                "seconds_per_epoch": examples / rate,
                "times_usual": ratio(case.rates, of.get((usual, case.precision, 1))),
                "times_public": ratio(case.rates, public),
                "time_over_ce": ratio(time_of_ce, case.rates) if time_of_ce and case.name in (CACHED, LIVE) else None,
                "share_of_floor": 1e3 * floor.seconds / milliseconds,
                "share_of_floor_in_turn": 1e3 * floor.in_turn / milliseconds,
                "bound_by": floor.bound_by,
                "captured": case.captured,
                "steps_per_window": case.steps,
                "memory": case.memory or None,
            }
        )
    return result


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
