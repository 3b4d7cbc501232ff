"""How the sentences of a data set become tokens: the settings of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lskd.data.roots import HUB, hub_folder
from lskd.errors import InputError, require
from lskd.schema import parse, show

PAD, BOS, EOS, UNK = range(4)  # of a vocabulary that is trained; PAD is 0 in every one
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
LEAST = len(SPECIAL) + 256  # tokens: those, and each byte
LEAST_PAIR = 5  # tokens of a pair of sentences: [CLS], one, [SEP], one, [SEP]
MOST = 1_000_000
USUAL_VOCAB = 8000  # of data of a user's own
DIGEST = "sha256:"


@dataclass(frozen=True)
class Text:
    """What a run makes of the sentences of a data set.

    source, target: of a translation the languages, which are the endings of its files: en, de. Either way round.
    vocab: of a translation the tokens of its vocabulary, joint for both languages: byte-pair encoding (Sennrich et al.
        2016) of bytes, trained on the whole training part of the data set, whatever a run holds out or leaves out of
        it: so runs on more and on fewer sentences have one vocabulary.
    lowercase: all text is in lower case, references, too.
    longest: of a translation, training pairs are left out of which a side has more tokens, its end counted, and no
        evaluation part is touched; pairs of sentences are cut to so many tokens, [CLS] and [SEP] counted, one by one
        from the end of the longer sentence, in all parts (as BERT's code does). 0: no limit.
    test: which set of sentences is the part "test", of a data set with several: test_2017_flickr; "": the usual one.
    tokenizer: of pairs of sentences, whose tokens are those of a pretrained network: sha256:DIGEST of its WordPiece
        vocabulary (`lskd.data.text.wordpiece`), or hub:NAME, that of a network that was published under a name. A user
        may give the folder of the network instead, as of the hub.
    folder: where that was; empty: only the cache may have it.
    """

    source: str = ""
    target: str = ""
    vocab: int = 0
    lowercase: bool = False
    longest: int = 0
    test: str = ""
    tokenizer: str = ""
    folder: str = field(default="", metadata={"identity": False}, compare=False)

    def __post_init__(self) -> None:
        for name in ("vocab", "longest"):
            require(getattr(self, name) >= 0, name, getattr(self, name), ">= 0")
        for name in ("source", "target"):
            language = getattr(self, name)
            if language:
                check_language(language, name)
        if self.source and self.source == self.target:
            raise InputError(f"target = {self.target!r}: must be another language than source")
        if self.tokenizer.startswith(HUB):
            hub_folder(self.tokenizer, f"tokenizer = {self.tokenizer!r}")
        elif self.tokenizer and not re.fullmatch(f"{DIGEST}[0-9a-f]{{64}}", self.tokenizer):
            rule = f"the folder of a tokenizer, or {DIGEST} and 64 hexadecimal digits"
            raise InputError(f"tokenizer = {self.tokenizer!r}: must be {rule}")

    @property
    def vocabulary(self) -> dict[str, Any]:
        """The settings that say which tokens a text becomes, and in which language the two sides are: networks that
        teach one another, or start from one another, agree in them."""
        names = ("source", "target", "vocab", "lowercase", "tokenizer")
        return {name: value for name in names if (value := getattr(self, name)) != getattr(Text, name)}

    @staticmethod
    def of_setting(value: Any, path: str) -> Text:
        """As a user writes it, perhaps with the folder of a tokenizer."""
        if isinstance(value, Mapping) and value.get("folder"):
            rule = "dataset.text.tokenizer=FOLDER names the folder of a tokenizer"
            raise InputError(f"{path}.folder = {show(value['folder'])}: is no setting: {rule}")
        folder = value.get("tokenizer") if isinstance(value, Mapping) else None
        if not isinstance(folder, str) or not folder or folder.startswith((DIGEST, HUB)):
            return parse(Text, value, path)
        from lskd.data.text.wordpiece import read_folder
        from lskd.program import user_path

        where = user_path(folder).absolute()
        try:
            digest = read_folder(where).digest
        except InputError as error:
            raise InputError(f"{path}.tokenizer = {show(folder)}: {error}") from None
        return replace(parse(Text, {**value, "tokenizer": f"{DIGEST}{digest}"}, path), folder=str(where))


def check_language(language: str, name: str) -> None:
    """`InputError` for what is not the ending of a file, such as en, de or pt_BR."""
    if not re.fullmatch(r"[a-z]{2,8}([_-][A-Za-z0-9]{2,8})?", language):
        raise InputError(f"{name} = {language!r}: must be the ending of the files of a language, such as en or de")
