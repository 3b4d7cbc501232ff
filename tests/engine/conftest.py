"""CUDA graphs, streams and events without a GPU, as far as the engine uses them; and a GPU whose numbers repeat."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import torch

from lskd.engine.capture import Captured, Pace, unowned
from lskd.engine.step import Step
from lskd.engine.training import set_precision


class Graph:
    """Stands for torch.cuda.CUDAGraph: what is called within its capture is not done then, but at each replay."""

    def __init__(self) -> None:
        self.while_replaying: Callable[[], None] = lambda: None
        self.work: list[Callable[[], None]] = []
        self.replays = 0

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators = [*getattr(self, "generators", []), generator]

    def replay(self) -> None:
        self.replays += 1
        self.while_replaying()
        for act in self.work:
            act()


class Stream:
    """Stands for torch.cuda.Stream: the 32 of a device in turn."""

    drawn = 0

    def __init__(self, device: object = None) -> None:
        self.cuda_stream = Stream.drawn % 32
        self.device_index = 0
        Stream.drawn += 1
        self.synchronized = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.cuda_stream == self.cuda_stream

    def __hash__(self) -> int:
        return hash(self.cuda_stream)

    def synchronize(self) -> None:
        self.synchronized += 1


class Event:
    """Stands for torch.cuda.Event: `trace` has the numbers of those that were recorded and waited for."""

    trace: ClassVar[list[tuple[str, int]]] = []
    made = 0

    def __init__(self, **options: Any) -> None:
        self.number, Event.made = Event.made, Event.made + 1

    def record(self) -> None:
        Event.trace.append(("recorded", self.number))

    def synchronize(self) -> None:
        Event.trace.append(("waited for", self.number))


class Device:
    """By `error` a capture fails; `while_capturing` and `while_replaying` are called at every one."""

    def __init__(self) -> None:
        self.captures = threading.local()
        self.error: Exception | None = None
        self.while_capturing: Callable[[], None] = lambda: None
        self.while_replaying: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def graph(self, graph: Graph, **options: Any) -> Iterator[None]:
        assert options["capture_error_mode"] == "thread_local"
        self.captures.graph = graph
        graph.while_replaying = lambda: self.while_replaying()
        try:
            self.while_capturing()
            yield
            if self.error is not None:
                raise self.error
        finally:
            self.captures.graph = None

    @property
    def capturing(self) -> Graph | None:
        return getattr(self.captures, "graph", None)

    def kernels(self, step: Callable[..., None]) -> Callable[..., None]:
        """`step` as something that a capture records."""

        def call(*sizes: int) -> None:
            if (graph := self.capturing) is not None:
                graph.work.append(lambda: step(*sizes))
            else:
                step(*sizes)

        return call


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    Stream.drawn = Event.made = 0
    Event.trace = []
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.13.0"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", device.graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    return device


@pytest.fixture
def captured(gpu: Device, monkeypatch: pytest.MonkeyPatch) -> Device:
    """Trainings on a CPU capture their steps, as they do on a GPU."""
    init = Step.__init__

    def capturing(step: Step, *given: Any) -> None:
        init(step, *given)
        step.run_step = Captured(gpu.kernels(unowned(step._step)), *[member.generator for member in step.members])
        step.run_update = Captured(gpu.kernels(unowned(step._update)), *[member.generator for member in step.members])
        step._pace = Pace()

    monkeypatch.setattr(Step, "__init__", capturing)
    return gpu


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU: algorithms that give the same numbers again, no TF32; and a capture that fails is an error."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setenv("LSKD_STRICT_CAPTURE", "1")
    set_precision("fp32")
