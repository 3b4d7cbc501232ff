"""Finished runs that are trained again because somebody asks for it, and weights that are not those of a record."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import lskd.launch.execute
import lskd.launch.sweep
from lskd import weights
from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.errors import InputError
from lskd.files import write_json
from lskd.launch import sweep
from lskd.launch.queue import retrain, to_train
from lskd.launch.sweep import Outcomes, carry_out
from lskd.plan import in_order
from lskd.probes import PROBES, Probe, Scene
from lskd.run import ProbeSpec, Run
from lskd.runtime import Runtime
from lskd.store import Store
from lskd.weights import file_sha256

pytestmark = pytest.mark.usefixtures("one_thread")

CONF = Conf()
SMALL = {
    "dataset": "digits",
    "dataset.limit": 40,
    "arch": "mlp",
    "arch.hidden": [4],
    "recipe.epochs": 2,
    "recipe.batch_size": 10,
}
TAUGHT = {**SMALL, "method": "kd", "teacher": "mlp"}
STUDENTS = [parse_run({**TAUGHT, "temperature": T}, CONF) for T in (1, 2)]
TEACHER = STUDENTS[0].teacher
assert TEACHER is not None
RUNS = in_order(STUDENTS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    assert go(Store(root)).trained == list(RUNS)
    return root


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> Store:
    """With all three trained."""
    return Store(Path(shutil.copytree(trained, tmp_path / "results")))


def go(store: Store, runs: Iterable[Run] = RUNS, stop_after: int | None = None, **options: Any) -> Outcomes:
    runtime = Runtime(device="cpu", threads=1, fleet=1, progress=False, cache=str(CONF.cache), checkpoint_seconds=0)
    return carry_out(list(runs), store, runtime, CONF, **options)


def read(store: Store, run: Run, name: str = "result") -> Any:
    path = store.directory(run) / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def mark_old(store: Store, *runs: Run) -> None:
    """Records that can be told from those of a training from now on."""
    for run in runs:
        write_json(store.directory(run) / "result.json", {**read(store, run), "old": True})
        write_json(store.directory(run) / "env.json", {"old": True})


# ---- runtime.retrain ----------------------------------------------------------------------------------------------


def test_all_runs_are_trained_again_once(store):
    mark_old(store, *RUNS)
    (store.directory(TEACHER) / "rebuilt.json").write_text("{}")
    assert go(store).trained == []
    retrain(RUNS, store, True)
    assert go(store).trained == list(RUNS)
    for run in RUNS:
        assert "old" not in read(store, run) and "old" not in read(store, run, "env")
        assert read(store, run, "env")["code"]["engine"] == 1
        assert file_sha256(store.weights(run)) == read(store, run)["weights_sha256"]
        assert {path.name for path in store.directory(run).iterdir()} == {
            "config.json", "env.json", "log.jsonl", "result.json", "model.safetensors"
        }  # fmt: skip
    assert read(store, STUDENTS[0])["teacher"]["weights_sha256"] == read(store, TEACHER)["weights_sha256"]
    assert go(store).trained == []


def test_one_run_is_trained_again_alone(store):
    mark_old(store, *RUNS)
    retrain(RUNS, store, (STUDENTS[1].id,))
    assert go(store).trained == [STUDENTS[1]]
    assert ["old" in read(store, run) for run in RUNS] == [True, True, False]


def test_an_id_of_no_run_is_an_error_before_anything_is_asked_for(store):
    with pytest.raises(InputError, match=r"runtime.retrain = '0123456789ab': is no run of this plan; plan=commands"):
        retrain(RUNS, store, (TEACHER.id, "0123456789ab"))
    assert to_train(RUNS, store) == []


def interrupt(store: Store, monkeypatch: pytest.MonkeyPatch, after: int) -> list[Run]:
    """Carry the plan out until somebody has looked `after` times whether to stop; what was finished by then."""
    readings = iter(range(10**6))

    class Impatient(sweep.Stop):
        asked = property(lambda self: next(readings) >= after, lambda self, value: None)  # type: ignore[assignment]

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "Stop", Impatient)
        return go(store).trained


def test_one_that_was_interrupted_goes_on_and_keeps_the_old_record_meanwhile(store, monkeypatch):
    mark_old(store, *RUNS)
    trained: list[Run] = []
    rounds = 0
    while len(trained) < 3 and rounds < 50:
        rounds += 1
        retrain(RUNS, store, True)  # the same command each time
        left = to_train(RUNS, store)
        assert left == [run for run in RUNS if run not in trained]
        assert all(read(store, run)["old"] and read(store, run, "env")["old"] for run in left)
        trained += interrupt(store, monkeypatch, after=9)
    assert trained == list(RUNS) and rounds > 1
    assert not any("old" in read(store, run) for run in RUNS)
    assert to_train(RUNS, store) == []
    retrain(RUNS, store, True)  # only now it is a new request
    assert to_train(RUNS, store) == list(RUNS)


def test_a_checkpoint_of_before_is_not_gone_on_from(store):
    store.checkpoint(TEACHER).write_bytes(b"of other code")
    write_json(store.directory(TEACHER) / "failed.json", {"reason": "diverged", "message": "of other code"})
    retrain(RUNS, store, (TEACHER.id,))
    assert not store.checkpoint(TEACHER).exists() and store.state(TEACHER) == "missing"
    assert go(store).trained == [TEACHER]


def test_a_damaged_record_is_left_as_it_is(store):
    (store.directory(TEACHER) / "result.json").write_text("{", encoding="utf-8")
    retrain(RUNS, store, True)
    assert go(store).damaged == [TEACHER]
    assert (store.directory(TEACHER) / "result.json").read_text(encoding="utf-8") == "{"
    assert not (store.directory(TEACHER) / "retrain.json").exists()


def test_who_diverges_when_trained_again_keeps_the_record_and_says_so(store, monkeypatch):
    retrain(RUNS, store, (TEACHER.id,))
    before = read(store, TEACHER)

    def diverging(*args: Any, **options: Any) -> None:
        raise lskd.engine.Diverged("the training loss is not finite")

    with monkeypatch.context() as patched:
        patched.setattr(lskd.launch.execute, "train", diverging)
        assert [run for run, _ in go(store).failed] == [TEACHER]
    assert read(store, TEACHER) == before and store.state(TEACHER) == "diverged"
    (store.directory(TEACHER) / "retrain.json").unlink()
    assert store.state(TEACHER) == "done"


@dataclass(frozen=True)
class Norm(Probe):
    def measure(self, scene: Scene) -> dict[str, Any]:
        return {"train": {"norm": sum(p.norm().item() for p in scene.network.parameters())}}


def test_what_was_observed_is_observed_again(store, monkeypatch):
    monkeypatch.setitem(PROBES.entries, "norm", Norm())
    probe = ProbeSpec("norm", Norm())
    asked = {TEACHER.id: (probe,)}
    go(store, probes=asked)
    seen = store.probed(TEACHER, probe)
    store.write_readings(TEACHER, probe, [{"step": 0}], "another")
    retrain(RUNS, store, (TEACHER.id,))
    go(store, probes=asked)
    assert store.probed(TEACHER, probe) == seen


# ---- weights ------------------------------------------------------------------------------------------------------


def damage(store: Store, run: Run, how: str) -> None:
    weights = safetensors.torch.load_file(store.weights(run))
    if how == "nan":
        weights["head.bias"][0] = torch.nan
    else:
        weights = {name: torch.randn_like(tensor) for name, tensor in weights.items()}
    safetensors.torch.save_file(weights, store.weights(run))
    if how == "nan":  # and recorded, as by hand
        record = {**read(store, run), "weights_sha256": file_sha256(store.weights(run))}
        write_json(store.directory(run) / "result.json", record)


NEW = parse_run({**TAUGHT, "temperature": 3}, CONF)
MESSAGES = {
    "noise": r"model.safetensors: is not the network of the record \(its SHA-256 is \w{64}, recorded is \w{64}\); "
    r"put that back, or delete it to train mlp on digits, seed 0 again",
    "nan": r"model.safetensors: the values of head.bias are not finite; delete it to train",
}


@pytest.mark.parametrize("how", MESSAGES)
def test_a_teacher_of_other_weights_than_recorded_teaches_nobody(store, how):
    damage(store, TEACHER, how)
    with pytest.raises(InputError, match=MESSAGES[how]):
        go(store, in_order([NEW]))
    assert not store.directory(NEW).exists()


def test_weights_that_change_while_a_sweep_runs_fail_no_student(store, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Store, "ready", lambda store, run: run.id == TEACHER.id and store.result(run) is not None)
        patched.setattr(sweep.Sweep, "carry_out", broken_first(store, sweep.Sweep.carry_out))
        outcomes = go(store, in_order([NEW]))
    [(run, reason)] = outcomes.failed
    assert run == NEW and "is not the network of the record" in reason
    assert store.state(NEW) == "missing"


def broken_first(store: Store, carry: Any) -> Any:
    def carry_out(sweep: Any, runs: Any) -> Any:
        damage(store, TEACHER, "noise")
        return carry(sweep, runs)

    return carry_out


def test_an_observer_does_not_look_at_other_weights_than_recorded(store, monkeypatch):
    monkeypatch.setitem(PROBES.entries, "norm", Norm())
    damage(store, STUDENTS[0], "noise")
    with pytest.raises(InputError, match=MESSAGES["noise"].partition(" on digits")[0]):
        go(store, probes={STUDENTS[0].id: (ProbeSpec("norm", Norm()),)})


def test_weights_that_were_made_again_are_known(store):
    """Of a record from elsewhere, whose weights come out otherwise here."""
    write_json(store.directory(TEACHER) / "result.json", {**read(store, TEACHER), "weights_sha256": "0" * 64})
    store.weights(TEACHER).unlink()
    assert go(store, in_order([NEW])).trained == [TEACHER, NEW]
    assert read(store, TEACHER, "rebuilt")["weights_sha256"] == file_sha256(store.weights(TEACHER))
    assert read(store, NEW)["teacher"]["weights_sha256"] == file_sha256(store.weights(TEACHER))


@pytest.mark.parametrize("at", ["check_claim", "finish"])
def test_a_process_that_is_killed_leaves_no_weights_that_nobody_recorded(store, monkeypatch, at):
    """One that makes weights again, which come out otherwise."""
    write_json(store.directory(TEACHER) / "result.json", {**read(store, TEACHER), "weights_sha256": "0" * 64})
    store.weights(TEACHER).unlink()
    with monkeypatch.context() as patched:
        patched.setattr(Store, at, lambda *given: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            go(store, in_order([NEW]))
    assert not store.weights(TEACHER).exists()
    assert go(store, in_order([NEW])).trained == [TEACHER, NEW]


def test_a_file_is_read_for_its_digest_once(store, monkeypatch):
    read_files: list[str] = []
    plain = weights._digest
    monkeypatch.setattr(
        weights, "_digest", lambda file: read_files.append(str(getattr(file, "name", ""))) or plain(file)
    )
    weights._DIGESTS.clear()
    more = in_order(parse_run({**TAUGHT, "temperature": T}, CONF) for T in (5, 6, 7))
    assert len(go(store, more).trained) == 3
    assert read_files.count(str(store.weights(TEACHER))) == 1


def test_files_are_readable_by_those_whom_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        store = Store(tmp_path / "results")
        go(store, [TEACHER])
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.directory(TEACHER).iterdir()}
    assert set(modes.values()) == {0o640} and "model.safetensors" in modes
