"""What a large plan costs besides its training, and whether a cluster has work. The plan, the store, the jobs, the
status and the report are lskd's own; records are made up, and a clock takes the place of the GPUs.

    python scripts/simulate_cluster.py [--runs 100000] [--gpus 1000] [--together 8]

Prints a Markdown table, a line for each step of `lskd-run experiment=NAME`: seconds, and, of at most 2,000 runs, calls
to the file system a run.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lskd import report
from lskd.config_groups import Conf, shipped_conf
from lskd.describe import describe
from lskd.launch.cost import Costs
from lskd.launch.jobs import Array, arrays
from lskd.launch.queue import damages, to_train
from lskd.launch.status import standings, status
from lskd.plan import Plan, make_plan
from lskd.run import Run
from lskd.snapshot import Snapshot
from lskd.store import Store
from lskd.tables.experiment import load_experiment

HOURS = 1.6  # of a GPU's time, that a run takes: 100,000 of them are a week of 1,000 GPUs
LIMIT = 24.0  # hours that a job may take


def simulate(made: Sequence[Array], gpus: int, hours: Callable[[Run], float]) -> tuple[float, float, float]:
    """The arrays on a cluster that starts their tasks in order.

    Returns the share of GPU time that is used while runs are ready that no GPU has, the share that is used of all, and
    the hours to the end. A run is ready when its parents are done, whether its task may begin or not.
    """
    place = {run.id: (one.key, i) for one in made for i, task in enumerate(one.tasks) for run in task}
    children: dict[str, list[Run]] = {}
    lacking: dict[str, int] = {}  # parents of a run that are not done
    for one in made:
        for task in one.tasks:
            for run in task:
                parents = {parent.id for parent in run.parents if parent.id in place}
                lacking[run.id] = len(parents)
                for id in parents:
                    children.setdefault(id, []).append(run)
    needed = [set(one.after) for one in made]  # tasks that an array waits for
    waiters: dict[tuple[str, int], list[int]] = {}
    for number, tasks in enumerate(needed):
        for task in tasks:
            waiters.setdefault(task, []).append(number)
    eligible = [number for number, tasks in enumerate(needed) if not tasks]
    begun, running = [0] * len(made), [0] * len(made)
    ready = sum(not count for count in lacking.values())
    started, free, now, idle, busy = set[tuple[str, int]](), gpus, 0.0, 0.0, 0.0
    events: list[tuple[float, int, int]] = []
    while True:
        for number in list(eligible):
            one = made[number]
            while free and begun[number] < len(one.tasks) and running[number] < one.at_once:
                task = one.tasks[begun[number]]
                started.add((one.key, begun[number]))
                ready -= sum(not lacking[run.id] for run in task)
                heapq.heappush(events, (now + sum(map(hours, task)), number, begun[number]))
                begun[number], running[number], free = begun[number] + 1, running[number] + 1, free - 1
            if begun[number] == len(one.tasks):
                eligible.remove(number)
            if not free:
                break
        if not events:
            return busy / (busy + idle), busy / (gpus * now), now
        then, number, task_number = heapq.heappop(events)
        busy += (gpus - free) * (then - now)
        idle += min(free, ready) * (then - now)
        now, free, running[number] = then, free + 1, running[number] - 1
        over = (made[number].key, task_number)
        for run in made[number].tasks[task_number]:
            for child in children.get(run.id, ()):
                lacking[child.id] -= 1
                ready += not lacking[child.id] and place[child.id] not in started
        for other in waiters.get(over, ()):
            needed[other].remove(over)
            if not needed[other]:
                eligible = sorted([*eligible, other])


def experiment(folder: Path, runs: int) -> tuple[Plan, Conf]:
    """A teacher and 99 students, each under as many seeds as give `runs`."""
    table = {
        "title": "many", "seeds": list(range(max(1, runs // 100))),
        "base": {"dataset": "cifar10", "arch": "resnet20", "recipe": "quickstart", "method": "kd",
                 "teacher": "resnet56"},
        "rows": {f"t{t}": {"label": f"T = {t}", "run": {"temperature": t}} for t in range(1, 12)},
        "columns": {f"b{w}": {"label": f"β = {w / 10}", "run": {"method.beta": w / 10}} for w in range(1, 10)},
    }  # fmt: skip
    for group, content in (("table", table), ("experiment", {"title": "many", "tables": ["many"]})):
        (folder / group).mkdir(parents=True)
        (folder / group / "many.yaml").write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    conf = Conf((folder, shipped_conf()))
    return make_plan(load_experiment(conf.load("experiment", "many"), "many"), conf), conf


def make_up(store: Store, runs: Iterable[Run]) -> None:
    """Records as of finished runs, with weights."""
    chance = random.Random(0)
    for run in runs:
        folder = store.directory(run)
        folder.mkdir(parents=True)
        values = {"top1": chance.uniform(90.0, 93.0), "nll": 0.3, "ece15": 0.02}
        result = {
            "id": run.id, "examples": 50000, "steps": 1000, "epochs": 10, "seconds": 3600.0 * HOURS, "gamma": 0.0,
            "last": {"test": values}, "best": {}, "train": {},
        }  # fmt: skip
        records: dict[str, Any] = {"config": run.identity(), "env": {"commit": "made up"}, "result": result}
        for name, content in records.items():
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        store.weights(run).touch()


CALLS = {"stat", "lstat", "open", "open_code", "listdir", "scandir", "access", "readlink", "mkdir", "rename", "replace"}


def file_calls(work: Callable[[], Any]) -> int:
    """How often `work` calls the file system, of itself."""
    count: Counter[str] = Counter()

    def look(frame: Any, event: str, called: Any) -> None:
        if event == "c_call" and called.__name__ in CALLS and called.__module__ in ("posix", "io", "_io"):
            count[called.__name__] += 1

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count.total()


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--gpus", type=int, default=1000)
    parser.add_argument("--together", type=int, default=8, help="runs side by side on a GPU")
    parser.add_argument("--folder", type=Path, help="where to make up the store; default: a temporary folder")
    given = parser.parse_args(words)
    if min(given.runs, given.gpus, given.together) < 1:
        parser.error("--runs, --gpus and --together must be >= 1")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        return measure(Path(folder), given.runs, given.gpus, given.together)


def measure(folder: Path, count: int, gpus: int, together: int) -> dict[str, float]:
    """What is printed: seconds by step, calls a run by "calls: " and the step, and what the simulation shows."""
    seconds: dict[str, float] = {}
    print("| step | seconds | file-system calls a run |\n|---|---|---|")

    def timed(name: str, work: Callable[[], Any], of: int) -> Any:
        begun = time.perf_counter()
        value = work()
        seconds[name] = time.perf_counter() - begun
        if of <= 2000:
            seconds[f"calls: {name}"] = file_calls(work) / of
        calls = f"{seconds[f'calls: {name}']:.1f}" if of <= 2000 else ""
        print(f"| {name} | {seconds[name]:.1f} | {calls} |", flush=True)
        return value

    begun = time.perf_counter()
    plan, conf = experiment(folder / "conf", count)
    seconds["plan"] = time.perf_counter() - begun
    runs, store = plan.runs, Store(folder / "results")
    print(f"| plan of {len(runs):,} runs | {seconds['plan']:.1f} | |", flush=True)
    timed("what is missing, nothing done", lambda: to_train(runs, store, plan.probes), len(runs))
    chance = random.Random(1)
    cost = {run.id: chance.uniform(0.5, 1.5) * HOURS for run in runs}
    made = timed(
        "cut into jobs",
        lambda: arrays(runs, lambda run: HOURS, together=together, limit=LIMIT, at_once=gpus),
        len(runs),
    )
    print(f"| = {sum(len(one.tasks) for one in made):,} tasks in {len(made)} arrays, as many calls of sbatch | | |")
    ready, used, hours = simulate(made, gpus, lambda run: cost[run.id])
    print(f"| = {gpus:,} GPUs, {hours / 24:.1f} days: busy {ready:.1%} while runs are ready, {used:.1%} of all | | |")
    seconds |= {"busy": ready, "used": used, "days": hours / 24, "arrays": len(made)}
    half = runs[: len(runs) // 2]
    begun = time.perf_counter()
    make_up(store, half)
    print(f"| = records of {len(half):,} runs are made up | {time.perf_counter() - begun:.1f} | |", flush=True)
    timed("what is missing, half done", lambda: to_train(runs, store, plan.probes), len(runs))
    timed("what is damaged, half done", lambda: damages(runs, store, plan.probes), len(runs))
    timed("what runs cost, half done", lambda: Costs(store, runs, "cuda"), len(runs))
    timed("plan in words, half done", lambda: describe(plan, runs, store, conf, "cuda", details=True), len(runs))
    timed("status, half done", lambda: status("many", standings(runs, store, conf, plan.probes)), len(runs))
    timed("report, half done", lambda: report.render(plan, Snapshot.of(store)), len(runs))
    return seconds


if __name__ == "__main__":
    main()
