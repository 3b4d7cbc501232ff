"""What a network makes of wrong labels: which it has learned by heart, and which it sees through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lskd.errors import require
from lskd.probes.probe import Probe, Scene, register
from lskd.quantity import Quantity

if TYPE_CHECKING:
    from torch import Tensor


@register("label_noise")
@dataclass(frozen=True)
class LabelNoise(Probe):
    """Predictions for the training images as in an evaluation, apart for those with right and with wrong labels.

    Recorded, of the training part (Wang et al. 2021, Figures 3 and 4; Arpit et al. 2017):

    - wrong_labels: the share of the labels that are not the true ones, in %, which does not depend on the network;
    - right_fitted: of the images with right labels, those whose label is predicted;
    - wrong_fitted: of the images with wrong labels, those whose wrong label is predicted: noise that is memorised;
    - wrong_corrected: of the images with wrong labels, those whose true class is predicted in spite of it;
    - true_fitted: of all images, those whose true class is predicted;
    - right_entropy, wrong_entropy: the mean entropy of the predictions, in nats, of either.

    Where no label is wrong (a low rate of few images) numbers of those images are left out. An epoch's training
    accuracy is of the labels that are trained on, through random views, while weights change; these numbers are of one
    network.
    """

    gives: ClassVar[Mapping[str, Quantity]] = {
        "wrong_labels": Quantity("wrong labels among the training images", "%", 2),
        "right_fitted": Quantity("right labels predicted", "%", 2, "higher"),
        "wrong_fitted": Quantity("wrong labels predicted (memorised)", "%", 2, "lower"),
        "wrong_corrected": Quantity("true class predicted in spite of a wrong label", "%", 2, "higher"),
        "true_fitted": Quantity("true class predicted, of all training images", "%", 2, "higher"),
        "right_entropy": Quantity("entropy of predictions, images with right labels", "nats"),
        "wrong_entropy": Quantity("entropy of predictions, images with wrong labels", "nats"),
    }
    needs_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.every >= 0, "every", self.every, ">= 0")

    def measure(self, scene: Scene) -> dict[str, Any]:
        import torch

        labels, true = scene.labels["train"], scene.true
        assert true is not None  # see `needs_noise`
        predicted, entropy = [], []
        for pixels in scene.batches("train", torch.arange(len(labels), device=labels.device)):
            log_p = scene.forward(pixels).double().log_softmax(-1)
            predicted.append(log_p.argmax(-1))
            entropy.append(-(log_p.exp() * log_p).sum(-1))
        return {"train": numbers(torch.cat(predicted), torch.cat(entropy), labels, true)}


def numbers(predicted: Tensor, entropy: Tensor, labels: Tensor, true: Tensor) -> dict[str, float]:
    """The numbers of `LabelNoise` from each image's predicted class, entropy of prediction, label and true class, (N,)
    each."""
    wrong = labels != true
    found = {"wrong_labels": percent(wrong), "true_fitted": percent(predicted == true)}
    for name, images in (("right", ~wrong), ("wrong", wrong)):
        if images.any():
            found[f"{name}_fitted"] = percent(predicted[images] == labels[images])
            found[f"{name}_entropy"] = entropy[images].mean().item()
    if wrong.any():
        found["wrong_corrected"] = percent(predicted[wrong] == true[wrong])
    return found


def percent(chosen: Tensor) -> float:
    """The share of `chosen` (N,) bool, in %."""
    return 100.0 * chosen.double().mean().item()
