"""The command `lskd-report`, on an experiment of the user's own and on what is shipped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lskd.plan import load_experiment, make_plan
from lskd.report.cli import main
from lskd.settings import Conf, shipped_conf

EXPERIMENT = "title: Made up\nsheets: [fiction]\n"
TABLE = """\
title: Made-up accuracies
seeds: [0, 1, 2]
base: {dataset: digits, arch: mlp, recipe: quickstart}
rows:
  hard: {label: hard targets, run: {alpha: 0.0}}
  ls: {label: label smoothing, run: {alpha: 0.1}}
columns:
  top1: {label: accuracy}
claims:
  - {id: F1, text: Smoothing hurts, tests: [{test: less, of: ls/top1, than: hard/top1}]}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A configuration directory with the experiment "fiction"."""
    for group, content in (("experiment", EXPERIMENT), ("table", TABLE)):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "fiction.yaml").write_text(content)
    return tmp_path / "conf"


@pytest.fixture
def filled(lab: Any, own: Path) -> Any:
    conf = Conf((own, shipped_conf()))
    (grid,) = make_plan(load_experiment(conf.load("experiment", "fiction"), "fiction"), conf).grids
    lab.fill(grid, "hard/top1", [91.0, 92.0, 93.0])
    lab.fill(grid, "ls/top1", [90.0, 91.01, 92.02])
    lab.grid = grid
    return lab


def test_tables_are_printed_and_written(filled: Any, own: Path, capsys: Any) -> None:
    root = filled.store.root
    assert main(["fiction", "--results", str(root), "--config-dir", str(own)]) == 0
    printed = capsys.readouterr().out
    assert "| hard targets" in printed
    assert "- F1: **reproduced**. Smoothing hurts" in printed
    for suffix in ("md", "csv", "tex"):
        assert f"wrote {root}/tables/fiction/fiction.{suffix}" in printed
        assert (root / "tables" / "fiction" / f"fiction.{suffix}").is_file()
    index = (root / "tables" / "README.md").read_text()
    line = next(line for line in index.splitlines() if "fiction" in line)
    assert (
        "| 6/6 | 1 reproduced | [md](fiction/fiction.md) [csv](fiction/fiction.csv) [tex](fiction/fiction.tex) |"
        in line
    )
    assert "`quickstart`" in index  # the index is of all experiments


def test_out_and_all_experiments(filled: Any, own: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "elsewhere"
    assert main(["--results", str(filled.store.root), "--config-dir", str(own), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| hard targets" in printed
    assert "muller_mnist: none of its 20 runs is here; lskd-run experiment=muller_mnist\n" in printed
    quoted = {"muller_ende", "muller_table1", "proselflc_quoted", "shen_quoted", "wsl_quoted"}  # nothing of them is run
    assert {path.name for path in (out / "tables").iterdir()} == {"README.md", "claims.md", "fiction", *quoted}
    assert not (filled.store.root / "tables").exists()


def test_nothing_here_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LSKD_RESULTS", raising=False)
    assert main(["quickstart"]) == 0
    assert capsys.readouterr().out.startswith("quickstart: none of its ")
    assert list(tmp_path.iterdir()) == []


def failure(capsys: Any, *words: str) -> str:
    assert main(words) == 2
    captured = capsys.readouterr().err
    assert "Traceback" not in captured
    assert captured.startswith("lskd-report: ")
    return str(captured)


def test_bad_input(filled: Any, own: Path, tmp_path: Path, capsys: Any) -> None:
    results = ["--results", str(filled.store.root)]
    assert "did you mean 'quickstart'?" in failure(capsys, "quikstart", *results)
    file = tmp_path / "file"
    file.write_text("")
    assert "is not a directory" in failure(capsys, "--results", str(file))
    assert "--results" in failure(capsys, "--results", str(tmp_path / "typo"))
    assert "--config-dir" in failure(capsys, "--config-dir", str(tmp_path / "typo"))
    assert "cannot be written" in failure(capsys, "fiction", *results, "--config-dir", str(own), "--out", str(file))


@pytest.mark.parametrize("content", ['{"last": {"test"', "{}", '{"last": [], "best": {}, "train": {}}', "[]", '"x"'])
def test_a_broken_record_is_named(filled: Any, own: Path, capsys: Any, content: str) -> None:
    path = filled.store.directory(filled.grid.cells[0].runs[1]) / "result.json"
    path.write_text(content)
    left_out(filled, own, capsys, path)


def left_out(filled: Any, own: Path, capsys: Any, path: Path) -> None:
    """Its neighbours are reported, and it is named in one line."""
    assert main(["fiction", "--results", str(filled.store.root), "--config-dir", str(own)]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith(f"lskd-report: DAMAGED and left out: {path}: ")
    assert "(1/2 seeds)" in captured.out and f"left out: {path}: " in captured.out
    assert (filled.store.root / "tables" / "fiction" / "fiction.md").is_file()


def test_a_record_of_another_configuration_is_left_out(filled: Any, own: Path, capsys: Any) -> None:
    path = filled.store.directory(filled.grid.cells[0].runs[1]) / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "seed": 9}))
    left_out(filled, own, capsys, path)


def test_one_broken_experiment_does_not_hide_the_others(filled: Any, own: Path, capsys: Any) -> None:
    (own / "experiment" / "broken.yaml").write_text("title: Broken\nsheets: [nowhere]\n")
    assert main(["--results", str(filled.store.root), "--config-dir", str(own)]) == 2
    captured = capsys.readouterr()
    assert "| hard targets" in captured.out
    assert "nowhere" in captured.err


def test_help_needs_neither_torch_nor_scipy() -> None:
    code = (
        "import sys, lskd.report.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'scipy', 'matplotlib', 'pandas', 'hydra'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: lskd-report")
    assert done.stdout.endswith("set()\n")


def test_a_report_imports_no_torch(filled: Any, own: Path) -> None:
    words = ["fiction", "--results", str(filled.store.root), "--config-dir", str(own)]
    code = f"import sys, lskd.report.cli as cli; assert cli.main({words!r}) == 0; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
