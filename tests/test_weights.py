"""Files of weights: what they say of themselves, and the digest that tells equal bits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lskd import weights
from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.data.augment import Normalize
from lskd.data.images import Normalizer
from lskd.engine import Shared
from lskd.launch.execute import load_network, train_run
from lskd.run import Run
from lskd.runtime import Runtime
from lskd.store import Store

TENSORS = {
    "head.weight": torch.randn(3, 4),
    "β.running_mean": torch.randn(5).double(),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False, True]),
    "half": torch.randn(3).to(torch.bfloat16),
    "empty": torch.zeros(0, 3),
}


@pytest.mark.parametrize("said", [{}, {"run": "0" * 12}, {"a": 'é\n"{}', "classes": json.dumps(["x"] * 1000)}])
def test_the_digest_is_of_the_file_without_metadata(tmp_path: Path, said: dict[str, str]) -> None:
    bare = safetensors.torch.save(TENSORS)
    content = weights.dump(TENSORS, said)
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert weights.sha256(content) == weights.file_sha256(path) == hashlib.sha256(bare).hexdigest()
    assert weights.read_metadata(path) == said
    other = {**TENSORS, "count": torch.tensor(8)}
    assert weights.sha256(weights.dump(other, said)) != weights.sha256(content)


@pytest.mark.parametrize("content", [b"", b"abc", b"weights" * 9, (5).to_bytes(8, "little") + b"[1,2]", b"\xff" * 40])
def test_any_other_file_has_the_digest_of_its_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert weights.file_sha256(path) == hashlib.sha256(content).hexdigest()
    assert weights.read_metadata(path) == {}


def test_normalisation_comes_back_from_the_metadata_bit_by_bit() -> None:
    images = torch.randint(256, (50, 3, 4, 4), dtype=torch.uint8)
    normalizer = Normalizer(Normalize("dataset"), images)
    said = json.loads(json.dumps([normalizer.mean, normalizer.std]))
    again = Normalizer(Normalize("dataset"), torch.empty(0, 3, 1, 1), known=(said[0], said[1]))
    assert torch.equal(again(images), normalizer(images))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run, and the store that it is in."""
    cache, store = tmp_path_factory.getbasetemp() / "cache", Store(tmp_path_factory.mktemp("results"))
    settings = {"dataset": "digits", "dataset.limit": 64, "arch": "mlp", "arch.hidden": [4], "recipe": "standard"}
    run = parse_run({**settings, "recipe.epochs": 1}, Conf(cache=cache))
    runtime = Runtime(device="cpu", cache=str(cache))
    with store.claim(run):
        train_run(run, store, runtime, Shared(torch.device("cpu")))
    return run, store, runtime


def test_weights_say_what_they_are(trained: Any) -> None:
    run, store, _ = trained
    said = weights.read_metadata(store.weights(run))
    assert Run.of(json.loads(said["identity"])) == Run.of(run.identity())
    assert (said["run"], said["format"], json.loads(said["classes"])) == (run.id, "pt", list("0123456789"))
    preprocessing = json.loads(said["preprocessing"])
    assert preprocessing["image"] == [1, 8, 8] and preprocessing["normalize"]["kind"] == "dataset"
    assert len(preprocessing["normalize"]["mean"]) == 1
    with safetensors.safe_open(str(store.weights(run)), "pt") as file:
        assert file.metadata() == said


def test_weights_without_metadata_are_those_of_the_record_too(trained: Any) -> None:
    """As lskd wrote them first, and as others may write the same tensors."""
    run, store, runtime = trained
    path = store.weights(run)
    whole = path.read_bytes()
    assert hashlib.sha256(whole).hexdigest() != store.result(run)["weights_sha256"]
    bare = safetensors.torch.save(safetensors.torch.load(whole))
    path.write_bytes(bare)
    assert hashlib.sha256(bare).hexdigest() == store.result(run)["weights_sha256"]
    load_network(run, store, runtime)
    path.write_bytes(whole)
    load_network(run, store, runtime)
