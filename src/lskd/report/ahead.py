"""Figures drawn ahead of the tables that link to them, in processes side by side.

matplotlib takes half of a report's time, on one core. A process is forked with all tables read, so that nothing but
the names of files goes between them; it draws what this one would have drawn, to the same bytes.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

Call = Callable[[], Any]
Drawn = Callable[[Hashable, Call], Any]  # what a call, known by its key, gives


def now(key: Hashable, call: Call) -> Any:
    """What `call` gives, here and now."""
    return call()


@contextlib.contextmanager
def drawn(calls: Mapping[Hashable, Call]) -> Iterator[Drawn]:
    """Within, what each of `calls` gives, or raises, by its key; they are made in this order, as far as there are cores
    for them, while whoever asks goes on. What they give must be small: it goes from process to process."""
    count = min(len(calls), _cores()) if _may_fork() else 0
    if count < 2:
        yield now
        return
    _calls.update(calls)
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_alone)
    try:
        with warnings.catch_warnings():
            # (Python 3.12 on: of threads, such as NumPy's, none of which holds a lock that is needed there.)
            warnings.simplefilter("ignore", DeprecationWarning)
            made: dict[Hashable, Future[Any]] = {key: pool.submit(_call, key) for key in calls}
        yield functools.partial(_given, made)
    finally:
        pool.shutdown(cancel_futures=True)
        _calls.clear()


_calls: dict[Hashable, Call] = {}  # which processes have when they are forked


def _call(key: Hashable) -> Any:
    return _calls[key]()


def _given(made: Mapping[Hashable, Future[Any]], key: Hashable, call: Call) -> Any:
    """What a call gave; made here where its process is gone, such as for want of memory: then its error is seen."""
    try:
        return made[key].result() if key in made else call()
    except BrokenProcessPool:
        return call()


def _alone() -> None:
    """In each process: an interruption from the keyboard is for the one that forked it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _may_fork() -> bool:
    """Whether a forked process can go on: not with the threads and devices of torch, which a report does not import,
    and nowhere but on Linux, where system libraries survive a fork."""
    return sys.platform == "linux" and "torch" not in sys.modules
