"""The machine that runs are made on: its device, its cores, and what a record says of it."""

from __future__ import annotations

import functools
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch

import lskd
from lskd.errors import InputError


def resolve_device(name: str) -> torch.device:
    """The device that `runtime.device` names; asking for a GPU that is not there is an `InputError`."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            there = f"cuda:0 to cuda:{count - 1}, " if count else ""
            raise InputError(
                f"runtime.device = {name!r}: there are {count} CUDA devices here; allowed: {there}auto, cpu"
            )
    return device


def check_precision(precisions: Iterable[str], device: torch.device, setting: str = "recipe.precision") -> None:
    """`InputError` where TF32 is asked for and `device` does not have it: then numbers would be those of fp32, under
    another name."""
    has = device.type == "cuda" and (torch.version.hip or torch.cuda.get_device_capability(device) >= (8, 0))
    if "tf32" in precisions and not has:
        there = "a CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
        raise InputError(f"{setting} = 'tf32': {there} has no TF32 and would compute in fp32; allowed here: fp32, bf16")


def available_cores(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores that this process may use: a cluster's job may have fewer than the machine, and a container a share of
    them (`cgroup_cores`, which is rounded up)."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13: what -X cpu_count says counts
        cores = os.process_cpu_count() or 1
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cgroup_cores(cgroups, own))))


def cgroup_cores(cgroups: Path, own: Path) -> float:
    """Cores whose time the control groups of this process, which `own` names, allow: the least that one of them or of
    those around it does; infinite where none limits it.

    Version 2 has the microseconds that are allowed in a period, and the period, in cpu.max, version 1 each in a file.
    In a container the names may be those outside; what is mounted at `cgroups` then is its own group.
    """
    least = math.inf
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return least
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (cgroups / controllers, cgroups / "cpu") if controllers else (cgroups, cgroups / "unified"):
            group = PurePosixPath(path)
            for name in (group, *group.parents):
                folder = mount / str(name).lstrip("/")
                files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
                try:
                    text = " ".join((folder / file).read_text(encoding="utf-8") for file in files)
                    quota, period = map(float, text.split())  # "max", or -1: no limit
                except (OSError, ValueError):
                    continue
                if quota > 0 and period > 0:
                    least = min(least, quota / period)
    return least


def environment(device: torch.device, fleet: int = 1) -> dict[str, Any]:
    """Where a run is trained: code, versions, hardware, command. No host names and no paths: it is published."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "lskd": lskd.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        # Whose networks and pixels depend on their versions, where a run may have used them.
        **{name: sys.modules[name].__version__ for name in ("timm", "PIL") if name in sys.modules},
        "device": name,
        "fleet": fleet,  # runs that trained side by side: seconds and images/s are those of one among them
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "command": published(sys.argv),
    }


HOW = re.compile(r"(runtime|tracker|launcher)\b|hydra\.")  # words that say where and how, never what
FOLDERS = re.compile(r"(?<![\w.~$}/-])(~[\w-]*|\.{1,2})?/([^/\s,;'\"()\[\]{}]*/)*")


def published(command: Sequence[str]) -> str:
    """A command line without what it tells of this machine: of paths the last name is kept, of words that say where and
    how nothing. Otherwise as it was typed, without the ++ that `lskd.cli` puts before some words."""
    words: list[str] = []
    for word in (word.removeprefix("++") for word in command):
        is_path = not words or words[-1] in ("--config-dir", "-cd") or word.startswith(("plugin=", "--config-dir="))
        if is_path:  # be it a relative one
            word = re.sub(r"[^=,'\"\[\]]*/(?=[^/])", "", word.rstrip("/"))
        if not HOW.match(word):
            words.append(FOLDERS.sub("", word))
    return shlex.join(words)


@functools.cache
def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that this package runs from, with "+" if it has changes; None outside one."""
    try:
        here = Path(__file__).parent

        def git(*words: str) -> str:
            command = ["git", "-C", str(here), *words]
            return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout

        if not git("ls-files", "run.py").strip():  # installed inside somebody else's repository
            return None
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/src", ":/conf").strip()
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
