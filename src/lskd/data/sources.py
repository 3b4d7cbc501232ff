"""Where images come from: torchvision's files, Hugging Face style parquet, image folders, scikit-learn's digits.

Each `read_…` returns `Arrays` in the order of its source, or raises `InputError` naming the file (and row) at fault.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import logging
import re
import socket
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lskd.data import DATASETS
from lskd.data.splits import class_balanced
from lskd.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

_log = logging.getLogger(__name__)


class Arrays(NamedTuple):
    """A whole data set in memory."""

    train_images: np.ndarray  # (N, C, H, W) uint8
    train_labels: np.ndarray  # (N,) int64
    test_images: np.ndarray  # (M, C, H, W) uint8
    test_labels: np.ndarray  # (M,) int64
    class_names: tuple[str, ...]  # (K,)


# For each built-in data set: torchvision's class, and the folder below its root that holds its files.
_TORCHVISION = {
    "mnist": ("MNIST", "MNIST/raw"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
}
_DOWNLOAD_TIMEOUT = 20.0  # seconds without a byte; urllib's default is to wait for ever

TEST_NAMES = ("test", "val", "validation")  # a user's own test part: the first of these that exists
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label")
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"}
_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK"}  # PIL's 8-bit modes: these convert to RGB without surprises
_GREY_MODES = {"1", "L", "LA"}


def read(name: str, *, data: Path, download: bool) -> tuple[Arrays, str]:
    """A built-in data set, and its source in words. torchvision's files are preferred: they need no decoding."""
    if name == "digits":
        return read_digits(), "scikit-learn's bundled digits"
    roots = (data / name, data)
    _, layout = _TORCHVISION.get(name, ("", ""))
    for root in roots:
        if layout and (root / layout).is_dir():
            return read_torchvision(name, root), f"torchvision's files in {root / layout}"
    if shards := find_shards(data / name):
        return read_parquet(shards), f"parquet shards in {shards['train'][0].parent}"

    failure = ""
    if layout and download:
        try:
            _download(name, data)
        # What urllib, tarfile and torchvision (RuntimeError: checksum, or no mirror left) raise when a download fails.
        except (OSError, EOFError, RuntimeError, http.client.HTTPException, tarfile.TarError) as error:
            failure = f"; the download failed ({_one_line(error)})"
        else:
            return read_torchvision(name, data), "downloaded by torchvision"
    files = f"torchvision's {layout} in {roots[0]} and in {roots[1]}, " if layout else ""
    raise InputError(
        f"{name}: no data: looked for {files}train-*.parquet in {data / name} and its subfolders{failure}. "
        f"Put parquet shards or torchvision's files there (LSKD_DATA or --data), or run `lskd-data prepare {name}` on "
        f"a machine with a network and copy its cache (LSKD_CACHE or --cache), or `lskd-data import` data of your own"
    )


def read_folder(path: Path, size: int | None) -> tuple[Arrays, str]:
    """A user's own data, images or parquet, and its source in words. `size`: resize to this width and height."""
    if shards := find_shards(path):
        return read_parquet(shards, size), f"parquet files in {shards['train'][0].parent}"
    if (path / "train").is_dir():
        return read_image_folder(path, size), f"image folder {path}"
    raise InputError(
        f"{path}: no data: must hold train/<class>/*.png and test/<class>/*.png, or parquet train-*, test-*"
    )


def read_digits() -> Arrays:
    """scikit-learn's 1,797 handwritten digits, 8x8, grey values 0 … 16 stretched to 0 … 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]  # (1797, 1, 8, 8)
    labels = digits.target.astype(np.int64)
    # scikit-learn ships only the test half of the original data (Optical Recognition of Handwritten Digits, UCI), so
    # there is no official split of these images: a fifth is drawn.
    test, train = class_balanced(labels, 360, seed=0)
    return Arrays(images[train], labels[train], images[test], labels[test], tuple("0123456789"))


def read_torchvision(name: str, root: Path) -> Arrays:
    """torchvision's files of a built-in data set below `root`; nothing is downloaded."""
    import torchvision

    class_name, layout = _TORCHVISION[name]
    _log.info("%s: reading %s", name, root / layout)

    def read_part(train: bool) -> tuple[np.ndarray, np.ndarray]:
        try:
            part: Any = getattr(torchvision.datasets, class_name)(root, train=train, download=False)
        # RuntimeError: a missing file or a wrong MD5; the others: an idx file that was cut short.
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            raise InputError(
                f"{root / layout}: incomplete or damaged: fetch its files again ({_one_line(error)})"
            ) from error
        return _to_nchw(np.asarray(part.data)), np.asarray(part.targets, dtype=np.int64)

    return Arrays(*read_part(train=True), *read_part(train=False), class_names=DATASETS[name].class_names)


def _download(name: str, data: Path) -> None:
    """Download torchvision's files into `data`, complete or not at all."""
    import torchvision

    class_name, layout = _TORCHVISION[name]
    top = Path(layout).parts[0]
    _log.info("%s: downloading into %s", name, data)
    data.mkdir(parents=True, exist_ok=True)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)  # torchvision offers no argument for it
    try:
        # torchvision prints to stdout when it tries a second address; errors are reported by our caller.
        with tempfile.TemporaryDirectory(dir=data) as temporary, contextlib.redirect_stdout(io.StringIO()):
            getattr(torchvision.datasets, class_name)(temporary, download=True)
            try:
                (Path(temporary) / top).rename(data / top)
            except OSError:  # another process was faster: its files are as good
                if not (data / layout).is_dir():
                    raise
    finally:
        socket.setdefaulttimeout(timeout)


def find_shards(folder: Path) -> dict[str, list[Path]] | None:
    """The parquet files of "train" and "test" in `folder` or one folder below it; None if there are none for "train".

    Raises `InputError` if a numbered shard is missing, if there is no test part, or if two folders could be meant.
    """
    below = sorted(path for path in folder.glob("*/") if path.is_dir() and not path.name.startswith("."))
    for candidates in ([folder], below):
        found = [candidate for candidate in candidates if list(_part_files(candidate, "train"))]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise InputError(f"{folder}: several subfolders hold train-*.parquet: keep one of {names}")
        if found:
            return {"train": _shards(found[0], ("train",)), "test": _shards(found[0], TEST_NAMES)}
    return None


def _part_files(folder: Path, part: str) -> Iterator[Path]:
    """`train.parquet` and `train-….parquet`, sorted by name."""
    return (path for path in sorted(folder.glob("*.parquet")) if re.fullmatch(rf"{part}(-.*)?\.parquet", path.name))


def _shards(folder: Path, part_names: tuple[str, ...]) -> list[Path]:
    """All files of the first part that exists, in order."""
    for part in part_names:
        files = list(_part_files(folder, part))
        if files:
            break
    else:
        raise InputError(f"{folder}: no test part: must hold test-*.parquet beside train-*.parquet")
    # The hub's names: train-00000-of-00003.parquet, in older data sets with a hash after the numbers.
    numbers = [re.match(r".*?-(\d+)-of-(\d+)\b", path.name) for path in files]
    if not any(numbers):
        return files
    count = next(int(number[2]) for number in numbers if number)
    present = [int(number[1]) if number and int(number[2]) == count else -1 for number in numbers]
    for index in range(count):
        if index not in present:
            raise InputError(f"{folder}: {part}-{index:05d}-of-{count:05d}.parquet is missing")
    if len(files) != count:
        names = ", ".join(path.name for path in files)
        raise InputError(f"{folder}: must hold the {count} numbered {part} shards only, not {names}")
    return files


def read_parquet(shards: dict[str, list[Path]], size: int | None = None) -> Arrays:
    """Hugging Face style parquet files, as found by `find_shards`.

    Columns: `image` or `img`, a struct {bytes, path} with the encoded image, and `label` or `fine_label`, integers from
    0. Class names are those in the files' metadata, else "0", "1", …
    """
    _log.info("%s: decoding %d parquet files", shards["train"][0].parent, sum(map(len, shards.values())))
    decoder = _Decoder(size)
    files = {part: [_read_parquet_file(path, decoder) for path in shards[part]] for part in ("train", "test")}
    largest_label = max(int(labels.max(initial=0)) for _, labels, _ in files["train"])
    names = files["train"][0][2] or tuple(map(str, range(largest_label + 1)))
    for part in files:
        for path, (_, labels, _) in zip(shards[part], files[part], strict=True):
            for row in np.flatnonzero((labels < 0) | (labels >= len(names))):
                raise InputError(f"{path}, row {row}: label = {labels[row]}: must be >= 0 and < {len(names)}")

    def join(part: str) -> tuple[np.ndarray, np.ndarray]:
        images = [image for file_images, _, _ in files[part] for image in file_images]
        if not images:
            raise InputError(f"{shards[part][0]}: no images")
        return decoder.stack(images), np.concatenate([labels for _, labels, _ in files[part]])

    return Arrays(*join("train"), *join("test"), names)


def _read_parquet_file(path: Path, decoder: _Decoder) -> tuple[list[np.ndarray], np.ndarray, tuple[str, ...]]:
    """Images, labels (N,) and, if the file says them, class names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images: list[np.ndarray] = []
    labels = [np.empty(0, dtype=np.int64)]
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            image_column = _find_column(schema, _IMAGE_COLUMNS, path)
            label_column = _find_column(schema, _LABEL_COLUMNS, path)
            image_type = schema.field(image_column).type
            if not pa.types.is_struct(image_type) or image_type.get_field_index("bytes") < 0:
                raise InputError(f"{path}: column {image_column!r} is {image_type}: must be a struct of bytes and path")
            if not pa.types.is_integer(schema.field(label_column).type):
                raise InputError(
                    f"{path}: column {label_column!r} is {schema.field(label_column).type}: must be integers"
                )
            for batch in file.iter_batches(batch_size=1024, columns=[image_column, label_column]):
                if batch.column(label_column).null_count:
                    raise InputError(f"{path}: column {label_column!r} has rows without a value")
                labels.append(batch.column(label_column).to_numpy().astype(np.int64))
                for encoded in batch.column(image_column).field("bytes").to_pylist():
                    images.append(decoder.decode(io.BytesIO(encoded or b""), f"{path}, row {len(images)}"))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged or not a parquet file ({_one_line(error)})") from error
    return images, np.concatenate(labels), _class_names(schema, label_column)


def _find_column(schema: pa.Schema, names: tuple[str, ...], path: Path) -> str:
    for name in names:
        if name in schema.names:
            return name
    raise InputError(f"{path}: must have a column {' or '.join(names)}, has {', '.join(schema.names)}")


def _class_names(schema: pa.Schema, label_column: str) -> tuple[str, ...]:
    """The names that the `datasets` library stores in a file's metadata; () if there are none."""
    try:
        metadata = json.loads(schema.metadata[b"huggingface"])
        return tuple(map(str, metadata["info"]["features"][label_column]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def read_image_folder(path: Path, size: int | None = None) -> Arrays:
    """`path/train/<class>/…` and `path/test/<class>/…` (or `val`), torchvision's ImageFolder layout.

    Labels are the classes' positions in alphabetical order. Files that are not images by their suffix are passed over.
    """
    test, names = find_classes(path)
    _log.info("%s: decoding images", path)
    decoder = _Decoder(size)

    def read_part(folder: Path) -> tuple[list[np.ndarray], np.ndarray]:
        images: list[np.ndarray] = []
        labels: list[int] = []
        for label, name in enumerate(names):
            files = sorted(file for file in (folder / name).rglob("[!.]*") if file.suffix.lower() in IMAGE_SUFFIXES)
            if not files:
                raise InputError(f"{folder / name}: no images")
            images += [decoder.decode(file, str(file)) for file in files]
            labels += [label] * len(files)
        return images, np.array(labels, dtype=np.int64)

    train_images, train_labels = read_part(path / "train")
    test_images, test_labels = read_part(test)
    return Arrays(decoder.stack(train_images), train_labels, decoder.stack(test_images), test_labels, tuple(names))


def find_classes(path: Path, test_names: tuple[str, ...] = TEST_NAMES) -> tuple[Path, list[str]]:
    """The folder of the test part, and the class folders that `path`/train and it must both have, sorted."""
    test = next((path / name for name in test_names if (path / name).is_dir()), None)
    if test is None:
        places = " or ".join(f"{name}/<class>/" for name in test_names)
        raise InputError(f"{path}: no test part: must hold {places} beside train/<class>/")
    names = _class_folders(path / "train")
    if len(names) < 2:
        raise InputError(f"{path / 'train'}: must hold a folder for each of 2 or more classes, has {len(names)}")
    if differing := set(names) ^ set(_class_folders(test)):
        raise InputError(
            f"{path}: train and {test.name} must have the same classes, differ in {sorted(differing)[0]!r}"
        )
    return test, names


def _class_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def open_image(file: Path | str | io.BytesIO, where: str) -> Image.Image:
    """An image, decoded. `InputError`, saying `where` it was, if it cannot be, or has more than 8 bits a channel."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()
    # PIL's decoders raise what the parser of the format raises: OSError, SyntaxError, ValueError, struct.error, …
    except Exception as error:
        raise InputError(f"{where}: not an image that can be decoded ({_one_line(error)})") from error
    if image.mode not in _MODES:
        raise InputError(f"{where}: mode {image.mode}: must be 8 bits a channel, grey or colour")
    return image


class _Decoder:
    """Decodes images to one size and mode: those of the first image, or the size asked for and RGB.

    One image at a time: on images as small as these, threads spend longer on Python's lock than they gain (measured on
    CIFAR-10: 1.1 s for 10,000 images, 1.3 s to 1.7 s with two threads).
    """

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._first: tuple[tuple[int, int], str, str] | None = None  # size (W, H), mode, where it was
        self._all_grey = True

    def decode(self, file: Path | io.BytesIO, where: str) -> np.ndarray:
        """(H, W) or (H, W, 3) uint8. `where` names the image in errors."""
        from PIL import Image

        image = open_image(file, where)
        mode = image.mode
        if self._size is not None:
            self._all_grey &= mode in _GREY_MODES
            image = image.convert("RGB").resize((self._size, self._size), Image.Resampling.BILINEAR)
        elif mode not in ("L", "RGB"):
            raise InputError(f"{where}: mode {mode}: must be L or RGB, or import with --size N to convert it")
        elif self._first is None:
            self._first = (image.size, mode, where)
        elif (image.size, mode) != self._first[:2]:
            (width, height), first_mode, first = self._first
            raise InputError(
                f"{where}: {image.width}x{image.height} {mode}: must be {width}x{height} {first_mode} as in {first}, "
                "or import with --size N to resize all"
            )
        return np.asarray(image)

    def stack(self, images: list[np.ndarray]) -> np.ndarray:
        """(N, C, H, W), once all images have been decoded: resized ones keep one channel if all of them are grey."""
        stacked = _to_nchw(np.stack(images))
        return stacked[:, :1] if self._size is not None and self._all_grey else stacked


def _to_nchw(images: np.ndarray) -> np.ndarray:
    """(N, H, W) or (N, H, W, 3) to (N, C, H, W)."""
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
