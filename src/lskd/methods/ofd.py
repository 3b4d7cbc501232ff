"""A comprehensive overhaul of feature distillation (Heo et al. 2019; clovaai/overhaul-distillation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lskd.errors import InputError, require
from lskd.methods.ab import before_relu
from lskd.methods.feature_method import FeatureMethod, halving_backwards, same_size
from lskd.methods.method import Batch, Pair, register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("ofd")
@dataclass(frozen=True)
class OFD(FeatureMethod):
    """L_feature = Σ_l 2^(l-L) Σ_chw (c(f_s) - f_t⁺)² [c(f_s) > f_t⁺ or f_t⁺ > 0], of the L maps before their last ReLU

    f_t⁺ = max(f_t, m) with the margin m < 0 of each channel (`margins`), c a 1x1 convolution with batch norm. The
    paper's weight is 1e-3 on CIFAR, 1e-4 on ImageNet. Maps of unequal size are pooled to the smaller one, which the
    paper has no need of.
    """

    weight: float = 1e-3

    def taps(self, names: Sequence[str]) -> Sequence[str]:
        return before_relu(names)

    def build(self, pair: Pair) -> nn.Module:
        from torch import nn

        from lskd.methods.modules.ofd import OverhaulConnector

        assert pair.teacher_network is not None
        norms = [norm_before_relu(pair.teacher_network, tap) for tap in pair.teacher]
        channels, widths = [norm.num_features for norm in norms], [teacher[0] for _, teacher in pair.shapes]
        require(channels == widths, "channels of the teacher's batch norms", channels, f"those of its maps, {widths}")
        return nn.ModuleList(
            OverhaulConnector(s[0], t[0], margins(norm.bias.detach(), norm.weight.detach()))
            for (s, t), norm in zip(pair.shapes, norms, strict=True)
        )

    def feature_loss(self, batch: Batch) -> Tensor:
        losses = []
        for connector, (student, teacher) in zip(batch.module, batch.pairs, strict=True):
            student, teacher = same_size(connector(student), teacher)
            target = teacher.maximum(connector.margin)
            counts = (student > target) | (target > 0)
            losses.append((counts * (student - target).square()).sum((1, 2, 3)))
        return halving_backwards(losses)


def norm_before_relu(network: nn.Module, tap: str) -> nn.BatchNorm2d:
    """The batch norm that makes the feature `tap` before a ReLU; in a residual block, the branch's last one.

    It is the tap's module itself or, where the tap is what goes into a ReLU, the last one registered beside and before
    that ReLU.
    """
    from torch import nn

    path, of_input, _ = getattr(network, "taps", {}).get(tap, tap).partition(":")
    parent, _, name = path.rpartition(".")
    children = dict(network.get_submodule(parent).named_children())
    before = list(children.values())[: list(children).index(name)] if of_input else [network.get_submodule(path)]
    found = [module for module in before if isinstance(module, nn.BatchNorm2d)]
    if not found:
        raise InputError(
            f"teacher's {tap} = {path!r}: must be what a batch norm makes, whose negative mean is the margin"
        )
    return found[-1]


def margins(mean: Tensor, std: Tensor) -> Tensor:
    """m = E[x | x < 0] of x ~ N(mean, std²), (C,) and (C,) -> (C,).

    = mean - |std| · φ(z) / Φ(-z) with z = mean / |std|; where less than 0.001 of x is negative, -3 |std|.
    """
    import torch

    std = std.abs().clamp_min(1e-12)
    z = mean / std
    negative = torch.special.ndtr(-z)
    density = (-0.5 * z.square()).exp() / (2.0 * torch.pi) ** 0.5
    return torch.where(negative > 0.001, mean - std * density / negative, -3.0 * std)
