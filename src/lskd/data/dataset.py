"""What a data set is, and which of its images a run uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lskd.data.step import ORDER, Step
from lskd.data.text.settings import Text
from lskd.errors import InputError, unknown

if TYPE_CHECKING:
    import torch

MAX_SEED = 2**32 - 1  # the largest that NumPy's RandomState takes
PARTS = ("train", "test", "validation")
Kind = Literal["images", "translation", "pairs"]
USUAL_RECIPES: dict[Kind, str] = {"translation": "multi30k_small", "pairs": "wsl_mnli"}
NOUNS: dict[Kind, str] = {"images": "images", "translation": "sentence pairs", "pairs": "sentence pairs"}


@dataclass(frozen=True)
class Dataset:
    """Which examples a run trains on and is measured on: a part of the run's identity. They are images or, of a data
    set of text, sentences with their translations or pairs of sentences.

    name: a key of `DATASETS`, or of a data set that was imported.
    holdout: training examples held out, class-balanced where they have classes, as the part "validation"; 0 = none, or
        the data's own.
    holdout_seed: seed of the draws for `holdout` and `limit`.
    limit: use only this many training examples, drawn likewise after the hold-out; 0 = all.
    evaluate: the part whose metrics are reported.
    digest: content of a user's own data, imported or of a plug-in, whose name does not say which data it is; empty for
        built-in data sets.
    steps: what else is done to it (`lskd.data.step`), in order: classes chosen, before `holdout` and `limit`, in all
        parts; then, of the training images that are left, a long tail and label noise. Of images alone.
    text: how sentences become tokens; None for images.
    """

    name: str
    holdout: int = 0
    holdout_seed: int = 0
    limit: int = 0
    evaluate: Literal["test", "validation"] = "test"
    digest: str = ""
    steps: tuple[Step, ...] = ()
    text: Text | None = None

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
        return hash((self.name, self.holdout, self.holdout_seed, self.limit, str(self), self.text))

    def __str__(self) -> str:
        """Its name, and what was done to it, in words."""
        return self.name + (f" ({', '.join(map(str, self.steps))})" if self.steps else "")


@dataclass(frozen=True)
class EvaluationSet:
    """A set of examples that may take the place of the part "test" (`Text.test`)."""

    name: str
    size: int


@dataclass(frozen=True)
class Spec:
    """What a data set is, known without opening its files.

    shape is (channels, height, width), with height = width = 0 where images have various sizes and are streamed:
    decoded while the network trains, from files that stay where they are. train, test and validation (0 unless the data
    has such a part of its own) are numbers of examples; digest is that of `lskd.data.arrays` or, streamed, of
    `lskd.data.index`, or of `lskd.data.text.texts`; empty where nothing is known to compare with. class_sizes are the
    numbers of examples of each class, part by part in the order of `parts`; empty where they are not known, or all
    equal.

    kind: what an example is: an image; a sentence and its translation; a pair of sentences, of a class. Text has no
    shape: (). text are its usual settings, and tests the sets of sentences that can be had as "test" instead. The
    classes of a translation are the tokens of its vocabulary: num_classes is their number, and its examples have none.

    A run has a data set as `lskd.data.selection.described` says: with fewer classes and images, perhaps.
    """

    name: str
    title: str
    num_classes: int
    shape: tuple[int, ...]
    train: int
    test: int
    class_names: tuple[str, ...]
    digest: str
    validation: int = 0
    class_sizes: tuple[tuple[int, ...], ...] = ()
    kind: Kind = "images"
    text: Text | None = None
    tests: tuple[EvaluationSet, ...] = ()

    @property
    def noun(self) -> str:
        """What its examples are called, in the plural."""
        return NOUNS[self.kind]

    @property
    def strata(self) -> int:
        """The classes that its examples have, of which each gives its share to a hold-out; 1: none."""
        return 1 if self.kind == "translation" else self.num_classes

    @property
    def parts(self) -> tuple[str, ...]:
        return PARTS if self.validation else PARTS[:2]

    def sizes(self, part: str = "train") -> tuple[int, ...]:
        """The examples of each class of a part; where nobody knows, as if all had as many."""
        if self.class_sizes:
            return self.class_sizes[self.parts.index(part)]
        share, rest = divmod(getattr(self, part), self.strata)
        return tuple(share + (number < rest) for number in range(self.strata))

    def having(self, **sizes: Sequence[int]) -> Spec:
        """The same data set with other examples: so many of each class, by part."""
        found = {part: self.sizes(part) for part in self.parts} | {part: tuple(of) for part, of in sizes.items()}
        counts: dict[str, Any] = {part: sum(of) for part, of in found.items()}
        return replace(self, **counts, class_sizes=tuple(found[part] for part in PARTS if counts.get(part)))

    def seen(self, text: Text) -> Spec:
        """A data set of text as a run with these settings has it."""
        sizes = {one.name: one.size for one in self.tests}
        vocab = text.vocab if self.kind == "translation" else self.num_classes
        test, known = sizes.get(text.test, self.test), () if text.test else self.class_sizes
        return replace(self, num_classes=vocab, test=test, text=text, class_sizes=known)

    @property
    def streamed(self) -> bool:
        return self.kind == "images" and self.shape[1] == 0

    @property
    def usual_recipe(self) -> str:
        """The recipe of runs that name none, where none is known that suits the data better."""
        if self.kind != "images":
            return USUAL_RECIPES[self.kind]
        return "standard_streamed" if self.streamed else "standard"


class Part(NamedTuple):
    """Images and labels of one part of a data set: a tensor (N, C, H, W) uint8 or, of a streamed data set, N `Files`
    (on a device, as a recipe sees them: an `lskd.data.images.ImageSource`). Of text, in the place of images, a
    `lskd.data.text.Corpus`; of a translation without labels (0,)."""

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
    """What the examples are, and how many each part has, in words."""
    shape = "images of various sizes, streamed" if spec.streamed else "x".join(map(str, spec.shape))
    own = f"{spec.validation} validation, " if spec.validation else ""
    if spec.kind == "images":
        return f"{shape}, {spec.train} train, {own}{spec.test} test"
    own = f"{spec.validation:,} validation, " if spec.validation else ""
    more = ", ".join(f"{one.size:,} of {one.name}" for one in spec.tests)
    more = f" (or as test {more})" if more else ""
    if spec.text is not None and spec.text.test:
        more = f" (test: {spec.text.test})"
    return f"{spec.train:,} train, {own}{spec.test:,} test {spec.noun}{more}"


def summary(spec: Spec) -> str:
    """The data set in a line: cifar10: 10 classes, 3x32x32, 50000 train, 10000 test."""
    if spec.kind == "translation" and spec.text is not None:
        what = f"{spec.text.source}→{spec.text.target}, vocabulary of {spec.text.vocab:,}"
    else:
        what = f"{spec.num_classes} classes"
    return f"{spec.name}: {what}, {sizes(spec)}"
