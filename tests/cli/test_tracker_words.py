"""tracker=NAME on the command line."""

from __future__ import annotations

import importlib.util
import json

import pytest

from lskd.trackers import TRACKERS, Tracker

ONE = ("dataset=digits", "dataset.limit=64", "arch=mlp", "arch.hidden=[4]", "recipe.epochs=1", "runtime.threads=1")
PLUGIN = """
from lskd.trackers import Tracker, register

@register("lines")
class Lines(Tracker):
    def log(self, run, line, step, values):
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / run.id, "a") as file:
            print(values["test/top1"], file=file)
"""


def test_one_of_a_plugin(lskd_run, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    finished = lskd_run(f"plugin={tmp_path}/mine.py", "tracker=lines", *ONE)
    assert finished.code == 0, finished.err
    [directory] = (tmp_path / "results" / "runs").iterdir()
    sent = (tmp_path / "results" / "trackers" / "lines" / directory.name).read_text()
    record = json.loads((directory / "log.jsonl").read_text())
    assert sent == f"{record['test']['top1']}\n"
    command = json.loads((directory / "env.json").read_text())["command"]
    assert "tracker" not in command and "plugin=mine.py" in command


def test_several_and_the_commands_that_are_printed(lskd_run, monkeypatch):
    for name in ("one", "other"):
        monkeypatch.setitem(TRACKERS.entries, name, Tracker)
    finished = lskd_run("tracker=[one,other]", "plan=commands", *ONE)
    assert finished.code == 0, finished.err
    assert "tracker=[one,other]" in finished.out
    assert lskd_run("experiment=quickstart", "tracker=one", "plan=true").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tracker=wand"], "tracker = 'wand': did you mean 'wandb'? allowed: mlflow, tensorboard, wandb"),
        (["tracker=[wandb,3]"], "runtime.tracker[1] = 3: must be a string"),
        (["tracker=wandb", "runtime.tracker=[mlflow]"], 'tracker = "wandb": runtime.tracker says so, too; give one'),
        (["tracker=mlflow"], "tracker = 'mlflow': needs the package mlflow, which is not installed"),
        (["tracker=mlflow", "experiment=quickstart"], "pip install -e '.[mlflow]'"),
    ],
)
def test_bad_words(lskd_run, tmp_path, monkeypatch, words, said):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in TRACKERS else find(name))
    given = words if "experiment=quickstart" in words else [*words, *ONE]
    finished = lskd_run(*given)
    assert finished.code == 2 and finished.err.count("\n") == 1 and said in finished.err
    assert not (tmp_path / "results").exists()
