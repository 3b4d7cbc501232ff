"""Carrying out a plan in this process: what is missing, teachers first, beside other processes that do the same.

Several processes (one a GPU, one a cluster node) started with the same command share the work through the claims in the
store: no run is trained twice, and each process takes what is ready.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

from lskd.config import Run, Runtime
from lskd.plan import Costs, to_train, training_examples
from lskd.settings import Conf
from lskd.store import Store

if TYPE_CHECKING:
    import torch

WAIT_SECONDS = 0.5  # between looks at runs that other processes hold


@dataclass
class Outcomes:
    """What became of a plan's runs."""

    trained: list[Run] = field(default_factory=list)
    failed: list[tuple[Run, str]] = field(default_factory=list)  # with the reason, on one line
    blocked: list[Run] = field(default_factory=list)  # the teacher failed
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        return 130 if self.interrupted else 1 if self.failed or self.blocked else 0


def carry_out(runs: Sequence[Run], store: Store, runtime: Runtime, conf: Conf) -> Outcomes:
    """Train what is missing of `runs`. Bad input is an `InputError` before any training; a run that fails or diverges
    is recorded and the others go on."""
    outcomes = Outcomes()
    pending = to_train(runs, store)
    if not pending:
        return outcomes
    import torch

    from lskd import data
    from lskd.run import check_buildable, load_network, resolve_device

    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    device = resolve_device(runtime.device)
    check_buildable(pending, conf.cache)
    ready = {run.teacher.id: run.teacher for run in pending if run.teacher is not None and is_ready(run.teacher, store)}
    for run in ready.values():
        load_network(run, store, runtime)
    for dataset in dict.fromkeys(run.dataset.name for run in pending):
        data.prepare(dataset, data=runtime.data_root, cache=runtime.cache_root)

    with stopping() as stop, Progress(pending, store, conf, show=runtime.progress) as progress:
        sweep = Sweep(store, runtime, device, stop, progress, outcomes)
        while pending and not stop.asked:
            left = [run for run in pending if not sweep.settle(run)]
            if len(left) == len(pending) and not stop.asked:
                time.sleep(WAIT_SECONDS)
            pending = left
        outcomes.interrupted = stop.asked
    return outcomes


@dataclass
class Sweep:
    """A plan while it is being carried out in this process."""

    store: Store
    runtime: Runtime
    device: torch.device
    stop: Stop
    progress: Progress
    outcomes: Outcomes
    lost: set[str] = field(default_factory=set)  # ids of runs that this process will not see done

    def settle(self, run: Run) -> bool:
        """Train `run` if it is ready to be trained. True when it needs no further look: done, or lost."""
        if self.stop.asked:
            return False
        if run.teacher is not None and run.teacher.id in self.lost:
            self.outcomes.blocked.append(run)
            return self.lose(run)
        if self.store.state(run) == "diverged" and not self.runtime.retry:
            message = (self.store.failure(run) or {}).get("message", "diverged")
            return self.lose(run, f"{message} (runtime.retry=true tries again)")
        if run.teacher is not None and not is_ready(run.teacher, self.store):
            return False  # another process is training the teacher
        with self.store.claim(run) as ours:
            if not ours:
                return False
            if is_ready(run, self.store):
                self.progress.finished(run, "done by another process")
                return True
            return self.train(run)

    def train(self, run: Run) -> bool:
        """Train a run whose claim is held. Whatever goes wrong with it is recorded, and does not stop the others."""
        from lskd.engine import Diverged, Interrupted
        from lskd.run import train_run

        self.progress.started(run)
        try:
            asked = lambda: self.stop.asked  # noqa: E731
            train_run(run, self.store, self.runtime, self.device, on_step=self.progress.stepped, stop=asked)
        except Interrupted:
            return False
        except Diverged as error:
            self.store.fail(run, {"reason": "diverged", "message": str(error)})
            return self.lose(run, f"diverged: {error}")
        except Exception as error:
            message = f"{type(error).__name__}: {error}".splitlines()[0]
            self.store.fail(run, {"reason": "failed", "message": message, "traceback": traceback.format_exc()})
            return self.lose(run, message)
        self.outcomes.trained.append(run)
        self.progress.finished(run, f"{time.perf_counter() - self.progress.begun:.1f} s")
        return True

    def lose(self, run: Run, reason: str = "") -> bool:
        self.lost.add(run.id)
        if reason:
            self.outcomes.failed.append((run, reason))
        self.progress.finished(run, reason or "not run: its teacher failed")
        return True


def is_ready(run: Run, store: Store) -> bool:
    """Whether the run is finished and its weights are here: it can teach."""
    return store.state(run) == "done" and store.weights(run).is_file()


@dataclass
class Stop:
    asked: bool = False


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask for a stop at the next step, with a checkpoint; a second Ctrl-C stops at once."""
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.asked = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread (some launchers): then the launcher decides
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """One display for all runs: steps, epochs and images/s of the present one, time left. Off a terminal, lines."""

    def __init__(self, runs: Sequence[Run], store: Store, conf: Conf, *, show: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Display

        console = Console(stderr=True)
        self.live = show and console.is_terminal
        self.lines = show and not self.live
        self.display = Display(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeElapsedColumn(),
            console=console, disable=not self.live, transient=True,
        )  # fmt: skip
        self.store, self.conf = store, conf
        self.left = {run.id: run for run in runs}
        self.learn_costs()
        self.total, self.begun = len(self.left), 0.0
        self.overall = self.display.add_task("runs", total=self.total, rate="")
        self.current = self.display.add_task("", total=None, rate="", visible=False)

    def __enter__(self) -> Progress:
        if self.live:
            self.display.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.display.stop()

    def started(self, run: Run) -> None:
        self.run, self.begun, self.drawn = run, time.perf_counter(), 0.0
        self.first: int | None = None  # the step at which the run begins, or goes on
        self.steps_per_epoch = run.recipe.steps_per_epoch(training_examples(run, self.conf))
        self.display.update(self.current, description=str(run), total=None, completed=0, rate="", visible=True)

    def stepped(self, step: int, total: int) -> None:
        now = time.perf_counter()
        if self.first is None:
            self.first = step - 1
        if self.live and now - self.drawn > 0.1:
            self.drawn = now
            done = step - self.first
            rate = done / max(now - self.begun, 1e-9)
            left = self.seconds_left((total - step) / rate)
            epochs = f"epoch {step // self.steps_per_epoch + 1} of {-(-total // self.steps_per_epoch)}"
            text = f"{epochs}, {rate * self.run.recipe.batch_size:,.0f} images/s"
            self.display.update(self.current, total=total, completed=step, rate=text)
            self.display.update(self.overall, rate=f"{duration(left)} left" if left is not None else "")

    def learn_costs(self) -> None:
        costs = Costs(self.store)
        self.estimates = {key: costs.estimate(run, training_examples(run, self.conf)) for key, run in self.left.items()}

    def seconds_left(self, present: float) -> float | None:
        """Seconds for what remains, once a finished run of each kind has shown how long its kind takes."""
        others = [seconds for key, seconds in self.estimates.items() if key != self.run.id]
        return None if None in others else present + sum(filter(None, others))

    def finished(self, run: Run, note: str) -> None:
        self.left.pop(run.id, None)
        if self.live:  # it reads every record in the store
            self.learn_costs()
        done = self.total - len(self.left)
        self.display.update(self.overall, completed=done)
        self.display.update(self.current, visible=False)
        if self.lines:
            print(f"[{done}/{self.total}] {run}: {note}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """90 -> "1 min 30 s"; 100,000 -> "27 h 47 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
