"""Activation boundaries (Heo et al. 2019), as in the CRD benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lskd.errors import require
from lskd.methods.feature_method import Combined, halving_backwards
from lskd.methods.method import Batch, Pair, Stage, maps, register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("ab")
@dataclass(frozen=True)
class AB(Combined):
    """A stage of `initial_epochs` that teaches the student's stages which neurons are active; then `Combined`'s loss

    The stage's loss is Σ_l 2^(l-L) · 3/1000 · Σ_chw D(c(s), t) over the L maps before their last ReLU, with connectors
    c (`modules.regressor` without ReLU) where the shapes differ, and with m = margin

    D(s, t) = (s + m)² if t <= 0 and s > -m;  (s - m)² if t > 0 and s <= m;  else 0.

    It is not part of the training proper, which the benchmark runs with labels alone (kd = 0).
    """

    small: ClassVar[Mapping[str, Any]] = {"initial_epochs": 1}

    margin: float = 1.0
    initial_epochs: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.initial_epochs >= 1, "initial_epochs", self.initial_epochs, ">= 1")

    def initial(self) -> Stage | None:
        return Stage(
            "boundaries", self.initial_epochs, self.boundary_loss, before_relu, student=maps, modules=("connectors",)
        )

    def build(self, pair: Pair) -> nn.Module:
        from torch import nn

        from lskd.methods.modules.regressor import regressor

        connectors = (nn.Identity() if s == t else regressor(s, t, relu=False) for s, t in pair.shapes)
        return nn.ModuleDict({"connectors": nn.ModuleList(connectors)})

    def boundary_loss(self, batch: Batch) -> Mapping[str, Tensor]:
        losses = []
        for connector, (student, teacher) in zip(batch.module["connectors"], batch.pairs, strict=True):
            losses.append(boundary_distance(connector(student), teacher, self.margin).sum((1, 2, 3)))
        return {"boundaries": 3 / 1000 * halving_backwards(losses)}


def before_relu(names: Sequence[str]) -> Sequence[str]:
    """The stages' maps f1, f2, ... before their last ReLU."""
    return [f"{name}_pre" for name in maps(names)[1:]]


def boundary_distance(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """D, of maps of one shape."""
    off, on = (teacher <= 0) & (student > -margin), (teacher > 0) & (student <= margin)
    return off * (student + margin).square() + on * (student - margin).square()
