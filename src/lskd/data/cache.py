"""Decoded data sets on disk, `<cache>/data/<name>/`:

    train_images.npy  (N, C, H, W) uint8      train_labels.npy  (N,) int64
    test_images.npy   (M, C, H, W) uint8      test_labels.npy   (M,) int64
    meta.json         the `Spec`, where the data came from, and bytes and SHA-256 of each file

Of a streamed data set there is an index instead of arrays: see `lskd.data.index`.

Rows are in a canonical order. The same data set comes in different orders from different sources (torchvision's files,
the shards of a hub, a folder listing), and an index into it would mean different images on different machines. Sorted
by content, splits and the batches that a seed draws are the same everywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lskd.data import DATASETS, Spec, index, makeshift_cache_root
from lskd.data.index import Index
from lskd.data.sources import Arrays
from lskd.errors import InputError

_log = logging.getLogger(__name__)

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def canonical(arrays: Arrays) -> Arrays:
    """The rows of each part sorted by the SHA-256 of the image's bytes, equal images by label."""
    train = _sorted_by_content(arrays.train_images, arrays.train_labels)
    test = _sorted_by_content(arrays.test_images, arrays.test_labels)
    return Arrays(*train, *test, arrays.class_names)


def _sorted_by_content(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images = np.ascontiguousarray(images, dtype=np.uint8)
    labels = labels.astype("<i8")
    keys = [(hashlib.sha256(image).digest(), label) for image, label in zip(images, labels.tolist(), strict=True)]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return images[order], labels[order]


def digest(arrays: Arrays) -> str:
    """SHA-256 over the four arrays in canonical order, with their dtypes and shapes. Class names do not count."""
    sha = hashlib.sha256()
    for name in _ARRAYS:
        array = getattr(arrays, name)
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def describe(name: str, arrays: Arrays) -> Spec:
    """The `Spec` of arrays in canonical order."""
    channels, height, width = arrays.train_images.shape[1:]
    return Spec(
        name=name,
        title=name,
        num_classes=len(arrays.class_names),
        shape=(channels, height, width),
        train=len(arrays.train_images),
        test=len(arrays.test_images),
        class_names=arrays.class_names,
        digest=digest(arrays),
    )


def check_content(spec: Spec, arrays: Arrays, source: str) -> None:
    """Raise `InputError` unless `arrays`, in canonical order, are the data that `spec` describes."""
    found = describe(spec.name, arrays)
    for field in ("train", "test", "shape"):
        if getattr(found, field) != getattr(spec, field):
            kind = "image shape (C, H, W)" if field == "shape" else f"number of {field} images"
            raise InputError(f"{source}: {kind} = {getattr(found, field)}: {spec.name} has {getattr(spec, field)}")
    if found.digest != spec.digest:
        raise InputError(
            f"{source}: pixels or labels differ from {spec.name}: digest {found.digest}, not {spec.digest}"
        )


def write(folder: Path, spec: Spec, content: Arrays | Index, *, source: str, replace: bool) -> None:
    """Write a data set, so that `folder` either is complete or does not exist. Raises `InputError` if it cannot.

    Unless `replace`, a folder that is there already stays as it is: of several processes that write at once, the first
    to finish wins, and the others succeed too.
    """
    stem = f".{folder.name}.{uuid.uuid4().hex}"
    # A sibling, because a rename is atomic only within one file system.
    temporary, replaced = folder.with_name(stem), folder.with_name(f"{stem}.old")
    if folder.parent.parent == makeshift_cache_root():
        _log.warning("there is no home directory, so %s keeps the decoded data; set LSKD_CACHE", folder.parent.parent)
    try:
        temporary.mkdir(parents=True)
        meta = {**asdict(spec), "source": source}
        if isinstance(content, Index):
            content.save(temporary)
            parts = {"train": content.train.folder, "test": content.test.folder}
            meta |= {"root": str(content.root.absolute()), "parts": parts}
        else:
            for name in _ARRAYS:
                np.save(temporary / f"{name}.npy", getattr(content, name))
        paths = [temporary / name for name in _files(spec)]
        meta["files"] = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths}
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        if replace:
            with contextlib.suppress(FileNotFoundError):
                folder.rename(replaced)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write the cache ({error.strerror or error}): set LSKD_CACHE or --cache"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def read_spec(folder: Path) -> Spec:
    """The `Spec` in a folder's meta.json. Raises `InputError` if that is missing or damaged."""
    return _read_meta(folder)[0]


def check_files(folder: Path) -> Spec:
    """Raise `InputError` if a file of the data set is missing or has changed since it was written; else its `Spec`."""
    spec, files = _read_meta(folder)
    for name, (size, sha256) in files.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: missing: {_remedy(folder)}")
        if path.stat().st_size != size:
            raise InputError(f"{path}: damaged, {path.stat().st_size} bytes instead of {size}: {_remedy(folder)}")
        if _sha256(path) != sha256:
            raise InputError(f"{path}: damaged, its SHA-256 has changed: {_remedy(folder)}")
    return spec


def read(folder: Path) -> Arrays:
    """The arrays of a data set, its files checked as by `check_files`."""
    spec = check_files(folder)
    arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in _ARRAYS}
    return Arrays(**arrays, class_names=spec.class_names)


def read_files(folder: Path, data: Path) -> Arrays:
    """`read` for a streamed data set: `Files` in the place of images. Those of a built-in one are in `data`/name."""
    spec = check_files(folder)
    root, parts = locate(folder, data)
    train, test = index.read(folder, root, parts)
    return Arrays(*train, *test, class_names=spec.class_names)  # type: ignore[arg-type]


def locate(folder: Path, data: Path) -> tuple[Path, dict[str, str]]:
    """Where the images of a streamed data set are, and the folders of its parts. `InputError` if they are not there."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    root = data / folder.name if folder.name in DATASETS else Path(meta["root"])
    for part in meta["parts"].values():
        if not (root / part).is_dir():
            raise InputError(f"{root / part}: not there: the images of {folder.name} are indexed and not copied")
    return root, meta["parts"]


def check_index(folder: Path, data: Path) -> Spec:
    """Raise `InputError` unless the images of a streamed data set still have the names and sizes of their index."""
    spec = check_files(folder)
    root, parts = locate(folder, data)
    found = index.scan(root, (parts["test"],))
    if index.describe(spec.name, found).digest != spec.digest:
        raise InputError(f"{found.root}: files or their sizes differ from the index in {folder}: {_remedy(folder)}")
    return spec


def _files(spec: Spec) -> tuple[str, ...]:
    return index.FILES if spec.streamed else tuple(f"{name}.npy" for name in _ARRAYS)


def _read_meta(folder: Path) -> tuple[Spec, dict[str, tuple[int, str]]]:
    """The `Spec`, and (bytes, SHA-256) of each file."""
    if not folder.is_dir():
        raise InputError(f"{folder}: not in the cache: {_remedy(folder, forced=False)}")
    path = folder / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        channels, height, width = map(int, meta["shape"])
        spec = Spec(
            name=str(meta["name"]),
            title=str(meta["title"]),
            num_classes=int(meta["num_classes"]),
            shape=(channels, height, width),
            train=int(meta["train"]),
            test=int(meta["test"]),
            class_names=tuple(map(str, meta["class_names"])),
            digest=str(meta["digest"]),
        )
        files = {name: meta["files"][name] for name in _files(spec)}
        if spec.streamed:
            str(meta["root"]), meta["parts"]["train"], meta["parts"]["test"]
        checksums = {name: (int(file["bytes"]), str(file["sha256"])) for name, file in files.items()}
    except FileNotFoundError:
        raise InputError(f"{path}: missing: {_remedy(folder)}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}): {_remedy(folder)}") from error
    if spec.name != folder.name:
        raise InputError(f"{path}: describes {spec.name!r}, not {folder.name!r}: {_remedy(folder)}")
    if spec.name in DATASETS and DATASETS[spec.name].digest not in ("", spec.digest):
        raise InputError(f"{path}: describes other data than {spec.name}: {_remedy(folder)}")
    return spec, checksums


def _remedy(folder: Path, *, forced: bool = True) -> str:
    """What to run; `forced` when there is something in the cache that must be replaced."""
    command = f"prepare {folder.name}" if folder.name in DATASETS else f"import {folder.name} PATH"
    return f"run `lskd-data {command}{' --force' if forced else ''}`"


def _sha256(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
