"""Weights cast together give the numbers of `torch.autocast`, bit for bit, in logits and gradients."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import Tensor, nn

from lskd.engine.casts import Casts

pytestmark = pytest.mark.usefixtures("one_thread")


class Layers(nn.Module):
    """Convolutions and dense layers: called once, twice, never, outside of autocast, frozen, sharing a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.never, self.exact = nn.Linear(4, 4), nn.Linear(4, 4)
        self.shares, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
        self.head.weight = self.shares.weight
        self.aside = nn.Linear(4, 4)  # whose outcome no loss reaches

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.frozen(self.norm(self.stem(x)))).relu()).mean((2, 3))
        self.aside(x)
        with torch.autocast("cpu", enabled=False):
            x = self.exact(x.float())
        return self.head(self.shares(x).relu())


def step(network: nn.Module, x: Tensor, casts: Casts | None) -> Tensor:
    """The logits of a forward, with its backward; gradients stay, the weights move."""
    network.zero_grad(set_to_none=True)
    with contextlib.nullcontext() if casts is None else casts.together(), torch.autocast("cpu", torch.bfloat16):
        logits = network(x)
    logits.float().square().sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    return logits


def test_the_numbers_are_those_of_autocast(operators):
    torch.manual_seed(0)
    plain = Layers()
    ours = copy.deepcopy(plain)
    casts = Casts(ours)
    for seed in range(4):
        x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
        with operators() as theirs:
            expected = step(plain, x, None)
        with operators() as ran:
            logits = step(ours, x, casts)
        assert torch.equal(logits, expected)
        for (name, value), wanted in zip(ours.named_parameters(), plain.parameters(), strict=True):
            assert torch.equal(value, wanted), name
            assert (value.grad is None) == (wanted.grad is None), name
            assert value.grad is None or torch.equal(value.grad, wanted.grad), name
    assert ours.never.weight.grad is ours.aside.weight.grad is ours.frozen.weight.grad is None
    # stem, twice and its bias, the shared weight, two biases; forward and backward
    assert theirs.count("_to_copy.default") - ran.count("_to_copy.default") == 2 * 6 + 2  # and two of what is aside
    assert ran.count("_foreach_copy_.default") == 2
    assert ours.state_dict().keys() == plain.state_dict().keys()


def test_weights_are_back_after_an_error():
    network = Layers()
    casts, x = Casts(network), torch.randn(8, 3, 6, 6)
    step(network, x, casts)
    before = dict(network.named_parameters())
    with pytest.raises(RuntimeError), casts.together():
        assert network.stem.weight.dtype == torch.bfloat16
        network(x[0, 0])
    after = dict(network.named_parameters())
    assert before.keys() == after.keys() and all(before[name] is after[name] for name in before)
