"""Likelihood and calibration over the temperature, against the metrics of a record and closed forms."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lskd.metrics import expected_calibration_error, negative_log_likelihood
from lskd.probes.temperature_scaling import TemperatureScaling


def test_a_trained_network_by_the_metrics_of_its_scaled_outputs(look: Any) -> None:
    temperatures = (0.25, 1.0, 1.13)
    network, test, reading = look(
        "temperature_scaling", TemperatureScaling(temperatures=temperatures), test=300, steps=9
    )
    with torch.no_grad():
        z = network.eval()(test.images.float() / 255)
    assert list(reading) == ["step", "test"]
    for temperature in temperatures:
        at = {name: numbers[f"{temperature:g}"] for name, numbers in reading["test"].items()}
        assert at["scaled_nll"] == pytest.approx(negative_log_likelihood(z / temperature, test.labels), rel=1e-5)
        assert at["scaled_ece15"] == pytest.approx(expected_calibration_error(z / temperature, test.labels), abs=1e-6)


@pytest.mark.parametrize("examples", [0, 3, 5])
def test_pieces_are_one_part_of_which_the_first_examples_count(examples: int) -> None:
    """Two classes at odds of 9: at T = 2 of 3. The network is right but for the last example."""
    logits = torch.tensor([[math.log(9.0), 0.0]] * 5)
    labels = torch.tensor([0, 0, 0, 0, 1])
    pieces = [(logits[:2], labels[:2]), (logits[2:], labels[2:])]
    scene: Any = SimpleNamespace(evaluated="test", outputs=lambda part: iter(pieces))
    seen = TemperatureScaling(temperatures=(1.0, 2.0), examples=examples).measure(scene)["test"]
    wrong, n = (0, 3) if examples == 3 else (1, 5)
    for temperature, odds in (("1", 9), ("2", 3)):
        p = odds / (odds + 1)
        nll = -((n - wrong) * math.log(p) + wrong * math.log(1 - p)) / n
        assert seen["scaled_nll"][temperature] == pytest.approx(nll, rel=1e-6)
        assert seen["scaled_ece15"][temperature] == pytest.approx(abs((n - wrong) / n - p), rel=1e-5)
