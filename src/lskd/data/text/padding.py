"""Sequences of several lengths as one array."""

from __future__ import annotations

import numpy as np

from lskd.data.text.corpus import Ragged
from lskd.data.text.settings import PAD


def padded(ragged: Ragged, rows: np.ndarray, *, before: int | None = None, after: int | None = None) -> np.ndarray:
    """The sequences `rows` (B,) of a ragged array, (B, L) int64, filled up with `PAD`; the token `before` stands in
    front of each, and `after` at its end, where they are given."""
    begins = ragged.starts[rows]
    lengths = ragged.starts[rows + 1] - begins
    lead, longest = int(before is not None), int(lengths.max(initial=0))
    out = np.full((len(rows), lead + longest + (after is not None)), PAD, dtype=np.int64)
    inside = np.arange(longest) < lengths[:, None]
    out[:, lead : lead + longest][inside] = ragged.tokens[(begins[:, None] + np.arange(longest))[inside]]
    if before is not None:
        out[:, 0] = before
    if after is not None:
        out[np.arange(len(rows)), lead + lengths] = after
    return out
