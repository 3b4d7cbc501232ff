"""The experiments of WSL (Zhou, Song et al. 2021): what they would train, under which protocol, and what cannot be."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from lskd.config_groups import Conf
from lskd.launch.preflight import unsuitable
from lskd.plan import Plan, make_plan, plan_table
from lskd.run import Run
from lskd.tables.experiment import load_experiment
from lskd.tables.table import load_table

CONF = Conf()
LIGHT = {"mobilenet_v2", "shufflenet_v1", "shufflenet_v2"}


@functools.cache
def plan_of(name: str) -> Plan:
    return make_plan(load_experiment(CONF.load("experiment", name), name), CONF)


# Of each experiment: its runs, and those of them that teach. Five seeds of each, Table 10 ten, the shortened one two.
RUNS = {
    "wsl_pair": (5 * 20, 5),
    # 6 teachers; 9 students alone, with and without label smoothing; 13 pairs × 17 methods, less FSP's 7.
    "wsl_cifar100": (5 * (6 + 2 * 9 + 13 * 17 - 7), 5 * 6),
    "wsl_cifar100_overhaul": (5 * (6 + 2 * 9 + 13 * 4), 5 * 6),
    # 2 teachers and the student alone; Table 1 has 8 students, Table 2 4 + 5 more, Table 5 2 more, Table 6 1 + 2 + 1
    # more (two of WSL), Table 7 4 × 3 more.
    "wsl_rs": (5 * (2 + 1 + 8 + 4 + 5 + 2 + 3 + 12), 5 * 2),
    "wsl_rkd": (5 * (2 + 3 * 5), 5 * 2),
    "wsl_forms": (5 * 6 + 10 * (1 + 7 + 3) - 5 * 2, 10),  # Table 9, Table 10, less what the two share
    "wsl_resemblance": (5 * (3 + 3), 5 * 3),
    "wsl_cifar100_short": (2 * (2 + 2 + 3 * 2 + 3), 2 * 2),
    # 2 teachers; 8 rows of students on the one pair, 5 on the other, and two more weights in Table 10.
    "wsl_imagenet": (3 * (2 + 8 + 5 + 2), 3 * 2),
    "wsl_mnli": (5 * (1 + 3), 5),
    "wsl_variance": (50 * 4 + 1, 50 + 1),  # digits: three kinds of students, a teacher for each seed, and one for all
}

OVERHAUL = ["wsl_forms_overhaul", "wsl_rkd_overhaul", "wsl_rs_overhaul"]  # as many as without
OTHERS = ["wsl_imagenet", "wsl_mnli", "wsl_variance"]  # whose protocol is not that of CIFAR


@pytest.mark.parametrize("name", RUNS)
def test_every_run_is_planned_once(name):
    runs = plan_of(name).runs
    taught_by = {run.teacher.id for run in runs if run.teacher is not None}
    assert (len(runs), len(taught_by)) == RUNS[name]
    assert max(Counter(run.id for run in runs).values()) == 1
    seen = set()
    for run in runs:
        assert run.teacher is None or run.teacher.id in seen, "a teacher comes before its students"
        seen.add(run.id)


def test_all_experiments_are_counted():
    overhaul = {"wsl_rs_overhaul", "wsl_rkd_overhaul", "wsl_forms_overhaul"}  # as without
    assert {name for name in CONF.names("experiment") if name.startswith("wsl_")} == RUNS.keys() | overhaul
    for name in overhaul:
        assert len(plan_of(name).runs) == RUNS[name.removesuffix("_overhaul")][0]


def test_experiments_share_their_runs():
    ids = {name: {run.id for run in plan_of(name).runs} for name in RUNS}
    assert ids["wsl_pair"] | ids["wsl_resemblance"] < ids["wsl_cifar100"]
    # Teacher, student, KD in both forms and WSL of WRN-40-2 → WRN-16-2.
    assert len(ids["wsl_rs"] & ids["wsl_pair"]) == 5 * 5
    assert len(ids["wsl_rkd"] - ids["wsl_cifar100"]) == 5 * 3  # RKD with WSL's weights
    assert len(ids["wsl_forms"] & ids["wsl_pair"]) == 5 * 4


@pytest.mark.parametrize("name", [*(name for name in RUNS if name not in OTHERS), *OVERHAUL])
def test_an_experiment_has_one_protocol(name):
    kind = "overhaul" if name.endswith("_overhaul") else "crd_short" if name.endswith("_short") else "crd"
    for run in plan_of(name).runs:
        assert run.recipe.name == (f"{kind}_light" if run.arch.name in LIGHT else kind)
        assert run.recipe.lr == (0.01 if run.arch.name in LIGHT else 0.05)
        assert (run.recipe.nesterov, run.recipe.augment.padding == "reflect") == 2 * (kind == "overhaul",)
        batch_stats = kind == "overhaul" and run.teacher is not None
        assert run.teacher_mode == ("batch_stats" if batch_stats else "eval")


def test_the_paraphraser_of_factor_transfer_has_the_benchmarks_learning_rate():
    """0.01 for ResNet and WRN students, else the recipe's: 0.05 for VGG, 0.01 for the light networks."""
    found = {
        (run.arch.name, run.method.settings.initial_lr)
        for run in plan_of("wsl_cifar100").runs
        if run.method.name == "ft"
    }
    assert {arch for arch, lr in found if lr == 0.05} == {"vgg8"}
    assert {lr for arch, lr in found if arch != "vgg8"} == {0.01}


def test_momentum_starts_afresh_in_the_overhaul_repositorys_protocol():
    for name in ("wsl_cifar100", "wsl_cifar100_overhaul"):
        resets = {run.recipe.schedule.reset_momentum for run in plan_of(name).runs}
        assert resets == {name.endswith("_overhaul")}


def test_figure_4_looks_at_runs_of_table_3():
    plan = plan_of("wsl_cifar100")
    assert plan.probes == plan_of("wsl_resemblance").probes
    watched = {(run.arch.name, run.method.name) for run in plan.runs if run.id in plan.probes}
    assert watched == {(arch, "kd") for arch in ("vgg8", "resnet8x4", "wrn_16_2")}


@pytest.mark.slow
def test_cells_that_do_not_exist_are_those_that_methods_refuse():
    """In the tables of all methods, exactly; elsewhere, no cell is refused."""
    crossed = ("wsl_pair", "wsl_table3_same", "wsl_table3_different")
    known: dict[object, bool] = {}

    def refused(run: Run) -> bool:
        teacher = run.teacher and run.teacher.arch
        kind = (run.method, run.arch, teacher, run.dataset, run.recipe.augment.crop)
        if kind not in known:
            known[kind] = unsuitable(run, CONF.cache) is not None
        return known[kind]

    for name in CONF.names("table"):
        table = load_table(name, CONF)
        if table.has_cells:
            planned = plan_table(replace(table, skip={}) if name in crossed else table, CONF)
            found = {(cell.row, cell.column) for cell in planned.cells if refused(cell.runs[0])}
            skipped = {(row, column) for row, columns in table.skip.items() for column in columns}
            assert found == (skipped if name in crossed else set()), name


def test_a_large_plan_is_quick_and_imports_no_torch():
    program = """
import sys, time
from lskd.commands import Commands
from lskd.plan import make_plan
from lskd.tables.experiment import load_experiment
from lskd.config_groups import Conf
conf = Conf()
begun = time.process_time()
plan = make_plan(load_experiment(conf.load("experiment", "wsl_cifar100"), "wsl_cifar100"), conf)
commands = Commands(conf)
for run in plan.runs:
    commands.line(run)
assert time.process_time() - begun < 4, time.process_time() - begun
assert "torch" not in sys.modules
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
