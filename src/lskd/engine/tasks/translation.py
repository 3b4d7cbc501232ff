"""Translation: the next token of the target is told from the source and from the tokens before it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lskd.data.text import BOS, EOS
from lskd.data.text.padding import padded
from lskd.engine.tasks.task import Batches, Shuffled
from lskd.engine.tasks.text import ByLength, Text
from lskd.recipe import Recipe


class Shown(NamedTuple):
    """A batch of B pairs of sentences with n target tokens."""

    source: Tensor  # (B, S) int64
    target: Tensor  # (B, T) int64: from BOS on, without EOS
    counted: Tensor  # (n,) int64: the places in the flattened (B · T) whose outputs count: all but padding
    labels: Tensor  # (n,) int64: the token after each of these places


class Translation(Text):
    """An output is a token, of those of the vocabulary: each counts alike, whatever sentence it is in (as in fairseq
    and tensor2tensor). Padding has no outputs at all: it is left out before the projection to the vocabulary.

    Calibration is of the first 10,000 tokens of a part, as Müller et al. (2019) have it.
    """

    most_outputs = 10_000
    arguments = 3

    @staticmethod
    def assemble(corpus: Any, rows: np.ndarray) -> Shown:
        source = padded(corpus.source, rows, after=EOS)
        target = padded(corpus.target, rows, before=BOS)
        after = padded(corpus.target, rows, after=EOS)
        lengths = corpus.target.starts[rows + 1] - corpus.target.starts[rows] + 1
        counted = np.flatnonzero(np.arange(target.shape[1]) < lengths[:, None])
        return Shown(*map(torch.from_numpy, (source, target, counted, after.reshape(-1)[counted])))

    def batches(self, recipe: Recipe) -> Batches:
        if recipe.batch_by == "examples":
            return Shuffled(len(self), recipe.batch_size)
        return ByLength(self.train.corpus.lengths, recipe.batch_size)

    def labels_of(self, examples: Tensor, inputs: Shown) -> Tensor:
        return inputs.labels

    def labels_in(self, part: str, examples: Tensor, inputs: Shown) -> Tensor:
        return inputs.labels

    def record(self, batches: Batches) -> dict[str, Any]:
        """With the target's tokens in an epoch, the ends of sentences among them; and, of batches by tokens, the share
        of padding in what networks are shown."""
        found = super().record(batches) | {"tokens": int(self.train.corpus.lengths[:, -1].sum())}
        return found | {"padding": round(batches.waste, 4)} if isinstance(batches, ByLength) else found
