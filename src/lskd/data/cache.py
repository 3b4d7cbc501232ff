"""Data sets on disk, `<cache>/data/<name>/`: the files of their content, and meta.json, with the `Spec`, where the data
came from, and bytes and SHA-256 of each file.

The content is the images themselves (`lskd.data.arrays`) or, of a streamed data set, an index of their files
(`lskd.data.index`); of a data set of text, the text (`lskd.data.text.texts`).
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
from lskd.data.arrays import Arrays
from lskd.data.dataset import NOUNS, EvaluationSet, Spec
from lskd.data.index import Index
from lskd.data.registry import DATASETS
from lskd.data.roots import makeshift_cache_root
from lskd.data.scratch import REPLACED, scratch
from lskd.data.text.settings import Text
from lskd.data.text.texts import Texts
from lskd.errors import InputError
from lskd.schema import parse

_log = logging.getLogger(__name__)
Content = Arrays | Index | Texts


def kind_of(spec: Spec) -> type[Arrays] | type[Index] | type[Texts]:
    """What the content of a data set is."""
    if spec.kind != "images":
        return Texts
    return Index if spec.streamed else Arrays


def check_content(spec: Spec, content: Content, source: str) -> Spec:
    """The `Spec` of `content`, in canonical order. `InputError` unless it is what `spec` describes."""
    found = content.describe(spec.name)
    for field in ("kind", "train", "test", "validation", "shape", "tests"):
        if getattr(found, field) != getattr(spec, field):
            number = f"number of {field} {spec.noun}"
            what = {"shape": "image shape (C, H, W)", "tests": "sets of test sentences"}.get(field, number)
            its, known = (_in_words(getattr(one, field)) for one in (found, spec))
            raise InputError(f"{source}: {what} = {its}: {spec.name} has {known}")
    unhashed = spec.streamed or spec.kind != "images"
    if not spec.digest and not (unhashed and spec.name in DATASETS.shipped):  # known by names and numbers alone
        raise InputError(f"{source}: the Spec of {spec.name} has no digest: give it digest={found.digest!r}")
    if spec.digest and found.digest != spec.digest:
        what = "files" if spec.streamed else "pixels or labels" if spec.kind == "images" else "sentences or labels"
        raise InputError(f"{source}: {what} differ from {spec.name}: digest {found.digest}, not {spec.digest}")
    return found


def _in_words(value: object) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], EvaluationSet):
        return ", ".join(f"{one.name} {one.size}" for one in value)
    return str(value)


def write(folder: Path, spec: Spec, content: Content, *, source: str, replace: bool) -> None:
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
            meta = {**asdict(spec), "source": source, **content.save(temporary)}
            paths = sorted(temporary.iterdir())
            meta["files"] = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths}
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
        if sha256_of(path) != sha256:
            raise InputError(f"{path}: damaged, its SHA-256 has changed: {_remedy(folder)}")
    return spec


def read(folder: Path, data: Path) -> Content:
    """What is in a data set, its files checked as by `check_files`. The images of a built-in one that is streamed are
    in `data`/name. `InputError` if they are not there."""
    spec, meta = check_files(folder), _load_meta(folder)
    root = data / folder.name if folder.name in DATASETS else Path(meta.get("root", folder))
    for part in meta.get("parts", {}).values():
        if not (root / part).is_dir():
            raise InputError(f"{root / part}: not there: the images of {folder.name} are indexed and not copied")
    return kind_of(spec).read(folder, spec, meta, root)


def check_changes(folder: Path, found: Content) -> None:
    """Raise `InputError` if the images are others than what was `found` in `folder` says."""
    if changes := found.changes():
        remedy = f"if these are the original ones, {_remedy(folder)}"
        if folder.name not in DATASETS:
            command = f"lskd-data import {folder.name} {shlex.quote(_load_meta(folder)['root'])} --stream --force"
            remedy = f"import them as other data, on which runs train anew: `{command}`"
        raise InputError(f"{changes}; restore them, or {remedy}")


def follow(folder: Path, new: Index) -> tuple[Index, bool]:
    """`new` with its stamps, as the successor of the index in `folder`, if that is there and names the same files with
    the same sizes; and whether it ought to replace that, though it is of the same data: its images have moved, or were
    written anew. Where contents have changed, they count in its digest, which would be the same without them."""
    try:
        spec, meta = check_files(folder), _load_meta(folder)
        # As if it were of the images below the new root, which may be a copy.
        old = Index.read(folder, spec, meta, new.root)
    except (InputError, KeyError):  # there is none, or none that is an index
        return index.stamp(new), False
    if old._replace(content="").describe("").digest != new.describe("").digest:
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


def _load_meta(folder: Path) -> Any:
    return json.loads((folder / "meta.json").read_text(encoding="utf-8"))


def _read_meta(folder: Path) -> tuple[Spec, dict[str, tuple[int, str]]]:
    """The `Spec`, and (bytes, SHA-256) of each file."""
    if not folder.is_dir():
        raise InputError(f"{folder}: not in the cache: {_remedy(folder, forced=False)}")
    path = folder / "meta.json"
    try:
        meta = _load_meta(folder)
        shape = tuple(map(int, meta["shape"]))
        kind, text = meta.get("kind", "images"), meta.get("text")
        if kind not in NOUNS or len(shape) != (3 if kind == "images" else 0):
            raise ValueError(kind)
        spec = Spec(
            name=str(meta["name"]),
            title=str(meta["title"]),
            num_classes=int(meta["num_classes"]),
            shape=shape,
            train=int(meta["train"]),
            test=int(meta["test"]),
            class_names=tuple(map(str, meta["class_names"])),
            digest=str(meta["digest"]),
            validation=int(meta.get("validation", 0)),
            class_sizes=tuple(tuple(map(int, sizes)) for sizes in meta.get("class_sizes", ())),
            kind=kind,
            text=parse(Text, text) if text else None,
            tests=tuple(EvaluationSet(str(one["name"]), int(one["size"])) for one in meta.get("tests", ())),
        )
        files = {name: meta["files"][name] for name in kind_of(spec).file_names(spec, meta)}
        checksums = {name: (int(file["bytes"]), str(file["sha256"])) for name, file in files.items()}
    except FileNotFoundError:
        raise InputError(f"{path}: missing: {_remedy(folder)}") from None
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
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


def sha256_of(path: Path) -> str:
    """Of a file."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
