"""Trainings on streamed images, with averaged weights and batches in parts: what large images and networks need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lskd import data
from lskd.data import Dataset, Part, Spec, stream
from lskd.data.augment import Augment, Mix, Normalize, ResizedCrop
from lskd.data.mixing import Mixer
from lskd.data.sources import open_image
from lskd.engine import Interrupted, Outcome, Shared, run_bytes, run_probes, train
from lskd.engine.average import Average
from lskd.engine.member import build_network
from lskd.engine.memory import CUDA_WORKSPACE
from lskd.engine.seeds import generator_for, seed_for
from lskd.engine.training import Training
from lskd.errors import InputError
from lskd.methods import METHODS
from lskd.models import Arch, CifarResNetArch, MLPArch
from lskd.probes.stability import Stability
from lskd.recipe import Recipe
from lskd.run import Named, ProbeSpec, Run

CPU = torch.device("cpu")
MLP = Named[Arch]("mlp", MLPArch(hidden=(6,), hidden_dropout=0.3))
PLAIN = Named[Arch]("mlp", MLPArch(hidden=(6,)))
RESNET = Named[Arch]("resnet8", CifarResNetArch(depth=8, stem=4, widths=(4, 6, 8)))

pytestmark = pytest.mark.usefixtures("one_thread")

NOISE = Spec("noise", "Noise", 4, (3, 8, 8), 11, 6, tuple("abcd"), digest="")
GENERATOR = torch.Generator().manual_seed(0)
NOISE_PARTS = {
    name: Part(torch.randint(256, (n, *NOISE.shape), generator=GENERATOR, dtype=torch.uint8), torch.arange(n) % 4)
    for name, n in (("train", 11), ("test", 6))
}


def noise_run(arch: Named[Arch] = PLAIN, **fields: Any) -> Run:
    """3 steps an epoch, of 4, 4 and 3 images."""
    recipe = Recipe(**{"lr": 0.1, "batch_size": 4, "momentum": 0.9, "augment": Augment(pad=1, flip=True), **fields})
    return Run(Dataset("noise"), arch, Named("ce", METHODS["ce"]), recipe)


def fit(run: Run, **options: Any) -> Outcome:
    return train(run, NOISE, NOISE_PARTS, shared=Shared(CPU), **options)


def weights(outcome: Outcome) -> dict[str, Tensor]:
    return outcome.network.state_dict()


def assert_identical(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


# ---- the average --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.3, 0.9])
def test_an_average_by_hand(decay):
    """Weights and running statistics that are i after update i; counters are those of the last."""
    network = nn.BatchNorm1d(2)
    average = Average(network, decay)
    expected = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    for i in range(12):
        with torch.no_grad():
            for name in expected:
                network.state_dict()[name].fill_(float(i))
            network.num_batches_tracked.fill_(i)
        average.update(torch.tensor([i]))
        d = min(decay, (1 + i) / (10 + i))
        expected = {name: d * mean + (1 - d) * i for name, mean in expected.items()}
    state = average.network.state_dict()
    for name, mean in expected.items():
        torch.testing.assert_close(state[name], torch.full((2,), mean))
    assert state["num_batches_tracked"] == 11
    assert (decay == 0.3) == (decay < 12 / 21)  # with 0.9, the bound for the first updates is all that counts


def test_a_training_averages_what_its_updates_give():
    """A training of k steps has the weights after update k of a longer one."""
    after = [weights(fit(noise_run(RESNET, steps=k))) for k in range(1, 6)]
    mean = build_network(noise_run(RESNET, steps=1), NOISE).state_dict()
    for t, now in enumerate(after):
        d = min(0.25, (1 + t) / (10 + t))
        mean = {
            name: d * mean[name] + (1 - d) * now[name] if now[name].is_floating_point() else now[name] for name in now
        }
    outcome = fit(noise_run(RESNET, steps=5, ema=0.25))
    for name, value in weights(outcome).items():
        torch.testing.assert_close(value, mean[name], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(mean["head.weight"], after[-1]["head.weight"], rtol=1e-3)


def test_the_averaged_network_is_evaluated():
    """In the log, too; and the training itself goes on as without an average."""
    outcome, plain = fit(noise_run(RESNET, steps=3, ema=0.9)), fit(noise_run(RESNET, steps=3))
    images = NOISE_PARTS["test"]
    with torch.no_grad():
        logits = outcome.network.eval()(images.images / 255.0)
    nll = F.cross_entropy(logits, images.labels).item()
    assert outcome.result["last"]["test"]["nll"] == pytest.approx(nll, rel=1e-5)
    assert outcome.result["last"]["test"]["nll"] != pytest.approx(plain.result["last"]["test"]["nll"], rel=1e-3)
    assert outcome.result["train"] == plain.result["train"]


# ---- batches in parts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_is_the_batch_where_no_statistics_are_shared(parts):
    """Momentum, weight decay and clipping included; the last batch, of 3 images, is of parts of 2 and 1."""
    settings = {"epochs": 3, "clip_norm": 0.5, "loss_scale": 2.0}
    whole, split = fit(noise_run(**settings)), fit(noise_run(**settings, accumulate=parts))
    for name, value in weights(split).items():
        torch.testing.assert_close(value, weights(whole)[name], rtol=1e-5, atol=1e-6)
    for one, other in zip(split.epochs, whole.epochs, strict=True):
        assert one["train"] == pytest.approx(other["train"], rel=1e-5) and one["lr"] == other["lr"]
    assert split.result["steps"] == whole.result["steps"] == 9


def test_batch_norm_sees_each_part_alone():
    """One batch of 4 in parts of 2, by hand: two forward passes, one update."""
    run = noise_run(RESNET, steps=1, accumulate=2, momentum=0.0, augment=Augment())
    network = build_network(run, NOISE).train()
    order = torch.randperm(11, generator=generator_for(0, "shuffle", 0))
    for part in (order[:2], order[2:4]):
        logits = network(NOISE_PARTS["train"].images[part] / 255.0)
        (F.cross_entropy(logits, NOISE_PARTS["train"].labels[part]) / 2).backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= 0.1 * parameter.grad
    outcome = fit(run)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(weights(outcome)[name], value, rtol=1e-4, atol=1e-6)
    assert all(value == 2 for name, value in weights(outcome).items() if name.endswith("num_batches_tracked"))


def test_only_what_is_asked_for_is_part_of_the_identity():
    assert noise_run(steps=1).id == noise_run(steps=1, accumulate=1, ema=0.0).id
    assert len({noise_run(steps=1, **fields).id for fields in ({}, {"accumulate": 2}, {"ema": 0.5})}) == 3
    with pytest.raises(InputError, match="accumulate = 3: must be a divisor of batch_size = 4"):
        noise_run(steps=1, accumulate=3)
    with pytest.raises(InputError, match=r"ema = 1.0: must be in \[0, 1\)"):
        noise_run(steps=1, ema=1.0)


# ---- streamed images ----------------------------------------------------------------------------------------------

RECIPE = Recipe(
    lr=0.1, batch_size=8, accumulate=2, epochs=3, momentum=0.9, ema=0.8,
    augment=Augment(crop=10, flip=True, resized=ResizedCrop()), normalize=Normalize("fixed", (0.5,) * 3, (0.5,) * 3),
)  # fmt: skip


@pytest.fixture
def photographs(write_photographs, tmp_path) -> tuple[Spec, dict[str, Part]]:
    """4 classes; 22 images to train on, 2 to 3 steps an epoch, 10 held out and 12 to test on."""
    root = write_photographs(tmp_path / "photographs", {"train": 8, "test": 3}, ("ant", "bee", "cat", "dog"))
    spec = data.import_folder("insects", root, cache=tmp_path, stream=True)
    return spec, data.load(Dataset("insects", holdout=10), data=root, cache=tmp_path)


def streamed_run(arch: Named[Arch] = RESNET, **fields: Any) -> Run:
    return Run(Dataset("insects", holdout=10), arch, Named("ce", METHODS["ce"]), replace(RECIPE, **fields), seed=2)


def test_a_step_sees_the_views_that_were_drawn(photographs):
    """The whole epoch again, in memory: the pixels of `take` in the order of the seed, for a network without noise."""
    spec, parts = photographs
    run = streamed_run(PLAIN, epochs=1, ema=0.0)
    shared = Shared(CPU, workers=2)
    outcome = train(run, spec, parts, shared=shared)
    stream = shared.task(run, parts).train
    order = torch.randperm(22, generator=generator_for(2, "shuffle", 0))
    views = stream.draw(generator_for(2, "augment", 0))
    pixels = stream.take(order, views[order]).contiguous()
    network, labels = build_network(run, spec), parts["train"].labels[order]
    sgd = torch.optim.SGD(network.parameters(), 0.1, 0.9)
    for chosen in torch.arange(22).split(8):
        sgd.zero_grad()
        F.cross_entropy(network(pixels[chosen] / 127.5 - 1), labels[chosen]).backward()
        sgd.step()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(weights(outcome)[name], value, rtol=1e-4, atol=1e-6)


def test_it_learns_and_its_record_is_complete(photographs):
    spec, parts = photographs
    outcome = train(streamed_run(epochs=10, lr=0.05), spec, parts, shared=Shared(CPU))
    assert set(outcome.result["last"]) == {"validation", "test"}
    assert outcome.result["examples"] == 22 and outcome.result["steps"] == 30
    assert outcome.epochs[-1]["train"]["ce"] < 0.7 * outcome.epochs[0]["train"]["ce"]
    assert outcome.result["gamma"] == 0.0


def test_streamed_images_are_mixed_as_those_in_memory(photographs):
    """Within each part of a batch, of 4 images."""
    spec, parts = photographs
    mix = Mix("cutmix")
    run = streamed_run(PLAIN, epochs=1, ema=0.0, augment=replace(RECIPE.augment, mix=mix))
    shared = Shared(CPU, workers=2)
    outcome = train(run, spec, parts, shared=shared)
    stream = shared.task(run, parts).train
    order = torch.randperm(22, generator=generator_for(2, "shuffle", 0))
    views = stream.draw(generator_for(2, "augment", 0))
    pixels, labels = stream.take(order, views[order]).contiguous(), parts["train"].labels[order]
    mixer = Mixer(mix, stream.shape, examples=22, batch=8, part=4, device=CPU)
    mixer.begin(seed_for(2, "mix", 0))
    network = build_network(run, spec)
    sgd = torch.optim.SGD(network.parameters(), 0.1, 0.9)
    for step, chosen in enumerate(torch.arange(22).split(8)):
        sgd.zero_grad()
        for places in chosen.split(4):
            seen, partners, share = mixer(pixels[places], torch.tensor([step]), places)
            logits = network(seen / 127.5 - 1)
            for weight, truth in ((share, labels[places]), (1 - share, labels[places][partners])):
                (weight * F.cross_entropy(logits, truth, reduction="sum") / len(chosen)).backward(retain_graph=True)
        sgd.step()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(weights(outcome)[name], value, rtol=1e-4, atol=1e-6)


class After:
    """Asks for a stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, step: int, total: int) -> None:
        self.left -= 1

    def stop(self) -> bool:
        return self.left == 0


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_stopped_training_goes_on_with_the_same_bits(photographs, tmp_path, stop_after):
    """Whatever the number of threads that decode: in the middle of an epoch, and at its end."""
    spec, parts = photographs
    run = streamed_run(MLP, augment=replace(RECIPE.augment, mix=Mix("mixup")))
    checkpoint = tmp_path / "checkpoint.pt"
    whole = train(run, spec, parts, shared=Shared(CPU, workers=1))
    after = After(stop_after)
    with pytest.raises(Interrupted):
        train(run, spec, parts, shared=Shared(CPU), checkpoint=checkpoint, on_step=after.step, stop=after.stop)
    resumed = train(run, spec, parts, shared=Shared(CPU, workers=3), checkpoint=checkpoint)
    assert_identical(weights(resumed), weights(whole))
    for one, other in zip(resumed.epochs, whole.epochs, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_peers_are_fed_each_with_views_of_its_own(photographs):
    """With nothing exchanged the first network is what it is alone, and so is a peer that sees the same views."""
    spec, parts = photographs
    run = streamed_run(MLP, epochs=2)
    zero = Named("cmd", replace(METHODS["cmd"], chi=0.0))  # type: ignore[call-arg]
    alone, peer = (train(one, spec, parts, shared=Shared(CPU)) for one in (run, run.peer()))
    peers = {}
    for views in ("same", "own"):
        both = train(replace(run, method=zero, peers=(run.peer(),), peer_views=views), spec, parts, shared=Shared(CPU))
        assert_identical(weights(both), weights(alone))
        peers[views] = both.peers[0].state_dict()
    assert_identical(peers["same"], weights(peer))
    assert not torch.equal(peers["own"]["head.weight"], peers["same"]["head.weight"])


def test_a_teacher_of_streamed_images_is_asked_at_every_step(photographs):
    spec, parts = photographs
    taught = replace(streamed_run(), method=Named("kd", METHODS["kd"]), teacher=streamed_run())
    teacher = build_network(streamed_run(), spec)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    shared = Shared(CPU)
    outcome = train(taught, spec, parts, teacher, shared=shared)
    assert outcome.result["teacher_evaluated"] == "every step"
    assert_identical(teacher.state_dict(), before)  # in eval mode: its running statistics have not moved

    stream, everything = shared.task(taught, parts).train, torch.arange(22)
    pixels = stream.take(everything, stream.draw(generator_for(2, "augment", 0)))
    probs = taught.method.settings.teacher_probs(teacher(pixels / 127.5 - 1))
    gamma = (1 - probs[everything, parts["train"].labels].mean()) * 4 / 3  # Müller's, over the first epoch's views
    assert outcome.result["gamma"] == pytest.approx(gamma.item(), rel=1e-4)


def test_evaluation_does_not_depend_on_its_batches(photographs):
    spec, parts = photographs
    images = Shared(CPU).task(streamed_run(), parts)
    training = Training(streamed_run(), spec, images)
    stream = images.held_out["test"].images
    logits = training.member.evaluate(stream.evaluation())
    one_by_one = training.member.evaluate(stream.plain(torch.tensor([row])) for row in range(len(stream)))
    torch.testing.assert_close(logits, one_by_one, rtol=1e-4, atol=1e-5)
    assert logits.shape == (12, 4) and not torch.allclose(logits[0], logits[1])


def test_probes_of_classes_decode_each_image_once_and_see_what_an_evaluation_does(photographs, monkeypatch):
    spec, parts = photographs
    opened: list[str] = []
    monkeypatch.setattr(stream, "open_image", lambda path, named: opened.append(str(path)) or open_image(path, named))
    probe, run = ProbeSpec("stability", Stability()), streamed_run()
    network = build_network(run, spec)
    [reading] = run_probes(run, spec, parts, network, [probe], Shared(CPU))[probe.key]
    every = [str(parts[name].images.path(i)) for name in ("train", "test") for i in range(len(parts[name].labels))]
    assert sorted(opened) == sorted(every)
    images = Shared(CPU).task(run, parts)
    p = Training(run, spec, images).member.evaluate(images.train.evaluation()).softmax(1)
    means = {str(c): p[images.labels == c, c].double().mean().item() for c in range(4)}
    assert reading["train"]["class_probability"] == pytest.approx(means, rel=1e-5)


def test_a_damaged_file_stops_the_training_and_is_named(photographs):
    spec, parts = photographs
    bad = Path(parts["train"].images.path(7))
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(InputError, match=f"{bad.parent.name}/{bad.name}: not an image that can be decoded"):
        train(streamed_run(), spec, parts, shared=Shared(CPU))


def test_memory_is_predicted_by_the_part_of_a_batch(photographs):
    """Without a look at a file; the batch of many parts needs no more than that of a few."""
    spec, _ = photographs

    def predicted(**fields: Any) -> int:
        return run_bytes(streamed_run(**fields), spec, "cuda") - CUDA_WORKSPACE

    few = predicted(batch_size=16, accumulate=2)
    assert abs(predicted(batch_size=8 * 64, accumulate=64) - few) < 10_000  # only the rates of a shorter epoch
    held = predicted(batch_size=32, accumulate=2) - few  # of 8 more images: their pixels, and more
    assert held > 8 * 3 * 10 * 10 * (1 + 4)
    network = sum(value.nbytes for value in build_network(streamed_run(), spec).state_dict().values())
    average = few - predicted(batch_size=16, accumulate=2, ema=0.0)
    assert network <= average < 3 * network  # with what changes it


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("exact")
def test_captured_steps_of_streamed_images_on_cuda_are_those_of_a_cpu(photographs):
    """Pixels reach the place that a recorded step reads: enough steps for each kind of step to be replayed."""
    spec, parts = photographs
    run = streamed_run(PLAIN, epochs=8)
    here, there = (train(run, spec, parts, shared=Shared(torch.device(kind))) for kind in ("cpu", "cuda"))
    assert there.result["captured"] and "not_captured" not in there.result
    for name, value in weights(there).items():
        torch.testing.assert_close(value.cpu(), weights(here)[name], rtol=1e-2, atol=1e-3)
