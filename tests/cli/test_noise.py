"""Wrong labels from words to results: what networks make of them, and the experiments on them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lskd.config_groups import Conf
from lskd.data import DATASETS, Spec
from lskd.data.arrays import Arrays
from lskd.data.selection import select
from lskd.plan import plan_table
from lskd.tables.table import load_table

TABLE = """
title: "Noise"
seeds: [0, 1, 2]
probe: {name: label_noise}
base: {dataset: digits, arch: mlp, arch.hidden: [64], recipe.epochs: 3, dataset.steps: [{noise: {rate: 0.4}}]}
rows: {hard: {label: "hard"}}
columns:
  wrong: {label: "wrong", metric: {name: wrong_labels, part: train}}
  memorised: {label: "memorised", metric: {name: wrong_fitted, part: train}}
  train: {label: "training accuracy", metric: {name: top1, part: train}}
"""


def test_from_a_command_to_a_table(lskd_run: Any, tmp_path):
    for kind, content in (("table", TABLE), ("experiment", 'title: "N"\ntables: [noisy]\n')):
        (tmp_path / "my" / kind).mkdir(parents=True)
        (tmp_path / "my" / kind / "noisy.yaml").write_text(content, encoding="utf-8")
    words = ("--config-dir", str(tmp_path / "my"), "experiment=noisy", "runtime.progress=false", "runtime.threads=1")
    done = lskd_run(*words)
    assert done.code == 0, done.err
    [row] = [line for line in done.out.splitlines() if line.startswith("| hard")]
    _, _, wrong, memorised, _, _ = (cell.split()[0] if cell.split() else "" for cell in row.split("|"))
    assert float(wrong) == pytest.approx(40, abs=0.2) and 0 < float(memorised) < 100
    seen = [json.loads(path.read_text()) for path in tmp_path.glob("results/runs/*/probes/*.json")]
    assert len(seen) == 3

    (tmp_path / "my" / "table" / "noisy.yaml").write_text(TABLE.replace("rate: 0.4", "rate: 0.4, kind: pairs"))
    assert "kind = pairs: which classes of digits are taken for one another" in lskd_run(*words).err
    (tmp_path / "my" / "table" / "noisy.yaml").write_text(TABLE.replace("{noise: {rate: 0.4}}", ""))
    refused = lskd_run(*words)
    assert refused.code == 2 and "probe.name = label_noise: the run's data must have wrong labels" in refused.err
    assert len(refused.err.strip().splitlines()) == 1


# ---- teachers and students on wrong labels ------------------------------------------------------------------------


def test_a_lineage_on_wrong_labels(lskd_run: Any, tmp_path):
    """Teacher and student learn from the same wrong labels, label smoothing and self-correction among them, whether the
    teacher's logits are kept for all views or not; and what the student makes of the labels is counted."""
    words = ("dataset=digits", "dataset.steps=[{noise:{rate:0.4,counts:total}}]", "arch=mlp", "arch.hidden=[16]")
    words += ("method=kd", "teacher=mlp", "teacher.arch.hidden=[32]", "teacher_ls=0.2", "recipe.epochs=3")
    words += ("runtime.progress=false", "runtime.threads=1", "runtime.fleet=1")
    found = {}
    for name, own in (("ls", ["alpha=0.1"]), ("proselflc", ["target=proselflc", "target.b=8"])):
        for memory in ("4", "0"):
            results = tmp_path / f"{name} {memory}"
            done = lskd_run(*words, *own, f"runtime.results={results}", f"runtime.teacher_cache_gb={memory}")
            assert done.code == 0, done.err
            records = [json.loads(path.read_text()) for path in results.glob("runs/*/result.json")]
            [teacher, student] = sorted(records, key=lambda record: "teacher" in record)
            assert student["data"] == teacher["data"]  # by the labels trained on
            found[name, memory] = student
    digits = DATASETS["digits"].spec
    assert found["ls", "4"]["data"]["train"] != list(digits.sizes()) and sum(student["data"]["train"]) == digits.train
    for name in ("ls", "proselflc"):
        kept, live = found[name, "4"], found[name, "0"]
        assert kept["weights_sha256"] == live["weights_sha256"] and kept["last"] == live["last"]
        assert kept["teacher"]["id"] == found["ls", "0"]["teacher"]["id"]  # one teacher for both
    assert found["ls", "4"]["weights_sha256"] != found["proselflc", "4"]["weights_sha256"]


# ---- the experiments ----------------------------------------------------------------------------------------------

RECIPE = {"recipe.steps": "2", "recipe.batch_size": "250", "recipe.evaluate_every": "1"}
SMALL = {"arch": "mlp", "arch.hidden": "[4]", **RECIPE}
PATHS = {  # the tables that are made, and the runs of a seed
    "cmd_clean": ("cmd_clean", 14),
    "proselflc_noise": ("proselflc_figure2, proselflc_figure3, proselflc_table7, proselflc_table7_quarter", 7),
    "cmd_noise": ("cmd_targets", 25),
}
SLOW = "cmd_noise"


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise in the place of CIFAR-100's images: 5 of each of its 100 classes, of 4×4 pixels."""

    def read(spec: Spec, *, data: Path, download: bool) -> tuple[Arrays, str]:
        generator = np.random.RandomState(0)
        images = [generator.randint(256, size=(n, 3, 4, 4), dtype=np.uint8) for n in (500, 100)]
        return Arrays(images[0], np.arange(500) % 100, images[1], np.arange(100), spec.class_names), "noise"

    known = DATASETS["cifar100"]
    sizes = ((5,) * 100, (1,) * 100)
    spec = replace(known.spec, shape=(3, 4, 4), train=500, test=100, class_sizes=sizes, digest="")
    content = read(spec, data=Path(), download=False)[0].canonical()
    spec = replace(spec, digest=content.describe("cifar100").digest)
    few = replace(known, spec=spec, read=read)
    monkeypatch.setitem(DATASETS.entries, "cifar100", few)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == SLOW)) for name in PATHS])
def test_an_experiment_from_its_data_to_its_tables(name, lskd_run: Any, few_pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("LSKD_CACHE", str(tmp_path / "cache"))
    tables, count = PATHS[name]
    over = "++experiment.settings={" + ", ".join(f"{key}: {value}" for key, value in SMALL.items()) + "}"
    words = (over, f"experiment.tables=[{tables}]", "runtime.progress=false", "runtime.threads=1", "runtime.fleet=1")
    done = lskd_run(f"experiment={name}", "seeds=[0]", *words)
    assert done.code == 0, done.err
    assert len(list(tmp_path.glob("results/runs/*/result.json"))) == count
    assert not re.search(r"\| +– +\||\(0/1 seeds\)", done.out)  # an empty cell


def test_the_best_of_each_column_of_table_5_is_table_4():
    """ProSelfLC prints its sweep (Table 5) and again the best of it (Table 4): both as they stand there."""
    table = load_table("proselflc_table5", Conf())
    for row in ("ls", "cp", "boot_soft", "proselflc"):
        of = table.rows[row].derive
        assert of is not None and len(table.paper[row]) == 6
        for column, value in table.paper[row].items():
            assert value == max(table.paper[one][column] for one in of.lines), (row, column)


def test_the_noise_is_the_papers():
    """int(r·N) labels of all, and 0.4 of the rate between pairs: of CIFAR-100 20 to 60 %, and 8 to 16 %."""
    planned = plan_table(load_table("proselflc_table5", Conf()), Conf())
    shares = {}
    for column in planned.table.columns:
        dataset = planned.cell("cce", column).runs[0].dataset
        labels = np.repeat(np.arange(100), 500)
        spec = DATASETS["cifar100"].spec
        found = select(dataset, spec, {part: (labels, labels) for part in ("train", "test")}, lambda spec: None)
        shares[column] = int((found["train"].labels != labels).sum())
        assert (found["test"].labels == labels).all()
    assert shares == {
        "asym_20": 4_000, "asym_30": 6_000, "asym_40": 8_000, "sym_20": 10_000, "sym_40": 20_000, "sym_60": 30_000,
        "clean": 0,
    }  # fmt: skip
