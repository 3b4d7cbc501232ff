"""From settings to runs: strict parsing, identities, inheritance, and the files of conf/."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from lskd import data
from lskd.commands import override_words
from lskd.compose import GROUPS, normal_form, parse_run
from lskd.config_groups import REGISTRIES, Conf, read_yaml, shipped_conf
from lskd.errors import InputError
from lskd.methods import METHODS
from lskd.models import ARCHS
from lskd.plan import make_plan, plan_table
from lskd.run import Run
from lskd.runtime import Runtime
from lskd.schema import identity, parse
from lskd.tables.experiment import load_experiment
from lskd.tables.table import load_table

CONF = Conf()


def run_of(**settings: Any) -> Run:
    """A run from settings whose keys have __ for a dot."""
    return parse_run({key.replace("__", "."): value for key, value in settings.items()}, CONF)


PLAIN = {"dataset": "digits", "arch": "mlp"}
TAUGHT = {**PLAIN, "method": "kd", "teacher": "mlp"}

# ---- the strict parser --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inner:
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 0:
            raise InputError(f"size = {self.size}: must be >= 0")


@dataclass(frozen=True)
class Outer:
    name: str
    rate: float = 0.5
    on: bool = False
    kind: Literal["a", "b"] = "a"
    limit: int | None = None
    numbers: tuple[float, ...] = ()
    factors: dict[str, float] = field(default_factory=dict)
    inner: Inner = Inner()
    note: str = field(default="", metadata={"identity": False})


def test_parse_converts_whole_numbers_to_floats_and_nothing_else():
    given = {"name": "x", "rate": 1, "numbers": [1, 2.5], "factors": {"a": 2}, "inner": {"size": 3}, "limit": None}
    outer = parse(Outer, given)
    assert outer == Outer("x", 1.0, numbers=(1.0, 2.5), factors={"a": 2.0}, inner=Inner(3))
    assert (
        isinstance(outer.rate, float) and isinstance(outer.numbers[0], float) and isinstance(outer.factors["a"], float)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": 1}, "top.name = 1: must be a string"),
        ({}, "top.name: is required"),
        ({"name": "x", "rate": "1"}, 'top.rate = "1": must be a number'),
        ({"name": "x", "rate": True}, "top.rate = true: must be a number"),
        ({"name": "x", "rate": float("nan")}, "top.rate = nan: must be a finite number"),
        ({"name": "x", "on": 1}, "top.on = 1: must be true or false"),
        ({"name": "x", "kind": "c"}, 'top.kind = "c": must be one of a, b'),
        ({"name": "x", "limit": 2.0}, "top.limit = 2.0: must be a whole number"),
        ({"name": "x", "limit": True}, "top.limit = true: must be a whole number"),
        ({"name": "x", "numbers": 3}, "top.numbers = 3: must be a list"),
        ({"name": "x", "numbers": [1, "a"]}, 'top.numbers[1] = "a": must be a number'),
        ({"name": "x", "factors": [1]}, "top.factors = [1]: must be a mapping"),
        ({"name": "x", "factors": {"a": None}}, "top.factors.a = null: must be a number"),
        ({"name": "x", "inner": {"size": -1}}, "top.inner.size = -1: must be >= 0"),
        ({"name": "x", "inner": {"sise": 1}}, "top.inner.sise = 1: unknown key; did you mean 'size'? allowed: size"),
        ({"name": "x", "inner": None}, "top.inner = None: must be a mapping with keys size"),
    ],
)
def test_parse_names_path_value_and_what_is_allowed(given, message):
    with pytest.raises(InputError) as error:
        parse(Outer, given, "top")
    assert str(error.value) == message


def test_identity_leaves_out_defaults_and_labels():
    assert identity(Outer("x", note="whatever")) == {"name": "x"}
    assert identity(Outer("x", 0.25, inner=Inner(2), numbers=(1.0,))) == {
        "name": "x", "rate": 0.25, "inner": {"size": 2}, "numbers": [1.0]
    }  # fmt: skip


# ---- identities ----------------------------------------------------------------------------------------------------

# Ids of runs whose results are, or may be, published. A change here orphans everybody's results.
GOLDEN = {
    ("quickstart_five", "teacher"): "36e6e2cd5862",
    ("quickstart_five", "teacher, α = 0.1"): "06c198c26c14",
    ("quickstart_five", "student, T = 4"): "12528431e573",
    ("quickstart_five", "student, T = 4, teacher's α = 0.1"): "f23a902bc6eb",
    ("muller_mnist", "teacher, dropout"): "b3aa668bf82d",
    ("muller_mnist", "teacher, α = 0.1"): "8bb44846dc90",
    ("muller_mnist", "student of the first"): "ba0469567535",
    ("muller_mnist", "student of the second"): "df114e60f958",
    ("muller_cifar10", "AlexNet"): "e73be9392594",
    ("muller_cifar10", "AlexNet, α = 0.1"): "ea84492ad071",
    ("muller_cifar10", "ResNet-56"): "534778a180ce",
    ("muller_cifar10", "ResNet-56, α = 0.15"): "3e61da8ef653",
}


@pytest.mark.parametrize("experiment", ["quickstart_five", "muller_mnist", "muller_cifar10"])
def test_golden_ids(experiment):
    plan = make_plan(load_experiment(CONF.load("experiment", experiment), experiment), CONF)
    first = [run.id for run in plan.runs if run.seed == 0][:4]
    assert first == [value for (name, _), value in GOLDEN.items() if name == experiment]


def test_golden_id_of_a_command_line():
    settings = {**TAUGHT, "dataset": "cifar100", "arch": "resnet20", "teacher": "resnet56", "recipe": "crd"}
    settings |= {"temperature": 4, "alpha": 0.1, "teacher_ls": True, "seed": 3}
    run, shared = parse_run(settings, CONF), parse_run({**settings, "streams": "shared"}, CONF)
    alone = run_of(dataset="cifar100", arch="resnet56", recipe="crd", alpha=0.1, seed=3)
    assert (run.id, shared.id) == ("5c72d375ecb4", "f6ce5e656797")
    assert run.teacher.id == shared.teacher.id == alone.id


def test_numbers_are_the_same_however_they_are_written():
    assert run_of(**PLAIN, recipe__lr=1).id == run_of(**PLAIN, recipe__lr=1.0).id
    assert run_of(**PLAIN, alpha=0).id == run_of(**PLAIN, alpha=0.0).id == run_of(**PLAIN).id


CHANGES = {
    "dataset": "mnist", "dataset.holdout": 100, "dataset.limit": 100, "arch": "mlp800", "arch.hidden": [3],
    "arch.hidden_dropout": 0.5, "method": "kd_muller", "method.beta": 0.5, "temperature": 2, "recipe": "standard",
    "recipe.lr": 0.3, "recipe.batch_size": 32, "recipe.epochs": 3, "recipe.momentum": 0.5, "recipe.nesterov": True,
    "recipe.lr_factors": {"head.*": 0.1}, "recipe.schedule.kind": "linear", "recipe.weight_decay.rate": 0.1,
    "recipe.clip_norm": 1.0, "recipe.loss_scale": 3.0, "recipe.augment.pad": 2, "recipe.normalize.kind": "none",
    "recipe.precision": "bf16", "recipe.evaluate_every": 1, "alpha": 0.1, "target.mass": "others", "seed": 1,
    "teacher": "mlp800", "teacher.arch.hidden": [3], "teacher.seed": 7, "teacher.recipe.lr": 0.3, "teacher_ls": 0.1,
    "teacher_mode": "batch_stats", "streams": "shared",
}  # fmt: skip


def test_every_setting_that_matters_changes_the_id():
    ids = {parse_run(TAUGHT, CONF).id, *(parse_run({**TAUGHT, key: value}, CONF).id for key, value in CHANGES.items())}
    assert len(ids) == 1 + len(CHANGES)


@pytest.mark.parametrize("label", ["name", "provenance", "deviations"])
def test_labels_do_not_change_the_id(label):
    value = "mine" if label == "name" else ["mine"]
    assert (
        parse_run({**TAUGHT, "recipe": "standard", f"recipe.{label}": value}, CONF).id
        == run_of(**TAUGHT, recipe="standard").id
    )


def test_a_run_comes_back_from_its_identity():
    runs: dict[str, Run] = {}
    for name in ("muller_mnist", "muller_cifar10", "muller_imagenet", "wsl_pair"):
        plan = make_plan(load_experiment(CONF.load("experiment", name), name), CONF)
        runs |= {run.id: run for run in plan.runs if run.seed in (0, 30)}
    assert len(runs) > 50
    for run in runs.values():
        again = Run.of(json.loads(json.dumps(run.identity())))
        assert again.id == run.id and str(again) == str(run)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"engine": 7}, "was trained by other code"),
        ({"method": {"name": "ce", "version": 2}}, "was trained by other code"),
        ({"arch": {"name": "mine", "hidden": 3, "code": "0123456789ab"}}, "arch = 'mine'"),
        ({"recipe": {"lr": 0.1, "batch_size": 64, "epochs": 2, "warmup": 5}}, "recipe.warmup = 5: unknown key"),
    ],
)
def test_an_identity_of_other_code_is_no_run_of_this_code(changed, message):
    run = parse_run({"dataset": "digits", "arch": "mlp"}, CONF)
    with pytest.raises(InputError, match=message):
        Run.of({**run.identity(), **changed})


def test_the_runtime_is_no_part_of_a_run():
    assert not {"runtime", *Runtime.__dataclass_fields__} & set(json.dumps(run_of(**TAUGHT).identity()).split('"'))


def test_short_and_long_names_are_one():
    short = run_of(**TAUGHT, alpha=0.2, temperature=3, teacher_ls=True)
    nested = {"arch": "mlp", "alpha": 0.1}
    long = run_of(**{**TAUGHT, "teacher": nested}, target={"alpha": 0.2}, method__temperature=3.0)
    assert short.id == long.id
    assert run_of(**TAUGHT, teacher_ls=0.1).id == run_of(**TAUGHT, teacher__target__alpha=0.1).id == run_of(
        **TAUGHT, teacher_ls=True).id  # fmt: skip
    with pytest.raises(InputError, match=r"alpha = 0.1: target.alpha = 0.2 says otherwise"):
        run_of(**PLAIN, alpha=0.1, target__alpha=0.2)


# ---- teachers ------------------------------------------------------------------------------------------------------


def test_a_teacher_inherits_data_recipe_seed_and_mass():
    run = run_of(
        **TAUGHT, dataset__limit=100, recipe="standard", recipe__lr=0.3, seed=4, target__mass="others", alpha=0.2
    )
    alone = run_of(**PLAIN, dataset__limit=100, recipe="standard", recipe__lr=0.3, seed=4, target__mass="others")
    assert run.teacher == alone
    assert run.teacher.target.settings.alpha == 0.0, "label smoothing is not inherited"


def test_single_fields_of_a_teacher_change_what_it_inherits():
    teacher = run_of(**TAUGHT, recipe="standard", recipe__momentum=0.5, teacher__recipe__lr=0.3).teacher
    assert (teacher.recipe.name, teacher.recipe.lr, teacher.recipe.momentum) == ("standard", 0.3, 0.5)


def test_a_choice_of_its_own_starts_afresh():
    teacher = run_of(**TAUGHT, recipe="standard", recipe__momentum=0.5, teacher__recipe="quickstart").teacher
    assert teacher.recipe == run_of(**PLAIN, recipe="quickstart").recipe
    held_out = run_of(**TAUGHT, dataset__limit=100, teacher__dataset="digits").teacher
    assert held_out.dataset.limit == 0


def test_teachers_have_teachers():
    run = run_of(
        **{**TAUGHT, "teacher": {"arch": "mlp", "method": "kd", "teacher": {"arch": "mlp", "seed": 9}}}, seed=1
    )
    assert [run.seed, run.teacher.seed, run.teacher.teacher.seed] == [1, 1, 9]
    assert run.teacher.teacher == run_of(**PLAIN, seed=9)


def test_random_streams_are_a_students_own_unless_it_says_otherwise():
    chain = {**PLAIN, "method": "kd", "teacher": {**TAUGHT, "arch": "mlp800"}}
    run, shared = run_of(**chain), run_of(**chain, streams="shared")
    assert [r.streams for r in (run, run.teacher, run.teacher.teacher)] == ["own", "own", "shared"]
    assert [r.streams for r in (shared, shared.teacher)] == ["shared", "shared"]
    assert run.teacher.id != shared.teacher.id and run.teacher.teacher.id == shared.teacher.teacher.id
    assert run.identity()["streams"] == "own" and "streams" not in shared.identity()
    mixed = run_of(**chain, streams="shared", teacher__streams="own")
    assert mixed.teacher == run.teacher and "streams" not in mixed.identity()
    assert run_of(**PLAIN, streams="own") == run_of(**PLAIN, streams=None) == run_of(**PLAIN)


def test_no_teacher_however_it_is_said():
    assert run_of(**PLAIN, teacher=None).id == run_of(**PLAIN, teacher_ls=False).id == run_of(**PLAIN).id


def test_normal_form_and_words():
    form = normal_form({"arch": "mlp1200", "arch.hidden_dropout": 0.5, "teacher": "resnet56", "teacher_ls": True})
    assert form == {
        "arch": {"": "mlp1200", "hidden_dropout": 0.5},
        "teacher": {"arch": {"": "resnet56"}, "target": {"alpha": 0.1}},
    }
    assert override_words({"dataset": {"": "digits", "digest": "123", "evaluate": "null"}}) == [
        "dataset=digits", "dataset.digest='123'", "dataset.evaluate='null'"
    ]  # fmt: skip


# ---- conf/ ---------------------------------------------------------------------------------------------------------

FILES = sorted(path.relative_to(shipped_conf()) for path in shipped_conf().glob("*/*.yaml"))


@pytest.mark.every(3)
@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_parses(file: Path):
    group, name = file.parent.name, file.stem
    content = read_yaml(shipped_conf() / file)
    if group in GROUPS:
        taught = group == "method" and METHODS[content["name"]].needs_teacher
        needed = {"method": "kd", "teacher": "resnet8"} if taught else {}
        network = "alexnet" if name.startswith("muller_alexnet") else "resnet8"
        recipe = CONF.load("recipe", name) if group == "recipe" else {}
        dataset = "imagenet" if "resized" in recipe.get("augment", {}) else "cifar10"
        if recipe.get("batch_by") == "tokens":
            dataset, network = "multi30k", "transformer_tiny"
        begins = {"start": f"sha256:{64 * '0'}"} if content.get("epochs") == 0 else {}  # nothing would be trained
        parse_run({"dataset": dataset, "arch": network, **needed, **begins, group: name}, CONF)
    elif group == "table":
        plan_table(load_table(name, CONF), CONF)
    elif group == "experiment":
        make_plan(load_experiment(content, name), CONF)
    else:
        assert group == "launcher"


ODD_KEYS = [
    "1",
    "0.1",
    "0.10",
    "1e-3",
    "0x10",
    "010",
    "1_000",
    "on",
    "off",
    "yes",
    "no",
    "null",
    "~",
    "2020-01-01",
    "α b",
]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_key_of_yaml_is_what_is_written(tmp_path, key):
    """A paper's number, a skipped cell and a claim find their row and column, whatever else YAML would read there."""
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "odd.yaml").write_text(
        "title: Odd\nseeds: [0, 1]\nbase: {dataset: digits, arch: mlp}\n"
        f"rows: {{{key}: {{label: x}}, other: {{label: y}}}}\n"
        f"columns: {{{key}: {{label: x}}, z: {{label: z, run: {{alpha: 1e-1}}}}}}\n"
        f"paper: {{{key}: {{{key}: 90.1, z: 91}}, other: {{z: {{value: 3, std: 1}}}}}}\n"
        f"skip: {{other: {{{key}: cannot be}}}}\n"
        f"claims: [{{id: C, text: t, tests: [{{test: less, of: '{key}/{key}', than: '{key}/z'}}]}}]\n",
        encoding="utf-8",
    )
    table = load_table("odd", Conf((tmp_path, shipped_conf())))
    assert list(table.rows) == [key, "other"] and list(table.columns) == [key, "z"] and table.seeds == (0, 1)
    assert "90.1" in str(table.printed(key, key)) and ("other", key) not in list(table.keys())
    assert table.columns["z"].run == {"alpha": 0.1}, "values are read as ever"


def test_keys_of_yaml_that_are_merged_or_given_twice(tmp_path):
    (tmp_path / "x.yaml").write_text("one: &one {1: a, b: c}\ntwo: {<<: *one, b: d}\ntree: {*one : 1}\n")
    with pytest.raises(InputError, match=r"x\.yaml: cannot be read"):
        read_yaml(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("one: &one {1: a, b: c}\ntwo: {<<: *one, b: d}\n")
    assert read_yaml(tmp_path / "x.yaml") == {"one": {"1": "a", "b": "c"}, "two": {"1": "a", "b": "d"}}
    for text in ("1: a\n'1': b\n", "x: {on: 1, on: 2}\n", "[a]: 1\n", "- a\n", "a\n"):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(InputError, match=r"x\.yaml: (cannot be read|must be a mapping)"):
            read_yaml(tmp_path / "x.yaml")


def test_the_columns_of_a_figure_are_its_values_as_they_are_printed(tmp_path):
    (tmp_path / "table").mkdir()

    def table_with(values: str, key: str):
        (tmp_path / "table" / "f.yaml").write_text(
            "title: F\nkind: figure\nseeds: [0]\nbase: {dataset: digits, arch: mlp}\n"
            f"rows: {{s: {{label: s, over: alpha, values: {values}}}}}\npaper: {{s: {{{key}: 90.1}}}}\n"
        )
        return load_table("f", Conf((tmp_path, shipped_conf())))

    assert "90.1" in str(table_with("[0.1, 0.2]", "0.1").printed("s", "0.1"))
    with pytest.raises(InputError, match=r"table.f.paper.s = '0.10': did you mean '0.1'\?"):
        table_with("[0.1, 0.2]", "0.10")
    with pytest.raises(InputError, match=r"rows.s.values = .*: must be all different, in their first 6 digits"):
        table_with("[0.1234567, 0.12345671]", "0.123457")


@pytest.mark.parametrize(
    "settings",
    [
        {"teacher.alpha": 0.1, "teacher.target.alpha": 0.2},
        {"teacher": {"alpha": 0.1}, "teacher.target": {"alpha": 0.2}},
        {"teacher": "mlp", "teacher.arch": "mlp800"},
        {"teacher.teacher_ls": True, "teacher.teacher.alpha": 0.2},
        {"teacher.temperature": 2, "teacher.method.temperature": 3},
        {"recipe": {"schedule": {"kind": "step"}}, "recipe.schedule.kind": "linear"},
        {"target": {"alpha": 0.0}, "alpha": 0.1},
        {"method.temperature": 2, "temperature": 4},
    ],
)
def test_settings_that_disagree(settings):
    with pytest.raises(InputError, match="says otherwise; give one of them"):
        normal_form(settings)
    assert normal_form({"alpha": 0.1, "target.alpha": 0.1}) == {"target": {"alpha": 0.1}}


def test_recipes_are_named_as_their_files():
    for name in CONF.names("recipe"):
        assert CONF.load("recipe", name)["name"] == name


def test_registries_and_files_agree():
    files = {group: {path.stem for path in (shipped_conf() / group).glob("*.yaml")} for group in GROUPS}
    for group, registry in REGISTRIES.items():
        assert set(CONF.names(group)) == files[group] | set(registry)
        for name in CONF.names(group):
            assert CONF.load(group, name)["name"] in registry
            if name in registry:
                assert CONF.load(group, name)["name"] == name, f"{group}/{name}.yaml is another than its name says"
        for name in files[group]:
            assert CONF.load(group, name).keys() != {"name"}, f"{group}/{name}.yaml says no more than the registry"


def test_what_is_registered_needs_no_file():
    for name, known in data.DATASETS.items():
        text = {} if known.spec.text is None else {"text": identity(known.spec.text)}
        assert CONF.load("dataset", name) == {"name": name, "recipe": known.recipe, **text}
        assert known.recipe in CONF.names("recipe")
    data_of = {"images": "cifar10", "translation": "multi30k", "pairs": "mnli"}
    for name, arch in ARCHS.items():
        tokenizer = {"dataset.text.tokenizer": f"sha256:{64 * '0'}"} if arch.kind == "pairs" else {}
        run = run_of(dataset=data_of[arch.kind], arch=name, **tokenizer)
        assert (run.arch.settings, run.identity()["arch"]) == (ARCHS[name], {"name": name})


def test_a_users_directory_comes_first(tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("defaults: [quickstart]\nlr: 0.5\n")
    conf = Conf((tmp_path, shipped_conf()))
    run = parse_run({**PLAIN, "recipe": "mine"}, conf)
    assert (run.recipe.lr, run.recipe.batch_size) == (0.5, 64)
    assert "mine" in conf.names("recipe") and "quickstart" in conf.names("recipe")
