#!/usr/bin/env python
"""How exact is a step's gradient? Against float64, on this machine's CPU: python scripts/gradient_error.py [ARCH ...]

For each network (CIFAR shapes, a batch of 128 images of noise, cross-entropy), the relative error ‖g - g64‖/‖g64‖ of
the gradient in fp32 (contiguous, and channels_last as lskd trains) and in bf16; and of batch norm alone, whose
statistics are where the difference between the first two comes from.
"""

from __future__ import annotations

import copy
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lskd.models import ARCHS

KINDS = {"fp32": (False, False), "fp32, channels_last": (True, False), "bf16, channels_last": (True, True)}


def gradient(network: nn.Module, x: Tensor, labels: Tensor, *, channels_last: bool, bf16: bool) -> Tensor:
    network = copy.deepcopy(network).train()
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = network(x)
    F.cross_entropy(logits.to(x.dtype), labels).backward()
    return torch.cat([p.grad.double().flatten() for p in network.parameters() if p.grad is not None])


def error(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm()).item()


def main() -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in sys.argv[1:] or ("resnet8", "resnet20", "wrn_16_2"):
        network = ARCHS[name].build((3, 32, 32), 10)
        exact = gradient(network.double(), x.double(), labels, channels_last=False, bf16=False)
        network = network.float()
        for kind, (channels_last, bf16) in KINDS.items():
            found = gradient(network, x, labels, channels_last=channels_last, bf16=bf16)
            print(f"{name}, gradient, {kind}: {error(found, exact):.1e}")
    for channels, side in ((16, 32), (32, 16), (64, 8)):
        x = torch.randn(128, channels, side, side).relu() + 0.5
        exact = F.batch_norm(x.double(), None, None, training=True)
        for kind, form in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
            found = F.batch_norm(x.contiguous(memory_format=form), None, None, training=True)
            print(f"batch norm, {channels} × {side} × {side}, {kind}: {error(found, exact):.1e}")


if __name__ == "__main__":
    main()
