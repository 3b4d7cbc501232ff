"""Every target against its closed form, its limits and its gradient, in float64."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lskd.errors import InputError
from lskd.losses import cross_entropy
from lskd.targets import READS, TARGETS, TAUGHT, Seen, Target
from lskd.targets.beta_smoothing import BetaSmoothing
from lskd.targets.boot_soft import BootSoft
from lskd.targets.confidence_penalty import ConfidencePenalty
from lskd.targets.distributions import equivalent_smoothing, smooth_labels
from lskd.targets.entropy_regularization import EntropyRegularization
from lskd.targets.label_smoothing import LabelSmoothing
from lskd.targets.map_label_smoothing import MapLabelSmoothing
from lskd.targets.proselflc import ProSelfLC

B, K = 7, 5
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 2])
ONE_HOT = F.one_hot(LABELS, K).double()


def draw(seed: int) -> Tensor:
    """Logits (B, K)."""
    return 3.0 * torch.randn(B, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, AVERAGE = draw(1), draw(2)
P, LOG_P = STUDENT.softmax(-1), STUDENT.log_softmax(-1)
CE, H = -(ONE_HOT * LOG_P).sum(-1), -(P * LOG_P).sum(-1)
CE_GRADIENT, H_GRADIENT = P - ONE_HOT, -P * (LOG_P + H[:, None])  # by the logits


def see(target: Target, logits: Tensor = STUDENT, progress: float = 0.7, seed: int = 3) -> Seen:
    return Seen(
        target.rows(LABELS, K).double(), torch.Generator().manual_seed(seed), LABELS, logits, AVERAGE,
        torch.tensor(progress, dtype=torch.float64),
    )  # fmt: skip


def loss(target: Target, logits: Tensor = STUDENT, progress: float = 0.7) -> Tensor:
    """H(q̃, p), (B,)."""
    return cross_entropy(logits, target.teach(see(target, logits, progress)))


def gradient(target: Target, progress: float = 0.7) -> Tensor:
    logits = STUDENT.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(target, logits, progress).sum(), logits)
    return found


def assert_equal(ours: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


def trust(b: float = 14.0, transit: float = 0.5, progress: float = 0.7, kind: str = "both") -> Tensor:
    """ε of ProSelfLC, (B,)."""
    both = torch.full((B,), 1.0 / (1.0 + math.exp(-b * (progress - transit))), dtype=torch.float64)
    local = 1.0 - H / math.log(K)
    return {"both": both * local, "global": both, "local": local}[kind]


# The loss as a·CE + c·H(p), and whether the second term has its gradient.
FORMS: list[tuple[Target, Any, Any, bool]] = [
    (ConfidencePenalty(0.2), 0.8, -0.2, True),
    (EntropyRegularization(0.3), 1.0, -0.3, True),
    (BootSoft(0.4), 0.6, 0.4, True),
    (BootSoft(0.4, gradient="stop"), 0.6, 0.4, False),
    (ProSelfLC(), 1 - trust(), trust(), True),
    (ProSelfLC(gradient="stop"), 1 - trust(), trust(), False),
    (ProSelfLC(b=6.0, transit=0.3), 1 - trust(6.0, 0.3), trust(6.0, 0.3), True),
    (ProSelfLC(trust="global"), 1 - trust(kind="global"), trust(kind="global"), True),
    (ProSelfLC(trust="local"), 1 - trust(kind="local"), trust(kind="local"), True),
]


@pytest.mark.parametrize(("target", "a", "c", "through"), FORMS, ids=lambda one: getattr(type(one), "__name__", None))
def test_targets_of_own_outputs(target, a, c, through):
    assert_equal(loss(target), a * CE + c * H)
    weights = [torch.as_tensor(one, dtype=torch.float64).reshape(-1, 1) for one in (a, c)]
    assert_equal(gradient(target), weights[0] * CE_GRADIENT + (weights[1] * H_GRADIENT if through else 0.0))


@pytest.mark.parametrize("target", [ConfidencePenalty(0.2), EntropyRegularization(0.3), BootSoft(0.4)])
def test_gradients_by_finite_differences(target):
    assert torch.autograd.gradcheck(lambda logits: loss(target, logits), STUDENT.clone().requires_grad_())


@pytest.mark.parametrize(("mass", "beta"), [("all", 0.0), ("all", 0.25)])
def test_label_smoothing_as_map_estimation_writes_it(mass, beta):
    """-log p_y - β Σ_k (1/K) log p_k: 1+β times label smoothing with α = β/(1+β)."""
    target, smoothing = MapLabelSmoothing(beta), LabelSmoothing(beta / (1 + beta), mass)
    assert_equal(loss(target), CE - beta * LOG_P.mean(-1), 1e-6)
    assert_equal(loss(target), (1 + beta) * loss(smoothing), 1e-6)
    assert_equal(gradient(target), (1 + beta) * P - (ONE_HOT + beta / K), 1e-6)
    assert target.gamma(K) == pytest.approx(beta / (1 + beta))


@pytest.mark.parametrize(
    "target",
    [
        LabelSmoothing(0.0), LabelSmoothing(0.0, "others"), ConfidencePenalty(0.0), EntropyRegularization(0.0),
        BootSoft(0.0), MapLabelSmoothing(0.0), Target(),
    ],
)  # fmt: skip
def test_limits_that_are_hard_labels(target):
    assert torch.equal(target.teach(see(target)), ONE_HOT)
    assert_equal(gradient(target), CE_GRADIENT)
    assert target.gamma(K) == 0.0


def test_without_trust_proselflc_is_cross_entropy():
    assert_equal(gradient(ProSelfLC(b=1000.0), progress=0.4), CE_GRADIENT)  # long before the transit: g = 0
    uniform = torch.zeros(B, K, dtype=torch.float64)
    assert torch.equal(ProSelfLC(trust="local").teach(see(ProSelfLC(), uniform)), ONE_HOT)  # H(p) = log K: l = 0
    certain = 200.0 * F.one_hot((LABELS + 1) % K, K).double()  # all trust: the network's own label is taken over
    assert_equal(ProSelfLC(b=1000.0).teach(see(ProSelfLC(), certain, 0.9)), certain.softmax(-1))


def test_the_trust_is_watched_and_rises():
    told = [ProSelfLC().watch(see(ProSelfLC(), progress=t)) for t in (0.1, 0.5, 0.9)]
    assert_equal(told[1]["trust"], trust(progress=0.5))
    assert (told[0]["trust"] < told[1]["trust"]).all() and (told[1]["trust"] < told[2]["trust"]).all()


# ---- Beta smoothing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weight", "a"), [(0.6, 3.0), (1.0, 0.5)])
def test_beta_smoothing_gives_draws_by_rank(weight, a):
    """The least confident example has the least draw, and so on; others share the rest of each."""
    target = BetaSmoothing(a, weight)
    found = (target.teach(see(target)) - (1 - weight) * ONE_HOT) / weight
    drawn = torch.rand(B, generator=torch.Generator().manual_seed(3), dtype=torch.float64).pow(1 / a)
    b = found.gather(1, LABELS[:, None]).squeeze(1)
    assert_equal(b.sort().values, drawn.sort().values)
    assert torch.equal(b.argsort(), AVERAGE.softmax(-1).gather(1, LABELS[:, None]).squeeze(1).argsort())
    assert_equal(found, torch.where(ONE_HOT.bool(), b[:, None], (1 - b[:, None]) / (K - 1)))
    assert_equal(gradient(target), P - target.teach(see(target)))  # a constant that sums to 1


def test_draws_are_of_the_beta_distribution():
    """Beta(a, 1) has mean a/(a+1) and variance a/((a+1)²(a+2)); within 4 standard errors of 20,000 draws."""
    target, n = BetaSmoothing(a=3.0, weight=1.0), 20_000
    labels = torch.zeros(n, dtype=torch.int64)
    seen = Seen(torch.eye(2).double()[labels], torch.Generator().manual_seed(0), labels, average=torch.zeros(n, 2))
    b = target.teach(seen)[:, 0]
    assert b.mean().item() == pytest.approx(0.75, abs=4 * math.sqrt(0.0375 / n))
    assert b.var().item() == pytest.approx(0.0375, rel=0.05)


@pytest.mark.parametrize(("true_class", "weight", "a"), [(0.85, 0.6, 3.0), (0.75, 1.0, 3.0), (0.9, 0.2, 1.0)])
def test_the_shape_follows_from_the_mean_of_the_true_class(true_class, weight, a):
    target = BetaSmoothing(weight=weight, true_class=true_class)
    assert target.shape == pytest.approx(a)
    assert 1 - weight + weight * target.shape / (target.shape + 1) == pytest.approx(true_class)


# ---- what all declare ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_declares_what_it_reads_and_gives_what_it_declares(name):
    target = TARGETS[name]
    assert set(target.reads) <= set(READS)
    seen = see(target)
    for word in {"labels", "outputs", "average", "progress"} - set(target.reads):
        setattr(seen, word, None)
    found = target.teach(seen)
    assert found.shape == (B, K) and found.isfinite().all()
    assert not target.distribution or bool((found >= 0).all())
    assert target.watch(seen).keys() == target.watches.keys()
    assert set(target.watched) <= {*TAUGHT, *target.watches} and bool(target.watched) == bool(target.reads)
    assert target.rows(LABELS, K).shape == (len(LABELS), K) and target.rows(LABELS, K).dtype == torch.float32


@pytest.mark.parametrize(("mass", "gamma"), [("all", 0.3), ("others", 0.3 * K / (K - 1))])
def test_gamma_of_what_each_class_is_taught(mass, gamma):
    assert LabelSmoothing(0.3, mass).gamma(K) == gamma == pytest.approx(Target.gamma(LabelSmoothing(0.3, mass), K))
    rows = smooth_labels(torch.arange(K), K, 0.3, mass)
    assert torch.equal(LabelSmoothing(0.3, mass).rows(torch.arange(K), K), rows)
    assert_equal(equivalent_smoothing(rows, torch.arange(K)), torch.full((K,), gamma), 1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("label_smoothing", {"alpha": 1.0}, r"alpha = 1.0: must be in \[0, 1\)"),
        ("confidence_penalty", {"epsilon": -0.1}, r"epsilon = -0.1: must be in \[0, 1\)"),
        ("boot_soft", {"epsilon": 1.0}, r"epsilon = 1.0: must be in \[0, 1\)"),
        ("entropy_regularization", {"beta": -1.0}, "beta = -1.0: must be >= 0 and finite"),
        ("map_label_smoothing", {"beta": math.inf}, "beta = inf: must be >= 0 and finite"),
        ("proselflc", {"b": 0.0}, "b = 0.0: must be > 0 and finite"),
        ("proselflc", {"b": -4.0}, "b = -4.0: must be > 0 and finite"),
        ("proselflc", {"transit": 0.0}, r"transit = 0.0: must be in \(0, 1\]: a share of the training"),
        ("proselflc", {"transit": 1.5}, r"transit = 1.5: must be in \(0, 1\]"),
        ("beta_smoothing", {"a": 0.0}, "a = 0.0: must be > 0 and finite"),
        ("beta_smoothing", {"a": -1.0}, "a = -1.0: must be > 0 and finite"),
        ("beta_smoothing", {"weight": 0.0}, r"weight = 0.0: must be in \(0, 1\]"),
        ("beta_smoothing", {"decay": 1.0}, r"decay = 1.0: must be in \[0, 1\)"),
        ("beta_smoothing", {"true_class": 0.4}, r"true_class = 0.4: must be above 0.4, the share of the label itself"),
        ("beta_smoothing", {"true_class": 1.0}, r"true_class = 1.0: must be above 0.4, .* and below 1"),
        ("beta_smoothing", {"true_class": 0.85, "a": 2.0}, "a = 2.0: follows from true_class = 0.85; give one of them"),
    ],
)
def test_settings_out_of_range(name, settings, message):
    with pytest.raises(InputError, match=f"^{message}"):
        dataclasses.replace(TARGETS[name], **settings)
