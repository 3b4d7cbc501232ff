"""A finished run that somebody is to look at together with its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from lskd.config import Observation, Runtime
from lskd.launch import carry_out
from lskd.observers import OBSERVERS, Observer, Scene
from lskd.plan import looks_suffice, to_train
from lskd.settings import Conf, parse_run
from lskd.store import Store

CONF = Conf()
SMALL = {"dataset": "digits", "dataset.limit": 64, "arch": "mlp", "arch.hidden": [4], "recipe.epochs": 1}
RUN = parse_run({**SMALL, "method": "kd", "teacher": {"arch": "mlp", "seed": 7}}, CONF)


@dataclass(frozen=True)
class Agreement(Observer):
    """How far the logits of the two are apart on one image of the training part."""

    gives: ClassVar[Mapping[str, str]] = {"apart": "distance of logits"}
    needs_teacher: ClassVar[bool] = True

    def look(self, scene: Scene) -> dict[str, Any]:
        assert scene.teacher is not None
        pixels = scene.plain("train", torch.tensor([0]))
        return {"train": {"apart": (scene.forward(pixels) - scene.teacher(pixels)).norm().item()}}


@pytest.mark.usefixtures("one_thread")
def test_it_is_looked_at_where_both_weights_are_and_trained_again_where_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setitem(OBSERVERS, "agreement", Agreement())
    monkeypatch.chdir(tmp_path)
    observation = Observation("agreement", Agreement())
    runtime = Runtime(device="cpu", results="results", cache=str(tmp_path / "cache"), threads=1, progress=False)
    store, asked = Store(Path("results")), {RUN.id: (observation,)}

    def go(observations: Mapping[str, tuple[Observation, ...]]) -> list[str]:
        """The ids of what was trained or looked at."""
        assert RUN.teacher is not None
        return [run.id for run in carry_out([RUN.teacher, RUN], store, runtime, CONF, observations).trained]

    assert RUN.teacher is not None
    assert go({}) == [RUN.teacher.id, RUN.id]
    first = store.result(RUN)
    assert looks_suffice(RUN, store, asked)
    assert go(asked) == [RUN.id]
    seen = store.looks(RUN, observation)
    assert seen is not None and seen[0]["train"]["apart"] > 0
    assert not (store.directory(RUN) / "rebuilt.json").exists()
    assert go(asked) == []

    (store.directory(RUN) / "observed" / f"{observation.key}.json").unlink()
    store.weights(RUN.teacher).unlink()
    assert not looks_suffice(RUN, store, asked)
    assert to_train([RUN.teacher, RUN], store, asked) == [RUN.teacher, RUN]
    assert go(asked) == [RUN.teacher.id, RUN.id]
    assert store.looks(RUN, observation) == seen
    assert store.result(RUN) == first
