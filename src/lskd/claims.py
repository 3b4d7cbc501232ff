"""Who has what: claims that hold wherever files can be shared, whether locks on them reach other machines or not.

    FOLDER/NAME/N    the N-th claim on NAME; of several the highest counts

A claim is a lease. It is taken by making the file N + 1, which one process alone can (O_EXCL: local disks, NFS, Lustre,
GPFS, BeeGFS, FUSE), and is renewed by writing into it every `BEAT` seconds. It is free again

- when its holder says so in the file;
- at once, when the holder was a process of the same machine and has let go of its lock on the file (flock), which the
  kernel does for a process that dies. The lock of another machine says nothing: mounts may keep locks to themselves;
- else when nothing has been written for `EXPIRES` beats, by the clock of the process that wants it. No two machines'
  clocks are compared.

A holder that could not write for `FENCE` beats has lost it, by its own clock and before anybody else takes it: there
are never two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BEAT = 10.0  # seconds between renewals
FENCE, EXPIRES = 4, 8  # beats without one after which the holder stops, and after which others may take it
GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}  # the last one on NFS: deleted on another machine
SIZE = 1024  # bytes of a claim's file: it is written in one piece, over what is there
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps


@dataclass(frozen=True)
class Holder:
    """What the file of a claim says of who has it."""

    host: str = ""
    pid: int = 0
    job: str = ""  # the cluster's job that the process belongs to
    since: float = 0.0  # seconds since 1970
    step: int = 0  # of the training: the last one done, and all
    steps: int = 0
    pace: float | None = None  # seconds a step, lately
    machine: str = ""  # the kernel that is running, and the mount: the same where locks exclude each other
    locked: bool = False  # whether the file could be locked there
    beat: float = 0.0  # seconds between its renewals; 0 = as here
    at: float = 0.0  # when this was written, by a clock of that machine alone: each renewal writes something else
    free: bool = False

    @staticmethod
    def read(path: Path) -> tuple[str, Holder] | None:
        """The text of the claim at `path`, and what it says (what is half there or damaged: nothing); None where there
        is no such file."""
        try:
            with open(path, encoding="utf-8", errors="replace") as file:  # opened anew: NFS asks the server then
                text = file.read()
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        return text, Holder.of(text)

    @staticmethod
    def of(text: str) -> Holder:
        try:
            given = json.loads(text)
            known = {one.name for one in dataclasses.fields(Holder)}
            return Holder(**{key: value for key, value in given.items() if key in known})
        except (ValueError, TypeError, AttributeError):
            return Holder()


@dataclass
class _Watched:
    """A claim of others as it was last seen."""

    number: int
    text: str
    looked: float
    unchanged: float = 0.0  # seconds that it has been seen to be the same


@dataclass(frozen=True)
class Claims:
    """The claims below `folder`, and those of them that are held here."""

    folder: Path
    held: dict[str, Lease] = field(default_factory=dict, repr=False, compare=False)
    _watched: dict[str, _Watched] = field(default_factory=dict, repr=False, compare=False)
    _renewing: list[_Renewing] = field(default_factory=list, repr=False, compare=False)  # the thread that does, if any

    def take(self, name: str) -> Lease | None:
        """The claim on `name`; None where another process, or another thread, has it. Of one that has died on another
        machine that shows only after several calls. An `OSError` where nothing can be written."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        before = _numbers(folder)
        last = max(before, default=0)
        if last and not self._is_free(name, last):
            return None
        path = folder / str(last + 1)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            if error.errno in GONE or error.errno == errno.EEXIST:  # somebody has finished it, or was faster
                return None
            raise
        try:
            locked = _lock(file)
            holder = Holder(
                socket.gethostname(), os.getpid(), cluster_job(), time.time(), machine=_machine(file), locked=locked,
                beat=BEAT,
            )  # fmt: skip
            lease = Lease(self, name, last + 1, file, holder)
            lease.write()
            if _numbers(folder) != before | {last + 1}:  # what was free has been taken, and is over, since `before`
                raise _TakenMeanwhile
        except BaseException as error:
            os.close(file)
            path.unlink(missing_ok=True)
            if isinstance(error, _TakenMeanwhile):
                return None
            raise
        for number in before:
            (folder / str(number)).unlink(missing_ok=True)
        self._watched.pop(name, None)
        self._hold(lease)
        return lease

    def borrow(self, name: str, file: int) -> Lease:
        """The claim of another process of this machine, by its open `file`, which is renewed here until it is given
        back (`Lease.give_back`)."""
        holder = dataclasses.replace(_read(file), pid=os.getpid())
        lease = Lease(self, name, max(_numbers(self.folder / name), default=0), file, holder)
        lease.renew()
        self._hold(lease)
        return lease

    def holder(self, name: str) -> tuple[Holder, bool] | None:
        """Who has the claim on `name`, and whether that process is alive as far as one look can tell; None where it is
        free. For people: of another machine it goes by the clock of the store, which may differ from ours."""
        last = max(_numbers(self.folder / name), default=0)
        path = self.folder / name / str(last)
        found = Holder.read(path) if last else None
        if found is None or found[1].free:
            return None
        holder = found[1]
        if (locked := _locked_here(path, holder)) is not None:
            return holder, locked
        with contextlib.suppress(OSError):
            return holder, time.time() - path.stat().st_mtime < 2 * EXPIRES * (holder.beat or BEAT)
        return None

    def names(self) -> list[str]:
        """What somebody has, or had when he died."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(self.folder))
        return []

    def _is_free(self, name: str, number: int) -> bool:
        path = self.folder / name / str(number)
        found = Holder.read(path)
        if found is None:
            return False
        text, holder = found
        if holder.free:
            return True
        if (locked := _locked_here(path, holder)) is not None:
            return not locked
        now, seen = time.monotonic(), self._watched.get(name)
        if seen is None or (seen.number, seen.text) != (number, text):
            self._watched[name] = _Watched(number, text, now)
            return False
        # A gap without looks counts for one beat: in it the store may have been away for the holder, too.
        seen.unchanged += min(now - seen.looked, holder.beat or BEAT)
        seen.looked = now
        return seen.unchanged >= EXPIRES * (holder.beat or BEAT)

    def _hold(self, lease: Lease) -> None:
        self.held[lease.name] = lease
        if not self._renewing:
            self._renewing.append(_Renewing(self))

    def _let_go(self, lease: Lease) -> None:
        self.held.pop(lease.name, None)
        if not self.held and self._renewing:
            self._renewing.pop().end()


class _TakenMeanwhile(Exception):
    pass


class _Renewing:
    """A thread that renews the claims that are held here. (It lives as long as there are any: a process that forks
    workers has none then.)"""

    def __init__(self, claims: Claims) -> None:
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.renew, args=(claims,), name="claims", daemon=True)
        self.thread.start()

    def renew(self, claims: Claims) -> None:
        while not self.over.wait(BEAT):
            for lease in list(claims.held.values()):
                lease.renew()

    def end(self) -> None:
        self.over.set()
        if self.thread is not threading.current_thread():
            self.thread.join(BEAT)


class Lease:
    """A claim that is held here."""

    def __init__(self, claims: Claims, name: str, number: int, file: int, holder: Holder) -> None:
        self.claims, self.name, self.number, self.file, self.holder = claims, name, number, file, holder
        self.step = self.steps = 0
        self._lost = self._lent = False
        self._told = _now()
        self._busy = threading.Lock()

    @property
    def holds(self) -> bool:
        """Whether it is still ours, without a look at the store: to be asked at every step."""
        return not self._lost and (self._lent or _now() - self.holder.at < FENCE * BEAT)

    def check(self) -> bool:
        """Whether it is still ours, by what is in the store."""
        with contextlib.suppress(OSError):
            last = max(_numbers(self.claims.folder / self.name), default=0)
            self._lost |= last != self.number or not os.path.samestat(os.fstat(self.file), os.stat(self.path))
        return self.holds

    def renew(self) -> None:
        """Write into it, unless that is too late, or another process has it."""
        with self._busy:
            if self._lent:
                return
            if not self.check():
                self._lost = True
                return
            now, before = _now(), self.holder
            if self.step > before.step and now > self._told:
                pace = (now - self._told) / (self.step - before.step) if before.step else None
                self._told = now
                self.holder = dataclasses.replace(before, step=self.step, steps=self.steps, pace=pace)
            with contextlib.suppress(OSError):  # the next time, perhaps
                self.write()

    def write(self, **changed: Any) -> None:
        holder = dataclasses.replace(self.holder, at=_now(), **changed)
        text = json.dumps(dataclasses.asdict(holder)).ljust(SIZE - 1) + "\n"
        os.lseek(self.file, 0, os.SEEK_SET)
        os.write(self.file, text.encode())
        os.fsync(self.file)
        self.holder = holder

    @contextlib.contextmanager
    def lent(self) -> Iterator[int]:
        """Its open file, for a process of this machine that renews it meanwhile (`Claims.borrow`)."""
        with self._busy:
            self._lent = True
        try:
            yield self.file
        finally:
            with self._busy:
                self._lent, self.holder = False, _read(self.file)

    def release(self, *, over: bool = False) -> None:
        """Let others have it. With `over` nobody will want it again: nothing is left of it."""
        self.claims._let_go(self)
        ours = False
        with self._busy, contextlib.suppress(OSError):
            ours = self.check()
            if ours and not over:
                self.write(free=True)
        os.close(self.file)  # of a file that is open NFS and FUSE keep another when it is deleted
        if ours and over:
            with contextlib.suppress(OSError):
                self.path.unlink()
                self.path.parent.rmdir()

    def give_back(self) -> None:
        """End what `Claims.borrow` began."""
        self.claims._let_go(self)
        with self._busy:
            os.close(self.file)

    @property
    def path(self) -> Path:
        return self.claims.folder / self.name / str(self.number)


def _read(file: int) -> Holder:
    return Holder.of(os.pread(file, SIZE, 0).decode(errors="replace"))


def _now() -> float:
    return time.clock_gettime(CLOCK)


def _numbers(folder: Path) -> set[int]:
    try:
        return {int(name) for name in os.listdir(folder) if name.isdigit()}
    except OSError as error:
        if error.errno in GONE:
            return set()
        raise


def _lock(file: int) -> bool:
    """Whether the file could be locked: what the locks of some mounts are worth on other machines is another matter."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _locked_here(path: Path, holder: Holder) -> bool | None:
    """Whether the holder still has its lock on the file; None where locks do not tell: it is on another machine."""
    if not holder.locked:
        return None
    try:
        file = os.open(path, os.O_RDWR)  # to write: NFS locks nothing else
    except OSError:
        return None
    try:
        return not _lock(file) if _machine(file) == holder.machine else None
    finally:
        os.close(file)


def _machine(file: int) -> str:
    """Two processes with the same one see each other's locks on the open `file`: the same kernel, since it started,
    and the same mount. (Of two mounts of one place locks may be apart.)"""
    return f"{_kernel()} {os.fstat(file).st_dev}"


@functools.cache
def _kernel() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return socket.gethostname()


def cluster_job() -> str:
    """The Slurm job that this process belongs to, "123" or "123_4"; "" outside one."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def unfit(folder: Path) -> str | None:
    """Why no claim below `folder` would hold, in words; None where they do. An `OSError` where nothing can be
    written."""
    kind = _file_system(folder)
    if kind in OBJECT_STORES:
        return f"an object store ({kind}), where two processes can make one file"
    path = folder / f"probe {socket.gethostname()} {os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for text in ("", "one", "another"):
            file = os.open(path, os.O_RDWR | os.O_CREAT | (0 if text else os.O_EXCL), 0o666)
            try:
                os.write(file, text.ljust(SIZE).encode())
                os.fsync(file)
                if path.name not in os.listdir(folder):
                    return "a file system whose folders do not show what is in them"
                if text and path.read_text(encoding="utf-8").strip() != text:
                    return "a file system on which a file cannot be written anew"
            finally:
                os.close(file)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
            return "a file system on which two processes can make one file (O_EXCL)"
        return None
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


# Mounts of which each client makes files by itself, and sends them whole when it closes them.
OBJECT_STORES = {
    f"fuse.{name}"
    for name in ("s3fs", "gcsfuse", "goofys", "geesefs", "rclone", "blobfuse", "blobfuse2", "mount-s3", "mountpoint-s3")
}


def _file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The kind of file system that `path` is on, as the kernel calls it; "" where that cannot be told."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found: tuple[int, Any] = (-1, "")
    there = str(path.absolute())
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        if there == point or there.startswith(point.rstrip("/") + "/"):
            found = max(found, (len(point), after.split()[0]), key=lambda one: one[0])
    return str(found[1])
