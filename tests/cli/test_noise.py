"""Wrong labels from words to results: what networks make of them, and the experiments on them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lskd.data import DATASETS

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
