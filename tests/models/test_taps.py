"""Feature taps: what they read, on whatever network, and that they leave it as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lskd.errors import InputError
from lskd.models import ARCHS
from lskd.models.taps import capture, classifier

pytestmark = pytest.mark.usefixtures("one_thread")


def plain_network() -> nn.Module:
    """One that knows nothing of taps: its last dense layer is called anything."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4), nn.Identity())


def hooks_of(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


@pytest.mark.parametrize("name", ARCHS)
def test_every_network_has_its_penultimate_activations_and_its_classifier(name):
    network = ARCHS[name].build((3, 16, 16), 5).eval()
    assert classifier(network) is network.head
    with torch.no_grad(), capture(network, ["pool"]) as features:
        logits = network(torch.randn(2, 3, 16, 16))
    assert features["pool"].shape == (2, network.head.in_features)
    assert torch.equal(network.head(features["pool"]), logits)


def test_penultimate_of_any_network():
    network = plain_network()
    x = torch.randn(5, 3, 4)
    with capture(network, ["pool"]) as features:
        logits = network(x)
    assert classifier(network) is network[3]
    assert torch.equal(features["pool"], network[:3](x))
    assert torch.equal(classifier(network)(features["pool"]), logits)


def test_classifier_is_the_head_wherever_it_is_registered():
    network = nn.Module()
    network.head, network.projector = nn.Linear(3, 2), nn.Linear(3, 8)
    assert classifier(network) is network.head


def test_network_that_is_one_dense_layer():
    network = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    with capture(network, ["pool"]) as features:
        network(x)
    assert features["pool"] is x
    assert classifier(network) is network


def test_modules_outputs_and_inputs_by_path():
    network = plain_network()
    with capture(network, ["1", "2:input", "2"]) as features:
        network(torch.randn(5, 3, 4))
    assert list(features) == ["1", "2:input", "2"]
    assert features["1"] is features["2:input"]
    assert torch.equal(features["2"], features["1"].relu())


def test_first_input_may_come_by_keyword():
    network = nn.Bilinear(3, 2, 4)
    x1, x2 = torch.randn(5, 3), torch.randn(5, 2)
    features = capture(network, [":input"])
    network(input1=x1, input2=x2)
    assert features[":input"] is x1


def test_features_carry_gradients_of_the_last_forward():
    network = plain_network()
    with capture(network, ["1"]) as features:
        network(torch.randn(5, 3, 4))
        network(torch.randn(2, 3, 4))
    assert features["1"].shape == (2, 6)
    features["1"].square().sum().backward()
    assert network[1].weight.grad.abs().sum() > 0
    assert network[3].weight.grad is None


class Either(nn.Module):
    """Runs one of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor, left: bool) -> Tensor:
        return self.left(x) if left else self.right(x)


def test_where_the_last_forward_did_not_pass():
    network = Either()
    features = capture(network, ["left"])
    network(torch.randn(5, 3), left=True)
    assert features["left"].shape == (5, 2)
    network(torch.randn(5, 3), left=False)  # what the first one left is gone
    with pytest.raises(InputError, match="tap = 'left': the last forward did not pass there"):
        features["left"]


def test_hooks_go_with_the_context_and_with_remove():
    network = plain_network()
    with capture(network, ["pool", "1"]):
        assert hooks_of(network) == 3
    assert hooks_of(network) == 0
    features = capture(network, ["pool"])
    network(torch.randn(5, 3, 4))
    features.remove()
    network(torch.randn(2, 3, 4))
    assert hooks_of(network) == 0
    assert features["pool"].shape == (5, 6)


def test_two_captures_do_not_disturb_one_another():
    network = plain_network()
    with capture(network, ["1"]) as outer:
        with capture(network, ["1"]) as inner:
            network(torch.randn(5, 3, 4))
        assert inner["1"] is outer["1"]
        network(torch.randn(2, 3, 4))
    assert (len(inner["1"]), len(outer["1"])) == (5, 2)


def test_a_value_overwritten_in_place_is_refused():
    network = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(inplace=True))
    with capture(network, ["0"]) as features:
        network(torch.randn(5, 3))
    with pytest.raises(InputError, match="tap = '0': overwritten in place"):
        features["0"]


def test_inference_mode():
    network = plain_network()
    with torch.inference_mode(), capture(network, ["pool"]) as features:
        network(torch.randn(5, 3, 4))
    assert features["pool"].shape == (5, 6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("poll", r"tap = 'poll': did you mean 'pool'\? allowed: pool; or the path of a module"),
        ("1:output", "tap = '1:output': allowed: pool; or"),
        ("1.weight", "tap = '1.weight'"),
        ("", "tap = ''"),
    ],
)
def test_unknown_taps_are_refused_and_leave_no_hook(name, message):
    network = plain_network()
    with pytest.raises(InputError, match=message):
        capture(network, ["1", name])
    assert hooks_of(network) == 0


def test_network_without_dense_layer():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with pytest.raises(InputError, match=r"tap = 'pool': allowed: none; or the path"):
        capture(network, ["pool"])
    with pytest.raises(InputError, match=r"network = Sequential: has no nn.Linear"):
        classifier(network)


def test_what_is_no_tensor_is_refused():
    network = nn.LSTM(3, 4)
    with capture(network, [":input"]) as features:
        network(torch.randn(2, 5, 3))
    assert features[":input"].shape == (2, 5, 3)
    network = nn.Sequential(network)
    with capture(network, ["0"]), pytest.raises(InputError, match="tap = '0': tuple passes there"):
        network(torch.randn(2, 5, 3))
