"""Wrong labels from words to results: what networks make of them, and the experiments on them."""

from __future__ import annotations

import json
from typing import Any

import pytest

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
