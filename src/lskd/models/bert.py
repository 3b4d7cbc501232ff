"""BERT for sentence pairs (Devlin et al. 2019), of the transformers library, with attention and a head of our own."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from lskd.models.dropout import ShortDropout

PADDING = 0  # the token that is no part of a text
SEGMENTS = 2  # of a pair
DEVIATION = 0.02  # of initial weights


class Bert(nn.Module):
    """`bert` (embeddings, layers, and the dense layer with tanh over the first token), dropout, `head`.

    What transformers calls `BertForSequenceClassification`, with its names but for the head's. Its dropout draws from
    torch's global generator, and that of its attention cannot be told otherwise: both are replaced. Its modules are
    called one by one, and the mask made here, since both of `BertModel.forward` differ between its versions.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        layers: int,
        width: int,
        heads: int,
        feed_forward: int,
        vocabulary: int,
        positions: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        head = nn.Linear(width, num_classes)  # before all else: the draws of a library's modules may change
        nn.init.normal_(head.weight, std=DEVIATION)
        nn.init.zeros_(head.bias)
        config = BertConfig(
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=feed_forward,
            vocab_size=vocabulary,
            max_position_embeddings=positions,
            type_vocab_size=SEGMENTS,
            initializer_range=DEVIATION,
            pad_token_id=PADDING,
        )
        body: Any = BertModel(config)
        for layer in body.encoder.layer:
            layer.attention.self = Attention(layer.attention.self, heads, attention_dropout)
        for parent in list(body.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Dropout):
                    setattr(parent, name, ShortDropout(dropout))
        self.bert = body
        self.drop = ShortDropout(dropout)
        self.head = head

    def forward(self, tokens: Tensor, segments: Tensor) -> Tensor:
        """tokens, segments: (B, L) int64 -> (B, K)"""
        x = self.bert.embeddings(input_ids=tokens, token_type_ids=segments)  # (B, L, width)
        seen = (tokens != PADDING)[:, None, None, :]
        for layer in self.bert.encoder.layer:
            x = layer(x, seen)
            x = x[0] if isinstance(x, tuple) else x  # before transformers 5
        return self.head(self.drop(self.bert.pooler(x)))


class Attention(nn.Module):
    """softmax(q kᵀ / √d) v over the tokens that are seen, each head by itself, with dropout of the softmax.

    The dense layers are those of `own`, the library's module, in whose place it stands.
    """

    def __init__(self, own: Any, heads: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key, self.value = own.query, own.key, own.value
        self.heads, self.dropout = heads, ShortDropout(dropout)

    def forward(self, x: Tensor, attention_mask: Tensor, *others: object, **named: object) -> tuple[Tensor, None]:
        """x: (B, L, width); attention_mask: (B, 1, 1, L) bool, which tokens are seen. What else the library's layers
        tell is nothing for an encoder."""
        query, key, value = (
            dense(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for dense in (self.query, self.key, self.value)
        )  # (B, heads, L, d)
        if self.training and self.dropout.p:
            scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
            weights = scores.masked_fill(~attention_mask, -math.inf).softmax(3)
            mixed = self.dropout(weights.to(value.dtype)) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        return mixed.transpose(1, 2).flatten(2), None
