"""A table as numbers: a pandas frame, and CSV. Long format, one row a cell, with every number at full precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lskd.networks import OWN
from lskd.report.filled import FilledTable
from lskd.report.layout import others, others_as_printed
from lskd.report.values import Summary
from lskd.tables.line import Printed

if TYPE_CHECKING:
    import pandas


def frame(filled: FilledTable) -> pandas.DataFrame:
    """Long format: one row a cell, with every number at full precision."""
    import pandas

    if not filled.table.has_cells:
        places = filled.table.keys()
        return pandas.DataFrame([_quoted_record(filled, row, column) for row, column in places])
    return pandas.DataFrame([_record(filled, cell) for cell in filled.cells])


def to_csv(filled: FilledTable) -> str:
    """`frame` as CSV; a missing number is an empty field."""
    return frame(filled).to_csv(index=False, lineterminator="\n")


def _quoted_record(filled: FilledTable, row: str, column: str) -> dict[str, object]:
    printed = filled.table.printed(row, column) or Printed(None)
    record = {"row": row, "column": column, "paper": printed.value, "paper_sd": printed.std, "paper_runs": printed.runs}
    return record | (
        {"others": others_as_printed(filled, filled.table.replicated(row, column))} if filled.has_replications else {}
    )


def _record(filled: FilledTable, cell: Summary) -> dict[str, object]:
    metric, run = cell.cell.metric, cell.cell.runs[0]
    line = filled.table.columns.get(cell.cell.column)
    low, high = cell.interval or (None, None)
    record: dict[str, object] = {
        "row": cell.cell.row,
        "column": cell.cell.column,
        "row_label": filled.row_label(cell.cell.row),
        "column_label": line.label if line is not None else filled.column_label(cell),
    }
    if any(one.group for one in filled.table.columns.values()):
        record["column_group"] = line.group if line is not None else ""
    if filled.table.kind == "figure":
        record["x"] = cell.x
    if metric.network != OWN:
        record["network"] = metric.network
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
        "runs": " ".join(cell.ids[seed] for seed in cell.values if seed in cell.ids),
    }
