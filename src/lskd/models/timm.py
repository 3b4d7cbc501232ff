"""Networks of the timm library (PyTorch Image Models), untrained, behind a head of our own."""

from __future__ import annotations

import difflib

import timm
import torch
from torch import Tensor, nn

from lskd.errors import InputError
from lskd.models.dropout import Dropout


class Timm(nn.Module):
    """`features` (timm's network without its classifier), dropout, `head`.

    timm's own `drop_rate` may draw from torch's global generator; here `drop_rate` is that of the head's input alone,
    which is what it means to most of timm's convolutional networks.
    """

    def __init__(
        self,
        model: str,
        input_shape: tuple[int, int, int],
        num_classes: int,
        drop_rate: float = 0.0,
        bn_momentum: float | None = None,
    ) -> None:
        super().__init__()
        if not timm.is_model(model):
            near = difflib.get_close_matches(model, timm.list_models(), n=3)
            hint = f"did you mean {', '.join(near)}? " if near else ""
            raise InputError(
                f"model = {model!r}: {hint}allowed: what timm.list_models() of timm {timm.__version__} names"
            )
        self.features = self._create(model, input_shape[0])
        self.drop = Dropout(drop_rate)
        self.head = nn.Linear(self._width(model, input_shape), num_classes)
        if bn_momentum is not None:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = bn_momentum

    @staticmethod
    def _create(model: str, channels: int) -> nn.Module:
        network = timm.create_model(model, pretrained=False, num_classes=0, in_chans=channels, drop_rate=0.0)
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Dropout) and child.p:  # some networks have it inside, at a rate of their own
                    setattr(parent, name, Dropout(child.p))
        return network

    def _width(self, model: str, input_shape: tuple[int, int, int]) -> int:
        """The number of features, from a look at one image without memory. `InputError` if the image does not fit."""
        with torch.device("meta"):
            probe = self._create(model, input_shape[0]).eval()
            try:
                features = probe(torch.empty(1, *input_shape))
            except (RuntimeError, AssertionError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise InputError(f"input shape = {input_shape!r}: {model} cannot serve it ({reason})") from None
        if features.ndim != 2:
            raise InputError(
                f"model = {model!r}: gives {features.ndim}-dimensional features: must give one vector an image"
            )
        return features.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.features(x)))  # (B, K)
