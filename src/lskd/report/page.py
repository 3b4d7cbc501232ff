"""A sheet with all that is known of it: what tables, figures and the index are printed from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lskd.config import Run
from lskd.plan import Experiment, Grid, Sheet, in_order
from lskd.report.claims import VERDICTS, Finding, evaluate
from lskd.report.values import Summary, Values, summarize


@dataclass(frozen=True)
class Page:
    """One sheet of one experiment, filled with numbers."""

    experiment: Experiment
    grid: Grid
    cells: tuple[Summary, ...]
    findings: tuple[Finding, ...]
    runs: tuple[Run, ...]  # all that the sheet needs, teachers first
    done: int
    seen_again: int  # finished runs of which an observer saw another training than the recorded one
    machines: tuple[tuple[str, int], ...]  # where the finished runs were made, and how many of them there

    @property
    def sheet(self) -> Sheet:
        return self.grid.sheet

    @property
    def has_paper(self) -> bool:
        """Whether the paper's numbers stand beside ours: where it prints any, and where the protocol is the paper's."""
        return bool(self.sheet.paper) and not self.experiment.own

    @property
    def has_replications(self) -> bool:
        """Whether there are numbers of others beside the paper's."""
        return bool(self.sheet.replications) and not self.experiment.own

    @property
    def paper(self) -> str:
        """Which paper the sheet is of, such as "Müller 2019"; "" of no paper's."""
        return self.sheet.source.partition(",")[0]

    def verdicts(self) -> str:
        """Such as "1 reproduced, 2 not run"."""
        count = Counter(finding.verdict for finding in self.findings)
        return ", ".join(f"{count[verdict]} {verdict}" for verdict in VERDICTS if count[verdict])

    def row_label(self, row: str) -> str:
        return self.sheet.rows[row].label

    def column_label(self, cell: Summary) -> str:
        """Of a table the column's label, of a figure the setting, such as "temperature = 4"."""
        if self.sheet.kind == "table":
            return self.sheet.columns[cell.cell.column].label
        return f"{self.sheet.rows[cell.cell.row].over} = {cell.cell.column}"


def make_page(experiment: Experiment, grid: Grid, values: Values) -> Page:
    with_paper = not experiment.own
    runs = in_order(run for cell in grid.cells for run in cell.runs)
    looked_at = {run.id: grid.observation for cell in grid.cells for run in cell.runs}
    done = [run for run in runs if values.done(run, looked_at.get(run.id))]
    return Page(
        experiment=experiment,
        grid=grid,
        cells=tuple(summarize(grid, cell, values, with_paper=with_paper) for cell in grid.cells),
        findings=evaluate(grid, values, own=experiment.own),
        runs=runs,
        done=len(done),
        seen_again=sum(
            one is not None and values.seen_again(run, one) for run in done for one in [looked_at.get(run.id)]
        ),
        machines=tuple(Counter(_machine(values, run) for run in done).most_common()),
    )


def _machine(values: Values, run: Run) -> str:
    env = values.store.env(run)
    words = [str(env.get("device") or "an unknown device")]
    words += [f"{name} {env[name]}" for name in ("torch", "lskd", "commit") if env.get(name)]
    return ", ".join(words)
