"""Batch norms count their batches, each by a kernel of its own: here all of a step are counted by one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lskd.engine.grouped import own_class


class Calls:
    """Stands where a batch norm has its counter, and notes how often that is to be raised."""

    def __init__(self) -> None:
        self.number = 0

    def add_(self, number: int) -> None:
        self.number += number


class Counters:
    """The counters (`num_batches_tracked`) of all batch norms in some modules.

    Left alone are those that read theirs (momentum None: the mean of all batches), and classes with a `forward` of
    their own, of which it is not known what they do with it.
    """

    def __init__(self, *modules: nn.Module | None) -> None:
        norms = (norm for module in modules if module is not None for norm in module.modules())
        self.norms = [
            norm for norm in dict.fromkeys(norms)
            if isinstance(norm, _BatchNorm) and own_class(norm).forward is _BatchNorm.forward
            and norm.momentum is not None and norm.num_batches_tracked is not None
        ]  # fmt: skip

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Whatever the batch norms count inside is counted at the end: the same numbers."""
        counters = [norm._buffers["num_batches_tracked"] for norm in self.norms]
        calls = [Calls() for _ in self.norms]
        for norm, stand_in in zip(self.norms, calls, strict=True):
            norm._buffers["num_batches_tracked"] = stand_in  # type: ignore[assignment]
        try:
            yield
        finally:
            for norm, counter in zip(self.norms, counters, strict=True):
                norm._buffers["num_batches_tracked"] = counter
        for number in {one.number for one in calls} - {0}:  # usually 1
            raised = [
                norm.num_batches_tracked for norm, one in zip(self.norms, calls, strict=True) if one.number == number
            ]
            torch._foreach_add_(raised, number)  # type: ignore[arg-type]
