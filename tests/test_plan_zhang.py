"""The experiments of Zhang & Sabuncu 2020: what they would train, by which rule they compare, and what they claim."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import pytest

from lskd.config_groups import Conf
from lskd.plan import Plan, make_plan
from lskd.run import Run
from lskd.tables.experiment import load_experiment
from lskd.targets.beta_smoothing import BetaSmoothing
from lskd.targets.label_smoothing import LabelSmoothing

CONF = Conf()
PRINTED = ("zhang_generations", "zhang_temperature", "zhang_methods")
SMALL = tuple(f"{name}_small" for name in PRINTED)


@functools.cache
def plan_of(name: str) -> Plan:
    return make_plan(load_experiment(CONF.load("experiment", name), name), CONF)


# Of each experiment: its runs, and the longest of their lineages.
RUNS = {
    "zhang_generations": (5 * 10, 9),
    "zhang_temperature": (5 * (9 + 1), 1),
    "zhang_methods": (5 * 4 * 2 * 6, 1),
    "zhang_generations_small": (5 * 7, 6),
    "zhang_temperature_small": (5 * (8 + 1), 1),
    "zhang_methods_small": (10 * 6, 1),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_run_is_planned(name):
    plan = plan_of(name)
    assert (len(plan.runs), max(run.generation for run in plan.runs)) == RUNS[name]
    assert plan.experiment.own == name.endswith("_small")
    for planned in plan.tables:
        assert len(planned.seeds) == (10 if name == "zhang_methods_small" else 5)


@pytest.mark.parametrize("names", [PRINTED, SMALL], ids=["paper", "small"])
def test_every_claim_is_there(names):
    claims = {claim.id for name in names for planned in plan_of(name).tables for claim in planned.table.claims}
    assert claims >= {f"Z{number}" for number in range(1, 10) if number != 5}  # Z5 is theory


@pytest.mark.parametrize("name", ["zhang_methods", "zhang_methods_small"])
def test_methods_have_one_mean_target_of_the_true_class(name):
    """0.85: of label smoothing as it is, of Beta smoothing by its a, of distillation by a T that is solved for."""
    for planned in plan_of(name).tables:
        plain = [cell for cell in planned.cells if cell.metric.name == "top1"]
        if planned.table.name.startswith("zhang_confidences"):  # looks at some of them
            assert {run.id for cell in planned.cells for run in cell.runs} < {run.id for run in plan_of(name).runs}
            continue
        assert {cell.row for cell in plain} == {"ce", "ls", "beta", "sd", "entropy", "map_sd"}
        for cell in plain:
            run = cell.runs[0]
            if cell.row == "ls":
                assert isinstance(run.target.settings, LabelSmoothing)
                assert 1 - run.target.settings.alpha == pytest.approx(0.85)
                assert run.target.settings.mass == "others"
            if cell.row == "beta":
                assert isinstance(run.target.settings, BetaSmoothing)
                weight, a = run.target.settings.weight, run.target.settings.shape
                assert 1 - weight + weight * a / (a + 1) == pytest.approx(0.85)
            if cell.row == "sd":
                assert run.method.settings.true_class == 0.85
                assert list(run.method.settings.to_solve) == ["temperature"]
                assert run.teacher == planned.cell("ce", cell.column).runs[0]


def test_the_protocol_is_that_of_the_authors_code():
    runs = plan_of("zhang_generations").runs
    assert {run.dataset.holdout for run in runs} == {5000}
    schedule = runs[0].recipe.schedule
    per_epoch = runs[0].recipe.steps_per_epoch(45_000)
    factors = [schedule.at(epoch * per_epoch, total_steps=150 * per_epoch, steps_per_epoch=per_epoch)
               for epoch in (0, 49, 50, 99, 100, 149)]  # fmt: skip
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    settings = runs[-1].method.settings
    assert (settings.temperature, settings.beta, settings.t_squared, settings.student_t) == (4, 0.4, False, "one")
    densenet = next(run for run in plan_of("zhang_methods").runs if run.arch.name == "densenet_bc100")
    assert densenet.recipe.schedule.milestones == (75, 113)
    assert densenet.recipe.lr == runs[0].recipe.lr


def test_a_generation_is_one_run_in_all_experiments():
    """The first student of the chain is the one at T = 4 of the temperatures."""

    def students(name: str) -> set[str]:
        return {run.id for run in plan_of(name).runs if run.generation == 1}

    for ending in ("", "_small"):
        assert len(students(f"zhang_generations{ending}") & students(f"zhang_temperature{ending}")) == 5


def test_generations_share_no_random_stream():
    chain: list[Run] = [run for run in plan_of("zhang_generations_small").runs if run.seed == 0]
    assert len({run.stream_seed for run in chain}) == len(chain) == 7
    assert all(replace(run, teacher=None, method=chain[0].method, streams="shared").id == chain[0].id for run in chain)


@pytest.mark.parametrize("name", PRINTED)
def test_no_number_of_the_paper_is_shown_that_is_not_at_hand(name):
    for planned in plan_of(name).tables:
        for cell in planned.cells:
            printed = planned.table.printed(cell.row, cell.column)
            assert printed is None or printed.value is None
    assert "null" in json.dumps(CONF.load("table", "zhang_table1")["paper"])
