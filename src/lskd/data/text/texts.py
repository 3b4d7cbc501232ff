"""Data sets of text on disk: the content of `lskd.data.cache`, beside `Arrays` and `Index`, whose methods it has.

    train.de, train.en           UTF-8, a sentence a line; line N of one file is the translation of line N of the other
    train.first, train.second    or pairs of sentences, and
    train.labels.npy             (N,) int64, their labels
    test.…, validation.…         likewise, and further sets of sentences that may take the place of "test"

Rows stay in the order of the files, which is the same for everybody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lskd.data.dataset import PARTS, Dataset, EvaluationSet, Kind, Spec
from lskd.data.folders import Notes
from lskd.data.splits import count
from lskd.data.text.lines import Lines, read_bytes
from lskd.data.text.settings import Text
from lskd.errors import InputError

if TYPE_CHECKING:
    from lskd.data.text.corpus import Corpus

PAIR = ("first", "second")  # the sentences of a pair, which have no language


class Sentences(NamedTuple):
    """One part: of each language, or of each place in a pair, N lines; and the labels (N,) of pairs."""

    columns: dict[str, Lines]
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


class Texts(NamedTuple):
    """A whole data set of text: "train", "test", perhaps "validation", then the sets that may be "test" instead. text:
    the usual settings, of which the source and the target say how the columns are called."""

    kind: Kind
    parts: dict[str, Sentences]
    text: Text
    class_names: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return columns_of(self.kind, self.text)

    def labelled(self, dataset: Dataset, cache: Path) -> dict[str, tuple[Corpus, np.ndarray]]:
        """What a run on `dataset` sees of each part, and labels (N,): of a translation, which has no classes, zeros."""
        from lskd.data.text.encoding import encode

        assert dataset.text is not None  # `check` says so
        chosen = {name: part for name, part in self.parts.items() if name in PARTS}
        if dataset.text.test:
            chosen["test"] = self.parts[dataset.text.test]
        found = encode(
            self, dataset.text, [dataset.text.test or "test" if name == "test" else name for name in chosen], cache
        )
        labels = (
            np.zeros(len(part), dtype=np.int64) if part.labels is None else part.labels for part in chosen.values()
        )
        return dict(zip(chosen, zip(found, labels, strict=True), strict=True))

    def canonical(self) -> Texts:
        """The parts in their order, and the sets that may be "test" instead behind them by name."""
        order = [*(part for part in PARTS if part in self.parts), *sorted(self.parts.keys() - set(PARTS))]
        return self._replace(parts={part: self.parts[part] for part in order})

    def digest(self) -> str:
        """SHA-256 over the lines, whatever their ends were, and the labels, in canonical order."""
        sha = hashlib.sha256()
        for name, part in self.parts.items():
            for column in self.columns:
                sha.update(f"{name} {column} {len(part)}\n".encode())
                sha.update(part.columns[column].encoded())
            if part.labels is not None:
                sha.update(np.ascontiguousarray(part.labels, dtype="<i8").data)
        return sha.hexdigest()

    def describe(self, name: str) -> Spec:
        sizes = {part: len(content) for part, content in self.parts.items()}
        classes: tuple[tuple[int, ...], ...] = ()
        if self.kind == "pairs":
            of_parts = (content.labels for part, content in self.parts.items() if part in PARTS)
            classes = tuple(count(labels, len(self.class_names)) for labels in of_parts if labels is not None)
        return Spec(
            name=name,
            title=name,
            num_classes=self.text.vocab if self.kind == "translation" else len(self.class_names),
            shape=(),
            train=sizes.pop("train"),
            test=sizes.pop("test"),
            class_names=self.class_names,
            digest=self.digest(),
            validation=sizes.pop("validation", 0),
            class_sizes=classes,
            kind=self.kind,
            text=self.text,
            tests=tuple(EvaluationSet(part, size) for part, size in sizes.items()),
        )

    def inspect(self, name: str, *, built_in: bool) -> None:
        """Say which examples of other parts are among the training part; of what is built in that is known."""
        if built_in:
            return
        notes, seen = Notes(), dict[tuple[str, ...], int]()
        for part, content in self.parts.items():
            for row, example in enumerate(zip(*(content.columns[column] for column in self.columns), strict=True)):
                if part == "train":
                    seen.setdefault(example, row)
                elif example in seen:
                    notes.add(f"{part} pairs equal to a training pair", f"line {row + 1} = train {seen[example] + 1}")
        notes.log(name)

    def changes(self) -> str:
        """What is no longer as it was written, in words: the files are there, or they are damaged."""
        return ""

    # ---- in the cache ---------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the files that `file_names` names. Returns what else meta.json needs to say: nothing."""
        for name, part in self.parts.items():
            for column in self.columns:
                (folder / f"{name}.{column}").write_bytes(part.columns[column].encoded())
            if part.labels is not None:
                np.save(folder / f"{name}.labels.npy", part.labels)
        return {}

    @staticmethod
    def file_names(spec: Spec, meta: Mapping[str, Any]) -> list[str]:
        """The names of its files."""
        assert spec.text is not None  # of every data set of text
        columns = [*columns_of(spec.kind, spec.text), *(["labels.npy"] if spec.kind == "pairs" else [])]
        return [f"{part}.{column}" for part in parts_of(spec) for column in columns]

    @staticmethod
    def read(folder: Path, spec: Spec, meta: Mapping[str, Any], root: Path) -> Texts:
        assert spec.text is not None  # of every data set of text
        parts = {}
        for part in parts_of(spec):
            columns = {
                name: Lines.of_bytes(read_bytes(folder / f"{part}.{name}")) for name in columns_of(spec.kind, spec.text)
            }
            labels = np.load(folder / f"{part}.labels.npy", allow_pickle=False) if spec.kind == "pairs" else None
            parts[part] = Sentences(columns, labels)
        return Texts(spec.kind, parts, spec.text, spec.class_names)


def columns_of(kind: Kind, text: Text) -> tuple[str, ...]:
    """How the two sides are called, in an order that does not depend on which is translated into which."""
    return tuple(sorted((text.source, text.target))) if kind == "translation" else PAIR


def parts_of(spec: Spec) -> list[str]:
    return [*spec.parts, *(one.name for one in spec.tests)]


def check_aligned(columns: Mapping[Path, Sequence[str]]) -> None:
    """`InputError` unless the files of a part, which have these lines, have as many."""
    (one, lines), (other, its) = columns.items()
    if len(lines) != len(its):
        raise InputError(
            f"{one} has {len(lines):,} lines, and {other.name} {len(its):,}: must have as many: line N of one is the "
            "translation of line N of the other"
        )
