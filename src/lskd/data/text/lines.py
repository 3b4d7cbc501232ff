"""Files of text, a sentence a line, and MultiNLI's JSON Lines: read strictly, and held as they are: bytes.

A line ends with a line feed, or with a carriage return and a line feed (Windows); the last one may have no end. Other
characters at which some programs break lines are part of a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from lskd.errors import InputError

if TYPE_CHECKING:
    import numpy as np

BOM = b"\xef\xbb\xbf"  # which Windows' editors put at the beginning
NO_LABEL = "-"  # of the pairs of MultiNLI on which the annotators do not agree


class Lines(Sequence[str]):
    """N lines of text: `content` is UTF-8, and line i is from `begins[i]` to `ends[i]` in it, each (N,) int64."""

    def __init__(self, content: np.ndarray, begins: np.ndarray, ends: np.ndarray, *, lowercase: bool = False) -> None:
        self.content, self.begins, self.ends, self.lowercase = content, begins, ends, lowercase

    @classmethod
    def of_bytes(cls, content: bytes) -> Lines:
        """Of a text whose lines end with line feeds, all of them."""
        import numpy as np

        flat = np.frombuffer(content, dtype=np.uint8)
        ends = np.flatnonzero(flat == ord("\n")).astype(np.int64)
        begins = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1] + 1])[: len(ends)]
        return cls(flat, begins, ends)

    @classmethod
    def of(cls, lines: Iterable[str]) -> Lines:
        return cls.of_bytes("".join(f"{line}\n" for line in lines).encode())

    def __len__(self) -> int:
        return len(self.begins)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Lines: ...
    def __getitem__(self, index: int | slice) -> str | Lines:
        if isinstance(index, slice):
            return Lines(self.content, self.begins[index], self.ends[index], lowercase=self.lowercase)
        line = self.content[self.begins[index] : self.ends[index]].tobytes().decode()
        return line.lower() if self.lowercase else line

    def pick(self, rows: np.ndarray) -> Lines:
        """Those of `rows` (n,)."""
        return Lines(self.content, self.begins[rows], self.ends[rows], lowercase=self.lowercase)

    def in_lower_case(self) -> Lines:
        return Lines(self.content, self.begins, self.ends, lowercase=True)

    def pieces(self, size: int) -> Iterator[list[str]]:
        """All lines, `size` at a time."""
        for begin in range(0, len(self), size):
            yield list(self[begin : begin + size])

    def encoded(self) -> bytes:
        """UTF-8, each line with a line feed."""
        import numpy as np

        whole = len(self) and self.begins[0] == 0 and self.ends[-1] == len(self.content) - 1
        if whole and not self.lowercase and np.array_equal(self.begins[1:], self.ends[:-1] + 1):  # as they were read
            return self.content.tobytes()
        return "".join(f"{line}\n" for line in self).encode()


def read_lines(path: Path, *, empty: bool = False) -> Lines:
    """A file of text. `InputError` if it is not there, is not UTF-8, has no line or (unless `empty`) an empty one."""
    content = read_bytes(path)
    lines = Lines.of_bytes(content)
    if not empty:
        blank = [number for number, line in enumerate(content.split(b"\n")[:-1], start=1) if not line.strip()]
        if blank:
            more = f", and {len(blank) - 1} more" if len(blank) > 1 else ""
            raise InputError(f"{path}: line {blank[0]} is empty{more}: must have a sentence; remove it from both files")
    return lines


def read_bytes(path: Path) -> bytes:
    """A file that is UTF-8, with each line ending in a line feed."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: not there") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    content = content.removeprefix(BOM).replace(b"\r\n", b"\n")
    if not content:
        raise InputError(f"{path}: is empty: must have a sentence a line")
    if not content.endswith(b"\n"):
        content += b"\n"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        begin = content.rfind(b"\n", 0, error.start) + 1
        line, place = content.count(b"\n", 0, error.start) + 1, error.start - begin + 1
        wrong = f"byte {place} of line {line} is 0x{content[error.start]:02x}"
        raise InputError(f"{path}: not UTF-8: {wrong}; convert it: iconv -f ENCODING -t UTF-8") from None
    return content


def read_jsonl(path: Path, classes: Mapping[str, int]) -> tuple[Lines, Lines, np.ndarray]:
    """MultiNLI's published form: of each line sentence1, sentence2 and gold_label, as its number in `classes` (N,)
    int64. Pairs without one, on which the annotators do not agree, are left out. A line break in a sentence is a space.
    """
    import numpy as np

    first, second, labels = list[str](), list[str](), list[int]()
    for number, line in enumerate(read_bytes(path).split(b"\n")[:-1], start=1):
        where = f"{path}, line {number}"
        try:
            pair = json.loads(line)
            sentences = [" ".join(pair[key].split("\n")).replace("\r", " ") for key in ("sentence1", "sentence2")]
            label = pair["gold_label"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{where}: must be json with the texts sentence1, sentence2 and gold_label") from None
        if label == NO_LABEL:
            continue
        if label not in classes:
            allowed = f"{', '.join(classes)}, or {NO_LABEL} for none"
            raise InputError(f"{where}: gold_label = {label!r}: must be one of {allowed}")
        for sentence in sentences:
            if not sentence.strip():
                raise InputError(f"{where}: an empty sentence")
        first.append(sentences[0])
        second.append(sentences[1])
        labels.append(classes[label])
    if not labels:
        raise InputError(f"{path}: no pair has a label")
    return Lines.of(first), Lines.of(second), np.array(labels, dtype=np.int64)
