"""Data steps from words to results: identities, labels, plans, a training with a teacher, and docs/data_steps.md."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lskd
from lskd.commands import Commands, override_words
from lskd.compose import normal_form, parse_run
from lskd.config_groups import Conf, shipped_conf
from lskd.data import DATASETS
from lskd.errors import InputError
from lskd.launch.cost import logit_cache
from lskd.plan import plan_table, training_examples
from lskd.report.cli import main as report
from lskd.run import Run, without_code
from lskd.tables.table import load_table

CONF = Conf()
PAGE = (Path(__file__).parents[2] / "docs" / "data_steps.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```(?:yaml|python)\n# (\S+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))
NOISE = {"noise": {"kind": "asymmetric", "rate": 0.3}}
PAIR = {"dataset": "cifar100", "arch": "resnet20", "teacher": "resnet56", "method": "kd"}


def run_of(**settings: Any) -> Run:
    return parse_run({"dataset": "cifar100", "arch": "resnet20", **settings}, CONF)


# ---- identity and words -------------------------------------------------------------------------------------------


def test_steps_are_in_the_identity_and_none_are_not():
    plain, noisy = run_of(), run_of(**{"dataset.steps": [NOISE]})
    assert "steps" not in plain.identity()["dataset"] and run_of(**{"dataset.steps": []}).id == plain.id
    assert noisy.identity()["dataset"]["steps"] == [NOISE]
    with_defaults = {"noise": {**NOISE["noise"], "into": "others", "counts": "exact", "seed": 0}}
    assert run_of(**{"dataset.steps": [with_defaults]}).id == noisy.id
    seeds = {run_of(**{"dataset.steps": [{"noise": {**NOISE["noise"], "seed": seed}}]}).id for seed in (0, 1)}
    assert len(seeds | {plain.id}) == 3 and noisy.id in seeds
    assert Run.of(noisy.identity()).id == noisy.id
    coded = {
        **noisy.identity(),
        "dataset": {"name": "cifar100", "steps": [{"noise": {**NOISE["noise"], "version": 2}}]},
    }
    assert without_code(coded) == without_code(noisy.identity())  # trained by other code, but the same run


@pytest.mark.parametrize("name", ["cifar100_10", "cifar100_50", "cifar100_lt10", "cifar100_lt50", "cifar100_lt100"])
def test_a_short_name_is_the_run_with_its_steps(name):
    run = run_of(dataset=name)
    [step] = run.dataset.steps
    assert run.id == run_of(**{"dataset.steps": [step.as_setting()], "recipe": "crd"}).id
    assert f" dataset={name} " in Commands(CONF).line(run)


def test_the_label_names_the_steps_and_those_of_a_teacher_with_others():
    steps = [{"classes": {"first": 10}}, {"long_tail": {"imbalance": 50}}, {"noise": {"rate": 0.4}}]
    words = "first 10 classes, long tail of imbalance 50, 40 % symmetric noise"
    assert run_of(**{"dataset.steps": steps}).label == f"resnet20 on cifar100 ({words})"
    settings = {**PAIR, "dataset.steps": [NOISE], "teacher_ls": True}
    assert parse_run(settings, CONF).label == (
        "resnet20 on cifar100 (30 % asymmetric noise), kd T=4 from resnet56 (α=0.1)"
    )
    clean = parse_run({**settings, "teacher.dataset.steps": []}, CONF)
    assert clean.label.endswith("from resnet56 (α=0.1, on cifar100)")
    assert clean.teacher is not None and clean.teacher.dataset.steps == ()


def test_the_command_line_of_a_run_is_that_run():
    steps = [{"classes": {"names": ["apple", "sweet_pepper", "pear"]}}, {"long_tail": {"imbalance": 12.5}},
             {"noise": {"kind": "asymmetric", "rate": 0.3, "flips": {"apple": "pear"}}}]  # fmt: skip
    run = parse_run({**PAIR, "dataset.steps": steps, "teacher.dataset.steps": steps[:2]}, CONF)
    form = Commands(CONF).form(run)
    assert parse_run(form, CONF).id == run.id
    assert any(word.startswith("dataset.steps=[{classes:{names:[apple,") for word in override_words(form))
    assert run.settings["dataset.steps"] == tuple(steps) and run.settings["teacher.dataset.steps"] == tuple(steps[:2])
    assert normal_form(form)["teacher"]["dataset"]["steps"] == steps[:2]


def test_everybody_is_told_the_same_numbers():
    run = parse_run({**PAIR, "dataset.steps": [{"classes": {"first": 10}}, {"long_tail": {"imbalance": 10}}]}, CONF)
    images = sum(int(500 * 10 ** (-k / 9) + 1e-9) for k in range(10))
    assert training_examples(run, CONF) == CONF.spec_of(run.dataset).train == images
    assert logit_cache(run, CONF) == (images, 162, 10)
    held_out = run_of(dataset="cifar100_40k")
    assert (CONF.spec_of(held_out.dataset).train, CONF.spec_of(held_out.dataset).validation) == (40_000, 10_000)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"dataset": "cifar100_10", "teacher.dataset.steps": []},
         "teacher.dataset = cifar100: its 100 classes do not match the 10 of cifar100 (first 10 classes)"),
        ({"dataset": "cifar100_10", "teacher.dataset.steps": [{"classes": {"draw": 10}}]},
         "teacher.dataset = cifar100 (10 classes drawn by seed 0): its classes are others than those of cifar100"),
    ],
)  # fmt: skip
def test_a_teacher_of_other_classes_is_refused(settings, words):
    with pytest.raises(InputError, match=re.escape(words)):
        parse_run({**PAIR, **settings}, CONF)


# ---- from a command to results ------------------------------------------------------------------------------------

STEPS = "[{classes:{names:['7','3','8','1']}},{long_tail:{imbalance:10}},{noise:{rate:0.4}}]"
QUICK = ("recipe.epochs=2", "arch.hidden=[16]", "runtime.progress=false", "runtime.threads=1")


def test_a_student_on_noisy_labels_of_a_teacher_on_clean_ones(lskd_run, tmp_path, capsys):
    words = ("method=kd", "dataset=digits", f"dataset.steps={STEPS}", "arch=mlp", "teacher=mlp", *QUICK)
    words += ("teacher.arch.hidden=[8]", f"teacher.dataset.steps={STEPS.replace(',{noise:{rate:0.4}}', '')}")
    sizes = DATASETS["digits"].spec.sizes()
    most = max(sizes[7], sizes[3], sizes[8], sizes[1])
    counts = [min(int(most * 10 ** (-k / 3) + 1e-9), size) for k, size in enumerate((sizes[7], sizes[3], 999, 999))]
    shown = lskd_run(*words, "plan=settings")
    assert shown.code == 0, shown.err
    of_each = ", ".join(f"{name} {count}" for name, count in zip("7381", counts, strict=True))
    assert f"  {sum(counts)} training images of 4 classes: {of_each}\n" in shown.out
    done = lskd_run(*words)
    assert done.code == 0, done.err
    assert (
        "mlp(hidden=16) on digits (4 classes from 7 to 1, long tail of imbalance 10, 40 % symmetric noise)" in done.out
    )

    runs = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("results/runs/*/result.json")}
    [(id, student)] = [(id, result) for id, result in runs.items() if "teacher" in result]
    teacher = runs[student["teacher"]["id"]]
    assert teacher["data"] == {"classes": list("7381"), "train": counts}
    assert student["data"]["classes"] == list("7381") and student["examples"] == sum(student["data"]["train"])
    assert sum(student["data"]["train"]) == sum(counts) and student["data"]["train"] != counts
    model = lskd.load(id, tmp_path / "results")
    assert model.class_names == tuple("7381")
    assert set(model.predict(np.zeros((2, 8, 8), dtype=np.uint8)).names) <= set("7381")
    assert report(["show", id, "--results", str(tmp_path / "results")]) == 0
    told = ", ".join(f"{name} {count}" for name, count in zip("7381", student["data"]["train"], strict=True))
    out = capsys.readouterr().out
    assert f"{sum(counts)} training images of 4 classes: {told}" in out
    frame = lskd.runs(tmp_path / "results")
    [row] = frame[frame.id == id].to_dict("records")
    assert [json.loads(step) for step in row["dataset.steps"]][1:] == [
        {"long_tail": {"imbalance": 10.0}}, {"noise": {"rate": 0.4}},
    ]  # fmt: skip
    again = next(line for line in out.splitlines() if line.strip().startswith("lskd-run"))
    assert "2 runs: 2 done, 0 to train" in lskd_run(*shlex.split(again)[1:], "plan=true").out


# ---- the page -----------------------------------------------------------------------------------------------------


def test_the_commands_of_the_page_are_runs(lskd_run, tmp_path, monkeypatch):
    (tmp_path / "here" / "easy.py").write_text(BLOCKS["easy.py"], encoding="utf-8")
    lines = re.findall(r"^lskd-run .*$", PAGE, flags=re.MULTILINE)
    assert len(lines) == 5
    outs = []
    for line in lines:
        done = lskd_run(*shlex.split(line)[1:], "plan=commands")
        assert done.code == 0, (line, done.err)
        outs.append(done.out.split()[0])
    assert outs[0] == outs[1]
    halved = lskd_run(*shlex.split(lines[4])[1:], "plan=settings").out
    assert f"{sum(size // 2 for size in DATASETS['digits'].spec.sizes())} training images of 10 classes" in halved


def test_the_table_of_the_page_is_planned(tmp_path):
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "noise.yaml").write_text(BLOCKS["table/noise.yaml"], encoding="utf-8")
    conf = Conf((tmp_path, shipped_conf()))
    planned = plan_table(load_table("noise", conf), conf)
    [same, clean] = (planned.cell(row, "r40").runs[0] for row in ("same", "clean"))
    assert same.teacher is not None and same.teacher.dataset == same.dataset == clean.dataset
    assert clean.teacher is not None and not clean.teacher.dataset.steps
