"""From the store to what people read: tables, figures, and the verdict on each claim of a paper.

The report looks runs up by the identity that a plan gives them; it never collects whatever lies around. It imports no
torch: all numbers are in the records of the runs.

    <out>/tables/<experiment>/<table>.md, .csv, .tex
    <out>/figures/<experiment>/<table>.png, .svg, .pdf
    <out>/tables/README.md                              the index of all experiments
    <out>/tables/claims.md                              what became of each claim of each paper
    <out>/paper/<experiment>/                           for a paper's source: .tex, and .pdf as wide as a column or page
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lskd.collector import collector_off
from lskd.errors import InputError
from lskd.files import write_atomically
from lskd.plan import Plan
from lskd.report import ahead, frames, index, latex, markdown
from lskd.report.characters import plain
from lskd.report.filled import FilledTable, fill
from lskd.report.values import Values
from lskd.store import Store

if TYPE_CHECKING:
    import pandas

__all__ = ["FilledTable", "Report", "frame", "render", "text", "write", "write_for_paper", "write_index"]


@dataclass(frozen=True)
class Report:
    """An experiment with all that its runs say so far."""

    plan: Plan
    tables: tuple[FilledTable, ...]  # one a table
    done: int  # finished runs of plan.runs
    values: Values  # of the runs, from the store; pages of runs find their records here

    @property
    def damaged(self) -> tuple[str, ...]:
        """Records that are left out, a line each that says what to do."""
        return tuple(self.values.damaged)

    @property
    def root(self) -> Path:
        """Where the runs are."""
        return self.values.store.root


@collector_off()  # records have no cycles: looking for some takes a tenth of the time
def render(plan: Plan, store: Store) -> Report:
    """Read the results of the plan's runs: each record once; from one `Snapshot` of the store once for several plans.
    Damaged records are left out, and named."""
    values = Values(store)
    tables = tuple(fill(plan.experiment, planned, values) for planned in plan.tables)
    done = sum(values.done(run) for run in plan.runs)
    return Report(plan, tables, done, values)


def text(report: Report, out: Path | None = None, columns: int | None = None) -> str:
    """The tables and verdicts for a terminal of so many `columns` (None: for a file or a pipe); what is `write`n to
    `out` (default: the store) has the rest."""
    folder = (out or report.root) / "tables" / report.plan.experiment.name
    lines = [markdown.compact(filled, str(folder / f"{filled.table.name}.md"), columns) for filled in report.tables]
    return "\n".join([*lines, *(f"left out: {reason}" for reason in report.damaged)])


def frame(report: Report) -> pandas.DataFrame:
    """Every cell of the experiment with all its numbers, one row each, for a notebook: the CSV files as one frame."""
    import pandas

    by_table = {filled.table.name: frames.frame(filled) for filled in report.tables}
    return pandas.concat(by_table, names=["table"]).reset_index("table").reset_index(drop=True)


def drawings(reports: Iterable[Report], out: Path, *, paper: bool = False) -> dict[Hashable, Callable[[], Any]]:
    """What draws the figures of `reports` for `write`, and `write_for_paper` with `paper`, for `ahead.drawn`."""
    from lskd.report import figures

    calls: dict[Hashable, Callable[[], Any]] = {}
    for report in reports:
        for filled in filter(figures.drawable, report.tables):
            calls[_key(filled, "screen")] = functools.partial(figures.write, filled, _figure_folder(report, out))
            if paper:
                folder = _paper_folder(report, out)
                calls[_key(filled, "paper")] = functools.partial(figures.write_for_paper, filled, folder)
    return calls


def _key(filled: FilledTable, kind: str) -> Hashable:
    return kind, filled.experiment.name, filled.table.name


def _figure_folder(report: Report, out: Path) -> Path:
    return out / "figures" / report.plan.experiment.name


def _paper_folder(report: Report, out: Path) -> Path:
    return out / "paper" / report.plan.experiment.name


def write(report: Report, out: Path, *, bold: bool = False, drawn: ahead.Drawn = ahead.now) -> list[Path]:
    """Write the tables and figures of an experiment below `out`; the files written. `bold`: of LaTeX tables the best
    mean of each column is bold (`layout.best`). `drawn`: where figures are that are drawn ahead (`drawings`)."""
    from lskd.report import figures  # half a second of matplotlib, which a table does not need

    table_folder, figure_folder = out / "tables" / report.plan.experiment.name, _figure_folder(report, out)
    written = []
    try:
        table_folder.mkdir(parents=True, exist_ok=True)
        for filled in report.tables:
            images = drawn(_key(filled, "screen"), functools.partial(figures.write, filled, figure_folder))
            figure = _link(images[-1], table_folder) if images else ""
            contents = {
                "md": markdown.page(filled, runs=_link(report.root / "runs", table_folder), figure=figure),
                "csv": frames.to_csv(filled),
                "tex": latex.environment(filled, bold=bold),
            }
            for suffix, content in contents.items():
                path = table_folder / f"{filled.table.name}.{suffix}"
                _write(path, content)
                written.append(path)
            written += images
    except OSError as error:
        raise _cannot_write(out, error) from None
    return written


def write_for_paper(report: Report, out: Path, *, bold: bool = False, drawn: ahead.Drawn = ahead.now) -> list[Path]:
    r"""Write what a paper's source \input's into one folder below `out`; the files written. Images have no titles and
    notes, which are in the captions of their floats: <table>_column.tex and <table>_page.tex."""
    from lskd.report import figures

    folder = _paper_folder(report, out)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for filled in report.tables:
            floats = {filled.table.name: latex.environment(filled, bold=bold)}
            images, text = drawn(_key(filled, "paper"), functools.partial(figures.write_for_paper, filled, folder))
            for image in images:
                floats[image.stem] = latex.figure(filled, image.name, text, wide=image.stem.endswith("_page"))
            for name, content in floats.items():
                _write(folder / f"{name}.tex", content)
            written += [*images, *(folder / f"{name}.tex" for name in floats)]
    except OSError as error:
        raise _cannot_write(out, error) from None
    return written


def write_index(reports: Sequence[Report], out: Path) -> list[Path]:
    """`out`/tables/README.md, a line for each table of each experiment, with links to what has been written; and
    claims.md there."""
    folder = out / "tables"
    lines = []
    for report in reports:
        name = report.plan.experiment.name
        for filled in report.tables:
            table = filled.table.name
            files = [folder / name / f"{table}.{suffix}" for suffix in ("md", "csv", "tex")]
            files += [out / "figures" / name / f"{table}.{suffix}" for suffix in ("png", "svg", "pdf")]
            links = " ".join(f"[{path.suffix[1:]}]({_link(path, folder)})" for path in files if path.is_file())
            experiment = report.plan.experiment
            shortened = " (shortened)" if experiment.shortened else " (own protocol)" if experiment.own else ""
            runs = f"{filled.done}/{len(filled.runs)}" if filled.table.has_cells else "none"
            cells = [f"`{name}`{shortened}", plain(filled.table.title), runs, filled.verdicts(), links]
            lines.append(f"| {' | '.join(cells)} |")
    header = ["# Tables", "", "| experiment | table | runs | claims | files |", "|---|---|---|---|---|"]
    contents = {
        "README.md": "\n".join([*header, *lines, ""]),
        "claims.md": index.claims((filled for report in reports for filled in report.tables), folder),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            _write(folder / name, content)
    except OSError as error:
        raise _cannot_write(out, error) from None
    return [folder / name for name in contents]


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _link(target: Path, folder: Path) -> str:
    """`target` relative to `folder`, as a link in a page there: no page names a directory of this machine."""
    return Path(os.path.relpath(target, folder)).as_posix()


def _cannot_write(out: Path, error: OSError) -> InputError:
    return InputError(f"out = {str(out)!r}: cannot be written: {error.strerror}")
