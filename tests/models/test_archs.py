"""What every entry of `ARCHS` promises, whatever its family."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import types
import typing
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import lskd
from lskd.errors import InputError
from lskd.models import (
    ARCHS,
    CifarResNetArch,
    DenseNetArch,
    MLPArch,
    MobileNetV2Arch,
    ReActNetArch,
    ResNetArch,
    ShuffleNetV1Arch,
    ShuffleNetV2Arch,
    T2TResNetArch,
    TimmArch,
    TorchvisionArch,
    VGGArch,
    WideResNetArch,
)
from lskd.models.dropout import Dropout
from lskd.models.taps import capture

MNIST, CIFAR, IMAGENET = (1, 28, 28), (3, 32, 32), (3, 299, 299)


def transformer(d: int, f: int, encoder: int, decoder: int) -> int:
    """Parameters of the layers of an encoder and a decoder."""
    attention, rest = 4 * d * (d + 1), d * f + f + f * d + d
    return encoder * (attention + rest + 2 * 2 * d) + decoder * (2 * attention + rest + 3 * 2 * d)


# name: (input shape, classes, parameters)
PARAMETERS = {
    "mlp": (MNIST, 10, 785 * 128 + 129 * 10),
    "mlp1200": (MNIST, 10, 785 * 1200 + 1201 * 1200 + 1201 * 10),
    "mlp800": (MNIST, 10, 785 * 800 + 801 * 800 + 801 * 10),
    "alexnet": (CIFAR, 10, 1_756_426),
    # Stem, three stages (first block with its projection + 8 others) and head, each summed by hand.
    "resnet56_t2t": (CIFAR, 10, 464 + (14_496 + 8 * 18_560) + (57_664 + 8 * 73_984) + (230_016 + 8 * 295_424) + 1_290),
    # CRD's counts; three blocks more, one in each stage, are 4,672 + 18,560 + 73,984 = 97,216 parameters.
    "resnet8": (CIFAR, 100, 278_324 - 2 * 97_216),
    "resnet14": (CIFAR, 100, 278_324 - 97_216),
    "resnet20": (CIFAR, 100, 278_324),
    "resnet32": (CIFAR, 100, 472_756),
    "resnet44": (CIFAR, 100, 472_756 + 2 * 97_216),
    "resnet56": (CIFAR, 100, 861_620),
    "resnet110": (CIFAR, 100, 1_736_564),
    "resnet8x4": (CIFAR, 100, 1_233_540),
    "resnet32x4": (CIFAR, 100, 7_433_860),
    "wrn_16_2": (CIFAR, 100, 703_284),
    "wrn_40_1": (CIFAR, 100, 569_780),
    "wrn_40_2": (CIFAR, 100, 2_255_156),
    "resnet18": (CIFAR, 10, 11_173_962),
    "resnet34": (CIFAR, 10, 21_282_122),
    # Counts of HobbitLong/RepDistiller's own networks: ResNet50, vgg8_bn, vgg13_bn, mobile_half, ShuffleV1, ShuffleV2.
    "resnet50": (CIFAR, 100, 23_705_252),
    "vgg8": (CIFAR, 100, 3_965_028),
    "vgg13": (CIFAR, 100, 9_462_180),
    "mobilenet_v2": (CIFAR, 100, 812_836),
    "shufflenet_v1": (CIFAR, 100, 949_258),
    "shufflenet_v2": (CIFAR, 100, 1_355_528),
    # Those of the authors' code: 0.8 M parameters at depth 100.
    "densenet_bc40": (CIFAR, 10, 176_122),
    "densenet_bc100": (CIFAR, 10, 769_162),
    # ResNet-18, and of each binary convolution a threshold for each channel in and three parameters for each out.
    "reactnet_resnet18": (IMAGENET, 1000, 11_689_512 + 4 * 256 + 448 + 3 * 512 + 896 + 3 * 1024 + 1792 + 3 * 2048),
    # torchvision's own counts, in its table of weights.
    "torchvision": (IMAGENET, 1000, 25_557_032),
    "resnet18_imagenet": (IMAGENET, 1000, 11_689_512),
    "resnet34_imagenet": (IMAGENET, 1000, 21_797_672),
    "resnet50_imagenet": (IMAGENET, 1000, 25_557_032),
    "resnet101_imagenet": (IMAGENET, 1000, 44_549_160),
    "mobilenet_v2_imagenet": (IMAGENET, 1000, 3_504_872),
    "densenet121": (IMAGENET, 1000, 7_978_856),
    "resnext50_32x4d": (IMAGENET, 1000, 25_028_904),
    "resnext101_32x8d": (IMAGENET, 1000, 88_791_336),
    "wide_resnet50_2": (IMAGENET, 1000, 68_883_240),
    # 4.2 M (Howard et al. 2017, Table 8).
    "mobilenet_v1": (IMAGENET, 1000, 4_231_976),
    # timm's own counts, in its table of results.
    "timm": (IMAGENET, 1000, 25_557_032),
    "inception_v4": (IMAGENET, 1000, 42_679_816),
    # 108 M and 44 M (Zhou, Song et al. 2021); embeddings, layers of 7,087,872, pooler, and a head of three classes.
    "bert_base": ((), 3, (28_996 + 512 + 2 + 2) * 768 + 12 * 7_087_872 + 769 * 768 + 769 * 3),
    "bert_t3": ((), 3, (28_996 + 512 + 2 + 2) * 768 + 3 * 7_087_872 + 769 * 768 + 769 * 3),
    # Of 1,000 tokens. A layer of width d has 4·d·(d + 1) in each attention, d·f + f + f·d + d, and 2·d in each norm.
    "transformer_base": ((), 1000, 1000 * 512 + transformer(512, 2048, 6, 6)),
    "transformer_iwslt": ((), 1000, 1000 * 256 + transformer(256, 1024, 2, 2)),
    "transformer_tiny": ((), 1000, 1000 * 128 + transformer(128, 256, 4, 4)),
}

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
    "densenet_bc40": ([(24, 32), (96, 32), (120, 16), (132, 8)], 132),
    "vgg8": ([(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)], 512),
    "vgg13": ([(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)], 512),
    "mobilenet_v2": ([(16, 16), (12, 16), (16, 8), (48, 4), (160, 2)], 1280),
    "shufflenet_v1": ([(24, 32), (240, 16), (480, 8), (960, 4)], 960),
    "shufflenet_v2": ([(24, 32), (116, 16), (232, 8), (464, 4)], 1024),
}

# The same of 64 x 64 images, of networks with ImageNet's stem.
LARGE_FEATURES = {
    "resnet18_imagenet": ([(64, 16), (64, 16), (128, 8), (256, 4), (512, 2)], 512),
    "resnext50_32x4d": ([(64, 16), (256, 16), (512, 8), (1024, 4), (2048, 2)], 2048),
    "reactnet_resnet18": ([(64, 16), (64, 16), (128, 8), (256, 4), (512, 2)], 512),
}

# Networks for images. (Those for sentences have tests of their own.)
IMAGES = {name: arch for name, arch in ARCHS.items() if arch.kind == "images"}
# A small member of each family (of several kinds, where its members are); what holds for it holds for larger ones.
MEMBERS = {dataclasses.replace(arch, **arch.small): name for name, arch in IMAGES.items()}
each_member = pytest.mark.parametrize("arch", MEMBERS, ids=MEMBERS.get)


@pytest.mark.every(3)
@pytest.mark.parametrize("name", ARCHS)
def test_parameter_count_is_the_published_one(name):
    shape, num_classes, count = PARAMETERS[name]
    if ARCHS[name].kind == "pairs":
        pytest.importorskip("transformers")
    with torch.device("meta"):  # shapes without memory or random draws
        network = ARCHS[name].build(shape, num_classes)
    assert sum(p.numel() for p in network.parameters()) == count


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
    families = {type(arch): arch for arch in IMAGES.values()}
    with torch.device("meta"):
        tapped = {kind for kind, arch in families.items() if hasattr(arch.build((3, 75, 75), 2), "taps")}
    assert tapped == {type(ARCHS[name]) for name in (*FEATURES, *LARGE_FEATURES)}


@pytest.mark.parametrize("name", LARGE_FEATURES)
def test_taps_of_networks_for_large_images(name):
    with torch.device("meta"):
        network = ARCHS[name].build((3, 64, 64), 100)
        with capture(network, network.taps) as features:
            network(torch.empty(2, 3, 64, 64))
    maps, width = LARGE_FEATURES[name]
    names = [f"f{i}" for i in range(len(maps))]
    before = [name for name in network.taps if name.endswith("_pre")]
    assert [name for name in network.taps if name not in before] == [*names, "pool"]
    assert before == ([f"{name}_pre" for name in names[1:]] if name == "reactnet_resnet18" else [])
    for tap in network.taps:
        place = names.index(tap.removesuffix("_pre")) if tap != "pool" else None
        channels, side = maps[place] if place is not None else (width, None)
        assert tuple(features[tap].shape) == ((2, channels, side, side) if side else (2, width))


@pytest.mark.every(3)
@pytest.mark.parametrize("name", IMAGES)
def test_logits_come_from_the_head_and_its_input_is_the_penultimate(name):
    large = {"inception_v4": (2, 79, 75), "densenet121": (2, 40, 36)}
    shape = large.get(name, (2, 24, 16))  # neither square nor RGB
    device = torch.device("meta" if isinstance(ARCHS[name], (TimmArch, TorchvisionArch)) else "cpu")
    seen = []
    with device, torch.no_grad():
        network = ARCHS[name].build(shape, 5)
        network.head.register_forward_hook(lambda _module, inputs, output: seen.append((inputs[0], output)))
        logits = network.eval()(torch.randn(3, *shape))

    assert logits.shape == (3, 5)
    assert isinstance(network.head, nn.Linear)
    assert [module for module in network.modules() if isinstance(module, nn.Linear)][-1] is network.head
    [(penultimate, output)] = seen
    assert penultimate.shape == (3, network.head.in_features)
    assert output is logits


@each_member
def test_same_seed_gives_same_weights(arch):
    def weights(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return arch.build((3, 16, 16), 4).state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@each_member
def test_gradient_reaches_every_parameter(arch):
    torch.manual_seed(0)
    network = arch.build((3, 16, 16), 4)
    network(torch.randn(8, 3, 16, 16)).square().sum().backward()
    dead = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


@each_member
def test_channels_last_changes_nothing(arch):
    torch.manual_seed(0)
    network = arch.build((3, 16, 16), 4).eval()
    x = torch.randn(4, 3, 16, 16)
    expected = network(x)
    network = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)


@each_member
def test_works_under_autocast(arch):
    network = arch.build((3, 16, 16), 4)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(torch.randn(4, 3, 16, 16))
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ARCHS)
def test_prototype_is_a_frozen_dataclass_of_plain_fields(name):
    arch = ARCHS[name]
    assert dataclasses.replace(arch) == arch
    assert type(arch).__dataclass_params__.frozen
    hints = typing.get_type_hints(type(arch))
    assert all(is_plain(hints[field.name]) for field in dataclasses.fields(arch))


def is_plain(hint: object) -> bool:
    """Whether a configuration can spell it: int, float, bool, str, Literal, X | None, tuple[X, ...]."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return all(part is types.NoneType or is_plain(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        item, *rest = typing.get_args(hint)
        return rest == [...] and is_plain(item)
    return hint in (int, float, bool, str) or typing.get_origin(hint) is typing.Literal


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        (MLPArch, {"hidden": (128, 0)}, r"hidden = \(128, 0\): must be at least 1 unit"),
        (MLPArch, {"input_dropout": 1.0}, r"input_dropout = 1.0: must be in \[0, 1\)"),
        (MLPArch, {"hidden_dropout": 1.5}, r"hidden_dropout = 1.5: must be in \[0, 1\)"),
        (MLPArch, {"hidden_dropout": float("nan")}, "hidden_dropout = nan"),
        (MLPArch, {"init_std": 0.0}, "init_std = 0.0"),
        (CifarResNetArch, {"depth": 21}, "depth = 21: must be 6n"),
        (CifarResNetArch, {"depth": 2}, "depth = 2: must be 6n"),
        (CifarResNetArch, {"widths": (16, 32)}, r"widths = \(16, 32\): must be 3 numbers"),
        (CifarResNetArch, {"widths": (16, 0, 32)}, "widths"),
        (CifarResNetArch, {"stem": 0}, "stem = 0"),
        (WideResNetArch, {"depth": 20}, "depth = 20: must be 6n"),
        (WideResNetArch, {"widen": 0}, "widen = 0"),
        (T2TResNetArch, {"depth": 57}, "depth = 57: must be 6n"),
        (T2TResNetArch, {"stem": 0}, "stem = 0"),
        (T2TResNetArch, {"widths": ()}, "widths"),
        (ResNetArch, {"blocks": (2, 2, 2)}, r"blocks = \(2, 2, 2\): must be 4 numbers"),
        (ResNetArch, {"widths": (64, 128, 256, 0)}, "widths"),
        (VGGArch, {"widths": (64, 128, 256, 512)}, r"widths = \(64, 128, 256, 512\): must be 5 numbers"),
        (VGGArch, {"convolutions": (1, 1, 1, 1, 0)}, "convolutions"),
        (MobileNetV2Arch, {"expansion": 0}, "expansion = 0: must be >= 1"),
        (MobileNetV2Arch, {"width": 0.05}, "width = 0.05: must be a finite number >= 1/16"),
        (MobileNetV2Arch, {"width": float("inf")}, "width = inf"),
        (ShuffleNetV1Arch, {"groups": 0}, "groups = 0: must be >= 1"),
        (ShuffleNetV1Arch, {"stem": 20}, r"stem = 20: must be a multiple of 4 \* groups = 12"),
        (ShuffleNetV1Arch, {"stem": 0}, "stem = 0"),
        (ShuffleNetV1Arch, {"widths": (240, 486, 960)}, r"widths = .*: must be rising multiples of 4 \* groups = 12"),
        (ShuffleNetV1Arch, {"widths": (240, 240, 960)}, "widths"),
        (ShuffleNetV1Arch, {"widths": (24, 48, 96)}, "widths = .* from above stem = 24"),
        (ShuffleNetV1Arch, {"blocks": (4, 8)}, "blocks"),
        (ShuffleNetV2Arch, {"stem": 0}, "stem = 0"),
        (ShuffleNetV2Arch, {"widths": (116, 233, 464)}, r"widths = \(116, 233, 464\): must be even"),
        (ShuffleNetV2Arch, {"blocks": (4, 1, 4)}, r"blocks = \(4, 1, 4\): must be >= 2"),
        (ShuffleNetV2Arch, {"last": 0}, "last = 0"),
        (DenseNetArch, {"depth": 41}, "depth = 41: must be 6n"),
        (DenseNetArch, {"growth": 0}, "growth = 0: must be >= 1"),
        (DenseNetArch, {"compression": 0.0}, r"compression = 0.0: must be in \[0.1, 1\]"),
        (ReActNetArch, {"blocks": (2, 2)}, r"blocks = \(2, 2\): must be 4 numbers"),
        (TorchvisionArch, {"drop_rate": 1.0}, r"drop_rate = 1.0: must be in \[0, 1\)"),
        (TimmArch, {"drop_rate": 1.0}, r"drop_rate = 1.0: must be in \[0, 1\)"),
        (TimmArch, {"bn_momentum": 0.0}, r"bn_momentum = 0.0: must be in \(0, 1\], or null"),
    ],
)
def test_values_out_of_range_are_refused(family, fields, message):
    with pytest.raises(InputError, match=message):
        family(**fields)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet20", (3, 3, 32)),
        ("wrn_16_2", (3, 32, 3)),
        ("resnet18", (3, 7, 7)),
        ("vgg8", (3, 7, 8)),
        ("mobilenet_v2", (3, 15, 16)),
        ("shufflenet_v1", (3, 8, 7)),
        ("shufflenet_v2", (3, 7, 7)),
        ("mlp", (0, 8, 8)),
        ("mlp", (8, 8)),
    ],
)
def test_images_that_a_network_cannot_serve_are_refused(name, shape):
    with pytest.raises(InputError, match=r"input shape = \(.* needs \(channels, height, width\) with at least"):
        ARCHS[name].build(shape, 10)


def test_networks_that_timm_does_not_have_are_refused():
    with pytest.raises(
        InputError, match=r"model = 'resnet51': did you mean .*resnet50.* allowed: what timm.list_models"
    ):
        TimmArch("resnet51").build(CIFAR, 10)
    with pytest.raises(InputError, match=r"input shape = \(3, 32, 32\): inception_v4 cannot serve it"):
        ARCHS["inception_v4"].build(CIFAR, 10)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        ("resnet_50", CIFAR, "model = 'resnet_50': did you mean 'resnet50'"),
        ("densenet121", (3, 16, 16), r"input shape = \(3, 16, 16\): densenet121 cannot serve it"),
        ("squeezenet1_1", (3, 64, 64), "model = 'squeezenet1_1': has no dense layer; arch=timm may have it"),
        ("efficientnet_b0", (3, 64, 64), "model = 'efficientnet_b0': drops whole layers at random"),
    ],
)
def test_networks_of_torchvision_that_cannot_be_are_refused(model, shape, message):
    with torch.device("meta"), pytest.raises(InputError, match=message):
        TorchvisionArch(model).build(shape, 10)


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v2", "densenet121"])
def test_networks_of_torchvision_are_its_own(model):
    """The same weights from the same seed, and the same logits."""
    torch.manual_seed(0)
    ours = TorchvisionArch(model).build((3, 32, 32), 7).eval()
    torch.manual_seed(0)
    its = torchvision.models.get_model(model, num_classes=7).eval()
    assert [value.shape for value in ours.state_dict().values()] == [v.shape for v in its.state_dict().values()]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(x), its(x))


def test_dropout_of_networks_of_torchvision_is_of_the_training():
    with torch.device("meta"):
        plain, alexnet = (
            ARCHS["mobilenet_v2_imagenet"].build((3, 64, 64), 5),
            TorchvisionArch("alexnet").build((3, 64, 64), 5),
        )
    assert not any(isinstance(module, nn.Dropout) for network in (plain, alexnet) for module in network.modules())
    assert plain.drop.p == 0.2
    assert [module.p for module in alexnet.modules() if isinstance(module, Dropout)] == [0.5, 0.5, 0.0]


def test_inception_v4_is_that_of_tf_slim():
    """Batch norm's ε and decay, with a scale; dropout of a fifth before the head, from the network's own generator."""
    with torch.device("meta"):
        network = ARCHS["inception_v4"].build(IMAGENET, 1000)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum, norm.affine) for norm in norms} == {(0.001, 0.0003, True)}
    assert network.drop.p == 0.2 and hasattr(network.drop, "generator")
    assert not any(isinstance(module, nn.Dropout) and module.p for module in network.modules())


def test_one_class_is_refused():
    with pytest.raises(InputError, match="num_classes = 1: must be >= 2"):
        ARCHS["mlp"].build(MNIST, 1)


def test_importing_the_names_does_not_import_torch():
    code = "import sys, lskd.models; sys.exit('torch' in sys.modules)"
    source = str(Path(lskd.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": source}, check=True)


def test_what_an_extra_brings_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "lskd.models.bert", raising=False)
    with pytest.raises(InputError, match=r"^needs transformers, of the extra text: pip install 'lskd\[text\]'$"):
        ARCHS["bert_t3"].build((), 3)
