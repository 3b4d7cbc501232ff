"""What pages say of runs: settings, results, curves, calibration, environment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lskd.compose import build_run
from lskd.errors import InputError
from lskd.networks import OWN, PEERS, of_networks
from lskd.report.site import charts
from lskd.report.site.charts import Series
from lskd.report.site.library import Library, evaluated
from lskd.report.site.verdicts import titled
from lskd.report.words import number
from lskd.run import LINEAGE, Run, grouped, without_code
from lskd.schema import show, unfolded


@dataclass(frozen=True)
class Setting:
    name: str
    value: str
    given: bool  # not at its default


def said(value: Any) -> str:
    """A value as a user would write it."""
    return value if isinstance(value, str) and value else show(value)


def settings(run: Run) -> dict[str, list[Setting]]:
    """Every setting that can change a run's numbers, by group; of its peers, what is other. Those of its teacher,
    and of the run that it starts from, are on their own pages."""
    own = unfolded({key: value for key, value in run.identity().items() if key not in LINEAGE})
    found: dict[str, list[Setting]] = {}
    every = run.settings
    for name, value in every.items():
        group, _, rest = name.rpartition(".") if name.count(".") == 0 else name.partition(".")
        of_teacher = (
            group in LINEAGE
            or (not run.generation and name == "streams")
            or (run.teacher is None and name == "teacher_mode")
            or (group in PEERS and every.get(rest, ...) == value)
        )
        if not of_teacher and (_given(name, own) or value not in ("", None)):
            found.setdefault(group or "run", []).append(Setting(rest, said(value), _given(name, own)))
    return found


def _given(name: str, own: Mapping[str, Any]) -> bool:
    """Whether a setting, or a part of it, is among those that are not at their defaults."""
    return any(key == name or key.startswith(f"{name}.") for key in own)


@dataclass(frozen=True)
class Results:
    """The numbers of a run's record: a line for each part and epoch."""

    names: list[str]
    lines: list[tuple[str, list[str]]]


def measured(record: Mapping[str, Any]) -> Results:
    known = evaluated()
    found: dict[str, Mapping[str, Any]] = {}
    for network, of_one in {OWN: record, **of_networks(record)}.items():
        who = "" if network == OWN else f"{network}: "
        for part, numbers in of_one["last"].items():
            found[f"{who}{part} part, last epoch"] = numbers
        for chosen, best in of_one["best"].items():
            for part, numbers in best.items():
                if isinstance(numbers, Mapping):
                    found[f"{who}{part} part, best epoch on the {chosen} part ({best['epoch'] + 1})"] = numbers
        for part, calibration in of_one.get("calibration", {}).items():
            for on, scaled in calibration.get("scaled", {}).items():
                label = f"{who}{part} part, scaled by T = {scaled['temperature']:.3g} (chosen on the {on} part)"
                found[label] = {key: value for key, value in scaled.items() if key in known}
        trained = of_one.get("train", {})
        found[f"{who}training part, last epoch"] = {key: value for key, value in trained.items() if key in known}
    names = [name for name in known if any(name in numbers for numbers in found.values())]
    lines = [
        (label, [_shown(numbers.get(name), known[name].digits) for name in names])
        for label, numbers in found.items()
        if numbers
    ]
    return Results([titled(known[name]) for name in names], lines)


def training(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a run's record says of its training, in words. (Old ones say less.)"""
    found = []
    if (gamma := record.get("gamma")) is not None:
        found.append(("equivalent label smoothing γ", number(gamma, 4)))
    found += [(f"{name}, solved for", number(value, 4)) for name, value in record.get("solved", {}).items()]
    units = {"steps": "steps", "epochs": "epochs", "examples": "images", "parameters": "parameters"}
    words = [f"{record[key]:,} {unit}" for key, unit in units.items() if key in record]
    words += [f"{record['seconds']:,.1f} s"] if "seconds" in record else []
    return [*found, *([("training", ", ".join(words))] if words else [])]


def _shown(value: Any, digits: int) -> str:
    return number(value, digits) if isinstance(value, (int, float)) else ""


def learning(epochs: Sequence[Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    """(title, chart): the curves of a run's log: accuracy, loss, and the terms that are minimised."""
    proper = [line for line in epochs if "stage" not in line]
    # Each network's parts as if they were parts of the data: "peer: test".
    proper = [{**line, **{f"{name}: {part}": numbers for name, one in of_networks(line).items()
                          for part, numbers in one.items()}} for line in proper]  # fmt: skip
    parts = list(
        dict.fromkeys(
            name
            for line in proper
            for name, v in line.items()
            if name.rpartition(": ")[2] in ("train", "validation", "test") and isinstance(v, Mapping)
        )
    )

    def series(metric: str, of: Iterable[str]) -> list[Series]:
        found = []
        for part in of:
            pairs = [(line["epoch"] + 1, line[part][metric]) for line in proper if metric in line.get(part, {})]
            found.append(Series(part if len(parts) > 1 else metric, pairs))
        return [one for one in found if one.points]

    drawn = [
        ("Accuracy", "top-1 (%)", series("top1", parts)),
        ("Loss on held-out parts", "NLL (nats)", series("nll", [part for part in parts if not part.endswith("train")])),
    ]
    known = evaluated()
    terms = list(dict.fromkeys(name for line in proper for name in line.get("train", {}) if name not in known))
    by_term = [
        Series(term, [(line["epoch"] + 1, line["train"][term]) for line in proper if term in line.get("train", {})])
        for term in terms
    ]
    drawn.append(("Terms of the training loss", "mean of an epoch", by_term))
    return [
        (title, charts.curves(lines, title=f"{title} over the epochs", x_label="epoch", y_label=y))
        for title, y, lines in drawn
        if lines
    ]


def calibration(record: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """(caption, chart): the reliability diagram of each part, and after temperature scaling."""
    found = []
    for part, of_part in record.get("calibration", {}).items():
        series = []
        if bins := of_part.get("reliability"):
            series.append(Series("as it is", [(b[1], b[2]) for b in bins if b[0]], dots=True))
        for scaled in of_part.get("scaled", {}).values():
            if bins := scaled.get("reliability"):
                label = f"T = {scaled['temperature']:.3g}"
                series.append(Series(label, [(b[1], b[2]) for b in bins if b[0]], dots=True))
        if series:
            chart = charts.curves(
                series,
                title=f"Reliability on the {part} part: accuracy over confidence, by bin",
                x_label="confidence",
                y_label="accuracy",
                x=(0.0, 1.0),
                y=(0.0, 1.0),
                diagonal="calibrated",
            )
            found.append((part, chart))
    return found


@dataclass(frozen=True)
class RunLine:
    """A run in a list."""

    run: Run
    state: str
    network: str
    method: str
    temperature: float | None
    teacher: str
    top1: float | None
    nll: float | None
    ece: float | None


def run_line(library: Library, run: Run) -> RunLine:
    record = library.values.record(run)
    numbers = {} if record is None else record["last"].get(run.dataset.evaluate, {})
    teacher = run.teacher
    return RunLine(
        run,
        "done" if record is not None else library.store.state(run),
        run.network,
        run.method.name,
        getattr(run.method.settings, "temperature", None),
        "" if teacher is None else teacher.network,
        numbers.get("top1"),
        numbers.get("nll"),
        numbers.get("ece15"),
    )


def environment(env: Mapping[str, Any]) -> list[tuple[str, str]]:
    order = ("device", "torch", "lskd", "commit", "python", "threads", "fleet")
    rest = {key: value for key, value in env.items() if key not in (*order, "command")}
    known = {key: env[key] for key in order if key in env}
    return [(key, said(value)) for key, value in unfolded({**known, **rest}).items()]


def command(library: Library, run: Run) -> str:
    """The command that repeats a run; "" of one of no plan where no words say all of its settings."""
    try:
        if run.id not in library.planned and build_run(library.commands.form(run), library.conf).id != run.id:
            return ""
        library.commands.sources |= library.store.sources(run)
        return library.commands.line(run)
    except InputError:
        return ""


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in their seeds alone."""

    label: str
    own: list[str]  # what tells them from others of that label
    runs: list[Run]


def by_seed(runs: Iterable[Run]) -> list[RunGroup]:
    """Runs that differ in their seeds alone together. Of groups that are called alike each says what it alone has."""

    def described(run: Run) -> Iterator[str]:
        for name, value in unfolded(_without_seeds(without_code(run.chain[0].identity()))).items():
            yield f"{name}={said(value)}"

    found = [
        RunGroup(label, own, sorted(group, key=lambda run: run.seed)) for label, own, group in grouped(runs, described)
    ]
    return sorted(found, key=lambda group: (group.label, group.own))


def _without_seeds(described: Mapping[str, Any]) -> dict[str, Any]:
    """An identity without its seed, and its teacher's where that is the same."""
    kept = {key: value for key, value in described.items() if key != "seed"}
    for name in LINEAGE:
        if isinstance(parent := kept.get(name), Mapping):
            same = parent["seed"] == described["seed"] or parent["recipe"].get("epochs") == 0
            kept[name] = _without_seeds(parent) | ({} if same else {"seed": parent["seed"]})
    return kept
