"""Contrastive representation distillation (Tian, Krishnan & Isola 2020: CRD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lskd.errors import require
from lskd.methods.feature_method import FeatureMethod
from lskd.methods.method import Batch, Pair, register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("crd")
@dataclass(frozen=True)
class CRD(FeatureMethod):
    """L_feature = NCE(student, memory of the teacher) + NCE(teacher, memory of the student), of the pooled features

    The features of both networks are embedded in `dimensions` (linear, of length 1; both embeddings are trained), and
    compared with the other network's embedding of the same image, as memory has it, and with those of `negatives`
    images of other classes, drawn without replacement. See `modules.crd.Contrast`.
    """

    small: ClassVar[Mapping[str, Any]] = {"negatives": 5, "dimensions": 6}
    whole_batch: ClassVar[bool] = True  # its memories change between the parts, and Z is of the first

    weight: float = 0.8
    dimensions: int = 128
    negatives: int = 16384
    nce_temperature: float = 0.07
    momentum: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("dimensions", "negatives"):
            require(getattr(self, name) >= 1, name, getattr(self, name), ">= 1")
        require(self.nce_temperature > 0, "nce_temperature", self.nce_temperature, "> 0")
        require(self.momentum < 1, "momentum", self.momentum, "in [0, 1)")

    @property
    def one_label(self) -> bool:
        return True  # what is remembered is of one image, and negatives are not of its class

    def taps(self, names: Sequence[str]) -> Sequence[str]:
        return ["pool"]

    def build(self, pair: Pair) -> nn.Module:
        from lskd.methods.modules.crd import Contrast

        [((student,), (teacher,))] = pair.shapes
        others = len(pair.labels) - int(pair.labels.bincount().max())
        require(self.negatives <= others, "negatives", self.negatives, f"<= {others}, the images of other classes")
        return Contrast(
            (student, teacher), self.dimensions, pair.labels,
            negatives=self.negatives, temperature=self.nce_temperature, momentum=self.momentum,
        )  # fmt: skip

    def feature_loss(self, batch: Batch) -> Tensor:
        [(student, teacher)] = batch.pairs
        return batch.module(student, teacher, batch.indices, batch.generator)
