"""Likelihood and calibration over the temperature (Guo et al. 2017; Müller et al. 2019, Figures 3 and 4)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lskd.errors import require
from lskd.metrics import binned, calibration_error
from lskd.probes.probe import Probe, Scene, register
from lskd.quantity import Quantity, key

if TYPE_CHECKING:
    from torch import Tensor

    from lskd.data import Spec

BINS = 15  # as of the metric ece15


@register("temperature_scaling")
@dataclass(frozen=True)
class TemperatureScaling(Probe):
    """Of predictions p = softmax(z/T) for a held-out part, at each of the `temperatures` T:

    - scaled_nll: the mean of -log p(label), in nats;
    - scaled_ece15: the calibration error of the largest probability, in 15 bins, a fraction.

    At T = 1 these are the metrics nll and ece15; a record has them at the best temperature, too (`scaled_on`).

    part: "evaluate", the one that the run is measured on, or the one of this name. examples: of the first so many of
    its examples (of a translation: tokens, in the order of the evaluation); 0: of all.
    """

    gives: ClassVar[Mapping[str, Quantity]] = {
        "scaled_nll": Quantity("negative log-likelihood at a temperature", "nats", 4, "lower", by="temperature"),
        "scaled_ece15": Quantity(
            "expected calibration error (15 bins) at a temperature", better="lower", by="temperature"
        ),
    }
    kinds: ClassVar[Collection[str]] = ("images", "translation", "pairs")

    temperatures: tuple[float, ...] = (1.0,)
    part: Literal["evaluate", "validation", "test"] = "evaluate"
    examples: int = 0

    def __post_init__(self) -> None:
        shown = list(self.temperatures)
        positive = bool(shown) and all(0 < one < math.inf for one in shown)
        require(positive, "temperatures", shown, "a list of numbers, all > 0 and finite")
        require(
            len(set(map(key, shown))) == len(shown), "temperatures", shown, "all different, in their first 6 digits"
        )
        require(self.examples >= 0, "examples", self.examples, ">= 0; 0 stands for all")
        require(self.every >= 0, "every", self.every, ">= 0")

    def check(self, spec: Spec) -> None:
        there = self.part == "evaluate" or self.part in spec.parts
        require(there, "part", self.part, f"a part of {spec.name}: {', '.join(spec.parts)}")

    def measure(self, scene: Scene) -> dict[str, Any]:
        import torch

        part = scene.evaluated if self.part == "evaluate" else self.part
        found: list[list[Tensor]] = []  # of each piece: the losses and the confidences (T, n), and what is right (n,)
        count = 0
        for logits, labels in scene.outputs(part):
            piece = len(labels) if not self.examples else min(len(labels), self.examples - count)
            found.append(scaled(logits[:piece].float(), labels[:piece], self.temperatures))
            count += piece
            if count == self.examples:
                break
        losses, confidences, correct = (torch.cat(one, -1) for one in zip(*found, strict=True))
        errors = (calibration_error(binned(confidence, correct, BINS)) for confidence in confidences)
        names = [key(temperature) for temperature in self.temperatures]
        return {
            part: {
                "scaled_nll": dict(zip(names, losses.double().mean(-1).tolist(), strict=True)),
                "scaled_ece15": dict(zip(names, errors, strict=True)),
            }
        }


def scaled(logits: Tensor, labels: Tensor, temperatures: Collection[float]) -> list[Tensor]:
    """-log p(label) and max p, (T, n), of p = softmax(z/T) at each temperature, and whether the largest is the label's,
    (n,), from logits (n, K)."""
    import torch

    losses, confidences = [], []
    for temperature in temperatures:
        log_p = (logits / temperature).log_softmax(-1)
        losses.append(-log_p.gather(1, labels[:, None]).squeeze(1))
        confidences.append(log_p.amax(-1).exp())
    return [torch.stack(losses), torch.stack(confidences), logits.argmax(-1) == labels]
