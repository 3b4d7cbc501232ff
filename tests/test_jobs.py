"""How a plan is cut into jobs: what fits a time limit, fills a GPU, and waits for no more than it must."""

from __future__ import annotations

import importlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.launch.jobs import MOST_GROUPS, Array, arrays, cut
from lskd.run import Run

CONF = Conf()
BASE = {"dataset": "digits", "dataset.limit": 64, "arch": "mlp", "arch.hidden": [4], "recipe.epochs": 1}
RUN = parse_run(BASE, CONF)
TAUGHT = parse_run({**BASE, "method": "kd", "teacher": {"arch": "mlp", "arch.hidden": [8]}}, CONF)


def seeds(run: Run, count: int) -> list[Run]:
    return [run.reseeded(seed) for seed in range(count)]


def ids(runs: Sequence[Run]) -> list[str]:
    return [run.id for run in runs]


def sizes(made: Sequence[Sequence[Run]]) -> list[int]:
    return [len(task) for task in made]


@pytest.mark.parametrize(
    ("count", "seconds", "limit", "at_once", "expected"),
    [
        (16, 100.0, 1e9, 1, [16]),  # one GPU, and no limit
        (16, 100.0, 1e9, 4, [8, 8]),  # full GPUs rather than more of them
        (64, 100.0, 1e9, 4, [16] * 4),
        (64, 100.0, 800.0, 4, [8] * 8),  # the limit asks for more than run at once
        (10, 100.0, 250.0, 1, [2] * 5),  # 2.5 would fit
        (3, 1000.0, 300.0, 9, [1] * 3),  # longer than a job may last: each alone, and it goes on when it is requeued
        (5, None, 1e3, 1, [5]),  # unknown: a GPU full of runs in a task
        (20, None, 1e3, 1, [7, 7, 6]),
    ],
)
def test_tasks_are_full_and_fit_the_limit(count, seconds, limit, at_once, expected):
    runs = seeds(RUN, count)
    tasks = cut(runs, lambda run: seconds, together=8, limit=limit, at_once=at_once)
    assert [id for task in tasks for id in ids(task)] == ids(runs)
    assert sorted(sizes(tasks), reverse=True) == expected or sizes(tasks) == expected
    assert all(len(task) == 1 or len(task) * (seconds or 125.0) <= limit for task in tasks)


def test_of_unlike_runs_no_task_is_longer_than_the_limit():
    chance, runs = random.Random(0), seeds(RUN, 200)
    cost = {run.id: chance.choice([1.0, 10.0, 90.0, 400.0]) for run in runs}
    tasks = cut(runs, lambda run: cost[run.id], together=4, limit=300.0, at_once=8)
    assert [id for task in tasks for id in ids(task)] == ids(runs)
    assert all(len(task) == 1 or sum(cost[run.id] for run in task) <= 300.0 for task in tasks)
    assert len(tasks) < 1.5 * sum(cost.values()) / 300.0


def chain(count: int) -> list[Run]:
    """Teachers, then their students."""
    students = seeds(TAUGHT, count)
    return [*(run.teacher for run in students if run.teacher), *students]


def made(runs: Sequence[Run], seconds: float | None = 100.0, **more: Any) -> list[Array]:
    settings: dict[str, Any] = {"together": 2, "limit": 1000.0, "at_once": 100, **more}
    return arrays(runs, lambda run: seconds, **settings)


def test_students_wait_for_the_tasks_of_their_teachers_and_no_others():
    found = made(chain(6), key="k")
    teachers, *students = found
    assert sizes(teachers.tasks) == [2, 2, 2] and not teachers.after and teachers.at_once == 3
    for array in students:
        tasks = {(key, task) for key, task in array.after}
        needed = {run.teacher.id for task in array.tasks for run in task if run.teacher}
        assert needed == {run.id for key, task in tasks for run in found[int(key[1:])].tasks[task]}
    assert [one.after for one in students] == [{("k0", 0)}, {("k0", 1)}, {("k0", 2)}]


def test_what_is_in_a_job_already_is_waited_for_there():
    runs = chain(4)
    placed = {runs[0].id: ("77", 3), runs[1].id: ("77", 3)}
    found = made(runs[2:], placed=placed)
    by_id = {run.id: one for one in found for task in one.tasks for run in task}
    assert by_id[runs[4].id].after == by_id[runs[5].id].after == {("77", 3)}
    assert by_id[runs[6].id].after == {("0", 0)} and not by_id[runs[2].id].after


def test_arrays_are_no_larger_and_no_more_than_the_cluster_takes():
    found = made(chain(50), most_tasks=10)
    assert max(len(one.tasks) for one in found) <= 10 and sum(sizes(one.tasks)[0] for one in found) > 1
    many = made(chain(2000), limit=1e9)
    assert len(many) <= 2 * MOST_GROUPS + 2
    assert sum(len(task) for one in many for task in one.tasks) == 4000


def test_no_gpu_stands_idle_while_runs_are_ready(monkeypatch):
    """A simulated week of 64 GPUs: 60 teachers, 20 students of each."""
    chance = random.Random(1)
    students = [
        parse_run({**BASE, "method": "kd", "temperature": t, "teacher": {"arch": "mlp", "arch.hidden": [8]}}, CONF)
        for t in range(1, 21)
    ]
    taught = [run.reseeded(seed) for seed in range(60) for run in students]
    teachers = {run.teacher.id: run.teacher for run in taught if run.teacher}
    cost = {run.id: chance.uniform(4.0, 8.0) for run in [*teachers.values(), *taught]}
    found = made(
        [*teachers.values(), *taught], together=4, limit=24.0, at_once=64, seconds=6.0
    )  # as they are expected to take; they take what chance says
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    simulate = importlib.import_module("simulate_cluster").simulate
    used, _, hours = simulate(found, 64, lambda run: cost[run.id])
    assert used >= 0.95, (used, hours)
    assert 100 < hours < 240
