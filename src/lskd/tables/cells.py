"""Which cells a table has, and of which others the derived ones are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lskd.errors import InputError
from lskd.tables.derived import DERIVED

if TYPE_CHECKING:
    from lskd.tables.table import Table

Key = tuple[str, str]  # (row, column) of a cell
Groups = tuple[tuple[Key, ...], ...]  # `lskd.tables.derived`


def find_cells(table: Table) -> dict[Key, Groups]:
    """All cells that there are, in reading order, and of derived ones the groups of cells that they are made of."""
    found: dict[Key, Groups | None] = {}  # None: there is no such cell

    def exists(key: Key, path: tuple[Key, ...] = ()) -> bool:
        row, column = key
        if key in path:
            raise InputError(f"derive: the cell {row}/{column} would follow from itself")
        if key not in found:
            if column not in table.columns_of(row) or column in table.skip.get(row, ()):
                found[key] = None
            elif table.derivation(row, column) is None:
                found[key] = ()
            else:
                made_of = _groups(table, key, lambda other: exists(other, (*path, key)))
                there = bool(made_of) and all(exists(cell, (*path, key)) for group in made_of for cell in group)
                found[key] = made_of if there else None
        return found[key] is not None

    places = [(row, column) for row in table.rows for column in table.columns_of(row)]
    return {key: found[key] or () for key in places if exists(key)}


def _groups(table: Table, key: Key, exists: Callable[[Key], bool]) -> Groups:
    """The groups of a derived cell; none where it cannot be."""
    row, column = key
    derive = table.derivation(row, column)
    assert derive is not None
    by_row, kind = table.rows[row].derive is not None, DERIVED[derive.kind]
    lines, across, own = (table.rows, table.columns, column) if by_row else (table.columns, table.rows, row)
    of = [name for name, line in lines.items() if line.derive is None] if derive.lines == ("*",) else derive.lines

    def at(line: str, other: str = own) -> Key:
        return (line, other) if by_row else (other, line)

    if not kind.compares:
        return tuple((at(line),) for line in of)
    if kind.compares == "before":
        [one], columns = of, table.in_order(of[0])
        place = columns.index(own) if own in columns else 0
        return ((at(one), at(one, columns[place - 1])),) if place else ()
    if kind.compares == "than":
        if not kind.across:
            return tuple((at(line), at(derive.than)) for line in of)
        return tuple((at(line), at(line, derive.than)) for line in of) if derive.than != own else ()
    among = derive.among or [name for name, line in across.items() if line.derive is None]
    others = [name for name in among if name != own and all(exists(at(line, name)) for line in of)]
    return tuple((at(line), *(at(line, name) for name in others)) for line in of) if own in among else ()
