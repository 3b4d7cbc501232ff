"""What a method may declare, and what the loop does with it: features, modules, watched quantities, a stage before."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lskd.data import DATASETS, Dataset, Origin, Part, Spec
from lskd.data.augment import Augment
from lskd.data.readers import read_shards
from lskd.engine import Interrupted, Outcome, Shared, run_bytes, train
from lskd.engine.features import module_at, run_tapped
from lskd.engine.member import build_network
from lskd.engine.teacher import Teacher
from lskd.engine.training import Training
from lskd.errors import InputError
from lskd.launch.preflight import check_buildable, unsuitable
from lskd.methods import METHODS, Batch, Method, Pair, maps
from lskd.models import ARCHS, Arch, CifarResNetArch, MLPArch
from lskd.models.taps import taps_of
from lskd.plugins import load_plugin
from lskd.recipe import Recipe, WeightDecay
from lskd.run import Named, Run

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
N = 14
SPEC = Spec("noise", "Noise", 4, (3, 12, 12), N, 6, tuple("abcd"), digest="")
LABELS = torch.arange(N) % 4
PARTS = {
    name: Part(torch.randint(256, (n, 3, 12, 12), generator=torch.Generator().manual_seed(n)).byte(), LABELS[:n])
    for name, n in (("train", N), ("test", 6))
}
STUDENT = CifarResNetArch(depth=8, stem=4, widths=(4, 6, 8))
TEACHER = CifarResNetArch(depth=8, stem=4, widths=(4, 8, 10))
CRD = replace(METHODS["crd"], negatives=5, dimensions=6)
# One of each family of networks with maps.
FAMILIES = ("resnet8", "wrn_16_2", "resnet18", "resnet50", "vgg8", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2")
AB, FT = (replace(METHODS[name], initial_epochs=2) for name in ("ab", "ft"))


def make_run(method: Method, name: str = "fitnet", student: Arch = STUDENT, **fields: Any) -> Run:
    """2 epochs of 4 steps, the last of 2 images."""
    recipe = Recipe(
        **{"lr": 0.05, "batch_size": 4, "epochs": 2, "momentum": 0.9, "augment": Augment(pad=1, flip=True), **fields}
    )
    teacher = Run(Dataset("noise"), Named("resnet8", TEACHER), Named("ce", METHODS["ce"]), recipe)
    arch = min((name for name, prototype in ARCHS.items() if type(prototype) is type(student)), key=len)
    plain = Run(Dataset("noise"), Named(arch, student), Named("ce", METHODS["ce"]), recipe, seed=1)
    return replace(
        plain, method=Named(name, method), teacher=teacher if method.needs_teacher else None,
        peers=(plain.peer(),) if method.needs_peers else (),
    )  # fmt: skip


def fit(run: Run, **options: Any) -> Outcome:
    teacher = build_network(run.teacher, SPEC) if run.teacher is not None else None
    return train(run, SPEC, PARTS, teacher, shared=Shared(CPU), **options)


def make_training(run: Run) -> Training:
    images = Shared(CPU).task(run, PARTS)
    return Training(run, SPEC, images, Teacher.of(run, build_network(run.teacher, SPEC), images))


# ---- features, indices, modules -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe(Method):
    """KD on features, and a note of what it was shown."""

    needs_teacher: ClassVar[bool] = True
    seen: list[Batch] = field(default_factory=list, compare=False)
    random: list[Tensor] = field(default_factory=list, compare=False)

    def taps(self, names: Sequence[str]) -> Sequence[str]:
        return [*maps(names)[-1:], "pool"]

    def teacher_taps(self, names: Sequence[str]) -> Sequence[str]:
        return ["pool", "f1_pre"]

    def build(self, pair: Pair) -> nn.Module:
        assert pair.student == {"f3": (8, 3, 3), "pool": (8,)}
        assert pair.teacher == {"pool": (10,), "f1_pre": (4, 12, 12)}
        assert torch.equal(pair.labels, PARTS["train"].labels) and pair.classes == 4
        assert isinstance(pair.teacher_network, nn.Module)
        return nn.Linear(8, 10)

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        self.seen.append(batch)
        self.random.append(torch.rand(2, generator=batch.generator))
        error = (batch.module(batch.features["pool"]) - batch.teacher_features["pool"]).square().mean(1)
        return {"ce": METHODS["ce"].loss(batch)["ce"], "error": error}

    def watch(self, batch: Batch) -> Mapping[str, Tensor]:
        return {"label": batch.labels, "confidence": batch.logits.softmax(1).amax(1)}


def test_a_batch_has_what_the_method_declared():
    run = make_run(probe := Probe())
    outcome = fit(run)
    teacher = build_network(run.teacher, SPEC).eval()
    first = probe.seen[0]
    assert list(first.features) == ["f3", "pool"] and list(first.teacher_features) == ["pool", "f1_pre"]
    assert [(s.shape, t.shape) for s, t in first.pairs] == [((4, 8, 3, 3), (4, 10)), ((4, 8), (4, 4, 12, 12))]
    assert torch.equal(first.features["f3"].mean((2, 3)), first.features["pool"])
    assert torch.equal(PARTS["train"].labels[first.indices], first.labels)
    torch.testing.assert_close(first.teacher_logits, teacher.head(first.teacher_features["pool"]))
    for batch in probe.seen:
        assert all(feature.requires_grad for feature in batch.features.values())
        assert not any(feature.requires_grad for feature in batch.teacher_features.values())
    assert sorted(torch.cat([batch.indices for batch in probe.seen[:4]]).tolist()) == list(range(N))
    assert outcome.result["teacher_evaluated"] == "every step"
    assert all(len(module._forward_hooks) == 0 for module in outcome.network.modules())


def test_random_numbers_of_a_loss_are_the_runs_own():
    first, second = Probe(), Probe()
    fit(make_run(first))
    torch.manual_seed(9)
    fit(make_run(second))
    assert torch.equal(torch.stack(first.random), torch.stack(second.random))
    assert len(torch.stack(first.random).unique(dim=0)) == len(first.random)


def test_watched_quantities_are_averaged_over_the_epoch():
    run = make_run(probe := Probe(), augment=Augment())
    trained = fit(run).result["train"]
    assert set(trained) == {"top1", "ce", "error", "label", "confidence"}
    assert trained["label"] == pytest.approx((torch.arange(N) % 4).double().mean().item())
    confidences = torch.cat([batch.logits.detach().softmax(1).amax(1) for batch in probe.seen[4:]])
    assert trained["confidence"] == pytest.approx(confidences.mean().item(), rel=1e-5)


def test_modules_are_trained_and_are_no_part_of_the_student():
    run = make_run(Probe(), weight_decay=WeightDecay(1e-3))
    training = make_training(run)
    start = {name: value.clone() for name, value in training.member.module.state_dict().items()}
    training.begin_epoch()
    training.step()
    assert all(not torch.equal(value, start[name]) for name, value in training.member.module.state_dict().items())
    assert any(p is q for p in training.member.optimizer.parameters for q in training.member.module.parameters())
    assert any(p is q for p in training.member.optimizer.decayed for q in training.member.module.parameters())
    outcome = fit(run)
    assert set(outcome.network.state_dict()) == set(build_network(run, SPEC).state_dict())
    assert outcome.result["parameters"] == sum(p.numel() for p in build_network(run, SPEC).parameters())


def test_initial_weights_of_modules_depend_on_the_seed_alone():
    runs = [make_run(Probe()), make_run(Probe(), lr=0.1), replace(make_run(Probe()), seed=2)]
    weights = []
    for number, run in enumerate(runs):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        training = make_training(run)
        weights.append(training.member.module.weight.detach().clone())
        assert torch.equal(torch.get_rng_state(), before)
        ours = training.member.network.state_dict()  # and the student's do not depend on the method
        assert all(torch.equal(value, ours[name]) for name, value in build_network(run, SPEC).state_dict().items())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_parameter_that_the_loss_does_not_reach_stays_as_it_is():
    """Weight decay and momentum included."""

    class Idle(Probe):
        def build(self, pair: Pair) -> nn.Module:
            module = super().build(pair)
            module.add_module("idle", nn.Linear(2, 2))
            return module

    training = make_training(make_run(Idle(), weight_decay=WeightDecay(0.1)))
    idle = training.member.module.idle.weight.detach().clone()
    training.begin_epoch()
    for _ in range(3):
        training.step()
    assert torch.equal(training.member.module.idle.weight, idle)


def test_features_are_fp32_in_a_run_of_bf16():
    fit(make_run(probe := Probe(), precision="bf16"))
    features = [*probe.seen[0].features.values(), *probe.seen[0].teacher_features.values()]
    assert {feature.dtype for feature in features} == {torch.float32}


# ---- a stage before -----------------------------------------------------------------------------------------------


def test_a_stage_has_a_log_of_its_own_and_no_step_of_the_recipe():
    told: list[tuple[int, int]] = []

    def on_step(step: int, total: int) -> None:
        told.append((step, total))
        time.sleep(0.01 if step <= 8 else 0.0)  # what the stage takes is no part of the speed of the training proper

    outcome = fit(make_run(AB, "ab"), on_step=on_step)
    records = [(r.get("stage"), r["epoch"], r["step"], r["lr"], set(r["train"])) for r in outcome.epochs]
    assert records == [
        ("boundaries", 0, 4, 0.05, {"boundaries"}), ("boundaries", 1, 8, 0.05, {"boundaries"}),
        (None, 0, 4, 0.05, {"top1", "ce"}), (None, 1, 8, 0.05, {"top1", "ce"}),
    ]  # fmt: skip
    assert ["test" in record for record in outcome.epochs] == [False, False, True, True]
    assert told == [(step, 16) for step in range(1, 17)]
    result = outcome.result
    assert (result["steps"], result["epochs"], result["initial"]["epochs"]) == (8, 2, 2)
    assert result["initial"]["train"] == outcome.epochs[1]["train"]
    proper = result["seconds"] - result["initial"]["seconds"]
    assert result["initial"]["seconds"] > 0.08
    assert 2 * result["seconds_per_epoch"] == pytest.approx(proper, abs=2e-3)
    assert result["best"]["test"]["epoch"] in (0, 1)
    assert result["teacher_evaluated"] == "never"  # in the training proper


def test_a_stage_at_a_learning_rate_of_its_own():
    outcome = fit(make_run(FT, "ft"))
    assert [record["lr"] for record in outcome.epochs] == [0.01, 0.01, 0.05, 0.05]
    assert outcome.result["teacher_evaluated"] == "every step"


MAPS = {"stem", "stage1", "stage2", "stage3"}
WRN = replace(ARCHS["wrn_16_2"], depth=10, widen=1)


@pytest.mark.parametrize(("name", "method", "student", "trained", "proper"), [
    ("ab", AB, STUDENT, {*MAPS, "connectors"}, {*MAPS, "head"}),
    ("ab", AB, WRN, {*MAPS, "connectors"}, {*MAPS, "bn", "head"}),
    ("ft", FT, STUDENT, {"paraphraser"}, {*MAPS, "translator", "head"}),
])  # fmt: skip
def test_a_stage_trains_what_it_says(name, method, student, trained, proper):
    """And leaves all else, running statistics included, like the batch norm that a Wide ResNet's `f3_pre` comes out of;
    afterwards, everything is trained that the loss reaches."""
    training = make_training(make_run(method, name, student, weight_decay=WeightDecay(0.1)))

    def state() -> dict[str, Tensor]:
        own = training.member.module.state_dict()
        return {key: value.clone() for key, value in {**training.member.network.state_dict(), **own}.items()}

    def changed(before: Mapping[str, Tensor]) -> set[str]:
        return {key.partition(".")[0] for key, value in state().items() if not torch.equal(value, before[key])}

    before = state()
    training.begin_epoch()
    for _ in range(2):
        training.step()
    assert changed(before) == trained
    training.enter(None)
    assert all(p.requires_grad for p in training.member.network.parameters())
    before = state()
    training.begin_epoch()
    training.step()
    assert changed(before) == proper


@pytest.mark.parametrize("name", FAMILIES)
def test_the_modules_of_the_maps_are_all_that_make_them(name):
    """What the stage of AB and FSP trains is what the last map's gradient reaches."""
    network = ARCHS[name].build((3, 32, 32), 4)
    taps = maps(list(taps_of(network)))
    _, features = run_tapped(network, taps, lambda: network(torch.zeros(2, 3, 32, 32)))
    features[taps[-1]].sum().backward()
    reached = {key for key, value in network.named_parameters() if value.grad is not None}
    trained = {id(p) for tap in taps for p in module_at(network, tap).parameters()}
    assert {key for key, value in network.named_parameters() if id(value) in trained} == reached


def test_only_what_a_module_makes_can_be_trained():
    with pytest.raises(InputError, match="tap = 'pool': is what goes into 'head'"):
        module_at(build_network(make_run(AB, "ab"), SPEC), "pool")


# ---- stopping and going on ----------------------------------------------------------------------------------------


def numbers(record: Any) -> Any:
    """Without what a clock or the machine put there."""
    if isinstance(record, list):
        return [numbers(item) for item in record]
    if isinstance(record, dict):
        noisy = ("seconds", "seconds_per_epoch", "images_per_second", "peak_memory_mb")
        return {key: numbers(value) for key, value in record.items() if key not in noisy}
    return record


@pytest.mark.parametrize(("name", "method", "steps"), [("crd", CRD, 8), ("ab", AB, 16), ("ft", FT, 16)])
def test_a_training_goes_on_where_it_was_interrupted(name, method, steps, tmp_path):
    """At every step: in the stage before, between it and the training proper, and after."""
    run = make_run(method, name)
    expected = fit(run)
    done = [0]
    for step in range(1, steps):
        with pytest.raises(Interrupted):
            fit(
                run, checkpoint=tmp_path / "checkpoint.pt", stop=lambda step=step: done[0] >= step,
                on_step=lambda step, total: done.__setitem__(0, step),
            )  # fmt: skip
        assert done[0] == step
    outcome = fit(run, checkpoint=tmp_path / "checkpoint.pt")
    states = outcome.network.state_dict(), expected.network.state_dict()
    assert [key for key, value in states[0].items() if not torch.equal(value, states[1][key])] == []
    assert numbers(outcome.epochs) == numbers(expected.epochs)
    assert numbers(outcome.result) == numbers(expected.result)


def test_what_a_checkpoint_leaves_out_would_be_seen(tmp_path):
    """A memory that is not restored changes the rest of the training."""
    run, checkpoint, done = make_run(CRD, "crd"), tmp_path / "checkpoint.pt", [0]
    with pytest.raises(Interrupted):
        fit(run, checkpoint=checkpoint, stop=lambda: done[0] >= 4, on_step=lambda step, _: done.__setitem__(0, step))
    saved = torch.load(checkpoint, weights_only=True)
    saved["module"]["memory_teacher"] *= -1
    torch.save(saved, checkpoint)
    assert numbers(fit(run, checkpoint=checkpoint).epochs) != numbers(fit(run).epochs)


# ---- memory -------------------------------------------------------------------------------------------------------


def test_a_memory_of_all_images_is_counted():
    """Two of 6 floats an image; the labels, the order and the views, int64; and in a step of 4, for each image some
    floats: at least 4 of keys, 4 of scores of either network, and a copy of each memory."""
    few, more = (run_bytes(make_run(CRD, "crd"), replace(SPEC, train=train), "cpu") for train in (20_000, 40_000))
    an_image = (more - few) / 20_000
    kept = 2 * 6 * 4 + 3 * 8
    assert kept + 4 * (4 + 2 * 4 + 2 * 6) < an_image < 3 * kept + 4 * 8 * (4 + 2 * 4 + 2 * 6)


def test_the_stage_before_counts():
    """A step of AB's holds what its connectors do and the teacher's features, one of the training proper does not."""

    class Proper(type(AB)):
        def initial(self) -> None:
            return None

        def build(self, pair: Pair) -> None:
            return None

    wide = replace(STUDENT, widths=(16, 16, 16))
    whole, proper = (run_bytes(make_run(method, "ab", wide), SPEC, "cuda") for method in (AB, Proper()))
    connectors = sum(p.numel() for p in make_training(make_run(AB, "ab", wide)).member.module.parameters())
    assert whole - proper > 3 * 4 * connectors  # their weights, gradients and momentum


# ---- pairs that a method cannot serve -----------------------------------------------------------------------------


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setitem(DATASETS.entries, "noise", Origin(replace(SPEC, train=100), read_shards, "standard"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "student", "reason"),
    [
        ("fsp", STUDENT,
         r"method = fsp: cannot train resnet8\(.*\) from resnet8\(.*\): student's channels = \[4, 4, 6, 8\]: must be "
         r"the teacher's, \[4, 4, 8, 10\] \(student: f0 4×12×12, f1 4×12×12, f2 6×6×6, f3 8×3×3; teacher: f0 "
         r"4×12×12, .*f3 10×3×3\)"),
        ("at", MLPArch(hidden=(5,)),
         r"method = at: cannot train mlp\(.*\) from resnet8\(.*\): student: taps = \['pool'\]: must be those of a "
         "network with feature maps f0, f1, ..."),
        ("fitnet", MLPArch(hidden=(5,)), r"cannot train mlp\(.*\) from .*: student: tap = 'f2': .*allowed: pool;"),
        ("vid", dataclasses.replace(ARCHS["vgg8"], widths=(4, 6, 8, 10, 12)),
         r"taps = \['f1', 'f2', 'f3', 'f4'\]: must be as many as \['f1', 'f2', 'f3'\]"),
        ("crd", STUDENT, "negatives = 16384: must be <= 75, the images of other classes"),
    ],
)  # fmt: skip
def test_pairs_that_a_method_cannot_serve_are_refused_before_anything_trains(name, student, reason, cache):
    run = make_run(METHODS[name], name, student)
    if name == "vid":  # five poolings need more than 12 pixels
        run = replace(run, recipe=replace(run.recipe, augment=Augment(pad=4, crop=16)))
    assert re.search(reason, unsuitable(run, cache) or "")
    with pytest.raises(InputError, match=reason):
        check_buildable([make_run(METHODS["ce"], "ce"), run], cache)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("crd", "fsp")])
def test_pairs_that_a_method_can_serve(name, cache):
    run = make_run(METHODS[name], name)
    assert unsuitable(run, cache) is None
    check_buildable([run], cache)


def test_methods_of_pooled_features_train_any_network(cache):
    for name in ("rkd", "pkt", "cc"):
        assert unsuitable(make_run(METHODS[name], name, MLPArch(hidden=(5,))), cache) is None


def test_a_hint_that_is_not_there_names_those_that_are(cache):
    run = make_run(replace(METHODS["fitnet"], hint=9))
    reason = unsuitable(run, cache) or ""
    assert "tap = 'f9'" in reason and "f0, f1, f1_pre" in reason


# ---- a method from outside the package ----------------------------------------------------------------------------


@pytest.mark.usefixtures("forget")
def test_the_method_that_contributing_shows_trains(tmp_path):
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    [code] = [block.partition("```")[0] for block in text.split("```python\n")[1:] if "FeatureMethod" in block]
    assert code.count("\n") < 40
    (tmp_path / "projection.py").write_text(code)
    load_plugin(str(tmp_path / "projection.py"))
    outcome = fit(make_run(METHODS["projection"], "projection", epochs=12, lr=0.1))
    losses = [record["train"]["feature"] for record in outcome.epochs]
    assert losses[-1] < 0.5 * losses[0]
