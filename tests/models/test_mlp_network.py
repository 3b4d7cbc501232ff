"""The fully connected network."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lskd.models import ARCHS, MLPArch
from lskd.models.dropout import Dropout


def test_forward_is_linear_relu_linear():
    network = MLPArch(hidden=(6, 5)).build((2, 3, 4), 3)
    x = torch.randn(7, 2, 3, 4)
    first, second = network.layers
    hidden = F.relu(x.reshape(7, 24) @ first.weight.T + first.bias)
    hidden = F.relu(hidden @ second.weight.T + second.bias)
    torch.testing.assert_close(network(x), hidden @ network.head.weight.T + network.head.bias)


def test_without_hidden_layers_it_is_softmax_regression():
    network = MLPArch(hidden=()).build((1, 8, 8), 10)
    assert [name for name, _ in network.named_parameters()] == ["head.weight", "head.bias"]
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("name", ["mlp1200", "mlp800"])
def test_mueller_networks_start_from_a_gaussian_of_std_003_and_zero_biases(name):
    torch.manual_seed(0)
    network = ARCHS[name].build((1, 28, 28), 10)
    assert len(network.layers) == 2
    for layer in (*network.layers, network.head):
        assert layer.weight.std().item() == pytest.approx(0.03, rel=0.03)
        assert layer.bias.count_nonzero() == 0


def test_dropout_falls_on_the_input_and_on_hidden_units_while_training_only():
    torch.manual_seed(0)
    network = MLPArch(hidden=(400,), input_dropout=0.2, hidden_dropout=0.5).build((1, 20, 20), 2)
    inputs = {}
    network.layers[0].register_forward_hook(lambda _module, args, _output: inputs.update(first=args[0]))
    network.head.register_forward_hook(lambda _module, args, _output: inputs.update(head=args[0]))
    torch.nn.init.constant_(network.layers[0].bias, 100.0)  # no unit is off by itself
    x = torch.ones(50, 1, 20, 20)

    network(x)
    assert (inputs["first"] == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert (inputs["head"] == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)

    network.eval()(x)
    assert inputs["first"].count_nonzero() == inputs["first"].numel()
    assert inputs["head"].count_nonzero() == inputs["head"].numel()


def test_dropout_does_not_rename_parameters():
    plain, dropped = MLPArch().build((1, 4, 4), 2), MLPArch(input_dropout=0.2, hidden_dropout=0.5).build((1, 4, 4), 2)
    assert plain.state_dict().keys() == dropped.state_dict().keys()


def test_dropout_draws_what_torchs_does_from_a_generator_of_its_own():
    x = torch.randn(30, 40, requires_grad=True)
    torch.manual_seed(3)
    expected = F.dropout(x, 0.3, training=True)
    before = torch.get_rng_state()

    dropout = Dropout(0.3)
    dropout.generator = torch.Generator().manual_seed(3)
    dropped = dropout(x)
    assert torch.equal(dropped, expected)
    assert torch.equal(torch.get_rng_state(), before)
    [gradient], [same] = torch.autograd.grad(dropped.sum(), x), torch.autograd.grad(expected.sum(), x)
    assert torch.equal(gradient, same)
    assert dropout.eval()(x) is x
