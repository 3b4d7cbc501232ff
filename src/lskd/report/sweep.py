"""The jobs of a sweep (-m) in one table: what differs between them, what came out, and of which runs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lskd.errors import InputError
from lskd.files import write_atomically
from lskd.launch.status import Standing
from lskd.report.runs import METRICS, as_csv, as_text, frame, grouped, seeds, varying
from lskd.run import Run
from lskd.snapshot import Record, Snapshot

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class _Asked(Snapshot):
    """A store of which some runs are looked at, be there records of them or not."""

    runs: Mapping[str, Run] | None = None

    def all_ids(self) -> list[str]:
        return list(self.runs or ())

    def record(self, id: str) -> Record:
        assert self.runs is not None
        found = None
        try:
            found = super().record(id)
        except InputError:  # damaged: `states` says how
            return Record(id, "damaged", self.runs[id].identity(), {}, {})
        return found or Record(id, "missing", self.runs[id].identity(), {}, {})


def states(found: Sequence[Standing]) -> dict[str, str]:
    """How each run is doing, by its id, in words: "done", or why it is not."""
    told: dict[str, str] = {}
    for one in found:  # those that others need come first
        needed = next((told[parent.id] for parent in one.run.parents if told.get(parent.id, "done") != "done"), "")
        if one.how == "blocked":
            told[one.run.id] = f"not run, for want of one that it needs: {needed}"
        else:
            how = "not run" if one.how == "missing" else one.how
            told[one.run.id] = ": ".join(filter(None, [how, one.told or one.job]))
    return told


def rows(store: Snapshot, asked: Sequence[tuple[str, Run]], states: Mapping[str, str]) -> pandas.DataFrame:
    """A line for each of the runs that were `asked` for, with the name of their experiment ("": none)."""
    import pandas

    found, _ = frame(_Asked(store.root, runs={run.id: run for _, run in asked}))
    found["state"] = found["id"].map(states)
    names = pandas.DataFrame({"experiment": [name for name, _ in asked], "id": [run.id for _, run in asked]})
    return names.merge(found, on="id", how="left", sort=False)


def table(parts: Sequence[pandas.DataFrame]) -> pandas.DataFrame:
    """A line for the runs that differ in their seeds alone: what tells it from the others, how many of them are done
    (n), of each metric the mean and the sample standard deviation of these, and their ids."""
    import pandas

    found = pandas.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    same = seeds(found)
    keys = [name for name in varying(found) if name not in same]
    if found["experiment"].nunique() > 1:
        keys = ["experiment", *keys]
    metrics = [name for name in METRICS if name in found and found[name].notna().any()]
    found["done"] = (found["state"] == "done").astype(float)
    shown = {"seed": found["seed"].nunique() > 1, "state": not found["done"].all(), "id": True}
    listed = [name for name in shown if shown[name]]
    lines = grouped(found, keys, ["done", *metrics], listed=listed)
    lines["n"] = (lines["n"] * lines["done.mean"]).round().astype(int)
    return lines.drop(columns=["done.mean", "done.sd"])


def as_markdown(table: pandas.DataFrame) -> str:
    escaped = table.map(lambda value: value.replace("|", r"\|") if isinstance(value, str) else value)
    return as_text(escaped, tablefmt="pipe")


def write(table: pandas.DataFrame, command: str, folder: Path) -> list[Path]:
    """table.md and table.csv in `folder`."""
    contents = {"table.md": f"# Sweep\n\n`{command}`\n\n{as_markdown(table)}\n", "table.csv": as_csv(table)}
    for name, content in contents.items():
        write_atomically(folder / name, functools.partial(Path.write_text, data=content, encoding="utf-8"))
    return [folder / name for name in contents]
