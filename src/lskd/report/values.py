"""What the store holds for the cells of a grid: numbers by seed, and their summary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lskd.config import Observation, Run
from lskd.errors import InputError
from lskd.observers import OBSERVERS
from lskd.plan import Cell, Grid, Metric, Printed, observed
from lskd.report import statistics
from lskd.store import RESTORE, Store, wrong_numbers

T = TypeVar("T")

RATES = ("top1", "error", "top5")  # metrics that are rates of images, in percent


class Values:
    """The numbers of runs, from the store. Each record is read once, however many cells and claims look at it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._records: dict[str, dict[str, Any] | None] = {}
        self._observed: dict[tuple[str, str], dict[str, Any] | None] = {}
        self._epochs: dict[str, list[dict[str, Any]]] = {}
        self._diverged: dict[str, bool] = {}
        self._joint: dict[tuple[Any, ...], dict[int, float]] = {}  # numbers that follow from all runs of a cell
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

    def diverged(self, runs: Collection[Run]) -> int:
        """How many of the runs have diverged."""
        for run in runs:
            if run.id not in self._diverged:
                self._diverged[run.id] = self.store.state(run) == "diverged"
        return sum(self._diverged[run.id] for run in runs)

    def of(self, grid: Grid, cell: Cell, metric: Metric | None = None) -> dict[int, float]:
        """The metric (the cell's own unless another is given) of each finished run of the cell, by its seed.

        A cell whose teacher has a fixed seed holds one run several times; by seed it counts once.
        """
        metric = metric or cell.metric
        observer = observed().get(metric.name)
        if observer is not None and OBSERVERS[observer].over_runs:
            return self._over_runs(grid, cell, metric)
        numbers = {}
        for run in cell.runs:
            record = self.record(run)
            if record is not None:
                try:
                    if observer is not None:
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

    def _over_runs(self, grid: Grid, cell: Cell, metric: Metric) -> dict[int, float]:
        """The numbers that follow from looks at all runs of the cell; none of fewer than two. Computed once."""
        assert grid.observation is not None  # see `plan.check_observed`
        key = (tuple(run.id for run in cell.runs), grid.observation.key, metric.name, metric.part, metric.step)
        if key not in self._joint:
            looks: dict[int, Any] = {}
            for run in cell.runs:
                look = metric.seen(run, self.looks(run, grid.observation)) if self.done(run) else None
                # What does not fit the first of them, or itself, is damaged.
                if look is not None and self._joined(grid, metric, run, [*list(looks.values())[:1], look]):
                    looks[run.seed] = look
            found = self._joined(grid, metric, cell.runs[0], list(looks.values())) if len(looks) > 1 else None
            self._joint[key] = dict(zip(looks, found, strict=True)) if found else {}
        return self._joint[key]

    def _joined(self, grid: Grid, metric: Metric, run: Run, looks: list[Any]) -> list[float] | None:
        """The numbers of `looks`, the last of which is the run's; None of what is damaged, which is noted."""
        assert grid.observation is not None
        try:
            numbers: list[float] = grid.observation.settings.numbers(metric.name, looks)
            return numbers
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            path = self.store.directory(run)
            self.damaged[f"{path}: what was seen of a run is damaged: no {metric.name} ({error}); {RESTORE}"] = None
            return None

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
    printed: Printed | None = None  # by the paper; None where the protocol is not the paper's
    replications: Sequence[Printed] = ()  # by others
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
    def paper(self) -> float | None:
        """The paper's number, where it is one."""
        value = None if self.printed is None else self.printed.value
        return value if isinstance(value, (int, float)) else None

    @property
    def delta(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.mean is None or self.paper is None else self.mean - self.paper

    @property
    def split_variance(self) -> float:
        """What a held-out part that the paper does not name adds to the variance of its number less ours: of a rate of
        right answers; of other metrics that is not known, and 0 here."""
        metric, data = self.cell.metric, self.cell.runs[0].dataset
        if not self.unknown_split or self.mean is None or self.sd is None or metric.name not in RATES:
            return 0.0
        return 100**2 * statistics.split_variance(self.mean / 100, data.holdout, self.sd / 100)

    @property
    def unknown_split(self) -> bool:
        """Whether the numbers are of a held-out part, drawn by us: which images were in the paper's is not known."""
        metric, data = self.cell.metric, self.cell.runs[0].dataset
        part = data.evaluate if metric.part == "evaluate" else metric.part
        return data.holdout > 0 and part == "validation"

    @property
    def predicted(self) -> tuple[float, float] | None:
        """The 95 % prediction interval for what the paper reports (`statistics.prediction`)."""
        if self.printed is None or self.paper is None or not self.values:
            return None
        values, printed = list(self.values.values()), self.printed
        estimate = statistics.prediction(values, printed.runs, printed.std, self.split_variance)
        return None if estimate is None else estimate.interval()

    @property
    def within(self) -> bool | None:
        """Whether the paper's number lies within it."""
        if self.predicted is None or self.paper is None:
            return None
        return self.predicted[0] <= self.paper <= self.predicted[1]


def summarize(grid: Grid, cell: Cell, values: Values, *, with_paper: bool) -> Summary:
    sheet = grid.sheet
    xs = list(values.x(grid, cell).values()) if sheet.x is not None else []
    runs = {run.id: run for run in cell.runs}
    return Summary(
        cell=cell,
        values=values.of(grid, cell),
        x=statistics.mean(xs) if xs else None if sheet.x is not None else cell.x,
        ids={run.seed: run.id for run in runs.values() if values.done(run, grid.observation)},
        wanted=len(runs),
        diverged=values.diverged(runs.values()),
        printed=sheet.printed(cell.row, cell.column) if with_paper else None,
        replications=sheet.replicated(cell.row, cell.column) if with_paper else (),
        diagrams=values.diagrams(cell) if sheet.diagram == "reliability" else {},
        last_looks=values.last_looks(grid, cell) if sheet.diagram in ("projection", "matrix") else {},
    )
