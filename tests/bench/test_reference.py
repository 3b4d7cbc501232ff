"""The usual loop, shown the images that lskd's loop draws, trains as lskd's does: two implementations of one run."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from lskd.bench.reference import UsualLoop, accuracies, draws_of, make_loader, random_view
from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment, Normalize
from lskd.data.images import Resident
from lskd.engine import Shared, train
from lskd.engine.member import build_network
from lskd.errors import InputError
from lskd.methods import METHODS
from lskd.methods.kd import KD
from lskd.models import CifarResNetArch
from lskd.recipe import Recipe, Schedule, WeightDecay
from lskd.run import Named, Run
from lskd.targets import Target
from lskd.targets.label_smoothing import LabelSmoothing

CPU = torch.device("cpu")
RESNET = Named("resnet8", CifarResNetArch(depth=8, stem=4, widths=(4, 6, 8)))
CRD = Recipe(
    lr=0.05, batch_size=5, epochs=2, momentum=0.9, weight_decay=WeightDecay(5e-4), augment=Augment(pad=2, flip=True),
    schedule=Schedule("step", milestones=(1,)), normalize=Normalize("fixed", (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)),
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def make_data(channels: int = 3, images: int = 23) -> tuple[Spec, Part]:
    """Noise; the last of its batches of 5 has 3 images."""
    generator = torch.Generator().manual_seed(0)
    spec = Spec("noise", "Noise", 7, (channels, 8, 8), images, 0, tuple("abcdefg"), "")
    shape = (images, channels, 8, 8)
    return spec, Part(
        torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8), torch.arange(images) % spec.num_classes
    )


def smoothed(alpha: float, mass: Any = "all") -> Named[Target]:
    return Named("label_smoothing", LabelSmoothing(alpha, mass))


def make_run(alpha: float = 0.0, method: Any = METHODS["ce"], recipe: Recipe = CRD, **fields: Any) -> Run:
    if method.needs_teacher:
        fields["teacher"] = Run(Dataset("noise"), RESNET, Named("ce", METHODS["ce"]), recipe, seed=9)
    name = "kd" if isinstance(method, KD) else "ce"
    return Run(Dataset("noise"), RESNET, Named(name, method), recipe, smoothed(alpha), seed=3, **fields)


@pytest.mark.parametrize(
    ("run", "workers"),
    [
        (make_run(alpha=0.1), 0),
        (make_run(alpha=0.1), 2),
        (make_run(alpha=0.1, method=KD()), 0),
        (make_run(method=KD(2.0, 0.7, "add", t_squared=False, student_t="one", divergence="ce")), 0),
        (make_run(recipe=replace(CRD, nesterov=True, loss_scale=3.0, schedule=Schedule("cosine", warmup=1))), 0),
        (make_run(recipe=replace(CRD, normalize=Normalize("dataset"))), 0),
        (make_run(recipe=replace(CRD, augment=Augment(crop=6), epochs=None, steps=7)), 0),
    ],
)
def test_it_trains_as_lskd_does(run, workers):
    spec, part = make_data()
    teacher = None
    if run.teacher is not None:
        teacher = build_network(run.teacher, spec)
        with torch.no_grad():  # initial logits are all alike
            teacher.head.weight.mul_(20)
    ours = train(run, spec, {"train": part}, copy.deepcopy(teacher), shared=Shared(CPU)).network.state_dict()

    start = build_network(run, spec)
    draws = draws_of(run, Resident(part.images, run.recipe.augment))
    loop = UsualLoop(run, copy.deepcopy(start), teacher, *part[:2], CPU, workers=workers, draws=draws)
    for _ in range(loop.total_steps):
        loop.step()
    for name, value in loop.student.state_dict().items():
        torch.testing.assert_close(value, ours[name], rtol=1e-4, atol=1e-4, msg=name)
    moved = (start.head.weight - loop.student.head.weight).abs().max()
    assert moved > 100 * (loop.student.head.weight - ours["head.weight"]).abs().max()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "augment",
    [
        Augment(),
        Augment(flip=True),
        Augment(pad=2, flip=True),
        Augment(pad=3, padding="reflect"),
        Augment(crop=5, flip=True),
        Augment(pad=2, crop=10),
        Augment(pad=1, crop=6, padding="reflect", flip=True),
    ],
)
def test_batches_are_those_of_views_bit_for_bit(augment, channels):
    """Every view of every image, crops and flips done by PIL."""
    _, part = make_data(channels, images=4)
    views = Resident(part.images, augment)
    run = make_run(recipe=replace(CRD, augment=augment, normalize=Normalize("none")))
    indices = torch.arange(4).repeat_interleave(views.views)
    numbers = torch.arange(views.views).repeat(4)
    order = list(zip(indices.tolist(), numbers.tolist(), strict=True))
    loader = make_loader(run, part.images, part.labels, order, workers=0)
    pixels, labels = (torch.cat(batches) for batches in zip(*loader, strict=True))
    assert torch.equal(pixels, views.take(indices, numbers).float() / 255)
    assert torch.equal(labels, part.labels[indices])


def test_random_batches_are_of_the_same_views():
    """Without draws: shuffled anew in every epoch, each example one of lskd's views of it, the last batch partial."""
    _, part = make_data()
    run = make_run(recipe=replace(CRD, normalize=Normalize("none")))
    views = Resident(part.images, CRD.augment)
    every = torch.stack([views.take(torch.arange(23), torch.full((23,), view)) for view in range(views.views)], 1)
    loader = make_loader(run, part.images, part.labels, None, workers=0)
    epochs = []
    for _ in range(2):
        batches = list(loader)
        assert [len(labels) for _, labels in batches] == [5, 5, 5, 5, 3]
        pixels = torch.cat([pixels for pixels, _ in batches])
        found = (pixels[:, None, None] == every.float() / 255).flatten(3).all(-1).any(-1)  # (23, 23)
        assert torch.equal(found.sum(1), torch.ones(23, dtype=torch.int64))
        epochs.append(found.int().argmax(1).tolist())
        assert sorted(epochs[-1]) == list(range(23))
    assert epochs[0] != epochs[1]


def test_nothing_is_cropped_where_the_recipe_does_not():
    _, part = make_data()
    assert random_view(Augment(), part.images) == []
    assert len(random_view(Augment(pad=1, flip=True), part.images)) == 2


def test_meters():
    logits = torch.eye(7)[torch.tensor([0, 1, 2, 3])] - torch.arange(7) / 100
    assert [value.item() for value in accuracies(logits, torch.tensor([0, 1, 0, 6]))] == [50.0, 75.0]
    assert accuracies(torch.eye(3), torch.arange(3))[1].item() == 100.0

    spec, part = make_data()
    loop = UsualLoop(make_run(alpha=0.1), build_network(make_run(), spec), None, *part[:2], CPU, workers=0)
    loop.step()
    assert 0 < loop.meters["loss"] < 4 and 0 <= loop.meters["top1"] <= loop.meters["top5"] <= 100


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (make_run(recipe=replace(CRD, dampening=0.9)), "recipe.dampening = 0.9: must be 0.0 for the usual loop"),
        (make_run(recipe=replace(CRD, clip_norm=1.0)), "recipe.clip_norm = 1.0: must be None"),
        (make_run(recipe=replace(CRD, lr_factors={"head.*": 0.1})), "recipe.lr_factors = "),
        (
            make_run(recipe=replace(CRD, weight_decay=WeightDecay(1e-4, "weights"))),
            "recipe.weight_decay.to = 'weights'",
        ),
        (make_run(recipe=replace(CRD, normalize=Normalize("per_image"))), "recipe.normalize.kind = 'per_image'"),
        (make_run(method=KD(), teacher_mode="batch_stats"), "teacher_mode = 'batch_stats'"),
        (replace(make_run(), target=smoothed(0.1, "others")), "target.mass = 'others'"),
        (make_run(method=METHODS["logit_matching"]), "method = 'ce': must be ce or kd"),
    ],
)
def test_what_it_cannot_express_is_refused(run, message):
    spec, part = make_data()
    with pytest.raises(InputError) as error:
        UsualLoop(run, build_network(run, spec), None, *part[:2], CPU, workers=0)
    assert message in str(error.value)
