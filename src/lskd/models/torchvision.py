"""Networks of torchvision, untrained, behind a head of our own: for images of ImageNet's size."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from lskd.errors import InputError, choices
from lskd.models.dropout import Dropout

STAGES = ("layer1", "layer2", "layer3", "layer4")  # of ResNets, ResNeXts and Wide ResNets


class Torchvision(nn.Module):
    """`features` (torchvision's network without its last dense layer), dropout, `head`, which is that layer.

    Initial weights are torchvision's. For other than three channels the first convolution is drawn anew, from Kaiming's
    normal distribution over fan_out. ResNets have the taps f0 (after the pooling) to f4; none before a ReLU, which
    torchvision writes in place.
    """

    def __init__(self, model: str, input_shape: tuple[int, int, int], num_classes: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        names = torchvision.models.list_models(module=torchvision.models)
        if model not in names:
            raise InputError(f"model = {model!r}: {choices(model, names)}")
        self.features, self.head = _create(model, input_shape[0], num_classes)
        self.drop = Dropout(drop_rate)
        _check_input(model, input_shape)
        if all(hasattr(self.features, stage) for stage in STAGES):
            places = dict(zip(("f1", "f2", "f3", "f4"), STAGES, strict=True))
            self.taps = {"f0": "features.maxpool", **{f: f"features.{stage}" for f, stage in places.items()}}
            self.taps["pool"] = "head:input"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.features(x)))  # (B, K)


def _create(model: str, channels: int, num_classes: int) -> tuple[nn.Module, nn.Linear]:
    # Those with classifiers on the way give their logits, too, while they train.
    alone = {"aux_logits": False, "init_weights": True} if model in ("googlenet", "inception_v3") else {}
    network = torchvision.models.get_model(model, weights=None, num_classes=num_classes, **alone)
    modules = dict(network.named_modules())
    linears = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    random = any(isinstance(module, StochasticDepth) and module.p for module in modules.values())
    if not linears or random:
        why = "drops whole layers at random, from torch's global generator" if random else "has no dense layer"
        raise InputError(f"model = {model!r}: {why}; arch=timm may have it")
    head: nn.Linear = modules[linears[-1]]
    network.set_submodule(linears[-1], nn.Identity())
    for name, module in modules.items():
        if isinstance(module, nn.Dropout):
            # That before the head is `drop`; others stay, and draw from the training's own generator.
            parent = name.rpartition(".")[0]
            before_head = parent == linears[-1].rpartition(".")[0] and len(linears) == 1
            network.set_submodule(name, nn.Identity() if before_head else Dropout(module.p))
    first = next(module for module in modules.values() if isinstance(module, nn.Conv2d))
    if channels != first.in_channels:
        first.in_channels = channels
        first.weight = nn.Parameter(torch.empty(first.out_channels, channels, *first.kernel_size))
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
    return network, head


def _check_input(model: str, input_shape: tuple[int, int, int]) -> None:
    """`InputError` unless images of that shape fit: from a look at one without memory."""
    with torch.device("meta"):
        features, head = _create(model, input_shape[0], 2)
        try:
            seen = features.eval()(torch.empty(1, *input_shape))
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"input shape = {input_shape!r}: {model} cannot serve it ({reason})") from None
    if not isinstance(seen, Tensor) or seen.shape[1:] != (head.in_features,):
        raise InputError(f"model = {model!r}: must give one vector an image")
