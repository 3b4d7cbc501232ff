"""Batch norm over groups of a batch: the numbers of several devices, each with its share of the batch, on one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment
from lskd.engine import Outcome, Shared, compiled, run_bytes, train
from lskd.engine.counters import Counters
from lskd.engine.grouped import Grouped, group_batch_norms
from lskd.engine.member import build_network
from lskd.engine.teacher import Teacher
from lskd.engine.training import Training
from lskd.errors import InputError
from lskd.methods import METHODS
from lskd.models import Arch, CifarResNetArch
from lskd.recipe import Recipe
from lskd.run import Named, Run

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SPEC = Spec("noise", "Noise", 4, (3, 12, 12), 15, 6, tuple("abcd"), digest="")
PARTS = {
    name: Part(
        torch.randint(256, (n, 3, 12, 12), generator=torch.Generator().manual_seed(n)).byte(), torch.arange(n) % 4
    )
    for name, n in (("train", 15), ("test", 6))
}
RESNET = Named[Arch]("resnet8", CifarResNetArch(depth=8, stem=4, widths=(4, 6, 8)))


def make_run(method: str = "ce", **fields: Any) -> Run:
    """2 steps an epoch, of 8 and 7 images: of groups of 4 and 4, 4 and 3."""
    mode = fields.pop("teacher_mode", "eval")
    recipe = Recipe(**{"lr": 0.1, "batch_size": 8, "epochs": 2, "batch_norm_group": 4, "augment": Augment(), **fields})
    taught = Run(Dataset("noise"), RESNET, Named("ce", METHODS["ce"]), recipe, seed=5)
    settings = METHODS[method]
    return Run(Dataset("noise"), RESNET, Named(method, settings), recipe, teacher_mode=mode,
               teacher=taught if settings.needs_teacher else None)  # fmt: skip


def make_training(run: Run) -> Training:
    images = Shared(CPU).task(run, PARTS)
    teacher = None if run.teacher is None else Teacher.of(run, build_network(run.teacher, SPEC), images)
    return Training(run, SPEC, images, teacher)


def fit(run: Run, **options: Any) -> Outcome:
    return train(run, SPEC, PARTS, shared=Shared(CPU), **options)


def on_devices(network: nn.Module, pixels: Tensor, labels: Tensor, size: int) -> list[nn.Module]:
    """A copy of `network` for each `size` images, with the gradient of their share in the mean loss."""
    copies = []
    for x, y in zip(pixels.split(size), labels.split(size), strict=True):
        one = copy.deepcopy(network).train()
        one.zero_grad()
        (F.cross_entropy(one(x / 255), y, reduction="sum") / len(labels)).backward()
        copies.append(one)
    return copies


@pytest.mark.parametrize("group", [2, 4, 8])
def test_a_training_is_that_on_several_devices(group):
    """As torch's DistributedDataParallel has it: gradients are averaged, the buffers are those of rank 0. Two epochs of
    two batches, the last of 7 images."""
    training = make_training(make_run(batch_norm_group=group))
    alone = build_network(training.run, SPEC)
    for step in range(4):
        if step % 2 == 0:
            training.begin_epoch()
        rows = training.one_step.order.split(8)[step % 2]
        copies = on_devices(alone, PARTS["train"].images[rows], PARTS["train"].labels[rows], group)
        assert len(copies) == -(-len(rows) // group)
        training.step()
        with torch.no_grad():
            for parameters in zip(alone.parameters(), *(one.parameters() for one in copies), strict=True):
                parameters[0].sub_(0.1 * sum(one.grad for one in parameters[1:]))
        for own, first in zip(alone.buffers(), copies[0].buffers(), strict=True):
            own.copy_(first)
        state = training.member.network.state_dict()
        assert list(state) == list(alone.state_dict())
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-6, msg=f"{name} after step {step}")


def test_groups_have_other_statistics_than_the_batch():
    whole, grouped = (fit(make_run(batch_norm_group=group)).network for group in (0, 4))
    for name in ("head.weight", "stem.1.running_mean"):
        value = dict(whole.state_dict()).get(name)
        if value is not None:
            assert not torch.allclose(grouped.state_dict()[name], value, rtol=1e-3)
    assert not any(isinstance(module, Grouped) for module in whole.modules())


def test_a_group_of_the_batch_is_the_batch():
    one, other = (fit(make_run(batch_norm_group=group)).network.state_dict() for group in (0, 8))
    assert all(torch.equal(one[name], other[name]) for name in one)


# ---- one layer ----------------------------------------------------------------------------------------------------


class Activated(nn.BatchNorm2d):
    """With a `forward` of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, Activated])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_group_bit_by_bit(kind, dtype):
    torch.manual_seed(0)
    x = (3 * torch.randn(11, 4, 5, 5) + 1).to(dtype, memory_format=torch.channels_last)
    plain = kind(4)
    with torch.no_grad():
        plain.weight.uniform_(), plain.bias.uniform_()
    norm = copy.deepcopy(plain)
    group_batch_norms(norm, 4)
    group_batch_norms(norm, 4)  # as of a module that is part of two
    y = norm(x)
    copies = [copy.deepcopy(plain) for _ in range(3)]
    assert torch.equal(y, torch.cat([one(chunk) for one, chunk in zip(copies, x.split(4), strict=True)]))
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(value, copies[0].state_dict()[name]) for name, value in norm.state_dict().items())
    assert norm.track_running_stats and int(norm.num_batches_tracked) == 1
    again = copy.deepcopy(norm).eval()
    assert torch.equal(again(x), copies[0].eval()(x)) and isinstance(norm, kind)


def test_counters_are_raised_once_a_batch_together(operators):
    network = nn.Sequential(*(nn.BatchNorm2d(2) for _ in range(5)))
    group_batch_norms(network, 2)
    counters = Counters(network)
    with operators() as ran, counters.together():
        network(torch.randn(6, 2, 3, 3))
    assert ran.count("add_.Tensor") == 0 and ran.count("_foreach_add_.Scalar") == 1
    assert all(int(norm.num_batches_tracked) == 1 for norm in network)


# ---- with all else ------------------------------------------------------------------------------------------------


def test_parts_of_a_batch_have_groups():
    """A batch of 8 in two parts, groups of 2: the running statistics move twice, with the first group of each part."""
    training = make_training(make_run(accumulate=2, batch_norm_group=2, lr=1e-6))
    training.begin_epoch()
    training.step()
    alone = build_network(training.run, SPEC)
    for rows in (training.one_step.order[:2], training.one_step.order[4:6]):
        with torch.no_grad():
            alone.train()(PARTS["train"].images[rows] / 255)
    for ours, theirs in zip(training.member.network.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_averaged_weights_and_bf16():
    outcome = fit(make_run(ema=0.5, precision="bf16"))
    assert all(value.isfinite().all() for value in outcome.network.parameters())
    with torch.no_grad():
        logits = outcome.network.eval()(PARTS["test"].images / 255)
    nll = F.cross_entropy(logits, PARTS["test"].labels).item()
    assert outcome.result["last"]["test"]["nll"] == pytest.approx(nll, rel=0.05)


def test_a_teacher_with_batch_statistics_has_groups_too():
    """So has it where its features are asked for; its running statistics stay as they are."""
    training = make_training(make_run("fitnet", teacher_mode="batch_stats"))
    training.begin_epoch()
    rows = training.one_step.order[:8]
    pixels = PARTS["train"].images[rows]
    logits, features = training.teacher.teach(rows, pixels)
    alone = build_network(training.run.teacher, SPEC)
    before = copy.deepcopy(alone.state_dict())
    seen = []
    with torch.no_grad():
        for x in pixels.split(4):
            seen.append(copy.deepcopy(alone).train()(x / 255))
    torch.testing.assert_close(logits, torch.cat(seen), rtol=1e-4, atol=1e-5)
    assert [len(feature) for feature in features.values()] == [8]
    state = training.teacher.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.items())
    training.step()


@pytest.mark.slow
def test_compiled(monkeypatch):
    """Traced whole, as for a compiler: the groups are in it."""
    import torch._dynamo

    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    eager = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    group_batch_norms(eager, 4)
    traced, x = copy.deepcopy(eager), torch.randn(10, 3, 4, 4)
    for network, run in ((eager, eager), (traced, compiled.compiled(traced))):
        for _ in range(2):
            run(x).square().sum().backward()
        assert network[0].track_running_stats and int(network[0].num_batches_tracked) == 2
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(traced.state_dict()[name], value)
    for one, other in zip(traced.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_memory_is_predicted():
    """More than without groups: what comes out of them is put together once more."""
    whole, grouped = (run_bytes(make_run(batch_norm_group=group), SPEC, "cpu") for group in (0, 4))
    assert whole <= grouped < 1.2 * whole


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_norm_group": 3}, "batch_norm_group = 3: must be 0, or a divisor >= 2 of batch_size = 8"),
        ({"batch_norm_group": 1}, "batch_norm_group = 1: must be 0, or a divisor >= 2 of batch_size = 8"),
        ({"batch_norm_group": -4}, "batch_norm_group = -4: must be 0, or a divisor >= 2 of batch_size = 8"),
        ({"batch_norm_group": 8, "accumulate": 2},
         "batch_norm_group = 8: must be 0, or a divisor >= 2 of batch_size = 8 / accumulate = 2"),
    ],
)  # fmt: skip
def test_groups_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(InputError) as refused:
        make_run(**fields)
    assert str(refused.value) == message
