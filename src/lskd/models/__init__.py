"""The networks, by the names that the papers give them.

`ARCHS` maps a name to a prototype: a frozen dataclass with the knobs of a family. A configuration overrides single
fields of it with `dataclasses.replace`, and `build` makes the network. This module imports no torch, so that
configurations are parsed and plans printed at once; `build` imports the module of its network.

What every network promises:

- `forward` maps images (B, C, H, W) to logits (B, K), for any number of channels, contiguous or channels_last;
- `head` is the last dense layer, an `nn.Linear`; what goes into it are the penultimate activations;
- networks of the CRD benchmark name their parts `stem`, `stage1`, `stage2`, ..., and their features in `taps`
  (`lskd.models.taps`);
- initial weights are drawn from torch's global CPU generator: the same seed gives the same weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from lskd.errors import InputError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Arch(ABC):
    """Knobs of a network family. They are part of a run's identity: change a default and old runs no longer match."""

    version: ClassVar[int] = 1  # of the code, as `lskd.methods.method.Method.version`

    @abstractmethod
    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """A freshly initialised network from `input_shape` (C, H, W) to `num_classes` logits.

        `InputError` if the network cannot serve that shape.
        """


@dataclass(frozen=True)
class MLPArch(Arch):
    """Fully connected ReLU network on flattened images; no hidden layer makes it softmax regression."""

    hidden: tuple[int, ...] = (128,)
    input_dropout: float = 0.0
    hidden_dropout: float = 0.0
    init_std: float | None = None
    """Standard deviation of Gaussian weights, with zero biases; None for PyTorch's own initialisation."""

    def __post_init__(self) -> None:
        _require(all(width >= 1 for width in self.hidden), "hidden", self.hidden, "at least 1 unit in every layer")
        _require(0 <= self.input_dropout < 1, "input_dropout", self.input_dropout, "in [0, 1)")
        _require(0 <= self.hidden_dropout < 1, "hidden_dropout", self.hidden_dropout, "in [0, 1)")
        init_std_fits = self.init_std is None or 0 < self.init_std < float("inf")
        _require(init_std_fits, "init_std", self.init_std, "a finite number > 0, or null")

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("mlp", input_shape, num_classes)
        from lskd.models.mlp import MLP

        channels, height, width = input_shape
        return MLP(
            inputs=channels * height * width,
            hidden=self.hidden,
            num_classes=num_classes,
            input_dropout=self.input_dropout,
            hidden_dropout=self.hidden_dropout,
            init_std=self.init_std,
        )


@dataclass(frozen=True)
class AlexNetArch(Arch):
    """The network of TensorFlow's CIFAR-10 tutorial, which Müller et al. (2019) call AlexNet. It has no knobs."""

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("alexnet", input_shape, num_classes)
        from lskd.models.alexnet import AlexNet

        return AlexNet(input_shape, num_classes)


@dataclass(frozen=True)
class CifarResNetArch(Arch):
    """ResNet for small images (He et al. 2016), as in the CRD benchmark: depth 6n + 2, n blocks in each of 3 stages."""

    depth: int = 20
    stem: int = 16
    widths: tuple[int, ...] = (16, 32, 64)

    def __post_init__(self) -> None:
        _require(self.depth >= 8 and self.depth % 6 == 2, "depth", self.depth, "6n + 2 with n >= 1")
        _require(self.stem >= 1, "stem", self.stem, ">= 1")
        _require_stages("widths", self.widths, 3)

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("resnet", input_shape, num_classes, smallest=4)
        from lskd.models.cifar_resnet import CifarResNet

        return CifarResNet(input_shape[0], num_classes, self.depth, self.stem, self.widths)


@dataclass(frozen=True)
class WideResNetArch(Arch):
    """WRN-depth-widen (Zagoruyko & Komodakis 2016), as in the CRD benchmark: depth 6n + 4, n blocks in each stage."""

    depth: int = 16
    widen: int = 2

    def __post_init__(self) -> None:
        _require(self.depth >= 10 and self.depth % 6 == 4, "depth", self.depth, "6n + 4 with n >= 1")
        _require(self.widen >= 1, "widen", self.widen, ">= 1")

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("wide resnet", input_shape, num_classes, smallest=4)
        from lskd.models.wide_resnet import WideResNet

        return WideResNet(input_shape[0], num_classes, self.depth, self.widen)


@dataclass(frozen=True)
class T2TResNetArch(Arch):
    """ResNet of tensor2tensor, the code base of Müller et al. (2019): depth 6n + 2, n pre-activation blocks a stage.

    The paper prints no widths; these are tensor2tensor's for CIFAR. (16, 32, 64) has the size of He's ResNet-56.
    """

    depth: int = 56
    stem: int = 16
    widths: tuple[int, ...] = (32, 64, 128)

    def __post_init__(self) -> None:
        _require(self.depth >= 8 and self.depth % 6 == 2, "depth", self.depth, "6n + 2 with n >= 1")
        _require(self.stem >= 1, "stem", self.stem, ">= 1")
        _require_stages("widths", self.widths, 3)

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("tensor2tensor resnet", input_shape, num_classes, smallest=4)
        from lskd.models.t2t_resnet import T2TResNet

        return T2TResNet(input_shape[0], num_classes, self.depth, self.stem, self.widths)


@dataclass(frozen=True)
class ResNetArch(Arch):
    """ImageNet's ResNet behind a stem for small images, as in the codes of Zhang & Sabuncu (2020) and of CRD."""

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    bottleneck: bool = False
    """Bottleneck blocks, which put out four times their stage's width, instead of basic ones."""
    kaiming: bool = False
    """Convolutions start from Kaiming's normal distribution over fan_out, as in CRD's code, not as PyTorch's own."""

    def __post_init__(self) -> None:
        _require_stages("blocks", self.blocks, 4)
        _require_stages("widths", self.widths, 4)

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("resnet", input_shape, num_classes, smallest=8)
        from lskd.models.resnet import ResNet

        return ResNet(input_shape[0], num_classes, self.blocks, self.widths, self.bottleneck, self.kaiming)


@dataclass(frozen=True)
class VGGArch(Arch):
    """VGG with batch norm and one dense layer (Simonyan & Zisserman 2015), as in the CRD benchmark."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    convolutions: tuple[int, ...] = (1, 1, 1, 1, 1)

    def __post_init__(self) -> None:
        _require_stages("widths", self.widths, 5)
        _require_stages("convolutions", self.convolutions, 5)

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("vgg", input_shape, num_classes, smallest=8)
        from lskd.models.vgg import VGG

        return VGG(input_shape[0], num_classes, self.widths, self.convolutions)


@dataclass(frozen=True)
class MobileNetV2Arch(Arch):
    """MobileNetV2 (Sandler et al. 2018), as in the CRD benchmark, where `expansion` is T and `width` W."""

    expansion: int = 6
    width: float = 0.5

    def __post_init__(self) -> None:
        _require(self.expansion >= 1, "expansion", self.expansion, ">= 1")
        _require(1 / 16 <= self.width < float("inf"), "width", self.width, "a finite number >= 1/16, for 1 channel")

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("mobilenet v2", input_shape, num_classes, smallest=16)
        from lskd.models.mobilenet_v2 import MobileNetV2

        return MobileNetV2(input_shape[0], num_classes, self.expansion, self.width)


@dataclass(frozen=True)
class ShuffleNetV1Arch(Arch):
    """ShuffleNet (Zhang et al. 2018), as in the CRD benchmark."""

    groups: int = 3
    stem: int = 24
    widths: tuple[int, ...] = (240, 480, 960)
    blocks: tuple[int, ...] = (4, 8, 4)

    def __post_init__(self) -> None:
        _require(self.groups >= 1, "groups", self.groups, ">= 1")
        _require_stages("widths", self.widths, 3)
        _require_stages("blocks", self.blocks, 3)
        # A quarter of what a unit makes is convolved in groups; the first of a stage makes only what its input lacks.
        unit = 4 * self.groups
        _require(self.stem >= 1 and self.stem % unit == 0, "stem", self.stem, f"a multiple of 4 * groups = {unit}")
        rise = all(narrow < wide for narrow, wide in pairwise((self.stem, *self.widths)))
        fits = rise and all(width % unit == 0 for width in self.widths)
        _require(fits, "widths", self.widths, f"rising multiples of 4 * groups = {unit}, from above stem = {self.stem}")

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("shufflenet v1", input_shape, num_classes, smallest=8)
        from lskd.models.shufflenet_v1 import ShuffleNetV1

        return ShuffleNetV1(input_shape[0], num_classes, self.groups, self.stem, self.widths, self.blocks)


@dataclass(frozen=True)
class ShuffleNetV2Arch(Arch):
    """ShuffleNet V2 (Ma et al. 2018), as in the CRD benchmark."""

    stem: int = 24
    widths: tuple[int, ...] = (116, 232, 464)
    blocks: tuple[int, ...] = (4, 8, 4)
    last: int = 1024
    """Width of the last 1x1 convolution, and of the penultimate activations."""

    def __post_init__(self) -> None:
        _require(self.stem >= 1, "stem", self.stem, ">= 1")
        _require_stages("widths", self.widths, 3)
        _require(
            all(width % 2 == 0 for width in self.widths), "widths", self.widths, "even: units split them in halves"
        )
        _require_stages("blocks", self.blocks, 3)
        _require(min(self.blocks) >= 2, "blocks", self.blocks, ">= 2: the first unit of a stage has no pre-activation")
        _require(self.last >= 1, "last", self.last, ">= 1")

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("shufflenet v2", input_shape, num_classes, smallest=8)
        from lskd.models.shufflenet_v2 import ShuffleNetV2

        return ShuffleNetV2(input_shape[0], num_classes, self.stem, self.widths, self.blocks, self.last)


@dataclass(frozen=True)
class TimmArch(Arch):
    """A network of the timm library by timm's name, with random initial weights: see `lskd.models.timm`.

    bn_momentum: the weight of a batch's statistics in the running ones (1 - TensorFlow's decay); None for timm's own.
    """

    model: str = "resnet50"
    drop_rate: float = 0.0
    bn_momentum: float | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.drop_rate < 1, "drop_rate", self.drop_rate, "in [0, 1)")
        fits = self.bn_momentum is None or 0 < self.bn_momentum <= 1
        _require(fits, "bn_momentum", self.bn_momentum, "in (0, 1], or null")

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes(self.model, input_shape, num_classes)
        from lskd.models.timm import Timm

        return Timm(self.model, input_shape, num_classes, self.drop_rate, self.bn_momentum)


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise InputError(f"{name} = {value!r}: must be {rule}")


def _require_stages(name: str, value: tuple[int, ...], stages: int) -> None:
    _require(len(value) == stages and min(value) >= 1, name, value, f"{stages} numbers >= 1, one for each stage")


def _require_shapes(network: str, input_shape: tuple[int, int, int], num_classes: int, smallest: int = 1) -> None:
    """`smallest`: least height and width, so that the last feature map still is the image divided by all strides."""
    if len(input_shape) != 3 or min(input_shape) < 1 or min(input_shape[1:]) < smallest:
        needed = f"(channels, height, width) with at least 1 channel and {smallest} x {smallest} pixels"
        raise InputError(f"input shape = {input_shape!r}: {network} needs {needed}")
    _require(num_classes >= 2, "num_classes", num_classes, ">= 2")


ARCHS: dict[str, Arch] = {
    "mlp": MLPArch(),
    # Müller et al. 2019, appendix A.5, MNIST teacher and student. The paper says "Gaussian with variance 0.03". We read
    # 0.03 as the standard deviation: that variance (std 0.17) multiplies activations by 4 in each layer of 1200 units,
    # and training with the paper's learning rate of 1 diverges.
    "mlp1200": MLPArch(hidden=(1200, 1200), init_std=0.03),
    "mlp800": MLPArch(hidden=(800, 800), init_std=0.03),
    "alexnet": AlexNetArch(),
    "resnet56_t2t": T2TResNetArch(),
    # 8 and 14 are for quick experiments.
    "resnet8": CifarResNetArch(depth=8),
    "resnet14": CifarResNetArch(depth=14),
    "resnet20": CifarResNetArch(depth=20),
    "resnet32": CifarResNetArch(depth=32),
    "resnet44": CifarResNetArch(depth=44),
    "resnet56": CifarResNetArch(depth=56),
    "resnet110": CifarResNetArch(depth=110),
    "resnet8x4": CifarResNetArch(depth=8, stem=32, widths=(64, 128, 256)),
    "resnet32x4": CifarResNetArch(depth=32, stem=32, widths=(64, 128, 256)),
    "wrn_16_2": WideResNetArch(depth=16, widen=2),
    "wrn_40_1": WideResNetArch(depth=40, widen=1),
    "wrn_40_2": WideResNetArch(depth=40, widen=2),
    "resnet18": ResNetArch(blocks=(2, 2, 2, 2)),
    "resnet34": ResNetArch(blocks=(3, 4, 6, 3)),
    "resnet50": ResNetArch(blocks=(3, 4, 6, 3), bottleneck=True, kaiming=True),
    "vgg8": VGGArch(),
    "vgg13": VGGArch(convolutions=(2, 2, 2, 2, 2)),
    "mobilenet_v2": MobileNetV2Arch(),
    "shufflenet_v1": ShuffleNetV1Arch(),
    "shufflenet_v2": ShuffleNetV2Arch(),
    "timm": TimmArch(),
    # Dropout, batch norm's decay (0.9997) and its ε (0.001, timm's own) as in TF-slim, whose batch norm has no scale
    # parameter unless asked for one; Müller et al. (2019) added it, and timm has it.
    "inception_v4": TimmArch("inception_v4", drop_rate=0.2, bn_momentum=0.0003),
}
SHIPPED: Mapping[str, Arch] = MappingProxyType(dict(ARCHS))  # whatever a plug-in puts in their places
