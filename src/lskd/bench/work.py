"""What the steps of a pair move and compute, and the time that the machine needs for it at least."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from lskd.bench.cases import AS_IT_COMES, CACHED, CE, FLOOR, LIVE, STEPS, Options
from lskd.bench.floor import Floor, Work, work_of
from lskd.bench.machine import Machine
from lskd.bench.runs import at_precision, synthetic, without_teacher
from lskd.data import Spec
from lskd.engine import Shared
from lskd.engine.member import build_network
from lskd.engine.teacher import Teacher
from lskd.engine.training import Training, set_precision
from lskd.run import Run

OPERATOR_STEPS, KERNEL_STEPS = 10, 20  # whose operators, and whose kernels on a GPU, are timed


def warm_step(run: Run, spec: Spec) -> Callable[[], None]:
    """A step of `run` on the CPU, not the first one; of an eval-mode teacher the logits are at hand."""
    size = run.recipe.batch_size
    run = replace(run, recipe=replace(run.recipe, epochs=None, steps=STEPS))
    parts, teacher = synthetic(spec, size), None
    task = Shared(torch.device("cpu")).task(run, parts)
    if run.teacher is not None:
        teacher = Teacher.of(run, build_network(run.teacher, spec), task, parts["train"].images)
        teacher.hold(torch.zeros(size, spec.num_classes))
    training = Training(run, spec, task, teacher)
    training.begin_epoch()
    training.step()  # what comes into being at the first is not counted
    return training.step


def count_work(run: Run, spec: Spec) -> Work:
    """The work of a step of `run`."""
    return work_of(warm_step(run, spec))


def time_operators(run: Run, spec: Spec, machine: Machine) -> dict[str, dict[str, float]]:
    """What a step of `run` takes on the CPU, by what its operators are for: milliseconds, and those of the floor. Of
    each call the fastest of some steps counts, as of the kernels that the floor stands on."""
    set_precision(run.recipe.precision)
    step = warm_step(run, spec)
    steps = [work_of(step).calls for _ in range(OPERATOR_STEPS)]
    best = Work(tuple(min(calls, key=lambda call: call.seconds) for calls in zip(*steps, strict=True)))
    return {
        purpose: {"ms": 1e3 * took, "floor_ms": 1e3 * least}
        for purpose, (took, least) in machine.by_purpose(best, run.recipe.precision).items()
    }


Works = Mapping[tuple[str, str], Work]


def count_works(run: Run, spec: Spec, options: Options) -> Works:
    """The work of a step by precision and kind of step."""
    works: dict[tuple[str, str], Work] = {}
    for precision in dict.fromkeys(["fp32", *options.precisions]):
        its = at_precision(run, precision)
        kinds = {CE: without_teacher(its)}
        if run.teacher is not None:
            kinds |= {CACHED: its, LIVE: replace(its, teacher_mode="batch_stats")}
        works |= {(precision, kind): count_work(one, spec) for kind, one in kinds.items()}
    return works


def floor_of(works: Works, machine: Machine, name: str, precision: str, fleet: int) -> Floor:
    """The floor of a step of the case `name`. Public codes' is that of tf32, which convolutions are."""
    work = works["fp32" if precision == AS_IT_COMES else precision, FLOOR[name]]
    return machine.floor(work, "tf32" if precision == AS_IT_COMES else precision, fleet)


def describe_floors(works: Works, machine: Machine) -> dict[str, dict[str, Any]]:
    """By precision and kind of step: bytes, operations, and the milliseconds below which `machine` cannot take it."""
    floors: dict[str, dict[str, Any]] = {}
    for (precision, kind), work in works.items():
        floor = machine.floor(work, precision)
        floors.setdefault(precision, {})[kind] = {
            "bytes": work.bytes, "operations": work.operations, "ms": 1e3 * floor.seconds, "bound_by": floor.bound_by,
            "ms_of_bytes": 1e3 * floor.bytes, "ms_of_operations": 1e3 * floor.operations,
            "ms_in_turn": 1e3 * floor.in_turn, "kernel": machine.fastest(precision).kernel.name,
        }  # fmt: skip
    return floors
