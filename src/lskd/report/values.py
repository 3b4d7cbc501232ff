"""What the store holds for the cells of a grid: numbers by seed, and their summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lskd.config import Run
from lskd.errors import InputError
from lskd.plan import Cell, Metric, Sheet
from lskd.report import statistics
from lskd.store import Store


class Values:
    """The numbers of runs, from the store. Each record is read once, however many cells and claims look at it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._records: dict[str, dict[str, Any] | None] = {}

    def record(self, run: Run) -> dict[str, Any] | None:
        """The record of a finished run, or None."""
        if run.id not in self._records:
            self._records[run.id] = self.store.result(run)
        return self._records[run.id]

    def done(self, run: Run) -> bool:
        return self.record(run) is not None

    def of(self, cell: Cell, metric: Metric | None = None) -> dict[int, float]:
        """The metric (the cell's own unless another is given) of each finished run of the cell, by its seed.

        A cell whose teacher has a fixed seed holds one run several times; by seed it counts once.
        """
        numbers = {}
        for run in cell.runs:
            record = self.record(run)
            if record is not None:
                try:
                    number = (metric or cell.metric).of(run, record)
                except (AttributeError, KeyError, TypeError):
                    path = self.store.directory(run) / "result.json"
                    raise InputError(f"{path}: is not a run's record; restore it, or delete its directory") from None
                if number is not None:
                    numbers[run.seed] = number
        return numbers

    def diagrams(self, cell: Cell) -> dict[int, list[list[float]]]:
        """The reliability bins of each finished run of a cell that shows a calibration error, by its seed."""
        records = {run.seed: (run, self.record(run)) for run in cell.runs}
        bins = {seed: cell.metric.reliability(run, record) for seed, (run, record) in records.items() if record}
        return {seed: diagram for seed, diagram in bins.items() if diagram is not None}

    def x(self, sheet: Sheet, cell: Cell) -> dict[int, float]:
        """Where the cell's runs stand on the horizontal axis of a figure, by seed."""
        if sheet.x is not None:
            return self.of(cell, sheet.x)
        return {} if cell.x is None else {run.seed: cell.x for run in cell.runs}


@dataclass(frozen=True)
class Summary:
    """A cell with its numbers, beside the number that the paper prints."""

    cell: Cell
    values: Mapping[int, float]  # by seed; only of finished runs that have the number
    x: float | None  # figures: mean over the seeds
    ids: Mapping[int, str]  # the ids of the finished runs, by seed
    wanted: int  # different runs that the cell needs
    diverged: int
    paper: float | None = None
    paper_sd: float | None = None
    diagrams: Mapping[int, list[list[float]]] = field(default_factory=dict)  # reliability bins, by seed

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float | None:
        return statistics.mean(self.values.values()) if self.values else None

    @property
    def sd(self) -> float | None:
        return statistics.standard_deviation(list(self.values.values())) if self.values else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean."""
        return statistics.one_sample(list(self.values.values())).interval() if self.values else None

    @property
    def delta(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.mean is None or self.paper is None else self.mean - self.paper

    @property
    def within(self) -> bool | None:
        """Whether the paper's number lies within our 95 % interval (the paper's own spread is not counted)."""
        if self.interval is None or self.paper is None:
            return None
        return self.interval[0] <= self.paper <= self.interval[1]


def summarize(sheet: Sheet, cell: Cell, values: Values, *, with_paper: bool) -> Summary:
    paper, paper_sd = sheet.printed(cell.row, cell.column) if with_paper else (None, None)
    xs = list(values.x(sheet, cell).values()) if sheet.x is not None else []
    runs = {run.id: run for run in cell.runs}
    return Summary(
        cell=cell,
        values=values.of(cell),
        x=statistics.mean(xs) if xs else None if sheet.x is not None else cell.x,
        ids={run.seed: run.id for run in runs.values() if values.done(run)},
        wanted=len(runs),
        diverged=sum(values.store.state(run) == "diverged" for run in runs.values()),
        paper=paper,
        paper_sd=paper_sd,
        diagrams=values.diagrams(cell) if sheet.diagram else {},
    )
