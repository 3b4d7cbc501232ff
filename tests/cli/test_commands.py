"""What the command line does with good input."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.initialize import initialize_config_dir
from hydra.types import RunMode
from omegaconf import OmegaConf

from lskd import cli
from lskd.compose import GROUPS, RUN_KEYS
from lskd.config_groups import Conf, shipped_conf
from lskd.data import cli as data_cli
from lskd.describe import by_seed
from lskd.environment import published
from lskd.methods import METHODS
from lskd.networks import PEERS
from lskd.plan import make_plan
from lskd.plugins import code_of
from lskd.report import cli as report_cli
from lskd.start import Start
from lskd.store import Store
from lskd.tables.experiment import load_experiment
from lskd.tables.table import load_table

LIGHT = ("runtime.device=cpu", "runtime.threads=1")
EXPERIMENTS = Conf().names("experiment")


def spawn(tmp_path: Path, *words: str, code: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """`lskd-run WORDS` as a process of its own, in tmp_path; `code` runs before it."""
    program = f"import sys; {code}; from lskd.cli import main; main()" if code else "from lskd.cli import main; main()"
    paths = {
        "LSKD_RESULTS": str(tmp_path / "results"),
        "LSKD_CACHE": str(tmp_path / "cache"),
        "LSKD_DATA": str(tmp_path),
    }
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=tmp_path,
        env={**os.environ, **paths, **env},
        capture_output=True,
        text=True,
    )


def run_of(words: list[str]):
    """The run that the command line `words` describe, composed by Hydra as `main` does it."""
    cli.prepare_groups(words)
    with initialize_config_dir(str(shipped_conf()), version_base="1.3"):
        loader: ConfigLoader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", [cli.open_word(word) for word in words], RunMode.RUN)
    settings = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    job = cli.interpret(settings, config.hydra)
    assert job.plan is None
    return job.runs[-1]


# ---- help and plans -----------------------------------------------------------------------------------------------


def children_cpu_seconds() -> float:
    """Processor time of finished child processes: unlike the clock, it says the same on a busy machine."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_names_every_choice_and_is_quick(tmp_path):
    begun = children_cpu_seconds()
    finished = spawn(tmp_path, "--help")
    assert children_cpu_seconds() - begun < 3
    assert finished.returncode == 0
    for group in ("arch", "dataset", "experiment", "method", "recipe", "target"):
        assert f"{group}: {', '.join(Conf().names(group))}" in finished.stdout


def test_a_plan_of_500_runs_is_quick_and_imports_no_torch(tmp_path):
    write_conf(tmp_path / "conf", seeds=range(100), alphas=(0.1, 0.2, 0.3, 0.4, 0.5))
    exits = "import atexit; atexit.register(lambda: print('torch' in sys.modules))"
    begun = children_cpu_seconds()
    finished = spawn(tmp_path, f"--config-dir={tmp_path / 'conf'}", "experiment=mine", "plan=true", code=exits)
    assert children_cpu_seconds() - begun < 3
    assert finished.returncode == 0, finished.stderr
    assert "500 runs: 0 done, 500 to train" in finished.stdout
    assert finished.stdout.endswith("False\n")
    assert not (tmp_path / "results").exists()


def write_conf(folder: Path, *, seeds, alphas) -> None:
    """An experiment "mine" of a digits network under some alphas and seeds."""
    columns = {f"a{i}": {"label": str(alpha), "run": {"alpha": alpha}} for i, alpha in enumerate(alphas)}
    base = {"dataset": "digits", "arch": "mlp", "arch.hidden": [4], "recipe.epochs": 1}
    table = {"title": "mine", "seeds": list(seeds), "base": base, "rows": {"net": {"label": "net"}}, "columns": columns}
    for group, content in (("table", table), ("experiment", {"title": "mine", "tables": ["mine"]})):
        (folder / group).mkdir(parents=True)
        (folder / group / "mine.yaml").write_text(json.dumps(content))  # JSON is YAML


@pytest.mark.every(6)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_shipped_experiments_plan(lskd_run, tmp_path, experiment):
    finished = lskd_run(f"experiment={experiment}", "plan=true")
    assert finished.code == 0, finished.err
    assert "to train" in finished.out
    assert not (tmp_path / "results").exists()


@pytest.mark.every(12)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_printed_commands_are_the_runs_they_are_printed_with(lskd_run, experiment):
    conf = Conf()
    plan = make_plan(load_experiment(conf.load("experiment", experiment), experiment), conf)
    lines = cli.commands(plan.runs, conf)
    assert [line.split()[0] for line in lines] == [run.id for run in plan.runs]
    labels = [str(run).rpartition(", seed ")[0] for run in plan.runs]
    firsts = [labels.index(label) for label in dict.fromkeys(labels)]  # one seed of each is enough
    for line in [lines[i] for i in firsts[:: max(1, -(-len(firsts) // 3))]]:
        expected, program, *words = shlex.split(line)
        assert program == "lskd-run"
        assert run_of(words).id == expected, line


def test_printed_commands_know_chains_of_teachers_and_odd_values(lskd_run):
    settings = {
        "dataset": "digits", "arch": "mlp", "method": "kd_muller", "temperature": 2, "target.mass": "others",
        "recipe.lr_factors": {"head.*": 0.1}, "recipe.schedule.warmup": 1.5,
        "teacher": {"arch": "mlp", "arch.hidden": [8, 8], "method": "kd", "method.beta": 1e-5, "seed": 3,
                    "recipe": "quickstart", "teacher": {"arch": "mlp", "alpha": 0.2, "recipe.epochs": 7}},
    }  # fmt: skip
    table = {"title": "", "seeds": [5], "base": settings, "rows": {"r": {"label": ""}}, "columns": {"c": {"label": ""}}}
    conf = Conf()
    conf._loaded["table", "chain"] = table
    plan = make_plan(load_experiment({"title": "", "tables": ["chain"]}), conf)
    assert len(plan.runs) == 3 and [run.seed for run in plan.runs] == [3, 3, 5]
    for line in cli.commands(plan.runs, conf):
        expected, _, *words = shlex.split(line)
        assert run_of(words).id == expected, line


def ids_of_commands(lskd_run, *words: str) -> dict[str, str]:
    """The commands that plan=commands prints for `words`, by the ids that it prints with them."""
    finished = lskd_run(*words, "plan=commands")
    assert finished.code == 0, finished.err
    lines = re.findall(r"^([0-9a-f]{12})  (lskd-run .*)$", finished.out, re.MULTILINE)
    assert lines
    return dict(lines)


def test_printed_commands_run_as_they_are_pasted(lskd_run, tmp_path):
    """Of single runs, of own directories, plug-ins and stores, and of experiments under other settings."""
    write_conf(tmp_path / "conf", seeds=[0], alphas=(0.1,))
    (tmp_path / "conf" / "recipe").mkdir()
    (tmp_path / "conf" / "recipe" / "slow.yaml").write_text("defaults: [quickstart]\nlr: 0.01\n")
    odd = tmp_path / "it's, (an) odd=place #1"
    odd.mkdir()
    (odd / "mine.py").write_text(PLUGIN)
    quoted = [f"{key}='{odd / name!s}'".replace("it's", r"it\'s") for key, name in OWN.items()]
    own = ("--config-dir", str(tmp_path / "conf"), *quoted)
    taught = ("method=kd", "teacher=mlp", "teacher.arch.hidden=[8]", "temperature=2", "teacher_ls=true", "seed=3")
    for words in (
        (*taught, "recipe.lr=0.05", "target.mass=others"),
        ("method=confident", "recipe=slow", *own, "method.weight=0.5", "dataset.limit=100"),
        (*own, "experiment=mine", "experiment.settings.recipe.epochs=2", "experiment.settings.method=confident"),
    ):
        commands = ids_of_commands(lskd_run, *words)
        for id, command in commands.items():
            _, *pasted = shlex.split(command)
            assert id == list(ids_of_commands(lskd_run, *pasted))[-1]
            assert set(pasted) >= {f"--config-dir={tmp_path / 'conf'}", *quoted} or own[0] not in words
        assert len(commands) == (2 if "method=kd" in words else 1)


OWN = {"plugin": "mine.py", "runtime.results": "results"}


# ---- words ---------------------------------------------------------------------------------------------------------


def test_keys_that_no_file_mentions_need_no_plus(lskd_run):
    run = run_of(["recipe.clip_norm=1.0", "arch.hidden_dropout=0.5", "recipe.schedule.warmup=2", "dataset.limit=100"])
    assert run.recipe.clip_norm == 1.0
    assert run.arch.settings.hidden_dropout == 0.5
    assert (run.recipe.schedule.kind, run.recipe.schedule.warmup) == ("cosine", 2.0)
    assert run.dataset.limit == 100


def test_a_mapping_is_laid_over_the_file(lskd_run):
    run = run_of(["recipe=muller_mnist", "recipe.lr_factors={layers.0.*:0.5}", "recipe.augment={crop: 6}"])
    assert run.recipe.lr_factors == {"head.*": 0.1, "layers.0.*": 0.5}
    assert (run.recipe.augment.pad, run.recipe.augment.crop) == (2, 6)


def test_a_short_name_replaces_what_a_file_says(lskd_run):
    assert run_of(["method=kd_muller", "teacher=mlp", "temperature=3"]).method.settings.temperature == 3.0


def test_settings_of_a_named_teacher(lskd_run):
    words = ["method=kd", "teacher=mlp800", "teacher.recipe.epochs=3", "teacher.arch.hidden=[8]", "teacher_ls=0.2"]
    teacher = run_of(words).teacher
    assert (teacher.arch.name, teacher.arch.settings.hidden) == ("mlp800", (8,))
    assert (teacher.recipe.epochs, teacher.target.settings.alpha) == (3, 0.2)
    assert (
        run_of(["method=kd", "teacher={arch:mlp800,arch.hidden:[8],recipe.epochs:3,alpha:0.2}"]).teacher.id
        == teacher.id
    )
    longer = [
        "method=kd",
        "teacher.arch=mlp800",
        "teacher.arch.hidden=[8]",
        "teacher.recipe.epochs=3",
        "teacher.alpha=0.2",
    ]
    assert run_of(longer).teacher.id == teacher.id


def lines_of_settings(finished) -> dict[str, tuple[str, str]]:
    """{setting: (value, where it comes from)} of plan=settings."""
    assert finished.code == 0, finished.err
    found = re.findall(r"^  ([a-z][\w.]+)  +(.*?)  +([^ ].*)$", finished.out, re.MULTILINE)
    return {key: (value, origin) for key, value, origin in found}


def test_every_setting_says_where_it_comes_from(lskd_run, tmp_path):
    (tmp_path / "conf" / "recipe").mkdir(parents=True)
    mine = tmp_path / "conf" / "recipe" / "mine.yaml"
    mine.write_text("defaults: [crd]\nlr: 0.02\n")
    words = ("dataset=cifar10", "arch=resnet20", "method=kd_muller", "temperature=4", "alpha=0.1", "seed=3")
    taught = ("teacher=resnet56", "teacher_ls=true", "teacher.recipe.epochs=7", "recipe=mine", "recipe.momentum=0.5")
    told = lines_of_settings(lskd_run("--config-dir", str(mine.parents[1]), *words, *taught, "plan=settings"))
    assert told["recipe.lr"] == ("0.02", str(mine)) == told["teacher.recipe.lr"]
    assert told["recipe.batch_size"] == ("64", "conf/recipe/crd.yaml")
    assert told["recipe.momentum"] == ("0.5", "command line") and told["recipe.clip_norm"] == ("null", "default")
    assert told["recipe.name"] == ("mine", "command line") and told["teacher.recipe.name"] == ("mine", "student's")
    assert told["method.temperature"] == ("4.0", "command line")
    assert told["method.divergence"] == ("ce", "conf/method/kd_muller.yaml")
    assert told["target.alpha"] == ("0.1", "command line") == told["teacher.target.alpha"]
    assert told["target.mass"] == ("all", "default") and told["teacher.seed"] == ("3", "student's")
    assert told["teacher.recipe.epochs"] == ("7", "command line") and told["recipe.epochs"][0] == "240"
    assert told["teacher.recipe.momentum"] == ("0.5", "student's") and told["teacher.dataset.name"][1] == "student's"
    assert told["arch.name"] == ("resnet20", "command line") and told["arch.depth"] == ("20", "default")
    plain = lines_of_settings(lskd_run("plan=settings"))
    assert plain["dataset.name"] == ("digits", "conf/config.yaml")
    assert plain["recipe.name"] == ("quickstart", "usual with dataset=digits")


def test_the_settings_of_an_experiment_are_told_for_each_kind_of_run(lskd_run):
    words = ("experiment=quickstart_five", "experiment.settings.recipe.epochs=3", "plan=settings")
    finished = lskd_run(*words)
    pages = re.split(r"^(?=[0-9a-f]{12}  )", finished.out, flags=re.MULTILINE)[1:]
    conf = Conf()
    plan = make_plan(load_experiment(conf.load("experiment", "quickstart_five"), "quickstart_five"), conf)
    assert len({page[:12] for page in pages}) == len(pages) == len(list(by_seed(plan.runs)))
    told = lines_of_settings(replace(finished, out=next(page for page in pages if "kd T=4" in page)))
    assert told["recipe.epochs"] == ("3", "experiment.settings")
    assert told["teacher.recipe.epochs"] == ("3", "student's")
    assert told["method.temperature"] == ("4.0", "conf/table/quickstart_five.yaml")
    assert told["recipe.lr"] == ("0.1", "conf/recipe/quickstart.yaml")
    teachers = [page for page in pages if "teacher.arch" not in page]
    assert len(teachers) >= 2 and all(re.search(r"arch.hidden +\[256, 256\] +conf/table", page) for page in teachers)


def test_the_defaults_of_the_command_line_are_those_of_a_run(lskd_run):
    """config.yaml says what the settings are that nobody gave: help reads it, a run does not."""
    shown = OmegaConf.to_container(OmegaConf.load(shipped_conf() / "config.yaml"))
    run = run_of([])
    assert {key for key in shown if key in RUN_KEYS} == {*RUN_KEYS} - {*GROUPS, *PEERS[1:]}
    usual = {key: getattr(run, key) for key in ("seed", "teacher_mode", "peer_views")}
    assert {key: shown[key] for key in usual} == usual
    assert {shown[key] for key in RUN_KEYS if key in shown and key not in usual} == {None}
    assert run.parents == () and run.start == Start()


def test_settings_are_looked_up_where_they_are_given(lskd_run, monkeypatch):
    monkeypatch.setenv("LR", "0.25")
    run = run_of(["recipe.lr=${oc.env:LR}", "method=kd", "teacher={arch: mlp, recipe.epochs: ${seed}}", "seed=7"])
    assert (run.recipe.lr, run.teacher.recipe.epochs, run.recipe.epochs) == (0.25, 7, 30)


def test_settings_over_an_experiment(lskd_run):
    changed = lskd_run("experiment=quickstart", "seeds=[0]", "experiment.settings.recipe.epochs=3", "plan=true")
    assert changed.code == 0, changed.err
    assert "[69 steps, seeds 0]" in changed.out


def test_show_configuration(lskd_run):
    finished = lskd_run("--cfg", "job", "arch=resnet20", "recipe.clip_norm=2")
    assert finished.code == 0
    assert "name: resnet20" in finished.out and "clip_norm: 2" in finished.out


def test_flags_may_stand_between_words(lskd_run, tmp_path):
    write_conf(tmp_path / "conf", seeds=[0], alphas=(0.1,))
    (tmp_path / "conf" / "experiment" / "tiny.yml").write_text("title: x")
    own = ("--config-dir", str(tmp_path / "conf"))
    assert "mine: mine" in lskd_run("experiment=mine", *own, "plan=true").out
    assert "tiny.yml: is not read; call it tiny.yaml" in lskd_run(*own, "experiment=tiny").err
    assert "2 runs: 0 done, 2 to train" in lskd_run("seed=0,1", "-m", "plan=true").out
    assert lskd_run("seed=1", "--cfg", "job", "runtime.results=x").out.count("results: x\n") == 1
    assert str(shipped_conf()) in lskd_run("--info", "searchpath", "seed=1").out


def test_a_recipe_is_named_as_its_file(lskd_run, tmp_path, monkeypatch):
    for group, name, content in (
        ("recipe", "mine", "defaults: [quickstart]\nepochs: 1\n"),
        ("table", "mine", "defaults: [quickstart]\ntitle: Mine\n"),
    ):
        (tmp_path / group).mkdir()
        (tmp_path / group / f"{name}.yaml").write_text(content)
    conf = Conf((tmp_path, shipped_conf()))
    assert conf.load("recipe", "mine")["name"] == "mine"
    assert load_table("mine", conf).name == "mine"
    seen: list = []
    monkeypatch.setattr(cli, "execute", lambda jobs: seen.extend(run for job in jobs for run in job.runs) or 0)
    lskd_run("recipe=mine", "--config-dir", str(tmp_path))
    lskd_run("recipe=mine", "--config-dir", str(tmp_path), "recipe.name=other")
    assert [run.recipe.name for run in seen] == ["mine", "other"]


@pytest.mark.parametrize("word", ["runtime.cache='{}'", "runtime.cache='${{oc.env:ODD}}'", "runtime={{cache: '{}'}}"])
def test_the_data_of_a_cache_with_an_odd_name(lskd_run, tmp_path, monkeypatch, word):
    from lskd.data import cache
    from lskd.data.arrays import Arrays

    odd = tmp_path / "(an odd) place=1, #2"
    monkeypatch.setenv("ODD", str(odd))
    images, labels = np.zeros((4, 1, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    arrays = Arrays(images, labels, images, labels, ("no", "yes"))
    cache.write(odd / "data" / "dots", arrays.describe("dots"), arrays, source="nowhere", replace=False)
    finished = lskd_run("dataset=dots", word.format(odd), "plan=true")
    assert finished.code == 0, finished.err


def test_a_published_command_names_no_places():
    kept = ["hydra/launcher=x", "arch.model=hf-hub:timm/resnet10t.c3_in1k", "alpha=0.1"]
    left_out = ["++runtime.results=/scratch/me", "hydra.launcher.partition=gpu17"]
    named = {
        "/home/me/bin/lskd-run": "lskd-run",
        "++plugin=/home/me/my methods/mine.py": "plugin=mine.py",
        "plugin=[~/a.py,lib/b.py]": "plugin=[a.py,b.py]",
        "recipe.notes='/scratch/me/notes.txt'": "recipe.notes='notes.txt'",
        "x=[/a/b,../c/d]": "x=[b,d]",
        "--config-dir": "--config-dir",
        "own/conf/": "conf",
        "--config-dir=/x/y": "--config-dir=y",
    }
    assert shlex.split(published([*named, *left_out, *kept])) == [*named.values(), *kept]


def test_shell_completion(lskd_run, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "lskd-run dataset=")
    monkeypatch.setenv("COMP_POINT", "17")
    finished = lskd_run("-sc", "query=bash")
    assert {f"dataset={name}" for name in Conf().names("dataset")} <= set(finished.out.split())


# ---- sweeps and plugins --------------------------------------------------------------------------------------------


def test_sweep_trains_a_shared_teacher_once_and_litters_nowhere(lskd_run, tmp_path):
    words = ("recipe.epochs=1", "arch.hidden=[4]", "method=kd", "teacher.arch=mlp", "teacher.arch.hidden=[8]", *LIGHT)
    finished = lskd_run("-m", *words, "temperature=1,4", "alpha=0,0.1")
    assert finished.code == 0, finished.err
    done = [config for config, _, _ in Store(tmp_path / "results").results()]
    assert len(done) == 5 and sum("teacher" not in config for config in done) == 1
    assert "[1/5] mlp(hidden=8)" in finished.err and "[5/5]" in finished.err
    assert finished.out.endswith("/table.csv\n")
    assert list(Path.cwd().iterdir()) == []
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"runs", ".leases", ".sweeps"}


PLUGIN = """
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lskd.errors import require
from lskd.losses import cross_entropy
from lskd.methods import Batch, Method, register


@register("confident")
@dataclass(frozen=True)
class Confident(Method):
    \"\"\"Cross-entropy minus `weight` times the entropy of the prediction (Pereyra et al. 2017).\"\"\"

    weight: float = 0.1

    def __post_init__(self) -> None:
        require(self.weight >= 0, "weight", self.weight, ">= 0")

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        log_probs = batch.logits.log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        return {"ce": cross_entropy(batch.logits, batch.targets), "entropy": -self.weight * entropy}
"""


def test_a_method_of_ones_own_is_one_short_file(lskd_run, tmp_path):
    assert PLUGIN.count("\n") < 40
    plugin = tmp_path / "random.py"  # the name of a module of Python's must do no harm
    plugin.write_text(PLUGIN)
    words = (f"plugin={plugin}", "method=confident", "recipe.epochs=1", *LIGHT)
    finished = lskd_run(*words, "method.weight=0.2")
    assert finished.code == 0, finished.err
    [(config, _, result)] = Store(tmp_path / "results").results()
    assert config["method"] == {"name": "confident", "weight": 0.2, "code": code_of(type(METHODS["confident"]))}
    assert set(result["train"]) == {"top1", "ce", "entropy"}
    assert "method.weight = -1.0: must be >= 0" in lskd_run(*words, "method.weight=-1").err


@pytest.fixture
def forget_plugins(forget: Callable[[], None]) -> Callable[[], None]:
    """As in a new process."""

    def forget_all() -> None:
        forget()
        for name in [name for name in sys.modules if name.startswith("plugin:")]:
            del sys.modules[name]

    return forget_all


def test_an_edited_plugin_is_another_run_and_the_plan_says_so(lskd_run, tmp_path, forget_plugins):
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    words = (f"plugin={plugin}", "method=confident", "recipe.epochs=1", *LIGHT)
    assert lskd_run(*words).code == 0
    [before] = [config for config, _, _ in Store(tmp_path / "results").results()]
    plugin.write_text(PLUGIN.replace("-self.weight * entropy", "0 * entropy") + "# of today\n", encoding="utf-8")
    forget_plugins()
    plan = lskd_run(*words, "plan=true").out
    [old] = [path.name for path in (tmp_path / "results" / "runs").iterdir()]
    assert "1 run: 0 done, 1 to train, 1 of them trained by other code" in plan
    assert f"trained by other code: mlp on digits, 1 of 1 runs (as {old})" in plan
    assert lskd_run(*words).code == 0
    done = list(Store(tmp_path / "results").results())
    assert len(done) == 2
    for config, env, result in done:
        assert (result["train"]["entropy"] == 0.0) == (config != before)
        assert env["code"]["method"] == {"version": 1, "code": config["method"]["code"]}


def test_several_plugins_at_once(lskd_run, tmp_path, forget_plugins):
    for name in ("one", "two"):
        (tmp_path / f"{name} file.py").write_text(PLUGIN.replace('"confident"', f'"{name}"'), encoding="utf-8")
    both = f"plugin=['{tmp_path / 'one file.py'}', {tmp_path}/two\\ file.py]"
    for name in ("one", "two"):
        forget_plugins()
        finished = lskd_run(both, f"method={name}", "plan=true")
        assert finished.code == 0, finished.err
    given = [f"--plugin={tmp_path / 'one file.py'}", f"--plugin={tmp_path / 'nowhere.py'}"]
    assert report_cli.main([*given, "--results", str(tmp_path)]) == 2


def test_runs_are_trained_again_when_asked_for(lskd_run, tmp_path):
    words = ("method=kd", "teacher=mlp", "recipe.epochs=1", "temperature=2", *LIGHT)
    assert lskd_run(*words).code == 0
    plan = lskd_run(*words, "runtime.retrain=true", "plan=true")
    assert "of these, 2 would be trained again" in plan.out and "2 done, 0 to train" in plan.out
    assert "2 to train, 2 of them asked for again" in lskd_run(*words, "runtime.retrain=true").out
    student = lskd_run(*words, "plan=commands").out.splitlines()[-1].split()[0]
    again = lskd_run(*words, f"runtime.retrain=[{student}]")
    assert "1 done, 1 to train, 1 of them asked for again" in again.out
    assert "kd T=2" in again.err and again.err.count("[1/1]") == 1
    for given in ("123456789012", "1234e5678901", "nonsense"):  # ids, though YAML would read numbers
        (word,) = OverridesParser.create().parse_overrides([cli.open_word(f"runtime.retrain=[{given}]")])
        assert word.value() == [given]


def test_a_sweep_trains_each_run_again_once(lskd_run, tmp_path):
    words = ("-m", "method=kd", "teacher=mlp", "recipe.epochs=1", "temperature=2,3", *LIGHT)
    assert lskd_run(*words).code == 0
    again = lskd_run(*words, "runtime.retrain=true")
    assert again.code == 0, again.err
    assert again.err.count("mlp on digits, seed 0:") == 1  # their teacher
    assert again.err.count(", kd T=") == 2


# ---- what a user does after the first day --------------------------------------------------------------------------


def test_data_of_ones_own_from_import_to_result(lskd_run, tmp_path, capsys):
    from PIL import Image

    for part in ("train", "test"):
        for kind, grey in (("dark", 40), ("light", 200)):
            (tmp_path / "own" / part / kind).mkdir(parents=True)
            for i in range(8):
                Image.new("L", (8, 8), grey + i + (part == "test")).save(tmp_path / "own" / part / kind / f"{i}.png")
    assert data_cli.main(["import", "shades", str(tmp_path / "own")]) == 0
    settings = ("dataset=shades", "arch=mlp", "recipe.epochs=3", "recipe.augment.pad=0")
    finished = lskd_run(*settings, *LIGHT)
    assert finished.code == 0, finished.err
    assert "test, last epoch: " in finished.out
    (config,) = (tmp_path / "results" / "runs").glob("*/config.json")
    assert len(json.loads(config.read_text())["dataset"]["digest"]) > 8  # the name alone does not say which data it is


def test_the_time_left_is_known_once_one_run_of_each_kind_is_done(lskd_run, tmp_path):
    words = ("teacher=mlp", "method=kd", "recipe.epochs=1", *LIGHT)
    assert "time unknown" in lskd_run(*words, "seed=0").out
    assert re.search(r"2 to train; about \d+ s at the speed of the runs in the store\n", lskd_run(*words, "seed=1").out)
