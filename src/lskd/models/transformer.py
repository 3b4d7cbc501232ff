"""The Transformer that translates (Vaswani et al. 2017).

By hand, because torch's `nn.Transformer` draws its dropout from the global generator, which runs side by side would
share, computes the logits of padding, and keeps no keys and values while it decodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lskd.errors import InputError
from lskd.models.dropout import ShortDropout

PAD = 0
KeysValues = tuple[Tensor, Tensor]  # (B, heads, L, d / heads) each


class Attention(nn.Module):
    """Multi-head attention. `mask` is added to the scores: 0 where a query may look, -inf where not."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.keys_values = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.dropout = ShortDropout(dropout)

    def split(self, x: Tensor) -> Tensor:
        """(B, L, d) -> (B, heads, L, d / heads)"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def looked_at(self, x: Tensor) -> KeysValues:
        """Keys and values of `x` (B, L, d)."""
        keys, values = self.keys_values(x).chunk(2, -1)
        return self.split(keys), self.split(values)

    def forward(self, x: Tensor, looked_at: KeysValues, mask: Tensor | None) -> Tensor:
        """What each of `x` (B, T, d) makes of what it looks at."""
        queries, (keys, values) = self.split(self.query(x)), looked_at
        # torch's own attention of short sentences takes longer on a CPU, in bf16 twenty times as long.
        if self.training and (self.dropout.p or x.device.type == "cpu"):
            scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
            weights = (scores if mask is None else scores + mask).softmax(-1)
            seen = self.dropout(weights.to(values.dtype)) @ values
        else:
            mask = None if mask is None else mask.to(queries.dtype)
            seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.out(seen.transpose(1, 2).flatten(-2))


class Layer(nn.Module):
    """A layer of the encoder or, with `cross`, of the decoder. Each part is a residual with layer norm: behind the sum,
    as in the paper, or with `pre_norm` in front of the part."""

    def __init__(self, settings: Settings, *, cross: bool) -> None:
        super().__init__()
        width, heads = settings.width, settings.heads
        self.pre_norm = settings.pre_norm
        self.attention = Attention(width, heads, settings.attention_dropout)
        self.cross = Attention(width, heads, settings.attention_dropout) if cross else None
        self.wide, self.narrow = nn.Linear(width, settings.feed_forward), nn.Linear(settings.feed_forward, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if cross else 2))
        self.dropout, self.relu_dropout = ShortDropout(settings.dropout), ShortDropout(settings.relu_dropout)

    def memory(self, encoded: Tensor) -> KeysValues:
        """What the cross attention looks at."""
        assert self.cross is not None
        return self.cross.looked_at(encoded)

    def before(self, part: int, x: Tensor) -> Tensor:
        return self.norms[part](x) if self.pre_norm else x

    def after(self, part: int, x: Tensor, change: Tensor) -> Tensor:
        x = x + self.dropout(change)
        return x if self.pre_norm else self.norms[part](x)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        memory: KeysValues | None = None,
        memory_mask: Tensor | None = None,
        past: KeysValues | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """`x` (B, L, d), changed, and the keys and values that later tokens look at. memory: what the cross attention
        looks at, of B sources, or of fewer that have as many rows of `x` each; past: the keys and values of the tokens
        before `x`."""
        seen = self.before(0, x)
        own = self.attention.looked_at(seen)
        if past is not None:
            own = torch.cat([past[0], own[0]], 2), torch.cat([past[1], own[1]], 2)
        x = self.after(0, x, self.attention(seen, own, mask))
        if self.cross is not None:
            assert memory is not None
            # Of hypotheses that share a source each is one more query to the same memory: (B · k, 1, d) is (B, k, d).
            queries = self.before(1, x).view(len(memory[0]), -1, x.shape[-1])
            x = self.after(1, x, self.cross(queries, memory, memory_mask).view_as(x))
        hidden = self.wide(self.before(-1, x)).relu()
        return self.after(-1, x, self.narrow(self.relu_dropout(hidden))), own


@dataclass(frozen=True)
class Settings:
    """See `lskd.models.archs.TransformerArch`."""

    encoder_layers: int
    decoder_layers: int
    width: int
    heads: int
    feed_forward: int
    dropout: float
    attention_dropout: float
    relu_dropout: float
    pre_norm: bool
    positions: int


@dataclass
class State:
    """How far B translations are, `width` of each source: those of a source follow one another."""

    memory: list[KeysValues]  # of each layer: what its cross attention looks at, once for each source
    memory_mask: Tensor  # (B / width, 1, 1, S)
    past: list[KeysValues | None]  # of each layer: of the tokens so far
    length: int  # of the tokens so far
    width: int

    def take(self, rows: Tensor) -> State:
        """Go on with `rows` (n,): `width` of each source that is left, in the order of the sources, and of its own."""

        def of(pair: KeysValues, these: Tensor) -> KeysValues:
            return pair[0][these], pair[1][these]

        memory, mask = self.memory, self.memory_mask
        if len(rows) < len(mask) * self.width:  # else all sources are left, and what is looked at stays where it is
            sources = rows[:: self.width] // self.width
            memory, mask = [of(pair, sources) for pair in memory], mask[sources]
        past = [None if pair is None else of(pair, rows) for pair in self.past]
        return State(memory, mask, past, self.length, self.width)


class Transformer(nn.Module):
    """An encoder and a decoder with one embedding for the source, the target and, as weights of the last layer, the
    tokens to choose from (Press & Wolf 2017), which is multiplied by √d where tokens come in."""

    def __init__(self, tokens: int, settings: Settings) -> None:
        super().__init__()
        width = settings.width
        self.positions, self.scale = settings.positions, math.sqrt(width)
        self.embedding = nn.Embedding(tokens, width)
        self.encoder = nn.ModuleList(Layer(settings, cross=False) for _ in range(settings.encoder_layers))
        self.decoder = nn.ModuleList(Layer(settings, cross=True) for _ in range(settings.decoder_layers))
        self.head = nn.Linear(width, tokens, bias=False)
        self.dropout = ShortDropout(settings.dropout)
        last = [nn.LayerNorm(width) if settings.pre_norm else nn.Identity() for _ in range(2)]
        self.encoded, self.decoded = last
        self.register_buffer("sinusoids", sinusoids(settings.positions, width), persistent=False)
        self.sinusoids: Tensor
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):  # keys and values are two matrices
                for matrix in module.weight.chunk(2 if name.endswith("keys_values") else 1):
                    nn.init.xavier_uniform_(matrix)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.head.weight = self.embedding.weight

    def forward(self, source: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
        """Logits of the token after each of `target`.

        source (B, S) and target (B, T) int64, filled up with `PAD`; target begins with the token for a beginning.
        counted (n,): places in the flattened (B · T): gives (n, V) for them alone; None: (B, T, V).
        """
        memory, mask = self.encode(source)
        causal = torch.full((target.shape[1],) * 2, -math.inf, device=target.device).triu(1)
        x = self.embed(target)
        for layer in layers(self.decoder):
            x, _ = layer(x, causal, layer.memory(memory), mask)
        x = self.decoded(x)
        return self.head(x if counted is None else x.flatten(0, 1)[counted])

    def embed(self, tokens: Tensor, begin: int = 0) -> Tensor:
        """(B, L) tokens from place `begin` on -> (B, L, d)."""
        end = begin + tokens.shape[1]
        if end > self.positions:
            raise InputError(f"positions = {self.positions}: must be >= {end}, the tokens of a sentence with its end")
        return self.dropout(self.embedding(tokens) * self.scale + self.sinusoids[begin:end])

    # ---- decoding -------------------------------------------------------------------------------------------------

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """What the source (B, S) becomes, (B, S, d), and the mask of its padding, (B, 1, 1, S)."""
        x = self.embed(source)
        mask = torch.zeros(source.shape, device=source.device).masked_fill(source == PAD, -math.inf)[:, None, None]
        for layer in layers(self.encoder):
            x, _ = layer(x, mask)
        return self.encoded(x), mask

    def begin(self, source: Tensor, width: int = 1) -> State:
        """`width` translations of each `source` (B, S), before their first token."""
        encoded, mask = self.encode(source)
        memory = [layer.memory(encoded) for layer in layers(self.decoder)]
        return State(memory, mask, [None] * len(self.decoder), 0, width)

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Logits (B, V) of the token after `tokens` (B,), which come next, and the state after them."""
        x, past = self.embed(tokens[:, None], state.length), list[KeysValues | None]()
        for layer, memory, before in zip(layers(self.decoder), state.memory, state.past, strict=True):
            x, own = layer(x, None, memory, state.memory_mask, before)
            past.append(own)
        return self.head(self.decoded(x).squeeze(1)), replace(state, past=past, length=state.length + 1)


def layers(modules: nn.ModuleList) -> list[Layer]:
    return cast("list[Layer]", list(modules))


def sinusoids(positions: int, width: int) -> Tensor:
    """(positions, d): sin(p/10000^(2i/d)) at 2i and cos(p/10000^(2i/d)) at 2i + 1."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(positions)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
