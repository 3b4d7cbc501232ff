"""The experiments of Shen et al. 2021, and WSL's on ImageNet, from the command line: each all the way from the weights
that it starts from to its tables, on ten classes of small JPEGs in the place of its data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lskd import data
from lskd.config_groups import Conf
from lskd.tables.experiment import load_experiment

CLASSES = tuple("ant bee cat dog eel fox gnu hen ibis jay".split())  # noqa: SIM905
RECIPE = {
    "epochs": "1", "batch_size": "10", "batch_norm_group": "5", "augment.crop": "16", "precision": "fp32",
    "evaluate_every": "1", "lr": "0.01",
}  # fmt: skip
SMALL = {"arch": "resnet8", "arch.stem": "4", "arch.widths": "[4, 6, 8]"}
BINARY = {"arch.blocks": "[1, 1, 1, 1]", "arch.widths": "[4, 6, 8, 10]", "arch.large_images": "false"}


def settings(
    own: dict[str, str] | None = None, *, before: tuple[str, ...] = (), network: dict[str, str] = SMALL
) -> str:
    """Laid over all runs of an experiment, and over those `before` them: their teachers, or what they start from."""
    words = {"dataset": "insects", **network, **recipe_of(""), **(own or {})}
    for name in before:
        words |= recipe_of(f"{name}.")
        if not name.endswith("started_from"):  # which is of the same network
            words |= {f"{name}.{key}": value for key, value in SMALL.items()}
    return "++experiment.settings={" + ", ".join(f"{key}: {value}" for key, value in words.items()) + "}"


def recipe_of(whose: str) -> dict[str, str]:
    return {f"{whose}recipe.{key}": value for key, value in RECIPE.items()}


TAUGHT = ("teacher",)
SEVEN = {"dataset.steps": "[{classes: {draw: 7, seed: 0}}]"}
STARTED = {"started_from.dataset": "insects"}
BOTH_STARTED = {**STARTED, "teacher.started_from.dataset": "insects"}
LINEAGE = ("teacher", "started_from", "teacher.started_from")
TWO_STEPS = ("teacher", "started_from", "started_from.teacher")
HEAD = {"recipe.trainable": "[head]", "teacher.recipe.trainable": "[head]"}
# What is laid over the experiment; the tables that are made (not figures over the epochs of its own schedule); and how
# many runs one seed has. As networks are all one, so are many runs.
PATHS = {
    "shen_stability": (settings(), "[shen_table1]", 6),
    "shen_imagenet": (settings(before=TAUGHT), "[shen_table2_imagenet]", 4),
    "shen_imaterialist": (settings(before=TAUGHT), "[shen_table2_imaterialist]", 4),
    "shen_ratio": (settings(before=TAUGHT), "[shen_ratio]", 8),
    "shen_cub": (settings(BOTH_STARTED, before=LINEAGE), "[shen_table2_cub]", 6),
    "shen_better_teacher": (settings({**BOTH_STARTED, **HEAD}, before=LINEAGE), "[shen_fixres]", 8),
    "shen_long_tail": (settings(STARTED, before=("started_from",)), "[shen_long_tail]", 4),
    "shen_binary": (
        settings(before=TWO_STEPS, network=BINARY),
        "[shen_binary]",
        6,
    ),
    "shen_more_classes": (settings(SEVEN), "[shen_more_classes]", 2),
    "shen_clusters": (settings(), "[shen_clusters]", 2),
    "wsl_imagenet": (settings(before=TAUGHT), "[wsl_table10c]", 4),
}


@pytest.mark.every(3)
@pytest.mark.parametrize("name", PATHS)
def test_an_experiment_from_its_data_to_its_tables(name, lskd_run, write_photographs, tmp_path, monkeypatch):
    root = write_photographs(tmp_path / "insects", {"train": 3, "val": 2}, CLASSES)
    monkeypatch.setenv("LSKD_CACHE", str(tmp_path / "cache"))
    data.import_folder("insects", root, cache=tmp_path / "cache", stream=True)
    over, tables, count = PATHS[name]
    words = (over, f"experiment.tables={tables}", "runtime.progress=false", "runtime.threads=1", "runtime.fleet=1")
    done = lskd_run(f"experiment={name}", "seeds=[0]", *words)
    assert done.code == 0, done.err
    assert f"{count} of {count} runs done" in done.out
    assert not re.search(r"\| +– +\||\(0/1 seeds\)", done.out)  # an empty cell
    results = [json.loads(path.read_text()) for path in (tmp_path / "results" / "runs").glob("*/result.json")]
    assert len(results) == count


HERE = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "experiment").glob("shen_cifar100_*"))


@pytest.mark.parametrize("name", HERE)
def test_an_experiment_on_data_at_hand_is_declared(name, lskd_run):
    """Its protocol is our own; its seeds, claims and what they can decide are there before a run."""
    done = lskd_run(f"experiment={name}", "plan=true")
    assert done.code == 0, done.err
    assert re.search(r"claim K\d.*: n = (5|10), .*(is seen with 80%|without a known power)", done.out)
    assert load_experiment(Conf().load("experiment", name), name).own
