"""What one composed configuration asks for, carried out: its runs are shown, or trained and reported."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from lskd.config_groups import Conf
from lskd.describe import describe, summary
from lskd.launch.launchers import Launcher, Work
from lskd.launch.queue import chosen_again, damages, retrain, to_train
from lskd.plan import Plan, make_plan
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


def show_status(plan: Plan | None, runs: Sequence[Run], runtime: Runtime, conf: Conf) -> int:
    """Say how the runs are doing. The exit code: 0 when all are done, 3 while somebody is at it, else 1."""
    from lskd.launch.status import standings, status

    store = Store.at(runtime.results)
    found = standings(runs, store, conf, plan.probes if plan is not None else {})
    text, code = status(plan.experiment.name if plan is not None else str(runs[-1]), found)
    print(text)
    return code


def execute(
    plan: Plan | None,
    runs: tuple[Any, ...],
    runtime: Runtime,
    conf: Conf,
    plan_only: Any,
    lines: Sequence[str],
    launcher: Launcher,
    words: Sequence[str],
) -> int:
    """Show, have trained what is missing, by `launcher`, which may start the same `words` elsewhere, and report. The
    exit code."""
    store = Store.at(runtime.results)
    probes = plan.probes if plan is not None else {}
    name = plan.experiment.name if plan is not None else "run"
    work = Work(name, runs, store, runtime, conf, probes, words)
    print(describe(plan, runs, store, conf, runtime.device_type, details=bool(plan_only)), flush=True)
    for reason in damages(runs, store, probes):
        print(f"lskd-run: DAMAGED and left out: {reason}", file=sys.stderr, flush=True)
    if plan_only:
        if plan is None and any(run.method.settings.reads_features for run in runs):
            from lskd.launch.preflight import check_buildable

            check_buildable(runs, conf.cache)  # of an experiment's many kinds this is left to the training's start
        if said := [*launcher.describe(work), *lines]:
            print("\n".join(said))
        if plan_only == "fleet":
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
    if plan is not None:
        from lskd import report

        # The files show the experiment as its own file has it, whatever seeds or settings were asked for this time.
        name = plan.experiment.name
        whole = make_plan(load_experiment(conf.load("experiment", name), name), conf)
        seen = Snapshot.of(store)
        written = report.write(report.render(whole, seen), store.root)
        text = report.text(report.render(plan, seen), columns=terminal_columns())
        print("\n".join([text, *(f"wrote {path}" for path in written)]))
    else:
        print(summary(runs[-1], store))
    return outcomes.exit_code
