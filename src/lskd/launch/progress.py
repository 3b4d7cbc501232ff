"""The display of a sweep in a terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lskd.config_groups import Conf
from lskd.errors import InputError
from lskd.launch.cost import Costs, all_steps
from lskd.plan import training_examples
from lskd.recipe import Recipe
from lskd.run import Run
from lskd.store import Store

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

BAR = range(10, 41)  # columns that the bar may take
MEASURES = ("loss", "accuracy", "epoch", "rate")  # of a run in training, as they stand in its row
# Where there is no room for all, which comes first; and the columns that a run's name keeps beside it.
FIRST = {"accuracy": 16, "loss": 16, "epoch": 30, "rate": 30}


@dataclass
class Line:
    """What is shown of a run in training."""

    name: str
    share: float = 0.0  # of its steps
    loss: str = ""  # of the last epoch
    accuracy: str = ""
    epoch: str = ""
    rate: str = ""


def position(recipe: Recipe, step: int, total: int, examples: int) -> str:
    """How far a training of `total` steps is: epoch 3/20."""
    if recipe.batch_by == "tokens":  # which say how many steps an epoch has
        return f"step {step:,}/{total:,}"
    steps_per_epoch = recipe.steps_per_epoch(examples)
    return f"epoch {min(step, total - 1) // steps_per_epoch + 1}/{-(-total // steps_per_epoch)}"


def unit(run: Run) -> str:
    """What `recipe.batch_size` counts."""
    if run.recipe.batch_by == "tokens":
        return "tokens"
    return "images" if run.arch.settings.kind == "images" else "sentences"


class Progress:
    """One display for all runs: how many are done, their share, the time left; of each in training its share, the last
    epoch's loss and accuracy, epoch, images/s, of which the last go first in a narrow terminal. Off a terminal, a line
    for each finished run.

    Lanes call it from threads of their own: what it knows is read and changed under one lock.
    """

    def __init__(
        self, runs: Sequence[Run], store: Store, conf: Conf, fleet: int, device_type: str, *, show: bool
    ) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        self.live = show and console.is_terminal
        self.lines = show and not self.live
        # `Live` has a lock of its own, and takes ours within: it is never called from within ours.
        self.display = Live(self, console=console, transient=True, refresh_per_second=8)
        self.lock = threading.RLock()
        self.store, self.conf, self.fleet = store, conf, fleet
        self.left = {run.id for run in runs}
        self.total = len(self.left)
        self.costs = Costs(store, runs if self.live else (), device_type)
        self.waiting: Counter[str] = Counter()  # steps of the runs that have not begun, by kind
        self.training: dict[str, float] = {}  # seconds left of those that have
        self.paces: dict[str, float] = {}  # seconds a step of the kinds in training
        self.measured: dict[str, tuple[str, str]] = {}  # loss and accuracy of the last epoch, of the runs in training
        if self.live:
            for run in runs:
                self.waiting[run.cost_key] += self._steps(run)
        self.tasks: dict[str, Line] = {}
        self.begun = time.perf_counter()

    def __enter__(self) -> Progress:
        if self.live:
            self.display.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.display.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        with self.lock:
            shares = [line.share for line in self.tasks.values()]
            done = self.total - len(self.left)
            share = (done + sum(shares)) / max(self.total, 1)
            head = f"{done}/{self.total} runs  {percent(share)}"
            tail = self._time_left()
            rows = run_rows(list(self.tasks.values()), options.max_width)
        room = options.max_width - len(head) - len(tail) - 4
        overall = Table.grid(padding=(0, 2, 0, 0))
        if room >= BAR.start:
            width = min(room, BAR.stop - 1)
            overall.add_row(Text(head), ProgressBar(total=1.0, completed=share, width=width), Text(tail, no_wrap=True))
        else:
            overall.add_row(Text(head), Text(tail, no_wrap=True))
        yield overall
        for row in rows:
            yield Text(row, no_wrap=True, overflow="crop")

    def _steps(self, run: Run) -> int:
        return all_steps(run, training_examples(run, self.conf))

    def started(self, run: Run) -> Callable[[int, int], None]:
        """Show `run`; what it returns is to be told the number of steps done and their total."""
        with self.lock:
            self._forget(run)  # it may have begun before, and found no memory
        if not self.live:
            return lambda step, total: None
        begun = drawn = time.perf_counter()
        first: int | None = None  # the step at which the run begins, or goes on
        examples = training_examples(run, self.conf)
        with self.lock:
            line = self.tasks[run.id] = Line(str(run))

        def stepped(step: int, total: int) -> None:
            nonlocal first, drawn
            now = time.perf_counter()
            if first is None:
                first = step - 1
            if now - drawn > 0.1:
                drawn = now
                rate = (step - first) / max(now - begun, 1e-9)
                with self.lock:
                    if run.id not in self.training:
                        self.waiting[run.cost_key] -= self._steps(run)
                    self.training[run.id] = (total - step) / rate / self.fleet
                    self.paces[run.cost_key] = 1 / rate / self.fleet
                    line.share = step / total
                    line.epoch = position(run.recipe, step, total, examples)
                    line.rate = f"{rate * run.recipe.batch_size:,.0f} {unit(run)}/s"

        return stepped

    def epoch(self, run: Run, record: Mapping[str, Any]) -> None:
        """An epoch of `run` is over: its `record` is a line of the log."""
        loss, accuracy = measures(run, record)
        with self.lock:
            accuracy = accuracy or self.measured.get(run.id, ("", ""))[1]  # it is not evaluated at each epoch
            self.measured[run.id] = loss, accuracy
            if run.id in self.tasks:
                self.tasks[run.id].loss, self.tasks[run.id].accuracy = loss, accuracy

    def seconds_left(self) -> float | None:
        """Seconds for what remains, once a run of each kind has shown, be it in training, how long its kind takes."""
        left, known = self._seconds_left()
        return left if known else None

    def _seconds_left(self) -> tuple[float, bool]:
        """Seconds for what remains, and whether that is all of it: the kinds whose pace is unknown are not in it."""
        with self.lock:
            kinds = {kind: steps for kind, steps in self.waiting.items() if steps}
            paces = {**self.paces, **self.costs.seconds_per_step}
            left = sum(self.training.values()) + sum(paces.get(kind, 0.0) * steps for kind, steps in kinds.items())
            return left, kinds.keys() <= paces.keys()

    def _time_left(self) -> str:
        left, known = self._seconds_left()
        if not known:
            return f"at least {duration(left)} left" if left else "time left unknown"
        return f"{duration(left)} left"

    def finished(self, run: Run, note: str, *, lost: bool = False) -> None:
        """`run` needs no further look: it is done, or `lost`."""
        with self.lock:
            measured = [] if lost else [text for text in self.measured.get(run.id, ()) if text]
            self._forget(run)
            if self.live and run.id in self.left:
                self.waiting[run.cost_key] -= self._steps(run)
                if not lost:
                    with contextlib.suppress(InputError):
                        self.costs.learn(run, self.store)
            self.left.discard(run.id)
            done = self.total - len(self.left)
            if self.lines:
                with contextlib.suppress(OSError):  # nobody reads any more
                    text = ", ".join([note, *measured])
                    print(f"[{done}/{self.total}] {run}: {text}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line that stays, above the display."""
        with contextlib.suppress(OSError):  # nobody reads any more
            if self.live:
                self.display.console.print(text, markup=False, highlight=False)
            else:
                print(text, flush=True)

    def _forget(self, run: Run) -> None:
        """`run` is not in training."""
        if self.training.pop(run.id, None) is not None:
            self.waiting[run.cost_key] += self._steps(run)
        self.tasks.pop(run.id, None)
        self.measured.pop(run.id, None)


def measures(run: Run, record: Mapping[str, Any]) -> tuple[str, str]:
    """ "loss 0.123" and "test 97.5 %" of a line of the log: the training loss, all terms together, and top-1 on the
    part that the run is judged on; "" for what it does not have."""
    terms = [value for name, value in record["train"].items() if name not in ("top1", *run.watched)]
    part = run.dataset.evaluate
    top1 = record.get(part, {}).get("top1")
    of = "val" if part == "validation" else part
    return f"loss {sum(terms):#.3g}" if terms else "", "" if top1 is None else f"{of} {top1:.1f} %"


def run_rows(lines: Sequence[Line], width: int) -> Iterator[str]:
    """A row for each run in training, in `width` columns: its share, its name, and of the `MEASURES` those that fit."""
    longest = max((len(line.name) for line in lines), default=0)
    wide = {column: max((len(getattr(line, column)) for line in lines), default=0) for column in MEASURES}
    room, shown = width - len(f"{percent(1.0)}  "), set[str]()
    for column, name in FIRST.items():
        if wide[column] and wide[column] + 2 <= room - min(name, longest):
            shown.add(column)
            room -= wide[column] + 2
    names = min(longest, room)
    for line in lines:
        cells = [percent(line.share), shortened(line.name, names).ljust(names)]
        cells += [getattr(line, column).ljust(wide[column]) for column in MEASURES if column in shown]
        yield "  ".join(cells)[:width]


def shortened(name: str, width: int) -> str:
    """A name in at most `width` columns. What tells runs apart, such as the seed, stands mostly at its end."""
    if len(name) <= width:
        return name
    head = (width - 1) // 3
    return f"{name[:head]}…{name[len(name) - (width - 1 - head) :]}" if width > 1 else name[:width]


def percent(share: float) -> str:
    """ " 71 %": 100 % where nothing is left."""
    return f"{int(100 * share):3d} %"


def duration(seconds: float) -> str:
    """90 -> "1 min 30 s"; 100,000 -> "27 h 47 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
