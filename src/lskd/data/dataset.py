"""What a data set is, and which of its images a run uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lskd.data.step import ORDER, Step
from lskd.errors import InputError, unknown

if TYPE_CHECKING:
    import torch

MAX_SEED = 2**32 - 1  # the largest that NumPy's RandomState takes
PARTS = ("train", "test", "validation")


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
    steps: what else is done to it (`lskd.data.step`), in order: classes chosen, before `holdout` and `limit`, in all
        parts; then, of the training images that are left, a long tail and label noise.
    """

    name: str
    holdout: int = 0
    holdout_seed: int = 0
    limit: int = 0
    evaluate: Literal["test", "validation"] = "test"
    digest: str = ""
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        for field in ("holdout", "limit"):
            if getattr(self, field) < 0:
                raise InputError(f"{field} = {getattr(self, field)}: must be >= 0")
        if not 0 <= self.holdout_seed <= MAX_SEED:
            raise InputError(f"holdout_seed = {self.holdout_seed}: must be >= 0 and <= {MAX_SEED}")
        if self.evaluate not in ("test", "validation"):
            raise unknown("evaluate", self.evaluate, ("test", "validation"))
        names = [step.name for step in self.steps]
        for i, step in enumerate(self.steps):
            if step.name in names[:i]:
                raise InputError(f"steps[{i}] = {step.name}: must stand there once")
            for before in self.steps[:i]:
                if ORDER.index(before.changes) > ORDER.index(step.changes):
                    rule = "first what changes classes, then what images there are, then labels"
                    raise InputError(f"steps[{i}] = {step.name}: must stand before {before.name}: {rule}")

    @property
    def relabelled(self) -> bool:
        """Whether images are trained on under other labels than their own."""
        return any(step.changes == "labels" for step in self.steps)

    def __hash__(self) -> int:  # of what can be hashed: a step may have mappings
        return hash((self.name, self.holdout, self.holdout_seed, self.limit, str(self)))

    def __str__(self) -> str:
        """Its name, and what was done to it, in words."""
        return self.name + (f" ({', '.join(map(str, self.steps))})" if self.steps else "")


@dataclass(frozen=True)
class Spec:
    """What a data set is, known without opening its images.

    shape is (channels, height, width), with height = width = 0 where images have various sizes and are streamed:
    decoded while the network trains, from files that stay where they are. train, test and validation (0 unless the data
    has such a part of its own) are numbers of images; digest is that of `lskd.data.arrays` or, streamed, of
    `lskd.data.index`; empty where nothing is known to compare with. class_sizes are the numbers of images of each
    class, part by part in the order of `parts`; empty where they are not known, or all equal. kind: what an example is:
    an image; a sentence and its translation (num_classes is then the size of the vocabulary); a pair of sentences, of a
    class. Text has the shape ().

    A run has a data set as `lskd.data.selection.described` says: with fewer classes and images, perhaps.
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
    class_sizes: tuple[tuple[int, ...], ...] = ()
    kind: Literal["images", "translation", "pairs"] = "images"

    @property
    def parts(self) -> tuple[str, ...]:
        return PARTS if self.validation else PARTS[:2]

    def sizes(self, part: str = "train") -> tuple[int, ...]:
        """The images of each class of a part; where nobody knows, as if all had as many."""
        if self.class_sizes:
            return self.class_sizes[self.parts.index(part)]
        share, rest = divmod(getattr(self, part), self.num_classes)
        return tuple(share + (number < rest) for number in range(self.num_classes))

    def having(self, **sizes: Sequence[int]) -> Spec:
        """The same data set with other images: so many of each class, by part."""
        found = {part: self.sizes(part) for part in self.parts} | {part: tuple(of) for part, of in sizes.items()}
        counts: dict[str, Any] = {part: sum(of) for part, of in found.items()}
        return replace(self, **counts, class_sizes=tuple(found[part] for part in PARTS if counts.get(part)))

    @property
    def streamed(self) -> bool:
        return self.kind == "images" and self.shape[1] == 0

    @property
    def usual_recipe(self) -> str:
        """The recipe of runs that name none, where none is known that suits the data better."""
        return "standard_streamed" if self.streamed else "standard"


class Part(NamedTuple):
    """Images and labels of one part of a data set: a tensor (N, C, H, W) uint8 or, of a streamed data set, N `Files`
    (on a device, as a recipe sees them: an `lskd.data.images.ImageSource`)."""

    images: Any
    labels: torch.Tensor  # (N,) int64
    true: torch.Tensor | None = None  # (N,) int64: the labels before a step changed them; None: none did


def check_seed(drawn: Any, *, needed: bool = True, by: str = "") -> None:
    """`InputError` unless `drawn.seed` is one; without being `needed` it must be left out: only what is drawn `by`
    another field has one."""
    if not 0 <= drawn.seed <= MAX_SEED:
        raise InputError(f"seed = {drawn.seed}: must be >= 0 and <= {MAX_SEED}")
    if drawn.seed and not needed:
        raise InputError(f"seed = {drawn.seed}: is for {by}")


def balance(names: Sequence[str], sizes: Sequence[int]) -> str:
    """The classes, and the training images of each, in words: 505 training images of 2 classes: cat 500, dog 5"""
    each = ", ".join(f"{name} {size}" for name, size in zip(names, sizes, strict=True))
    return f"{sum(sizes):,} training images of {len(names)} classes: {each}"


def sizes(spec: Spec) -> str:
    """The size of the images, and how many each part has, in words."""
    shape = "images of various sizes, streamed" if spec.streamed else "x".join(map(str, spec.shape))
    own = f"{spec.validation} validation, " if spec.validation else ""
    return f"{shape}, {spec.train} train, {own}{spec.test} test"
