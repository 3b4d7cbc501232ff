"""How the runs of a plan are cut into jobs: those of one generation side by side, as many as a GPU takes, no longer
than a job may last, after the jobs that train their parents and no others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lskd.launch.queue import by_teacher
from lskd.run import Run

MOST_GROUPS = 16  # of tasks that wait for the same ones, in a generation: each is submitted by a call of its own

Place = tuple[str, int]  # a task: its array, and its number there


@dataclass(frozen=True)
class Array:
    """Tasks that are submitted together, each a list of runs, and wait for the same tasks."""

    key: str
    tasks: tuple[tuple[Run, ...], ...]
    after: frozenset[Place] = frozenset()
    at_once: int = 1  # of its tasks


def arrays(
    runs: Sequence[Run],
    seconds: Callable[[Run], float | None],
    *,
    together: int,
    limit: float,
    at_once: int,
    most_tasks: int = 1000,
    placed: Mapping[str, Place] | None = None,
    key: str = "",
) -> list[Array]:
    """The arrays for `runs`, those that others wait for first.

    together: runs side by side in a task.
    seconds: what a run takes beside others, its share of the device's time; None where that is not known.
    limit: seconds that a task may take.
    at_once: tasks of an array that may run at once; a generation is cut into as many, if they are full then.
    most_tasks: of an array.
    placed: tasks that train runs already, by the ids of these.
    """
    place, made = dict(placed or {}), list[Array]()
    for generation in sorted({run.generation for run in runs}):
        of_it = by_teacher([run for run in runs if run.generation == generation])
        for after, group in _groups(of_it, place, together):
            share = max(1, round(at_once * len(group) / len(of_it)))
            tasks = cut(group, seconds, together=together, limit=limit, at_once=share)
            for first in range(0, len(tasks), most_tasks):
                some = tuple(tasks[first : first + most_tasks])
                made.append(Array(f"{key}{len(made)}", some, after, min(at_once, len(some))))
                place |= {run.id: (made[-1].key, i) for i, task in enumerate(some) for run in task}
    return made


def _groups(runs: Sequence[Run], place: Mapping[str, Place], together: int) -> list[tuple[frozenset[Place], list[Run]]]:
    """The runs by the tasks that train their parents. Small groups go together, to fill a GPU, and so do some where
    there are too many: they then wait for the tasks of all of them."""
    groups: list[tuple[frozenset[Place], list[Run]]] = []
    by_parents: dict[frozenset[Place], list[Run]] = {}
    for run in runs:
        after = frozenset(place[parent.id] for parent in run.parents if parent.id in place)
        by_parents.setdefault(after, []).append(run)
    size = max(together, math.ceil(len(runs) / MOST_GROUPS))
    for after, some in by_parents.items():
        if groups and len(groups[-1][1]) < size and groups[-1][0] and after:
            before, others = groups.pop()
            groups.append((before | after, [*others, *some]))
        else:
            groups.append((after, some))
    return groups


def cut(
    runs: Sequence[Run], seconds: Callable[[Run], float | None], *, together: int, limit: float, at_once: int
) -> list[tuple[Run, ...]]:
    """`runs`, in their order, in tasks of about the same time: enough for no task to last longer than `limit`, and
    besides as many as may run at once, unless GPUs would have fewer than `together` runs then."""
    known = [seconds(run) for run in runs]
    told = [one for one in known if one is not None]
    usual = sum(told) / len(told) if told else limit / together  # of what is unknown: a GPU full of it in a task
    costs = [usual if one is None else one for one in known]
    count = max(math.ceil(sum(costs) / limit), min(at_once, math.ceil(len(runs) / together)))
    while True:
        tasks = _cut(costs, min(count, len(runs)))
        fits = all(len(task) == 1 or sum(costs[i] for i in task) <= limit for task in tasks)
        if fits or count >= len(runs):
            return [tuple(runs[i] for i in task) for task in tasks]
        count = max(count + 1, math.ceil(1.02 * count))


def _cut(costs: Sequence[float], count: int) -> list[list[int]]:
    """The places of `costs` in `count` rows of about the same sum: each is in that in whose span its middle lies."""
    each, begun = sum(costs) / count, 0.0
    tasks: dict[int, list[int]] = {}
    for place, cost in enumerate(costs):
        tasks.setdefault(int((begun + cost / 2) / each) if each else 0, []).append(place)
        begun += cost
    return list(tasks.values())
