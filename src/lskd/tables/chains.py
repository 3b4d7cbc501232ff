"""Chains of generations (born-again networks) as a table's file says them, spelled out as rows.

    sd: {label: "SD", taught_by: ce, generations: 3}
        is sd.1, sd.2 and sd.3, each with these settings and taught by the one before, the first by ce
    gain: {label: "gained", derive: {kind: change, of: sd.*}}
        is gain.1 = sd.1 - ce, gain.2 = sd.2 - sd.1, gain.3 = sd.3 - sd.2
    over: {label: "over LS", derive: {kind: difference, of: sd.*, than: ls}}
        is over.1 = sd.1 - ls, over.2 = sd.2 - ls, over.3 = sd.3 - ls
    mean: {label: "mean", derive: {kind: mean, of: [sd.*, ls]}}
        is one row, of all of them

Nothing else knows of chains: rows called NAME.1, NAME.2, ... are rows like any others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lskd.errors import InputError, require, unknown
from lskd.schema import convert, show
from lskd.tables.derived import DERIVED

ALL = ".*"  # behind a chain's name: all its rows
OF_ROWS = ("skip", "cells", "paper", "replications")  # parts of a table that are given row by row


def chain_of(row: str) -> str:
    """The chain that all rows of which `row`, such as "sd.*", stands for; "" where it is the name of a row."""
    return row.removesuffix(ALL) if row.endswith(ALL) and row != ALL else ""


def in_chain(rows: Mapping[str, Any], chain: str) -> list[str]:
    """What is behind the dot in the names of a chain's rows, in reading order: "1", "2", ..."""
    return [row.removeprefix(f"{chain}.") for row in rows if row.startswith(f"{chain}.")]


def spelled_out(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A table's `content` with a row for each generation of its chains. `InputError` for what is no chain."""
    rows = content.get("rows")
    if not isinstance(rows, Mapping):
        return content
    figure = content.get("kind") == "figure"
    spelt: dict[str, dict[str, Any]] = {}
    for name, line in rows.items():
        chained = isinstance(line, Mapping) and "generations" in line
        if chained and figure:
            given = f"rows.{name}.generations = {show(line['generations'])}"
            raise InputError(f"{given}: is for rows of tables; in a figure give over: generation, values: [1, 2, 3]")
        spelt[name] = _chain(name, line) if chained else {name: line}
    for name, line in rows.items() if not figure else ():
        if isinstance(line, Mapping) and isinstance(line.get("derive"), Mapping):
            spelt[name] = _derived(name, line, _flat(spelt))
    for name, lines in spelt.items():
        for key in lines:
            require(key == name or key not in rows, f"rows.{key}", key, f"left out: it is a generation of {name}")
    found = _flat(spelt)
    of_rows = {key: _of_rows(value, found) for key, value in content.items() if key in OF_ROWS}
    return {**content, "rows": found, **of_rows}


def _flat(spelt: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {key: line for lines in spelt.values() for key, line in lines.items()}


def _chain(name: str, line: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of a chain: each has its settings, and is taught by the one before."""
    where = f"rows.{name}.generations"
    count = convert(int, line["generations"], where)
    require(count >= 1, where, count, ">= 1")
    run = line.get("run") or {}
    own = isinstance(run, Mapping) and "generations" in run
    require(not own and "derive" not in line, where, count, "given with settings of one network: no derive")
    found = {}
    for i in range(1, count + 1):
        kept = {key: value for key, value in line.items() if key != "generations"}
        kept |= {"label": _label(line, i), "run": {**run, "generations": 1} if isinstance(run, Mapping) else run}
        found[f"{name}.{i}"] = kept | ({"taught_by": f"{name}.{i - 1}"} if i > 1 else {})
    return found


def _label(line: Mapping[str, Any], generation: int | str) -> Any:
    """The label of one generation: where its `{generation}` stands, or behind it."""
    label = line.get("label")
    if not isinstance(label, str):
        return label
    there = "{generation}" in label
    return label.replace("{generation}", str(generation)) if there else f"{label}, generation {generation}"


def _derived(name: str, line: Mapping[str, Any], rows: Mapping[str, Any]) -> dict[str, Any]:
    """The row, with the rows of the chains that it is made of; or where its kind takes one row, a row for each
    generation. `rows` are all that are spelled out by now."""
    derive, where = line["derive"], f"rows.{name}.derive"
    kind = DERIVED.get(derive.get("kind"))
    if kind is None:
        return {name: line}
    if kind.many:
        of = derive.get("of")
        given = [of] if isinstance(of, str) else of if isinstance(of, (list, tuple)) else []
        if not any(isinstance(one, str) and chain_of(one) for one in given):
            return {name: line}
        spelt = [row for one in given for row in (_rows(one, rows, where) if isinstance(one, str) else [one])]
        return {name: {**line, "derive": {**derive, "of": spelt}}}
    sides = {key: derive[key] for key in ("of", "than") if isinstance(derive.get(key), str) and chain_of(derive[key])}
    before = kind.compares == "before"
    if before and "of" not in sides:
        raise InputError(f"{where}.of = {show(derive.get('of'))}: must be the generations of a row, as NAME.*")
    if not sides:
        return {name: line}
    chains = {key: _rows(of, rows, where) for key, of in sides.items()}
    if before:  # before the first is the row that taught it, if it is one
        first = rows[chains["of"][0]].get("taught_by")
        chains["than"] = [first, *chains["of"][:-1]]
        derive = {**derive, "kind": "difference"}
    lengths = {key: len(chain) for key, chain in chains.items()}
    require(len(set(lengths.values())) == 1, where, sides, f"chains of one length, not of {lengths}")
    found = {}
    for i, row in enumerate(next(iter(chains.values()))):
        own = {key: chain[i] for key, chain in chains.items()}
        if None not in own.values():
            key = row.rpartition(".")[2]
            found[f"{name}.{key}"] = {**line, "label": _label(line, key), "derive": {**derive, **own}}
    return found


def _rows(name: str, rows: Mapping[str, Any], where: str) -> list[str]:
    """The rows that a name stands for."""
    if not (chain := chain_of(name)):
        return [name]
    keys = in_chain(rows, chain)
    if not keys:
        raise unknown(where, name, dict.fromkeys(f"{row.rpartition('.')[0]}{ALL}" for row in rows if "." in row))
    return [f"{chain}.{key}" for key in keys]


def _of_rows(given: Any, rows: Mapping[str, Any]) -> Any:
    """What is given for NAME.*, for each of its rows; what is given for one of them stays."""
    if not isinstance(given, Mapping):
        return given
    found: dict[str, Any] = {}
    for name, value in given.items():
        if (chain := chain_of(name)) and in_chain(rows, chain):
            found |= {f"{chain}.{key}": value for key in in_chain(rows, chain) if f"{chain}.{key}" not in given}
        else:
            found[name] = value
    return found
