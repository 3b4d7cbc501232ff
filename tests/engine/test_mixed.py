"""Trainings on mixed images: what the student, its teacher and its method see of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lskd.config_groups import Conf
from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment, Mix, Normalize
from lskd.describe import teachers
from lskd.engine import Interrupted, Outcome, Shared, train
from lskd.engine.member import build_network
from lskd.engine.seeds import seed_for
from lskd.engine.teacher import Teacher
from lskd.engine.training import Training
from lskd.errors import InputError
from lskd.launch.cost import check_teacher_cache
from lskd.methods import METHODS, Batch, Method, Mixture
from lskd.methods.kd import KD
from lskd.methods.wsl import WSL, wsl_weights
from lskd.models import Arch, CifarResNetArch, MLPArch
from lskd.recipe import Recipe
from lskd.run import Named, Run
from lskd.runtime import Runtime
from lskd.targets.distributions import smooth_labels
from lskd.targets.label_smoothing import LabelSmoothing

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, K = torch.device("cpu"), 4
SPEC = Spec("noise", "Noise", K, (3, 12, 12), 11, 6, tuple("abcd"), digest="")
GENERATOR = torch.Generator().manual_seed(0)
PARTS = {
    name: Part(torch.randint(256, (n, 3, 12, 12), generator=GENERATOR, dtype=torch.uint8), torch.arange(n) % K)
    for name, n in (("train", 11), ("test", 6))
}
MLP = Named[Arch]("mlp", MLPArch(hidden=(6,), hidden_dropout=0.3))
RESNET = Named[Arch]("resnet8", CifarResNetArch(depth=8, stem=4, widths=(4, 6, 8)))
KINDS = ("cutmix", "mixup")


@dataclass(frozen=True)
class Watching(Method):
    """KD, and a note of each batch."""

    needs_teacher: ClassVar[bool] = True
    seen: list[Batch] = field(default_factory=list, compare=False)

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        self.seen.append(batch)
        return KD().loss(batch)


def make_run(method: Method | None = None, kind: Any = "cutmix", arch: Named[Arch] = RESNET, **fields: Any) -> Run:
    """3 steps an epoch, of 4, 4 and 3 images."""
    mix = Mix() if kind == "none" else Mix(kind, **fields.pop("mix", {}))
    of_run = {name: fields.pop(name) for name in ("target", "teacher_mode", "seed") if name in fields}
    recipe = Recipe(**{"lr": 0.05, "batch_size": 4, "epochs": 2, "momentum": 0.9, "normalize": Normalize("per_image"),
                       "augment": Augment(pad=1, flip=True, mix=mix), **fields})  # fmt: skip
    method = method or METHODS["ce"]
    teacher = replace(recipe, normalize=Normalize("fixed", (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)), augment=Augment())
    taught = Run(Dataset("noise"), RESNET, Named("ce", METHODS["ce"]), teacher, seed=9)
    name = next((name for name, one in METHODS.items() if type(one) is type(method)), "own")
    plain = Run(Dataset("noise"), arch, Named("ce", METHODS["ce"]), recipe)
    return replace(plain, method=Named(name, method), teacher=taught if method.needs_teacher else None,
                   peers=(plain.peer(),) if method.needs_peers else (), **of_run)  # fmt: skip


def make_training(run: Run) -> Training:
    images = Shared(CPU).task(run, PARTS)
    teacher = (
        None
        if run.teacher is None
        else Teacher.of(run, build_network(run.teacher, SPEC), images, PARTS["train"].images)
    )
    return Training(run, SPEC, images, teacher)


def fit(run: Run, **options: Any) -> Outcome:
    teacher = None if run.teacher is None else build_network(run.teacher, SPEC)
    return train(run, SPEC, PARTS, teacher, shared=Shared(CPU), **options)


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_identical(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


class Seen:
    """What the training draws for an epoch, looked up by itself."""

    def __init__(self, training: Training, parts: list[int]) -> None:
        step, train = training.one_step, training.task.train
        self.mixer = step.mixer
        self.indices = step.order.split(parts)
        self.pixels = [train.take(rows, step.drawn[0][rows]) for rows in self.indices]
        self.partners = self.mixer.partners.split(parts)
        self.labels = [training.task.labels[rows] for rows in self.indices]

    def mixed(self, part: int, step: int) -> Tensor:
        """The pixels of a part, of batch number `step`, mixed by the definition."""
        own, share = self.pixels[part], self.mixer.shares[step]
        others = own[self.partners[part]]
        if self.mixer.mix.kind == "mixup":
            return share * own + (1 - share) * others
        top, bottom, left, right = self.mixer.boxes[step].tolist()
        seen = own.clone()
        seen[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        return seen


# ---- student, targets, teacher ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["eval", "batch_stats"])
def test_teacher_and_student_see_the_same_mixture(kind, mode):
    """Each normalised in its own way: the student's per image, of the mixed image; the targets are those of both."""
    method = Watching()
    training = make_training(
        make_run(method, kind, teacher_mode=mode, target=Named("label_smoothing", LabelSmoothing(0.2)))
    )
    training.begin_epoch()
    seen = Seen(training, [4, 4, 3])
    targets = smooth_labels(torch.arange(K), K, 0.2)
    assert training.teacher.evaluated == "every step"
    for step in range(3):
        x = seen.mixed(step, step).float()
        y, share = seen.labels[step], seen.mixer.shares[step]
        before = build_network(training.run, SPEC).train()
        before.load_state_dict(weights(training.member.network))
        training.step()
        batch = method.seen[-1]
        assert torch.equal(batch.labels, y) and torch.equal(batch.mixture.labels, y[seen.partners[step]])
        expected = share * targets[y] + (1 - share) * targets[y[seen.partners[step]]]
        torch.testing.assert_close(batch.targets, expected)
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(len(y)))

        of_teacher = (x / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.1, 0.2, 0.3]).view(
            3, 1, 1
        )
        network = training.teacher.network
        with torch.no_grad():
            torch.testing.assert_close(batch.teacher_logits, network(of_teacher), rtol=1e-4, atol=1e-5)
        mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True, correction=0)
        torch.testing.assert_close(batch.logits, before((x - mean) / std), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_by_hand(kind, accumulate):
    """SGD on λ·CE(own label) + (1-λ)·CE(partner's), of batches and of their parts; the log has the mean of that, and
    the shares that are classified correctly."""
    plain = Named[Arch]("mlp", MLPArch(hidden=(6,)))
    training = make_training(
        make_run(kind=kind, arch=plain, accumulate=accumulate, normalize=Normalize(), momentum=0.0)
    )
    network = build_network(training.run, SPEC)
    training.begin_epoch()
    seen = Seen(training, [4, 4, 3] if accumulate == 1 else [2, 2, 2, 2, 2, 1])
    part, losses, correct = 0, [], []
    for step, size in enumerate((4, 4, 3)):
        network.zero_grad()
        share = seen.mixer.shares[step]
        while sum(map(len, seen.labels[:part])) < 4 * step + size:
            y, other = seen.labels[part], seen.labels[part][seen.partners[part]]
            logits = network(seen.mixed(part, step) / 255)
            loss = share * F.cross_entropy(logits, y, reduction="none") + (1 - share) * F.cross_entropy(
                logits, other, reduction="none"
            )
            (loss.sum() / size).backward()
            best = logits.argmax(1)
            correct += (share * (best == y) + (1 - share) * (best == other)).tolist()
            losses += loss.tolist()
            part += 1
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.05 * parameter.grad
        training.step()
    for ours, theirs in zip(training.member.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    [means] = training.end_epoch()
    assert means["ce"] == pytest.approx(sum(losses) / 11, rel=1e-4)
    assert means["top1"] == pytest.approx(100 * sum(correct) / 11, rel=1e-4)


def test_an_epoch_has_draws_of_its_own():
    training = make_training(make_run())
    drawn = []
    for _ in range(2):
        training.begin_epoch()
        drawn.append(training.one_step.mixer.shares.clone())
        for _ in range(3):
            training.step()
    assert not torch.equal(*drawn)
    training.one_step.mixer.begin(seed_for(training.run.stream_seed, "mix", 1))
    assert torch.equal(training.one_step.mixer.shares, drawn[1])


def test_where_nothing_is_mixed_nothing_changes():
    """A chance of (nearly) 0: the bits of a training without."""
    never = fit(make_run(METHODS["wsl"], mix={"probability": 1e-12}, teacher_mode="batch_stats"))
    without = fit(make_run(METHODS["wsl"], "none", teacher_mode="batch_stats"))
    assert_identical(weights(never.network), weights(without.network))
    assert never.result["train"] == without.result["train"]
    assert not torch.equal(fit(make_run(METHODS["wsl"])).network.head.weight, never.network.head.weight)


# ---- resumed, side by side ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop_after", [2, 3, 4])
def test_a_stopped_training_goes_on_with_the_same_bits(kind, stop_after, tmp_path: Path):
    run = make_run(KD(), kind, arch=MLP, accumulate=2)
    whole, steps = fit(run), list[int]()
    with pytest.raises(Interrupted):
        fit(
            run, checkpoint=tmp_path / "state",
            on_step=lambda step, _: steps.append(step), stop=lambda: len(steps) == stop_after,
        )  # fmt: skip
    resumed = fit(run, checkpoint=tmp_path / "state")
    assert_identical(weights(resumed.network), weights(whole.network))
    assert resumed.result["train"] == whole.result["train"]


def test_trainings_side_by_side_do_not_mix():
    runs = [make_run(kind=kind, arch=MLP, seed=seed) for kind, seed in (("cutmix", 0), ("mixup", 0), ("cutmix", 1))]
    alone = [weights(fit(run).network) for run in runs]
    trainings = [make_training(run) for run in runs]
    for step in range(6):
        for training in trainings:
            if step % 3 == 0:
                training.begin_epoch()
            training.step()
    for training, expected in zip(trainings, alone, strict=True):
        assert_identical(weights(training.member.network), expected)


# ---- methods ------------------------------------------------------------------------------------------------------

READ_ONE_LABEL = {
    "crd": METHODS["crd"], "kd, subsets": KD(keep_rs=0.5), "kd, masked": KD(masked="sum"), "wsl": WSL(keep_others=0.0),
}  # fmt: skip


@pytest.mark.parametrize("method", READ_ONE_LABEL.values(), ids=READ_ONE_LABEL)
def test_methods_of_one_label_are_refused(method):
    with pytest.raises(InputError) as refused:
        make_run(method)
    name = next(name for name, one in METHODS.items() if type(one) is type(method))
    assert str(refused.value) == (
        f"recipe.augment.mix.kind = cutmix: must be none with method={name} and its settings, whose loss asks for the "
        "one label of each image"
    )


class Blind(Batch):
    """A batch whose images have no label of their own."""

    def __init__(self, **fields: Any) -> None:
        self.hidden = {name: fields.pop(name) for name in ("labels", "indices")}
        super().__init__(labels=None, **fields)
        del self.labels, self.indices

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a loss asked for {name}")

    def by_label(self, of: Any) -> Tensor:
        return self.mixture.share * of(self.hidden["labels"]) + (1 - self.mixture.share) * of(self.mixture.labels)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.one_label])
def test_all_other_methods_ask_for_no_label(name, monkeypatch):
    """What they log does not, either; a stage before the training sees mixed images, too."""
    monkeypatch.setattr("lskd.engine.step.Batch", Blind)
    monkeypatch.delattr(Batch, "indices")  # (of a default value, a class attribute)
    method = replace(METHODS[name], **METHODS[name].small)
    outcome = fit(make_run(method, epochs=None, steps=2))
    assert outcome.result["steps"] == 2
    assert all(value.isfinite().all() for value in outcome.network.parameters())


def test_a_loss_that_asks_for_a_label_would_be_seen(monkeypatch):
    monkeypatch.setattr("lskd.engine.step.Batch", Blind)
    monkeypatch.setattr(KD, "one_label", False)
    with pytest.raises(AttributeError, match="a loss asked for labels"):
        fit(make_run(KD(masked="sum")))


def test_what_wsl_weighs_mixed_images_by():
    """Cross-entropies with the mixture of both labels, of student and teacher."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(5, K, generator=generator, dtype=torch.float64) for _ in range(2))
    labels, others, share = torch.arange(5) % K, (torch.arange(5) + 1) % K, torch.tensor([0.3], dtype=torch.float64)
    hard = 0.3 * F.one_hot(labels, K) + 0.7 * F.one_hot(others, K)
    batch = Batch(student, labels, hard, teacher, mixture=Mixture(share, others))
    of_student, of_teacher = (F.cross_entropy(logits, hard, reduction="none") for logits in (student, teacher))
    torch.testing.assert_close(wsl_weights(batch), 1 - torch.exp(-of_student / (of_teacher + 1e-7)))


# ---- the cache of logits ------------------------------------------------------------------------------------------


def test_nothing_is_kept_of_what_a_teacher_says_to_mixed_images():
    run = make_run(KD())
    shared = Shared(CPU)
    with shared.logit_cache(run, shared.task(run, PARTS).train, K) as cache:
        assert cache is None and not run.logits_by_view
    assert fit(run).result["teacher_evaluated"] == "every step"
    assert shared.task(run, PARTS) is shared.task(make_run(KD(), "none"), PARTS)  # on the device once
    assert list(teachers([run], Conf())) == [
        "1 teacher evaluated at every step: with recipe.augment.mix.kind=cutmix no image comes twice"
    ]


def test_memory_for_a_cache_that_does_not_apply_is_refused():
    runs = [make_run(KD()), make_run()]
    for allowed in (None, 0.0):
        check_teacher_cache(runs, Runtime(teacher_cache_gb=allowed))
    check_teacher_cache([*runs, make_run(KD(), "none")], Runtime(teacher_cache_gb=1.0))  # which has a use for it
    with pytest.raises(InputError, match=r"^runtime\.teacher_cache_gb = 0\.5: must be null or 0 with recipe\.augment"):
        check_teacher_cache(runs, Runtime(teacher_cache_gb=0.5))
