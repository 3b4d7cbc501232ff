"""A table's cells as text, and what must be said of them: what Markdown and LaTeX share.

A cell shows ours as mean ± sample standard deviation (number of seeds), below it the paper's number, what others got
who repeated it, and Δ = ours - paper with whether the paper's number lies inside or outside our 95 % prediction
interval for it. A cell with fewer seeds than the table wants says so. A figure's points are a long table.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lskd.networks import ENSEMBLE, OWN
from lskd.plan import Cell
from lskd.report.characters import plain
from lskd.report.filled import FilledTable
from lskd.report.values import Summary
from lskd.report.words import number, outputs
from lskd.run import Run
from lskd.tables.derived import DERIVED, Derivation
from lskd.tables.line import Printed
from lskd.tables.metric import Metric

MISSING = "–"
NOT_AT_HAND = "n/a"
EXTREMES = ("min", "max")  # of a figure's points, over the seeds

EPOCHS = {
    "last": "last epoch",
    "best_on_validation": "epoch with the best top-1 on the validation part",
    "best_on_test": "EPOCH WITH THE BEST TOP-1 ON THE TEST PART",
}


def banner(filled: FilledTable) -> str:
    """The warning that must stand before the numbers of a shortened experiment; "" for the paper's protocol."""
    if not filled.experiment.shortened:
        return ""
    what = filled.experiment.shortened.rstrip(".")
    return f"Shortened: {what}. Not the paper's protocol; its numbers must not be compared with the paper's."


def selected_on_test(filled: FilledTable) -> str:
    """The warning that must stand before numbers that were selected on the images they are measured on; else ""."""
    if not any(cell.cell.metric.epoch == "best_on_test" for cell in filled.cells):
        return ""
    return (
        "Selected on the test part: these numbers are of each run's best epoch on the very images they are measured "
        "on, as the paper's are."
    )


# ---- rows and columns ---------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A line of the printed table."""

    row: str  # the key of the row that it belongs to; a row may have several
    kind: str  # "ours", "paper", "others" or "Δ"
    texts: list[str]  # labels first (see `label_columns`)


def grid(filled: FilledTable) -> tuple[list[str], list[Line]]:
    """Headers and lines of the printed table."""
    if not filled.table.has_cells:
        return _quoted(filled)
    return _points(filled) if filled.table.kind == "figure" else _crossed(filled)


def headings(filled: FilledTable) -> list[str]:
    """What stands over the header of each column: the name of its group, or ""."""
    if filled.table.kind == "figure":
        return [""] * len(grid(filled)[0])
    return [""] * label_columns(filled) + [line.group for line in filled.table.columns.values()]


def spans(groups: Sequence[str]) -> list[tuple[str, int]]:
    """Headings that stand side by side as one: its text, and over how many columns it goes. Columns without one stand
    alone."""
    numbered = itertools.groupby(enumerate(groups), key=lambda one: one[1] or one[0])
    return [(group if isinstance(group, str) else "", len(list(columns))) for group, columns in numbered]


def label_columns(filled: FilledTable) -> int:
    """How many columns on the left are labels."""
    several = filled.has_paper or filled.has_replications
    return 2 if filled.table.kind == "figure" or (several and filled.table.has_cells) else 1


def _quoted(filled: FilledTable) -> tuple[list[str], list[Line]]:
    """rows × columns of what the paper prints, and what others got."""
    table, lines = filled.table, []
    for row, line in table.rows.items():
        texts = [_as_printed(table.printed(row, column)) for column in table.columns]
        lines.append(Line(row, "paper", [line.label, *texts]))
        if row in table.replications and filled.has_replications:
            texts = [others_as_printed(filled, table.replicated(row, column)) for column in table.columns]
            lines.append(Line(row, "others", ["others", *texts]))
    return ["", *(line.label for line in table.columns.values())], lines


def _crossed(filled: FilledTable) -> tuple[list[str], list[Line]]:
    """rows × columns, with lines for ours, the paper's number, others' and Δ where there are such."""
    by_place = {(cell.cell.row, cell.cell.column): cell for cell in filled.cells}
    columns = [line.label for line in filled.table.columns.values()]
    several = filled.has_paper or filled.has_replications
    lines = []
    for row in filled.table.rows:
        cells = [by_place.get((row, column)) for column in filled.table.columns]
        kinds: dict[str, Callable[[Summary], str]] = {"ours": ours}
        if filled.has_paper:
            kinds["paper"] = paper
        if filled.has_replications and row in filled.table.replications:
            kinds["others"] = functools.partial(others, filled)
        if filled.has_paper:
            kinds["Δ"] = delta
        for kind, text in kinds.items():
            label = [filled.row_label(row) if text is ours else "", *([kind] if several else [])]
            texts = [text(cell) if cell is not None else NOT_AT_HAND for cell in cells]
            lines.append(Line(row, kind, [*label, *texts]))
    return ["", *([""] if several else []), *columns], lines


def _points(filled: FilledTable) -> tuple[list[str], list[Line]]:
    """One line a point of the figure; a series' label stands at its first point."""
    table, lines, previous = filled.table, [], ""
    for cell in filled.cells:
        line = [filled.row_label(cell.cell.row) if cell.cell.row != previous else "", filled.column_label(cell)]
        if table.x is not None:
            line.append(MISSING if cell.x is None else number(cell.x, table.x.digits))
        numbers = list(cell.values.values())
        extremes = [min(numbers), max(numbers)] if numbers else [None, None]
        line += [_mean_and_sd(cell), *(MISSING if v is None else number(v, cell.cell.metric.digits) for v in extremes)]
        line.append(_seeds(cell).removesuffix(" seeds"))
        line += [paper(cell), delta(cell)] if filled.has_paper else []
        line += [others(filled, cell)] if filled.has_replications else []
        lines.append(Line(cell.cell.row, "ours", line))
        previous = cell.cell.row
    headers = ["series", "setting", *([table.x.name] if table.x is not None else []), "mean ± sd", *EXTREMES, "n"]
    headers += ["paper", "Δ"] if filled.has_paper else []
    return headers + (["others"] if filled.has_replications else []), lines


# ---- cells --------------------------------------------------------------------------------------------------------


def ours(cell: Summary) -> str:
    return f"{_mean_and_sd(cell)} ({_seeds(cell)})"


def paper(cell: Summary) -> str:
    """The paper's number as printed there, without decimals that it does not have."""
    return _as_printed(cell.printed)


def others(filled: FilledTable, cell: Summary) -> str:
    """What others got who repeated the paper, with the marks of their sources."""
    return others_as_printed(filled, cell.replications)


def others_as_printed(filled: FilledTable, numbers: Sequence[Printed]) -> str:
    marks = _marks(filled)
    runs = [f" ({number.runs})" if number.runs is not None else "" for number in numbers]
    texts = [f"{_as_printed(n)}{count} [{marks[n.source]}]" for n, count in zip(numbers, runs, strict=True)]
    return "; ".join(texts) or MISSING


def _as_printed(number: Printed | None) -> str:
    if number is None or number.value is None:
        return NOT_AT_HAND
    return str(number.value) + (f" ± {number.std}" if number.std is not None else "")


def delta(cell: Summary) -> str:
    if cell.delta is None:
        return NOT_AT_HAND if cell.paper is None else MISSING
    sign = "+" if cell.delta >= 0 else ""
    where = {True: " inside", False: " outside", None: ""}[cell.within]
    return f"{sign}{number(cell.delta, cell.cell.metric.digits)}{where}"


def _mean_and_sd(cell: Summary) -> str:
    if cell.mean is None:
        # Finished runs without the number (no such part, or a method without γ) are not missing runs.
        return "not recorded" if cell.ids else MISSING
    spread = f" ± {number(cell.sd, cell.cell.metric.digits)}" if cell.sd is not None else ""
    return number(cell.mean, cell.cell.metric.digits) + spread


def _seeds(cell: Summary) -> str:
    """ "5" where all seeds are there, else "2/5 seeds", and how many diverged: a mean over survivors must say so."""
    have = cell.n or len(cell.ids)
    text = str(have) if have == cell.wanted else f"{have}/{cell.wanted} seeds"
    return text + (f", {cell.diverged} diverged" if cell.diverged else "")


# ---- which is best ------------------------------------------------------------------------------------------------


def best(filled: FilledTable) -> set[tuple[str, str]]:
    """(row, column) of the best means of each column; of each row where it is the rows that have metrics of their own.
    Compared are means as they are printed, of cells of one metric that have all their runs, and not networks with their
    teachers; at least two."""
    rows = filled.table.rows
    by_row = any(line.metric is not None for line in rows.values())
    groups: dict[tuple[str, str, Metric, Derivation | None], dict[tuple[str, str], float]] = defaultdict(dict)
    for cell in filled.cells:
        place, better = (cell.cell.row, cell.cell.column), cell.cell.better()
        if cell.mean is not None and better and cell.n == cell.wanted and not cell.diverged:
            peers = (place[0] if by_row else place[1], rows[place[0]].take, cell.cell.metric, cell.cell.derive)
            groups[peers][place] = round(cell.mean, cell.cell.metric.digits) * (1 if better == "higher" else -1)
    compared = [group for group in groups.values() if len(group) > 1]
    return {place for group in compared for place, worth in group.items() if worth == max(group.values())}


# ---- what must be said of them ------------------------------------------------------------------------------------


def common_n(filled: FilledTable) -> int:
    """How many runs are behind each cell of a table, where that is one number, and all of them; else 0."""
    numbers = {cell.n if cell.n == cell.wanted and not cell.diverged else 0 for cell in filled.cells}
    return max(numbers) if len(numbers) == 1 and max(numbers) > 1 and filled.table.kind == "table" else 0


def conventions(filled: FilledTable, n: int = 0) -> str:
    """Which numbers these are: under the table, in one paragraph. `n`: of how many seeds, where no cell says it."""
    numbers: dict[str, list[Summary]] = defaultdict(list)
    for cell in filled.cells:
        numbers[describe_cell(cell.cell)].append(cell)
    if len(numbers) == 1:
        text = next(iter(numbers))
    else:
        texts = []
        for description, cells in numbers.items():
            labels = [_label(filled, cell) for cell in cells]
            texts.append(f"{', '.join(f'“{label}”' for label in dict.fromkeys(labels))}: {description}")
        text = "; ".join(texts)
    seeds = f"of {n} seeds" if n else "(number of seeds)"
    text = f"{text[0].upper()}{text[1:]}. Mean ± sample standard deviation {seeds}."
    return text + (_comparison(filled) if filled.has_paper else "")


def _label(filled: FilledTable, cell: Summary) -> str:
    """What tells a cell from those that show other numbers: its column's label, else its row's, else both."""
    derived = filled.table.is_derived("rows", cell.cell.row)
    peers = [one for one in filled.cells if filled.table.is_derived("rows", one.cell.row) == derived]

    def alike(axis: str) -> bool:
        shown: dict[str, set[str]] = defaultdict(set)
        for one in peers:
            shown[getattr(one.cell, axis)].add(describe_cell(one.cell))
        return all(len(descriptions) == 1 for descriptions in shown.values())

    row, column = filled.row_label(cell.cell.row), filled.column_label(cell)
    if filled.table.kind == "table" and not derived and alike("column"):
        return column
    return row if filled.table.kind == "figure" or alike("row") else f"{row} / {column}"


def _comparison(filled: FilledTable) -> str:
    """What a paper's number is compared with."""
    cells = [cell for cell in filled.cells if cell.paper is not None]
    stated = {cell.printed.runs for cell in cells if cell.printed is not None}
    one = "one run (how many are behind it is not stated)"
    texts = [one if runs is None else "one run" if runs == 1 else f"a mean of {runs} runs" for runs in stated]
    reports = " or ".join(sorted(texts)) or one
    text = (
        " Δ = ours − paper; inside, outside: where the paper's number lies with respect to our 95 % prediction "
        f"interval for what it reports, {reports}"
    )
    if any(cell.printed is not None and cell.printed.std is not None for cell in cells):
        text += ", with the standard deviation that it prints, where it does"
    split = [cell for cell in cells if cell.unknown_split]
    rates = {cell.cell.metric.rate for cell in split}
    if True in rates:
        text += ", and the binomial share of two random held-out parts"
    if False in rates:
        text += "; that its held-out part is another is not in the interval of this metric"
    return text + "."


def describe(metric: Metric, run: Run) -> str:
    """A metric with its unit, network, part and epoch, as measured on `run`."""
    title = metric.quantity.title + (f" ({metric.unit})" if metric.unit else "")
    if metric.network == ENSEMBLE:
        title += f" of all {len(run.peers) + 1} networks together (mean of their probabilities)"
    elif metric.network != OWN:
        title += f" of the run's {metric.network} ({run.others[metric.network].network})"
    at = "the last epoch" if metric.at_epoch is None else "an epoch"
    if metric.source == "training":
        how = "sum" if metric.total else "mean"
        return f"{title}, {how} over the training {outputs(run)} of {at}, each as it was when it was trained on"
    if metric.source == "run":
        return f"{title} over the training part"
    part = run.dataset.evaluate if metric.part == "evaluate" else metric.part
    if metric.source == "probe":
        return f"{title} on the {part} part"
    if part == "train":
        return f"{title} while training, over {at}"
    text = f"{title} on the {part} part, {EPOCHS[metric.epoch] if metric.at_epoch is None else 'epoch by epoch'}"
    if not metric.scaled_on:
        return text
    other = run.dataset.evaluate if metric.scaled_on == "evaluate" else metric.scaled_on
    chosen = "A POSTERIORI, on this part itself" if other == part else f"on the {other} part"
    if metric.name == "temperature":
        return f"{title}, chosen {chosen}"
    return f"{text}, outputs scaled by the temperature of the least negative log-likelihood, chosen {chosen}"


def describe_cell(cell: Cell) -> str:
    """What a cell shows; of a derived one, how it follows from others, seed by seed."""
    if cell.derive is None:
        return describe(cell.metric, cell.runs[0])
    return f"{DERIVED[cell.derive.kind].words} {describe_cell(cell.made_of[0][0])}"


def legend(filled: FilledTable, text: Callable[[str], str] = plain) -> list[str]:
    """What the marks in the table stand for: whose the numbers of others are, and why cells do not exist. Labels
    within are shown by `text`."""
    return [*_sources(filled), *_skipped(filled, text), *_seen_again(filled)]


def _sources(filled: FilledTable) -> list[str]:
    """Whose the numbers of others are, by the marks that stand beside them."""
    return [f"[{mark}] {source}" for source, mark in _marks(filled).items()]


def _marks(filled: FilledTable) -> dict[str, int]:
    """The mark of each source of replications: 1, 2, ... in reading order."""
    if not filled.has_replications:
        return {}
    places = filled.table.keys()
    numbers = [number for row, column in places for number in filled.table.replicated(row, column)]
    return {source: i for i, source in enumerate(dict.fromkeys(number.source for number in numbers), 1)}


UNDERIVED = "a cell that it would follow from does not exist, or it is none of those that are compared"


def _skipped(filled: FilledTable, text: Callable[[str], str]) -> list[str]:
    """Why cells do not exist: a line for each reason."""
    cells: dict[str, list[str]] = defaultdict(list)
    for row, reasons in filled.table.skip.items():
        for column, reason in reasons.items():
            line = filled.table.columns.get(column)
            cells[reason].append(text(f"{filled.row_label(row)} / {line.title if line is not None else column}"))
    for row in filled.table.rows if filled.table.kind == "table" else ():
        for column, line in filled.table.columns.items():
            there = filled.table.has(row, column) or column in filled.table.skip.get(row, ())
            if not there and filled.table.derivation(row, column) is not None:
                cells[UNDERIVED].append(text(f"{filled.row_label(row)} / {line.title}"))
    return [f"{NOT_AT_HAND}: {', '.join(places)}: {reason}" for reason, places in cells.items()]


def _seen_again(filled: FilledTable) -> list[str]:
    """Which numbers are not of the networks whose records other tables show."""
    if not filled.seen_again:
        return []
    return [
        f"{filled.seen_again} of the {filled.done} networks were trained again to be looked at, on another machine or "
        "with other threads: what was seen is of networks with other last bits than those of the runs' records."
    ]
