"""Trackers get what the logs have, whichever process trains, and cost no run anything."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import lskd.launch.execute
import lskd.launch.workers
from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.errors import InputError
from lskd.launch.sweep import Outcomes, carry_out
from lskd.run import Run
from lskd.runtime import Runtime
from lskd.store import Store
from lskd.trackers import TRACKERS, Tracker, check_trackers, tracking

BASE = {"dataset": "digits", "dataset.limit": 64, "arch": "mlp", "arch.hidden": [4], "recipe.epochs": 3}
BASE |= {"recipe.evaluate_every": 1}
RUNS = [parse_run({**BASE, "seed": seed}, Conf()) for seed in range(3)]
TEACHER = {"arch": "mlp", "arch.hidden": [8], "recipe.epochs": 2, "recipe.evaluate_every": 1}
STUDENT = parse_run({**BASE, "method": "kd", "teacher": TEACHER, "alpha": 0.1}, Conf())

Sent = list[tuple[str, str, Any]]  # what was called, of which run, with what


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What the tracker "spy" has been called with; and that it is one thread of this process which calls it."""
    sent: Sent = []

    class Spy(Tracker):
        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            self.threads = set[int]()

        def begin(self, run: Run, settings: Mapping[str, Any]) -> None:
            self.note("begin", run, settings)

        def log(self, run: Run, line: int, step: int, values: Mapping[str, float]) -> None:
            self.note("log", run, (line, step, values))

        def end(self, run: Run, final: Mapping[str, float] | None) -> None:
            self.note("end", run, final)

        def close(self) -> None:
            sent.append(("close", "", None))

        def note(self, what: str, run: Run, content: Any) -> None:
            self.threads.add(threading.get_ident())
            assert len(self.threads) == 1
            sent.append((what, run.id, content))

    monkeypatch.setitem(TRACKERS.entries, "spy", Spy)
    return sent


@pytest.fixture
def sweep(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Outcomes]:
    cache = tmp_path_factory.getbasetemp() / "cache"

    def carry(*trackers: str, name: str = "results", runs: list[Run] = RUNS) -> Outcomes:
        settings = {"fleet": 2, "threads": 1, "progress": False, "cache": str(cache), "checkpoint_seconds": 0.0}
        return carry_out(runs, Store(tmp_path / name), Runtime(**settings, tracker=trackers), Conf(cache=cache))

    return carry


def log_of(store: Path, run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store / "runs" / run.id / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("forks", [True, False])
def test_they_get_every_line_of_every_log_in_its_order(sweep, spy, tmp_path, monkeypatch, forks):
    monkeypatch.setattr(lskd.launch.workers, "CAN_FORK", forks and lskd.launch.workers.CAN_FORK)
    runs = [*RUNS, STUDENT.teacher, STUDENT]
    assert len(sweep("spy", runs=runs).trained) == 5
    for run in runs:
        calls = [(what, content) for what, id, content in spy if id == run.id]
        assert [what for what, _ in calls] == ["begin", *["log"] * len(log_of(tmp_path / "results", run)), "end"]
        lines = log_of(tmp_path / "results", run)
        for number, (record, (_, (line, step, values))) in enumerate(zip(lines, calls[1:-1], strict=True)):
            assert (line, step) == (number, record["step"])
            assert values["test/top1"] == record["test"]["top1"] and values["lr"] == record["lr"]
            assert values.keys() >= {"epoch", "seconds", "train/ce", "train/top1", "test/nll"} and "step" not in values
        assert calls[-1][1]["last/test/top1"] == lines[-1]["test"]["top1"]
    assert spy[-1][0] == "close"


def test_settings_are_whole(sweep, spy):
    sweep("spy", runs=[STUDENT.teacher, STUDENT])
    [settings] = [content for what, id, content in spy if what == "begin" and id == STUDENT.id]
    expected = {"method.name": "kd", "method.temperature": 4.0, "arch.hidden": "[4]", "target.alpha": 0.1, "seed": 0}
    expected |= {"teacher.arch.name": "mlp", "teacher.target.alpha": 0.0, "recipe.schedule.kind": "cosine"}
    assert expected.items() <= settings.items()
    assert not any("provenance" in name for name in settings)


def test_no_record_depends_on_them(sweep, spy, tmp_path):
    sweep("spy", name="with")
    sweep(name="without")
    for run in RUNS:
        one, other = (
            (tmp_path / name / "runs" / run.id / "model.safetensors").read_bytes() for name in ("with", "without")
        )
        assert one == other
    files = [{path.name for path in (tmp_path / name).rglob("*") if path.is_file()} for name in ("with", "without")]
    assert files[0] == files[1]


def test_a_run_that_goes_on_sends_its_whole_log(sweep, spy, tmp_path, monkeypatch):
    monkeypatch.setattr(lskd.launch.workers, "CAN_FORK", False)
    train = lskd.launch.execute.train

    def interrupted(run: Run, *args: Any, on_epoch: Callable[..., None], **kwargs: Any) -> Any:
        epochs = 0

        def count(records: list[dict[str, Any]]) -> None:
            nonlocal epochs
            on_epoch(records)
            epochs = len(records)

        return train(run, *args, **{**kwargs, "on_epoch": count, "stop": lambda: epochs == 2})

    monkeypatch.setattr(lskd.launch.execute, "train", interrupted)
    sweep("spy", runs=RUNS[:1])
    assert [what for what, *_ in spy] == ["begin", "log", "log", "end", "close"] and spy[3][2] is None
    monkeypatch.setattr(lskd.launch.execute, "train", train)
    spy.clear()
    assert len(sweep("spy", runs=RUNS[:1]).trained) == 1
    assert [content[0] for what, _, content in spy if what == "log"] == [0, 1, 2]


@pytest.mark.parametrize("where", ["begin", "log", "end", "close"])
def test_one_that_fails_costs_a_warning_and_no_run(sweep, spy, tmp_path, monkeypatch, capsys, where):
    def broken(self: Tracker, *args: Any) -> None:
        raise ConnectionError("no such host\nmore about it")

    monkeypatch.setitem(TRACKERS.entries, "broken", type("Broken", (TRACKERS["spy"],), {where: broken}))
    assert len(sweep("broken", "spy").trained) == 3
    warning = "tracker = broken: failed (ConnectionError: no such host); nothing more is sent to it, and the runs go on"
    assert capsys.readouterr().err == f"lskd-run: {warning}\n"
    assert sum(what == "log" for what, *_ in spy) >= 9, "the other one gets it all"


def test_one_that_hangs_does_not_hold_the_sweep_up(sweep, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "PATIENCE", 0.05)
    end = threading.Event()
    monkeypatch.setitem(TRACKERS.entries, "hung", type("Hung", (Tracker,), {"log": lambda self, *args: end.wait(60)}))
    try:
        assert len(sweep("hung").trained) == 3
    finally:
        end.set()
    assert "tracker = hung: has not answered for" in capsys.readouterr().err


def test_one_that_cannot_be_made_is_an_error_before_anything_trains(sweep, tmp_path, monkeypatch):
    def refuse(self: Tracker, folder: Path) -> None:
        raise PermissionError("no")

    monkeypatch.setitem(TRACKERS.entries, "shut", type("Shut", (Tracker,), {"__init__": refuse}))
    with pytest.raises(InputError, match="tracker = 'shut': cannot be used: PermissionError: no"):
        sweep("shut")
    assert not list((tmp_path / "results").rglob("config.json"))


def test_names_and_packages_are_checked(monkeypatch):
    with pytest.raises(InputError, match="tracker = 'tensorbord': did you mean 'tensorboard'"):
        check_trackers(["tensorbord"])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in TRACKERS else find(name))
    for name in ("tensorboard", "wandb", "mlflow"):
        with pytest.raises(InputError, match=rf"tracker = '{name}': needs the package {name}, .*'\.\[{name}\]'"):
            check_trackers([name])


def test_the_example_of_the_documentation(tmp_path, sweep, forget):
    text = (Path(__file__).parents[1] / "docs" / "trackers.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "spreadsheet.py", "exec"), {"__name__": "spreadsheet"})
    sweep("spreadsheet", runs=RUNS[:1])
    lines = (tmp_path / "results" / "trackers" / "spreadsheet" / f"{RUNS[0].id}.csv").read_text().splitlines()
    top1 = [float(line.split(",")[2]) for line in lines if line.split(",")[1] == "test/top1"]
    assert top1 == [record["test"]["top1"] for record in log_of(tmp_path / "results", RUNS[0])]


def test_tensorboard_has_the_log_once(sweep, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        sweep("tensorboard", runs=[STUDENT.teacher, STUDENT])
        store = Store(tmp_path / "results")
        with store.claim(STUDENT):
            store.ask_again(STUDENT, "again")
    folders = sorted((tmp_path / "results" / "trackers" / "tensorboard").iterdir())
    assert [re.sub(r" [0-9a-f]{12}$", "", folder.name) for folder in folders] == [
        "mlp(hidden=4) on digits, alpha=0.1, kd T=4 from mlp(hidden=8), seed 0",
        "mlp(hidden=8) on digits, seed 0",
    ]
    for run, folder in zip((STUDENT, STUDENT.teacher), folders, strict=True):
        [file] = folder.iterdir()
        events = EventAccumulator(str(file)).Reload()
        lines = log_of(tmp_path / "results", run)
        found = [(event.step, event.value) for event in events.Scalars("test/top1")]
        assert found == [(record["step"], pytest.approx(record["test"]["top1"])) for record in lines]
        assert "last/test/top1" in events.Tags()["scalars"]
        assert events.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"
