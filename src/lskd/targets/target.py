"""What a target is: knobs of a paper as fields, and what a network is taught of each class, or of each image."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lskd.quantity import Quantity
from lskd.registry import Registry

if TYPE_CHECKING:
    from torch import Generator, Tensor

# What a run logs in each epoch of a target that depends on more than the label: means over the training images.
TAUGHT: Mapping[str, Quantity] = {
    "target_entropy": Quantity("entropy of the targets", "nats"),
    "target_gamma": Quantity("equivalent label smoothing γ of the targets"),
}
READS = ("labels", "outputs", "average", "progress", "batch")


@dataclass
class Seen:
    """What a target may look at, for B examples of K classes: `rows`, and what it says that it `reads`. fp32, on the
    device; nothing may wait for a value of it (.item(), if tensor > 0): a step is recorded once and replayed.
    """

    rows: Tensor  # (B, K) `Target.rows` of the labels; of mixed images, the mixture of both
    generator: Generator  # the run's own, on the device: whatever is random draws from it
    labels: Tensor | None = None  # (B,) int64
    outputs: Tensor | None = None  # (B, K) logits of the network being trained, with their gradient
    average: Tensor | None = None  # (B, K) logits of the averaged network, no gradient
    progress: Tensor | None = None  # () share of the training done, in [0, 1)


@dataclass(frozen=True)
class Target:
    """What a network is taught of an image. Subclasses are frozen dataclasses whose fields, with defaults, are the
    paper's knobs. A method finds it as `Batch.targets`, with the gradient that it has, if any.
    """

    version: ClassVar[int] = 1  # of the code, as `lskd.methods.method.Method.version`

    # What `teach` depends on. labels: the one label of each image (images that are mixed are refused); outputs: what
    # the network says; average: what an average of the network says; progress: how far the training is; batch: which
    # other examples are in the batch (`recipe.accumulate`, which cuts it in parts, is refused).
    reads: ClassVar[Collection[str]] = ()
    distribution: ClassVar[bool] = True  # whether it is one: nothing of it is negative
    watches: ClassVar[Mapping[str, Quantity]] = {}  # the quantities that `watch` gives, by the name of their metric

    def rows(self, labels: Tensor, classes: int) -> Tensor:
        """(B, K) fp32, on the device of `labels` (B,): what examples of these labels are taught before any network is
        asked. By default the class itself."""
        from torch.nn.functional import one_hot

        return one_hot(labels, classes).float()

    def teach(self, seen: Seen) -> Tensor:
        """(B, K): what each example is taught. It is asked only where the target reads anything."""
        return seen.rows

    def watch(self, seen: Seen) -> Mapping[str, Tensor]:
        """Quantities to log, by name, each (B,): averaged over each epoch, without gradient."""
        return {}

    @property
    def average_decay(self) -> float:
        """The decay of the averaged network, if it reads one: `lskd.engine.average`."""
        return 0.999

    @property
    def watched(self) -> Collection[str]:
        """What a run logs of it: `TAUGHT` and its own, if it reads anything. Else it is the same throughout."""
        if not self.reads:
            return ()
        return [*(name for name in TAUGHT if self.distribution or name != "target_entropy"), *self.watches]

    def gamma(self, classes: int) -> float:
        """Müller's γ of `rows` (`equivalent_smoothing`), each divided by its sum."""
        import torch

        from lskd.targets.distributions import equivalent_smoothing

        labels = torch.arange(classes)
        rows = self.rows(labels, classes).double()
        return equivalent_smoothing(rows / rows.sum(-1, keepdim=True), labels).mean().item()

    @property
    def label(self) -> str | None:
        """How the label of a run speaks of it: "" for not at all. None: by its name, with the settings that are not
        its usual ones."""
        return None


TARGETS: Registry[Target] = Registry("target", Target)
register = TARGETS.register
