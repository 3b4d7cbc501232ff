"""What a run sees of a part of a data set of text: tokens, and the lines that they were made of."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from lskd.data.text.lines import Lines


class Tokens(Protocol):
    """What tokens stand for: `vocabulary.Vocabulary`, or `wordpiece.WordPiece` of pairs of sentences."""

    @property
    def digest(self) -> str: ...
    def __len__(self) -> int: ...
    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True, eq=False)
class Ragged:
    """N sequences, one behind the other: `tokens` (T,) int32, of which sequence i is from `starts[i]` to
    `starts[i + 1]`: (N + 1,) int64."""

    tokens: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, pieces: Iterable[Sequence[Sequence[int]]]) -> Ragged:
        """Sequences that come in pieces, so that not all need be lists at once."""
        tokens, sizes = [np.zeros(0, dtype=np.int32)], [np.zeros(1, dtype=np.int64)]
        for piece in pieces:
            sizes.append(np.fromiter(map(len, piece), dtype=np.int64, count=len(piece)))
            flat = (token for sequence in piece for token in sequence)
            tokens.append(np.fromiter(flat, dtype=np.int32, count=int(sizes[-1].sum())))
        return cls(np.concatenate(tokens), np.cumsum(np.concatenate(sizes)))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.tokens[self.starts[row] : self.starts[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64"""
        return np.diff(self.starts)

    def pick(self, rows: np.ndarray) -> Ragged:
        """Those of `rows` (n,)."""
        lengths = self.lengths[rows]
        starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        places = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], lengths)
        return Ragged(self.tokens[places], starts)


@dataclass(frozen=True, eq=False)
class Corpus:
    """One part of a data set of text, N examples.

    source, target: the tokens of a translation, without BOS and EOS. Of pairs of sentences `source` has both, with
    [CLS] and [SEP], and `segments` says of each token which it belongs to, 0 or 1.
    source_lines, target_lines: the text, in lower case where the run asks for it: references for BLEU.
    left_out: training pairs that are not among the examples: too long, or empty on a side.
    """

    source: Ragged
    target: Ragged | None
    source_lines: Lines
    target_lines: Lines
    vocabulary: Tokens
    segments: Ragged | None = None
    left_out: int = 0

    @property
    def kind(self) -> Literal["translation", "pairs"]:
        return "pairs" if self.target is None else "translation"

    def __len__(self) -> int:
        return len(self.source)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """(N, 2) int64: tokens of the source with EOS, and of the target with BOS or EOS, as a network sees them. Of
        pairs of sentences those of both together: (N, 1)."""
        if self.target is None:
            return self.source.lengths[:, None]
        return np.stack([self.source.lengths + 1, self.target.lengths + 1], axis=1)

    def __getitem__(self, rows: np.ndarray) -> Corpus:
        """The examples of `rows` (n,)."""
        rows = np.asarray(rows)
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self
        return replace(
            self,
            source=self.source.pick(rows),
            target=None if self.target is None else self.target.pick(rows),
            segments=None if self.segments is None else self.segments.pick(rows),
            source_lines=self.source_lines.pick(rows),
            target_lines=self.target_lines.pick(rows),
        )

    def to_train_on(self, longest: int) -> Corpus:
        """Without the pairs of a translation of which a side has more than `longest` tokens (0: no limit), its end
        counted, or none but its end."""
        if self.target is None:
            return self
        most = longest or int(self.lengths.max(initial=0))
        kept = np.flatnonzero(((self.lengths > 1) & (self.lengths <= most)).all(axis=1))
        return replace(self[kept], left_out=len(self) - len(kept))
