"""Images that are decoded while a network trains: in the order in which it will see them, ahead of it, by threads.

Threads, because decoding and resizing leave Python's lock to others (Pillow): they need no copies between processes, no
start-up, and write straight into the memory from which a batch goes to the device.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lskd.data.augment import Augment
from lskd.data.images import Feed, ImageSource, Resident, centre
from lskd.data.index import Files
from lskd.data.sources import open_image

AHEAD = 128  # images that are being decoded while a batch is used, or two batches if they are more
AT_ONCE = 4  # of them that are given to a thread together: Python's lock is held less often
NO_VIEW = -1  # the view of an evaluation


class Streamed(ImageSource):
    """Images that stay in their files, and are decoded as they are needed: (B, C, h, w) in channels_last.

    The number of a view seeds its crop, of which there are too many to count.
    """

    def __init__(self, files: Files, augment: Augment, device: torch.device, pool: ThreadPoolExecutor) -> None:
        assert augment.resized is not None
        self.files, self.augment, self.resized, self.pool = files, augment, augment.resized, pool
        self.size = augment.crop
        super().__init__(len(files), (3, self.size, self.size), None, device, plain_view=NO_VIEW)

    def buffer(self, batch: int, device: torch.device | None = None) -> Tensor:
        """Room for a batch: (B, C, h, w)."""
        device = device or self.device
        pinned = device.type == "cpu" and self.device.type == "cuda"
        pixels = torch.zeros(batch, self.size, self.size, 3, dtype=torch.uint8, device=device, pin_memory=pinned)
        return pixels.permute(0, 3, 1, 2)

    def take(self, indices: Tensor, views: Tensor) -> Tensor:
        return next(self.batches(indices, views, len(indices)))

    def feed(self, size: int, eager: Callable[[], AbstractContextManager[None]]) -> Feed:
        return Ahead(self, size, eager)

    def batches(self, indices: Tensor, views: Tensor, size: int, into: Tensor | None = None) -> Iterator[Tensor]:
        """As of any source, each batch in the same place: `into` (B, C, h, w) on the device. The next ones are decoded
        meanwhile."""
        into = self.buffer(size) if into is None else into
        waiting: deque[tuple[Tensor, list[Future[None]]]] = deque()
        free: list[tuple[Tensor, Callable[[], None]]] = []  # host memory, and what to wait for before it is filled
        ahead = max(2, AHEAD // size)
        rows, seeds = indices.tolist(), views.tolist()
        try:
            begun = given = 0
            while begun < len(rows) or waiting:
                while begun < len(rows) and len(waiting) < ahead:
                    host, ready = free.pop(0) if free else (self.buffer(size, torch.device("cpu")), lambda: None)
                    ready()
                    waiting.append((host, self._decode(host, rows[begun : begun + size], seeds[begun : begun + size])))
                    begun += size
                host, futures = waiting.popleft()
                for future in futures:
                    future.result()
                batch = into[: min(size, len(rows) - given)]
                given += len(batch)
                batch.copy_(host[: len(batch)], non_blocking=True)
                free.append((host, self._copied()))
                yield batch
        finally:
            for _, futures in waiting:
                for future in futures:
                    future.cancel()

    def _decode(self, host: Tensor, rows: list[int], views: list[int]) -> list[Future[None]]:
        pixels = host.permute(0, 2, 3, 1).numpy()  # (B, h, w, C), the memory of `host`
        jobs = (slice(begin, begin + AT_ONCE) for begin in range(0, len(rows), AT_ONCE))
        return [self.pool.submit(self._look_at, pixels[job], rows[job], views[job]) for job in jobs]

    def _look_at(self, pixels: np.ndarray, rows: list[int], views: list[int]) -> None:
        for one, row, view in zip(pixels, rows, views, strict=False):
            self.look(one, row, view)

    def _copied(self) -> Callable[[], None]:
        """Waits until what has been put on the device's stream so far is done."""
        if self.device.type != "cuda":
            return lambda: None
        event = torch.cuda.Event()
        event.record()
        return event.synchronize

    def look(self, pixels: np.ndarray, row: int, view: int) -> None:
        """Decode one image into `pixels` (h, w, C): through `view`, or for evaluation."""
        image = open_image(self.files.source(row), self.files.path(row))
        if image.mode != "RGB":
            image = image.convert("RGB")
        flipped = False
        if view == NO_VIEW:
            box = self.resized.centre(*image.size)
        else:
            rng = random.Random(view)  # of which random() alone is used: its stream never changes between versions
            box = self.resized.draw(*image.size, rng)
            flipped = self.augment.flip and rng.random() < 0.5
        # Cropped first: resize(box=) would look at pixels beside the box, too.
        seen = np.asarray(image.crop(box).resize((self.size, self.size), Image.Resampling.BILINEAR))
        pixels[...] = seen[:, ::-1] if flipped else seen


class Ahead(Feed):
    """Batches that are decoded ahead of the steps, and put where these find them."""

    def __init__(self, source: Streamed, size: int, eager: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(source)
        self.images, self.size, self.eager = source, size, eager
        self.pixels = source.buffer(size)
        self.left: Iterator[Tensor] = iter(())

    def begin(self, indices: Tensor, views: Tensor, sizes: Sequence[int]) -> None:
        self.left = self.images.batches(indices, views[indices], self.size, self.pixels)

    def advance(self) -> None:
        with self.eager():
            next(self.left)

    def take(self, indices: Tensor, views: Tensor) -> Tensor:
        return self.pixels[: len(indices)]


def source_of(
    images: Tensor | Files, augment: Augment, device: torch.device, pool: ThreadPoolExecutor, *, trained: bool
) -> ImageSource:
    """The images of a part as they are trained on or, with trained=False, as they are evaluated alone."""
    if isinstance(images, Files):
        seen = augment if trained else replace(augment, crop=augment.evaluated, evaluate=0)
        return Streamed(images, seen, device, pool)
    return Resident(images, augment) if trained else Resident(centre(images, augment), Augment())


def decoders(workers: int) -> ThreadPoolExecutor:
    """Threads that decode, begun as they are needed; 0 = one for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(workers or cores, thread_name_prefix="decode")
