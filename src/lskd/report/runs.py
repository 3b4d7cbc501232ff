"""The runs of a store as one table: a line a run, a column for each setting, each metric, and where it was trained."""

from __future__ import annotations

import contextlib
import difflib
import json
import marshal
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from lskd.collector import collector_off
from lskd.compose import SHORT
from lskd.errors import InputError
from lskd.networks import PEERS, of_networks
from lskd.run import (
    ENGINE_VERSION,
    LINEAGE,
    PARTS,
    REGISTERED,
    described_part,
    first_of_chain,
    id_of,
    part_of,
    part_without_code,
    parts_of,
    peers_of,
    settings_of_part,
)
from lskd.schema import show, unfolded
from lskd.snapshot import Record, Snapshot

if TYPE_CHECKING:
    import pandas

# What is printed of a run, where nothing else is asked for: as measured on the part that its data set names, after the
# last epoch.
METRICS = ("top1", "nll", "ece15", "gamma")

_NAMES = {name: f"{name}.name" for name in ("dataset", *REGISTERED)}
_NAMES |= {name: f"{name}.arch.name" for name in ("teacher", *PEERS)}


OF_RUNS = ("seed", "data_seed", "teacher_mode", "streams", "peer_views", "generations")  # settings of no part
_OF_OTHERS = re.compile(rf"((?:(?:{'|'.join((*LINEAGE, *PEERS))})\.)*)(.*)")  # whose a column is, and of what


class Settings:
    """The settings of many runs, from their identities, and where they were trained. What many have, such as a recipe,
    is parsed once."""

    def __init__(self) -> None:
        self._environments: dict[bytes, dict[str, Any]] = {}
        self._parts: dict[bytes, tuple[dict[str, Any], bool]] = {}
        self._parents: dict[tuple[str, bytes], tuple[dict[str, Any], bool]] = {}

    def of(self, identity: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Every setting of a run with its value (`Run.settings`), and whether the code that is here would train that
        run. What this code does not know (another version's, a plug-in's) is given as it was recorded."""
        first, place = first_of_chain(identity)
        if place > 1:
            values, ours = self.of(first)
            return {**values, "generations": place, "teacher.id": id_of(identity["teacher"])}, ours
        parts = parts_of(identity)
        key = marshal.dumps(parts, 2)  # quicker than JSON; without references, which would tell equal parts apart
        if key not in self._parts:
            parsed = [self._parsed(name, described) for name, described in parts.items()]
            self._parts[key] = {k: v for part, _ in parsed for k, v in part.items()}, all(ours for _, ours in parsed)
        values, ours = self._parts[key]
        values, ours = dict(values), ours and identity.get("engine", 1) == ENGINE_VERSION
        values["seed"] = identity["seed"]
        values["teacher_mode"] = identity.get("teacher_mode", "eval")
        values["streams"] = identity.get("streams", "shared")
        values["data_seed"] = identity.get("data_seed")
        peers = peers_of(identity)
        if peers:
            values["peer_views"] = identity.get("peer_views", "same")
        others: dict[str, Any] = {**{name: identity.get(name) for name in LINEAGE}, **peers}
        for name, parent in others.items():
            if parent is not None:
                its, is_ours = self._of_relative(name, parent)
                values |= its
                ours = ours and is_ours
        return values, ours

    def _of_relative(self, name: str, parent: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """The same of another run that it needs, under its `name`, with its id. Most teachers have many students."""
        key = name, marshal.dumps(dict(parent), 2)
        if key not in self._parents:
            values, ours = self.of(parent)
            values["id"] = id_of(parent)
            self._parents[key] = {f"{name}.{key}": value for key, value in values.items()}, ours
        return self._parents[key]

    def environment(self, env: dict[str, Any]) -> dict[str, Any]:
        """What env.json says, by column."""
        key = marshal.dumps(env, 2)
        if key not in self._environments:
            flat = {f"env.{name}": value for name, value in unfolded(env).items() if not isinstance(value, list)}
            self._environments[key] = flat
        return self._environments[key]

    @staticmethod
    def _parsed(name: str, described: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        kept = part_without_code(described)
        try:
            part = part_of(name, kept)
            values, ours = settings_of_part(name, part), described_part(name, part) == described
        except InputError:
            values, ours = {f"{name}.{key}": value for key, value in unfolded(kept).items()}, False
        return {key: _hashable(value) for key, value in values.items()}, ours


def _hashable(value: Any) -> Any:
    """A value by which runs can be grouped."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_hashable, value))
    return show(value) if isinstance(value, Mapping) else value


@collector_off()  # records have no cycles: looking for some takes a tenth of the time
def frame(store: Snapshot) -> tuple[pandas.DataFrame, list[str]]:
    """All runs of the store (see `lskd.runs`), and what of them is damaged and left out, a line each."""
    import numpy as np
    import pandas

    settings, rows, damaged = Settings(), [], []
    for id in store.all_ids():
        try:
            if (record := store.record(id)) is not None:
                rows.append(_row(record, settings))
        except InputError as error:
            damaged.append(str(error))
    names = sorted({name: None for row in rows for name in row}, key=_place)
    columns = {name: np.full(len(rows), math.nan, object) for name in names}
    for place, row in enumerate(rows):
        for name, value in row.items():
            if value is not None:
                columns[name][place] = value
    return pandas.DataFrame(columns).infer_objects().copy(), damaged  # in one piece


def _row(record: Record, settings: Settings) -> dict[str, Any]:
    values, ours = settings.of(record.config)
    row = {"id": record.id, "state": record.state, "other_code": not ours, **values}
    result = {key: value for key, value in record.result.items() if key not in ("id", "run", "start", *LINEAGE)}
    last = result.get("last", {}).get(values["dataset.evaluate"], {})
    numbers = {**last, **unfolded(result)}
    for name, one in of_networks(result).items():
        its = {**one.get("last", {}).get(values["dataset.evaluate"], {}), **unfolded(one)}
        numbers |= {f"{name}.{key}": value for key, value in its.items() if key not in ("run", "start")}
    row |= {name: value for name, value in numbers.items() if not isinstance(value, (list, dict))}
    return row | settings.environment(record.env)


def _place(name: str) -> tuple[int, int]:
    """Where a column stands: what the run is, its settings, its teachers', what came out, where."""
    first = ["id", "state", "other_code"]
    if name in first:
        return first.index(name), 0
    whose, setting = _OF_OTHERS.match(name).groups()  # type: ignore[union-attr]  # it matches everything
    head = setting.partition(".")[0]
    if head in (*PARTS, "id", *OF_RUNS):
        return 10 + whose.count("."), 0
    return (100 if name in METRICS else 102 if head == "env" else 101), 0


# ---- what is asked of it on the command line ----------------------------------------------------------------------


def chosen(runs: pandas.DataFrame, filters: Iterable[str]) -> pandas.DataFrame:
    """The runs for which all filters hold: KEY=VALUE, KEY=VALUE,VALUE (one of them), KEY!=…, KEY<NUMBER (<=, >, >=).
    A KEY is a column or a short name of `lskd-run` (temperature, alpha, teacher=mlp); null is a setting without a
    value, and one that a run does not have."""
    import pandas

    for word in filters:
        parsed = re.fullmatch(r"([^=!<>]+)(=|!=|<=|>=|<|>)(.*)", word)
        if parsed is None:
            raise InputError(f"{word}: must be KEY=VALUE, KEY!=VALUE, KEY<NUMBER or KEY>NUMBER, as in method.name=kd")
        key, sign, wanted = parsed.groups()
        column = runs[column_of(key, runs)]
        if sign in ("=", "!="):
            values = [_read(value) for value in re.split(r",(?![^\[]*\])", wanted)]
            holds = column.map(lambda value, values=values: any(_is(value, one) for one in values)).astype(bool)
            runs = runs[holds if sign == "=" else ~holds]
            continue
        limit, numbers = _read(wanted), pandas.to_numeric(column, errors="coerce")
        if not isinstance(limit, (int, float)) or isinstance(limit, bool):
            raise InputError(f"{word}: {sign} must be followed by a number")
        runs = runs[{"<": numbers.lt, "<=": numbers.le, ">": numbers.gt, ">=": numbers.ge}[sign](limit)]
    return runs


def column_of(key: str, runs: pandas.DataFrame) -> str:
    """The column that a name stands for: its own, or a short one that `lskd-run` knows."""
    whose, own = _OF_OTHERS.match(key).groups()  # type: ignore[union-attr]  # it matches everything
    name = whose + SHORT.get(own, _NAMES.get(own, own))
    if name in runs:
        return name
    near = difflib.get_close_matches(name, map(str, runs.columns), n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"{key}: is no column of these runs; {hint}--runs --csv has all of them")


def _read(text: str) -> Any:
    """A value as it was typed."""
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return {"True": True, "False": False, "None": None, "": None}.get(text, text)


def _is(value: Any, wanted: Any) -> bool:
    if isinstance(value, float) and math.isnan(value):
        return wanted is None
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(wanted, bool) or isinstance(value, (bool,)):
        return value is wanted
    return bool(value == wanted or str(value) == str(wanted))


def varying(runs: pandas.DataFrame) -> list[str]:
    """The settings in which the runs differ, but for those that follow from others: runs without a teacher have none of
    a teacher's settings, and other settings belong to other networks, methods and data sets."""
    columns = {name: _filled(runs[name]) for name in runs.columns if is_setting(name)}
    everyone = [""] * len(runs)
    found = []
    for name, values in columns.items():
        prefix, setting = _OF_OTHERS.match(name).groups()  # type: ignore[union-attr]  # it matches everything
        head = setting.partition(".")[0]
        taught = columns[f"{prefix}arch.name"] if prefix and setting != "arch.name" else everyone
        kinds = everyone if setting.endswith(".name") else columns.get(f"{prefix}{head}.name", everyone)
        pairs = {(kind, value) for kind, value, one in zip(kinds, values, taught, strict=True) if one != _NONE}
        if len(pairs) > len({kind for kind, _ in pairs}):
            found.append(name)
    return found


def _filled(column: Iterable[Any]) -> list[Any]:
    """The values of a column, with a word for what is missing, which is equal to itself."""
    return [_NONE if value != value else value for value in column]


_NONE = "null"


def is_setting(name: str) -> bool:
    """Whether a column is a setting of the runs, or of their teachers and peers."""
    whose, setting = _OF_OTHERS.match(name).groups()  # type: ignore[union-attr]  # it matches everything
    return "started_from" not in whose and setting.partition(".")[0] in (*PARTS, *OF_RUNS)


def grouped(
    runs: pandas.DataFrame, keys: Sequence[str], metrics: Sequence[str], listed: Sequence[str] = ()
) -> pandas.DataFrame:
    """A line for the runs that agree in `keys`: how many they are, and of each metric its mean and sample standard
    deviation; of the columns `listed` all values. What a run does not have is a value like others: no run is left
    out."""
    import pandas

    lines: dict[tuple[Any, ...], list[int]] = {}
    for place, values in enumerate(
        zip(*(_filled(runs[key]) for key in keys), strict=True) if keys else [()] * len(runs)
    ):
        lines.setdefault(values, []).append(place)
    rows = []
    for values in sorted(lines, key=lambda values: [_order(value) for value in values]):
        group = runs.iloc[lines[values]]
        row: dict[str, Any] = {"n": len(group)}
        for name in metrics:
            numbers = pandas.to_numeric(group[name], errors="coerce")
            row |= {f"{name}.mean": numbers.mean(), f"{name}.sd": numbers.std()}
        row |= {name: ", ".join(dict.fromkeys(map(str, group[name]))) for name in listed}
        rows.append(dict(zip(keys, values, strict=True)) | row)
    return pandas.DataFrame(rows)


def _order(value: Any) -> tuple[bool, bool, float, str]:
    """Numbers by their size, then words, then nothing."""
    number = isinstance(value, (int, float))
    return value == _NONE, not number, float(value) if number else 0.0, str(value)


def seeds(runs: pandas.DataFrame) -> list[str]:
    """The columns that tell the seeds of a run: its own, its teachers', and what follows from it of its peers."""
    return [
        name for name in runs.columns
        if not name.startswith("env.") and (name.rpartition(".")[2] in ("seed", "id") or name.endswith(".data_seed"))
    ]  # fmt: skip


def as_csv(runs: pandas.DataFrame) -> str:
    return runs.to_csv(index=False, lineterminator="\n")


def as_text(runs: pandas.DataFrame, tablefmt: str = "simple") -> str:
    """For a terminal: a mean and its standard deviation in one column, numbers in four digits."""
    shown: dict[str, list[str]] = {}
    for name in runs.columns:
        if name.endswith(".sd") and f"{name[:-3]}.mean" in runs:
            continue
        texts = [_cell(value) for value in runs[name]]
        metric = name.removesuffix(".mean")
        if metric != name and f"{metric}.sd" in runs:
            spread = [_cell(value) for value in runs[f"{metric}.sd"]]
            texts = [f"{mean} ± {sd}" if sd != "–" else mean for mean, sd in zip(texts, spread, strict=True)]
            name = metric
        shown[name] = texts
    return tabulate(shown, headers="keys", tablefmt=tablefmt, disable_numparse=True)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    if value == _NONE:
        return "–"
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
