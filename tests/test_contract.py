"""Every method trains every family of networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
import torch

from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment
from lskd.engine import Outcome, Shared, train
from lskd.engine.member import build_network
from lskd.errors import InputError
from lskd.methods import METHODS, Batch, Method
from lskd.models import ARCHS, Arch
from lskd.recipe import Recipe
from lskd.run import Named, Run

K, SHAPE = 4, (3, 16, 16)

# A small member of each family for images (of several kinds, where its members are), and a name of it.
MEMBERS = {dataclasses.replace(arch, **arch.small): name for name, arch in ARCHS.items() if arch.kind == "images"}
LOGITS_ONLY = [name for name, method in METHODS.items() if method.teacher_use != "features" and not method.initial()]


def small(name: str) -> Arch:
    return dataclasses.replace(ARCHS[name], **ARCHS[name].small)


def named(arch: Arch) -> Named[Arch]:
    return Named(next(name for member, name in MEMBERS.items() if type(member) is type(arch)), arch)


def spy(monkeypatch: pytest.MonkeyPatch, kind: type[Method], name: str) -> set[str]:
    """The names of the terms that the method `name` of `kind`, a loss, returns from now on."""
    terms, loss = set(), getattr(kind, name)

    def spied(self: Method, batch: Batch) -> Mapping[str, torch.Tensor]:
        found: Mapping[str, torch.Tensor] = loss(self, batch)
        terms.update(found)
        return found

    monkeypatch.setattr(kind, name, spied)
    return terms


pytestmark = pytest.mark.usefixtures("one_thread")


def fit(method: str, student: Arch, teacher: Arch, **knobs: float) -> tuple[Run, Spec, Outcome]:
    """Two steps of `method`, on noise, and the stage before them."""
    names = tuple("abcd")
    spec = Spec("noise", "Noise", K, SHAPE, train=12, test=6, class_names=names, digest="")
    generator = torch.Generator().manual_seed(0)
    parts = {
        name: Part(torch.randint(256, (n, *SHAPE), generator=generator, dtype=torch.uint8), torch.arange(n) % K)
        for name, n in (("train", 12), ("test", 6))
    }
    recipe = Recipe(lr=0.05, batch_size=6, steps=2, momentum=0.9, augment=Augment(pad=1, flip=True))
    run = Run(Dataset("noise"), named(teacher), Named("ce", METHODS["ce"]), recipe, seed=1)
    network = None
    if METHODS[method].needs_teacher:
        settings = dataclasses.replace(METHODS[method], **{**METHODS[method].small, **knobs})
        network = build_network(run, spec)
        run = dataclasses.replace(run, arch=named(student), method=Named(method, settings), teacher=run, seed=2)
    if METHODS[method].needs_peers:
        run = dataclasses.replace(run, method=Named(method, METHODS[method]), peers=(run.peer(),))
    return run, spec, train(run, spec, parts, network, shared=Shared(torch.device("cpu")))


def assert_trained(run: Run, spec: Spec, outcome: Outcome, terms: set[str]) -> None:
    before = dict(build_network(run, spec).named_parameters())
    unchanged = [name for name, value in outcome.network.named_parameters() if torch.equal(value, before[name])]
    assert unchanged == []
    assert all(value.isfinite().all() for value in outcome.network.parameters())
    assert outcome.result["steps"] == 2
    assert terms and set(outcome.result["train"]) == {"top1", *terms, *run.method.settings.watched}


@pytest.mark.every(3)
@pytest.mark.parametrize("arch", MEMBERS, ids=MEMBERS.get)
@pytest.mark.parametrize("method", LOGITS_ONLY)
def test_two_steps_change_every_parameter(method, arch, monkeypatch):
    terms = spy(monkeypatch, type(METHODS[method]), "loss")
    run, spec, outcome = fit(method, arch, arch)
    assert_trained(run, spec, outcome, terms)


# Of one style and of two: (student, teacher). The teacher of the first is wider, where the method allows it.
WIDER = dataclasses.replace(small("resnet8"), widths=(6, 8, 10))
PAIRS = {
    "residual": (small("resnet8"), WIDER),
    "mobile": (small("shufflenet_v1"), small("wrn_16_2")),
    "five maps": (small("vgg8"), small("resnet50")),
}


@pytest.mark.every(4)
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("method", [name for name in METHODS if name not in LOGITS_ONLY])
def test_methods_of_features_train_pairs_of_networks(method, pair, monkeypatch):
    student, teacher = PAIRS[pair]
    if method == "fsp" and pair == "mobile":
        with pytest.raises(InputError, match=r"student's channels = \[12, 24, 48, 72\]: must be the teacher's"):
            fit(method, student, teacher)
        return
    if method == "fsp":
        teacher = student
    kind, stage = type(METHODS[method]), METHODS[method].initial()
    terms = spy(monkeypatch, kind, "loss")
    before = spy(monkeypatch, kind, stage.loss.__name__) if stage is not None else set()
    run, spec, outcome = fit(method, student, teacher)
    assert_trained(run, spec, outcome, terms)
    first = outcome.epochs[0]
    assert first.get("stage") == (stage.name if stage is not None else None)
    assert set(first["train"]) == (before if stage is not None else {"top1", *terms}) != set()
    plain = set(terms)
    with_kd = fit(method, student, teacher, kd=1.0)[2]
    assert set(with_kd.result["train"]) == {"top1", "soft", *plain} and "soft" not in plain
    assert (outcome.result["gamma"] is None, with_kd.result["gamma"] is None) == (True, False)
