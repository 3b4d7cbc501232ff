"""A step can be recorded once and replayed, as a CUDA graph does it: shown here without a GPU.

A CUDA graph records kernels with the addresses that they read and write. `Recording` does so for a step's operators on
a CPU: replaying it calls them again on the same tensors, in the same order, without the Python code between them. Any
state that a step kept in Python (a learning rate, a place in the epoch, a branch on a value) would stay as it was when
the step was recorded, and the weights would differ.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lskd.engine.capture
from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment, Mix, Normalize
from lskd.engine import Shared
from lskd.engine.capture import AHEAD, GATE, STREAMS, WARM_UP, Captured, CaptureFailed, Pace, Streams, own_stream
from lskd.engine.member import build_network
from lskd.engine.teacher import Teacher
from lskd.engine.training import Training, set_precision
from lskd.methods import METHODS, Batch, Method
from lskd.models import (
    AlexNetArch,
    CifarResNetArch,
    MLPArch,
    ShuffleNetV1Arch,
    ShuffleNetV2Arch,
    T2TResNetArch,
    WideResNetArch,
)
from lskd.recipe import Recipe, Schedule, WeightDecay
from lskd.run import Named, Run
from lskd.targets import TARGETS

CPU = torch.device("cpu")
NETWORKS = {
    "mlp": MLPArch(hidden=(6,), input_dropout=0.2, hidden_dropout=0.5),
    "resnet8": CifarResNetArch(depth=8, stem=4, widths=(4, 6, 8)),
    "wrn_16_2": WideResNetArch(depth=10, widen=1),
    "alexnet": AlexNetArch(),
    "resnet56_t2t": T2TResNetArch(depth=14, stem=4, widths=(4, 6, 8)),
    "shufflenet_v1": ShuffleNetV1Arch(stem=12, widths=(24, 48, 72), blocks=(1, 2, 1)),
    "shufflenet_v2": ShuffleNetV2Arch(stem=4, widths=(8, 12, 16), blocks=(2, 2, 2), last=20),
}
# Methods where they are not at their defaults here; and which are tried on which network.
VARIANTS: dict[str, Method] = {
    "kd, live": METHODS["kd"],
    "kd, subsets": replace(METHODS["kd"], keep_rs=0.5, keep_others=0.5, count_rs=True),
    "crd": replace(METHODS["crd"], negatives=5, dimensions=6),
    "ab": replace(METHODS["ab"], initial_epochs=4),
    "fsp": replace(METHODS["fsp"], initial_epochs=4),
    "ft": replace(METHODS["ft"], initial_epochs=4),
}
OF_FEATURES = [name for name, method in METHODS.items() if method.teacher_use == "features" or method.initial()]
CASES = [(arch, method) for arch in NETWORKS for method in ("ce", "kd", "logit_matching", "kd, live")]
CASES += [("mlp", "kd, subsets"), ("mlp", "wsl"), ("mlp", "map_sd"), ("mlp", "dml"), ("resnet8", "cmd")]
CASES += [("resnet8", method) for method in OF_FEATURES]
SPEC = Spec("noise", "Noise", 4, (3, 12, 12), 14, 6, tuple("abcd"), digest="")
# Reads a value on the host, or has a shape that depends on values: either would break a capture.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_consecutive", "_unique2", "bincount"}


pytestmark = pytest.mark.usefixtures("one_thread")


class Recording(TorchDispatchMode):
    """The operators of whatever runs inside, to be replayed on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        assert name not in WAITS, f"a step waits for the device: {name}"
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, out in self.calls:
                if func.is_view:
                    continue  # still the same view of the same memory
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.detach().copy_(new)


def make_training(
    arch: str, method: str, device: torch.device = CPU, target: str = "label_smoothing", **fields: Any
) -> Training:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (14, *SPEC.shape), generator=generator, dtype=torch.uint8)
    parts = {"train": Part(images, torch.arange(14) % 4)}
    recipe = Recipe(
        **{
            "lr": 0.05, "batch_size": 4, "epochs": 4, "momentum": 0.9, "clip_norm": 1.0,
            "augment": Augment(pad=1, flip=True), "normalize": Normalize("per_image"),
            "schedule": Schedule("cosine", warmup=1), "weight_decay": WeightDecay(1e-3), **fields,
        }
    )  # fmt: skip
    teacher_mode = "batch_stats" if method == "kd, live" else "eval"
    settings = VARIANTS.get(method) or METHODS[method]
    teacher_run = Run(Dataset("noise"), Named("resnet8", NETWORKS["resnet8"]), Named("ce", METHODS["ce"]), recipe)
    taught = settings.needs_teacher
    plain = Run(
        Dataset("noise"), Named(arch, NETWORKS[arch]), Named("ce", METHODS["ce"]), recipe, seed=1,
        target=Named(target, TARGETS[target]),
    )  # fmt: skip
    run = replace(
        plain, method=Named(method.partition(",")[0], settings), teacher=teacher_run if taught else None,
        teacher_mode=teacher_mode, peers=(plain.peer(),) if settings.needs_peers else (),
    )  # fmt: skip
    shared = Shared(device)
    seen = shared.task(run, parts)
    if not taught:
        return Training(run, SPEC, seen)
    with shared.logit_cache(run, seen.train, 4) as cache:
        return Training(run, SPEC, seen, Teacher.of(run, build_network(teacher_run, SPEC), seen, cache=cache))


def train(training: Training) -> list[dict[str, float]]:
    log = []
    while training.step_number < training.total_steps:
        training.begin_epoch()
        for _ in range(training.steps_per_epoch):
            training.step()
        log += training.end_epoch()
    return log


def replaying(training: Training) -> dict[tuple[int, ...], Recording]:
    """From now on, the second step of each size is recorded, and those after it are replayed. The update of a batch in
    parts is the one without a size."""
    recordings: dict[tuple[int, ...], Recording] = {}
    called: Counter[tuple[int, ...]] = Counter()
    one_step = training.one_step

    def step(*sizes: int) -> None:
        work = one_step._step if sizes else one_step._update
        called[sizes] += 1
        if sizes in recordings:
            recordings[sizes].replay()
        elif called[sizes] == 2:
            with Recording() as recording:
                work(*sizes)
            recordings[sizes] = recording
        else:
            work(*sizes)

    one_step.run_step = one_step.run_update = step
    return recordings


def differences(one: Training, other: Training) -> list[str]:
    """The names of what differs, in the networks and in the methods' own modules."""
    found = []
    members = list(zip(one.members, other.members, strict=True))
    pairs = [pair for a, b in members for pair in (
        (a.network, b.network), (a.module, b.module), (a.targets.network, b.targets.network)
    )]  # fmt: skip
    for ours, others in pairs:
        if ours is not None:
            expected = others.state_dict()
            found += [name for name, value in ours.state_dict().items() if not torch.equal(value, expected[name])]
    return found


def test_every_method_is_here():
    assert {method.partition(",")[0] for _, method in CASES} == set(METHODS)


@pytest.mark.every(4)
@pytest.mark.parametrize(
    ("arch", "method", "precision"),
    [*((arch, method, "fp32") for arch, method in CASES), ("resnet8", "kd, live", "bf16"), ("mlp", "kd", "bf16")],
)
def test_a_recorded_step_replayed_is_the_step(arch, method, precision):
    """4 epochs of 4 steps, the last of which has 2 images."""
    plain, replayed = (make_training(arch, method, precision=precision) for _ in range(2))
    recordings = replaying(replayed)
    assert train(replayed) == train(plain)
    assert sorted(recordings) == [(2,), (4,)]
    assert differences(replayed, plain) == []


@pytest.mark.parametrize("arch", ["mlp", "resnet8"])
@pytest.mark.parametrize("method", ["ce", "kd, live"])
def test_parts_of_a_batch_and_averaged_weights_are_replayed(arch, method):
    """The last batch has one part of 2 images."""
    fields = {"batch_size": 6, "accumulate": 2, "ema": 0.9, "epochs": 5}
    plain, replayed = make_training(arch, method, **fields), make_training(arch, method, **fields)
    recordings = replaying(replayed)
    assert train(replayed) == train(plain)
    assert sorted(recordings) == [(), (2, 2), (3, 6)]
    assert differences(replayed, plain) == []
    averages = replayed.member.trained.state_dict(), plain.member.trained.state_dict()
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[1])


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
@pytest.mark.parametrize("fields", [{}, {"batch_size": 8, "accumulate": 2}])
def test_mixed_images_and_groups_of_batch_norm_are_replayed(kind, fields):
    """Boxes, shares and partners are others in each step. Groups are of 2 of 4 images; the last batch has 2 or 6."""
    fields = {"augment": Augment(pad=1, flip=True, mix=Mix(kind, probability=0.8)), "batch_norm_group": 2, **fields}
    plain, replayed = (make_training("resnet8", "kd, live", **{"epochs": 5, **fields}) for _ in range(2))
    replaying(replayed)
    assert train(replayed) == train(plain)
    assert differences(replayed, plain) == []


ADAPTIVE = [(arch, name) for arch in ("mlp", "resnet8") for name, target in TARGETS.items() if target.reads]


@pytest.mark.parametrize(("arch", "target"), ADAPTIVE)
def test_targets_that_networks_have_a_part_in_are_replayed(arch, target):
    """Ranks, draws, the averaged network and its batch norms, the progress: others in each step."""
    plain, replayed = (make_training(arch, "ce", target=target) for _ in range(2))
    recordings = replaying(replayed)
    assert train(replayed) == train(plain)
    assert sorted(recordings) == [(2,), (4,)]
    assert differences(replayed, plain) == []


def test_a_terms_sum_serves_loss_and_log_and_targets_are_looked_up():
    training = make_training("mlp", "kd", clip_norm=None)
    training.begin_epoch()
    training.step()
    with Recording() as recording:
        training.step()
    names = Counter(str(func) for func, *_ in recording.calls)
    assert names["aten.sum.default"] == 3  # of two terms, and of what is correct
    assert not names.keys() & {"aten.mean.default", "aten.stack.default", "aten.full.default", "aten.scatter_.value"}


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_a_step_of_adam_is_replayed_and_goes_on_from_a_checkpoint(kind):
    fields = {"optimizer": kind, "momentum": 0.0, "lr_factors": {"head.*": 0.5}}
    plain, replayed, resumed = (make_training("resnet8", "ce", **fields) for _ in range(3))
    replaying(replayed)
    train(replayed)
    while plain.step_number < plain.total_steps:
        plain.begin_epoch()
        for place in range(plain.steps_per_epoch):
            if (plain.epoch, place) == (2, 0):
                resumed.restore(copy.deepcopy(plain.state()))
            plain.step()
        plain.end_epoch()
    train(resumed)
    assert differences(replayed, plain) == differences(resumed, plain) == []


def test_momentum_starts_afresh_at_milestones():
    """With buffers v at zero, v ← 0.9·v + g is g. An epoch has 4 steps; the milestone is the sixth, within an epoch."""
    fields = {"schedule": Schedule("step", milestones=(1.5,), reset_momentum=True), "epochs": 2, "clip_norm": None}
    plain, replayed, resumed = (make_training("mlp", "ce", **fields) for _ in range(3))
    replaying(replayed)
    train(replayed)
    for epoch in range(2):
        plain.begin_epoch()
        for place in range(plain.steps_per_epoch):
            if (epoch, place) == (1, 2):
                resumed.restore(copy.deepcopy(plain.state()))  # the reset is still to come
            plain.step()
            state = plain.member.optimizer.inner.state
            fresh = [torch.equal(state[p]["momentum_buffer"], p.grad) for p in plain.member.optimizer.parameters]
            assert all(fresh) == any(fresh) == ((epoch, place) in ((0, 0), (1, 2)))
    resumed.begin_epoch()
    for _ in range(2):
        resumed.step()
    assert differences(replayed, plain) == differences(resumed, plain) == []


class Forgetful(Method):
    """What a method must not do: weigh its loss by the number of times that it was called."""

    calls = 0

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        Forgetful.calls += 1
        return {"ce": Forgetful.calls * METHODS["ce"].loss(batch)["ce"]}


class Waiting(Method):
    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        return {"ce": batch.progress.item() * METHODS["ce"].loss(batch)["ce"]}


def test_state_outside_of_the_device_would_be_seen(monkeypatch):
    monkeypatch.setitem(METHODS.entries, "forgetful", Forgetful())
    plain, replayed = make_training("mlp", "forgetful"), make_training("mlp", "forgetful")
    train(plain)
    Forgetful.calls = 0
    replaying(replayed)
    train(replayed)
    assert differences(replayed, plain) != []


def test_waiting_for_the_device_would_be_seen(monkeypatch):
    monkeypatch.setitem(METHODS.entries, "waiting", Waiting())
    training = make_training("mlp", "waiting")
    replaying(training)
    with pytest.raises(AssertionError, match="waits for the device: _local_scalar_dense"):
        train(training)


# ---- when to capture ----------------------------------------------------------------------------------------------


@pytest.fixture
def capture(gpu):
    """`Captured` without a GPU: (the trace of eager and captured calls, the fake device)."""
    trace: list[tuple[str, int]] = []

    def step(size: int) -> None:
        trace.append(("eager" if gpu.capturing is None else "captured", size))

    return Captured(step, torch.Generator()), trace, gpu


def test_each_size_runs_eagerly_then_is_captured_then_replayed(capture):
    captured, trace, gpu = capture
    eager: list[bool] = []
    gpu.while_replaying = lambda: eager.append(GATE._eager == 1)
    for size in [4] * 4 + [2] * 4 + [4] * 3 + [2] * 3:
        captured(size)
    assert WARM_UP == 3
    assert eager == [True, True] + [False] * 6  # the first replay of each graph: it may load what the device lacks
    assert trace == [("eager", 4)] * 3 + [("captured", 4)] + [("eager", 2)] * 3 + [("captured", 2)]
    assert {size: graph.replays for (size,), graph in captured.graphs.items()} == {4: 4, 2: 4}
    assert all(graph.generators == list(captured.generators) for graph in captured.graphs.values())


def failing(message: str = "operation not permitted when stream is capturing\nmore") -> RuntimeError:
    """What a capture ends with: it could not be ended, because of what went wrong within."""
    error = RuntimeError("operation failed due to a previous error during capture")
    error.__context__ = RuntimeError(message)
    return error


def test_a_step_that_cannot_be_captured_runs_eagerly_and_says_so(capture, caplog):
    captured, trace, gpu = capture
    gpu.error = failing()
    with caplog.at_level(logging.WARNING):
        for _ in range(6):
            captured(4)
    assert [what for what, _ in trace] == ["eager"] * 3 + ["captured"] + ["eager"] * 3
    [record] = caplog.records
    assert "(RuntimeError: operation not permitted when stream is capturing): running it eagerly" in record.message
    assert captured.failed == {(4,): "RuntimeError: operation not permitted when stream is capturing"}


@pytest.mark.parametrize("strict", [False, True])
def test_a_torch_that_a_failed_capture_poisons_goes_no_further(capture, monkeypatch, strict):
    captured, trace, gpu = capture
    gpu.error = failing()
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.13.0" if strict else "2.12.1+cu130"))
    monkeypatch.setenv("LSKD_STRICT_CAPTURE", "1" if strict else "0")
    with pytest.raises(CaptureFailed, match=r"^a step cannot be captured \(RuntimeError: operation not perm") as raised:
        for _ in range(4):
            captured(4)
    assert len(trace) == 4
    assert raised.value.process_lost is not strict
    expected = "LSKD_STRICT_CAPTURE is set" if strict else "torch 2.12.1+cu130 can capture nothing more in this process"
    assert expected in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("ended", [True, False])
def test_a_capture_without_memory_is_the_fleets_to_solve(capture, ended):
    """Whether or not it could be ended in order."""
    captured, _, gpu = capture
    gpu.error = torch.OutOfMemoryError("no")
    if not ended:
        gpu.error = failing()
        gpu.error.__context__ = torch.OutOfMemoryError("no")
    with pytest.raises(torch.OutOfMemoryError):
        for _ in range(3):
            captured(4)


def test_nothing_dead_is_collected_within_a_capture(capture):
    """It might be a graph, whose end would be that of the capture."""
    captured, _, gpu = capture
    seen: list[bool] = []
    gpu.while_capturing = lambda: seen.append(gc.isenabled())
    for _ in range(3):
        captured(4)
    assert seen == [False]
    assert gc.isenabled()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_capture_is_alone(capture):
    """One training is in an eager section when a second one wants to capture, and a third one then to begin a section:
    the capture waits for the first, and the third for the capture."""
    captured, trace, gpu = capture
    captured.calls[(4,)] = WARM_UP - 1
    inside, leave, begun = (threading.Event() for _ in range(3))
    events: list[str] = []

    def first() -> None:
        with GATE.eager(), GATE.eager():  # nested ones are one
            inside.set()
            leave.wait(20)
            events.append("first leaves")

    def second() -> None:
        captured(4)

    def third() -> None:
        begun.set()
        with GATE.eager():
            events.append("third enters")

    def capturing() -> None:
        events.append("capture")
        time.sleep(0.01)
        events.append("captured")

    gpu.while_capturing = capturing
    threads = [threading.Thread(target=work) for work in (first, second, third)]
    threads[0].start()
    inside.wait(20)
    threads[1].start()
    wait_until(lambda: GATE._waiting == 1)
    threads[2].start()
    begun.wait(20)
    leave.set()
    for thread in threads:
        thread.join(20)
    assert events == ["first leaves", "capture", "captured", "third enters"]
    assert trace == [("eager", 4), ("captured", 4)]
    assert (GATE._eager, GATE._waiting, GATE._capturing) == (0, 0, False)


@pytest.mark.parametrize(("version", "alongside"), [("2.11.0+cu130", False), ("2.12.0", True)])
def test_replays_go_on_beside_a_capture_where_torch_can_do_that(gpu, monkeypatch, version, alongside):
    """Before 2.12 torch's own generator is a part of all graphs: "Offset increment outside graph capture encountered
    unexpectedly" is what a replay beside a capture would end with."""
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)(version))
    replayed, other = (Captured(lambda size: None, torch.Generator()) for _ in range(2))
    for _ in range(WARM_UP + 1):
        replayed(4)
    capturing, leave, done = (threading.Event() for _ in range(3))
    gpu.while_capturing = lambda: (capturing.set(), leave.wait(20))
    gpu.while_replaying = lambda: done.set()

    def capture() -> None:
        for _ in range(WARM_UP):
            other(4)

    threads = [threading.Thread(target=work) for work in (capture, lambda: replayed(4))]
    threads[0].start()
    assert capturing.wait(20)
    threads[1].start()
    assert done.wait(20 if alongside else 0.05) is alongside
    leave.set()
    for thread in threads:
        thread.join(20)
    assert done.is_set()


def test_whoever_could_wait_for_itself_is_told():
    with GATE.eager(), pytest.raises(RuntimeError, match="would wait for itself"), GATE.alone():
        pass
    lock = threading.Lock()
    with GATE.eager(), pytest.raises(RuntimeError, match="a lock is taken before"), GATE.eager(lock):
        pass
    with GATE.eager(lock):
        assert lock.locked()
    assert not lock.locked()


def test_the_host_stays_near_its_device(gpu):
    """An event every 32 steps is waited for 32 steps later, when the device has more to do already."""
    pace = Pace()
    for _ in range(4 * AHEAD - 1):
        pace.step()
    assert AHEAD == 32
    events = type(torch.cuda.Event())
    assert events.trace == [("recorded", 0), ("recorded", 1), ("waited for", 0), ("recorded", 2), ("waited for", 1)]


# ---- streams ------------------------------------------------------------------------------------------------------


def test_no_two_trainings_share_a_stream(gpu):
    """A hundred short ones come and go beside a long one, and somebody else draws streams meanwhile, too."""
    streams = Streams(torch.device("cuda", 0))
    long = streams.take()
    for place in range(100):
        short = streams.take()
        assert short != long
        if place % 3 == 0:
            torch.cuda.Stream()
        streams.give_back(short)
    taken = [streams.take() for _ in range(STREAMS - 1)]
    assert len({stream.cuda_stream for stream in (*taken, long)}) == STREAMS == 32
    with pytest.raises(RuntimeError, match="cuda:0: all of its 32 streams are in use"):
        streams.take()
    streams.give_back(long)
    assert streams.take() == long


def test_a_thread_keeps_to_its_stream(gpu):
    """cuBLAS has a workspace for each pair of a thread and a stream that ever met."""
    streams = Streams(torch.device("cuda", 0))
    pairs: set[tuple[int, int]] = set()
    step = threading.Barrier(4)

    def lane(number: int) -> None:
        for run in range(5):
            stream = streams.take()
            pairs.add((number, stream.cuda_stream))
            step.wait(20)
            if (number + run) % 2:
                streams.give_back(stream)
                step.wait(20)
            else:
                step.wait(20)
                streams.give_back(stream)

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(pairs) == 4


def test_a_stream_is_given_back_when_all_on_it_is_done(gpu, monkeypatch):
    entered: list[Any] = []

    @contextlib.contextmanager
    def on_stream(stream: Any) -> Iterator[None]:
        entered.append(stream)
        yield

    monkeypatch.setattr(lskd.engine.capture, "on_stream", on_stream)
    monkeypatch.setattr(lskd.engine.capture, "STREAMS_OF", {})
    device = torch.device("cuda", 0)
    for _ in range(2 * STREAMS):
        with contextlib.suppress(KeyError), own_stream(device):
            raise KeyError
    assert len(entered) == 2 * STREAMS and len(set(entered)) == 1
    assert all(stream.synchronized for stream in entered)


# ---- on a GPU -----------------------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
IN_BF16 = [("resnet8", "ce"), ("resnet8", "kd"), ("resnet8", "kd, live"), ("wrn_16_2", "kd, live"), ("mlp", "kd")]


def assert_same_on_cuda(captured: Training, eager: Training, tolerance: float) -> None:
    """All losses of all epochs, and the weights in the end. Top-1 moves by 7 points an image."""
    expected = train(eager)
    for one, other in zip(train(captured), expected, strict=True):
        assert one.keys() == other.keys()
        assert one.pop("top1", 0.0) == pytest.approx(other.pop("top1", 0.0), abs=8.0)
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)
    for value, wanted in zip(captured.member.trained.parameters(), eager.member.trained.parameters(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-2, atol=10 * tolerance)


@needs_cuda
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("arch", "method", "precision"),
    [*((arch, method, "fp32") for arch, method in CASES), *((arch, method, "bf16") for arch, method in IN_BF16)],
)
def test_captured_steps_are_the_eager_ones_on_cuda(arch, method, precision):
    """The last batch of an epoch, of 2 images, is captured in the third epoch and replayed in the fourth."""
    device = torch.device("cuda")
    set_precision(precision)
    with own_stream(device):
        eager, captured = (make_training(arch, method, device, precision=precision) for _ in range(2))
        eager.one_step.close()
        assert_same_on_cuda(captured, eager, 1e-4 if precision == "fp32" else 2e-2)
        assert sorted(captured.one_step.captured[0].graphs) == [(2,), (4,)]
        captured.close()


@needs_cuda
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("arch", "target"), ADAPTIVE)
def test_targets_that_networks_have_a_part_in_are_captured_on_cuda(arch, target):
    device = torch.device("cuda")
    with own_stream(device):
        eager, captured = (make_training(arch, "ce", device, target=target) for _ in range(2))
        eager.one_step.close()
        assert_same_on_cuda(captured, eager, 1e-4)
        assert sorted(captured.one_step.captured[0].graphs) == [(2,), (4,)]
        captured.close()


@needs_cuda
@pytest.mark.usefixtures("exact")
def test_parts_of_a_batch_and_averaged_weights_are_captured_on_cuda():
    device, fields = torch.device("cuda"), {"batch_size": 6, "accumulate": 2, "ema": 0.9, "epochs": 8}
    with own_stream(device):
        eager, captured = (make_training("resnet8", "ce", device, **fields) for _ in range(2))
        eager.one_step.close()
        assert_same_on_cuda(captured, eager, 1e-4)
        steps, updates = captured.one_step.captured
        assert sorted(steps.graphs) == [(2, 2), (3, 6)] and list(updates.graphs) == [()]
        captured.close()


@needs_cuda
def test_events_of_a_pace_are_passed_on_cuda():
    with own_stream(torch.device("cuda")):
        pace = Pace()
        for _ in range(4 * AHEAD):
            pace.step()
        assert pace._passed is not None
        pace._passed.synchronize()
        assert pace._passed.query()


@needs_cuda
def test_streams_of_a_device_are_different_on_cuda():
    """As many as torch is believed to have, none of them the default one."""
    device = torch.device("cuda", torch.cuda.current_device())
    streams = Streams(device)
    handles = {streams.take().cuda_stream for _ in range(STREAMS)}
    assert len(handles) == STREAMS
    assert torch.cuda.default_stream(device).cuda_stream not in handles
    assert {torch.cuda.Stream(device).cuda_stream for _ in range(2 * STREAMS)} == handles
