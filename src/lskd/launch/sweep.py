"""Carrying out a plan in this process: what is missing, teachers first, several runs side by side on the device, and
beside other processes that do the same.

Several processes (one a GPU, one a cluster node) started with the same command share the work through the claims in the
store: no run is trained twice, and each process takes what is ready.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
import traceback
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from lskd.config_groups import Conf
from lskd.errors import one_line
from lskd.launch.fleet import Fleet
from lskd.launch.progress import Progress
from lskd.launch.queue import by_teacher, is_complete, needs_only_probes, to_train
from lskd.plan import Probes
from lskd.run import LINEAGE, Run
from lskd.runtime import Runtime
from lskd.store import ClaimLost, State, Store
from lskd.trackers import Tracking, check_trackers

if TYPE_CHECKING:
    from lskd.launch.workers import Workers


WAIT_SECONDS = 0.5  # between looks at the trainings here
# Between looks at what waits: for teachers, and for other processes. So long after one that found something to begin;
# twice as long after each that did not, up to the latter: a look at a thousand runs is thousands of calls to the store.
LOOK_SECONDS = WAIT_SECONDS, 2.0
# Until a process that waits for nobody gives up a run whose teacher is not there. On NFS a file of another machine may
# show so late.
SETTLE_SECONDS = 90.0


@dataclass
class Outcomes:
    """What became of a plan's runs."""

    trained: list[Run] = field(default_factory=list)
    failed: list[tuple[Run, str]] = field(default_factory=list)  # with the reason, on one line
    blocked: list[Run] = field(default_factory=list)  # a run whose weights it needs failed, or its record is damaged
    damaged: list[Run] = field(default_factory=list)  # their records are, and were left as they are
    left: list[Run] = field(default_factory=list)  # to other processes, by one that does not wait for them
    interrupted: bool = False
    submitted: list[str] | None = None  # by a launcher that has others train, in words: then nothing is done yet

    @property
    def exit_code(self) -> int:
        return 130 if self.interrupted else 1 if self.failed or self.blocked or self.damaged else 0


def carry_out(
    runs: Sequence[Run],
    store: Store,
    runtime: Runtime,
    conf: Conf,
    probes: Probes = MappingProxyType({}),
    *,
    only: Collection[str] | None = None,
) -> Outcomes:
    """Train what is missing of `runs`, and make the `probes` of them. Bad input is an `InputError` before any
    training; a run that fails or diverges is recorded and the others go on. With `only`, the ids of some of them,
    others are left to other processes, and not waited for either."""
    check_trackers(runtime.tracker)
    pending = [run for run in to_train(runs, store, probes) if only is None or run.id in only]
    damaged = [run for run in runs if store.state(run) == "damaged"]
    if not pending:
        return Outcomes(damaged=damaged)
    from lskd import data
    from lskd.environment import check_precision, resolve_device
    from lskd.launch.execute import check_lengths, load_network, taught_elsewhere
    from lskd.launch.preflight import check_buildable, check_packages

    device = resolve_device(runtime.device)
    check_precision([run.recipe.precision for run in pending], device)
    check_buildable(pending, conf.cache)
    check_packages(probes)
    ready = {one.id: one for run in pending for one in run.parents if store.ready(one)}
    probed = {run.id: run for run in pending if needs_only_probes(run, store, probes)}
    for run in (ready | probed).values():
        load_network(run, store, runtime)
    for run in ready.values():
        if not run.recipe.trains:
            print(f"lskd-run: {as_it_is(run, store)}", flush=True)
    needed = [one for run in pending for one in (run.dataset, taught_elsewhere(run)) if one is not None]
    for name in dict.fromkeys(one.name for one in needed):
        data.prepare(name, data=runtime.data_root, cache=runtime.cache_root)
    for dataset in dict.fromkeys(needed):
        data.tokenize(dataset, data=runtime.data_root, cache=runtime.cache_root)
    check_lengths(pending, runtime)
    store.check_writable()

    fleet = Fleet(runs, runtime, device, conf)
    shown = Progress(pending, store, conf, fleet.size, device.type, show=runtime.progress)
    with (  # workers are forked first: trackers and the display have threads
        fleet.workers(pending, store, runtime, probes) as workers,
        Tracking(runtime.tracker, store) as tracking,
        stopping() as stop,
        shown as progress,
    ):
        sweep = Sweep(
            store, runtime, fleet, workers, stop, progress, tracking, probes, Outcomes(damaged=damaged),
            waits=only is None,
        )  # fmt: skip
        return sweep.carry_out(pending)


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
    tracking: Tracking
    probes: Probes = field(default_factory=dict)
    outcomes: Outcomes = field(default_factory=Outcomes)
    lost: set[str] = field(default_factory=set)  # ids of runs that this process will not see done
    claims: dict[str, contextlib.ExitStack] = field(default_factory=dict)  # of the runs in training
    waits: bool = True  # for what other processes train
    parents: dict[str, State | Literal["ready"]] = field(default_factory=dict)  # as they were at this look
    failures: dict[str, object] = field(default_factory=dict)  # which there were when the sweep began

    def carry_out(self, runs: Sequence[Run]) -> Outcomes:
        pending = by_teacher(runs)
        self.failures = {run.id: self.store.failure_version(run) for run in runs}
        look, pause = 0.0, LOOK_SECONDS[0]  # when to, and how long after it
        idle = time.monotonic()  # since when nothing is in training
        training: dict[Future[Literal["over", "again"]], Run] = {}
        with ThreadPoolExecutor(self.fleet.size, thread_name_prefix="run") as lanes:
            try:
                while training or (pending and not self.stop.asked):
                    if time.monotonic() >= look:
                        waiting = []
                        self.parents.clear()
                        for run in pending:
                            state = self.begin(run)
                            if state == "ours":
                                training[lanes.submit(self.train, run)] = run
                            elif state == "wait":
                                waiting.append(run)
                        least, most = LOOK_SECONDS
                        if len(waiting) < len(pending):
                            pause = least
                        look, pending = time.monotonic() + pause, waiting
                        pause = min(2 * pause, most)
                    idle = time.monotonic() if training else idle
                    settled = not self.may_show or time.monotonic() > idle + SETTLE_SECONDS
                    if not training and not self.waits and settled:
                        break
                    if not training and pending:
                        time.sleep(WAIT_SECONDS)
                    for future in wait(training, WAIT_SECONDS, FIRST_COMPLETED).done if training else ():
                        look = 0.0
                        run = training.pop(future)
                        self.claims.pop(run.id).close()
                        del self.fleet.training[run.id]
                        if future.result() == "again":
                            pending.append(run)
            except BaseException:
                self.stop.asked = True  # so that what is in training writes a checkpoint, and ends
                raise
        self.outcomes.left = pending
        self.outcomes.interrupted = self.stop.asked
        return self.outcomes

    def begin(self, run: Run) -> Literal["ours", "wait", "over"]:
        """Take `run` if it is ready to be trained ("ours": its claim is held), or say that it needs no further look
        ("over": done, or lost)."""
        if self.stop.asked or not self.fleet.room(run):
            return "wait"
        probes_only = run.id in self.probes and needs_only_probes(run, self.store, self.probes)
        if any(parent.id in self.lost for parent in run.parents) and not probes_only:
            self.outcomes.blocked.append(run)
            return self.lose(run)
        parents = [] if probes_only else [self.state_of(parent) for parent in run.parents]
        if "damaged" in parents:
            self.outcomes.blocked.append(run)
            return self.lose(run)
        if any(state != "ready" for state in parents):
            return "wait"  # it is being trained, here or by another process
        if self.store.state(run) == "diverged" and not self.runtime.retry:
            message = (self.store.failure(run) or {}).get("message", "diverged")
            return self.lose(run, f"{message} (runtime.retry=true tries again)")
        with contextlib.ExitStack() as stack:
            try:
                if not stack.enter_context(self.store.claim(run)):
                    return "wait"
            except OSError as error:
                return self.lose(run, f"cannot be claimed: {error.strerror}")
            if (damage := self.store.damage(run)) is not None:  # since the sweep began
                return self.lose(run, damage)
            if is_complete(run, self.store, self.probes, weights=True):
                self.progress.finished(run, "done by another process")
                return "over"
            failure = self.store.failure(run)
            if failure is not None and self.store.failure_version(run) != self.failures[run.id]:
                return self.lose(run, f"{failure.get('message')} (in another process, since this one began)")
            self.claims[run.id] = stack.pop_all()
        self.fleet.training[run.id] = run
        return "ours"

    @property
    def may_show(self) -> bool:
        """Whether a parent may be trained, and only not show yet: of one that failed there is a record."""
        return any(state in ("missing", "started", "done") for state in self.parents.values())

    def state_of(self, parent: Run) -> State | Literal["ready"]:
        """Of a run that others need; looked up once for all of them."""
        if parent.id not in self.parents:
            self.parents[parent.id] = "ready" if self.store.ready(parent) else self.store.state(parent)
        return self.parents[parent.id]

    def train(self, run: Run) -> Literal["over", "again"]:
        """Train a run whose claim is held. Whatever goes wrong with it is recorded, and does not stop the others."""
        import torch

        from lskd.engine import CaptureFailed, Diverged, Interrupted, release
        from lskd.launch.execute import UnusableWeights, train_run

        begun, fleet, again = time.perf_counter(), self.fleet.size, False

        def on_epoch(records: list[dict[str, Any]]) -> None:
            self.progress.epoch(run, records[-1])
            self.tracking.epochs(run, records)

        try:
            on_step, result = self.progress.started(run), None
            with self.workers.one(run) as worker:
                if worker is not None:
                    worker.train_run(run, fleet=fleet, on_step=on_step, on_epoch=on_epoch, stop=lambda: self.stop.asked)
                else:
                    result = train_run(
                        run, self.store, self.runtime, self.fleet.shared,
                        probes=self.probes.get(run.id, ()),
                        fleet=fleet, on_step=on_step, on_epoch=on_epoch, stop=lambda: self.stop.asked,
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
        finally:
            self.tracking.end(run)
        if again:  # not in the handler: an error keeps all that the run held
            release(self.fleet.shared.device)
            return "again"
        self.fleet.learn(run, result)
        self.outcomes.trained.append(run)
        if not run.recipe.trains:
            self.progress.say(f"lskd-run: {as_it_is(run, self.store)}")
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
        self.progress.finished(run, reason or f"not run: {why_blocked(run, self.store)}", lost=True)
        return "over"


def as_it_is(run: Run, store: Store) -> str:
    """What a network that was not trained is worth, in a line: for before its students train."""
    part, last = run.dataset.evaluate, (store.result(run) or {}).get("last", {})
    whence = f" ({run.start.source})" if run.start.source else ""
    return f"{run}{whence}: {part} top1 {last.get(part, {}).get('top1', math.nan):.2f} %"


def why_blocked(run: Run, store: Store) -> str:
    """Why `run` cannot be trained: of a run whose weights it needs there are none."""
    state = {name: store.state(one) for name in LINEAGE if (one := getattr(run, name)) is not None}
    name = next((name for name in state if state[name] != "done"), "teacher")
    whose = "its teacher" if name == "teacher" else "the run that it starts from"
    return whose + ("'s record is damaged" if state.get(name) == "damaged" else " failed")


@dataclass
class Stop:
    asked: bool = False


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Ctrl-C, SIGTERM, SIGHUP (a closed terminal) and SIGUSR1 (of clusters, before a time limit) ask for a stop at the
    next step, with a checkpoint; a second Ctrl-C stops at once. The last two only where no handler is installed yet:
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
