"""A table with all that is known of it: what tables, figures and the index are printed from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lskd.plan import TablePlan, in_order
from lskd.report.claims import VERDICTS, Finding, evaluate
from lskd.report.values import Summary, Values, summarize
from lskd.run import Run
from lskd.tables.experiment import Experiment
from lskd.tables.table import Table


@dataclass(frozen=True)
class FilledTable:
    """One table of one experiment, filled with numbers."""

    experiment: Experiment
    planned: TablePlan
    cells: tuple[Summary, ...]
    findings: tuple[Finding, ...]
    runs: tuple[Run, ...]  # all that the table needs, teachers first
    done: int
    unseen: int  # runs that are finished, but that the table's probe has not looked at: they are not done
    seen_again: int  # finished runs of which a probe saw another training than the recorded one
    machines: tuple[tuple[str, int], ...]  # where the finished runs were made, and how many of them there

    @property
    def table(self) -> Table:
        return self.planned.table

    @property
    def has_paper(self) -> bool:
        """Whether the paper's numbers stand beside ours: where it prints any, and where the protocol is the paper's."""
        return bool(self.table.paper) and not self.experiment.own

    @property
    def has_replications(self) -> bool:
        """Whether there are numbers of others beside the paper's."""
        return bool(self.table.replications) and not self.experiment.own

    @property
    def progress(self) -> str:
        """Such as "3 of 35 runs done"."""
        more = f" ({self.unseen} more are trained, and lack what the probe reads)" if self.unseen else ""
        return f"{self.done} of {len(self.runs)} runs done{more}"

    @property
    def paper(self) -> str:
        """Which paper the table is of, such as "Müller 2019"; "" of no paper's."""
        return self.table.source.partition(",")[0]

    def verdicts(self) -> str:
        """Such as "1 reproduced, 2 not run"."""
        count = Counter(finding.verdict for finding in self.findings)
        return ", ".join(f"{count[verdict]} {verdict}" for verdict in VERDICTS if count[verdict])

    def row_label(self, row: str) -> str:
        return self.table.rows[row].label

    def column_label(self, cell: Summary) -> str:
        """Of a table the column's label, of a figure the setting, such as "temperature = 4"."""
        if self.table.kind == "table":
            return self.table.columns[cell.cell.column].title
        return f"{self.table.rows[self.table.plain_row(cell.cell.row)].varied} = {cell.cell.column}"


def fill(experiment: Experiment, planned: TablePlan, values: Values) -> FilledTable:
    with_paper = not experiment.own
    runs = in_order(run for cell in planned.cells for run in cell.runs)
    probed = {run.id: planned.probes for cell in planned.cells for run in cell.runs}
    done = [run for run in runs if values.done(run, probed.get(run.id, ()))]
    return FilledTable(
        experiment=experiment,
        planned=planned,
        cells=tuple(summarize(planned, cell, values, with_paper=with_paper) for cell in planned.cells),
        findings=evaluate(planned, values, own=experiment.own),
        runs=runs,
        done=len(done),
        unseen=sum(map(values.done, runs)) - len(done),
        seen_again=sum(values.seen_again(run, probed.get(run.id, ())) for run in done),
        machines=tuple(Counter(map(values.machine, done)).most_common()),
    )
