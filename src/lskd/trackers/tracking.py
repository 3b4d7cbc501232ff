"""What a sweep sends to its trackers, and how none of them holds it up."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from lskd.errors import InputError, one_line, unknown
from lskd.networks import of_networks
from lskd.run import Run
from lskd.schema import show
from lskd.store import Store
from lskd.trackers.tracker import TRACKERS, Tracker, Value

Record = Mapping[str, Any]  # a line of log.jsonl

PATIENCE = 60.0  # seconds without a step forward, after which a sweep that is over waits for a tracker no longer


def check_trackers(names: Sequence[str]) -> None:
    """`InputError` for a name that is no tracker's, and for one whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        for package in TRACKERS[name].packages:
            if importlib.util.find_spec(package) is None:
                raise InputError(
                    f"tracker = {name!r}: needs the package {package}, which is not installed; "
                    f"install it, or lskd with its extra: pip install -e '.[{name}]'"
                )


class Tracking:
    """The trackers of a sweep, by name. To be entered when its worker processes have been forked, before it trains.

    Any thread may call `epochs` and `end`, which return at once: trackers are called from a thread of their own, in the
    order of these calls. Whatever goes wrong there costs a warning, and what was to be sent.
    """

    def __init__(self, names: Sequence[str], store: Store) -> None:
        self.names, self.store = tuple(dict.fromkeys(names)), store
        self.trackers: dict[str, Tracker] = {}
        self.waiting: SimpleQueue[tuple[Run, Sequence[Record] | None] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._serve, name="trackers", daemon=True)

    def __enter__(self) -> Tracking:
        for name in self.names:
            try:
                self.trackers[name] = TRACKERS[name](self.store.trackers / name)
            except Exception as error:
                raise InputError(f"tracker = {name!r}: cannot be used: {one_line(error)}") from error
        if self.names:
            self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if not self.names:
            return
        self.waiting.put(None)
        left = -1
        while self.thread.is_alive() and self.waiting.qsize() != left:
            left = self.waiting.qsize()
            self.thread.join(PATIENCE)
        if self.thread.is_alive():
            _warn(", ".join(self.trackers), f"has not answered for {PATIENCE:.0f} s; what is left is not sent")

    def epochs(self, run: Run, records: Sequence[Record]) -> None:
        """`run` has logged `records`: at first all so far, then what is new."""
        if self.trackers:
            self.waiting.put((run, records))

    def end(self, run: Run) -> None:
        """The training of `run`, if there was one, is over."""
        if self.trackers:
            self.waiting.put((run, None))

    def _serve(self) -> None:
        lines: dict[str, int] = {}  # of the runs in training: how many lines have been sent
        while (told := self.waiting.get()) is not None:
            run, records = told
            if records is None:
                if lines.pop(run.id, None) is not None:
                    final = self._final(run)
                    self._each(lambda tracker: tracker.end(run, final))  # noqa: B023  (called at once)
                continue
            if run.id not in lines:
                lines[run.id], known = 0, settings(run)
                self._each(lambda tracker: tracker.begin(run, known))  # noqa: B023
            for record in records:
                line, step, numbers = lines[run.id], record["step"], values(record)
                self._each(lambda tracker: tracker.log(run, line, step, numbers))  # noqa: B023
                lines[run.id] += 1
        self._each(lambda tracker: tracker.close())

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                call(tracker)
            except (Exception, SystemExit) as error:
                del self.trackers[name]
                _warn(name, f"failed ({one_line(error)}); nothing more is sent to it, and the runs go on")

    def _final(self, run: Run) -> dict[str, float] | None:
        """The values of the last epoch of a run that is done."""
        if self.store.state(run) != "done" or (result := self.store.result(run)) is None:
            return None
        ends = {name: {"last": one["last"]} for name, one in of_networks(result).items()}
        return dict(_numbers({"last": result["last"], **ends}, ""))


def _warn(name: str, what: str) -> None:
    print(f"lskd-run: tracker = {name}: {what}", file=sys.stderr, flush=True)


def values(record: Record) -> dict[str, float]:
    """The numbers of a line of the log but its step: train/ce, test/top1, lr, epoch; of a stage paraphraser/train/…; of
    peers peer/train/…"""
    stage = record.get("stage")
    said = {key: value for key, value in record.items() if key != "step"} | of_networks(record)
    return dict(_numbers(said, f"{stage}/" if stage else ""))


def _numbers(record: Record, before: str) -> Iterator[tuple[str, float]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{key}/")
        elif isinstance(value, (int, float)):
            yield f"{before}{key}", float(value)


def settings(run: Run) -> dict[str, Value]:
    """Every setting of `run` that has a value (`Run.settings`), and the name of its recipe and of its teachers'; lists
    and mappings as text."""
    known, path = dict(run.settings), ""
    lineage: Run | None = run
    while lineage is not None:
        known[f"{path}recipe.name"] = lineage.recipe.name
        lineage, path = lineage.teacher, f"{path}teacher."
    plain = {name: value if isinstance(value, Value) else show(value) for name, value in known.items()}
    return {name: value for name, value in plain.items() if known[name] is not None}
