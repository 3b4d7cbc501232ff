"""What the trainings on one device share: the data there, and the logits of frozen teachers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lskd.data import Part
from lskd.data.augment import Mix
from lskd.data.stream import decoders
from lskd.engine.capture import GATE
from lskd.engine.tasks import Source, Task, load
from lskd.run import Run, logit_cache_bytes

DATA_SETS = 4  # kept on the device at once


@dataclass(eq=False)
class LogitCache:
    """A teacher's logits for every view of every training image, filled as they are needed."""

    logits: Tensor  # (N · views, K) fp32
    known: Tensor  # (N · views,) bool: which rows are filled
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def bytes(self) -> int:
        return self.logits.nbytes + self.known.nbytes


class Shared:
    """One for each device and process. `teacher_memory` bounds the bytes of all caches of teachers' logits together;
    `workers` is the number of threads that decode streamed images, 0 = one a core; `search`: cuDNN tries its
    algorithms, which only a training that has the device to itself may have it do (`training.set_precision`)."""

    def __init__(
        self, device: torch.device, teacher_memory: float = 4e9, workers: int = 0, *, search: bool = False
    ) -> None:
        self.device, self.teacher_memory, self.workers, self.search = device, teacher_memory, workers, search
        self._decoders = decoders(workers)
        self._lock = threading.Lock()
        self._tasks: dict[Hashable, Task] = {}
        self._caches: dict[Hashable, LogitCache] = {}  # the least recently used first

    def task(self, run: Run, parts: Mapping[str, Part]) -> Task:
        """`parts` on the device, as the recipe of `run` sees them."""
        key = (run.dataset, replace(run.recipe.augment, mix=Mix()), run.recipe.normalize)  # a step mixes them
        with GATE.eager(self._lock):
            if key not in self._tasks:
                while len(self._tasks) >= DATA_SETS:
                    del self._tasks[next(iter(self._tasks))]
                with self._for_all():
                    self._tasks[key] = load(run.recipe, parts, self.device, self._decoders)
            return self._tasks[key]

    @contextlib.contextmanager
    def _for_all(self) -> Iterator[None]:
        """What is made inside is there when it ends, for whichever stream comes first; and its memory, which belongs to
        the device's default stream, is none of a training's (`loop.held_memory_mb`)."""
        if self.device.type != "cuda":
            yield
            return
        with torch.cuda.stream(torch.cuda.default_stream(self.device)):
            yield
            torch.cuda.current_stream(self.device).synchronize()  # for the whole device would end a capture

    @contextlib.contextmanager
    def logit_cache(self, run: Run, source: Source, classes: int) -> Iterator[LogitCache | None]:
        """That of the teacher of `run`, over the views of `source`; None where there is no use for one, and where
        memory does not allow it."""
        cache = None
        if run.logits_by_view and source.views is not None:
            cache = self._take_cache(run, len(source), source.views, classes)
        try:
            yield cache
        finally:
            if cache is not None:
                if self.device.type == "cuda":  # whoever is given its memory next waits for no reader
                    torch.cuda.current_stream(self.device).synchronize()
                with self._lock:
                    cache.users -= 1

    def _take_cache(self, run: Run, images: int, views: int, classes: int) -> LogitCache | None:
        assert run.teacher is not None
        key = (run.teacher.id, run.dataset, run.recipe.augment, run.recipe.precision)
        with GATE.eager(self._lock):
            cache = self._caches.pop(key, None)
            if cache is None and self._make_room(logit_cache_bytes(images, views, classes)):
                with self._for_all():
                    cache = LogitCache(
                        torch.empty(images * views, classes, device=self.device),
                        torch.zeros(images * views, dtype=torch.bool, device=self.device),
                    )
            if cache is not None:
                self._caches[key] = cache
                cache.users += 1
            return cache

    def _make_room(self, needed: int) -> bool:
        """Drop caches that no training uses, the least recently used first, until `needed` more bytes are allowed."""
        held = sum(cache.bytes for cache in self._caches.values())
        for key, cache in list(self._caches.items()):
            if held + needed <= self.teacher_memory:
                break
            if not cache.users:
                held -= cache.bytes
                del self._caches[key]
        return held + needed <= self.teacher_memory
