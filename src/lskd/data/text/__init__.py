"""Data sets of text: translations, whose files agree line by line, and pairs of sentences with a label.

In the cache is the text itself (`texts.Texts`). What a run sees of it is a `Corpus` for each part: tokens, which follow
from the run's settings (`Text`) and are kept in the cache, too, with the vocabulary.

Importing this package is cheap: planning needs the settings alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lskd.data.text.settings import BOS, EOS, PAD, UNK, Text

if TYPE_CHECKING:
    from lskd.data.text.corpus import Corpus as Corpus

__all__ = ["BOS", "EOS", "PAD", "UNK", "Corpus", "Text"]


def __getattr__(name: str) -> Any:
    if name != "Corpus":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lskd.data.text.corpus import Corpus

    return Corpus
