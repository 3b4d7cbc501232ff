"""What a network makes of wrong labels, against a direct count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lskd.data import Dataset, Part, Spec
from lskd.engine import Shared, run_probes, train
from lskd.methods import METHODS
from lskd.models.archs import MLPArch
from lskd.probes.label_noise import LabelNoise, numbers
from lskd.recipe import Recipe
from lskd.run import Named, ProbeSpec, Run

pytestmark = pytest.mark.usefixtures("one_thread")
PROBE = ProbeSpec("label_noise", LabelNoise(every=4))


def test_a_trained_network_is_counted_image_by_image():
    spec = Spec("noise", "Noise", 4, (3, 4, 4), train=300, test=40, class_names=tuple("abcd"), digest="")
    generator = torch.Generator().manual_seed(0)
    images, true = torch.randint(256, (300, 3, 4, 4), generator=generator, dtype=torch.uint8), torch.arange(300) % 4
    labels = torch.where(torch.arange(300) % 3 == 0, (true + 1) % 4, true)
    parts = {"train": Part(images, labels, true), "test": Part(images[:40], true[:40])}
    arch = Named("mlp", MLPArch(hidden=(8,)))
    run = Run(Dataset("noise"), arch, Named("ce", METHODS["ce"]), Recipe(0.1, 100, steps=9))
    shared = Shared(torch.device("cpu"))
    outcome = train(run, spec, parts, shared=shared, probes=[PROBE])
    readings = outcome.readings[PROBE.key]
    assert [look["step"] for look in readings] == [0, 4, 8, 9]
    [alone] = run_probes(run, spec, parts, outcome.network, [PROBE], shared)[PROBE.key]
    assert alone == readings[-1]

    with torch.no_grad():
        p = outcome.network.double().eval()(images.double() / 255).softmax(1).numpy()
    counted = {"right": [0, 0, 0.0], "wrong": [0, 0, 0.0]}  # images, those whose label is predicted, entropy
    corrected = known = 0
    for row, label, cause in zip(p, labels.tolist(), true.tolist(), strict=True):
        of = counted["right" if label == cause else "wrong"]
        of[0] += 1
        of[1] += int(row.argmax() == label)
        of[2] -= float((row * np.log(row)).sum())
        corrected += int(label != cause and row.argmax() == cause)
        known += int(row.argmax() == cause)
    found = readings[-1]["train"]
    assert set(found) == set(LabelNoise.gives)
    assert found["wrong_labels"] == pytest.approx(100 / 3)
    for name, (count, fitted, entropy) in counted.items():
        assert found[f"{name}_fitted"] == pytest.approx(100 * fitted / count)
        assert found[f"{name}_entropy"] == pytest.approx(entropy / count, rel=1e-5)
    assert found["wrong_corrected"] == pytest.approx(100 * corrected / counted["wrong"][0])
    assert found["true_fitted"] == pytest.approx(100 * known / 300)


def test_without_wrong_labels_there_are_no_numbers_of_them():
    labels = torch.tensor([0, 1, 2, 0])
    found = numbers(torch.tensor([0, 1, 1, 0]), torch.zeros(4), labels, labels)
    assert found == {"wrong_labels": 0, "true_fitted": 75, "right_fitted": 75, "right_entropy": 0}
    assert numbers(labels, torch.zeros(4), labels, (labels + 1) % 3)["wrong_corrected"] == 0
