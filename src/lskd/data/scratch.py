"""Folders in which something is made: what is in them gets its place by a rename, complete or not at all.

A process that is killed leaves its folder behind; the next call of `clear` deletes it. A folder is locked while its
process lives, and its name says on which machine: of another machine's processes nothing is known here, nor is anything
where the file system has no locks, so that their folders are deleted when they are `OLD`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

OLD = 24 * 3600  # seconds
REPLACED = "replaced"  # in a scratch folder: what stood in the place that is about to be taken

# .NAME.UUID.MACHINE; without a machine, perhaps with ".old" behind, in versions that had no locks.
_NAMES = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}(\.(?P<machine>[0-9a-f]{8})|\.old)?")


@contextlib.contextmanager
def scratch(parent: Path, name: str) -> Iterator[Path]:
    """A new folder in `parent` for making what will be `parent`/`name`. What is left in it at the end is deleted."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f".{name}.{uuid.uuid4().hex}.{_machine()}"
    # Locked before it has a name that `clear` looks at.
    unlocked = folder.with_name(f"{folder.name}.new")
    unlocked.mkdir()
    lock = os.open(unlocked, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlocked.rename(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def clear(parent: Path) -> None:
    """Delete the scratch folders in `parent` whose processes have died; what one had replaced and not yet put something
    else in its place comes back."""
    for folder in parent.glob(".*.*"):
        match = _NAMES.fullmatch(folder.name)
        if match and _is_dead(folder, match["machine"]):
            with contextlib.suppress(OSError):  # most often: there is none, or its place has been taken
                (folder / REPLACED).rename(parent / match["name"])
            shutil.rmtree(folder, ignore_errors=True)


def _is_dead(folder: Path, machine: str | None) -> bool:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False  # another process has just deleted it, or it is not ours
    try:
        if machine == _machine():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    finally:
        os.close(lock)
    return time.time() - folder.stat().st_mtime > OLD


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
