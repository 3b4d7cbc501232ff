"""The table language: what a table says, and what its plan makes of it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.errors import InputError
from lskd.plan import TablePlan, plan_table
from lskd.tables.claim import TESTS, Kind, Term, read_operand
from lskd.tables.claim import Test as Statement
from lskd.tables.derived import best, difference, mean, rank, wins
from lskd.tables.table import Table, read_table

CONF = Conf()
BASE = {"dataset": "digits", "recipe": "quickstart", "arch": "mlp"}
ROWS = {"a": {"label": "A"}, "b": {"label": "B", "run": {"alpha": 0.1}}, "c": {"label": "C", "run": {"alpha": 0.2}}}
COLUMNS = {"small": {"label": "small", "run": {"arch.hidden": [16]}}, "large": {"label": "large"}}


def make_table(**table: Any) -> Table:
    content = {"title": "A table", "seeds": [0, 1, 2], "base": BASE, "rows": ROWS, "columns": COLUMNS, "name": "mine"}
    return read_table({**content, **table}, "table.mine")


def plan_of(**table: Any) -> TablePlan:
    return plan_table(make_table(**table), CONF)


# ---- tests of claims ------------------------------------------------------------------------------------------------


def test_operands_are_read_into_terms_when_a_test_is_made():
    assert read_operand("a/x - max(b)") == (Term("a", "x"), Term("b", kind="max"))
    assert read_operand("b@x") == (Term("b", kind="x"),) and str(Term("a", kind="best")) == "best(a)"
    test = Statement("less", of=("a/x", "b/x"), than=("c/x", "a/y"))
    assert len(test.operands) == 4 and test.operands is test.operands
    for wrong in ("a", "a/", "a/x - ", "/x"):
        with pytest.raises(InputError, match="must be row/column, series@x"):
            Statement("less", of=wrong, than="a/x")


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ({"test": "lesser", "of": "a/small"}, "test = 'lesser': did you mean 'less'"),
        ({"test": "below", "of": "a/small", "margin": "ours"}, r"than = \(\): must be a number with below"),
        ({"test": "below", "of": "a/small", "than": "b/small", "margin": "ours"}, "must be a number with below"),
        ({"test": "above", "of": "a/small", "within": 1.0, "than": 0, "margin": "ours"}, "within = 1.0: must be not"),
        ({"test": "less", "of": "a/small", "than": 3}, "than = 3.0: must be cells with less"),
        ({"test": "largest", "of": "a/small", "than": 3}, "than = 3.0: must be not given with largest"),
        ({"test": "less", "of": "a/small", "than": "best(b)"}, "must be in a table with `select`"),
    ],
)  # fmt: skip
def test_what_a_test_must_have(test, message):
    with pytest.raises(InputError, match=message):
        make_table(claims=[{"id": "C", "text": "", "tests": [test]}])


def test_a_bound_is_a_number_in_than():
    test = Statement("above", of="a/small", than=-1, margin="ours")
    assert test.region == (-1, float("inf"))
    [statement] = make_table().statements(test)
    assert str(statement) == "a/small > -1 (ours)"


def test_a_new_kind_of_test_is_one_entry(monkeypatch):
    """Twice the margin, on one side."""
    monkeypatch.setitem(TESTS, "hardly_less", Kind("cells", "cells", -2, float("inf"), "{of} ≳ {than}", margin=True))
    test = Statement("hardly_less", of="a/*", than="b/*", within=0.5, margin="ours")
    assert test.region == (-1, float("inf"))
    assert [str(statement) for statement in make_table().statements(test)] == ["a/small ≳ b/small", "a/large ≳ b/large"]


def test_a_tables_statements_are_made_once():
    claims = [{"id": "C", "text": "", "tests": [{"test": "less", "of": "a/*", "than": "b/*"}]}]
    table = make_table(claims=claims)
    assert table.statements(table.claims[0].tests[0]) is table.statements(table.claims[0].tests[0])


def test_wildcards_leave_out_skipped_and_derived_cells():
    rows = {**ROWS, "gain": {"label": "gain", "derive": {"kind": "difference", "of": "b", "than": "a"}}}
    columns = {**COLUMNS, "mean": {"label": "mean", "derive": {"kind": "mean", "of": "*"}}}
    table = make_table(rows=rows, columns=columns, skip={"c": {"small": "no"}})

    def words(**test: Any) -> list[str]:
        return [str(statement) for statement in table.statements(Statement("less", **test))]

    assert words(of="c/*", than="a/*") == ["c/large < a/large"]
    assert words(of="*/small", than="*/large") == ["a/small < a/large", "b/small < b/large"]
    assert words(of="gain/*", than="c/large") == ["gain/small < c/large", "gain/large < c/large"]
    assert words(of="b/*", than="a/*", columns=("mean",)) == ["b/mean < a/mean"]


# ---- derived cells --------------------------------------------------------------------------------------------------


def test_derived_numbers_of_one_seed():
    assert difference([[3.0, 5.0]], []) == -2
    assert mean([[1.0], [2.0], [6.0]], []) == 3
    assert rank([[5.0, 7.0, 5.0, 1.0]], []) == 2.5  # behind one, level with one
    assert rank([[1.0, 0.0], [0.0, 1.0]], []) == 1.5
    assert wins([[2.0, 1.0], [1.0, 1.0], [0.0, 1.0]], []) == 1
    assert best([[90.0], [95.0], [99.0]], [0.5, 0.7, 0.7]) == 95  # whatever is best on the reported part


DERIVED_COLUMNS = {
    **COLUMNS,
    "mean": {"label": "mean", "derive": {"kind": "mean", "of": "*"}},
    "rank": {"label": "rank", "derive": {"kind": "rank", "of": ["small", "large"], "among": ["a", "b"]}},
    "wins": {"label": "wins over A", "derive": {"kind": "wins", "of": "*", "than": "a"}},
}


def test_derived_cells_are_made_of_others_and_have_their_runs():
    planned = plan_of(columns=DERIVED_COLUMNS, skip={"c": {"large": "no"}})
    assert planned.table.keys() == [
        *(("a", column) for column in ("small", "large", "mean", "rank")),
        *(("b", column) for column in ("small", "large", "mean", "rank", "wins")),
        ("c", "small"),
    ]
    mean_of_a = planned.cell("a", "mean")
    assert mean_of_a.plain == (planned.cell("a", "small"), planned.cell("a", "large"))
    assert {run.id for run in mean_of_a.runs} == {run.id for cell in mean_of_a.plain for run in cell.runs}
    ranked = planned.cell("b", "rank")
    assert [[cell.row for cell in group] for group in ranked.made_of] == [["b", "a"], ["b", "a"]]
    assert (ranked.metric.digits, ranked.metric.unit, ranked.better()) == (1, "", "lower")


def test_where_a_derived_row_crosses_a_derived_column_the_row_is_derived_of_the_column():
    rows = {**ROWS, "gain": {"label": "gain", "derive": {"kind": "difference", "of": "b", "than": "a"}}}
    gain = plan_of(rows=rows, columns=DERIVED_COLUMNS).cell("gain", "mean")
    assert [[(cell.row, cell.column) for cell in group] for group in gain.made_of] == [[("b", "mean"), ("a", "mean")]]


def derived(kind: str, **derive: Any) -> dict[str, Any]:
    """Columns with one more, "m", which is derived."""
    return {**COLUMNS, "m": {"label": "", "derive": {"kind": kind, **derive}}}


ALL = {"of": "*"}
ECE = {"label": "", "metric": {"name": "ece15"}}
OF_SELF = {**derived("mean", of=["n"]), "n": {"label": "", "derive": {"kind": "mean", "of": ["m"]}}}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"columns": derived("median", **ALL)}, "kind = 'median': did you"),
        ({"columns": derived("mean", of=["smal"])}, "did you mean 'small'"),
        ({"columns": derived("best", **ALL)}, "select = None: must be given with kind=best"),
        ({"columns": derived("difference", of="small")}, "than = '': must be given"),
        ({"columns": derived("mean", **ALL, than="a")}, "than = 'a': must be not given"),
        ({"columns": {"m": {**derived("mean", **ALL)["m"], "run": {"alpha": 0}}}}, "derive: must be given without"),
        ({"columns": OF_SELF}, "would follow from itself"),
        ({"columns": {"ece": ECE, **derived("mean", **ALL)}}, "a/ece and a/small show different numbers"),
        ({"metric": {"name": "gamma"}, "columns": derived("rank", **ALL)}, "neither more nor less gamma is better"),
        ({"columns": DERIVED_COLUMNS, "cells": {"a": {"mean": {"alpha": 0}}}}, r"cells.a.mean = .* must be left out"),
        ({"select": {"name": "gamma"}}, "select = 'gamma': must be a metric of which"),
    ],
)
def test_derivations_that_cannot_be(table, message):
    with pytest.raises(InputError, match=message):
        plan_of(**table)


VALIDATION = {"name": "top1", "part": "validation"}
SAMPLES = {"test": "less", "of": "a/*", "than": "b/*", "metric": {"name": "rs"}}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"select": VALIDATION}, "mine.select, cell a/small: metric.part = validation: digits has no validation part"),
        ({"metric": {"epoch": "best_on_validation"}}, "cell a/small: metric.epoch = best_on_validation: digits has no"),
        (
            {"claims": [{"id": "C", "text": "", "tests": [SAMPLES]}]},
            r"claims.C, cell a.small: metric.name = rs: .* nothing",
        ),
    ],
)
def test_what_no_run_records_cannot_be_asked_for(table, message):
    with pytest.raises(InputError, match=message):
        plan_of(**table)


# ---- generations ----------------------------------------------------------------------------------------------------

GENERATIONS = {
    "g0": {"label": "labels alone", "run": {"method": "ce"}},
    "g1": {"label": "first generation", "taught_by": "g0"},
    "g2": {"label": "second", "taught_by": "g1"},
    "g3": {"label": "third, T = 8", "run": {"temperature": 8}, "taught_by": "g2"},
}


def test_generations_are_runs_taught_by_one_another():
    planned = plan_of(rows=GENERATIONS, base={**BASE, "method": "kd"})
    runs = [planned.cell(row, "small").runs for row in GENERATIONS]
    for teachers, students in itertools.pairwise(runs):
        assert [student.teacher for student in students] == list(teachers)
    assert [run.generation for run in runs[3]] == [3, 3, 3]
    assert runs[3][0].method.settings.temperature == 8 and runs[2][0].method.settings.temperature == 4
    by_columns = plan_of(rows={"all": {"label": ""}}, columns=GENERATIONS, base={**BASE, "method": "kd"})
    assert [by_columns.cell("all", g).runs[0].generation for g in GENERATIONS] == [0, 1, 2, 3]


def test_an_ancestor_of_any_generation_can_be_shown():
    columns = {"own": {"label": ""}, "first": {"label": "", "take": "teacher"}}
    columns["second"] = {"label": "", "take": "teacher.teacher"}
    table: dict[str, Any] = {"rows": GENERATIONS, "columns": columns, "base": {**BASE, "method": "kd"}}
    without: dict[str, Any] = {"g0": {"first": "it has no teacher", "second": "it has no teacher"}}
    planned = plan_of(**table, skip={**without, "g1": {"second": "its teacher has none"}})
    assert planned.cell("g3", "second").runs == planned.cell("g1", "own").runs
    with pytest.raises(InputError, match=r"cell g1/second: take = teacher.teacher: its teacher has none"):
        plan_of(
            rows=GENERATIONS, columns=columns, base={**BASE, "method": "kd"}, skip={"g0": {"first": "", "second": ""}}
        )
    with pytest.raises(InputError, match="take = 'student': must be run, teacher, or"):
        plan_of(rows={"a": {"label": "", "take": "student"}})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"g1": {"label": "", "taught_by": "g0"}}, "rows.g1.taught_by = 'g0': allowed: g1"),
        ({"g1": {"label": "", "taught_by": "g2"}, "g2": {"label": "", "taught_by": "g1"}}, "it is taught by itself"),
        (
            {**GENERATIONS, "g1": {**GENERATIONS["g1"], "run": {"target.mass": "others"}}},
            "not be the run of g0/small",
        ),
    ],
)
def test_teachers_that_cannot_be(rows, message):
    with pytest.raises(InputError, match=message):
        plan_of(rows=rows, base={**BASE, "method": "kd"})


def test_settings_of_an_experiment_are_laid_over_every_generation():
    from lskd.tables.experiment import Experiment

    settings = {"recipe.epochs": 1}
    planned = plan_table(
        make_table(rows=GENERATIONS, base={**BASE, "method": "kd"}), CONF, Experiment("", ("mine",), settings=settings)
    )
    run = planned.cell("g3", "large").runs[0]
    while run is not None:
        assert run.recipe.epochs == 1
        run = run.teacher


# ---- figures --------------------------------------------------------------------------------------------------------


def figure(**table: Any) -> TablePlan:
    rows = {
        "hard": {"label": "hard", "run": {"method": "kd"}, "over": "temperature", "values": [1, 4, 8]},
        "ls": {"label": "LS", "run": {"method": "kd", "teacher_ls": True}, "over": "temperature", "values": [1, 8]},
        "cost": {"label": "cost", "derive": {"kind": "difference", "of": "hard", "than": "ls"}},
    }
    base = {**BASE, "teacher": "mlp"}
    return plan_of(**{"kind": "figure", "columns": {}, "base": base, "rows": rows, **table})


def test_a_derived_series_has_the_points_that_all_have():
    planned = figure()
    assert [(cell.column, cell.x) for cell in planned.cells if cell.row == "cost"] == [("1", 1.0), ("8", 8.0)]
    assert [key for key in planned.table.along("cost")] == [("cost", "1"), ("cost", "8")]
    with pytest.raises(InputError, match="in a table, or in a figure one of difference, change, mean, best"):
        figure(rows={"r": {"label": "", "derive": {"kind": "rank", "of": "*"}}})


def test_a_categorical_axis_has_names():
    rows = {
        "one": {"label": "one", "over": "method", "values": ["kd", "kd_wsl"]},
        "other": {"label": "other", "run": {"teacher_ls": True}, "over": "method", "values": ["wsl", "kd"]},
    }
    planned = figure(rows=rows, x_axis="category", draw="bars")
    assert [(cell.row, cell.column, cell.x) for cell in planned.cells] == [
        ("one", "kd", 0.0), ("one", "kd_wsl", 1.0), ("other", "wsl", 2.0), ("other", "kd", 0.0)
    ]  # fmt: skip
    assert planned.cell("other", "wsl").runs[0].method.name == "wsl"
    with pytest.raises(InputError, match=r"values = .* must be numbers but with x_axis=category"):
        figure(rows=rows)
    with pytest.raises(InputError, match="> 0 with x_axis=log"):
        figure(rows={"one": {"label": "", "over": "alpha", "values": [0, 0.1]}}, x_axis="log")
    with pytest.raises(InputError, match="draw = 'bars': must be given in a figure only"):
        make_table(draw="bars")


# ---- what the paper prints ------------------------------------------------------------------------------------------


def test_what_paper_leaves_out_is_not_at_hand():
    table = make_table(paper={"a": {"small": 90.5, "large": None}, "b": None})
    assert table.paper == {"a": {"small": 90.5}}
    assert table.printed("a", "large") is table.printed("b", "small") is None


# ---- the runs of a plan ---------------------------------------------------------------------------------------------


def test_a_command_trains_a_generation():
    """The words of a plan's command describe the very run, teachers and all."""
    planned = plan_of(rows=GENERATIONS, base={**BASE, "method": "kd"})
    cell = planned.cell("g3", "small")
    assert parse_run({"seed": 0, **cell.settings}, CONF) == cell.runs[0]
    assert replace(cell.runs[0], seed=1).id != cell.runs[1].id  # its teachers have other seeds, too
