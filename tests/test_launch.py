"""How many runs train side by side, and what happens when memory does not allow them."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import rich.console
import torch
from torch import nn

import lskd.engine
import lskd.environment
import lskd.launch.execute
import lskd.launch.progress
import lskd.launch.sweep
import lskd.launch.workers
from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.engine import CaptureFailed, Interrupted
from lskd.errors import InputError
from lskd.launch.fleet import GPU_FLEET, Fleet
from lskd.launch.progress import Progress
from lskd.launch.queue import by_teacher, needs_only_probes, to_train
from lskd.launch.sweep import carry_out, stopping
from lskd.models import ARCHS, MLPArch
from lskd.probes.mutual_information import MutualInformation
from lskd.probes.penultimate import Penultimate
from lskd.run import Named, ProbeSpec, Run
from lskd.runtime import Runtime
from lskd.store import Store

CONF = Conf()
BASE = {"dataset": "digits", "dataset.limit": 64, "arch": "mlp", "arch.hidden": [4], "recipe.epochs": 1}


def make_run(seed: int = 0, **settings: Any) -> Run:
    return parse_run({**BASE, "seed": seed, **settings}, CONF)


SEEDS = [make_run(seed) for seed in range(6)]
STUDENTS = [make_run(seed, method="kd", teacher={"arch": "mlp", "seed": seed % 2}) for seed in range(4)]


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many cores and so many bytes of free memory."""

    def make(cores: int = 4, free: float = 8e9, per_run: float = 1e9) -> None:
        monkeypatch.setattr(lskd.environment, "available_cores", lambda: cores)
        monkeypatch.setattr(lskd.engine, "device_bytes", lambda device: (free, 2 * free))
        monkeypatch.setattr(lskd.engine, "run_bytes", lambda run, spec, device_type: per_run)

    return make


def fleet(runs: list[Run], device: str = "cpu", **runtime: Any) -> Fleet:
    return Fleet(runs, Runtime(**runtime), torch.device(device), CONF)


def begun(runs: list[Run], fleet: Fleet) -> int:
    """How many of `runs` may train at once."""
    for run in runs:
        if fleet.room(run):
            fleet.training[run.id] = run
    return len(fleet.training)


def test_cores_are_divided_among_the_runs_of_a_plan(machine):
    machine(cores=4)
    for runs, runtime, size, threads in (
        (SEEDS, {}, 4, 1),
        (SEEDS[:2], {}, 2, 2),
        (SEEDS[:1], {}, 1, 4),
        ([STUDENTS[0].teacher, STUDENTS[0]], {}, 1, 4),  # one after the other
        (SEEDS, {"threads": 2}, 2, 2),
        (SEEDS, {"threads": 16}, 1, 16),
        (SEEDS, {"fleet": 1}, 1, 4),
        (SEEDS, {"fleet": 3, "threads": 1}, 3, 1),
    ):
        assert (fleet(runs, **runtime).size, torch.get_num_threads()) == (size, threads), (runs, runtime)


def test_a_gpu_takes_a_fixed_number(machine, monkeypatch):
    machine()
    many = [make_run(seed) for seed in range(GPU_FLEET + 3)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fleet(many, "cuda").size == GPU_FLEET
    assert fleet(many, "cuda", fleet=10).size == 10


def test_a_gpu_has_so_many_streams(machine, monkeypatch):
    machine()
    many = [make_run(seed) for seed in range(40)]
    assert fleet(many, "cuda", fleet=32).size == 32
    with pytest.raises(InputError, match=r"^runtime.fleet = 33: must be <= 32 on a GPU: .*") as raised:
        fleet(many, "cuda", fleet=33)
    assert "\n" not in str(raised.value)
    assert fleet(many, "cpu", fleet=33).size == 33


def test_cudnn_searches_only_for_a_run_alone(machine):
    """For that it waits for the whole device, which ends others' captures."""
    machine()
    for runs, runtime, alone in ((SEEDS, {}, False), (SEEDS, {"fleet": 1}, True), (SEEDS[:1], {}, True)):
        assert fleet(runs, "cuda", **runtime).shared.search is alone


def test_memory_decides_where_it_is_short(machine, capsys):
    machine(cores=8, free=4e9, per_run=1e9)  # of 90 % of 4 GB
    assert begun(SEEDS, fleet(SEEDS, fleet=6)) == 3
    assert capsys.readouterr().err == (
        "lskd-run: runtime.fleet = 6: 3 runs side by side: one more would make it 4.00 GB, and 3.60 GB are free for "
        "them\n"
    )
    machine(cores=8, free=4e9, per_run=9e9)
    assert begun(SEEDS, fleet(SEEDS)) == 1  # one alone may always try


def test_teachers_tables_have_a_part_of_the_memory(machine):
    machine(cores=8, free=10e9, per_run=1e9)
    runs = [*STUDENTS, *(run.teacher for run in STUDENTS)]
    assert fleet(runs, teacher_cache_gb=4).memory == pytest.approx(5e9)
    assert fleet(runs).memory == pytest.approx(4e9)  # a quarter of the machine's 20 GB
    assert fleet(runs, teacher_cache_gb=100).shared.teacher_memory == pytest.approx(5e9)  # half of what is free
    assert fleet(SEEDS).memory == pytest.approx(9e9)  # nobody teaches
    mixed = fleet([make_run(method="kd", teacher="mlp", **{"recipe.augment.mix.kind": "cutmix"})])
    assert mixed.memory == pytest.approx(9e9) and mixed.shared.teacher_memory == 0.0  # nothing of it can be kept


def test_a_table_that_cannot_be_kept_is_said(machine, capsys):
    """64 images × 9 views (shifts by a pixel) × (10 logits of 4 bytes and a flag)."""
    machine()
    fleet(STUDENTS)
    assert capsys.readouterr().err == ""
    fleet(STUDENTS, teacher_cache_gb=2e-6)
    assert capsys.readouterr().err == (
        "lskd-run: runtime.teacher_cache_gb: 2e-06 GB are for teachers' logits, and all views of one take "
        "2.36e-05 GB: "
        "they are evaluated once an epoch instead, with the same numbers\n"
    )


def test_runs_of_one_precision_only(machine):
    machine()
    in_bf16 = make_run(9, **{"recipe.precision": "bf16"})
    together = fleet([*SEEDS, in_bf16])
    assert begun([SEEDS[0], in_bf16, SEEDS[1]], together) == 2
    assert in_bf16.id not in together.training


def test_teachers_come_first_and_students_of_one_teacher_together():
    teachers = [run.teacher for run in STUDENTS[:2]]
    ordered = by_teacher([SEEDS[0], *teachers, SEEDS[1], *STUDENTS])
    assert ordered == [*teachers, SEEDS[0], SEEDS[1], STUDENTS[0], STUDENTS[2], STUDENTS[1], STUDENTS[3]]


class Undeclared(nn.Identity):
    """Waits for a generator, and does not say so."""

    generator = None


@dataclass(frozen=True)
class SharedRandomness(MLPArch):
    first: type[nn.Module] = nn.Dropout

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        network = super().build(input_shape, num_classes)
        network.head = nn.Sequential(self.first(), network.head)
        return network


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (nn.Dropout, r"^arch = mine: head.0 is Dropout, .* use lskd.models.dropout.Dropout$"),
        (Undeclared, r"^arch = mine: head.0 is Undeclared, .* must be a lskd.models.dropout.Random$"),
    ],
)
def test_global_randomness_is_refused_before_anything_trains(first, message, tmp_path, monkeypatch):
    """What draws from torch's global generator makes a run depend on those beside it."""
    arch = SharedRandomness(first=first)
    monkeypatch.setitem(ARCHS.entries, "mine", arch)
    run = replace(make_run(), arch=Named("mine", arch))
    with pytest.raises(InputError, match=message):
        carry_out([run], Store(tmp_path), Runtime(progress=False, cache=str(tmp_path)), Conf(cache=tmp_path))
    assert list(tmp_path.glob("runs/*")) == []


@pytest.fixture(params=["threads", "processes"])
def lanes(request, monkeypatch):
    """What several runs train in."""
    if request.param == "threads":
        monkeypatch.setattr(lskd.launch.workers, "CAN_FORK", False)
    elif not lskd.launch.workers.CAN_FORK:
        pytest.skip("no forks on this system")
    return request.param


@pytest.fixture
def starved(monkeypatch, tmp_path, lanes):
    """Trainings that find no memory where more than two are at it; a file with a letter for each try."""
    tries = tmp_path / "tries"
    train = lskd.launch.execute.train_run

    def train_run(run: Run, *args: Any, fleet: int, **kwargs: Any) -> None:
        with open(tries, "a") as file:
            file.write("x")
        if fleet > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        train(run, *args, fleet=fleet, **kwargs)

    monkeypatch.setattr(lskd.launch.execute, "train_run", train_run)
    return tries


def test_a_run_that_finds_no_memory_goes_on_in_a_smaller_fleet(tmp_path, starved, capsys):
    runtime = Runtime(fleet=3, threads=1, progress=False, cache=str(tmp_path / "cache"))
    outcomes = carry_out(SEEDS, Store(tmp_path), runtime, Conf(cache=tmp_path / "cache"))
    assert (len(outcomes.trained), outcomes.failed, outcomes.exit_code) == (6, [], 0)
    assert 6 < len(starved.read_text()) <= 9
    assert "runtime.fleet = 3: 2 runs side by side from now on: one found no memory" in capsys.readouterr().err


def test_what_a_run_held_is_free_when_it_is_tried_again(tmp_path, monkeypatch):
    """An error keeps the frames that it passed, and what holds itself waits for Python's collector."""
    train, held, free = lskd.launch.execute.train_run, list[weakref.ref[Any]](), list[bool]()

    class Training:
        def __init__(self) -> None:
            self.itself = self

    def train_run(run: Run, *args: Any, **kwargs: Any) -> Any:
        if not held:
            training, network = Training(), nn.Linear(2, 2)
            held.extend([weakref.ref(training), weakref.ref(network)])
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        free.append(all(ref() is None for ref in held))
        return train(run, *args, **kwargs)

    monkeypatch.setattr(lskd.launch.workers, "CAN_FORK", False)  # on a GPU there are threads alone
    monkeypatch.setattr(lskd.launch.execute, "train_run", train_run)
    runtime = Runtime(fleet=2, threads=1, progress=False, cache=str(tmp_path / "cache"))
    gc.disable()
    try:
        outcomes = carry_out(SEEDS[:2], Store(tmp_path), runtime, Conf(cache=tmp_path / "cache"))
    finally:
        gc.enable()
    assert len(outcomes.trained) == 2 and free[-1]


def test_a_process_in_which_nothing_can_be_captured_any_more_ends(tmp_path, monkeypatch, capsys):
    """The run that found out has failed; the others go on from their checkpoints when the command is given again."""
    ended = list[bool]()

    def train_run(run: Run, *args: Any, stop: Callable[[], bool], **kwargs: Any) -> None:
        if run == SEEDS[0]:
            raise CaptureFailed("a step cannot be captured (RuntimeError: no)", process_lost=True)
        deadline = time.monotonic() + 20
        while not stop() and time.monotonic() < deadline:
            time.sleep(0.01)
        ended.append(stop())
        raise Interrupted

    monkeypatch.setattr(lskd.launch.workers, "CAN_FORK", False)  # on a GPU there are threads alone
    monkeypatch.setattr(lskd.launch.execute, "train_run", train_run)
    runtime = Runtime(fleet=2, threads=1, progress=False, cache=str(tmp_path / "cache"))
    outcomes = carry_out(SEEDS, Store(tmp_path), runtime, Conf(cache=tmp_path / "cache"))
    assert [(run, reason) for run, reason in outcomes.failed] == [
        (SEEDS[0], "CaptureFailed: a step cannot be captured (RuntimeError: no)")
    ]
    assert ended in ([True], []) and outcomes.trained == [] and outcomes.exit_code == 130


def test_a_finished_run_tells_what_its_kind_needs(machine):
    """On a GPU it knows better than the prediction; of other kinds it knows nothing."""
    machine(free=10e9, per_run=1e9)
    other = make_run(0, **{"arch.hidden": [8]})
    several = fleet([*SEEDS, other], fleet=6)
    several.learn(SEEDS[0], {"held_memory_mb": 2500.0})
    several.learn(other, {"peak_memory_mb": 9000.0})
    several.learn(other, None)
    assert (several.bytes(SEEDS[1]), several.bytes(other)) == (2_500_000_000, 1e9)
    assert begun(SEEDS, several) == 3  # of 90 % of 10 GB


def test_a_run_that_finds_no_memory_alone_has_failed(tmp_path, monkeypatch):
    def train_run(run: Run, *args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")

    monkeypatch.setattr(lskd.launch.execute, "train_run", train_run)
    runtime = Runtime(progress=False, cache=str(tmp_path / "cache"))
    outcomes = carry_out(SEEDS[:1], Store(tmp_path), runtime, Conf(cache=tmp_path / "cache"))
    assert [reason for _, reason in outcomes.failed] == [
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20 MiB"
    ]


def test_an_error_of_the_sweep_ends_what_is_in_training(tmp_path, monkeypatch, lanes):
    """What trains is waited for at the end: without a word to it, as long as it trains."""
    ended = tmp_path / "ended"

    def train_run(run: Run, *args: Any, stop: Callable[[], bool], **kwargs: Any) -> None:
        deadline = time.monotonic() + 20
        while not stop() and time.monotonic() < deadline:
            time.sleep(0.01)
        ended.write_text(str(stop()))
        raise Interrupted

    store = Store(tmp_path)
    claim = store.claim

    def broken(self: Store, run: Run) -> Any:
        if run == SEEDS[1]:
            raise InputError("no space left")
        return claim(run)

    monkeypatch.setattr(lskd.launch.execute, "train_run", train_run)
    monkeypatch.setattr(Store, "claim", broken)
    runtime = Runtime(fleet=2, threads=1, progress=False, cache=str(tmp_path / "cache"))
    with pytest.raises(InputError, match="no space left"):
        carry_out(SEEDS[:2], store, runtime, Conf(cache=tmp_path / "cache"))
    assert ended.read_text() == "True"


def test_a_student_whose_teacher_trains_elsewhere_keeps_no_other_run_from_training(tmp_path, monkeypatch):
    student, others = STUDENTS[0], SEEDS[:3]
    elsewhere, order, train = contextlib.ExitStack(), [], lskd.launch.execute.train_run

    def train_run(run: Run, *args: Any, **kwargs: Any) -> None:
        order.append(run)
        train(run, *args, **kwargs)
        if run == others[-1]:
            elsewhere.close()

    monkeypatch.setattr(lskd.launch.execute, "train_run", train_run)
    assert elsewhere.enter_context(Store(tmp_path).claim(student.teacher))
    runtime = Runtime(fleet=1, threads=1, progress=False, cache=str(tmp_path / "cache"))
    runs = [student.teacher, student, *others]
    assert len(carry_out(runs, Store(tmp_path), runtime, Conf(cache=tmp_path / "cache")).trained) == 5
    assert order == [*others, student.teacher, student]


def test_what_others_train_is_left_to_them_after_a_look_at_each_teacher(tmp_path, monkeypatch):
    """By a process that was given some runs alone: a job whose GPU would stand idle meanwhile."""
    teacher = STUDENTS[0].teacher
    students = [replace(STUDENTS[0], seed=seed) for seed in range(100)]
    asked: list[Run] = []
    ready = Store.ready
    monkeypatch.setattr(Store, "ready", lambda self, run: asked.append(run) or ready(self, run))
    begins = lskd.launch.sweep.by_teacher  # what was looked at before does not count
    monkeypatch.setattr(lskd.launch.sweep, "by_teacher", lambda runs: asked.clear() or begins(runs))
    monkeypatch.setattr(lskd.launch.execute, "train_run", None)
    monkeypatch.setattr(lskd.launch.sweep, "SETTLE_SECONDS", -1)
    with Store(tmp_path).claim(teacher):
        runtime, conf = Runtime(progress=False, cache=str(tmp_path / "cache")), Conf(cache=tmp_path / "cache")
        only = {run.id for run in students}
        outcomes = carry_out([teacher, *students], Store(tmp_path), runtime, conf, only=only)
    assert {run.id for run in outcomes.left} == only and outcomes.exit_code == 0
    assert asked == [teacher]


def test_a_teacher_that_shows_late_is_waited_for_a_little(tmp_path, monkeypatch):
    """Its task is over when that of its student begins, but of a file of another machine NFS may know nothing yet."""
    student, ready, looks = STUDENTS[0], Store.ready, list[Run]()
    runtime, conf = Runtime(progress=False, cache=str(tmp_path / "cache")), Conf(cache=tmp_path / "cache")
    carry_out([student.teacher], Store(tmp_path), runtime, conf)

    def late(self: Store, run: Run) -> bool:
        if run == student.teacher:
            looks.append(run)
        return ready(self, run) and len(looks) > 3

    monkeypatch.setattr(Store, "ready", late)
    monkeypatch.setattr(lskd.launch.sweep, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(lskd.launch.sweep, "LOOK_SECONDS", (0.01, 0.02))
    assert carry_out([student.teacher, student], Store(tmp_path), runtime, conf, only={student.id}).trained == [student]


def test_what_failed_in_another_process_meanwhile_is_not_tried_again(tmp_path, monkeypatch):
    elsewhere, tried, train = contextlib.ExitStack(), list[Run](), lskd.launch.execute.train_run
    store = Store(tmp_path)

    def train_run(run: Run, *args: Any, **kwargs: Any) -> None:
        tried.append(run)
        train(run, *args, **kwargs)
        if run == SEEDS[1]:
            Store(tmp_path).fail(SEEDS[0], {"reason": "failed", "message": "no"})
            elsewhere.close()

    monkeypatch.setattr(lskd.launch.execute, "train_run", train_run)
    store.directory(SEEDS[0]).mkdir(parents=True)
    assert elsewhere.enter_context(Store(tmp_path).claim(SEEDS[0]))
    runtime = Runtime(fleet=1, threads=1, progress=False, cache=str(tmp_path / "cache"))
    outcomes = carry_out(SEEDS[:2], store, runtime, Conf(cache=tmp_path / "cache"))
    assert outcomes.failed == [(SEEDS[0], "no (in another process, since this one began)")] and tried == [SEEDS[1]]
    tried.clear()
    outcomes = carry_out(SEEDS[:2], Store(tmp_path), runtime, Conf(cache=tmp_path / "cache"))
    assert outcomes.trained == tried == [SEEDS[0]]  # the next sweep tries it


def test_the_record_says_how_many_trained_side_by_side(tmp_path):
    runtime = Runtime(fleet=2, threads=1, progress=False, cache=str(tmp_path / "cache"))
    store = Store(tmp_path)
    carry_out(SEEDS[:2], store, runtime, Conf(cache=tmp_path / "cache"))
    assert [(store.env(run)["fleet"], store.env(run)["threads"]) for run in SEEDS[:2]] == [(2, 1), (2, 1)]


def test_memory_that_cannot_be_predicted_is_told_once_a_kind(machine, monkeypatch, capsys):
    machine()

    def run_bytes(run: Run, spec: object, device_type: str) -> int:
        raise RuntimeError("\nout of order\nmore")

    monkeypatch.setattr(lskd.engine, "run_bytes", run_bytes)
    assert begun(SEEDS, fleet(SEEDS)) == 4
    assert capsys.readouterr().err == (
        f"lskd-run: the memory of {SEEDS[0]} cannot be predicted (RuntimeError: out of order): it is taken for 0\n"
    )


def test_asking_for_room_again_and_again_costs_next_to_nothing(machine, monkeypatch):
    """It is asked for every pending run, twice a second."""
    machine(cores=8, free=4e9, per_run=1e9)
    several = fleet(SEEDS, fleet=6)
    assert begun(SEEDS, several) == 3
    monkeypatch.setattr(Run, "identity", lambda run: pytest.fail("computed again"))
    assert [several.room(run) for run in SEEDS] == [False] * 6


# ---- the display, and signals -------------------------------------------------------------------------------------


@pytest.fixture
def live(monkeypatch):
    """A display on a terminal, which is drawn at each step: every look at the clock is a second later."""
    clock = itertools.count()
    monkeypatch.setattr(
        lskd.launch.progress, "time", SimpleNamespace(perf_counter=lambda: float(next(clock)), sleep=time.sleep)
    )
    monkeypatch.setattr(rich.console.Console, "is_terminal", True)

    def make(runs: list[Run], store: Store, fleet: int) -> Progress:
        return Progress(runs, store, CONF, fleet, "cpu", show=True)

    return make


def test_lanes_tell_one_display_all_at_once(tmp_path, monkeypatch, live):
    """Eight lanes begin, step and finish runs, and each asks for the time that is left."""
    monkeypatch.setattr(Store, "result", lambda store, run: {"seconds": 6.0, "steps": 6})
    runs = [make_run(seed, **{"recipe.batch_size": size}) for seed in range(60) for size in (8, 16, 32, 64)]
    progress = live(runs, Store(tmp_path), 8)
    todo, failures = iter(runs), list[BaseException]()
    turn = threading.Lock()

    def lane() -> None:
        try:
            while True:
                with turn:
                    run = next(todo, None)
                if run is None:
                    return
                stepped = progress.started(run)
                for step in range(1, 7):
                    stepped(step, 6)
                progress.finished(run, "")
        except BaseException as error:
            failures.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        lanes = [threading.Thread(target=lane) for _ in range(8)]
        for one in lanes:
            one.start()
        for one in lanes:
            one.join()
    finally:
        sys.setswitchinterval(before)
    assert failures == []
    assert progress.seconds_left() == 0.0


def test_a_finished_run_is_learned_from_alone(tmp_path, monkeypatch, live):
    """Its record is read, and no other one: at 10,000 runs all records after each would be 10⁸."""
    store = Store(tmp_path)
    for run in SEEDS:
        store.begin(run, {"threads": 1, "fleet": 2})
        measured = {"test": {"top1": 50.0}}
        record = {"last": measured, "best": {}, "train": {"top1": 50.0}, "steps": 2, "seconds": 2.0 * 8}
        store.finish(run, record)
    progress = live(SEEDS, store, 2)
    total = make_run().recipe.total_steps(64)
    assert progress.seconds_left() == pytest.approx(len(SEEDS) * total * 4.0)  # from the store: 8 s a step, of two
    monkeypatch.setattr(Store, "results", lambda *args: pytest.fail("all records were read"))
    monkeypatch.setattr(Store, "result", lambda store, run: {"steps": 2, "seconds": 2.0 * 6})
    progress.finished(SEEDS[0], "")
    assert progress.seconds_left() == pytest.approx(5 * total * 3.0)
    progress.finished(SEEDS[1], "failed", lost=True)
    assert progress.seconds_left() == pytest.approx(4 * total * 3.0)
    stepped = progress.started(SEEDS[2])
    stepped(1, 10)
    stepped(2, 10)  # two steps in two seconds, of which two runs have each the half
    assert progress.seconds_left() == pytest.approx(3 * total * 3.0 + 8 / 2)
    progress.started(SEEDS[2])  # it found no memory, and begins again
    assert progress.seconds_left() == pytest.approx(4 * total * 3.0)
    assert len(progress.tasks) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_ask_for_a_checkpoint(number):
    ours = signal.SIG_DFL if number in (signal.SIGHUP, signal.SIGUSR1) else signal.getsignal(number)
    before = signal.signal(number, ours)  # nohup ignores SIGHUP, and the tests may run under it
    try:
        with stopping() as stop:
            assert not stop.asked
            os.kill(os.getpid(), number)
            time.sleep(0)
            assert stop.asked
        assert signal.getsignal(number) == ours
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_signals_that_somebody_else_has_a_use_for_are_left_to_them(number):
    """nohup, and launchers that requeue their jobs."""
    told = []
    for handler in (signal.SIG_IGN, lambda number, frame: told.append(number)):
        before = signal.signal(number, handler)
        try:
            with stopping() as stop:
                os.kill(os.getpid(), number)
                time.sleep(0)
                assert not stop.asked
        finally:
            signal.signal(number, before)
    assert told == [number]
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


# ---- probes -------------------------------------------------------------------------------------------------

LAST = ProbeSpec("penultimate", Penultimate(classes=("1", "4", "7"), examples=3))
ALONG = ProbeSpec("mutual_information", MutualInformation(classes=("1", "7"), examples=3, every=1))


def finish(runs: list[Run], store: Store, probes: dict[str, tuple[ProbeSpec, ...]]) -> list[Run]:
    """What of `runs` had to be trained."""
    runtime = Runtime(progress=False, cache=str(CONF.cache))
    assert carry_out(runs, store, runtime, CONF, probes).exit_code == 0
    return to_train(runs, store, probes)


def test_what_an_observer_wants_of_a_finished_run_is_seen_of_its_weights(tmp_path):
    store, run = Store(tmp_path), SEEDS[0]
    finish([run], store, {})
    before = store.weights(run).stat().st_mtime_ns, (store.directory(run) / "result.json").read_bytes()
    wanted = {run.id: (LAST,)}
    assert to_train([run], store, wanted) == [run]
    assert needs_only_probes(run, store, wanted)
    assert finish([run], store, wanted) == []
    readings = store.readings(run, LAST)
    assert readings is not None
    assert [reading["step"] for reading in readings] == [run.recipe.total_steps(64)]
    assert (store.weights(run).stat().st_mtime_ns, (store.directory(run) / "result.json").read_bytes()) == before


@pytest.mark.parametrize("lost", ["weights", "trajectory"])
def test_what_cannot_be_seen_of_a_finished_run_any_more_trains_it_again(tmp_path, lost):
    store, run = Store(tmp_path), SEEDS[0]
    finish([run], store, {})
    record = (store.directory(run) / "result.json").read_bytes()
    wanted = {run.id: (LAST,) if lost == "weights" else (LAST, ALONG)}
    if lost == "weights":
        store.weights(run).unlink()
    assert not needs_only_probes(run, store, wanted)
    assert finish([run], store, wanted) == []
    assert (store.directory(run) / "result.json").read_bytes() == record
    rebuilt = json.loads((store.directory(run) / "rebuilt.json").read_text())
    assert rebuilt["weights_sha256"] == json.loads(record)["weights_sha256"]  # the same bits: on this CPU
    if lost == "trajectory":
        steps = [reading["step"] for reading in store.readings(run, ALONG) or ()]
        assert steps == list(range(run.recipe.total_steps(64) + 1))


def test_a_student_that_only_has_to_be_seen_needs_no_teacher(tmp_path):
    store, run = Store(tmp_path), STUDENTS[0]
    finish([run], store, {})
    assert run.teacher is not None
    store.weights(run.teacher).unlink()
    assert to_train([run], store, {run.id: (LAST,)}) == [run]
    assert finish([run], store, {run.id: (LAST,)}) == []
    assert not store.weights(run.teacher).is_file()


def test_a_run_is_observed_while_it_trains(tmp_path):
    store, run = Store(tmp_path), SEEDS[0]
    assert finish([run], store, {run.id: (LAST, ALONG)}) == []
    assert not (store.directory(run) / "rebuilt.json").exists()
    seen = json.loads((store.directory(run) / "probes" / f"{LAST.key}.json").read_text())
    result = store.result(run)
    assert result is not None
    assert seen["weights_sha256"] == result["weights_sha256"]
