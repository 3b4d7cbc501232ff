"""A translation from a user's own lines to a table with BLEU: trained, killed and gone on with, distilled, reported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from lskd.data import cli as data_cli
from lskd.launch import execute

pytest.importorskip("tokenizers")
pytest.importorskip("sacrebleu")

NOUNS = {"dog": "Hund", "man": "Mann", "cup": "Becher", "horse": "Pferd", "tree": "Baum"}
VERBS = {"sees": "sieht", "takes": "nimmt", "paints": "malt", "likes": "mag"}
WORDS = (
    "dataset=talks", "dataset.text.vocab=300", "arch=transformer_tiny", "arch.encoder_layers=1",
    "arch.decoder_layers=1", "arch.width=32", "arch.feed_forward=32", "arch.positions=60", "recipe=multi30k_small",
    "recipe.batch_size=200", "recipe.steps=40", "recipe.lr=0.01", "recipe.schedule.warmup=10", "runtime.threads=1",
    "runtime.device=cpu", "runtime.progress=false",
)  # fmt: skip


@pytest.fixture
def talks(lskd_run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A data set of a user's, imported into a cache of its own."""
    folder = tmp_path / "talks"
    folder.mkdir()
    monkeypatch.setenv("LSKD_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 9)):
        lines = []
        for _ in range(count):
            one, other, verb = rng.choice(list(NOUNS)), rng.choice(list(NOUNS)), rng.choice(list(VERBS))
            english, german = f"a {one} {verb} a {other}", f"ein {NOUNS[one]} {VERBS[verb]} ein {NOUNS[other]}"
            more = int(rng.integers(3))
            lines.append((f"{english}{' again' * more}.", f"{german}{' wieder' * more}."))
        for language, of in zip(("en", "de"), zip(*lines, strict=True), strict=True):
            (folder / f"{part}.{language}").write_text("".join(f"{line}\n" for line in of), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["lskd-data", "import", "talks", str(folder), "--translation", "en-de"])
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(data_cli.main())
    assert not ended.value.code, capsys.readouterr()
    return folder


def the_run(results: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record and the weights of the only run."""
    [record] = results.glob("runs/*/result.json")
    return json.loads(record.read_text()), load_file(record.parent / "model.safetensors")


def test_killed_and_gone_on_with_it_gives_the_same_bits(lskd_run, talks, monkeypatch, tmp_path):
    words = (*WORDS, "alpha=0.1", "recipe.evaluate_every=2")
    assert lskd_run(*words).code == 0
    whole, weights = the_run(tmp_path / "results")
    assert whole["steps"] == 40 and whole["padding"] < 0.2 and whole["vocabulary"]["tokens"] == 300
    keep = execute.Store.keep_claim

    def killed(store: Any, run: Any, step: int = 0, *rest: Any) -> None:
        keep(store, run, step, *rest)
        if step == 23:
            raise KeyboardInterrupt

    other = tmp_path / "other"
    monkeypatch.setattr(execute.Store, "keep_claim", killed)
    assert lskd_run(*words, f"runtime.results={other}", "runtime.checkpoint_seconds=0").code == 130
    assert list(other.glob("runs/*/checkpoint.pt"))
    monkeypatch.setattr(execute.Store, "keep_claim", keep)
    assert lskd_run(*words, f"runtime.results={other}").code == 0
    again, same = the_run(other)
    assert again["last"] == whole["last"] and all((weights[name] == same[name]).all() for name in weights)


def test_a_table_of_bleu_with_a_student_of_a_smoothed_teacher(lskd_run, talks, tmp_path):
    words = dict(word.split("=") for word in WORDS[:-3])
    base = {key: json.loads(value) if value[0].isdigit() else value for key, value in words.items()}
    hot = {"label": "T = 2", "metric": {"name": "bleu", "at_temperature": 2}}
    table = {
        "title": "Talks", "seeds": [0], "probe": {"name": "translation", "beam": 2, "temperatures": [1, 2]},
        "metric": {"name": "bleu"}, "base": base,
        "rows": {"teacher": {"label": "teacher", "run": {"alpha": 0.1}}, "student": {"label": "student", "run": {
            "method": "kd_tan", "method.top_k": 3, "teacher": "transformer_tiny", "teacher_ls": 0.1,
            **{f"teacher.{key}": value for key, value in base.items() if key.startswith("arch.")}}}},
        "columns": {"cold": {"label": "T = 1"}, "hot": hot},
    }  # fmt: skip
    conf = tmp_path / "conf"
    for group, name, content in (
        ("table", "talks", table),
        ("experiment", "talks", {"title": "T", "tables": ["talks"]}),
    ):
        (conf / group).mkdir(parents=True)
        (conf / group / f"{name}.yaml").write_text(json.dumps(content), encoding="utf-8")
    finished = lskd_run("experiment=talks", f"--config-dir={conf}", *WORDS[-3:])
    assert finished.code == 0, finished.err
    results = tmp_path / "results"
    printed = (results / "tables" / "talks" / "talks.md").read_text(encoding="utf-8")
    assert len(list(results.glob("runs/*/result.json"))) == 2  # the teacher of the table is the student's
    readings = [json.loads(path.read_text()) for path in results.glob("runs/*/probes/translation-*.json")]
    assert len(readings) == 2 and "nrefs:1" in readings[0]["readings"][0]["test"]["signature"]
    for reading in readings:
        for score in reading["readings"][0]["test"]["bleu"].values():
            assert f"{score:.2f}" in printed
    assert len(list(results.glob("runs/*/probes/*.T2.txt"))) == 2
