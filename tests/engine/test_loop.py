"""The training loop on data of a few dozen pixels: what it computes, and that it goes on where it stopped."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lskd
import lskd.data.images
from lskd import metrics
from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment, Normalize
from lskd.data.images import Normalizer, Resident
from lskd.engine import Diverged, Interrupted, Outcome, Shared, train
from lskd.engine.member import build_network
from lskd.engine.record import best_epoch
from lskd.engine.seeds import generator_for, seed_for
from lskd.engine.shared import LogitCache
from lskd.engine.teacher import Teacher
from lskd.engine.training import set_precision
from lskd.methods import METHODS, Batch, Method
from lskd.methods.kd import KD
from lskd.models import ARCHS, Arch, CifarResNetArch, MLPArch
from lskd.recipe import Recipe, Schedule, WeightDecay
from lskd.run import Named, Run, logit_cache_bytes
from lskd.targets import Target
from lskd.targets.label_smoothing import LabelSmoothing

CPU = torch.device("cpu")
CLASSES = 4


pytestmark = pytest.mark.usefixtures("one_thread")


def make_data(
    train_images: int = 11, shape: tuple[int, int, int] = (1, 8, 8), classes: int = CLASSES
) -> tuple[Spec, dict[str, Part]]:
    """Noise, in which the label is a bright row."""
    names = tuple(f"row {k}" for k in range(classes))
    spec = Spec("rows", "Rows", classes, shape, train_images, 13, names, digest="")
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for name, n in (("train", train_images), ("validation", 9), ("test", 13)):
        labels = torch.arange(n) % classes
        images = torch.randint(0, 100, (n, *shape), generator=generator, dtype=torch.uint8)
        images[torch.arange(n), :, labels % shape[1]] += 100
        parts[name] = Part(images, labels)
    return spec, parts


SPEC, PARTS = make_data()
MLP = MLPArch(hidden=(6,))
RESNET = CifarResNetArch(depth=8, stem=4, widths=(4, 6, 8))


def smoothed(alpha: float, mass: Any = "all") -> Named[Target]:
    return Named("label_smoothing", LabelSmoothing(alpha, mass))


def make_run(method: Method | None = None, arch: Arch = MLP, alpha: float = 0.0, **fields: Any) -> Run:
    """3 steps an epoch on 11 images, the last of which has 3. Other fields are the run's or its recipe's."""
    method = method or METHODS["ce"]
    of_run = {f.name for f in dataclasses.fields(Run)}
    settings = {name: fields.pop(name) for name in list(fields) if name in of_run}
    if not {"epochs", "steps"} & set(fields):
        fields["epochs"] = 2
    recipe = Recipe(**{"lr": 0.1, "batch_size": 4, **fields})
    settings.setdefault("target", smoothed(alpha))
    if method.needs_teacher:
        teacher = Run(Dataset("rows"), Named("mlp", MLP), Named("ce", METHODS["ce"]), recipe)
        settings.setdefault("teacher", teacher)
    arch_name = next(name for name, prototype in ARCHS.items() if type(prototype) is type(arch))
    method_name = next((name for name, prototype in METHODS.items() if type(prototype) is type(method)), "custom")
    return Run(Dataset("rows"), Named(arch_name, arch), Named(method_name, method), recipe, **settings)


def fit(run: Run, teacher: nn.Module | None = None, teacher_memory: float = 1e9, **options: Any) -> Outcome:
    return train(run, SPEC, PARTS, copy.deepcopy(teacher), shared=Shared(CPU, teacher_memory), **options)


def make_teacher(arch: Arch = MLP, seed: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    network = arch.build(SPEC.shape, CLASSES)
    with torch.no_grad():  # initial logits are all alike
        network.head.weight.mul_(4)
    return network


def weights(outcome: Outcome) -> dict[str, Tensor]:
    return outcome.network.state_dict()


def assert_identical(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def assert_close(first: Outcome, second: Outcome, tolerance: float) -> None:
    for ours, other in zip(weights(first).values(), weights(second).values(), strict=True):
        torch.testing.assert_close(ours, other, rtol=tolerance, atol=tolerance)


def numbers(record: Any) -> Any:
    """A result or a log without what a clock or the machine put there."""
    if isinstance(record, list):
        return [numbers(item) for item in record]
    if isinstance(record, dict):
        noisy = ("seconds", "seconds_per_epoch", "images_per_second", "peak_memory_mb")
        return {key: numbers(value) for key, value in record.items() if key not in noisy}
    return record


# ---- what a step computes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_softmax_regression_by_hand(alpha):
    """The whole loop again, for a network whose gradient is known: (p - q)ᵀ x."""
    run = make_run(
        arch=MLPArch(hidden=()), alpha=alpha, lr=0.2, epochs=3, loss_scale=2.0, seed=3, schedule=Schedule("linear")
    )
    outcome = fit(run)

    start = build_network(run, SPEC).state_dict()
    weight, bias = start["head.weight"].double(), start["head.bias"].double()
    x = PARTS["train"].images.flatten(1).double() / 255
    q = (1 - alpha) * F.one_hot(PARTS["train"].labels, CLASSES).double() + alpha / CLASSES
    step, log = 0, []
    for epoch in range(3):
        order, loss, correct = torch.randperm(11, generator=generator_for(3, "shuffle", epoch)), 0.0, 0
        for chosen in (order[:4], order[4:8], order[8:]):
            logits = x[chosen] @ weight.T + bias
            loss += -(q[chosen] * logits.log_softmax(-1)).sum().item()
            correct += (logits.argmax(-1) == PARTS["train"].labels[chosen]).sum().item()
            residual = (logits.softmax(-1) - q[chosen]) / len(chosen)
            lr = 0.2 * (1 - step / 9)
            weight, bias = weight - lr * 2.0 * residual.T @ x[chosen], bias - lr * 2.0 * residual.sum(0)
            step += 1
        log.append({"epoch": epoch, "step": step, "lr": lr, "ce": loss / 11, "top1": 100 * correct / 11})

    torch.testing.assert_close(weights(outcome)["head.weight"].double(), weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights(outcome)["head.bias"].double(), bias, rtol=1e-5, atol=1e-6)
    for record, expected in zip(outcome.epochs, log, strict=True):
        assert (record["epoch"], record["step"]) == (expected["epoch"], expected["step"])
        assert record["lr"] == pytest.approx(expected["lr"])
        assert record["train"]["ce"] == pytest.approx(expected["ce"], rel=1e-5)
        assert record["train"]["top1"] == pytest.approx(expected["top1"])
    test = PARTS["test"]
    logits = (test.images.flatten(1).double() / 255 @ weight.T + bias).float()
    assert outcome.result["last"]["test"] == pytest.approx(metrics.summary(logits, test.labels), rel=1e-4)


def test_a_factor_of_the_loss_is_one_of_the_learning_rate():
    """For plain SGD; weight decay would not be scaled."""
    scaled, faster, plain = fit(make_run(loss_scale=3.0)), fit(make_run(lr=0.3)), fit(make_run())
    assert_close(scaled, faster, 1e-6)
    assert not torch.equal(weights(scaled)["head.weight"], weights(plain)["head.weight"])
    assert scaled.result["train"] == pytest.approx(faster.result["train"], rel=1e-5)  # logged without the factor
    decay = WeightDecay(rate=0.5)
    first, second = fit(make_run(loss_scale=3.0, weight_decay=decay)), fit(make_run(lr=0.3, weight_decay=decay))
    assert not torch.allclose(weights(first)["head.weight"], weights(second)["head.weight"], rtol=1e-2)


@pytest.mark.parametrize(
    ("length", "steps", "epochs"), [({"epochs": 2}, 6, 2), ({"steps": 7}, 7, 3), ({"steps": 2}, 2, 1)]
)
def test_length(length, steps, epochs):
    """11 images in batches of 4 are 3 steps an epoch, of 4, 4 and 3 images; a last epoch may have fewer."""
    told = []
    outcome = fit(make_run(**length), on_step=lambda step, total: told.append((step, total)))
    assert told == [(step, steps) for step in range(1, steps + 1)]
    assert (outcome.result["steps"], outcome.result["epochs"]) == (steps, epochs)
    assert [record["step"] for record in outcome.epochs] == [min(3 * (i + 1), steps) for i in range(epochs)]
    assert outcome.result["examples"] == 11


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule("step", milestones=(1,), factor=0.5),
        Schedule("step", milestones=(4, 6), unit="steps"),
        Schedule("cosine", warmup=1),
    ],
)
def test_the_log_has_the_learning_rate_of_each_epochs_last_step(schedule):
    outcome = fit(make_run(lr=0.4, steps=8, schedule=schedule))
    expected = [0.4 * schedule.at(step, total_steps=8, steps_per_epoch=3) for step in (2, 5, 7)]
    assert [record["lr"] for record in outcome.epochs] == pytest.approx(expected)
    assert len(set(expected)) > 1


def test_a_learning_rate_of_zero_is_applied():
    """1e-300 underflows in fp32: the second epoch must change nothing."""
    schedule = Schedule("step", milestones=(1,), factor=1e-300)
    assert_identical(weights(fit(make_run(epochs=3, schedule=schedule))), weights(fit(make_run(epochs=1))))


def test_bf16_is_close_to_fp32_and_not_the_same():
    for arch in (MLP, RESNET):
        exact, half = (fit(make_run(arch=arch, lr=0.01, precision=precision)) for precision in ("fp32", "bf16"))
        assert all(value.dtype != torch.bfloat16 for value in weights(half).values())
        assert not torch.equal(weights(exact)["head.weight"], weights(half)["head.weight"])
        assert_close(exact, half, 0.01)
        assert half.result["train"]["ce"] == pytest.approx(exact.result["train"]["ce"], rel=0.01)


def test_matrix_products_are_exact_unless_the_recipe_says_otherwise():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        for precision, product, convolution in (("tf32", "high", True), ("fp32", "highest", False)):
            set_precision(precision)
            assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == (product, convolution)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize("crop", [6, 8, 10])
def test_networks_of_a_fixed_input_size_are_evaluated_on_windows_of_the_crops_size(crop):
    run = make_run(augment=Augment(pad=2, crop=crop))
    assert fit(run).network.layers[0].in_features == crop * crop


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_cuda_is_that_on_a_cpu():
    run = make_run(KD(), arch=RESNET, steps=1, augment=Augment(pad=1, flip=True))
    here = fit(run, make_teacher(RESNET))
    there = train(run, SPEC, PARTS, make_teacher(RESNET), shared=Shared(torch.device("cuda")))
    for name, value in weights(here).items():
        torch.testing.assert_close(weights(there)[name].cpu(), value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_layout_is_one_switch(layout, monkeypatch):
    """Of weights, of images as the network sees them, and of what it makes of them. The numbers are the same."""
    seen: list[bool] = []

    class Looking(CifarResNetArch):
        def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
            network = super().build(input_shape, num_classes)
            network.stage1.register_forward_hook(
                lambda module, given, made: seen.append(made.is_contiguous(memory_format=layout))
            )
            return network

    monkeypatch.setattr(lskd.data.images, "LAYOUT", layout)
    arch = Looking(depth=8, stem=4, widths=(4, 6, 8))
    run = replace(make_run(arch=RESNET, steps=2), arch=Named("resnet8", arch))
    outcome = fit(run)
    assert seen and all(seen)
    convolutions = [value for value in weights(outcome).values() if value.ndim == 4]
    assert all(value.is_contiguous(memory_format=layout) for value in convolutions)
    monkeypatch.undo()
    assert_close(outcome, fit(replace(run, arch=Named("resnet8", RESNET))), 1e-3)


# ---- pairing by seed ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording(Method):
    """Another method's loss, and a note of what each step was shown."""

    needs_teacher: ClassVar[bool] = True
    inner: Method = field(default_factory=lambda: METHODS["ce"])
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list, compare=False)  # (what the teacher says, logits)

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        assert batch.teacher_logits is not None
        self.seen.append((batch.teacher_logits, batch.logits.detach()))
        return self.inner.loss(batch)


class Pixels(nn.Module):
    """A teacher whose logits are the pixels it sees."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.head = nn.Linear(pixels, pixels, bias=False)
        nn.init.eye_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


def watch(inner: Method, seed: int, **fields: Any) -> list[tuple[Tensor, Tensor]]:
    """What each step of a training on 11 images of 4×4 = 16 pixels, of 16 classes, was shown."""
    spec, parts = make_data(shape=(1, 4, 4), classes=16)
    method = Recording(inner)
    run = make_run(method, seed=seed, augment=Augment(pad=1, flip=True), **fields)
    train(run, spec, parts, Pixels(16), shared=Shared(CPU, 0))
    return method.seen


def test_methods_are_paired_by_seed():
    """The same initial weights, the same images in the same order, through the same crops and flips."""
    dropout = MLPArch(hidden=(6,), hidden_dropout=0.5)
    ce, kd = (watch(method, seed=1, arch=dropout) for method in (METHODS["ce"], KD(beta=1.0, t_squared=False)))
    assert len(ce) == len(kd) == 6
    assert torch.equal(ce[0][1], kd[0][1])  # the first logits, dropout's draws included
    assert not torch.equal(ce[-1][1], kd[-1][1])  # the methods do differ
    for (one, _), (other, _) in zip(ce, kd, strict=True):
        assert torch.equal(one, other)


def test_seeds_are_not_paired():
    first, second = (watch(METHODS["ce"], seed=seed) for seed in (1, 2))
    assert not torch.equal(first[0][0], second[0][0])
    assert not torch.equal(first[0][1], second[0][1])


def test_an_epoch_shows_each_image_once_through_a_view_of_its_own():
    _, parts = make_data(shape=(1, 4, 4), classes=16)
    views = Resident(parts["train"].images, Augment(pad=1, flip=True))
    shown = torch.cat([pixels for pixels, _ in watch(METHODS["ce"], seed=1)])
    every = torch.stack([views.take(torch.arange(11), torch.full((11,), view)) for view in range(18)], 1)
    found = (shown[:, None, None] * 255).round() == every.flatten(2)  # (22, 11, 18, 16)
    step, image, view = found.all(-1).nonzero().T
    assert step.tolist() == list(range(22))  # each is one view of one image
    first, second = image[:11], image[11:]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(11))
    assert first.tolist() != second.tolist()  # shuffled anew
    drawn = [views.draw(generator_for(1, "augment", epoch)) for epoch in (0, 1)]
    assert torch.equal(view, torch.cat([drawn[0][first], drawn[1][second]]))
    assert not torch.equal(drawn[0], drawn[1])


def test_streams_differ_by_seed_purpose_and_epoch():
    keys = [
        (seed, purpose, epoch) for seed in (0, 1, 10) for purpose in ("init", "shuffle", "augment") for epoch in (0, 1)
    ]
    assert len({seed_for(*key) for key in keys}) == len(keys)
    assert all(0 <= seed_for(*key) < 2**63 for key in keys)


def test_the_global_generator_changes_nothing():
    run = make_run(arch=MLPArch(hidden=(6,), hidden_dropout=0.5))
    torch.manual_seed(1)
    first = fit(run)
    torch.manual_seed(2)
    assert_identical(weights(first), weights(fit(run)))


# ---- the teacher --------------------------------------------------------------------------------------------------


def test_initial_weights_do_not_depend_on_the_teacher():
    run = make_run(KD())
    assert_identical(build_network(run, SPEC).state_dict(), build_network(make_run(), SPEC).state_dict())


def as_it_is(views: Resident) -> Normalizer:
    return Normalizer(Normalize(), views.images)


def new_cache(views: Resident) -> LogitCache:
    """Empty: whatever is read before it was written would be seen."""
    rows = len(views) * views.views
    return LogitCache(torch.full((rows, CLASSES), torch.nan), torch.zeros(rows, dtype=torch.bool))


@pytest.mark.parametrize("arch", [MLP, RESNET])
def test_tabulated_logits_are_the_live_ones(arch):
    """Over epochs whose views overlap, and until all 18 views of all images have been asked for."""
    views = Resident(PARTS["train"].images, Augment(pad=1, flip=True))
    network = make_teacher(arch)
    cache = new_cache(views)
    tabulated, ahead = (
        Teacher(network, views, as_it_is(views), precision="fp32", mode="eval", cache=c) for c in (cache, None)
    )
    epochs = [views.draw(generator_for(0, "augment", epoch)) for epoch in range(4)]
    epochs += [torch.full((11,), view) for view in range(18)]
    for drawn in epochs:
        live = ahead.live(views.take(torch.arange(11), drawn))
        assert torch.equal(tabulated.epoch(drawn), ahead.epoch(drawn))
        torch.testing.assert_close(tabulated.epoch(drawn), live, rtol=1e-6, atol=1e-6)
        assert not tabulated.epoch(drawn).requires_grad
    assert cache.known.all()
    assert len(cache.logits.unique(dim=0)) > 150  # views do tell


def test_a_view_is_evaluated_once():
    views = Resident(PARTS["train"].images, Augment(pad=1, flip=True))
    evaluated: list[int] = []

    network = make_teacher()
    network.register_forward_pre_hook(lambda module, given: evaluated.append(len(given[0])))
    teacher = Teacher(network, views, as_it_is(views), precision="fp32", mode="eval", cache=new_cache(views))
    teacher.batch = 1
    for epoch in range(40):
        teacher.epoch(views.draw(generator_for(0, "augment", epoch)))
    assert 11 < len(evaluated) <= 11 * 18
    before = len(evaluated)
    for epoch in range(40):
        teacher.epoch(views.draw(generator_for(0, "augment", epoch)))
    assert len(evaluated) == before


@pytest.mark.parametrize("method", [KD(), METHODS["logit_matching"]])
def test_students_of_a_tabulated_teacher_are_those_of_one_evaluated_every_epoch(method):
    run = make_run(method, arch=RESNET, epochs=3, augment=Augment(flip=True))
    tabulated, ahead = (fit(run, make_teacher(RESNET), teacher_memory=memory) for memory in (1e9, 0))
    assert tabulated.result["teacher_evaluated"] == "once a view"
    assert ahead.result["teacher_evaluated"] == "every epoch"
    assert_identical(weights(tabulated), weights(ahead))
    assert numbers(tabulated.epochs) == numbers(ahead.epochs)
    assert tabulated.result["gamma"] == ahead.result["gamma"]


def test_students_share_a_cache():
    """Other seeds and temperatures of the method; not another augmentation or another teacher."""
    shared = Shared(CPU)
    caches = []
    first = make_run(KD(), augment=Augment(flip=True))
    assert first.teacher is not None
    for run in (
        first,
        dataclasses.replace(first, seed=7, method=Named("kd", KD(temperature=2.0))),
        make_run(KD(), augment=Augment(pad=1)),
        dataclasses.replace(first, teacher=dataclasses.replace(first.teacher, seed=9)),
    ):
        with shared.logit_cache(run, shared.task(run, PARTS).train, CLASSES) as cache:
            caches.append(cache)
    assert caches[0] is caches[1]
    assert len(set(map(id, caches))) == 3


def test_caches_keep_to_their_memory():
    """A cache of 2 views of 11 images takes 11 · 2 · (4 · 4 + 1) bytes; the one unused longest makes room."""
    size = 11 * 2 * (CLASSES * 4 + 1)
    assert size == logit_cache_bytes(11, 2, CLASSES)
    run = make_run(KD(), augment=Augment(flip=True))
    assert run.teacher is not None
    runs = [dataclasses.replace(run, teacher=dataclasses.replace(run.teacher, seed=seed)) for seed in range(3)]

    def cache(shared: Shared, run: Run) -> Any:
        return shared.logit_cache(run, shared.task(run, PARTS).train, CLASSES)

    with cache(Shared(CPU, size - 1), run) as none:
        assert none is None
    shared = Shared(CPU, 2 * size)
    with cache(shared, runs[0]) as first, cache(shared, runs[1]) as second:
        assert None not in (first, second)
        with cache(shared, runs[2]) as third:
            assert third is None  # both are in use
    with cache(shared, runs[0]) as again:
        assert again is first
    with cache(shared, runs[2]) as third:
        assert third is not None  # instead of the second
    with cache(shared, runs[0]) as again:
        assert again is first
    with cache(shared, runs[1]) as new:
        assert new is not None
        assert new is not second


@pytest.mark.parametrize("mode", ["eval", "batch_stats"])
@pytest.mark.parametrize("memory", [1e9, 0])
def test_a_teacher_is_not_changed_by_teaching(mode, memory):
    teacher = make_teacher(RESNET)
    before = copy.deepcopy(teacher.state_dict())
    assert any("running_mean" in name for name in before)
    run = make_run(KD(), epochs=2, teacher_mode=mode)
    train(run, SPEC, PARTS, teacher, shared=Shared(CPU, memory))
    assert_identical(before, teacher.state_dict())
    assert all(p.grad is None for p in teacher.parameters())


class Normed(nn.Module):
    """A teacher with batch norm, and dropout that must not drop."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm2d(1), nn.Dropout(0.5)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.norm(x)).flatten(1))


def test_batch_statistics_are_those_of_each_batch():
    torch.manual_seed(0)
    network = Normed()
    with torch.no_grad():
        network.norm.running_mean.fill_(5.0)  # what eval mode would use

    def expected(pixels: Tensor) -> Tensor:
        x = (pixels - pixels.mean()) / (pixels.var(correction=0) + network.norm.eps).sqrt()
        return F.linear(x.flatten(1), network.head.weight, network.head.bias)

    @dataclass(frozen=True)
    class Check(Method):
        needs_teacher: ClassVar[bool] = True
        seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

        def loss(self, batch: Batch) -> Mapping[str, Tensor]:
            self.seen.append((batch.labels, batch.teacher_logits))
            return METHODS["ce"].loss(batch)

    check = Check()
    train(make_run(check, epochs=2, teacher_mode="batch_stats"), SPEC, PARTS, network, shared=Shared(CPU))
    for epoch in range(2):
        order = torch.randperm(11, generator=generator_for(0, "shuffle", epoch))
        for chosen, (labels, logits) in zip(order.split(4), check.seen[3 * epoch :], strict=False):
            assert torch.equal(labels, PARTS["train"].labels[chosen])
            torch.testing.assert_close(logits, expected(PARTS["train"].images[chosen] / 255), rtol=1e-4, atol=1e-5)
    assert len(check.seen) == 6


# ---- γ ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mass", "expected"), [("all", 0.3), ("others", 0.3 * CLASSES / (CLASSES - 1))])
def test_gamma_without_a_teacher_is_alpha(mass, expected):
    assert fit(make_run(steps=1)).result["gamma"] == 0.0
    assert fit(make_run(target=smoothed(0.3, mass), steps=1)).result["gamma"] == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_gamma_of_a_distilled_student_by_hand(temperature):
    """A teacher whose logits are the pixels: γ = mean over the training set of (1 - p_t(y)) K/(K-1)."""
    spec, parts = make_data(shape=(1, 4, 4), classes=16)
    run = make_run(KD(temperature=temperature, beta=0.3), alpha=0.1, steps=2)
    outcome = train(run, spec, parts, Pixels(16), shared=Shared(CPU))
    probs = (parts["train"].images.flatten(1).double() / 255 / temperature).softmax(-1)
    p_true = probs[torch.arange(11), parts["train"].labels]
    assert outcome.result["gamma"] == pytest.approx((1 - p_true).mean().item() * 16 / 15, rel=1e-6)


def test_gamma_is_of_augmented_images():
    spec, parts = make_data(shape=(1, 4, 4), classes=16)
    augment = Augment(pad=1, flip=True)
    outcome = train(make_run(KD(temperature=1.0), augment=augment), spec, parts, Pixels(16), shared=Shared(CPU))
    views = Resident(parts["train"].images, augment)
    pixels = views.take(torch.arange(11), views.draw(generator_for(0, "augment", 0)))
    p_true = (pixels.flatten(1) / 255).softmax(-1)[torch.arange(11), parts["train"].labels]
    assert outcome.result["gamma"] == pytest.approx((1 - p_true).mean().item() * 16 / 15, rel=1e-5)


def test_a_method_that_shows_no_distribution_has_no_gamma():
    assert fit(make_run(Recording()), make_teacher()).result["gamma"] is None


# ---- epochs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "evaluated"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (5, [4]), (9, [4])])
def test_evaluation_every_so_many_epochs_and_at_the_end(every, evaluated):
    outcome = fit(make_run(epochs=5, evaluate_every=every))
    assert [record["epoch"] for record in outcome.epochs if "test" in record] == evaluated
    assert [record["epoch"] for record in outcome.epochs if "validation" in record] == evaluated
    assert [record["epoch"] for record in outcome.epochs] == [0, 1, 2, 3, 4]
    assert outcome.result["best"]["test"]["epoch"] in evaluated
    assert_identical(weights(outcome), weights(fit(make_run(epochs=5))))  # looking changes nothing


def test_best_epoch_is_the_first_of_the_best_with_the_metrics_of_all_parts():
    top1 = [(0, 10.0, 50.0), (2, 30.0, 40.0), (3, 30.0, 60.0), (4, 20.0, 60.0)]
    records = [{"epoch": e, "validation": {"top1": v}, "test": {"top1": t}} for e, v, t in top1]
    records.insert(1, {"epoch": 1, "train": {"top1": 99.0}})  # an epoch without evaluation
    parts = {"validation": PARTS["validation"], "test": PARTS["test"]}
    assert best_epoch(records, "validation", parts) == {
        "epoch": 2,
        "validation": {"top1": 30.0},
        "test": {"top1": 40.0},
    }
    assert best_epoch(records, "test", parts) == {"epoch": 3, "validation": {"top1": 30.0}, "test": {"top1": 60.0}}


def test_result_and_log_agree():
    logs: list[list[dict[str, Any]]] = []
    outcome = fit(make_run(epochs=3), on_epoch=lambda epochs: logs.append(list(epochs)))
    assert [len(log) for log in logs] == [1, 2, 3]
    assert logs[-1] == outcome.epochs
    assert outcome.result["last"] == {name: outcome.epochs[-1][name] for name in ("validation", "test")}
    best = max(outcome.epochs, key=lambda record: record["validation"]["top1"])
    assert outcome.result["best"]["validation"]["epoch"] == best["epoch"]
    assert outcome.result["parameters"] == 65 * 6 + 7 * CLASSES
    assert not outcome.network.training


@pytest.mark.parametrize(("arch", "lr"), [(MLPArch(hidden=()), 1e38), (RESNET, 1e9)])
def test_divergence_is_an_error(arch, lr):
    with pytest.raises(Diverged, match=r"not finite in epoch 0, by step 3"):
        fit(make_run(arch=arch, lr=lr, momentum=0.9, epochs=3))


def test_a_loss_that_is_not_finite_is_an_error_at_the_end_of_its_epoch():
    """Whether that epoch is evaluated or not."""
    with pytest.raises(Diverged, match="the training loss is not finite in epoch 0, by step 3"):
        fit(make_run(arch=MLPArch(hidden=()), lr=1e38, epochs=3, evaluate_every=3))


def test_a_training_that_diverges_at_its_last_step_is_an_error():
    """Its loss was finite; its weights no longer are."""
    with pytest.raises(Diverged, match="the network's outputs are not finite in epoch 0, by step 1"):
        fit(make_run(arch=MLPArch(hidden=()), lr=1e39, steps=1))


# ---- stopping and going on ----------------------------------------------------------------------------------------

# 8 steps: two epochs of three, and two steps of a third.
CASES: dict[str, tuple[Run, nn.Module | None]] = {
    "mlp with dropout": (
        make_run(
            arch=MLPArch(hidden=(6,), input_dropout=0.2, hidden_dropout=0.5), steps=8, momentum=0.9, dampening=0.9
        ),
        None,
    ),
    "resnet": (
        make_run(
            arch=RESNET, alpha=0.1, steps=8, momentum=0.9, nesterov=True, clip_norm=1.0, weight_decay=WeightDecay(1e-3),
            augment=Augment(pad=1, flip=True), normalize=Normalize("per_image"), schedule=Schedule("cosine"),
        ),
        None,
    ),
    "distilled": (
        make_run(
            KD(), arch=MLPArch(hidden=(6,), hidden_dropout=0.5), steps=8, momentum=0.9,
            augment=Augment(flip=True), evaluate_every=2,
        ),
        make_teacher(RESNET),
    ),
}  # fmt: skip


def interrupted_after(step: int) -> dict[str, Callable[..., Any]]:
    """Options of `train` that stop it after this step."""
    done = [0]
    return {"on_step": lambda step, total: done.__setitem__(0, step), "stop": lambda: done[0] >= step}


@pytest.fixture(scope="module", params=CASES)
def undisturbed(request: pytest.FixtureRequest) -> tuple[Run, nn.Module | None, Outcome]:
    run, teacher = CASES[request.param]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    outcome = fit(run, teacher)
    torch.set_num_threads(threads)
    return run, teacher, outcome


def assert_same_training(outcome: Outcome, expected: Outcome) -> None:
    assert_identical(weights(outcome), weights(expected))
    assert numbers(outcome.result) == numbers(expected.result)
    assert numbers(outcome.epochs) == numbers(expected.epochs)


@pytest.mark.parametrize("step", range(1, 8))
def test_a_training_goes_on_where_it_was_interrupted(undisturbed, step, tmp_path):
    run, teacher, expected = undisturbed
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        fit(run, teacher, checkpoint=checkpoint, **interrupted_after(step))
    told = []
    torch.manual_seed(step)  # another process: nothing is left of the generator
    outcome = fit(run, teacher, checkpoint=checkpoint, on_step=lambda step, total: told.append(step))
    assert told == list(range(step + 1, 9))
    assert_same_training(outcome, expected)


def test_a_training_may_be_interrupted_at_every_step(undisturbed, tmp_path):
    run, teacher, expected = undisturbed
    for step in range(1, 8):
        with pytest.raises(Interrupted):
            fit(run, teacher, checkpoint=tmp_path / "checkpoint.pt", **interrupted_after(step))
    assert_same_training(fit(run, teacher, checkpoint=tmp_path / "checkpoint.pt"), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("step", [2, 5, 13])
def test_a_training_goes_on_where_it_was_interrupted_on_cuda(step, tmp_path):
    """Before anything is captured, between the two sizes, and while all is replayed. 3 steps an epoch."""
    dropout = MLPArch(hidden=(6,), hidden_dropout=0.5)
    run = make_run(KD(), arch=dropout, epochs=6, momentum=0.9, ema=0.5, augment=Augment(flip=True))
    teacher, checkpoint = make_teacher(), tmp_path / "checkpoint.pt"

    def on_cuda(**options: Any) -> Outcome:
        return train(run, SPEC, PARTS, copy.deepcopy(teacher), shared=Shared(torch.device("cuda")), **options)

    expected = on_cuda()
    assert expected.result["captured"] == [[3], [4]]
    with pytest.raises(Interrupted):
        on_cuda(checkpoint=checkpoint, **interrupted_after(step))
    outcome = on_cuda(checkpoint=checkpoint)
    for one, other in zip(outcome.epochs, expected.epochs, strict=True):
        for name in one["train"].keys() - {"top1"}:
            assert one["train"][name] == pytest.approx(other["train"][name], rel=1e-4, abs=1e-4)
    assert_close(outcome, expected, 1e-3)


def test_asked_to_stop_after_the_last_step_a_training_finishes():
    assert fit(make_run(steps=4), **interrupted_after(4)).result["steps"] == 4


class Killed(Exception):
    """As by a signal: no time to save anything."""


@pytest.mark.parametrize("step", range(2, 9))
def test_checkpoint_seconds_zero_saves_every_step(undisturbed, step, tmp_path):
    run, teacher, expected = undisturbed

    def kill(done: int, total: int) -> None:
        if done == step:
            raise Killed

    with pytest.raises(Killed):
        fit(run, teacher, checkpoint=tmp_path / "checkpoint.pt", checkpoint_seconds=0, on_step=kill)
    told = []
    outcome = fit(run, teacher, checkpoint=tmp_path / "checkpoint.pt", on_step=lambda step, total: told.append(step))
    assert told[0] == step  # all but the step that was killed had been saved
    assert_same_training(outcome, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]  # no temporary file is left


def test_no_checkpoint_is_written_before_its_time(tmp_path):
    fit(make_run(), checkpoint=tmp_path / "checkpoint.pt", checkpoint_seconds=3600)
    assert list(tmp_path.iterdir()) == []


def interrupt(run: Run, checkpoint: Path) -> None:
    with pytest.raises(Interrupted):
        fit(run, checkpoint=checkpoint, **interrupted_after(4))


@pytest.mark.parametrize(
    "damage", [lambda content: b"", lambda content: b"junk", lambda content: content[: len(content) // 2]]
)
def test_a_damaged_checkpoint_restarts_the_training(damage, tmp_path, caplog):
    run, checkpoint = make_run(), tmp_path / "checkpoint.pt"
    interrupt(run, checkpoint)
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    told = []
    outcome = fit(run, checkpoint=checkpoint, on_step=lambda step, total: told.append(step))
    assert told[0] == 1
    assert "checkpoint.pt cannot be used" in caplog.text
    assert_same_training(outcome, fit(run))


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {name: value for name, value in state.items() if name != key}


def with_other(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {**state, **values}


@pytest.mark.parametrize(
    "change",
    [
        *map(without, ("id", "step", "sums", "network", "optimizer", "generator", "average")),
        *map(without, ("epochs", "readings", "seconds", "versions")),
        with_other(versions={"lskd": lskd.__version__, "torch": "1.0"}),
        with_other(versions={"lskd": "0.0", "torch": str(torch.__version__)}),
        with_other(network={}),
        with_other(optimizer=None),
        with_other(sums=3),
        lambda state: [1, 2],
    ],
)
def test_a_checkpoint_that_does_not_fit_restarts_the_training(change, tmp_path, caplog):
    run, checkpoint = make_run(ema=0.5), tmp_path / "checkpoint.pt"
    interrupt(run, checkpoint)
    torch.save(change(torch.load(checkpoint, weights_only=True)), checkpoint)
    told = []
    outcome = fit(run, checkpoint=checkpoint, on_step=lambda step, total: told.append(step))
    assert told[0] == 1
    assert caplog.text.count("checkpoint.pt cannot be used (") == 1
    assert_same_training(outcome, fit(run))


def test_a_checkpoint_of_another_run_is_not_used(tmp_path):
    run, checkpoint = make_run(), tmp_path / "checkpoint.pt"
    interrupt(run, checkpoint)
    other = replace(run, seed=1)
    assert_same_training(fit(other, checkpoint=checkpoint), fit(other))
