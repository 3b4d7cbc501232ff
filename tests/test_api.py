"""lskd from Python: the examples of its docstrings, runs as a frame, networks that are loaded."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lskd
from lskd import api, data
from lskd.config_groups import Conf
from lskd.launch.sweep import carry_out
from lskd.plan import make_plan
from lskd.runtime import Runtime
from lskd.snapshot import Snapshot
from lskd.store import Store
from lskd.tables.experiment import load_experiment
from lskd.weights import dump, sha256

TEACHER, STUDENT = "36e6e2cd5862", "12528431e573"  # of quickstart_five: digits, hard targets, T = 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results/, in which a teacher and its student are done."""
    folder, cache = tmp_path_factory.mktemp("trained"), tmp_path_factory.getbasetemp() / "cache"
    conf = Conf(cache=cache)
    plan = make_plan(load_experiment(conf.load("experiment", "quickstart_five"), "quickstart_five"), conf)
    runs = [run for run in plan.runs if run.id in (TEACHER, STUDENT)]
    runtime = Runtime(device="cpu", threads=1, cache=str(cache), progress=False)
    assert len(carry_out(runs, Store(folder / "results"), runtime, conf).trained) == 2
    return folder


@pytest.fixture
def store(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Store:
    monkeypatch.chdir(trained)
    monkeypatch.delenv("LSKD_RESULTS", raising=False)
    monkeypatch.setenv("LSKD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    return Store(trained / "results")


@pytest.mark.parametrize("name", [None, "runs", "load", "Model.predict"])
def test_the_examples_of_the_docstrings(store: Store, name: str | None) -> None:
    what: Any = api
    for part in name.split(".") if name else ():
        what = getattr(what, part)
    [test] = [test for test in doctest.DocTestFinder(recurse=False).find(what, "api", module=api) if test.examples]
    test.globs = {"lskd": lskd}
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test).failed == 0


def test_every_public_name_has_its_docstring() -> None:
    for name in lskd.__all__:
        assert getattr(lskd, name) and (name == "__version__" or getattr(lskd, name).__doc__)
    assert set(lskd.__all__) <= set(dir(lskd))
    with pytest.raises(AttributeError, match="no attribute 'rnus'"):
        _ = lskd.rnus


def test_import_lskd_is_cheap() -> None:
    code = "import sys, lskd; print(sorted({'torch', 'pandas', 'numpy', 'hydra', 'lskd.api'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_runs_have_every_setting_and_metric(store: Store) -> None:
    frame = lskd.runs().set_index("id")
    assert list(frame.index) == [STUDENT, TEACHER]
    student, teacher = frame.loc[STUDENT], frame.loc[TEACHER]
    assert (student["method.temperature"], student["teacher.id"], student["state"]) == (4.0, TEACHER, "done")
    assert np.isnan(teacher["method.temperature"]) and frame["method.temperature"].dtype == float
    result = json.loads((store.root / "runs" / STUDENT / "result.json").read_text())
    assert student["top1"] == student["last.test.top1"] == result["last"]["test"]["top1"]
    run = lskd.Run.of(json.loads((store.root / "runs" / STUDENT / "config.json").read_text()))
    for name, value in run.settings.items():
        missing = value is None and frame[name].isna().all()
        shown = json.dumps(value) if isinstance(value, dict) else value
        assert missing or student[name] == shown, name
    assert not frame["other_code"].any()


def test_what_is_damaged_is_left_out_with_a_warning(store: Store, tmp_path: Path) -> None:
    (tmp_path / "runs" / STUDENT).mkdir(parents=True)
    (tmp_path / "runs" / STUDENT / "config.json").write_text("{")
    with pytest.warns(UserWarning, match=rf"left out: .*{STUDENT}/config.json: is not valid JSON"):
        assert len(lskd.runs(tmp_path)) == 0


def test_a_loaded_network_is_the_one_of_the_record(store: Store) -> None:
    model = lskd.load(STUDENT, device="cpu")
    part = data.load(model.run.dataset, data=Path(), cache=data.default_cache_root())["test"]
    prediction = model.predict(part.images)
    record = Snapshot.of(store).record(STUDENT)
    assert record is not None
    top1 = 100 * (prediction.labels == part.labels).double().mean().item()
    assert top1 == pytest.approx(record.result["last"]["test"]["top1"], abs=1e-6)
    nll = -prediction.probabilities.gather(1, part.labels[:, None]).log().mean().item()
    assert nll == pytest.approx(record.result["last"]["test"]["nll"], abs=1e-5)
    assert lskd.load(model.run).run.id == lskd.load(STUDENT[:4]).run.id == STUDENT


def test_images_of_all_kinds(store: Store) -> None:
    model = lskd.load(TEACHER)
    part = data.load(model.run.dataset, data=Path(), cache=data.default_cache_root())["test"]
    few = part.images[:5]
    wanted = model.logits(few)
    pictures = [Image.fromarray(image.numpy()) for image in few[:, 0]]
    arrays = few[:, 0].numpy()
    for same in (pictures, [picture.convert("RGB") for picture in pictures], arrays, arrays[..., None], few[:, 0]):
        assert torch.equal(model.logits(same), wanted)
    for one in (pictures[0], arrays[0], arrays[0][..., None], few[0], few[0, 0]):
        assert torch.allclose(model.logits(one), wanted[:1], atol=1e-6)
    for wrong, said in (
        (few.float(), "must be uint8"),
        (torch.zeros(3, 1, 9, 8, dtype=torch.uint8), "of 1×8×8"),
        (np.zeros((2, 8, 8, 3), np.uint8), "of 1×8×8"),
        (pictures[0].resize((9, 8)), "an image of 9×8 pixels: must be of 8×8"),
        ("cat.png", "images = str"),
        ([], "images = list"),
    ):
        with pytest.raises(lskd.InputError, match=said):
            model.predict(wrong)


def test_weights_without_metadata_are_loaded_as_ever(store: Store) -> None:
    path = store.weights(lskd.load(TEACHER).run)
    whole = path.read_bytes()
    try:
        tensors = lskd.load(TEACHER).network.state_dict()
        path.write_bytes(dump(tensors, {}))
        assert sha256(path.read_bytes()) == sha256(whole)
        images = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8)
        bare = lskd.load(TEACHER).logits(images)
    finally:
        path.write_bytes(whole)
    assert torch.equal(bare, lskd.load(TEACHER).logits(images))


def test_ids_that_are_none_or_several(store: Store) -> None:
    results = Path(lskd.__file__).parents[2] / "results"
    with pytest.raises(lskd.InputError, match=r"id = 'x': is no run in .*results; lskd-report --runs lists them"):
        lskd.load("x")
    with pytest.raises(lskd.InputError, match="is no run"):
        lskd.load("")
    if results.is_dir():
        with pytest.raises(lskd.InputError, match=r"id = '0': \d+ runs begin so \(0.*, …\); give more digits"):
            lskd.load("0", results)
        with pytest.raises(lskd.InputError, match=r"model.safetensors: is not here .*retrain=true"):
            lskd.load(TEACHER, results)
