"""Which images of a data set a run has, and under which labels: told beforehand (`described`), and done (`select`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from lskd.data.dataset import Dataset, Spec
from lskd.data.splits import class_balanced, count, shares
from lskd.data.step import Step
from lskd.errors import InputError

if TYPE_CHECKING:
    import numpy as np


@functools.lru_cache(maxsize=512)
def described(dataset: Dataset, spec: Spec) -> Spec:
    """The data set `spec` as the runs on `dataset` have it: with the classes that are left, and with the images that
    are trained on, held out (as "validation") and tested on.

    Class sizes that nobody knows are taken for equal (`Spec.sizes`): how many images a step leaves is an estimate then,
    until the data set has been prepared. Label noise changes no numbers: images count under their true classes.

    Of text it is told which vocabulary there is, and which sentences are the test part; that some training pairs are
    too long (`Text.longest`) is not known before they are tokens.
    """
    if dataset.text is not None:
        spec = spec.seen(dataset.text)
    for step in of_classes(dataset):
        spec = step.describe(spec)
    if dataset.holdout:
        sizes = spec.sizes()
        out = shares(sizes, dataset.holdout)
        spec = spec.having(train=[n - m for n, m in zip(sizes, out, strict=True)], validation=out)
    if dataset.limit:
        spec = spec.having(train=shares(spec.sizes(), dataset.limit))
    for step in of_training(dataset):
        spec = step.describe(spec)
    return spec


def check_steps(dataset: Dataset, spec: Spec) -> Spec:
    """`InputError` unless the steps that change classes can be done to `spec`: what it is after them."""
    return _checked(dataset, of_classes(dataset), spec)


def check_training_steps(dataset: Dataset, spec: Spec) -> None:
    """`InputError` unless the others can be done to what is left of it by then."""
    if steps := of_training(dataset):
        _checked(dataset, steps, described(replace(dataset, steps=of_classes(dataset)), spec))


def _checked(dataset: Dataset, steps: tuple[Step, ...], spec: Spec) -> Spec:
    for step in steps:
        try:
            step.check(spec)
        except InputError as error:
            raise InputError(f"steps[{dataset.steps.index(step)}].{step.name}.{error}") from None
        spec = step.describe(spec)
    return spec


def of_classes(dataset: Dataset) -> tuple[Step, ...]:
    """The steps that come first, and change all parts."""
    return tuple(step for step in dataset.steps if step.changes == "classes")


def of_training(dataset: Dataset) -> tuple[Step, ...]:
    """The steps that come last, and change the training part."""
    return tuple(step for step in dataset.steps if step.changes != "classes")


class Selected(NamedTuple):
    """The images of a part (of text, its `Corpus`) and their labels (N,), with those that they had before a step
    changed them."""

    images: Any
    labels: np.ndarray
    true: np.ndarray | None = None


def select(
    dataset: Dataset, spec: Spec, parts: Mapping[str, tuple[Any, np.ndarray]], check: Callable[[Spec], None]
) -> dict[str, Selected]:
    """The images and labels of each part that the runs on `dataset` have, of all `parts` of the data set `spec`.
    `check` is asked whether that can be, with the true sizes of the classes."""
    spec = counted(spec if dataset.text is None else spec.seen(dataset.text), parts)
    check(spec)
    found = dict(parts)
    for step in of_classes(dataset):
        found = {part: step.apply(*content, spec) for part, content in found.items()}
        spec = step.describe(spec)
    images, labels = found.pop("train")
    if dataset.holdout:
        chosen, rest = class_balanced(labels, dataset.holdout, dataset.holdout_seed)
        found["validation"] = images[chosen], labels[chosen]
        images, labels = images[rest], labels[rest]
    if dataset.limit:
        chosen, _ = class_balanced(labels, dataset.limit, dataset.holdout_seed)
        images, labels = images[chosen], labels[chosen]
    spec = counted(spec, {**found, "train": (images, labels)})
    true = None
    for step in of_training(dataset):
        if step.changes == "labels" and true is None:
            true = labels
        images, labels = step.apply(images, labels, spec)
        spec = step.describe(spec)
    return {**{part: Selected(*content) for part, content in found.items()}, "train": Selected(images, labels, true)}


def counted(spec: Spec, parts: Mapping[str, tuple[Any, np.ndarray]]) -> Spec:
    """`spec` with the numbers of images of each class that there are."""
    return spec.having(**{part: count(labels, spec.strata) for part, (_, labels) in parts.items()})
