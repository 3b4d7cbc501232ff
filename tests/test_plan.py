"""What a cell shows of a record, how the plan says that teachers are evaluated, and what it takes a run to cost."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

import lskd.launch.sweep
import lskd.plan
import lskd.store
from lskd.compose import build_run, normal_form, parse_run
from lskd.config_groups import Conf
from lskd.describe import by_seed, teachers
from lskd.errors import InputError
from lskd.files import read_json
from lskd.launch.cost import ENOUGH, Costs
from lskd.metrics import gap
from lskd.plan import make_plan, plan_table, runs_of_seeds
from lskd.run import Run, cost_key, logit_cache_bytes
from lskd.runtime import Runtime
from lskd.store import Store
from lskd.tables.experiment import load_experiment
from lskd.tables.metric import Metric
from lskd.tables.table import load_table, without_nulls

CONF = Conf()


def make_run(**settings: Any) -> Run:
    return parse_run({"dataset": "cifar100_40k", "arch": "resnet8", "recipe": "crd", **settings}, CONF)


RECORD = {
    "last": {"validation": {"ece15": 0.15}, "test": {"ece15": 0.14}},
    "calibration": {
        "validation": {
            "scaled": {
                "validation": {"temperature": 1.9, "ece15": 0.02, "nll": 1.1},
                "test": {"temperature": 1.8, "ece15": 0.03, "nll": 1.2},
            }
        },
        "test": {"scaled": {"validation": {"temperature": 1.9, "ece15": 0.05, "nll": 1.3}}},
    },
}


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (Metric("ece15"), 0.15),
        (Metric("ece15", scaled_on="evaluate"), 0.02),
        (Metric("ece15", scaled_on="test"), 0.03),
        (Metric("temperature", scaled_on="test"), 1.8),
        (Metric("nll", part="test", scaled_on="validation"), 1.3),
        (Metric("nll", part="test", scaled_on="test"), None),  # not in this record
    ],
)
def test_a_scaled_metric_is_that_of_the_temperature_of_a_part(metric, value):
    assert metric.of(make_run(), RECORD) == value


def test_a_record_of_before_calibration_has_no_scaled_metrics():
    assert Metric("ece15", scaled_on="evaluate").of(make_run(), {"last": {}}) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "top1", "scaled_on": "test"},
        {"name": "temperature"},
        {"name": "ece15", "scaled_on": "test", "epoch": "best_on_test"},
        {"name": "nll", "scaled_on": "test", "part": "train"},
        {"name": "gap", "part": "train"},
        {"name": "least_gap", "epoch": "best_on_validation"},
        {"name": "gap", "at_epoch": 3},
    ],
)
def test_what_is_not_recorded_scaled_cannot_be_asked_for(fields):
    with pytest.raises(InputError):
        Metric(**fields)


# Bins as [examples, confidence, accuracy]: over-confident in all but one, which holds 1 of 200 examples.
BINS = [[0], [1, 0.3, 1.0], [39, 0.5, 0.4], [160, 0.9, 0.75]]


@pytest.mark.parametrize(("name", "value"), [("gap", (-0.7 + 39 * 0.1 + 160 * 0.15) / 200), ("least_gap", 0.1)])
def test_the_sign_of_a_calibration_error(name, value):
    record = {"last": {}, "calibration": {"validation": {"reliability": BINS}, "test": {"scaled": {"test": {}}}}}
    assert Metric(name).of(make_run(), record) == pytest.approx(value)
    assert Metric(name, part="test").of(make_run(), record) is None
    assert Metric(name, part="test", scaled_on="test").of(make_run(), record) is None
    assert Metric(name).of(make_run(), {"last": {}}) is None  # of before calibration


def test_bins_of_one_sign_make_up_the_calibration_error():
    """|gap| ≤ ECE, and equal where no bin has the other sign (`lskd.metrics` has the same bins)."""
    bins = [entry for entry in BINS if entry[0] != 1]
    error = sum(n * abs(confidence - accuracy) for n, confidence, accuracy in bins[1:]) / 199
    assert gap(bins) == pytest.approx(error)
    assert gap(BINS) < sum(n * abs(confidence - accuracy) for n, confidence, accuracy in BINS[1:]) / 200


def test_the_plan_says_how_teachers_are_evaluated():
    students = [make_run(method="kd", teacher="resnet14", seed=seed) for seed in (0, 1)]
    live = replace(students[0], teacher_mode="batch_stats")
    assert logit_cache_bytes(40_000, 162, 100) == 40_000 * 162 * 401
    assert list(teachers([make_run()], CONF)) == []
    assert list(teachers([*students, live], CONF)) == [
        "2 teachers, each evaluated once a view, for all its students: 40,000 images × 162 views × 100 logits, 2.6 GB "
        "(once an epoch, where memory has no room for that)",
        "1 teacher evaluated at every step: with teacher_mode=batch_stats its logits depend on the whole batch",
    ]


GRANDCHILD = {"arch": "resnet14", "method": "kd", "teacher": {"arch": "resnet20", "alpha": 0.1}}


@pytest.mark.parametrize(
    ("settings", "different"),
    [
        ({"arch": "resnet8"}, 3),
        ({"arch": "resnet8", "method": "kd", "teacher": GRANDCHILD}, 9),
        ({"arch": "resnet8", "method": "kd", "teacher": {**GRANDCHILD, "seed": 7}}, 3 + 1 + 1),
        ({"arch": "resnet8", "method": "kd", "teacher": {**GRANDCHILD, "teacher.seed": 7}}, 3 + 3 + 1),
        ({"arch": "resnet8", "seed": 7}, 1),
    ],
)
def test_the_runs_of_several_seeds_are_those_of_each(settings, different):
    form = normal_form({"dataset": "cifar100", **settings})
    known: dict[str, Run] = {}
    runs = runs_of_seeds(form, (0, 1, 5), CONF, known)
    again = runs_of_seeds(form, (0, 1, 5), CONF, known)
    assert all(one is other for one, other in zip(runs, again, strict=True)), "an identity is computed once"
    assert runs == [parse_run({"seed": seed, **form}, CONF) for seed in (0, 1, 5)]
    generations = [(run, run.teacher, run.teacher and run.teacher.teacher) for run in runs]
    assert len({one.id for three in generations for one in three if one is not None}) == different


def test_a_run_costs_its_share_of_the_devices_time(tmp_path):
    """Two runs side by side for 100 s of 50 steps: a second a step each, of which the device's share is one half."""
    store, run = Store(tmp_path), make_run()
    store.directory(run).mkdir(parents=True)
    for name, content in (
        ("config", run.identity()),
        ("env", {"fleet": 2, "threads": 1}),
        ("result", {"id": run.id, "seconds": 50.0, "steps": 50}),
    ):
        (store.directory(run) / f"{name}.json").write_text(json.dumps(content))
    other = make_run(seed=5)
    assert Costs(store, [other], "cpu").estimate(other, 640) == pytest.approx(0.5 * other.recipe.total_steps(640))
    assert Costs(store, [other], "cuda").estimate(other, 640) is None  # no GPU has run it


RKD = {"method": "rkd", "teacher": {"arch": "resnet8x4"}, "arch": "resnet8"}


@pytest.mark.parametrize(
    ("settings", "more", "same"),
    [
        (RKD, {"teacher_mode": "batch_stats"}, False),
        (RKD, {"recipe.ema": 0.9}, False),
        (RKD, {"recipe.momentum": 0.0}, False),
        (RKD, {"recipe.precision": "bf16"}, False),
        (RKD, {"recipe.augment.pad": 2}, False),
        (RKD, {"method.kd": 1.0}, False),  # then the teacher's logits are looked at
        (RKD, {"dataset.limit": 640}, False),  # a memory of all images
        ({**RKD, "method": "crd"}, {"method.negatives": 64}, False),
        ({**RKD, "method": "ft"}, {"method.rate": 0.25}, False),
        (RKD, {"teacher": {"arch": "resnet14"}}, False),
        ({"arch": "mobilenet_v2"}, {"arch.width": 1.0}, False),
        (RKD, {"seed": 5}, True),
        (RKD, {"alpha": 0.1}, True),
        (RKD, {"recipe.lr": 0.3, "recipe.epochs": 1, "recipe.schedule": {"kind": "cosine", "milestones": []}}, True),
        (RKD, {"teacher": {"arch": "resnet8x4", "seed": 3, "target.alpha": 0.1, "recipe.epochs": 1}}, True),
        ({**RKD, "method": "kd"}, {"temperature": 7.0}, True),
    ],
)
def test_runs_of_one_cost_differ_in_numbers_only(settings, more, same):
    one, other = make_run(**settings), make_run(**{**settings, **more})
    assert one.id != other.id
    assert (one.cost_key == other.cost_key) == same
    assert cost_key(json.loads(json.dumps(other.identity()))) == other.cost_key  # as a store has it


def test_a_stage_before_the_training_costs_its_steps(tmp_path):
    """FT trains 30 epochs more than its recipe says: a short run tells what a long one takes."""
    settings = {**RKD, "method": "ft", "recipe.batch_size": 64}
    store, run, longer = Store(tmp_path), make_run(**settings, **{"recipe.epochs": 1}), make_run(**settings)
    assert run.recipe.total_steps(640) == 10
    store.begin(run, {"threads": 1})
    measured = {"test": {"top1": 50.0}}
    store.finish(
        run,
        {"last": measured, "best": {"test": {"epoch": 0, **measured}}, "train": {"top1": 50.0}}
        | {"examples": 640, "steps": 10, "seconds": 620.0, "initial": {"epochs": 30, "seconds": 600.0}},
    )
    costs = Costs(store, [longer], "cpu")
    assert costs.estimate(longer, 640) == pytest.approx(2.0 * (30 * 10 + longer.recipe.total_steps(640)))


def test_estimates_read_a_few_records_of_each_kind(tmp_path, monkeypatch):
    store = Store(tmp_path)
    ours, others = [make_run(seed=seed) for seed in range(20)], [make_run(arch="vgg8", seed=seed) for seed in range(20)]
    for run in ours + others:
        store.begin(run, {"threads": 1})
        (store.directory(run) / "result.json").write_text(json.dumps({"id": run.id, "seconds": 9.0, "steps": 3}))
    read = []
    monkeypatch.setattr(lskd.store, "read_json", lambda path: read.append(path.name) or read_json(path))
    assert Costs(store, ours[:3], "cpu").seconds_per_step == {ours[0].cost_key: 3.0}
    assert Counter(read)["result.json"] == ENOUGH and Counter(read)["config.json"] < 40
    read.clear()
    Costs(store, [], "cpu")
    assert read == []


@pytest.mark.parametrize(
    "change", [{"seconds": "9"}, {"steps": None}, {"seconds": float("nan")}, {"initial": 3}, {"steps": "x"}]
)
def test_a_damaged_record_costs_no_estimate(tmp_path, change):
    store, run = Store(tmp_path), make_run()
    store.begin(run, {"threads": 1})
    (store.directory(run) / "result.json").write_text(json.dumps({"id": run.id, "seconds": 9.0, "steps": 3} | change))
    (tmp_path / "runs" / "elsewhere").mkdir()
    for name in ("config", "env", "result"):
        (tmp_path / "runs" / "elsewhere" / f"{name}.json").write_text('{"recipe": 3}')
    assert Costs(store, [run], "cpu").seconds_per_step == {}


def test_what_a_device_is_shows_without_torch(monkeypatch):
    there: set[str] = set()
    monkeypatch.setattr("lskd.runtime.os.path.exists", lambda path: path in there)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [Runtime(device=name).device_type for name in ("auto", "cpu", "cuda:1")] == ["cpu", "cpu", "cuda"]
    there.add("/dev/nvidiactl")
    assert Runtime().device_type == "cuda"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Runtime().device_type == "cpu"


def test_runs_of_one_label_are_told_apart_by_what_differs_but_the_seed():
    teacher = {"arch": "resnet14"}
    several = [make_run(seed=seed) for seed in (0, 1)]
    other = [make_run(seed=0, **{"recipe.momentum": 0.5})]
    students = [
        make_run(seed=seed, method="kd", teacher=teacher, **{"method.beta": beta})
        for beta in (0.5, 0.7)
        for seed in (3, 4)
    ]
    assert list(by_seed([*several, *other, *students])) == [
        ("resnet8 on cifar100, recipe.momentum=0.9", several),
        ("resnet8 on cifar100, recipe.momentum=0.5", other),
        ("resnet8 on cifar100, kd T=4 from resnet14, method.beta=0.5", students[:2]),
        ("resnet8 on cifar100, kd T=4 from resnet14, method.beta=0.7", students[2:]),
    ]
    assert [label for label, _ in by_seed(several)] == ["resnet8 on cifar100"]


# ---- settings of a cell alone ---------------------------------------------------------------------------------------


def test_a_cell_has_settings_of_its_own():
    table = load_table("wsl_table6", CONF)
    cells = {"ls": {"kd": {"temperature": 2, "teacher_ls": 0.3}}}
    was, planned = plan_table(table, CONF), plan_table(replace(table, cells=cells), CONF)
    changed = [(cell.row, cell.column) for cell, before in zip(planned.cells, was.cells, strict=True) if cell != before]
    assert changed == [("ls", "kd")]
    run = planned.cell("ls", "kd").runs[0]
    assert run.teacher is not None
    assert (run.method.settings.temperature, run.teacher.target.settings.alpha) == (2, 0.3)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"lss": {"kd": {}}}, "cells = 'lss': did you mean 'ls'"),
        ({"ls": {"pupil": {}}}, "cells.ls = 'pupil': allowed: kd, kd_wsl, teacher, wsl"),
        ({"ls": {"kd": {"temperature": 0}}}, "table.wsl_table6, cell ls/kd: method.temperature = 0.0: must be > 0"),
        ({"ls": {"kd": {"temprature": 2}}}, "table.wsl_table6.cells.ls.kd.temprature = 2: unknown key"),
    ],
)
def test_settings_of_no_cell_or_out_of_range_are_refused(cells, message):
    with pytest.raises(InputError, match=message):
        plan_table(replace(load_table("wsl_table6", CONF), cells=cells), CONF)


def test_cells_of_a_row_that_is_left_out_go_with_it():
    content = {"rows": {"a": None, "b": {}}, "cells": {"a": {"x": {}}, "b": {"x": {"alpha": 0.1}}}}
    assert without_nulls(content)["cells"] == {"b": {"x": {"alpha": 0.1}}}


# ---- experiments that ask again -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "again", "runs"), [("quickstart_five", "quickstart", 120), ("muller_mnist", "muller_mnist_second", 20)]
)
def test_what_is_asked_again_is_asked_of_new_seeds(first, again, runs):
    plans = [make_plan(load_experiment(CONF.load("experiment", name), name), CONF) for name in (first, again)]
    seeds = [{run.seed for run in plan.runs} for plan in plans]
    assert len(plans[1].runs) == runs
    assert not seeds[0] & seeds[1]
    teachers_of = [{replace(run, seed=0).id for run in plan.runs if run.teacher is None} for plan in plans]
    assert teachers_of[0] == teachers_of[1]


def test_the_second_stage_is_the_first_with_other_seeds():
    first, second = (plan_table(load_table(name, CONF), CONF) for name in ("muller_mnist", "muller_mnist_second"))
    for one, other in zip(first.cells, second.cells, strict=True):
        assert [run.id for run in one.runs] == [run.reseeded(seed).id for seed, run in enumerate(other.runs)]
    assert first.table.claims == second.table.claims


def test_settings_that_were_said_before_are_built_once_over_all_plans(monkeypatch):
    """Of several experiments; and the other plan's runs are the same objects."""
    built: list[Any] = []
    monkeypatch.setattr(lskd.plan, "build_run", lambda form, conf: built.append(form) or build_run(form, conf))
    known: dict[str, Run] = {}
    name = "muller_mnist"
    first, second = (
        make_plan(load_experiment(CONF.load("experiment", name), name), CONF, known=known) for _ in range(2)
    )
    assert len(built) == len({json.dumps(form, sort_keys=True) for form in built})
    assert all(one is other for one, other in zip(first.runs, second.runs, strict=True))


def test_who_trains_alike_keeps_the_name_of_his_recipe():
    """Two recipes of the same settings are one run, of which each experiment says where it has its own from."""
    known: dict[str, Run] = {}
    others = make_plan(load_experiment(CONF.load("experiment", "shen_cifar100_stability"), ""), CONF, known=known)
    plan = make_plan(load_experiment(CONF.load("experiment", "zhang_methods_small"), ""), CONF, known=known)
    assert {run.id for run in plan.runs} & {run.id for run in others.runs}
    assert {run.recipe.name for run in plan.runs} == {"zhang_small"}
