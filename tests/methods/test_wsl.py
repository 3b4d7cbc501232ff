"""Regularization samples, WSL's weights, and KD on some samples or classes: against closed forms and autograd."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lskd.errors import InputError
from lskd.losses import regularization_samples, soft_cross_entropy
from lskd.methods import METHODS, Batch
from lskd.methods.kd import KD
from lskd.methods.rkd import RKD
from lskd.methods.wsl import WSL, wsl_weights

B, K = 400, 5


def draw(seed: int) -> Tensor:
    return 3.0 * torch.randn(B, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = draw(1), draw(2)
LABELS = torch.arange(B) % K
ONE_HOT = F.one_hot(LABELS, K).double()


def make_batch() -> Batch:
    return Batch(STUDENT.clone().requires_grad_(), LABELS, ONE_HOT, TEACHER, generator=torch.Generator().manual_seed(0))


def gradient(method: Any, term: str) -> Tensor:
    """Of a term's sum over the batch, for the student's logits."""
    batch = make_batch()
    return torch.autograd.grad(method.loss(batch)[term].sum(), batch.logits)[0]


def is_rs(temperature: float) -> Tensor:
    return regularization_samples(STUDENT, TEACHER, LABELS, temperature)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_regularization_samples_are_those_of_the_definition(temperature):
    """|∂(L_kd - L_ce)/∂z_y| > |∂L_ce/∂z_y|, with the derivatives of the losses themselves."""
    z = STUDENT.clone().requires_grad_()
    ce = F.cross_entropy(z, LABELS, reduction="none")
    kd = temperature**2 * soft_cross_entropy(z, TEACHER, student_t=temperature, teacher_t=temperature)
    of_ce, of_kd = (torch.autograd.grad(loss.sum(), z, retain_graph=True)[0] for loss in (ce, kd))
    a, b = (grad[torch.arange(B), LABELS] for grad in (of_ce, of_kd - of_ce))
    assert torch.equal(is_rs(temperature), b.abs() > a.abs())
    assert 50 < is_rs(temperature).sum() < 350  # there are both


def test_at_temperature_one_the_student_outdoes_its_teacher():
    p_s, p_t = (logits.softmax(1)[torch.arange(B), LABELS] for logits in (STUDENT, TEACHER))
    assert torch.equal(is_rs(1.0), p_s > p_t)


def expected_weights() -> Tensor:
    p_s, p_t = (logits.softmax(1)[torch.arange(B), LABELS] for logits in (STUDENT, TEACHER))
    values = [1 - math.exp(-math.log(s) / (math.log(t) - 1e-7)) for s, t in zip(p_s, p_t, strict=True)]
    return torch.tensor(values, dtype=torch.float64)


def test_weights_by_hand():
    """ℓ_s = log 2 and ℓ_t = log 4, so r = 1/2; and the other way round, r = 2."""
    half, quarter = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    label = torch.tensor([0])
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    for student, teacher, ratio, difference in (
        (half, quarter, 0.5, -math.log(2)),
        (quarter, half, 2.0, math.log(2)),
    ):
        expected = {
            "exp": 1 - math.exp(-ratio), "sigmoid_difference": sigmoid(difference),
            "sigmoid_ratio": sigmoid(ratio - 1), "sigmoid_rescaled": 2 * sigmoid(ratio) - 1,
        }  # fmt: skip
        batch = Batch(student, label, student, teacher)
        for weighting, value in expected.items():
            assert wsl_weights(batch, weighting).item() == pytest.approx(value, rel=1e-5), weighting


def test_a_teacher_that_is_certain_gives_weights_that_are_finite():
    certain = torch.tensor([[200.0, 0.0]])
    student, teacher = torch.cat([certain, -certain]), torch.cat([certain, certain])
    weights = wsl_weights(Batch(student, torch.tensor([0, 0]), student, teacher))
    assert weights.tolist() == [0.0, 1.0]


def test_wsl_by_hand():
    """∂L/∂z = (p_s - q) + β w T (p_s(T) - p_t(T)), and no gradient through w."""
    method = METHODS["wsl"]
    assert isinstance(method, WSL) and (method.temperature, method.beta) == (4.0, 2.25)
    w = expected_weights()
    terms = method.loss(make_batch())
    log_p_s, p_t = (STUDENT / 4).log_softmax(1), (TEACHER / 4).softmax(1)
    torch.testing.assert_close(terms["soft"].detach(), 2.25 * w * 16 * -(p_t * log_p_s).sum(1), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(terms["ce"].detach(), F.cross_entropy(STUDENT, LABELS, reduction="none"))
    expected = 2.25 * w[:, None] * 4 * (log_p_s.exp() - p_t)
    torch.testing.assert_close(gradient(method, "soft"), expected, rtol=1e-5, atol=1e-8)
    watched = method.watch(make_batch())
    assert torch.equal(watched["rs"], is_rs(4.0))
    torch.testing.assert_close(watched["weight"], w, rtol=1e-5, atol=1e-8)


# ---- some samples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KD, WSL])
@pytest.mark.parametrize(("keep_rs", "keep_others"), [(0.0, 1.0), (1.0, 0.0)])
def test_distillation_without_regularization_samples_and_on_them_alone(kind, keep_rs, keep_others):
    whole, part = kind().loss(make_batch()), kind(keep_rs=keep_rs, keep_others=keep_others).loss(make_batch())
    kept = torch.where(is_rs(4.0), keep_rs, keep_others)
    assert torch.equal(part["soft"], kept * whole["soft"])
    assert torch.equal(part["ce"], whole["ce"])  # all samples keep the term of the labels


@pytest.mark.parametrize(("keep_rs", "keep_others"), [(0.25, 1.0), (1.0, 0.75)])
def test_a_chance_keeps_so_many(keep_rs, keep_others):
    method = KD(keep_rs=keep_rs, keep_others=keep_others)
    batch, rs = make_batch(), is_rs(4.0)
    kept = torch.stack([method.loss(batch)["soft"].detach() > 0 for _ in range(50)]).double()
    assert kept[:, rs].mean().item() == pytest.approx(keep_rs, abs=0.02)
    assert kept[:, ~rs].mean().item() == pytest.approx(keep_others, abs=0.02)
    assert not torch.equal(kept[0], kept[1])  # drawn anew at every step
    assert torch.equal(kept[0] > 0, method.loss(make_batch())["soft"] > 0)  # from the run's generator alone


# ---- some classes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", ["kl", "ce"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_masked_distillation_by_hand(divergence, temperature):
    """Without the label's term, -T² Σ_{k≠y} p_t log p_s, the gradient is T·(p_s (1 - p_t(y)) - p_t) and T p_s (1 - p_t)
    for the label; without a gradient for the label's logit it is T·(p_s - p_t), and 0."""
    T = temperature
    p_s, p_t = (STUDENT / T).softmax(1), (TEACHER / T).softmax(1)
    knobs: dict[str, Any] = {"temperature": T, "beta": 1.0, "divergence": divergence}
    of_label = (p_t * ONE_HOT).sum(1, keepdim=True)
    expected = T * (p_s * (1 - of_label) - p_t * (1 - ONE_HOT))
    torch.testing.assert_close(gradient(KD(**knobs, masked="sum"), "soft"), expected)
    expected = T * (p_s - p_t) * (1 - ONE_HOT)
    torch.testing.assert_close(gradient(KD(**knobs, masked="gradient"), "soft"), expected)
    torch.testing.assert_close(gradient(KD(**knobs), "soft"), T * (p_s - p_t))


def test_masked_losses_by_hand():
    others = 1 - ONE_HOT
    log_p_s, log_p_t = (STUDENT / 4).log_softmax(1), (TEACHER / 4).log_softmax(1)
    for divergence, term in (("ce", -log_p_s), ("kl", log_p_t - log_p_s)):
        knobs: dict[str, Any] = {"beta": 1.0, "divergence": divergence}
        value = KD(**knobs, masked="sum").loss(make_batch())["soft"]
        torch.testing.assert_close(value.detach(), 16 * (others * log_p_t.exp() * term).sum(1))
        plain, stopped = (KD(**knobs, masked=masked).loss(make_batch())["soft"] for masked in ("no", "gradient"))
        assert torch.equal(plain, stopped)


# ---- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KD, WSL])
@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"temperature": 0.0}, "temperature = 0.0: must be > 0"),
        ({"temperature": math.nan}, "temperature = nan: must be > 0"),
        ({"temperature": math.inf}, "temperature = inf: must be > 0 and finite"),
        ({"beta": -0.1}, "beta = -0.1: must be >= 0"),
        ({"beta": math.inf}, "beta = inf: must be >= 0 and finite"),
        ({"keep_rs": 1.5}, r"keep_rs = 1.5: must be in \[0, 1\]"),
        ({"keep_others": -0.5}, r"keep_others = -0.5: must be in \[0, 1\]"),
    ],
)
def test_knobs_out_of_range(kind, knobs, message):
    with pytest.raises(InputError, match=message):
        kind(**knobs)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"weight": -1.0}, "weight = -1.0: must be >= 0 and finite"),
        ({"weight": math.nan}, "weight = nan: must be >= 0"),
        ({"ce": math.inf}, "ce = inf: must be >= 0 and finite"),
        ({"angle": -5.0}, "angle = -5.0: must be >= 0"),
        ({"kd_temperature": 0.0}, "kd_temperature = 0.0: must be > 0"),
    ],
)
def test_weights_out_of_range(knobs, message):
    with pytest.raises(InputError, match=message):
        RKD(**knobs)
