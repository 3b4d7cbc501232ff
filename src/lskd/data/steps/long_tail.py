"""Training images of which some classes have many and others few."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lskd.data.dataset import check_seed
from lskd.data.step import Step, register
from lskd.errors import InputError, require
from lskd.program import user_path
from lskd.schema import show

if TYPE_CHECKING:
    import numpy as np

    from lskd.data.dataset import Spec

SETTINGS = {"exponential": ("imbalance", "seed"), "pareto": ("power", "least", "seed"), "file": ("path", "digest")}


@register("long_tail")
@dataclass(frozen=True)
class LongTail(Step):
    """Of class k = 0 … K-1, in the order of the classes, n_k of the training images stay (all, where it has fewer):

    exponential: n_k = ⌊n · imbalance^(-k / (K-1))⌋, n being the images of the largest class (Cui et al. 2019): the
        first class keeps all, the last one 1/imbalance of it.
    pareto: n_k = max(⌊n · q_k / q_0⌋, least), with q_k = ((k+1) / (K+1))^(-1/power) - 1, the quantiles of a Pareto
        (Lomax) distribution. Liu et al. 2019 drew ImageNet-LT from one of power 6: 1000 classes of 1280 to 5 images,
        115,846 in all; here it would be 117,137.
    file: the images that the file `path` names, one a line, each by its path below the data set's folder of training
        images, or from further up; a label may stand behind it, after a blank (published splits). `digest` is the
        file's SHA-256. For streamed data sets, whose images have names.

    Which images of a class stay is drawn with `seed`; those of a smaller n_k are among those of a larger one.
    """

    kind: Literal["exponential", "pareto", "file"] = "exponential"
    imbalance: float = 0.0
    power: float = 6.0
    least: int = 5
    seed: int = 0
    path: str = field(default="", metadata={"identity": False})
    digest: str = ""

    def __post_init__(self) -> None:
        if not (self.imbalance >= 1 or self.imbalance == 0):  # 0: none was given, which `check` says
            require(False, "imbalance", self.imbalance, ">= 1: images of the first class for one of the last")
        require(self.power > 0, "power", self.power, "> 0")
        require(self.least >= 1, "least", self.least, ">= 1")
        check_seed(self)
        for kind, names in SETTINGS.items():
            for name in names:
                if name not in SETTINGS[self.kind] and getattr(self, name) != getattr(type(self), name):
                    raise InputError(f"{name} = {show(getattr(self, name))}: is for kind={kind}, not {self.kind}")

    def check(self, spec: Spec) -> None:
        if self.kind == "exponential" and not self.imbalance:
            raise InputError("imbalance: is required, such as 100: images of the first class for one of the last")
        if self.kind == "file":
            if not spec.streamed:
                raise InputError(f"kind = file: is for streamed data sets; images of {spec.name} have no names")
            if not self.path:
                raise InputError("path: is required with kind=file: the list of images")
            found = hashlib.sha256(_content(self.path)).hexdigest()
            if self.digest != found:
                raise InputError(f"digest = {self.digest!r}: must be {found!r}, that of {self.path}")
        elif (smallest := min(self.aims(spec))) < 1:
            raise InputError(
                f"imbalance = {self.imbalance:g}: must be <= {max(spec.sizes())}, the images of the largest class: "
                f"{smallest} would be left of the last one"
            )

    def aims(self, spec: Spec) -> list[int]:
        """n_k of each class."""
        most, classes = max(spec.sizes()), spec.num_classes
        if self.kind == "exponential":
            return exponential(most, classes, self.imbalance)
        return pareto(most, classes, self.power, self.least)

    def describe(self, spec: Spec) -> Spec:
        if self.kind != "file":
            return spec.having(train=[min(pair) for pair in zip(self.aims(spec), spec.sizes(), strict=True)])
        if not self.path:  # a run from its record, which does not say where the file is
            return spec
        count = len(listed(self.path))  # of what classes they are shows when the images are there
        return spec.having(train=[(count + k) // spec.num_classes for k in reversed(range(spec.num_classes))])

    def apply(self, images: Any, labels: np.ndarray, spec: Spec) -> tuple[Any, np.ndarray]:
        import numpy as np

        from lskd.data.splits import stream

        if self.kind == "file":
            rows = rows_of(listed(self.path), images.names, self.path)
        else:
            rng, kept = stream(self.seed, "long_tail"), np.zeros(len(labels), dtype=bool)
            for label, aim in enumerate(self.aims(spec)):
                kept[rng.permutation(np.flatnonzero(labels == label))[:aim]] = True
            rows = np.flatnonzero(kept)
        return images[rows], labels[rows]

    def __str__(self) -> str:
        shape = {"exponential": f"of imbalance {self.imbalance:g}", "pareto": f"of power {self.power:g}"}
        return f"long tail {shape.get(self.kind, f'of list {self.digest[:6]}')}"


@functools.lru_cache(maxsize=64)
def exponential(most: int, classes: int, imbalance: float) -> list[int]:
    """⌊most · imbalance^(-k / (classes - 1))⌋ for each k. A power of floats may fall short of a whole number, and
    differs between machines: integers decide, n^(classes - 1) · imbalance^k <= most^(classes - 1)."""
    if classes == 1:
        return [most]
    found, exact, limit = [], Fraction(imbalance), most ** (classes - 1)
    for k in range(classes):
        bound = limit / exact**k
        n = int(most * imbalance ** (-k / (classes - 1)))
        while n ** (classes - 1) > bound:
            n -= 1
        while (n + 1) ** (classes - 1) <= bound:
            n += 1
        found.append(n)
    return found


def pareto(most: int, classes: int, power: float, least: int) -> list[int]:
    """max(⌊most · q_k / q_0⌋, least) for each k: see `LongTail`."""
    quantiles = [((k + 1) / (classes + 1)) ** (-1 / power) - 1 for k in range(classes)]
    return [max(int(most * (quantile / quantiles[0])), least) for quantile in quantiles]


def _content(path: str) -> bytes:
    try:
        return user_path(path).read_bytes()
    except OSError as error:
        raise InputError(f"path = {path!r}: cannot be read: {error.strerror}") from None


def listed(path: str) -> list[str]:
    """The images that a file names, without labels."""
    lines = [line.strip() for line in _content(path).decode("utf-8", "surrogateescape").splitlines()]
    return [_without_label(line) for line in lines if line]


def _without_label(line: str) -> str:
    name, _, last = line.rpartition(" ")
    return name.rstrip() if name and last.isdigit() else line


def rows_of(wanted: Sequence[str], names: np.ndarray, path: str) -> np.ndarray:
    """The places (n,) of the images `wanted` among the `names` (N,) of the training images, sorted."""
    import numpy as np

    places = {name: place for place, name in enumerate(names)}
    found: dict[int, str] = {}
    for name in wanted:
        parts = Path(name).parts
        below = ("/".join(parts[begin:]) for begin in range(len(parts)))
        place = next((places[one] for one in below if one in places), None)
        if place is None:
            raise InputError(f"dataset.steps: {path}: names {name}, which is none of the training images")
        if place in found:
            raise InputError(f"dataset.steps: {path}: names {name} twice")
        found[place] = name
    return np.array(sorted(found), dtype=np.int64)
