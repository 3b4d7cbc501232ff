"""Worker processes, for the trainings of small networks.

A step of a small network is mostly Python, of which one thread of a process runs at a time: side by side in threads,
such trainings take as long as one after the other. A worker is forked from the sweep's process: it has all modules,
plug-ins and settings at once, and computes the same bits.
"""

from __future__ import annotations

import contextlib
import functools
import logging.handlers
import math
import multiprocessing
import pickle
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from lskd.data import Spec
from lskd.engine import Shared
from lskd.launch import execute as training
from lskd.models import Arch
from lskd.run import Named, ProbeSpec, Run
from lskd.runtime import Runtime
from lskd.store import Store

# Multiplications of a step's forward pass: so few take a core about a millisecond, the backward pass included.
SMALL = 3e7
TELL_SECONDS = 0.1  # between messages of a worker about the step it is at
LOOK_SECONDS = 0.05  # between its looks for a word from the sweep
CAN_FORK = sys.platform == "linux"  # elsewhere system libraries do not survive a fork
Jobs = Mapping[str, tuple[Run, Sequence[ProbeSpec]]]  # by run id: the run, and its probes


class WorkerDied(RuntimeError):
    """The process of a worker ended in the middle of a run."""


class Failure(Exception):
    """The traceback of an exception in a worker, shown above that of its being raised again here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


def is_small(run: Run, spec: Spec) -> bool:
    """Whether a step of `run` is more Python than arithmetic: its own networks' step, and its teacher's."""
    if spec.kind != "images":
        return False
    of_teacher = run.teacher is None or is_small(run.teacher, spec)
    shape, classes = run.recipe.input_shape(spec.shape), spec.num_classes
    count = sum(multiplications(one.arch, shape, classes) for one in (run, *run.peers))
    return of_teacher and run.recipe.micro_batch * count <= SMALL


@functools.lru_cache(maxsize=256)
def multiplications(arch: Named[Arch], shape: tuple[int, int, int], classes: int) -> float:
    """Of one image of `shape` in the layers of a network; infinite where that cannot be told."""
    count = 0

    def add(layer: nn.Module, given: Any, output: Tensor) -> None:
        nonlocal count
        weight = layer.weight
        if isinstance(weight, Tensor) and weight.ndim > 1:
            count += weight.numel() * output.numel() // weight.shape[0]  # each weight once a place of the output

    try:
        with torch.random.fork_rng(devices=()), torch.no_grad():  # (On "meta" it would cost a second of imports.)
            network = arch.settings.build(shape, classes).eval()
            for module in network.modules():
                if hasattr(module, "weight"):
                    module.register_forward_hook(add)
            network(torch.zeros(1, *shape))
            return max(count, sum(parameter.numel() for parameter in network.parameters()))
    except Exception:  # of networks of all kinds
        return math.inf


class Workers:
    """`count` workers with one thread each, for the runs of `jobs`. Fork them before other threads begin. At the end of
    the block they end: what they train by then stops at its next step, with a checkpoint."""

    def __init__(self, count: int, jobs: Jobs, store: Store, runtime: Runtime, shared: Shared) -> None:
        self.jobs, self.free = jobs, SimpleQueue[Worker]()
        self.all: list[Worker] = []
        memory = shared.teacher_memory / max(count, 1)  # each has caches of its own of teachers' logits
        if count:
            # With the first one torch imports its compiler, a second's work: once, and not in each worker.
            torch.optim.SGD([torch.zeros(())], lr=0.0)
        for _ in range(count):
            of_its_own = Shared(shared.device, memory, shared.workers)
            worker = Worker(jobs, store, runtime, of_its_own, [other.pipe for other in self.all])
            self.all.append(worker)
            self.free.put(worker)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self.all:
            worker.pipe.close()
        for worker in self.all:
            worker.process.join()

    @contextlib.contextmanager
    def one(self, run: Run) -> Iterator[Worker | None]:
        """A worker for `run`; None if it is not theirs, or none is left."""
        worker = None
        if run.id in self.jobs:
            with contextlib.suppress(Empty):
                worker = self.free.get_nowait()
        try:
            yield worker
        finally:
            if worker is not None and worker.process.is_alive():
                self.free.put(worker)


class Worker:
    """One process, and this end of the pipe to it.

    To the worker goes the id of a run, followed by the open file of its claim. The worker holds the claim from then on,
    too: were the sweep killed, the run would be free only when the worker has ended. While it trains, anything to read
    in its pipe, and the pipe's end, mean that it is to stop. From it come steps, epochs, log records, and at last how
    the run ended.
    """

    def __init__(
        self, jobs: Jobs, store: Store, runtime: Runtime, shared: Shared, others: Sequence[Connection] = ()
    ) -> None:
        """`others` are the ends of the pipes to the workers that are there already."""
        context = multiprocessing.get_context("fork")
        self.store = store
        self.pipe, theirs = context.Pipe()
        # Were this end open in any process but the sweep's, the worker would not see the sweep end.
        ends = [self.pipe, *others]
        self.process = context.Process(target=_serve, args=(theirs, ends, jobs, store, runtime, shared), daemon=True)
        with warnings.catch_warnings():
            # Python warns of the idle threads of torch, which it cannot know: a worker does not use them.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        theirs.close()

    def train_run(
        self,
        run: Run,
        *,
        fleet: int,
        on_step: Callable[[int, int], None],
        on_epoch: Callable[[list[dict[str, Any]]], None],
        stop: Callable[[], bool],
    ) -> None:
        """As `execute.train_run`, in the worker: it raises here what was raised there. The caller holds the claim."""
        asked = False
        try:
            with self.store.lend_claim(run) as file:
                self.pipe.send((run.id, fleet))
                send_handle(self.pipe, file, self.process.pid)
                while True:
                    if self.pipe.poll(LOOK_SECONDS):
                        kind, *content = self.pipe.recv()
                        if kind == "step":
                            on_step(*content)
                        elif kind == "epoch":
                            on_epoch(*content)
                        elif kind == "log":
                            logging.getLogger(content[0].name).handle(content[0])
                        else:
                            break
                    elif not asked and stop():
                        asked = True
                        self.pipe.send(None)
        except (EOFError, OSError) as error:
            self.process.join()
            code = self.process.exitcode or 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise WorkerDied(f"the process that trained it {how}") from error
        if kind == "raised":
            raised, text = content
            if isinstance(raised, tuple):
                kind, words = raised
                raised = type(kind, (Exception,), {})(words)
            raise raised from Failure(text)


def _serve(
    pipe: Connection, ends: Sequence[Connection], jobs: Jobs, store: Store, runtime: Runtime, shared: Shared
) -> None:
    """A worker's life: one run after the other, until the sweep closes the pipe or is gone."""
    for end in ends:
        end.close()
    # A terminal and a cluster send their signals to all processes of a job. The sweep tells its workers what to do.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    logging.getLogger().handlers = [_Logs(pipe)]
    with contextlib.suppress(EOFError, OSError):  # the sweep has closed the pipe, or is gone
        while True:
            word = pipe.recv()
            if word is None:  # to stop what had ended by then
                continue
            id, fleet = word
            file = recv_handle(pipe)
            pipe.send(_train(pipe, *jobs[id], store, runtime, shared, fleet, file))


def _train(
    pipe: Connection, run: Run, probes: Sequence[ProbeSpec], store: Store, runtime: Runtime, shared: Shared,
    fleet: int, file: int,
) -> tuple[Any, ...]:  # fmt: skip
    """Train `run`, whose claim is the open `file`, and close that. How it ended, as a message."""
    told = looked = 0.0
    stopped = False

    def on_step(step: int, total: int) -> None:
        nonlocal told
        now = time.perf_counter()
        if now - told > TELL_SECONDS:
            told = now
            with contextlib.suppress(OSError):
                pipe.send(("step", step, total))

    def on_epoch(records: list[dict[str, Any]]) -> None:
        with contextlib.suppress(OSError):
            pipe.send(("epoch", records))

    def stop() -> bool:
        nonlocal looked, stopped
        now = time.perf_counter()
        if not stopped and now - looked > LOOK_SECONDS:
            looked, stopped = now, pipe.poll()
        return stopped

    try:
        with store.lent_claim(run, file):
            training.train_run(
                run, store, runtime, shared,
                probes=probes, fleet=fleet, on_step=on_step, on_epoch=on_epoch, stop=stop,
            )  # fmt: skip
    except Exception as error:
        return _raised(error)
    return ("over",)


def _raised(error: Exception) -> tuple[Any, ...]:
    """The message of an exception: itself, or where it cannot be sent (a plug-in's, perhaps) its kind and its words."""
    text = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return "raised", (type(error).__name__, str(error)), text
    return "raised", error, text


class _Logs(logging.handlers.QueueHandler):
    """Sends log records to the sweep, which shows them as its own."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(SimpleQueue())
        self.pipe = pipe

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(("log", record))
