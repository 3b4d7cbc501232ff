"""How far apart the classes lie in the penultimate activations (Shen et al. 2021, section on what smoothing erases)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lskd.errors import InputError, require, unknown
from lskd.probes.probe import Probe, Scene, Seen, by_class, panels, register
from lskd.quantity import Quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from lskd.data import Spec

BINS = 40
Pairs = list[tuple[int, int]]


@register("class_centres")
@dataclass(frozen=True)
class ClassCentres(Probe):
    """Distances between the class means μ_c of the penultimate activations x, of all training images and of all images
    of the part that the run is measured on, as in an evaluation.

    The paper compares networks by such distances and gives no scale; a network's own is ours.
    scale: what distances are measured in. total: the root mean squared distance of x from the mean of all μ_c, classes
        counting alike (then no rescaling of the activations shows). within: that of x from its own μ_c. none: as they
        are.
    similar: which pairs of classes are similar; all other pairs are dissimilar. nearest: each class and the one whose
        centre is nearest to it. confusion: each class and the wrong one with the largest mean probability. Both go by
        this network and part. superclasses: those of CIFAR-100. groups: those within one of `groups`, where pairs
        between groups are the dissimilar ones, and no other classes count.

    Recorded, of each part:

    - centre_distance_similar, centre_distance_dissimilar: the mean distance of such a pair;
    - centre_ratio: the one over the other: 1 where similar classes lie no nearer to one another;
    - centre_variation: of dissimilar pairs, the standard deviation of the distance over its mean: 0 where all are
      equidistant;
    - within_scatter: the root mean squared distance of x from μ_c, the square averaged over classes;
    - centre_overlap: within_scatter over centre_distance_similar;
    - class_distance, class_scatter: of each class, the mean distance of its centre to those of the others, and the root
      mean squared distance of its x from μ_c. Whether two networks order the classes alike is asked of these, by a
      figure over=class and `test: correlated`.
    """

    gives: ClassVar[Mapping[str, Quantity]] = {
        "centre_distance_similar": Quantity("distance between the centres of similar classes"),
        "centre_distance_dissimilar": Quantity("distance between the centres of dissimilar classes"),
        "centre_ratio": Quantity("distance between centres of similar classes over that of dissimilar ones"),
        "centre_variation": Quantity("variation of the distance between centres of dissimilar classes"),
        "within_scatter": Quantity("scatter of activations within classes"),
        "centre_overlap": Quantity("scatter within classes over the distance between centres of similar ones"),
        "class_distance": Quantity("mean distance of a class's centre from the others", by="class"),
        "class_scatter": Quantity("scatter of activations within a class", by="class"),
    }
    pictures: ClassVar[tuple[str, ...]] = ("distances",)

    scale: Literal["total", "within", "none"] = "total"
    similar: Literal["nearest", "confusion", "superclasses", "groups"] = "nearest"
    groups: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        by_groups = self.similar == "groups"
        require(bool(self.groups) == by_groups, "groups", self.groups, "given with similar=groups, and only then")
        names = [name for group in self.groups for name in group]
        require(len(set(names)) == len(names), "groups", self.groups, "lists of different classes")
        require(self.every >= 0, "every", self.every, ">= 0")

    def check(self, spec: Spec) -> None:
        for name in (name for group in self.groups for name in group):
            if name not in spec.class_names:
                raise unknown("groups", name, spec.class_names)
        if self.similar in ("nearest", "confusion"):
            require(spec.num_classes >= 3, "similar", self.similar, f"of at least 3 classes: {spec.name} has 2")
            return
        groups = self._groups(spec.class_names)
        if self.similar == "superclasses" and sum(map(len, groups)) < spec.num_classes:
            raise InputError(f"similar = superclasses: {spec.name} has none here; allowed with cifar100")
        near, far = pairs_of(groups)
        if not near or not far:
            raise InputError(f"similar = {self.similar}: there must be two classes of one group, and two groups")

    def _groups(self, names: Sequence[str]) -> list[list[int]]:
        """The numbers of the classes of each group, of those that there are."""
        groups: Sequence[Sequence[str]] = self.groups
        if self.similar == "superclasses":
            from lskd.data.sets.cifar100 import SUPERCLASSES

            groups = list(SUPERCLASSES.values())
        return [[names.index(name) for name in group if name in names] for group in groups]

    def measure(self, scene: Scene) -> dict[str, Any]:
        import torch

        from lskd.models.taps import capture

        seen: dict[str, Any] = {}
        with capture(scene.network, ["pool"]) as taps:

            def look(pixels: Tensor) -> Tensor:
                """Activations and probabilities side by side."""
                p = scene.forward(pixels).double().softmax(-1)
                return torch.cat([taps["pool"].flatten(1).double(), p], 1)

            for part in dict.fromkeys(("train", scene.evaluated)):
                numbers, centres, scatters, means = [], [], [], []
                for number, rows in by_class(scene, part, look):
                    x, p = rows.tensor_split([rows.shape[1] - len(scene.class_names)], 1)
                    numbers.append(number)
                    centres.append(x.mean(0))
                    scatters.append((x - centres[-1]).square().sum(1).mean())
                    means.append(p.mean(0))
                which = torch.tensor(numbers)
                wrong = torch.stack(means).cpu()[:, which]
                near, far = self._pairs(numbers, torch.stack(centres), wrong, scene.class_names)
                if not near or not far:  # too few classes have images in this part
                    seen[part] = {}
                    continue
                seen[part] = distances(torch.stack(centres), torch.stack(scatters), near, far, self.scale, numbers)
        return seen

    def _pairs(
        self, numbers: Sequence[int], centres: Tensor, means: Tensor, names: Sequence[str]
    ) -> tuple[Pairs, Pairs]:
        """Similar and dissimilar pairs, as places in `numbers`, the classes that there are; of those the `centres`
        (C, D), and the mean probabilities `means` (C, C) by class of the images."""
        if self.similar in ("groups", "superclasses"):
            places = {number: place for place, number in enumerate(numbers)}
            return pairs_of([[places[n] for n in group if n in places] for group in self._groups(names)])
        likeness = means.clone() if self.similar == "confusion" else -between(centres).cpu()
        likeness.fill_diagonal_(-float("inf"))
        partners = {tuple(sorted((c, other))) for c, other in enumerate(likeness.argmax(1).tolist())}
        every = list(itertools.combinations(range(len(numbers)), 2))
        return [pair for pair in every if pair in partners], [pair for pair in every if pair not in partners]

    def draw(self, picture: str, figure: Figure, seen: Sequence[Seen]) -> str:
        """How often pairs of similar and of dissimilar classes lie so far apart: a panel for each run and part."""
        import numpy as np

        drawn = [
            (one, part)
            for one in seen
            for part in sorted((part for part in one.reading if part != "step"), key=lambda part: part != "train")
            if one.reading[part]
        ]
        axes = panels(figure, len(drawn))
        reach = max(one.reading[part]["histogram"]["to"] for one, part in drawn)
        for panel, (one, part) in zip(axes, drawn, strict=True):
            histogram = one.reading[part]["histogram"]
            edges = np.linspace(0, histogram["to"], BINS + 1)
            for k, kind in enumerate(("dissimilar", "similar")):
                density = np.array(histogram[kind]) / (sum(histogram[kind]) * edges[1])
                panel.stairs(
                    density, edges, color=f"C{k}", label=f"{kind} classes", fill=k == 0, alpha=0.5 if k == 0 else 1
                )
            panel.set(xlim=(0, reach))
            panel.set_title(f"{one.label}\n{part} part, seed {one.seed}", fontsize="small")
            panel.set_xlabel("distance of centres", fontsize="small")
            panel.tick_params(labelsize="small")
        axes[0].set_ylabel("density of pairs", fontsize="small")
        axes[len(drawn) - 1].legend(fontsize="small")
        unit = {
            "total": "in units of the root mean squared distance of activations from their mean",
            "within": "in units of the scatter within classes",
            "none": "as they are",
        }[self.scale]
        by = {
            "nearest": "each class and its nearest",
            "confusion": "each class and the one that it is most often taken for",
            "superclasses": "of one superclass",
            "groups": "of one group",
        }[self.similar]
        return f"Distances between class means of penultimate activations, {unit}; similar: {by}."


def pairs_of(groups: Sequence[Sequence[int]]) -> tuple[Pairs, Pairs]:
    """All pairs within one of the `groups`, and all between two of them."""
    near = [pair for group in groups for pair in itertools.combinations(group, 2)]
    far = [pair for one, other in itertools.combinations(groups, 2) for pair in itertools.product(one, other)]
    return near, far


def between(centres: Tensor) -> Tensor:
    """The distance of each pair of `centres` (C, D): (C, C). By products, near ones would lose digits."""
    import torch

    return torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")


def distances(
    centres: Tensor, scatters: Tensor, near: Pairs, far: Pairs, scale: str, numbers: Sequence[int]
) -> dict[str, Any]:
    """The record of `centres` (C, D) of the classes `numbers`, with the mean squared distance of each class's
    activations in `scatters` (C,), and the places of similar and of dissimilar pairs."""
    import torch

    total = (scatters + (centres - centres.mean(0)).square().sum(1)).mean().sqrt()
    within = scatters.mean().sqrt()
    unit = {"total": total, "within": within, "none": torch.ones_like(total)}[scale]
    apart = (between(centres) / unit).cpu()
    similar, dissimilar = (torch.stack([apart[pair] for pair in pairs]) for pairs in (near, far))
    to = float(f"{max(similar.max().item(), dissimilar.max().item()):.4g}") * 1.001 or 1.0
    counts = {
        name: torch.histc(of, BINS, 0, to).long().tolist()
        for name, of in (("similar", similar), ("dissimilar", dissimilar))
    }
    of_class = {"class_distance": apart.sum(1) / (len(numbers) - 1), "class_scatter": (scatters.sqrt() / unit).cpu()}
    return {
        "centre_distance_similar": similar.mean().item(),
        "centre_distance_dissimilar": dissimilar.mean().item(),
        "centre_ratio": (similar.mean() / dissimilar.mean()).item(),
        "centre_variation": (dissimilar.std(correction=0) / dissimilar.mean()).item(),
        "within_scatter": (within / unit).item(),
        "centre_overlap": (within.cpu() / unit.cpu() / similar.mean()).item(),
        **{
            name: {str(n): float(f"{value:.6g}") for n, value in zip(numbers, values.tolist(), strict=True)}
            for name, values in of_class.items()
        },
        "histogram": {"to": to, **counts},
    }
