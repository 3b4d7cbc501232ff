"""How the runs of a plan are doing: what is done, who trains what, what is in a queue, what failed and why. Asks the
store, the claims in it, and the launchers that have been given runs; it changes nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from lskd.claims import Holder
from lskd.config_groups import Conf
from lskd.launch.launchers import Elsewhere, handed_over
from lskd.launch.progress import duration, position, unit
from lskd.launch.queue import to_train
from lskd.plan import Probes, training_examples
from lskd.run import Run
from lskd.store import Store

How = Literal["done", "running", "queued", "failed", "blocked", "missing"]
WORDS: dict[How, str] = {
    "done": "done",
    "running": "running",
    "queued": "queued",
    "failed": "failed",
    "blocked": "that need one that failed",
    "missing": "that nobody has",
}
IN_PROGRESS, NOT_DONE = 3, 1  # exit codes; 0: all is done


@dataclass(frozen=True)
class Standing:
    """How one run is doing."""

    run: Run
    how: How
    told: str = ""
    job: str = ""  # "job 12_3 (PENDING: Priority)"


def standings(runs: Sequence[Run], store: Store, conf: Conf, probes: Probes = MappingProxyType({})) -> list[Standing]:
    """Of each of `runs`, in their order."""
    wanted = {run.id for run in to_train(runs, store, probes)}
    wanted |= {run.id for run in runs if run.id not in wanted and store.state(run) == "damaged"}
    there = handed_over(store, [run.id for run in runs if run.id in wanted])
    lost, found = set[str](), list[Standing]()
    for run in runs:
        if run.id not in wanted:
            found.append(Standing(run, "done"))
            continue
        one = standing(run, store, conf, there.get(run.id), lost)
        if one.how in ("failed", "blocked"):
            lost.add(run.id)
        found.append(one)
    return found


def standing(run: Run, store: Store, conf: Conf, there: Elsewhere | None, lost: set[str]) -> Standing:
    """Of one that is not done. `lost`: ids of those that failed."""
    held = store.claims.holder(run.id)
    job = f"job {there.job}" + (f" ({there.told})" if there.told else "") if there is not None else ""
    if held is not None and held[1]:
        return Standing(run, "running", training(run, held[0], conf), job)
    if there is not None and there.state != "ended":
        return Standing(run, "queued", "", job)
    if (reason := store.damage(run)) is not None:
        return Standing(run, "failed", f"DAMAGED: {reason}")
    if (failure := store.failure(run)) is not None:
        return Standing(run, "failed", " ".join(str(failure.get("message", failure.get("reason"))).split()))
    if any(parent.id in lost for parent in run.parents):
        return Standing(run, "blocked")
    if there is not None and there.told not in ("", "COMPLETED"):
        return Standing(run, "failed", f"job {there.job} ended: {there.told}; it printed {there.log}")
    if held is not None:
        return Standing(run, "missing", f"{held[0].host} had it (process {held[0].pid}), and does not answer any more")
    return Standing(run, "missing")


def training(run: Run, holder: Holder, conf: Conf) -> str:
    """Where a run is being trained, since when, and how far it is."""
    since = time.localtime(holder.since)
    same_day = time.strftime("%x", since) == time.strftime("%x")
    told = [
        f"{holder.host} process {holder.pid}" if not holder.job else f"{holder.host} job {holder.job}",
        time.strftime("since %H:%M" if same_day else "since %Y-%m-%d %H:%M", since),
    ]
    if holder.steps:
        told.append(position(run.recipe, holder.step, holder.steps, training_examples(run, conf)))
    if holder.pace:
        told.append(f"{run.recipe.batch_size / holder.pace:,.0f} {unit(run)}/s")
        told.append(f"{duration((holder.steps - holder.step) * holder.pace)} left")
    return ", ".join(told)


def status(name: str, found: Sequence[Standing]) -> tuple[str, int]:
    """The standings in words, generation by generation, and the exit code."""
    lines = [f"{name}: {counted(found)}"]
    for generation in sorted({one.run.generation for one in found}):
        of_it = [one for one in found if one.run.generation == generation]
        if all(one.how == "done" for one in of_it):
            lines.append(f"generation {generation}: {counted(of_it)}")
            continue
        lines += [f"generation {generation}: {counted(of_it)}", *details(of_it)]
    at_it = any(one.how in ("running", "queued") for one in found)
    done = all(one.how == "done" for one in found)
    return "\n".join(lines), 0 if done else IN_PROGRESS if at_it else NOT_DONE


def counted(found: Sequence[Standing]) -> str:
    """ "8 runs: 6 done, 2 running"."""
    counts = Counter(one.how for one in found)
    told = ", ".join(f"{counts[how]} {word}" for how, word in WORDS.items() if counts[how])
    return f"{len(found)} run{'s' * (len(found) != 1)}: {told or 'none'}"


def details(found: Sequence[Standing]) -> Iterator[str]:
    for how in ("running", "failed", "missing"):
        for one in found:
            if one.how == how and one.told:
                yield f"  {how:<8} {one.run.id}  {one.run}: {one.told}"
    queued = Counter(one.job for one in found if one.how == "queued")
    for job, count in queued.items():
        yield f"  queued   {count} run{'s' * (count > 1)} in {job}"
