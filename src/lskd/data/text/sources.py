"""Readers of data sets of text, that are registered with them or import a user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lskd.data.dataset import Spec
from lskd.data.registry import DATASETS
from lskd.data.text.settings import Text, check_language
from lskd.errors import InputError

if TYPE_CHECKING:
    from lskd.data.text.texts import Sentences, Texts

TESTS = "test"  # what the names of sets of test sentences begin with
SUBWORDS = "@@ "  # in text that has been cut into subwords


@dataclass(frozen=True)
class Aligned:
    """A translation in files that agree line by line: NAME.en and NAME.de for each of `parts`, below `data`/NAME.

    parts: the names of the files of each part, one after the other where it has several: {"train": ("train",)}. What a
    name is called elsewhere stands behind a bar: "valid|val".
    tests: names of the sets that may take the place of "test".
    folders: below the data set's, where the files may be, the first that has the first of them.
    empty: the training part has lines without a sentence, whose pairs are left out in training.
    """

    parts: Mapping[str, Sequence[str]]
    tests: Sequence[str] = ()
    folders: Sequence[str] = ("",)
    empty: bool = False

    def __call__(self, spec: Spec, *, data: Path, download: bool) -> tuple[Texts, str]:
        from lskd.data.text.texts import Texts

        assert spec.text is not None  # of every data set of text
        root, languages = data / spec.name, (spec.text.source, spec.text.target)
        if not root.is_dir():
            raise _no_data(spec, root)
        places = [root / folder for folder in self.folders]
        first = self.parts["train"][0]
        place = next((one for one in places if _stem(one, first, languages[0]) is not None), places[0])
        names = {**self.parts, **{name: (name,) for name in self.tests}}
        parts = {
            part: _part(place, files, languages, empty=self.empty and part == "train") for part, files in names.items()
        }
        return Texts(spec.kind, parts, spec.text), f"text in {place}"


@dataclass(frozen=True)
class MultiNLI:
    """MultiNLI as published, JSON Lines in `data`/NAME or in the folder `folder` below it; pairs without a label are
    left out. parts, tests: the file of each."""

    parts: Mapping[str, str]
    tests: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""

    def __call__(self, spec: Spec, *, data: Path, download: bool) -> tuple[Texts, str]:
        from lskd.data.text.lines import read_jsonl
        from lskd.data.text.texts import PAIR, Sentences, Texts

        assert spec.text is not None  # of every data set of text
        root = data / spec.name
        if not root.is_dir():
            raise _no_data(spec, root)
        root = root / self.folder if (root / self.folder / self.parts["train"]).is_file() else root
        numbers, parts = {name: number for number, name in enumerate(spec.class_names)}, {}
        for part, name in {**self.parts, **self.tests}.items():
            first, second, labels = read_jsonl(root / name, numbers)
            parts[part] = Sentences(dict(zip(PAIR, (first, second), strict=True)), labels)
        return Texts(spec.kind, parts, spec.text, spec.class_names), f"JSON Lines in {root}"


def read_folder(path: Path, translation: str, vocab: int) -> tuple[Texts, str]:
    """A user's own translation, and its source in words. translation: from which language into which, "en-de"; the
    files are train.en and train.de, test.en and test.de (or several, test_2016.en, of which the first in alphabetical
    order is usual), and perhaps a validation part: val, valid, validation or dev."""
    from lskd.data.folders import TEST, assign_parts
    from lskd.data.text.texts import Texts

    source, dash, target = translation.partition("-")
    if not (dash and source and target):
        raise InputError(
            f"translation = {translation!r}: must be two languages, the endings of the files, such as en-de"
        )
    for language in (source, target):
        check_language(language, "translation")
    text = Text(source, target, vocab=vocab)
    if not path.is_dir():
        raise InputError(f"{path}: {'not a folder' if path.exists() else 'not there'}")
    stems = {
        one.name.removesuffix(f".{language}") for language in (source, target) for one in path.glob(f"[!.]*.{language}")
    }
    if "train" not in stems:
        raise InputError(f"{path}: no train.{source}: must hold train.{source} and train.{target}, a sentence a line")
    tests = sorted(name for name in stems if name.startswith(TESTS))
    usual = TEST if TEST in tests else next(iter(tests), "")
    found = assign_parts([*(stems - set(tests)), *([TEST] if tests else [])], path)
    names = {part: usual if name == TEST else name for part, name in found.items()}
    names |= {name: name for name in tests if name != usual}
    parts = {part: _part(path, (name,), (source, target), empty=False) for part, name in names.items()}
    return Texts("translation", parts, text), f"text in {path}"


def _no_data(spec: Spec, root: Path) -> InputError:
    origin = DATASETS[spec.name].origin
    return InputError(f"{spec.name}: no data: {root} is not there" + (f"; {origin}" if origin else ""))


def _part(place: Path, files: Sequence[str], languages: Sequence[str], *, empty: bool) -> Sentences:
    """The files of a part, one after the other."""
    from lskd.data.text.lines import Lines, read_lines
    from lskd.data.text.texts import Sentences, check_aligned

    pieces: dict[str, list[bytes]] = {language: [] for language in languages}
    for names in files:
        paths = {
            language: _stem(place, names, language) or place / f"{names.split('|')[0]}.{language}"
            for language in languages
        }
        lines = {path: read_lines(path, empty=empty) for path in paths.values()}
        check_aligned(lines)
        for language, path in paths.items():
            content = lines[path].encoded()
            if SUBWORDS.encode() in content[:100_000]:
                rule = "lskd learns them itself: give the text before that (of fairseq's scripts, the folder tmp)"
                raise InputError(f"{path}: is cut into subwords ({SUBWORDS.strip()}): {rule}")
            pieces[language].append(content)
    return Sentences({language: Lines.of_bytes(b"".join(of)) for language, of in pieces.items()})


def _stem(place: Path, names: str, language: str) -> Path | None:
    """The file of a language under one of its `names`."""
    paths = (place / f"{name}.{language}" for name in names.split("|"))
    return next((path for path in paths if path.is_file()), None)
