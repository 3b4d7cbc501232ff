"""What is measured is what it is called, and the arithmetic of what is reported."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from lskd.bench import cases as case_names
from lskd.bench import clock, machine, measure, records, runs, ways
from lskd.bench import work as of_work
from lskd.bench.cases import (
    AS_IT_COMES,
    CACHED,
    CE,
    FILLING,
    LIVE,
    PUBLIC_KD,
    TEACHER,
    USUAL_CE,
    USUAL_KD,
    Case,
    Options,
)
from lskd.bench.cli import PAIRS
from lskd.bench.floor import Floor
from lskd.bench.machine import Machine
from lskd.bench.reference import check
from lskd.bench.ways import Pair
from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.data import DATASETS
from lskd.engine.step import Step
from lskd.errors import InputError

CPU = torch.device("cpu")
DIGITS = DATASETS["digits"].spec
WORDS = {"dataset": "digits", "recipe": "quickstart", "arch": "resnet8", "teacher": "resnet8", "method": "kd"}
QUICK = Options(seconds=0.01, repeats=2, precisions=("fp32",), fleets=(1, 2), examples=150)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pair() -> Iterator[Pair]:
    """150 images in batches of 64: of 64, 64 and 22."""
    run = parse_run({**WORDS, "recipe.epochs": 1000}, Conf())
    with Pair(run, DIGITS, CPU, QUICK) as pair:
        yield pair


def test_steps_go_on_into_new_epochs(pair):
    runner, _ = pair.runner(pair.run)
    assert runner.training.step_number == 3
    assert [runner.steps(1) for _ in range(4)] == [64, 64, 22, 64]
    assert runner.steps(3) == 150
    assert runner.training.epoch == 3
    assert runner.training.end_epoch()[0].keys() == {"top1", "soft", "ce"}


def test_side_by_side_each_member_makes_all_the_steps(pair, monkeypatch):
    threads = []
    runners = [pair.runner(pair.run)[0] for _ in range(2)]
    torch.set_num_threads(2)
    step = ways.Training.step
    monkeypatch.setattr(ways.Training, "step", lambda self: (threads.append(torch.get_num_threads()), step(self)))
    assert ways.side_by_side(runners)(4) == 2 * (64 + 64 + 22 + 64)
    assert [runner.training.step_number for runner in runners] == [7, 7]
    assert threads == 8 * [1]
    assert torch.get_num_threads() == 2


def test_cached_trains_without_the_teacher_and_filling_with_it(pair, monkeypatch):
    """The cache is full; `TEACHER` looks at views that it makes unknown, and leaves it full."""
    seen = []
    live = ways.Teacher.live
    monkeypatch.setattr(ways.Teacher, "live", lambda self, pixels: (seen.append(len(pixels)), live(self, pixels))[1])
    pair.runner(pair.run)[0].steps(6)
    assert seen == []
    work = pair.evaluation("fp32")
    seen.clear()
    assert work(2) == 2 * 150
    assert sum(seen) >= 2 * 150
    assert pair.cache.known.all()
    seen.clear()
    pair.runner(replace(pair.run, teacher_mode="batch_stats"))[0].steps(1)
    assert seen == [64, 64, 22, 64, 64, *4 * [22], 64]


def test_cases(pair):
    """Every case once, each with windows of its own; the loader's workers end with the pair."""
    cases = pair.cases(lambda line: None)
    kinds = [(case.name, case.fleet) for case in cases]
    assert kinds == [(USUAL_CE, 1), (USUAL_KD, 1), (CE, 1), (CE, 2), (LIVE, 1), (CACHED, 1), (CACHED, 2), (TEACHER, 1)]
    assert all(case.steps >= 2 and clock.window(case, CPU, QUICK) > 0 for case in cases)
    assert {case.captured for case in cases} == {None}
    assert multiprocessing.active_children() != []
    del cases
    assert multiprocessing.active_children() == []


def test_without_a_fleet_of_one_nothing_else_is_trained_alone(pair):
    pair.options = replace(QUICK, fleets=(2,), usual=False)
    assert [(case.name, case.fleet) for case in pair.cases(lambda line: None)] == [(CE, 2), (CACHED, 2)]


def test_phases(pair):
    phases = pair.phases()
    names = (
        "whole step (CE), augmentation and normalisation, teacher's forward, forward, forward and backward, optimizer"
    )
    assert ", ".join(phases) == names
    assert phases["forward"] < phases["forward and backward"]
    assert all(milliseconds > 0 for milliseconds in phases.values())


def test_kernels_of_a_step(pair, monkeypatch):
    """By name, of one step; what took no time on the device is none."""

    @dataclass
    class Event:
        key: str
        self_device_time_total: float  # microseconds, of all steps
        count: int

    class Profile:
        def __init__(self, activities: Any) -> None: ...

        def __enter__(self) -> Profile:
            return self

        def __exit__(self, *error: object) -> None: ...

        def key_averages(self) -> list[Event]:
            steps = of_work.KERNEL_STEPS
            return [
                Event("relu", 500.0 * steps, 3 * steps),
                Event("launch", 0.0, 9),
                Event("conv", 2000.0 * steps, steps),
            ]

    monkeypatch.setattr(torch.profiler, "profile", Profile)
    found = pair.kernels("fp32")
    assert list(found.items()) == [("conv", {"ms": 2.0, "count": 1.0}), ("relu", {"ms": 0.5, "count": 3.0})]


def test_the_optimizers_phase_is_an_update_from_gradients_at_hand(pair):
    """The same update again, and no gradient is computed."""
    training = pair.runner(runs.without_teacher(pair.run))[0].training
    optimizer = pair.phases_of(training)["optimizer"]
    weight = training.member.network.head.weight
    gradient = weight.grad.clone()
    before, momentum = weight.detach().clone(), training.member.optimizer.inner.state[weight]["momentum_buffer"].clone()
    optimizer()
    v = 0.9 * momentum + gradient + 5e-4 * before
    torch.testing.assert_close(weight.detach(), before - 0.1 * v)


def test_a_window_takes_about_its_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(machine.time, "perf_counter", lambda: now[0])

    def work(steps: int) -> int:
        now[0] += 0.01 * steps
        return 64 * steps

    assert clock.calibrated(CPU, work, 2.0, most=1000) == 200
    assert clock.calibrated(CPU, work, 2.0, most=50) == 50
    assert clock.calibrated(CPU, work, 0.001, most=50) == 2
    case = Case(CE, "fp32", 1, work, settle=3, steps=10)
    assert clock.window(case, CPU, QUICK) == pytest.approx(6400)


def test_no_training_is_asked_for_more_steps_than_it_has():
    """Warm-up, calibration, and all windows of all fleets that a training is in."""
    for repeats in (1, 3, 10):
        for fleets in (1, 2, 5):
            most = case_names.STEPS // (2 * (repeats + 1) * fleets)
            assert 8 + 3 + fleets * (2 * most + repeats * (most + 1)) <= case_names.STEPS


def test_records_by_hand():
    ms = {CE: 2.0, CACHED: 2.5, FILLING: 4.0, USUAL_KD: 4.0}

    def floors(name: str, precision: str, fleet: int) -> Floor:
        return Floor(bytes=ms[name] / 1e3, operations=0.0, in_turn=2 * ms[name] / 1e3)

    def case(name: str, fleet: int, *rates: float) -> Case:
        return Case(name, "fp32", fleet, lambda steps: steps, 1, steps=7, rates=list(rates))

    cases = records.with_filling(
        [
            case(USUAL_KD, 1, 100.0, 200.0, 100.0),
            case(CE, 1, 1000.0, 2000.0, 1000.0),
            case(CACHED, 1, 1000.0, 1000.0, 800.0),
            case(CACHED, 2, 3000.0, 3000.0, 3000.0),
            case(TEACHER, 1, 1000.0, 1000.0, 800.0),
        ]
    )
    kd, ce, cached, fleet, filling = records.records(cases, 10, 5000, floors)
    assert ce["images_per_second"] == {"median": 1000.0, "min": 1000.0, "max": 2000.0, "each": [1000.0, 2000.0, 1000.0]}
    assert (ce["ms_per_step"], ce["seconds_per_epoch"], ce["share_of_floor"]) == (10.0, 5.0, 0.2)
    assert (ce["share_of_floor_in_turn"], ce["bound_by"]) == (0.4, "bytes")
    assert ce["times_usual"] is ce["time_over_ce"] is ce["memory"] is None  # there is no usual CE
    assert cached["times_usual"] == cached["times_public"] == {"median": 8.0, "min": 5.0, "max": 10.0}  # turn by turn
    assert cached["time_over_ce"] == {"median": 1.25, "min": 1.0, "max": 2.0}
    assert (kd["times_usual"]["median"], kd["share_of_floor"]) == (1.0, 0.04)
    assert (fleet["images_per_second_per_run"], fleet["times_usual"]["max"]) == (1500.0, 30.0)
    assert (fleet["seconds_per_epoch"], fleet["time_over_ce"]) == (pytest.approx(5 / 3), None)
    assert (filling["case"], filling["images_per_second"]["each"]) == (FILLING, [500.0, 500.0, 400.0])


def test_ratios_are_taken_between_cases_of_one_precision():
    """And beside them to the usual loop as public codes leave it, which on a GPU is a case of its own."""

    def case(name: str, precision: str, rate: float) -> Case:
        return Case(name, precision, 1, lambda steps: steps, 1, steps=7, rates=[rate])

    cases = [
        case(PUBLIC_KD, AS_IT_COMES, 100.0), case(USUAL_KD, "fp32", 50.0), case(USUAL_KD, "tf32", 125.0),
        case(CACHED, "fp32", 500.0), case(CACHED, "tf32", 1000.0), case(CACHED, "bf16", 2000.0),
    ]  # fmt: skip
    found = records.records(cases, 10, 5000, lambda name, precision, fleet: Floor(1e-3, 0.0, 1e-3))
    usual, public = ([case[key] and case[key]["median"] for case in found] for key in ("times_usual", "times_public"))
    assert usual == [None, 1.0, 1.0, 10.0, 8.0, None]
    assert public == [1.0, 0.5, 1.25, 5.0, 10.0, 20.0]


def test_the_usual_loop_at_each_precision(monkeypatch):
    """fp32: TF32 is off; tf32: on; bf16: autocast; as public codes leave it: TF32 in convolutions. cuDNN's search is on
    meanwhile, as in those codes, and afterwards as it was."""
    seen: dict[str, tuple[Any, ...]] = {}

    def step(loop: Any) -> int:
        switches = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        seen[now] = (*switches, torch.backends.cudnn.benchmark, loop.autocast)
        return 64

    monkeypatch.setattr(ways.UsualLoop, "step", step)
    loop = ways.UsualLoop.__new__(ways.UsualLoop)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    try:
        for now in ("bf16", "tf32", AS_IT_COMES, "fp32"):
            clock.switch(now, replace(QUICK, search=False))
            assert ways.usual_work(loop, now)(2) == 128
            assert torch.backends.cudnn.benchmark is False
    finally:
        clock.set_precision("fp32")
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before
    assert seen == {
        "fp32": ("highest", False, True, False),
        "tf32": ("high", True, True, False),
        "bf16": ("high", True, True, True),
        AS_IT_COMES: ("highest", True, True, False),
    }


def test_every_step_of_a_training_is_taken_in_its_own_thread(pair, monkeypatch):
    """cuDNN finds its algorithms, and a GPU's step is captured, for each thread: so it is the same one from the first
    step on, through all windows and fleets."""
    step, threads = ways.Training.step, dict[int, set[int]]()
    monkeypatch.setattr(
        ways.Training,
        "step",
        lambda self: (threads.setdefault(id(self), set()).add(threading.get_ident()), step(self))[1],
    )
    cases = pair.fleets(CE, runs.without_teacher(pair.run))
    for _ in range(2):
        for case in cases:
            case.work(2)
    assert [len(its) for its in threads.values()] == [1, 1]
    assert len(set.union(*threads.values())) == 2


def test_steps_of_both_sizes_are_met_before_the_first_window(pair, monkeypatch):
    """The smaller last batch of an epoch, too, as often as it takes until a step is captured; else all trainings of a
    fleet would meet it in a window at once."""
    seen: list[int] = []
    step = Step._step
    monkeypatch.setattr(Step, "_step", lambda self, size, of=0: (seen.append(size), step(self, size, of))[1])
    runner, _ = pair.runner(pair.run)
    assert seen.count(64) > ways.EAGER and seen.count(22) > ways.EAGER
    assert runner.training.one_step.number.item() == runner.training.step_number
    assert runner.training.step_number % runner.training.steps_per_epoch == 0


def test_a_step_counts_as_captured_if_those_of_all_sizes_are(pair, monkeypatch):
    runner, _ = pair.runner(pair.run)
    case = Case(CE, "fp32", 1, lambda steps: steps, 1, [runner])
    assert case.captured is None

    class Replayed:
        graphs: ClassVar = {(64,): None, (22,): None}
        failed = False

    monkeypatch.setattr(ways, "Captured", Replayed)
    runner.training.one_step.run_step = Replayed()
    assert case.captured is True
    monkeypatch.setattr(Replayed, "failed", True)
    assert case.captured is False
    monkeypatch.setattr(Replayed, "failed", False)
    monkeypatch.delitem(Replayed.graphs, (22,))
    assert case.captured is False


def test_another_layout(pair):
    """The same training with its images and weights in the other layout; the engine's own is back afterwards."""
    with clock.laid_out("contiguous"):
        runner, _ = pair.runner(pair.run)
    other, _ = pair.runner(pair.run)
    weights = [[p for p in one.training.member.network.parameters() if p.dim() == 4] for one in (runner, other)]
    assert [all(weight.is_contiguous() for weight in its) for its in weights] == [True, False]


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_has_a_usual_loop(name):
    run = parse_run(PAIRS[name], Conf())
    plain = runs.as_public_code(run)
    check(plain)
    check(runs.as_public_code(runs.without_teacher(run)))
    assert (plain.arch, plain.recipe.augment, plain.recipe.batch_size) == (
        run.arch,
        run.recipe.augment,
        run.recipe.batch_size,
    )
    assert (plain == run) == (run.recipe.name == "crd")
    if plain != run:
        with pytest.raises(InputError):
            check(run)


def test_a_pair_whose_logits_find_no_room(monkeypatch):
    monkeypatch.setattr(ways, "device_bytes", lambda device: (1000, 1000))
    with Pair(parse_run(WORDS, Conf()), DIGITS, CPU, replace(QUICK, usual=False)) as pair:
        assert [case.name for case in pair.cases(lambda line: None)] == [CE, CE, LIVE]
        assert pair.notes == ["KD, filling, KD, cached: skipped, half of the free memory does not hold the logits"]


def test_a_fleet_that_finds_no_room(pair, monkeypatch):
    runners: list[Any] = []

    def runner(run: Any) -> tuple[Any, dict[str, float]]:
        if len(runners) == 1:
            raise torch.OutOfMemoryError
        runners.append(Pair.runner(pair, run))
        return runners[0]

    monkeypatch.setattr(pair, "runner", runner)
    assert [case.fleet for case in pair.fleets(CE, runs.without_teacher(pair.run))] == [1]
    assert pair.notes == ["CE, fp32: the device's memory holds 1 runs"]


@pytest.mark.slow
def test_the_record_of_a_pair_without_a_teacher(small_kernels):
    run = parse_run({"dataset": "digits", "arch": "mlp"}, Conf())
    machine = Machine(CPU, ["fp32", "bf16"])
    options = replace(QUICK, precisions=("fp32", "bf16"), fleets=(1,), repeats=1)
    said: list[str] = []
    turns: list[int] = []
    record = measure.measure(run, DIGITS, CPU, options, machine, said.append, lambda its: turns.append(its["turns"]))
    assert turns == [1, 1]  # after each turn, and with the phases at the end
    assert [(case["case"], case["precision"]) for case in record["cases"]] == [
        (USUAL_CE, "fp32"),
        (USUAL_CE, "bf16"),
        (CE, "fp32"),
        (CE, "bf16"),
    ]
    assert record["floor"].keys() == {"fp32", "bf16"}
    assert record["floor"]["fp32"].keys() == {CE}
    assert "teacher's forward" not in record["phases_ms"]
    assert (record["examples"], record["examples_measured_on"]) == (1437, 150)
    assert "SGD with momentum 0.9" in record["notes"][0]
    assert said[-1].startswith("CE, bf16: ") and said[-1].endswith("images/s (1 of 1)")
