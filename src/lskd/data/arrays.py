"""Data sets that are held in memory: their pixels as arrays. (Those that are too large are an `lskd.data.index.Index`,
and text is `lskd.data.text.texts.Texts`, which have the same methods: what `lskd.data.cache` writes and reads.)

    train_images.npy  (N, C, H, W) uint8      train_labels.npy  (N,) int64
    test_images.npy   (M, C, H, W) uint8      test_labels.npy   (M,) int64
    validation_images.npy, validation_labels.npy     likewise, where the data has such a part of its own

Rows are in a canonical order. The same data set comes in different orders from different sources (torchvision's files,
the shards of a hub, a folder listing), and an index into it would mean different images on different machines. Sorted
by content, splits and the batches that a seed draws are the same everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lskd.data.dataset import Dataset, Spec
from lskd.data.folders import Notes, note_duplicates
from lskd.data.splits import count

if TYPE_CHECKING:
    from torch import Tensor


class Arrays(NamedTuple):
    """A whole data set in memory."""

    train_images: np.ndarray  # (N, C, H, W) uint8
    train_labels: np.ndarray  # (N,) int64
    test_images: np.ndarray  # (M, C, H, W) uint8
    test_labels: np.ndarray  # (M,) int64
    class_names: tuple[str, ...]  # (K,)
    validation_images: np.ndarray | None = None  # (L, C, H, W) uint8: a part of the data's own
    validation_labels: np.ndarray | None = None  # (L,) int64

    @property
    def parts(self) -> tuple[str, ...]:
        return ("train", "test") if self.validation_images is None else ("train", "test", "validation")

    def labelled(self, dataset: Dataset, cache: Path) -> dict[str, tuple[Tensor, np.ndarray]]:
        """Images and labels of each part, whatever a run makes of them."""
        import torch

        columns = {part: (getattr(self, name) for name in names_of((part,))) for part in self.parts}
        return {part: (torch.from_numpy(images), labels) for part, (images, labels) in columns.items()}

    def canonical(self) -> Arrays:
        """The rows of each part sorted by the SHA-256 of the image's bytes, equal images by label."""
        arrays = self
        for part in self.parts:
            names = names_of((part,))
            rows: Any = _sorted_by_content(*(getattr(arrays, name) for name in names))
            arrays = arrays._replace(**dict(zip(names, rows, strict=True)))
        return arrays

    def digest(self) -> str:
        """SHA-256 over the arrays in canonical order, with their dtypes and shapes. Class names do not count."""
        sha = hashlib.sha256()
        for name in names_of(self.parts):
            array = getattr(self, name)
            sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()

    def describe(self, name: str) -> Spec:
        """The `Spec` of arrays in canonical order."""
        channels, height, width = self.train_images.shape[1:]
        return Spec(
            name=name,
            title=name,
            num_classes=len(self.class_names),
            shape=(channels, height, width),
            train=len(self.train_images),
            test=len(self.test_images),
            class_names=self.class_names,
            digest=self.digest(),
            validation=0 if self.validation_images is None else len(self.validation_images),
            class_sizes=tuple(count(getattr(self, f"{part}_labels"), len(self.class_names)) for part in self.parts),
        )

    def inspect(self, name: str, *, built_in: bool) -> None:
        """Say which images of other parts are equal to one of the training part, by their rows in the cache; of what is
        built in that is known."""
        if built_in:
            return
        notes = Notes()
        digests = {part: image_digests(getattr(self, f"{part}_images")) for part in self.parts}
        places = {part: [(one, f"{part} {row}") for row, one in enumerate(digests[part])] for part in digests}
        note_duplicates(places, notes)
        notes.log(name)

    def changes(self) -> str:
        """What is no longer as it was written, in words: arrays are there, or they are damaged."""
        return ""

    # ---- in the cache ---------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the files that `file_names` names. Returns what else meta.json needs to say: nothing."""
        for name in names_of(self.parts):
            np.save(folder / f"{name}.npy", getattr(self, name))
        return {}

    @staticmethod
    def file_names(spec: Spec, meta: Mapping[str, Any]) -> list[str]:
        """The names of its files."""
        return [f"{name}.npy" for name in names_of(spec.parts)]

    @staticmethod
    def read(folder: Path, spec: Spec, meta: Mapping[str, Any], root: Path) -> Arrays:
        arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in names_of(spec.parts)}
        return Arrays(**arrays, class_names=spec.class_names)


def names_of(parts: tuple[str, ...]) -> list[str]:
    """The names of the arrays of a data set, in the order in which they are hashed."""
    return [f"{part}_{kind}" for part in parts for kind in ("images", "labels")]


def _sorted_by_content(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images = np.ascontiguousarray(images, dtype=np.uint8)
    labels = labels.astype("<i8")
    keys = list(zip(image_digests(images), labels.tolist(), strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return images[order], labels[order]


def image_digests(images: np.ndarray) -> list[bytes]:
    """The SHA-256 of each image's bytes."""
    return [hashlib.sha256(image).digest() for image in np.ascontiguousarray(images, dtype=np.uint8)]
