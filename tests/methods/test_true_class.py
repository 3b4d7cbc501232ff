"""An equal mean target of the true class: the temperature that gives it is solved for before a training."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment
from lskd.engine import Interrupted, Outcome, Shared, train
from lskd.engine.seeds import generator_for
from lskd.errors import InputError
from lskd.methods import METHODS, Lesson
from lskd.methods.kd import KD
from lskd.methods.wsl import WSL
from lskd.models.archs import MLPArch
from lskd.recipe import Recipe
from lskd.run import Named, Run
from lskd.targets import TARGETS
from lskd.targets.distributions import smooth_labels
from lskd.targets.label_smoothing import LabelSmoothing

K = 4
ONE_TARGET = {"beta": 0.4, "t_squared": False, "student_t": "one", "divergence": "ce"}


def lesson(logits: torch.Tensor, labels: torch.Tensor, alpha: float = 0.0) -> Lesson:
    return Lesson(logits.split(3), labels, smooth_labels(torch.arange(K), K, alpha, "others", torch.float64))


@pytest.mark.parametrize(("true_class", "alpha"), [(0.85, 0.0), (0.72, 0.0), (0.75, 0.1)])
def test_one_image_has_a_closed_form(true_class, alpha):
    """Logit a for the label and 0 for K-1 others: p_y = 1/(1 + (K-1)·exp(-a/T)), so T = a / log((K-1)·p/(1-p))."""
    p = (true_class - 0.6 * (1 - alpha)) / 0.4
    expected = 5 / math.log((K - 1) * p / (1 - p))
    method = KD(**ONE_TARGET, true_class=true_class)
    settled = method.settle(lesson(5 * torch.eye(K, dtype=torch.float64), torch.arange(K), alpha))
    assert list(method.to_solve) == ["temperature"]
    assert not settled.to_solve
    assert settled == KD(expected, **ONE_TARGET) or settled.temperature == pytest.approx(expected, rel=1e-9)


def test_of_several_temperatures_it_is_the_largest():
    """An image that is right, and one whose label comes second: p_y of the latter rises with T, and then falls."""
    logits = torch.tensor([[9.0, 0, 0, 0], [9.0, 8.0, -20, -20]], dtype=torch.float64)
    labels = torch.tensor([0, 1])

    def mean_target(T: float) -> float:
        return 0.6 + 0.4 * (logits / T).softmax(1)[torch.arange(2), labels].mean().item()

    T = KD(**ONE_TARGET, true_class=0.86).settle(lesson(logits, labels)).temperature
    assert mean_target(T) == pytest.approx(0.86, abs=1e-9)
    higher = [mean_target(T * 1.01**i) for i in range(1, 700)]
    assert max(higher) < 0.86  # no other above
    assert mean_target(0.2) < 0.86  # there is another one below: the mean rises, too


@pytest.mark.parametrize("true_class", [0.99, 0.65])
def test_no_temperature_does_it(true_class):
    """Half of the images are given to a wrong class: p_y is on average 1/2 at most, and 1/K or more."""
    logits, labels = 5 * torch.eye(K, dtype=torch.float64)[[0, 1, 2, 2]], torch.tensor([0, 1, 3, 0])
    rule = "must be between 0.7001 and 0.8, what this teacher gives at any T"
    with pytest.raises(InputError, match=f"method.true_class = {true_class}: {rule}"):
        KD(**ONE_TARGET, true_class=true_class).settle(lesson(logits, labels))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"true_class": 1.0}, r"true_class = 1\.0: must be in \(0, 1\), or null"),
        ({"true_class": 0.85, "temperature": 2.0}, r"temperature = 2\.0: must be left out with true_class"),
        ({"true_class": 0.85, "weights": "add"}, "weights = 'add': must be \"complement\" with true_class"),
        ({"true_class": 0.85, "t_squared": True}, "t_squared = True: must be false with true_class"),
        ({"true_class": 0.85, "student_t": "same"}, "student_t = 'same': must be \"one\" with true_class"),
        ({"true_class": 0.85, "beta": 0.0}, r"beta = 0\.0: must be > 0 with true_class"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        KD(**{**ONE_TARGET, **settings})


def test_weights_that_change_with_the_student_have_no_such_target():
    with pytest.raises(InputError, match=r"true_class = 0\.85: must be null with method=wsl"):
        WSL(**ONE_TARGET, weights="complement", true_class=0.85)


# ---- in a training ------------------------------------------------------------------------------------------------

SPEC = Spec("noise", "Noise", K, (3, 4, 4), train=40, test=8, class_names=tuple("abcd"), digest="")
RECIPE = Recipe(lr=0.1, batch_size=10, epochs=30, momentum=0.9, augment=Augment(pad=1, flip=True))
ARCH = Named("mlp", MLPArch(hidden=(16,)))
TEACHER = Run(Dataset("noise"), ARCH, Named("ce", METHODS["ce"]), RECIPE)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def parts() -> dict[str, Part]:
    """Noise, the lighter the higher the class: a teacher learns some of it."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, n in (("train", 40), ("test", 8)):
        labels = torch.arange(n) % K
        noise = torch.randint(130, (n, 3, 4, 4), generator=generator, dtype=torch.uint8)
        found[name] = Part(noise + 40 * labels[:, None, None, None].to(torch.uint8), labels)
    return found


@pytest.fixture(scope="module")
def teacher(parts) -> torch.nn.Module:
    return train(TEACHER, SPEC, parts, shared=Shared(torch.device("cpu"))).network


def student(method: KD, **more: object) -> Run:
    return dataclasses.replace(TEACHER, method=Named("kd", method), teacher=TEACHER, streams="own", **more)


def fit(run: Run, parts: dict[str, Part], teacher: torch.nn.Module, **how: object) -> Outcome:
    return train(run, SPEC, parts, teacher, shared=Shared(torch.device("cpu")), **how)


def test_it_is_solved_on_the_views_of_the_first_epoch_and_recorded(parts, teacher):
    run = student(KD(**ONE_TARGET, true_class=0.75))
    shared = Shared(torch.device("cpu"))
    outcome = train(run, SPEC, parts, teacher, shared=shared)
    T = outcome.result["solved"]["temperature"]
    source = shared.task(run, parts).train
    pixels = source.take(torch.arange(40), source.draw(generator_for("0/1", "augment", 0)))
    with torch.no_grad():
        p = (teacher.eval()(pixels.float() / 255).double() / T).softmax(1)
    mean = p[torch.arange(40), parts["train"].labels].mean().item()
    assert 0.6 + 0.4 * mean == pytest.approx(0.75, abs=1e-6)
    assert outcome.result["gamma"] == pytest.approx((1 - mean) * K / (K - 1), abs=1e-6)
    assert f"T={T:g}" in outcome.result["run"]


def test_it_trains_as_with_that_temperature_given(parts, teacher):
    asked = fit(student(KD(**ONE_TARGET, true_class=0.75)), parts, teacher)
    T = asked.result["solved"]["temperature"]
    given = fit(student(KD(T, **ONE_TARGET)), parts, teacher)
    assert "solved" not in given.result
    for name, value in given.network.state_dict().items():
        assert torch.equal(value, asked.network.state_dict()[name])
    other = fit(student(KD(1.5 * T, **ONE_TARGET)), parts, teacher)
    assert not torch.equal(other.network.head.weight, given.network.head.weight)


def test_an_interrupted_run_goes_on_to_the_same_bits(parts, teacher, tmp_path):
    run, path = student(KD(**ONE_TARGET, true_class=0.75)), tmp_path / "checkpoint"
    whole, steps = fit(run, parts, teacher), iter(range(1000))
    with pytest.raises(Interrupted):
        fit(run, parts, teacher, checkpoint=path, stop=lambda: next(steps) == 57)
    resumed = fit(run, parts, teacher, checkpoint=path)
    assert resumed.result["solved"] == whole.result["solved"]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name])


def test_a_target_that_changes_has_no_such_mean():
    method = KD(**ONE_TARGET, true_class=0.75)
    with pytest.raises(InputError, match="target = boot_soft: must be one of the label alone with method=kd"):
        student(method, target=Named("boot_soft", TARGETS["boot_soft"]))
    student(method, target=Named("label_smoothing", LabelSmoothing(0.1)))
    student(KD(**ONE_TARGET), target=Named("boot_soft", TARGETS["boot_soft"]))


def test_a_run_keeps_its_identity_and_says_that_it_will_solve():
    run = student(KD(**ONE_TARGET, true_class=0.75))
    settled = run.settled(KD(3.0, **ONE_TARGET))
    assert (settled.id, settled.stream_seed) == (run.id, run.stream_seed)
    assert run.identity()["method"]["true_class"] == 0.75
    assert "kd T solved for from mlp" in str(run)
    assert "kd T=3 from mlp" in str(settled)
    assert student(KD(**ONE_TARGET)).id != run.id
