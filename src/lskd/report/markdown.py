"""A table as a page of Markdown, and as text for a terminal."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from tabulate import tabulate

from lskd.recipe import Recipe
from lskd.report import terminal
from lskd.report.characters import plain
from lskd.report.filled import FilledTable
from lskd.report.layout import EXTREMES, banner, conventions, grid, headings, label_columns, legend, selected_on_test
from lskd.schema import identity, show

WIDTH = 120  # characters; rows × columns that are wider are broken into blocks of columns


def page(filled: FilledTable, runs: str, figure: str = "") -> str:
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
    headers, lines = grid(filled)
    headers = [": ".join(filter(None, both)) for both in zip(headings(filled), headers, strict=True)]
    rows = [line.texts for line in lines]
    if filled.table.kind == "figure" and not terminal.fits(headers, rows, columns):
        kept = [i for i, header in enumerate(headers) if header not in EXTREMES]
        headers, rows = [headers[i] for i in kept], [[row[i] for i in kept] for row in rows]
    return terminal.fitted(headers, rows, label_columns(filled), columns)


def _head(filled: FilledTable) -> list[str]:
    """All that must be read before the numbers."""
    experiment, table = filled.experiment, filled.table
    source = f"{plain(table.source)}. " if table.source else ""
    lines = [f"> **{plain(banner(filled))}**"] if experiment.shortened else []
    lines += [f"# {plain(table.title)}"]
    if not table.has_cells:
        return [*lines, f"{source}As the paper prints it; nothing of it is run here."]
    lines += [f"{source}{filled.progress}: `lskd-run experiment={experiment.name}`"]
    if experiment.settings and not experiment.shortened:
        lines.append(f"**Settings laid over every cell: {show(experiment.settings)}**")
    if said := selected_on_test(filled):
        lines.append(f"**{said}**")
    return lines


def _body(filled: FilledTable) -> list[str]:
    headers, lines = grid(filled)
    rows = [line.texts for line in lines]
    # A figure's points are few columns, which must stay side by side.
    width = WIDTH if filled.table.kind == "table" else 0
    headers = [
        f"{plain(group)}<br>{plain(header)}" if group else plain(header)
        for group, header in zip(headings(filled), headers, strict=True)
    ]
    return [_blocks(headers, rows, label_columns(filled), width), *_words(filled)]


def _words(filled: FilledTable) -> list[str]:
    """What stands under the numbers."""
    parts = [plain(conventions(filled))] if filled.table.has_cells else []
    if filled.findings:
        parts += ["## Claims", _claims(filled)]
    if notes := [*filled.table.notes, *legend(filled)]:
        parts += ["## Notes", _bullets(notes)]
    return parts


def _blocks(headers: Sequence[str], rows: Sequence[Sequence[str]], fixed: int, width: int) -> str:
    """The table, in blocks of columns not wider than `width` (0: in one); each repeats the first `fixed` columns.
    Headers are Markdown, in lines that <br> divides."""
    above = [max(map(len, header.split("<br>"))) for header in headers]
    widths = [max(above[i], *(len(row[i]) for row in rows)) + 3 for i in range(len(headers))]
    blocks: list[list[int]] = [[]]
    for i in range(fixed, len(headers)):
        if width and blocks[-1] and sum(widths[j] for j in (*range(fixed), *blocks[-1], i)) > width:
            blocks.append([])
        blocks[-1].append(i)
    tables = []
    for block in blocks:
        chosen = [*range(fixed), *block]
        body = [[plain(row[i]) for i in chosen] for row in rows]
        head = [headers[i] for i in chosen]
        align = ["left"] * fixed + ["right"] * len(block)
        tables.append(tabulate(body, head, tablefmt="pipe", colalign=align, disable_numparse=True))
    return "\n\n".join(tables)


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
    recipes: dict[str, tuple[Recipe, set[str]]] = {}  # each with the networks that it trained
    same = {(id(run.recipe), run.arch.name): run for run in filled.runs}  # thousands of runs share a few recipes
    for run in same.values():
        key = show([run.recipe.name, identity(run.recipe)])
        recipes.setdefault(key, (run.recipe, set()))[1].add(run.arch.name)
    sections = []
    for recipe, users in recipes.values():
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
