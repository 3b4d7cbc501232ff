"""A table as Markdown, CSV and LaTeX.

A cell shows ours as mean ± sample standard deviation (number of seeds), below it the paper's number, what others got
who repeated it, and Δ = ours - paper with whether the paper's number lies inside or outside our 95 % prediction
interval for it. A cell with fewer seeds than the table wants says so. A figure's points are a long table.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tabulate import tabulate

from lskd.probes import PROBES
from lskd.report import terminal
from lskd.report.characters import plain, tex
from lskd.report.filled import FilledTable
from lskd.report.values import RATES, Summary
from lskd.run import Run
from lskd.schema import identity, show
from lskd.tables.metric import Metric, probed, watched
from lskd.tables.table import Printed

if TYPE_CHECKING:
    import pandas

WIDTH = 120  # characters; rows × columns that are wider are broken into blocks of columns

MISSING = "–"
NOT_AT_HAND = "n/a"
EXTREMES = ("min", "max")  # of a figure's points, over the seeds

METRIC_TITLES = {
    "top1": "top-1 accuracy",
    "error": "top-1 error",
    "top5": "top-5 accuracy",
    "nll": "negative log-likelihood",
    "ece15": "expected calibration error (15 bins)",
    "gap": "confidence less accuracy",
    "least_gap": "least gap between confidence and accuracy, of the bins (of 15) with at least 1 % of the images",
    "gamma": "equivalent label smoothing γ",
    "temperature": "temperature of the least negative log-likelihood",
}
EPOCHS = {
    "last": "last epoch",
    "best_on_validation": "epoch with the best top-1 on the validation part",
    "best_on_test": "EPOCH WITH THE BEST TOP-1 ON THE TEST PART",
}


def metric_title(name: str) -> str:
    of_probes = {name: words for probe in PROBES.values() for name, words in probe.gives.items()}
    return {**METRIC_TITLES, **of_probes, **watched()}[name]


def banner(filled: FilledTable) -> str:
    """The warning that must stand before the numbers of a shortened experiment; "" for the paper's protocol."""
    if not filled.experiment.shortened:
        return ""
    what = filled.experiment.shortened.rstrip(".")
    return f"Shortened: {what}. Not the paper's protocol; its numbers must not be compared with the paper's."


# ---- Markdown -----------------------------------------------------------------------------------------------------


def markdown(filled: FilledTable, runs: str, figure: str = "") -> str:
    """The whole page. `runs` and `figure` are links, relative to the page, to the runs' directory and the figure."""
    parts = [*_head(filled), f"![{plain(filled.table.title)}]({figure})" if figure else "", *_body(filled)]
    parts += ["## Protocol" if filled.runs else "", *_recipes(filled), _machines(filled), _run_links(filled, runs)]
    return "\n\n".join(filter(None, parts)) + "\n"


def compact(filled: FilledTable, details: str, columns: int | None = None) -> str:
    """The page for a terminal of so many `columns`, without its protocol: `details` says where that is. None: no
    terminal, but a file or a pipe, for which tables are Markdown and nothing is wrapped."""
    more = f"Protocol, machines and runs: {details}" if filled.runs else ""
    if columns is None:
        return "\n\n".join(filter(None, [*_head(filled), *_body(filled), more])) + "\n"
    before, after = _head(filled), [*_words(filled), more]
    texts = [[terminal.wrapped(text, columns) for text in texts if text] for texts in (before, after)]
    return "\n\n".join([*texts[0], _fitted(filled, columns), *texts[1]]) + "\n"


def _fitted(filled: FilledTable, columns: int) -> str:
    """The table for a terminal of so many columns. Least and largest of a figure's points go where there is no room: a
    point is in few lines then, and the CSV has them."""
    headers, rows = layout(filled)
    if filled.table.kind == "figure" and not terminal.fits(headers, rows, columns):
        kept = [i for i, header in enumerate(headers) if header not in EXTREMES]
        headers, rows = [headers[i] for i in kept], [[row[i] for i in kept] for row in rows]
    return terminal.fitted(headers, rows, _label_columns(filled), columns)


SELECTED_ON_TEST = (
    "**Selected on the test part: these numbers are of each run's best epoch on the very images they are measured on, "
    "as the paper's are.**"
)


def _head(filled: FilledTable) -> list[str]:
    """All that must be read before the numbers."""
    experiment, table = filled.experiment, filled.table
    source = f"{plain(table.source)}. " if table.source else ""
    lines = [f"> **{plain(banner(filled))}**"] if experiment.shortened else []
    lines += [f"# {plain(table.title)}"]
    if not table.has_cells:
        return [*lines, f"{source}As the paper prints it; nothing of it is run here."]
    lines += [f"{source}{filled.done} of {len(filled.runs)} runs done: `lskd-run experiment={experiment.name}`"]
    if experiment.settings and not experiment.shortened:
        lines.append(f"**Settings laid over every cell: {show(experiment.settings)}**")
    if any(cell.cell.metric.epoch == "best_on_test" for cell in filled.cells):
        lines.append(SELECTED_ON_TEST)
    return lines


def _body(filled: FilledTable) -> list[str]:
    headers, rows = layout(filled)
    # A figure's points are few columns, which must stay side by side.
    width = WIDTH if filled.table.kind == "table" else 0
    return [_blocks(headers, rows, _label_columns(filled), width), *_words(filled)]


def _words(filled: FilledTable) -> list[str]:
    """What stands under the numbers."""
    parts = [plain(_conventions(filled))] if filled.table.has_cells else []
    if filled.findings:
        parts += ["## Claims", _claims(filled)]
    if notes := [*filled.table.notes, *_sources(filled), *_skipped(filled), *_seen_again(filled)]:
        parts += ["## Notes", _bullets(notes)]
    return parts


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


def _skipped(filled: FilledTable) -> list[str]:
    """Why cells do not exist: a line for each reason."""
    cells: dict[str, list[str]] = defaultdict(list)
    for row, reasons in filled.table.skip.items():
        for column, reason in reasons.items():
            line = filled.table.columns.get(column)
            cells[reason].append(plain(f"{filled.row_label(row)} / {line.label if line is not None else column}"))
    return [f"{NOT_AT_HAND}: {', '.join(places)}: {reason}" for reason, places in cells.items()]


def _seen_again(filled: FilledTable) -> list[str]:
    """Which numbers are not of the networks whose records other tables show."""
    if not filled.seen_again:
        return []
    return [
        f"{filled.seen_again} of the {filled.done} networks were trained again to be looked at, on another machine or "
        "with other threads: what was seen is of networks with other last bits than those of the runs' records."
    ]


def _blocks(headers: Sequence[str], rows: Sequence[Sequence[str]], fixed: int, width: int) -> str:
    """The table, in blocks of columns not wider than `width` (0: in one); each repeats the first `fixed` columns."""
    widths = [max(len(line[i]) for line in (headers, *rows)) + 3 for i in range(len(headers))]
    blocks: list[list[int]] = [[]]
    for i in range(fixed, len(headers)):
        if width and blocks[-1] and sum(widths[j] for j in (*range(fixed), *blocks[-1], i)) > width:
            blocks.append([])
        blocks[-1].append(i)
    tables = []
    for block in blocks:
        chosen = [*range(fixed), *block]
        body = [[plain(row[i]) for i in chosen] for row in rows]
        head = [plain(headers[i]) for i in chosen]
        align = ["left"] * fixed + ["right"] * len(block)
        tables.append(tabulate(body, head, tablefmt="pipe", colalign=align, disable_numparse=True))
    return "\n\n".join(tables)


def _conventions(filled: FilledTable) -> str:
    """Which numbers these are: under the table, in one paragraph."""
    numbers: dict[str, list[Summary]] = defaultdict(list)
    for cell in filled.cells:
        numbers[describe(cell.cell.metric, cell.cell.runs[0])].append(cell)
    if len(numbers) == 1:
        text = next(iter(numbers))
    else:
        by_column = filled.table.kind == "table" and all(
            len({cell.cell.metric for cell in filled.cells if cell.cell.column == column}) == 1
            for column in filled.table.columns
        )
        texts = []
        for description, cells in numbers.items():
            labels = [filled.column_label(cell) if by_column else filled.row_label(cell.cell.row) for cell in cells]
            texts.append(f"{', '.join(f'“{label}”' for label in dict.fromkeys(labels))}: {description}")
        text = "; ".join(texts)
    text = f"{text[0].upper()}{text[1:]}. Mean ± sample standard deviation (number of seeds)."
    return text + (_comparison(filled) if filled.has_paper else "")


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
    rates = {cell.cell.metric.name in RATES for cell in split}
    if True in rates:
        text += ", and the binomial share of two random held-out parts"
    if False in rates:
        text += "; that its held-out part is another is not in the interval of this metric"
    return text + "."


def describe(metric: Metric, run: Run) -> str:
    """A metric with its unit, part and epoch, as measured on `run`."""
    title = metric_title(metric.name) + (f" ({metric.unit})" if metric.unit else "")
    at = "the last epoch" if metric.at_epoch is None else "an epoch"
    if metric.name in watched():
        how = "sum" if metric.total else "mean"
        return f"{title}, {how} over the training images of {at}, each as it was when it was trained on"
    if metric.name == "gamma":
        return f"{title} over the training part"
    part = run.dataset.evaluate if metric.part == "evaluate" else metric.part
    if metric.name in probed():
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


def _claims(filled: FilledTable) -> str:
    where = ""
    if filled.experiment.own:
        where = "at this shortened recipe: " if filled.experiment.shortened else "at this protocol: "
    lines = []
    for finding in filled.findings:
        lines.append(f"- {finding.claim.id}: {where}**{finding.verdict}**. {finding.claim.text}")
        if finding.missing:
            shown = ", ".join(f"`{cell}`" for cell in finding.missing[:6])
            more = f" and {len(finding.missing) - 6} more" if len(finding.missing) > 6 else ""
            lines.append(f"    - no run yet of {shown}{more}")
        lines += [f"    - {count}" for count in finding.counts if finding.outcome != "not run"]
        lines += [f"    - `{p.statement}` {p.verdict}: {p.text}" for p in finding.parts if p.outcome != "not run"]
    return "\n".join(lines)


def _recipes(filled: FilledTable) -> list[str]:
    """Each recipe of the runs and of their teachers: as run, where its facts come from, and what was our choice."""
    recipes = {show([run.recipe.name, identity(run.recipe)]): run.recipe for run in filled.runs}
    sections = []
    for key, recipe in recipes.items():
        users = {run.arch.name for run in filled.runs if show([run.recipe.name, identity(run.recipe)]) == key}
        as_run = ", ".join(
            f"{name} {value if isinstance(value, str) else show(value)}" for name, value in identity(recipe).items()
        )
        sections += [
            f"### Recipe {recipe.name or 'without a name'} ({', '.join(sorted(users))})",
            f"As run (what is not named is at its default): {as_run}",
            f"Where this comes from:\n\n{_bullets(recipe.provenance)}" if recipe.provenance else "",
            f"What we had to choose, or changed:\n\n{_bullets(recipe.deviations)}" if recipe.deviations else "",
        ]
    return sections


def _machines(filled: FilledTable) -> str:
    if not filled.machines:
        return ""
    return "### Machines\n\n" + _bullets([f"{_count(count, 'run')}: {machine}" for machine, count in filled.machines])


def _run_links(filled: FilledTable, runs: str) -> str:
    """Links to the runs behind each cell; cells that show different numbers of the same runs share a line."""
    cells_of: dict[tuple[tuple[int, str], ...], list[str]] = defaultdict(list)
    for cell in filled.cells:
        cells_of[tuple(cell.ids.items())].append(f"`{cell.cell.row}/{cell.cell.column}`")
    lines = []
    for ids, cells in cells_of.items():
        if ids:
            seeds, links = ", ".join(str(seed) for seed, _ in ids), " ".join(f"[{id}]({runs}/{id}/)" for _, id in ids)
            lines.append(f"{', '.join(cells)}, seed {seeds}: {links}")
    return f"### Runs\n\n{_bullets(lines)}" if lines else ""


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join("- " + re.sub(r"\s*\n\s*", " ", line) for line in lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


# ---- the cells as text, for Markdown and LaTeX --------------------------------------------------------------------


def layout(filled: FilledTable) -> tuple[list[str], list[list[str]]]:
    """Headers and lines of the printed table."""
    if not filled.table.has_cells:
        return _quoted(filled)
    return _points(filled) if filled.table.kind == "figure" else _crossed(filled)


def _label_columns(filled: FilledTable) -> int:
    """How many columns on the left are labels."""
    several = filled.has_paper or filled.has_replications
    return 2 if filled.table.kind == "figure" or (several and filled.table.has_cells) else 1


def _quoted(filled: FilledTable) -> tuple[list[str], list[list[str]]]:
    """rows × columns of what the paper prints, and what others got."""
    table, lines = filled.table, []
    for row, line in table.rows.items():
        lines.append([line.label, *(_as_printed(table.printed(row, column)) for column in table.columns)])
        if row in table.replications and filled.has_replications:
            lines.append(["others", *(_others(filled, table.replicated(row, column)) for column in table.columns)])
    return ["", *(line.label for line in table.columns.values())], lines


def _crossed(filled: FilledTable) -> tuple[list[str], list[list[str]]]:
    """rows × columns, with lines for ours, the paper's number, others' and Δ where there are such."""
    by_place = {(cell.cell.row, cell.cell.column): cell for cell in filled.cells}
    columns = [line.label for line in filled.table.columns.values()]
    several = filled.has_paper or filled.has_replications
    lines = []
    for row in filled.table.rows:
        cells = [by_place.get((row, column)) for column in filled.table.columns]
        kinds: dict[str, Callable[[Summary], str]] = {"ours" if several else "": ours}
        if filled.has_paper:
            kinds["paper"] = paper
        if filled.has_replications and row in filled.table.replications:
            kinds["others"] = functools.partial(others, filled)
        if filled.has_paper:
            kinds["Δ"] = delta
        for kind, text in kinds.items():
            label = [filled.row_label(row) if text is ours else "", *([kind] if several else [])]
            lines.append([*label, *(text(cell) if cell is not None else NOT_AT_HAND for cell in cells)])
    return ["", *([""] if several else []), *columns], lines


def _points(filled: FilledTable) -> tuple[list[str], list[list[str]]]:
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
        lines.append(line + ([others(filled, cell)] if filled.has_replications else []))
        previous = cell.cell.row
    headers = ["series", "setting", *([table.x.name] if table.x is not None else []), "mean ± sd", *EXTREMES, "n"]
    headers += ["paper", "Δ"] if filled.has_paper else []
    return headers + (["others"] if filled.has_replications else []), lines


def number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def ours(cell: Summary) -> str:
    return f"{_mean_and_sd(cell)} ({_seeds(cell)})"


def paper(cell: Summary) -> str:
    """The paper's number as printed there, without decimals that it does not have."""
    return _as_printed(cell.printed)


def others(filled: FilledTable, cell: Summary) -> str:
    """What others got who repeated the paper, with the marks of their sources."""
    return _others(filled, cell.replications)


def _others(filled: FilledTable, numbers: Sequence[Printed]) -> str:
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


# ---- CSV ----------------------------------------------------------------------------------------------------------


def frame(filled: FilledTable) -> pandas.DataFrame:
    """Long format: one row a cell, with every number at full precision."""
    import pandas

    if not filled.table.has_cells:
        places = filled.table.keys()
        return pandas.DataFrame([_quoted_record(filled, row, column) for row, column in places])
    return pandas.DataFrame([_record(filled, cell) for cell in filled.cells])


def to_csv(filled: FilledTable) -> str:
    """`frame` as CSV; what there is no number for is an empty field."""
    return frame(filled).to_csv(index=False, lineterminator="\n")


def _quoted_record(filled: FilledTable, row: str, column: str) -> dict[str, object]:
    printed = filled.table.printed(row, column) or Printed(None)
    record = {"row": row, "column": column, "paper": printed.value, "paper_sd": printed.std, "paper_runs": printed.runs}
    return record | (
        {"others": _others(filled, filled.table.replicated(row, column))} if filled.has_replications else {}
    )


def _record(filled: FilledTable, cell: Summary) -> dict[str, object]:
    metric, run = cell.cell.metric, cell.cell.runs[0]
    low, high = cell.interval or (None, None)
    record: dict[str, object] = {
        "row": cell.cell.row,
        "column": cell.cell.column,
        "row_label": filled.row_label(cell.cell.row),
        "column_label": filled.column_label(cell),
    }
    if filled.table.kind == "figure":
        record["x"] = cell.x
    record |= {
        "metric": metric.name,
        "unit": metric.unit,
        "part": run.dataset.evaluate if metric.part == "evaluate" else metric.part,
        "epoch": metric.epoch,
        "n": cell.n,
        "wanted": cell.wanted,
        "diverged": cell.diverged,
        "mean": cell.mean,
        "sd": cell.sd,
        "min": min(cell.values.values(), default=None),
        "max": max(cell.values.values(), default=None),
        "ci_low": low,
        "ci_high": high,
    }
    if filled.has_paper:
        within, printed = None if cell.within is None else str(cell.within).lower(), cell.printed or Printed(None)
        low, high = cell.predicted or (None, None)
        record |= {
            "paper": printed.value,
            "paper_sd": printed.std,
            "paper_runs": printed.runs,
            "delta": cell.delta,
            "pi_low": low,
            "pi_high": high,
            "within": within,
        }
    if filled.has_replications:
        record["others"] = others(filled, cell)
    return record | {
        "seeds": " ".join(map(str, cell.values)),
        "values": " ".join(map(repr, cell.values.values())),
        "runs": " ".join(cell.ids[seed] for seed in cell.values),
    }


# ---- LaTeX --------------------------------------------------------------------------------------------------------


def latex(filled: FilledTable) -> str:
    r"""A table environment for `\usepackage{booktabs}`. The warning of a shortened experiment is in its caption."""
    headers, rows = layout(filled)
    labels = _label_columns(filled)
    sentences = [banner(filled), f"{filled.table.title}.", f"{filled.table.source}." if filled.table.source else ""]
    caption = " ".join(filter(None, [*sentences, _conventions(filled) if filled.table.has_cells else ""]))
    lines = [
        r"% Written by lskd-report. Needs \usepackage{booktabs}.",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{tex(caption)}}}",
        rf"\begin{{tabular}}{{{'l' * labels}{'r' * (len(headers) - labels)}}}",
        r"\toprule",
        _tex_line(headers),
        r"\midrule",
    ]
    for i, row in enumerate(rows):
        if i and row[0] and not all(line[0] for line in rows):  # a new group of lines
            lines.append(r"\addlinespace")
        lines.append(_tex_line(row))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _tex_line(cells: Sequence[str]) -> str:
    line = " & ".join(map(tex, cells)) + r" \\"
    return "{}" + line if line[0] in "[*" else line  # which the \\ before it would take for its argument
