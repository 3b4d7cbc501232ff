"""How much a logit says about which image was shown (Müller 2019, section 4 and Figure 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lskd.errors import InputError
from lskd.probes.probe import Probe, Scene, check_classes, members, register
from lskd.quantity import Quantity

if TYPE_CHECKING:
    from torch import Tensor

    from lskd.data import Spec


@register("mutual_information")
@dataclass(frozen=True)
class MutualInformation(Probe):
    """The mutual information I(X; Y) between the index X of a training image, one of `examples` of each of two classes,
    and Y, the difference of the two classes' logits, where chance comes from augmentation alone.

    The estimates are those of `estimate`; the paper leaves open which draw y_x is, so all readings are recorded.
    """

    gives: ClassVar[Mapping[str, Quantity]] = {
        "mutual_information": Quantity("mutual information of image and logit difference, y a draw of its own", "nats"),
        "mutual_information_reused": Quantity(
            "mutual information of image and logit difference, y one of the L draws", "nats"
        ),
        "mutual_information_sums": Quantity(
            "its estimate without the factors 1/N, y a draw of its own", "nats", digits=0
        ),
        "mutual_information_sums_reused": Quantity(
            "its estimate without the factors 1/N, y one of the L draws", "nats", digits=0
        ),
    }

    classes: tuple[str, ...] = ("airplane", "dog")
    examples: int = 300
    draws: int = 5
    every: int = 4000

    def __post_init__(self) -> None:
        for name, least in (("examples", 1), ("draws", 2), ("every", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} = {getattr(self, name)}: must be >= {least}")

    def check(self, spec: Spec) -> None:
        if len(self.classes) != 2:
            raise InputError(f"classes = {list(self.classes)}: must be two classes of {spec.name}")
        check_classes("classes", self.classes, spec)

    def measure(self, scene: Scene) -> dict[str, Any]:
        import torch

        a, b = (scene.class_names.index(name) for name in self.classes)
        chosen = torch.cat([members(scene.labels["train"], number, self.examples) for number in (a, b)])
        draws = []
        for _ in range(self.draws + 1):
            pixels = scene.augmented(chosen, scene.generator)
            logits = torch.cat([scene.forward(piece) for piece in pixels.split(scene.batch)]).double().cpu()
            draws.append(logits[:, a] - logits[:, b])
        several = torch.stack(draws[:-1], 1)  # (N, L)
        values = {}
        for suffix, y in (("", draws[-1]), ("_reused", several[:, 0])):
            mean = estimate(several, y)
            values[f"mutual_information{suffix}"] = mean
            values[f"mutual_information_sums{suffix}"] = without_factors(mean, len(several))
        return {"train": values}


def estimate(draws: Tensor, y: Tensor) -> float:
    """I(X; Y) in nats from L draws of Y for each of N equally likely X, `draws` (N, L), and one more `y` (N,):

    I = 1/N Σ_x [ -(y_x - μ_x)²/2σ² - log 1/N Σ_x' exp(-(y_x - μ_x')²/2σ²) ]

    with μ_x the mean of the draws of x and σ² the mean of (draw - μ_x)² over all of them (Müller 2019, version 3,
    equation 4). Where nothing is left to chance (σ = 0) it is the limit, log N if all differ.

    It is biased, because μ_x is the mean of few draws: where Y is a class and noise, and the truth log 2, a y of its
    own gives about log 2 - 1/(L-1) - ½ log(1-1/L), and one of the L draws log 2 - ½ log(1-1/L): with the paper's five
    draws 0.555 and 0.805 for 0.693.
    """
    means = draws.mean(1)
    variance = (draws - means[:, None]).square().mean()
    squares = (y[:, None] - means[None]).square()  # (x, x')
    # 0/0, an image's own mean where σ = 0, is an exponent of 0.
    exponents = (-squares / (2 * variance)).nan_to_num(nan=0.0, neginf=-math.inf)
    inner = exponents.logsumexp(1) - math.log(len(y))
    return (exponents.diagonal() - inner).mean().item()


def without_factors(mean: float, count: int) -> float:
    """The estimate as versions 1 and 2 and NeurIPS print it, from that of `estimate` over `count` images: sums where
    version 3 has means, Σ_x [ … - log Σ_x' … ]. It is no mutual information: it lies near [-N log N, 0]."""
    return count * (mean - math.log(count))
