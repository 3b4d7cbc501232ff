"""Data of a user's own from the command line: imported, planned, trained, reported."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from lskd import data
from lskd.data import cli as data_cli

QUICK = ("arch=mlp", "arch.hidden=[8]", "recipe.epochs=2", "recipe.batch_size=8")
QUIET = ("runtime.progress=false", "runtime.threads=1", "runtime.workers=1")


@pytest.fixture
def own(lskd_run, write_photographs, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LSKD_CACHE", str(tmp_path / "cache"))
    return write_photographs(tmp_path / "own", {"train": 8, "valid": 3, "test": 2}, ("ant", "bee"))


def results(tmp_path: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((tmp_path / "results" / "runs").glob("*/result.json"))]


@pytest.mark.parametrize("stream", [False, True])
def test_a_validation_part_of_its_own_from_import_to_table(stream, own, lskd_run, tmp_path):
    augment = ("recipe.augment={crop: 8, pad: 0, flip: true, resized: {}}",) if stream else ()
    assert data_cli.main(["import", "own", str(own), *(["--stream"] if stream else ["--size", "8"])]) == 0
    words = ("dataset=own", *QUICK, *augment, *QUIET)
    done = lskd_run(*words, "dataset.evaluate=validation")
    assert done.code == 0, done.err
    [result] = results(tmp_path)
    assert result["examples"] == 16 and set(result["last"]) == {"validation", "test"}
    refused = lskd_run(*words, "dataset.holdout=4")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "dataset.holdout = 4: must be 0: own has a validation part of its own" in refused.err

    (tmp_path / "conf" / "table").mkdir(parents=True)
    (tmp_path / "conf" / "experiment").mkdir()
    settings = dict(word.split("=", 1) for word in words[:-3]) | {"dataset.evaluate": "validation"}
    table = {"title": "Own", "seeds": [0], "metric": {"name": "top1"}, "base": settings}
    table |= {"rows": {"plain": {"label": "plain"}}, "columns": {"one": {"label": "one"}}}
    text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in table.items() if key != "base")
    base = "\n".join(f"  {key}: {value}" for key, value in settings.items())
    (tmp_path / "conf" / "table" / "own.yaml").write_text(f"{text}\nbase:\n{base}\n")
    (tmp_path / "conf" / "experiment" / "own.yaml").write_text("title: Own\ntables: [own]\n")
    shown = lskd_run("--config-dir", str(tmp_path / "conf"), "experiment=own", *QUIET)
    assert shown.code == 0, shown.err
    assert "1 done, 0 to train" in shown.out
    assert "Top-1 accuracy (%) on the validation part" in shown.out
    [path] = (tmp_path / "results" / "tables").rglob("own.csv")
    with path.open(encoding="utf-8") as file:
        [cell] = csv.DictReader(file)
    assert cell["part"] == "validation"
    assert float(cell["mean"]) == pytest.approx(result["last"]["validation"]["top1"])


def test_without_any_validation_part_none_can_be_evaluated(lskd_run):
    done = lskd_run("dataset=digits", "dataset.evaluate=validation")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "dataset.evaluate = 'validation': must be 'test' when holdout = 0" in done.err


def test_streamed_images_that_changed_train_nothing(own, lskd_run, tmp_path):
    data.import_folder("own", own, cache=tmp_path / "cache", stream=True)
    words = ("dataset=own", *QUICK, "recipe.augment={crop: 8, pad: 0, flip: true, resized: {}}", *QUIET)
    path = own / "train" / "ant" / "0.JPEG"
    written = path.stat().st_mtime_ns
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    os.utime(path, ns=(written, written))
    done = lskd_run(*words)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "not the images that were indexed: 1 rewritten (train/ant/0.JPEG); restore them, or import" in done.err
    assert not list((tmp_path / "results").rglob("config.json"))
    path.write_bytes(content)
    assert lskd_run(*words).code == 0 and len(results(tmp_path)) == 1
