"""Images a second of the ways to train one pair of networks, on images of noise: speed does not depend on content."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from lskd.bench.cases import STEPS, TEACHER, Options
from lskd.bench.clock import laid_out, window
from lskd.bench.machine import Machine
from lskd.bench.records import records, spread, with_filling
from lskd.bench.runs import at_precision, without_teacher
from lskd.bench.ways import Pair
from lskd.bench.work import count_works, describe_floors, floor_of, time_operators
from lskd.data import Spec
from lskd.recipe import Schedule
from lskd.run import Run


def measure(
    run: Run,
    spec: Spec,
    device: torch.device,
    options: Options,
    machine: Machine,
    say: Callable[[str], None] = lambda line: None,
    on_turn: Callable[[dict[str, Any]], None] = lambda record: None,
) -> dict[str, Any]:
    """The record of a pair: `run` is the student's, with its teacher; without one only CE is measured. `on_turn` gets
    what there is of it after every turn."""
    # The learning rate changes nothing here, and its factors for every step of a long training take time.
    run = at_precision(replace(run, recipe=replace(run.recipe, schedule=Schedule(), epochs=None, steps=STEPS)), "fp32")
    works = count_works(run, spec, options)
    with laid_out(options.layout), Pair(run, spec, device, options) as pair:
        cases = pair.cases(say)
        record: dict[str, Any] = {
            "student": run.network,
            "teacher": run.teacher.network if run.teacher is not None else None,
            "dataset": run.dataset.name,
            "recipe": run.recipe.name,
            "batch_size": run.recipe.batch_size,
            "examples": spec.train,
            "examples_measured_on": len(pair.task),
            "notes": pair.notes,
        }
        for number in range(options.repeats):
            machine.again()
            for case in cases:
                case.rates.append(window(case, device, options))
                say(f"{case}: {case.rates[-1]:,.0f} images/s ({number + 1} of {options.repeats})")
            record["turns"] = number + 1
            record["floor"] = describe_floors(works, machine)
            record["teacher_images_per_second"] = {
                case.precision: spread(case.rates) for case in cases if case.name == TEACHER
            }
            floors = functools.partial(floor_of, works, machine)
            record["cases"] = records(with_filling(cases), run.recipe.batch_size, spec.train, floors)
            on_turn(record)
        record["phases_ms"] = pair.phases()
        if device.type == "cuda":
            record["kernels"] = {precision: pair.kernels(precision) for precision in options.precisions}
    if device.type == "cpu":
        its = [without_teacher(at_precision(run, precision)) for precision in options.precisions]
        record["operators"] = {one.recipe.precision: time_operators(one, spec, machine) for one in its}
    on_turn(record)
    return record
