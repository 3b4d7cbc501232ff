"""`lskd-report --runs` and `lskd-report show`: the runs of a store, whatever experiment they are of."""

from __future__ import annotations

import io
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import pandas
import pytest

from lskd.commands import Commands
from lskd.compose import build_run, parse_run
from lskd.config_groups import Conf
from lskd.report import runs
from lskd.report.cli import main
from lskd.report.show import plot
from lskd.run import Run
from lskd.snapshot import Snapshot
from lskd.store import Store

RESULTS = Path(__file__).parents[2] / "results"
CONF = Conf()
BASE = {"dataset": "digits", "arch": "mlp", "recipe.epochs": 3}
TAUGHT = {**BASE, "method": "kd", "teacher": {"arch": "mlp", "arch.hidden": [8]}}
SETTINGS: list[dict[str, Any]] = [
    {**BASE, "arch.hidden": [8], "seed": 0},
    *({**TAUGHT, "seed": seed, "temperature": T} for T in (4, 8) for seed in (0, 1)),
    {**TAUGHT, "seed": 1, "teacher_ls": True},
]


def finish(store: Store, run: Run, top1: float, **more: Any) -> None:
    measured = {"top1": top1, "error": 100 - top1, "nll": 0.5, "ece15": 0.05}
    store.begin(run, {"device": "Abacus 3", "threads": 2})
    best = {"test": {"epoch": 1, "test": measured}}
    bins = [[0]] * 14 + [[64, 0.7, 0.75]]
    scaled = {"test": {"temperature": 1.5, "nll": 0.4, "ece15": 0.02, "reliability": bins}}
    result = {"last": {"test": measured}, "best": best, "train": {"top1": 99.0, "ce": 0.1}, "gamma": None, **more}
    log = [{"epoch": i, "step": i + 1, "train": {"top1": 50.0 + i}, "test": {"top1": 60.0 + 10 * i}} for i in range(3)]
    store.log(run).write_text("".join(json.dumps(line) + "\n" for line in log))
    store.finish(run, {**result, "calibration": {"test": {"reliability": bins, "scaled": scaled}}})


@pytest.fixture
def made(tmp_path: Path) -> tuple[Store, list[Run]]:
    """Runs with made-up results: a teacher, two students each at T = 4 and 8, one of a smoothed teacher at T = 4; and
    one that has diverged."""
    store, found = Store(tmp_path / "results"), [parse_run(one, CONF) for one in SETTINGS]
    for i, run in enumerate(found):
        finish(store, run, 90.0 + i)
    diverged = parse_run({**BASE, "recipe.lr": 9}, CONF)
    store.begin(diverged, {})
    store.fail(diverged, {"reason": "diverged"})
    return store, [*found, diverged]


def report(capsys: Any, store: Store, *words: str) -> str:
    assert main([*words, "--results", str(store.root)]) == 0
    return str(capsys.readouterr().out)


def csv(capsys: Any, store: Store, *words: str) -> pandas.DataFrame:
    return pandas.read_csv(io.StringIO(report(capsys, store, "--runs", "--csv", *words)))


FILTERS = [
    ((), [0, 1, 2, 3, 4, 5, 6]),
    (("method.name=kd",), [1, 2, 3, 4, 5]),
    (("method=kd", "temperature=4"), [1, 2, 5]),
    (("temperature=8,4.0", "seed=1"), [2, 4, 5]),
    (("teacher=null",), [0, 6]),
    (("teacher!=null", "teacher.alpha=0"), [1, 2, 3, 4]),
    (("teacher_ls=0.1",), [5]),
    (("teacher.target.alpha>0",), [5]),
    (("top1>=92", "top1<94"), [2, 3]),
    (("arch.hidden=[8]",), [0]),
    (("teacher.arch.hidden=[8]", "seed!=1"), [1, 3]),
    (("state=diverged",), [6]),
    (("recipe.nesterov=false", "recipe.clip_norm=null", "state=done"), [0, 1, 2, 3, 4, 5]),
    (("temperature=5",), []),
]


@pytest.mark.parametrize(("filters", "wanted"), FILTERS)
def test_filters(made: Any, filters: tuple[str, ...], wanted: list[int]) -> None:
    store, found = made
    frame, damaged = runs.frame(Snapshot.of(store))
    assert damaged == []
    assert set(runs.chosen(frame, filters)["id"]) == {found[i].id for i in wanted}


def test_a_frame_says_what_config_json_leaves_out(made: Any, capsys: Any) -> None:
    store, found = made
    frame = csv(capsys, store).set_index("id")
    student = frame.loc[found[1].id]
    assert "temperature" not in (store.directory(found[1]) / "config.json").read_text()  # 4 is the default
    assert (student["method.temperature"], student["teacher.id"]) == (4.0, found[1].teacher.id)
    assert (student["recipe.momentum"], student["env.device"], student["last.test.top1"]) == (0.9, "Abacus 3", 91.0)
    assert math.isnan(frame.loc[found[0].id]["method.temperature"])
    assert (frame.loc[found[6].id]["state"], math.isnan(frame.loc[found[6].id]["top1"])) == ("diverged", True)
    for run in found:
        for name, value in run.settings.items():
            told = frame.loc[run.id][name]
            assert str(told) == str(value) or told == value or (pandas.isna(told) and value in (None, "")), name


def test_groups_are_over_seeds_and_leave_nobody_out(made: Any, capsys: Any) -> None:
    store, _ = made
    table = csv(capsys, store, "state=done", "--group")
    assert list(table["n"]) == [2, 1, 2, 1] and table["n"].sum() == 6
    assert list(table["method.temperature"].fillna(0)) == [4, 4, 8, 0]
    assert list(table["teacher.target.alpha"].fillna(-1)) == [0, 0.1, 0, -1]
    assert list(table["top1.mean"]) == [91.5, 95.0, 93.5, 90.0]
    assert table["top1.sd"][0] == pytest.approx(math.sqrt(0.5)) and math.isnan(table["top1.sd"][1])
    by = csv(capsys, store, "--by", "temperature", "--columns", "train.ce")
    assert (
        list(by["n"]) == [3, 2, 2]
        and by["n"].sum() == 7
        and set(by.columns) == {"method.temperature", "n", "train.ce.mean", "train.ce.sd"}
    )
    text = report(capsys, store, "--runs", "state=done", "--group")
    assert "91.5 ± 0.7071" in text and "6 of 7 runs in" in text


def test_only_what_differs_is_printed(made: Any, capsys: Any) -> None:
    store, found = made
    header = report(capsys, store, "--runs", "method=kd").splitlines()[0].split()
    assert header == [
        "id",
        "method.temperature",
        "seed",
        "teacher.target.alpha",
        "teacher.seed",
        "top1",
        "nll",
        "ece15",
    ]
    assert found[6].id in report(capsys, store, "--runs")
    assert "0 of 7 runs" in report(capsys, store, "--runs", "seed=99")


WRONG = [
    (("--runs", "method.temprature=3"), "did you mean method.temperature"),
    (("--runs", "quickstart"), "quickstart: must be KEY=VALUE"),
    (("--runs", "seed>one"), "> must be followed by a number"),
    (("--runs", "--columns=topp1"), "topp1: is no column of these runs; did you mean top1"),
    (("--csv",), "--csv: is for --runs"),
    (("show",), "show: must be followed by the id of a run"),
    (("show", "zz"), "id = 'zz': is no run in"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_what_cannot_be_is_one_line(made: Any, capsys: Any, words: tuple[str, ...], said: str) -> None:
    assert main([*words, "--results", str(made[0].root)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and error.startswith("lskd-report: ")


def test_what_is_damaged_is_named(made: Any, capsys: Any) -> None:
    store, found = made
    (store.directory(found[0]) / "result.json").write_text("{")
    (store.directory(found[1]) / "config.json").write_text("{}")
    assert main(["--runs", "--results", str(store.root)]) == 1
    told = capsys.readouterr()
    assert told.err.count("DAMAGED and left out") == 2 and "5 runs in" in told.out
    assert main(["show", found[1].id, "--results", str(store.root)]) == 2
    assert "is not the configuration of run" in capsys.readouterr().err


def test_runs_of_other_code_are_given_as_they_were_recorded(made: Any) -> None:
    _, found = made
    identity = {**found[1].identity(), "method": {"name": "mine", "sharpness": 3, "code": "0123456789ab"}, "engine": 7}
    values, ours = runs.Settings().of(identity)
    assert not ours and (values["method.name"], values["method.sharpness"]) == ("mine", 3)
    assert values["recipe.momentum"] == 0.9 and "method.code" not in values
    assert runs.Settings().of(found[1].identity())[1]


def test_everything_about_one_run(made: Any, capsys: Any) -> None:
    store, found = made
    student = found[2]
    page = report(capsys, store, "show", student.id[:8])
    assert page.startswith(f"{student.id}  {student}  (done)\n")
    assert f"teacher  {student.teacher.id}  mlp(hidden=8) on digits, seed 1  (not here)" in page
    assert re.search(r"^test, last epoch +92 ", page, re.M) and "epoch 2, the best on test" in page
    assert re.search(r"^  \* recipe.epochs +3$", page, re.M) and re.search(r"^    method.temperature +4.0$", page, re.M)
    assert re.search(r"^  \* teacher.arch.hidden +\[8\]$", page, re.M)
    assert re.search(r"^  0.93 to 1.00 +64 +0.7 +0.75$", page, re.M) and "scaled by T = 1.500" in page
    assert "device  Abacus 3" in page and "█" in page
    [command] = re.findall(r"^  lskd-run (.*)$", page, re.M)
    assert "teacher={arch:mlp,arch.hidden:[8]}" in command and "seed=1" in command
    teacher = report(capsys, store, "show", found[0].id)
    assert "2 finished students" in teacher.replace(found[1].id, "")
    assert "(diverged)" in report(capsys, store, "show", found[6].id)


def test_a_curve_has_its_extremes_at_its_edges() -> None:
    lines = list(plot({"x": [(0, 1.0), (1, 2.0), (2, 3.0)]}, width=5, height=3))
    assert lines == ["       3 │    x", "         │  x", "       1 │x"]
    assert list(plot({"x": [(0, 1.0)]}, width=3, height=2)) == ["       1 │x", "       1 │"]


@pytest.mark.skipif(not (RESULTS / "runs").is_dir(), reason="not a checkout with results")
def test_the_command_of_a_run_is_that_run() -> None:
    """Of every committed run, from its config.json alone."""
    commands, store = Commands(CONF), Store(RESULTS)
    found = {id: Run.of(config) for id, config in store.configs()}
    assert len(found) > 400
    for id, run in found.items():
        assert build_run(commands.form(run), CONF).id == id, commands.line(run)


def test_many_runs_are_quickly_read(tmp_path: Path) -> None:
    """1,000 of them here, in processor time: a tenth of the 3 s that 10,000 may take, twice for slow machines."""
    store, first = Store(tmp_path), parse_run(SETTINGS[1], CONF)
    for seed in range(1000):
        run = Run.of({**first.identity(), "seed": seed})
        directory = store.directory(run)
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(run.identity()))
        bins = [[64, 0.7, 0.75]] * 15
        result = {"id": run.id, "last": {"test": {"top1": 90.0}}, "best": {}, "train": {}, "calibration": {"x": bins}}
        (directory / "result.json").write_text(json.dumps(result))
    begun = time.process_time()
    frame, _ = runs.frame(Snapshot.of(store))
    assert time.process_time() - begun < 0.6
    assert len(frame) == 1000 and sorted(frame["seed"]) == list(range(1000))
