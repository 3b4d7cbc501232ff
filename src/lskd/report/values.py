"""What the store holds for the cells of a grid: numbers by seed, and their summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lskd.config import Observation, Run
from lskd.errors import InputError
from lskd.plan import OBSERVED, Cell, Grid, Metric
from lskd.report import statistics
from lskd.store import RESTORE, Store, wrong_numbers

T = TypeVar("T")


class Values:
    """The numbers of runs, from the store. Each record is read once, however many cells and claims look at it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._records: dict[str, dict[str, Any] | None] = {}
        self._observed: dict[tuple[str, str], dict[str, Any] | None] = {}
        self._epochs: dict[str, list[dict[str, Any]]] = {}
        self.damaged: dict[str, None] = {}  # what cannot be used, and is left out, a line each that says what to do

    def record(self, run: Run) -> dict[str, Any] | None:
        """The record of a finished run, or None."""
        if run.id not in self._records:
            self._records[run.id] = self._whole(self.store.result, run)
        return self._records[run.id]

    def _whole(self, read: Callable[..., T], *what: Any) -> T | None:
        """What `read` gives; None for what is damaged, which is noted."""
        try:
            return read(*what)
        except InputError as error:
            self.damaged[str(error)] = None
            return None

    def observed(self, run: Run, observation: Observation) -> dict[str, Any] | None:
        """The record of what an observer saw of a run, or None."""
        key = run.id, observation.key
        if key not in self._observed:
            self._observed[key] = self._whole(self.store.observed, run, observation)
        return self._observed[key]

    def looks(self, run: Run, observation: Observation) -> list[dict[str, Any]]:
        """The looks in it; none if there is none."""
        return (self.observed(run, observation) or {}).get("looks", [])

    def epochs(self, run: Run) -> list[dict[str, Any]]:
        """The log of a run."""
        if run.id not in self._epochs:
            self._epochs[run.id] = self._whole(self.store.epochs, run) or []
        return self._epochs[run.id]

    def seen_again(self, run: Run, observation: Observation | None) -> bool:
        """Whether an observer saw another training of the run than the one of its record, with other last bits."""
        seen = None if observation is None else self.observed(run, observation)
        record = self.record(run)
        return record is not None and seen is not None and seen["weights_sha256"] != record.get("weights_sha256")

    def done(self, run: Run, observation: Observation | None = None) -> bool:
        """Whether the run is finished (and has been looked at)."""
        return self.record(run) is not None and (observation is None or self.observed(run, observation) is not None)

    def of(self, grid: Grid, cell: Cell, metric: Metric | None = None) -> dict[int, float]:
        """The metric (the cell's own unless another is given) of each finished run of the cell, by its seed.

        A cell whose teacher has a fixed seed holds one run several times; by seed it counts once.
        """
        metric = metric or cell.metric
        numbers = {}
        for run in cell.runs:
            record = self.record(run)
            if record is not None:
                try:
                    if metric.name in OBSERVED:
                        assert grid.observation is not None  # see `plan.check_observed`
                        number = metric.observed(run, self.looks(run, grid.observation))
                    elif metric.at_epoch is not None:
                        number = metric.logged(run, record, self.epochs(run))
                    else:
                        number = metric.of(run, record)
                    wrong = number is not None and next(wrong_numbers(number, metric.name), None)
                except (AttributeError, KeyError, TypeError) as error:
                    number, wrong = None, f"it has no {metric.name} ({error})"
                if wrong:
                    path = self.store.directory(run)
                    self.damaged[f"{path}: what it says of a run is damaged: {wrong}; {RESTORE}"] = None
                elif number is not None:
                    numbers[run.seed] = number
        return numbers

    def diagrams(self, cell: Cell) -> dict[int, list[list[float]]]:
        """The reliability bins of each finished run of a cell that shows a calibration error, by its seed."""
        records = {run.seed: (run, self.record(run)) for run in cell.runs}
        bins = {seed: cell.metric.reliability(run, record) for seed, (run, record) in records.items() if record}
        return {seed: diagram for seed, diagram in bins.items() if diagram is not None}

    def last_looks(self, grid: Grid, cell: Cell) -> dict[int, dict[str, Any]]:
        """The last look of the sheet's observer at each finished run of the cell, by its seed."""
        assert grid.observation is not None  # see `Sheet`
        looks = {run.seed: self.looks(run, grid.observation) for run in cell.runs if self.done(run)}
        return {seed: seen[-1] for seed, seen in looks.items() if seen}

    def x(self, grid: Grid, cell: Cell) -> dict[int, float]:
        """Where the cell's runs stand on the horizontal axis of a figure, by seed."""
        if grid.sheet.x is not None:
            return self.of(grid, cell, grid.sheet.x)
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
    last_looks: Mapping[int, dict[str, Any]] = field(default_factory=dict)  # what an observer saw, by seed, to draw it

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


def summarize(grid: Grid, cell: Cell, values: Values, *, with_paper: bool) -> Summary:
    sheet = grid.sheet
    paper, paper_sd = sheet.printed(cell.row, cell.column) if with_paper else (None, None)
    xs = list(values.x(grid, cell).values()) if sheet.x is not None else []
    runs = {run.id: run for run in cell.runs}
    return Summary(
        cell=cell,
        values=values.of(grid, cell),
        x=statistics.mean(xs) if xs else None if sheet.x is not None else cell.x,
        ids={run.seed: run.id for run in runs.values() if values.done(run, grid.observation)},
        wanted=len(runs),
        diverged=sum(values.store.state(run) == "diverged" for run in runs.values()),
        paper=paper,
        paper_sd=paper_sd,
        diagrams=values.diagrams(cell) if sheet.diagram == "reliability" else {},
        last_looks=values.last_looks(grid, cell) if sheet.diagram in ("projection", "matrix") else {},
    )
