"""Shards as they come from the hub: webdataset's tar, and parquet, whose images are streamed from where they are.

A tar holds an image a sample and its label beside it: `KEY.jpg` and `KEY.cls` (a whole number), or `KEY.json` with a
"label". Parquet is as `lskd.data.sources` reads it. The part is a word of a shard's name (`imagenet1k-train-0000.tar`)
or of its folder's (`train/0000.tar`).
"""

from __future__ import annotations

import json
import logging
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lskd.data.folders import IMAGE_SUFFIXES, PARTS, Listing, assign_parts
from lskd.data.places import Places, bytes_of
from lskd.data.sources import USUAL, Columns, class_names_of, find_columns, find_shards, in_one_line
from lskd.errors import InputError

_log = logging.getLogger(__name__)

LARGE_GROUP = 1 << 20  # bytes: reading an image out of parquet reads as many, or more, and is said


class Sample(NamedTuple):
    """An image of a shard: see `Places`."""

    name: str  # within its shard
    label: int
    offset: int
    length: int
    row: int = -1


def find_tars(folder: Path, *, split: bool = False, names: Sequence[str] = PARTS) -> dict[str, list[Path]] | None:
    """The tar shards of "train", "test" and perhaps "validation" in `folder`; None if there are none of "train".
    `InputError` if one of their numbers is missing, or as by `assign_parts`."""
    files = sorted(path for path in (*folder.glob("*.tar"), *folder.glob("*/*.tar")) if path.name[0] != ".")
    named: dict[str, list[Path]] = {}
    for path in files:
        words = re.split(r"[^a-z]+", path.relative_to(folder).as_posix().lower())
        if found := [part for part in PARTS if part in words and part in names]:
            named.setdefault(found[0], []).append(path)
    if "train" not in named:
        return None
    parts = assign_parts(named, folder, split=split)
    for name in parts.values():
        _check_numbers(named[name])
    return {part: named[name] for part, name in parts.items()}


def _check_numbers(paths: Sequence[Path]) -> None:
    """`InputError` if the numbers in which the shards' names end have a gap, or begin above 1: one is missing."""
    ends = [(path, match) for path in paths if (match := re.search(r"(\d+)$", path.stem))]
    if len(ends) < len(paths):
        return
    numbers = {int(match[1]) for _, match in ends}
    for number in range(0 if 0 in numbers else 1, max(numbers)):
        if number not in numbers:
            path, match = ends[0]
            name = f"{path.stem[: match.start()]}{number:0{len(match[1])}d}{path.suffix}"
            raise InputError(f"{path.parent}: {name} is missing: of shards with numbers all must be there")


def read_tar(path: Path) -> list[Sample]:
    """The images of a tar, in its order. `InputError` if it is damaged, or if an image has no label."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, tuple[str, bytes]] = {}
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
            for member in archive:
                folder, _, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                key = f"{folder}/{stem}"
                if not member.isfile() or not stem:
                    continue
                if suffix.lower() in IMAGE_SUFFIXES:
                    if key in images:
                        raise InputError(f"{path}: {member.name}: a second image of its sample, {images[key][0]}")
                    images[key] = member.name, member.offset_data, member.size
                elif suffix == "cls" or (suffix == "json" and key not in labels):
                    content = archive.extractfile(member)
                    labels[key] = suffix, content.read() if content is not None else b""
            _check_end(path, archive)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{path}: damaged or not a tar file ({in_one_line(error)})") from error
    found = []
    for key, (name, offset, length) in images.items():
        if key not in labels:
            raise InputError(f"{path}: {name}: no label: must have a file .cls, or .json with a label, beside it")
        found.append(Sample(name, _label(path, name, *labels[key]), offset, length))
    if not found:
        raise InputError(f"{path}: no images")
    return found


def _check_end(path: Path, archive: tarfile.TarFile) -> None:
    """tarfile takes a damaged header for the end: after it there must be zeros only."""
    with path.open("rb") as file:
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise InputError(f"{path}: damaged: no file begins at byte {archive.offset}, where one should")


def _label(path: Path, name: str, suffix: str, content: bytes) -> int:
    try:
        return int(json.loads(content)["label"] if suffix == "json" else content)
    except (ValueError, KeyError, TypeError) as error:
        shown = content[:40].decode("utf-8", "replace")
        raise InputError(f"{path}: {name}: label = {shown!r}: must be a whole number") from error


def read_parquet(path: Path, columns: Columns) -> tuple[list[Sample], str, tuple[str, ...]]:
    """The images of a parquet file, in its order; the column with their bytes, and the names of the classes if the file
    says them. `InputError` if it is damaged, or an image or a label is missing."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    samples: list[Sample] = []
    try:
        with pq.ParquetFile(path) as file:
            found = find_columns(file.schema_arrow, columns, path)
            if found.has_text:
                raise InputError(f"{path}: column {found.label!r} is text: must be integers to be streamed")
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=[found.image, found.label], use_threads=False)
                labels, images = table[found.label], table[found.image]
                if labels.null_count:
                    raise InputError(f"{path}: column {found.label!r} has rows without a value")
                names: list[str | None] = [None] * len(labels)
                if found.has_structs and images.type.get_field_index("path") >= 0:
                    names = pc.struct_field(images.combine_chunks(), "path").to_pylist()
                lengths = pc.binary_length(bytes_of(images)).to_pylist()
                for row, (name, label, length) in enumerate(zip(names, labels.to_pylist(), lengths, strict=True)):
                    if not length:
                        raise InputError(f"{path}, row {len(samples)}: not an image, but nothing")
                    samples.append(Sample(name or str(len(samples)), label, group, length, row))
            column = f"{found.image}.bytes" if found.has_structs else found.image
            names_of = class_names_of(file.schema_arrow, found.label)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged or not a parquet file ({in_one_line(error)})") from error
    if not samples:
        raise InputError(f"{path}: no images")
    return samples, column, names_of


class Shards(NamedTuple):
    """What is in the shards of a data set: see `Index`."""

    parts: dict[str, Listing]
    places: dict[str, Places]
    class_names: tuple[str, ...]
    kind: str


def find(folder: Path, *, split: bool, names: Sequence[str]) -> tuple[dict[str, list[Path]], str] | None:
    """The shards of each part in `folder`, and their kind, "tar" or "parquet"; None if there are none of "train"."""
    if tars := find_tars(folder, split=split, names=names):
        return tars, "tar"
    if parquet := find_shards(folder, split=split, names=names):
        return parquet, "parquet"
    return None


def scan(
    root: Path,
    *,
    columns: Columns = USUAL,
    split: bool = False,
    names: Sequence[str] = PARTS,
    class_names: Sequence[str] = (),
    rename: Callable[[str, int], str] | None = None,
) -> Shards | None:
    """What is in the shards below `root`; None if there are none of "train". Only parts with these `names` count.

    Images are sorted by name: SHARD/NAME or, with `rename(NAME, label)`, what that gives, so that data that is known by
    other names has its order. Classes are those of `class_names`, of parquet's metadata, or as many numbers as there
    are labels. Raises `InputError` if a shard is missing or damaged, or for a label that is no class's.
    """
    if (found := find(root, split=split, names=names)) is None:
        return None
    shards, kind = found
    _log.info("%s: listing the images of %d %s shards", root, sum(map(len, shards.values())), kind)
    read, column = dict[str, list[list[Sample]]](), ""
    said: tuple[str, ...] = ()
    for part, paths in shards.items():
        read[part] = []
        for path in paths:
            if kind == "tar":
                samples = read_tar(path)
            else:
                samples, column, said = read_parquet(path, columns)
            read[part].append(samples)
    classes = tuple(class_names) or said or _numbers(root, read["train"])
    parts, places = {}, {}
    for part, paths in shards.items():
        rows = list[tuple[str, int, int, int]]()  # name, shard, place in it, label
        for number, (path, samples) in enumerate(zip(paths, read[part], strict=True)):
            shard = path.relative_to(root).as_posix()
            for place, sample in enumerate(samples):
                if not 0 <= sample.label < len(classes):
                    raise InputError(
                        f"{path}: {sample.name}: label = {sample.label}: must be >= 0 and < {len(classes)}"
                    )
                name = rename(sample.name, sample.label) if rename else f"{shard}/{sample.name}"
                rows.append((name, number, place, sample.label))
        rows.sort()
        for (name, number, *_), (other, before, *_) in zip(rows[1:], rows, strict=False):
            if name == other:
                both = " and ".join(paths[i].name for i in (before, number))
                raise InputError(f"{root}: {name} is there twice, in {both}")
        sorted_ = [read[part][number][place] for _, number, place, _ in rows]
        columns_ = np.array([(*one[1:],) for one in sorted_], dtype=np.int64).T  # label, offset, length, row
        label, offset, length, row = np.ascontiguousarray(columns_)
        shard_of = np.array([number for _, number, *_ in rows], dtype=np.int64)
        stats = [path.stat() for path in paths]
        times = np.array([one.st_mtime_ns for one in stats], dtype=np.int64)
        parts[part] = Listing("", np.array([name for name, *_ in rows], dtype=object), label, length, times[shard_of])
        places[part] = Places(
            tuple(path.relative_to(root).as_posix() for path in paths),
            np.array([one.st_size for one in stats], dtype=np.int64), shard_of, offset, length, row, column,
        )  # fmt: skip
    if kind == "parquet":
        _say_what_reading_costs(root, places["train"])
    return Shards(parts, places, classes, kind)


def _numbers(root: Path, train: Sequence[Sequence[Sample]]) -> tuple[str, ...]:
    """Names of classes of which only the numbers are known."""
    labels = [sample.label for samples in train for sample in samples]
    if max(labels) >= len(labels):
        rule = f"must be < {len(labels)}, the number of training images: labels count classes from 0"
        raise InputError(f"{root}: label = {max(labels)}: {rule}")
    if max(labels) < 1:
        raise InputError(f"{root}: must have 2 or more classes, has {max(labels) + 1}")
    return tuple(map(str, range(max(labels) + 1)))


def _say_what_reading_costs(root: Path, places: Places) -> None:
    _, count = np.unique(np.stack([places.shard, places.offset]), axis=1, return_counts=True)
    size = int(places.length.sum() / len(count))
    if count.max() > 1 and size > LARGE_GROUP:
        _log.warning(
            "%s: an image is read with the %d of its row group, %.0f MB: tar shards, or files, are faster",
            root, count.max(), size / 1e6,
        )  # fmt: skip
