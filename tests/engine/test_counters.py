"""Batch norms' counters are raised together, and are what torch's own would be."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lskd.engine.counters import Counters


class OfItsOwn(nn.BatchNorm2d):
    """Counts twice as fast."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return super().forward(x)


class Norms(nn.Module):
    """A batch norm that is called once, twice, never, in eval mode, without statistics; that averages; one of its own
    kind; and one under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.once, self.twice, self.never, self.frozen = (nn.BatchNorm2d(2) for _ in range(4))
        self.without = nn.BatchNorm2d(2, track_running_stats=False)
        self.averaging = nn.BatchNorm2d(2, momentum=None)
        self.own = OfItsOwn(2)
        self.again = self.once

    def forward(self, x: Tensor) -> Tensor:
        x = self.averaging(self.without(self.frozen(self.twice(self.twice(self.once(x))))))
        return self.own(x)


def test_counters_are_those_of_torch(operators):
    plain = Norms()
    plain.frozen.eval()
    together = copy.deepcopy(plain)
    counters = Counters(together, together, None, nn.Linear(2, 2))
    assert set(counters.norms) == {together.once, together.twice, together.never, together.frozen}
    for step in range(3):
        x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(step))
        expected = plain(x)
        with counters.together(), operators() as ran:
            seen = together(x)
        assert torch.equal(seen, expected)
        assert ran.count("add_.Tensor") == 3  # averaging, own twice
    state = together.state_dict()
    assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())
    assert (int(together.once.num_batches_tracked), int(together.twice.num_batches_tracked)) == (3, 6)
    assert int(together.own.num_batches_tracked) == 6


def test_one_operator_counts_them_all(operators):
    network = nn.Sequential(*(nn.BatchNorm2d(2) for _ in range(20)))
    counters, x = Counters(network), torch.randn(4, 2, 3, 3)
    with operators() as ran, counters.together():
        network(x)
    assert ran.count("add_.Tensor") == 0 and ran.count("_foreach_add_.Scalar") == 1
    assert all(int(norm.num_batches_tracked) == 1 for norm in network)


def test_counters_are_back_after_an_error():
    network = Norms()
    before = {name: value for name, value in network.named_buffers() if "num_batches" in name}
    with pytest.raises(ValueError, match="4D"), Counters(network).together():
        network(torch.zeros(2))
    after = {name: value for name, value in network.named_buffers() if "num_batches" in name}
    assert before.keys() == after.keys() and all(before[name] is after[name] for name in before)
