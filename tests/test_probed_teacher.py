"""A finished run that somebody is to look at together with its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.launch.queue import needs_only_probes, to_train
from lskd.launch.sweep import carry_out
from lskd.probes import PROBES, Probe, Quantity, Scene
from lskd.run import ProbeSpec
from lskd.runtime import Runtime
from lskd.store import Store

CONF = Conf()
SMALL = {"dataset": "digits", "dataset.limit": 64, "arch": "mlp", "arch.hidden": [4], "recipe.epochs": 1}
RUN = parse_run({**SMALL, "method": "kd", "teacher": {"arch": "mlp", "seed": 7}}, CONF)


@dataclass(frozen=True)
class Agreement(Probe):
    """How far the logits of the two are apart on one image of the training part."""

    gives: ClassVar[Mapping[str, Quantity]] = {"apart": Quantity("distance of logits")}
    needs_teacher: ClassVar[bool] = True

    def measure(self, scene: Scene) -> dict[str, Any]:
        assert scene.teacher is not None
        pixels = scene.plain("train", torch.tensor([0]))
        return {"train": {"apart": (scene.forward(pixels) - scene.teacher(pixels)).norm().item()}}


@pytest.mark.usefixtures("one_thread")
def test_it_is_looked_at_where_both_weights_are_and_trained_again_where_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setitem(PROBES.entries, "agreement", Agreement())
    monkeypatch.chdir(tmp_path)
    probe = ProbeSpec("agreement", Agreement())
    runtime = Runtime(device="cpu", results="results", cache=str(tmp_path / "cache"), threads=1, progress=False)
    store, asked = Store(Path("results")), {RUN.id: (probe,)}

    def go(probes: Mapping[str, tuple[ProbeSpec, ...]]) -> list[str]:
        """The ids of what was trained or looked at."""
        assert RUN.teacher is not None
        return [run.id for run in carry_out([RUN.teacher, RUN], store, runtime, CONF, probes).trained]

    assert RUN.teacher is not None
    assert go({}) == [RUN.teacher.id, RUN.id]
    first = store.result(RUN)
    assert needs_only_probes(RUN, store, asked)
    assert go(asked) == [RUN.id]
    seen = store.readings(RUN, probe)
    assert seen is not None and seen[0]["train"]["apart"] > 0
    assert not (store.directory(RUN) / "rebuilt.json").exists()
    assert go(asked) == []

    (store.directory(RUN) / "probes" / f"{probe.key}.json").unlink()
    store.weights(RUN.teacher).unlink()
    assert not needs_only_probes(RUN, store, asked)
    assert to_train([RUN.teacher, RUN], store, asked) == [RUN.teacher, RUN]
    assert go(asked) == [RUN.teacher.id, RUN.id]
    assert store.readings(RUN, probe) == seen
    assert store.result(RUN) == first
