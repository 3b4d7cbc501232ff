"""What one composed configuration asks for, carried out: its runs are shown, or trained and reported."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lskd.config_groups import Conf
from lskd.describe import describe, summary
from lskd.launch.launchers import Launcher, Work
from lskd.launch.queue import chosen_again, damages, retrain, to_train
from lskd.plan import Plan, in_order, make_plan
from lskd.program import terminal_columns
from lskd.run import Run
from lskd.runtime import Runtime
from lskd.snapshot import Snapshot
from lskd.store import Store
from lskd.tables.experiment import load_experiment


def own_words(message: str) -> str:
    """A message about data with the names that its options have here; in lskd-data they are --data and --cache."""
    return re.sub(r"(?<=\s)--(data|cache)\b", r"runtime.\1", message)


def again(runs: Iterable[Run], runtime: Runtime, *, only_check: bool) -> None:
    """What `runtime.retrain` asks for of `runs`."""
    if not only_check:
        retrain(runs, Store.at(runtime.results), runtime.retrain)
    elif chosen := chosen_again(runs, runtime.retrain):
        print(f"runtime.retrain: of these, {len(chosen)} would be trained again if they are done, or begun anew")


@dataclass(frozen=True)
class Job:
    """What one composed configuration asks for: all of a command, or one job of a sweep (-m)."""

    plan: Plan | None  # None: a single run, with those that it needs
    runs: tuple[Run, ...]  # the single run is the last
    runtime: Runtime
    conf: Conf
    plan_only: Any  # what of it to show, and to train nothing
    status: bool
    lines: Sequence[str]  # more to show
    launcher: Launcher
    words: Sequence[str]  # of the command line, which ask for the same elsewhere

    @property
    def asked(self) -> tuple[Run, ...]:
        """The runs that it is about."""
        return self.runs[-1:] if self.plan is None else self.runs


def execute(jobs: Sequence[Job]) -> int:
    """Show what the jobs ask for, or have trained what is missing, and report. The exit code; after one that is neither
    0 nor 1 nothing more was done. Jobs of one runtime that are trained here are one plan: their runs train side by
    side."""
    if any(job.status for job in jobs):
        return show_status(jobs)
    groups: dict[Any, list[Job]] = {}
    for place, job in enumerate(jobs):
        alone = None if job.launcher.here else place  # elsewhere the words of each are started
        groups.setdefault((job.runtime, job.launcher if job.launcher.here else alone, bool(job.plan_only)), []).append(
            job
        )
    code = 0
    for group in groups.values():
        code = _execute(group) or code
        if code > 1:
            break
    return code


def parts(jobs: Sequence[Job]) -> list[tuple[Plan | None, tuple[Run, ...], Conf]]:
    """The single runs of the jobs in one plan, and each experiment."""
    single = in_order(job.runs[-1] for job in jobs if job.plan is None)
    found: list[tuple[Plan | None, tuple[Run, ...], Conf]] = [(None, single, jobs[0].conf)] if single else []
    return found + [(job.plan, job.runs, job.conf) for job in jobs if job.plan is not None]


def show_status(jobs: Sequence[Job]) -> int:
    """Say how the runs are doing. The exit code: 0 when all are done, 3 while somebody is at it, else 1."""
    from lskd.launch.status import standings, status

    codes = []
    for job in jobs if len({job.runtime for job in jobs}) > 1 else (None,):
        some = jobs if job is None else [job]
        store = Store.at(some[0].runtime.results)
        for plan, runs, conf in parts(some):
            found = standings(runs, store, conf, plan.probes if plan is not None else {})
            name = plan.experiment.name if plan is not None else str(runs[-1]) if len(some) == 1 else "sweep"
            text, code = status(name, found)
            print(text)
            codes.append(code)
    return max(codes)


def _execute(jobs: Sequence[Job]) -> int:
    first = jobs[0]
    runtime, conf, launcher = first.runtime, first.conf, first.launcher
    store = Store.at(runtime.results)
    runs = in_order(run for job in jobs for run in job.runs)
    probes: dict[str, tuple[Any, ...]] = {}
    for job in jobs:
        for id, its in job.plan.probes.items() if job.plan is not None else ():
            probes[id] = tuple(dict.fromkeys((*probes.get(id, ()), *its)))
    name = "sweep" if len(jobs) > 1 else first.plan.experiment.name if first.plan is not None else "run"
    work = Work(name, runs, store, runtime, conf, probes, first.words)
    for plan, some, of_it in parts(jobs):
        print(describe(plan, some, store, of_it, runtime.device_type, details=bool(first.plan_only)), flush=True)
    for reason in damages(runs, store, probes):
        print(f"lskd-run: DAMAGED and left out: {reason}", file=sys.stderr, flush=True)
    if first.plan_only:
        if any(job.plan is None and run.method.settings.reads_features for job in jobs for run in job.runs):
            from lskd.launch.preflight import check_buildable

            check_buildable(runs, conf.cache)  # of an experiment's many kinds this is left to the training's start
        if said := [*launcher.describe(work), *(line for job in jobs for line in job.lines)]:
            print("\n".join(said))
        if any(job.plan_only == "fleet" for job in jobs):
            from lskd.environment import resolve_device
            from lskd.launch.fleet import Fleet

            fleet = Fleet(runs, runtime, resolve_device(runtime.device), conf)
            print(fleet.describe(to_train(runs, store, probes)))
        return 0
    from lskd.launch.sweep import why_blocked

    outcomes = launcher.carry_out(work)
    for run, reason in outcomes.failed:
        print(f"lskd-run: FAILED {run} ({store.directory(run)}): {own_words(reason)}", file=sys.stderr)
    for run in outcomes.blocked:
        print(f"lskd-run: NOT RUN {run}: {why_blocked(run, store)}", file=sys.stderr)
    if outcomes.interrupted:
        print("lskd-run: interrupted; the same command goes on from here", file=sys.stderr)
        return outcomes.exit_code
    if outcomes.submitted is not None:
        for line in outcomes.submitted:
            print(line)
        return outcomes.exit_code
    for job in jobs:
        if job.plan is not None:
            _report(job.plan, job.conf, store)
    if first.plan is None and len(jobs) == 1:
        print(summary(first.runs[-1], store))
    return outcomes.exit_code


def _report(plan: Plan, conf: Conf, store: Store) -> None:
    from lskd import report

    # The files show the experiment as its own file has it, whatever seeds or settings were asked for this time.
    name = plan.experiment.name
    whole = make_plan(load_experiment(conf.load("experiment", name), name), conf)
    seen = Snapshot.of(store)
    written = report.write(report.render(whole, seen), store.root)
    text = report.text(report.render(plan, seen), columns=terminal_columns())
    print("\n".join([text, *(f"wrote {path}" for path in written)]))


def show_sweep(jobs: Sequence[Job], folder: Path) -> int:
    """All jobs of a sweep in one table, on the terminal and in `folder`. The exit code: 1 where a run failed, or one
    that it needs."""
    from lskd.environment import published
    from lskd.launch.status import standings
    from lskd.report import sweep

    by_store: dict[str, list[Job]] = {}
    for job in jobs:
        by_store.setdefault(job.runtime.results, []).append(job)
    code, rows = 0, []
    for results, some in by_store.items():
        store = Snapshot.of(Store.at(results))
        asked: dict[tuple[str, str], tuple[str, Run]] = {}
        for job in some:
            name = job.plan.experiment.name if job.plan is not None else ""
            asked |= {(name, run.id): (name, run) for run in job.asked}
        states: dict[str, str] = {}
        for plan, runs, conf in parts(some):
            found = standings(runs, store, conf, plan.probes if plan is not None else {})
            code = max(code, *(one.how in ("failed", "blocked") for one in found))
            states |= sweep.states(found)
        rows.append(sweep.rows(store, list(asked.values()), states))
    table = sweep.table(rows)
    print(f"\n{sweep.as_markdown(table)}\n")
    for path in sweep.write(table, published(sys.argv), folder):
        print(f"wrote {path}")
    return code
