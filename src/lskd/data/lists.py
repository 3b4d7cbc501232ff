"""Images that a file of annotations names: lists of paths and labels, tables, and json as of COCO.

`read_…` give what such a file says; `index_entries` makes of it the `Index` of a streamed data set. A data set of one's
own with annotations is a plug-in that does so (`lskd.data.readers.Annotated` is one such reader for all).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lskd.data.folders import IMAGE_SUFFIXES, Listing, look_at_files, some
from lskd.data.index import Index
from lskd.errors import InputError


class Entry(NamedTuple):
    """An image: its path below its part's folder, and its label, a number from 0."""

    name: str
    label: int


def read_list(path: Path) -> list[Entry]:
    """A line an image: its path, and its label as the last word."""
    return [Entry(name, _whole(path, number, label)) for number, (name, label) in _lines(path, 2, last=True)]


def read_table(path: Path, columns: int) -> list[list[str]]:
    """The first words of each line, and the line's rest as the last of `columns`."""
    return [words for _, words in _lines(path, columns)]


def read_pairs(path: Path) -> dict[str, str]:
    """A table of two columns, as a mapping from the first. `InputError` for one that is there twice."""
    pairs: dict[str, str] = {}
    for number, (key, value) in _lines(path, 2):
        if key in pairs:
            raise InputError(f"{path}, line {number}: {key!r} is there twice")
        pairs[key] = value
    return pairs


def read_json(path: Path) -> list[Entry]:
    """Annotations as of COCO: "images" with "id" and "file_name", "annotations" with "image_id" and "category_id", and
    "categories", whose ids in rising order are the labels. Or "images" that have a "class" of their own, and perhaps no
    "file_name", which is their "id" then.
    """
    try:
        content = json.loads(_read(path))
        images = [(one["id"], str(one.get("file_name", one["id"])), one.get("class")) for one in content["images"]]
        if "annotations" not in content:
            return [Entry(name, _whole(path, f"image {name}", label)) for _, name, label in images]
        pairs = [(one["image_id"], one["category_id"]) for one in content["annotations"]]
        ids = sorted(one["id"] for one in content["categories"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        rule = "must be json with images, annotations and categories, or with images that have a class"
        raise InputError(f"{path}: {rule} ({type(error).__name__}: {error})") from error
    labels = {category: label for label, category in enumerate(ids)}
    of_image: dict[Any, int] = {}
    for image, category in pairs:
        if category not in labels:
            raise InputError(
                f"{path}: image {image}: category_id = {category!r}: must be one of the {len(ids)} categories"
            )
        if of_image.setdefault(image, labels[category]) != labels[category]:
            raise InputError(f"{path}: image {image} has two categories: must have one")
    for image, name, _ in images:
        if image not in of_image:
            raise InputError(f"{path}: {name}: no annotation names it")
    return [Entry(name, of_image[image]) for image, name, _ in images]


def image_names(folder: Path) -> list[str]:
    """The names of the images in a folder."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    return [name for name in names if name[0] != "." and name.rpartition(".")[2].lower() in IMAGE_SUFFIXES]


def _lines(path: Path, columns: int, *, last: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The words of each line that has any, with its number."""
    for number, line in enumerate(_read(path).splitlines(), start=1):
        words = line.rsplit(maxsplit=columns - 1) if last else line.split(maxsplit=columns - 1)
        if not words:
            continue
        if len(words) < columns:
            raise InputError(f"{path}, line {number}: {line.strip()[:80]!r}: must have {columns} words")
        yield number, words


def _whole(path: Path, place: int | str, label: object) -> int:
    if isinstance(label, int) or (isinstance(label, str) and label.strip().removeprefix("-").isdecimal()):
        return int(label)
    where = f"{path}, line {place}" if isinstance(place, int) else f"{path}: {place}"
    raise InputError(f"{where}: label = {label!r}: must be a whole number")


def _read(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: not there: it names the images and their labels")
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def check_digest(path: Path, known: Collection[str], title: str) -> None:
    """`InputError` unless the SHA-256 of an annotation file is one of those that are `known`."""
    if path.is_file() and (digest := hashlib.sha256(path.read_bytes()).hexdigest()) not in known:
        raise InputError(
            f"{path}: not the file of {title}: SHA-256 {digest[:16]}…, not {' or '.join(k[:16] + '…' for k in known)}"
        )


def index_entries(root: Path, parts: Mapping[str, tuple[str, Sequence[Entry]]], class_names: Sequence[str]) -> Index:
    """The `Index` of the images that are named, part by part: the folder below `root` that their paths start from, and
    the images. Files that nothing names do not count. Images are sorted by label, then by the names of their files: so
    their order does not depend on the folders that they are in.

    Raises `InputError` for a label out of range, an image that is named twice, in one part or in two, one that is not
    there, and a class of the training part without images.
    """
    listings, seen = {}, dict[str, str]()
    for part, (folder, entries) in parts.items():
        names = [entry.name for entry in entries]
        for name, label in entries:
            if not 0 <= label < len(class_names):
                raise InputError(f"{root}: {part}: {name}: label = {label}: must be >= 0 and < {len(class_names)}")
            place = os.path.normpath(os.path.join(folder, name))
            if (other := seen.setdefault(place, part)) != part:
                raise InputError(f"{root}: {other} and {part} overlap: {place} is in both")
        if len(set(names)) < len(names):
            twice = next(name for name, after in zip(sorted(names), sorted(names)[1:], strict=False) if name == after)
            raise InputError(f"{root}: {part}: {twice} is named twice")
        states = look_at_files(root / folder, names)
        found = sorted(
            ((*entry, *state) for entry, state in zip(entries, states, strict=True)),
            key=lambda one: (one[1], os.path.basename(one[0]), one[0]),
        )
        if gone := [name for name, _, size, _ in found if size < 0]:
            raise InputError(
                f"{root / folder}: {len(gone)} of {len(names)} {part} images are not there: {some(gone, 3)}"
            )
        if empty := [name for name, _, size, _ in found if not size]:
            raise InputError(f"{root / folder}: {len(empty)} of {len(names)} {part} images are empty: {some(empty, 3)}")
        numbers = np.array([one[1:] for one in found], dtype=np.int64).reshape(-1, 3)
        listing = Listing(folder, np.array([one[0] for one in found], dtype=object), *np.ascontiguousarray(numbers.T))
        listings[part] = listing
    for label in np.flatnonzero(np.bincount(listings["train"].labels, minlength=len(class_names)) == 0).tolist():
        raise InputError(f"{root}: class {class_names[label]!r} (label {label}) has no training image")
    return Index(root, listings, tuple(class_names), listed=True)
