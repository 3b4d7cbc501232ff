"""The parts of a training alone: which modules get its generator, shapes of features, stages, the cache of logits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment
from lskd.engine import Shared
from lskd.engine.features import Shapes, eval_mode
from lskd.engine.member import build_network
from lskd.engine.memory import Black
from lskd.engine.sums import Sums
from lskd.engine.teacher import Teacher
from lskd.engine.training import Training
from lskd.launch.preflight import blank
from lskd.methods import METHODS
from lskd.models import Arch, CifarResNetArch
from lskd.models.dropout import Dropout, Random
from lskd.recipe import Recipe
from lskd.run import Named, Run

CPU = torch.device("cpu")
SPEC = Spec("noise", "Noise", 4, (3, 12, 12), 10, 4, tuple("abcd"), digest="")
IMAGES = torch.randint(256, (10, 3, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
PARTS = {"train": Part(IMAGES, torch.arange(10) % 4)}
RESNET = Named[Arch]("resnet8", CifarResNetArch(depth=8, stem=4, widths=(4, 6, 8)))

pytestmark = pytest.mark.usefixtures("one_thread")


def make_run(method: str = "ce", arch: Named[Arch] = RESNET, **fields: Any) -> Run:
    """3 steps an epoch."""
    recipe = Recipe(lr=0.05, batch_size=4, epochs=2, momentum=0.9, augment=Augment(pad=1, flip=True))
    settings = fields.pop("settings", METHODS[method])
    teacher = Run(Dataset("noise"), RESNET, Named("ce", METHODS["ce"]), recipe) if settings.needs_teacher else None
    return Run(Dataset("noise"), arch, Named(method, settings), recipe, teacher=teacher, **fields)


def make_training(run: Run) -> Training:
    images = Shared(CPU).task(run, PARTS)
    teacher = None if run.teacher is None else Teacher.of(run, build_network(run.teacher, SPEC), images)
    return Training(run, SPEC, images, teacher)


# ---- what is random -----------------------------------------------------------------------------------------------


class Noisy(Random):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(x.shape, generator=self.generator)


class Generating(nn.Module):
    """Its `generator` is a network's, and none of a training's business."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.generator(x)


@dataclass(frozen=True)
class Mixed(Arch):
    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        return nn.Sequential(Generating(), Noisy(), Dropout(0.5), nn.Linear(432, num_classes))


def test_modules_that_say_so_draw_from_the_trainings_generator():
    training = make_training(make_run(arch=Named("mixed", Mixed())))
    generating, noisy, dropout, _ = training.member.network
    assert noisy.generator is dropout.generator is training.member.generator
    assert isinstance(generating.generator, nn.Flatten)


# ---- features -----------------------------------------------------------------------------------------------------


def test_shapes_are_seen_once_and_leave_every_module_in_its_mode():
    network = build_network(make_run(), SPEC).train()
    network.stage1.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    seen: list[int] = []
    network.register_forward_hook(lambda *_: seen.append(1))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shapes = Shapes(network, torch.zeros(1, 3, 12, 12))
    assert shapes.at([lambda names: ["f1", "pool"]], "student") == {"f1": (4, 12, 12), "pool": (8,)}
    assert shapes.at([lambda names: ["f3"], lambda names: ["f1"]], "student") == {"f3": (8, 3, 3), "f1": (4, 12, 12)}
    assert len(seen) == 1
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(ZeroDivisionError), eval_mode(network):
        assert not network.training
        1 // 0  # noqa: B018
    assert {name: module.training for name, module in network.named_modules()} == modes


def test_a_teacher_with_batch_statistics_keeps_them_where_its_features_are_asked_for():
    training = make_training(make_run("fitnet", teacher_mode="batch_stats"))
    norms = [module for module in training.teacher.network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(norm.training for norm in norms)


def test_one_teacher_has_the_shapes_of_each_students_images():
    """Students of two crops, whose teacher sees what they see."""

    def maps(side: int) -> tuple[int, ...]:
        return blank(make_run(), SPEC, (3, side, side)).at([lambda names: ["f2"]], "teacher")["f2"]

    assert (maps(12), maps(8), maps(12)) == ((6, 6, 6), (6, 4, 4), (6, 6, 6))


# ---- stages -------------------------------------------------------------------------------------------------------


def test_the_end_of_a_stage_is_the_beginning_of_the_training_proper():
    training = make_training(make_run("ab", settings=replace(METHODS["ab"], initial_epochs=2)))
    stages, steps = [], []
    while training.step_number < training.total_steps:
        stages.append(training.stage and training.stage.name)
        training.begin_epoch()
        for _ in range(3):
            training.step()
            steps.append(training.steps_done)
        [means] = training.end_epoch()
        assert ("top1" in means) == (stages[-1] is None)
    assert stages[:2] == [stages[0]] * 2 and stages[0] is not None and stages[2:] == [None, None]
    assert steps == [(done, 12) for done in range(1, 13)]


def test_sums_become_means_and_begin_anew():
    sums = Sums(CPU)
    for _ in range(2):
        sums.add("ce", torch.tensor(6.0))
        sums.add(Sums.CORRECT, torch.tensor(3))
        sums.add(Sums.EXAMPLES, 4)
    assert sums.end_epoch() == {"top1": 75.0, "ce": 1.5}
    sums.add("ce", torch.tensor(1.0))
    sums.add(Sums.EXAMPLES, 4)
    assert sums.end_epoch() == {"top1": 0.0, "ce": 0.25}


# ---- the cache of logits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "views", "use"),
    [
        (make_run("kd"), 18, True),
        (make_run("kd"), None, False),  # too many to count: streamed images
        (make_run("kd", teacher_mode="batch_stats"), 18, False),
        (make_run("fitnet"), 18, False),  # its features are asked for, too
        (make_run("ce"), 18, False),
    ],
)
def test_there_is_a_cache_where_there_is_a_use_for_it(run, views, use):
    shared, source = Shared(CPU), Black(10, (3, 12, 12), views)
    with shared.logit_cache(run, source, 4) as cache:
        assert (cache is not None) == use == (run.logits_by_view and views is not None)
        if cache is not None:
            assert cache.logits.shape == (180, 4) and not cache.known.any()


@pytest.mark.parametrize(("run", "evaluated"), [
    (make_run("kd"), "every epoch"), (make_run("kd", teacher_mode="batch_stats"), "every step"),
    (make_run("fitnet"), "every step"),
])  # fmt: skip
def test_what_a_teacher_says_to_a_batch_is_what_it_says_live(run, evaluated):
    """Looked up or computed in the step: the same logits; in the batch's statistics where these count."""
    training = make_training(run)
    training.begin_epoch()
    teacher, step = training.teacher, training.one_step
    rows = step.order[:4]
    pixels = training.task.train.take(rows, step.drawn[0][rows])
    logits, features = teacher.teach(rows, pixels)
    assert teacher.evaluated == evaluated and bool(features) == (run.method.name == "fitnet")
    torch.testing.assert_close(logits, teacher.live(pixels), rtol=1e-5, atol=1e-6)


def test_a_teacher_shows_all_images_in_order():
    """Piece by piece or at once: γ is the mean over them."""
    for mode in ("eval", "batch_stats"):
        teacher = make_training(make_run("kd", teacher_mode=mode)).teacher
        drawn = teacher.source.draw(torch.Generator().manual_seed(1))
        logits = torch.cat(list(teacher.everything(drawn)))
        expected = teacher.live(teacher.source.take(torch.arange(10), drawn))
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
