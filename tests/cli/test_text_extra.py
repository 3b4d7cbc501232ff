"""Where the extra for text is not installed, all else works, and what needs it says so in a line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ("tokenizers", "sacrebleu", "transformers")


@pytest.fixture
def without(lskd_run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`lskd_run` where none of `PACKAGES` can be found, with line-aligned files of Multi30k's names."""
    find = importlib.util.find_spec
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        monkeypatch.delitem(sys.modules, name)
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in PACKAGES else find(name, *rest)
    )
    monkeypatch.setenv("LSKD_CACHE", str(tmp_path / "cache"))
    return lskd_run


def test_images_are_trained_on_and_text_is_planned(without):
    words = (
        "recipe.steps=2",
        "recipe.epochs=null",
        "runtime.threads=1",
        "runtime.device=cpu",
        "runtime.progress=false",
    )
    assert without("dataset=digits", "arch=mlp", "recipe=quickstart", *words).code == 0
    for experiment in ("muller_multi30k", "shen_nmt", "wsl_mnli"):
        planned = without(f"experiment={experiment}", "plan=true")
        assert planned.code == 0 and "to train" in planned.out, planned


def test_a_run_on_text_names_the_extra(without, tmp_path, monkeypatch):
    from lskd.data import cli as data_cli

    talks = tmp_path / "talks"
    talks.mkdir()
    for name in ("train.en", "train.de", "test.en", "test.de"):
        (talks / name).write_text("a dog\na cup\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["lskd-data", "import", "talks", str(talks), "--translation", "en-de"])
    assert not data_cli.main()  # the text itself needs no library
    words = ("arch=transformer_tiny", "recipe=multi30k_small", "recipe.steps=2", "runtime.device=cpu")
    finished = without("dataset=talks", "dataset.text.vocab=270", *words)
    assert (finished.code, finished.err.count("\n")) == (2, 1) and "pip install 'lskd[text]'" in finished.err, finished
