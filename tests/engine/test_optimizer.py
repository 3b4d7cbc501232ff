"""SGD and Adam against their formulas, written out."""

import dataclasses

import pytest
import torch
from torch import nn

from lskd.data import Dataset, Spec
from lskd.engine import run_bytes
from lskd.engine.optimizer import Optimizer, decayed_parameters, lr_factors
from lskd.errors import InputError
from lskd.methods import METHODS
from lskd.models import ARCHS, MLPArch
from lskd.recipe import Recipe, WeightDecay
from lskd.run import Named, Run


def recipe(**fields):
    return Recipe(**{"lr": 0.5, "batch_size": 4, "epochs": 1, **fields})


def small_network():
    torch.manual_seed(0)
    network = nn.Sequential()
    network.add_module("body", nn.Linear(3, 4))
    network.add_module("norm", nn.BatchNorm1d(4))
    network.add_module("head", nn.Linear(4, 2))
    return network


@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov"), [(0, 0, False), (0.9, 0, False), (0.9, 0, True), (0.9, 0.9, False)]
)
def test_steps_follow_the_formula(momentum, dampening, nesterov):
    network = small_network()
    optimizer = Optimizer(
        network, recipe(momentum=momentum, dampening=dampening, nesterov=nesterov, lr_factors={"head.*": 0.1})
    )
    expected = {name: p.detach().clone() for name, p in network.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for step in range(4):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        loss = network(x).square().mean()
        gradients = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        optimizer.step(loss, schedule_factor=0.8)
        for (name, _), g in zip(network.named_parameters(), gradients, strict=True):
            velocity[name] = (
                momentum * velocity[name] + (1 - dampening) * g
            )  # zero at the start: also the first is dampened
            update = g + momentum * velocity[name] if nesterov else velocity[name]
            expected[name] -= 0.5 * 0.8 * (0.1 if name.startswith("head") else 1.0) * update
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name])


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_steps_of_adam_follow_the_formula(kind):
    """With decay of the weights alone, clipping, and a tenth of the learning rate for the head; and torch's own gives
    the same, where it can do the same."""
    rate, clip, beta1, beta2, epsilon = 0.3, 0.5, 0.8, 0.9, 1e-4
    decay = WeightDecay(rate, "weights")
    network = small_network()
    settings = {"optimizer": kind, "beta1": beta1, "beta2": beta2, "epsilon": epsilon, "weight_decay": decay}
    optimizer = Optimizer(network, recipe(**settings, lr=0.1, lr_factors={"head.*": 0.1}, clip_norm=clip))
    expected = {name: p.detach().clone() for name, p in network.named_parameters()}
    m, v = ({name: torch.zeros_like(p) for name, p in network.named_parameters()} for _ in range(2))
    for t in range(1, 6):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(t))
        loss = network(x).square().mean()
        gradients = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        optimizer.step(loss, schedule_factor=0.8)
        g = dict(zip(expected, gradients, strict=True))
        decayed = [name for name, p in expected.items() if p.ndim > 1]
        if kind == "adam":
            g |= {name: g[name] + rate * expected[name] for name in decayed}
        norm = torch.sqrt(sum(one.square().sum() for one in g.values()))
        for name, weight in expected.items():
            lr = 0.1 * 0.8 * (0.1 if name.startswith("head") else 1.0)
            own = g[name] * min(1.0, clip / (norm + 1e-6))
            if kind == "adamw" and name in decayed:
                weight *= 1 - lr * rate
            m[name] = beta1 * m[name] + (1 - beta1) * own
            v[name] = beta2 * v[name] + (1 - beta2) * own.square()
            weight -= lr * (m[name] / (1 - beta1**t)) / ((v[name] / (1 - beta2**t)).sqrt() + epsilon)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "torchs"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_adam_and_its_weight_decay_are_torchs(kind, torchs):
    ours, its = small_network().eval(), small_network().eval()  # a bias before batch norm would have rounding alone
    optimizer = Optimizer(ours, recipe(optimizer=kind, lr=0.05, weight_decay=WeightDecay(0.2)))
    other = torchs(its.parameters(), lr=0.05, weight_decay=0.2)
    for t in range(4):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(t))
        optimizer.step(ours(x).square().mean(), 1.0)
        other.zero_grad()
        its(x).square().mean().backward()
        other.step()
    for one, same in zip(ours.parameters(), its.parameters(), strict=True):
        torch.testing.assert_close(one, same)


def test_weight_decay_is_part_of_the_clipped_gradient():
    network = small_network()
    weight = network.body.weight.detach().clone()
    decay = WeightDecay(rate=10.0, to="named", names=("body.weight",))
    optimizer = Optimizer(network, recipe(weight_decay=decay, clip_norm=0.01, lr=1.0))
    loss = sum(p.sum() * 0.0 for p in network.parameters())  # no gradient but decay's
    optimizer.step(loss, 1.0)
    moved = weight - network.body.weight.detach()
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-4)
    torch.testing.assert_close(moved / moved.norm(), weight / weight.norm(), rtol=1e-4, atol=1e-6)


def test_weight_decay_is_half_rate_times_squared_norm():
    network = small_network()
    rate = 0.3
    optimizer = Optimizer(network, recipe(weight_decay=WeightDecay(rate=rate), lr=1.0))
    twin = small_network()
    penalty = 0.5 * rate * sum(p.square().sum() for p in twin.parameters())
    penalty.backward()
    optimizer.step(sum(p.sum() * 0.0 for p in network.parameters()), 1.0)
    for ours, reference in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.detach(), (reference - reference.grad).detach())


@pytest.mark.parametrize(
    ("decay", "names"),
    [
        (WeightDecay(1.0, "all"), {"body.weight", "body.bias", "norm.weight", "norm.bias", "head.weight", "head.bias"}),
        (WeightDecay(1.0, "weights"), {"body.weight", "head.weight"}),
        (WeightDecay(1.0, "not_biases"), {"body.weight", "norm.weight", "norm.bias", "head.weight"}),
        (WeightDecay(1.0, "named", ("head.weight",)), {"head.weight"}),
    ],
)
def test_which_parameters_decay(decay, names):
    network = small_network()
    chosen = {id(p) for p in decayed_parameters(network, decay)}
    assert {name for name, p in network.named_parameters() if id(p) in chosen} == names


def test_patterns_that_match_nothing_or_twice_are_errors():
    with pytest.raises(InputError, match=r"lr_factors.tail.\*: matches no parameter; there are body.weight"):
        lr_factors(["body.weight"], {"tail.*": 0.1})
    with pytest.raises(InputError, match="must match one at most"):
        lr_factors(["head.weight"], {"head.*": 0.1, "*.weight": 1.0})
    with pytest.raises(InputError, match="names = 'fc9'"):
        decayed_parameters(small_network(), WeightDecay(1.0, "named", ("fc9",)))


def test_memory_that_is_reckoned_with_has_adams_buffers():
    """Two of each parameter, and a counter."""
    spec = Spec("noise", "Noise", 4, (3, 8, 8), 12, 6, tuple("abcd"), digest="")

    def needed(arch, **fields):
        return run_bytes(Run(Dataset("noise"), arch, Named("ce", METHODS["ce"]), recipe(**fields)), spec, "cuda")

    for name, arch in (
        ("mlp", MLPArch(hidden=(64,))),
        ("reactnet_resnet18", dataclasses.replace(ARCHS["reactnet_resnet18"], **ARCHS["reactnet_resnet18"].small)),
    ):
        network = arch.build((3, 8, 8), 4)
        more = sum(2 * p.nbytes + 4 for p in network.parameters())
        given = Named(name, arch)
        assert needed(given, optimizer="adam") - needed(given) == pytest.approx(more, rel=0.01)
