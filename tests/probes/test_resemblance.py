"""The pull of soft labels by class, against its definition, and the measures of the matrix that it gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from lskd.data import DATASETS, Dataset, Part, Spec
from lskd.data.sets.cifar100 import SUPERCLASSES
from lskd.engine import Shared, run_probes, train
from lskd.engine.member import build_network
from lskd.errors import InputError
from lskd.losses import label_loss, soft_cross_entropy
from lskd.methods import METHODS
from lskd.models import ARCHS
from lskd.probes.resemblance import Resemblance, contrasts, pull, superclass_order
from lskd.recipe import Recipe
from lskd.run import Named, ProbeSpec, Run

NAMES = DATASETS["cifar100"].spec.class_names


def logits(seed: int, rows: int = 5, classes: int = 4) -> torch.Tensor:
    return torch.randn(rows, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_pull_is_the_gradient_of_the_two_losses(temperature):
    student, teacher, labels = logits(0).requires_grad_(), logits(1), torch.tensor([0, 1, 2, 3, 3])
    soft = temperature**2 * soft_cross_entropy(student, teacher, student_t=temperature, teacher_t=temperature)
    (gradient,) = torch.autograd.grad((soft - label_loss(student, labels)).sum(), student)
    torch.testing.assert_close(pull(student.detach(), teacher, labels, temperature), -gradient)


def test_a_pull_by_hand():
    """T = 1 leaves p_t - onehot: a teacher that gives half to a wrong class pulls by a half."""
    teacher = torch.tensor([[0.0, 0.0, -math.inf]], dtype=torch.float64)
    assert pull(logits(0, 1, 3), teacher, torch.tensor([0]), 1.0).tolist() == [pytest.approx([-0.5, 0.5, 0.0])]


def test_measures_of_a_hand_made_matrix():
    """Two superclasses of two. In the first three rows the class of the same one resembles most, least, and as much."""
    nan = math.nan  # the diagonal does not count
    matrix = torch.tensor([[nan, 3, 1, 1], [0, nan, 1, 1], [2, 2, nan, 2], [5, 1, 3, nan]], dtype=torch.float64)
    measured = contrasts(matrix, [[0, 1], [2, 3]])
    assert measured["resemblance_auc"] == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert measured["resemblance_within"] == pytest.approx((3 + 0 + 2 + 3) / 4)
    assert measured["resemblance_between"] == pytest.approx((1 + 1 + 1 + 1 + 2 + 2 + 5 + 1) / 8)


def test_superclasses_are_those_of_the_data():
    assert sorted(superclass_order()) == sorted(NAMES)
    assert [len(group) for group in SUPERCLASSES.values()] == [5] * 20
    # The numbers that the data set itself gives its superclasses, by the numbers of their classes.
    numbers = {name: i for i, name in enumerate(NAMES)}
    groups = [sorted(numbers[name] for name in group) for group in SUPERCLASSES.values()]
    assert (groups[0], groups[14], groups[19]) == ([4, 30, 55, 72, 95], [2, 11, 35, 46, 98], [41, 69, 81, 85, 89])


def test_data_without_superclasses_is_an_error():
    with pytest.raises(InputError, match="cifar10 has no superclasses here; allowed: cifar100"):
        Resemblance().check(DATASETS["cifar10"].spec)
    Resemblance().check(DATASETS["cifar100"].spec)


@pytest.mark.usefixtures("one_thread")
def test_a_run_and_its_trained_network_show_the_mean_pull_of_each_class():
    spec = Spec("noise", "Noise", 100, (3, 4, 4), train=300, test=100, class_names=NAMES, digest="")
    generator = torch.Generator().manual_seed(0)
    parts = {
        name: Part(torch.randint(256, (n, 3, 4, 4), generator=generator, dtype=torch.uint8), torch.arange(n) % 100)
        for name, n in (("train", 300), ("test", 100))
    }
    arch, recipe = Named("mlp", ARCHS["mlp"]), Recipe(lr=0.1, batch_size=100, steps=3)
    taught_by = Run(Dataset("noise"), arch, Named("ce", METHODS["ce"]), recipe, seed=7)
    run = Run(Dataset("noise"), arch, Named("kd", METHODS["kd"]), recipe, teacher=taught_by)
    teacher, shared = build_network(taught_by, spec), Shared(torch.device("cpu"))
    two = ProbeSpec("resemblance", Resemblance(examples=2))  # of three of each class
    outcome = train(run, spec, parts, teacher, shared=shared, probes=[two])
    assert run_probes(run, spec, parts, outcome.network, [two], shared, teacher) == outcome.readings

    [reading] = outcome.readings[two.key]
    assert reading["step"] == 3
    assert set(reading["train"]) == {*Resemblance.gives, "matrix"}
    pixels, labels = parts["train"].images[:200].float() / 255, parts["train"].labels[:200]
    outcome.network.eval()
    with torch.no_grad():
        z, t = outcome.network(pixels), teacher(pixels)
    gradients = 4 * (F.softmax(z / 4, 1) - F.softmax(t / 4, 1)) - (F.softmax(z, 1) - F.one_hot(labels, 100))
    expected = -gradients.view(2, 100, 100).mean(0)
    torch.testing.assert_close(torch.tensor(reading["train"]["matrix"]), expected, rtol=6e-3, atol=1e-6)
