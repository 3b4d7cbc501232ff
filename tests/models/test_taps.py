"""Feature taps: what they read, on whatever network, and that they leave it as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lskd.errors import InputError
from lskd.models import (
    ARCHS,
    CifarResNetArch,
    MobileNetV2Arch,
    ResNetArch,
    ShuffleNetV1Arch,
    ShuffleNetV2Arch,
    VGGArch,
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


@pytest.mark.parametrize("name", ARCHS)
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
    network = SMALL["shufflenet_v2"].build((3, 16, 16), 4)
    x = torch.randn(2, 3, 16, 16)
    with operators() as alone:
        network(x)
    with capture(network, network.taps) as features, operators() as captured:
        network(x)
        [features[name] for name in features]
    assert captured.calls != alone.calls != []  # what is tapped is not overwritten
    names, expected = ([str(func).replace("_.", ".") for func in one.calls] for one in (captured, alone))
    assert names == expected


# The CRD benchmark's features of 32 x 32 images: channels and side of f0, f1, ..., and the width of the penultimate.
# Measured on HobbitLong/RepDistiller's own networks with `is_feat=True`.
FEATURES = {
    "resnet8": ([(16, 32), (16, 32), (32, 16), (64, 8)], 64),
    "resnet20": ([(16, 32), (16, 32), (32, 16), (64, 8)], 64),
    "resnet110": ([(16, 32), (16, 32), (32, 16), (64, 8)], 64),
    "resnet8x4": ([(32, 32), (64, 32), (128, 16), (256, 8)], 256),
    "resnet32x4": ([(32, 32), (64, 32), (128, 16), (256, 8)], 256),
    "wrn_16_2": ([(16, 32), (32, 32), (64, 16), (128, 8)], 128),
    "wrn_40_1": ([(16, 32), (16, 32), (32, 16), (64, 8)], 64),
    "wrn_40_2": ([(16, 32), (32, 32), (64, 16), (128, 8)], 128),
    "resnet18": ([(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)], 512),
    "resnet34": ([(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)], 512),
    "resnet50": ([(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)], 2048),
    "vgg8": ([(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)], 512),
    "vgg13": ([(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)], 512),
    "mobilenet_v2": ([(16, 16), (12, 16), (16, 8), (48, 4), (160, 2)], 1280),
    "shufflenet_v1": ([(24, 32), (240, 16), (480, 8), (960, 4)], 960),
    "shufflenet_v2": ([(24, 32), (116, 16), (232, 8), (464, 4)], 1024),
}
SMALL = {
    "cifar_resnet": CifarResNetArch(depth=14, stem=4, widths=(4, 6, 8)),
    "wide_resnet": WideResNetArch(depth=16, widen=1),
    "resnet": ResNetArch(blocks=(2, 1, 2, 1), widths=(4, 6, 8, 10)),
    "bottleneck_resnet": ResNetArch(blocks=(1, 2, 1, 2), widths=(4, 6, 8, 10), bottleneck=True),
    "vgg": VGGArch(widths=(4, 6, 8, 10, 12), convolutions=(1, 2, 1, 2, 1)),
    "mobilenet_v2": MobileNetV2Arch(expansion=2, width=0.25),
    "shufflenet_v1": ShuffleNetV1Arch(stem=12, widths=(24, 48, 72), blocks=(1, 2, 3)),
    "shufflenet_v2": ShuffleNetV2Arch(stem=4, widths=(8, 12, 16), blocks=(2, 3, 4), last=20),
}


@pytest.mark.parametrize("name", FEATURES)
def test_taps_are_the_benchmarks_features_in_order_and_shape(name):
    maps, width = FEATURES[name]
    with torch.device("meta"):
        network = ARCHS[name].build((3, 32, 32), 100)
        with capture(network, network.taps) as features:
            network(torch.empty(2, 3, 32, 32))
    shapes = [(2, channels, side, side) for channels, side in maps]
    names = [f"f{i}" for i in range(len(maps))]
    assert list(network.taps) == [*names, "pool", *(f"{name}_pre" for name in names[1:])]
    assert [tuple(features[name].shape) for name in network.taps] == [*shapes, (2, width), *shapes[1:]]


def test_every_network_with_taps_is_tried():
    with torch.device("meta"):
        tapped = {type(arch) for arch in ARCHS.values() if hasattr(arch.build((3, 75, 75), 2), "taps")}
    assert tapped == {type(ARCHS[name]) for name in FEATURES} == {type(arch) for arch in SMALL.values()}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("training", [False, True])
def test_taps_before_relu_are_what_relu_makes_the_maps_of(name, training):
    """But a Wide ResNet's are what the next batch norm makes of the maps, and MobileNetV2's the maps themselves."""
    torch.manual_seed(0)
    network = SMALL[name].build((3, 16, 16), 4).train(training)
    with capture(network, network.taps) as features:
        network(torch.randn(6, 3, 16, 16))
    following = {1: "stage2.0.bn1", 2: "stage3.0.bn1", 3: "bn"}
    for i in range(1, 4 if "f4" not in features else 5):
        pre, map_ = features[f"f{i}_pre"], features[f"f{i}"]
        assert (pre < 0).any()
        if name == "wide_resnet":
            assert torch.equal(pre, network.get_submodule(following[i])(map_))
        elif name == "mobilenet_v2":
            assert pre is map_
        elif name == "shufflenet_v2":
            assert torch.equal(map_, channel_shuffle(pre.relu(), groups=2))
        else:
            assert torch.equal(map_, pre.relu())


@pytest.mark.parametrize("name", SMALL)
def test_pool_is_the_mean_of_what_comes_before_the_head(name):
    torch.manual_seed(0)
    network = SMALL[name].build((3, 16, 16), 4).eval()
    with torch.no_grad(), capture(network, network.taps) as features:
        network(torch.randn(6, 3, 16, 16))
        last = features["f4" if "f4" in features else "f3"]
        if name == "wide_resnet":
            last = features["f3_pre"].relu()
        elif hasattr(network, "last"):
            last = network.last(last)
    assert torch.equal(features["pool"], last.mean((2, 3)))


@pytest.mark.parametrize("name", SMALL)
def test_taps_change_no_logits(name):
    torch.manual_seed(0)
    network = SMALL[name].build((3, 16, 16), 4).eval()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = network(x)
        with capture(network, network.taps):
            tapped = network(x)
        after = network(x)
    assert hooks_of(network) == 0
    assert torch.equal(before, tapped)
    assert torch.equal(before, after)


@pytest.mark.parametrize("name", SMALL)
def test_maps_are_written_in_place_where_no_tap_keeps_them(name, operators):
    """And the gradients are the same to the last bit, whatever is tapped."""
    torch.manual_seed(0)
    network = SMALL[name].build((3, 16, 16), 4)
    x = torch.randn(4, 3, 16, 16)
    with operators() as ran:
        network(x).square().sum().backward()
    names = [str(func) for func in ran.calls]
    assert "aten.relu_.default" in names
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
