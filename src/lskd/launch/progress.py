"""The display of a sweep in a terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lskd.config_groups import Conf
from lskd.errors import InputError
from lskd.launch.cost import Costs, all_steps
from lskd.plan import training_examples
from lskd.run import Run
from lskd.store import Store

if TYPE_CHECKING:
    from rich.progress import TaskID


class Progress:
    """One display for all runs: steps, epochs and images/s of those in training, time left. Off a terminal, lines.

    Lanes call it from threads of their own: what it knows is read and changed under one lock.
    """

    def __init__(
        self, runs: Sequence[Run], store: Store, conf: Conf, fleet: int, device_type: str, *, show: bool
    ) -> None:
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
        self.lock = threading.RLock()
        self.store, self.conf, self.fleet = store, conf, fleet
        self.left = {run.id for run in runs}
        self.total = len(self.left)
        self.costs = Costs(store, runs if self.live else (), device_type)
        self.waiting: Counter[str] = Counter()  # steps of the runs that have not begun, by kind
        self.training: dict[str, float] = {}  # seconds left of those that have
        if self.live:
            for run in runs:
                self.waiting[run.cost_key] += self._steps(run)
        self.overall = self.display.add_task("runs", total=self.total, rate="")
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Progress:
        if self.live:
            self.display.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.display.stop()

    def _steps(self, run: Run) -> int:
        return all_steps(run, training_examples(run, self.conf))

    def started(self, run: Run) -> Callable[[int, int], None]:
        """Show `run`; what it returns is to be told the number of steps done and their total."""
        if not self.live:
            return lambda step, total: None
        begun = drawn = time.perf_counter()
        first: int | None = None  # the step at which the run begins, or goes on
        steps_per_epoch = run.recipe.steps_per_epoch(training_examples(run, self.conf))
        with self.lock:
            self._forget(run)  # it may have begun before, and found no memory
            task = self.tasks[run.id] = self.display.add_task(str(run), total=None, rate="")

        def stepped(step: int, total: int) -> None:
            nonlocal first, drawn
            now = time.perf_counter()
            if first is None:
                first = step - 1
            if now - drawn > 0.1:
                drawn = now
                rate = (step - first) / max(now - begun, 1e-9)
                epochs = f"epoch {step // steps_per_epoch + 1} of {-(-total // steps_per_epoch)}"
                text = f"{epochs}, {rate * run.recipe.batch_size:,.0f} images/s"
                with self.lock:
                    if run.id not in self.training:
                        self.waiting[run.cost_key] -= self._steps(run)
                    self.training[run.id] = (total - step) / rate / self.fleet
                    left = self.seconds_left()
                self.display.update(task, total=total, completed=step, rate=text)
                self.display.update(self.overall, rate=f"{duration(left)} left" if left is not None else "")

        return stepped

    def seconds_left(self) -> float | None:
        """Seconds for what remains, once a finished run of each kind has shown how long its kind takes."""
        with self.lock:
            kinds = [(self.costs.seconds_per_step.get(kind), steps) for kind, steps in self.waiting.items() if steps]
            if any(seconds is None for seconds, _ in kinds):
                return None
            return sum(self.training.values()) + sum(seconds * steps for seconds, steps in kinds if seconds)

    def finished(self, run: Run, note: str, *, lost: bool = False) -> None:
        """`run` needs no further look: it is done, or `lost`."""
        with self.lock:
            if self.live and run.id in self.left:
                self._forget(run)
                self.waiting[run.cost_key] -= self._steps(run)
                if not lost:
                    with contextlib.suppress(InputError):
                        self.costs.learn(run, self.store)
            self.left.discard(run.id)
            done = self.total - len(self.left)
            self.display.update(self.overall, completed=done)
            if self.lines:
                with contextlib.suppress(OSError):  # nobody reads any more
                    print(f"[{done}/{self.total}] {run}: {note}", file=sys.stderr, flush=True)

    def _forget(self, run: Run) -> None:
        """`run` is not in training."""
        if self.training.pop(run.id, None) is not None:
            self.waiting[run.cost_key] += self._steps(run)
        if run.id in self.tasks:
            self.display.remove_task(self.tasks.pop(run.id))


def duration(seconds: float) -> str:
    """90 -> "1 min 30 s"; 100,000 -> "27 h 47 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
