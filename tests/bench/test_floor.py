"""Bytes and operations of a step, against counts by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from lskd.bench import machine as rates
from lskd.bench.floor import Call, Work, work_of
from lskd.bench.machine import Kernel, Machine, Rate, convolutions, copies, products, rate
from lskd.bench.work import count_work
from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.data import DATASETS
from lskd.engine.training import set_precision

CPU = torch.device("cpu")
FLOAT = 4  # bytes


def totals(act) -> tuple[int, int]:
    """Bytes and operations."""
    work = work_of(act)
    return work.bytes, work.operations


def test_a_linear_layer_by_hand():
    """y = x Wᵀ + b with x (B, I), W (O, I); then Wʹ = yʹᵀ x, bʹ = Σ yʹ and, where asked for, xʹ = yʹ W."""
    b, i, o = 5, 7, 3
    layer, gradient = nn.Linear(i, o), torch.randn(b, o)
    x = torch.randn(b, i)

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x).backward(gradient)

    forward = x.numel() + layer.weight.numel() + o + b * o
    weights = gradient.numel() + x.numel() + layer.weight.numel()
    bias = gradient.numel() + o
    assert totals(step) == (FLOAT * (forward + weights + bias), 2 * (2 * b * i * o))
    x.requires_grad_()
    inputs = gradient.numel() + layer.weight.numel() + x.numel()
    step()
    x.grad = None
    assert totals(step) == (FLOAT * (forward + weights + bias + inputs), 3 * (2 * b * i * o))


def test_a_convolution_by_hand():
    convolution, x = nn.Conv2d(2, 5, 3, padding=1, bias=False), torch.randn(4, 2, 8, 8)
    work = work_of(lambda: convolution(x).sum().backward())
    assert [call.name for call in work.calls if call.operations] == ["convolution", "convolution_backward"]
    assert work.operations == 2 * (2 * 4 * 5 * 8 * 8 * 2 * 9)  # forward, and the gradient of the weights


@pytest.mark.parametrize(
    ("act", "moved"),
    [
        (lambda x, y: x + y, 3 * 12),
        (lambda x, y: x.add_(y), 3 * 12),  # in place: reads both, writes one
        (lambda x, y: x + x, 2 * 12),  # one tensor is read once
        (lambda x, y: x.view(12)[3:].unsqueeze(0).t().detach(), 0),
        (lambda x, y: x + y[0], 12 + 4 + 12),
        (lambda x, y: x + y[:1].expand(3, 4), 12 + 4 + 12),
        (lambda x, y: x.zero_(), 12),
        (lambda x, y: x.copy_(y), 2 * 12),
        (lambda x, y: torch.empty(100), 0),
        (lambda x, y: torch._foreach_add_([x, y], [y, x], alpha=2.0), 4 * 12),
        (lambda x, y: x[torch.zeros(2, dtype=torch.int64)], 2 * 2 + 2 * 2 + 2 * 8),  # rows: zeroed and read, then taken
    ],
)  # fmt: skip
def test_operators_by_hand(act, moved):
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    assert totals(lambda: act(x, y)) == (FLOAT * moved, 0)


def test_sgd_reads_weight_gradient_and_momentum_and_writes_two():
    weight = nn.Parameter(torch.randn(10))
    optimizer = torch.optim.SGD([weight], 0.1, momentum=0.9, fused=True)
    weight.grad = torch.randn(10)
    optimizer.step()
    assert work_of(optimizer.step).bytes == FLOAT * 5 * 10


def machine(copying: dict[int, float], computing: float) -> Machine:
    """One that copies so fast, by the bytes of a copy."""
    found = Machine.__new__(Machine)
    found.device = CPU
    found.copying = {1: [Rate(speed, Kernel("copy", size, lambda: lambda: None)) for size, speed in copying.items()]}
    found.computing = {("fp32", 1): [Rate(computing, Kernel("product", 1, lambda: lambda: None))]}
    return found


def test_a_floor_is_that_of_what_takes_longer():
    """All bytes, or all operations; in turn, the longer of the two for each operator."""
    work = Work((Call("convolution", bytes=40, operations=30), Call("relu", bytes=60, operations=0)))
    found = machine({1000: 50.0}, 10.0).floor(work, "fp32")
    assert (found.bytes, found.operations, found.in_turn) == (2.0, 3.0, 3.0 + 1.2)
    assert (found.seconds, found.bound_by) == (3.0, "operations")
    found = machine({1000: 20.0}, 10.0).floor(work, "fp32")
    assert (found.seconds, found.bound_by, found.in_turn) == (5.0, "bytes", 3.0 + 3.0)


def test_an_operator_moves_its_bytes_as_fast_as_a_copy_of_that_size():
    """What is small stays in a cache. A small copy that is slow, for its overhead, is no reason for a lower rate."""
    found = machine({100: 5.0, 1000: 80.0, 10000: 20.0}, 1.0)
    assert [found.bandwidth(size) for size in (1, 100, 101, 1000, 1001, 10000, 10**6)] == [80.0] * 4 + [20.0] * 3
    assert found.floor(Work((Call("add", 1000, 0), Call("add", 2000, 0))), "fp32").bytes == 12.5 + 100.0


def test_what_a_step_takes_is_told_by_purpose():
    work = Work(
        (
            Call("relu", 100, 0, seconds=3.0), Call("convolution", 40, 30, seconds=4.0),
            Call("relu_", 50, 0, seconds=2.0), Call("neg", 50, 0, seconds=1.0),
        )
    )  # fmt: skip
    found = machine({1000: 50.0}, 10.0).by_purpose(work, "fp32")
    assert list(found.items()) == [("ReLU", (5.0, 3.0)), ("convolutions", (4.0, 3.0)), ("others", (1.0, 1.0))]


def test_the_machines_rate_is_that_of_its_fastest_kernel(monkeypatch):
    """Of products and convolutions, in the best of their windows, those of later turns among them; and it is named."""
    monkeypatch.setattr(rates, "SIDES", {"cpu": (8, 16)})
    monkeypatch.setattr(rates, "COPIES", {"cpu": (64,)})
    speed = 1.0

    def rate(device, kernel, lanes):
        best = "64 channels" in kernel.name and "channels_last, gradient of the weight" in kernel.name
        return speed * (5.0 if best else 3.0) * lanes

    monkeypatch.setattr(rates, "rate", rate)
    found = Machine(CPU, ["fp32"], fleets=(1, 2))
    name = "convolution of 64 channels of 8 × 8, channels_last, gradient of the weight"
    assert (found.fastest("fp32").kernel.name, found.fastest("fp32").per_second) == (name, 5.0)
    lanes = {"1", str(min(2, torch.get_num_threads()))}
    assert found.describe()["rates"]["fp32"].keys() == found.describe()["copy_bytes_per_second"].keys() == lanes
    assert found.describe()["rates"]["fp32"]["1"] == {"operations_per_second": 5.0, "kernel": name}
    speed = 0.1
    found.again()
    assert found.fastest("fp32").per_second == 5.0
    speed = 2.0
    found.again()
    assert found.fastest("fp32").per_second == 10.0


def test_the_step_of_a_run():
    """Distillation from logits at hand costs hardly more than cross-entropy; a live teacher its forward pass."""
    words: dict[str, Any] = {"dataset": "mnist", "recipe": "muller_mnist_student", "recipe.batch_size": 16}
    kd = parse_run({**words, "arch": "mlp800", "teacher": "mlp1200", "method": "logit_matching"}, Conf())
    ce = parse_run({**words, "arch": "mlp800"}, Conf())
    spec = DATASETS["mnist"].spec
    plain, cached = count_work(ce, spec), count_work(kd, spec)
    live = count_work(replace(kd, teacher_mode="batch_stats"), spec)

    def products(*widths: int) -> int:
        return sum(2 * 16 * first * second for first, second in zip(widths, widths[1:]))  # noqa: B905, RUF007

    forward = products(784, 800, 800, 10)
    assert plain.operations == 3 * forward - products(784, 800)  # no gradient of the images
    assert cached.operations == plain.operations
    assert live.operations == plain.operations + products(784, 1200, 1200, 10)
    assert plain.bytes < cached.bytes < 1.01 * plain.bytes < live.bytes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kernels(precision, monkeypatch):
    """Each is what its name says, and counts as much work as the operator does; side by side they use own memory."""
    monkeypatch.setattr(rates, "SIDES", {"cpu": (32,)})
    monkeypatch.setattr(rates, "CONVOLUTIONS", {"cpu": ((8, 4),)})
    monkeypatch.setattr(rates, "WINDOWS", 0.0)
    kernels = products(CPU, precision) + convolutions(CPU, precision)
    assert len(kernels) == 1 + 2 * 3
    for kernel in kernels:
        work = work_of(kernel.make())
        assert work.operations == kernel.amount, kernel.name
        assert [call.name for call in work.calls if call.operations] == [
            "mm" if "product" in kernel.name else "convolution_backward" if "gradient" in kernel.name else "convolution"
        ]
    try:
        for kernel in (kernels[0], kernels[-1]):
            assert all(1e6 < rate(CPU, kernel, lanes) < 1e15 for lanes in (1, 2))
    finally:
        set_precision("fp32")  # a switch of the whole process


def test_a_copy_counts_what_it_reads_and_writes(monkeypatch):
    monkeypatch.setattr(rates, "COPIES", {"cpu": (2**12, 2**16)})
    for kernel in copies(CPU):
        assert work_of(kernel.make()).bytes == kernel.amount
        assert 1e6 < rate(CPU, kernel) < 1e13
