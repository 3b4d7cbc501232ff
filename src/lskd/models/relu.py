"""ReLU and sums that write over their input, for values that are not needed any more.

Between its convolutions a network is bound by memory. In place a ReLU reads and writes each value once; a new tensor
would be fetched before it is written, and its memory taken and given back. The numbers are the same to the last bit.
Batch norm, convolutions, dense layers and sums need their inputs for their gradients, not their outputs, so what comes
out of them may be overwritten, unless a tap keeps it (`lskd.models.taps`).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def keep(x: Tensor) -> Tensor:
    """Have `relu` and `plus` leave `x` as it is."""
    x.kept = True  # type: ignore[attr-defined]
    return x


def relu(x: Tensor) -> Tensor:
    """max(x, 0), in the place of `x`: the fresh output of a layer or of a sum."""
    return F.relu(x, inplace=not hasattr(x, "kept"))


def plus(x: Tensor, y: Tensor) -> Tensor:
    """x + y, in the place of `x`, which is fresh as in `relu`."""
    return x + y if hasattr(x, "kept") or x.dtype != y.dtype else x.add_(y)


class ReLU(nn.ReLU):
    """`relu` as a module, for sequences, and where a tap reads what goes into it."""

    def forward(self, x: Tensor) -> Tensor:
        return relu(x)
