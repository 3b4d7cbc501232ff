"""Trainings side by side on one device: none changes another. And what memory each will need."""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment, Normalize
from lskd.engine import Diverged, Interrupted, Outcome, Shared, run_bytes, train
from lskd.engine.capture import GATE, RECOVERS
from lskd.engine.member import build_network
from lskd.engine.memory import CUDA_WORKSPACE, Allocations, Black
from lskd.engine.record import held_memory_mb
from lskd.engine.training import Training
from lskd.methods import METHODS, Batch, Method
from lskd.models import ARCHS, CifarResNetArch, MLPArch
from lskd.recipe import Recipe
from lskd.run import Named, Run
from lskd.start import Start

SPEC = Spec("noise", "Noise", 4, (3, 8, 8), 30, 12, tuple("abcd"), digest="")
GENERATOR = torch.Generator().manual_seed(0)
PARTS = {
    name: Part(torch.randint(256, (n, *SPEC.shape), generator=GENERATOR, dtype=torch.uint8), torch.arange(n) % 4)
    for name, n in (("train", 30), ("test", 12))
}
RESNET = CifarResNetArch(depth=8, stem=4, widths=(4, 6, 8))
MLP = MLPArch(hidden=(6,), input_dropout=0.1, hidden_dropout=0.5)
RECIPE = Recipe(lr=0.05, batch_size=8, epochs=6, momentum=0.9, augment=Augment(pad=1, flip=True))
TEACHER = Run(Dataset("noise"), Named("resnet8", RESNET), Named("ce", METHODS["ce"]), RECIPE)
DROPOUT = replace(TEACHER, arch=Named("mlp", MLP), seed=1)
STUDENT = replace(DROPOUT, method=Named("kd", METHODS["kd"]), teacher=TEACHER)
RUNS = [TEACHER, DROPOUT, STUDENT, replace(STUDENT, seed=2), replace(DROPOUT, seed=3), replace(TEACHER, seed=4)]


pytestmark = pytest.mark.usefixtures("one_thread")


def fit(run: Run, shared: Shared) -> Outcome:
    teacher = build_network(TEACHER, SPEC) if run.teacher is not None else None
    return train(run, SPEC, PARTS, teacher, shared=shared)


def side_by_side(runs: list[Run], device: torch.device, patience: float = 20) -> list[Outcome | BaseException]:
    """All runs at once, in step for as long as they last: threads that took turns by the run would show nothing."""
    shared, together = Shared(device), threading.Barrier(len(runs))
    outcomes: list[Any] = [None] * len(runs)

    def work(place: int, run: Run) -> None:
        def in_step(step: int, total: int) -> None:
            if step % 3 == 0:
                together.wait(timeout=patience)

        try:
            teacher = build_network(TEACHER, SPEC) if run.teacher is not None else None
            outcomes[place] = train(run, SPEC, PARTS, teacher, shared=shared, on_step=in_step)
        except BaseException as error:
            outcomes[place] = error

    threads = [threading.Thread(target=work, args=item) for item in enumerate(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def numbers(outcome: Outcome) -> list[Any]:
    epochs = [{key: value for key, value in record.items() if key != "seconds"} for record in outcome.epochs]
    return [epochs, outcome.result["gamma"]]


def differences(one: Outcome, other: Outcome) -> list[str]:
    expected = other.network.state_dict()
    return [name for name, value in one.network.state_dict().items() if not torch.equal(value, expected[name])]


@pytest.fixture(scope="module")
def alone() -> list[Outcome]:
    """`RUNS`, each for itself."""
    return [fit(run, Shared(torch.device("cpu"))) for run in RUNS]


def test_companions_change_no_bit(alone):
    """Dropout, batch norm, two students that fill one teacher's table, all in step."""
    for outcome, expected in zip(side_by_side(RUNS, torch.device("cpu")), alone, strict=True):
        assert isinstance(outcome, Outcome), outcome
        assert differences(outcome, expected) == []
        assert numbers(outcome) == numbers(expected)


def test_companions_that_capture_change_no_bit(alone, captured):
    """Eager sections, tables that are filled and captures among them: nobody waits for ever, and no capture is
    disturbed."""
    eager: list[int] = []
    captured.while_capturing = lambda: eager.append(GATE._eager)
    for outcome, expected in zip(side_by_side(RUNS, torch.device("cpu")), alone, strict=True):
        assert isinstance(outcome, Outcome), outcome
        assert outcome.result["captured"] == [[6], [8]]  # of 30 images, 8 at a time, in 6 epochs
        assert "not_captured" not in outcome.result
        assert differences(outcome, expected) == []
        assert numbers(outcome) == numbers(expected)
    assert eager == [0] * 2 * len(RUNS)


def test_what_was_captured_is_recorded(captured):
    cpu = torch.device("cpu")
    short = replace(TEACHER, recipe=replace(RECIPE, epochs=2))  # each epoch ends with a batch of 6
    assert fit(short, Shared(cpu)).result["captured"] == [[8]]
    assert fit(replace(TEACHER, recipe=replace(RECIPE, epochs=None, steps=2)), Shared(cpu)).result["captured"] == []
    parts = replace(TEACHER, recipe=replace(RECIPE, accumulate=2))
    assert fit(parts, Shared(cpu)).result["captured"] == [[2, 6], [4, 6], [4, 8], []]
    captured.error = RuntimeError("no")
    result = fit(TEACHER, Shared(cpu)).result
    assert (result["captured"], result["not_captured"]) == ([], [[8, "RuntimeError: no"]])


def test_what_is_shared_is_there_before_another_stream_reads_it(monkeypatch):
    """A cache's flags are cleared on the default stream, and waited for; who leaves a cache has read all of it."""
    events: list[str] = []

    @contextlib.contextmanager
    def stream(which: str) -> Iterator[None]:
        events.append(f"on {which}")
        yield
        events.append(f"off {which}")

    def waiting(device: Any) -> Any:
        return SimpleNamespace(synchronize=lambda: events.append("waited"))

    empty, zeros = torch.empty, torch.zeros

    def made(*shape: int, device: Any = None, **options: Any) -> Tensor:
        events.append("made")
        return (zeros if options else empty)(*shape, **options)

    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: "the default")
    monkeypatch.setattr(torch.cuda, "current_stream", waiting)
    monkeypatch.setattr(torch, "empty", made)
    monkeypatch.setattr(torch, "zeros", made)
    source = Black(30, (1, 1, 1), views=2)
    with Shared(torch.device("cuda", 0)).logit_cache(STUDENT, source, 4) as cache:
        assert cache is not None and not cache.known.any()
        assert events == ["on the default", "made", "made", "waited", "off the default"]
    assert events[5:] == ["waited"]


# ---- what is left of a training -----------------------------------------------------------------------------------


@pytest.fixture
def trainings(monkeypatch) -> Iterator[list[weakref.ref[Any]]]:
    """What trainings make of themselves; Python's collector of what holds itself is off."""
    made: list[weakref.ref[Any]] = []
    enter = Training.enter

    def entered(training: Training, stage: Any) -> None:
        enter(training, stage)
        member, step, teacher = training.member, training.one_step, training.teacher
        of_it = (training, member, member.network, member.optimizer, member.module, teacher, step, step.run_step)
        made.extend(weakref.ref(one) for one in of_it if one is not None)

    monkeypatch.setattr(Training, "enter", entered)
    gc.disable()
    yield made
    gc.enable()


@pytest.mark.parametrize("method", ["ce", "kd", "fsp"])
def test_nothing_of_a_training_lives_on(trainings, method):
    run = replace(TEACHER if method == "ce" else STUDENT, method=Named(method, METHODS[method]))
    run = replace(run, arch=TEACHER.arch, recipe=replace(RECIPE, epochs=2))
    if method == "fsp":
        run = replace(run, method=Named("fsp", replace(METHODS["fsp"], initial_epochs=1)))
    shared = Shared(torch.device("cpu"))
    outcome = fit(run, shared)
    network = weakref.ref(outcome.network)
    assert {ref for ref in trainings if ref() is not None} == {network}
    del outcome
    assert len(trainings) > 2 and network() is None


def test_nothing_of_a_training_that_ends_early_lives_on(trainings, monkeypatch):
    """Stopped, or diverged; once its error has been dealt with."""
    monkeypatch.setitem(METHODS.entries, "explosive", Explosive())
    for error, options in ((Interrupted, {"stop": lambda: True}), (Diverged, {})):
        run = replace(DROPOUT, method=Named("explosive", Explosive()))
        with pytest.raises(error):
            train(run, SPEC, PARTS, shared=Shared(torch.device("cpu")), **options)
        assert [ref() for ref in trainings if ref() is not None] == []
    assert len(trainings) >= 6


def test_graphs_end_with_their_training(trainings, captured):
    graphs: list[weakref.ref[Any]] = []
    captured.while_capturing = lambda: graphs.append(weakref.ref(captured.capturing))
    fit(STUDENT, Shared(torch.device("cpu")))
    assert len(graphs) == 2 and [ref() for ref in graphs if ref() is not None] == []


@dataclass(frozen=True)
class Explosive(Method):
    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        return {"ce": METHODS["ce"].loss(batch)["ce"] * torch.inf}


def test_a_diverging_run_disturbs_no_companion(monkeypatch):
    cpu = torch.device("cpu")
    explosive = replace(DROPOUT, method=Named("explosive", Explosive()))
    shared, outcomes = Shared(cpu), dict[str, Any]()

    def work(run: Run) -> None:
        try:
            outcomes[run.method.name] = fit(run, shared)
        except Diverged as error:
            outcomes[run.method.name] = error

    monkeypatch.setitem(METHODS.entries, "explosive", Explosive())
    threads = [threading.Thread(target=work, args=(run,)) for run in (explosive, STUDENT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert isinstance(outcomes["explosive"], Diverged)
    assert differences(outcomes["kd"], fit(STUDENT, Shared(cpu))) == []


# ---- on a GPU -----------------------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA = torch.device("cuda")


def assert_close(outcome: Outcome | BaseException, expected: Outcome) -> None:
    """Losses of all epochs to 1e-4 on a GPU whose numbers repeat."""
    assert isinstance(outcome, Outcome), outcome
    for one, other in zip(outcome.epochs, expected.epochs, strict=True):
        for part in ("train", "test"):
            for name in one[part].keys() - {"top1", "top5", "error", "ece15"}:  # which move with an image
                assert one[part][name] == pytest.approx(other[part][name], rel=1e-4, abs=1e-4), (part, name)
    for value, wanted in zip(outcome.network.parameters(), expected.network.parameters(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-2, atol=1e-3)


@needs_cuda
@pytest.mark.usefixtures("exact")
def test_companions_change_no_more_than_another_run_does_on_cuda():
    outcomes = side_by_side(RUNS, CUDA, patience=300)  # a machine that is new to CUDA takes its time
    for run, outcome in zip(RUNS, outcomes, strict=True):
        expected = fit(run, Shared(CUDA))
        assert_close(outcome, expected)
        assert isinstance(outcome, Outcome)
        assert outcome.result["captured"] == expected.result["captured"] == [[6], [8]]


@needs_cuda
@pytest.mark.usefixtures("exact")
def test_a_fleet_of_convolutional_runs_is_captured_on_cuda():
    """Sixteen at once, of networks and students of one teacher; each captures two sizes while others are eager."""
    students = [replace(STUDENT, arch=TEACHER.arch, seed=seed) for seed in range(8)]
    runs = [*students, *(replace(TEACHER, seed=seed) for seed in range(8))]
    outcomes = side_by_side(runs, CUDA, patience=300)
    for run, outcome in zip(runs, outcomes, strict=True):
        assert isinstance(outcome, Outcome), outcome
        assert outcome.result["captured"] == [[6], [8]] and "not_captured" not in outcome.result
        if run.seed < 2:
            assert_close(outcome, fit(run, Shared(CUDA)))


@needs_cuda
@pytest.mark.usefixtures("exact")
def test_more_trainings_than_streams_beside_a_long_one_on_cuda():
    """Forty short ones come and go, of which each captures; the long one takes a step for each of theirs."""
    count, shared, permits = 40, Shared(CUDA), threading.Semaphore(0)
    steps = RECIPE.total_steps(SPEC.train)
    long = replace(TEACHER, seed=9, recipe=replace(RECIPE, epochs=None, steps=count * steps, evaluate_every=1000))
    short = [replace(DROPOUT, seed=seed) for seed in range(count)]
    outcomes: dict[str, Any] = {}

    def work(name: str, runs: list[Run], on_step: Any) -> None:
        try:
            outcomes[name] = [train(run, SPEC, PARTS, shared=shared, on_step=on_step) for run in runs]
        except BaseException as error:
            outcomes[name] = error
        finally:
            permits.release(count * steps)

    threads = [
        threading.Thread(target=work, args=("long", [long], lambda step, total: permits.acquire(timeout=300))),
        threading.Thread(target=work, args=("short", short, lambda step, total: permits.release())),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert isinstance(outcomes["short"], list), outcomes["short"]
    assert isinstance(outcomes["long"], list), outcomes["long"]
    assert all(outcome.result["captured"] == [[6], [8]] for outcome in outcomes["short"] + outcomes["long"])
    alone = fit(long, Shared(CUDA))
    # Later what another order of sums does to the last bits may have grown; another run's kernels would do more.
    for epochs, tolerance in ((slice(0, 6), 1e-4), (slice(-1, None), 0.3)):
        for one, other in zip(outcomes["long"][0].epochs[epochs], alone.epochs[epochs], strict=True):
            assert one["train"]["ce"] == pytest.approx(other["train"]["ce"], abs=tolerance)
    for place in (0, count - 1):
        assert_close(outcomes["short"][place], fit(short[place], Shared(CUDA)))


@needs_cuda
def test_nothing_of_ten_trainings_is_left_on_cuda():
    """Beside the images, the table and what libraries keep for a thread and its stream, which the first ones bring."""
    shared, allocated, reserved, held = Shared(CUDA), list[int](), list[int](), list[float]()
    gc.disable()
    try:
        for seed in range(10):
            outcome = fit(replace(STUDENT, arch=TEACHER.arch, seed=seed), shared)
            held.append(outcome.result["held_memory_mb"])
            allocated.append(torch.cuda.memory_allocated())
            reserved.append(torch.cuda.memory_reserved())
    finally:
        gc.enable()
    assert max(allocated[2:]) <= allocated[1] + (1 << 20)
    assert max(reserved[2:]) <= reserved[1] + (64 << 20)
    assert min(held) > 0
    assert max(held) <= torch.cuda.max_memory_reserved() / 1e6


AFTER_A_FAILURE = """
import importlib.util, json, os, sys, torch
spec = importlib.util.spec_from_file_location("fleet", sys.argv[1])
fleet = sys.modules["fleet"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fleet)
from lskd.engine import CaptureFailed, Shared
fleet.METHODS.register("waiting")(fleet.Waiting)
told = []
for strict in "10":
    os.environ["LSKD_STRICT_CAPTURE"] = strict
    shared = Shared(torch.device("cuda"))
    try:
        waiting = fleet.replace(fleet.DROPOUT, method=fleet.Named("waiting", fleet.Waiting()))
        told.append(fleet.fit(waiting, shared).result["not_captured"][0][0])
    except CaptureFailed as error:
        told.append([str(error), error.process_lost])
        if error.process_lost:
            break
    told.append(fleet.fit(fleet.STUDENT, shared).result["captured"])
print(json.dumps(told), flush=True)
os._exit(0)  # what is left of a capture may not be there for an orderly end
"""


@dataclass(frozen=True)
class Waiting(Method):
    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        return {"ce": METHODS["ce"].loss(batch)["ce"] * (1.0 + 0.0 * batch.logits.sum().item())}


@needs_cuda
def test_a_run_after_a_capture_that_failed_on_cuda():
    """In a process of its own, which a torch before 2.13 cannot go on with."""
    command = [sys.executable, "-c", AFTER_A_FAILURE, __file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (message, process_lost), *rest = json.loads(done.stdout.splitlines()[-1])
    assert message.startswith("a step cannot be captured (")
    assert process_lost is (torch.__version__ < RECOVERS)
    assert rest == ([] if process_lost else [[[6], [8]], 8, [[6], [8]]])


# ---- memory -------------------------------------------------------------------------------------------------------


def test_memory_of_softmax_regression_by_hand():
    """A linear network with momentum keeps its weights three times. A step holds most while it normalises: the batch
    in uint8, and in fp32 as it is, scaled, and shifted."""
    recipe = Recipe(lr=0.1, batch_size=512, epochs=1, momentum=0.9)
    run = Run(Dataset("noise"), Named("mlp", MLPArch(hidden=())), Named("ce", METHODS["ce"]), recipe)
    spec = replace(SPEC, num_classes=10, shape=(3, 32, 32))
    weights = 4 * (3072 * 10 + 10)
    predicted = run_bytes(run, spec, "cpu")
    pixels = 512 * 3072
    assert predicted == pytest.approx(3 * weights + pixels + 3 * 4 * pixels, rel=0.02)
    twice = run_bytes(replace(run, recipe=replace(recipe, batch_size=1024)), spec, "cpu")
    assert (twice - 3 * weights) / (predicted - 3 * weights) == pytest.approx(2, rel=0.05)


def test_memory_of_what_is_not_trained():
    """What is frozen has neither gradient nor momentum; a network that is only evaluated has its weights alone, and the
    pixels of an evaluation."""
    recipe = Recipe(lr=0.1, batch_size=8, epochs=1, momentum=0.9)
    run = Run(Dataset("noise"), Named("mlp", MLPArch(hidden=(1000,))), Named("ce", METHODS["ce"]), recipe)
    spec = replace(SPEC, num_classes=10, shape=(3, 32, 32))
    frozen = replace(run, recipe=replace(recipe, trainable=("head",)))
    weights, head = 4 * 3073 * 1000, 4 * 1001 * 10
    saved = run_bytes(run, spec, "cpu") - run_bytes(frozen, spec, "cpu")
    assert saved == pytest.approx(2 * weights, rel=0.05)
    as_is = replace(run, recipe=replace(recipe, epochs=0).as_is(), start=Start("a" * 64))
    pixels = 128 * 3072
    assert run_bytes(as_is, spec, "cpu") == pytest.approx(weights + head + pixels + 3 * 4 * pixels, rel=0.05)


@pytest.mark.parametrize("arch", ["resnet20", "wrn_16_2", "mlp1200", "alexnet"])
def test_predicted_memory_is_what_a_step_takes(arch):
    """The prediction extrapolates from batches of 8 and 16; here a step of the recipe's own batch is counted."""
    batch = 96
    recipe = Recipe(lr=0.1, batch_size=batch, steps=2, momentum=0.9, normalize=Normalize(), augment=Augment(pad=4))
    spec = replace(SPEC, num_classes=10, shape=(3, 24, 24))
    run = Run(Dataset("noise"), Named(arch, ARCHS[arch]), Named("ce", METHODS["ce"]), recipe)
    with Allocations() as memory:
        images = torch.zeros(batch, *spec.shape, dtype=torch.uint8)
        seen = Shared(torch.device("cpu")).task(run, {"train": Part(images, torch.zeros(batch, dtype=torch.int64))})
        before = memory.live
        training = Training(run, spec, seen)
        training.member.network.train()
        training.step()
        step = memory.most(training.step) - before
        training.member.network.eval()
        rows = torch.zeros(seen.train.at_once, *spec.shape, dtype=torch.uint8)
        kept = memory.live
        with torch.no_grad():
            evaluation = memory.most(lambda: training.member.forward(training.member.network, rows)) - kept
    measured = max(step, evaluation)
    assert run_bytes(run, spec, "cpu") == pytest.approx(measured, rel=0.1)


def test_a_captured_step_keeps_its_memory():
    assert run_bytes(TEACHER, SPEC, "cuda") > run_bytes(TEACHER, SPEC, "cpu") + CUDA_WORKSPACE


def test_the_last_batch_of_an_epoch_runs_eagerly_beside_the_captured_step():
    """Of a batch of 20,000 images an epoch of 30,000 leaves 10,000: more than are evaluated at once."""
    spec = replace(SPEC, train=30_000)
    tailed = replace(TEACHER, recipe=replace(RECIPE, batch_size=20_000, steps=2, epochs=None))
    alone = replace(tailed, recipe=replace(tailed.recipe, batch_size=20_000))
    assert run_bytes(tailed, spec, "cuda") > 1.3 * run_bytes(alone, replace(SPEC, train=20_000), "cuda")


def test_what_a_training_holds_is_what_its_stream_has(monkeypatch):
    cuda = torch.device("cuda", 0)
    segments = [
        {"device": device, "stream": stream, "total_size": size}
        for device, stream, size in ((0, 7, 2_000_000), (0, 0, 50_000_000), (1, 7, 90_000_000), (0, 7, 20_000_000))
    ]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    stream = SimpleNamespace(device_index=0, cuda_stream=7)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    assert held_memory_mb(cuda) == 22.0
    assert held_memory_mb(torch.device("cpu")) is None


def test_a_teacher_and_bf16_count():
    one = run_bytes(DROPOUT, SPEC, "cuda")
    assert run_bytes(STUDENT, SPEC, "cuda") > one
    wide = replace(TEACHER, arch=Named("resnet8", CifarResNetArch(depth=8)))
    in_bf16 = replace(wide, recipe=replace(RECIPE, precision="bf16"))
    assert run_bytes(in_bf16, SPEC, "cpu") < 0.75 * run_bytes(wide, SPEC, "cpu")
