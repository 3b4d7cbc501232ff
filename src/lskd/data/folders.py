"""Folders of images, `<part>/<class>/…/<image>`: which files count, whether they are decoded ahead or streamed.

Links are followed, except to a folder around them. Passed over, and counted in `Notes`, are hidden files and folders,
folders in which systems keep their own things, files that are no images by their suffix, and what is no regular file.
An image that cannot be used is no reason to pass it over: that is an error, which names all of them.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lskd.data.splits import class_balanced
from lskd.errors import InputError

_log = logging.getLogger(__name__)

TEST = "test"
HELD_OUT = ("val", "valid", "validation", "dev")  # the validation part; where there is no `TEST`, the test part
PARTS = ("train", TEST, *HELD_OUT)  # folders, and words of shards' names
IMAGE_SUFFIXES = {"png", "jpg", "jpeg", "webp", "bmp", "ppm", "pgm", "tif", "tiff"}
SYSTEM_FOLDERS = {"@eadir", "#recycle", "$recycle.bin", "__macosx", "lost+found", "system volume information"}
HIDDEN = "hidden files or folders passed over"
FEW = 100  # files that one thread looks at
LOOKERS = 8  # threads that list folders: on a network's file system they wait most of the time

_IS_UTF8 = sys.getfilesystemencoding() == "utf-8"
File = tuple[str, int, int]  # an image's path below its part's folder, bytes, and when it was written (ns)


class Listing(NamedTuple):
    """One part: its folder's name below the data set's ("" = that folder), and of each file what `File` says, and the
    label; sorted by path."""

    folder: str
    names: np.ndarray  # (N,) of str
    labels: np.ndarray  # (N,) int64
    bytes: np.ndarray  # (N,) int64
    mtimes: np.ndarray  # (N,) int64

    def pick(self, rows: np.ndarray) -> Listing:
        return Listing(self.folder, self.names[rows], self.labels[rows], self.bytes[rows], self.mtimes[rows])


class Notes:
    """What is worth a line without being an error: kinds of things, in the plural, and where they were."""

    def __init__(self) -> None:
        self.places: dict[str, list[str]] = {}

    def add(self, kind: str, place: str) -> None:
        self.places.setdefault(kind, []).append(place)

    def extend(self, more: Notes, below: str = "") -> None:
        """`more`, whose places are `below` a folder."""
        for kind, places in more.places.items():
            self.places.setdefault(kind, []).extend(os.path.join(below, place) for place in places)

    def log(self, path: object) -> None:
        for kind, places in self.places.items():
            _log.warning("%s: %d %s: %s", path, len(places), kind, some(sorted(places), most=3))


def note_duplicates(parts: Mapping[str, Iterable[tuple[bytes, str]]], notes: Notes) -> None:
    """Note the images of other parts that are equal to one of "train". `parts`: digest and place of each image."""
    train = dict(parts["train"])
    for part, images in parts.items():
        for digest, place in images if part != "train" else ():
            if digest in train:
                notes.add(f"{part} images equal to a training image", f"{place} = {train[digest]}")


def some(items: Iterable[str], most: int = 10) -> str:
    """The first of `items`, and how many more there are: "a, b and 37 more"."""
    names = list(map(shown, items))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shown(name: str) -> str:
    """A name in a message of one line: control characters, and bytes that are no UTF-8, as Python writes them."""
    return "".join(c if unicodedata.category(c) not in ("Cc", "Cs") else repr(c)[1:-1] for c in name)


def refuse(path: object, bad: Iterable[str], count: int, *, most: int | None = 10) -> None:
    """Raise `InputError` if there are `bad` ones, with a reason each, of `count` images."""
    bad = list(map(shown, bad))
    if bad:
        more = [f"and {len(bad) - most} more"] if most is not None and most < len(bad) else []
        raise InputError(f"{path}: {len(bad)} of {count} images cannot be used: {'; '.join(bad[:most] + more)}")


class Layout(NamedTuple):
    """The folder of each part ("train", "test", perhaps "validation") below the data set's, and the classes, sorted.
    Of data that is to be split there is only "train", in a folder that may be the data set's own ("")."""

    parts: dict[str, str]
    classes: list[str]


def assign_parts(present: Iterable[str], where: object, *, split: bool = False) -> dict[str, str]:
    """Which of the parts that are `present` is what: {"train": "train", "test": "test", "validation": "val"}.

    Raises `InputError` if there is no test part, unless the data is to be `split`, or if two parts could be one.
    """
    present = list(present)
    held_out = [name for name in HELD_OUT if name in present]
    if len(held_out) > 1:
        raise InputError(f"{where}: {' and '.join(held_out)} could be one part: keep one of them")
    found = {"train": "train"}
    if TEST in present:
        found["test"] = TEST
        if held_out:
            found["validation"] = held_out[0]
    elif held_out:
        found["test"] = held_out[0]
    if split and "test" in found:
        raise InputError(f"{where}: --split is for data without a test part, and {found['test']} is one: leave it out")
    if not split and "test" not in found:
        names = ", ".join((TEST, *HELD_OUT))
        raise InputError(f"{where}: no test part beside train: must be one of {names}; or draw one with --split 0.2")
    return found


def find_layout(root: Path, notes: Notes, *, split: bool = False, test_name: str | None = None) -> Layout:
    """The parts and classes below `root`. `test_name`: the test part's folder, where it is known; others are ignored.

    Raises `InputError` if there are not two classes or more, the same in all parts.
    """
    if test_name is not None:
        if not (root / test_name).is_dir():
            raise InputError(f"{root}: no test part: must hold {test_name}/<class>/ beside train/<class>/")
        parts = {"train": "train", "test": test_name}
    elif split and not ((root / "train").is_dir() and class_folders(root / "train", Notes())):
        parts = {"train": ""}
    else:
        present = [name for name in ("train", TEST, *HELD_OUT) if (root / name).is_dir()]
        parts = assign_parts(present, root, split=split)
        for entry in _entries(root):
            if entry.is_dir() and entry.name not in parts.values() and not _is_system(entry, notes, entry.name):
                notes.add("folders beside the parts passed over", entry.name)
    classes = class_folders(root / parts["train"], notes)
    if len(classes) < 2:
        place = root / parts["train"]
        raise InputError(f"{place}: must hold a folder for each of 2 or more classes, has {len(classes)}")
    for part, folder in parts.items():
        if part != "train":
            _compare_classes(root, folder, classes, class_folders(root / folder, notes))
    return Layout(parts, classes)


def class_folders(folder: Path, notes: Notes) -> list[str]:
    """The names of the classes in a part's folder, sorted."""
    names = sorted(_text(entry.name) for entry in _entries(folder) if _is_class(entry, notes, _text(entry.name)))
    check_class_names(names, folder)
    return names


def check_class_names(names: Iterable[str], where: object) -> None:
    """Raise `InputError` for a name that cannot be printed, and for two that differ in their Unicode form only."""
    forms: dict[str, str] = {}
    for name in names:
        if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
            raise InputError(f"{where}: class '{shown(name)}': must be UTF-8 without control characters; rename it")
        if (other := forms.setdefault(unicodedata.normalize("NFC", name), name)) != name:
            raise InputError(f"{where}: {_two_forms(other, name)}: rename one, or merge them")


def _compare_classes(root: Path, part: str, expected: list[str], found: list[str]) -> None:
    differing = sorted(set(expected) ^ set(found))
    rule, forms = f"{root}: train and {part} must have the same classes", dict[str, str]()
    for name in differing:
        if (other := forms.setdefault(unicodedata.normalize("NFC", name), name)) != name:
            raise InputError(f"{rule}: {_two_forms(other, name)}: rename one")
    for name in differing:
        raise InputError(f"{rule}, differ in {name!r}, which {part if name in expected else 'train'} lacks")


def _two_forms(one: str, other: str) -> str:
    """Two names that look the same and are not, in words."""
    return f"{one} ({one!a}) and {other} ({other!a}) are one name in two Unicode forms (NFC, NFD)"


def scan(root: Path, layout: Layout, notes: Notes) -> tuple[dict[str, Listing], list[str]]:
    """The images of each part; and those that cannot be images (empty files, links to nothing), with the reasons.

    Raises `InputError` for a class without images.
    """
    listings, bad = {}, list[str]()
    for part, folder in layout.parts.items():
        found: list[tuple[str, int, int, int]] = []
        folders = [root / folder / system_path(name) for name in layout.classes]
        for label, (files, more_notes, more_bad) in enumerate(_look_at(root / folder, folders)):
            if not files and not more_bad:
                raise InputError(f"{folders[label]}: no images{_but(more_notes)}")
            found += [(name, label, size, mtime) for name, size, mtime in files]
            notes.extend(more_notes, folder)
            bad += [os.path.join(folder, reason) for reason in more_bad]
        found.sort()
        names = np.array([file[0] for file in found], dtype=object)
        numbers = np.array([file[1:] for file in found], dtype=np.int64).reshape(-1, 3)
        listings[part] = Listing(folder, names, *np.ascontiguousarray(numbers.T))
    return listings, bad


def draw_test(labels: np.ndarray, classes: Sequence[str], share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a test part of this `share`, class by class, and the other rows. `InputError` if a class has none."""
    test, train = class_balanced(labels, round(share * len(labels)), seed)
    for rows in (test, train):
        for label in np.flatnonzero(np.bincount(labels[rows], minlength=len(classes)) == 0).tolist():
            count = int((labels == label).sum())
            raise InputError(f"split = {share:g}: class {classes[label]!r} has too few images for both parts ({count})")
    return test, train


def _but(notes: Notes) -> str:
    """What there is in a class without images."""
    found = [f"{len(places)} {kind}: {some(places, most=3)}" for kind, places in notes.places.items()]
    return f" ({'; '.join(found)})" if found else ""


def _look_at(base: Path, folders: Sequence[Path]) -> Iterator[tuple[list[File], Notes, list[str]]]:
    """Of each folder below `base` its images, by several threads, in order."""

    def look(folder: Path) -> tuple[list[File], Notes, list[str]]:
        found: tuple[list[File], Notes, list[str]] = [], Notes(), []
        _walk(folder, _text(folder.relative_to(base).as_posix()), (), *found)
        return found

    with ThreadPoolExecutor(LOOKERS) as pool:
        yield from pool.map(look, folders)


def _walk(
    folder: Path | str,
    below: str,
    around: tuple[tuple[int, int], ...],
    files: list[File],
    notes: Notes,
    bad: list[str],
) -> None:
    """Add the images in `folder`, whose path in results is `below`. `around`: device and inode of folders around it.
    This is done for each of a million files whenever a data set is opened, hence the few calls."""
    inside = []
    for entry in _entries(folder):
        name = f"{below}/{entry.name if _IS_UTF8 else _text(entry.name)}"
        _, dot, suffix = entry.name.rpartition(".")
        if entry.is_dir():
            if not _is_system(entry, notes, name):
                inside.append((entry.path, name))
        elif entry.name[0] == ".":
            notes.add(HIDDEN, name)
        elif not dot or suffix.lower() not in IMAGE_SUFFIXES:
            usual = dot and re.fullmatch(r"[a-z][a-z0-9]{0,4}", suffix.lower())
            notes.add(f"files passed over that end in {f'.{suffix.lower()}' if usual else 'no suffix of images'}", name)
        else:
            try:
                status = entry.stat()
            except OSError as error:
                bad.append(f"{name}: {'a link to nothing' if entry.is_symlink() else error.strerror}")
                continue
            if not stat.S_ISREG(status.st_mode):
                notes.add("pipes, sockets or devices passed over", name)
            elif not status.st_size:
                bad.append(f"{name}: not an image, but an empty file")
            else:
                files.append((name, status.st_size, status.st_mtime_ns))
    if inside:
        here = os.stat(folder)
        around = (*around, (here.st_dev, here.st_ino))
    for path, name in inside:
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in around:
            notes.add("links passed over to a folder around them", name)
        else:
            _walk(path, name, around, files, notes, bad)


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error


def _is_system(entry: os.DirEntry[str], notes: Notes, name: str) -> bool:
    """Whether an entry is hidden, or a folder in which a system keeps its own things."""
    if entry.name.startswith("."):
        notes.add(HIDDEN, name)
    elif entry.name.lower() in SYSTEM_FOLDERS:
        notes.add("folders passed over in which systems keep their own things", name)
    else:
        return False
    return True


def _is_class(entry: os.DirEntry[str], notes: Notes, name: str) -> bool:
    """Whether an entry of a part's folder is the folder of a class."""
    if not entry.is_dir():
        if name.rpartition(".")[2].lower() in IMAGE_SUFFIXES and not name.startswith("."):
            notes.add("images passed over that are in no class's folder", name)
        return False
    return not _is_system(entry, notes, name)


def _text(name: str) -> str:
    """A path from the system as UTF-8, with other bytes as surrogates, whatever the locale takes it for."""
    return name if _IS_UTF8 else os.fsencode(name).decode("utf-8", "surrogateescape")


def system_path(name: str) -> str:
    """The reverse of `_text`."""
    return name if _IS_UTF8 else os.fsdecode(name.encode("utf-8", "surrogateescape"))


def look_again(
    root: Path, listings: Sequence[Listing], *, beside: bool = True
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Of the files in `listings`, one after the other, the bytes that they have now (-1: gone) and when they were
    written (ns); and the paths of images beside them that are in none, if these count."""
    rows, begin = dict[str, dict[str, int]](), 0
    for listing in listings:
        names = rows.setdefault(listing.folder, {})
        names.update(zip(listing.names, range(begin, begin + len(listing.names)), strict=True))
        begin += len(listing.names)
    sizes, mtimes = np.full(begin, -1), np.zeros(begin, dtype=np.int64)
    new: list[str] = []
    for folder, names in rows.items():
        base = root / folder
        classes = [base / one.name for one in _entries(base) if _is_class(one, Notes(), one.name)] if beside else []
        for files, _, _ in _look_at(base, classes):
            places = np.array([names.pop(name, -1) for name, _, _ in files], dtype=np.int64)
            numbers = np.array([file[1:] for file in files], dtype=np.int64).reshape(-1, 2)
            known = places >= 0
            sizes[places[known]], mtimes[places[known]] = numbers[known].T
            new += [os.path.join(folder, files[place][0]) for place in np.flatnonzero(~known)]
        # Gone, or in an index of a version with another rule; or all of them, where a list names them.
        for row, (size, mtime) in zip(names.values(), look_at_files(base, list(names)), strict=True):
            sizes[row], mtimes[row] = size, mtime
    return sizes, mtimes, new


def look_at_files(folder: Path, names: Sequence[str]) -> list[tuple[int, int]]:
    """Of each file in `folder` its bytes (-1: not there) and when it was written (ns), by several threads."""

    def look(name: str) -> tuple[int, int]:
        try:
            status = os.stat(os.path.join(folder, system_path(name)))
        except OSError:
            return -1, 0
        return status.st_size, status.st_mtime_ns

    if len(names) <= FEW:
        return list(map(look, names))
    with ThreadPoolExecutor(LOOKERS) as pool:
        return list(pool.map(look, names))
