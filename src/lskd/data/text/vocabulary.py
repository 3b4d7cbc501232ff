"""Byte-pair encoding, trained on the text of a data set by the library `tokenizers`.

Of bytes: any text can be written with any vocabulary, and comes back exactly, spaces and all (GPT-2's way, but with no
space put before the first word). Ids: PAD 0, BOS 1, EOS 2, UNK 3 (which nothing becomes), the 256 bytes, and what was
merged of them, in the order of the merges. Training is deterministic: counts decide, then ids, whatever the threads.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from lskd.data.text import extra
from lskd.data.text.settings import EOS, SPECIAL


class Vocabulary:
    """A trained tokenizer. `content`: as the library writes it, json."""

    def __init__(self, content: str) -> None:
        self.content = content

    @classmethod
    def train(cls, lines: Iterable[Sequence[str]], vocab: int) -> Vocabulary:
        """Of at most `vocab` tokens: of fewer, where `lines`, given in any pieces, have no more to merge."""
        library = extra.tokenizers()
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(lines, trainer)
        return cls(tokenizer.to_str())

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of its tokens and merges, as the library writes them."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """The tokens of each line, without BOS and EOS. Words that are written as special tokens are text like any."""
        return [one.ids for one in self._tokenizer.encode_batch_fast(list(lines), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text again, up to the first EOS; PAD and BOS are no text. Bytes that are no UTF-8 become U+FFFD."""
        tokens = list[int]()
        for token in map(int, ids):
            if token == EOS:
                break
            if token >= len(SPECIAL):
                tokens.append(token)
        return str(self._tokenizer.decode(tokens))

    @functools.cached_property
    def _tokenizer(self) -> Any:
        tokenizer = extra.tokenizers().Tokenizer.from_str(self.content)
        tokenizer.encode_special_tokens = True
        return tokenizer
