"""What the store holds for the cells of a table: numbers by seed, and their summary."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lskd.errors import InputError
from lskd.files import RESTORE
from lskd.plan import Cell, TablePlan
from lskd.quantity import Better, merit
from lskd.records import is_sound, wrong_numbers
from lskd.report import statistics
from lskd.report.statistics import BySeed
from lskd.run import ProbeSpec, Run
from lskd.snapshot import Snapshot
from lskd.store import Store
from lskd.tables.derived import DERIVED, Groups
from lskd.tables.line import Printed
from lskd.tables.metric import Metric

T = TypeVar("T")


class Values:
    """The numbers of runs, from the store. Each record is read once, however many cells and claims look at it; of
    several `Values` of one `Snapshot` too."""

    def __init__(self, store: Store) -> None:
        self.store = Snapshot.of(store)
        self._records: dict[str, dict[str, Any] | None] = {}
        self._diverged: dict[str, bool] = {}
        self._machines: dict[str, str] = {}
        # Of a cell, by its identity, and as what is seen of it.
        self._numbers: dict[tuple[int, Metric, ProbeSpec | None], tuple[Cell, dict[int, float]]] = {}
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

    def probed(self, run: Run, probe: ProbeSpec) -> dict[str, Any] | None:
        """The record of what a probe saw of a run, or None."""
        return self._whole(self.store.probed, run, probe)

    def readings(self, run: Run, probe: ProbeSpec) -> list[dict[str, Any]]:
        """The readings in it; none if there is none."""
        return (self.probed(run, probe) or {}).get("readings", [])

    def epochs(self, run: Run) -> list[dict[str, Any]]:
        """The log of a run."""
        return self._whole(self.store.epochs, run) or []

    def seen_again(self, run: Run, probes: Sequence[ProbeSpec]) -> bool:
        """Whether a probe saw another training of the run than the one of its record, with other last bits."""
        seen, record = [self.probed(run, probe) for probe in probes], self.record(run)
        trained = None if record is None else record.get("weights_sha256")
        return record is not None and any(one is not None and one["weights_sha256"] != trained for one in seen)

    def done(self, run: Run, probes: Sequence[ProbeSpec] = ()) -> bool:
        """Whether the run is finished (and all probes have looked at it)."""
        return self.record(run) is not None and all(self.probed(run, probe) is not None for probe in probes)

    def machine(self, run: Run) -> str:
        """Where a finished run was made."""
        if run.id not in self._machines:
            env = self.store.env(run)
            words = [str(env.get("device") or "an unknown device")]
            words += [f"{name} {env[name]}" for name in ("torch", "lskd", "commit") if env.get(name)]
            self._machines[run.id] = ", ".join(words)
        return self._machines[run.id]

    def diverged(self, runs: Collection[Run]) -> int:
        """How many of the runs have diverged."""
        for run in runs:
            if run.id not in self._diverged:
                self._diverged[run.id] = self.store.state(run) == "diverged"
        return sum(self._diverged[run.id] for run in runs)

    def of(self, planned: TablePlan, cell: Cell, metric: Metric | None = None) -> dict[int, float]:
        """The metric (the cell's own unless another is given) of each finished run of the cell, by its seed.

        A cell whose teacher has a fixed seed holds one run several times; by seed it counts once.
        """
        if cell.derive is not None:
            return self._derived(planned, cell, metric)
        metric = metric or cell.metric
        probe = planned.probe(metric)
        key = id(cell), metric, probe
        if key not in self._numbers:
            self._numbers[key] = cell, self._of_runs(probe, cell, metric)
        return self._numbers[key][1]

    def _of_runs(self, probe: ProbeSpec | None, cell: Cell, metric: Metric) -> dict[int, float]:
        """The same of a cell that has runs of its own."""
        if probe is not None and probe.settings.over_runs:
            return self._over_runs(probe, cell, metric)
        numbers = {}
        for run in cell.runs:
            record = self.record(run)
            if record is not None:
                try:
                    if probe is not None:
                        number = metric.probed(run, self.readings(run, probe))
                    elif metric.at_epoch is not None:
                        number = metric.logged(run, record, self.epochs(run))
                    else:
                        number = metric.of(run, record)
                    sound = number is None or is_sound(number, metric.name)
                    wrong = None if sound else next(wrong_numbers(number, metric.name), None)
                except (AttributeError, KeyError, TypeError) as error:
                    number, wrong = None, f"it has no {metric.name} ({error})"
                if wrong:
                    path = self.store.directory(run)
                    self.damaged[f"{path}: what it says of a run is damaged: {wrong}; {RESTORE}"] = None
                elif number is not None:
                    numbers[run.seed] = number
        return numbers

    def _derived(self, planned: TablePlan, cell: Cell, metric: Metric | None) -> dict[int, float]:
        """The numbers of a cell that follows from others."""
        assert cell.derive is not None
        kind = DERIVED[cell.derive.kind]

        def directed(one: Cell) -> BySeed:
            numbers = self.of(planned, one, metric)
            return _merits(one.better(metric), numbers) if kind.directed else numbers

        groups = [[directed(one) for one in group] for group in cell.made_of]
        firsts = [group[0] for group in cell.made_of]
        return derive(kind.number, groups, self.choice(planned, firsts) if kind.chooses else [])

    def choice(self, planned: TablePlan, cells: Sequence[Cell]) -> list[BySeed]:
        """Of each cell the numbers by which the table selects, as more is better."""
        select = planned.table.select
        return [_merits(cell.better(select), self.of(planned, cell, select)) for cell in cells]

    def _over_runs(self, probe: ProbeSpec, cell: Cell, metric: Metric) -> dict[int, float]:
        """The numbers that follow from readings of all runs of the cell; none of fewer than two. Computed once."""
        key = (tuple(run.id for run in cell.runs), probe.key, metric.name, metric.part, metric.step)
        if key not in self._joint:
            readings: dict[int, Any] = {}
            for run in cell.runs:
                reading = metric.seen(run, self.readings(run, probe)) if self.done(run) else None
                # What does not fit the first of them, or itself, is damaged.
                if reading is not None and self._joined(probe, metric, run, [*list(readings.values())[:1], reading]):
                    readings[run.seed] = reading
            found = self._joined(probe, metric, cell.runs[0], list(readings.values())) if len(readings) > 1 else None
            self._joint[key] = dict(zip(readings, found, strict=True)) if found else {}
        return self._joint[key]

    def _joined(self, probe: ProbeSpec, metric: Metric, run: Run, readings: list[Any]) -> list[float] | None:
        """The numbers of `readings`, the last of which is the run's; None of what is damaged, which is noted."""
        try:
            numbers: list[float] = probe.settings.numbers(metric.name, readings)
            return numbers
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            path = self.store.directory(run)
            self.damaged[f"{path}: what was seen of a run is damaged: no {metric.name} ({error}); {RESTORE}"] = None
            return None

    def diagrams(self, cell: Cell) -> dict[int, list[list[float]]]:
        """The reliability bins of each finished run of a cell that shows a calibration error, by its seed."""
        records = {run.seed: (run, self.record(run)) for run in cell.runs}
        if cell.derive is not None:
            return {}
        bins = {seed: cell.metric.reliability(run, record) for seed, (run, record) in records.items() if record}
        return {seed: diagram for seed, diagram in bins.items() if diagram is not None}

    def last_readings(self, planned: TablePlan, cell: Cell) -> dict[int, dict[str, Any]]:
        """The last reading of each finished run of the cell, by its seed, of the probe that draws the diagram."""
        if (probe := planned.painter) is None or cell.derive is not None:
            return {}
        readings = {run.seed: self.readings(run, probe) for run in cell.runs if self.done(run)}
        return {seed: seen[-1] for seed, seen in readings.items() if seen}

    def x(self, planned: TablePlan, cell: Cell) -> dict[int, float]:
        """Where the cell's runs stand on the horizontal axis of a figure, by seed."""
        if planned.table.x is not None:  # a derived point stands where the first of its cells does
            return self.of(planned, cell.plain[0], planned.table.x)
        return {} if cell.x is None else {run.seed: cell.x for run in cell.runs}


def derive(
    number: Callable[[Groups, Sequence[float]], float], groups: Sequence[Sequence[BySeed]], choice: Sequence[BySeed]
) -> dict[int, float]:
    """`number` (see `lskd.tables.derived.Kind`) of each seed that all cells have."""
    everything = [one for group in groups for one in group] + list(choice)
    return {
        seed: number([[one[seed] for one in group] for group in groups], [one[seed] for one in choice])
        for seed in statistics.shared_seeds(everything)
    }


def _merits(better: Better, numbers: BySeed) -> BySeed:
    return {seed: merit(better, value) for seed, value in numbers.items()}


@dataclass(frozen=True)
class Summary:
    """A cell with its numbers, beside the number that the paper prints."""

    cell: Cell
    values: Mapping[int, float]  # by seed; only of finished runs that have the number
    x: float | None  # figures: mean over the seeds
    xs: Mapping[int, float]  # and by seed
    ids: Mapping[int, str]  # the ids of the finished runs, by seed; none of a derived cell, which has none of its own
    wanted: int  # different runs that the cell needs, or seeds, if it is derived
    diverged: int
    printed: Printed | None = None  # by the paper; None where the protocol is not the paper's
    replications: Sequence[Printed] = ()  # by others
    diagrams: Mapping[int, list[list[float]]] = field(default_factory=dict)  # reliability bins, by seed
    last_readings: Mapping[int, dict[str, Any]] = field(default_factory=dict)  # what a probe saw, by seed, to draw it

    @property
    def n(self) -> int:
        return len(self.values)

    @functools.cached_property
    def mean(self) -> float | None:
        return statistics.mean(self.values.values()) if self.values else None

    @functools.cached_property
    def sd(self) -> float | None:
        return statistics.standard_deviation(list(self.values.values())) if self.values else None

    @functools.cached_property
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
        if not self.unknown_split or self.mean is None or self.sd is None or not metric.rate:
            return 0.0
        return 100**2 * statistics.split_variance(self.mean / 100, data.holdout, self.sd / 100)

    @property
    def unknown_split(self) -> bool:
        """Whether the numbers are of a held-out part, drawn by us: which images were in the paper's is not known."""
        metric, data = self.cell.metric, self.cell.runs[0].dataset
        part = data.evaluate if metric.part == "evaluate" else metric.part
        return data.holdout > 0 and part == "validation" and self.cell.derive is None

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


def summarize(planned: TablePlan, cell: Cell, values: Values, *, with_paper: bool) -> Summary:
    table = planned.table
    xs = values.x(planned, cell)
    runs, numbers = {run.id: run for run in cell.runs}, values.of(planned, cell)
    own = () if cell.derive is not None else runs.values()
    return Summary(
        cell=cell,
        values=numbers,
        x=cell.x if table.x is None else statistics.mean(xs.values()) if xs else None,
        xs=xs,
        ids={run.seed: run.id for run in own if run.seed in numbers or values.done(run, planned.probes)},
        wanted=min(len({run.id for run in one.runs}) for one in cell.plain),
        diverged=values.diverged(runs.values()),
        printed=table.printed(cell.row, cell.column) if with_paper else None,
        replications=table.replicated(cell.row, cell.column) if with_paper else (),
        diagrams=values.diagrams(cell) if table.diagram == "reliability" else {},
        last_readings=values.last_readings(planned, cell),
    )
