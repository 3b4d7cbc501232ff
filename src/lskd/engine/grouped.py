"""Batch norm over groups of a batch (`Recipe.batch_norm_group`)."""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Grouped(_BatchNorm):
    """What stands before the class of a batch norm, so that in training it is applied to each group of a batch by
    itself."""

    group: int

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or len(x) <= self.group:
            return super().forward(x)
        first, *others = x.split(self.group)
        outputs, tracked = [super().forward(first)], self.track_running_stats
        self.track_running_stats = False  # the others neither read nor change the running statistics
        try:
            outputs += [super(Grouped, self).forward(other) for other in others]
        finally:
            self.track_running_stats = tracked
        return torch.cat(outputs)


def group_batch_norms(module: nn.Module, group: int) -> None:
    """From now on each batch norm in `module` takes its statistics over `group` examples of a batch at a time, in their
    order (the last group: what remains); 0: over all of it.

    The running statistics, and their counter, are of the first group alone. That is what torch keeps of a training on
    several devices, those of device 0 (`DataParallel`) or rank 0 (`DistributedDataParallel`, `broadcast_buffers`), and
    so what a published "8 × 32" has in its weights.
    """
    for norm in module.modules():
        if group and isinstance(norm, _BatchNorm) and not isinstance(norm, Grouped):
            vars(norm)["group"], kind = group, cast(Any, type(norm))
            norm.__class__ = _grouped(kind)  # (a wrapper would give its parameters other names)


@functools.cache
def _grouped(kind: Any) -> Any:
    return type(kind.__name__, (Grouped, kind), {})


def own_class(norm: _BatchNorm) -> type[nn.Module]:
    """The class of a batch norm, whether it is in groups or not."""
    return type(norm).__bases__[1] if isinstance(norm, Grouped) else type(norm)
