"""Trainings side by side on one device: none changes another. And what memory each will need."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lskd.config import Named, Run
from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment, Normalize
from lskd.engine import Diverged, Outcome, Shared, run_bytes, train
from lskd.engine.memory import CUDA_WORKSPACE, Allocations
from lskd.engine.teacher import EVALUATION_BATCH
from lskd.engine.training import Training, build_network
from lskd.methods import METHODS, Batch, Method
from lskd.models import ARCHS, CifarResNetArch, MLPArch
from lskd.recipe import Recipe

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


def side_by_side(runs: list[Run], device: torch.device) -> list[Outcome | BaseException]:
    """All runs at once, in step for as long as they last: threads that took turns by the run would show nothing."""
    shared, together = Shared(device), threading.Barrier(len(runs))
    outcomes: list[Any] = [None] * len(runs)

    def work(place: int, run: Run) -> None:
        def in_step(step: int, total: int) -> None:
            if step % 3 == 0:
                together.wait(timeout=20)

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


def test_companions_change_no_bit():
    """Dropout, batch norm, two students that fill one teacher's table, all in step."""
    cpu = torch.device("cpu")
    for run, outcome in zip(RUNS, side_by_side(RUNS, cpu), strict=True):
        assert isinstance(outcome, Outcome), outcome
        alone = fit(run, Shared(cpu))
        assert differences(outcome, alone) == []
        assert numbers(outcome) == numbers(alone)


@dataclass(frozen=True)
class Explosive(Method):
    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        return {"ce": METHODS["ce"].loss(batch)["ce"] * torch.inf}


def test_a_diverging_run_disturbs_no_companion():
    cpu = torch.device("cpu")
    explosive = replace(DROPOUT, method=Named("explosive", Explosive()))
    shared, outcomes = Shared(cpu), dict[str, Any]()

    def work(run: Run) -> None:
        try:
            outcomes[run.method.name] = fit(run, shared)
        except Diverged as error:
            outcomes[run.method.name] = error

    METHODS["explosive"] = Explosive()
    try:
        threads = [threading.Thread(target=work, args=(run,)) for run in (explosive, STUDENT)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert isinstance(outcomes["explosive"], Diverged)
        assert differences(outcomes["kd"], fit(STUDENT, Shared(cpu))) == []
    finally:
        del METHODS["explosive"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_companions_change_no_more_than_another_run_does_on_cuda():
    cuda = torch.device("cuda")
    for run, outcome in zip(RUNS, side_by_side(RUNS, cuda), strict=True):
        assert isinstance(outcome, Outcome), outcome
        alone = fit(run, Shared(cuda))
        for value, expected in zip(outcome.network.parameters(), alone.network.parameters(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-2, atol=1e-3)


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


@pytest.mark.parametrize("arch", ["resnet20", "wrn_16_2", "mlp1200", "alexnet"])
def test_predicted_memory_is_what_a_step_takes(arch):
    """The prediction extrapolates from batches of 8 and 16; here a step of the recipe's own batch is counted."""
    batch = 96
    recipe = Recipe(lr=0.1, batch_size=batch, steps=2, momentum=0.9, normalize=Normalize(), augment=Augment(pad=4))
    spec = replace(SPEC, num_classes=10, shape=(3, 24, 24))
    run = Run(Dataset("noise"), Named(arch, ARCHS[arch]), Named("ce", METHODS["ce"]), recipe)
    with Allocations() as memory:
        images = torch.zeros(batch, *spec.shape, dtype=torch.uint8)
        seen = Shared(torch.device("cpu")).images(run, {"train": Part(images, torch.zeros(batch, dtype=torch.int64))})
        before = memory.live
        training = Training(run, spec, seen)
        training.network.train()
        training.step()
        step = memory.most(training.step) - before
        training.network.eval()
        rows = torch.zeros(EVALUATION_BATCH["cpu"], *spec.shape, dtype=torch.uint8)
        kept = memory.live
        with torch.no_grad():
            evaluation = memory.most(lambda: training.forward(training.network, rows)) - kept
    measured = max(step, evaluation)
    assert run_bytes(run, spec, "cpu") == pytest.approx(measured, rel=0.1)


def test_a_captured_step_keeps_its_memory():
    assert run_bytes(TEACHER, SPEC, "cuda") > run_bytes(TEACHER, SPEC, "cpu") + CUDA_WORKSPACE


def test_a_teacher_and_bf16_count():
    one = run_bytes(DROPOUT, SPEC, "cuda")
    assert run_bytes(STUDENT, SPEC, "cuda") > one
    wide = replace(TEACHER, arch=Named("resnet8", CifarResNetArch(depth=8)))
    in_bf16 = replace(wide, recipe=replace(RECIPE, precision="bf16"))
    assert run_bytes(in_bf16, SPEC, "cpu") < 0.75 * run_bytes(wide, SPEC, "cpu")
