"""What the trainings on one device share: the images there, and the logits of frozen teachers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lskd.data import Part
from lskd.data.augment import Normalizer, Views, centre
from lskd.data.index import Files
from lskd.data.stream import Stream, decoders
from lskd.engine.capture import GATE
from lskd.run import Run, table_bytes

DATA_SETS = 4  # kept on the device at once


@dataclass(frozen=True)
class Images:
    """A data set on its device, as one recipe sees it: uint8 throughout, the held-out parts cropped for evaluation.
    Of a streamed data set only the labels are there, and streams take the place of views and of images."""

    views: Views | Stream
    labels: Tensor  # (N,) of the training part
    normalizer: Normalizer
    held_out: dict[str, Part]


def teacher_normalizer(run: Run, images: Images, taught_on: Tensor | None = None) -> Normalizer:
    """The normalisation that the teacher of `run` was trained with, for the student's `images`. `taught_on` are its own
    training images (N, C, H, W) uint8, needed where it is by their statistics, and the student's is not.
    """
    assert run.teacher is not None
    normalize = run.teacher.recipe.normalize
    by_data = normalize.kind == "dataset"
    if normalize == run.recipe.normalize and (run.teacher.dataset == run.dataset or not by_data):
        return images.normalizer
    if not by_data:
        taught_on = torch.empty(0, images.views.channels, 1, 1)  # how many channels there are is all that counts
    assert taught_on is not None
    return Normalizer(normalize, taught_on, images.labels.device)


@dataclass(eq=False)
class Table:
    """A teacher's logits for every view of every training image, filled as they are needed."""

    logits: Tensor  # (N · views, K) fp32
    known: Tensor  # (N · views,) bool: which rows are filled
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def bytes(self) -> int:
        return self.logits.nbytes + self.known.nbytes


class Shared:
    """One for each device and process. `teacher_memory` bounds the bytes of all tables together; `workers` is the
    number of threads that decode streamed images, 0 = one a core; `search`: cuDNN tries its algorithms, which only a
    training that has the device to itself may have it do (`training.set_precision`)."""

    def __init__(
        self, device: torch.device, teacher_memory: float = 4e9, workers: int = 0, *, search: bool = False
    ) -> None:
        self.device, self.teacher_memory, self.workers, self.search = device, teacher_memory, workers, search
        self._decoders: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._images: dict[Hashable, Images] = {}
        self._tables: dict[Hashable, Table] = {}  # the least recently used first

    def images(self, run: Run, parts: Mapping[str, Part]) -> Images:
        """`parts` on the device, as the recipe of `run` sees them."""
        key = (run.dataset, run.recipe.augment, run.recipe.normalize)
        with GATE.eager(self._lock):
            if key not in self._images:
                while len(self._images) >= DATA_SETS:
                    del self._images[next(iter(self._images))]
                with self._for_all():
                    self._images[key] = self._load(run, parts)
            return self._images[key]

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

    def _load(self, run: Run, parts: Mapping[str, Part]) -> Images:
        if isinstance(parts["train"].images, Files):
            return self._stream(run, parts)
        here = {name: Part(*(tensor.to(self.device) for tensor in part)) for name, part in parts.items()}
        images, labels = here.pop("train")
        augment = run.recipe.augment
        held_out = {name: Part(centre(part.images, augment), part.labels) for name, part in here.items()}
        return Images(Views(images, augment), labels, Normalizer(run.recipe.normalize, images), held_out)

    def _stream(self, run: Run, parts: Mapping[str, Part]) -> Images:
        if self._decoders is None:
            self._decoders = decoders(self.workers)
        streams = {
            name: Part(
                Stream(part.images, run.recipe.augment, self.device, self._decoders), part.labels.to(self.device)
            )
            for name, part in parts.items()
            if isinstance(part.images, Files)
        }
        stream, labels = streams.pop("train")
        channels = torch.empty(0, 3, 1, 1, device=self.device)
        return Images(stream, labels, Normalizer(run.recipe.normalize, channels), streams)

    @contextlib.contextmanager
    def table(self, run: Run, views: Views, classes: int) -> Iterator[Table | None]:
        """The table of the teacher of `run`, over the views that `run` draws; None where memory does not allow one."""
        assert run.teacher is not None
        recipe = run.recipe
        key = (run.teacher.id, run.dataset, recipe.augment, recipe.precision)
        rows = len(views.images) * views.count
        with GATE.eager(self._lock):
            table = self._tables.pop(key, None)
            if table is None and self._make_room(table_bytes(len(views.images), views.count, classes)):
                with self._for_all():
                    table = Table(
                        torch.empty(rows, classes, device=self.device),
                        torch.zeros(rows, dtype=torch.bool, device=self.device),
                    )
            if table is not None:
                self._tables[key] = table
                table.users += 1
        try:
            yield table
        finally:
            if table is not None:
                if self.device.type == "cuda":  # whoever is given its memory next waits for no reader
                    torch.cuda.current_stream(self.device).synchronize()
                with self._lock:
                    table.users -= 1

    def _make_room(self, needed: int) -> bool:
        """Drop tables that no training uses, the least recently used first, until `needed` more bytes are allowed."""
        held = sum(table.bytes for table in self._tables.values())
        for key, table in list(self._tables.items()):
            if held + needed <= self.teacher_memory:
                break
            if not table.users:
                held -= table.bytes
                del self._tables[key]
        return held + needed <= self.teacher_memory
