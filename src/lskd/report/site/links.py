"""Where pages and their parts are: as files that link to one another, or all in one file."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

FOLDERS = {"experiment": "experiments", "run": "runs", "method": "methods", "recipe": "recipes"}


def anchor(*parts: str) -> str:
    """The id of an element, the same wherever it stands. Names may hold anything; an id and its link do not."""
    return "/".join(quote(part, safe="") for part in parts)


@dataclass(frozen=True)
class Address:
    """A page: its kind, and which of that kind."""

    kind: str
    name: str = ""

    @property
    def path(self) -> str:
        """Its file, below the site's folder."""
        if self.kind in FOLDERS:
            return f"{FOLDERS[self.kind]}/{quote(self.name, safe='')}.html"
        return f"{'index' if self.kind == 'start' else self.kind}.html"

    @property
    def id(self) -> str:
        """The id of its section, where all pages are in one file."""
        return anchor(*filter(None, [self.kind, self.name]))


@dataclass(frozen=True)
class Links:
    """The links of a page `here`. one_file: all pages stand in one file, each a section of it."""

    here: Address
    one_file: bool = False

    def to(self, kind: str, name: str = "", part: str = "") -> str:
        """The address of a page, or of a part of it, whose `anchor` is given."""
        there = Address(kind, name)
        if self.one_file:
            return f"#{part or there.id}"
        return (self.file(there.path) if there != self.here or not part else "") + (f"#{part}" if part else "")

    def file(self, path: str) -> str:
        """The address of a file of the site."""
        return "../" * self.here.path.count("/") + quote(path)
