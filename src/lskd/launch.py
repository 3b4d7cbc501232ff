"""Carrying out a plan in this process: what is missing, teachers first, several runs side by side on the device, and
beside other processes that do the same.

Several processes (one a GPU, one a cluster node) started with the same command share the work through the claims in the
store: no run is trained twice, and each process takes what is ready.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from lskd.config import Run, Runtime, table_bytes
from lskd.errors import InputError, one_line
from lskd.plan import (
    Costs,
    Observations,
    all_steps,
    is_complete,
    looks_suffice,
    teacher_table,
    to_train,
    training_examples,
)
from lskd.settings import Conf
from lskd.store import ClaimLost, Store

if TYPE_CHECKING:
    import torch
    from rich.progress import TaskID

    from lskd.workers import Workers

WAIT_SECONDS = 0.5  # between looks at runs that other processes hold
GPU_FLEET = 8  # runs side by side on one GPU, where memory allows; not measured yet


@dataclass
class Outcomes:
    """What became of a plan's runs."""

    trained: list[Run] = field(default_factory=list)
    failed: list[tuple[Run, str]] = field(default_factory=list)  # with the reason, on one line
    blocked: list[Run] = field(default_factory=list)  # the teacher failed, or its record is damaged
    damaged: list[Run] = field(default_factory=list)  # their records are, and were left as they are
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        return 130 if self.interrupted else 1 if self.failed or self.blocked or self.damaged else 0


def carry_out(
    runs: Sequence[Run],
    store: Store,
    runtime: Runtime,
    conf: Conf,
    observations: Observations = MappingProxyType({}),
) -> Outcomes:
    """Train what is missing of `runs`, and make the `observations` of them. Bad input is an `InputError` before any
    training; a run that fails or diverges is recorded and the others go on."""
    pending = to_train(runs, store, observations)
    damaged = [run for run in runs if store.state(run) == "damaged"]
    if not pending:
        return Outcomes(damaged=damaged)
    from lskd import data
    from lskd.run import check_buildable, check_precision, load_network, resolve_device, taught_elsewhere

    device = resolve_device(runtime.device)
    check_precision([run.recipe.precision for run in pending], device)
    check_buildable(pending, conf.cache)
    ready = {run.teacher.id: run.teacher for run in pending if run.teacher is not None and is_ready(run.teacher, store)}
    looked_at = {run.id: run for run in pending if looks_suffice(run, store, observations)}
    for run in (ready | looked_at).values():
        load_network(run, store, runtime)
    needed = [one for run in pending for one in (run.dataset, taught_elsewhere(run)) if one is not None]
    for dataset in dict.fromkeys(one.name for one in needed):
        data.prepare(dataset, data=runtime.data_root, cache=runtime.cache_root)
    store.check_writable()

    fleet = Fleet(runs, runtime, device, conf)
    shown = Progress(pending, store, conf, fleet.size, device.type, show=runtime.progress)
    with fleet.workers(pending, store, runtime, observations) as workers, stopping() as stop, shown as progress:
        sweep = Sweep(store, runtime, fleet, workers, stop, progress, observations, Outcomes(damaged=damaged))
        return sweep.carry_out(pending)


def retrain(runs: Iterable[Run], store: Store, asked: bool | Sequence[str]) -> None:
    """Have all of `runs` (asked = true), or those of the ids `asked`, trained again. `InputError` for other ids.

    What is asked for is kept in the store until it is done, so that a sweep that was killed goes on with it: the same
    request is made anew only when nothing is left of it.
    """
    chosen = chosen_again(runs, asked)
    request = hashlib.sha256(" ".join(sorted(run.id for run in chosen)).encode()).hexdigest()[:12]
    if chosen:
        store.check_writable()
    if any(store.request(run) == request for run in chosen):
        print("lskd-run: runtime.retrain: going on with what is left of the same request", file=sys.stderr)
        return
    for run in chosen:
        with store.claim(run) as ours:
            if ours:  # else it is being trained as it is
                store.ask_again(run, request)


def chosen_again(runs: Iterable[Run], asked: bool | Sequence[str]) -> list[Run]:
    """Those of `runs` that `runtime.retrain` is about."""
    known = {run.id: run for run in runs}
    if isinstance(asked, bool):
        return list(known.values()) if asked else []
    for id in asked:
        if id not in known:
            raise InputError(f"runtime.retrain = {id!r}: is no run of this plan; plan=commands shows their ids")
    return [known[id] for id in dict.fromkeys(asked)]


class Fleet:
    """The runs that train side by side on one device, and how many there may be. Each has a thread of its own; on a CPU
    those of small networks have a process of their own (see `lskd.workers`).

    `runtime.fleet` is that number; 0 leaves it to us: one for each core of a CPU, `GPU_FLEET` on a GPU. There are never
    more than can be ready at once. The plan decides that, not what is done already: an interrupted sweep goes on with
    as many CPU threads for each run, hence with the same bits. Where memory does not allow them all, fewer train.
    """

    def __init__(self, runs: Sequence[Run], runtime: Runtime, device: torch.device, conf: Conf) -> None:
        import torch

        from lskd.engine import STREAMS, Shared, device_bytes
        from lskd.run import available_cores

        self.conf, self.asked = conf, runtime.fleet
        if device.type == "cuda" and runtime.fleet > STREAMS:
            raise InputError(
                f"runtime.fleet = {runtime.fleet}: must be <= {STREAMS} on a GPU: torch has no more streams, and runs "
                "that shared one would overwrite each other"
            )
        cores = available_cores()
        usual = GPU_FLEET if device.type == "cuda" else max(1, cores // (runtime.threads or 1))
        self.size = min(runtime.fleet or usual, max(Counter(run.generation for run in runs).values()))
        self.threads = runtime.threads or max(1, cores // self.size)
        if device.type == "cpu":
            torch.set_num_threads(self.threads)
        free, total = device_bytes(device)
        tables = min(free / 2, total / 4 if runtime.teacher_cache_gb is None else runtime.teacher_cache_gb * 1e9)
        self.shared = Shared(device, tables, runtime.workers, search=self.size == 1)
        largest = max((table_bytes(*table) for run in runs if (table := teacher_table(run, conf))), default=0)
        if largest > tables:
            print(
                f"lskd-run: runtime.teacher_cache_gb: {tables / 1e9:.3g} GB are for teachers' logits, and all views of "
                f"one take {largest / 1e9:.3g} GB: they are evaluated once an epoch instead, with the same numbers",
                file=sys.stderr,
            )
        self.memory = 0.9 * free - (tables if any(run.teacher for run in runs) else 0.0)
        self.training: dict[str, Run] = {}
        self._bytes: dict[str, int] = {}
        self._told = False

    def describe(self, runs: Iterable[Run]) -> str:
        """Its size, and the predicted memory of each kind of run."""
        threads = f", {self.threads} thread{'s' * (self.threads > 1)} each" if self.shared.device.type == "cpu" else ""
        lines = [
            f"{self.shared.device}: {self.size} run{'s' * (self.size > 1)} side by side{threads}; "
            f"{self.memory / 1e9:.1f} GB for them, {self.shared.teacher_memory / 1e9:.1f} GB for teachers' logits"
        ]
        for run in {run.cost_key: run for run in runs}.values():
            label = str(run).rpartition(", seed ")[0]
            lines.append(f"  {self.bytes(run) / 1e9:6.3f} GB a run  {label}")
        return "\n".join(lines)

    def room(self, run: Run) -> bool:
        """Whether `run` may begin beside those in training. One run alone always may."""
        others = list(self.training.values())
        if not others:
            return True
        # Numerics are switches of the whole process: see `lskd.engine.training.set_precision`.
        if len(others) >= self.size or others[0].recipe.precision != run.recipe.precision:
            return False
        needed = sum(self.bytes(one) for one in (*others, run))
        if needed > self.memory:
            self._tell(
                f"{len(others)} runs side by side: one more would make it {needed / 1e9:.2f} GB, "
                f"and {self.memory / 1e9:.2f} GB are free for them"
            )
        return needed <= self.memory

    def bytes(self, run: Run) -> int:
        """Predicted memory of one run; 0 for one that cannot take a step."""
        if run.cost_key not in self._bytes:
            from lskd import data
            from lskd.engine import run_bytes

            spec = data.spec(run.dataset.name, self.conf.cache)
            try:
                self._bytes[run.cost_key] = run_bytes(run, spec, self.shared.device.type)
            except Exception as error:  # of a method or network that does not work, as its run will say; or of ours
                self._bytes[run.cost_key] = 0
                why = f"{one_line(error)}): it is taken for 0"
                print(f"lskd-run: the memory of {run} cannot be predicted ({why}", file=sys.stderr, flush=True)
        return self._bytes[run.cost_key]

    def learn(self, run: Run, result: Mapping[str, Any] | None) -> None:
        """What `run` held of a GPU, as its `result` says, is what others of its kind will need."""
        if result and "held_memory_mb" in result:
            self._bytes[run.cost_key] = round(1e6 * result["held_memory_mb"])

    def workers(self, runs: Iterable[Run], store: Store, runtime: Runtime, observations: Observations) -> Workers:
        """Processes for the small ones of `runs`, if several train side by side on a CPU. To be called before threads
        begin."""
        from lskd import data
        from lskd.workers import CAN_FORK, Workers, is_small

        small = {}
        if CAN_FORK and self.size > 1 and self.threads == 1 and self.shared.device.type == "cpu":
            small = {
                run.id: (run, observations.get(run.id, ()))
                for run in runs if is_small(run, data.spec(run.dataset.name, self.conf.cache))
            }  # fmt: skip
        return Workers(min(self.size, len(small)), small, store, runtime, self.shared)

    def shrink(self, begun: int) -> bool:
        """A run found no memory though it was predicted to. There are to be fewer now than when it was `begun`; False
        if it was to be alone then."""
        if begun == 1:
            return False
        self.size = min(self.size, begun - 1)
        self._tell(f"{self.size} runs side by side from now on: one found no memory, and goes on when there is room")
        return True

    def _tell(self, what: str) -> None:
        if not self._told:
            self._told = True
            asked = f"runtime.fleet = {self.asked}: " if self.asked else ""
            print(f"lskd-run: {asked}{what}", file=sys.stderr, flush=True)


@dataclass
class Sweep:
    """A plan while it is being carried out by this process. Each run has a thread of its own, in which it trains or is
    waited for while one of the `workers` trains it."""

    store: Store
    runtime: Runtime
    fleet: Fleet
    workers: Workers
    stop: Stop
    progress: Progress
    observations: Observations = field(default_factory=dict)
    outcomes: Outcomes = field(default_factory=Outcomes)
    lost: set[str] = field(default_factory=set)  # ids of runs that this process will not see done
    claims: dict[str, contextlib.ExitStack] = field(default_factory=dict)  # of the runs in training

    def carry_out(self, runs: Sequence[Run]) -> Outcomes:
        pending = by_teacher(runs)
        training: dict[Future[Literal["over", "again"]], Run] = {}
        with ThreadPoolExecutor(self.fleet.size, thread_name_prefix="run") as lanes:
            try:
                while training or (pending and not self.stop.asked):
                    waiting = []
                    for run in pending:
                        state = self.begin(run)
                        if state == "ours":
                            training[lanes.submit(self.train, run)] = run
                        elif state == "wait":
                            waiting.append(run)
                    if not training and len(waiting) == len(pending) and not self.stop.asked:
                        time.sleep(WAIT_SECONDS)
                    pending = waiting
                    for future in wait(training, WAIT_SECONDS, FIRST_COMPLETED).done if training else ():
                        run = training.pop(future)
                        self.claims.pop(run.id).close()
                        del self.fleet.training[run.id]
                        if future.result() == "again":
                            pending.append(run)
            except BaseException:
                self.stop.asked = True  # so that what is in training writes a checkpoint, and ends
                raise
        self.outcomes.interrupted = self.stop.asked
        return self.outcomes

    def begin(self, run: Run) -> Literal["ours", "wait", "over"]:
        """Take `run` if it is ready to be trained ("ours": its claim is held), or say that it needs no further look
        ("over": done, or lost)."""
        if self.stop.asked or not self.fleet.room(run):
            return "wait"
        looks_only = looks_suffice(run, self.store, self.observations)
        if run.teacher is not None and run.teacher.id in self.lost and not looks_only:
            self.outcomes.blocked.append(run)
            return self.lose(run)
        if self.store.state(run) == "diverged" and not self.runtime.retry:
            message = (self.store.failure(run) or {}).get("message", "diverged")
            return self.lose(run, f"{message} (runtime.retry=true tries again)")
        if run.teacher is not None and not is_ready(run.teacher, self.store) and not looks_only:
            if self.store.state(run.teacher) == "damaged":
                self.outcomes.blocked.append(run)
                return self.lose(run)
            return "wait"  # it is being trained, here or by another process
        with contextlib.ExitStack() as stack:
            try:
                if not stack.enter_context(self.store.claim(run)):
                    return "wait"
            except OSError as error:
                return self.lose(run, f"cannot be claimed: {error.strerror}")
            if (damage := self.store.damage(run)) is not None:  # since the sweep began
                return self.lose(run, damage)
            if is_complete(run, self.store, self.observations, weights=True):
                self.progress.finished(run, "done by another process")
                return "over"
            self.claims[run.id] = stack.pop_all()
        self.fleet.training[run.id] = run
        return "ours"

    def train(self, run: Run) -> Literal["over", "again"]:
        """Train a run whose claim is held. Whatever goes wrong with it is recorded, and does not stop the others."""
        import torch

        from lskd.engine import CaptureFailed, Diverged, Interrupted, release
        from lskd.run import UnusableWeights, train_run

        begun, fleet, again = time.perf_counter(), self.fleet.size, False
        try:
            on_step, result = self.progress.started(run), None
            with self.workers.one(run) as worker:
                if worker is not None:
                    worker.train_run(run, fleet=fleet, on_step=on_step, stop=lambda: self.stop.asked)
                else:
                    result = train_run(
                        run, self.store, self.runtime, self.fleet.shared,
                        observations=self.observations.get(run.id, ()),
                        fleet=fleet, on_step=on_step, stop=lambda: self.stop.asked,
                    )  # fmt: skip
        except Interrupted:
            return "over"
        except ClaimLost:
            return "again"  # when that process is done with it
        except UnusableWeights as error:  # since the sweep began: nothing of this run, which stays as it is
            return self.lose(run, str(error))
        except Diverged as error:
            return self.fail(run, f"diverged: {error}", {"reason": "diverged", "message": str(error)})
        except Exception as error:
            again = isinstance(error, torch.OutOfMemoryError) and self.fleet.shrink(fleet)
            if isinstance(error, CaptureFailed) and error.process_lost:
                self.stop.asked = True  # the others write their checkpoints
            if not again:
                message = one_line(error)
                failure = {"reason": "failed", "message": message, "traceback": traceback.format_exc()}
                return self.fail(run, message, failure)
        if again:  # not in the handler: an error keeps all that the run held
            release(self.fleet.shared.device)
            return "again"
        self.fleet.learn(run, result)
        self.outcomes.trained.append(run)
        self.progress.finished(run, f"{time.perf_counter() - begun:.1f} s")
        return "over"

    def fail(self, run: Run, reason: str, failure: dict[str, Any]) -> Literal["over"]:
        with contextlib.suppress(OSError):  # a full disk: then it is said, and not recorded
            self.store.fail(run, failure)
        return self.lose(run, reason)

    def lose(self, run: Run, reason: str = "") -> Literal["over"]:
        self.lost.add(run.id)
        if reason:
            self.outcomes.failed.append((run, reason))
        self.progress.finished(run, reason or "not run: its teacher failed", lost=True)
        return "over"


def by_teacher(runs: Sequence[Run]) -> list[Run]:
    """Teachers first, so that nothing waits for them at the end; then the students of one teacher together, because
    they share its table of logits. Otherwise in the order given."""
    teaching = {_teacher_id(run) for run in runs}
    first: dict[str, int] = {}
    for place, run in enumerate(runs):
        first.setdefault(_teacher_id(run), place)
    return sorted(runs, key=lambda run: (run.id not in teaching, first[_teacher_id(run)]))


def _teacher_id(run: Run) -> str:
    return run.teacher.id if run.teacher is not None else ""


def is_ready(run: Run, store: Store) -> bool:
    """Whether the run is finished and its weights are here: it can teach."""
    return store.state(run) == "done" and store.weights(run).is_file()


@dataclass
class Stop:
    asked: bool = False


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Ctrl-C, SIGTERM, SIGHUP (a closed terminal) and SIGUSR1 (of clusters, before a time limit) ask for a stop at the
    next step, with a checkpoint; a second Ctrl-C stops at once. The last two only where nobody else has a use for them:
    nohup ignores SIGHUP, and launchers requeue their jobs at signals of their choice."""
    stop = Stop()
    signals = [signal.SIGINT, signal.SIGTERM]
    signals += [one for one in (signal.SIGHUP, signal.SIGUSR1) if signal.getsignal(one) is signal.SIG_DFL]

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.asked = True

    try:
        before = {number: signal.signal(number, ask) for number in signals}
    except ValueError:  # not in the main thread (some launchers): then the launcher decides
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
