"""Step capture: on a GPU a step is recorded once as a CUDA graph and replayed, without Python between its kernels."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import torch

from lskd.errors import one_line

WARM_UP = 3  # eager steps before a capture: libraries choose their algorithms, and lazy state comes into being
ONE_AT_A_TIME = threading.Lock()  # captures of trainings that run side by side


def new_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A stream for one training: those side by side do not wait for one another. None on a CPU."""
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


class Captured:
    """`step(*sizes)`, which works on the current CUDA stream and only on tensors that stay where they are.

    The first calls with the same sizes run eagerly, and are steps like any other; then the step is captured, and from
    then on replayed. Where it cannot be captured, that is said once, and all steps run eagerly: slower, and the same
    numbers.
    """

    def __init__(self, step: Callable[..., None], generator: torch.Generator) -> None:
        self.step, self.generator = step, generator
        self.calls: Counter[tuple[int, ...]] = Counter()
        self.graphs: dict[tuple[int, ...], torch.cuda.CUDAGraph] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.failed = False

    def __call__(self, *sizes: int) -> None:
        if sizes in self.graphs:
            self.graphs[sizes].replay()
            return
        self.step(*sizes)
        self.calls[sizes] += 1
        if self.calls[sizes] >= WARM_UP and not self.failed:
            self._capture(sizes)

    def _capture(self, sizes: tuple[int, ...]) -> None:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        stream = torch.cuda.current_stream()
        try:
            # thread_local: the other trainings of this process go on while this thread captures.
            with (
                ONE_AT_A_TIME,
                torch.cuda.graph(graph, pool=self.pool, stream=stream, capture_error_mode="thread_local"),
            ):
                self.step(*sizes)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.failed = True
            logging.getLogger(__name__).warning(
                "a step cannot be captured (%s): running it eagerly, which is slower", one_line(error)
            )
            return
        self.graphs[sizes] = graph
