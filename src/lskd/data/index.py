"""Data sets too large to decode ahead: images stay where they are, and `<cache>/data/<name>/` holds an index of them.

    train.tsv, test.tsv   a line a file: its label, its bytes, its path below the part's folder; sorted by path
    validation.tsv        likewise, where the data has such a part of its own
    places.npz            of images in shards, where in which (`Places`)
    stamps.npz            when each file was written, and the SHA-256 of some of them (`Stamps`)
    meta.json             the `Spec`, the folder of the images, and bytes and SHA-256 of the other files

The digest is over paths, labels and sizes: an index of a million images is made without opening them. Whether they are
still the same is asked each time they are used (`find_changes`).
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lskd.data import shards
from lskd.data.dataset import Dataset, Spec
from lskd.data.folders import (
    PARTS,
    Listing,
    Notes,
    draw_test,
    find_layout,
    look_again,
    note_duplicates,
    refuse,
    scan,
    some,
    system_path,
)  # fmt: skip
from lskd.data.places import Places
from lskd.data.sources import USUAL, Columns, open_image
from lskd.data.splits import count
from lskd.errors import InputError

_log = logging.getLogger(__name__)

ORDER = ("train", "test", "validation")  # of parts, in the digest and in stamps
STAMPS, PLACES = "stamps.npz", "places.npz"
ARRAYS = ("sizes", "shard", "offset", "length", "row")  # of `Places`
SAMPLE = 500  # files of each part whose content is known; of smaller parts all
# So many of the sample must be among files that were written anew, and unchanged, before the others count as copied.
# (Were 3 % of them changed, 100 would show it in 95 cases of 100.)
ENOUGH = 100
TOLERANCE = 2_000_000_000  # ns: some file systems and archives keep times no finer
READERS = max(8, os.cpu_count() or 1)  # threads that read and decode files
BLOCK = 10_000  # files that are given to them at once

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Files:
    """Images below a folder, in a fixed order: what a streamed data set has in the place of pixels."""

    folder: Path
    names: np.ndarray  # (N,) of str: paths below `folder`
    places: Places | None = None  # where they are no files of their own, but in shards

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: np.ndarray) -> Files:
        return Files(self.folder, self.names[rows], self.places.pick(rows) if self.places is not None else None)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, 0, 0): images of various sizes."""
        return len(self.names), 3, 0, 0

    def to(self, device: object) -> Files:
        """They stay where they are."""
        return self

    def path(self, row: int) -> str:
        """Where an image is, for messages; its file, if it has one."""
        if self.places is not None:
            return f"{self.places.path(self.folder, row)}: {self.names[row]}"
        return os.path.join(self.folder, system_path(self.names[row]))

    def source(self, row: int) -> str | io.BytesIO:
        """What an image is decoded from."""
        if self.places is not None:
            return io.BytesIO(self.places.read(self.folder, row))
        return self.path(row)


class Stamps(NamedTuple):
    """What shows that files have not changed, though their sizes have not: for all parts, one after the other."""

    mtimes: np.ndarray  # (N,) int64, ns
    rows: np.ndarray  # (n,) int64: the files whose content is known
    sha256: np.ndarray  # (n, 32) uint8


class Index(NamedTuple):
    """A data set of files: its parts "train", "test" and perhaps "validation", in this order."""

    root: Path
    parts: dict[str, Listing]
    class_names: tuple[str, ...]
    stamps: Stamps | None = None  # None: made by a version that had none
    # "", or the digest of known contents, which counts where files changed and kept their names and sizes.
    content: str = ""
    places: Mapping[str, Places] = MappingProxyType({})  # by part, where images are in shards
    listed: bool = False  # named by a file of annotations, so that other files beside them do not count

    @property
    def files(self) -> list[str]:
        """The paths of all files, one part after the other, below the root."""
        return [os.path.join(part.folder, name) for part in self.parts.values() for name in part.names]

    def labelled(self, dataset: Dataset, cache: Path) -> dict[str, tuple[Files, np.ndarray]]:
        """Files and labels of each part."""
        return {
            name: (Files(self.root / part.folder, part.names, self.places.get(name)), part.labels)
            for name, part in self.parts.items()
        }

    def contents(self) -> Callable[[int], bytes]:
        """Reads the file of an image, by its row in all parts one after the other. It raises `InputError`."""
        files = self.files
        if not self.places:
            return lambda row: _read(self.root, files[row])
        ends = np.cumsum([len(part.names) for part in self.parts.values()])
        parts = [(self.places[name], self.root / part.folder) for name, part in self.parts.items()]

        def read(row: int) -> bytes:
            part = int(np.searchsorted(ends, row, side="right"))
            places, folder = parts[part]
            return places.read(folder, row - (int(ends[part - 1]) if part else 0))

        return read

    def canonical(self) -> Index:
        """It is sorted by path."""
        return self

    def describe(self, name: str) -> Spec:
        """Its `Spec`. Images have various sizes, and three channels once decoded."""
        sha = hashlib.sha256()
        for part, listing in self.parts.items():
            sha.update(f"{part} {len(listing.names)}\n{_text(listing)}".encode("utf-8", "surrogateescape"))
        if self.content:
            sha.update(f"content {self.content}\n".encode())
        counts = {part: len(listing.names) for part, listing in self.parts.items()}
        return Spec(
            name=name,
            title=name,
            num_classes=len(self.class_names),
            shape=(3, 0, 0),
            class_names=self.class_names,
            digest=sha.hexdigest(),
            class_sizes=tuple(count(listing.labels, len(self.class_names)) for listing in self.parts.values()),
            train=counts["train"],
            test=counts["test"],
            validation=counts.get("validation", 0),
        )

    def inspect(self, name: str, *, built_in: bool) -> None:
        """Decode every image. Raises `InputError` naming all that cannot be used; says what is odd and equal."""
        check_images(self)

    def changes(self) -> str:
        """What is no longer as it was indexed, in words."""
        changes = find_changes(self)
        return f"{self.root}: not the images that were indexed: {changes.describe(self)}" if changes else ""

    # ---- in the cache ---------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the files that `file_names` names. Returns what else meta.json needs to say: where the images are.
        `InputError` as by `stamp`."""
        stamps = (self if self.stamps is not None else stamp(self)).stamps
        for name, part in self.parts.items():
            (folder / f"{name}.tsv").write_bytes(_text(part).encode("utf-8", "surrogateescape"))
        if stamps is not None:
            np.savez(folder / STAMPS, **stamps._asdict())
        parts = {name: part.folder for name, part in self.parts.items()}
        meta = {"root": str(self.root.absolute()), "parts": parts, "content": self.content, "listed": self.listed}
        if self.places:
            of_images = {
                f"{name} {field}": getattr(its, field) for name, its in self.places.items() for field in ARRAYS
            }
            np.savez(folder / PLACES, **of_images)
            meta["shards"] = {name: [its.column, *its.shards] for name, its in self.places.items()}
        return meta

    @staticmethod
    def file_names(spec: Spec, meta: Mapping[str, Any]) -> list[str]:
        """The names of its files. Indexes of older versions have no stamps."""
        str(meta["root"]), [meta["parts"][part] for part in spec.parts]
        more = [name for name in (STAMPS, PLACES) if name in meta["files"]]
        return [f"{part}.tsv" for part in spec.parts] + more

    @staticmethod
    def read(folder: Path, spec: Spec, meta: Mapping[str, Any], root: Path) -> Index:
        """The index in `folder`, of images below `root`."""
        listings = {}
        for part in sorted(meta["parts"], key=ORDER.index):
            text = (folder / f"{part}.tsv").read_bytes().decode("utf-8", "surrogateescape")
            rows = [line.split("\t", 2) for line in text.split("\n")[:-1]]
            names = np.array([name.replace("\0", "\n") for _, _, name in rows], dtype=object)
            labels, sizes = (np.array([int(row[column]) for row in rows], dtype=np.int64) for column in (0, 1))
            times = np.zeros(len(rows), dtype=np.int64)
            listings[part] = Listing(meta["parts"][part], names, labels, sizes, times)
        stamps = None
        if (folder / STAMPS).is_file():
            with np.load(folder / STAMPS, allow_pickle=False) as arrays:
                stamps = Stamps(**arrays)
        places = {}
        if "shards" in meta:
            with np.load(folder / PLACES, allow_pickle=False) as arrays:
                for part, (column, *names) in meta["shards"].items():
                    of_part = {field: arrays[f"{part} {field}"] for field in ARRAYS}
                    places[part] = Places(shards=tuple(names), column=column, **of_part)
        content, listed = meta.get("content", ""), meta.get("listed", False)
        return Index(root, listings, spec.class_names, stamps, content, places, listed)


def _text(part: Listing) -> str:
    """A line a file. A line break in a name, which UTF-8 and systems allow, stands as the NUL that they do not."""
    lines = zip(part.labels.tolist(), part.bytes.tolist(), part.names, strict=True)
    return "".join(f"{label}\t{size}\t{name.replace(chr(10), chr(0))}\n" for label, size, name in lines)


def make_of_shards(
    root: Path,
    *,
    columns: Columns = USUAL,
    split: tuple[float, int] | None = None,
    names: Sequence[str] = PARTS,
    class_names: Sequence[str] = (),
    rename: Callable[[str, int], str] | None = None,
) -> Index | None:
    """The index of the images in the shards below `root`, without stamps; None if there are none. `split` is as of
    `make`; the rest, and the errors, as of `lskd.data.shards.scan`."""
    found = shards.scan(
        root, columns=columns, split=split is not None, names=names, class_names=class_names, rename=rename
    )
    if found is None:
        return None
    parts, places = found.parts, found.places
    if split is not None:
        test, train = draw_test(parts["train"].labels, found.class_names, *split)
        parts = {name: parts["train"].pick(rows) for name, rows in (("train", train), ("test", test))}
        places = {name: places["train"].pick(rows) for name, rows in (("train", train), ("test", test))}
    return Index(root, {name: parts[name] for name in ORDER if name in parts}, found.class_names, places=places)


def make(root: Path, *, split: tuple[float, int] | None = None, test_name: str | None = None) -> Index:
    """The index of the images below `root`, without stamps; what was passed over is said. `split`: share and seed of a
    test part that is drawn; `test_name`: the test part's folder, where it is known.

    Labels are the classes' positions in alphabetical order. `lskd.data.folders` says which files count. Raises
    `InputError` naming all files that cannot be images.
    """
    notes = Notes()
    layout = find_layout(root, notes, split=split is not None, test_name=test_name)
    _log.info("%s: listing images", root)
    found, bad = scan(root, layout, notes)
    notes.log(root)
    refuse(root, bad, len(bad) + sum(len(part.names) for part in found.values()))
    if split is not None:
        whole = found["train"]
        test, train = draw_test(whole.labels, layout.classes, *split)
        found = {"train": whole.pick(train), "test": whole.pick(test)}
    parts = {name: found[name] for name in ORDER if name in found}
    return Index(root, parts, tuple(layout.classes))


def stamp(index: Index, more: Sequence[int] = ()) -> Index:
    """The index with its stamps: of a seeded sample of the files, and of `more`. Raises `InputError` naming all of the
    sample that cannot be decoded."""
    begin, rows = 0, set(more)
    for part in index.parts.values():
        draw = np.random.RandomState(len(part.names)).permutation(len(part.names))[:SAMPLE]
        rows |= {begin + int(row) for row in draw}
        begin += len(part.names)
    chosen, files, contents = sorted(rows), index.files, index.contents()

    def look(row: int) -> bytes | InputError:
        content = contents(row)
        try:
            open_image(io.BytesIO(content), files[row])
        except InputError as error:
            return error
        return hashlib.sha256(content).digest()

    found = list(_each(look, chosen))
    refuse(index.root, [str(error) for error in found if isinstance(error, InputError)], len(chosen))
    sha256 = np.frombuffer(b"".join(one for one in found if isinstance(one, bytes)), np.uint8).reshape(-1, 32)
    mtimes = np.concatenate([part.mtimes for part in index.parts.values()])
    return index._replace(stamps=Stamps(mtimes, np.array(chosen, dtype=np.int64), sha256))


def _read(root: Path, name: str) -> bytes:
    path = root / system_path(name)
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise InputError(f"{name}: not a file")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror})") from error
    if not content:
        raise InputError(f"{name}: not an image, but an empty file")
    return content


def _each(act: Callable[[int], T], rows: Sequence[int]) -> Iterator[T]:
    with ThreadPoolExecutor(READERS) as pool:
        for begin in range(0, len(rows), BLOCK):
            yield from pool.map(act, rows[begin : begin + BLOCK])


@dataclass(frozen=True)
class Changes:
    """What has become of the files of an index: rows in it, and paths of images that are not in it."""

    gone: list[int]
    resized: list[int]
    rewritten: list[int]  # of the same size; their content has changed, or may have
    new: list[str]

    def __bool__(self) -> bool:
        return bool(self.gone or self.resized or self.rewritten or self.new)

    def describe(self, index: Index) -> str:
        """In words: 3 rewritten (train/ant/0.png, …), 1 new (…)"""
        files = index.files
        words = (("gone", self.gone), ("of another size", self.resized), ("rewritten", self.rewritten))
        named = [(word, [files[row] for row in rows]) for word, rows in words] + [("new", self.new)]
        return ", ".join(f"{len(names)} {word} ({some(names)})" for word, names in named if names)


def find_changes(index: Index) -> Changes:
    """How the files of an index differ from it: by names and sizes and, by its stamps, times and contents."""
    if index.places:
        now = [index.places[name].now(index.root / part.folder) for name, part in index.parts.items()]
        (sizes, mtimes), new = map(np.concatenate, zip(*now, strict=True)), list[str]()
    else:
        sizes, mtimes, new = look_again(index.root, list(index.parts.values()), beside=not index.listed)
    before = np.concatenate([part.bytes for part in index.parts.values()])
    if index.stamps is not None:
        rewritten = _find_rewritten(index, index.stamps, sizes == before, mtimes)
    else:
        rewritten = np.zeros(len(sizes), dtype=bool)
        _log.info("%s: indexed by an older version: names and sizes are all that is known of the images", index.root)
    rows = (sizes == -1, (sizes != -1) & (sizes != before), rewritten)
    gone, other, anew = (np.flatnonzero(is_changed).tolist() for is_changed in rows)
    return Changes(gone, other, anew, sorted(new))


def _find_rewritten(index: Index, stamps: Stamps, is_same_size: np.ndarray, mtimes: np.ndarray) -> np.ndarray:
    """(N,) bool: which files have another content, or may have.

    A file whose time has changed and whose content is not known is taken for the same only where `ENOUGH` such files of
    its part are known, and all of them are the same: then it has been copied.
    """
    is_known, rewritten = np.zeros(len(mtimes), dtype=bool), np.zeros(len(mtimes), dtype=bool)
    contents = {row: sha for row, sha in zip(stamps.rows.tolist(), stamps.sha256, strict=True) if is_same_size[row]}
    read = index.contents()
    found = _each(lambda row: hashlib.sha256(read(row)).digest(), list(contents))
    for (row, sha256), now in zip(contents.items(), found, strict=True):
        is_known[row], rewritten[row] = True, now != bytes(sha256)
    has_moved = is_same_size & (np.abs(mtimes - stamps.mtimes) > TOLERANCE)
    begin = 0
    for part in index.parts.values():
        rows = slice(begin, begin + len(part.names))
        begin = rows.stop
        unknown, witnesses = (has_moved & ~is_known)[rows], (has_moved & is_known)[rows].sum()
        if not unknown.any():
            continue
        if rewritten[rows].any() or witnesses < ENOUGH:
            rewritten[rows] |= unknown
        else:
            what = "%s: %d files were written anew, and taken for copies: %d were compared and have not changed"
            _log.info(what, index.root / part.folder, unknown.sum() + witnesses, witnesses)
    return rewritten


def content_digest(index: Index) -> str:
    """The digest of the contents that are known."""
    assert index.stamps is not None
    files, sha = index.files, hashlib.sha256()
    for row, digest in zip(index.stamps.rows.tolist(), index.stamps.sha256, strict=True):
        sha.update(files[row].encode("utf-8", "surrogateescape") + b"\0" + bytes(digest))
    return sha.hexdigest()


def check_images(index: Index) -> None:
    """Decode every image. Raises `InputError` naming all that cannot be used; says what is odd and equal."""
    files, contents, notes, bad = index.files, index.contents(), Notes(), list[str]()
    _log.info("%s: decoding %d images", index.root, len(files))

    def look(row: int) -> tuple[bytes, Notes] | InputError:
        odd = Notes()
        try:
            content = contents(row)
            open_image(io.BytesIO(content), files[row], odd)
        except InputError as error:
            return error
        return hashlib.sha256(content).digest(), odd

    found, begin, parts = _each(look, range(len(files))), 0, {}
    for name, part in index.parts.items():
        parts[name] = list[tuple[bytes, str]]()
        for file in files[begin : begin + len(part.names)]:
            one = next(found)
            if isinstance(one, InputError):
                bad.append(str(one))
            else:
                parts[name].append((one[0], file))
                notes.extend(one[1])
        begin += len(part.names)
    note_duplicates(parts, notes)
    notes.log(index.root)
    refuse(index.root, bad, len(files), most=None)
