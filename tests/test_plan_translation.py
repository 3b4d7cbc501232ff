"""The experiments in translation of Müller 2019 and Shen 2021: what they would train, and what they claim."""

from __future__ import annotations

import functools

import pytest

from lskd.config_groups import Conf
from lskd.plan import Plan, make_plan
from lskd.tables.experiment import load_experiment

CONF = Conf()


@functools.cache
def plan_of(name: str) -> Plan:
    return make_plan(load_experiment(CONF.load("experiment", name), name), CONF)


MULLER = {"C4 (tokens)", "C8b", "C9", "C9 (at every temperature)", "C9 (scaling)", "C9 (near 1)"}
# Of each experiment: its runs, its students among them, and its claims.
EXPERIMENTS = {
    "muller_wmt": (3 * 2, 0, MULLER),
    "muller_multi30k": (5 * 2, 0, MULLER),
    "shen_nmt": (3 * (2 + 4), 3 * 4, {"K11", "K11 (as the framework distils)"}),
    "shen_multi30k": (5 * (2 + 6), 5 * 6, {"K11", "K11 (as the framework distils)", "K11 (soft targets alone)"}),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_run_and_every_claim_is_planned(name):
    plan, (runs, students, claims) = plan_of(name), EXPERIMENTS[name]
    assert (len(plan.runs), sum(run.teacher is not None for run in plan.runs)) == (runs, students)
    assert {claim.id for planned in plan.tables for claim in planned.table.claims} == claims
    assert plan.experiment.own == name.endswith("multi30k")


def test_teachers_on_multi30k_are_the_runs_that_mullers_tables_show():
    """And translations that two tables ask for are made once."""
    muller, shen = plan_of("muller_multi30k"), plan_of("shen_multi30k")
    teachers = {run.id for run in shen.runs if run.teacher is None}
    assert teachers == {run.id for run in muller.runs}
    asked = [[probe.name for probe in muller.probes[id]] for id in teachers]
    assert asked == [["translation", "temperature_scaling", "penultimate", "translation"]] * len(teachers)


@pytest.mark.parametrize("name", ["muller_wmt", "muller_multi30k"])
def test_both_axes_of_a_panel_have_the_temperatures_of_their_probes(name):
    figure = next(planned for planned in plan_of(name).tables if planned.table.kind == "figure")
    places = {tuple(figure.table.columns_of(row)) for row in figure.table.rows}
    assert places == {("0.7", "0.85", "1", "1.13", "1.25", "1.4")}
    assert {line.right for line in figure.table.rows.values()} == {"", "ECE"}
    assert len({run.id for cell in figure.cells for run in cell.runs}) == 2 * len(figure.seeds)
