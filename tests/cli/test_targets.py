"""Targets from words to results: identities, labels, commands, bad input, and docs/targets.md with its plug-in."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import lskd
from lskd.commands import Commands, override_words
from lskd.compose import normal_form, parse_run
from lskd.config_groups import Conf, shipped_conf
from lskd.errors import InputError
from lskd.plan import TablePlan, plan_table
from lskd.report.cli import main as report
from lskd.run import HARD, Run, without_code
from lskd.schema import fields
from lskd.tables.table import load_table
from lskd.targets import READS, TARGETS

CONF = Conf()
PAGE = (Path(__file__).parents[2] / "docs" / "targets.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))
PLAIN = {"dataset": "digits", "arch": "mlp"}
TAUGHT = {**PLAIN, "method": "kd", "teacher": "mlp"}


def run_of(base: dict[str, Any] = PLAIN, **settings: Any) -> Run:
    return parse_run({**base, **settings}, CONF)


# ---- identity and words -------------------------------------------------------------------------------------------


def test_label_smoothing_is_in_an_identity_as_it_always_was():
    hard, smooth = run_of(), run_of(**{"alpha": 0.1, "target.mass": "others"})
    assert not {"target", "smoothing"} & hard.identity().keys()
    assert smooth.identity()["smoothing"] == {"alpha": 0.1, "mass": "others"} and "target" not in smooth.identity()
    words = [{"target": "label_smoothing"}, {"target": "hard"}, {"alpha": 0}, {"target": {"name": "label_smoothing"}}]
    assert {run_of(**word).id for word in words} == {hard.id} and hard.target == HARD
    assert run_of(**{"target": "label_smoothing", "target.alpha": 0.1, "target.mass": "others"}).id == smooth.id


def test_other_targets_are_in_an_identity_by_name():
    run = run_of(**{"target": "proselflc", "target.b": 10})
    assert run.identity()["target"] == {"name": "proselflc", "b": 10.0} and "smoothing" not in run.identity()
    assert run_of(target="proselflc").identity()["target"] == {"name": "proselflc"}
    assert run.settings["target.b"] == 10.0 and run.settings["target.name"] == "proselflc"
    coded = {**run.identity(), "target": {"name": "proselflc", "b": 10.0, "version": 2}}
    assert without_code(coded) == without_code(run.identity())


EVERY = [
    {"alpha": 0.1}, {"target.mass": "others"}, {"target": "proselflc", "target.trust": "local"},
    {"target": "beta_smoothing", "target.true_class": 0.85}, {"target": "boot_soft", "target.gradient": "stop"},
    {"target": "map_label_smoothing"},
]  # fmt: skip


@pytest.mark.parametrize("own", EVERY)
@pytest.mark.parametrize("of_teacher", [{}, {"target": "boot_soft"}, {"alpha": 0.2}, {"target.mass": "others"}])
def test_a_command_line_and_an_identity_make_the_run_again(own, of_teacher):
    for run in (run_of(**own), run_of(TAUGHT, **own, **{f"teacher.{key}": value for key, value in of_teacher.items()})):
        form = Commands(CONF).form(run)
        assert parse_run(form, CONF).id == run.id == Run.of(run.identity()).id
        assert not any("target=label_smoothing" in word for word in override_words(form))


def test_a_teacher_inherits_mass_alone():
    run = run_of(TAUGHT, **{"alpha": 0.1, "target.mass": "others", "teacher_ls": 0.2})
    assert run.teacher is not None and run.teacher.taught == "α=0.2"
    assert run.teacher.target.settings == run_of(**{"alpha": 0.2, "target.mass": "others"}).target.settings
    own = run_of(TAUGHT, **{"target": "proselflc", "target.b": 3})
    assert own.teacher is not None and own.teacher.target == HARD
    chosen = run_of(TAUGHT, **{"target.mass": "others", "teacher.target": "label_smoothing", "teacher_ls": 0.2})
    assert chosen.teacher is not None and chosen.teacher.id == run_of(alpha=0.2).id


def test_the_label_of_a_run_says_what_it_is_taught():
    assert str(run_of(alpha=0.1)) == "mlp on digits, α=0.1, seed 0"
    assert str(run_of(target="boot_soft")) == "mlp on digits, boot_soft, seed 0"
    run = run_of(TAUGHT, **{"target": "proselflc", "target.b": 10, "teacher.target": "beta_smoothing"})
    assert str(run) == "mlp on digits, proselflc(b=10.0), kd T=4 from mlp (beta_smoothing), seed 0"


def test_steps_of_other_targets_cost_differently_and_smoothing_costs_nothing():
    costs = [run_of(**own).cost_key for own in ({}, {"alpha": 0.1}, {"target": "beta_smoothing"})]
    assert costs[0] == costs[1] != costs[2]


def test_a_target_is_taught_where_something_is_trained():
    start = {"start": f"sha256:{'0' * 64}", "recipe.epochs": 0, "recipe.normalize.kind": "none"}
    assert run_of(**start, alpha=0.1).taught == "α=0.1"
    with pytest.raises(InputError, match=r"^target = proselflc: nothing is taught where nothing is trained"):
        run_of(**start, target="proselflc")


# ---- tables -------------------------------------------------------------------------------------------------------


def shown(name: str) -> dict[str, Any]:
    return {"label": name, "metric": {"name": name}}


def planned(tmp_path: Path, *metrics: str, **rows: str) -> TablePlan:
    """A table with a row for each target, and a column for each metric."""
    given = {
        "title": "t", "source": "ours", "seeds": [0], "base": PLAIN,
        "rows": {row: {"label": row, "run": {"target": target}} for row, target in rows.items()},
        "columns": {name: shown(name) for name in metrics},
    }  # fmt: skip
    (tmp_path / "table").mkdir(exist_ok=True)
    (tmp_path / "table" / "t.yaml").write_text(json.dumps(given))
    conf = Conf((tmp_path, shipped_conf()))
    return plan_table(load_table("t", conf), conf)


def test_tables_show_what_is_logged_of_a_target(tmp_path):
    asked = ("trust", "target_entropy", "target_gamma", "loss")
    cells = [planned(tmp_path, *asked, own="proselflc").cell("own", name) for name in asked]
    train = {"top1": 50.0, "ce": 2.0, "target_entropy": 0.7, "target_gamma": 0.3, "trust": 0.2}
    found = [cell.metric.of(cell.runs[0], {"train": train, "examples": 9}) for cell in cells]
    assert found == [0.2, 0.7, 0.3, 2.0], "what is watched is no part of the loss"
    assert cells[1].metric.quantity.title == "entropy of the targets"


@pytest.mark.parametrize(
    ("target", "metric", "watches"),
    [("hard", "trust", "nothing"), ("confidence_penalty", "target_entropy", "target_gamma"),
     ("boot_soft", "trust", "target_entropy, target_gamma")],
)  # fmt: skip
def test_a_table_asks_only_for_what_is_logged(tmp_path, target, metric, watches):
    name = "label_smoothing" if target == "hard" else target
    message = f"metric.name = {metric}: method=ce with target={name}, as they are set here, watches {watches}"
    with pytest.raises(InputError, match=f"cell own/{metric}: {message}$"):
        planned(tmp_path, metric, own=target)


# ---- bad input ----------------------------------------------------------------------------------------------------

BAD = [
    (("target=proselflc", "target.b=0"), "target.b = 0.0: must be > 0 and finite"),
    (("target=proselflc", "target.b=-2"), "target.b = -2.0: must be > 0 and finite"),
    (("target=proselflc", "target.transit=1.5"), "target.transit = 1.5: must be in (0, 1]"),
    (("target=proselflc", "target.trust=none"), 'target.trust = "none": must be one of both, global, local'),
    (("target=beta_smoothing", "target.a=-1"), "target.a = -1.0: must be > 0 and finite"),
    (("target=beta_smoothing", "target.true_class=0.3"), "target.true_class = 0.3: must be above 0.4"),
    (("target=boot_soft", "target.epsilon=1"), "target.epsilon = 1.0: must be in [0, 1)"),
    (("target=boot_soft", "target.gradient=half"), "must be one of through, stop"),
    (("target=proselflc", "alpha=0.1"), "alpha = 0.1: target=proselflc has no alpha"),
    (("target=proselflc", "target.alpha=0.1"), "alpha = 0.1: target=proselflc has no alpha"),
    (("method=kd", "teacher=mlp", "teacher.target=boot_soft", "teacher_ls=true"),
     "teacher.alpha = 0.1: teacher.target=boot_soft has no alpha"),
    (("target=boot_soft", "target.b=3"), "target.b = 3: unknown key; allowed: epsilon, gradient"),
    (("target=prosefl",), "target = 'prosefl': did you mean 'proselflc'? allowed: beta_smoothing"),
    (("method=kd", "teacher={arch: mlp, target: nothing}"), "teacher.target = 'nothing': allowed: beta_smoothing"),
    (("target=beta_smoothing", "recipe.accumulate=2"), "recipe.accumulate = 2: must be 1 with target=beta_smoothing"),
    (("transit=0.3",), 'transit = "0.3": unknown key; did you mean target.transit?'),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), BAD, ids=lambda one: " ".join(one) if isinstance(one, tuple) else "")
def test_bad_input_is_one_line(lskd_run, words, message):
    finished = lskd_run(*words)
    assert (finished.code, finished.err.count("\n")) == (2, 1) and message in finished.err, finished


# ---- the page and its plug-in -------------------------------------------------------------------------------------


def test_the_page_has_every_target_with_its_settings_and_what_they_read():
    rows = {row[1].strip(" `"): row for row in (line.split("|") for line in PAGE.splitlines()) if len(row) == 7}
    for name, target in TARGETS.shipped.items():
        _, _, _, settings, reads, _, _ = rows[name]
        given = dict(re.findall(r"`(\w+)` ([\w.]+)", settings))
        for setting in fields(type(target)):
            default = getattr(target, setting)
            assert f"`{setting}`" in settings, (name, setting)
            assert default is None or given[setting] == (f"{default:g}" if isinstance(default, float) else default)
        assert reads.strip() == (", ".join(target.reads) or "–")
    assert all(f'| `"{word}"` |' in PAGE for word in READS)


def test_every_command_of_the_page_is_a_run():
    commands = re.findall(r"^lskd-run (.*)$", PAGE, flags=re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        words = [word for word in shlex.split(command.partition(" # ")[0]) if word != "-m"]
        settings = {key: value.split(",")[0] for key, _, value in (word.partition("=") for word in words)}
        if "plugin" not in settings:
            assert set(normal_form({key: value for key, value in settings.items() if key != "dataset.steps"}))


def write_plugin(tmp_path: Path, name: str = "follow.py") -> str:
    content = BLOCKS[name]
    assert len(content.splitlines()) < 30
    (tmp_path / name).write_text(content)
    return f"plugin={tmp_path / name}"


SHORT = ("dataset.limit=64", "arch.hidden=[8]", "recipe.epochs=2", "recipe.batch_size=16", "runtime.progress=false")


def test_a_target_of_ones_own_is_planned_trained_and_reported(lskd_run, tmp_path, capsys):
    words = (write_plugin(tmp_path), "target=follow", "target.most=0.3", *SHORT)
    planned = lskd_run(*words, "plan=true")
    assert planned.code == 0 and "mlp(hidden=8) on digits" in planned.out and "follow(most=0.3)" in planned.out
    finished = lskd_run(*words)
    assert finished.code == 0, finished.err
    frame = lskd.runs(tmp_path / "results")
    [line] = frame.to_dict("records")
    assert (line["target.name"], line["target.most"], line["state"]) == ("follow", 0.3, "done")
    assert line["train.follows"] == pytest.approx(0.3 * (4 + 5 + 6 + 7) / 4 / 8)
    assert line["gamma"] == line["train.target_gamma"] > 0 < line["train.target_entropy"]
    identity = json.loads((tmp_path / "results" / "runs" / line["id"] / "config.json").read_text())
    assert identity["target"].keys() == {"name", "most", "code"}
    assert report(["--runs", "target=follow", "--results", str(tmp_path / "results")]) == 0
    assert line["id"] in capsys.readouterr().out
    assert "1 done, 0 to train" in lskd_run(*words, "plan=true").out
    [command] = re.findall(rf"^{line['id']}  (.*)$", lskd_run(*words, "plan=commands").out, flags=re.MULTILINE)
    assert line["id"] in lskd_run(*shlex.split(command)[1:], "plan=commands").out


UNSOUND = [
    ("seen.average", "seen.outputs", "cannot teach 10 classes: AttributeError: 'NoneType' object has no attribute"),
    ("softmax(-1)", "log()", "teach = (2, 10): must be finite, of shape (2, 10)"),
    ('("average", ', '("averages", ', "reads = ['averages', 'progress']: must be some of labels, outputs, average"),
    ('{"follows": (', '{"leads": (', "watch = ['leads']: must be declared in `watches`"),
]


@pytest.mark.parametrize(("given", "instead", "message"), UNSOUND)
def test_a_plugin_that_cannot_teach_is_refused_before_anything_trains(lskd_run, tmp_path, given, instead, message):
    content = BLOCKS["follow.py"]
    assert given in content
    (tmp_path / "follow.py").write_text(content.replace(given, instead))
    finished = lskd_run(f"plugin={tmp_path / 'follow.py'}", "target=follow", *SHORT)
    assert (finished.code, finished.err.count("\n")) == (2, 1), finished
    assert f"target = follow: {message}" in finished.err
    assert not (tmp_path / "results" / "runs").exists() or not any((tmp_path / "results" / "runs").iterdir())
