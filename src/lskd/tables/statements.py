"""From a test to its statements, each about definite cells: wildcards and lists spelled out, and everything checked."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from lskd.errors import InputError, require, unknown
from lskd.tables.chains import ALL, in_chain
from lskd.tables.claim import Operand, Statement, Term, Test
from lskd.tables.line import value_key

if TYPE_CHECKING:
    from lskd.tables.table import Table


def make(table: Table, test: Test, where: str = "") -> list[Statement]:
    """The parts of `test`; `InputError` unless the table has the cells that it is about."""
    kind = test.kind
    found: list[Statement] = []
    of_series = kind.about in ("row", "pairs", "steps")
    for of, than in test.operands:
        for term in of + than:
            _check(table, term, where)
        if of_series:
            found += _of_series(table, test, of, than, where)
        elif kind.about == "peak":
            found += _of_peak(table, test, of, where)
        else:
            found += _of_cells(table, test, of, than, where)
    wild = {term.wild for of, than in test.operands for term in of + than}
    chosen = not test.columns or "columns" in wild or kind.about == "peak"
    require(chosen, f"{where}.columns", list(test.columns), "given with row/* only")
    require(not test.rows or "rows" in wild, f"{where}.rows", list(test.rows), "given with */column only")
    ordered = kind.about in ("row", "steps") and table.kind == "figure"
    require(
        not test.through or ordered, f"{where}.through", list(test.through), "given with the order of a series only"
    )
    require(bool(found), where, str(test.of), "about cells that the table has")
    for statement in found:
        if not statement.coefficients:
            raise InputError(f"{where} = {test.of!r}: {' - '.join(map(str, statement.of))} is compared with itself")
    return found


def _check(table: Table, term: Term, where: str) -> None:
    """`InputError` unless the term is of this table."""
    if term.kind != "cell" or term.wild == "columns":
        if term.row not in table.rows:
            raise unknown(where, str(term), table.rows)
        require(term.kind != "x" or table.kind == "figure", where, str(term), "a cell; only figures have an x")
        chosen = term.kind != "best" or table.select is not None
        require(chosen, where, str(term), "in a table with `select`, the number by which the best is chosen")
    elif term.wild == "rows":
        rows = [term.at(key).row for key in in_chain(table.rows, term.chain)] if term.chain else list(table.rows)
        if not rows:
            raise unknown(where, str(term), {f"{row.rpartition('.')[0]}{ALL}/…" for row in table.rows if "." in row})
        known = {column for row in rows for column in table.columns_of(row)}
        if term.column not in known:
            raise unknown(where, str(term), known)
    elif not table.has(term.row, term.column):
        raise unknown(where, str(term), map("/".join, table.keys()))


def _of_cells(table: Table, test: Test, of: Operand, than: Operand, where: str) -> list[Statement]:
    """Comparisons, one for each key that the wildcards stand for."""
    kind, terms = test.kind, of + than
    at_x = [term for term in terms if term.kind == "x"]
    alone = len(of) == len(than) == len(at_x) == 1
    require(not at_x or alone, where, " - ".join(map(str, at_x)), "one operand, beside a cell that says at which x")
    if kind.direction and kind.than == "cells":
        for extreme in (term for term in terms if term.kind in ("max", "min")):
            trivial = len(terms) == 2 and all(term.row == extreme.row for term in terms)
            require(not trivial, where, str(extreme), "compared with a bound: no cell of its row lies beyond it")
    wild = {term.wild for term in terms if term.wild}
    require(len(wild) < 2, where, " and ".join(map(str, terms)), "wildcards of columns, or of rows, not of both")
    if not wild:
        return [Statement(test, of, than)]
    every = [term for term in terms if term.wild]
    keys = series(table, every[0], test, where, skipped=True)
    for term in every[1:]:
        same = set(keys) <= set(series(table, term, test, where, skipped=True))
        require(same, where, str(term), f"of what {every[0]} is of")
    existing = set(table.keys())
    kept = [k for k in keys if all((term.at(k).row, term.at(k).column) in existing for term in every)]
    return [Statement(test, tuple(t.at(key) for t in of), tuple(t.at(key) for t in than)) for key in kept]


def _of_series(table: Table, test: Test, of: Operand, than: Operand, where: str) -> list[Statement]:
    """Orders and associations: one part about the whole series; of not_rising and not_falling, one a step."""
    pairs = test.kind.about == "pairs"
    words = "row/* or */column" if pairs else "a whole row, as row/*, or the generations of a chain, as NAME.*/column"
    for operand in (of, than) if than else (of,):
        whole = len(operand) == 1 and bool(operand[0].wild)
        whole = whole and (pairs or operand[0].wild == "columns" or bool(operand[0].chain))
        require(whole, where, " - ".join(map(str, operand)), words)
    if than:
        alike = of[0].wild == than[0].wild and bool(of[0].chain) == bool(than[0].chain)
        require(alike, where, str(than[0]), f"of what {of[0]} is of")
        require(len(paired_keys(table, of[0], than[0], test)) > 3, where, str(of[0]), "at least four cells")
        return [Statement(test, of, than)]
    keys = series(table, of[0], test, where)
    along = in_chain(table.rows, of[0].chain) if of[0].chain else table.columns_of(of[0].row)
    require(len(keys) > 1, f"{where}.through", list(test.through), f"at least two of {along}")
    if test.kind.about == "row":
        require(len(keys) > 2, where, str(of[0]), "at least three cells; of two, one is greater or less")
        return [Statement(test, of)]
    cells = [(of[0].at(key),) for key in keys]
    return [Statement(test, later, earlier) for earlier, later in itertools.pairwise(cells)]


def _of_peak(table: Table, test: Test, of: Operand, where: str) -> list[Statement]:
    single = len(of) == 1 and of[0].kind == "cell" and not of[0].wild
    require(single, where, " - ".join(map(str, of)), f"a cell with {test.test}")
    others = [key for key in series(table, Term(of[0].row, "*"), test, where) if key != of[0].column]
    return [Statement(test, of, (Term(of[0].row, key),)) for key in others]


def series(table: Table, term: Term, test: Test, where: str = "", *, skipped: bool = False) -> list[str]:
    """The columns (or rows) that a wildcard stands for in `test`, in reading order; with `skipped`, those that do
    not exist, too."""
    existing = set(table.keys())
    if term.wild == "rows":
        rows = in_chain(table.rows, term.chain) if term.chain else list(table.rows)
        known, chosen = [row for row in rows if term.column in table.columns_of(term.at(row).row)], test.rows
    else:
        known, chosen = table.in_order(term.row), test.columns
        if test.through:
            chosen = tuple(map(value_key, test.through))
    for key in chosen:
        if key not in known:
            raise unknown(f"{where}.{'through' if test.through else term.wild}", key, known)
    taken = chosen or [key for key in known if term.chain or not table.is_derived(term.wild, key)]
    cells = [(key, term.at(key)) for key in known if key in taken]
    return [key for key, cell in cells if skipped or (cell.row, cell.column) in existing]


def paired_keys(table: Table, of: Term, than: Term, test: Test) -> list[str]:
    """The columns (or rows) at which both wildcards of an association have cells."""
    others = set(series(table, than, test))
    return [key for key in series(table, of, test) if key in others]


def places(table: Table, statement: Statement) -> list[tuple[str, str]]:
    """(row, column) of all cells that a part looks at, those of `of` first."""
    found: dict[tuple[str, str], None] = {}
    for term in statement.terms:
        if term.wild:
            keys = series(table, term, statement.test)
            if statement.than:
                keys = paired_keys(table, statement.of[0], statement.than[0], statement.test)
            found.update(dict.fromkeys((term.at(key).row, term.at(key).column) for key in keys))
        elif term.kind == "cell":
            found[term.row, term.column] = None
        else:
            found.update(dict.fromkeys(table.along(term.row)))
    return list(found)
