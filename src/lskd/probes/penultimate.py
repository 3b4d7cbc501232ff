"""Penultimate activations projected on the plane of three class templates (Müller 2019, section 2 and Figure 1)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lskd.errors import InputError
from lskd.probes.probe import Probe, Scene, Seen, check_classes, members, panels, register
from lskd.quantity import Quantity

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
    those of a class are its first `examples` in the data's order. Of a translation classes are words within a sentence,
    each one token, and an example is a place where it comes next, after the right beginning (Figure 7).

    Recorded for the training part and for the part that the run is measured on: the points, the templates, and

    - cluster_spread: the root mean squared distance of a point from its class's mean, over the mean distance between
      two templates (the measure of claim C4);
    - cluster_overlap: the same over the mean distance between two class means, which has no scale of the weights in it;
    - projection_scale: the root mean squared distance of the points from their common mean;
    - arc_thickness: of the first two classes, seen from the mean of the third, the standard deviation of the points'
      distance over that of their place along the arc (mean distance × angle): near 1 where they scatter evenly, near 0
      where they form an arc around it (claim C5, about two similar classes and a third).
    """

    gives: ClassVar[Mapping[str, Quantity]] = {
        "cluster_spread": Quantity(
            "spread within classes of projected penultimate activations over the templates' distance"
        ),
        "cluster_overlap": Quantity(
            "spread within classes of projected penultimate activations over the class means' distance"
        ),
        "projection_scale": Quantity("root mean squared distance of projected penultimate activations from their mean"),
        "arc_thickness": Quantity(
            "spread of the first two classes away from the third's mean over that along the arc around it"
        ),
    }

    kinds: ClassVar[Collection[str]] = ("images", "translation")
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
        if spec.class_names:  # of a translation the vocabulary has them
            check_classes("classes", self.classes, spec)

    def measure(self, scene: Scene) -> dict[str, Any]:
        import torch

        from lskd.models.taps import capture, classifier

        numbers = self._tokens(scene) if scene.parts else [scene.class_names.index(name) for name in self.classes]
        last = classifier(scene.network)
        templates = last.weight.new_zeros(3, last.in_features + 1)
        templates[:, :-1] = last.weight[numbers]
        if last.bias is not None:
            templates[:, -1] = last.bias[numbers]
        seen = {}
        with capture(scene.network, ["pool"]) as taps:
            for part in ("train", scene.evaluated):
                look = self._at_tokens if scene.parts else self._at_images
                groups = look(scene, part, numbers, taps)
                points, corners = project(torch.cat(groups), templates.double())
                seen[part] = clusters(points.split([len(group) for group in groups]), corners)
        return seen

    def _at_images(self, scene: Scene, part: str, numbers: Sequence[int], taps: Mapping[str, Tensor]) -> list[Tensor]:
        """The activations of each class, (n, D) fp64."""
        import torch

        indices = [members(scene.labels[part], number, self.examples) for number in numbers]
        pieces = []
        for piece in torch.cat(indices).split(scene.batch):
            scene.forward(scene.plain(part, piece))
            pieces.append(taps["pool"].flatten(1).double())
        return list(torch.cat(pieces).split([len(i) for i in indices]))

    def _at_tokens(self, scene: Scene, part: str, numbers: Sequence[int], taps: Mapping[str, Tensor]) -> list[Tensor]:
        """The same where a part is seen from its beginning on, until all classes have their examples."""
        import torch

        found: list[list[Tensor]] = [[] for _ in numbers]
        counts = [0] * len(numbers)
        for _, labels in scene.outputs(part):
            for i, number in enumerate(numbers):
                rows = members(labels, number, self.examples - counts[i])
                found[i].append(taps["pool"][rows].double())
                counts[i] += len(rows)
            if min(counts) == self.examples:
                break
        return [torch.cat(group) for group in found]

    def _tokens(self, scene: Scene) -> list[int]:
        """The token of each class; `InputError` for a word that is not one."""
        ids = scene.parts[scene.evaluated].vocabulary.encode([f" {word}" for word in self.classes])
        for word, tokens in zip(self.classes, ids, strict=True):
            if len(tokens) != 1:
                rule = f"a word that is one token of the vocabulary; it is {len(tokens)}"
                raise InputError(f"probe.classes = {word!r}: must be {rule}")
        return [token for [token] in ids]

    def draw(self, picture: str, figure: Figure, seen: Sequence[Seen]) -> str:
        """The points of each run (Müller 2019, Figure 1): a panel for the training part and one for the evaluated part.
        All have one scale, unless those of the runs differ so much that one would show nothing of the other."""
        import numpy as np
        from matplotlib import rcParams

        parts = sorted((part for part in seen[0].reading if part != "step"), key=lambda part: part != "train")
        clouds = [[[np.array(points) for points in one.reading[part]["points"]] for part in parts] for one in seen]
        every = [np.concatenate([points for cloud in of_run for points in cloud]) for of_run in clouds]  # (N, 2)
        reaches = [float((points.max(0) - points.min(0)).max()) for points in every]
        one_scale = max(reaches) < 4 * min(reaches)
        if one_scale:
            every = [np.concatenate(every)] * len(seen)
        axes = panels(figure, len(seen) * len(parts), together=len(parts))
        places = [(i, j) for i in range(len(seen)) for j in range(len(parts))]
        for panel, (i, j) in zip(axes, places, strict=True):
            for k, points in enumerate(clouds[i][j]):
                size = 0.6 * float(rcParams["lines.markersize"])
                panel.plot(
                    *points.T, "o^s"[k], color=f"C{k}", markersize=size, markeredgewidth=0.5, alpha=0.7,
                    fillstyle="none" if k == 1 else "full", label=self.classes[k],
                )  # fmt: skip
            low, high = every[i].min(0), every[i].max(0)
            middle, reach = (low + high) / 2, 0.525 * float((high - low).max())
            panel.set(xlim=middle[0] + [-reach, reach], ylim=middle[1] + [-reach, reach], aspect="equal")
            panel.set_title(f"{seen[i].label}\n{parts[j]} part, seed {seen[i].seed}", fontsize="small")
            panel.tick_params(labelsize="small")
        axes[-1].legend(fontsize="small")
        scale = "One scale for all." if one_scale else "Each run has a scale of its own: they differ fourfold or more."
        return (
            f"Coordinates (first to the right, second upwards) in the plane through the three class templates; "
            f"{self.examples} {seen[0].outputs} a class. {scale}"
        )


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
