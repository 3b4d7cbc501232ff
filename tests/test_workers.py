"""Small networks train in processes of their own, with the same bits, and whatever ends one of them ends no other."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lskd.launch.execute
import lskd.launch.sweep
import lskd.launch.workers
from lskd import data
from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.launch.sweep import Outcomes, carry_out
from lskd.launch.workers import is_small
from lskd.run import Run
from lskd.runtime import Runtime
from lskd.store import Store

pytestmark = pytest.mark.skipif(not lskd.launch.workers.CAN_FORK, reason="no forks on this system")

BASE = {"dataset": "digits", "dataset.limit": 64, "arch": "mlp", "arch.hidden": [4], "recipe.epochs": 2}
RUNS = [parse_run({**BASE, "arch.hidden_dropout": 0.1, "seed": seed}, Conf()) for seed in range(4)]
train_run = lskd.launch.execute.train_run


@pytest.fixture
def sweep(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Outcomes]:
    cache = tmp_path_factory.getbasetemp() / "cache"

    def carry(name: str = "results", runs: list[Run] = RUNS) -> Outcomes:
        runtime = Runtime(fleet=2, threads=1, progress=False, cache=str(cache), checkpoint_seconds=0.0)
        return carry_out(runs, Store(tmp_path / name), runtime, Conf(cache=cache))

    return carry


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_they_compute_the_bits_of_threads(sweep, tmp_path, monkeypatch):
    def traced(run: Run, *args: Any, **kwargs: Any) -> None:
        (tmp_path / f"{run.id} in {os.getpid()}").touch()
        train_run(run, *args, **kwargs)

    monkeypatch.setattr(lskd.launch.execute, "train_run", traced)
    students = [parse_run({**BASE, "method": "kd", "teacher": {"arch": "mlp"}, "seed": 7}, Conf())]
    assert len(sweep("processes", [*RUNS, students[0].teacher, *students]).trained) == 6
    processes = {path.name.split()[-1] for path in tmp_path.glob("* in *")}
    assert len(processes) == 2 and str(os.getpid()) not in processes
    monkeypatch.setattr(lskd.launch.workers, "CAN_FORK", False)
    assert len(sweep("threads", [*RUNS, students[0].teacher, *students]).trained) == 6
    for run in [*RUNS, *students]:
        here, there = (Store(tmp_path / name).weights(run).read_bytes() for name in ("threads", "processes"))
        assert here == there


def test_streamed_images_are_decoded_in_them(sweep, tmp_path, tmp_path_factory, write_photographs, monkeypatch):
    """A small network on images in files is small, too; each process has threads of its own that decode."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    root = write_photographs(tmp_path / "photographs", {"train": 6, "test": 3}, ("ant", "bee"))
    data.import_folder("insects", root, cache=cache, stream=True)
    words = {"dataset": "insects", "recipe": "standard_streamed", "recipe.augment.crop": 8, "recipe.batch_size": 4}
    words |= {"arch": "mlp", "arch.hidden": [4], "recipe.epochs": 2}
    runs = [parse_run({**words, "seed": seed}, Conf(cache=cache)) for seed in range(2)]
    assert all(is_small(run, data.spec("insects", cache)) for run in runs)
    assert len(sweep("processes", runs).trained) == 2
    monkeypatch.setattr(lskd.launch.workers, "CAN_FORK", False)
    assert len(sweep("threads", runs).trained) == 2
    for run in runs:
        here, there = (Store(tmp_path / name).weights(run).read_bytes() for name in ("threads", "processes"))
        assert here == there


def test_one_that_is_killed_fails_its_run_and_no_other(sweep, tmp_path, monkeypatch):
    def killed(run: Run, *args: Any, **kwargs: Any) -> None:
        if run == RUNS[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        train_run(run, *args, **kwargs)

    monkeypatch.setattr(lskd.launch.execute, "train_run", killed)
    outcomes = sweep()
    assert [(run, reason) for run, reason in outcomes.failed] == [
        (RUNS[0], "WorkerDied: the process that trained it was killed by SIGKILL")
    ]
    assert len(outcomes.trained) == 3 and outcomes.exit_code == 1
    monkeypatch.undo()
    assert [run.id for run in sweep().trained] == [RUNS[0].id]


def test_what_goes_wrong_there_is_recorded_with_its_traceback(sweep, tmp_path, monkeypatch):
    class OfAPlugIn(Exception):  # cannot be sent to another process
        pass

    train = lskd.launch.execute.train

    def broken(run: Run, *args: Any, **kwargs: Any) -> Any:
        if run == RUNS[1]:
            raise OfAPlugIn("no such thing")
        if run == RUNS[2]:
            raise FloatingPointError("not finite")
        return train(run, *args, **kwargs)

    monkeypatch.setattr(lskd.launch.execute, "train", broken)
    outcomes = sweep()
    assert {run.seed: reason for run, reason in outcomes.failed} == {
        1: "OfAPlugIn: no such thing",
        2: "FloatingPointError: not finite",
    }
    for run, name in ((RUNS[1], "OfAPlugIn"), (RUNS[2], "FloatingPointError")):
        failure = json.loads((tmp_path / "results" / "runs" / run.id / "failed.json").read_text())
        assert f"{name}: no" in failure["traceback"] and "in broken" in failure["traceback"]


def test_what_they_log_is_logged_by_the_sweep(sweep, monkeypatch, caplog):
    def talking(run: Run, *args: Any, **kwargs: Any) -> None:
        logging.getLogger("lskd.engine.loop").warning("seed %d: mind this", run.seed)
        train_run(run, *args, **kwargs)

    monkeypatch.setattr(lskd.launch.execute, "train_run", talking)
    sweep()
    assert sorted(caplog.messages) == [f"seed {seed}: mind this" for seed in range(4)]


def test_they_outlive_a_killed_sweep_with_their_claims_and_not_for_long(sweep, tmp_path, monkeypatch):
    def held(run: Run, *args: Any, stop: Callable[[], bool], **kwargs: Any) -> None:
        (tmp_path / f"begun {run.id}").write_text(str(os.getpid()))
        until(lambda: stop() and (tmp_path / "end").exists())

    monkeypatch.setattr(lskd.launch.execute, "train_run", held)
    if not (process := os.fork()):
        with contextlib.suppress(BaseException):
            sweep()
        os._exit(1)
    until(lambda: len([path for path in tmp_path.glob("begun *") if path.read_text()]) == 2)
    begun = {path.name.split()[1]: int(path.read_text()) for path in tmp_path.glob("begun *")}
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    store = Store(tmp_path / "results")
    for run in RUNS:
        with store.claim(run) as ours:
            assert ours == (run.id not in begun)
    (tmp_path / "end").touch()
    until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in begun.values()))
    for run in RUNS:
        with store.claim(run) as ours:
            assert ours


@pytest.mark.parametrize(
    "settings, small",
    [
        ({}, True),
        ({"arch.hidden": [256, 256]}, True),
        ({"arch.hidden": [2000, 2000]}, False),
        ({"method": "kd", "teacher": {"arch": "mlp", "arch.hidden": [2000, 2000]}}, False),
        ({"arch": "resnet8", "arch.hidden": None, "recipe": "standard"}, False),
    ],
)
def test_small_is_what_takes_python_longer_than_the_kernels(settings, small):
    settings = {key: value for key, value in {**BASE, **settings}.items() if value is not None}
    assert is_small(parse_run(settings, Conf()), Conf().spec("digits")) is small
