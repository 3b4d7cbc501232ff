"""Bytes and operations of a step, against counts by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from lskd.bench.floor import Work, bytes_and_operations, copy_bandwidth, matrix_rate
from lskd.bench.measure import count_work
from lskd.data import DATASETS
from lskd.engine.training import set_precision
from lskd.settings import Conf, parse_run

CPU = torch.device("cpu")
FLOAT = 4  # bytes


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
    assert bytes_and_operations(step) == Work(FLOAT * (forward + weights + bias), 2 * (2 * b * i * o))
    x.requires_grad_()
    inputs = gradient.numel() + layer.weight.numel() + x.numel()
    step()
    x.grad = None
    assert bytes_and_operations(step) == Work(FLOAT * (forward + weights + bias + inputs), 3 * (2 * b * i * o))


def test_a_convolution_by_hand():
    convolution, x = nn.Conv2d(2, 5, 3, padding=1, bias=False), torch.randn(4, 2, 8, 8)
    work = bytes_and_operations(lambda: convolution(x).sum().backward())
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
    assert bytes_and_operations(lambda: act(x, y)) == Work(FLOAT * moved, 0)


def test_sgd_reads_weight_gradient_and_momentum_and_writes_two():
    weight = nn.Parameter(torch.randn(10))
    optimizer = torch.optim.SGD([weight], 0.1, momentum=0.9, fused=True)
    weight.grad = torch.randn(10)
    optimizer.step()
    assert bytes_and_operations(optimizer.step).bytes == FLOAT * 5 * 10


def test_a_floor_is_that_of_what_takes_longer():
    assert Work(bytes=100, operations=30).seconds(bandwidth=50.0, rate=10.0) == 3.0
    assert Work(bytes=200, operations=30).seconds(bandwidth=50.0, rate=10.0) == 4.0


def test_the_step_of_a_run():
    """Distillation from logits at hand costs hardly more than cross-entropy; a live teacher its forward pass."""
    words: dict[str, Any] = {"dataset": "mnist", "recipe": "muller_mnist_student", "recipe.batch_size": 16}
    kd = parse_run({**words, "arch": "mlp800", "teacher": "mlp1200", "method": "logit_matching"}, Conf())
    ce = parse_run({**words, "arch": "mlp800"}, Conf())
    spec = DATASETS["mnist"]
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
def test_the_machine(precision):
    try:
        assert 1e8 < copy_bandwidth(CPU, megabytes=1, repeats=2) < 1e13
        assert 1e7 < matrix_rate(CPU, precision, side=64, repeats=2) < 1e15
    finally:
        set_precision("fp32")  # a switch of the whole process
