"""What a method is: knobs of a paper as fields, the paper's loss as `loss`, and a declaration of what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lskd.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Batch:
    """All that a loss may look at, for B examples of K classes. Logits are fp32 whatever the precision of the run.

    Everything is a tensor on the device, and a loss must not wait for one (.item(), if tensor > 0): a step is recorded
    once and replayed.
    """

    logits: Tensor  # (B, K) of the network being trained
    labels: Tensor  # (B,) int64
    targets: Tensor  # (B, K) hard labels after the run's label smoothing
    teacher_logits: Tensor | None = None  # (B, K), no gradient; set where the method says needs_teacher
    progress: Tensor | None = None  # () share of the training done, in [0, 1)


@dataclass(frozen=True)
class Method:
    """A training method. Subclasses are frozen dataclasses whose fields, with defaults, are the paper's knobs."""

    needs_teacher: ClassVar[bool] = False

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        """The terms of the loss by name, each (B,) and already weighted. The loop minimises the mean of their sum."""
        raise TypeError(f"{type(self).__name__} does not define loss(batch)")

    def teacher_probs(self, teacher_logits: Tensor) -> Tensor | None:
        """The teacher's distribution (B, K) that the student sees, for Müller's γ; None where there is none."""
        return None


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """`InputError` "name = value: must be allowed" unless `holds`: the range check of a config field."""
    if not holds:
        raise InputError(f"{name} = {value!r}: must be {allowed}")
