"""Stability and class centres, against their formulas written out with NumPy over whole arrays."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lskd.data import DATASETS, Dataset, Part, Spec
from lskd.engine import Shared, run_probes, train
from lskd.errors import InputError
from lskd.methods import METHODS
from lskd.models.archs import MLPArch
from lskd.probes import Seen
from lskd.probes.class_centres import BINS, ClassCentres, pairs_of
from lskd.probes.probe import Scene, by_class
from lskd.probes.stability import Stability, scatter
from lskd.recipe import Recipe
from lskd.run import Named, ProbeSpec, Run

CLASSES = 5
LABELS = {"train": torch.arange(300) * 7 % 11 % CLASSES, "test": torch.arange(40) % 4}  # of class 4 none is tested
PROBES = [
    ProbeSpec("stability", Stability()),
    ProbeSpec("class_centres", ClassCentres()),
    ProbeSpec("class_centres", ClassCentres(scale="none", similar="confusion")),
    ProbeSpec("class_centres", ClassCentres(scale="within", similar="groups", groups=(("a", "b"), ("d",)))),
]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def looked() -> tuple[list[dict[str, Any]], dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """What the probes see of a trained network, and of each part its labels, penultimate activations, probabilities."""
    spec = Spec("noise", "Noise", CLASSES, (3, 4, 4), train=300, test=40, class_names=tuple("abcde"), digest="")
    generator = torch.Generator().manual_seed(0)
    parts = {
        name: Part(torch.randint(256, (len(of), 3, 4, 4), generator=generator, dtype=torch.uint8), of)
        for name, of in LABELS.items()
    }
    arch = Named("mlp", MLPArch(hidden=(8,)))
    run = Run(Dataset("noise"), arch, Named("ce", METHODS["ce"]), Recipe(lr=0.1, batch_size=100, steps=9))
    shared = Shared(torch.device("cpu"))
    outcome = train(run, spec, parts, shared=shared, probes=PROBES)
    assert run_probes(run, spec, parts, outcome.network, PROBES, shared) == outcome.readings
    arrays = {}
    network = outcome.network.double().eval()
    for name, (images, labels, _) in parts.items():
        seen: list[torch.Tensor] = []
        handle = network.head.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        with torch.no_grad():
            p = network(images.double() / 255).softmax(1).numpy()
        handle.remove()
        arrays[name] = labels.numpy(), seen[0].numpy(), p
    return [outcome.readings[probe.key][0] for probe in PROBES], arrays


@pytest.mark.parametrize("part", ["train", "test"])
def test_stability_is_its_formula(looked, part):
    [reading, *_], arrays = looked
    labels, _, p = arrays[part]
    total = dict.fromkeys(("variance", "deviation", "squared_norm", "norm"), 0.0)
    present = sorted({*labels.tolist()})
    for c in present:
        own = p[labels == c]
        away = np.linalg.norm(own - own.mean(0), axis=1)
        total["variance"] += np.var(own[:, c])
        total["deviation"] += np.std(own[:, c])
        total["squared_norm"] += np.mean(away**2)
        total["norm"] += np.mean(away)
        assert reading[part]["class_probability"][str(c)] == pytest.approx(own[:, c].mean(), rel=1e-5)
        assert reading[part]["class_deviation"][str(c)] == pytest.approx(own[:, c].std(), rel=1e-4)
    assert len(present) == len(reading[part]["class_probability"]) == (5 if part == "train" else 4)
    for name, value in total.items():
        assert reading[part][f"one_minus_s_{name}"] == pytest.approx(value / len(present), rel=1e-5)


def test_small_differences_of_large_probabilities_are_kept():
    """Of 0.5 and 0.5 + 2e-9 the variance is 1e-18: as a difference of E[p²] and (E[p])² nothing would be left of it."""
    p = torch.tensor([[0.5, 0.5], [0.5 + 2e-9, 0.5 - 2e-9]], dtype=torch.float64)
    variance, deviation, squared, norm = scatter(p, 0)
    assert (variance, deviation) == pytest.approx((1e-18, 1e-9), rel=1e-6)
    assert (squared, norm) == pytest.approx((2e-18, math.sqrt(2) * 1e-9), rel=1e-6)


def test_classes_come_one_after_the_other_and_no_more_is_held_than_needed():
    """30 images of 3 classes in no order, 4 at a time; of class 1 there are none."""
    labels = torch.tensor([3, 0, 2, 0, 3, 0] * 5)
    shown: list[int] = []

    def batches(part, indices):
        for piece in indices.split(4):
            shown.append(len(piece))
            yield piece

    scene = Scene(
        network=torch.nn.Identity(), forward=torch.nn.Identity(), batch=4, labels={"train": labels}, outputs=None,
        batches=batches, evaluated="train", class_names=tuple("abcd"), generator=torch.Generator(),
    )  # fmt: skip
    found = []
    for number, rows in by_class(scene, "train", lambda images: torch.stack([images, -images], 1)):
        assert sum(shown) < labels.bincount()[: number + 1].sum() + 4  # not a batch more than the class needs
        assert rows.dtype == torch.float64
        found.append((number, rows[:, 0].tolist()))
    assert found == [(c, (labels == c).nonzero().flatten().tolist()) for c in (0, 2, 3)]


def centres(labels, x):
    present = sorted({*labels.tolist()})
    means = np.stack([x[labels == c].mean(0) for c in present])
    scatters = np.array([np.mean(np.sum((x[labels == c] - m) ** 2, 1)) for c, m in zip(present, means, strict=True)])
    return present, means, scatters


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("which", [1, 2, 3])
def test_distances_of_centres_are_their_formulas(looked, which, part):
    readings, arrays = looked
    settings, reading = PROBES[which].settings, readings[which][part]
    labels, x, p = arrays[part]
    present, means, scatters = centres(labels, x)
    overall = means - means.mean(0)
    within = np.sqrt(scatters.mean())
    unit = {"total": np.sqrt(np.mean(scatters + np.sum(overall**2, 1))), "within": within, "none": 1.0}[settings.scale]
    apart = np.array([[np.linalg.norm(a - b) for b in means] for a in means]) / unit
    pairs = {frozenset((a, b)) for a in range(len(present)) for b in range(a)}
    if settings.similar == "groups":
        near, far = {frozenset((0, 1))}, {frozenset((0, 3)), frozenset((1, 3))}
    else:
        like = -apart
        if settings.similar == "confusion":
            like = np.stack([p[labels == c].mean(0)[present] for c in present])
        np.fill_diagonal(like, -np.inf)
        near = {frozenset((c, int(np.argmax(row)))) for c, row in enumerate(like)}
        far = pairs - near
    similar, dissimilar = (np.array([apart[tuple(pair)] for pair in chosen]) for chosen in (near, far))
    expected = {
        "centre_distance_similar": similar.mean(),
        "centre_distance_dissimilar": dissimilar.mean(),
        "centre_ratio": similar.mean() / dissimilar.mean(),
        "centre_variation": dissimilar.std() / dissimilar.mean(),
        "within_scatter": within / unit,
        "centre_overlap": within / unit / similar.mean(),
    }
    assert {name: reading[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    of_classes = {str(c): apart[i].sum() / (len(present) - 1) for i, c in enumerate(present)}
    assert reading["class_distance"] == pytest.approx(of_classes, rel=1e-5)
    of_classes = {str(c): np.sqrt(scatters[i]) / unit for i, c in enumerate(present)}
    assert reading["class_scatter"] == pytest.approx(of_classes, rel=1e-5)
    counts = reading["histogram"]
    assert (sum(counts["similar"]), sum(counts["dissimilar"])) == (len(near), len(far))
    assert len(counts["similar"]) == BINS


def test_everything_that_a_probe_says_it_gives_is_there(looked):
    for probe, reading in zip(PROBES, looked[0], strict=True):
        assert set(probe.settings.gives) <= set(reading["train"]) & set(reading["test"])
        json.dumps(reading, allow_nan=False)


@pytest.mark.parametrize("which", [0, 1])
def test_pictures_show_both_parts_of_each_run(looked, which):
    seen = [Seen("hard", 0, looked[0][which]), Seen("LS", 0, looked[0][which])]
    figure = Figure(figsize=(7, 7))
    settings = PROBES[which].settings
    said = settings.draw(settings.pictures[0], figure, seen)
    figure.draw_without_rendering()
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    if which == 0:
        assert titles == ["train part", "test part"] and "in the order of the first run's" in said
        order = figure.axes[0].lines[0].get_ydata()
        assert len(figure.axes[0].lines) == 2 and list(order) == sorted(order, reverse=True)
    else:
        assert titles == [f"{name}\n{part} part, seed 0" for name in ("hard", "LS") for part in ("train", "test")]
        assert "similar: each class and its nearest" in said


def test_pairs_within_and_between_groups():
    assert pairs_of([[0, 1, 2], [3]]) == ([(0, 1), (0, 2), (1, 2)], [(0, 3), (1, 3), (2, 3)])


@pytest.mark.parametrize(
    ("settings", "name", "message"),
    [
        (
            {"similar": "superclasses"},
            "cifar10",
            "superclasses: cifar10 has none here; allowed with cifar100",
        ),
        ({"similar": "groups", "groups": (("cat", "dgo"),)}, "cifar10", "groups = 'dgo': did you mean 'dog'"),
        ({"similar": "groups", "groups": (("cat", "dog"),)}, "cifar10", "two classes of one group, and two groups"),
        ({"similar": "groups"}, "cifar10", r"groups = \(\): must be given with similar=groups"),
        ({"groups": (("cat", "dog"), ("cat",))}, "cifar10", "groups"),
    ],
)
def test_pairs_that_there_are_not_are_errors(settings, name, message):
    with pytest.raises(InputError, match=message):
        ClassCentres(**settings).check(DATASETS[name].spec)


def test_superclasses_are_pairs_of_one_superclass():
    probe = ClassCentres(similar="superclasses")
    probe.check(DATASETS["cifar100"].spec)
    near, far = pairs_of(probe._groups(DATASETS["cifar100"].spec.class_names))
    assert (len(near), len(far)) == (20 * 10, 4950 - 200)
