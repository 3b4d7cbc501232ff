"""More than one network in a run."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lskd import metrics
from lskd.data import Dataset, Part, Spec
from lskd.data.augment import Augment, Normalize
from lskd.engine import Diverged, Interrupted, Outcome, Shared, run_bytes, run_probes, train
from lskd.engine.member import build_network
from lskd.engine.memory import Allocations
from lskd.engine.training import Training
from lskd.errors import InputError
from lskd.losses import entropy
from lskd.methods import METHODS, Batch, Method, Peer, Stage
from lskd.methods.cmd import CMD
from lskd.methods.dml import DML
from lskd.models import ARCHS
from lskd.probes import PROBES
from lskd.recipe import Recipe, Schedule
from lskd.run import Named, ProbeSpec, Run, peer_seed
from lskd.targets import TARGETS

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
K = 4
SPEC = Spec("noise", "Noise", K, (3, 12, 12), train=30, test=10, class_names=tuple("abcd"), digest="")
MLP = Named("mlp", replace(ARCHS["mlp"], hidden=(10,), hidden_dropout=0.3))  # type: ignore[call-arg]
RESNET = Named("resnet8", replace(ARCHS["resnet8"], **ARCHS["resnet8"].small))
RECIPE = Recipe(
    lr=0.05, batch_size=8, epochs=3, momentum=0.9, augment=Augment(pad=1, flip=True), schedule=Schedule("cosine")
)
CE = Named("ce", METHODS["ce"])

FULL = {"arch": RESNET, "recipe": replace(RECIPE, ema=0.9, lr=0.02)}


def make_parts() -> dict[str, Part]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: Part(torch.randint(256, (n, *SPEC.shape), generator=generator, dtype=torch.uint8), torch.arange(n) % K)
        for name, n in (("train", SPEC.train), ("test", SPEC.test))
    }


PARTS = make_parts()


def smoothed(alpha: float) -> Named[Any]:
    return Named("label_smoothing", replace(TARGETS["label_smoothing"], alpha=alpha))  # type: ignore[call-arg]


def together(method: Method, *peers: Mapping[str, Any], views: Any = "same", **fields: Any) -> Run:
    """A run of two epochs whose peers differ from it in `peers`."""
    name = next((name for name, one in METHODS.items() if type(one) is type(method)), "own")
    run = Run(**{"dataset": Dataset("noise"), "arch": MLP, "method": CE, "recipe": RECIPE, "seed": 3, **fields})
    beside = tuple(run.peer(number, **others) for number, others in enumerate(peers, 1))
    return replace(run, method=Named(name, method), peers=beside, peer_views=views)


def fit(run: Run, **options: Any) -> Outcome:
    return train(run, SPEC, PARTS, shared=Shared(CPU), **options)


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_identical(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("seconds", "peers", "ensemble")}


# ---- each for itself ----------------------------------------------------------------------------------------------

OTHERS: dict[str, dict[str, Any]] = {
    "of its own kind": {},
    "of another kind": {
        "arch": RESNET, "target": smoothed(0.1),
        "recipe": replace(RECIPE, lr=0.02, optimizer="adam", momentum=0.0, ema=0.9, schedule=Schedule()),
    },
}  # fmt: skip


@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS)
def test_with_nothing_exchanged_each_computes_what_it_computes_alone(others):
    """Two networks, zero knowledge: dropout, batch norm, optimizers, schedules and averages of their own; one order."""
    run = together(CMD(chi=0.0), others)
    both, own, peer = fit(run), fit(replace(run, method=CE, peers=())), fit(run.peers[0])
    for network, alone, log, result in (
        (both.network, own, both.epochs, both.result),
        (both.peers[0], peer, [line["peers"][0] for line in both.epochs], both.result["peers"][0]),
    ):
        assert_identical(weights(network), weights(alone.network))
        for line, expected in zip(log, alone.epochs, strict=True):
            assert line["test"] == expected["test"]
            assert (line["train"]["top1"], line["train"]["own"]) == (expected["train"]["top1"], expected["train"]["ce"])
            assert line["train"]["peers"] == line["train"]["taken_over"] == 0.0
        assert result["best"] == alone.result["best"]
        assert result["calibration"] == alone.result["calibration"]
        assert (result["gamma"], result["parameters"]) == (alone.result["gamma"], alone.result["parameters"])
    if not others:  # other weights
        assert not torch.equal(next(own.network.parameters()), next(peer.network.parameters()))


@pytest.mark.parametrize("target", ["proselflc", "boot_soft"])
def test_targets_that_change_are_each_networks_own(target):
    run = together(CMD(chi=0.0), {}, target=Named(target, TARGETS[target]))
    both, peer = fit(run), fit(run.peers[0])
    assert_identical(weights(both.peers[0]), weights(peer.network))
    assert both.result["peers"][0]["train"]["target_entropy"] == peer.result["train"]["target_entropy"]
    assert both.result["peers"][0]["gamma"] == peer.result["gamma"]


def test_knowledge_changes_what_is_learned():
    alone, taught = (fit(together(CMD(chi=chi), {})) for chi in (0.0, 1.0))
    assert not torch.equal(next(alone.network.parameters()), next(taught.network.parameters()))
    assert taught.result["train"]["taken_over"] == taught.result["peers"][0]["train"]["taken_over"] == 1.0


def test_a_seed_for_the_data_alone_names_order_and_views():
    """Not the initial weights; and a peer's are those of the run."""
    run = Run(Dataset("noise"), MLP, CE, RECIPE, seed=5, data_seed=3)
    images = Shared(CPU).task(run, PARTS)
    seen = []
    for one in (run, replace(run, seed=3), replace(run, data_seed=None)):
        training = Training(one, SPEC, images)
        training.begin_epoch()
        seen.append((training.one_step.order, training.one_step.drawn[0], next(training.member.network.parameters())))
    (order, views, first), (same, same_views, other), (different, *_) = seen
    assert torch.equal(order, same) and torch.equal(views, same_views) and not torch.equal(order, different)
    assert not torch.equal(first, other)


def test_own_views_are_of_the_same_images():
    run = together(DML(), {}, {}, views="own")
    training = Training(run, SPEC, Shared(CPU).task(run, PARTS))
    training.begin_epoch()
    first, *others = training.one_step.drawn
    plain = Training(replace(run, peer_views="same"), SPEC, Shared(CPU).task(run, PARTS))
    plain.begin_epoch()
    assert torch.equal(first, plain.one_step.drawn[0]) and torch.equal(training.one_step.order, plain.one_step.order)
    assert len(others) == 2 and len({tuple(views.tolist()) for views in training.one_step.drawn}) == 3
    assert all(value.isfinite().all() for network in fit(run).peers for value in network.parameters())


# ---- what they learn from one another -----------------------------------------------------------------------------


def test_three_networks_learn_as_deep_mutual_learning_says():
    """Against autograd and plain SGD in this test, all updated from what the others said before the step."""
    recipe = replace(RECIPE, momentum=0.0, schedule=Schedule(), steps=3, epochs=None, normalize=Normalize("none"))
    linear = Named("mlp", replace(ARCHS["mlp"], hidden=()))  # type: ignore[call-arg]
    run = together(DML(), {}, {"arch": Named("mlp", replace(ARCHS["mlp"], hidden=(6,)))}, arch=linear, recipe=recipe)
    outcome = fit(run)
    images = Shared(CPU).task(run, PARTS)
    training = Training(run, SPEC, images)
    training.begin_epoch()
    order, drawn = training.one_step.order, training.one_step.drawn[0]
    networks = [build_network(one, SPEC) for one in (run, *run.peers)]
    for step in range(3):
        rows = order[8 * step : 8 * step + 8]
        pixels = images.presenter(images.train.take(rows, drawn[rows]))
        logits = [network(pixels) for network in networks]
        losses = []
        for one in range(3):
            loss = F.cross_entropy(logits[one], images.labels[rows])
            for other in {0, 1, 2} - {one}:
                p, q = logits[other].detach().log_softmax(-1), logits[one].log_softmax(-1)
                loss = loss + F.kl_div(q, p, log_target=True, reduction="batchmean") / 2
            losses.append(loss)
        for network, loss in zip(networks, losses, strict=True):
            parameters = list(network.parameters())
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.data -= 0.05 * gradient
    for trained, expected in zip((outcome.network, *outcome.peers), networks, strict=True):
        for name, value in trained.state_dict().items():
            torch.testing.assert_close(value, expected.state_dict()[name], rtol=1e-4, atol=1e-6)


def make_batch(progress: float = 0.0, peers: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(50, 5, generator=generator, dtype=torch.float64).mul(3).requires_grad_()
    targets = torch.randn(50, 5, generator=generator, dtype=torch.float64).softmax(-1)
    told = [
        Peer(*(torch.randn(50, 5, generator=generator, dtype=torch.float64).mul(s) for s in (3, 1)))
        for _ in range(peers)
    ]
    for peer in told:
        peer.targets = peer.targets.softmax(-1)
    return Batch(logits, torch.zeros(50, dtype=torch.int64), targets, progress=torch.tensor(progress), peers=told)


def test_all_knowledge_is_twice_the_cross_entropy_with_the_mean_target():
    batch = make_batch()
    mean = (batch.targets + batch.peers[0].targets) / 2
    total = sum(CMD(chi=1.0).loss(batch).values())
    torch.testing.assert_close(total, -2 * (mean * batch.logits.log_softmax(-1)).sum(-1))
    uniform = replace(batch, peers=[Peer(torch.zeros(50, 5), batch.peers[0].targets)])  # of the largest entropy
    torch.testing.assert_close(sum(CMD(chi=1.0).loss(uniform).values()), total)
    batch.peers[0].targets.requires_grad_()
    [grad] = torch.autograd.grad(total.sum(), batch.logits)
    torch.testing.assert_close(grad, 2 * (batch.logits.softmax(-1) - mean))


@pytest.mark.parametrize("peers", [1, 2])
def test_a_peer_is_listened_to_where_it_is_confident(peers):
    """One by one: H(p_B) < χ·log K."""
    batch, chi = make_batch(peers=peers), 0.4
    terms = CMD(chi=chi).loss(batch)
    taken = torch.zeros(50, dtype=torch.float64)
    count = 0
    for row in range(50):
        for peer in batch.peers:
            p = peer.logits[row].softmax(-1)
            if -sum(float(q) * math.log(float(q)) for q in p) < chi * math.log(5):
                taken[row] += -(peer.targets[row] * batch.logits[row].log_softmax(-1)).sum().detach() / peers
                count += 1
    torch.testing.assert_close(terms["peers"].detach(), taken)
    torch.testing.assert_close(terms["own"], -(batch.targets * batch.logits.log_softmax(-1)).sum(-1))
    assert 5 < count < 45 * peers
    assert CMD(chi=chi).watch(batch)["taken_over"].mean().item() == pytest.approx(count / 50 / peers)
    assert CMD(chi=0.0).watch(batch)["taken_over"].sum() == 0


@pytest.mark.parametrize("progressive", ["rising", "falling"])
@pytest.mark.parametrize("progress", [0.0, 0.3, 0.5, 0.9])
def test_a_threshold_over_the_training(progressive, progress):
    curve = 1 / (1 + math.exp(-8 * (progress - 0.5)))
    chi = 0.9 * (curve if progressive == "rising" else 1 - curve)
    batch = make_batch(progress)
    entropies = entropy(batch.peers[0].logits.softmax(-1))
    expected = (entropies < chi * math.log(5)).double()
    taken = CMD(chi=0.9, progressive=progressive, slope=8.0).watch(batch)["taken_over"]
    assert taken.tolist() == expected.tolist()


def test_the_ensemble_is_the_mean_of_probabilities():
    outcome = fit(together(DML(), {}, {"arch": RESNET}))
    images = Shared(CPU).task(together(DML(), {}), PARTS)
    test = images.held_out["test"]
    probabilities = []
    for network in (outcome.network, *outcome.peers):
        pixels = torch.cat(list(test.images.evaluation()))
        with torch.no_grad():
            probabilities.append(network.eval()(images.presenter(pixels)).softmax(-1))
    mean = torch.stack(probabilities).mean(0)
    found = outcome.result["ensemble"]["last"]["test"]
    assert found["top1"] == pytest.approx(100 * (mean.argmax(-1) == test.labels).float().mean().item())
    assert found["nll"] == pytest.approx(-mean[torch.arange(10), test.labels].log().mean().item(), rel=1e-4)
    assert outcome.epochs[-1]["ensemble"]["test"] == found and outcome.result["ensemble"]["best"]["test"]["test"]
    far = metrics.ensemble(torch.tensor([[[1e4, 0.0]], [[0.0, 1e4]]]))
    assert far.isfinite().all() and far.softmax(-1).tolist() == [[0.5, 0.5]]


def test_probes_look_at_the_first_network():
    """While it trains, and at its weights afterwards."""
    run, probe = together(DML(), FULL), ProbeSpec("stability", PROBES["stability"])
    outcome = fit(run, probes=[probe])
    [seen] = outcome.readings[probe.key]
    afterwards = run_probes(run, SPEC, PARTS, outcome.network, [probe], Shared(CPU))[probe.key]
    assert [seen] == afterwards
    alone = replace(run, arch=RESNET, method=CE, peers=())
    assert [seen] != run_probes(alone, SPEC, PARTS, outcome.peers[0], [probe], Shared(CPU))[probe.key]


# ---- checkpoints, capture, memory, companions ---------------------------------------------------------------------


def interrupted_after(step: int) -> dict[str, Callable[..., Any]]:
    done = 0

    def on_step(now: int, total: int) -> None:
        nonlocal done
        done = now

    return {"on_step": on_step, "stop": lambda: done >= step}


@pytest.mark.parametrize("method", [DML(), CMD(chi=0.7)], ids=["dml", "cmd"])
def test_a_killed_run_of_two_networks_resumes_to_the_same_bits(method, tmp_path):
    """Within an epoch and at its end; dropout, an average, views and a target of their own."""
    run = together(method, FULL, views="own", target=Named("proselflc", TARGETS["proselflc"]))
    whole = fit(run)
    path: Path = tmp_path / "checkpoint.pt"
    for step in (3, 8):
        with pytest.raises(Interrupted):
            fit(run, checkpoint=path, **interrupted_after(step))
    resumed = fit(run, checkpoint=path)
    for one, other in zip((resumed.network, *resumed.peers), (whole.network, *whole.peers), strict=True):
        assert_identical(weights(one), weights(other))
    for one, other in zip(resumed.epochs, whole.epochs, strict=True):
        assert numbers(one) == numbers(other)
        assert (one["peers"], one["ensemble"]) == (other["peers"], other["ensemble"])


def test_a_batch_in_parts_gives_the_gradient_of_the_whole():
    recipe = replace(RECIPE, batch_size=10, steps=3, epochs=None)
    plain = Named("mlp", replace(ARCHS["mlp"], hidden=(10,)))  # type: ignore[call-arg]
    whole, parts = (
        fit(together(DML(), {}, arch=plain, recipe=replace(recipe, accumulate=accumulate))) for accumulate in (1, 2)
    )
    for one, other in zip((whole.network, *whole.peers), (parts.network, *parts.peers), strict=True):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_captured_steps_are_those_that_run_eagerly(request):
    longer = replace(RECIPE, epochs=6)
    run = together(CMD(chi=0.6), {"arch": RESNET, "recipe": replace(longer, ema=0.9)}, recipe=longer)
    eager = fit(run)
    request.getfixturevalue("captured")
    replayed = fit(run)
    assert replayed.result["captured"] == [[6], [8]] and "not_captured" not in replayed.result
    for one, other in zip((replayed.network, *replayed.peers), (eager.network, *eager.peers), strict=True):
        assert_identical(weights(one), weights(other))
    assert [line["peers"] for line in replayed.epochs] == [line["peers"] for line in eager.epochs]


def test_companions_change_no_bit():
    """Two such runs, and one of a single network, side by side."""
    runs = [together(DML(), FULL), together(CMD(chi=0.6), {}, {}), replace(together(DML(), {}), method=CE, peers=())]
    alone = [fit(run) for run in runs]
    shared, step = Shared(CPU), threading.Barrier(3)

    def work(run: Run) -> Outcome:
        return train(run, SPEC, PARTS, shared=shared, on_step=lambda now, total: step.wait(60) and None)

    with ThreadPoolExecutor(3) as pool:
        for outcome, expected in zip(pool.map(work, runs), alone, strict=True):
            networks = zip((outcome.network, *outcome.peers), (expected.network, *expected.peers), strict=True)
            for one, other in networks:
                assert_identical(weights(one), weights(other))


@pytest.mark.parametrize("views", ["same", "own"])
def test_predicted_memory_is_what_a_step_of_all_networks_takes(views):
    """The prediction extrapolates from batches of 8 and 16; here a step of the recipe's own batch is counted."""
    recipe = Recipe(lr=0.1, batch_size=64, steps=2, momentum=0.9, normalize=Normalize(), augment=Augment(pad=4))
    spec = replace(SPEC, num_classes=10, shape=(3, 20, 20), train=64)
    arch, other = (Named(name, ARCHS[name]) for name in ("resnet8", "mlp1200"))
    run = together(DML(), {}, {"arch": other}, views=views, arch=arch, recipe=recipe)
    with Allocations() as memory:
        images = torch.zeros(64, *spec.shape, dtype=torch.uint8)
        seen = Shared(CPU).task(run, {"train": Part(images, torch.zeros(64, dtype=torch.int64))})
        before = memory.live
        training = Training(run, spec, seen)
        training.begin_epoch()
        training.step()
        measured = memory.most(training.step) - before
    predicted = run_bytes(run, spec, "cpu")
    assert predicted == pytest.approx(measured, rel=0.2)
    assert predicted > 2 * run_bytes(replace(run, method=CE, peers=(), peer_views="same"), spec, "cpu")


def test_a_network_that_is_not_finite_ends_the_run():
    with pytest.raises(Diverged, match="not finite"):
        fit(together(DML(), {"recipe": replace(RECIPE, lr=1e30)}))


# ---- what goes together -------------------------------------------------------------------------------------------

REFUSED: list[tuple[Callable[[], Run], str]] = [
    (lambda: together(DML()), "method = dml: needs a peer; give peer=ARCH, or peer=same for one of its own kind"),
    (lambda: together(METHODS["ce"], {}), "peer = mlp: method=ce uses no peer; methods that do: cmd, dml"),
    (lambda: together(DML(), {"dataset": Dataset("digits")}),
     "peer.dataset = digits: must be that of the run, noise"),
    (lambda: together(DML(), {}, {"recipe": replace(RECIPE, batch_size=4)}),
     "peer2.recipe.batch_size = 4: must be that of the run, 8: all are trained in one step"),
    (lambda: together(DML(), {"recipe": replace(RECIPE, augment=Augment())}),
     "peer.recipe.augment = another: must be that of the run: all are trained in one step"),
    (lambda: together(DML(), {"method": Named("dml", DML())}), "method = dml: needs a peer; .*"),
    (lambda: together(DML(), {"seed": 3}), "peer.seed = 3: must be another than this run's"),
    (lambda: together(DML(), {}, {"seed": peer_seed(3, 1)}), "peer2.seed = 1000006: must be another than that of peer"),
    (lambda: together(DML(), {"data_seed": 8}),
     "peer.data_seed = 8: must be left out: it sees the images of the run"),
    (lambda: together(DML(), *[{}] * 9), "peers = 9: must be at most 8"),
    (lambda: replace(together(DML(), {}), peers=(), method=CE, peer_views="own"), "peer_views = own: there is no peer"),
    (lambda: together(METHODS["kd"], {}), "peer = mlp: method=kd uses no peer; methods that do: cmd, dml"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_does_not_go_together_is_refused(make, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        make()


@dataclass(frozen=True)
class Staged(DML):
    def initial(self) -> Stage:
        return Stage("before", 1, self.loss, self.taps)


@dataclass(frozen=True)
class Both(DML):
    needs_teacher: ClassVar[bool] = True


def test_neither_teachers_nor_stages_go_with_peers():
    with pytest.raises(InputError, match=r"^method = own: has a stage before the training, in which peers cannot take"):
        together(Staged(), {})
    plain = Run(Dataset("noise"), MLP, CE, RECIPE, seed=3)
    with pytest.raises(InputError, match=r"^teacher = mlp: must be left out with a peer, which teaches instead$"):
        replace(together(DML(), {}), teacher=plain)
    with pytest.raises(InputError, match=r"^teacher = mlp: must be left out with a peer, which teaches instead$"):
        replace(plain, method=Named("own", Both()), teacher=plain, peers=(plain.peer(),))


@pytest.mark.parametrize("knobs", [{"chi": -0.1}, {"chi": math.inf}, {"slope": 0.0}])
def test_thresholds_out_of_range_are_refused(knobs):
    with pytest.raises(InputError, match=f"^{next(iter(knobs))} = "):
        CMD(**knobs)
