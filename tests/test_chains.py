"""Chains of generations: born-again networks, each taught by the one before."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import pytest

from lskd.commands import Commands, override_words
from lskd.compose import build_run, normal_form, parse_run, teacher_form
from lskd.config_groups import Conf, labelled
from lskd.describe import chains
from lskd.engine.seeds import seed_for
from lskd.errors import InputError
from lskd.origins import origins
from lskd.plan import TablePlan, in_order, plan_table
from lskd.report.runs import Settings
from lskd.run import Run
from lskd.tables.table import Table, read_table

CONF = Conf()
RUN = {"dataset": "digits", "recipe": "quickstart", "arch": "mlp", "method": "kd", "teacher": "mlp"}
BASE = {"dataset": "digits", "recipe": "quickstart", "arch": "mlp", "method": "kd"}
ROWS: dict[str, Any] = {
    "ce": {"label": "CE", "run": {"method": "ce", "teacher": None}},
    "sd": {"label": "SD", "taught_by": "ce", "generations": 3},
    "warm": {"label": "{generation} at T = 4", "taught_by": "ce", "run": {"temperature": 8}, "generations": 3},
}
COLUMNS = {"top1": {"label": "accuracy"}, "nll": {"label": "NLL", "metric": {"name": "nll"}}}


def make_table(**table: Any) -> Table:
    content = {"title": "A table", "seeds": [0, 1, 2], "base": BASE, "rows": ROWS, "columns": COLUMNS, "name": "mine"}
    return read_table({**content, **table}, "table.mine")


def plan_of(**table: Any) -> TablePlan:
    return plan_table(make_table(**table), CONF)


def chain(n: int, **settings: Any) -> Run:
    return parse_run({**RUN, "generations": n, **settings}, CONF)


def lineage(run: Run | None) -> list[Run]:
    return [] if run is None else [*lineage(run.teacher), run]


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_a_chain_is_the_same_settings_nested_by_hand():
    nested: dict[str, Any] = {**RUN, "seed": 3}
    for _ in range(3):
        nested = {**RUN, "seed": 3, "teacher": nested}
    assert chain(4, seed=3).id == parse_run(nested, CONF).id
    assert chain(1).id == parse_run(RUN, CONF).id
    assert chain(4, seed=3).reseeded(5).id == chain(4, seed=5).id


def test_a_chain_ends_with_its_first_teacher_and_is_trained_in_order():
    *others, last = in_order([chain(3)])
    assert [run.generation for run in (*others, last)] == [0, 1, 2, 3] and last.id == chain(3).id
    assert others[0].id == parse_run({**RUN, "method": "ce", "teacher": None}, CONF).id


@pytest.mark.parametrize("settings", [{}, {"teacher": "mlp1200"}, {"teacher.seed": 7}, {"teacher.recipe.lr": 0.01}])
def test_no_two_networks_of_a_chain_share_a_random_stream(settings):
    """Neither initial weights, nor the order of images, nor views, nor anything that a run draws."""
    runs = lineage(chain(10, **settings))
    purposes = ["init", "shuffle", "augment", "mix", "dropout", "method", "initial shuffle", "initial augment"]
    seeds = [seed_for(run.stream_seed, purpose, epoch) for run in runs for purpose in purposes for epoch in range(20)]
    assert len(runs) == 11 and len(set(seeds)) == len(seeds) == 11 * 8 * 20


def test_networks_of_a_chain_begin_with_weights_and_orders_of_their_own():
    import torch

    from lskd.engine.member import build_network
    from lskd.engine.seeds import generator_for

    runs = lineage(chain(4))
    weights = [build_network(run, CONF.spec("digits")).state_dict() for run in runs]
    for one, other in itertools.combinations(weights, 2):
        assert not any(torch.equal(one[name], other[name]) for name in one if name.endswith("weight"))
    orders = [torch.randperm(1437, generator=generator_for(run.stream_seed, "shuffle", 0)) for run in runs]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(orders, 2))


def test_a_run_knows_its_place_in_its_chain_and_is_called_briefly():
    runs = [parse_run(RUN, CONF), *(chain(n) for n in (2, 3))]
    assert [run.chain[1] for run in runs] == [1, 2, 3]
    assert {run.chain[0].id for run in runs} == {runs[0].id}
    assert str(chain(10)) == "mlp on digits, kd T=4 from mlp, generation 10, seed 0"
    other = parse_run({**RUN, "arch.hidden": [16], "teacher": {**RUN, "generations": 9}}, CONF)
    assert str(other) == "mlp(hidden=16) on digits, kd T=4 from mlp (generation 9), seed 0"
    assert other.chain == (other, 1)
    back = Run.of(json.loads(json.dumps(chain(10).identity())))  # as config.json has it
    assert (back.chain[1], back.chain[0].id) == (10, runs[0].id)


@pytest.mark.parametrize(
    "settings", [{}, {"seed": 2, "temperature": 8}, {"teacher": {**RUN, "temperature": 8, "generations": 2}}]
)
def test_the_command_of_a_chain_is_short_and_gives_the_same_run(settings):
    run = chain(10, **settings)
    form = Commands(CONF).form(run)
    assert form["generations"] == 10 and len(" ".join(override_words(form))) < 200
    assert build_run(form, CONF).id == run.id


def test_the_teacher_of_a_form_is_the_teacher_of_its_run():
    form = normal_form({**RUN, "generations": 3, "seed": 2, "teacher.recipe.lr": 0.01})
    run: Run | None = build_run(form, CONF)
    while run is not None and run.teacher is not None:
        form, run = teacher_form(form), run.teacher
        assert build_run(form, CONF).id == run.id


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generations": 0}, "^generations = 0: must be from 1 to 100$"),
        ({"generations": 1.5}, "^generations = 1.5: must be a whole number$"),
        ({"generations": 3, "method": "ce", "teacher": None}, "^generations = 3: method=ce uses no teacher; methods"),
        ({"generations": 3, "teacher": None}, "^method = kd: needs a teacher; give teacher=ARCH"),
        (
            {"generations": 3, "teacher": {"arch": "mlp", "dataset": "mnist", "method": "kd", "generations": 2}},
            "^teacher.method = kd: needs a teacher",
        ),
        (
            {"generations": 3, "teacher.dataset.steps": [{"classes": {"first": 3}}]},
            "^teacher.dataset = .*: its 3 classes do not match the 10 of digits$",
        ),
    ],
)
def test_what_is_no_chain_is_refused_in_a_line(settings, message):
    with pytest.raises(InputError, match=message):
        parse_run({**RUN, **settings}, CONF)


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_a_chain_is_rows_each_taught_by_the_one_before():
    planned = plan_of()
    assert list(planned.table.rows) == ["ce", "sd.1", "sd.2", "sd.3", "warm.1", "warm.2", "warm.3"]
    assert [line.label for line in planned.table.rows.values()][2:5] == [
        "SD, generation 2",
        "SD, generation 3",
        "1 at T = 4",
    ]
    assert [run.id for run in planned.cell("sd.3", "nll").runs] == [
        parse_run({**RUN, "generations": 3, "seed": seed}, CONF).id for seed in (0, 1, 2)
    ]
    for row in ("sd", "warm"):
        ids = [planned.cell(name, "top1").runs[1].id for name in ("ce", f"{row}.1", f"{row}.2", f"{row}.3")]
        assert ids == [run.id for run in lineage(planned.cell(f"{row}.3", "top1").runs[1])]


def test_one_generation_may_have_settings_of_its_own_which_the_next_is_taught_by():
    planned = plan_of(cells={"sd.2": {"top1": {"temperature": 2}}})
    first, second, third = (planned.cell(f"sd.{i}", "top1").runs[0] for i in (1, 2, 3))
    assert [run.method.settings.temperature for run in (first, second, third)] == [4, 2, 4]
    assert third.teacher is not None and (third.teacher.id, second.teacher) == (second.id, first)
    assert planned.cell("sd.3", "nll").runs[0].id == chain(3).id


def test_what_is_said_of_all_generations_is_said_of_each():
    skip = {"sd.*": {"nll": "none"}, "sd.2": {"top1": "not this one"}}
    table = make_table(skip=skip, paper={"sd.2": {"top1": 93.0}, "warm.*": {"top1": 90}} | {"sd.2": {"nll": 0.3}})
    assert table.skip == {"sd.1": {"nll": "none"}, "sd.2": {"top1": "not this one"}, "sd.3": {"nll": "none"}}
    assert [table.has(f"sd.{i}", "nll") for i in (1, 2, 3)] == [False, True, False]
    number = table.printed("warm.3", "top1")
    assert number is not None and number.value == 90


def test_a_chain_that_is_left_out_goes_with_all_that_is_said_of_it():
    rows = {**ROWS, "sd": None}
    table = make_table(rows=rows, paper={"sd.2": {"top1": 93.0}, "ce": {"top1": 90}}, skip={"sd.*": {"nll": "none"}})
    assert list(table.rows) == ["ce", "warm.1", "warm.2", "warm.3"] and list(table.paper) == ["ce"] and not table.skip


def statements(test: dict[str, Any], **table: Any) -> list[str]:
    planned = make_table(claims=[{"id": "C", "text": "", "tests": [test]}], **table)
    return [str(statement) for statement in planned.statements(planned.claims[0].tests[0])]


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ({"test": "greater", "of": "sd.3/top1", "than": "sd.1/top1"}, ["sd.3/top1 > sd.1/top1"]),
        ({"test": "greater", "of": "sd.*/top1", "than": "ce/top1"}, [f"sd.{i}/top1 > ce/top1" for i in (1, 2, 3)]),
        ({"test": "less", "of": "sd.*/nll", "than": "warm.*/nll"}, [f"sd.{i}/nll < warm.{i}/nll" for i in (1, 2, 3)]),
        (
            {"test": "less", "of": "sd.*/nll", "than": "ce/nll", "rows": ["1", "3"]},
            ["sd.1/nll < ce/nll", "sd.3/nll < ce/nll"],
        ),
        ({"test": "rising", "of": "sd.*/top1"}, ["sd.*/top1 rising"]),
        (
            {"test": "not_falling", "of": "sd.*/top1", "within": 1.0, "margin": "ours"},
            ["sd.2/top1 > sd.1/top1 - 1 (ours)", "sd.3/top1 > sd.2/top1 - 1 (ours)"],
        ),
        (
            {"test": "greater", "of": "*/top1", "than": "*/nll", "metric": {"name": "top5"}, "rows": ["ce", "sd.2"]},
            ["ce/top1 > ce/nll", "sd.2/top1 > sd.2/nll"],
        ),
    ],
)
def test_claims_are_about_generations(test, expected):
    assert statements(test) == expected


def test_generations_are_correlated_with_one_another():
    rows = {**ROWS, "sd": {**ROWS["sd"], "generations": 4}}
    assert statements({"test": "correlated", "of": "sd.*/top1", "than": "sd.*/nll"}, rows=rows) == [
        "sd.*/top1 correlated with sd.*/nll"
    ]


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (
            {"test": "greater", "of": "sdd.*/top1", "than": "ce/top1"},
            r"'sdd\.\*/top1': did you mean 'sd\.\*/…'\? allowed",
        ),
        ({"test": "greater", "of": "sd.*/top", "than": "ce/top1"}, "'sd.*/top': allowed: nll, top1"),
        (
            {"test": "rising", "of": "*/top1"},
            r"a whole row, as row/\*, or the generations of a chain, as NAME\.\*/column",
        ),
        ({"test": "greater", "of": "sd.*/top1", "than": "*/top1"}, r"\*/top1'?: must be of what sd\.\*/top1 is of"),
        ({"test": "greater", "of": "sd.*/top1", "than": "ce/top1", "rows": ["4"]}, "rows = '4': allowed: 1, 2, 3"),
    ],
)
def test_claims_about_no_generation_are_refused(test, message):
    with pytest.raises(InputError, match=message):
        statements(test)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            {"sd": {"label": "", "taught_by": "ce", "generations": 0}},
            r"^table.mine.rows.sd.generations = 0: must be >= 1$",
        ),
        ({"sd": {"label": "", "taught_by": "ce", "generations": "x"}}, "rows.sd.generations = .*a whole number$"),
        (
            {"sd": {"label": "", "run": {"method": "ce", "teacher": None}, "generations": 1}},
            "cell sd.1/top1: generations = 1: method=ce uses no teacher; methods that do",
        ),
        (
            {"sd": {"label": "", "run": {"teacher": None}, "generations": 3}},
            "cell sd.1/top1: method = kd: needs a teacher",
        ),
        ({"sd.2": {"label": ""}}, "rows.sd.2 = 'sd.2': must be left out: it is a generation of sd"),
        (
            {"gain": {"label": "", "derive": {"kind": "change", "of": "sd"}}},
            r"must be the generations of a row, as NAME\.\*",
        ),
        (
            {"gain": {"label": "", "derive": {"kind": "change", "of": "s.*"}}},
            r"rows.gain.derive = 's\.\*': .*allowed: sd\.\*",
        ),
        (
            {
                "sd": {**ROWS["sd"], "generations": 2},
                "gain": {"label": "", "derive": {"kind": "difference", "of": "sd.*", "than": "warm.*"}},
            },
            "chains of one length",
        ),
    ],
)
def test_rows_that_are_no_chains_are_refused_in_a_line(rows, message):
    with pytest.raises(InputError, match=message):
        plan_of(rows={**ROWS, **rows})


def test_a_data_step_in_between_that_changes_the_classes_is_refused():
    """The second generation on three classes, taught by the first on ten."""
    cells = {"sd.2": {"top1": {"dataset.steps": [{"classes": {"first": 3}}]}}}
    with pytest.raises(
        InputError, match=r"cell sd.2/top1: teacher.dataset = digits: its 10 classes do not match the 3 of"
    ):
        plan_of(cells=cells)


def test_derived_rows_are_of_generations():
    rows = {
        **ROWS,
        "gain": {"label": "gained", "derive": {"kind": "change", "of": "sd.*"}},
        "warmer": {"label": "warmer", "derive": {"kind": "difference", "of": "warm.*", "than": "sd.*"}},
        "over": {
            "label": "over the labels by {generation}",
            "derive": {"kind": "difference", "of": "sd.*", "than": "ce"},
        },
        "mean": {"label": "mean", "derive": {"kind": "mean", "of": ["sd.*", "ce"]}},
        "gained": {"label": "change of gain", "derive": {"kind": "change", "of": "gain.*"}},
    }
    table = make_table(rows=rows)

    def made_of(row: str) -> list[str]:
        return [one for group in table.made_of(row, "top1") for one, _ in group]

    assert [made_of(f"gain.{i}") for i in (1, 2, 3)] == [["sd.1", "ce"], ["sd.2", "sd.1"], ["sd.3", "sd.2"]]
    assert [made_of(f"warmer.{i}") for i in (1, 2, 3)] == [[f"warm.{i}", f"sd.{i}"] for i in (1, 2, 3)]
    assert made_of("over.2") == ["sd.2", "ce"] and table.rows["over.2"].label == "over the labels by 2"
    assert made_of("mean") == ["sd.1", "sd.2", "sd.3", "ce"]
    # A chain whose first row is taught by no row begins with its second.
    assert [row for row in table.rows if row.startswith("gained.")] == ["gained.2", "gained.3"]
    assert made_of("gained.2") == ["gain.2", "gain.1"]
    assert statements({"test": "above", "of": "gain.*/top1", "than": 0, "margin": "ours"}, rows=rows) == [
        f"gain.{i}/top1 > 0 (ours)" for i in (1, 2, 3)
    ]


# ---- figures --------------------------------------------------------------------------------------------------------


def figure(**table: Any) -> dict[str, Any]:
    rows = {
        "sd": {"label": "SD", "over": "generation", "values": [0, 1, 2, 4]},
        "gain": {"label": "gained", "derive": {"kind": "change", "of": "sd"}},
    }
    return {"kind": "figure", "base": {**BASE, "teacher": "mlp"}, "rows": rows, "columns": {}, **table}


def test_a_series_goes_over_the_generations_of_a_chain():
    planned = plan_of(**figure())
    ids = [planned.cell("sd", column).runs[2].id for column in ("0", "1", "2", "4")]
    runs = lineage(chain(4, seed=2))
    assert ids == [runs[i].id for i in (0, 1, 2, 4)]
    assert [planned.cell("sd", column).x for column in ("0", "4")] == [0, 4]


def test_a_change_along_a_series_begins_with_its_second_value():
    table = make_table(**figure())
    assert [table.has("gain", value) for value in ("0", "1", "2", "4")] == [False, True, True, True]
    assert table.made_of("gain", "4") == ((("sd", "4"), ("sd", "2")),)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"over": "generation", "values": [-1, 0]}, "must be whole numbers, none below 0, with over=generation"),
        ({"over": "generation", "values": [0.5]}, "must be whole numbers, none below 0, with over=generation"),
        ({"generations": 3}, "rows.sd.generations = 3: is for rows of tables; in a figure give over: generation"),
        (
            {"over": "generation", "values": [0, 1], "run": {"method": "ce", "teacher": None}},
            "cell sd/0: generations = 1: method=ce uses no teacher",
        ),
    ],
)
def test_a_series_over_no_generations_is_refused(row, message):
    with pytest.raises(InputError, match=message):
        plan_of(**figure(rows={"sd": {"label": "SD", **row}}))


def test_the_value_of_a_setting_that_is_a_whole_number_is_one():
    rows = {"a": {"label": "", "over": "recipe.epochs", "values": [1, 2]}}
    assert [cell.runs[0].recipe.epochs for cell in plan_of(**figure(rows=rows)).cells] == [1, 2]


# ---- long chains ----------------------------------------------------------------------------------------------------


def test_a_plan_of_long_chains_is_instant():
    """Ten generations under five seeds, in several columns: each identity is nested in the next. (About 0.1 s.)"""
    rows = {**ROWS, "sd": {**ROWS["sd"], "generations": 10}, "warm": {**ROWS["warm"], "generations": 10}}
    plan_of(rows=rows)
    start = time.process_time()
    planned = plan_of(rows=rows, seeds=[0, 1, 2, 3, 4])
    runs = in_order(run for cell in planned.cells for run in cell.runs)
    assert len({run.id for run in runs}) == 5 * 21
    assert time.process_time() - start < 2


# ---- in words -------------------------------------------------------------------------------------------------------


def test_a_plan_shows_a_chain_in_a_line():
    rows = {**ROWS, "sd": {**ROWS["sd"], "generations": 10}, "beta": {**ROWS["sd"], "run": {"method.beta": 0.3}}}
    planned = plan_of(rows=rows)
    runs = in_order(run for cell in planned.cells for run in cell.runs)
    assert {label: len(group) for label, group in chains(runs)} == {
        "mlp on digits": 3,
        "mlp on digits, kd T=4 from mlp, generations 1-10": 30,
        "mlp on digits, kd T=4 from mlp, method.beta=0.3, generations 1-3": 9,
        "mlp on digits, kd T=8 from mlp, generations 1-3": 9,
    }


def test_the_settings_of_a_chain_are_those_of_its_first_and_their_number():
    form = normal_form({**RUN, "generations": 10, "teacher.recipe.lr": 0.01})
    run = build_run(form, CONF)
    assert run.settings == {**parse_run({**RUN, "teacher.recipe.lr": 0.01}, CONF).settings, "generations": 10}
    values, ours = Settings().of(run.identity())
    assert ours and run.teacher is not None
    assert values == {**Settings().of(run.chain[0].identity())[0], "generations": 10, "teacher.id": run.teacher.id}
    lines = {key: (value, origin) for key, value, origin in origins(run, form, labelled(form, "here"), CONF)}
    assert lines["generations"] == (10, "here") and lines["teacher.recipe.lr"] == (0.01, "here")
    assert not any(key.startswith("teacher.teacher.") for key in lines)


def test_the_settings_of_a_student_of_a_chain_are_told():
    form = normal_form({**RUN, "arch.hidden": [16], "teacher": {**RUN, "generations": 3}})
    lines = {key: (value, o) for key, value, o in origins(build_run(form, CONF), form, labelled(form, "here"), CONF)}
    assert lines["teacher.generations"] == (3, "here") and lines["teacher.teacher.arch.name"] == ("mlp", "here")
