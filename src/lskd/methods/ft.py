"""Factor transfer (Kim, Park & Kwak 2018), as in the CRD benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lskd.errors import require
from lskd.methods.at import attention
from lskd.methods.feature_method import FeatureMethod, same_size
from lskd.methods.method import Batch, Pair, Stage, maps, register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("ft")
@dataclass(frozen=True)
class FT(FeatureMethod):
    """L_feature = mean over positions of |Q(F_s) - Q(F_t)|, with factors F of the last map, and AT's Q

    The teacher's factors, `rate` times as many channels as its map has, come from a paraphraser: an autoencoder that is
    trained in a stage of `initial_epochs` before, on the teacher's maps, by their mean squared error, at
    `initial_lr` (the benchmark's for ResNet and WRN students; its others have the recipe's, 0.05 for VGG), and fixed
    afterwards. The student's come from a translator that is trained with it. See `modules.ft`. The benchmark's script
    has weight 200.
    """

    small: ClassVar[Mapping[str, Any]] = {"initial_epochs": 1}

    weight: float = 200.0
    rate: float = 0.5
    initial_epochs: int = 30
    initial_lr: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rate > 0, "rate", self.rate, "> 0")
        require(self.initial_epochs >= 1, "initial_epochs", self.initial_epochs, ">= 1")
        require(self.initial_lr > 0, "initial_lr", self.initial_lr, "> 0")

    def taps(self, names: Sequence[str]) -> Sequence[str]:
        return maps(names)[-1:]

    def initial(self) -> Stage | None:
        return Stage(
            "paraphraser", self.initial_epochs, self.paraphraser_loss, self.taps, modules=("paraphraser",),
            lr=self.initial_lr,
        )  # fmt: skip

    def build(self, pair: Pair) -> nn.Module:
        from torch import nn

        from lskd.methods.modules.ft import Paraphraser, translator

        [((channels, *_), (teacher_channels, *_))] = pair.shapes
        factors = int(teacher_channels * self.rate)
        require(factors >= 1, "rate", self.rate, f"at least 1 / {teacher_channels}, the teacher's channels")
        return nn.ModuleDict(
            {"paraphraser": Paraphraser(teacher_channels, factors), "translator": translator(channels, factors)}
        )

    def paraphraser_loss(self, batch: Batch) -> Mapping[str, Tensor]:
        [teacher] = batch.teacher_features.values()
        paraphraser = batch.module["paraphraser"]
        return {
            "reconstruction": (paraphraser.decoder(paraphraser.encoder(teacher)) - teacher).square().mean((1, 2, 3))
        }

    def feature_loss(self, batch: Batch) -> Tensor:
        import torch

        [(student, teacher)] = batch.pairs
        with torch.no_grad():
            factors = batch.module["paraphraser"].encoder(teacher)
        student, factors = same_size(batch.module["translator"](student), factors)
        return (attention(student) - attention(factors)).abs().mean(1)
