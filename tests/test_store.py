"""What a store does with records that are damaged, full disks, and two processes at one run."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from lskd import claims
from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.data import Spec
from lskd.errors import InputError
from lskd.files import write_atomically
from lskd.launch.queue import damages, to_train
from lskd.launch.sweep import carry_out
from lskd.probes.penultimate import Penultimate
from lskd.records import wrong_numbers
from lskd.run import ProbeSpec, Run
from lskd.runtime import Runtime
from lskd.store import ClaimLost, Store

CONF = Conf()
SETTINGS = {"dataset": "digits", "dataset.limit": 64, "arch": "mlp", "arch.hidden": [4], "recipe.epochs": 1}
RUN, OTHER = (parse_run({**SETTINGS, "seed": seed}, CONF) for seed in (0, 1))
STUDENT = parse_run({**SETTINGS, "method": "kd", "teacher": "mlp", "temperature": 2}, CONF)
MEASURED = {"top1": 75.0, "error": 25.0, "top5": 99.0, "nll": 0.5, "ece15": 0.05}
RECORD: dict[str, Any] = {
    "last": {"test": MEASURED},
    "best": {"test": {"epoch": 0, "test": MEASURED}},
    "train": {"top1": 80.0, "ce": 0.3},
    "calibration": {"test": {"reliability": [[0], [64, 0.7, 0.75]]}},
    "gamma": None,
    "examples": 64,
    "steps": 1,
    "seconds": 0.5,
    "weights_sha256": "00",
}
READING = ProbeSpec("penultimate", Penultimate(classes=("1", "4", "7"), examples=3))


def finish(store: Store, *runs: Run, **more: Any) -> None:
    for run in runs:
        store.begin(run, {"threads": 1, "fleet": 1})
        store.weights(run).write_bytes(b"weights")
        store.finish(run, {**RECORD, **more})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def with_metric(name: str, value: Any) -> dict[str, Any]:
    return {**RECORD, "last": {"test": {**MEASURED, name: value}}}


DAMAGED = [
    ("result.json", "", "is not valid JSON"),
    ("result.json", '{"id": "' + "é".encode("latin-1").decode("latin-1") + '"', "is not valid JSON"),
    ("result.json", "[1, 2]", "is not a JSON object"),
    ("result.json", {"id": "0" * 12, **RECORD}, "is not the record of run"),
    ("result.json", {key: value for key, value in RECORD.items() if key != "last"}, "last = null: must be a mapping"),
    ("result.json", {**RECORD, "best": []}, "best = []: must be a mapping"),
    ("result.json", with_metric("top1", 12345), "last.test.top1 = 12345: must be a finite number in [0, 100]"),
    ("result.json", with_metric("top1", -1.0), "last.test.top1 = -1.0: must be a finite number in [0, 100]"),
    ("result.json", with_metric("nll", float("nan")), "last.test.nll = NaN: must be a finite number"),
    (
        "result.json",
        with_metric("ece15", float("inf")),
        "last.test.ece15 = Infinity: must be a finite number in [0, 1]",
    ),
    ("result.json", with_metric("top1", "75.0"), 'last.test.top1 = "75.0": must be a finite number'),
    ("result.json", with_metric("top1", None), "last.test.top1 = null: must be a finite number"),
    ("result.json", with_metric("top1", True), "last.test.top1 = true: must be a finite number"),
    ("result.json", {**RECORD, "gamma": "0"}, 'gamma = "0": must be a finite number'),
    ("result.json", {**RECORD, "calibration": {"test": {"reliability": [[1, "x", 0]]}}}, "reliability[0][1]"),
    ("result.json", "[" * 100_000, "is not valid JSON"),
    ("result.json", None, "cannot be read: Is a directory"),
    ("config.json", "", "is not valid JSON"),
    ("config.json", {**RUN.identity(), "colour": "red"}, "is not the configuration of run"),
    ("config.json", ..., "is not the configuration of run"),
]


@pytest.mark.parametrize(("name", "content", "reason"), DAMAGED)
def test_what_is_damaged_is_named_left_out_and_left_alone(store, name, content, reason):
    finish(store, RUN, OTHER)
    assert (store.state(RUN), store.damage(RUN)) == ("done", None)
    path = store.directory(RUN) / name
    path.unlink()
    if content is None:
        path.mkdir()
    elif content is not ...:
        if isinstance(content, dict) and name == "result.json":
            content = {"id": RUN.id, **content}
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="latin-1")
    before = {file: file.read_bytes() for file in store.directory(RUN).rglob("*") if file.is_file()}
    assert (store.state(RUN), store.state(OTHER)) == ("damaged", "done")
    [named] = damages([RUN, OTHER], store)
    assert str(path) in named and reason in named and "\n" not in named
    assert ("restore it, or delete its directory" in named) or "move it away" in named or "cannot be read" in named
    assert to_train([RUN, OTHER], store) == []
    with pytest.raises(InputError):
        store.begin(RUN, {})
    outcomes = carry_out([RUN, OTHER], store, Runtime(progress=False, cache=str(CONF.cache)), CONF)
    assert (outcomes.damaged, outcomes.exit_code) == ([RUN], 1)
    assert before == {file: file.read_bytes() for file in store.directory(RUN).rglob("*") if file.is_file()}


def test_what_is_mended_is_done_again(store):
    finish(store, RUN)
    path = store.directory(RUN) / "result.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    assert store.state(RUN) == "damaged"
    path.write_bytes(whole)
    assert store.state(RUN) == "done"


def test_a_configuration_of_something_else_is_not_trained_over(store):
    store.directory(RUN).mkdir(parents=True)
    (store.directory(RUN) / "config.json").write_text("{}")
    (store.root / "runs" / OTHER.id).write_text("a file")
    assert [store.state(run) for run in (RUN, OTHER)] == ["damaged", "damaged"]
    assert "is not a directory" in (store.damage(OTHER) or "")
    assert to_train([RUN, OTHER], store) == []


def test_what_needs_a_damaged_teacher_is_not_run_and_its_neighbours_are(store):
    assert STUDENT.teacher is not None
    finish(store, STUDENT.teacher)
    (store.directory(STUDENT.teacher) / "result.json").write_text("{}")
    runs = [STUDENT.teacher, STUDENT, RUN]
    outcomes = carry_out(runs, store, Runtime(progress=False, cache=str(CONF.cache)), CONF)
    assert (outcomes.damaged, outcomes.blocked, outcomes.trained) == ([STUDENT.teacher], [STUDENT], [RUN])


@pytest.mark.parametrize("content", ["", "{}", "NaN", "[]"])
def test_damaged_notes_about_a_run_cost_nothing(store, content):
    finish(store, RUN)
    (store.directory(RUN) / "env.json").write_text(content)
    assert store.env(RUN) == {} and store.state(RUN) == "done"
    store.directory(OTHER).mkdir()
    (store.directory(OTHER) / "failed.json").write_text(content)
    assert store.state(OTHER) in ("failed", "missing")
    assert to_train([RUN, OTHER], store) == [OTHER]


@pytest.mark.parametrize(
    "readings", ["", '{"looks": []}', [3], [{"test": {}}], [{"step": 1, "test": {"cluster_spread": float("nan")}}]]
)
def test_damaged_looks_are_named_and_not_made_again(store, readings):
    finish(store, RUN)
    store.write_readings(RUN, READING, [], "00")
    path = store.directory(RUN) / "probes" / f"{READING.key}.json"
    whole = {"probe": READING.identity(), "weights_sha256": "00", "readings": readings}
    path.write_text(readings if isinstance(readings, str) else json.dumps(whole))
    wanted = {RUN.id: (READING,)}
    [named] = damages([RUN], store, wanted)
    assert named.startswith(f"{path}: ")
    assert to_train([RUN], store, wanted) == []


def test_a_damaged_description_of_data_costs_that_alone(store):
    spec = Spec("birds", "Birds", 2, (3, 8, 8), 30, 10, ("crow", "owl"), digest="00")
    store.describe(spec)
    (store.root / "datasets" / "bees.json").write_text("{")
    (store.root / "datasets" / "bats.json").write_text('{"name": "bats"}')
    assert store.specs() == {"birds": spec}


def test_files_are_for_whom_the_umask_says(store):
    def private(path: Path) -> None:
        path.write_bytes(b"weights")
        path.chmod(0o600)

    before = os.umask(0o027)
    try:
        write_atomically(store.root / "weights", private)
    finally:
        os.umask(before)
    assert (store.root / "weights").stat().st_mode & 0o777 == 0o640


def test_numbers_are_named_by_where_they_stand():
    assert list(wrong_numbers({"a": [{"top1": 101.0}, {"nll": -1}], "b": 3}, "x")) == [
        "x.a[0].top1 = 101.0: must be a finite number in [0, 100]",
        "x.a[1].nll = -1: must be a finite number >= 0",
    ]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 10**400, True, "1", None])
@pytest.mark.parametrize("place", [[], [[1, 0.5], [2]], {"a": 1.0}])
def test_a_wrong_number_is_found_wherever_it_stands(wrong, place):
    whole = [*place, wrong] if isinstance(place, list) else {**place, "b": wrong}
    assert list(wrong_numbers(place, "x")) == []
    [found] = wrong_numbers(whole, "x")
    assert found.endswith("must be a finite number")
    [found] = wrong_numbers([[0], [3, wrong]], "x")
    assert found.startswith("x[1][1] = ")


def test_numbers_whose_sum_is_none_are_no_damage():
    assert list(wrong_numbers([1.5e308, 1.5e308], "x")) == []


# ---- claims -------------------------------------------------------------------------------------------------------


def test_what_is_deleted_in_a_runs_directory_frees_no_run(store):
    other = Store(store.root)
    with store.claim(RUN) as ours:
        store.begin(RUN, {})
        for file in store.directory(RUN).iterdir():
            file.unlink()
        store.directory(RUN).rmdir()
        with other.claim(RUN) as theirs:
            assert (ours, theirs) == (True, False)
    with other.claim(RUN) as theirs:
        assert theirs


def test_of_two_processes_at_one_run_one_finishes_it(store):
    """Somebody has deleted the claim: the second process knows nothing of the first."""
    other = Store(store.root)
    with store.claim(RUN):
        store.begin(RUN, {})
        shutil.rmtree(store.root / ".leases")
        with other.claim(RUN) as theirs:
            assert theirs
            other.begin(RUN, {})
            with pytest.raises(ClaimLost):
                store.check_claim(RUN)
            with pytest.raises(ClaimLost):
                store.finish(RUN, {**RECORD, "weights_sha256": "11"})
            other.finish(RUN, RECORD)
    assert (store.result(RUN) or {})["weights_sha256"] == "00"


def test_two_finishes_at_once_do_not_mix_their_files(store, monkeypatch):
    """Locks that do not hold (on a mount where they are local to each machine): both believe that the run is theirs."""
    other = Store(store.root)
    for one in (store, other):
        one.begin(RUN, {})
    other.weights(RUN).write_bytes(b"theirs")
    other.finish(RUN, RECORD)
    monkeypatch.setattr(Store, "check_claim", lambda self, run: None)  # between that and the next line, they finished
    store.weights(RUN).write_bytes(b"ours")
    with pytest.raises(ClaimLost):
        store.finish(RUN, {**RECORD, "weights_sha256": "11"})
    assert (store.result(RUN) or {})["weights_sha256"] == "00"
    assert not store.weights(RUN).exists()  # better none than those of another training
    assert not (store.directory(RUN) / "rebuilt.json").exists()
    assert list(store.directory(RUN).glob(".*")) == []


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_needs_no_locks(store, monkeypatch, code):
    def flock(file: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    other = Store(store.root)
    with store.claim(RUN) as ours, other.claim(RUN) as theirs:
        assert (ours, theirs) == (True, False)
    outcomes = carry_out([RUN], store, Runtime(progress=False, cache=str(CONF.cache)), CONF)
    assert outcomes.trained == [RUN]


def test_where_no_claim_would_hold_nothing_is_trained(store, monkeypatch):
    monkeypatch.setattr(claims, "_file_system", lambda path: "fuse.s3fs")
    with pytest.raises(
        InputError, match=r"^runtime.results = '.*': is on an object store \(fuse.s3fs\), where .*"
    ) as told:
        carry_out([RUN], store, Runtime(progress=False, cache=str(CONF.cache)), CONF)
    assert "\n" not in str(told.value) and list(store.root.glob("runs/*")) == list(store.root.glob(".leases/*")) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_takes_nothing_is_refused_at_the_start(store, monkeypatch, code):
    def write(file: int, content: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(InputError, match=rf"^runtime.results = '.*': cannot be written: {os.strerror(code)}$"):
        carry_out([RUN], store, Runtime(progress=False, cache=str(CONF.cache)), CONF)


def test_a_disk_that_fills_up_costs_a_line_a_run(store, monkeypatch, capsys):
    """While they train, and while that is recorded."""
    real = os.fsync

    def fsync(file: int) -> None:
        if (store.directory(OTHER) / "config.json").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    runtime = Runtime(cache=str(CONF.cache), fleet=1, threads=1)
    outcomes = carry_out([OTHER, RUN], store, runtime, CONF)
    assert [run for run, reason in outcomes.failed if "No space left on device" in reason] == [OTHER, RUN]
    assert (outcomes.exit_code, capsys.readouterr().err.count("\n")) == (1, 2)
    monkeypatch.undo()
    outcomes = carry_out([OTHER, RUN], store, Runtime(progress=False, cache=str(CONF.cache)), CONF)
    assert {run.id for run in outcomes.trained} == {OTHER.id, RUN.id}


def test_a_run_that_cannot_be_claimed_is_lost_alone(store, monkeypatch):
    claim = Store.claim

    def full(self: Store, run: Run) -> Any:
        if run == RUN:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return claim(self, run)

    monkeypatch.setattr(Store, "claim", full)
    outcomes = carry_out([RUN, OTHER], store, Runtime(progress=False, cache=str(CONF.cache)), CONF)
    assert outcomes.failed == [(RUN, "cannot be claimed: No space left on device")]
    assert outcomes.trained == [OTHER]
