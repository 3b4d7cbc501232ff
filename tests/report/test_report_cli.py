"""The command `lskd-report`, on an experiment of the user's own and on what is shipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lskd import data, report, store
from lskd.config_groups import Conf, shipped_conf
from lskd.plan import make_plan
from lskd.report import cli
from lskd.report.cli import main
from lskd.tables.experiment import load_experiment

EXPERIMENT = "title: Made up\ntables: [fiction]\n"
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


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the shipped experiments two: the index is of all that there are, and to plan all of them takes seconds."""
    names = Conf.names
    left_out = set(Conf().names("experiment")) - {"muller_table1", "quickstart"}
    monkeypatch.setattr(Conf, "names", lambda conf, group: [n for n in names(conf, group) if n not in left_out])


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
    (planned,) = make_plan(load_experiment(conf.load("experiment", "fiction"), "fiction"), conf).tables
    lab.fill(planned, "hard/top1", [91.0, 92.0, 93.0])
    lab.fill(planned, "ls/top1", [90.0, 91.01, 92.02])
    lab.planned = planned
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
    assert [path.name for path in (root / "tables").iterdir()] == ["fiction"], "the index is of all experiments"
    assert main(["--results", str(root), "--config-dir", str(own)]) == 0
    index = (root / "tables" / "README.md").read_text()
    line = next(line for line in index.splitlines() if "fiction" in line)
    assert (
        "| 6/6 | 1 reproduced | [md](fiction/fiction.md) [csv](fiction/fiction.csv) [tex](fiction/fiction.tex) |"
        in line
    )
    assert "`quickstart`" in index


def test_a_paper_gets_a_folder_of_its_own_and_the_best_in_bold_if_it_likes(filled: Any, own: Path, capsys: Any) -> None:
    root = filled.store.root
    asked = ["fiction", "--results", str(root), "--config-dir", str(own)]
    assert main(asked) == 0
    assert not (root / "paper").exists() and "textbf" not in (root / "tables/fiction/fiction.tex").read_text()
    assert main([*asked, "--paper", "--bold"]) == 0
    path = root / "paper" / "fiction" / "fiction.tex"
    assert f"wrote {path}" in capsys.readouterr().out
    assert r"hard targets & \textbf{92.00} \ensuremath{\pm} 1.00 \\" in path.read_text()
    assert path.read_text() == (root / "tables/fiction/fiction.tex").read_text()


def test_each_record_is_read_once(filled: Any, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all tables, figures and pages of all experiments together: here of two that share their runs."""
    (own / "experiment" / "twin.yaml").write_text("title: The same\ntables: [fiction]\n")
    read: list[Path] = []
    monkeypatch.setattr(store, "read_json", lambda path, once=store.read_json: read.append(Path(path)) or once(path))
    assert main(["--results", str(filled.store.root), "--config-dir", str(own)]) == 0
    of_runs = [path for path in read if path.parent.parent.name == "runs"]
    names = ("result.json", "config.json", "env.json")
    assert {name: sum(path.name == name for path in of_runs) for name in names} == dict.fromkeys(names, 6)
    assert len(of_runs) == len(set(of_runs))


def test_an_experiment_that_is_asked_for_is_the_only_one_that_is_planned(
    filled: Any, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[str] = []
    make = cli.make_plan
    monkeypatch.setattr(cli, "make_plan", lambda one, conf, **known: planned.append(one.name) or make(one, conf))
    assert main(["fiction", "--results", str(filled.store.root), "--config-dir", str(own)]) == 0
    assert planned == ["fiction"]


def test_out_and_all_experiments(filled: Any, own: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "elsewhere"
    assert main(["--results", str(filled.store.root), "--config-dir", str(own), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| hard targets" in printed
    assert "quickstart" not in printed, "none of its runs is here, and nobody asked for it"
    assert {path.name for path in (out / "tables").iterdir()} == {"README.md", "claims.md", "fiction"}, (
        "nothing unrelated"
    )
    assert not (filled.store.root / "tables").exists()


def test_what_is_only_quoted_is_kept_up_to_date_once_it_was_asked_for(filled: Any, own: Path) -> None:
    words = ["--results", str(filled.store.root), "--config-dir", str(own)]
    written = filled.store.root / "tables" / "muller_table1" / "muller_table1.md"
    assert main(words) == 0 and not written.exists()
    assert main([*words, "muller_table1"]) == 0 and written.is_file()
    written.write_text("old")
    assert main(words) == 0 and written.read_text() != "old"


def test_a_report_that_was_mistyped_writes_nothing(filled: Any, own: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["fiction", "--results", str(filled.store.root), "--config-dir", str(own)]
    (tmp_path / "file").write_text("")
    (own / "experiment" / "other.yml").write_text(EXPERIMENT)
    before = sorted(tmp_path.rglob("*"))
    assert "did you mean 'fiction'?" in failure(capsys, *words, "fictoin")
    assert "other.yml: is not read; call it other.yaml" in failure(capsys, *words, "other")
    assert "cannot be written" in failure(capsys, *words, "--out", str(tmp_path / "file" / "below"))
    assert sorted(tmp_path.rglob("*")) == before


def test_all_is_written_before_anything_is_printed(filled: Any, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as nobody_reads:
        monkeypatch.setattr(sys, "stdout", nobody_reads)
        code = main(["--results", str(filled.store.root), "--config-dir", str(own)])
        monkeypatch.undo()
    assert code in (0, 141)
    assert (filled.store.root / "tables" / "README.md").is_file()


def test_files_are_whole_or_not_there(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it writes: the file of before is still there."""
    planned = lab.figure()
    lab.fill(planned, "small/0", [90.0, 91.0, 92.0])
    written = report.write(report.render(lab.plan(planned), lab.store), lab.store.root)
    assert {path.suffix for path in written} == {".md", ".csv", ".tex", ".png", ".pdf", ".svg"}
    contents = {path: path.read_bytes() for path in written}
    lab.fill(planned, "large/0", [80.0, 81.0, 82.0])

    def killed(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            report.write(report.render(lab.plan(planned), lab.store), lab.store.root)
    assert {path: path.read_bytes() for path in written} == contents


def test_own_data_are_reported_where_they_are_not(lab: Any, own: Path, capsys: Any) -> None:
    spec = replace(data.DATASETS["digits"].spec, name="shades", digest="0123456789abcdef")
    (own / "table" / "fiction.yaml").write_text(TABLE.replace("dataset: digits", "dataset: shades"))
    conf = Conf((own, shipped_conf()), specs={"shades": spec})
    (planned,) = make_plan(load_experiment(conf.load("experiment", "fiction"), "fiction"), conf).tables
    lab.fill(planned, "hard/top1", [91.0, 92.0])
    words = ["fiction", "--results", str(lab.store.root), "--config-dir", str(own)]
    assert "shades" in failure(capsys, *words)
    lab.store.describe(spec)  # as a training does
    assert main(words) == 0
    assert "2 of 6 runs done" in capsys.readouterr().out


def test_nothing_here_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LSKD_RESULTS", raising=False)
    assert main(["quickstart"]) == 0
    assert capsys.readouterr().out.startswith("quickstart: none of its ")
    assert main([]) == 0
    assert (
        capsys.readouterr().out
        == "no finished run is in results; lskd-run experiment=quickstart trains some in a minute\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_runs_of_no_table_are_counted_and_told_of(filled: Any, capsys: Any) -> None:
    root = str(filled.store.root)
    assert main(["--results", root]) == 0  # without the configuration directory that has their experiment
    printed = capsys.readouterr().out
    assert (
        printed
        == f"6 finished runs are in no experiment's table; all runs as one: lskd-report --runs --results {root}\n"
    )


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
    path = filled.store.directory(filled.planned.cells[0].runs[1]) / "result.json"
    path.write_text(content)
    left_out(filled, own, capsys, path)


def left_out(filled: Any, own: Path, capsys: Any, path: Path) -> None:
    """Its neighbours are reported, and it is named in one line."""
    assert main(["fiction", "--results", str(filled.store.root), "--config-dir", str(own)]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith(f"lskd-report: DAMAGED and left out: {path}: ")
    assert "(2/3 seeds)" in captured.out and f"left out: {path}: " in captured.out
    assert (filled.store.root / "tables" / "fiction" / "fiction.md").is_file()


def test_a_record_of_another_configuration_is_left_out(filled: Any, own: Path, capsys: Any) -> None:
    path = filled.store.directory(filled.planned.cells[0].runs[1]) / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "seed": 9}))
    left_out(filled, own, capsys, path)


def test_one_broken_experiment_does_not_hide_the_others(filled: Any, own: Path, capsys: Any) -> None:
    (own / "experiment" / "broken.yaml").write_text("title: Broken\ntables: [nowhere]\n")
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
