"""What a method is: knobs of a paper as fields, the paper's loss as `loss`, and a declaration of what it needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lskd.errors import require
from lskd.quantity import Quantity
from lskd.registry import Registry

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn


Shape = tuple[int, ...]  # of one example's feature: (C, H, W) of a map, (D,) of a vector


@dataclass
class Mixture:
    """What the images of a batch are mixed with (`recipe.augment.mix`)."""

    share: Tensor  # (1,) λ, the share of the image itself
    labels: Tensor  # (B,) int64 of the other images, whose share is 1-λ


@dataclass
class Peer:
    """What another network of the same run makes of a batch, without gradient."""

    logits: Tensor  # (B, K)
    targets: Tensor  # (B, K) what it is taught, by its own run's settings


@dataclass
class Batch:
    """All that a loss may look at, for B examples of K classes. Floats are fp32 whatever the precision of the run.

    Everything is a tensor on the device, and a loss must not wait for one (.item(), if tensor > 0): a step is recorded
    once and replayed.
    """

    logits: Tensor  # (B, K) of the network being trained; (B, 0) in a stage that does not train it
    labels: Tensor  # (B,) int64; of mixed images, those of one of the two: see `by_label`
    targets: Tensor  # (B, K) what the run's `target` says, which may have a gradient; of mixed images, for both
    teacher_logits: Tensor | None = None  # (B, K), no gradient; set where `teacher_use` is not "none"
    progress: Tensor | None = None  # () share of the training done, in [0, 1)
    indices: Tensor | None = None  # (B,) int64: which images of the training part these are
    features: Mapping[str, Tensor] = field(default_factory=dict)  # what `taps` names, in its order
    teacher_features: Mapping[str, Tensor] = field(default_factory=dict)  # what `teacher_taps` names; no gradient
    module: Any = None  # what `build` made
    generator: Generator | None = None  # the run's own, on the device: whatever is random in a loss draws from it
    mixture: Mixture | None = None  # where images are mixed
    taught: Mapping[str, Tensor] = field(default_factory=dict)  # what is logged of the targets, by name, each (B,)
    peers: Sequence[Peer] = ()  # the other networks of the run, in their order

    def by_label(self, of: Callable[[Tensor], Tensor]) -> Tensor:
        """`of(labels)`, one value an example; of mixed images λ·of(own labels) + (1-λ)·of(the others' labels), which is
        what a quantity that is linear in the hard target has with the mixture of both."""
        own = of(self.labels)
        if self.mixture is None:
            return own
        share = self.mixture.share
        return share * own + (1.0 - share) * of(self.mixture.labels)

    @property
    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """(student's, teacher's) features, the first of the one with the first of the other, and so on."""
        return list(zip(self.features.values(), self.teacher_features.values(), strict=True))


@dataclass(frozen=True)
class Pair:
    """What a method's modules are made for. Shapes are without the batch, by tap, in the order of the taps."""

    student: Mapping[str, Shape]
    teacher: Mapping[str, Shape]
    labels: Tensor  # (N,) int64 of all training images, on the CPU
    classes: int
    teacher_network: nn.Module | None = None

    @property
    def shapes(self) -> list[tuple[Shape, Shape]]:
        """(student's, teacher's), as in `Batch.pairs`; `InputError` if they are not equally many."""
        require(len(self.student) == len(self.teacher), "taps", list(self.student), f"as many as {list(self.teacher)}")
        return list(zip(self.student.values(), self.teacher.values(), strict=True))


@dataclass(frozen=True)
class Lesson:
    """What the teacher says before the training begins: to all N training images, each through the view that the first
    epoch has for it, not mixed."""

    logits: Sequence[Tensor]  # fp32 (n, K) in pieces, which together have the N images in order
    labels: Tensor  # (N,) int64
    targets: Tensor  # (K, K) what an image of each class is taught by its label, before any network is asked


@dataclass(frozen=True)
class Stage:
    """A stage before the training proper: the run's data and optimizer, at a constant learning rate, with its own loss.

    It has a log of its own, its steps are none of the recipe's, and the optimizer starts afresh after it. The teacher
    runs in every step, in eval mode like all that is not trained.
    """

    teacher_use: ClassVar[Literal["features"]] = "features"  # as `Method.teacher_use`

    name: str
    epochs: int
    loss: Callable[[Batch], Mapping[str, Tensor]]  # as `Method.loss`
    taps: Callable[[Sequence[str]], Sequence[str]]  # as `Method.taps`, of both networks
    student: Callable[[Sequence[str]], Sequence[str]] | None = None  # the taps whose modules are trained; None: the
    # student is not trained, and not even run
    modules: tuple[str, ...] = ()  # which children of what `build` made are trained
    lr: float | None = None  # None: the recipe's

    @property
    def teacher_taps(self) -> Callable[[Sequence[str]], Sequence[str]]:
        return self.taps


@dataclass(frozen=True)
class Method:
    """A training method. Subclasses are frozen dataclasses whose fields, with defaults, are the paper's knobs.

    Only `loss` is required. What else a method needs it declares, by the other methods: to define one of them is the
    declaration.
    """

    # Of the code: who changes what a run computes raises it by 1 in the class where the change is, and runs of the code
    # before count as others. It is part of the identity where it is not 1 (`lskd.plugins.version_of`).
    version: ClassVar[int] = 1
    needs_teacher: ClassVar[bool] = False
    # Whether the networks of a run learn from one another: then it has peers, and `loss` is asked once for each network
    # in every step, with what the others make of the same images as `batch.peers`.
    needs_peers: ClassVar[bool] = False
    # Whether an example's loss depends on which others are in its batch (or were before it), so that a batch must not
    # go through the network in parts. (Statistics of batch norm are the recipe's matter: see `Recipe.accumulate`.)
    whole_batch: ClassVar[bool] = False
    # Settings with which it can be trained on a few tiny images: the tests train every method at this size.
    small: ClassVar[Mapping[str, Any]] = {}
    # The quantities that `watch` may give, by the name that a table's metric has.
    watches: ClassVar[Mapping[str, Quantity]] = {}
    # The settings that `settle` may find; the metric of a table is solved_NAME.
    solves: ClassVar[Mapping[str, Quantity]] = {}

    @property
    def one_label(self) -> bool:
        """Whether `loss` reads `labels` (other than by `Batch.by_label`) or `indices`, of which an image that is mixed
        of two has not one: then `recipe.augment.mix` is refused."""
        return False

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        """The terms of the loss by name, each (B,) and already weighted. The loop minimises the mean of their sum."""
        raise TypeError(f"{type(self).__name__} does not define loss(batch)")

    def watch(self, batch: Batch) -> Mapping[str, Tensor]:
        """Quantities to log beside the loss, by name, each (B,): averaged over each epoch, without gradient."""
        return {}

    @property
    def watched(self) -> Collection[str]:
        """Which of `watches` it gives with these settings."""
        return self.watches

    @property
    def to_solve(self) -> Collection[str]:
        """Which of `solves` are to be found, with these settings, before the training begins."""
        return ()

    def settle(self, lesson: Lesson) -> Method:
        """This method with the settings `to_solve` as they follow from its teacher, and nothing left to solve: asked
        before the first step, so that the loss is of numbers. What is found is recorded ("solved" in result.json).
        `InputError` where there is no solution."""
        raise TypeError(f"{type(self).__name__} does not define settle(lesson)")

    @property
    def needs_rows(self) -> bool:
        """Whether `settle` reads `Lesson.targets`: then a target that a network has a part in is refused."""
        return False

    @property
    def tells(self) -> bool:
        """Whether the student sees a distribution of its teacher (`teacher_probs`) with these settings."""
        return self._defines("teacher_probs")

    def teacher_probs(self, teacher_logits: Tensor) -> Tensor | None:
        """The teacher's distribution (B, K) that the student sees, for Müller's γ; None where there is none."""
        return None

    # ---- features, and modules of the method's own ----------------------------------------------------------------

    def taps(self, names: Sequence[str]) -> Sequence[str]:
        """Which features of the student `loss` reads, where the network has taps of these `names`.

        Names and places are those of `lskd.models.taps`. In the terms of the CRD benchmark, whose list of features f is
        the maps from the stem's on and the pooled vector: f[:-1] is `maps(names)`, f[1:-1] `maps(names)[1:]`, f[-2]
        `maps(names)[-1:]`, f[2] ["f2"], and f[-1] ["pool"].
        """
        return ()

    def teacher_taps(self, names: Sequence[str]) -> Sequence[str]:
        """The same of the teacher."""
        return self.taps(names)

    def build(self, pair: Pair) -> nn.Module | None:
        """The method's own modules, which `loss` finds as `batch.module`; None for none.

        Weights are drawn from torch's global CPU generator, which the loop seeds. Parameters are trained together with
        the network, those that the loss does not reach aside; what else changes in a step is a buffer, written in
        place. `InputError` for networks that the method cannot serve.
        """
        return None

    def initial(self) -> Stage | None:
        """What comes before the training proper, if anything does."""
        return None

    @property
    def reads_features(self) -> bool:
        """Whether the method has to do with more than logits, so that not every pair of networks suits it."""
        return self.teacher_use == "features" or self.initial() is not None or self._defines("build")

    @property
    def teacher_use(self) -> Literal["none", "logits", "features"]:
        """What `loss` reads of the teacher. A teacher's logits alone are looked up, its features are computed in every
        step, with the logits."""
        if not self.needs_teacher:
            return "none"
        return "features" if self._defines("taps") or self._defines("teacher_taps") else "logits"

    def _defines(self, name: str) -> bool:
        return getattr(type(self), name) is not getattr(Method, name)


METHODS: Registry[Method] = Registry("method", Method)
register = METHODS.register


def maps(names: Sequence[str]) -> list[str]:
    """The feature maps f0 (the stem's), f1, f2, ... among a network's taps; `InputError` if there is none."""
    found = [name for name in names if re.fullmatch(r"f\d+", name)]
    require(bool(found), "taps", list(names), "those of a network with feature maps f0, f1, ...")
    return found
