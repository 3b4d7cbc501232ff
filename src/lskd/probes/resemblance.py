"""Which classes the soft labels say resemble one another (Zhou et al. 2021, Figure 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lskd.data.sets.cifar100 import CLASSES, SUPERCLASSES
from lskd.errors import InputError, require
from lskd.probes.probe import Probe, Scene, Seen, members, panels, register
from lskd.quantity import Quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from lskd.data import Spec


@register("resemblance")
@dataclass(frozen=True)
class Resemblance(Probe):
    """R, (K, K): at [c, k] the mean of -∂(L_kd - L_ce)/∂z_k (`pull`) over training images of class c

    It is large where the soft labels, more than the hard ones, raise the logit of the wrong class k: where the teacher
    sees a resemblance. Each class shows its first `examples` images in the data's order, as in an evaluation; student
    and teacher are in eval mode. The paper compares the matrix, of ImageNet's training images, with similarities from
    WordNet; here the 20 superclasses of CIFAR-100 say which classes are similar.

    Recorded: the matrix, and of its entries off the diagonal

    - resemblance_auc: the chance that a class of c's own superclass has a larger one than a class of another, averaged
      over c: 0.5 if superclasses do not show, 1 if they show throughout;
    - resemblance_within, resemblance_between: the mean over classes of c's own superclass, and over all others.
    """

    gives: ClassVar[Mapping[str, Quantity]] = {
        "resemblance_auc": Quantity("chance that a class of the same superclass resembles more than one of another"),
        "resemblance_within": Quantity("mean resemblance of classes of one superclass", digits=5),
        "resemblance_between": Quantity("mean resemblance of classes of different superclasses", digits=5),
    }
    pictures: ClassVar[tuple[str, ...]] = ("matrix",)
    needs_teacher: ClassVar[bool] = True

    temperature: float = 4.0
    examples: int = 500

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", self.temperature, "> 0")
        require(self.examples >= 1, "examples", self.examples, ">= 1, the images of each class")
        require(self.every >= 0, "every", self.every, ">= 0")

    def check(self, spec: Spec) -> None:
        if sorted(spec.class_names) != sorted(superclass_order()):
            raise InputError(f"name = resemblance: {spec.name} has no superclasses here; allowed: cifar100")

    def measure(self, scene: Scene) -> dict[str, Any]:
        import torch

        assert scene.teacher is not None  # see `needs_teacher`
        labels, names = scene.labels["train"], scene.class_names
        chosen = torch.cat([members(labels, number, self.examples) for number in range(len(names))])
        sums = torch.zeros(len(names), len(names), dtype=torch.float64, device=labels.device)
        for piece in chosen.split(scene.batch):
            pixels, of = scene.plain("train", piece), labels[piece]
            pulls = pull(scene.forward(pixels).double(), scene.teacher(pixels).double(), of, self.temperature)
            sums.index_add_(0, of, pulls)
        matrix = (sums / labels[chosen].bincount(minlength=len(names))[:, None]).cpu()
        groups = [[names.index(name) for name in group] for group in SUPERCLASSES.values()]
        rounded = [[float(f"{value:.3g}") for value in row] for row in matrix.tolist()]
        return {"train": {**contrasts(matrix, groups), "matrix": rounded}}

    def draw(self, picture: str, figure: Figure, seen: Sequence[Seen]) -> str:
        """The matrix of each run (Zhou et al. 2021, Figure 4), classes ordered by superclass, beside the superclasses
        themselves. The diagonal, a class with itself, is left out."""
        import numpy as np
        from matplotlib import rcParams

        order = [CLASSES.index(name) for name in superclass_order()]
        groups = np.repeat(np.arange(len(SUPERCLASSES)), [len(group) for group in SUPERCLASSES.values()])
        drawn = [("superclasses\n", (groups[:, None] == groups).astype(float))]
        for label, seed, reading, *_ in seen:
            drawn.append((f"{label}\nseed {seed}", np.array(reading["train"]["matrix"])[np.ix_(order, order)]))
        for _, matrix in drawn:
            np.fill_diagonal(matrix, np.nan)
        # One scale of colours for all runs. It reaches the percentiles 2 and 98: a few pairs of classes would make all
        # others look alike.
        low, high = np.nanpercentile([matrix for _, matrix in drawn[1:]], [2, 98])
        axes = panels(figure, len(drawn))
        # The names of the superclasses stand where there is room for them.
        width = figure.get_figwidth() / len({panel.get_position().x0 for panel in axes})
        named = width > len(SUPERCLASSES) * float(rcParams["font.size"]) / 72
        places = [int(np.mean(np.nonzero(groups == group))) for group in range(len(SUPERCLASSES))]
        for i, (panel, (title, matrix)) in enumerate(zip(axes, drawn, strict=True)):
            ends = {"vmin": low, "vmax": high} if i else {"vmin": 0, "vmax": 1}
            image = panel.imshow(matrix, cmap="viridis", interpolation="none", **ends)
            panel.set_title(title, fontsize="small")
            panel.set_xlabel("class k", fontsize="small")
            panel.tick_params(labelsize="small")
            panel.grid(False)
            if named:
                panel.set_yticks(places, [] if i else SUPERCLASSES, fontsize="xx-small")
        bar = figure.colorbar(image, ax=axes, location="bottom", extend="both", shrink=0.6, aspect=40)
        bar.ax.tick_params(labelsize="small")
        axes[0].set_ylabel("class c of the images", fontsize="small")
        shown = "Mean of −∂(L_kd − L_ce)/∂z_k over training images of class c; brighter: k resembles c"
        return f"{shown}. All runs have one scale."


def superclass_order() -> list[str]:
    """The classes of CIFAR-100, superclass by superclass."""
    return [name for group in SUPERCLASSES.values() for name in group]


def pull(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """-∂(L_kd - L_ce)/∂z, (B, K), for the student's logits z: with L_kd = -T² Σ_k p_t(T)_k log p_s(T)_k,

    T · (p_t(T) - p_s(T)) + p_s(1) - onehot(label)
    """
    from torch.nn.functional import one_hot

    p_s, p_t = ((logits / temperature).softmax(-1) for logits in (student_logits, teacher_logits))
    from_labels = student_logits.softmax(-1) - one_hot(labels, student_logits.shape[1])
    return temperature * (p_t - p_s) + from_labels


def contrasts(matrix: Tensor, groups: Sequence[Sequence[int]]) -> dict[str, float]:
    """The measures of `matrix` (K, K), with the classes of each superclass in `groups`; every one has at least two."""
    import torch

    same = torch.zeros_like(matrix, dtype=torch.bool)
    for group in groups:
        classes = torch.tensor(list(group))
        same[classes[:, None], classes] = True
    same.fill_diagonal_(False)
    other = ~same
    other.fill_diagonal_(False)
    areas = []
    for row, near, far in zip(matrix, same, other, strict=True):
        difference = row[near][:, None] - row[far]
        areas.append(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())
    return {
        "resemblance_auc": torch.stack(areas).mean().item(),
        "resemblance_within": matrix[same].mean().item(),
        "resemblance_between": matrix[other].mean().item(),
    }
