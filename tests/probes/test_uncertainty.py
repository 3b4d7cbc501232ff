"""Predictive uncertainty and confidence diversity, against closed forms and against the estimator written out."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import special, stats

from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.data import Dataset, Part, Spec
from lskd.engine import Shared, run_probes, train
from lskd.engine.member import build_network
from lskd.errors import InputError
from lskd.methods import METHODS
from lskd.methods.kd import KD
from lskd.models.archs import MLPArch
from lskd.probes import Seen
from lskd.probes.uncertainty import Uncertainty, differential_entropy
from lskd.recipe import Recipe
from lskd.run import Named, ProbeSpec, Run
from lskd.tables.metric import Metric
from lskd.tables.recorded import check_probed

K = 5
CONF = Conf()


def written_out(values: np.ndarray, k: int) -> float:
    """Kozachenko & Leonenko's estimate, all distances at once; no ties."""
    distances = np.sort(np.abs(values[:, None] - values[None]), axis=1)[:, k]  # the 0th is the value itself
    return special.digamma(len(values)) - special.digamma(k) + np.mean(np.log(2 * distances))


@pytest.mark.parametrize("k", [1, 3, 10])
def test_the_estimate_is_the_formula(k):
    values = np.random.RandomState(k).rand(200) ** 3
    assert differential_entropy(torch.tensor(values), k) == pytest.approx(written_out(values, k), abs=1e-12)
    assert differential_entropy(torch.tensor(values), k, torch.tensor(1 - values)) == pytest.approx(
        written_out(values, k), abs=1e-9
    )


@pytest.mark.parametrize(
    "density",
    [stats.uniform(), stats.uniform(scale=0.25), stats.beta(2, 5), stats.beta(0.5, 0.5), stats.beta(30, 1)],
    ids=["uniform", "uniform on a quarter", "Beta(2, 5)", "Beta(½, ½)", "Beta(30, 1)"],
)
def test_it_finds_the_entropy_of_a_density(density):
    """The standard error is sd(log f)/√N + that of log ε, (trigamma(3)/N)^½: at most 0.01 here."""
    values = torch.tensor(density.rvs(20_000, random_state=0))
    assert differential_entropy(values) == pytest.approx(density.entropy(), abs=0.03)


def test_a_scale_is_its_logarithm():
    values = torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert differential_entropy(values / 8) == pytest.approx(differential_entropy(values) - math.log(8), abs=1e-9)


def test_confidences_very_near_one_are_told_apart():
    """C = 1 - exp(-30 - x), x exponential: 1 - C is 1e-13 to 1e-16, of which doubles near 1 keep next to nothing."""
    x = torch.tensor(stats.expon().rvs(5000, random_state=1))
    rest = (-30 - x).exp()  # uniform on (0, exp(-30)): the entropy is -30
    assert differential_entropy(1 - rest, 3, rest) == pytest.approx(-30, abs=0.05)
    assert abs(differential_entropy(1 - rest) + 30) > 0.1  # without it they tie


def test_ties_take_the_next_distance_with_all_that_lie_within():
    """Values 0, 0, 0, 0, 1, 3 at k = 3: of each 0 the other three are at distance 0, the next, 1, is at 1: 4 within.
    Of 1 the third nearest is a 0 (four of them, at 1, and the 3 at 2), of 3 the third nearest is at 3."""
    values = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    logs = [math.log(2)] * 4 + [math.log(2), math.log(6)]
    neighbours = [4] * 4 + [3, 3]
    expected = special.digamma(6) - np.mean(special.digamma(neighbours)) + np.mean(logs)
    assert differential_entropy(values[torch.tensor([4, 0, 1, 5, 2, 3])]) == pytest.approx(expected, abs=1e-12)
    assert differential_entropy(torch.ones(9)) == -math.inf
    with pytest.raises(ValueError, match="k = 3: must be less than the number of values, 3"):
        differential_entropy(torch.ones(3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature = 0.0: must be > 0 and finite"),
        ({"k": 0}, "k = 0: must be >= 1"),
        ({"of": "teacher", "temperature": 4.0}, "temperature = 4: must be left out with of=teacher"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        Uncertainty(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "ce", "teacher": None}, "the run must have a teacher, with teacher_mode=eval"),
        ({"method": "at"}, "method must show it a distribution of its teacher, as kd does; method=at does not"),
        ({"method": "at", "method.kd": 1.0}, None),
        ({"method": "kd"}, None),
    ],
)
def test_what_a_teacher_tells_is_asked_only_where_it_tells_something(settings, message):
    form = {"dataset": "cifar10", "arch": "resnet20", "teacher": "resnet20", **settings}
    run, metric = parse_run(form, CONF), Metric("confidence_diversity")
    check_probed(metric, [ProbeSpec("uncertainty", Uncertainty())], run, CONF)
    told = ProbeSpec("uncertainty", Uncertainty(of="teacher"))
    with contextlib.nullcontext() if message is None else pytest.raises(InputError, match=message):
        check_probed(metric, [told], run, CONF)


PROBES = [ProbeSpec("uncertainty", Uncertainty()), ProbeSpec("uncertainty", Uncertainty(temperature=4.0)),
          ProbeSpec("uncertainty", Uncertainty(of="teacher"))]  # fmt: skip
METHOD = KD(beta=0.4, t_squared=False, student_t="one", divergence="ce", true_class=0.69)


@pytest.mark.usefixtures("one_thread")
def test_a_run_and_its_trained_network_show_the_entropies_of_their_predictions():
    spec = Spec("noise", "Noise", K, (3, 4, 4), train=60, test=40, class_names=tuple("abcde"), digest="")
    generator = torch.Generator().manual_seed(0)
    parts = {
        name: Part(torch.randint(256, (n, 3, 4, 4), generator=generator, dtype=torch.uint8), torch.arange(n) * 7 % K)
        for name, n in (("train", 60), ("test", 40))
    }
    arch, recipe = Named("mlp", MLPArch(hidden=(8,))), Recipe(lr=0.5, batch_size=20, steps=40)
    shared = Shared(torch.device("cpu"))
    taught_by = Run(Dataset("noise"), arch, Named("ce", METHODS["ce"]), recipe, seed=7)
    teacher = train(taught_by, spec, parts, shared=shared).network
    run = Run(Dataset("noise"), arch, Named("kd", METHOD), recipe, teacher=taught_by)
    outcome = train(run, spec, parts, teacher, shared=shared, probes=PROBES)
    fresh = build_network(taught_by, spec)
    fresh.load_state_dict(teacher.state_dict())
    assert run_probes(run, spec, parts, outcome.network, PROBES, shared, fresh) == outcome.readings

    for probe, network, temperature in (
        (PROBES[0], outcome.network, 1.0),
        (PROBES[1], outcome.network, 4.0),
        (PROBES[2], teacher, outcome.result["solved"]["temperature"]),
    ):
        [reading] = outcome.readings[probe.key]
        assert set(reading) == {"step", "train", "test"}
        for name, (images, labels, _) in parts.items():
            with torch.no_grad():
                p = (network.double().eval()(images.double() / 255) / temperature).softmax(1).numpy()
            own, found = p[np.arange(len(labels)), labels], reading[name]
            assert found["predictive_uncertainty"] == pytest.approx(stats.entropy(p, axis=1).mean(), rel=1e-5)
            assert found["confidence_diversity"] == pytest.approx(written_out(own, 3), abs=2e-3)  # logits are fp32
            assert found["confidence_variance"] == pytest.approx(own.var(), rel=1e-5)
            counts = np.array(found["confidences"][0].split(), dtype=int)
            assert np.abs(counts - np.histogram(own, 50, (0, 1))[0]).sum() <= 2
            network.float()

    figure = Figure(figsize=(5, 3))
    seen = [Seen("student", 0, outcome.readings[PROBES[0].key][0])]
    words = PROBES[0].settings.draw("confidences", figure, seen)
    assert [axes.get_title() for axes in figure.axes] == ["train part", "test part"]
    assert "bins of 0.02" in words
