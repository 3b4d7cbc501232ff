"""What tests of probes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lskd.data import Dataset, Part, Spec
from lskd.engine import Shared, run_probes, train
from lskd.methods import METHODS
from lskd.models import ARCHS
from lskd.probes import Probe
from lskd.recipe import Recipe
from lskd.run import Named, ProbeSpec, Run

Look = Callable[..., tuple[nn.Module, Part, dict[str, Any]]]


@pytest.fixture
def look(one_thread: None) -> Look:
    """`look("confidence", Confidence(), test=90, steps=9)`: an MLP that has been trained on three classes of noise for
    so many steps, the test part of so many images, and what the probe saw at the end, with the training and after it.
    """

    def look(name: str, settings: Probe, *, test: int, steps: int) -> tuple[nn.Module, Part, dict[str, Any]]:
        spec = Spec("noise", "Noise", 3, (1, 4, 4), train=30, test=test, class_names=("a", "b", "c"), digest="")
        generator = torch.Generator().manual_seed(0)
        parts = {
            name: Part(torch.randint(256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8), torch.arange(n) % 3)
            for name, n in (("train", 30), ("test", test))
        }
        recipe = Recipe(0.1, 10, steps=steps)
        run = Run(Dataset("noise"), Named("mlp", ARCHS["mlp"]), Named("ce", METHODS["ce"]), recipe)
        probe, shared = ProbeSpec(name, settings), Shared(torch.device("cpu"))
        outcome = train(run, spec, parts, shared=shared, probes=[probe])
        assert run_probes(run, spec, parts, outcome.network, [probe], shared) == outcome.readings
        [reading] = outcome.readings[probe.key]
        return outcome.network, parts["test"], reading

    return look
