"""Made-up results: a small table and a small figure, filled with numbers through the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lskd.config_groups import Conf
from lskd.plan import Plan, TablePlan, in_order, plan_table
from lskd.report.claims import Finding, evaluate
from lskd.report.values import Values
from lskd.schema import parse
from lskd.store import Store
from lskd.tables.experiment import Experiment
from lskd.tables.table import Table

BASE = {"dataset": "digits", "arch": "mlp", "recipe": "quickstart"}
ENV = {"device": "Abacus 3", "commit": "0123456789ab", "lskd": "0.1.0"}


class Lab:
    """A store, and what tests put into it."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.conf = Conf()

    def table(self, seeds: Sequence[int] = (0, 1, 2), **table: Any) -> TablePlan:
        """Two rows (hard, ls) × two columns (small, large) unless the table says otherwise."""
        content: dict[str, Any] = {
            "name": "made_up",
            "title": "Made-up accuracies",
            "source": "Nobody 2020, Table 1",
            "seeds": list(seeds),
            "base": BASE,
            "rows": {
                "hard": {"label": "hard targets", "run": {"alpha": 0.0}},
                "ls": {"label": "label smoothing (α = 0.1)", "run": {"alpha": 0.1}},
            },
            "columns": {
                "small": {"label": "small", "run": {"arch.hidden": [16]}},
                "large": {"label": "large", "run": {"arch.hidden": [64]}},
            },
        }
        return plan_table(parse(Table, {**content, **table}, "table.made_up"), self.conf)

    def figure(self, seeds: Sequence[int] = (0, 1, 2), **table: Any) -> TablePlan:
        """Two series (small, large) over α = 0, 0.2, 0.4, with γ as the horizontal axis."""
        series = {"over": "alpha", "values": [0, 0.2, 0.4]}
        content: dict[str, Any] = {
            "name": "made_up_figure",
            "kind": "figure",
            "title": "Made-up accuracies over γ",
            "seeds": list(seeds),
            "base": BASE,
            "x": {"name": "gamma", "digits": 3, "unit": ""},
            "rows": {
                "small": {"label": "small network", "run": {"arch.hidden": [16]}, **series},
                "large": {"label": "large network", "run": {"arch.hidden": [64]}, **series, "style": "s--"},
            },
        }
        return plan_table(parse(Table, {**content, **table}, "table.made_up_figure"), self.conf)

    def fill(
        self,
        planned: TablePlan,
        cell: str,
        numbers: Sequence[float] | Mapping[int, float],
        *,
        gamma: float = 0.0,
        **more: Any,
    ) -> None:
        """Finish the runs of a cell with these top-1 accuracies: in the order of the seeds, or by seed."""
        by_seed = numbers if isinstance(numbers, Mapping) else dict(enumerate(numbers))
        for run in planned.cell(*cell.split("/")).runs:
            if run.seed in by_seed:
                top1 = by_seed[run.seed]
                measured = {"top1": top1, "error": 100 - top1, "nll": 0.5, "ece15": 0.05, **more}
                best = {"epoch": 3, "test": {**measured, "top1": top1 + 1}}
                self.store.directory(run).mkdir(parents=True, exist_ok=True)
                self.store.begin(run, ENV)
                self.store.finish(
                    run, {"last": {"test": measured}, "best": {"test": best}, "train": {"top1": 100.0}, "gamma": gamma}
                )

    def plan(self, *tables: TablePlan, **experiment: Any) -> Plan:
        names = tuple(planned.table.name for planned in tables)
        runs = in_order(run for planned in tables for cell in planned.cells for run in cell.runs)
        return Plan(Experiment(**{"title": "Made up", "name": "fiction", "tables": names, **experiment}), tables, runs)

    def findings(self, planned: TablePlan) -> dict[str, Finding]:
        return {finding.claim.id: finding for finding in evaluate(planned, Values(self.store))}


@pytest.fixture(scope="session")
def new_lab() -> type[Lab]:
    """For what several tests of a module look at."""
    return Lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "results")
