"""From the text of a data set to tokens, which the cache keeps: `<cache>/text/<name>-<key>/`.

    tokenizer.json                            of a translation: the vocabulary
    train.en.npy, train.en.starts.npy, …      tokens (T,) int32 and starts (N + 1,) int64 of a column of a part
    meta.json                                 what they follow from, and SHA-256 of the files

The key is the digest of what the tokens follow from: the data, and settings of the run. So what is in such a folder
never changes, and a folder that is damaged is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lskd.data.cache import sha256_of
from lskd.data.scratch import REPLACED, clear, scratch
from lskd.data.text import wordpiece
from lskd.data.text.corpus import Corpus, Ragged
from lskd.data.text.settings import Text
from lskd.data.text.vocabulary import Vocabulary
from lskd.errors import InputError

if TYPE_CHECKING:
    from lskd.data.text.texts import Texts

_log = logging.getLogger(__name__)

VERSION = 1  # of what is written
AT_ONCE = 10_000  # lines that are tokenized together: the library's results are large
SLOW = 200_000  # lines of which it is said that they take a while


def encode(texts: Texts, text: Text, names: Sequence[str], cache: Path) -> list[Corpus]:
    """The parts `names` as a run with the settings `text` sees them."""
    if texts.kind == "translation":
        return _translation(texts, text, names, cache)
    return _pairs(texts, text, names, cache)


def _translation(texts: Texts, text: Text, names: Sequence[str], cache: Path) -> list[Corpus]:
    lines = {
        f"{name}.{column}": of.in_lower_case() if text.lowercase else of
        for name, part in texts.parts.items()
        for column, of in part.columns.items()
    }
    training = [lines[f"train.{column}"] for column in texts.columns]
    follows = {"data": texts.digest(), "vocab": text.vocab, "lowercase": text.lowercase}
    folder = _folder(cache, "bpe", follows)

    def make(new: Path) -> None:
        vocabulary = Vocabulary.train((piece for of in training for piece in of.pieces(AT_ONCE)), text.vocab)
        if len(vocabulary) < text.vocab:
            raise InputError(
                f"text.vocab = {text.vocab}: must be at most {len(vocabulary)}: the training part has no more to merge"
            )
        (new / "tokenizer.json").write_text(vocabulary.content, encoding="utf-8")
        for name, of in lines.items():
            _save(new / name, Ragged.of(map(vocabulary.encode, of.pieces(AT_ONCE))))

    _ensure(folder, follows, make, sum(map(len, lines.values())))
    vocabulary = Vocabulary((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return [
        Corpus(
            source=_load(folder / f"{name}.{text.source}"),
            target=_load(folder / f"{name}.{text.target}"),
            source_lines=lines[f"{name}.{text.source}"],
            target_lines=lines[f"{name}.{text.target}"],
            vocabulary=vocabulary,
        )
        for name in names
    ]


def _pairs(texts: Texts, text: Text, names: Sequence[str], cache: Path) -> list[Corpus]:
    vocabulary = wordpiece.find(text, cache)
    follows = {"data": texts.digest(), "tokenizer": vocabulary.digest, "longest": text.longest}
    folder = _folder(cache, "pairs", follows)

    def make(new: Path) -> None:
        for name, part in texts.parts.items():
            tokens, segments = [], []
            for first, second in zip(*(part.columns[one].pieces(AT_ONCE) for one in texts.columns), strict=True):
                found = vocabulary.encode(first, second, text.longest)
                tokens.append(Ragged.of([[ids for ids, _ in found]]))
                segments.append(Ragged.of([[kinds for _, kinds in found]]))
            _save(new / name, _joined(tokens))
            _save(new / f"{name}.segments", _joined(segments))

    _ensure(folder, follows, make, 2 * sum(map(len, texts.parts.values())))
    return [
        Corpus(
            source=_load(folder / name),
            target=None,
            source_lines=texts.parts[name].columns["first"],
            target_lines=texts.parts[name].columns["second"],
            vocabulary=vocabulary,
            segments=_load(folder / f"{name}.segments"),
        )
        for name in names
    ]


def _joined(pieces: Sequence[Ragged]) -> Ragged:
    sizes = np.concatenate([np.zeros(1, dtype=np.int64), *(piece.lengths for piece in pieces)])
    return Ragged(np.concatenate([piece.tokens for piece in pieces]), np.cumsum(sizes))


# ---- in the cache -------------------------------------------------------------------------------------------------


def _folder(cache: Path, name: str, follows: dict[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps({"version": VERSION, **follows}, sort_keys=True).encode()).hexdigest()
    return cache / "text" / f"{name}-{key[:16]}"


def _ensure(folder: Path, follows: dict[str, Any], make: Callable[[Path], None], lines: int) -> None:
    """Have `make` write the files of `folder`, unless they are there. Of several processes that do so at once the first
    to finish wins; they write the same."""
    if _is_whole(folder):
        return
    clear(folder.parent)
    try:
        with scratch(folder.parent, folder.name) as place:
            new, began = place / "new", time.perf_counter()
            new.mkdir()
            if lines > SLOW:
                _log.warning("%s: tokenizing %s lines, once", folder, f"{lines:,}")
            make(new)
            files = {path.name: sha256_of(path) for path in sorted(new.iterdir())}
            meta = {"version": VERSION, **follows, "seconds": round(time.perf_counter() - began, 1), "files": files}
            (new / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
            if folder.is_dir() and not _is_whole(folder):
                _log.warning("%s: damaged, and made again", folder)
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(place / REPLACED)
            try:
                new.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write the cache ({error.strerror or error}): set LSKD_CACHE or --cache"
        ) from error


def _is_whole(folder: Path) -> bool:
    try:
        files = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["files"]
        return all(sha256_of(folder / name) == sha256 for name, sha256 in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _save(path: Path, sequences: Ragged) -> None:
    np.save(path.with_name(f"{path.name}.npy"), sequences.tokens)
    np.save(path.with_name(f"{path.name}.starts.npy"), sequences.starts)


def _load(path: Path) -> Ragged:
    tokens, starts = (np.load(f"{path}{ending}", allow_pickle=False) for ending in (".npy", ".starts.npy"))
    return Ragged(tokens, starts)
