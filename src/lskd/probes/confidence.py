"""How far confidence is from accuracy, whichever number is taken for the confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lskd.errors import require
from lskd.metrics import binned, calibration_error
from lskd.probes.probe import Probe, Scene, register
from lskd.quantity import Quantity

if TYPE_CHECKING:
    from torch import Tensor


@register("confidence")
@dataclass(frozen=True)
class Confidence(Probe):
    """Calibration errors of p = softmax(z/temperature) over equal bins (`lskd.metrics.binned`), of the part that the
    run is measured on (Wang et al. 2021, Table 7; a record has ECE with 15 bins at temperature 1).

    Recorded, in %, for the top-1 prediction:

    - ece_probability: its confidence is its probability, max p (Guo et al. 2017);
    - ece_entropy: its confidence is 1 - H(p)/log K, which is 0 where all classes are equally likely, and 1 for a
      prediction that is sure.
    """

    gives: ClassVar[Mapping[str, Quantity]] = {
        "ece_probability": Quantity("calibration error of the largest probability", "%", 2, "lower"),
        "ece_entropy": Quantity("calibration error of 1 − H(p)/log K", "%", 2, "lower"),
    }

    temperature: float = 1.0
    bins: int = 10

    def __post_init__(self) -> None:
        require(0 < self.temperature < math.inf, "temperature", self.temperature, "> 0 and finite")
        require(self.bins >= 1, "bins", self.bins, ">= 1")
        require(self.every >= 0, "every", self.every, ">= 0")

    def measure(self, scene: Scene) -> dict[str, Any]:
        import torch

        labels = scene.labels[scene.evaluated]
        indices = torch.arange(len(labels), device=labels.device)
        logits = torch.cat([scene.forward(pixels) for pixels in scene.batches(scene.evaluated, indices)])
        return {scene.evaluated: errors(logits.double() / self.temperature, labels, self.bins)}


def errors(logits: Tensor, labels: Tensor, bins: int) -> dict[str, float]:
    """The numbers of `Confidence`, from logits (N, K) that have been divided by the temperature."""
    from lskd.losses import entropy

    probs = logits.softmax(-1)
    probability, predicted = probs.max(-1)
    sure = (1.0 - entropy(probs) / math.log(logits.shape[-1])).clamp(0.0, 1.0)  # rounded or not
    return {
        f"ece_{name}": 100.0 * calibration_error(binned(confidence, predicted == labels, bins))
        for name, confidence in (("probability", probability), ("entropy", sure))
    }
