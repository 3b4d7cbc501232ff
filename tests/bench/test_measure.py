"""What is measured is what it is called, and the arithmetic of what is reported."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from lskd.bench import measure
from lskd.bench.cli import PAIRS
from lskd.bench.measure import CACHED, CE, FILLING, LIVE, TEACHER, USUAL_CE, USUAL_KD, Case, Machine, Options, Pair
from lskd.bench.reference import check
from lskd.data import DATASETS
from lskd.errors import InputError
from lskd.settings import Conf, parse_run

CPU = torch.device("cpu")
DIGITS = DATASETS["digits"]
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
    member, _ = pair.member(pair.run)
    assert member.training.step_number == 5
    assert [member.steps(1) for _ in range(4)] == [22, 64, 64, 22]
    assert member.steps(3) == 150
    assert member.training.epoch == 4
    assert member.training.end_epoch().keys() == {"top1", "soft", "ce"}


def test_side_by_side_each_member_makes_all_the_steps(pair, monkeypatch):
    threads = []
    members = [pair.member(pair.run)[0] for _ in range(2)]
    torch.set_num_threads(2)
    step = measure.Training.step
    monkeypatch.setattr(measure.Training, "step", lambda self: (threads.append(torch.get_num_threads()), step(self)))
    assert measure.side_by_side(members)(4) == 2 * (22 + 64 + 64 + 22)
    assert [member.training.step_number for member in members] == [9, 9]
    assert threads == 8 * [1]
    assert torch.get_num_threads() == 2


def test_cached_trains_without_the_teacher_and_filling_with_it(pair, monkeypatch):
    """The table is full; `TEACHER` looks at views that it makes unknown, and leaves it full."""
    seen = []
    live = measure.Teacher.live
    monkeypatch.setattr(measure.Teacher, "live", lambda self, pixels: (seen.append(len(pixels)), live(self, pixels))[1])
    pair.member(pair.run)[0].steps(6)
    assert seen == []
    work = pair.evaluation("fp32")
    seen.clear()
    assert work(2) == 2 * 150
    assert sum(seen) >= 2 * 150
    assert pair.table.known.all()
    seen.clear()
    pair.member(replace(pair.run, teacher_mode="batch_stats"))[0].steps(1)
    assert seen == [64, 64, 22, 64, 64, 22]


def test_cases(pair):
    """Every case once, each with windows of its own; the loader's workers end with the pair."""
    cases = pair.cases(lambda line: None)
    kinds = [(case.name, case.fleet) for case in cases]
    assert kinds == [(USUAL_CE, 1), (USUAL_KD, 1), (CE, 1), (CE, 2), (LIVE, 1), (CACHED, 1), (CACHED, 2), (TEACHER, 1)]
    assert all(case.steps >= 2 and measure.window(case, CPU) > 0 for case in cases)
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


def test_the_optimizers_phase_is_an_update_from_gradients_at_hand(pair):
    """The same update again, and no gradient is computed."""
    training = pair.member(measure.without_teacher(pair.run))[0].training
    optimizer = pair.phases_of(training)["optimizer"]
    weight = training.network.head.weight
    gradient = weight.grad.clone()
    before, momentum = weight.detach().clone(), training.optimizer.sgd.state[weight]["momentum_buffer"].clone()
    optimizer()
    v = 0.9 * momentum + gradient + 5e-4 * before
    torch.testing.assert_close(weight.detach(), before - 0.1 * v)


def test_a_window_takes_about_its_seconds(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    def work(steps: int) -> int:
        clock[0] += 0.01 * steps
        return 64 * steps

    assert measure.calibrated(CPU, work, 2.0, most=1000) == 200
    assert measure.calibrated(CPU, work, 2.0, most=50) == 50
    assert measure.calibrated(CPU, work, 0.001, most=50) == 2
    case = Case(CE, "fp32", 1, work, settle=3, steps=10)
    assert measure.window(case, CPU) == pytest.approx(6400)


def test_no_training_is_asked_for_more_steps_than_it_has():
    """Warm-up, calibration, and all windows of all fleets that a training is in."""
    for repeats in (1, 3, 10):
        for fleets in (1, 2, 5):
            most = measure.STEPS // (2 * (repeats + 1) * fleets)
            assert 8 + fleets * (2 * most + repeats * (most + 1)) <= measure.STEPS


def test_records_by_hand():
    floors = {"fp32": {CE: {"ms": 2.0}, CACHED: {"ms": 2.5}, LIVE: {"ms": 4.0}}}

    def case(name: str, fleet: int, *rates: float) -> Case:
        return Case(name, "fp32", fleet, lambda steps: steps, 1, steps=7, rates=list(rates))

    cases = measure.with_filling(
        [
            case(USUAL_KD, 1, 100.0, 200.0, 100.0),
            case(CE, 1, 1000.0, 2000.0, 1000.0),
            case(CACHED, 1, 1000.0, 1000.0, 800.0),
            case(CACHED, 2, 3000.0, 3000.0, 3000.0),
            case(TEACHER, 1, 1000.0, 1000.0, 800.0),
        ]
    )
    kd, ce, cached, fleet, filling = measure.records(cases, batch_size=10, examples=5000, floors=floors)
    assert ce["images_per_second"] == {"median": 1000.0, "min": 1000.0, "max": 2000.0, "each": [1000.0, 2000.0, 1000.0]}
    assert (ce["ms_per_step"], ce["seconds_per_epoch"], ce["share_of_floor"]) == (10.0, 5.0, 0.2)
    assert ce["times_usual"] is ce["time_over_ce"] is ce["memory"] is None  # there is no usual CE
    assert cached["times_usual"] == {"median": 8.0, "min": 5.0, "max": 10.0}  # turn by turn
    assert cached["time_over_ce"] == {"median": 1.25, "min": 1.0, "max": 2.0}
    assert (kd["times_usual"]["median"], kd["share_of_floor"]) == (1.0, 0.04)
    assert (fleet["images_per_second_per_run"], fleet["times_usual"]["max"]) == (1500.0, 30.0)
    assert (fleet["seconds_per_epoch"], fleet["time_over_ce"]) == (pytest.approx(5 / 3), None)
    assert (filling["case"], filling["images_per_second"]["each"]) == (FILLING, [500.0, 500.0, 400.0])


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_has_a_usual_loop(name):
    run = parse_run(PAIRS[name], Conf())
    plain = measure.as_public_code(run)
    check(plain)
    check(measure.as_public_code(measure.without_teacher(run)))
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
    monkeypatch.setattr(measure, "device_bytes", lambda device: (1000, 1000))
    with Pair(parse_run(WORDS, Conf()), DIGITS, CPU, replace(QUICK, usual=False)) as pair:
        assert [case.name for case in pair.cases(lambda line: None)] == [CE, CE, LIVE]
        assert pair.notes == ["KD, filling, KD, cached: skipped, half of the free memory does not hold the logits"]


def test_a_fleet_that_finds_no_room(pair, monkeypatch):
    members: list[Any] = []

    def member(run: Any) -> tuple[Any, dict[str, float]]:
        if len(members) == 1:
            raise torch.OutOfMemoryError
        members.append(Pair.member(pair, run))
        return members[0]

    monkeypatch.setattr(pair, "member", member)
    assert [case.fleet for case in pair.fleets(CE, measure.without_teacher(pair.run))] == [1]
    assert pair.notes == ["CE, fp32: the device's memory holds 1 runs"]


def test_the_record_of_a_pair_without_a_teacher():
    run = parse_run({"dataset": "digits", "arch": "resnet8"}, Conf())
    machine = Machine(bandwidth=1e10, rates={"fp32": 1e11, "bf16": 1e11})
    options = replace(QUICK, precisions=("fp32", "bf16"), fleets=(1,), repeats=1)
    said: list[str] = []
    record = measure.measure(run, DIGITS, CPU, options, machine, said.append)
    assert [(case["case"], case["precision"]) for case in record["cases"]] == [
        (USUAL_CE, "fp32"),
        (CE, "fp32"),
        (CE, "bf16"),
    ]
    assert record["floor"].keys() == {"fp32", "bf16"}
    assert record["floor"]["fp32"].keys() == {CE}
    assert "teacher's forward" not in record["phases_ms"]
    assert (record["examples"], record["examples_measured_on"]) == (1437, 150)
    assert "SGD with momentum 0.9" in record["notes"][0]
    assert said[-1].startswith("CE, bf16: ") and said[-1].endswith("images/s (1 of 1)")
