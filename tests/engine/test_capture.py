"""A step can be recorded once and replayed, as a CUDA graph does it: shown here without a GPU.

A CUDA graph records kernels with the addresses that they read and write. `Recording` does so for a step's operators on
a CPU: replaying it calls them again on the same tensors, in the same order, without the Python code between them. Any
state that a step kept in Python (a learning rate, a place in the epoch, a branch on a value) would stay as it was when
the step was recorded, and the weights would differ.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lskd.config import Named, Run
from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment, Normalize
from lskd.engine import Shared
from lskd.engine.capture import WARM_UP, Captured
from lskd.engine.training import Training, build_network
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
CASES += [("mlp", "kd, subsets"), ("mlp", "wsl"), *(("resnet8", method) for method in OF_FEATURES)]
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


def make_training(arch: str, method: str, device: torch.device = CPU, **fields: Any) -> Training:
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
    run = Run(
        Dataset("noise"), Named(arch, NETWORKS[arch]), Named(method.partition(",")[0], settings), recipe, seed=1,
        teacher=teacher_run if taught else None, teacher_mode=teacher_mode,
    )  # fmt: skip
    shared = Shared(device)
    seen = shared.images(run, parts)
    if not taught:
        return Training(run, SPEC, seen)
    with shared.table(run, seen.views, 4) as table:
        teacher = build_network(teacher_run, SPEC)
        return Training(run, SPEC, seen, teacher, None if teacher_mode == "batch_stats" else table)


def train(training: Training) -> list[dict[str, float]]:
    log = []
    while training.step_number < training.total_steps:
        training.begin_epoch()
        for _ in range(training.steps_per_epoch):
            training.step()
        log.append(training.end_epoch())
    return log


def replaying(training: Training) -> dict[tuple[int, ...], Recording]:
    """From now on, the second step of each size is recorded, and those after it are replayed. The update of a batch in
    parts is the one without a size."""
    recordings: dict[tuple[int, ...], Recording] = {}
    called: Counter[tuple[int, ...]] = Counter()

    def step(*sizes: int) -> None:
        work = training._one_step if sizes else training._update
        called[sizes] += 1
        if sizes in recordings:
            recordings[sizes].replay()
        elif called[sizes] == 2:
            with Recording() as recording:
                work(*sizes)
            recordings[sizes] = recording
        else:
            work(*sizes)

    training.run_step = training.run_update = step
    return recordings


def differences(one: Training, other: Training) -> list[str]:
    """The names of what differs, in the networks and in the methods' own modules."""
    found = []
    for ours, others in ((one.network, other.network), (one.module, other.module)):
        if ours is not None:
            expected = others.state_dict()
            found += [name for name, value in ours.state_dict().items() if not torch.equal(value, expected[name])]
    return found


def test_every_method_is_here():
    assert {method.partition(",")[0] for _, method in CASES} == set(METHODS)


@pytest.mark.parametrize(("arch", "method"), CASES)
def test_a_recorded_step_replayed_is_the_step(arch, method):
    """4 epochs of 4 steps, the last of which has 2 images."""
    plain, replayed = make_training(arch, method), make_training(arch, method)
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
    averages = replayed.trained.state_dict(), plain.trained.state_dict()
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[1])


def test_a_terms_sum_serves_loss_and_log_and_targets_are_looked_up():
    training = make_training("mlp", "kd", clip_norm=None)
    training.begin_epoch()
    training.step()
    with Recording() as recording:
        training.step()
    names = Counter(str(func) for func, *_ in recording.calls)
    assert names["aten.sum.default"] == 3  # of two terms, and of what is correct
    assert not names.keys() & {"aten.mean.default", "aten.stack.default", "aten.full.default", "aten.scatter_.value"}


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
            state = plain.optimizer.sgd.state
            fresh = [torch.equal(state[p]["momentum_buffer"], p.grad) for p in plain.optimizer.parameters]
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
    monkeypatch.setitem(METHODS, "forgetful", Forgetful())
    plain, replayed = make_training("mlp", "forgetful"), make_training("mlp", "forgetful")
    train(plain)
    Forgetful.calls = 0
    replaying(replayed)
    train(replayed)
    assert differences(replayed, plain) != []


def test_waiting_for_the_device_would_be_seen(monkeypatch):
    monkeypatch.setitem(METHODS, "waiting", Waiting())
    training = make_training("mlp", "waiting")
    replaying(training)
    with pytest.raises(AssertionError, match="waits for the device: _local_scalar_dense"):
        train(training)


# ---- when to capture ----------------------------------------------------------------------------------------------


class Graph:
    """Stands for torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.replays = 0

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generator = generator

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def capture(monkeypatch):
    """`Captured` without a GPU: (the trace of eager and captured calls, a switch that makes captures fail)."""
    trace: list[tuple[str, int]] = []
    state = {"capturing": False, "error": None}

    @contextlib.contextmanager
    def graph(graph: Graph, **options: Any) -> Iterator[None]:
        assert options["capture_error_mode"] == "thread_local"
        state["capturing"] = True
        try:
            yield
            if state["error"] is not None:
                raise state["error"]
        finally:
            state["capturing"] = False

    def step(size: int) -> None:
        trace.append(("captured" if state["capturing"] else "eager", size))

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    return Captured(step, torch.Generator()), trace, state


def test_each_size_runs_eagerly_then_is_captured_then_replayed(capture):
    captured, trace, _ = capture
    for size in [4] * 5 + [2] + [4] * 2 + [2] * 4:
        captured(size)
    assert WARM_UP == 3
    assert trace == [("eager", 4)] * 3 + [("captured", 4)] + [("eager", 2)] * 3 + [("captured", 2)]
    assert {size: graph.replays for (size,), graph in captured.graphs.items()} == {4: 4, 2: 2}
    assert all(graph.generator is captured.generator for graph in captured.graphs.values())


def test_a_step_that_cannot_be_captured_runs_eagerly_and_says_so(capture, caplog):
    captured, trace, state = capture
    state["error"] = RuntimeError("operation not permitted when stream is capturing\nmore")
    with caplog.at_level(logging.WARNING):
        for _ in range(6):
            captured(4)
    assert [what for what, _ in trace] == ["eager"] * 3 + ["captured"] + ["eager"] * 3
    [record] = caplog.records
    assert "(RuntimeError: operation not permitted when stream is capturing): running it eagerly" in record.message


def test_a_capture_without_memory_is_the_fleets_to_solve(capture):
    captured, _, state = capture
    state["error"] = torch.OutOfMemoryError("no")
    with pytest.raises(torch.OutOfMemoryError):
        for _ in range(3):
            captured(4)


# ---- on a GPU -----------------------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
@pytest.mark.parametrize(("arch", "method"), CASES)
def test_captured_steps_are_the_eager_ones_on_cuda(arch, method):
    device = torch.device("cuda")
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        eager, captured = make_training(arch, method, device), make_training(arch, method, device)
        eager.run_step = eager._one_step
        log = train(eager)
        for one, other in zip(train(captured), log, strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=8.0)  # top-1 moves by 7 points an image
        assert isinstance(captured.run_step, Captured) and sorted(captured.run_step.graphs) == [(2,), (4,)]
        for value, expected in zip(captured.network.parameters(), eager.network.parameters(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-2, atol=1e-3)


@needs_cuda
def test_parts_of_a_batch_and_averaged_weights_are_captured_on_cuda():
    device, fields = torch.device("cuda"), {"batch_size": 6, "accumulate": 2, "ema": 0.9, "epochs": 8}
    with torch.cuda.stream(torch.cuda.Stream(device)):
        eager, captured = (make_training("resnet8", "ce", device, **fields) for _ in range(2))
        eager.run_step, eager.run_update = eager._one_step, eager._update
        log = train(eager)
        for one, other in zip(train(captured), log, strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=8.0)
        assert sorted(captured.run_step.graphs) == [(2, 2), (3, 6)] and list(captured.run_update.graphs) == [()]
        for value, expected in zip(captured.trained.parameters(), eager.trained.parameters(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-2, atol=1e-3)
