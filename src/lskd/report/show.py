"""Everything about one run, for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from lskd.commands import Commands
from lskd.compose import build_run
from lskd.config_groups import Conf
from lskd.data import balance
from lskd.errors import InputError
from lskd.networks import OWN, of_networks
from lskd.report.runs import Settings
from lskd.run import Run, id_of
from lskd.schema import show as written
from lskd.schema import unfolded
from lskd.snapshot import Record, Snapshot

WIDTH, HEIGHT = 60, 10  # of a curve, in characters


def show(id: str, store: Snapshot, conf: Conf) -> str:
    """The page of the run whose id begins so. `InputError` for an id that is none here, or several, and for a record
    that is damaged."""
    record = store.record(store.find(id))
    if record is None:
        raise InputError(f"id = {id!r}: there is nothing of it in {store.root}")
    parts = [_head(record, store), _command(record, conf, store), _lineage(record, store), _data(record)]
    parts += [_numbers(record), _calibration(record), _curve(record, store), _settings(record), _environment(record)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _head(record: Record, store: Snapshot) -> str:
    lines = [f"{record.id}  {name(record.config)}  ({record.state})", str(store.root / "runs" / record.id)]
    path = store.root / "runs" / record.id / "model.safetensors"
    return "\n".join([*lines, f"weights: {'here' if path.is_file() else 'not here'}"])


def name(config: Mapping[str, Any]) -> str:
    """A run in words; where the code that is here does not know it, of its parts' names."""
    try:
        return str(Run.of(config))
    except InputError:
        parts = [config[key].get("name", "?") for key in ("arch", "dataset", "method")]
        return f"{' on '.join(parts[:2])}, {parts[2]}, seed {config.get('seed')} (trained by other code)"


def _command(record: Record, conf: Conf, store: Snapshot) -> str:
    """The command that trains the run again, if the code that is here would train the same one."""
    try:
        run, commands = Run.of(record.config), Commands(conf)
        if build_run(commands.form(run), conf).id != run.id:
            raise InputError("no words of the command line say all of its settings")
        commands.sources = store.sources(run)
        return f"again:\n  {commands.line(run)}"
    except InputError as error:
        return f"again: not by the code that is here: {error}"


def _lineage(record: Record, store: Snapshot) -> str:
    lines: list[str] = []
    config = record.config
    while (taught_by := config.get("teacher")) is not None:
        id, config = id_of(taught_by), taught_by
        lines.append(f"  teacher{'’s teacher' * bool(lines)}  {id}  {name(config)}  ({_state(id, store)})")
    begun, config = len(lines), record.config
    while (base := config.get("started_from")) is not None:
        id, config = id_of(base), base
        lines.append(
            f"  started from{', which did from' * (len(lines) > begun)}  {id}  {name(config)}  ({_state(id, store)})"
        )
    if started := record.result.get("start"):
        lines.append(f"  weights from  {started.get('source')}")
    for key, what in (("teacher", "finished student"), ("started_from", "finished run that started from it")):
        others = [id for id, one in store.configs() if key in one and id_of(one[key]) == record.id]
        if others:
            listed = textwrap.fill(" ".join(others), 100, initial_indent="    ", subsequent_indent="    ")
            noun = what.replace("student", "students").replace("run that", "runs that") if len(others) > 1 else what
            lines.append(f"  {len(others)} {noun}\n{listed}")
    return "\n".join(["lineage:", *lines]) if lines else ""


def _state(id: str, store: Snapshot) -> str:
    try:
        record = store.record(id)
    except InputError:
        return "damaged"
    return "not here" if record is None else record.state


def _data(record: Record) -> str:
    """What the steps of its data set came to."""
    if (data := record.result.get("data")) is None:
        return ""
    return textwrap.fill(balance(data["classes"], data["train"]), 100, subsequent_indent="  ")


def _numbers(record: Record) -> str:
    """The metrics of each part, after the last epoch and at the best ones; then what else is one number."""
    result = record.result
    if not result:
        return ""
    rows: dict[str, Mapping[str, float]] = {}
    for network, of_one in {OWN: result, **of_networks(result)}.items():
        who = "" if network == OWN else f"{network}: "
        rows |= {f"{who}{part}, last epoch": values for part, values in of_one["last"].items()}
        for chosen, best in of_one["best"].items():
            for part, values in best.items():
                if part != "epoch":
                    rows[f"{who}{part}, epoch {best['epoch'] + 1}, the best on {chosen}"] = values
        if of_one.get("train"):  # else nothing was trained
            rows[f"{who}train, as it was trained on"] = of_one["train"]
    recorded = list(dict.fromkeys(name for values in rows.values() for name in values))
    usual = ("top1", "error", "top3", "top5", "nll", "ece15")
    names = [*(name for name in usual if name in recorded), *(name for name in recorded if name not in usual)]
    table = [[label, *(_number(values.get(name)) for name in names)] for label, values in rows.items()]
    others = [f"{key} {_number(value)}" for key, value in result.items()
              if isinstance(value, (int, float)) and not isinstance(value, bool)]  # fmt: skip
    others += [f"{key} (solved for) {_number(value)}" for key, value in result.get("solved", {}).items()]
    align = ["left", *["right"] * len(names)]
    shown = tabulate(table, ["", *names], tablefmt="simple", disable_numparse=True, colalign=align)
    return f"{shown}\n\n{textwrap.fill(', '.join(others), 100)}"


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _calibration(record: Record) -> str:
    """The reliability of the outputs on each part: of the images of each bin the mean confidence and the accuracy."""
    parts = []
    for part, values in record.result.get("calibration", {}).items():
        bins = values["reliability"]
        rows = [[f"{i / len(bins):.2f} to {(i + 1) / len(bins):.2f}", *map(_number, numbers)]
                for i, numbers in enumerate(bins) if numbers[0]]  # fmt: skip
        table = tabulate(rows, ["confidence", "images", "mean", "accuracy"], tablefmt="plain", disable_numparse=True,
                         colalign=["left", "right", "right", "right"])  # fmt: skip
        lines = [f"calibration on {part}:", textwrap.indent(table, "  ")]
        for other, scaled in values.get("scaled", {}).items():
            numbers = f"ece15 {scaled['ece15']:.4f}, nll {scaled['nll']:.4f}"
            lines.append(f"  scaled by T = {scaled['temperature']:.3f}, the best on {other}: {numbers}")
        parts.append("\n".join(lines))
    return "\n".join(parts)


def _curve(record: Record, store: Snapshot) -> str:
    epochs = [epoch for epoch in store.log_of(record.id) if "stage" not in epoch]
    evaluated = record.config["dataset"].get("evaluate", "test")
    lines = {
        "·": [(epoch["epoch"], epoch["train"]["top1"]) for epoch in epochs if "top1" in epoch.get("train", {})],
        "█": [(epoch["epoch"], epoch[evaluated]["top1"]) for epoch in epochs if "top1" in epoch.get(evaluated, {})],
    }
    if not lines["█"] or not any(epoch["step"] for epoch in epochs):
        return ""
    return "\n".join([f"top1 (█ {evaluated}, · train) over {len(epochs)} epochs:", *plot(lines)])


def plot(lines: Mapping[str, Sequence[tuple[float, float]]], width: int = WIDTH, height: int = HEIGHT) -> Iterator[str]:
    """Points of several lines, each drawn with its mark, later ones over earlier ones, as text."""
    points = [point for line in lines.values() for point in line]
    (left, right), (low, high) = ((min(values), max(values)) for values in zip(*points, strict=True))
    canvas = [[" "] * width for _ in range(height)]
    for mark, line in lines.items():
        for x, y in line:
            column = round((x - left) / ((right - left) or 1) * (width - 1))
            row = round((high - y) / ((high - low) or 1) * (height - 1))
            canvas[row][column] = mark
    for row, content in enumerate(canvas):
        label = f"{high - row * (high - low) / (height - 1):.4g}" if row in (0, height - 1) else ""
        yield f"{label:>8} │{''.join(content).rstrip()}"


def _settings(record: Record) -> str:
    """All settings; those that are not at their defaults are marked."""
    values, _ = Settings().of(record.config)
    given = unfolded(record.config).keys()
    lines = ["settings (* not at its default):"]
    wide = max(map(len, values))
    for key, value in values.items():
        own = any(name == key or name.startswith(f"{key}.") for name in given) or key == "teacher.id"
        text = (
            value if isinstance(value, str) and value else written(list(value) if isinstance(value, tuple) else value)
        )
        lines.append(f"  {'*' if own else ' '} {key:<{wide}}  {text}")
    return "\n".join(lines)


def _environment(record: Record) -> str:
    lines = [f"  {key}  {value if isinstance(value, str) else written(value)}" for key, value in record.env.items()]
    return "\n".join(["environment:", *lines]) if lines else ""
