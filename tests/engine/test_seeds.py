"""Which random streams the networks of one lineage have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment
from lskd.engine import Shared, run_probes, train
from lskd.engine.member import build_network
from lskd.engine.seeds import seed_for
from lskd.engine.teacher import Teacher
from lskd.engine.training import Training
from lskd.methods import METHODS
from lskd.models import ARCHS, Arch, MLPArch
from lskd.probes.mutual_information import MutualInformation
from lskd.recipe import Recipe
from lskd.run import Named, ProbeSpec, Run

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = Spec("noise", "Noise", 4, (3, 8, 8), train=12, test=12, class_names=("ant", "bee", "cow", "dog"), digest="")
IMAGES = torch.randint(256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
PARTS = {name: Part(IMAGES, torch.arange(12) % 4) for name in ("train", "test")}
PURPOSES = ("init", "shuffle", "augment", "dropout", "method", "initial shuffle", "initial augment", "observe x")


def generations(count: int, streams: Any, arch: Arch) -> list[Run]:
    """A network, its student, the student's student, ..., all of one architecture and seed."""
    recipe = Recipe(lr=0.1, batch_size=4, epochs=1, augment=Augment(pad=2, flip=True))
    runs: list[Run] = []
    for _ in range(count):
        method, teacher = ("kd", runs[-1]) if runs else ("ce", None)
        named = Named("mlp" if isinstance(arch, MLPArch) else "resnet20", arch), Named(method, METHODS[method])
        runs.append(Run(Dataset("noise"), *named, recipe, seed=3, teacher=teacher, streams=streams))
    return runs


def drawn(run: Run) -> tuple[list[Tensor], Tensor, Tensor]:
    """The initial weights of each tensor that is not constant; order and views of the first epoch."""
    images = Shared(torch.device("cpu")).task(run, PARTS)
    teacher = Teacher.of(run, build_network(run.teacher, SPEC), images) if run.teacher is not None else None
    training = Training(run, SPEC, images, teacher)
    tensors = [tensor.clone() for tensor in training.member.network.parameters() if tensor.unique().numel() > 1]
    training.begin_epoch()
    return tensors, training.one_step.order, training.one_step.drawn[0]


def test_a_student_of_its_teachers_architecture_has_streams_of_its_own():
    teacher, student = (drawn(run) for run in generations(2, "own", ARCHS["resnet20"]))
    assert len(teacher[0]) == 23
    assert not any(torch.equal(one, other) for one, other in zip(teacher[0], student[0], strict=True))
    assert not torch.equal(teacher[1], student[1]) and not torch.equal(teacher[2], student[2])


def test_shared_streams_are_those_of_the_seed():
    teacher, student = (drawn(run) for run in generations(2, "shared", ARCHS["resnet20"]))
    assert all(torch.equal(one, other) for one, other in zip(teacher[0], student[0], strict=True))
    assert torch.equal(teacher[1], student[1]) and torch.equal(teacher[2], student[2])


def test_every_generation_has_its_own_and_the_first_that_of_its_seed():
    chain = generations(3, "own", MLPArch())
    assert [run.stream_seed for run in chain] == ["3", "3/1", "3/2"]
    assert [run.stream_seed for run in generations(3, "shared", MLPArch())] == ["3", "3", "3"]
    seeds = [seed_for(run.stream_seed, purpose, epoch) for run in chain for purpose in PURPOSES for epoch in (0, 1)]
    assert len(set(seeds)) == len(seeds)
    assert [seed_for(chain[0].stream_seed, purpose, 1) for purpose in PURPOSES] == [
        seed_for(3, purpose, 1) for purpose in PURPOSES
    ]


def test_an_observer_draws_the_same_of_a_training_and_of_its_weights():
    probe = ProbeSpec("mutual_information", MutualInformation(classes=("ant", "dog"), examples=3, every=0))
    readings = {}
    for streams in ("own", "shared"):
        _, run = generations(2, streams, MLPArch((4,)))
        outcome = train(
            replace(run, streams="own"), SPEC, PARTS, build_network(run, SPEC),
            shared=Shared(torch.device("cpu")), probes=[probe],
        )  # fmt: skip
        readings[streams] = run_probes(run, SPEC, PARTS, outcome.network, [probe], Shared(torch.device("cpu")))
        assert (readings[streams] == outcome.readings) == (streams == "own")
