"""Penultimate activations projected on the plane of three class templates (Müller 2019, section 2 and Figure 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lskd.errors import InputError
from lskd.probes.probe import Probe, Scene, Seen, check_classes, members, register

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from lskd.data import Spec


@register("penultimate")
@dataclass(frozen=True)
class Penultimate(Probe):
    """The activations x that the last linear layer gets, of three classes, in the plane through their templates.

    The logit of class k is x̃ᵀ w̃_k with x̃ = (x, 1) and the template w̃_k = (weights, bias) of class k. An orthonormal
    basis of the plane through w̃_1, w̃_2, w̃_3 gives two coordinates. Images are seen as in an evaluation, unaugmented;
    those of a class are its first `examples` in the data's order.

    Recorded for the training part and for the part that the run is measured on: the points, the templates, and

    - cluster_spread: the root mean squared distance of a point from its class's mean, over the mean distance between
      two templates (the measure of claim C4);
    - cluster_overlap: the same over the mean distance between two class means, which has no scale of the weights in it;
    - projection_scale: the root mean squared distance of the points from their common mean;
    - arc_thickness: of the first two classes, seen from the mean of the third, the standard deviation of the points'
      distance over that of their place along the arc (mean distance × angle): near 1 where they scatter evenly, near 0
      where they form an arc around it (claim C5, about two similar classes and a third).
    """

    gives: ClassVar[Mapping[str, str]] = {
        "cluster_spread": "spread within classes of projected penultimate activations over the templates' distance",
        "cluster_overlap": "spread within classes of projected penultimate activations over the class means' distance",
        "projection_scale": "root mean squared distance of projected penultimate activations from their mean",
        "arc_thickness": "spread of the first two classes away from the third's mean over that along the arc around it",
    }

    pictures: ClassVar[tuple[str, ...]] = ("projection",)

    classes: tuple[str, ...] = ()
    examples: int = 100

    def __post_init__(self) -> None:
        if self.examples < 2:
            raise InputError(f"examples = {self.examples}: must be >= 2, the images of each class")
        if self.every < 0:
            raise InputError(f"every = {self.every}: must be >= 0")

    def check(self, spec: Spec) -> None:
        if len(self.classes) != 3:
            raise InputError(f"classes = {list(self.classes)}: must be three classes of {spec.name}")
        check_classes("classes", self.classes, spec)

    def measure(self, scene: Scene) -> dict[str, Any]:
        import torch

        from lskd.models.taps import capture, classifier

        numbers = [scene.class_names.index(name) for name in self.classes]
        last = classifier(scene.network)
        templates = last.weight.new_zeros(3, last.in_features + 1)
        templates[:, :-1] = last.weight[numbers]
        if last.bias is not None:
            templates[:, -1] = last.bias[numbers]
        seen = {}
        with capture(scene.network, ["pool"]) as taps:
            for part in ("train", scene.evaluated):
                indices = [members(scene.labels[part], number, self.examples) for number in numbers]
                pieces = []
                for piece in torch.cat(indices).split(scene.batch):
                    scene.forward(scene.plain(part, piece))
                    pieces.append(taps["pool"].flatten(1).double())
                points, corners = project(torch.cat(pieces), templates.double())
                seen[part] = clusters(points.split([len(i) for i in indices]), corners)
        return seen

    def draw(self, picture: str, figure: Figure, seen: Sequence[Seen]) -> str:
        """The points of each run (Müller 2019, Figure 1): a panel for the training part and one for the evaluated part.
        The two have one scale, and different runs scales of their own."""
        import numpy as np

        figure.set_size_inches(6.2 * len(seen), 4.6)
        panels = figure.subplots(1, 2 * len(seen), squeeze=False)[0]
        for (label, seed, reading), pair in zip(seen, panels.reshape(-1, 2), strict=True):
            parts = sorted((part for part in reading if part != "step"), key=lambda part: part != "train")
            everything = np.concatenate([np.array(points) for part in parts for points in reading[part]["points"]])
            middle = (everything.min(0) + everything.max(0)) / 2
            reach = 1.05 * (everything.max(0) - everything.min(0)).max() / 2
            for axes, part in zip(pair, parts, strict=True):
                for i, points in enumerate(reading[part]["points"]):
                    xs, ys = np.array(points).T
                    style = {"marker": "o^s"[i], "color": f"C{i}", "label": self.classes[i]}
                    axes.scatter(xs, ys, s=12, linewidths=0, alpha=0.7, **style)
                axes.set(xlim=middle[0] + [-reach, reach], ylim=middle[1] + [-reach, reach], aspect="equal")
                axes.set_title(f"{label}\n{part} part, seed {seed}", fontsize=10)
                axes.set_xlabel("first coordinate", fontsize=9)
                axes.tick_params(labelsize=9)
            pair[0].set_ylabel("second coordinate", fontsize=9)
        panels[0].legend(fontsize=9)
        return f"Coordinates in the plane through the three class templates; {self.examples} images a class."


def project(activations: Tensor, templates: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of `activations` (N, D) and of `templates` (3, D+1) in the plane through the latter: (N, 2), (3, 2).

    The basis is Gram and Schmidt's of (w̃_2 - w̃_1, w̃_3 - w̃_1); nothing is centred.
    """
    import torch

    sides = (templates[1:] - templates[0]).T  # (D+1, 2)
    basis, corner = torch.linalg.qr(sides)
    basis = basis * corner.diagonal().sign()  # the template's own side up: LAPACK chooses signs as it likes
    extended = torch.cat([activations, activations.new_ones(len(activations), 1)], 1)
    return extended @ basis, templates @ basis


def clusters(points: Sequence[Tensor], templates: Tensor) -> dict[str, Any]:
    """The record of projected `points`, one (n, 2) tensor a class, and of `templates` (3, 2)."""
    import torch

    together, means = torch.cat(list(points)), torch.stack([p.mean(0) for p in points])
    spread = _rms(torch.cat([p - mean for p, mean in zip(points, means, strict=True)]))
    return {
        "cluster_spread": spread / _mean_distance(templates),
        "cluster_overlap": spread / _mean_distance(means),
        "projection_scale": _rms(together - together.mean(0)),
        "arc_thickness": _arc_thickness(torch.cat(list(points[:2])) - means[2]),
        "points": [_rounded(p) for p in points],
        "templates": _rounded(templates),
    }


def _arc_thickness(points: Tensor) -> float:
    """Radial over tangential spread of `points` (N, 2) around the origin."""
    import torch

    distances, toward = points.norm(dim=1), points.mean(0)
    across = points[:, 0] * toward[1] - points[:, 1] * toward[0]
    angles = torch.atan2(across, points @ toward)  # from the direction of their mean
    return (distances.std() / (distances.mean() * angles.std())).item()


def _rms(vectors: Tensor) -> float:
    """Root mean squared length of `vectors` (N, 2)."""
    return vectors.square().sum(1).mean().sqrt().item()


def _mean_distance(corners: Tensor) -> float:
    """Mean distance between two of the three `corners` (3, 2)."""
    return (corners - corners.roll(1, 0)).norm(dim=1).mean().item()


def _rounded(points: Tensor) -> list[list[float]]:
    """To five digits: what a figure can show."""
    return [[float(f"{value:.5g}") for value in point] for point in points.tolist()]
