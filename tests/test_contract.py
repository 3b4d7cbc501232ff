"""Every method trains every family of networks."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment
from lskd.engine import Outcome, Shared, train
from lskd.engine.member import build_network
from lskd.errors import InputError
from lskd.methods import METHODS, Method
from lskd.models import ARCHS, Arch
from lskd.recipe import Recipe
from lskd.run import Named, Run

K, SHAPE = 4, (3, 16, 16)

# A small member of each family.
SMALL = {
    "mlp": {"hidden": (12,), "hidden_dropout": 0.2},
    "alexnet": {},
    "resnet8": {"stem": 4, "widths": (4, 6, 8)},
    "resnet56_t2t": {"depth": 8, "stem": 4, "widths": (4, 6, 8)},
    "wrn_16_2": {"depth": 10, "widen": 1},
    "resnet18": {"blocks": (1, 1, 1, 1), "widths": (4, 6, 8, 10)},
    "resnet50": {"blocks": (1, 1, 1, 1), "widths": (4, 6, 8, 10)},
    "vgg8": {"widths": (4, 6, 8, 10, 12)},
    "mobilenet_v2": {"expansion": 2, "width": 0.25},
    "shufflenet_v1": {"stem": 12, "widths": (24, 48, 72), "blocks": (1, 2, 1)},
    "shufflenet_v2": {"stem": 4, "widths": (8, 12, 16), "blocks": (2, 2, 2), "last": 20},
    "timm": {"model": "test_resnet"},
}


def small(name: str) -> Arch:
    return dataclasses.replace(ARCHS[name], **SMALL[name])


def test_every_family_is_here():
    assert {type(ARCHS[name]) for name in SMALL} == {type(arch) for arch in ARCHS.values()}


# What the epochs of each method are logged with, beside top1.
FEATURE = {"ce", "feature"}
METHOD_TERMS = {
    "ce": {"ce"}, "kd": {"soft", "ce"}, "logit_matching": {"ce", "match"}, "wsl": {"soft", "ce", "rs", "weight"},
    "fitnet": FEATURE, "at": FEATURE, "sp": FEATURE, "cc": FEATURE, "vid": FEATURE, "rkd": FEATURE, "pkt": FEATURE,
    "ft": FEATURE, "nst": FEATURE, "ofd": FEATURE, "crd": FEATURE, "ab": {"ce"}, "fsp": {"ce"},
}  # fmt: skip
# Methods at the size of these tests; and, of those with a stage before, what it is logged with.
SMALL_METHODS = {
    "crd": {"negatives": 5, "dimensions": 6}, "cc": {"dimensions": 6},
    "ab": {"initial_epochs": 1}, "fsp": {"initial_epochs": 1}, "ft": {"initial_epochs": 1},
}  # fmt: skip
STAGES = {"ab": ("boundaries", "boundaries"), "fsp": ("flow", "flow"), "ft": ("paraphraser", "reconstruction")}
LOGITS_ONLY = [name for name, method in METHODS.items() if method.teacher_use != "features" and name not in STAGES]


def named(arch: Arch) -> Named[Arch]:
    return Named(next(name for name in SMALL if type(ARCHS[name]) is type(arch)), arch)


def small_method(name: str) -> Method:
    return dataclasses.replace(METHODS[name], **SMALL_METHODS.get(name, {}))


def test_every_method_is_here():
    assert METHOD_TERMS.keys() == METHODS.keys()


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
        settings = dataclasses.replace(small_method(method), **knobs)
        network = build_network(run, spec)
        run = dataclasses.replace(run, arch=named(student), method=Named(method, settings), teacher=run, seed=2)
    return run, spec, train(run, spec, parts, network, shared=Shared(torch.device("cpu")))


def assert_trained(run: Run, spec: Spec, outcome: Outcome, terms: set[str]) -> None:
    before = dict(build_network(run, spec).named_parameters())
    unchanged = [name for name, value in outcome.network.named_parameters() if torch.equal(value, before[name])]
    assert unchanged == []
    assert all(value.isfinite().all() for value in outcome.network.parameters())
    assert outcome.result["steps"] == 2
    assert set(outcome.result["train"]) == {"top1", *terms}


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("method", LOGITS_ONLY)
def test_two_steps_change_every_parameter(method, arch):
    run, spec, outcome = fit(method, small(arch), small(arch))
    assert_trained(run, spec, outcome, METHOD_TERMS[method])


# Of one style and of two: (student, teacher). The teacher of the first is wider, where the method allows it.
WIDER = dataclasses.replace(small("resnet8"), widths=(6, 8, 10))
PAIRS = {
    "residual": (small("resnet8"), WIDER),
    "mobile": (small("shufflenet_v1"), small("wrn_16_2")),
    "five maps": (small("vgg8"), small("resnet50")),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("method", [name for name in METHODS if name not in LOGITS_ONLY])
def test_methods_of_features_train_pairs_of_networks(method, pair):
    student, teacher = PAIRS[pair]
    if method == "fsp" and pair == "mobile":
        with pytest.raises(InputError, match=r"student's channels = \[12, 24, 48, 72\]: must be the teacher's"):
            fit(method, student, teacher)
        return
    if method == "fsp":
        teacher = student
    run, spec, outcome = fit(method, student, teacher)
    assert_trained(run, spec, outcome, METHOD_TERMS[method])
    first = outcome.epochs[0]
    assert (first.get("stage"), set(first["train"])) == (
        (STAGES[method][0], {STAGES[method][1]}) if method in STAGES else (None, {"top1", *METHOD_TERMS[method]})
    )
    with_kd = fit(method, student, teacher, kd=1.0)[2]
    assert set(with_kd.result["train"]) == {"top1", "soft", *METHOD_TERMS[method]}
    assert (outcome.result["gamma"] is None, with_kd.result["gamma"] is None) == (True, False)
