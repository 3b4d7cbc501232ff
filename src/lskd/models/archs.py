"""The networks, by the names that the papers give them: each family's knobs, and its members.

A member is a prototype, a frozen dataclass with the family's knobs. A configuration overrides single fields of it with
`dataclasses.replace`, and `build` makes the network. This module imports no torch, so that configurations are parsed
and plans printed at once; `build` imports the module of its network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from lskd.errors import InputError, require
from lskd.registry import Registry

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Arch(ABC):
    """Knobs of a network family. They are part of a run's identity: change a default and old runs no longer match."""

    version: ClassVar[int] = 1  # of the code, as `lskd.methods.method.Method.version`
    kind: ClassVar[str] = "images"  # of the data that it is for: `Spec.kind`
    # Knobs of a small member, with all that is in a large one: the tests build and train each family at this size.
    small: ClassVar[Mapping[str, Any]] = {}
    # Knobs that change what the network computes and none of its weights: one may start from another's.
    same_weights: ClassVar[tuple[str, ...]] = ()

    def of_weights(self) -> Arch:
        """The same for all networks that have the same weights."""
        return replace(self, **{knob: getattr(type(self), knob) for knob in self.same_weights})

    def unlike(self, config: Mapping[str, Any]) -> str | None:
        """What is other in a network whose folder in the hub's format has this `config.json`, where the shapes of its
        weights may not tell; None if nothing is."""
        return None

    @abstractmethod
    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """A freshly initialised network from `input_shape` (C, H, W) to `num_classes` logits; of text the shape says
        nothing. What it is called with: `lskd.engine.tasks`.

        `InputError` if the network cannot serve that shape.
        """


ARCHS: Registry[Arch] = Registry("arch", Arch)
register = ARCHS.register


def _require_stages(name: str, value: tuple[int, ...], stages: int) -> None:
    require(len(value) == stages and min(value) >= 1, name, value, f"{stages} numbers >= 1, one for each stage")


def _require_shapes(network: str, input_shape: tuple[int, int, int], num_classes: int, smallest: int = 1) -> None:
    """`smallest`: least height and width, so that the last feature map still is the image divided by all strides."""
    if len(input_shape) != 3 or min(input_shape) < 1 or min(input_shape[1:]) < smallest:
        needed = f"(channels, height, width) with at least 1 channel and {smallest} x {smallest} pixels"
        raise InputError(f"input shape = {input_shape!r}: {network} needs {needed}")
    require(num_classes >= 2, "num_classes", num_classes, ">= 2")


@register("mlp")
# Müller et al. 2019, appendix A.5, MNIST teacher and student: 784-1200-1200-10 and 784-800-800-10. The paper says
# "Gaussian with variance 0.03". We read 0.03 as the standard deviation: that variance (std 0.17) multiplies activations
# by 4 in each layer of 1200 units, and training with the paper's learning rate of 1 diverges.
@register("mlp1200", hidden=(1200, 1200), init_std=0.03)
@register("mlp800", hidden=(800, 800), init_std=0.03)
@dataclass(frozen=True)
class MLPArch(Arch):
    """Fully connected ReLU network on flattened images; no hidden layer makes it softmax regression."""

    small: ClassVar[Mapping[str, Any]] = {"hidden": (16, 12), "input_dropout": 0.2, "hidden_dropout": 0.5}

    hidden: tuple[int, ...] = (128,)
    input_dropout: float = 0.0
    hidden_dropout: float = 0.0
    init_std: float | None = None
    """Standard deviation of Gaussian weights, with zero biases; None for PyTorch's own initialisation."""

    def __post_init__(self) -> None:
        require(all(width >= 1 for width in self.hidden), "hidden", self.hidden, "at least 1 unit in every layer")
        require(0 <= self.input_dropout < 1, "input_dropout", self.input_dropout, "in [0, 1)")
        require(0 <= self.hidden_dropout < 1, "hidden_dropout", self.hidden_dropout, "in [0, 1)")
        init_std_fits = self.init_std is None or 0 < self.init_std < float("inf")
        require(init_std_fits, "init_std", self.init_std, "a finite number > 0, or null")

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


@register("alexnet")
@dataclass(frozen=True)
class AlexNetArch(Arch):
    """The network of TensorFlow's CIFAR-10 tutorial, which Müller et al. (2019) call AlexNet. It has no knobs."""

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("alexnet", input_shape, num_classes)
        from lskd.models.alexnet import AlexNet

        return AlexNet(input_shape, num_classes)


@register("resnet8", depth=8)  # 8 and 14 are for quick experiments
@register("resnet14", depth=14)
@register("resnet20", depth=20)
@register("resnet32", depth=32)
@register("resnet44", depth=44)
@register("resnet56", depth=56)
@register("resnet110", depth=110)
@register("resnet8x4", depth=8, stem=32, widths=(64, 128, 256))
@register("resnet32x4", depth=32, stem=32, widths=(64, 128, 256))
@dataclass(frozen=True)
class CifarResNetArch(Arch):
    """ResNet for small images (He et al. 2016), as in the CRD benchmark: depth 6n + 2, n blocks in each of 3 stages."""

    small: ClassVar[Mapping[str, Any]] = {"depth": 14, "stem": 4, "widths": (4, 6, 8)}

    depth: int = 20
    stem: int = 16
    widths: tuple[int, ...] = (16, 32, 64)

    def __post_init__(self) -> None:
        require(self.depth >= 8 and self.depth % 6 == 2, "depth", self.depth, "6n + 2 with n >= 1")
        require(self.stem >= 1, "stem", self.stem, ">= 1")
        _require_stages("widths", self.widths, 3)

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("resnet", input_shape, num_classes, smallest=4)
        from lskd.models.cifar_resnet import CifarResNet

        return CifarResNet(input_shape[0], num_classes, self.depth, self.stem, self.widths)


@register("wrn_16_2", depth=16, widen=2)
@register("wrn_40_1", depth=40, widen=1)
@register("wrn_40_2", depth=40, widen=2)
@dataclass(frozen=True)
class WideResNetArch(Arch):
    """WRN-depth-widen (Zagoruyko & Komodakis 2016), as in the CRD benchmark: depth 6n + 4, n blocks in each stage."""

    small: ClassVar[Mapping[str, Any]] = {"depth": 16, "widen": 1}

    depth: int = 16
    widen: int = 2

    def __post_init__(self) -> None:
        require(self.depth >= 10 and self.depth % 6 == 4, "depth", self.depth, "6n + 4 with n >= 1")
        require(self.widen >= 1, "widen", self.widen, ">= 1")

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("wide resnet", input_shape, num_classes, smallest=4)
        from lskd.models.wide_resnet import WideResNet

        return WideResNet(input_shape[0], num_classes, self.depth, self.widen)


@register("resnet56_t2t")
@dataclass(frozen=True)
class T2TResNetArch(Arch):
    """ResNet of tensor2tensor, the code base of Müller et al. (2019): depth 6n + 2, n pre-activation blocks a stage.

    The paper prints no widths; these are tensor2tensor's for CIFAR. (16, 32, 64) has the size of He's ResNet-56.
    """

    small: ClassVar[Mapping[str, Any]] = {"depth": 8, "stem": 4, "widths": (4, 6, 8)}

    depth: int = 56
    stem: int = 16
    widths: tuple[int, ...] = (32, 64, 128)

    def __post_init__(self) -> None:
        require(self.depth >= 8 and self.depth % 6 == 2, "depth", self.depth, "6n + 2 with n >= 1")
        require(self.stem >= 1, "stem", self.stem, ">= 1")
        _require_stages("widths", self.widths, 3)

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("tensor2tensor resnet", input_shape, num_classes, smallest=4)
        from lskd.models.t2t_resnet import T2TResNet

        return T2TResNet(input_shape[0], num_classes, self.depth, self.stem, self.widths)


@register("resnet18", blocks=(2, 2, 2, 2))
@register("resnet34", blocks=(3, 4, 6, 3))
@register("resnet50", blocks=(3, 4, 6, 3), bottleneck=True, kaiming=True)
@dataclass(frozen=True)
class ResNetArch(Arch):
    """ImageNet's ResNet behind a stem for small images, as in the codes of Zhang & Sabuncu (2020) and of CRD."""

    small: ClassVar[Mapping[str, Any]] = {"blocks": (2, 1, 2, 1), "widths": (4, 6, 8, 10)}

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


@register("densenet_bc40", depth=40)
@register("densenet_bc100", depth=100)
@dataclass(frozen=True)
class DenseNetArch(Arch):
    """DenseNet-BC for small images (Huang et al. 2017): depth 6n + 4, n layers in each of 3 dense blocks."""

    small: ClassVar[Mapping[str, Any]] = {"depth": 16, "growth": 4}

    depth: int = 100
    growth: int = 12
    compression: float = 0.5

    def __post_init__(self) -> None:
        require(self.depth >= 10 and self.depth % 6 == 4, "depth", self.depth, "6n + 4 with n >= 1")
        require(self.growth >= 1, "growth", self.growth, ">= 1")
        require(0.1 <= self.compression <= 1, "compression", self.compression, "in [0.1, 1]")

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("densenet", input_shape, num_classes, smallest=4)
        from lskd.models.densenet import DenseNet

        return DenseNet(input_shape[0], num_classes, self.depth, self.growth, self.compression)


@register("reactnet_resnet18")
@dataclass(frozen=True)
class ReActNetArch(Arch):
    """ResNet-18 with binary convolutions (Liu et al. 2020, ReActNet), the binary student of Shen et al. (2021).

    Training has two steps: with binary_weights=false first, whose weights start the second one. large_images: behind
    ImageNet's stem; without it, behind one for small images.
    """

    small: ClassVar[Mapping[str, Any]] = {"blocks": (1, 1, 1, 1), "widths": (4, 6, 8, 10), "large_images": False}
    same_weights: ClassVar[tuple[str, ...]] = ("binary_weights",)

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    large_images: bool = True
    binary_weights: bool = True

    def __post_init__(self) -> None:
        _require_stages("blocks", self.blocks, 4)
        _require_stages("widths", self.widths, 4)

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("reactnet", input_shape, num_classes, smallest=8)
        from lskd.models.reactnet import ReActNet

        channels = input_shape[0]
        return ReActNet(channels, num_classes, self.blocks, self.widths, self.large_images, self.binary_weights)


@register("vgg8")
@register("vgg13", convolutions=(2, 2, 2, 2, 2))
@dataclass(frozen=True)
class VGGArch(Arch):
    """VGG with batch norm and one dense layer (Simonyan & Zisserman 2015), as in the CRD benchmark."""

    small: ClassVar[Mapping[str, Any]] = {"widths": (4, 6, 8, 10, 12), "convolutions": (1, 2, 1, 2, 1)}

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    convolutions: tuple[int, ...] = (1, 1, 1, 1, 1)

    def __post_init__(self) -> None:
        _require_stages("widths", self.widths, 5)
        _require_stages("convolutions", self.convolutions, 5)

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("vgg", input_shape, num_classes, smallest=8)
        from lskd.models.vgg import VGG

        return VGG(input_shape[0], num_classes, self.widths, self.convolutions)


@register("mobilenet_v2")
@dataclass(frozen=True)
class MobileNetV2Arch(Arch):
    """MobileNetV2 (Sandler et al. 2018), as in the CRD benchmark, where `expansion` is T and `width` W."""

    small: ClassVar[Mapping[str, Any]] = {"expansion": 2, "width": 0.25}

    expansion: int = 6
    width: float = 0.5

    def __post_init__(self) -> None:
        require(self.expansion >= 1, "expansion", self.expansion, ">= 1")
        require(1 / 16 <= self.width < float("inf"), "width", self.width, "a finite number >= 1/16, for 1 channel")

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("mobilenet v2", input_shape, num_classes, smallest=16)
        from lskd.models.mobilenet_v2 import MobileNetV2

        return MobileNetV2(input_shape[0], num_classes, self.expansion, self.width)


@register("shufflenet_v1")
@dataclass(frozen=True)
class ShuffleNetV1Arch(Arch):
    """ShuffleNet (Zhang et al. 2018), as in the CRD benchmark."""

    small: ClassVar[Mapping[str, Any]] = {"stem": 12, "widths": (24, 48, 72), "blocks": (1, 2, 3)}

    groups: int = 3
    stem: int = 24
    widths: tuple[int, ...] = (240, 480, 960)
    blocks: tuple[int, ...] = (4, 8, 4)

    def __post_init__(self) -> None:
        require(self.groups >= 1, "groups", self.groups, ">= 1")
        _require_stages("widths", self.widths, 3)
        _require_stages("blocks", self.blocks, 3)
        # A quarter of what a unit makes is convolved in groups; the first of a stage makes only what its input lacks.
        unit = 4 * self.groups
        require(self.stem >= 1 and self.stem % unit == 0, "stem", self.stem, f"a multiple of 4 * groups = {unit}")
        rise = all(narrow < wide for narrow, wide in pairwise((self.stem, *self.widths)))
        fits = rise and all(width % unit == 0 for width in self.widths)
        require(fits, "widths", self.widths, f"rising multiples of 4 * groups = {unit}, from above stem = {self.stem}")

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("shufflenet v1", input_shape, num_classes, smallest=8)
        from lskd.models.shufflenet_v1 import ShuffleNetV1

        return ShuffleNetV1(input_shape[0], num_classes, self.groups, self.stem, self.widths, self.blocks)


@register("shufflenet_v2")
@dataclass(frozen=True)
class ShuffleNetV2Arch(Arch):
    """ShuffleNet V2 (Ma et al. 2018), as in the CRD benchmark."""

    small: ClassVar[Mapping[str, Any]] = {"stem": 4, "widths": (8, 12, 16), "blocks": (2, 3, 4), "last": 20}

    stem: int = 24
    widths: tuple[int, ...] = (116, 232, 464)
    blocks: tuple[int, ...] = (4, 8, 4)
    last: int = 1024
    """Width of the last 1x1 convolution, and of the penultimate activations."""

    def __post_init__(self) -> None:
        require(self.stem >= 1, "stem", self.stem, ">= 1")
        _require_stages("widths", self.widths, 3)
        require(all(width % 2 == 0 for width in self.widths), "widths", self.widths, "even: units split them in halves")
        _require_stages("blocks", self.blocks, 3)
        require(min(self.blocks) >= 2, "blocks", self.blocks, ">= 2: the first unit of a stage has no pre-activation")
        require(self.last >= 1, "last", self.last, ">= 1")

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes("shufflenet v2", input_shape, num_classes, smallest=8)
        from lskd.models.shufflenet_v2 import ShuffleNetV2

        return ShuffleNetV2(input_shape[0], num_classes, self.stem, self.widths, self.blocks, self.last)


@register("torchvision")
# The networks of Shen et al. (2021) whose plain names are taken by those for small images, and the rest.
@register("resnet18_imagenet", model="resnet18")
@register("resnet34_imagenet", model="resnet34")
@register("resnet50_imagenet", model="resnet50")
@register("resnet101_imagenet", model="resnet101")
@register("mobilenet_v2_imagenet", model="mobilenet_v2", drop_rate=0.2)
@register("densenet121", model="densenet121")
@register("resnext50_32x4d", model="resnext50_32x4d")
@register("resnext101_32x8d", model="resnext101_32x8d")
@register("wide_resnet50_2", model="wide_resnet50_2")
@dataclass(frozen=True)
class TorchvisionArch(Arch):
    """A network of torchvision by torchvision's name, with its random initial weights: see `lskd.models.torchvision`.

    arch=torchvision arch.model=regnet_y_400mf is any of those for classification. drop_rate: of the head's input.
    """

    small: ClassVar[Mapping[str, Any]] = {"model": "shufflenet_v2_x0_5", "drop_rate": 0.2}

    model: str = "resnet50"
    drop_rate: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.drop_rate < 1, "drop_rate", self.drop_rate, "in [0, 1)")

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes(self.model, input_shape, num_classes)
        from lskd.models.torchvision import Torchvision

        return Torchvision(self.model, input_shape, num_classes, self.drop_rate)


@register("timm")
@register("mobilenet_v1", model="mobilenetv1_100")  # Howard et al. 2017
# Szegedy et al. 2017. Dropout, batch norm's decay (0.9997) and its ε (0.001, timm's own) as in TF-slim, whose batch
# norm has no scale parameter unless asked for one; Müller et al. (2019) added it, and timm has it.
@register("inception_v4", model="inception_v4", drop_rate=0.2, bn_momentum=0.0003)
@dataclass(frozen=True)
class TimmArch(Arch):
    """A network of the timm library by timm's name, with random initial weights: see `lskd.models.timm`.

    arch=timm arch.model=densenet121 is any of them.

    bn_momentum: the weight of a batch's statistics in the running ones (1 - TensorFlow's decay); None for timm's own.
    """

    small: ClassVar[Mapping[str, Any]] = {"model": "test_efficientnet", "drop_rate": 0.2, "bn_momentum": None}

    model: str = "resnet50"
    drop_rate: float = 0.0
    bn_momentum: float | None = None

    def __post_init__(self) -> None:
        require(0 <= self.drop_rate < 1, "drop_rate", self.drop_rate, "in [0, 1)")
        fits = self.bn_momentum is None or 0 < self.bn_momentum <= 1
        require(fits, "bn_momentum", self.bn_momentum, "in (0, 1], or null")

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        _require_shapes(self.model, input_shape, num_classes)
        from lskd.models.timm import Timm

        return Timm(self.model, input_shape, num_classes, self.drop_rate, self.bn_momentum)


@register("transformer_base")
# fairseq's transformer_iwslt_de_en_small, as the framework of Tan et al. (2019) has it.
@register(
    "transformer_iwslt", encoder_layers=2, decoder_layers=2, width=256, heads=4, feed_forward=1024, dropout=0.3,
    attention_dropout=0.0, relu_dropout=0.0,
)  # fmt: skip
# For a few thousand short sentences, and a CPU.
@register(
    "transformer_tiny", encoder_layers=4, decoder_layers=4, width=128, heads=4, feed_forward=256, attention_dropout=0.0,
    relu_dropout=0.0,
)  # fmt: skip
@dataclass(frozen=True)
class TransformerArch(Arch):
    """The encoder and decoder of Vaswani et al. (2017), with one embedding for both languages and the last layer.

    dropout: of each residual, and of the embeddings; attention_dropout: of the weights of the attention; relu_dropout:
    between the feed-forward layers. (tensor2tensor's transformer_base has 0.1 at all three.) pre_norm: layer norms in
    front of the parts of a layer, and one more at the end, in place of those behind the parts. positions: the most
    tokens that a sentence may have, its end counted.
    """

    kind: ClassVar[str] = "translation"
    small: ClassVar[Mapping[str, Any]] = {
        "encoder_layers": 1, "decoder_layers": 2, "width": 8, "heads": 2, "feed_forward": 12, "positions": 32,
    }  # fmt: skip

    encoder_layers: int = 6
    decoder_layers: int = 6
    width: int = 512
    heads: int = 8
    feed_forward: int = 2048
    dropout: float = 0.1
    attention_dropout: float = 0.1
    relu_dropout: float = 0.1
    pre_norm: bool = False
    positions: int = 256

    def __post_init__(self) -> None:
        for name in ("encoder_layers", "decoder_layers", "heads", "feed_forward", "positions"):
            require(getattr(self, name) >= 1, name, getattr(self, name), ">= 1")
        fits = self.width >= 2 and self.width % 2 == 0 and self.width % self.heads == 0
        require(fits, "width", self.width, f"a multiple of heads = {self.heads}, and even")
        for name in ("dropout", "attention_dropout", "relu_dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        from lskd.models.transformer import Settings, Transformer

        return Transformer(num_classes, Settings(**asdict(self)))


@register("bert_base")
@register("bert_t3", layers=3)  # the student of Zhou, Song et al. (2021), which starts from the first three of twelve
@dataclass(frozen=True)
class BertArch(Arch):
    """BERT for sentence pairs (Devlin et al. 2019), of the transformers library: see `lskd.models.bert`.

    vocabulary: of bert-base-cased; that of bert-base-uncased has 30522 tokens. dropout: of embeddings, of what each
    half of a layer adds, and of the head's input; attention_dropout: of the softmax of attention.
    """

    kind: ClassVar[str] = "pairs"
    small: ClassVar[Mapping[str, Any]] = {
        "layers": 2, "width": 16, "heads": 2, "feed_forward": 32, "vocabulary": 64, "positions": 32,
    }  # fmt: skip
    # What a folder in the hub's format says of the same in its config.json, and what of it no knob changes.
    CONFIG: ClassVar[Mapping[str, str]] = {
        "width": "hidden_size", "heads": "num_attention_heads", "feed_forward": "intermediate_size",
        "vocabulary": "vocab_size", "positions": "max_position_embeddings",
    }  # fmt: skip
    FIXED: ClassVar[Mapping[str, Any]] = {
        "model_type": "bert", "hidden_act": "gelu", "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute", "pad_token_id": 0,
    }  # fmt: skip

    layers: int = 12
    width: int = 768
    heads: int = 12
    feed_forward: int = 3072
    vocabulary: int = 28996
    positions: int = 512
    dropout: float = 0.1
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        for knob in ("layers", "width", "heads", "feed_forward", "vocabulary", "positions"):
            require(getattr(self, knob) >= 1, knob, getattr(self, knob), ">= 1")
        require(self.width % self.heads == 0, "width", self.width, f"a multiple of heads = {self.heads}")
        for knob in ("dropout", "attention_dropout"):
            require(0 <= getattr(self, knob) < 1, knob, getattr(self, knob), "in [0, 1)")

    def unlike(self, config: Mapping[str, Any]) -> str | None:
        for key, value in self.FIXED.items():
            # A config.json leaves out what is usual, but for the kind of its network.
            if config.get(key, None if key == "model_type" else value) != value:
                return f"its config.json says {key} = {config.get(key)!r}: must be {value!r}"
        for knob, key in self.CONFIG.items():
            own = getattr(self, knob)
            if config.get(key, own) != own:
                return f"its config.json says {key} = {config[key]!r}: must be that of the network, arch.{knob} = {own}"
        return None

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        require(num_classes >= 2, "num_classes", num_classes, ">= 2")
        try:
            from lskd.models.bert import Bert
        except ImportError as error:
            raise InputError(f"needs {error.name}, of the extra text: pip install 'lskd[text]'") from None
        return Bert(num_classes, **asdict(self))
