"""What a tracker is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

from lskd.errors import InputError
from lskd.registry import Registry
from lskd.run import Run

T = TypeVar("T")

Value = bool | int | float | str


class Tracker:
    """Where the epochs of trainings are sent, besides the store: a subclass for each tool.

    A sweep makes one instance, after it has forked its worker processes, and calls it from a single thread, whichever
    thread or process trains a run: a subclass needs no locks, and may wait for a network. Calls about several runs are
    interleaved. An exception ends what is sent to this tracker, with one warning, and no run.

    What a run has logged so far is sent again when the run goes on in another process (`line` then starts at 0 anew):
    a tracker replaces what it has of the run, or leaves out the lines that it knows.
    """

    packages: ClassVar[tuple[str, ...]] = ()  # modules that must be importable; lskd's extra has the tracker's name

    def __init__(self, folder: Path) -> None:
        """`folder`, in the store, is for this tracker's files. It need not exist."""
        self.folder = folder

    def begin(self, run: Run, settings: Mapping[str, Value]) -> None:
        """The training of `run` sends its first epoch next. `settings`: all, by paths such as method.temperature."""

    def log(self, run: Run, line: int, step: int, values: Mapping[str, float]) -> None:
        """Line number `line`, from 0, of the run's log: `values` after `step` steps, by names such as train/ce,
        test/top1, lr, epoch. Names of a stage before the training begin with the stage's; its steps count apart."""
        raise TypeError(f"{type(self).__name__} does not define log(run, line, step, values)")

    def end(self, run: Run, final: Mapping[str, float] | None) -> None:
        """The training of `run` is over. `final`: the values of its last epoch, under names such as last/test/top1;
        None where the run is not done: it failed, diverged, or was interrupted."""

    def close(self) -> None:
        """The sweep is over."""


TRACKERS: Registry[type[Tracker]] = Registry("tracker", Tracker)  # by the names that `tracker=` takes


def register(name: str) -> Callable[[type[T]], type[T]]:
    """A decorator for a subclass of `Tracker`: it is `name` from now on."""

    def enter(part: type[T]) -> type[T]:
        if not issubclass(part, Tracker):
            raise InputError(f"tracker = {name!r}: {part.__name__}: must derive from lskd.trackers.Tracker")
        TRACKERS.add(name, part, part.__module__)
        return part

    return enter
