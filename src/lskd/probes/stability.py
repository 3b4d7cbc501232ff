"""How much predictions scatter within a class (Shen et al. 2021, the stability metric S and Table 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lskd.errors import require
from lskd.probes.probe import Probe, Scene, Seen, by_class, register
from lskd.quantity import Quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

READINGS = ("variance", "deviation", "squared_norm", "norm")


@register("stability")
@dataclass(frozen=True)
class Stability(Probe):
    """1 - S = 1/K Σ_c 1/n_c Σ_i ‖p_i - p̄_c‖² over the images i of class c, with p̄_c the mean of their p.

    p is the softmax of the logits, of all training images and all of the part that the run is measured on, as in an
    evaluation. The paper prints 1 - S (0.29 to 0.34 on ImageNet) and leaves open what p is, and the part. All readings
    are recorded, each a mean over the classes that have images (n_c = 1 counts as 0):

    - one_minus_s_variance: p the probability of the true class, a number: the mean of (p - p̄)². At most 0.25, so that
      it cannot be what the paper prints;
    - one_minus_s_deviation: its root, class by class: the standard deviation;
    - one_minus_s_squared_norm: p the whole vector: the mean of ‖p - p̄‖²;
    - one_minus_s_norm: the mean of ‖p - p̄‖, not squared.

    Beside them, of each class, the mean and the standard deviation of the probability of the true class.
    """

    gives: ClassVar[Mapping[str, Quantity]] = {
        "one_minus_s_variance": Quantity("1 - S, variance of the true class's probability", digits=4, better="lower"),
        "one_minus_s_deviation": Quantity(
            "1 - S, standard deviation of the true class's probability", digits=4, better="lower"
        ),
        "one_minus_s_squared_norm": Quantity(
            "1 - S, mean squared distance of probabilities from their class's mean", digits=4, better="lower"
        ),
        "one_minus_s_norm": Quantity(
            "1 - S, mean distance of probabilities from their class's mean", digits=4, better="lower"
        ),
        "class_probability": Quantity("mean probability of the true class", digits=4, by="class"),
        "class_deviation": Quantity("standard deviation of the true class's probability", digits=4, by="class"),
    }
    pictures: ClassVar[tuple[str, ...]] = ("probabilities",)

    def __post_init__(self) -> None:
        require(self.every >= 0, "every", self.every, ">= 0")

    def measure(self, scene: Scene) -> dict[str, Any]:
        seen = {}
        for part in dict.fromkeys(("train", scene.evaluated)):
            rows: list[list[float]] = []  # of each class: the four readings and the mean
            classes = []
            for number, p in by_class(scene, part, lambda pixels: scene.forward(pixels).double().softmax(-1)):
                classes.append(number)
                rows.append([*scatter(p, number), p[:, number].mean().item()])
            values: dict[str, Any] = {
                f"one_minus_s_{name}": sum(row[i] for row in rows) / len(rows) for i, name in enumerate(READINGS)
            }
            of_class = dict(zip(classes, rows, strict=True))
            for name, column in (("class_probability", -1), ("class_deviation", READINGS.index("deviation"))):
                every = range(len(scene.class_names))
                values[name] = {str(c): float(f"{of_class[c][column]:.6g}") for c in every if c in of_class}
            seen[part] = values
        return seen

    def draw(self, picture: str, figure: Figure, seen: Sequence[Seen]) -> str:
        """The mean probability of the true class of each class, and its standard deviation (Shen et al. 2021, Figure 4,
        of 100 classes): a line a run. Classes stand in the order of the first run's means on the training part."""
        from matplotlib import rcParams

        parts = sorted((part for part in seen[0].reading if part != "step"), key=lambda part: part != "train")
        first = seen[0].reading[parts[0]]["class_probability"]
        order = sorted(first, key=lambda number: -first[number])
        grid = figure.subplots(2, len(parts), sharex=True, sharey="row", squeeze=False)
        figure.set_figheight(0.7 * figure.get_figwidth())
        for j, part in enumerate(parts):
            for i, name in enumerate(("class_probability", "class_deviation")):
                panel = grid[i][j]
                for k, one in enumerate(seen):
                    numbers = one.reading[part][name]
                    heights = [numbers.get(number, float("nan")) for number in order]
                    size = 0.5 * float(rcParams["lines.markersize"])
                    style = {"linewidth": 0.6, "markersize": size, "color": f"C{k % 7}"}
                    panel.plot(heights, "osD^vPX"[k % 7] + "-", label=f"{one.label}, seed {one.seed}", **style)
                panel.tick_params(labelsize="small")
            grid[0][j].set_title(f"{part} part", fontsize="small")
            grid[1][j].set_xlabel("class", fontsize="small")
        grid[0][0].set_ylabel("mean", fontsize="small")
        grid[1][0].set_ylabel("standard deviation", fontsize="small")
        grid[0][-1].legend(fontsize="small")
        return (
            "Probability of the true class over the images of each class; classes in the order of the first run's "
            f"means on the {parts[0]} part."
        )


def scatter(p: Tensor, number: int) -> list[float]:
    """Of the probabilities p (n, K) for the images of class `number`: the variance and the standard deviation of
    p[:, number], the mean squared and the mean distance of p from its mean. All divide by n."""
    away = p - p.mean(0)
    variance = away[:, number].square().mean()
    squares = away.square().sum(1)
    return [variance.item(), variance.sqrt().item(), squares.mean().item(), squares.sqrt().mean().item()]
