"""Decoded data sets on disk, `<cache>/data/<name>/`:

    train_images.npy  (N, C, H, W) uint8      train_labels.npy  (N,) int64
    test_images.npy   (M, C, H, W) uint8      test_labels.npy   (M,) int64
    validation_images.npy, validation_labels.npy     likewise, where the data has such a part of its own
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
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lskd.data import index
from lskd.data.dataset import Spec
from lskd.data.folders import Notes
from lskd.data.index import STAMPS, Index
from lskd.data.registry import DATASETS
from lskd.data.roots import makeshift_cache_root
from lskd.data.scratch import REPLACED, scratch
from lskd.data.sources import Arrays, image_digests, note_duplicates
from lskd.errors import InputError

_log = logging.getLogger(__name__)


def _arrays(parts: tuple[str, ...]) -> list[str]:
    """The names of the arrays of a data set, in the order in which they are hashed."""
    return [f"{part}_{kind}" for part in parts for kind in ("images", "labels")]


def canonical(arrays: Arrays) -> Arrays:
    """The rows of each part sorted by the SHA-256 of the image's bytes, equal images by label."""
    for part in arrays.parts:
        names = _arrays((part,))
        rows: Any = _sorted_by_content(*(getattr(arrays, name) for name in names))
        arrays = arrays._replace(**dict(zip(names, rows, strict=True)))
    return arrays


def _sorted_by_content(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images = np.ascontiguousarray(images, dtype=np.uint8)
    labels = labels.astype("<i8")
    keys = list(zip(image_digests(images), labels.tolist(), strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return images[order], labels[order]


def digest(arrays: Arrays) -> str:
    """SHA-256 over the arrays in canonical order, with their dtypes and shapes. Class names do not count."""
    sha = hashlib.sha256()
    for name in _arrays(arrays.parts):
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
        validation=0 if arrays.validation_images is None else len(arrays.validation_images),
    )


def check_content(spec: Spec, content: Arrays | Index, source: str) -> Spec:
    """The `Spec` of arrays in canonical order, or of an index. `InputError` unless it is what `spec` describes."""
    streamed = isinstance(content, Index)
    found = index.describe(spec.name, content) if isinstance(content, Index) else describe(spec.name, content)
    for field in ("train", "test", "validation", "shape"):
        if getattr(found, field) != getattr(spec, field):
            kind = "image shape (C, H, W)" if field == "shape" else f"number of {field} images"
            raise InputError(f"{source}: {kind} = {getattr(found, field)}: {spec.name} has {getattr(spec, field)}")
    if not spec.digest and not (streamed and spec.name in DATASETS.shipped):  # known by its folders and numbers alone
        raise InputError(f"{source}: the Spec of {spec.name} has no digest: give it digest={found.digest!r}")
    if spec.digest and found.digest != spec.digest:
        what = "files" if streamed else "pixels or labels"
        raise InputError(f"{source}: {what} differ from {spec.name}: digest {found.digest}, not {spec.digest}")
    return found


def write(folder: Path, spec: Spec, content: Arrays | Index, *, source: str, replace: bool) -> None:
    """Write a data set, so that `folder` either is complete or does not exist. Raises `InputError` if it cannot.

    Unless `replace`, a folder that is there already stays as it is: of several processes that write at once, the first
    to finish wins, and the others succeed too.
    """
    if folder.parent.parent == makeshift_cache_root():
        _log.warning("there is no home directory, so %s keeps the decoded data; set LSKD_CACHE", folder.parent.parent)
    try:
        # Beside the folder, because a rename is atomic only within one file system.
        with scratch(folder.parent, folder.name) as place:
            temporary = place / "new"
            temporary.mkdir()
            meta = {**asdict(spec), "source": source}
            if isinstance(content, Index):
                content.save(temporary)
                parts = {name: part.folder for name, part in content.parts.items()}
                meta |= {"root": str(content.root.absolute()), "parts": parts, "content": content.content}
            else:
                for name in _arrays(spec.parts):
                    np.save(temporary / f"{name}.npy", getattr(content, name))
            paths = sorted(temporary.iterdir())
            meta["files"] = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths}
            (temporary / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
            if replace:
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(place / REPLACED)
            try:
                temporary.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write the cache ({error.strerror or error}): set LSKD_CACHE or --cache"
        ) from error


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
    arrays = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in _arrays(spec.parts)}
    return Arrays(**arrays, class_names=spec.class_names)


def note_equal_rows(name: str, arrays: Arrays) -> None:
    """Say which images of other parts are equal to one of the training part, by their rows in the cache."""
    notes = Notes()
    digests = {part: image_digests(getattr(arrays, f"{part}_images")) for part in arrays.parts}
    note_duplicates(
        {part: [(one, f"{part} {row}") for row, one in enumerate(digests[part])] for part in digests}, notes
    )
    notes.log(name)


def read_index(folder: Path, data: Path) -> Index:
    """The index of a streamed data set, its files checked as by `check_files`; the images of a built-in one are in
    `data`/name. Raises `InputError` if they are not there."""
    spec, meta = check_files(folder), _load_meta(folder)
    root = data / folder.name if folder.name in DATASETS else Path(meta["root"])
    for part in meta["parts"].values():
        if not (root / part).is_dir():
            raise InputError(f"{root / part}: not there: the images of {folder.name} are indexed and not copied")
    return index.read(folder, root, meta["parts"], spec.class_names, meta.get("content", ""))


def check_index(folder: Path, data: Path) -> Index:
    """`read_index`, and `check_changes`."""
    found = read_index(folder, data)
    check_changes(folder, found)
    return found


def check_changes(folder: Path, found: Index) -> None:
    """Raise `InputError` if the images are others than the index that was `found` in `folder` says."""
    if changes := index.find_changes(found):
        remedy = f"if these are the original ones, {_remedy(folder)}"
        if folder.name not in DATASETS:
            command = f"lskd-data import {folder.name} {shlex.quote(str(found.root))} --stream --force"
            remedy = f"import them as other data, on which runs train anew: `{command}`"
        raise InputError(
            f"{found.root}: not the images that were indexed: {changes.describe(found)}; restore them, or {remedy}"
        )


def follow(folder: Path, new: Index) -> tuple[Index, bool]:
    """`new` with its stamps, as the successor of the index in `folder`, if that is there and names the same files with
    the same sizes; and whether it ought to replace that, though it is of the same data: its images have moved, or were
    written anew. Where contents have changed, they count in its digest, which would be the same without them."""
    try:
        spec, meta = check_files(folder), _load_meta(folder)
    except InputError:
        return index.stamp(new), False
    if not spec.streamed:
        return index.stamp(new), False
    # As if it were of the images below the new root, which may be a copy.
    old = index.read(folder, new.root, meta["parts"], spec.class_names, meta.get("content", ""))
    if index.describe("", old._replace(content="")).digest != index.describe("", new).digest:
        return index.stamp(new), False
    folders = {name: part.folder for name, part in new.parts.items()}
    same_place = (meta["root"], meta["parts"]) == (str(new.root.absolute()), folders)
    changes = index.find_changes(old if same_place else old._replace(parts=new.parts))
    stamped = index.stamp(new, changes.rewritten)
    if changes:
        return stamped._replace(content=index.content_digest(stamped)), False
    assert stamped.stamps is not None
    same_times = old.stamps is not None and np.array_equal(old.stamps.mtimes, stamped.stamps.mtimes)
    return stamped._replace(content=old.content), not (same_place and same_times)


def _files(spec: Spec, meta: dict[str, Any]) -> list[str]:
    """The files of a data set besides meta.json. Indexes of older versions have no stamps."""
    if not spec.streamed:
        return [f"{name}.npy" for name in _arrays(spec.parts)]
    return [f"{part}.tsv" for part in spec.parts] + [STAMPS] * (STAMPS in meta["files"])


def _load_meta(folder: Path) -> Any:
    return json.loads((folder / "meta.json").read_text(encoding="utf-8"))


def _read_meta(folder: Path) -> tuple[Spec, dict[str, tuple[int, str]]]:
    """The `Spec`, and (bytes, SHA-256) of each file."""
    if not folder.is_dir():
        raise InputError(f"{folder}: not in the cache: {_remedy(folder, forced=False)}")
    path = folder / "meta.json"
    try:
        meta = _load_meta(folder)
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
            validation=int(meta.get("validation", 0)),
        )
        files = {name: meta["files"][name] for name in _files(spec, meta)}
        if spec.streamed:
            str(meta["root"]), [meta["parts"][part] for part in spec.parts]
        checksums = {name: (int(file["bytes"]), str(file["sha256"])) for name, file in files.items()}
    except FileNotFoundError:
        raise InputError(f"{path}: missing: {_remedy(folder)}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}): {_remedy(folder)}") from error
    if spec.name != folder.name:
        raise InputError(f"{path}: describes {spec.name!r}, not {folder.name!r}: {_remedy(folder)}")
    if spec.name in DATASETS and DATASETS[spec.name].spec.digest not in ("", spec.digest):
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
