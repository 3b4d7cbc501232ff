"""Images in files: Hugging Face style parquet, and image folders.

Each `read_…` returns `Arrays` in the order of its source, or raises `InputError` naming the files (and rows) at fault.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lskd.data.arrays import Arrays, image_digests
from lskd.data.folders import (
    PARTS,
    Notes,
    assign_parts,
    check_class_names,
    draw_test,
    find_layout,
    note_duplicates,
    refuse,
    scan,
    shown,
    some,
    system_path,
)
from lskd.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

_log = logging.getLogger(__name__)


class Rows(NamedTuple):
    """One part as it was read."""

    images: np.ndarray  # (N, C, H, W) uint8
    labels: np.ndarray  # (N,) int64
    places: Sequence[str]  # where each image was
    digests: Sequence[bytes]  # `image_digests`

    @classmethod
    def of(cls, images: np.ndarray, labels: np.ndarray, places: Sequence[str]) -> Rows:
        return cls(images, labels, places, image_digests(images))

    def pick(self, rows: np.ndarray) -> Rows:
        places, digests = ([column[row] for row in rows] for column in (self.places, self.digests))
        return Rows(self.images[rows], self.labels[rows], places, digests)


class Columns(NamedTuple):
    """The columns of parquet files with images and labels; "" = one of the usual names."""

    image: str = ""
    label: str = ""


USUAL = Columns()
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label")
_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK"}  # PIL's 8-bit modes: these convert to RGB without surprises
_GREY_MODES = {"1", "L", "LA"}
_ORIENTATION = 0x0112  # EXIF's tag


def read_folder(
    path: Path, size: int | None, columns: Columns = USUAL, split: tuple[float, int] | None = None
) -> tuple[Arrays, str]:
    """A user's own data, images or parquet, and its source in words. `size`: resize to this width and height; `split`:
    share and seed of a test part that is drawn, class by class, where there is none."""
    drawn = tell_split(split)
    if shards := find_shards(path, split=split is not None):
        return read_parquet(shards, size, columns, split), f"parquet files in {shards['train'][0].parent}{drawn}"
    check_is_folder(path, split, columns)
    return read_image_folder(path, size, split), f"image folder {path}{drawn}"


def tell_split(split: tuple[float, int] | None) -> str:
    return f", a share of {split[0]:g} drawn with seed {split[1]} as its test part" if split else ""


def check_is_folder(path: Path, split: tuple[float, int] | None, columns: Columns = USUAL) -> None:
    """Raise `InputError` unless `path` looks like an image folder."""
    if columns != USUAL:
        raise InputError(f"{path}: no train-*.parquet: --image-column and --label-column are for parquet files")
    if not path.is_dir():
        raise InputError(f"{path}: {'not a folder' if path.exists() else 'not there'}")
    if any(path.glob("*.tar")) or any(path.glob("*/*.tar")):
        rule = "tar shards are streamed: add --stream, and have a part's name (train, test) in theirs or their folder's"
        raise InputError(f"{path}: {rule}")
    if split is None and not (path / "train").is_dir():
        there = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        raise InputError(
            f"{path}: no data: must hold train/<class>/*.png and test/<class>/*.png, or parquet train-*, test-*, or "
            f"<class>/*.png with --split 0.2; has {some(there, most=5) or 'nothing'}"
        )


def find_shards(folder: Path, *, split: bool = False, names: Sequence[str] = PARTS) -> dict[str, list[Path]] | None:
    """The parquet files of "train", "test" and perhaps "validation" in `folder` or one folder below it; None if there
    are none for "train". Only parts with these `names` count.

    Raises `InputError` if a numbered shard is missing, if there is no test part (unless it is to be `split` off), or if
    two folders could be meant.
    """
    below = sorted(path for path in folder.glob("*/") if path.is_dir() and not path.name.startswith("."))
    for candidates in ([folder], below):
        found = [candidate for candidate in candidates if _part_files(candidate, "train")]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise InputError(f"{folder}: several subfolders hold train-*.parquet: keep one of {names}")
        if found:
            present = [name for name in names if _part_files(found[0], name)]
            parts = assign_parts(present, found[0], split=split)
            return {part: _shards(found[0], name) for part, name in parts.items()}
    return None


def has_shards(folder: Path) -> bool:
    """Whether there are parquet files for "train" in `folder` or one folder below it."""
    return any(_part_files(candidate, "train") for candidate in (folder, *folder.glob("*/")))


def _part_files(folder: Path, part: str) -> list[Path]:
    """`train.parquet` and `train-….parquet`, sorted by name; else those in `train/`, as the hub converts data sets."""
    named = [path for path in sorted(folder.glob("*.parquet")) if re.fullmatch(rf"{part}(-.*)?\.parquet", path.name)]
    return named or sorted((folder / part).glob("*.parquet"))


def _shards(folder: Path, part: str) -> list[Path]:
    """All files of a part, in order. `InputError` if the numbers in their names say that some are missing."""
    files = _part_files(folder, part)
    # The hub's names: train-00000-of-00003.parquet, in older data sets with a hash after the numbers; or 0000.parquet.
    if all(path.stem.isdecimal() for path in files):
        numbers, width = [int(path.stem) for path in files], len(files[0].stem)
        for index in range(max(numbers) + 1):
            if index not in numbers:
                raise InputError(f"{files[0].parent}: {index:0{width}d}.parquet is missing")
        return files
    matches = [re.match(r".*?-(\d+)-of-(\d+)\b", path.name) for path in files]
    if not any(matches):
        return files
    count = next(int(match[2]) for match in matches if match)
    present = [int(match[1]) if match and int(match[2]) == count else -1 for match in matches]
    for index in range(count):
        if index not in present:
            raise InputError(f"{files[0].parent}: {part}-{index:05d}-of-{count:05d}.parquet is missing")
    if len(files) != count:
        names = ", ".join(path.name for path in files)
        raise InputError(f"{files[0].parent}: must hold the {count} numbered {part} shards only, not {names}")
    return files


def read_parquet(
    shards: Mapping[str, list[Path]],
    size: int | None = None,
    columns: Columns = USUAL,
    split: tuple[float, int] | None = None,
    *,
    quiet: bool = False,
) -> Arrays:
    """Parquet files, as found by `find_shards`.

    Images are encoded: bytes, or structs {bytes, path} as on the hub, in the column `image` or `img` unless `columns`
    says otherwise. Labels, in `label` or `fine_label`, are integers from 0, or strings. Class names are those in the
    files' metadata, else "0", "1", …; strings are names, numbered in alphabetical order. `quiet`: nothing is said of
    what is odd.
    """
    root, notes = shards["train"][0].parent, Notes()
    _log.info("%s: decoding %d parquet files", root, sum(map(len, shards.values())))
    decoder = _Decoder(size, notes)
    files = {part: [_read_parquet_file(path, decoder, columns) for path in paths] for part, paths in shards.items()}
    refuse(root, decoder.bad, decoder.count)
    images = {part: [image for file in found for image in file.images] for part, found in files.items()}
    for part in shards:
        if not images[part]:
            raise InputError(f"{shards[part][0]}: no images")
    names = _number_labels(shards, files, notes)
    parts = {}
    for part, found in files.items():
        counts = [(path.name, len(file.labels)) for path, file in zip(shards[part], found, strict=True)]
        places = [f"{name}, row {row}" for name, count in counts for row in range(count)]
        parts[part] = Rows.of(decoder.stack(images.pop(part)), np.concatenate([file.labels for file in found]), places)
    return _assemble(root, parts, names, None if quiet else notes, split)


class _File(NamedTuple):
    """A parquet file: images, labels (N,), as int64 or as str, and class names if it says them."""

    images: list[np.ndarray]
    labels: np.ndarray
    names: tuple[str, ...]


def _read_parquet_file(path: Path, decoder: _Decoder, columns: Columns) -> _File:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    rows = 0
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            found_columns = find_columns(schema, columns, path)
            for batch in file.iter_batches(batch_size=1024, columns=[found_columns.image, found_columns.label]):
                found, encoded = batch.column(found_columns.label), batch.column(found_columns.image)
                if found.null_count:
                    raise InputError(f"{path}: column {found_columns.label!r} has rows without a value")
                if found_columns.has_text:
                    labels.append(np.array(found.cast(pa.string()).to_pylist(), dtype=object))
                else:
                    labels.append(found.to_numpy(zero_copy_only=False).astype(np.int64))
                for one in (encoded.field("bytes") if found_columns.has_structs else encoded).to_pylist():
                    images += decoder.decode(io.BytesIO(one or b""), f"{path.name}, row {rows}")
                    rows += 1
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged or not a parquet file ({in_one_line(error)})") from error
    none = np.empty(0, dtype=object if found_columns.has_text else np.int64)
    return _File(images, np.concatenate([none, *labels]), class_names_of(schema, found_columns.label))


class FoundColumns(NamedTuple):
    """The columns of a parquet file with images and labels, and what is in them."""

    image: str
    label: str
    has_structs: bool  # {bytes, path} in the place of bytes
    has_text: bool


def find_columns(schema: pa.Schema, columns: Columns, path: Path) -> FoundColumns:
    """`InputError` if there are none, or none of images and labels."""
    import pyarrow as pa

    image = _find_column(schema, columns.image, _IMAGE_COLUMNS, "image", path)
    label = _find_column(schema, columns.label, _LABEL_COLUMNS, "label", path)
    image_type, label_type = schema.field(image).type, schema.field(label).type
    has_structs = pa.types.is_struct(image_type) and image_type.get_field_index("bytes") >= 0
    if not has_structs and not (pa.types.is_binary(image_type) or pa.types.is_large_binary(image_type)):
        raise InputError(f"{path}: column {image!r} is {image_type}: must be bytes, or a struct of bytes and path")
    has_text = _is_text(label_type)
    if not has_text and not pa.types.is_integer(label_type):
        raise InputError(f"{path}: column {label!r} is {label_type}: must be integers or strings")
    return FoundColumns(image, label, has_structs, has_text)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _find_column(schema: pa.Schema, asked: str, usual: tuple[str, ...], what: str, path: Path) -> str:
    for name in (asked,) if asked else usual:
        if name in schema.names:
            return name
    raise InputError(
        f"{path}: must have a column {asked or ' or '.join(usual)}, has {', '.join(schema.names)}; "
        f"--{what}-column says which"
    )


def class_names_of(schema: pa.Schema, label_column: str) -> tuple[str, ...]:
    """The names that the `datasets` library stores in a file's metadata; () if there are none."""
    try:
        metadata = json.loads(schema.metadata[b"huggingface"])
        return tuple(map(str, metadata["info"]["features"][label_column]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def _number_labels(shards: Mapping[str, list[Path]], files: dict[str, list[_File]], notes: Notes) -> tuple[str, ...]:
    """The class names. Strings become numbers in `files`. `InputError` for a label that is none of the classes'."""
    kinds = {file.labels.dtype for found in files.values() for file in found}
    if len(kinds) > 1:
        raise InputError(f"{shards['train'][0].parent}: labels are integers in some files and strings in others")
    if kinds == {np.dtype(object)}:
        names = tuple(sorted({label for file in files["train"] for label in file.labels}))
        check_class_names(names, shards["train"][0].parent)
        numbers = {name: number for number, name in enumerate(names)}
        for part, found in files.items():
            for place, file in enumerate(found):
                for row, label in enumerate(file.labels):
                    if label not in numbers:
                        raise InputError(
                            f"{shards[part][place]}, row {row}: label = {label!r}: must be one of the training part's"
                        )
                labels = np.array([numbers[label] for label in file.labels], dtype=np.int64)
                files[part][place] = file._replace(labels=labels)
    else:
        largest = max(int(file.labels.max(initial=0)) for file in files["train"])
        count = sum(len(file.labels) for file in files["train"])
        names = files["train"][0].names
        if not names and largest >= count:
            raise InputError(
                f"{shards['train'][0].parent}: label = {largest}: must be < {count}, the number of training images: "
                "labels count classes from 0"
            )
        names = names or tuple(map(str, range(largest + 1)))
        for part, found in files.items():
            for path, file in zip(shards[part], found, strict=True):
                for row in np.flatnonzero((file.labels < 0) | (file.labels >= len(names))).tolist():
                    wrong = int(file.labels[row])
                    raise InputError(f"{path}, row {row}: label = {wrong}: must be >= 0 and < {len(names)}")
    present = set(np.concatenate([file.labels for file in files["train"]]).tolist())
    for label, name in enumerate(names):
        if label not in present:
            notes.add("classes without a training image", f"{label} ({name})" if name != str(label) else name)
    if len(names) < 2:
        raise InputError(f"{shards['train'][0].parent}: must have 2 or more classes, has {len(names)}")
    return names


def read_image_folder(path: Path, size: int | None = None, split: tuple[float, int] | None = None) -> Arrays:
    """`path/train/<class>/…` and `path/test/<class>/…` (or `val`), torchvision's ImageFolder layout; where a test part
    is to be drawn, `path/<class>/…`, too.

    Labels are the classes' positions in alphabetical order. `lskd.data.folders` says which files count.
    """
    notes = Notes()
    layout = find_layout(path, notes, split=split is not None)
    listings, bad = scan(path, layout, notes)
    _log.info("%s: decoding images", path)
    decoder = _Decoder(size, notes)
    read = {}
    for part, listing in listings.items():
        places = [os.path.join(listing.folder, name) for name in listing.names]
        images = [image for place in places for image in decoder.decode(path / system_path(place), place)]
        read[part] = images, listing.labels, places
    refuse(path, bad + decoder.bad, len(bad) + decoder.count)
    parts = {part: Rows.of(decoder.stack(images), labels, places) for part, (images, labels, places) in read.items()}
    return _assemble(path, parts, tuple(layout.classes), notes, split)


def _assemble(
    path: Path, parts: dict[str, Rows], names: tuple[str, ...], notes: Notes | None, split: tuple[float, int] | None
) -> Arrays:
    """The parts together, a test part drawn if it is asked for. What is in `notes`, and duplicates, is said."""
    if split is not None:
        whole = parts["train"]
        # In the order of the content, so that the draw depends neither on the files' names nor on their order.
        order = np.array(sorted(range(len(whole.labels)), key=lambda row: (whole.digests[row], whole.labels[row])))
        test, train = draw_test(whole.labels[order], names, *split)
        parts = {"train": whole.pick(order[train]), "test": whole.pick(order[test])}
    if notes is not None:
        note_duplicates({part: zip(rows.digests, rows.places, strict=True) for part, rows in parts.items()}, notes)
        notes.log(path)
    validation = parts["validation"][:2] if "validation" in parts else (None, None)
    return Arrays(*parts["train"][:2], *parts["test"][:2], names, *validation)


def open_image(file: Path | str | io.BytesIO, where: str, notes: Notes | None = None) -> Image.Image:
    """An image, decoded; of an animation the first frame, and never turned by its EXIF orientation, as torchvision does
    it. `InputError`, saying `where` it was, if it cannot be decoded, or has more than 8 bits a channel."""
    from PIL import Image, UnidentifiedImageError

    # PIL looks for a WebP image only after it has tried its commonest formats and six others, which costs as much as to
    # decode a small one.
    is_webp = isinstance(file, io.BytesIO) and bytes(file.getbuffer()[8:12]) == b"WEBP"
    try:
        with Image.open(file, formats=["WEBP"] if is_webp else None) as image:
            # A camera's second picture of the same (MPO) is no animation.
            is_animated = notes is not None and image.format != "MPO" and getattr(image, "is_animated", False)
            image.load()
    except UnidentifiedImageError as error:
        raise InputError(f"{where}: not an image that can be decoded (its content is of no known format)") from error
    # PIL's decoders raise what the parser of the format raises: OSError, SyntaxError, ValueError, struct.error, …
    except Exception as error:
        raise InputError(f"{where}: not an image that can be decoded ({in_one_line(error)})") from error
    if image.mode not in _MODES:
        raise InputError(f"{where}: mode {image.mode}: must be 8 bits a channel, grey or colour")
    if notes is not None:
        if is_animated:
            notes.add("animated images, of which the first frame counts", where)
        if "exif" in image.info and image.getexif().get(_ORIENTATION, 1) not in (0, 1):
            notes.add("images that a viewer turns by their EXIF orientation and lskd, as torchvision, does not", where)
        suffix = os.path.splitext(where)[1].lower()
        expected = Image.registered_extensions().get(suffix, image.format)
        if image.format not in (expected, "MPO" if expected == "JPEG" else expected):
            notes.add("images of another format than their names say", f"{where} ({image.format})")
    return image


class _Decoder:
    """Decodes images to one size and mode: those of the first image, or the size asked for and RGB.

    One image at a time: on images as small as these, threads spend longer on Python's lock than they gain (measured on
    CIFAR-10: 1.1 s for 10,000 images, 1.3 s to 1.7 s with two threads).
    """

    def __init__(self, size: int | None, notes: Notes) -> None:
        self.count = 0
        self.bad: list[str] = []  # images that cannot be used, with the reasons
        self._size, self._notes = size, notes
        self._first: tuple[tuple[int, int], str, str] | None = None  # size (W, H), mode, where it was
        self._all_grey = True

    def decode(self, file: Path | io.BytesIO, where: str) -> list[np.ndarray]:
        """[(H, W) or (H, W, 3) uint8], or nothing if it cannot be decoded. `where` names the image in errors."""
        from PIL import Image

        self.count += 1
        try:
            image = open_image(file, where, self._notes)
        except InputError as error:
            self.bad.append(str(error))
            return []
        mode = image.mode
        if self._size is not None:
            self._all_grey &= mode in _GREY_MODES
            image = image.convert("RGB").resize((self._size, self._size), Image.Resampling.BILINEAR)
        elif mode not in ("L", "RGB"):
            raise InputError(f"{shown(where)}: mode {mode}: must be L or RGB, or import with --size N to convert it")
        elif self._first is None:
            self._first = (image.size, mode, where)
        elif (image.size, mode) != self._first[:2]:
            (width, height), first_mode, first = self._first
            either = ", or with --stream to crop them in training" if isinstance(file, Path) else ""
            raise InputError(
                f"{shown(where)}: {image.width}x{image.height} {mode}: must be {width}x{height} {first_mode} as in "
                f"{shown(first)}, or import with --size N to resize all{either}"
            )
        return [np.asarray(image)]

    def stack(self, images: list[np.ndarray]) -> np.ndarray:
        """(N, C, H, W), once all images have been decoded: resized ones keep one channel if all of them are grey."""
        stacked = to_nchw(np.stack(images))
        return stacked[:, :1] if self._size is not None and self._all_grey else stacked


def to_nchw(images: np.ndarray) -> np.ndarray:
    """(N, H, W) or (N, H, W, 3) to (N, C, H, W)."""
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
