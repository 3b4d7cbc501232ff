"""Wrong labels on training images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lskd.data.dataset import check_seed
from lskd.data.registry import DATASETS
from lskd.data.step import Step, register
from lskd.errors import InputError, require, unknown

if TYPE_CHECKING:
    import numpy as np

    from lskd.data.dataset import Spec


@register("noise")
@dataclass(frozen=True)
class Noise(Step):
    """Training images are chosen at `rate`, and get another label. Hold-out, validation and test stay clean.

    symmetric: any label, uniformly. into=others: another than the true one, so that the share of wrong labels is
        `rate`; into=all: of all K, the true one among them, so that it is rate · (K-1)/K.
    asymmetric: the label of the class that theirs is taken for (`flips`; Patrini et al. 2017). Known are CIFAR-10's
        pairs (truck → automobile, bird → airplane, deer → horse, cat ↔ dog) and CIFAR-100's circles, within each
        superclass to the next class. Classes that are taken for no other keep their labels: of CIFAR-10 at rate 0.4,
        20 % of all labels are wrong. Where a `classes` step has left out the next class of a circle, it is the one
        after that.
    pairs: of each group of similar classes (CIFAR-100's superclasses) two are drawn, and exchange labels (Wang et al.
        2019, symmetric cross-entropy; ProSelfLC). The others keep theirs: of CIFAR-100, 0.4 · rate of all labels are
        wrong. `flips` says which classes instead, A: B for A → B and B → A.

    counts=exact: of each class, rate · n_k images are chosen, rounded. counts=total: ⌊rate · N⌋ of all N images,
    whatever their classes. counts=bernoulli: each image by itself, with probability `rate`. The images of a lower rate
    are among those of a higher one, and have the same labels there.
    """

    changes: ClassVar[Literal["classes", "images", "labels"]] = "labels"

    kind: Literal["symmetric", "asymmetric", "pairs"] = "symmetric"
    rate: float = 0.0
    into: Literal["others", "all"] = "others"
    flips: dict[str, str] = field(default_factory=dict)
    counts: Literal["exact", "total", "bernoulli"] = "exact"
    seed: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.rate <= 1, "rate", self.rate, "in (0, 1], the share of the images that are chosen")
        check_seed(self)
        if self.kind == "symmetric" and self.flips:
            raise InputError(f"flips = {self.flips}: is for kind=asymmetric and kind=pairs, not symmetric")
        if self.kind != "symmetric" and self.into != "others":
            raise InputError(f"into = {self.into}: is for kind=symmetric, not {self.kind}")
        paired = [*self.flips, *self.flips.values()]
        if self.kind == "pairs" and len(set(paired)) < len(paired):
            raise InputError(f"flips = {self.flips}: must have each class in one pair, with kind=pairs")

    def check(self, spec: Spec) -> None:
        require(self.rate > 0, "rate", self.rate, "in (0, 1], the share of the images that are chosen")
        if self.kind == "symmetric":
            return
        for one, other in self.flips.items():
            for given in (one, other):
                if given not in spec.class_names:
                    raise unknown("flips", given, spec.class_names)
            if one == other:
                raise InputError(f"flips = {{{one}: {other}}}: must be another class")
        if self.taken_for(spec) == list(range(spec.num_classes)):
            raise InputError(
                f"kind = {self.kind}: which classes of {spec.name} are taken for one another is not known; give "
                "flips: {CLASS: CLASS, …}"
            )

    def taken_for(self, spec: Spec) -> list[int]:
        """(asymmetric, pairs) The class that each is taken for: itself, where there is none."""
        numbers = {name: number for number, name in enumerate(spec.class_names)}
        known = self._pairs(spec) if self.kind == "pairs" else self.flips or _origin(spec, "flips")
        targets = []
        for name, number in numbers.items():
            other = known.get(name)
            while other is not None and other not in numbers:  # a circle ends where it began
                other = known.get(other)
            targets.append(number if other is None else numbers[other])
        return targets

    def _pairs(self, spec: Spec) -> dict[str, str]:
        """(pairs) The class with which each exchanges labels. Of a group, two of those that the data set has."""
        from lskd.data.splits import stream

        pairs = list(self.flips.items())
        if not pairs:
            rng = stream(self.seed, "noise pairs")
            for group in _origin(spec, "groups").values():
                order = [group[place] for place in rng.permutation(len(group))]  # of all, whatever classes are left
                pairs += [tuple([name for name in order if name in spec.class_names][:2])]
            pairs = [pair for pair in pairs if len(pair) == 2]
        return dict(pairs) | {other: one for one, other in pairs}

    def apply(self, images: Any, labels: np.ndarray, spec: Spec) -> tuple[Any, np.ndarray]:
        import numpy as np

        from lskd.data.splits import stream

        rng, classes = stream(self.seed, "noise"), spec.num_classes
        # Drawn for all, whatever the rate.
        if self.kind != "symmetric":
            others = np.array(self.taken_for(spec), dtype=np.int64)[labels]
        elif self.into == "others":
            others = (labels + rng.randint(1, classes, len(labels), dtype=np.int64)) % classes
        else:
            others = rng.randint(0, classes, len(labels), dtype=np.int64)
        if self.counts == "bernoulli":
            chosen = rng.random_sample(len(labels)) < self.rate
        elif self.counts == "total":
            chosen = np.zeros(len(labels), dtype=bool)
            chosen[rng.permutation(len(labels))[: int(self.rate * len(labels))]] = True
        else:
            chosen = np.zeros(len(labels), dtype=bool)
            for label in range(classes):
                rows = rng.permutation(np.flatnonzero(labels == label))
                chosen[rows[: round(self.rate * len(rows))]] = True
        return images, np.where(chosen, others, labels)

    def __str__(self) -> str:
        kind = "noise between pairs" if self.kind == "pairs" else f"{self.kind} noise"
        return f"{100 * self.rate:g} % {kind}"


def _origin(spec: Spec, what: Literal["flips", "groups"]) -> Mapping[str, Any]:
    """What is known of the similarity of the classes of a data set; nothing of data that lskd does not know."""
    return getattr(DATASETS[spec.name], what) if spec.name in DATASETS else {}
