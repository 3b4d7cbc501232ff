"""How uncertain predictions are, and how much confidence differs from image to image (Zhang & Sabuncu 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lskd.errors import InputError, require
from lskd.losses import entropy
from lskd.probes.probe import Probe, Scene, Seen, panels, register
from lskd.quantity import Quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

BINS = 50  # of equal width, in what is recorded of the confidences


@register("uncertainty")
@dataclass(frozen=True)
class Uncertainty(Probe):
    """Of predictions p = softmax(f(x) / temperature), over all training images and all of the part that the run is
    measured on, as in an evaluation, with C = p_y the confidence in the true class:

    - predictive_uncertainty: the mean of the entropy H(p), in nats;
    - confidence_diversity: the differential entropy h(C), in nats, estimated from `k` nearest neighbours
      (`differential_entropy`); left out where it is -∞, because all images have one confidence;
    - confidence_variance: the variance of C, which the authors name as the alternative. (Bounded by 1/4, and of no
      unit, where h is -∞ for a network that is always sure.)

    of: "network", the run's own predictions; "teacher", what its teacher tells it, at the temperature of the run's
    method, on the run's images (`Method.teacher_probs`).

    The paper measures predictions on training images, and leaves open the temperature, the number of neighbours, and
    whether images are augmented.
    """

    gives: ClassVar[Mapping[str, Quantity]] = {
        "predictive_uncertainty": Quantity("predictive uncertainty, mean entropy of the predictions", "nats", 4),
        "confidence_diversity": Quantity(
            "confidence diversity, differential entropy of the true class's probability", "nats", 3
        ),
        "confidence_variance": Quantity("variance of the true class's probability over images", digits=4),
    }
    lines: ClassVar[tuple[str, ...]] = ("confidences",)
    pictures: ClassVar[tuple[str, ...]] = ("confidences",)

    temperature: float = 1.0
    k: int = 3
    of: Literal["network", "teacher"] = "network"

    def __post_init__(self) -> None:
        require(0 < self.temperature < math.inf, "temperature", self.temperature, "> 0 and finite")
        require(self.k >= 1, "k", self.k, ">= 1")
        require(self.every >= 0, "every", self.every, ">= 0")
        if self.of == "teacher" and self.temperature != 1:
            raise InputError(f"temperature = {self.temperature:g}: must be left out with of=teacher, where it is known")

    @property
    def needs_teacher(self) -> bool:  # type: ignore[override]
        return self.of == "teacher"

    @property
    def needs_told(self) -> bool:  # type: ignore[override]
        return self.of == "teacher"

    def measure(self, scene: Scene) -> dict[str, Any]:
        import torch

        seen: dict[str, Any] = {}
        for part in dict.fromkeys(("train", scene.evaluated)):
            labels, found, begun = scene.labels[part], [], 0
            for pixels in scene.batches(part, torch.arange(len(labels), device=labels.device)):
                own = labels[begun : begun + len(pixels)]
                found.append(self._see(scene, pixels, own))
                begun += len(pixels)
            uncertainty, confidence, rest = torch.cat(found).cpu().unbind(1)
            diversity = differential_entropy(confidence, self.k, rest)
            counts = (confidence * BINS).long().clamp_max(BINS - 1).bincount(minlength=BINS)
            seen[part] = {
                "predictive_uncertainty": uncertainty.mean().item(),
                **({"confidence_diversity": diversity} if math.isfinite(diversity) else {}),
                "confidence_variance": confidence.var(unbiased=False).item(),
                "confidences": [" ".join(map(str, counts.tolist()))],
            }
        return seen

    def _see(self, scene: Scene, pixels: Tensor, labels: Tensor) -> Tensor:
        """(B, 3) fp64: entropy, confidence in the true class, and 1 less that."""
        import torch

        if self.of == "teacher":
            assert scene.teacher is not None  # see `needs_teacher`
            told = scene.told(scene.teacher(pixels).double())
            assert told is not None  # see `needs_told`
            log_p = told.log()
        else:
            log_p = (scene.forward(pixels).double() / self.temperature).log_softmax(-1)
        p, true = log_p.exp(), labels[:, None]
        # A sum of the other classes: 1 - p would be 0 from p = 1 - 1e-16 on, long before the network is that sure.
        rest = p.scatter(1, true, 0.0).sum(1)
        return torch.stack([entropy(p), p.gather(1, true).squeeze(1), rest], 1)

    def draw(self, picture: str, figure: Figure, seen: Sequence[Seen]) -> str:
        """The density of the confidence in the true class, a panel for each part and a line for each run."""
        import numpy

        parts = sorted((part for part in seen[0].reading if part != "step"), key=lambda part: part != "train")
        edges = numpy.linspace(0, 1, BINS + 1)
        for part, panel in zip(parts, panels(figure, len(parts), together=len(parts)), strict=True):
            for i, one in enumerate(seen):
                counts = numpy.array(one.reading[part]["confidences"][0].split(), dtype=float)
                label = f"{one.label}, seed {one.seed}"
                panel.stairs(counts * BINS / counts.sum(), edges, color=f"C{i % 7}", label=label, linewidth=1)
            panel.set_yscale("log")
            panel.set_title(f"{part} part", fontsize="small")
            panel.set_xlabel("probability of the true class", fontsize="small")
            panel.tick_params(labelsize="small")
        figure.axes[0].set_ylabel("density", fontsize="small")
        figure.axes[0].legend(fontsize="small", loc="upper center")
        return "Density over images of the probability of the true class, in bins of 0.02; logarithmic upwards."


def differential_entropy(values: Tensor, k: int = 3, rest: Tensor | None = None) -> float:
    """h = -∫ f log f, in nats, of the density f that `values` (N,) are drawn from (Kozachenko & Leonenko 1987), in one
    dimension:

        h = ψ(N) - 1/N Σ_i ψ(k_i) + 1/N Σ_i log 2ε_i

    with ψ the digamma function, ε_i the distance of value i from its k-th nearest neighbour, and k_i = k. The error is
    of the order of N^-½, and where f does not fall to 0 at an end of its support there is a small bias.

    Ties: where k or more others are equal to value i (distance 0, whose logarithm there is not), ε_i is the least
    distance above 0, and k_i the number of all values within it, as Gao et al. (2017) do for mixtures. So rounding does
    not decide, nothing random is added, and without ties all is as above. -∞ where all values are equal.

    rest: 1 - values, for shares so near 1 that their differences are lost in `values`. `ValueError` for N <= k.
    """
    import torch

    count = len(values)
    if count <= k:
        raise ValueError(f"k = {k}: must be less than the number of values, {count}")
    values = values.double()
    if rest is None:
        order, rest = values.argsort(), values
    else:
        order, rest = (values.log() - rest.double().log()).argsort(), rest.double()
    values, rest = values[order], rest[order]

    def between(low: slice, high: slice) -> Tensor:
        """Distances of sorted values from later ones, of the smaller of a share and 1 less it."""
        plain, other = values[high] - values[low], (rest[high] - rest[low]).abs()
        return torch.where(rest[low] < 0.5, other, plain).clamp_min(0.0)

    # The k nearest neighbours of a value are next to it, some below and some above: of all such windows the closest.
    distance = torch.full((count,), math.inf, dtype=torch.float64)
    for below in range(k + 1):
        above = k - below
        here = slice(below, count - above)
        left = between(slice(0, count - k), here) if below else torch.zeros(count - k, dtype=torch.float64)
        right = between(here, slice(k, count)) if above else torch.zeros(count - k, dtype=torch.float64)
        distance[here] = distance[here].minimum(torch.maximum(left, right))
    neighbours = torch.full((count,), float(k), dtype=torch.float64)

    if (tied := distance == 0).any():
        steps = between(slice(0, count - 1), slice(1, count))
        group = torch.cat([torch.zeros(1, dtype=torch.int64), (steps > 0).cumsum(0)])  # of equal values, from below
        sizes = group.bincount().double()
        if len(sizes) == 1:
            return -math.inf
        infinite, none = torch.tensor([math.inf], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        gaps = steps[steps > 0]
        left, right = torch.cat([infinite, gaps]), torch.cat([gaps, infinite])
        nearest = left.minimum(right)
        within = sizes - 1
        within = within + torch.where(left <= nearest, torch.cat([none, sizes[:-1]]), none)
        within = within + torch.where(right <= nearest, torch.cat([sizes[1:], none]), none)
        distance, neighbours = (
            torch.where(tied, of_group[group], own) for of_group, own in ((nearest, distance), (within, neighbours))
        )
    of_all = torch.digamma(torch.tensor(float(count), dtype=torch.float64))
    return (of_all - neighbours.digamma().mean() + (2 * distance).log().mean()).item()
