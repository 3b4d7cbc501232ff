"""Bad input is one line that names what was given and what is allowed, exit code 2, and nothing done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.data import readers
from lskd.launch.sweep import carry_out
from lskd.runtime import Runtime
from lskd.store import Store

TEACHER = ("method=kd", "teacher=mlp")

# The words, and what the message must say: the key, the value, and what is allowed.
BAD = [
    # Misspelt keys.
    ("tempature=4", "tempature", "4", "did you mean 'temperature'?"),
    ("lr=0.1", "lr", "0.1", "did you mean recipe.lr?"),
    ("hidden=[16]", "hidden", "16", "did you mean arch.hidden?"),
    ("device=cpu", "device", "cpu", "did you mean runtime.device?"),
    ("+foo=1", "foo", "1", "allowed: alpha, arch, data_seed, dataset"),
    ("++foo.bar=1", "foo", "1", "allowed: alpha, arch, data_seed, dataset"),
    ("recipe.epohcs=3", "recipe.epohcs", "3", "did you mean 'epochs'?"),
    ("+recipe.foo=1", "recipe.foo", "1", "allowed: accumulate, augment"),
    ("recipe.schedule.kid=step", "recipe.schedule.kid", "step", "did you mean 'kind'?"),
    ("arch.hiden=[16]", "arch.hiden", "16", "did you mean 'hidden'?"),
    (("method=kd", "teacher=mlp", "method.bta=1"), "method.bta", "1", "did you mean 'beta'?"),
    ("dataset.holdut=10", "dataset.holdut", "10", "did you mean 'holdout'?"),
    ("runtime.devise=cpu", "runtime.devise", "cpu", "did you mean 'device'?"),
    ("target.alhpa=0.1", "target.alhpa", "0.1", "did you mean 'alpha'?"),
    ((*TEACHER, "teacher.recipe.epohcs=3"), "teacher.recipe.epohcs", "3", "did you mean 'epochs'?"),
    (("method=kd", "teacher={arch:mlp,foo:1}"), "teacher.foo", "1", "allowed: alpha, arch"),
    ("smoothing.alpha=0.1", "smoothing.alpha", "0.1", "is called target.alpha now"),
    ("+smoothing=0.1", "smoothing", "0.1", "is called target now"),
    ("++smoothing.mass=others", "smoothing", "others", "is called target now"),
    ((*TEACHER, "teacher.smoothing.alpha=0.1"), "teacher.smoothing.alpha", "0.1", "is called teacher.target.alpha now"),
    # Wrong types.
    ("recipe.lr=fast", "recipe.lr", "fast", "a number"),
    ("recipe.epochs=2.5", "recipe.epochs", "2.5", "a whole number"),
    ("recipe.augment.flip=1", "recipe.augment.flip", "1", "true or false"),
    ("recipe.schedule=cosine", "recipe.schedule", "cosine", "keys kind, milestones"),
    ("recipe.schedule=null", "recipe.schedule", "None", "keys kind, milestones"),
    ("seed=1.5", "seed", "1.5", "a whole number"),
    ("seed=true", "seed", "true", "a whole number"),
    ("alpha=abc", "alpha", "abc", "a number"),
    ("alpha=true", "alpha", "true", "a number"),
    ("alpha=", "alpha", "", "a number"),
    ("alpha.x=3", "alpha.x", "3", "alpha has no parts"),
    ("target=3", "target", "3", "names"),
    ("runtime=fast", "runtime", "fast", "keys device"),
    ("runtime.retry=maybe", "runtime.retry", "maybe", "true or false"),
    ("arch.hidden=16", "arch.hidden", "16", "a list"),
    ("arch=3", "arch", "3", "names"),
    ("arch=null", "arch", "null", "names"),
    ("dataset=123", "dataset", "123", "names, in quotes where they would be read as something else: \"dataset='123'\""),
    (("seed=1", "arch=1e3"), "arch", "1e3", "\"arch='1e3'\""),
    ("dataset='123'", "dataset", "123", "allowed: cifar10"),
    ("recipe.lr_factors={1:0.1}", "recipe.lr_factors", "1", "the key 1 is read as a number"),
    ("teacher=3", "teacher", "3", "name of a network"),
    ("plan=maybe", "plan", "maybe", "false, true, commands, settings or fleet"),
    # Out of range.
    ("seed=-1", "seed", "-1", "in [0, 2^31)"),
    ("alpha=1", "alpha", "1", "in [0, 1)"),
    ("alpha=-0.1", "alpha", "-0.1", "in [0, 1)"),
    ("alpha=nan", "alpha", "nan", "finite"),
    ("alpha=inf", "alpha", "inf", "finite"),
    ((*TEACHER, "temperature=0"), "temperature", "0", "> 0"),
    ((*TEACHER, "temperature=-1"), "temperature", "-1", "> 0"),
    ((*TEACHER, "method.beta=-0.5"), "method.beta", "-0.5", ">= 0"),
    ((*TEACHER, "method.beta=1.5"), "method.beta", "1.5", "in [0, 1]"),
    ((*TEACHER, "method.weights=sum"), "method.weights", "sum", "complement, add"),
    ((*TEACHER, "teacher_ls=2"), "teacher_ls", "2", "in [0, 1)"),
    ((*TEACHER, "teacher_mode=train"), "teacher_mode", "train", "eval, batch_stats"),
    ("recipe.lr=0", "recipe.lr", "0", "> 0"),
    ("dataset.steps=[{classes:{names:['1',ten]}}]", "dataset.steps[0].classes.names[1]", "ten", "allowed: 0, 1, 2"),
    ("dataset.steps=[{long_tail:{imbalance:0.5}}]", "dataset.steps[0].long_tail.imbalance", "0.5", ">= 1"),
    ("dataset.steps=[{noise:{rate:1.5}}]", "dataset.steps[0].noise.rate", "1.5", "in (0, 1]"),
    ("dataset.steps=[{noise:{kind:asymmetric,rate:0.1}}]", "noise.kind", "asymmetric", "give flips: {CLASS: CLASS"),
    ("dataset.steps={noise:{rate:0.1}}", "dataset.steps", "noise", "must be a list"),
    ("recipe.clip_norm=-1", "recipe.clip_norm", "-1", "> 0, or null"),
    ("recipe.precision=fp16", "recipe.precision", "fp16", "fp32, tf32, bf16"),
    (("recipe.precision=tf32", "runtime.device=cpu"), "recipe.precision", "tf32", "a CPU has no TF32"),
    ("recipe.augment.crop=20", "recipe.augment.crop", "20", "at most 10"),
    ("recipe.augment.mix.kind=cutout", "recipe.augment.mix.kind", "cutout", "none, cutmix, mixup"),
    ("recipe.augment.mix={kind:cutmix,alpha:0}", "recipe.augment.mix.alpha", "0", "> 0 and finite"),
    ("recipe.augment.mix.probability=0.5", "recipe.augment.mix.probability", "0.5", "1.0, the default, with kind=none"),
    (
        (*TEACHER, "recipe.augment.mix.kind=cutmix", "method.keep_rs=0"),
        "recipe.augment.mix.kind",
        "cutmix",
        "one label",
    ),
    (
        (*TEACHER, "recipe.augment.mix.kind=cutmix", "runtime.teacher_cache_gb=1"),
        "runtime.teacher_cache_gb",
        "1",
        "null or 0 with recipe.augment.mix.kind = cutmix",
    ),
    ("recipe.batch_norm_group=7", "recipe.batch_norm_group", "7", "divisor >= 2 of batch_size"),
    (
        ("recipe.batch_size=64", "recipe.accumulate=2", "recipe.batch_norm_group=64"),
        "recipe.batch_norm_group",
        "64",
        "batch_size = 64 / accumulate = 2",
    ),
    (("recipe.augment.pad=8", "recipe.augment.padding=reflect"), "recipe.augment.pad", "8", "< 8"),
    ("dataset.holdout=1437", "dataset.holdout", "1437", "< 1437"),
    ("dataset.limit=5000", "dataset.limit", "5000", "<= 1437"),
    ("runtime.threads=-1", "runtime.threads", "-1", ">= 0"),
    ("runtime.retrain=[0123456789ab]", "runtime.retrain", "0123456789ab", "is no run of this plan"),
    ("runtime.retrain={a:1}", "runtime.retrain", "", "must be a string"),
    ("streams=one", "streams", "one", "shared, own"),
    ("runtime.fleet=-1", "runtime.fleet", "-1", ">= 0"),
    ("runtime.fleet=all", "runtime.fleet", "all", "whole number"),
    ("runtime.teacher_cache_gb=-1", "runtime.teacher_cache_gb", "-1", ">= 0, or null"),
    ("arch.hidden_dropout=1", "arch.hidden_dropout", "1", "in [0, 1)"),
    # Unknown names.
    ("dataset=cifar11", "dataset", "cifar11", "did you mean 'cifar10'?"),
    ("arch=resnet21", "arch", "resnet21", "allowed: alexnet, bert_base"),
    ("method=kdd", "method", "kdd", "did you mean 'kd'?"),
    ("recipe=quickstrat", "recipe", "quickstrat", "did you mean 'quickstart'?"),
    ("experiment=quikstart", "experiment", "quikstart", "did you mean 'quickstart'?"),
    (("method=kd", "teacher=resnet57"), "teacher.arch", "resnet57", "did you mean 'resnet56'?"),
    (("method=kd", "teacher={arch:mlp,dataset:mnst}"), "teacher.dataset", "mnst", "did you mean 'mnist'?"),
    ("runtime.device=gpu", "runtime.device", "gpu", "auto, cpu, cuda"),
    ("plugin=does_not_exist", "plugin", "does_not_exist", "No module named"),
    ("plugin=nowhere/mine.py", "plugin", "nowhere/mine.py", "cannot be imported"),
    ("hydra/launcher=nope", "hydra/launcher", "nope", "allowed: basic"),
    # Settings that contradict one another.
    ("method=kd", "method", "kd", "needs a teacher"),
    ("method=dml", "method", "dml", "needs a peer"),
    ("peer=same", "peer", "mlp", "uses no peer; methods that do: cmd, dml"),
    (("method=cmd", "peer=same", "method.chi=-1"), "method.chi", "-1.0", ">= 0"),
    (("method=dml", "peer=same", "peer.dataset=mnist"), "peer.dataset", "mnist", "that of the run, digits"),
    ("teacher=mlp", "teacher", "mlp", "kd, logit_matching, map_sd, nst"),
    ("teacher_ls=true", "teacher_ls", "0.1", "give teacher=ARCH"),
    ("teacher_mode=batch_stats", "teacher_mode", "batch_stats", "there is no teacher"),
    ("temperature=2", "temperature", "2", "method=ce has no temperature"),
    (("method=kd", "teacher={arch:mlp,dataset:cifar100}"), "teacher.dataset", "cifar100", "100 classes do not match"),
    (
        ("method=kd", "teacher={arch:mlp,recipe:quickstart}", "recipe.augment.crop=6"),
        "teacher.recipe.augment.crop",
        "0",
        "takes images of 1×8×8, and its student's (recipe.augment.crop = 6) are 1×6×6",
    ),
    (
        ("method=kd", "teacher={arch:mlp,dataset:cifar10,recipe:crd}"),
        "teacher.recipe.augment.crop",
        "0",
        "3×32×32",
    ),
    (("alpha=0.1", "target.alpha=0.2"), "alpha", "0.1", "target.alpha = 0.2"),
    (("target.alpha=0", "alpha=0.1"), "alpha", "0.1", "target.alpha = 0 says otherwise"),
    ((*TEACHER, "method.temperature=2", "temperature=3"), "temperature", "3", "method.temperature = 2"),
    ((*TEACHER, "teacher_ls=true", "teacher.target.alpha=0"), "teacher_ls", "0.1", "teacher.target.alpha = 0"),
    ((*TEACHER, "teacher.alpha=0.1", "teacher.target.alpha=0.2"), "teacher.alpha", "0.1", "teacher.target.alpha"),
    (
        ("method=kd", "teacher={arch:mlp,method:kd,temperature:2,method.temperature:3,teacher:mlp}"),
        "teacher.temperature",
        "2",
        "teacher.method.temperature = 3 says otherwise",
    ),
    (
        ("method=kd", "teacher={arch:mlp,recipe:{lr:0.1},recipe.lr:0.2}"),
        "teacher.recipe.lr",
        "0.2",
        "0.1 says otherwise",
    ),
    (("recipe.epochs=3", "recipe.steps=10"), "epochs", "3", "exactly one"),
    ("recipe.epochs=null", "epochs", "None", "exactly one"),
    ("recipe.schedule={kind:step,milestones:[20,10]}", "recipe.schedule.milestones", "20.0, 10.0", "rising"),
    ("recipe.schedule.kind=step", "recipe.schedule.milestones", "[]", "given with kind=step"),
    ("recipe.normalize={kind:fixed,mean:[.5,.5,.5],std:[1,1,1]}", "recipe.normalize.mean", "0.5, 0.5", "one a channel"),
    ("recipe.normalize={kind:fixed,mean:[.5],std:[1,1]}", "recipe.normalize", "0.5", "one of each a channel"),
    (
        ("method=sp", "teacher=resnet8", "arch=resnet8", "recipe.accumulate=2"),
        "recipe.accumulate",
        "2",
        "1 with method=sp, whose loss is of the whole batch",
    ),
    ("dataset.evaluate=validation", "dataset.evaluate", "validation", "holdout"),
    ("recipe.lr_factors={foo.*:0.1}", "recipe.lr_factors", "foo.*", "there are layers.0.weight"),
    ("recipe.weight_decay={rate:1,to:named,names:[bar.*]}", "recipe.weight_decay.names", "bar.*", "there are layers.0"),
    (("arch=resnet18", "recipe.augment.crop=2"), "arch", "resnet18", "8 x 8 pixels"),
    ("~dataset", "dataset", "", "allowed: cifar10"),
    ("~seed", "~seed", "", "a setting always has a value"),
    ("+recipe@teacher.recipe=crd", "recipe@teacher.recipe", "", "give teacher.recipe=NAME"),
    (("alpha=0", "target.alpha=0.1"), "alpha", "0", "target.alpha = 0.1 says otherwise"),
    # Experiments.
    (("experiment=quickstart", "alpha=0.1"), "alpha", "0.1", "experiment.settings.alpha"),
    (("experiment=quickstart", "recipe.lr=3"), "recipe.lr", "3", "experiment.settings.recipe.lr"),
    (("experiment=quickstart", "experiment.settings.recipe.lrr=3"), "recipe.lrr", "3", "did you mean 'lr'?"),
    (("experiment=quickstart", "experiment.table=[a]"), "experiment.table", "a", "did you mean 'tables'?"),
    (("experiment=quickstart", "experiment.tables=[nope]"), "table", "nope", "quickstart_temperature"),
    ("experiment.settings.recipe.lr=3", "experiment", "None", "allowed: cmd_clean, cmd_clean_small"),
    ("seeds=[0,1]", "seeds", "[0, 1]", "is for experiments"),
    (("experiment=quickstart", "seeds=[]"), "seeds", "[]", "at least one"),
    (("experiment=quickstart", "seeds=[0,0]"), "seeds", "[0, 0]", "all different"),
    (("experiment=quickstart", "seeds=3"), "seeds", "3", "a list"),
    (("experiment=quickstart", "seeds=[-1]"), "seed", "-1", "in [0, 2^31)"),
    # Words that are no KEY=VALUE, or whose value cannot be read.
    ("quickstart", "quickstart", "", "KEY=VALUE"),
    ("recipe.lr=[1", "recipe.lr", "[1", "cannot be read"),
    ("recipe.lr={a", "recipe.lr", "{a", "cannot be read"),
    ("alpha=0,0.1", "alpha", "0,0.1", "-m"),
    ("recipe.loss_scale=${foo}", "foo", "", "not found"),
    # A sweep is checked whole before its first job.
    (("-m", "alpha=0,oops,0.1"), "alpha", "oops", "a number"),
    (("-m", "arch=mlp,mpl"), "arch", "mpl", "did you mean 'mlp'?"),
    (("-m", "seed=0,1", "recipe.epohcs=3"), "recipe.epohcs", "3", "did you mean 'epochs'?"),
    (("-m", "foo=1,2"), "foo", "1,2", "allowed: alpha"),
    (("-m", "arch=mlp,resnet18", "recipe.augment.crop=2"), "arch", "resnet18", "8 x 8 pixels"),
    (("-m", "recipe.lr=range(1"), "recipe.lr", "range(1", "cannot be read"),
    # Directories.
    (("--config-dir=nowhere", "seed=1"), "config directory", "nowhere", "not found"),
    (("seed=1", "--config-dir", "nowhere", "plan=true"), "config directory", "nowhere", "not found"),
    (("seed=1", "--config-dir"), "--config-dir", "", "needs a value"),
    (("seed=1", "--config_dir", "x"), "--config_dir", "", "did you mean '--config-dir'?"),
    ("runtime.results='~nobody-of-that-name/x'", "~nobody-of-that-name/x", "", "Could not determine home directory"),
]


def check(finished, *parts: str) -> None:
    """Exit code 2 and one line with all `parts`."""
    assert finished.code == 2, finished
    assert finished.err.count("\n") == 1 and finished.err.startswith("lskd-run: "), finished.err
    assert "Traceback" not in finished.out
    for part in parts:
        assert part in finished.err


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    """No test here may get as far as a download, unless it says so."""

    def download(self, spec, data):
        raise AssertionError(f"{spec.name} was to be downloaded")

    monkeypatch.setattr(readers.Torchvision, "download", download)


@pytest.mark.every(3)
@pytest.mark.parametrize(
    ("words", "key", "value", "allowed"), BAD, ids=lambda part: " ".join(part) if isinstance(part, tuple) else None
)
def test_one_line_names_key_value_and_what_is_allowed(lskd_run, tmp_path, words, key, value, allowed):
    check(lskd_run(*([words] if isinstance(words, str) else words)), key, value, allowed)
    assert not (tmp_path / "results").exists()
    assert list(Path.cwd().iterdir()) == []


def test_unknown_gpu(lskd_run, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    check(lskd_run("runtime.device=cuda"), "runtime.device = 'cuda'", "auto, cpu")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_results_that_cannot_be_a_directory(lskd_run, tmp_path, place):
    (tmp_path / "file").write_text("")
    check(lskd_run(f"runtime.results={tmp_path / place}"), "runtime.results", str(tmp_path / "file"))


def test_plugin_that_raises(lskd_run, tmp_path):
    (tmp_path / "mine.py").write_text("raise RuntimeError('not today')")
    check(lskd_run(f"plugin={tmp_path / 'mine.py'}"), "plugin", "mine.py", "RuntimeError: not today")


def test_no_data_and_no_network(lskd_run, tmp_path, monkeypatch):
    def download(self, spec, data):
        raise OSError("no network")

    monkeypatch.setattr(readers.Torchvision, "download", download)
    finished = lskd_run("dataset=mnist")
    check(finished, "mnist: no data", str(tmp_path / "no data"), "no network", "lskd-data prepare mnist")
    assert "runtime.data" in finished.err and "runtime.cache" in finished.err
    assert "--data" not in finished.err and "--cache" not in finished.err, "lskd-run has no such options"
    assert not (tmp_path / "results").exists()


def test_a_network_that_cannot_be_built_is_found_before_data_are_fetched(lskd_run):
    check(lskd_run("dataset=cifar10", "arch=resnet18", "recipe.augment.crop=4"), "arch = resnet18", "8 x 8 pixels")


# ---- files of the user's own --------------------------------------------------------------------------------------

TABLE = """
title: a table
seeds: [0]
base: {dataset: digits, arch: mlp}
rows: {hard: {label: hard}, ls: {label: smooth, run: {alpha: 0.1}}}
columns: {top1: {label: top-1}}
paper: {hard: {top1: 90}}
claims: [{id: C1, text: "less", tests: [{test: less, of: ls/top1, than: hard/top1}]}]
"""
EXPERIMENT = "title: mine\ntables: [mine]\n"

BAD_FILES = [
    # (of the table: what to replace, by what), (of the experiment: the same), parts of the message
    (("seeds: [0]", "seeds: [0]\nsedes: [1]"), None, ("table.mine.sedes", "did you mean 'seeds'?")),
    (("seeds: [0]", "seeds: [a]"), None, ("table.mine.seeds[0]", '"a"', "a whole number")),
    (("seeds: [0]", "seeds: 0"), None, ("table.mine.seeds", "0", "a list")),
    (("seeds: [0]", "seeds: []"), None, ("table.mine.seeds", "[]", "at least one")),
    (("seeds: [0]", "seeds: [1, 1]"), None, ("table.mine.seeds", "[1, 1]", "all different")),
    (("seeds: [0]", "seeds: [-1]"), None, ("table.mine, cell hard/top1: seed", "-1", "in [0, 2^31)")),
    (("title: a table\n", "\n"), None, ("table.mine.title", "is required")),
    (("label: smooth", "lable: smooth"), None, ("table.mine.rows.ls.lable", "did you mean 'label'?")),
    (("alpha: 0.1", "alpha: 2"), None, ("cell ls/top1: target.alpha", "2", "in [0, 1)")),
    (("alpha: 0.1", "alhpa: 0.1"), None, ("table.mine.rows.ls.run.alhpa", "did you mean 'alpha'?")),
    (("alpha: 0.1", "recipe: quick"), None, ("recipe", "quick", "allowed: as_is, cifar10_noise, crd")),
    (("alpha: 0.1", "method: kd"), None, ("cell ls/top1: method", "kd", "needs a teacher")),
    (("arch: mlp", "arch: [mlp]"), None, ("table.mine.base.arch", "mlp", "must be a name")),
    (("{label: top-1}", "{label: top-1, take: teacher}"), None, ("cell hard/top1", "take = teacher", "no teacher")),
    (("{label: top-1}", "{label: top-1, metric: {name: topp}}"), None, ("metric.name", "topp", "did you mean 'top5'?")),
    (("hard: {top1: 90}", "hrad: {top1: 90}"), None, ("table.mine.paper", "hrad", "did you mean 'hard'?")),
    (("{top1: 90}", "{top2: 90}"), None, ("table.mine.paper.hard", "top2", "did you mean 'top1'?")),
    (("of: ls/top1", "of: sl/top1"), None, ("table.mine.claims.C1", "sl/top1", "did you mean 'ls/top1'?")),
    (("test: less", "test: lesser"), None, ("claims[0].tests[0].test", "lesser", "did you mean 'less'?")),
    (("title: a table", "title: [a table"), None, ("mine.yaml", "cannot be read")),
    (None, ("tables: [mine]", "tables: []"), ("experiment.tables", "[]", "conf/table")),
    (None, ("tables: [mine]", "tables: [mien]"), ("table", "mien", "did you mean 'mine'?")),
    (None, ("tables: [mine]", "tables: [mine, mine]"), ("experiment.tables", "mine", "all different")),
    (None, ("tables:", "table:"), ("experiment.table", "did you mean 'tables'?")),
    (None, ("title: mine", "title: mine\ntitle: yours"), ("duplicate key title",)),
    (None, ("title: mine", "title: mine\nsettings: {recipe.lr_factors: {0.10: 1}}"), ("0.1", "quote it")),
    (("seeds: [0]", "seeds: [0]\nseeds: [1]"), None, ("mine.yaml", "duplicate key seeds", "line 4")),
    (("{hard: {label: hard},", "{hard: {label: hard}, hard: {label: x},"), None, ("mine.yaml", "duplicate key hard")),
    (("arch: mlp}", "arch: on}"), None, ("table.mine.base.arch", "true", "must be a name", "in quotes")),
    (("alpha: 0.1", "alpha: 0.1, target.alpha: 0"), None, ("rows.ls.run.alpha", "target.alpha = 0 says")),
    (("alpha: 0.1", "recipe.lr: 1, recipe: {lr: 2}"), None, ("rows.ls.run.recipe.lr = 2", "recipe.lr = 1 says")),
    (None, ("title: mine", "title: 3"), ("experiment.title", "3", "a string")),
    (None, ("title: mine", "title: mine\nseeds: [2, 2]"), ("experiment.seeds", "[2, 2]", "all different")),
    (None, ("title: mine", "title: mine\nsettings: {recipee: x}"), ("experiment.settings.recipee", "'recipe'")),
    (None, ("title: mine", "title: {mine"), ("mine.yaml",)),
]  # fmt: skip


@pytest.mark.every(3)
@pytest.mark.parametrize(("in_table", "in_experiment", "parts"), BAD_FILES)
def test_bad_experiment_and_table_files(lskd_run, tmp_path, in_table, in_experiment, parts):
    for group, text, change in (("table", TABLE, in_table), ("experiment", EXPERIMENT, in_experiment)):
        (tmp_path / "conf" / group).mkdir(parents=True)
        assert change is None or change[0] in text
        (tmp_path / "conf" / group / "mine.yaml").write_text(text.replace(*change) if change else text)
    check(lskd_run(f"--config-dir={tmp_path / 'conf'}", "experiment=mine"), *parts)
    assert not (tmp_path / "results").exists()


# ---- a damaged store ----------------------------------------------------------------------------------------------

STUDENT = ("recipe.epochs=1", "arch.hidden=[4]", "runtime.threads=1", *TEACHER)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A student, and a store in which its teacher is done."""
    settings = {
        "dataset": "digits",
        "arch": "mlp",
        "arch.hidden": [4],
        "recipe.epochs": 1,
        "method": "kd",
        "teacher": "mlp",
    }
    cache, store = tmp_path_factory.getbasetemp() / "cache", Store(tmp_path_factory.mktemp("trained"))
    student = parse_run(settings, Conf(cache=cache))
    outcomes = carry_out(
        [student.teacher], store, Runtime(device="cpu", threads=1, cache=str(cache), progress=False), Conf(cache=cache)
    )
    assert outcomes.trained == [student.teacher]
    return student, store


@pytest.fixture
def student(trained, tmp_path):
    """The student; tmp_path/results is a copy of the store."""
    shutil.copytree(trained[1].root, tmp_path / "results")
    return trained[0]


@pytest.mark.parametrize("content", ["", "[]", '{"seed": 17}'])
def test_damaged_weights_are_named_before_anything_trains(lskd_run, tmp_path, student, content):
    store = Store(tmp_path / "results")
    store.weights(student.teacher).write_text(content)
    check(lskd_run(*STUDENT), str(store.weights(student.teacher)))
    assert store.state(student) == "missing"


@pytest.mark.parametrize("file", ["config.json", "result.json"])
@pytest.mark.parametrize("content", ["", "[]", '{"seed": 17}'])
def test_a_damaged_record_is_named_and_stays(lskd_run, tmp_path, student, file, content):
    store = Store(tmp_path / "results")
    damaged = store.directory(student.teacher) / file
    damaged.write_text(content)
    finished = lskd_run(*STUDENT)
    assert "2 runs: 0 done, 1 to train, 1 damaged" in finished.out
    assert finished.err.startswith(f"lskd-run: DAMAGED and left out: {damaged}: is not ")
    assert "lskd-run: NOT RUN" in finished.err and "its teacher's record is damaged" in finished.err
    assert (finished.code, damaged.read_text(), store.state(student)) == (1, content, "missing")


def test_a_record_of_another_configuration_is_not_used(lskd_run, tmp_path, student):
    path = Store(tmp_path / "results").directory(student.teacher) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 1}))
    finished = lskd_run("recipe.epochs=1")
    assert finished.code == 1
    assert "is not the configuration of run" in finished.err and finished.err.count("\n") == 1
    assert "1 run: 0 done, 0 to train, 1 damaged" in finished.out


def test_the_same_teacher_undamaged_teaches(lskd_run, tmp_path, student):
    assert lskd_run(*STUDENT, "runtime.progress=false").code == 0
    assert Store(tmp_path / "results").state(student) == "done"
