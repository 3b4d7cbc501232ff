"""Probes look at a network in training and leave no trace in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment
from lskd.data.images import Resident, centre
from lskd.engine import Interrupted, Outcome, Shared, run_probes, train
from lskd.methods import METHODS
from lskd.models import CifarResNetArch
from lskd.probes.mutual_information import MutualInformation
from lskd.probes.penultimate import Penultimate
from lskd.recipe import Recipe
from lskd.run import Named, ProbeSpec, Run

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("ant", "bee", "cow", "dog")
SPEC = Spec("noise", "Noise", 4, (3, 10, 10), train=20, test=12, class_names=NAMES, digest="")
GENERATOR = torch.Generator().manual_seed(0)
PARTS = {
    name: Part(torch.randint(256, (n, 3, 10, 10), generator=GENERATOR, dtype=torch.uint8), torch.arange(n) % 4)
    for name, n in (("train", 20), ("test", 12))
}
RUN = Run(
    Dataset("noise"),
    Named("resnet8", CifarResNetArch(depth=8, stem=4, widths=(4, 6, 8))),
    Named("ce", METHODS["ce"]),
    Recipe(lr=0.1, batch_size=8, steps=7, momentum=0.9, augment=Augment(pad=2, flip=True)),
)
PLANE = ProbeSpec("penultimate", Penultimate(classes=("ant", "cow", "dog"), examples=4))
INFORMATION = ProbeSpec("mutual_information", MutualInformation(classes=("bee", "dog"), examples=3, every=2))
BOTH = (PLANE, INFORMATION)


def fit(*probes: ProbeSpec, **options: object) -> Outcome:
    return train(RUN, SPEC, PARTS, shared=Shared(torch.device("cpu")), probes=probes, **options)


def test_a_run_that_is_observed_is_the_same_run():
    plain, probed = fit(), fit(*BOTH)
    for name, value in plain.network.state_dict().items():
        assert torch.equal(value, probed.network.state_dict()[name]), name
    assert plain.result["last"] == probed.result["last"]
    assert plain.readings == {}
    assert probed.network.training == plain.network.training


def test_looks_are_where_the_observer_asks_for_them_and_at_the_end():
    readings = fit(*BOTH).readings
    assert [reading["step"] for reading in readings[INFORMATION.key]] == [0, 2, 4, 6, 7]
    assert [reading["step"] for reading in readings[PLANE.key]] == [7]
    assert set(readings[INFORMATION.key][0]["train"]) == set(MutualInformation.gives)
    plane = readings[PLANE.key][0]
    assert set(plane) == {"step", "train", "test"}
    assert [len(points) for points in plane["train"]["points"]] == [4, 4, 4]
    assert [len(points) for points in plane["test"]["points"]] == [3, 3, 3]  # there are no more of a class


def test_an_interrupted_run_has_seen_the_same(tmp_path: Path):
    undisturbed = fit(*BOTH).readings
    checkpoint = tmp_path / "checkpoint.pt"
    for stop_at in (1, 2, 0):
        calls = iter(range(100))
        with pytest.raises(Interrupted):
            fit(*BOTH, checkpoint=checkpoint, stop=lambda calls=calls, stop_at=stop_at: next(calls) == stop_at)
    assert fit(*BOTH, checkpoint=checkpoint).readings == undisturbed


def test_a_checkpoint_that_was_observed_otherwise_is_begun_again(tmp_path: Path):
    checkpoint, calls = tmp_path / "checkpoint.pt", iter(range(100))
    with pytest.raises(Interrupted):
        fit(checkpoint=checkpoint, stop=lambda: next(calls) == 2)
    assert fit(*BOTH, checkpoint=checkpoint).readings == fit(*BOTH).readings


def test_a_trained_network_shows_what_its_training_showed_last():
    outcome = fit(PLANE)
    shared = Shared(torch.device("cpu"))
    assert run_probes(RUN, SPEC, PARTS, outcome.network, [PLANE], shared) == outcome.readings


@pytest.mark.parametrize("augment", [Augment(pad=2, flip=True), Augment(crop=7, flip=True), Augment(crop=12, pad=3)])
def test_the_plain_view_is_the_one_of_an_evaluation(augment):
    images = PARTS["train"].images
    seen = Resident(images, augment).plain(torch.arange(len(images)))
    assert torch.equal(seen, centre(images, augment))
