"""MAP self-distillation against its formula in float64, and its two limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Dirichlet

from lskd.errors import InputError
from lskd.losses import cross_entropy
from lskd.methods import Batch, Lesson
from lskd.methods.kd import KD
from lskd.methods.map_sd import MapSD
from lskd.targets.distributions import smooth_labels
from lskd.targets.map_label_smoothing import MapLabelSmoothing

B, K = 6, 5
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
TARGETS = smooth_labels(LABELS, K, 0.0, dtype=torch.float64)


def draw(seed: int) -> torch.Tensor:
    return 3 * torch.randn(B, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = draw(1), draw(2)
LESSON = Lesson([TEACHER[:4], TEACHER[4:]], LABELS, torch.eye(K, dtype=torch.float64))


def loss(method: MapSD | KD, student: torch.Tensor = STUDENT, teacher: torch.Tensor = TEACHER) -> torch.Tensor:
    batch = Batch(logits=student, labels=LABELS, targets=TARGETS, teacher_logits=teacher)
    return torch.stack(list(method.loss(batch).values())).sum(0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_it_is_the_negative_log_posterior(temperature):
    """-log p(y) - log Dirichlet(p; b·exp(f_t/T) + 1), but for what does not depend on the student."""
    b, p = 0.3, STUDENT.softmax(-1)
    alpha = b * (TEACHER / temperature).exp() + 1
    of_alpha = alpha.sum(-1).lgamma() - alpha.lgamma().sum(-1)
    expected = -p[range(B), LABELS].log() - (Dirichlet(alpha).log_prob(p) - of_alpha)
    found = loss(MapSD(beta=b, temperature=temperature, log_omega=0.0))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_its_beta_is_that_of_the_mean_image():
    """Solved for, ω̄ is the mean of ω: β = b·ω̄ is the same loss, and the mean weight is β."""
    method = MapSD(beta=0.7, temperature=2.0)
    settled = method.settle(LESSON)
    omega = (TEACHER / 2).exp().sum(-1)
    assert method.to_solve and not settled.to_solve
    assert settled.log_omega == pytest.approx(omega.mean().log().item(), abs=1e-12)
    literal = MapSD(beta=0.7 / omega.mean().item(), temperature=2.0, log_omega=0.0)
    torch.testing.assert_close(loss(settled), loss(literal))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_constant_omega_is_kd(temperature):
    kd = KD(temperature, 0.7, weights="add", t_squared=False, student_t="one", divergence="ce")
    torch.testing.assert_close(loss(MapSD(0.7, temperature, "constant")), loss(kd))
    alike = TEACHER - TEACHER.div(temperature).logsumexp(-1, keepdim=True) * temperature  # every ω_x is 1
    torch.testing.assert_close(loss(MapSD(0.7, temperature, log_omega=0.0), teacher=alike), loss(kd, teacher=alike))
    assert not torch.allclose(loss(MapSD(0.7, temperature).settle(LESSON)), loss(kd))
    assert not MapSD(omega="constant").to_solve


def test_a_teacher_that_knows_nothing_is_label_smoothing():
    """All its logits 0: the prior of every image is the uniform one, with parameters 1 + b, which are 1 + β/K of it."""
    ours = loss(MapSD(beta=0.6 / K, log_omega=0.0), teacher=torch.zeros(B, K, dtype=torch.float64))
    targets = MapLabelSmoothing(0.6).rows(LABELS, K).double()
    torch.testing.assert_close(ours, cross_entropy(STUDENT, targets), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("omega", ["instance", "constant"])
def test_its_gradient(omega):
    method = MapSD(temperature=1.5, omega=omega)
    method = method.settle(LESSON) if method.to_solve else method
    assert torch.autograd.gradcheck(lambda student: loss(method, student), STUDENT.clone().requires_grad_())


def test_large_logits_do_not_overflow():
    """At T = 1 exp(120) is no fp32 number; the largest weight of N images is at most N."""
    teacher = (torch.eye(K)[LABELS] * 120 + torch.arange(B)[:, None]).float()
    method = MapSD(beta=1.0, temperature=1.0).settle(Lesson([teacher], LABELS, torch.eye(K)))
    batch = Batch(logits=STUDENT.float(), labels=LABELS, targets=TARGETS.float(), teacher_logits=teacher)
    soft = method.loss(batch)["soft"]
    assert soft.isfinite().all()
    weights = soft / -STUDENT.log_softmax(-1)[range(B), LABELS]  # the teacher is sure
    share = torch.arange(B).double().softmax(0) * B
    torch.testing.assert_close(weights.double(), share, rtol=1e-4, atol=1e-6)
    assert weights.max() < B


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -1.0}, r"beta = -1\.0: must be >= 0"),
        ({"temperature": 0.0}, r"temperature = 0\.0: must be > 0"),
        ({"omega": "constant", "log_omega": 1.0}, r"log_omega = 1\.0: must be left out with omega=constant"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        MapSD(**settings)


def test_gamma_is_that_of_the_softened_teacher():
    probs = MapSD(temperature=2.0).teacher_probs(TEACHER)
    torch.testing.assert_close(probs, (TEACHER / 2).softmax(-1))
    assert math.isclose(probs.sum().item(), B, rel_tol=1e-12)
