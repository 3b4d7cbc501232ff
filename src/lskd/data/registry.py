"""The data sets by name: those that lskd ships or a plug-in registers (`DATASETS`), and those in the cache that a user
has imported."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from lskd.data.dataset import Dataset, Spec
from lskd.data.selection import check_steps, check_training_steps, described
from lskd.data.text.settings import LEAST, LEAST_PAIR, MOST
from lskd.errors import InputError, unknown
from lskd.program import shipped_conf
from lskd.registry import Registry

if TYPE_CHECKING:
    from lskd.data.arrays import Arrays
    from lskd.data.index import Index
    from lskd.data.text.texts import Texts

_log = logging.getLogger(__name__)


class Reader(Protocol):
    """Fetches the content of a data set, and says where it came from: (content, words)."""

    def __call__(self, spec: Spec, *, data: Path, download: bool) -> tuple[Arrays | Index | Texts, str]:
        """`Arrays` or, of a streamed one, an `Index` of files; of text, `Texts`. `data` is the folder with downloaded
        files; what is not there may be downloaded into it where `download` says so. `InputError` where the data cannot
        be had."""
        ...


@dataclass(frozen=True)
class Origin:
    """A data set that is known by name: what it is, and how it is got.

    recipe: the usual one, where a run names none; origin: where its files come from, in words; flips: of each class the
    one that it is taken for in asymmetric label noise; groups: classes that look alike, by the name of their group.
    """

    spec: Spec
    read: Reader
    recipe: str
    origin: str = ""
    flips: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)


DATASETS: Registry[Origin] = Registry(
    "dataset", Origin, "@register(Spec(…)) above its reader, with from lskd.data import Spec, register"
)

R = TypeVar("R", bound=Reader)


def register(
    spec: Spec,
    *,
    recipe: str = "",
    origin: str = "",
    flips: Mapping[str, str] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Callable[[R], R]:
    """A decorator for the `Reader` of the data set `spec`: it is there as `spec.name` from now on.

    Its `digest` is compared with what the reader gives, and tells its runs from those on other data of that name:
    `lskd-data prepare NAME` says what it ought to be. Of text `spec.text` are the settings of a run that gives none.
    """

    def enter(read: R) -> R:
        known = Origin(spec, read, recipe or spec.usual_recipe, origin, flips or {}, groups or {})
        DATASETS.add(spec.name, known, getattr(read, "__module__", "a plug-in"))
        return read

    return enter


def is_shipped(spec: Spec) -> bool:
    """Whether it is lskd's own, whose name alone says which data it is."""
    shipped = DATASETS.shipped.get(spec.name)
    return shipped is not None and shipped.spec == spec


def spec(name: str, cache: Path) -> Spec:
    """The `Spec` of a registered data set (opens no file) or of an imported one (reads its meta.json).

    Raises `InputError` for an unknown name, and for an imported data set whose meta.json is damaged.
    """
    if name in DATASETS:
        return DATASETS[name].spec
    if is_name(name) and folder_of(cache, name).is_dir():
        from lskd.data.cache import read_spec

        return read_spec(folder_of(cache, name))
    raise unknown("dataset.name", name, [*DATASETS, *imported(cache)])


def spec_of(dataset: Dataset, cache: Path) -> Spec:
    """The `Spec` of what the runs on `dataset` have: see `described`. `InputError` as by `spec`."""
    return described(dataset, with_class_sizes(spec(dataset.name, cache), dataset, cache))


def with_class_sizes(spec: Spec, dataset: Dataset, cache: Path) -> Spec:
    """`spec` with the sizes of its classes, if steps make something of them and only the cache knows them."""
    if spec.class_sizes or not dataset.steps or not (folder := folder_of(cache, spec.name)).is_dir():
        return spec
    from lskd.data.cache import read_spec

    try:
        return replace(spec, class_sizes=read_spec(folder).class_sizes)
    except InputError:  # who reads the images says so
        return spec


def imported(cache: Path) -> dict[str, Spec]:
    """The user's own data sets in the cache, by name. A damaged one is left out, with a warning in the log."""
    specs = {}
    for folder in sorted((cache / "data").glob("*/")):
        if is_name(folder.name) and folder.name not in DATASETS and folder.is_dir():
            from lskd.data.cache import read_spec  # imports NumPy, which nobody who has no such data waits for

            try:
                specs[folder.name] = read_spec(folder)
            except InputError as error:
                _log.warning("%s", error)
    return specs


def check(dataset: Dataset, spec: Spec) -> None:
    """Raise `InputError` if `dataset` asks for parts, or steps, that the data set described by `spec` cannot give."""
    check_text(dataset, spec)
    of_name, spec = spec, check_steps(dataset, spec if dataset.text is None else spec.seen(dataset.text))
    for part in ("holdout", "limit"):
        count = getattr(dataset, part)
        if 0 < count < spec.strata:
            raise InputError(f"{part} = {count}: must be 0, or >= {spec.strata}, the classes of {spec.name}")
    if dataset.holdout and spec.validation:
        raise InputError(f"holdout = {dataset.holdout}: must be 0: {spec.name} has a validation part of its own")
    if dataset.evaluate == "validation" and not dataset.holdout and not spec.validation:
        raise InputError("evaluate = 'validation': must be 'test' when holdout = 0 (or set holdout to 1 or more)")
    if dataset.holdout >= spec.train:
        raise InputError(
            f"holdout = {dataset.holdout}: must be < {spec.train}, the training {spec.noun} of {spec.name}"
        )
    if dataset.holdout + dataset.limit > spec.train:
        raise InputError(
            f"limit = {dataset.limit}: must be <= {spec.train - dataset.holdout}, "
            f"the training {spec.noun} of {spec.name} ({spec.train}) less holdout = {dataset.holdout}"
        )
    check_training_steps(dataset, of_name)
    if dataset.digest and is_shipped(of_name):
        raise InputError(f"digest = {dataset.digest!r}: must be empty for {spec.name}, which is built in")
    if dataset.digest and dataset.digest != spec.digest:
        raise InputError(f"digest = {dataset.digest!r}: must be {spec.digest!r}, that of the imported {spec.name}")


def check_text(dataset: Dataset, spec: Spec) -> None:
    """`InputError` unless what `dataset` says of text, and of steps, is for the data set described by `spec`."""
    text, usual = dataset.text, spec.text
    if spec.kind == "images":
        if text is not None:
            raise InputError(f"text: is for data sets of text: {spec.name} is of images")
        return
    what = f"{spec.name} is a translation" if spec.kind == "translation" else f"{spec.name} is of pairs of sentences"
    if dataset.steps:
        raise InputError(f"steps[0] = {dataset.steps[0].name}: is for images: {what}")
    if text is None or usual is None:
        raise InputError(f"text: is required: {what}")
    tests = [one.name for one in spec.tests]
    if text.test and text.test not in tests:
        raise unknown("text.test", text.test, tests)
    if spec.kind == "pairs":
        for name in ("source", "target", "vocab", "lowercase"):
            if getattr(text, name):
                raise InputError(f"text.{name} = {getattr(text, name)}: is for a translation: {what}")
        if not text.tokenizer:
            raise InputError(f"text.tokenizer: is required: the folder of the pretrained network's tokenizer: {what}")
        if 0 < text.longest < LEAST_PAIR:
            raise InputError(f"text.longest = {text.longest}: must be 0, or >= {LEAST_PAIR}: [CLS] a [SEP] b [SEP]")
        return
    if text.tokenizer:
        raise InputError(f"text.tokenizer = {text.tokenizer!r}: is for pairs of sentences: {what}, with text.vocab")
    languages = {usual.source, usual.target}
    for name in ("source", "target"):
        if getattr(text, name) not in languages:
            raise unknown(f"text.{name}", getattr(text, name), languages)
    if not LEAST < text.vocab <= MOST:
        raise InputError(f"text.vocab = {text.vocab}: must be > {LEAST} (each byte, and what is no text) and <= {MOST}")
    if text.longest == 1:
        raise InputError("text.longest = 1: must be 0, or >= 2: the end of a sentence counts")


# What YAML and Hydra take for no name.
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


def check_new_name(name: str) -> None:
    """Raise `InputError` if data cannot be imported, or not be used, under `name`."""
    if not is_name(name):
        raise InputError(f"name = {name!r}: must be made of a-z, 0-9 and _ only")
    if name in DATASETS:
        raise InputError(f"name = {name!r}: is a built-in data set, use another name (or `lskd-data prepare {name}`)")
    if (shipped_conf() / "dataset" / f"{name}.yaml").is_file():
        raise InputError(f"name = {name!r}: is a part of a built-in data set, use another name")
    if name in _NO_NAMES or re.fullmatch(_NUMBER, name):
        raise InputError(
            f"name = {name!r}: dataset={name} would be read as a number, true, false or null, not as a name"
        )


def is_name(name: str) -> bool:
    return re.fullmatch(r"[a-z0-9_]+", name) is not None


def how_to_get(name: str) -> str:
    """What to do for a registered data set that is not in the cache, in words."""
    return f"`lskd-data prepare {name}`" + (f": {origin}" if (origin := DATASETS[name].origin) else "")


def folder_of(cache: Path, name: str) -> Path:
    """Where a data set is in the cache."""
    return cache / "data" / name
