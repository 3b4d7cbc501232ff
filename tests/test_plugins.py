"""Code from outside the package, and what of a run's identity says which code it is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lskd import data, report
from lskd.compose import parse_probe, parse_run
from lskd.config_groups import Conf
from lskd.data.cli import main as lskd_data
from lskd.errors import InputError
from lskd.launch.queue import by_other_code
from lskd.launch.sweep import carry_out
from lskd.methods import METHODS
from lskd.methods.kd import KD
from lskd.methods.method import Method
from lskd.models import ARCHS, MLPArch
from lskd.plan import make_plan
from lskd.plugins import code_of, load_plugins
from lskd.probes import PROBES, Probe
from lskd.program import shipped_conf
from lskd.quantity import Quantity
from lskd.run import ProbeSpec, Run
from lskd.runtime import Runtime
from lskd.store import Store
from lskd.tables.experiment import load_experiment
from lskd.tables.metric import Metric

Load = Callable[[Mapping[str, str]], None]

TAUGHT = {"dataset": "digits", "arch": "mlp", "method": "mine", "teacher": "mlp"}
MINE = '''
"""My method."""
from dataclasses import dataclass
from typing import ClassVar

from lskd.losses import cross_entropy, soft_kl
from lskd.methods import Method, register


@register("mine")
@dataclass(frozen=True)
class Mine(Method):
    """KD of a kind."""

    needs_teacher: ClassVar[bool] = True
    temperature: float = 4.0

    def loss(self, batch):
        """The terms."""
        T = self.temperature  # as in the paper
        return {"soft": T * T * soft_kl(batch.logits, batch.teacher_logits, student_t=T, teacher_t=T)}
'''
HELPED = MINE.replace("from lskd.losses import cross_entropy, soft_kl", "from lskd.losses import soft_kl").replace(
    '"""The terms."""', "from helper_of_mine import scale"
).replace("T * T * soft_kl", "scale() * soft_kl")  # fmt: skip
HELPER = "from constants_of_mine import TWO\n\n\ndef scale():\n    return TWO\n"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: Callable[[], None]) -> Iterator[Load]:
    """`load({"mine.py": …})` writes the files, and imports the first one as a new process would."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def begin_anew() -> None:
        forget()
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
                del sys.modules[name]

    def write_and_load(files: Mapping[str, str]) -> None:
        begin_anew()
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        load_plugins(str(tmp_path / next(iter(files))))

    yield write_and_load
    begin_anew()


def run_of(**settings: Any) -> Run:
    run = parse_run({**TAUGHT, **settings}, Conf())
    assert run.id  # of the code as it is now
    return run


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# as in the paper", "# as we like it", True),
        ('"""KD of a kind."""', '"""Another text."""', True),
        ('"""My method."""\n', "", True),
        ("        return {", "\n        return {  # on\n            ", True),
        ("'soft'".replace("'", '"'), "'soft'", True),
        ("T * T * soft_kl", "0 * soft_kl", False),
        ("temperature: float = 4.0", "temperature: float = 1.0", False),
        ("student_t=T", "student_t=1.0", False),
    ],
)
def test_a_plugin_counts_with_its_code(load, old, new, same):
    load({"mine.py": MINE})
    before = run_of()
    assert set(before.identity()["method"]) == {"name", "temperature", "code"}
    assert before.code["method"] == {"version": 1, "code": before.identity()["method"]["code"]}
    assert MINE.count(old) >= 1
    load({"mine.py": MINE.replace(old, new)})
    assert (run_of().id == before.id) == same
    # Typed settings are one run, whatever the defaults are.
    assert ("temperature" in old) or (run_of(temperature=2).identity()["method"]["temperature"] == 2.0)


@pytest.mark.parametrize(
    ("changed", "text", "same"),
    [
        ("helper_of_mine.py", HELPER.replace("TWO\n", "2 * TWO\n").replace("import 2 * TWO", "import TWO"), False),
        ("helper_of_mine.py", HELPER + "# no more\n", True),
        ("constants_of_mine.py", "TWO = 3\n", False),
        ("unrelated.py", "TWO = 3\n", True),
    ],
)
def test_what_a_plugin_imports_from_beside_it_counts(load, changed, text, same):
    files = {"mine.py": HELPED, "helper_of_mine.py": HELPER, "constants_of_mine.py": "TWO = 2\n", "unrelated.py": ""}
    load(files)
    before = run_of()
    assert "helper_of_mine" not in sys.modules  # nobody has imported it yet: the loss does
    load({**files, changed: text})
    assert (run_of().id == before.id) == same


@pytest.mark.parametrize("changed", ["own/losses.py", "own/__init__.py", "own/x.py"])
def test_a_package_counts_as_far_as_it_is_imported(load, changed):
    inside = HELPED.replace("from helper_of_mine", "from .losses")
    files = {"start.py": "import own.methods\n", "own/__init__.py": "", "own/methods.py": inside, "own/x.py": ""}
    files["own/losses.py"] = "def scale():\n    return 2\n"
    load(files)
    before = run_of()
    load({**files, changed: "def scale():\n    return 3\n"})
    assert (run_of().id == before.id) == (changed == "own/x.py")


def test_the_digest_of_a_plugin_is_the_same_everywhere(load):
    """It must not depend on the folder, nor on the version of Python."""
    load({"mine.py": MINE})
    assert code_of(type(METHODS["mine"])) == "3a9b1c9ac536"


SUBCLASS = """
from dataclasses import dataclass
from lskd.methods import register
from lskd.methods.kd import KD

@register("mine")
@register("warm", temperature=9.0)
@dataclass(frozen=True)
class Mine(KD):
    def loss(self, batch):
        return {"zero": 0 * batch.logits.sum(-1)}
"""


def test_a_class_that_derives_from_a_shipped_one_is_another_method(load):
    load({"mine.py": SUBCLASS})
    first, warm = run_of(), run_of(method="warm")
    assert first.identity()["method"]["temperature"] == 4.0 and warm.identity()["method"]["temperature"] == 9.0
    load({"mine.py": SUBCLASS.replace("0 *", "1 *")})
    assert len({run_of(method="kd").id, first.id, warm.id, run_of().id}) == 4


def test_a_shipped_class_with_other_defaults_is_what_its_settings_say(monkeypatch):
    typed, shipped = run_of(method="kd", temperature=9), run_of(method="kd")
    monkeypatch.setitem(METHODS.entries, "kd", KD(temperature=9.0))
    assert run_of(method="kd").id == typed.id
    assert run_of(method="kd", temperature=4).id == shipped.id
    monkeypatch.setitem(METHODS.entries, "mine", KD(temperature=9.0))
    nine = run_of()
    monkeypatch.setitem(METHODS.entries, "mine", KD(temperature=8.0))
    assert run_of().id != nine.id
    assert "code" not in nine.identity()["method"]


def test_versions_of_shipped_code_are_in_the_identity(monkeypatch):
    run = run_of(method="wsl", arch="resnet8")
    assert not {"version", "engine"} & set(json.dumps(run.identity()).split('"'))
    ids = {run.id}
    for owner in (type(METHODS["wsl"]), Method, type(ARCHS["resnet8"]), MLPArch):
        monkeypatch.setattr(owner, "version", 2)
        changed = run_of(method="wsl", arch="resnet8")
        ids.add(changed.id)
    assert changed.identity()["method"]["version"] == 3  # its own change, and that of all methods
    assert changed.identity()["teacher"]["arch"]["version"] == 2
    monkeypatch.setattr("lskd.run.ENGINE_VERSION", 2)
    last = run_of(method="wsl", arch="resnet8")
    assert last.identity()["engine"] == last.identity()["teacher"]["engine"] == last.code["engine"] == 2
    assert len(ids | {last.id}) == 6


@dataclass(frozen=True)
class Norm(Probe):
    gives: ClassVar[Mapping[str, Quantity]] = {"norm": Quantity("a norm")}
    share: float = 0.5


def test_a_probes_code_is_in_the_key_of_what_it_saw(monkeypatch):
    shipped = ProbeSpec("resemblance", PROBES["resemblance"])
    assert shipped.identity() == {"name": "resemblance"}
    monkeypatch.setattr(type(PROBES["resemblance"]), "version", 2)
    assert ProbeSpec("resemblance", PROBES["resemblance"]).identity() == {"name": "resemblance", "version": 2}
    monkeypatch.setitem(PROBES.entries, "norm", Norm())
    named = parse_probe({"name": "norm"})
    assert named.identity() == {"name": "norm", "every": 0, "share": 0.5, "code": code_of(Norm)}
    assert Metric(name="norm").quantity.title == "a norm"  # and tables know its numbers
    monkeypatch.setattr(Norm, "gives", {"norm": "a norm"})
    with pytest.raises(InputError, match=r"Norm: norm = 'a norm': must be a Quantity: Quantity\('a norm'\)"):
        Metric(name="norm")


def test_data_of_a_plugin_count_with_their_digest(monkeypatch):
    digits = data.DATASETS["digits"]
    plain = run_of(method="kd")
    for name, digest in (("digits", "1" * 64), ("mine", "1" * 64), ("mine", "2" * 64)):
        changed = replace(digits, spec=replace(digits.spec, name=name, digest=digest))
        monkeypatch.setitem(data.DATASETS.entries, name, changed)
        run = run_of(method="kd", dataset=name)
        assert run.identity()["dataset"] == {"name": name, "digest": digest}
        assert run.id != plain.id


@pytest.mark.parametrize("module", ["nowhere", "types"])  # `make_dataclass` says the latter
def test_a_class_without_a_file_is_refused(monkeypatch, module):
    kind = dataclass(frozen=True)(type("Typed", (Method,), {"__module__": module}))
    monkeypatch.setitem(METHODS.entries, "mine", kind())
    with pytest.raises(InputError, match=r"Typed: is defined in no file"):
        _ = run_of(teacher=None).id


def duck(x):
    return x


@dataclass(frozen=True)
class Duck:
    """A network that derives from nothing."""

    kind = "images"
    of: Any = duck

    def build(self, input_shape: Any, num_classes: int) -> Any: ...


def test_settings_without_a_value_in_json(monkeypatch):
    for of, stands in ((duck, "duck"), (MLPArch, "MLPArch"), ([1, (2.5, {"a": None})], [1, [2.5, {"a": None}]])):
        monkeypatch.setitem(ARCHS.entries, "duck", Duck(of))
        assert run_of(method="kd", arch="duck").identity()["arch"] == {
            "name": "duck",
            "of": stands,
            "code": code_of(Duck),
        }
    assert code_of(Duck) is not None
    monkeypatch.setitem(ARCHS.entries, "duck", Duck({1, 2}))
    with pytest.raises(InputError, match=r"Duck.of = \{1, 2\}: must be a number, a string"):
        run_of(method="kd", arch="duck")


def test_a_setting_must_not_be_called_as_what_an_identity_is_made_of(load):
    load({"mine.py": MINE.replace("temperature: float = 4.0", "temperature: float = 4.0\n    version: int = 1")})
    with pytest.raises(
        InputError, match=r"Mine.version: is what an identity is made of; give the setting another name"
    ):
        _ = run_of().id


def test_a_plan_knows_runs_of_other_code(load, tmp_path, monkeypatch):
    store = Store(tmp_path / "results")
    load({"mine.py": MINE})
    old = run_of()
    store.directory(old).mkdir(parents=True)
    store.begin(old, {})
    store.finish(old, {})
    load({"mine.py": MINE.replace("T * T", "T")})
    assert by_other_code([run_of(), run_of(seed=1)], store) == {run_of().id: [old.id]}
    monkeypatch.setattr("lskd.run.ENGINE_VERSION", 2)
    assert by_other_code([run_of()], store) == {run_of().id: [old.id]}


def test_shipped_code_of_the_first_version_costs_no_look_at_the_store(monkeypatch):
    monkeypatch.setattr(Store, "configs", lambda self: pytest.fail("read"))
    assert by_other_code([run_of(method="kd")], Store(Path("nowhere"))) == {}


# ---- what a plug-in may register: all that the package can ----------------------------------------------------------

DATA = """
from lskd.data import Spec, register
from lskd.data.sets.digits import read as digits


rings = Spec("rings", "Rings", 10, (1, 8, 8), 1_437, 360, tuple("abcdefghij"), digest="{digest}")


@register(rings, recipe="quickstart")
def read(spec, *, data, download):
    \"\"\"The digits with their colours inverted.\"\"\"
    arrays, _ = digits(spec, data=data, download=download)
    images = {{"train_images": 255 - arrays.train_images, "test_images": 255 - arrays.test_images}}
    return arrays._replace(**images, class_names=spec.class_names), "made up"
"""
RINGS = "f1c3398f01cb91983b28a0719b6ed3c749abf1122ec66fd828486c8d8a87c5ee"
NETWORK = """
from dataclasses import dataclass

from torch import nn

from lskd.models import Arch, register


class Linear(nn.Module):
    def __init__(self, pixels, classes):
        super().__init__()
        self.head = nn.Linear(pixels, classes)

    def forward(self, x):
        return self.head(x.flatten(1))


@register("line")
@dataclass(frozen=True)
class Line(Arch):
    def build(self, input_shape, num_classes):
        channels, height, width = input_shape
        return Linear(channels * height * width, num_classes)
"""
PROBE = """
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lskd.probes import Probe, Quantity, register


@register("weights")
@dataclass(frozen=True)
class Weights(Probe):
    gives: ClassVar[Mapping[str, Quantity]] = {"head_norm": Quantity("norm of the last layer's weights")}
    pictures: ClassVar[tuple[str, ...]] = ("stripes",)

    def measure(self, scene):
        weights = scene.network.head.weight
        return {"train": {"head_norm": weights.norm().item(), "rows": weights.norm(dim=1).tolist()}}

    def draw(self, picture, figure, seen):
        axes = figure.add_subplot()
        for label, seed, reading, _ in seen:
            axes.plot(reading["train"]["rows"], label=f"{label}, seed {seed}")
        axes.legend()
        return f"{picture} of {len(seen)} runs"
"""
TABLE = """
title: Norms
seeds: [0]
base: {dataset: rings, dataset.limit: 100, arch: line, recipe.epochs: 1}
probe: {name: weights}
diagram: stripes
metric: {name: head_norm, part: train, unit: ""}
rows: {norm: {label: norm of the head}}
columns:
  labels: {label: labels}
  taught: {label: taught, run: {method: mine, teacher: line}}
"""


def test_plugins_bring_every_kind_of_part_together(load, tmp_path, monkeypatch):
    """A method, a network, a data set with its reader, and a probe with its picture, of four files."""
    files = {"mine.py": MINE, "network.py": NETWORK, "probe.py": PROBE, "rings.py": DATA.format(digest=RINGS)}
    load({"empty.py": "", **files})
    load_plugins(str(tmp_path / name) for name in files)
    (tmp_path / "conf" / "table").mkdir(parents=True)
    (tmp_path / "conf" / "table" / "norms.yaml").write_text(TABLE)
    conf = Conf((tmp_path / "conf", shipped_conf()), tmp_path / "cache")
    plan = make_plan(load_experiment({"title": "Norms", "tables": ["norms"]}, "norms"), conf)
    assert [run.dataset.digest for run in plan.runs] == [RINGS] * 2
    store = Store(tmp_path / "results")
    runtime = Runtime(device="cpu", cache=str(tmp_path / "cache"), threads=1, progress=False)
    outcomes = carry_out(plan.runs, store, runtime, conf, plan.probes)
    assert (len(outcomes.trained), outcomes.failed) == (2, [])
    written = {path.name for path in report.write(report.render(plan, store), tmp_path / "out")}
    assert {"norms.md", "norms.svg"} <= written
    svg = (tmp_path / "out" / "figures" / "norms" / "norms.svg").read_text()
    assert "labels, seed 0" in svg and "taught, seed 0" in svg and "stripes of 2 runs" in svg


def test_data_of_a_plugin_are_checked_by_their_digest(load, tmp_path):
    load({"rings.py": DATA.format(digest="")})
    with pytest.raises(InputError, match=f"made up: the Spec of rings has no digest: give it digest='{RINGS}'"):
        data.prepare("rings", data=tmp_path, cache=tmp_path)
    load({"rings.py": DATA.format(digest=RINGS)})
    assert data.prepare("rings", data=tmp_path, cache=tmp_path).digest == RINGS
    assert data.how_to_get("rings") == "`lskd-data prepare rings`"


STREAMED = """
from lskd.data import Spec, register
from lskd.data.readers import ImageFolders

names = ("ant", "bee")
register(Spec("insects", "Insects", 2, (3, 0, 0), 12, 6, names, digest="{digest}"))(ImageFolders(names))
"""


def test_streamed_data_of_a_plugin(load, tmp_path, write_photographs):
    write_photographs(tmp_path / "raw" / "insects", {"train": 6, "test": 3}, ("ant", "bee"))
    load({"insects.py": STREAMED.format(digest="")})
    with pytest.raises(InputError, match="the Spec of insects has no digest: give it digest='") as caught:
        data.prepare("insects", data=tmp_path / "raw", cache=tmp_path)
    digest = str(caught.value).split("'")[1]
    load({"insects.py": STREAMED.format(digest=digest)})
    parts = data.load(data.Dataset("insects", digest=digest), data=tmp_path / "raw", cache=tmp_path)
    assert {name: len(part.images) for name, part in parts.items()} == {"train": 12, "test": 6}
    assert Conf(cache=tmp_path).load("dataset", "insects") == {"name": "insects", "recipe": "standard_streamed"}


def test_lskd_data_knows_the_data_of_plugins(load, tmp_path, capsys):
    load({"empty.py": ""})
    (tmp_path / "rings.py").write_text(DATA.format(digest=RINGS))
    words = ["--plugin", str(tmp_path / "rings.py"), "--cache", str(tmp_path / "cache")]
    assert lskd_data(["prepare", "rings", *words]) == 0
    assert lskd_data(["list", *words]) == 0
    assert "rings: 10 classes, 1x8x8, 1437 train, 360 test\n" in capsys.readouterr().out
    assert lskd_data(["list", "--plugin", str(tmp_path / "nowhere.py")]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINE.replace('"mine"', '"kd"'), "method = 'kd': is taken by lskd.methods.kd; register yours under another"),
        (NETWORK.replace("(Arch)", ""), "arch = 'line': Line: must derive from lskd.models.archs.Arch"),
        (PROBE.replace("@dataclass(frozen=True)\n", ""), "probe = 'weights': Weights: must be a dataclass"),
        (MINE.replace("float = 4.0", "float"), r"method = 'mine': Mine\.temperature: needs a default"),
    ],
)
def test_what_a_plugin_cannot_register(load, text, message):
    with pytest.raises(InputError, match=rf"^plugin = '.*bad\.py': {message}"):
        load({"bad.py": text})


def test_a_plugin_that_assigns_is_shown_the_decorator(tmp_path):
    plugin = tmp_path / "assigns.py"
    plugin.write_text("from lskd.methods import METHODS, Method\n\n\nMETHODS['mine'] = Method()\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"^plugin = .*: method = 'mine': cannot be assigned; .*@register\(\"mine\"\)"):
        load_plugins(str(plugin))
