"""`launcher=slurm`: what is missing of a plan as Slurm's array jobs, teachers first, each after those that it needs.

In the store each array has a folder `.jobs/KEY`: job.json (its number in Slurm, and which runs each task is to do),
the script, and what the tasks print. Whether a task waits, runs or is over is asked of squeue and sacct. The store says
what is done: a task does what is missing of its runs and nobody has, and ends, whatever is said here.

A task gets SIGUSR1 before its time limit and SIGTERM where it is preempted: it writes its checkpoints, ends with 130,
and its script has it requeued. sbatch is called directly: submitit, which wraps it, sends pickled functions and
collects what they return, of which nothing is needed here; it ignores SIGTERM, which is all that a preempted job gets.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from lskd import claims
from lskd.errors import InputError, choices, require
from lskd.launch.cluster import SlurmError, ask, most_tasks, seconds_of, states_of
from lskd.launch.cost import Costs
from lskd.launch.fleet import GPU_FLEET
from lskd.launch.jobs import Array, Place, arrays
from lskd.launch.launchers.launcher import Elsewhere, Launcher, Work, register
from lskd.launch.queue import needs_only_probes, to_train
from lskd.launch.sweep import Outcomes, carry_out
from lskd.plan import training_examples
from lskd.run import Run
from lskd.store import Store
from lskd.trackers import check_trackers

START_SECONDS = 120  # of a job, before its first step
PROGRAM = "import sys; sys.argv[0] = 'lskd-run'; from lskd.program import lskd_run; sys.exit(lskd_run())"


@register("slurm")
@dataclass(frozen=True)
class Slurm(Launcher):
    """Slurm's array jobs: see conf/launcher/slurm.yaml."""

    partition: str | None = None
    account: str | None = None
    time: str | None = "04:00:00"
    gpus: int = 1
    cpus: int = 4
    memory: str | int | None = None
    array: int = 16
    warning: int = 120
    setup: str = ""
    sbatch: dict[str, str | int | bool | None] = field(default_factory=dict)
    job: str = ""  # in a job: the key of its array

    def __post_init__(self) -> None:
        require(self.gpus >= 0, "gpus", self.gpus, ">= 0")
        require(self.cpus >= 1, "cpus", self.cpus, ">= 1")
        require(self.array >= 1, "array", self.array, ">= 1")
        require(self.warning >= 0, "warning", self.warning, ">= 0")
        # (No number: of minutes it would be, but in a YAML file 8:00:00 without quotes is a number of seconds.)
        readable = self.time is None or seconds_of(self.time) is not None
        require(readable, "time", self.time, "h:mm:ss or days-h:mm:ss, in a file in quotes")
        limit = seconds_of(self.time or "")
        rule = f"longer than launcher.warning = {self.warning} s"
        require(not limit or limit > self.warning, "time", self.time, rule)
        for key in self.sbatch:
            own = OWN.get(key.replace("-", "_"))
            if own is not None:
                rule = f"launcher.{own}" if own else "lskd itself"
                raise InputError(f"sbatch.{key} = {self.sbatch[key]!r}: is said by {rule}")

    # ---- in a job --------------------------------------------------------------------------------------------------

    def carry_out(self, work: Work) -> Outcomes:
        if not self.job:
            return self.submit(work)
        record = work.store.job(self.job)
        if record is None:
            raise InputError(f"launcher.job = {self.job!r}: is no job of {work.store.root}")
        task = int(os.environ.get("SLURM_ARRAY_TASK_ID") or 0)
        if not record.get("job") and (array := os.environ.get("SLURM_ARRAY_JOB_ID")):  # who submitted it has not said
            work.store.write_job(self.job, {**record, "job": array})
        known, ids = {run.id for run in work.runs}, record["tasks"][task]
        if strange := [id for id in ids if id not in known]:
            raise InputError(
                f"launcher.job = {self.job!r}: run {strange[0]} is not in the plan of the same words any more: files "
                "or code have changed since it was submitted; submit again"
            )
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        if self.gpus > 1 and len(devices) == self.gpus:  # a process each, unless Slurm has given each its own
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[int(os.environ.get("SLURM_LOCALID") or 0)]
        outcomes = carry_out(work.runs, work.store, work.runtime, work.conf, work.probes, only=set(ids))
        for run in outcomes.left if not outcomes.interrupted else ():
            print(f"lskd-run: LEFT {run}: another process has it, or what it needs is not there", file=sys.stderr)
        return replace(outcomes, submitted=[])

    # ---- before it -------------------------------------------------------------------------------------------------

    def submit(self, work: Work) -> Outcomes:
        """Submit what is missing and nobody has."""
        check_trackers(work.runtime.tracker)
        store = work.store
        pending = to_train(work.runs, store, work.probes)
        outcomes = Outcomes(damaged=[run for run in work.runs if store.state(run) == "damaged"])
        if not pending:
            return outcomes
        if shutil.which("sbatch") is None:
            raise InputError(
                "launcher = slurm: there is no sbatch on the PATH; submit from a machine of the cluster, or leave "
                "launcher out to train here"
            )
        self.check()
        from lskd.launch.preflight import check_buildable

        check_buildable(pending, work.conf.cache)
        store.check_writable()
        with alone(store):
            there = self.elsewhere(store, [run.id for run in pending])
            placed = {id: place(one.job) for id, one in there.items() if one.state != "ended"}
            ready, outcomes.submitted = self.sift(work, pending, placed, outcomes)
            self.send(work, ready, placed, outcomes.submitted)
        return outcomes

    def sift(
        self, work: Work, pending: Sequence[Run], placed: Mapping[str, Place], outcomes: Outcomes
    ) -> tuple[list[Run], list[str]]:
        """Those of the missing runs that are to be submitted, and what is to be said of the others."""
        store, ready, told = work.store, dict[str, Run](), list[str]()
        lost, waiting, busy = set[str](), list[Run](), list[str]()
        missing = {run.id for run in pending}
        for run in pending:
            parents = [] if needs_only_probes(run, store, work.probes) else [p.id for p in run.parents]
            if run.id in placed:
                continue
            if (found := store.claims.holder(run.id)) is not None and found[1]:
                busy.append(f"  {run} is being trained on {found[0].host} (process {found[0].pid})")
            elif store.state(run) == "diverged" and not work.runtime.retry:
                lost.add(run.id)
                message = (store.failure(run) or {}).get("message", "diverged")
                outcomes.failed.append((run, f"{message} (runtime.retry=true tries again)"))
            elif any(parent.id in lost or store.state(parent) == "damaged" for parent in run.parents) and parents:
                lost.add(run.id)
                outcomes.blocked.append(run)
            elif any(id in missing and id not in ready and id not in placed for id in parents):
                waiting.append(run)
            else:
                ready[run.id] = run
        if placed:
            told.append(f"{counted(len(placed))} in jobs already")
        told += busy
        if waiting:
            told.append(f"{counted(len(waiting))} not submitted, for want of these: start again when they are done")
        return list(ready.values()), told

    def cut(self, work: Work, runs: Sequence[Run], placed: Mapping[str, Place]) -> list[tuple[Array, str]]:
        """The arrays for `runs`, and each in words."""
        processes = max(1, self.gpus)
        costs = Costs(work.store, runs, "cuda" if self.gpus else "cpu")
        seconds = {run.id: costs.estimate(run, training_examples(run, work.conf)) for run in runs}
        limit = seconds_of(self.time or "") or 7 * 24 * 3600
        made = arrays(
            runs, lambda run: seconds[run.id],
            together=processes * (work.runtime.fleet or (GPU_FLEET if self.gpus else self.cpus)),
            limit=processes * max(60.0, limit - self.warning - START_SECONDS),
            at_once=self.array, most_tasks=most_tasks(), placed=placed,
            key=f"{work.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}-",
        )  # fmt: skip
        return [(one, described(one, seconds, processes)) for one in made]

    def describe(self, work: Work) -> list[str]:
        pending = to_train(work.runs, work.store, work.probes)
        there = self.elsewhere(work.store, [run.id for run in pending])
        placed = {id: place(one.job) for id, one in there.items() if one.state != "ended"}
        runs, told = self.sift(work, pending, placed, Outcomes())
        made = self.cut(work, runs, placed)
        numbers = {one.key: f"array {number}" for number, (one, _) in enumerate(made, 1)}
        sizes = {one.key: len(one.tasks) for one, _ in made}
        for one, text in made:
            told.append(f"  {numbers[one.key]}: {text}{after(one, numbers, sizes)}")
        return told

    def send(self, work: Work, runs: Sequence[Run], placed: Mapping[str, Place], told: list[str]) -> None:
        """Submit `runs`, and say in `told` what has been."""
        made = self.cut(work, runs, placed)
        jobs: dict[str, str] = {}  # the numbers in Slurm, by the arrays' keys
        sizes = {one.key: len(one.tasks) for one, _ in made}
        for one, text in made:
            try:
                jobs[one.key] = self.send_array(work, one, dependency(one, jobs, sizes))
            except InputError as error:
                sent = ", ".join(jobs.values()) or "none"
                raise InputError(f"{error}; of {len(made)} arrays these are submitted: {sent}") from None
            told.append(f"job {jobs[one.key]}: {text}{after(one, jobs, sizes)}")

    def send_array(self, work: Work, array: Array, needs: str) -> str:
        """Its number in Slurm."""
        folder = work.store.job_folder(array.key)
        folder.mkdir(parents=True)
        script = folder / "job.sh"
        script.write_text(self.script(work.words, array.key), encoding="utf-8")
        tasks = [[run.id for run in task] for task in array.tasks]
        record = {"tasks": tasks, "submitted": time.time(), "words": list(work.words), "after": needs}
        work.store.write_job(array.key, {**record, "job": None})
        options = [
            *self.options(),
            f"--job-name=lskd-{work.name}",
            f"--output={folder}/%a.out",
            f"--array=0-{len(tasks) - 1}%{array.at_once}",
            *([f"--dependency=afterany{needs}", "--kill-on-invalid-dep=yes"] if needs else []),
        ]
        try:
            job = ask("sbatch", "--parsable", *options, str(script)).strip().partition(";")[0]
        except SlurmError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise InputError(f"launcher = slurm: sbatch refuses it: {error}") from None
        work.store.write_job(array.key, {**record, "job": job})
        return job

    def options(self) -> list[str]:
        """What sbatch is told, but for what differs between arrays."""
        given = {
            "partition": self.partition, "account": self.account, "time": self.time, "mem": self.memory,
            "nodes": 1, "ntasks": max(1, self.gpus), "cpus-per-task": self.cpus,
            "gpus-per-node": self.gpus or None, "signal": f"USR1@{self.warning}" if self.warning else None,
            "requeue": True, "open-mode": "append", "export": "ALL", **self.sbatch,
        }  # fmt: skip
        words = []
        for key, value in given.items():
            option = f"--{key.replace('_', '-')}"
            if value is True:
                words.append(option)
            elif value is not None and value is not False:
                words.append(f"{option}={value}")
        return words

    def script(self, words: Sequence[str], key: str) -> str:
        """What a task does: `lskd-run` with the same words, a process a GPU. Where all were told to stop, it is put
        into the queue again, unless it is Slurm that ends it."""
        command = shlex.join([sys.executable, "-c", PROGRAM, *words, f"launcher.job='{key}'"])
        return f"""#!/bin/bash
cd {shlex.quote(os.getcwd())} || exit
{self.setup}
# Slurm tells the processes of a step what it tells this shell, which waits for them.
trap : TERM USR1 INT
srun --ntasks={max(1, self.gpus)} --cpus-per-task={self.cpus} --kill-on-bad-exit=0 {command} &
while wait $!; kill -0 $! 2>/dev/null; do :; done
wait $!
code=$?
# 130: they were asked to stop, and have written checkpoints; 138, 143: before they could listen. A job that is being
# cancelled is in no such state any more.
case $code in 130|138|143)
  if [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ] && scontrol requeue "$SLURM_JOB_ID"; then sleep 60; fi ;;
esac
exit $code
"""

    def check(self) -> None:
        """`InputError` where sbatch would not take a job of these settings."""
        try:
            ask("sbatch", "--test-only", *self.options(), "--wrap=true")
        except SlurmError as error:
            text = str(error)
            if "artition" in text and self.partition is not None:
                names = sorted({name.rstrip("*") for name in ask("sinfo", "-h", "-o", "%R").split()})
                if self.partition not in names:
                    raise InputError(
                        f"launcher.partition = {self.partition!r}: {choices(self.partition, names)}"
                    ) from None
            if "node configuration" in text:
                asked = ", ".join(f"launcher.{key} = {getattr(self, key)}" for key in ("gpus", "cpus", "memory"))
                has = "; ".join(sorted(set(ask("sinfo", "-h", "-o", "%R: %c cores, %m MB, %G").splitlines())))
                raise InputError(f"{asked}: no node has so much ({has})") from None
            raise InputError(f"launcher = slurm: sbatch refuses it: {text}") from None

    # ---- after it --------------------------------------------------------------------------------------------------

    def elsewhere(self, store: Store, ids: Iterable[str]) -> Mapping[str, Elsewhere]:
        wanted, tasks = set(ids), dict[str, tuple[str, int, str]]()
        for key, record in store.jobs():  # the oldest first
            if record.get("job"):
                for number, of_task in enumerate(record["tasks"]):
                    for id in wanted.intersection(of_task):
                        tasks[id] = record["job"], number, str(store.job_folder(key) / f"{number}.out")
        if not tasks or shutil.which("squeue") is None:  # the results have been taken elsewhere
            return {}
        states = states_of({job for job, _, _ in tasks.values()})
        found = {}
        for id, (job, number, log) in tasks.items():
            state, told = states.get(f"{job}_{number}", ("ended", ""))
            found[id] = Elsewhere(f"{job}_{number}", state, told, log)  # type: ignore[arg-type]
        return found


# What of sbatch's options is a setting of its own, or must be as it is.
OWN = {
    "partition": "partition", "account": "account", "time": "time", "mem": "memory", "gpus_per_node": "gpus",
    "cpus_per_task": "cpus", "array": "array", "signal": "warning", "ntasks": "", "nodes": "", "output": "",
    "dependency": "", "wrap": "", "parsable": "", "job_name": "",
}  # fmt: skip


def place(job: str) -> Place:
    array, _, task = job.partition("_")
    return array, int(task)


def dependency(array: Array, jobs: Mapping[str, str], sizes: Mapping[str, int]) -> str:
    """The tasks that an array waits for, as ":123:124_0:124_1"; 123 are all of an array."""
    by_array: dict[str, list[int]] = {}
    for key, task in sorted(array.after):
        by_array.setdefault(key, []).append(task)
    words = []
    for key, tasks in by_array.items():
        job = jobs.get(key, key)
        words += [job] if len(tasks) == sizes.get(key) else [f"{job}_{task}" for task in tasks]
    return "".join(f":{word}" for word in words)


def after(array: Array, jobs: Mapping[str, str], sizes: Mapping[str, int]) -> str:
    """The same in words: ", after 123, 124_0"."""
    names = dependency(array, jobs, sizes).split(":")[1:]
    return f", after {', '.join(names)}" if names else ""


def counted(number: int, noun: str = "run") -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def described(array: Array, seconds: Mapping[str, float | None], processes: int) -> str:
    """An array in words: "2 tasks, 16 runs, at most about 3 h 5 min each"."""
    from lskd.launch.progress import duration

    text = f"{counted(len(array.tasks), 'task')}, {counted(sum(map(len, array.tasks)))}"
    longest = max(sum(seconds[run.id] or 0.0 for run in task) for task in array.tasks) / processes
    return text + (f", at most about {duration(longest)} each" if longest else "")


@contextmanager
def alone(store: Store) -> Any:
    """No other process submits from this store meanwhile."""
    until = time.monotonic() + 2 * claims.EXPIRES * claims.BEAT
    while (lease := store.claims.take("submission")) is None:
        if time.monotonic() > until:
            raise InputError(
                "launcher = slurm: another process is submitting runs from these results; start again later"
            )
        time.sleep(0.5)
    try:
        yield
    finally:
        lease.release(over=True)
