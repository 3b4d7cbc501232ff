"""Step capture: on a GPU a step is recorded once as a CUDA graph and replayed, without Python between its kernels.

Trainings side by side in one process have to give one another room for that: a stream for each (`own_stream`), nothing
but replays while one of them captures (`GATE`), and no more work queued on the device than it does at once (`Pace`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator

import torch

from lskd.collector import collector_off
from lskd.errors import one_line

WARM_UP = 3  # eager steps before a capture: libraries choose their algorithms, and lazy state comes into being
STREAMS = 32  # that torch has for a device. It hands them out in turn: the 33rd is the first one again
AHEAD = 32  # steps between two events of a `Pace`
# Before, torch's own generator was a part of every graph and knew of one capture at a time: a replay meanwhile was an
# error ("Offset increment outside graph capture", pytorch #176753).
ALONGSIDE = "2.12"
# Before, a capture that failed left torch's generator and its allocator in the middle of one (pytorch #180395).
RECOVERS = "2.13"


class Gate:
    """A lock of a device: many threads may launch work eagerly at once, or one thread may capture, alone. Replays
    need no lock, from torch `ALONGSIDE` on.

    A capture becomes invalid if another thread synchronises the whole device meanwhile, as libraries do when they
    search for an algorithm and allocators when they free memory. A thread that waits to capture goes before one that
    waits to begin an eager section. Sections may be nested; a capture inside one is an error.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._eager = self._waiting = 0  # sections under way; captures under way or wanted
        self._capturing = False
        self._own = threading.local()

    @contextlib.contextmanager
    def eager(self, lock: threading.Lock | None = None) -> Iterator[None]:
        """An eager section. With `lock`, that lock is held as well. It is always taken first: a thread that waited for
        it inside a section would hold up a capture, which in turn would hold up the thread that has the lock."""
        depth = getattr(self._own, "depth", 0)
        if lock is not None and depth:
            raise RuntimeError("a lock is taken before an eager section, not within")
        with contextlib.nullcontext() if lock is None else lock:
            if not depth:
                with self._changed:
                    self._changed.wait_for(lambda: not self._waiting)
                    self._eager += 1
            self._own.depth = depth + 1
            try:
                yield
            finally:
                self._own.depth = depth
                if not depth:
                    with self._changed:
                        self._eager -= 1
                        self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        if getattr(self._own, "depth", 0):
            raise RuntimeError("a capture within an eager section would wait for itself")
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not (self._eager or self._capturing))
            except BaseException:  # Ctrl-C
                self._waiting -= 1
                self._changed.notify_all()
                raise
            self._capturing = True
        self._own.depth = 1  # what is a section of its own elsewhere
        try:
            yield
        finally:
            self._own.depth = 0
            with self._changed:
                self._waiting -= 1
                self._capturing = False
                self._changed.notify_all()


GATE = Gate()


class Streams:
    """The streams of one device, each for one training at a time.

    Were two trainings given the same one, what the one replays would be recorded into the other's graph.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._lock = device, threading.Lock()
        self._free: list[torch.cuda.Stream] = []
        self._drawn: set[int] = set()
        self._last = threading.local()

    def take(self) -> torch.cuda.Stream:
        """Preferably the one that this thread had last: cuBLAS keeps memory for each thread and stream that meet."""
        last = getattr(self._last, "stream", None)
        with self._lock:
            for _ in range(2 * STREAMS):  # others in this process may draw, too
                if len(self._drawn) == STREAMS:
                    break
                stream = torch.cuda.Stream(self._device)
                if stream.cuda_stream not in self._drawn:
                    self._drawn.add(stream.cuda_stream)
                    self._free.append(stream)
            if not self._free:
                raise RuntimeError(f"{self._device}: all of its {len(self._drawn)} streams are in use")
            self._last.stream = self._free.pop(self._free.index(last) if last in self._free else 0)
            return self._last.stream

    def give_back(self, stream: torch.cuda.Stream) -> None:
        with self._lock:
            self._free.append(stream)


STREAMS_OF: dict[int, Streams] = {}  # by the number of the device


@contextlib.contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Everything inside runs on a stream of its own (`on_stream`), which is synchronised at the end. Does nothing on a
    CPU."""
    if device.type != "cuda":
        yield
        return
    number = torch.cuda.current_device() if device.index is None else device.index
    streams = STREAMS_OF.setdefault(number, Streams(torch.device("cuda", number)))
    stream = streams.take()
    try:
        with on_stream(stream):
            try:
                yield
            finally:
                stream.synchronize()
    finally:
        streams.give_back(stream)


def new_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A stream for one of at most `STREAMS` trainings that come and go together. None on a CPU."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


@contextlib.contextmanager
def on_stream(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Everything inside runs on `stream`, backward passes in this very thread: torch's own thread for a device would be
    shared by all trainings, and outlive a capture."""
    if stream is None:
        yield
        return
    with torch.cuda.stream(stream), torch.autograd.set_multithreading_enabled(False):
        yield


class Pace:
    """Keeps the host within 2 × `AHEAD` steps of its device. A step takes it a small part of the device's time: it
    would be an epoch ahead soon, and captures, stops and the display would have to wait for that."""

    def __init__(self) -> None:
        self.steps = 0
        self._passed: torch.cuda.Event | None = None

    def step(self) -> None:
        """A step has been queued on the current stream. At every `AHEAD`th, wait for the one `AHEAD` before."""
        self.steps += 1
        if self.steps % AHEAD:
            return
        event = torch.cuda.Event(blocking=True)  # which leaves the core to other trainings
        event.record()
        if self._passed is not None:
            self._passed.synchronize()
        self._passed = event


def unowned(method: Callable[..., None]) -> Callable[..., None]:
    """`method`, without a hold on its object, which may so keep it and still end with its last user: at a time of the
    garbage collector's choice its graphs would be destroyed within another training's capture."""
    weak = weakref.WeakMethod(method)

    def call(*arguments: int) -> None:
        living = weak()
        assert living is not None
        living(*arguments)

    return call


class CaptureFailed(RuntimeError):
    """A step cannot be captured, and is not to run eagerly instead. `process_lost`: nothing else can be captured in
    this process either."""

    def __init__(self, message: str, *, process_lost: bool) -> None:
        super().__init__(message)
        self.process_lost = process_lost


class Captured:
    """`step(*sizes)`, which works on the current CUDA stream and only on tensors that stay where they are.

    The first calls with the same sizes run eagerly, and are steps like any other; then the step is captured, and from
    then on replayed. Where it cannot be captured, that is said once, and all steps run eagerly: slower, and the same
    numbers. But `CaptureFailed` is raised where LSKD_STRICT_CAPTURE=1 is in the environment, as for measurements, and
    on a torch that cannot go on (`RECOVERS`).
    """

    def __init__(self, step: Callable[..., None], *generators: torch.Generator) -> None:
        """`generators`: all that the step draws from."""
        self.step, self.generators = step, generators
        self.calls: Counter[tuple[int, ...]] = Counter()
        self.graphs: dict[tuple[int, ...], torch.cuda.CUDAGraph] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.failed: dict[tuple[int, ...], str] = {}  # the sizes that could not be captured, and why
        self.alongside = torch.__version__ >= ALONGSIDE

    def __call__(self, *sizes: int) -> None:
        graph = self.graphs.get(sizes)
        if graph is not None and self.calls[sizes] > WARM_UP and self.alongside:
            graph.replay()
            return
        with GATE.eager():
            if graph is not None:
                graph.replay()  # the first time loads what is still missing on the device
            else:
                self.step(*sizes)
        self.calls[sizes] += 1
        if graph is None and self.calls[sizes] >= WARM_UP and not self.failed:
            self._capture(sizes)

    def _capture(self, sizes: tuple[int, ...]) -> None:
        # A graph that is destroyed within a capture invalidates it (pytorch #161037). Nor is garbage collected before:
        # that takes 0.1 to 0.2 s, as long as a small training's epoch, and ours leave none.
        with GATE.alone(), collector_off():
            graph = torch.cuda.CUDAGraph()
            for generator in self.generators:
                graph.register_generator_state(generator)
            stream = torch.cuda.current_stream()
            try:
                # thread_local: the other trainings of this process go on with their replays.
                with torch.cuda.graph(graph, pool=self.pool, stream=stream, capture_error_mode="thread_local"):
                    self.step(*sizes)
            except torch.OutOfMemoryError:  # the capture was ended in order
                raise
            except RuntimeError as error:
                self._give_up(sizes, error)
            else:
                self.graphs[sizes] = graph

    def _give_up(self, sizes: tuple[int, ...], error: RuntimeError) -> None:
        errors: list[BaseException] = [error]  # the last is the first that went wrong
        while (before := errors[-1].__context__) is not None:
            errors.append(before)
        process_lost = torch.__version__ < RECOVERS
        if isinstance(errors[-1], torch.OutOfMemoryError) and not process_lost:
            raise errors[-1]
        self.failed[sizes] = one_line(errors[-1])
        why = f"a step cannot be captured ({self.failed[sizes]})"
        if process_lost:
            raise CaptureFailed(
                f"{why}, and torch {torch.__version__} can capture nothing more in this process: give the command "
                f"again (from torch {RECOVERS} on, such a step runs eagerly)",
                process_lost=True,
            )
        if os.environ.get("LSKD_STRICT_CAPTURE", "0") not in ("", "0"):
            raise CaptureFailed(f"{why}, and LSKD_STRICT_CAPTURE is set", process_lost=False)
        logging.getLogger(__name__).warning("%s: running it eagerly, which is slower", why)
