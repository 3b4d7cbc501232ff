"""Metrics of a classifier: pure functions of logits (N, K) and labels (N,), in fp32 or better; and their registry.

Percentages are 0..100, calibration errors are fractions 0..1, likelihoods are nats.

Adding one is a function with `@metric`: from then on every run records it, and every table can show it. Plans read the
registry, so torch is imported where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lskd.quantity import Quantity
from lskd.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

Diagram = Sequence[Sequence[float]]  # `reliability`
F = TypeVar("F", bound=Callable[..., float])


# ---- the registry -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Measured(Quantity):
    """A number of the outputs on one part of the data; a run records it at each evaluation.

    classes: the fewest classes of which it is recorded. rate: a percentage of the examples, counted right or wrong.
    scaled: recorded of temperature-scaled outputs, too (`calibration`). mean: whether it is a mean over the examples,
    so that it may be reckoned piece by piece.
    """

    of: Callable[[Tensor, Tensor], float]
    classes: int = 0
    rate: bool = False
    scaled: bool = False
    mean: bool = True


@dataclass(frozen=True, kw_only=True)
class Binned(Quantity):
    """A number that follows from the recorded reliability diagram of a part."""

    of: Callable[[Diagram], float]


@dataclass(frozen=True, kw_only=True)
class Computed(Quantity):
    """A function of another number, `recorded`, that runs record of a part: there is nothing of its own to record."""

    recorded: str
    of: Callable[[float], float]


@dataclass(frozen=True)
class Fitted(Quantity):
    """The temperature of temperature scaling itself."""


@dataclass(frozen=True)
class OfLoss(Quantity):
    """The training loss: the sum of the terms that a method's loss has, each a mean over an epoch's images; without
    weight decay, and without the recipe's loss_scale."""


@dataclass(frozen=True)
class OfRun(Quantity):
    """A number of a whole run, under its name in the record."""


METRICS: Registry[Quantity] = Registry(
    "metric", Quantity, '@metric("NAME", "title") above its function, with from lskd.metrics import metric'
)
METRICS.add("gamma", OfRun("equivalent label smoothing γ"), __name__)
METRICS.add("loss", OfLoss("training loss", digits=4, better="lower"), __name__)
METRICS.add("temperature", Fitted("temperature of the least negative log-likelihood", digits=2), __name__)


def metric(
    name: str, title: str, *, kind: type[Measured] | type[Binned] | type[Computed] = Measured, **how: Any
) -> Callable[[F], F]:
    """Register the function below under `name`."""

    def register(function: F) -> F:
        METRICS.add(name, kind(title, of=function, **how), function.__module__)
        return function

    return register


# ---- of the outputs -----------------------------------------------------------------------------------------------


@metric("top1", "top-1 accuracy", unit="%", digits=2, better="higher", rate=True)
def top1(logits: Tensor, labels: Tensor) -> float:
    """Percentage of examples whose label has the largest logit."""
    return top_k_accuracy(logits, labels, 1)


@metric("error", "top-1 error", unit="%", digits=2, better="lower", rate=True)
def error(logits: Tensor, labels: Tensor) -> float:
    """Percentage of the others."""
    return 100.0 - top1(logits, labels)


def top_k_accuracy(logits: Tensor, labels: Tensor, k: int = 1) -> float:
    """Percentage of examples whose label is among the k largest logits. Ties go to the lower class index.

    (`torch.topk` breaks ties arbitrarily, and bf16 logits do tie.)
    """
    import torch

    mine = logits.gather(1, labels[:, None])
    lower = torch.arange(logits.shape[-1], device=logits.device) < labels[:, None]
    ahead = ((logits > mine) | ((logits == mine) & lower)).sum(1)
    return 100.0 * (ahead < k).double().mean().item()


@metric("nll", "negative log-likelihood", unit="nats", digits=4, better="lower", scaled=True)
def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """Mean of -log p(label), in nats."""
    from lskd.losses import label_loss

    return label_loss(logits.float(), labels).double().mean().item()


@metric("perplexity", "perplexity", kind=Computed, recorded="nll", digits=2, better="lower")
def perplexity(nll: float) -> float:
    """exp(nll): how many equally likely classes (of a translation: tokens) would be as hard to guess. Of the mean over
    examples, so that it is no mean itself; infinite where the number would be too large for fp64."""
    return math.exp(nll) if nll < 709 else math.inf


@metric("ece15", "expected calibration error (15 bins)", better="lower", scaled=True, mean=False)
def expected_calibration_error(logits: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """ECE of the top-1 prediction over equal-width confidence bins (Guo 2017), a fraction.

    Müller 2019 uses 15 bins (`calibration_error` of `reliability`).
    """
    return calibration_error(reliability(logits, labels, bins=bins))


@metric("top5", "top-5 accuracy", unit="%", digits=2, better="higher", rate=True, classes=6)
def top5(logits: Tensor, labels: Tensor) -> float:
    """Percentage of examples whose label is among the five largest logits."""
    return top_k_accuracy(logits, labels, 5)


@metric("top3", "top-3 accuracy", unit="%", digits=2, better="higher", rate=True, classes=4)
def top3(logits: Tensor, labels: Tensor) -> float:
    """Percentage of examples whose label is among the three largest logits."""
    return top_k_accuracy(logits, labels, 3)


@metric("ece20", "expected calibration error (20 bins)", better="lower", mean=False)
def expected_calibration_error_20(logits: Tensor, labels: Tensor) -> float:
    """`expected_calibration_error` over 20 bins, as the code of Zhang & Sabuncu (2020) has it."""
    return expected_calibration_error(logits, labels, bins=20)


def recorded(classes: int) -> dict[str, Measured]:
    """All metrics that a run with so many classes records for one part of the data."""
    return {
        name: metric for name, metric in METRICS.items() if isinstance(metric, Measured) and classes >= metric.classes
    }


def summary(logits: Tensor, labels: Tensor, *, means: bool | None = None) -> dict[str, float]:
    """All metrics that a run records for one part of the data (`means`: only those that are a mean over the examples,
    or only the others). `FloatingPointError` for logits that are not finite."""
    logits = logits.float()
    if not (logits / TEMPERATURES[0]).isfinite().all():  # as they are scaled for calibration, at the most
        raise FloatingPointError("the network's outputs are not finite")
    chosen = recorded(logits.shape[-1]).items()
    return {name: metric.of(logits, labels) for name, metric in chosen if means is None or metric.mean == means}


def ensemble(logits: Tensor) -> Tensor:
    """Logits (N, K) of M networks together, whose probabilities are the mean of theirs: (M, N, K) -> (N, K).

    z = log(1/M Σ_m softmax(z_m)), so that softmax(z) is that mean.
    """
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


# ---- calibration --------------------------------------------------------------------------------------------------

TEMPERATURES = (0.05, 20.0)


def reliability(logits: Tensor, labels: Tensor, *, bins: int = 15) -> list[list[float]]:
    """The reliability diagram of the top-1 prediction (`binned`) and its probability."""
    confidence, predicted = logits.float().softmax(-1).max(-1)  # fp32: a bf16 softmax moves the ECE by 0.006
    return binned(confidence, predicted == labels, bins)


def binned(confidence: Tensor, correct: Tensor, bins: int) -> list[list[float]]:
    """Predictions of `confidence` (N,) in [0, 1], `correct` (N,) or not: [examples, mean confidence, accuracy] of each
    bin.

    Bins have equal widths and are [lower, upper); the last one includes 1. An empty one is [0]. (torchmetrics 1.9 puts
    a confidence of exactly 1 in a bin of its own: an over-confident network then looks worse than by Guo's definition.)
    """
    bin_of = (confidence * bins).long().clamp_max(bins - 1)
    diagram: list[list[float]] = []
    for number in range(bins):
        inside = bin_of == number
        count = int(inside.sum())
        if not count:
            diagram.append([0])
            continue
        accuracy = correct[inside].double().mean().item()
        diagram.append([count, confidence[inside].double().mean().item(), accuracy])
    return diagram


def calibration_error(diagram: Diagram) -> float:
    """ECE = Σ_b (n_b/N) |accuracy_b - confidence_b| of the bins of `diagram`, a fraction."""
    filled = _filled(diagram)
    return sum(n * abs(accuracy - confidence) for n, confidence, accuracy in filled) / sum(n for n, *_ in filled)


def _filled(diagram: Diagram) -> list[Sequence[float]]:
    return [entry for entry in diagram if entry[0]]


@metric("gap", "confidence less accuracy", kind=Binned, better="zero")
def gap(diagram: Diagram) -> float:
    """Mean confidence less accuracy: above 0 where a network is over-confident. The calibration error is the mean
    over the bins of its size, this one of it as it is."""
    filled = _filled(diagram)
    return sum(n * (confidence - accuracy) for n, confidence, accuracy in filled) / sum(n for n, *_ in filled)


@metric(
    "least_gap",
    "least gap between confidence and accuracy, of the bins (of 15) with at least 1 % of the images",
    kind=Binned,
)
def least_gap(diagram: Diagram, share: float = 0.01) -> float:
    """The least gap of a bin that holds at least `share` of the examples: above 0 where a network is over-confident at
    every confidence. (In a bin of a few examples, chance decides.)"""
    least = share * sum(entry[0] for entry in diagram)
    return min(entry[1] - entry[2] for entry in _filled(diagram) if entry[0] >= least)


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T of temperature scaling (Guo 2017): softmax(z/T) with the least negative log-likelihood.

    Searched between 0.05 and 20, which it is where there is no minimum (a network that is always right).
    """
    from scipy.optimize import minimize_scalar

    from lskd.losses import label_loss

    logits, labels = logits.double().cpu(), labels.cpu()

    def loss(log_t: float) -> float:
        return label_loss(logits / math.exp(log_t), labels).mean().item()

    bounds = math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1])
    return float(math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5}).x))


def calibration(outputs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Calibration of a network on each part of the data, from its logits (N, K) and labels (N,) there:

    {part: {"reliability": …, "scaled": {other: {"temperature", "reliability", and each metric that is `scaled`}}}}

    "scaled" by the temperature that is best on the part `other`: held-out where that is another part, a posteriori
    where it is the part itself.
    """
    temperatures = {part: best_temperature(*output) for part, output in outputs.items()}
    result: dict[str, Any] = {}
    for part, (logits, labels) in outputs.items():
        scaled = {}
        for other, temperature in temperatures.items():
            cooled = logits.float() / temperature
            measured = {
                name: m.of(cooled, labels) for name, m in METRICS.items() if isinstance(m, Measured) and m.scaled
            }
            scaled[other] = {"temperature": temperature, **measured, "reliability": reliability(cooled, labels)}
        result[part] = {"reliability": reliability(logits, labels), "scaled": scaled}
    return result
