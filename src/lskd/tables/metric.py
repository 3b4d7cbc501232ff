"""Which number of a run a cell of a table shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lskd.errors import require, unknown
from lskd.methods import METHODS
from lskd.probes import PROBES
from lskd.run import Run

METRICS = ("top1", "error", "top5", "nll", "ece15", "gap", "least_gap", "gamma", "temperature")
BINNED = ("gap", "least_gap")  # what follows from a record's reliability diagram
SCALED = ("nll", "ece15", "temperature", *BINNED)  # what a record has of temperature-scaled outputs


def probed() -> dict[str, str]:
    """The probe that gives a number, by the number's name."""
    return {name: probe for probe, settings in PROBES.items() for name in settings.gives}


def watched() -> dict[str, str]:
    """What methods may watch while they train (`Method.watches`), by name, in words."""
    return {name: words for method in METHODS.values() for name, words in method.watches.items()}


def gap(bins: Sequence[Sequence[float]]) -> float:
    """Mean confidence less accuracy, from the bins of a reliability diagram (`metrics.reliability`): above 0 where a
    network is over-confident. The calibration error is the mean over the bins of its size, this one of it as it is."""
    filled = [entry for entry in bins if entry[0]]
    return sum(n * (confidence - accuracy) for n, confidence, accuracy in filled) / sum(n for n, *_ in filled)


def least_gap(bins: Sequence[Sequence[float]], share: float = 0.01) -> float:
    """The least gap of a bin that holds at least `share` of the examples: above 0 where a network is over-confident at
    every confidence. (In a bin of a few examples, chance decides.)"""
    least = share * sum(entry[0] for entry in bins)
    return min(entry[1] - entry[2] for entry in bins if entry[0] and entry[0] >= least)


@dataclass(frozen=True)
class Metric:
    """Which number of a run's record a cell shows, or which that its method watches while it trains (`Method.watches`),
    or that a probe gives (`lskd.probes`).

    epoch: "last" (the default of every paper unless it says otherwise), or the best one by top-1 on the validation part
    or on the test part ("best_on_test" only where the paper did so: the table's header then says it).
    part: "evaluate" is the part that the data set's configuration names.
    scaled_on: temperature scaling, with the temperature of the least loss on that part: held-out, or ("evaluate", if
    `part` is) a posteriori. "" = outputs as they are.
    step: of a probe's numbers, those at this step; None = at the end of the training.
    at_epoch: the number of this epoch, counted from 1, from the run's log; None = of the one that `epoch` says.
    total: of what a method watches, the sum over the training images, as often as an epoch shows them; else the mean.
    """

    name: str = "top1"
    part: Literal["evaluate", "validation", "test", "train"] = "evaluate"
    epoch: Literal["last", "best_on_validation", "best_on_test"] = "last"
    scaled_on: Literal["", "evaluate", "validation", "test"] = ""
    step: int | None = None
    at_epoch: int | None = None
    total: bool = False
    digits: int = 2
    unit: str = "%"

    def __post_init__(self) -> None:
        of_method, of_probe = watched(), probed()
        if self.name not in METRICS and self.name not in of_probe and self.name not in of_method:
            raise unknown("name", self.name, [*METRICS, *of_probe, *of_method])
        if self.name in of_probe:
            require(self.epoch == "last", "epoch", self.epoch, f"last with name={self.name}; a probe has steps")
        if self.name in of_method:  # a record keeps it of the last epoch alone
            require(self.epoch == "last", "epoch", self.epoch, f"last with name={self.name}")
        require(not self.total or self.name in of_method, "total", True, f"given with {', '.join(of_method)} only")
        if self.at_epoch is not None:
            logged = self.name not in ("gamma", *of_probe, *BINNED) and not self.scaled_on and self.epoch == "last"
            require(logged, "at_epoch", self.at_epoch, "given with what is logged in each epoch, and epoch=last, only")
        fits = self.step is None or self.name in of_probe
        require(fits, "step", self.step, f"given with {', '.join(of_probe)} only")
        if self.scaled_on:
            require(self.name in SCALED, "name", self.name, f"one of {', '.join(SCALED)} with scaled_on")
            plain = self.epoch == "last" and self.part != "train"
            require(plain, "scaled_on", self.scaled_on, "empty but for the last epoch and held-out parts")
        if self.name in BINNED:
            require(self.epoch == "last", "epoch", self.epoch, f"last with name={self.name}")
            require(self.part != "train", "part", self.part, f"a held-out part with name={self.name}")
        require(self.name != "temperature" or bool(self.scaled_on), "scaled_on", "", "given with name=temperature")
        require(self.digits >= 0, "digits", self.digits, ">= 0")
        if self.part == "train":  # a record keeps the training part of the last epoch alone
            require(self.epoch == "last", "epoch", self.epoch, "last with part=train")

    def of(self, run: Run, result: Mapping[str, Any]) -> float | None:
        """The value in `result`, the record of `run`; None where the record has no such number."""
        if self.name == "gamma":
            return result.get("gamma")
        if self.name in watched():
            mean = result["train"].get(self.name)
            return mean * result["examples"] if self.total and mean is not None else mean
        part = run.dataset.evaluate if self.part == "evaluate" else self.part
        if self.name in BINNED:
            bins = self._calibration(run, result).get("reliability")
            return None if bins is None else {"gap": gap, "least_gap": least_gap}[self.name](bins)
        if self.scaled_on:
            return self._calibration(run, result).get(self.name)
        if part == "train":
            return result["train"].get(self.name)
        if self.epoch == "last":
            return result["last"].get(part, {}).get(self.name)
        best = result["best"].get(self.epoch.removeprefix("best_on_"), {})
        return best.get(part, {}).get(self.name)

    def logged(self, run: Run, result: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> float | None:
        """The value at `at_epoch`, from the log `epochs` of `run` whose record is `result`; None if it is not there."""
        line = next((line for line in epochs if line["epoch"] + 1 == self.at_epoch and "stage" not in line), None)
        return None if line is None else self.of(run, {**result, "last": line, "train": line["train"]})

    def seen(self, run: Run, readings: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """What there is of its part in `readings`, what a probe saw of `run`; None if it did not look at that step."""
        if self.step is not None:
            readings = [look for look in readings if look["step"] == self.step]
        part = run.dataset.evaluate if self.part == "evaluate" else self.part
        return readings[-1].get(part) if readings else None

    def probed(self, run: Run, readings: Sequence[Mapping[str, Any]]) -> float | None:
        """The value in `readings`; None where there is none."""
        return (self.seen(run, readings) or {}).get(self.name)

    def reliability(self, run: Run, result: Mapping[str, Any]) -> list[list[float]] | None:
        """The bins (`metrics.reliability`) behind a calibration error; None where the record has none."""
        plain = self.name == "ece15" and self.epoch == "last" and self.part != "train"
        return self._calibration(run, result).get("reliability") if plain else None

    def _calibration(self, run: Run, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """What `metrics.calibration` says about the part, scaled if this metric is. Old records have nothing of it."""
        part = run.dataset.evaluate if self.part == "evaluate" else self.part
        of_part: Mapping[str, Any] = result.get("calibration", {}).get(part, {})
        other = run.dataset.evaluate if self.scaled_on == "evaluate" else self.scaled_on
        return of_part.get("scaled", {}).get(other, {}) if other else of_part
