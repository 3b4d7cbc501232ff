"""Targets that networks have a part in, as the engine provides what they read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment, Mix
from lskd.engine import Interrupted, Outcome, Shared, run_bytes, train
from lskd.engine.average import Average
from lskd.engine.member import build_network
from lskd.engine.seeds import generator_for, seed_for
from lskd.engine.training import Training
from lskd.errors import InputError
from lskd.methods import METHODS, Batch, Method, Stage
from lskd.models import Arch, CifarResNetArch, MLPArch
from lskd.recipe import Recipe
from lskd.run import HARD, Named, Run
from lskd.targets import TARGETS, Seen, Target
from lskd.targets.beta_smoothing import BetaSmoothing
from lskd.targets.label_smoothing import LabelSmoothing
from lskd.targets.proselflc import ProSelfLC

CPU = torch.device("cpu")
K, N = 4, 14
SPEC = Spec("noise", "Noise", K, (3, 12, 12), N, 6, tuple("abcd"), digest="")
GENERATOR = torch.Generator().manual_seed(0)
PARTS = {
    name: Part(torch.randint(256, (n, *SPEC.shape), generator=GENERATOR, dtype=torch.uint8), torch.arange(n) % K)
    for name, n in (("train", N), ("test", 6))
}
RESNET = Named[Arch]("resnet8", CifarResNetArch(depth=8, stem=4, widths=(4, 6, 8)))
MLP = Named[Arch]("mlp", MLPArch(hidden=(6,), hidden_dropout=0.5))
ADAPTIVE = [name for name, target in TARGETS.items() if target.reads]

pytestmark = pytest.mark.usefixtures("one_thread")


def named(target: Target) -> Named[Target]:
    return Named(next((name for name, one in TARGETS.items() if type(one) is type(target)), "own"), target)


def make_run(target: Target, arch: Named[Arch] = RESNET, method: Method | None = None, **fields: Any) -> Run:
    """4 steps an epoch, of 4, 4, 4 and 2 images."""
    recipe = Recipe(**{"lr": 0.05, "batch_size": 4, "epochs": 2, "momentum": 0.9, **fields})
    method = method or METHODS["ce"]
    teacher = Run(Dataset("noise"), RESNET, Named("ce", METHODS["ce"]), recipe, seed=9)
    taught = {"teacher": teacher} if method.needs_teacher else {}
    name = next((name for name, one in METHODS.items() if type(one) is type(method)), "own")
    return Run(Dataset("noise"), arch, Named(name, method), recipe, named(target), seed=1, **taught)


def fit(run: Run, **options: Any) -> Outcome:
    teacher = None if run.teacher is None else build_network(run.teacher, SPEC)
    return train(run, SPEC, PARTS, teacher, shared=Shared(CPU), **options)


def make_training(run: Run) -> Training:
    return Training(run, SPEC, Shared(CPU).task(run, PARTS))


def pixels(rows: Tensor) -> Tensor:
    return PARTS["train"].images[rows] / 255.0


# ---- the averaged network -----------------------------------------------------------------------------------------


def test_an_average_into_another_network_by_hand():
    """Parameters alone: d = min(decay, 1 - 1/(t + 2)), half of the first update's."""
    network, into = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(into.weight, 5.0)
    average, expected = Average(network, 0.8, into=into), 5.0
    for t in range(8):
        nn.init.constant_(network.weight, float(t))
        network.running_mean.fill_(t)
        average.update(torch.tensor([t]))
        d = min(0.8, 1 - 1 / (t + 2))
        expected = d * expected + (1 - d) * t
        torch.testing.assert_close(into.weight.data, torch.full((2,), expected))
    assert average.network is into and into.training and not into.weight.requires_grad
    assert into.running_mean.tolist() == [0, 0] and into.num_batches_tracked == 0


def beta_smoothing_by_hand(run: Run) -> tuple[nn.Module, nn.Module, list[dict[str, float]]]:
    """The five steps of the algorithm of Zhang & Sabuncu 2020, as they write them: the network, the averaged one, and
    the means of each epoch."""
    target, recipe, seed = run.target.settings, run.recipe, run.stream_seed
    assert isinstance(target, BetaSmoothing)
    network, averaged = build_network(run, SPEC).train(), build_network(run, SPEC, "average").train()
    optimizer = torch.optim.SGD(network.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    random, step, log = torch.Generator().manual_seed(seed_for(seed, "dropout")), 0, []
    for epoch in range(2):
        order = torch.randperm(N, generator=generator_for(seed, "shuffle", epoch))
        told: dict[str, list[Tensor]] = {"ce": [], "target_entropy": [], "target_gamma": []}
        for rows in order.split(recipe.batch_size):
            x, y = pixels(rows), PARTS["train"].labels[rows]
            log_p = network(x).log_softmax(1)
            # 2. its confidence in the label of each example of the batch
            with torch.no_grad():
                c = averaged(x).softmax(1)[torch.arange(len(y)), y]
            # 3. draws, sorted
            b_sorted = torch.rand(len(y), generator=random).pow(1 / target.a).sort().values
            # 4. the i-th least confident example has the i-th draw on its label, and others share the rest
            soft = torch.zeros(len(y), K)
            for i, example in enumerate(c.argsort()):
                b = b_sorted[i]
                soft[example] = (1 - b) / (K - 1)
                soft[example, y[example]] = b
            # 5. the loss
            hard = F.one_hot(y, K).float()
            ce, beta = (-(q * log_p).sum(1) for q in (hard, soft))
            loss = (1 - target.weight) * ce + target.weight * beta
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
            # 1. the average of the weights
            step += 1
            alpha = min(1 - 1 / (step + 1), target.decay)
            with torch.no_grad():
                for mean, weight in zip(averaged.parameters(), network.parameters(), strict=True):
                    mean.mul_(alpha).add_(weight, alpha=1 - alpha)
            q = (1 - target.weight) * hard + target.weight * soft
            told["ce"].append(loss.detach())
            told["target_entropy"].append(-q.xlogy(q).sum(1))
            told["target_gamma"].append((1 - q[torch.arange(len(y)), y]) * K / (K - 1))
        log.append({name: torch.cat(values).mean().item() for name, values in told.items()})
    return network, averaged, log


def test_beta_smoothing_is_the_algorithm_of_its_paper():
    run = make_run(BetaSmoothing(a=2.0, weight=0.7, decay=0.75))
    network, averaged, log = beta_smoothing_by_hand(run)
    training = make_training(run)
    for expected in log:
        training.begin_epoch()
        for _ in range(training.steps_per_epoch):
            training.step()
        [found] = training.end_epoch()
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert training.member.targets.network is not None
    for ours, expected in ((training.member.network, network), (training.member.targets.network, averaged)):
        state = expected.state_dict()
        for name, value in ours.state_dict().items():  # running statistics of its own batches, too
            torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-4)


def test_the_averaged_network_starts_from_weights_of_its_own_and_leaves_no_trace():
    run = make_run(BetaSmoothing())
    one, other = (build_network(run, SPEC, purpose).state_dict() for purpose in ("init", "average"))
    assert any(not torch.equal(value, other[name]) for name, value in one.items())
    outcome = fit(run)
    assert set(outcome.network.state_dict()) == set(one)
    assert outcome.result["parameters"] == sum(p.numel() for p in build_network(run, SPEC).parameters())


def test_memory_of_the_averaged_network_is_predicted():
    hard, beta = (run_bytes(make_run(target), SPEC, "cpu") for target in (LabelSmoothing(), BetaSmoothing()))
    state = build_network(make_run(LabelSmoothing()), SPEC).state_dict().values()
    own = sum(value.numel() * value.element_size() for value in state)
    assert own <= beta - hard <= 1.2 * own + 50_000


# ---- what it logs -------------------------------------------------------------------------------------------------


def test_a_target_sees_what_it_reads_and_what_it_taught_is_logged(monkeypatch):
    all_seen, teach = list[Seen](), ProSelfLC.teach
    monkeypatch.setattr(ProSelfLC, "teach", lambda self, seen: (all_seen.append(seen), teach(self, seen))[1])
    outcome = fit(make_run(ProSelfLC(b=6.0)))
    monkeypatch.undo()
    assert len(all_seen) == 8
    assert [seen.progress.item() for seen in all_seen if seen.progress is not None] == [i / 8 for i in range(8)]
    assert all(seen.labels is seen.average is None for seen in all_seen)
    target, told = ProSelfLC(b=6.0), []
    for seen in all_seen[4:]:
        assert seen.outputs is not None
        q = target.teach(seen).detach().double()
        labels = seen.rows.argmax(1)
        gamma = (1 - q[torch.arange(len(q)), labels]) * K / (K - 1)
        told.append(torch.stack([-q.xlogy(q).sum(1), gamma, target.epsilon(seen).double()]))
    means = dict(zip(("target_entropy", "target_gamma", "trust"), torch.cat(told, 1).mean(1).tolist(), strict=True))
    trained = outcome.epochs[-1]["train"]
    assert {name: trained[name] for name in means} == pytest.approx(means, rel=1e-5)
    assert outcome.result["gamma"] == trained["target_gamma"] == outcome.result["train"]["target_gamma"]
    assert outcome.epochs[0]["train"]["trust"] < trained["trust"]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_every_target_trains_and_logs_what_it_declares(name):
    run = make_run(TARGETS[name])
    outcome = fit(run)
    assert set(outcome.result["train"]) == {"top1", "ce", *run.watched}
    assert outcome.result["gamma"] == outcome.result["train"]["target_gamma"]
    before = dict(build_network(run, SPEC).named_parameters())
    assert all(not torch.equal(value, before[key]) for key, value in outcome.network.named_parameters())


def test_a_target_that_is_the_same_throughout_logs_nothing():
    run = make_run(TARGETS["map_label_smoothing"])
    assert set(fit(run).result["train"]) == {"top1", "ce"}
    assert fit(run).result["gamma"] == pytest.approx(0.1 / 1.1)


def test_gamma_with_a_teacher_is_what_the_teacher_shows():
    hard, own = (
        fit(make_run(target, method=METHODS["kd"])).result["gamma"] for target in (LabelSmoothing(), ProSelfLC())
    )
    assert hard == own


# ---- with the rest of the engine ----------------------------------------------------------------------------------


def undisturbed_and_resumed(run: Run, path: Path, step: int) -> tuple[Outcome, Outcome]:
    done = [0]
    with pytest.raises(Interrupted):
        fit(run, checkpoint=path, on_step=lambda step, total: done.__setitem__(0, step), stop=lambda: done[0] >= step)
    torch.manual_seed(step)
    return fit(run), fit(run, checkpoint=path)


@pytest.mark.parametrize("step", [1, 3, 4, 6])
@pytest.mark.parametrize("arch", [RESNET, MLP], ids=["resnet8", "mlp"])
@pytest.mark.parametrize("target", [BetaSmoothing(decay=0.6), ProSelfLC()])
def test_a_training_goes_on_with_the_same_bits(target, arch, step, tmp_path):
    whole, resumed = undisturbed_and_resumed(make_run(target, arch), tmp_path / "checkpoint.pt", step)
    state = whole.network.state_dict()
    assert [name for name, value in resumed.network.state_dict().items() if not torch.equal(value, state[name])] == []
    assert [line["train"] for line in resumed.epochs] == [line["train"] for line in whole.epochs]


@dataclass(frozen=True)
class Staged(Method):
    """Has a stage before the training proper, which reads the targets."""

    taught: ClassVar[list[Tensor]] = []

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        self.taught.append(batch.targets.detach())
        return {"ce": -(batch.targets * batch.logits.log_softmax(-1)).sum(-1)}

    def taps(self, names: Any) -> list[str]:
        return ["f1"]

    def initial(self) -> Stage:
        return Stage("before", 1, self.loss, self.taps, self.taps)


def test_a_stage_before_the_training_is_taught_labels():
    """And the average begins with the training proper."""
    Staged.taught.clear()
    training = make_training(make_run(BetaSmoothing(), method=Staged()))
    for epoch in range(2):
        assert (training.member.targets.network is None) == (epoch == 0)
        training.begin_epoch()
        for _ in range(training.steps_per_epoch):
            training.step()
        training.end_epoch()
    before, after = (torch.cat(Staged.taught[begun : begun + 4]) for begun in (0, 4))
    assert set(before.unique().tolist()) == {0.0, 1.0} and len(after.unique()) > 2


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_mixed_images_are_taught_both(mix):
    """Boot-soft is linear in the label: (1-ε)·(λq + (1-λ)q') + εp."""

    @dataclass(frozen=True)
    class Keeping(Method):
        seen: ClassVar[list[Batch]] = []

        def loss(self, batch: Batch) -> dict[str, Tensor]:
            self.seen.append(batch)
            return METHODS["ce"].loss(batch)  # type: ignore[return-value]

    fit(make_run(TARGETS["boot_soft"], method=Keeping(), augment=Augment(mix=Mix(mix))))
    assert len(Keeping.seen) == 8
    for batch in Keeping.seen:
        assert batch.mixture is not None
        hard = [F.one_hot(labels, K).float() for labels in (batch.labels, batch.mixture.labels)]
        mixed = batch.mixture.share * hard[0] + (1 - batch.mixture.share) * hard[1]
        expected = 0.75 * mixed + 0.25 * batch.logits.softmax(-1)
        torch.testing.assert_close(batch.targets, expected)
        gamma = batch.by_label(lambda y, q=expected: (1 - q.gather(1, y[:, None]).squeeze(1)) * K / (K - 1))  # type: ignore[misc]
        torch.testing.assert_close(batch.taught["target_gamma"], gamma)
    Keeping.seen.clear()


WHOLE = "recipe.accumulate = 2: must be 1 with target=beta_smoothing, which is of the whole batch"
ONE = "recipe.augment.mix.kind = mixup: must be none with target=beta_smoothing, which asks for the one label"


@pytest.mark.parametrize(
    ("fields", "message"), [({"accumulate": 2}, WHOLE), ({"augment": Augment(mix=Mix("mixup"))}, ONE)]
)
def test_what_a_target_cannot_be_trained_with(fields, message):
    with pytest.raises(InputError, match=f"^{message}"):
        make_run(BetaSmoothing(), **fields)
    make_run(ProSelfLC(), **fields)


def test_accumulated_parts_are_taught_as_the_whole():
    """ProSelfLC asks each example alone: without batch norm, parts of a batch give the gradient of all of it."""
    arch = replace(MLP, settings=MLPArch(hidden=(6,)))
    whole, parts = (fit(make_run(ProSelfLC(), arch, accumulate=n)).network.state_dict() for n in (1, 2))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("target", [LabelSmoothing(0.1), LabelSmoothing(0.1, "others")])
def test_label_smoothing_is_a_table_that_is_looked_up(target, operators: Callable[[], Any]):
    training = make_training(make_run(target))
    training.begin_epoch()
    with operators() as ran:
        training.step()
    hard = make_training(replace(training.run, target=HARD))
    hard.begin_epoch()
    with operators() as plain:
        hard.step()
    assert [str(call) for call in ran.calls] == [str(call) for call in plain.calls]
    assert ran.count("softmax.int") == 0 and ran.count("_softmax.default") == 0
