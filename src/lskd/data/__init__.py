"""Data sets: what they are, where they come from, and how their images reach a run.

Importing this module is cheap: NumPy, torch and the readers of file formats are imported where they are needed.

Data sets are decoded once into `<cache>/data/<name>/` (see `lskd.data.cache`) and read from there afterwards. In every
function below `cache` is the root, usually `default_cache_root()`, and `data` is the folder with downloaded files,
usually `default_data_root()`.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lskd.errors import InputError, unknown
from lskd.program import user_path

if TYPE_CHECKING:
    import numpy as np
    import torch

_log = logging.getLogger(__name__)

MAX_SEED = 2**32 - 1  # the largest that NumPy's RandomState takes


@dataclass(frozen=True)
class Dataset:
    """Which images a run trains on and is measured on: a part of the run's identity.

    name: a key of `DATASETS`, or of a data set that was imported.
    holdout: training images held out, class-balanced, as the part "validation"; 0 = none, or the data's own.
    holdout_seed: seed of the draws for `holdout` and `limit`.
    limit: use only this many training images, class-balanced, drawn after the hold-out; 0 = all.
    evaluate: the part whose metrics are reported.
    digest: content of a user's own data, imported or of a plug-in, whose name does not say which data it is; empty for
        built-in data sets.
    """

    name: str
    holdout: int = 0
    holdout_seed: int = 0
    limit: int = 0
    evaluate: Literal["test", "validation"] = "test"
    digest: str = ""

    def __post_init__(self) -> None:
        for field in ("holdout", "limit"):
            if getattr(self, field) < 0:
                raise InputError(f"{field} = {getattr(self, field)}: must be >= 0")
        if not 0 <= self.holdout_seed <= MAX_SEED:
            raise InputError(f"holdout_seed = {self.holdout_seed}: must be >= 0 and <= {MAX_SEED}")
        if self.evaluate not in ("test", "validation"):
            raise unknown("evaluate", self.evaluate, ("test", "validation"))

    def examples(self, spec: Spec) -> int:
        """Images that it trains on."""
        return self.limit or spec.train - self.holdout


@dataclass(frozen=True)
class Spec:
    """What a data set is, known without opening its images.

    shape is (channels, height, width), with height = width = 0 where images have various sizes and are streamed:
    decoded while the network trains, from files that stay where they are. train, test and validation (0 unless the data
    has such a part of its own) are numbers of images; digest is `lskd.data.cache.digest` or, streamed, that of
    `lskd.data.index`; empty where nothing is known to compare with.
    """

    name: str
    title: str
    num_classes: int
    shape: tuple[int, int, int]
    train: int
    test: int
    class_names: tuple[str, ...]
    digest: str
    validation: int = 0

    @property
    def parts(self) -> tuple[str, ...]:
        return ("train", "test", "validation") if self.validation else ("train", "test")

    @property
    def streamed(self) -> bool:
        return self.shape[1] == 0


class Part(NamedTuple):
    """Images and labels of one part of a data set: a tensor (N, C, H, W) uint8 or, of a streamed data set, N `Files`
    (on a device, as a recipe sees them: an `lskd.data.images.ImageSource`)."""

    images: Any
    labels: torch.Tensor  # (N,) int64


_DIGIT_NAMES = tuple("0123456789")
_CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100_NAMES = tuple(  # one string, because a hundred lines of one word each say less
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905
)

# A line a class: the name of its folder (WordNet's number of a synset), and the name by which torchvision calls it.
_IMAGENET_NAMES = tuple(
    line.split(maxsplit=1)[1]
    for line in Path(__file__).with_name("imagenet.txt").read_text(encoding="utf-8").splitlines()
)

# The digests are those of the original data, so `prepare` checks every pixel and label, whatever the source.
DATASETS: dict[str, Spec] = {
    "mnist": Spec(
        name="mnist",
        title="MNIST",
        num_classes=10,
        shape=(1, 28, 28),
        train=60_000,
        test=10_000,
        class_names=_DIGIT_NAMES,
        digest="2647a6fdabcad38f24f180fa2371516855becf839df1247bafde77dc5559f21c",
    ),
    "cifar10": Spec(
        name="cifar10",
        title="CIFAR-10",
        num_classes=10,
        shape=(3, 32, 32),
        train=50_000,
        test=10_000,
        class_names=_CIFAR10_NAMES,
        digest="e834c00b0b0f3ae7667b554be02ae0d6526f13c3715312f0d971842523d1a715",
    ),
    "cifar100": Spec(
        name="cifar100",
        title="CIFAR-100",
        num_classes=100,
        shape=(3, 32, 32),
        train=50_000,
        test=10_000,
        class_names=_CIFAR100_NAMES,
        digest="bab62f9e864a85956af419ad73218e727450486bdeb69451156a7508a712f526",
    ),
    "digits": Spec(
        name="digits",
        title="scikit-learn digits",
        num_classes=10,
        shape=(1, 8, 8),
        train=1_437,
        test=360,
        class_names=_DIGIT_NAMES,
        digest="ed448f0c893070213fe5aa201377462417499069b788b7715bd7be25d0678a82",
    ),
    # Checked by its folders' names and the numbers of files; its test part is the official validation set.
    "imagenet": Spec(
        name="imagenet",
        title="ImageNet (ILSVRC 2012)",
        num_classes=1000,
        shape=(3, 0, 0),
        train=1_281_167,
        test=50_000,
        class_names=_IMAGENET_NAMES,
        digest="",
    ),
}
SHIPPED: Mapping[str, Spec] = MappingProxyType(dict(DATASETS))  # whatever a plug-in puts in their places


# Where a data set that is not here comes from, in words.
_ORIGIN = {
    "digits": "bundled with scikit-learn",
    "imagenet": "put it, or a link to it, at $LSKD_DATA/imagenet: train/<class>/*.JPEG and val/<class>/*.JPEG",
}

# Names under which nothing can be imported: shipped choices of `dataset`, and what YAML and Hydra take for no name.
_SHIPPED = {"cifar10_40k", "cifar100_40k", "imagenet_held_out"}
_NO_NAMES = {
    "null",
    "true",
    "false",
    "yes",
    "no",
    "on",
    "off",
    "inf",
    "nan",
    "_self_",
    "_global_",
    "_group_",
}
_NUMBER = r"[0-9][0-9_]*(e[0-9_]+)?|0x[0-9a-f_]+|0o[0-7_]+|0b[01_]+"


def default_cache_root() -> Path:
    """`LSKD_CACHE`, else `lskd` in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`); for a user without a
    home directory `makeshift_cache_root()`."""
    if os.environ.get("LSKD_CACHE"):
        return user_path(os.environ["LSKD_CACHE"])
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lskd"
    except RuntimeError:
        return makeshift_cache_root()


def makeshift_cache_root() -> Path:
    """A folder among the temporary ones, of this user's own."""
    return Path(tempfile.gettempdir()) / f"lskd-{os.getuid()}"


def default_data_root(cache: Path | None = None) -> Path:
    """`LSKD_DATA`, else `raw` in `cache` (default: `default_cache_root()`)."""
    if os.environ.get("LSKD_DATA"):
        return user_path(os.environ["LSKD_DATA"])
    return (cache or default_cache_root()) / "raw"


def spec(name: str, cache: Path) -> Spec:
    """The `Spec` of a built-in data set (opens no file) or of an imported one (reads its meta.json).

    Raises `InputError` for an unknown name, and for an imported data set whose meta.json is damaged.
    """
    if name in DATASETS:
        return DATASETS[name]
    if _is_name(name) and _folder(cache, name).is_dir():
        from lskd.data.cache import read_spec

        return read_spec(_folder(cache, name))
    raise unknown("dataset.name", name, [*DATASETS, *imported(cache)])


def imported(cache: Path) -> dict[str, Spec]:
    """The user's own data sets in the cache, by name. A damaged one is left out, with a warning in the log."""
    from lskd.data.cache import read_spec

    specs = {}
    for folder in sorted((cache / "data").glob("*/")):
        if _is_name(folder.name) and folder.name not in DATASETS and folder.is_dir():
            try:
                specs[folder.name] = read_spec(folder)
            except InputError as error:
                _log.warning("%s", error)
    return specs


def check(dataset: Dataset, spec: Spec) -> None:
    """Raise `InputError` if `dataset` asks for parts that the data set described by `spec` cannot give."""
    for field in ("holdout", "limit"):
        count = getattr(dataset, field)
        if 0 < count < spec.num_classes:
            raise InputError(f"{field} = {count}: must be 0, or >= {spec.num_classes}, the classes of {spec.name}")
    if dataset.holdout and spec.validation:
        raise InputError(f"holdout = {dataset.holdout}: must be 0: {spec.name} has a validation part of its own")
    if dataset.evaluate == "validation" and not dataset.holdout and not spec.validation:
        raise InputError("evaluate = 'validation': must be 'test' when holdout = 0 (or set holdout to 1 or more)")
    if dataset.holdout >= spec.train:
        raise InputError(f"holdout = {dataset.holdout}: must be < {spec.train}, the training images of {spec.name}")
    if dataset.holdout + dataset.limit > spec.train:
        raise InputError(
            f"limit = {dataset.limit}: must be <= {spec.train - dataset.holdout}, "
            f"the training images of {spec.name} ({spec.train}) less holdout = {dataset.holdout}"
        )
    if dataset.digest and SHIPPED.get(spec.name) == spec:
        raise InputError(f"digest = {dataset.digest!r}: must be empty for {spec.name}, which is built in")
    if dataset.digest and dataset.digest != spec.digest:
        raise InputError(f"digest = {dataset.digest!r}: must be {spec.digest!r}, that of the imported {spec.name}")


def load(dataset: Dataset, *, data: Path, cache: Path) -> dict[str, Part]:
    """The parts "train", "test" and, with a hold-out or of the data's own, "validation". A built-in data set is
    prepared if it is missing.

    Raises `InputError` if the data cannot be had, if the cache is damaged, if streamed images have changed since they
    were indexed, or if `check` fails.
    """
    import torch

    from lskd.data import cache as disk
    from lskd.data.index import Files
    from lskd.data.splits import class_balanced

    known = spec(dataset.name, cache)
    check(dataset, known)
    folder = _folder(cache, dataset.name)
    if not folder.exists():
        prepare(dataset.name, data=data, cache=cache)
    found: dict[str, tuple[Any, np.ndarray]]
    if known.streamed:
        index = disk.check_index(folder, data)
        found = {name: (Files(index.root / part.folder, part.names), part.labels) for name, part in index.parts.items()}
    else:
        arrays = disk.read(folder)
        found = {name: (getattr(arrays, f"{name}_images"), getattr(arrays, f"{name}_labels")) for name in known.parts}

    images, labels = found.pop("train")
    if dataset.holdout:
        chosen, rest = class_balanced(labels, dataset.holdout, dataset.holdout_seed)
        found["validation"] = images[chosen], labels[chosen]
        images, labels = images[rest], labels[rest]
    if dataset.limit:
        chosen, _ = class_balanced(labels, dataset.limit, dataset.holdout_seed)
        images, labels = images[chosen], labels[chosen]
    found["train"] = images, labels
    return {
        name: Part(images if known.streamed else torch.from_numpy(images), torch.from_numpy(labels))
        for name, (images, labels) in found.items()
    }


def prepare(name: str, *, data: Path, cache: Path, download: bool = True, force: bool = False) -> Spec:
    """Decode a built-in data set from `data` into the cache, downloading it into `data` first if it is not there.
    Of a streamed one the files in `data` are indexed; they stay there.

    A data set that is in the cache already, as an imported one always is, is only checked, unless `force`. Raises
    `InputError` if the data cannot be had or is not the original data, pixel by pixel.
    """
    from lskd.data import cache as disk
    from lskd.data import sources
    from lskd.data.index import describe, read_built_in
    from lskd.data.scratch import clear

    known, folder = spec(name, cache), _folder(cache, name)
    if name not in DATASETS and force:
        raise InputError(f"{name}: is not built in, so there is nothing to decode it from again; import it again")
    clear(folder.parent)
    if folder.exists() and not force:
        if disk.check_files(folder).streamed:
            disk.check_index(folder, data)  # the images must be there, too
        return disk.read_spec(folder)
    if known.streamed:
        index = read_built_in(name, data)
        known = replace(known, digest=describe(name, index).digest)
        disk.write(folder, known, index, source=f"image folder {index.root}", replace=force)
        return known
    arrays, source = sources.read(name, data=data, download=download)
    arrays = disk.canonical(arrays)
    disk.check_content(known, arrays, source)
    disk.write(folder, known, arrays, source=source, replace=force)
    return known


def verify(name: str, *, cache: Path, data: Path | None = None) -> Spec:
    """Check a data set in the cache: its files, and its content against the digest. Raises `InputError` if damaged.
    Of a streamed one (a built-in one is in `data`) every image is decoded, and the error names all that cannot be."""
    from lskd.data import cache as disk
    from lskd.data.index import check_images
    from lskd.data.scratch import clear

    known, folder = spec(name, cache), _folder(cache, name)
    clear(folder.parent)
    if known.streamed:
        found, problems = disk.read_index(folder, data or default_data_root(cache)), []
        for problem in (check_images, partial(disk.check_changes, folder)):
            try:
                problem(found)
            except InputError as error:
                problems.append(str(error))
        if problems:
            raise InputError("; ".join(problems))
        return disk.read_spec(folder)
    arrays = disk.read(folder)
    disk.check_content(known, arrays, str(folder))
    if name not in DATASETS:
        disk.note_equal_rows(name, arrays)
    return known


def import_folder(
    name: str,
    path: Path,
    *,
    cache: Path,
    size: int | None = None,
    stream: bool = False,
    force: bool = False,
    split: float | None = None,
    seed: int = 0,
    image_column: str = "",
    label_column: str = "",
) -> Spec:
    """Decode a user's own data into the cache as the data set `name`.

    path: a folder of images `train/<class>/*.png`, `test/<class>/*.png` (or jpg …), or of Hugging Face style parquet.
    Beside a part `test` there may be one for validation: `val`, `valid`, `validation` or `dev`.
    size: resize all images to this width and height; without it they must have one size and mode already.
    stream: leave the images where they are, whatever their sizes, and decode them while a network trains.
    force: replace another data set that was imported under this name.
    split: draw this share of each class as the test part of data that has none (`<class>/*.png`), with `seed`.
    image_column, label_column: of parquet files whose columns have other names than usual.

    Raises `InputError` for a bad name, a folder that cannot be read, or other content under this name.
    """
    from lskd.data import cache as disk
    from lskd.data import index, sources
    from lskd.data.index import Index
    from lskd.data.scratch import clear
    from lskd.data.sources import Arrays, Columns

    _check_new_name(name)
    if size is not None and size < 1:
        raise InputError(f"size = {size}: must be >= 1")
    if stream and size is not None:
        raise InputError(f"size = {size}: must be left out with --stream; a recipe's augment.crop says the size")
    if split is not None and not 0 < split < 1:
        raise InputError(f"split = {split:g}: must be > 0 and < 1, the test part's share of each class")
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed = {seed}: must be >= 0 and <= {MAX_SEED}")
    drawn = None if split is None else (split, seed)
    folder = _folder(cache, name)
    clear(folder.parent)
    content: Arrays | Index
    if stream:
        if image_column or label_column or sources.has_shards(path):
            raise InputError(f"{path}: parquet files cannot be streamed: they hold their images; leave out --stream")
        sources.check_is_folder(path, drawn)
        content, is_stale = disk.follow(folder, index.make(path, split=drawn))
        source, force = f"image folder {path}{sources.tell_split(drawn)}", force or is_stale
        new = index.describe(name, content)
    else:
        content, source = sources.read_folder(path, size, Columns(image_column, label_column), drawn)
        content = disk.canonical(content)
        new = disk.describe(name, content)
    disk.write(folder, new, content, source=source, replace=force)
    # `write` keeps what is there already, which is right only if it is the same data.
    if (old := disk.check_files(folder)).digest != new.digest:
        raise InputError(
            f"name = {name!r}: other data was imported under this name ({sizes(old)}; this is {sizes(new)}): "
            "use another name, or --force"
        )
    return new


def _check_new_name(name: str) -> None:
    """Raise `InputError` if data cannot be imported, or not be used, under `name`."""
    if not _is_name(name):
        raise InputError(f"name = {name!r}: must be made of a-z, 0-9 and _ only")
    if name in DATASETS:
        raise InputError(f"name = {name!r}: is a built-in data set, use another name (or `lskd-data prepare {name}`)")
    if name in _SHIPPED:
        raise InputError(f"name = {name!r}: is a part of a built-in data set, use another name")
    if name in _NO_NAMES or re.fullmatch(_NUMBER, name):
        raise InputError(
            f"name = {name!r}: dataset={name} would be read as a number, true, false or null, not as a name"
        )


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[a-z0-9_]+", name) is not None


def how_to_get(name: str) -> str:
    """What to do for a built-in data set that is not in the cache, in words."""
    origin = _ORIGIN.get(name, f"from $LSKD_DATA/{name}, else downloaded")
    return f"`lskd-data prepare {name}`: {origin}"


def sizes(spec: Spec) -> str:
    """The size of the images, and how many each part has, in words."""
    shape = "images of various sizes, streamed" if spec.streamed else "x".join(map(str, spec.shape))
    own = f"{spec.validation} validation, " if spec.validation else ""
    return f"{shape}, {spec.train} train, {own}{spec.test} test"


def _folder(cache: Path, name: str) -> Path:
    return cache / "data" / name
