"""The flow of solution procedure (Yim et al. 2017, "A Gift from Knowledge Distillation"), as in the CRD benchmark."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lskd.errors import require
from lskd.methods.feature_method import Combined, same_size, total
from lskd.methods.method import Batch, Pair, Stage, maps, register

if TYPE_CHECKING:
    from torch import Tensor


@register("fsp")
@dataclass(frozen=True)
class FSP(Combined):
    """A stage of `initial_epochs` that fits the Gram matrices between the student's maps; then `Combined`'s loss

    The stage's loss is Σ_l mean (G_l(s) - G_l(t))², with G_l between map l and the next one, over f0, f1, .... It
    needs students with as many channels as their teachers. It is not part of the training proper, which the benchmark
    runs with labels alone (kd = 0).
    """

    small: ClassVar[Mapping[str, Any]] = {"initial_epochs": 1}

    initial_epochs: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.initial_epochs >= 1, "initial_epochs", self.initial_epochs, ">= 1")

    def initial(self) -> Stage | None:
        return Stage("flow", self.initial_epochs, self.flow_loss, maps, student=maps)

    def build(self, pair: Pair) -> None:
        student, teacher = ([shape[0] for shape in shapes] for shapes in zip(*pair.shapes, strict=True))
        require(student == teacher, "student's channels", student, f"the teacher's, {teacher}")

    def flow_loss(self, batch: Batch) -> Mapping[str, Tensor]:
        pairs = batch.pairs
        losses = []
        for (s0, t0), (s1, t1) in itertools.pairwise(pairs):
            losses.append((gram(s0, s1) - gram(t0, t1)).square().mean((1, 2)))
        return {"flow": total(losses)}


def gram(first: Tensor, second: Tensor) -> Tensor:
    """(B, C, H, W) and (B, D, h, w) -> (B, D, C): mean over positions of the products, in the smaller size."""
    first, second = (feature.flatten(2) for feature in same_size(first, second))
    return second @ first.mT / first.shape[-1]
