"""The tokenizer of a pretrained BERT: WordPiece (Schuster & Nakajima 2012), read from a folder in the hub's format.

Its digest is the SHA-256 of its vocabulary, a token a line: that of vocab.txt, so that `sha256sum vocab.txt` says it.
Where it is not BERT's usual one, in lower case and so on, how it differs counts, too.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lskd.data.roots import HUB, hub_folder, not_here
from lskd.data.scratch import scratch
from lskd.data.text import extra
from lskd.data.text.settings import DIGEST, Text
from lskd.errors import InputError

PAD, UNK, CLS, SEP = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")


@dataclass(frozen=True)
class WordPiece:
    """tokens: in the order of their ids. lowercase, strip_accents (None: as lowercase), chinese (spaces around each
    character): how text is normalised before."""

    tokens: tuple[str, ...]
    lowercase: bool = True
    strip_accents: bool | None = None
    chinese: bool = True

    def __len__(self) -> int:
        return len(self.tokens)

    @functools.cached_property
    def digest(self) -> str:
        sha = hashlib.sha256("".join(f"{token}\n" for token in self.tokens).encode())
        for name in ("lowercase", "strip_accents", "chinese"):
            if getattr(self, name) != getattr(WordPiece, name):
                sha.update(f"{name} {getattr(self, name)}\n".encode())
        return sha.hexdigest()

    def encode(self, first: Sequence[str], second: Sequence[str], longest: int) -> list[tuple[list[int], list[int]]]:
        """Of each pair of sentences the ids of [CLS] first [SEP] second [SEP], and of each token its segment, 0 or 1.
        longest > 0: of so many tokens at most, taken from the end of the longer sentence, one by one."""
        found = _tokenizer(self, longest).encode_batch_fast(list(zip(first, second, strict=True)))
        return [(one.ids, one.type_ids) for one in found]

    def decode(self, ids: Sequence[int]) -> str:
        """Text again; without [CLS], [SEP] and [PAD], and of what normalisation left."""
        return str(_tokenizer(self, 0).decode(list(ids)))

    def save(self, folder: Path) -> None:
        """As `read_folder` reads it."""
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in self.tokens), encoding="utf-8", newline="")
        config = {
            "do_lower_case": self.lowercase,
            "strip_accents": self.strip_accents,
            "tokenize_chinese_chars": self.chinese,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")


@functools.lru_cache(maxsize=4)
def _tokenizer(of: WordPiece, longest: int) -> Any:
    extra.tokenizers()
    from tokenizers.implementations import BertWordPieceTokenizer

    wrapped = BertWordPieceTokenizer(
        vocab={token: number for number, token in enumerate(of.tokens)},
        lowercase=of.lowercase,
        strip_accents=of.strip_accents,
        handle_chinese_chars=of.chinese,
    )
    tokenizer = wrapped._tokenizer
    if longest:
        tokenizer.enable_truncation(longest, strategy="longest_first")
    return tokenizer


def read_folder(folder: Path) -> WordPiece:
    """The tokenizer in a folder in the hub's format: tokenizer.json, or vocab.txt and perhaps tokenizer_config.json.
    `InputError` if there is none, or one of another kind."""
    if not folder.is_dir():
        raise InputError("not there: must be a folder in the hub's format, with tokenizer.json or vocab.txt")
    stamps = [(name, (folder / name).stat().st_mtime_ns) for name in FILES if (folder / name).is_file()]
    return _read_folder(folder, tuple(stamps))


@functools.lru_cache(maxsize=16)
def _read_folder(folder: Path, stamps: tuple[tuple[str, int], ...]) -> WordPiece:
    present = {name for name, _ in stamps}
    if "tokenizer.json" in present:
        found = _of_json(_load(folder / "tokenizer.json"))
        if "vocab.txt" in present and _vocab(folder / "vocab.txt") != found.tokens:
            raise InputError("tokenizer.json and vocab.txt have different tokens: keep the one that is right")
    elif "vocab.txt" in present:
        config = _load(folder / "tokenizer_config.json") if "tokenizer_config.json" in present else {}
        found = WordPiece(
            _vocab(folder / "vocab.txt"),
            bool(config.get("do_lower_case", True)),
            config.get("strip_accents"),
            bool(config.get("tokenize_chinese_chars", True)),
        )
    else:
        raise InputError("has neither tokenizer.json nor vocab.txt")
    for token in (PAD, UNK, CLS, SEP):
        if token not in found.tokens:
            raise InputError(f"has no token {token}: must be the WordPiece tokenizer of a BERT")
    if found.tokens[0] != PAD:
        raise InputError(f"its token 0 is {found.tokens[0]!r}: must be {PAD}, which is padded with")
    return found


def _of_json(content: dict[str, Any]) -> WordPiece:
    model, normalizer = content.get("model") or {}, content.get("normalizer") or {}
    kinds = f"{model.get('type', 'nothing')} after {normalizer.get('type', 'nothing')}"
    if kinds != "WordPiece after BertNormalizer":
        raise InputError(f"tokenizer.json is of {kinds}: must be WordPiece after BertNormalizer, a BERT's")
    ids = {**model["vocab"], **{one["content"]: one["id"] for one in content.get("added_tokens") or ()}}
    tokens = sorted(ids, key=ids.__getitem__)
    if sorted(ids.values()) != list(range(len(ids))):
        raise InputError("tokenizer.json: ids must be 0, 1, 2 and so on, each once")
    return WordPiece(
        tuple(tokens),
        bool(normalizer.get("lowercase", True)),
        normalizer.get("strip_accents"),
        bool(normalizer.get("handle_chinese_chars", True)),
    )


def _vocab(path: Path) -> tuple[str, ...]:
    try:
        tokens = path.read_bytes().replace(b"\r\n", b"\n").decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{path.name}: not UTF-8") from None
    if len(set(tokens)) < len(tokens):
        raise InputError(f"{path.name}: a token is there twice")
    return tuple(tokens)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path.name}: not json ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path.name}: must be a mapping")
    return content


def find(text: Text, cache: Path) -> WordPiece:
    """The tokenizer of these settings: of their folder, which the cache then keeps, or of the cache. `InputError` where
    it is not here, or other by now."""
    digest = text.tokenizer.removeprefix(DIGEST)
    kept = cache / "text" / f"wordpiece-{digest[:16]}"
    named = f"text.tokenizer = {text.folder or text.tokenizer!r}"
    if text.tokenizer.startswith(HUB):  # whose name says which it is
        folder = hub_folder(text.tokenizer, named)
        if not folder.is_dir():
            raise not_here(named, folder, "tokenizer.json or vocab.txt")
        try:
            return read_folder(folder)
        except InputError as error:
            raise InputError(f"{named}: {error}") from None
    if text.folder:
        try:
            found = read_folder(Path(text.folder))
        except InputError as error:
            raise InputError(f"{named}: {error}") from None
        if found.digest == digest and not kept.is_dir():
            _keep(found, kept)
    elif kept.is_dir():
        found = read_folder(kept)
    else:
        raise InputError(f"{named}: is not here; give the folder that has it: dataset.text.tokenizer=FOLDER")
    if found.digest != digest:
        raise InputError(f"{named}: has other tokens by now: SHA-256 {found.digest}, and was {digest}")
    return found


def _keep(tokenizer: WordPiece, folder: Path) -> None:
    with scratch(folder.parent, folder.name) as place:
        new = place / "new"
        new.mkdir()
        tokenizer.save(new)
        try:
            new.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
