"""Targets, losses and methods against closed forms, PyTorch's own functions and finite differences, in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from lskd.config_groups import Conf
from lskd.errors import InputError
from lskd.losses import cross_entropy, entropy, logit_mse, soft_cross_entropy, soft_kl
from lskd.methods import METHODS, Batch, Method, Peer
from lskd.methods.kd import KD
from lskd.methods.logit_matching import LogitMatching
from lskd.schema import identity, parse
from lskd.targets.distributions import equivalent_smoothing, smooth_labels, soften

B, K = 7, 5


def draw(seed: int, scale: float = 3.0) -> torch.Tensor:
    """Logits (B, K)."""
    return scale * torch.randn(B, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = draw(1), draw(2)
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 2])
ONE_HOT = F.one_hot(LABELS, K).double()


def smoothed(alpha: float, mass: str = "all") -> torch.Tensor:
    return smooth_labels(LABELS, K, alpha, mass, dtype=torch.float64)


def make_batch(alpha: float = 0.0, logits: torch.Tensor = STUDENT, teacher: torch.Tensor | None = TEACHER) -> Batch:
    return Batch(logits=logits, labels=LABELS, targets=smoothed(alpha), teacher_logits=teacher)


def total(method: Method, batch: Batch) -> torch.Tensor:
    """The loss of each example, (B,)."""
    return sum(method.loss(batch).values(), torch.zeros(B, dtype=torch.float64))


def gradient(method: Method, alpha: float = 0.0) -> torch.Tensor:
    """d(loss of an example)/d(its logits), (B, K)."""
    logits = STUDENT.clone().requires_grad_()
    (result,) = torch.autograd.grad(total(method, make_batch(alpha, logits)).sum(), logits)
    return result


def assert_equal(ours: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


# ---- label smoothing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mass", ["all", "others"])
def test_without_smoothing_targets_are_one_hot(mass):
    targets = smooth_labels(LABELS, K, 0.0, mass)
    assert targets.dtype == torch.float32
    assert torch.equal(targets, F.one_hot(LABELS, K).float())
    assert_equal(cross_entropy(STUDENT, smoothed(0.0, mass)), F.cross_entropy(STUDENT, LABELS, reduction="none"))


@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.1, 0.6, 0.99])
def test_label_smoothing_is_that_of_torch(alpha):
    expected = F.cross_entropy(STUDENT, LABELS, label_smoothing=alpha, reduction="none")
    assert_equal(cross_entropy(STUDENT, smoothed(alpha)), expected)


def test_targets_written_out():
    expected_all = [[0.925, 0.025, 0.025, 0.025], [0.025, 0.025, 0.925, 0.025]]
    expected_others = [[0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3], [0.1 / 3, 0.1 / 3, 0.9, 0.1 / 3]]
    labels = torch.tensor([0, 2])
    assert_equal(smooth_labels(labels, 4, 0.1, "all", torch.float64), torch.tensor(expected_all).double(), 1e-7)
    assert_equal(smooth_labels(labels, 4, 0.1, "others", torch.float64), torch.tensor(expected_others).double(), 1e-7)


@pytest.mark.parametrize("mass", ["all", "others"])
def test_targets_are_distributions(mass):
    assert_equal(smoothed(0.3, mass).sum(-1), torch.ones(B, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.5])
def test_others_is_all_with_a_larger_alpha(alpha):
    assert_equal(smoothed(alpha, "others"), smoothed(alpha * K / (K - 1), "all"))


def test_unknown_mass_is_refused():
    with pytest.raises(ValueError, match="mass = 'most': must be 'all' or 'others'"):
        smooth_labels(LABELS, K, 0.1, "most")


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.75])
def test_equivalent_smoothing_of_smoothed_labels_is_alpha(alpha):
    ones = torch.ones(B, dtype=torch.float64)
    assert_equal(equivalent_smoothing(smoothed(alpha, "all"), LABELS), alpha * ones)
    assert_equal(equivalent_smoothing(smoothed(alpha, "others"), LABELS), alpha * K / (K - 1) * ones)


def test_equivalent_smoothing_of_a_teacher():
    probs = soften(TEACHER, 2.0)
    by_definition = ((1 - ONE_HOT) * probs).sum(-1) * K / (K - 1)  # Müller 2019, section 4
    assert_equal(equivalent_smoothing(probs, LABELS), by_definition)
    assert equivalent_smoothing(torch.full((1, K), 1 / K), LABELS[:1]).item() == pytest.approx(1.0)


def test_softening():
    assert_equal(soften(TEACHER, 1.0), TEACHER.exp() / TEACHER.exp().sum(-1, keepdim=True))
    assert_equal(soften(TEACHER, 4.0), (TEACHER / 4).exp() / (TEACHER / 4).exp().sum(-1, keepdim=True))
    assert_equal(soften(TEACHER, 1e9), torch.full((B, K), 1 / K, dtype=torch.float64), 1e-8)


# ---- losses -------------------------------------------------------------------------------------------------------


def test_entropy():
    assert_equal(entropy(torch.full((1, K), 1 / K).double()), torch.full((1,), math.log(K)).double(), 1e-7)
    assert torch.equal(entropy(ONE_HOT), torch.zeros(B, dtype=torch.float64))  # 0·log 0 = 0
    assert_equal(entropy(torch.tensor([[0.5, 0.5, 0.0]]).double()), torch.full((1,), math.log(2)).double(), 1e-7)
    assert_equal(entropy(soften(TEACHER, 2.0)), torch.distributions.Categorical(logits=TEACHER / 2).entropy())


@pytest.mark.parametrize(("student_t", "teacher_t"), [(1.0, 1.0), (4.0, 4.0), (1.0, 4.0)])
def test_kl_and_soft_cross_entropy(student_t, teacher_t):
    p_t, log_p_s = soften(TEACHER, teacher_t), (STUDENT / student_t).log_softmax(-1)
    kl = soft_kl(STUDENT, TEACHER, student_t=student_t, teacher_t=teacher_t)
    ce = soft_cross_entropy(STUDENT, TEACHER, student_t=student_t, teacher_t=teacher_t)
    assert_equal(kl, F.kl_div(log_p_s, p_t, reduction="none").sum(-1))
    assert_equal(ce, F.cross_entropy(STUDENT / student_t, p_t, reduction="none"))
    assert_equal(ce - kl, entropy(p_t))  # the teacher's entropy, which the student cannot change
    assert (kl > 0).all()


def test_kl_of_a_network_with_itself_is_zero():
    assert_equal(soft_kl(TEACHER, TEACHER, student_t=3.0, teacher_t=3.0), torch.zeros(B, dtype=torch.float64))


def test_kl_is_from_teacher_to_student():
    """One network is sure, the other knows nothing: the two directions differ."""
    sure, other = torch.tensor([[50.0, 0.0]]).double(), torch.tensor([[0.0, 0.0]]).double()
    assert soft_kl(other, sure, student_t=1.0, teacher_t=1.0).item() == pytest.approx(math.log(2))
    assert soft_kl(sure, other, student_t=1.0, teacher_t=1.0).item() == pytest.approx(25 - math.log(2))


def test_distillation_tends_to_logit_matching():
    """T²·KL -> ½/K Σ (ẑ_s - ẑ_t)² with an error of order 1/T (Hinton 2015, section 2.1)."""
    centred = (STUDENT - STUDENT.mean(-1, keepdim=True)) - (TEACHER - TEACHER.mean(-1, keepdim=True))
    limit = 0.5 / K * centred.square().sum(-1)
    errors = []
    for T in (1e2, 1e3, 1e4):
        errors.append((T**2 * soft_kl(STUDENT, TEACHER, student_t=T, teacher_t=T) - limit).abs().max().item())
    assert errors[0] < 0.2
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


def test_logit_matching_by_hand():
    student, teacher = torch.tensor([[1.0, 2.0, 3.0, 0.0]]), torch.tensor([[0.0, 4.0, 3.0, -1.0]])
    assert logit_mse(student, teacher).tolist() == [3.0]  # ½ (1 + 4 + 0 + 1)
    assert logit_mse(student, teacher, reduce="sum").tolist() == [3.0]
    assert logit_mse(student, teacher, reduce="mean").tolist() == [0.75]
    with pytest.raises(ValueError, match="reduce = 'max': must be 'sum' or 'mean'"):
        logit_mse(student, teacher, reduce="max")


LOSSES = {
    "cross_entropy": lambda z: cross_entropy(z, smoothed(0.1)),
    "entropy": lambda z: entropy(z.softmax(-1)),
    "soft_cross_entropy": lambda z: soft_cross_entropy(z, TEACHER, student_t=1.0, teacher_t=4.0),
    "soft_kl": lambda z: soft_kl(z, TEACHER, student_t=3.0, teacher_t=3.0),
    "soft_kl of the teacher": lambda z: soft_kl(STUDENT, z, student_t=3.0, teacher_t=2.0),
    "logit_mse": lambda z: logit_mse(z, TEACHER),
    "logit_mse, mean": lambda z: logit_mse(z, TEACHER, reduce="mean"),
    "equivalent_smoothing": lambda z: equivalent_smoothing(soften(z, 2.0), LABELS),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    logits = STUDENT.clone().requires_grad_()
    assert LOSSES[name](logits).shape == (B,)
    assert torch.autograd.gradcheck(LOSSES[name], (logits,), fast_mode=True)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "entropy"])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_logits_stay_finite(name, size):
    """Everything here is finite in exact arithmetic, so it has to be in fp32. (Not d(-p log p)/dp at p = 0.)"""
    logits = torch.zeros(B, K).scatter_(1, LABELS.roll(1)[:, None], size).requires_grad_()
    values = LOSSES[name](logits)
    (grad,) = torch.autograd.grad(values.sum(), logits)
    assert values.isfinite().all()
    assert grad.isfinite().all()


def test_two_extreme_networks_that_disagree():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0]])
    for distance in (soft_kl, soft_cross_entropy):
        value = distance(student, teacher, student_t=1.0, teacher_t=1.0)
        (grad,) = torch.autograd.grad(value.sum(), student)
        assert value.item() == 2e4
        assert grad.tolist() == [[1.0, -1.0, 0.0]]  # p_s - p_t


# ---- methods ------------------------------------------------------------------------------------------------------


def preset(name: str) -> Method:
    """The method that `method=NAME` is."""
    content = Conf().load("method", name)
    prototype = METHODS[content.pop("name")]
    return parse(type(prototype), content, defaults=prototype)


P_S = STUDENT.softmax(-1)


def p_t(T: float) -> torch.Tensor:
    return (TEACHER / T).softmax(-1)


def log_p_s(T: float = 1.0) -> torch.Tensor:
    return (STUDENT / T).log_softmax(-1)


def hard(alpha: float) -> torch.Tensor:
    return F.cross_entropy(STUDENT, LABELS, label_smoothing=alpha, reduction="none")


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_cross_entropy_preset(alpha):
    assert_equal(total(preset("ce"), make_batch(alpha, teacher=None)), hard(alpha))
    assert_equal(gradient(preset("ce"), alpha), P_S - smoothed(alpha))


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_hinton_preset(alpha):
    """0.1·CE + 0.9·4²·KL(p_t(4) ‖ p_s(4)), as in the CRD benchmark."""
    kl = (p_t(4) * (p_t(4).log() - log_p_s(4))).sum(-1)
    assert_equal(total(preset("kd"), make_batch(alpha)), 0.1 * hard(alpha) + 0.9 * 16 * kl)
    soft_gradient = 4 * ((STUDENT / 4).softmax(-1) - p_t(4))  # T² · (p_s(T) - p_t(T))/T
    assert_equal(gradient(preset("kd"), alpha), 0.1 * (P_S - smoothed(alpha)) + 0.9 * soft_gradient)


def test_muller_preset():
    """H(p_t(T), p_s): soft targets only, the teacher alone softened."""
    method = preset("kd_muller")
    assert list(method.loss(make_batch(0.1))) == ["soft"]
    assert_equal(total(method, make_batch(0.1)), -(p_t(1) * log_p_s()).sum(-1))
    warmer = parse(KD, {"temperature": 3.0}, defaults=method)
    assert_equal(total(warmer, make_batch()), -(p_t(3) * log_p_s()).sum(-1))
    assert_equal(gradient(warmer), P_S - p_t(3))


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_zhang_preset(alpha):
    """0.6·CE + 0.4·H(p_t(4), p_s)."""
    expected = 0.6 * hard(alpha) - 0.4 * (p_t(4) * log_p_s()).sum(-1)
    assert_equal(total(preset("kd_zhang"), make_batch(alpha)), expected)
    assert_equal(gradient(preset("kd_zhang"), alpha), 0.6 * (P_S - smoothed(alpha)) + 0.4 * (P_S - p_t(4)))


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_tan_preset(alpha):
    """0.1·CE + 0.9·0.6²·H(p_t, p_s(0.6)), with p_t at T = 0.6 the teacher's 4 largest of 5 classes among themselves."""
    told = p_t(0.6).scatter(1, TEACHER.argmin(-1, keepdim=True), 0.0)
    told = told / told.sum(-1, keepdim=True)
    expected = 0.1 * hard(alpha) - 0.9 * 0.36 * (told * log_p_s(0.6)).sum(-1)
    method = preset("kd_tan")
    assert_equal(total(method, make_batch(alpha)), expected)
    soft_gradient = 0.6 * ((STUDENT / 0.6).softmax(-1) - told)
    assert_equal(gradient(method, alpha), 0.1 * (P_S - smoothed(alpha)) + 0.9 * soft_gradient)
    assert_equal(method.teacher_probs(TEACHER), told)


@pytest.mark.parametrize("divergence", ["kl", "ce"])
def test_the_largest_classes_of_a_teacher(divergence):
    """Of one class, -log p_s of it; of all or more, what it is without; KL and cross-entropy differ by the entropy."""
    best = F.cross_entropy(STUDENT / 2, TEACHER.argmax(-1), reduction="none")
    plain = KD(temperature=2.0, beta=1.0, t_squared=False, divergence=divergence)
    assert_equal(total(replace(plain, top_k=1), make_batch()), best)
    for every in (K, K + 3):
        assert_equal(total(replace(plain, top_k=every), make_batch()), total(plain, make_batch()))
        assert_equal(gradient(replace(plain, top_k=every)), gradient(plain))
    some = replace(plain, top_k=3)
    told = some.teacher_probs(TEACHER)
    assert (told > 0).sum(-1).tolist() == [3] * B
    cross = -(told * log_p_s(2)).sum(-1)
    assert_equal(total(some, make_batch()), cross - (entropy(told) if divergence == "kl" else 0.0))


@pytest.mark.parametrize("given", [{"masked": "sum"}, {"count_rs": True}, {"keep_rs": 0.5}])
def test_the_largest_classes_go_with_none_of_what_is_about_all(given):
    with pytest.raises(InputError, match="top_k = 4: must be 0 with true_class, masked, count_rs"):
        KD(top_k=4, **given)
    assert identity(KD(), KD()) == {}


def test_the_distillation_term_of_wsl():
    """CE + 2.25·4²·H(p_t(4), p_s(4)): the column of `KD`'s table that has no file."""
    method = KD(temperature=4.0, beta=2.25, weights="add", t_squared=True, student_t="same", divergence="ce")
    assert_equal(total(method, make_batch()), hard(0.0) - 2.25 * 16 * (p_t(4) * log_p_s(4)).sum(-1))
    soft_gradient = 4 * ((STUDENT / 4).softmax(-1) - p_t(4))
    assert_equal(gradient(method), P_S - ONE_HOT + 2.25 * soft_gradient)


def test_logit_matching_preset():
    """0.4·CE + 0.6·½·mean (z_s - z_t)²; reduce="sum" is K times the squared error."""
    squared = (STUDENT - TEACHER).square().sum(-1)
    assert_equal(total(preset("logit_matching"), make_batch(0.1)), 0.4 * hard(0.1) + 0.6 * 0.5 / K * squared)
    assert_equal(gradient(preset("logit_matching")), 0.4 * (P_S - ONE_HOT) + 0.6 / K * (STUDENT - TEACHER))
    summed = LogitMatching(reduce="sum")
    assert_equal(total(summed, make_batch()), 0.4 * hard(0.0) + 0.6 * 0.5 * squared)
    assert_equal(gradient(summed), 0.4 * (P_S - ONE_HOT) + 0.6 * (STUDENT - TEACHER))


@pytest.mark.parametrize("weights", ["complement", "add"])
def test_beta_zero_is_cross_entropy(weights):
    method = KD(beta=0.0, weights=weights)
    assert_equal(total(method, make_batch(0.1)), hard(0.1))
    assert_equal(gradient(method, 0.1), P_S - smoothed(0.1))
    assert_equal(total(LogitMatching(beta=0.0), make_batch(0.1)), hard(0.1))


def test_beta_one_is_soft_targets_only():
    """Whatever the labels say."""
    method = KD(beta=1.0, temperature=2.0)
    first = make_batch()
    second = Batch(STUDENT, LABELS.roll(1), smooth_labels(LABELS.roll(1), K, 0.5, dtype=torch.float64), TEACHER)
    assert_equal(total(method, first), 4 * soft_kl(STUDENT, TEACHER, student_t=2.0, teacher_t=2.0))
    assert torch.equal(total(method, first), total(method, second))
    assert_equal(gradient(LogitMatching(beta=1.0)), STUDENT - TEACHER)


def test_added_weights_leave_the_hard_term_whole():
    batch = make_batch(0.1)
    complement, add = KD(beta=0.3).loss(batch), KD(beta=0.3, weights="add").loss(batch)
    assert_equal(complement["ce"], 0.7 * hard(0.1))
    assert_equal(add["ce"], hard(0.1))
    assert torch.equal(complement["soft"], add["soft"])


@pytest.mark.parametrize("student_t", ["same", "one"])
@pytest.mark.parametrize("divergence", ["kl", "ce"])
def test_the_squared_temperature_is_a_factor_of_the_soft_term(student_t, divergence):
    plain, squared = (
        KD(temperature=3.0, t_squared=t_squared, student_t=student_t, divergence=divergence)
        for t_squared in (False, True)
    )
    assert_equal(squared.loss(make_batch())["soft"], 9 * plain.loss(make_batch())["soft"])
    assert_equal(squared.loss(make_batch())["ce"], plain.loss(make_batch())["ce"])


@pytest.mark.parametrize("student_t", ["same", "one"])
def test_divergence_changes_the_value_and_not_the_gradient(student_t):
    kl, ce = (KD(temperature=3.0, beta=1.0, student_t=student_t, divergence=divergence) for divergence in ("kl", "ce"))
    assert_equal(gradient(kl), gradient(ce))
    assert_equal(total(ce, make_batch()) - total(kl, make_batch()), 9 * entropy(p_t(3)))


@pytest.mark.parametrize("student_t", ["same", "one"])
def test_which_networks_are_divided_by_the_temperature(student_t):
    method = KD(temperature=3.0, beta=1.0, t_squared=False, student_t=student_t)
    at = {"same": 3.0, "one": 1.0}[student_t]
    assert_equal(gradient(method), ((STUDENT / at).softmax(-1) - p_t(3)) / at)


# Those whose loss is one of logits; the others are in tests/methods.
OF_LOGITS = [name for name, method in METHODS.items() if method.teacher_use != "features" and not method.initial()]


@pytest.mark.parametrize("name", OF_LOGITS)
def test_every_method_keeps_its_promises(name):
    method = METHODS[name]
    logits = STUDENT.float().requires_grad_()
    batch = Batch(
        logits=logits,
        labels=LABELS,
        targets=smooth_labels(LABELS, K, 0.1),
        teacher_logits=TEACHER.float() if method.needs_teacher else None,  # what it does not ask for is not there
        progress=torch.tensor(0.5),
        peers=[Peer(10 * TEACHER.float(), smooth_labels(LABELS, K, 0.2))] if method.needs_peers else (),
    )
    terms = method.loss(batch)
    assert terms
    for term in terms.values():
        assert term.shape == (B,)
        assert term.dtype == torch.float32
        assert term.isfinite().all()
        (grad,) = torch.autograd.grad(term.sum(), logits, retain_graph=True)
        assert (grad.abs().sum(-1) > 0).all()  # each term teaches, by each example
    names = {"correct", "examples", "top1"}  # of the loop's own records
    assert not names & set(terms)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_methods_that_need_a_teacher_listen_to_it(name):
    method = METHODS[name]
    probs = method.teacher_probs(TEACHER)
    if method.needs_teacher:
        assert not torch.equal(total(method, make_batch()), total(method, make_batch(teacher=TEACHER.roll(1, 0))))
        assert_equal(probs.sum(-1), torch.ones(B, dtype=torch.float64))
    elif not method.needs_peers:
        assert torch.equal(total(method, make_batch()), total(method, make_batch(teacher=None)))
        assert probs is None


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_distribution_shown_to_the_student_is_at_the_teachers_temperature(temperature):
    assert_equal(KD(temperature=temperature).teacher_probs(TEACHER), p_t(temperature))
    assert_equal(LogitMatching().teacher_probs(TEACHER), p_t(1))


def test_a_method_without_a_loss_says_so():
    with pytest.raises(TypeError, match=r"Method does not define loss\(batch\)"):
        Method().loss(make_batch())
