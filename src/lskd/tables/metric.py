"""Which number of a run a cell of a table shows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lskd.errors import InputError, require, unknown
from lskd.methods import METHODS
from lskd.metrics import METRICS, Binned, Computed, Fitted, Measured, OfLoss
from lskd.networks import ENSEMBLE, NETWORKS, OWN, of_network
from lskd.probes import PROBES
from lskd.quantity import By, Quantity, key
from lskd.run import Run
from lskd.targets import TARGETS, TAUGHT

# Where a number is found: in the evaluations of a run, in its calibration, in its record as a whole, among what its
# method has solved for before it trains, or it or its target watches meanwhile, or in a probe's readings. And which
# choices there are of it there.
Source = Literal["evaluation", "calibration", "run", "solved", "training", "probe"]
CHOICES: Mapping[Source, tuple[str, ...]] = {
    "evaluation": ("part", "epoch", "at_epoch", "scaled_on", "network"),
    "calibration": ("part", "scaled_on", "network"),
    "run": ("network",),
    "solved": (),
    "training": ("at_epoch", "total", "network"),
    "probe": ("part", "step", "at_class", "at_temperature"),
}
BY: Mapping[str, By] = {"at_class": "class", "at_temperature": "temperature"}  # choices of what there is several times
SOLVED = "solved_"  # in front of the name of a setting that a method solves for


def probed() -> dict[str, str]:
    """The probe that gives a number, by the number's name."""
    return {name: probe for probe, settings in PROBES.items() for name in settings.gives}


def known() -> Iterator[tuple[str, Quantity, Source]]:
    """Every number that a cell can show: its name, what it is, and where it is found."""
    for name, quantity in METRICS.items():
        if isinstance(quantity, (Measured, Computed)):
            yield name, quantity, "evaluation"
        elif isinstance(quantity, OfLoss):
            yield name, quantity, "training"
        else:
            yield name, quantity, "calibration" if isinstance(quantity, (Binned, Fitted)) else "run"
    for method in METHODS.values():
        yield from ((name, _declared(method, name, one), "training") for name, one in method.watches.items())
        yield from ((SOLVED + name, _declared(method, name, one), "solved") for name, one in method.solves.items())
    yield from ((name, quantity, "training") for name, quantity in TAUGHT.items())
    for target in TARGETS.values():
        yield from ((name, _declared(target, name, one), "training") for name, one in target.watches.items())
    for probe in PROBES.values():
        yield from ((name, _declared(probe, name, one), "probe") for name, one in probe.gives.items())


def _declared(by: object, name: str, quantity: object) -> Quantity:
    """What a part, perhaps a plug-in's, declares that it watches or gives."""
    if not isinstance(quantity, Quantity):
        raise InputError(f"{type(by).__name__}: {name} = {quantity!r}: must be a Quantity: Quantity({quantity!r})")
    return quantity


def find(name: str) -> tuple[Quantity, Source]:
    """What the number of this name is, and where it is found."""
    for one, quantity, source in known():
        if one == name:
            return quantity, source
    raise unknown("name", name, {one for one, *_ in known()})


def goes_with(choice: str) -> list[str]:
    """The numbers of which there is this choice."""
    return list(dict.fromkeys(name for name, quantity, source in known() if _has(choice, quantity, source)))


def _has(choice: str, quantity: Quantity, source: Source) -> bool:
    recorded = METRICS[quantity.recorded] if isinstance(quantity, Computed) else quantity
    plain = choice == "scaled_on" and isinstance(recorded, Measured) and not recorded.scaled
    return choice in CHOICES[source] and not plain and (choice not in BY or quantity.by == BY[choice])


@dataclass(frozen=True)
class Metric:
    """Which number of a run a cell shows: one of `METRICS`, or one that its method or its target watches while it
    trains (`Method.watches`, `Target.watches`), or that its method has solved for (`Method.solves`: solved_NAME), or
    that a probe gives (`Probe.gives`).

    epoch: "last" (the default of every paper unless it says otherwise), or the best one by top-1 on the validation part
    or on the test part ("best_on_test" only where the paper did so: the table's header then says it).
    part: "evaluate" is the part that the data set's configuration names.
    scaled_on: temperature scaling, with the temperature of the least loss on that part: held-out, or ("evaluate", if
    `part` is) a posteriori. "" = outputs as they are.
    step: of a probe's numbers, those at this step; None = at the end of the training.
    at_class: of a number that there is for each class, that of this one, counted from 0 in the data's order.
    at_temperature: of one that there is for each temperature by which a trained network's outputs are divided, that at
    this one; 1 unless it is given.
    at_epoch: the number of this epoch, counted from 1, from the run's log; None = of the one that `epoch` says.
    total: of what a method watches, the sum over the training images, as often as an epoch shows them; else the mean.
    network: of a run with peers whose number it is: own (the run's own network), peer, peer2, …, or ensemble: of all of
    them together, whose probability of a class is the mean of theirs. Calibration, too, is then of the ensemble.
    digits, unit: those of the registry, unless they are given; a `total` has no decimals.
    """

    name: str = "top1"
    part: Literal["evaluate", "validation", "test", "train"] = "evaluate"
    epoch: Literal["last", "best_on_validation", "best_on_test"] = "last"
    scaled_on: Literal["", "evaluate", "validation", "test"] = ""
    step: int | None = None
    at_class: int | None = None
    at_temperature: float | None = None
    at_epoch: int | None = None
    total: bool = False
    network: str = OWN
    digits: int = None  # type: ignore[assignment]  # a number after `__post_init__`
    unit: str = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        quantity, source = find(self.name)
        for field in dataclasses.fields(self):
            choice, value = field.name, getattr(self, field.name)
            if choice not in ("name", "digits", "unit") and value != field.default:
                allowed = f"left out with name={self.name}; it goes with {', '.join(goes_with(choice))}"
                require(_has(choice, quantity, source), choice, value, allowed)
        if self.part == "train":  # of which a record keeps the last epoch, as it is
            require(source != "calibration", "part", self.part, f"a held-out part with name={self.name}")
            require(self.epoch == "last", "epoch", self.epoch, "last with part=train")
            require(not self.scaled_on, "scaled_on", self.scaled_on, "left out with part=train")
        for choice in ("scaled_on", "at_epoch"):
            require(not getattr(self, choice) or self.epoch == "last", "epoch", self.epoch, f"last with {choice}")
        both = bool(self.scaled_on) and self.at_epoch is not None
        require(not both, "at_epoch", self.at_epoch, "left out with scaled_on")
        fitted = isinstance(quantity, Fitted)
        require(not fitted or bool(self.scaled_on), "scaled_on", "", f"given with name={self.name}")
        require(self.network in NETWORKS, "network", self.network, f"one of {', '.join(NETWORKS)}")
        if self.network == ENSEMBLE:
            named = self.source in ("evaluation", "calibration") and self.part != "train"
            require(named, "network", ENSEMBLE, "own, or a peer, for what is not of the outputs on a held-out part")
        if quantity.by == "temperature" and self.at_temperature is None:
            object.__setattr__(self, "at_temperature", 1.0)
        if self.digits is None:
            object.__setattr__(self, "digits", 0 if self.total else quantity.digits)
        if self.unit is None:
            object.__setattr__(self, "unit", quantity.unit)
        require(self.digits >= 0, "digits", self.digits, ">= 0")

    @functools.cached_property
    def quantity(self) -> Quantity:
        """What it is: title, unit, decimals, direction."""
        return find(self.name)[0]

    @functools.cached_property
    def source(self) -> Source:
        """Where it is found."""
        return find(self.name)[1]

    @property
    def rate(self) -> bool:
        """Whether it is a percentage of the examples, counted right or wrong."""
        return isinstance(self.quantity, Measured) and self.quantity.rate

    def of(self, run: Run, result: Mapping[str, Any]) -> float | None:
        """The value in `result`, the record of `run`; None where it has no such number. (A probe's: `probed`.)"""
        return self._value(run, self._of_network(result))

    def _value(self, run: Run, result: Mapping[str, Any]) -> float | None:
        """The same in what a record says of the network."""
        quantity = self.quantity
        if isinstance(quantity, Computed):
            recorded = replace(self, name=quantity.recorded)._value(run, result)
            return None if recorded is None else quantity.of(recorded)
        if self.source == "run":
            return result.get(self.name)
        if self.source == "solved":
            return result.get("solved", {}).get(self.name.removeprefix(SOLVED))
        if self.source == "training":
            mean = self._loss(run, result["train"]) if isinstance(quantity, OfLoss) else result["train"].get(self.name)
            return mean * result["examples"] if self.total and mean is not None else mean
        if isinstance(quantity, Binned):
            bins = self._calibration(run, result).get("reliability")
            return None if bins is None else quantity.of(bins)
        if self.scaled_on:
            return self._calibration(run, result).get(self.name)
        if self.part == "train":
            return result["train"].get(self.name)
        part = run.dataset.evaluate if self.part == "evaluate" else self.part
        if self.epoch == "last":
            return result["last"].get(part, {}).get(self.name)
        best = result["best"].get(self.epoch.removeprefix("best_on_"), {})
        return best.get(part, {}).get(self.name)

    def _of_network(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a record says of the network; the images are the run's."""
        found = of_network(record, self.network)
        return found if self.network == OWN else {"examples": record["examples"], **found}

    def _loss(self, run: Run, train: Mapping[str, Any]) -> float | None:
        """The sum of the terms of the loss in what a record has of the training part."""
        others = ("top1", *run.watched_of(self.network))
        terms = [value for name, value in train.items() if name not in others]
        return sum(terms) if terms else None

    def logged(self, run: Run, result: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> float | None:
        """The value at `at_epoch`, from the log `epochs` of `run` whose record is `result`; None if it is not there."""
        line = next((line for line in epochs if line["epoch"] + 1 == self.at_epoch and "stage" not in line), None)
        if line is None:
            return None
        its = of_network(line, self.network)
        return self._value(run, {**self._of_network(result), "last": its, "train": its.get("train", {})})

    def seen(self, run: Run, readings: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """What there is of its part in `readings`, what a probe saw of `run`; None if it did not look at that step."""
        if self.step is not None:
            readings = [look for look in readings if look["step"] == self.step]
        part = run.dataset.evaluate if self.part == "evaluate" else self.part
        return readings[-1].get(part) if readings else None

    def probed(self, run: Run, readings: Sequence[Mapping[str, Any]]) -> float | None:
        """The value in `readings`; None where there is none."""
        value, by = (self.seen(run, readings) or {}).get(self.name), self.quantity.by
        return value.get(key(getattr(self, f"at_{by}"))) if by and value is not None else value

    def reliability(self, run: Run, result: Mapping[str, Any]) -> list[list[float]] | None:
        """The bins (`metrics.reliability`) behind a calibration error; None where the record has none."""
        plain = self.name == "ece15" and self.epoch == "last" and self.part != "train"
        return self._calibration(run, self._of_network(result)).get("reliability") if plain else None

    def _calibration(self, run: Run, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """What `metrics.calibration` says about the part, scaled if this metric is. Old records have nothing of it."""
        part = run.dataset.evaluate if self.part == "evaluate" else self.part
        of_part: Mapping[str, Any] = result.get("calibration", {}).get(part, {})
        other = run.dataset.evaluate if self.scaled_on == "evaluate" else self.scaled_on
        return of_part.get("scaled", {}).get(other, {}) if other else of_part
