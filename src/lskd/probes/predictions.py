"""What a network predicts for each image, and how predictions scatter over seeds (WSL 2021, assumption 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lskd.errors import require
from lskd.probes.probe import Probe, Scene, register
from lskd.quantity import Quantity

if TYPE_CHECKING:
    import numpy

DECIMALS = 3  # of -log p; over 360 images, rounding moves a run's numbers by some 1e-5 nats


@register("predictions")
@dataclass(frozen=True)
class Predictions(Probe):
    """The predictions p for the first `examples` images of the part that the run is measured on, as in an evaluation.

    Recorded: -log p in nats, a line an image, and the loss `nll`, the mean of -log p(label). Over the runs of a cell,
    which differ in their seeds, they give the two terms of the cross-entropy (Heskes 1998; WSL writes it in this form):

        E_s[-log p_s(label)] = -log p̄(label) + E_s[KL(p̄ ‖ p_s)],    p̄ = exp(E_s[log p_s]) / its sum over the classes

    - variance_term: KL(p̄ ‖ p_s) of each run s, mean over the images; over the runs its mean is the variance term;
    - bias_term: nll less that of each run, whose mean over the runs is the bias term, -log p̄(label).

    The runs share p̄, so that their numbers are not independent, but nearly so: deviations from a mean of n runs have
    the correlation -1/(n - 1), their squares its square. For the same reason the mean over n runs is (n - 1)/n of what
    many would show: cells that are compared should have as many runs.
    """

    gives: ClassVar[Mapping[str, Quantity]] = {
        "variance_term": Quantity("variance of the predictions over seeds, KL(mean ‖ prediction)", "nats", 4, "lower"),
        "bias_term": Quantity("loss of the mean prediction over seeds, the bias term", "nats", 4, "lower"),
    }
    lines: ClassVar[tuple[str, ...]] = ("surprise",)  # a line an image: JSON would have a line a number
    over_runs: ClassVar[bool] = True

    examples: int = 1000

    def __post_init__(self) -> None:
        require(self.examples >= 1, "examples", self.examples, ">= 1")
        require(self.every >= 0, "every", self.every, ">= 0")

    def measure(self, scene: Scene) -> dict[str, Any]:
        import torch

        part = scene.evaluated
        labels = scene.labels[part][: self.examples]
        indices = torch.arange(len(labels), device=labels.device)
        outputs = [scene.forward(scene.plain(part, piece)) for piece in indices.split(scene.batch)]
        surprise = -torch.cat(outputs).double().log_softmax(-1)  # (N, K)
        nll = surprise.gather(1, labels[:, None]).mean().item()
        lines = [" ".join(f"{value:.{DECIMALS}f}" for value in row) for row in surprise.tolist()]
        return {part: {"nll": nll, "surprise": lines}}

    def numbers(self, name: str, readings: Sequence[Mapping[str, Any]]) -> list[float]:
        import numpy

        log_probs = numpy.array([[line.split() for line in reading["surprise"]] for reading in readings], dtype=float)
        variances = variance_terms(-log_probs)
        if name == "variance_term":
            return variances
        return [reading["nll"] - variance for reading, variance in zip(readings, variances, strict=True)]


def variance_terms(log_probs: numpy.ndarray) -> list[float]:
    """KL(p̄ ‖ p_s), mean over the images, of each of S runs from log p, (S, N, K); see `Predictions`."""
    import numpy
    from scipy.special import logsumexp

    mean = log_probs.mean(0)
    mean = mean - logsumexp(mean, axis=-1, keepdims=True)  # log p̄, (N, K)
    divergences = (numpy.exp(mean) * (mean - log_probs)).sum(-1)  # (S, N)
    return [float(value) for value in divergences.mean(-1)]
