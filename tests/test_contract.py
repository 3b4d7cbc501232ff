"""Every method trains every family of networks."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lskd.config import Named, Run
from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment
from lskd.engine import Shared, train
from lskd.engine.training import build_network
from lskd.methods import METHODS
from lskd.models import ARCHS, Arch
from lskd.recipe import Recipe

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


# The terms by which each method's loss is logged.
METHOD_TERMS = {"ce": {"ce"}, "kd": {"soft", "ce"}, "logit_matching": {"ce", "match"}}


def test_every_method_is_here():
    assert METHOD_TERMS.keys() == METHODS.keys()


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("method", METHODS)
def test_two_steps_change_every_parameter(method, arch):
    names = tuple("abcd")
    spec = Spec("noise", "Noise", K, SHAPE, train=12, test=6, class_names=names, digest="")
    generator = torch.Generator().manual_seed(0)
    parts = {
        name: Part(torch.randint(256, (n, *SHAPE), generator=generator, dtype=torch.uint8), torch.arange(n) % K)
        for name, n in (("train", 12), ("test", 6))
    }
    recipe = Recipe(lr=0.05, batch_size=6, steps=2, momentum=0.9, augment=Augment(pad=1, flip=True))
    plain = Run(Dataset("noise"), Named(arch, small(arch)), Named("ce", METHODS["ce"]), recipe, seed=1)
    run, teacher = plain, None
    if METHODS[method].needs_teacher:
        run = dataclasses.replace(plain, method=Named(method, METHODS[method]), teacher=plain, seed=2)
        teacher = build_network(plain, spec)

    outcome = train(run, spec, parts, teacher, shared=Shared(torch.device("cpu")))

    before = dict(build_network(run, spec).named_parameters())
    unchanged = [name for name, value in outcome.network.named_parameters() if torch.equal(value, before[name])]
    assert unchanged == []
    assert all(value.isfinite().all() for value in outcome.network.parameters())
    assert outcome.result["steps"] == 2
    assert set(outcome.result["train"]) == {"top1", *METHOD_TERMS[method]}
