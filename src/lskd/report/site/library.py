"""All that the pages of a site are about: experiments, claims, runs and recipes, and where each is."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lskd.commands import Commands
from lskd.config_groups import Conf
from lskd.errors import InputError
from lskd.methods import METHODS, Method
from lskd.metrics import METRICS, Measured
from lskd.quantity import Quantity
from lskd.recipe import Recipe
from lskd.report import Report
from lskd.report.claims import Finding
from lskd.report.filled import FilledTable
from lskd.report.index import Entry
from lskd.report.site.links import anchor
from lskd.report.values import Summary, Values
from lskd.run import Run
from lskd.snapshot import Snapshot
from lskd.store import Store

NOBODY = "Questions of our own"  # where a paper's name would stand


@dataclass(frozen=True)
class Place:
    """Where in the tables a run's number stands."""

    filled: FilledTable
    cell: Summary

    @property
    def experiment(self) -> str:
        return self.filled.experiment.name

    @property
    def id(self) -> str:
        return cell_id(self.filled, self.cell)

    @property
    def label(self) -> str:
        return place_of(self.filled, self.cell)


def name_of(entry: Entry) -> str:
    """Such as "Müller 2019, C10"; of no paper's "Q1"."""
    return ", ".join(filter(None, [entry.filled.paper, entry.finding.claim.id]))


def table_id(filled: FilledTable) -> str:
    return anchor("table", filled.experiment.name, filled.table.name)


def cell_id(filled: FilledTable, cell: Summary) -> str:
    return anchor("cell", filled.experiment.name, filled.table.name, cell.cell.row, cell.cell.column)


def claim_id(filled: FilledTable, finding: Finding) -> str:
    return anchor("claim", filled.experiment.name, filled.table.name, finding.claim.id)


def evaluated() -> dict[str, Quantity]:
    """What every evaluation of a network measures."""
    return {name: quantity for name, quantity in METRICS.items() if isinstance(quantity, Measured)}


class Library:
    """All that there is to write about, and who refers to whom."""

    def __init__(self, reports: Sequence[Report], store: Store, conf: Conf, *, whole: bool = True) -> None:
        """`whole`: of all experiments, so that runs of none of them have pages, too."""
        self.reports = sorted(reports, key=lambda report: report.plan.experiment.name)
        self.store, self.conf = Snapshot.of(store), conf
        self.values, self.commands = Values(self.store), Commands(conf)
        self.runs = {run.id: run for report in reports for run in report.plan.runs if self._is_here(run)}
        self.planned = {run.id for report in reports for run in report.plan.runs}
        if whole:
            for id, config in self.store.configs():
                if id not in self.planned and (run := _restored(config)) is not None:
                    self.runs[id] = run
        self.students: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs.values():
            if run.teacher is not None:
                self.students[run.teacher.id].append(run)
        self.places: dict[str, list[Place]] = defaultdict(list)
        for filled in self.tables:
            for cell in filled.cells:
                for id in dict.fromkeys(cell.ids.values()):
                    self.places[id].append(Place(filled, cell))
        self.entries = sorted((Entry(f, finding) for f in self.tables for finding in f.findings), key=lambda e: e.order)

    def _is_here(self, run: Run) -> bool:
        return self.values.done(run) or self.store.failure(run) is not None

    @functools.cached_property
    def done(self) -> int:
        """How many runs are finished."""
        return sum(self.values.done(run) for run in self.runs.values())

    @property
    def tables(self) -> Iterator[FilledTable]:
        return (filled for report in self.reports for filled in report.tables)

    @functools.cached_property
    def methods(self) -> dict[str, Method]:
        """Those that there are; a plug-in's among them."""
        return dict(sorted(METHODS.items()))

    @functools.cached_property
    def recipes(self) -> dict[str, Recipe]:
        """By name, as their files have them. What is none by itself (a part of others) is left out."""
        from lskd.schema import parse

        found = {}
        for name in self.conf.names("recipe"):
            try:
                found[name] = parse(Recipe, self.conf.load("recipe", name), f"recipe.{name}")
            except InputError:
                continue
        return found


def _restored(config: Mapping[str, Any]) -> Run | None:
    """The run of a config.json; None where the code that is here makes another one of it."""
    try:
        return Run.of(config)
    except (InputError, KeyError, TypeError):
        return None


def has_runs(cell: Summary) -> bool:
    """Whether there are runs behind it; behind a derived one, other cells."""
    return bool(cell.ids or cell.values)


def place_of(filled: FilledTable, cell: Summary) -> str:
    return f"{filled.row_label(cell.cell.row)} / {filled.column_label(cell)}"
