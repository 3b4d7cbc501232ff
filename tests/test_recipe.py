"""Schedules against closed forms, and the ranges of a recipe's settings."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from lskd.config_groups import Conf
from lskd.errors import InputError
from lskd.recipe import Recipe, Schedule, WeightDecay
from lskd.schema import parse


def factors(schedule: Schedule, steps: int, steps_per_epoch: int = 5) -> list[float]:
    return [schedule.at(step, total_steps=steps, steps_per_epoch=steps_per_epoch) for step in range(steps)]


# ---- schedules ----------------------------------------------------------------------------------------------------


def test_constant():
    assert factors(Schedule(), 4) == [1.0] * 4


def test_steps_in_epochs():
    schedule = Schedule("step", milestones=(1, 3), factor=0.5)
    assert factors(schedule, 20) == [1.0] * 5 + [0.5] * 10 + [0.25] * 5


def test_steps_in_steps():
    schedule = Schedule("step", milestones=(2, 3), factor=0.1, unit="steps")
    assert factors(schedule, 5) == pytest.approx([1, 1, 0.1, 0.01, 0.01])


def test_a_milestone_within_an_epoch():
    assert factors(Schedule("step", milestones=(0.5,), factor=0.5), 5) == [
        1,
        1,
        1,
        0.5,
        0.5,
    ]  # 2.5 steps: from the third


def test_milestones_passed():
    schedule = Schedule("step", milestones=(1, 1.5), reset_momentum=True)
    assert [schedule.passed(step, steps_per_epoch=4) for step in range(8)] == [0, 0, 0, 0, 1, 1, 2, 2]


def test_exponential_is_a_staircase():
    """5 steps an epoch; a stair of two and a half steps, in epochs, and of three, in steps."""
    schedule = Schedule("exponential", every=0.5, factor=0.5)
    assert factors(schedule, 10) == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125]
    assert factors(Schedule("exponential", every=3, factor=0.1, unit="steps"), 7) == pytest.approx(
        [1, 1, 1, 0.1, 0.1, 0.1, 0.01]
    )


def test_linear():
    assert factors(Schedule("linear"), 4) == [1.0, 0.75, 0.5, 0.25]


def test_cosine():
    root = math.sqrt(0.5)
    assert factors(Schedule("cosine"), 4) == pytest.approx([1, (1 + root) / 2, 0.5, (1 - root) / 2])


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_falling_schedules_would_reach_zero_after_the_last_step(kind):
    assert Schedule(kind).at(7, total_steps=7, steps_per_epoch=2) == pytest.approx(0.0, abs=1e-15)
    values = factors(Schedule(kind), 50)
    assert all(later < earlier for earlier, later in pairwise(values))


def test_warm_up_in_steps():
    assert factors(Schedule(unit="steps", warmup=4), 6) == [0.25, 0.5, 0.75, 1, 1, 1]


def test_warm_up_in_epochs_multiplies_the_schedule():
    expected = [(1 - step / 20) * min(1, (step + 1) / 10) for step in range(20)]
    assert factors(Schedule("linear", warmup=2), 20) == pytest.approx(expected)
    stepped = factors(Schedule("step", milestones=(1,), warmup=2), 10)
    assert stepped == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.06, 0.07, 0.08, 0.09, 0.1])


# ---- the papers' schedules ----------------------------------------------------------------------------------------


def recipe_of(name: str) -> Recipe:
    return parse(Recipe, Conf().load("recipe", name))


@pytest.mark.parametrize(
    ("name", "total", "milestones"),
    [("muller_resnet56", 64_000, (32_000, 48_000)), ("muller_alexnet", 390_000, (130_000, 260_000))],
)
def test_mullers_milestones(name, total, milestones):
    """Learning rate 0.1, divided by 10 at each milestone, on 40,000 images in batches of 128."""
    recipe = recipe_of(name)
    assert recipe.total_steps(40_000) == total
    assert recipe.steps_per_epoch(40_000) == 313
    first, second = milestones
    for step, lr in [
        (0, 0.1), (first - 1, 0.1), (first, 0.01), (second - 1, 0.01), (second, 0.001), (total - 1, 0.001),
    ]:  # fmt: skip
        value = recipe.schedule.at(step, total_steps=total, steps_per_epoch=313)
        assert recipe.lr * value == pytest.approx(lr)


@pytest.mark.parametrize("name", ["muller_mnist", "muller_mnist_student"])
def test_mullers_mnist_networks(name):
    """Learning rate 1, linear to zero over 100 epochs of 60,000 images."""
    recipe = recipe_of(name)
    per_epoch = math.ceil(60_000 / recipe.batch_size)
    total = recipe.total_steps(60_000)
    assert total == 100 * per_epoch
    values = [
        recipe.lr * recipe.schedule.at(step, total_steps=total, steps_per_epoch=per_epoch)
        for step in (0, total // 2, total - per_epoch, total - 1)
    ]
    assert values == pytest.approx([1.0, 0.5, 0.01, 1 / total])


def test_the_schedule_of_the_crd_benchmark():
    """Learning rate 0.05, divided by 10 after epochs 150, 180 and 210 of 240, on 50,000 images in batches of 64.

    The authors count epochs from 1 and change the rate in the first with epoch > 150: index 150 counted from 0.
    """
    schedule = Schedule("step", milestones=(150, 180, 210))
    recipe = Recipe(lr=0.05, batch_size=64, epochs=240, schedule=schedule)
    per_epoch, total = recipe.steps_per_epoch(50_000), recipe.total_steps(50_000)
    assert (per_epoch, total) == (782, 240 * 782)
    for epoch in range(1, 241):
        lr = 0.05 * 0.1 ** sum(epoch > milestone for milestone in (150, 180, 210))  # the authors' rule
        for step in ((epoch - 1) * per_epoch, epoch * per_epoch - 1):
            assert 0.05 * schedule.at(step, total_steps=total, steps_per_epoch=per_epoch) == pytest.approx(lr)


# ---- lengths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("examples", "batch_size", "steps"), [(10, 5, 2), (11, 5, 3), (14, 5, 3), (4, 5, 1), (1, 1, 1), (60_000, 128, 469)]
)
def test_the_last_batch_of_an_epoch_may_be_smaller(examples, batch_size, steps):
    recipe = Recipe(lr=1.0, batch_size=batch_size, epochs=3)
    assert recipe.steps_per_epoch(examples) == steps
    assert recipe.total_steps(examples) == 3 * steps


def test_a_number_of_steps_stands_for_itself():
    recipe = Recipe(lr=1.0, batch_size=5, steps=7)
    assert recipe.total_steps(10) == recipe.total_steps(1000) == 7
    assert recipe.steps_per_epoch(10) == 2


# ---- ranges -------------------------------------------------------------------------------------------------------


def recipe(**fields: object) -> Recipe:
    return Recipe(**{"lr": 0.1, "batch_size": 4, "epochs": 1, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lr": 0.0}, "lr = 0.0: must be > 0"),
        ({"lr": math.nan}, "lr = nan: must be > 0"),
        ({"batch_size": 0}, "batch_size = 0: must be >= 1"),
        ({"steps": 3}, "epochs = 1, steps = 3: exactly one must be given"),
        ({"epochs": None}, "epochs = None, steps = None: exactly one must be given"),
        ({"epochs": -1}, "epochs = -1: must be >= 0"),
        ({"epochs": None, "steps": 0}, "steps = 0: must be >= 1"),
        ({"momentum": 1.0}, r"momentum = 1.0: must be in \[0, 1\)"),
        ({"momentum": -0.1}, r"momentum = -0.1: must be in \[0, 1\)"),
        ({"dampening": 1.0}, r"dampening = 1.0: must be in \[0, 1\)"),
        ({"nesterov": True}, "nesterov = True: must be used with momentum > 0, dampening = 0"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov = True"),
        ({"lr_factors": {"head.*": -1.0}}, r"lr_factors.head.\* = -1.0: must be >= 0"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum = 0.9: must be 0 with optimizer=adam; it goes with sgd"),
        ({"beta2": 0.98}, "beta2 = 0.98: must be 0.999 with optimizer=sgd; it goes with adam or adamw"),
        ({"optimizer": "adam", "beta1": 1.0}, r"beta1 = 1.0: must be in \[0, 1\)"),
        ({"optimizer": "adam", "epsilon": 0.0}, "epsilon = 0.0: must be > 0"),
        ({"clip_norm": 0.0}, "clip_norm = 0.0: must be > 0, or null"),
        ({"loss_scale": 0.0}, "loss_scale = 0.0: must be > 0"),
        ({"evaluate_every": 0}, "evaluate_every = 0: must be >= 1"),
        (
            {"schedule": Schedule("step", milestones=(1.0,), reset_momentum=True)},
            "schedule.reset_momentum = True: must be used with momentum > 0",
        ),
    ],
)
def test_recipes_out_of_range(fields, message):
    with pytest.raises(InputError, match=message):
        recipe(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"factor": 0.0}, "factor = 0.0: must be > 0"),
        ({"warmup": -1.0}, "warmup = -1.0: must be >= 0"),
        ({"kind": "step"}, r"milestones = \[\]: must be given with kind=step"),
        ({"kind": "step", "milestones": (3.0, 2.0)}, r"milestones = \[3.0, 2.0\]: must be positive and rising"),
        ({"kind": "step", "milestones": (2.0, 2.0)}, "must be positive and rising"),
        ({"kind": "step", "milestones": (0.0, 2.0)}, "must be positive and rising"),
        ({"kind": "cosine", "milestones": (1.0,)}, r"milestones = \[1.0\]: must be empty with kind=cosine"),
        ({"reset_momentum": True}, "reset_momentum = True: must be given with kind=step only"),
        ({"kind": "exponential"}, "every = 0.0: must be > 0 with kind=exponential"),
        ({"kind": "cosine", "every": 2.0}, "every = 2.0: must be > 0 with kind=exponential, and given only then"),
    ],
)
def test_schedules_out_of_range(fields, message):
    with pytest.raises(InputError, match=message):
        Schedule(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": -1e-4}, "rate = -0.0001: must be >= 0"),
        ({"to": "named"}, r"names = \[\]: must be given with to=named"),
        ({"names": ("head.weight",)}, r"names = \['head.weight'\]: must be given with to=named, and only then"),
    ],
)
def test_weight_decays_out_of_range(fields, message):
    with pytest.raises(InputError, match=message):
        WeightDecay(**fields)
