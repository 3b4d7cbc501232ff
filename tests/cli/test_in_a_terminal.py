"""What a terminal shows, at 50 and at 80 columns: in a pseudo-terminal, as a person has it."""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import pty
import re
import struct
import sys
import termios
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import lskd.launch.progress
from lskd import cli, report
from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.launch.progress import Progress
from lskd.plan import make_plan
from lskd.store import Store
from lskd.tables.experiment import load_experiment

TABLE = """\
title: A table of one's own, with a title that is wider than the terminal in which it is read
seeds: [0, 1]
base: {dataset: digits, dataset.limit: 64, arch: mlp, recipe.epochs: 60, recipe.evaluate_every: 1}
rows:
  hard: {label: "hard targets, which are those that the data set comes with", run: {alpha: 0.0}}
  ls: {label: label smoothing, run: {alpha: 0.1}}
columns:
  top1: {label: accuracy in per cent}
  nll: {label: negative log-likelihood, metric: {name: nll, unit: nats}}
  ece15: {label: expected calibration error, metric: {name: ece15, unit: ""}}
claims:
  - id: F1
    text: Smoothing hurts, which takes more than one line to say here
    tests: [{test: less, of: ls/top1, than: hard/top1}]
"""


def in_a_terminal(columns: int, *words: str) -> str:
    """What `lskd-run WORDS` writes to a terminal of so many columns."""
    process, terminal = pty.fork()
    if not process:
        code = 70
        try:
            for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
                setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            os.environ.update(TERM="xterm-256color")
            os.environ.pop("COLUMNS", None)
            sys.argv = ["lskd-run", *words]
            cli.main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    shown = b""
    try:
        while piece := os.read(terminal, 65536):
            shown += piece
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, shown.decode()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())


@pytest.fixture
def own(lskd_run, tmp_path: Path) -> Path:
    for group, content in (("table", TABLE), ("experiment", "title: Mine\ntables: [mine]\n")):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "mine.yaml").write_text(content)
    return tmp_path / "conf"


@pytest.mark.parametrize("columns", [50, 80])
def test_progress_and_tables_fit(own, columns):
    words = ("experiment=mine", f"--config-dir={own}", "runtime.threads=1", "runtime.fleet=2", "runtime.device=cpu")
    lines = re.split(r"[\r\n]+", in_a_terminal(columns, *words))
    display = [line.rstrip() for line in lines if re.match(r"\d/4 runs", line)]
    assert len(display) > 3
    for line in display:
        assert re.fullmatch(r"\d/4 runs   *\d+ %( +[━╸╺ ]+)? +(at least .* left|time left unknown|.* left)", line), line
    training = [line for line in lines if re.match(r" *\d+ %  mlp", line)]
    measured = re.compile(r" *\d+ %  mlp.*seed \d +loss \d\S* +test +[\d.]+ %")
    with_numbers = [line for line in training if measured.match(line)]
    assert with_numbers, training[-3:]
    assert any("epoch" in line for line in with_numbers) == (columns >= 80)
    printed = lines[next(i for i, line in enumerate(lines) if line.startswith("# A table")) :]
    for line in (*display, *training, *(line for line in printed if str(own.parent) not in line)):
        assert len(line) <= columns, line
    text = " ".join(" ".join(printed).split())
    assert "**undecided**. Smoothing hurts, which takes more than one line to say here" in text
    assert sum(bool(re.search(r"±", line)) for line in printed) >= (2 if columns >= 80 else 4), (
        "two blocks where one does not fit"
    )


@pytest.fixture
def long_sweep(monkeypatch, tmp_path) -> Progress:
    """1,190 runs with long names, of which eight train."""
    monkeypatch.setattr(Console, "is_terminal", True)
    settings = {"dataset": "cifar100", "arch": "wrn_16_2", "method": "crd", "teacher": "wrn_40_2", "alpha": 0.1}
    run = parse_run(settings, Conf())
    runs = [replace(run, seed=seed) for seed in range(1190)]
    progress = Progress(runs, Store(tmp_path), Conf(), 8, "cpu", show=True)
    clock = itertools.count()
    monkeypatch.setattr(lskd.launch.progress, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    for run in runs[:12]:
        progress.finished(run, "")
    for run in runs[12:20]:
        stepped = progress.started(run)
        for step in (1, 2):
            stepped(step * 1000, 187_680)
        progress.epoch(run, {"train": {"ce": 1.5, "feature": 0.75, "top1": 30.0}, "test": {"top1": 41.25}})
    return progress


@pytest.mark.parametrize("columns", [40, 50, 80, 100, 160])
def test_count_share_and_time_left_never_vanish(long_sweep, columns):
    shown = io.StringIO()
    Console(width=columns, file=shown).print(long_sweep)
    overall, *rows = shown.getvalue().splitlines()
    assert re.match(r"12/1190 runs +1 % .*\d+ h \d+ min left$", overall.rstrip())
    assert len(rows) == 8 and len({row.rstrip() for row in rows}) == 8, "the seed tells them apart"
    for row in rows:
        assert len(row) <= columns and re.match(r" +1 %  wrn.*seed 1\d", row)
        assert ("test 41.2 %" in row, "loss 2.25" in row) == (True, columns >= 50)
        assert ("epoch 3/240" in row, "images/s" in row) == (columns >= 80, columns >= 100)


@pytest.mark.parametrize("columns", [50, 80])
@pytest.mark.parametrize("name", ["wsl_table3_same", "muller_figure5", "muller_table1"])
def test_every_kind_of_table_fits(columns, name, tmp_path):
    """Many columns; the points of a figure; what is only quoted."""
    experiment = {"wsl_table3_same": "wsl_cifar100", "muller_figure5": "muller_cifar10"}.get(name, name)
    conf = Conf(cache=tmp_path)
    content = {**conf.load("experiment", experiment), "tables": [name]}
    plan = make_plan(load_experiment(content, experiment), conf)
    printed = report.text(report.render(plan, Store(tmp_path)), columns=columns)
    too_wide = [line for line in printed.splitlines() if len(line) > columns and str(tmp_path) not in line]
    assert too_wide == []
    assert "|" not in printed.split("## Claims")[0], "no Markdown table, which would be broken anywhere"
    for row in plan.tables[0].table.rows.values():
        assert row.label.split()[0] in printed
