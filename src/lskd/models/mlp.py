"""Fully connected network, as in the MNIST experiments of Müller et al. (2019, appendix A.5)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from lskd.models.dropout import Dropout
from lskd.models.relu import relu


class MLP(nn.Module):
    """Flatten, dropout, then per hidden layer Linear, ReLU, dropout; then `head`."""

    def __init__(
        self,
        inputs: int,
        hidden: tuple[int, ...],
        num_classes: int,
        input_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        init_std: float | None = None,
    ) -> None:
        super().__init__()
        widths = (inputs, *hidden)
        self.input_dropout = Dropout(input_dropout) if input_dropout else nn.Identity()
        self.hidden_dropout = Dropout(hidden_dropout) if hidden_dropout else nn.Identity()
        self.layers = nn.ModuleList(nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(widths))
        self.head = nn.Linear(widths[-1], num_classes)
        if init_std is not None:
            for layer in (*self.layers, self.head):
                nn.init.normal_(layer.weight, std=init_std)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input_dropout(x.flatten(1))  # (B, C*H*W)
        for layer in self.layers:
            x = self.hidden_dropout(relu(layer(x)))  # (B, width)
        return self.head(x)  # (B, K)
