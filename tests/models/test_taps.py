"""Feature taps: what they read, on whatever network, and that they leave it as it was."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from lskd.errors import InputError
from lskd.models import (
    ARCHS,
    Arch,
    DenseNetArch,
    MobileNetV2Arch,
    ReActNetArch,
    ShuffleNetV2Arch,
    TorchvisionArch,
    WideResNetArch,
)
from lskd.models.shufflenet_v1 import channel_shuffle
from lskd.models.taps import capture, classifier

pytestmark = pytest.mark.usefixtures("one_thread")


def plain_network() -> nn.Module:
    """One that knows nothing of taps: its last dense layer is called anything."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4), nn.Identity())


def hooks_of(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


# Of the large networks of torchvision, which one class makes, a single one.
EACH = [
    name
    for name, arch in ARCHS.items()
    if arch.kind == "images" and (not isinstance(arch, TorchvisionArch) or name == "resnet18_imagenet")
]


@pytest.mark.every(3)
@pytest.mark.parametrize("name", EACH)
def test_every_network_has_its_penultimate_activations_and_its_classifier(name):
    side = 75 if name == "inception_v4" else 16
    network = ARCHS[name].build((3, side, side), 5).eval()
    assert classifier(network) is network.head
    with torch.no_grad(), capture(network, ["pool"]) as features:
        logits = network(torch.randn(2, 3, side, side))
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


def test_a_capture_adds_no_operator(operators):
    """So it can be recorded in a CUDA graph as the forward alone can."""
    network = next(arch for arch in MEMBERS if isinstance(arch, ShuffleNetV2Arch)).build((3, 16, 16), 4)
    x = torch.randn(2, 3, 16, 16)
    with operators() as alone:
        network(x)
    with capture(network, network.taps) as features, operators() as captured:
        network(x)
        [features[name] for name in features]
    assert captured.calls != alone.calls != []  # what is tapped is not overwritten
    names, expected = ([str(func).replace("_.", ".") for func in one.calls] for one in (captured, alone))
    assert names == expected


def has_taps(arch: Arch) -> bool:
    with torch.device("meta"):
        return hasattr(arch.build((3, 75, 75), 2), "taps")


# A small member of each family that has the benchmark's features.
MEMBERS = {dataclasses.replace(arch, **arch.small): name for name, arch in ARCHS.items()}
TAPPED = {arch: name for arch, name in MEMBERS.items() if has_taps(arch)}
each_tapped = pytest.mark.parametrize("arch", TAPPED, ids=TAPPED.get)


@each_tapped
@pytest.mark.parametrize("training", [False, True])
def test_taps_before_relu_are_what_relu_makes_the_maps_of(arch, training):
    """But a Wide ResNet's and a DenseNet's are what the next batch norm makes of the maps, MobileNetV2's the maps
    themselves, and a ReActNet's what its RPReLU makes the maps of."""
    torch.manual_seed(0)
    network = arch.build((3, 16, 16), 4).train(training)
    with capture(network, network.taps) as features:
        network(torch.randn(6, 3, 16, 16))
    following = {1: "stage2.0.bn1", 2: "stage3.0.bn1", 3: "bn"}
    if isinstance(arch, DenseNetArch):
        following |= {1: "transition1.bn", 2: "transition2.bn"}
    for i in range(1, 4 if "f4" not in features else 5):
        pre, map_ = features[f"f{i}_pre"], features[f"f{i}"]
        assert (pre < 0).any()
        if isinstance(arch, (DenseNetArch, WideResNetArch)):
            assert torch.equal(pre, network.get_submodule(following[i])(map_))
        elif isinstance(arch, MobileNetV2Arch):
            assert pre is map_
        elif isinstance(arch, ReActNetArch):
            assert torch.equal(map_, network.get_submodule(f"stage{i}")[-1].activation(pre))
        elif isinstance(arch, ShuffleNetV2Arch):
            assert torch.equal(map_, channel_shuffle(pre.relu(), groups=2))
        else:
            assert torch.equal(map_, pre.relu())


@each_tapped
def test_pool_is_the_mean_of_what_comes_before_the_head(arch):
    torch.manual_seed(0)
    network = arch.build((3, 16, 16), 4).eval()
    with torch.no_grad(), capture(network, network.taps) as features:
        network(torch.randn(6, 3, 16, 16))
        last = features["f4" if "f4" in features else "f3"]
        if isinstance(arch, (DenseNetArch, WideResNetArch)):
            last = features["f3_pre"].relu()
        elif hasattr(network, "last"):
            last = network.last(last)
    assert torch.equal(features["pool"], last.mean((2, 3)))


@each_tapped
def test_taps_change_no_logits(arch):
    torch.manual_seed(0)
    network = arch.build((3, 16, 16), 4).eval()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = network(x)
        with capture(network, network.taps):
            tapped = network(x)
        after = network(x)
    assert hooks_of(network) == 0
    assert torch.equal(before, tapped)
    assert torch.equal(before, after)


@each_tapped
def test_maps_are_written_in_place_where_no_tap_keeps_them(arch, operators):
    """And the gradients are the same to the last bit, whatever is tapped."""
    torch.manual_seed(0)
    network = arch.build((3, 16, 16), 4)
    x = torch.randn(4, 3, 16, 16)
    with operators() as ran:
        network(x).square().sum().backward()
    names = [str(func) for func in ran.calls]
    assert "aten.relu_.default" in names or isinstance(arch, ReActNetArch)
    assert not {"aten.relu.default", "aten.add.Tensor"} & {*names[: names.index("aten.mean.dim")]}
    plain = [parameter.grad for parameter in network.parameters()]
    network.zero_grad()
    with capture(network, [place for place, _ in network.named_modules() if place]) as features:
        network(x).square().sum().backward()
        assert all(features[place].isfinite().all() for place in features)  # nothing overwritten behind a tap
    for parameter, gradient in zip(network.parameters(), plain, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_unknown_tap_of_a_network_of_the_benchmark_names_its_taps():
    with torch.device("meta"):
        network = ARCHS["resnet8"].build((3, 32, 32), 100)
    message = "did you mean 'f3'?.* allowed: f0, f1, f1_pre, f2, f2_pre, f3, f3_pre, pool; or the path of a module"
    with pytest.raises(InputError, match=message):
        capture(network, ["f0", "f33"])
