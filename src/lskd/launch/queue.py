"""Which runs of a plan there is something to do for, and in which order."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lskd.errors import InputError
from lskd.plan import Probes
from lskd.run import ProbeSpec, Run, without_code
from lskd.store import Store


def to_train(runs: Sequence[Run], store: Store, probes: Probes = MappingProxyType({})) -> list[Run]:
    """Those of `runs`, and of their `parents`, that there is something to do for: the missing ones, finished parents of
    missing ones whose weights are not here (results are shared without weights), and finished ones that a probe
    has not looked at. What is damaged is left as it is."""
    needed: dict[str, Run] = {}

    def want(run: Run, weights: bool) -> None:
        if run.id in needed or is_complete(run, store, probes, weights=weights):
            return
        if store.state(run) == "damaged":
            return
        if not needs_only_probes(run, store, probes):
            for parent in run.parents:
                want(parent, True)
        needed[run.id] = run

    for run in runs:
        want(run, False)
    return list(needed.values())


def damages(runs: Iterable[Run], store: Store, probes: Probes = MappingProxyType({})) -> list[str]:
    """What in the store's records of `runs` cannot be used, each in one line that says what to do."""
    found = []
    for run in runs:
        if (reason := store.damage(run)) is not None:
            found.append(reason)
        for one in probes.get(run.id, ()):
            try:
                store.readings(run, one)
            except InputError as error:
                found.append(str(error))
    return found


def is_complete(run: Run, store: Store, probes: Probes, *, weights: bool) -> bool:
    """Whether the run is finished and has been looked at (and, if `weights`, its weights are here)."""
    if store.state(run) != "done" or (weights and not store.weights(run).is_file()):
        return False
    return not missing_probes(run, store, probes)


def missing_probes(run: Run, store: Store, probes: Probes) -> list[ProbeSpec]:
    """The probes of `run` that have not been made."""
    return [one for one in probes.get(run.id, ()) if not store.seen(run, one)]


def needs_only_probes(run: Run, store: Store, probes: Probes) -> bool:
    """Whether all that a finished run lacks can be seen of its weights (and, if need be, of its teacher's), which are
    here: it need not be trained."""
    if not store.ready(run):
        return False
    lacking = [one.settings for one in missing_probes(run, store, probes)]
    shown = run.teacher if any(one.needs_teacher for one in lacking) else None
    return not any(one.every for one in lacking) and (shown is None or store.weights(shown).is_file())


def by_other_code(runs: Iterable[Run], store: Store) -> dict[str, list[str]]:
    """Of each of `runs` the ids of finished runs that differ from it in nothing but the code that computed them.

    Looked for are older ones, of runs whose code is not the first version of the package's own."""
    wanted: dict[str, str] = {}
    for run in runs:
        given = run.identity()
        if without_code(given) != given:
            wanted[_plain_words(given)] = run.id
    found: dict[str, list[str]] = {}
    for id, config in store.configs() if wanted else ():
        new = wanted.get(_plain_words(config))
        if new is not None and new != id:
            found.setdefault(new, []).append(id)
    return found


def _plain_words(config: Mapping[str, Any]) -> str:
    return json.dumps(without_code(config), sort_keys=True)


def retrain(runs: Iterable[Run], store: Store, asked: bool | Sequence[str]) -> None:
    """Have all of `runs` (asked = true), or those of the ids `asked`, trained again. `InputError` for other ids.

    What is asked for is kept in the store until it is done, so that a sweep that was killed goes on with it: the same
    request is made anew only when nothing is left of it.
    """
    chosen = chosen_again(runs, asked)
    request = hashlib.sha256(" ".join(sorted(run.id for run in chosen)).encode()).hexdigest()[:12]
    if chosen:
        store.check_writable()
    if any(store.request(run) == request for run in chosen):
        print("lskd-run: runtime.retrain: going on with what is left of the same request", file=sys.stderr)
        return
    for run in chosen:
        with store.claim(run) as ours:
            if ours:  # else it is being trained as it is
                store.ask_again(run, request)


def chosen_again(runs: Iterable[Run], asked: bool | Sequence[str]) -> list[Run]:
    """Those of `runs` that `runtime.retrain` is about."""
    known = {run.id: run for run in runs}
    if isinstance(asked, bool):
        return list(known.values()) if asked else []
    for id in asked:
        if id not in known:
            raise InputError(f"runtime.retrain = {id!r}: is no run of this plan; plan=commands shows their ids")
    return [known[id] for id in dict.fromkeys(asked)]


def by_teacher(runs: Sequence[Run]) -> list[Run]:
    """Teachers, and what others start from, first, so that nothing waits for them at the end; then the students of one
    teacher together, because they share its cache of logits. Otherwise in the order given."""
    teaching = {parent.id for run in runs for parent in run.parents}
    first: dict[str, int] = {}
    for place, run in enumerate(runs):
        first.setdefault(_teacher_id(run), place)
    return sorted(runs, key=lambda run: (run.id not in teaching, first[_teacher_id(run)]))


def _teacher_id(run: Run) -> str:
    return run.teacher.id if run.teacher is not None else ""
