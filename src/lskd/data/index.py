"""Data sets too large to decode ahead: images stay where they are, and `<cache>/data/<name>/` holds an index of them.

    train.tsv, test.tsv   a line a file: its label, its bytes, its path below the part's folder; sorted by path
    meta.json             the `Spec`, the folder of the images, and bytes and SHA-256 of the two files

The digest is over paths, labels and sizes: no image is opened to make an index of a million.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lskd.data import DATASETS, Spec
from lskd.data.sources import IMAGE_SUFFIXES, TEST_NAMES, find_classes
from lskd.errors import InputError

_log = logging.getLogger(__name__)

FILES = ("train.tsv", "test.tsv")


@dataclass(frozen=True, eq=False)
class Files:
    """Image files below a folder, in a fixed order: what a streamed data set has in the place of pixels."""

    folder: Path
    names: np.ndarray  # (N,) of str: paths below `folder`

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: np.ndarray) -> Files:
        return Files(self.folder, self.names[rows])

    def path(self, row: int) -> str:
        return os.path.join(self.folder, self.names[row])


class Listing(NamedTuple):
    """One part: its folder's name, and of each file the path below it, the label and the size."""

    folder: str
    names: np.ndarray  # (N,) of str
    labels: np.ndarray  # (N,) int64
    bytes: np.ndarray  # (N,) int64

    def text(self) -> str:
        lines = zip(self.labels.tolist(), self.bytes.tolist(), self.names, strict=True)
        return "".join(f"{label}\t{size}\t{name}\n" for label, size, name in lines)


class Index(NamedTuple):
    """A data set of files."""

    root: Path
    train: Listing
    test: Listing
    class_names: tuple[str, ...]

    def save(self, folder: Path) -> None:
        for name, listing in zip(FILES, (self.train, self.test), strict=True):
            (folder / name).write_text(listing.text(), encoding="utf-8")


def scan(root: Path, test_names: tuple[str, ...] = TEST_NAMES) -> Index:
    """The images in `root`/train/<class>/ and, beside it, in the first of `test_names` that is there.

    Labels are the classes' positions in alphabetical order. Files that are not images by their suffix are passed over.
    """
    test, names = find_classes(root, test_names)
    _log.info("%s: listing images", root)
    return Index(root, _scan_part(root, "train", names), _scan_part(root, test.name, names), tuple(names))


def _scan_part(root: Path, part: str, classes: list[str]) -> Listing:
    found: list[tuple[str, int, int]] = []
    for label, name in enumerate(classes):
        before = len(found)
        for folder, folders, files in os.walk(root / part / name, followlinks=True):
            folders[:] = [one for one in folders if not one.startswith(".")]
            below = Path(folder).relative_to(root / part).as_posix()
            for file in files:
                if not file.startswith(".") and os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES:
                    found.append((f"{below}/{file}", label, os.stat(os.path.join(folder, file)).st_size))
        if len(found) == before:
            raise InputError(f"{root / part / name}: no images")
    found.sort()
    for name, _, _ in found:
        if "\n" in name:
            raise InputError(f"{root / part / name!r}: a line break in a file's name")
    paths, labels, sizes = zip(*found, strict=True)
    return Listing(part, np.array(paths, dtype=object), np.array(labels), np.array(sizes))


def describe(name: str, index: Index) -> Spec:
    """The `Spec` of an index. Images have various sizes, and three channels once decoded."""
    sha = hashlib.sha256()
    for part, listing in (("train", index.train), ("test", index.test)):
        sha.update(f"{part} {len(listing.names)}\n{listing.text()}".encode())
    return Spec(
        name=name,
        title=name,
        num_classes=len(index.class_names),
        shape=(3, 0, 0),
        train=len(index.train.names),
        test=len(index.test.names),
        class_names=index.class_names,
        digest=sha.hexdigest(),
    )


def read_built_in(name: str, data: Path) -> Index:
    """The index of a built-in streamed data set, whose images are in `data`/`name`; checked against its `Spec`."""
    known, root = DATASETS[name], data / name
    folders = " and ".join(f"{root / part}/<class>/*.JPEG" for part in ("train", "val"))
    if not (root / "train").is_dir():
        raise InputError(
            f"{name}: no data: looked for {folders}. Put {known.title} there, or a link to it (LSKD_DATA or --data "
            f"names the folder that holds {name}/); it cannot be downloaded without an account"
        )
    index = scan(root, ("val",))
    if differing := set(index.class_names) ^ set(class_ids(name)):
        raise InputError(
            f"{root / 'train'}: must hold the {known.num_classes} class folders of {known.title}, such as "
            f"{class_ids(name)[0]}; differs in {sorted(differing)[0]!r}"
        )
    for listing, count in ((index.train, known.train), (index.test, known.test)):
        if len(listing.names) != count:
            raise InputError(f"{root / listing.folder}: {len(listing.names)} images: {known.title} has {count}")
    return index._replace(class_names=known.class_names)


def class_ids(name: str) -> tuple[str, ...]:
    """The names of the class folders of a built-in data set, in the order of the labels."""
    return tuple(
        line.split()[0] for line in Path(__file__).with_name(f"{name}.txt").read_text(encoding="utf-8").splitlines()
    )


def read(folder: Path, root: Path, parts: dict[str, str]) -> tuple[tuple[Files, np.ndarray], tuple[Files, np.ndarray]]:
    """(files, labels) of the training and of the test part, from the index in `folder`."""
    read = []
    for file, part in zip(FILES, ("train", "test"), strict=True):
        rows = [line.split("\t", 2) for line in (folder / file).read_text(encoding="utf-8").split("\n")[:-1]]
        names = np.array([name for _, _, name in rows], dtype=object)
        read.append((Files(root / parts[part], names), np.array([int(label) for label, _, _ in rows])))
    return read[0], read[1]
