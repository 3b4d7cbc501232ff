"""A teacher is fed as it was trained, whatever its student's recipe says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment, Normalize
from lskd.data.images import Normalizer
from lskd.engine import Shared, run_probes, train
from lskd.engine.member import build_network
from lskd.engine.seeds import generator_for
from lskd.engine.tasks import forward
from lskd.methods import METHODS, Method
from lskd.methods.kd import KD
from lskd.models import CifarResNetArch
from lskd.probes import Probe, Scene
from lskd.recipe import Recipe
from lskd.run import Named, ProbeSpec, Run
from lskd.targets.distributions import equivalent_smoothing

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = Spec("noise", "Noise", 4, (3, 8, 8), train=12, test=12, class_names=("ant", "bee", "cow", "dog"), digest="")
GENERATOR = torch.Generator().manual_seed(0)


def make_parts(brightness: int) -> dict[str, Part]:
    images = torch.randint(brightness, (12, 3, 8, 8), generator=GENERATOR, dtype=torch.uint8)
    return {name: Part(images, torch.arange(12) % 4) for name in ("train", "test")}


PARTS, DARK = make_parts(256), make_parts(40)
ARCH = Named("resnet8", CifarResNetArch(depth=8, stem=4, widths=(4, 6, 8)))
KINDS = {
    "none": Normalize(), "per_image": Normalize("per_image"), "dataset": Normalize("dataset"),
    "fixed": Normalize("fixed", (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)),
}  # fmt: skip


def make_run(student: Normalize, teacher: Normalize, method: Method | None = None, **fields: Any) -> Run:
    recipe = Recipe(lr=0.1, batch_size=4, epochs=1, augment=Augment(pad=1, flip=True), normalize=student)
    of_teacher = replace(recipe, normalize=teacher, augment=Augment())
    taught_by = Run(Dataset("noise"), ARCH, Named("ce", METHODS["ce"]), of_teacher, seed=7)
    taught_by = replace(taught_by, **{k: fields.pop(k) for k in list(fields) if k == "dataset"})
    named = Named("kd", method or KD(temperature=1.0))
    return Run(Dataset("noise"), ARCH, named, recipe, teacher=taught_by, streams="own", **fields)


def make_teacher(run: Run) -> torch.nn.Module:
    assert run.teacher is not None
    network = build_network(run.teacher, SPEC)
    with torch.no_grad():  # initial logits are all alike
        network.head.weight.mul_(3)
    return network


def gamma(run: Run, **options: Any) -> float:
    shared = Shared(torch.device("cpu"), options.pop("teacher_memory", 1e9))
    return train(run, SPEC, PARTS, make_teacher(run), shared=shared, **options).result["gamma"]


@pytest.mark.parametrize("teacher", KINDS)
def test_what_a_teacher_says_does_not_depend_on_the_students_normalisation(teacher):
    seen = {student: gamma(make_run(KINDS[student], KINDS[teacher])) for student in KINDS}
    assert len(set(seen.values())) == 1, seen


@pytest.mark.parametrize("how", ["every epoch", "batch_stats"])
def test_however_it_is_evaluated(how):
    options = {"teacher_memory": 0} if how == "every epoch" else {}
    mode: dict[str, Any] = {"teacher_mode": how} if how == "batch_stats" else {}
    values = {gamma(make_run(student, KINDS["dataset"], **mode), **options) for student in KINDS.values()}
    assert len(values) == 1


@dataclass(frozen=True)
class Recording(Method):
    """Keeps what the teacher's stem and head gave in each step."""

    needs_teacher: ClassVar[bool] = True
    seen: tuple[list[Tensor], ...] = ([],)

    def taps(self, names):
        return ["f0"]

    def loss(self, batch):
        assert batch.teacher_logits is not None
        self.seen[0].extend([batch.teacher_features["f0"].clone(), batch.teacher_logits.clone()])
        return {"ce": batch.logits.logsumexp(-1)}


def test_features_are_those_of_a_teacher_fed_as_it_was_trained():
    steps = []
    for student in ("none", "per_image", "dataset"):
        method = Recording(seen=([],))
        run = make_run(KINDS[student], KINDS["dataset"], method)
        train(run, SPEC, PARTS, make_teacher(run), shared=Shared(torch.device("cpu")))
        steps.append(method.seen[0])
    assert len(steps[0]) == 6
    for other in steps[1:]:
        assert all(torch.equal(one, two) for one, two in zip(steps[0], other, strict=True))


def test_statistics_are_those_of_the_teachers_own_images():
    normalize = KINDS["dataset"]
    run = make_run(normalize, normalize, dataset=Dataset("dark"))
    network, views = make_teacher(run), Shared(torch.device("cpu")).task(run, PARTS).train
    pixels = views.take(torch.arange(12), views.draw(generator_for(run.stream_seed, "augment", 0)))
    logits = forward(network.eval(), pixels, Normalizer(normalize, DARK["train"].images), "fp32")
    expected = equivalent_smoothing(logits.softmax(-1), PARTS["train"].labels).double().mean().item()
    assert gamma(run, taught_on=DARK["train"].images) == pytest.approx(expected, rel=1e-6)
    assert gamma(run, taught_on=PARTS["train"].images) != pytest.approx(expected, rel=1e-2)


@dataclass(frozen=True)
class TaughtBy(Probe):
    needs_teacher: ClassVar[bool] = True

    def measure(self, scene: Scene) -> dict[str, Any]:
        assert scene.teacher is not None
        pixels = scene.plain("train", torch.arange(12))
        return {"train": {"teacher": scene.teacher(pixels).tolist(), "student": scene.forward(pixels).tolist()}}


def test_an_observer_sees_the_same_teacher_in_training_and_afterwards():
    probe = ProbeSpec("taught_by", TaughtBy())
    readings = []
    for student in ("none", "dataset"):
        run = make_run(KINDS[student], KINDS["dataset"])
        shared = Shared(torch.device("cpu"))
        outcome = train(run, SPEC, PARTS, make_teacher(run), shared=shared, probes=[probe])
        after = run_probes(run, SPEC, PARTS, outcome.network, [probe], shared, make_teacher(run))
        assert after == outcome.readings
        readings.append(after[probe.key][0]["train"])
    assert readings[0]["teacher"] == readings[1]["teacher"]
    assert readings[0]["student"] != readings[1]["student"]


def test_students_of_other_normalisations_share_one_cache():
    shared = Shared(torch.device("cpu"))
    caches = set()
    for student in KINDS.values():
        run = make_run(student, KINDS["dataset"])
        with shared.logit_cache(run, shared.task(run, PARTS).train, 4) as cache:
            caches.add(id(cache))
    assert len(caches) == 1
