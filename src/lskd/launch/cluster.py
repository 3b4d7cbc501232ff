"""What Slurm's commands say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable

from lskd.errors import InputError

PATIENCE = 60  # seconds for a command of Slurm
QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip


class SlurmError(Exception):
    """What a command of Slurm says that fails, on one line."""


def ask(*command: str) -> str:
    """What a command of Slurm prints."""
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=PATIENCE)
    except FileNotFoundError:
        raise SlurmError(f"there is no {command[0]} on the PATH") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} does not answer within {PATIENCE} s") from None
    if done.returncode:
        lines = [re.sub(r"^\w+: (error: )?", "", line) for line in done.stderr.splitlines() if line.strip()]
        raise SlurmError("; ".join(lines) or f"{command[0]} ends with {done.returncode}")
    return done.stdout


def states_of(jobs: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Of each task of `jobs`, "123_4", whether it is queued, running or ended, and what Slurm says of it."""
    listed, found = ",".join(sorted(jobs)), dict[str, tuple[str, str]]()
    try:  # of jobs that are long over, sacct knows, where there is accounting
        for line in ask("sacct", "-n", "-X", "-P", "-j", listed, "-o", "JobID,State").splitlines():
            id, _, state = line.partition("|")
            found[id] = "ended", state.partition(" ")[0]
    except SlurmError:
        pass
    try:  # squeue knows them for some minutes more (MinJobAge), and needs no accounting
        lines = ask("squeue", "-h", "-r", "-t", "all", "-j", listed, "-o", "%F|%K|%T|%r").splitlines()
    except SlurmError as error:
        if "Invalid job id" not in str(error):  # what it says of a single one that is over
            raise InputError(f"launcher = slurm: which jobs are queued cannot be told: {error}") from None
        lines = []
    for line in lines:
        job, task, state, reason = line.split("|", 3)
        told = state if reason == "None" else f"{state}: {reason}"
        where = "queued" if state in QUEUED else "ended" if state in ENDED else "running"
        found[f"{job}_{task}"] = where, state if where == "ended" else told
    return found


def most_tasks() -> int:
    """Of an array, as the cluster has it."""
    try:
        found = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"))
    except SlurmError:
        found = None
    return max(1, int(found[1]) - 1) if found else 1000


def seconds_of(limit: str) -> float | None:
    """A time limit as sbatch reads it: minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s; None for anything else."""
    days, dash, rest = limit.rpartition("-")
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", limit):
        return None
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) < 3:
        hours, minutes, seconds = 0, parts[0], [*parts, 0][1]
    else:
        hours, minutes, seconds = parts
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60.0 + seconds
