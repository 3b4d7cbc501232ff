"""Classification of sentences, or of pairs of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lskd.data.text.padding import padded
from lskd.engine.tasks.task import Batches, Shuffled
from lskd.engine.tasks.text import Text
from lskd.recipe import Recipe


class Shown(NamedTuple):
    """A batch of B examples, filled up to the longest."""

    tokens: Tensor  # (B, L) int64
    segments: Tensor  # (B, L) int64: 1 in the second sentence of a pair, else 0


class Pairs(Text):
    """An output is a class. Batches have equally many examples, in a random order."""

    arguments = 2

    @staticmethod
    def assemble(corpus: Any, rows: np.ndarray) -> Shown:
        return Shown(*(torch.from_numpy(padded(ragged, rows)) for ragged in (corpus.source, corpus.segments)))

    def batches(self, recipe: Recipe) -> Batches:
        return Shuffled(len(self), recipe.batch_size)

    def labels_of(self, examples: Tensor, inputs: Shown) -> Tensor:
        return self.labels[examples]

    def labels_in(self, part: str, examples: Tensor, inputs: Shown) -> Tensor:
        labels = self.labels if part == "train" else self.held_out[part].labels
        return labels[examples].to(self.device)
