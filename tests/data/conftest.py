"""A tiny data set, and a writer of Hugging Face style parquet for it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lskd.data import DATASETS, Origin
from lskd.data.arrays import Arrays
from lskd.data.readers import read_shards


class WriteParquet(Protocol):
    def __call__(
        self,
        folder: Path,
        arrays: Arrays,
        *,
        image: str = ...,
        label: str = ...,
        shards: int = ...,
        names: bool = ...,
        parts: Sequence[str] = ...,
        flat: bool = ...,
        text: bool = ...,
    ) -> None: ...


def _encode(image: np.ndarray) -> bytes:
    """A (C, H, W) image as PNG."""
    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, format="PNG")
    return file.getvalue()


def _write_parquet(
    folder: Path,
    arrays: Arrays,
    *,
    image: str = "image",
    label: str = "label",
    shards: int = 1,
    names: bool = True,
    parts: Sequence[str] = ("train", "test"),
    flat: bool = False,
    text: bool = False,
) -> None:
    """`parts` but "train" hold the test images; `flat`: bytes without a struct around them; `text`: labels as words."""
    folder.mkdir(parents=True, exist_ok=True)
    features = {"info": {"features": {label: {"names": list(arrays.class_names), "_type": "ClassLabel"}}}}
    metadata = {"huggingface": json.dumps(features)} if names else None
    for part in parts:
        held = "train" if part == "train" else "test"
        images, labels = getattr(arrays, f"{held}_images"), getattr(arrays, f"{held}_labels")
        for shard, rows in enumerate(np.array_split(np.arange(len(labels)), shards)):
            columns = {
                image: [
                    _encode(images[row]) if flat else {"bytes": _encode(images[row]), "path": None} for row in rows
                ],
                label: pa.array([arrays.class_names[one] for one in labels[rows]] if text else labels[rows]),
                "coarse_label": pa.array(labels[rows] * 0),  # as in the hub's cifar100: must be ignored
            }
            table = pa.table(columns).replace_schema_metadata(metadata)
            pq.write_table(table, folder / f"{part}-{shard:05d}-of-{shards:05d}.parquet")


@pytest.fixture
def write_parquet() -> WriteParquet:
    return _write_parquet


@pytest.fixture
def arrays() -> Arrays:
    """30 training and 9 test images, shape (3, 6, 5), of 3 classes, in canonical order."""
    rng = np.random.RandomState(0)
    return Arrays(
        rng.randint(0, 256, (30, 3, 6, 5), dtype=np.uint8),
        np.arange(30) % 3,
        rng.randint(0, 256, (9, 3, 6, 5), dtype=np.uint8),
        np.arange(9) % 3,
        ("ant", "bee", "cat"),
    ).canonical()


@pytest.fixture
def tiny(arrays: Arrays, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Makes "tiny" a built-in data set for the length of a test; its parquet shards are in the returned data root."""
    monkeypatch.setitem(DATASETS.entries, "tiny", Origin(arrays.describe("tiny"), read_shards, "standard"))
    _write_parquet(tmp_path / "raw" / "tiny", arrays, shards=3)
    return tmp_path / "raw"
