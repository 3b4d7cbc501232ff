"""Beta smoothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lskd.errors import InputError, require
from lskd.targets.target import Seen, Target, register

if TYPE_CHECKING:
    from torch import Tensor

A = 3.0  # the authors' code


@register("beta_smoothing")
@dataclass(frozen=True)
class BetaSmoothing(Target):
    """q̃ = (1-w)q + w·q_b, where q_b has b on the label and (1-b)/(K-1) on each other class (Zhang & Sabuncu 2020).

    The b of a batch are as many draws from Beta(a, 1), given to its examples by rank: the lowest to that of whose label
    an averaged network is least confident, and so on. The parameters of that one follow those of the network,
    θ̄ ← l·θ̄ + (1-l)·θ with l = min(1 - 1/(t+2), decay) after update t = 0, 1, ...; it starts from weights of its own,
    and its batch norms use and collect the statistics of its own batches.

    weight: w. true_class: the mean of q̃_y, 1 - w + w·a/(a+1), from which a then follows, so that targets of different
    kinds can be compared at the same mean confidence in the label (0.85 in the paper: at w = 0.6 that is a = 3).
    """

    reads: ClassVar[tuple[str, ...]] = ("labels", "average", "batch")
    a: float = A
    weight: float = 0.6
    true_class: float | None = None
    decay: float = 0.999

    def __post_init__(self) -> None:
        require(0 < self.a < math.inf, "a", self.a, "> 0 and finite")
        require(0 < self.weight <= 1, "weight", self.weight, "in (0, 1]")
        require(0 <= self.decay < 1, "decay", self.decay, "in [0, 1)")
        if self.true_class is None:
            return
        least = 1.0 - self.weight
        allowed = f"above {least:g}, the share of the label itself (1 - weight), and below 1"
        require(least < self.true_class < 1, "true_class", self.true_class, allowed)
        if self.a != A:
            raise InputError(f"a = {self.a!r}: follows from true_class = {self.true_class!r}; give one of them")

    @property
    def average_decay(self) -> float:
        return self.decay

    @property
    def shape(self) -> float:
        """a, given or solved for `true_class`."""
        if self.true_class is None:
            return self.a
        mean = 1.0 - (1.0 - self.true_class) / self.weight  # of b
        return mean / (1.0 - mean)

    def teach(self, seen: Seen) -> Tensor:
        assert seen.average is not None and seen.labels is not None
        labels, classes = seen.labels[:, None], seen.rows.shape[-1]
        confidence = seen.average.log_softmax(-1).gather(-1, labels).squeeze(-1)
        drawn = confidence.new_empty(confidence.shape).uniform_(generator=seen.generator)
        lowest_first = drawn.pow(1.0 / self.shape).sort().values  # u^(1/a) of a uniform u is Beta(a, 1)
        b = drawn.scatter(0, confidence.sort(stable=True).indices, lowest_first)[:, None]
        others = (1.0 - b) / (classes - 1)
        smoothed = others.expand(seen.rows.shape).scatter(1, labels, b)
        return (1.0 - self.weight) * seen.rows + self.weight * smoothed
