"""Tasks on tokens, with the training loop that images have."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lskd import data
from lskd.data import Dataset, Part, Spec
from lskd.data.text import BOS, EOS, PAD
from lskd.data.text.padding import padded
from lskd.engine import Shared, train
from lskd.engine.loop import Interrupted
from lskd.engine.memory import run_bytes
from lskd.engine.tasks.text import ByLength
from lskd.engine.tasks.translation import Translation
from lskd.engine.training import Training
from lskd.methods import METHODS
from lskd.methods.kd import KD
from lskd.models import ARCHS, Arch
from lskd.models.dropout import Dropout
from lskd.recipe import Recipe, Schedule
from lskd.run import Named, Run
from lskd.targets import TARGETS

CPU, V = torch.device("cpu"), 11
SPEC = Spec("tongues", "Tongues", V, (), 60, 14, (), "", validation=12, kind="translation")


class Ragged:
    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = rows
        self.tokens = np.array([token for row in rows for token in row], dtype=np.int32)
        self.starts = np.cumsum([0, *map(len, rows)])


class Vocabulary:
    digest = "0" * 64

    def __len__(self) -> int:
        return V


class Tongues:
    """Sentences of random lengths; the translation is the sentence backwards, and shorter."""

    kind, vocabulary, left_out = "translation", Vocabulary(), 3

    def __init__(self, count: int, seed: int, longest: int = 9) -> None:
        rng = np.random.default_rng(seed)
        rows = [rng.integers(4, V, rng.integers(1, longest + 1)).tolist() for _ in range(count)]
        self.source, self.target = Ragged(rows), Ragged([row[: -1 if len(row) > 2 else None][::-1] for row in rows])
        self.lengths = np.array(
            [[len(a) + 1, len(b) + 1] for a, b in zip(self.source.rows, self.target.rows, strict=True)]
        )

    def __len__(self) -> int:
        return len(self.source.rows)


PARTS = {
    name: Part(Tongues(count, seed), torch.empty(0, dtype=torch.int64))
    for name, count, seed in (("train", 60, 0), ("validation", 12, 1), ("test", 14, 2))
}


class Tiny(nn.Module):
    """Says the next token from the last one and from the mean of the source."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding, self.head, self.dropout = nn.Embedding(classes, width), nn.Linear(width, classes), Dropout(0.2)

    def forward(self, source, target, counted=None):
        there = (source != PAD).unsqueeze(-1)
        memory = (self.embedding(source) * there).sum(1) / there.sum(1)
        seen = self.dropout((self.embedding(target) + memory[:, None]).tanh()).flatten(0, 1)
        return self.head(seen if counted is None else seen[counted])


@dataclass(frozen=True)
class TinyArch(Arch):
    kind: ClassVar[str] = "translation"
    width: int = 8

    def build(self, input_shape: Any, num_classes: int) -> nn.Module:
        return Tiny(num_classes, self.width)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(ARCHS.entries, "tiny", TinyArch())


RECIPE = Recipe(
    0.05, 40, steps=30, optimizer="adam", batch_by="tokens",
    schedule=Schedule("inverse_sqrt", warmup=5, unit="steps"), evaluate_every=2,
)  # fmt: skip


def make_run(**changed: Any) -> Run:
    ce = Named("ce", METHODS["ce"])
    return replace(Run(Dataset("tongues"), Named("tiny", TinyArch()), ce, RECIPE), **changed)


def smoothed(alpha: float) -> Named[Any]:
    return Named("label_smoothing", replace(TARGETS["label_smoothing"], alpha=alpha))


def trained(run: Run, **how: Any) -> Any:
    return train(run, SPEC, PARTS, shared=Shared(CPU), **how)


def test_rows_of_a_ragged_array_are_filled_up():
    ragged = Ragged([[5, 6], [], [7, 8, 9], [10]])
    rows = np.array([2, 0, 1])
    assert padded(ragged, rows).tolist() == [[7, 8, 9], [5, 6, PAD], [PAD] * 3]
    assert padded(ragged, rows, before=BOS).tolist() == [[BOS, 7, 8, 9], [BOS, 5, 6, PAD], [BOS, *[PAD] * 3]]
    assert padded(ragged, rows, after=EOS).tolist() == [[7, 8, 9, EOS], [5, 6, EOS, PAD], [EOS, *[PAD] * 3]]


def test_a_batch_asks_for_each_token_of_the_target_from_those_before_it():
    corpus = PARTS["train"].images
    rows = np.array([3, 17, 8])
    shown = Translation.assemble(corpus, rows)
    places = shown.counted.tolist()
    told = [(row, place) for row, of in enumerate(rows) for place in range(len(corpus.target.rows[of]) + 1)]
    assert [divmod(place, shown.target.shape[1]) for place in places] == told
    for (row, place), label in zip(told, shown.labels.tolist(), strict=True):
        whole = [BOS, *corpus.target.rows[rows[row]], EOS]
        assert shown.target[row, : place + 1].tolist() == whole[: place + 1] and label == whole[place + 1]
    for row, of in enumerate(rows):
        assert shown.source[row].tolist()[: len(corpus.source.rows[of]) + 1] == [*corpus.source.rows[of], EOS]


@pytest.mark.parametrize("tokens", [12, 40, 200])
def test_batches_of_like_lengths(tokens):
    lengths = PARTS["train"].images.lengths
    batches = ByLength(lengths, tokens)
    orders = [batches.draw(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    first, again, other = orders
    assert torch.equal(first.examples, again.examples) and first.sizes == again.sizes
    assert not torch.equal(first.examples, other.examples) and sorted(first.sizes) == sorted(other.sizes)
    shapes, shown = [], 0
    for order in orders:
        assert sorted(order.examples.tolist()) == list(range(60)) and sum(order.sizes) == 60
        pieces = [lengths[piece.numpy()] for piece in order.examples.split(order.sizes)]
        shapes.append(sorted((len(piece), *piece.max(0)) for piece in pieces))
        assert all(len(piece) * piece.max() <= tokens for piece in pieces)  # no sentence has more than 12
        shown = sum(len(piece) * piece.max(0).sum() for piece in pieces)
    assert shapes[0] == shapes[1] == shapes[2]  # each epoch has batches of the same shapes
    assert batches.waste == pytest.approx(1 - lengths.sum() / shown)
    assert tokens == 200 or batches.waste < 0.15


def test_a_step_is_that_of_cross_entropy_with_padding_left_out():
    """Label smoothing over the vocabulary is torch's, with padding as the index that is ignored; a sentence's tokens
    count alike."""
    run = make_run(target=smoothed(0.1), recipe=replace(RECIPE, optimizer="sgd"))
    training = Training(run, SPEC, Shared(CPU).task(run, PARTS))
    network = TinyArch().build((), V)
    network.load_state_dict(training.member.network.state_dict())
    for part in (network, training.member.network):
        part.dropout.p = 0.0
    training.begin_epoch()
    sizes = training.one_step.sizes  # the first batch whose sentences are not all of one length
    pieces = training.one_step.order.split(list(sizes))
    place = next(n for n, piece in enumerate(pieces) if len(set(PARTS["train"].images.lengths[piece, 1])) > 1)
    training.go_to(place)
    training.begin_epoch()
    rows = pieces[place].numpy()
    corpus = PARTS["train"].images
    source, target = padded(corpus.source, rows, after=EOS), padded(corpus.target, rows, before=BOS)
    labels = torch.from_numpy(padded(corpus.target, rows, after=EOS))
    assert (labels == PAD).any()
    logits = network(torch.from_numpy(source), torch.from_numpy(target))
    loss = F.cross_entropy(logits, labels.flatten(), label_smoothing=0.1, ignore_index=PAD)
    loss.backward()
    training.step()
    sums = training.member.sums.totals
    assert sums["#examples"] == (labels != PAD).sum()
    torch.testing.assert_close(sums["ce"] / sums["#examples"], loss.detach().double(), rtol=1e-5, atol=0)
    with torch.no_grad():
        for mine, theirs in zip(training.member.network.parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs - training.member.lr(place) * theirs.grad, rtol=1e-5, atol=1e-7)


def test_it_learns_and_all_tokens_count_in_its_metrics():
    outcome = trained(make_run(recipe=replace(RECIPE, steps=200)))
    result, test = outcome.result, PARTS["test"].images
    assert result["last"]["test"]["nll"] < np.log(V) - 0.2
    shown = Translation.assemble(test, np.arange(14))
    with torch.no_grad():
        logits = outcome.network.eval()(*shown[:3])
    assert result["last"]["test"]["nll"] == pytest.approx(F.cross_entropy(logits, shown.labels).item(), rel=1e-5)
    right = (logits.argmax(-1) == shown.labels).double().mean().item()
    assert result["last"]["test"]["top1"] == pytest.approx(100 * right)
    assert (result["vocabulary"], result["left_out"]) == ({"tokens": V, "sha256": "0" * 64}, 3)
    assert result["tokens"] == sum(len(row) + 1 for row in PARTS["train"].images.target.rows)
    assert sum(n for n, *_ in result["calibration"]["test"]["reliability"]) == len(shown.labels)


def test_calibration_is_of_the_first_tokens(monkeypatch):
    whole = trained(make_run()).result
    monkeypatch.setattr(Translation, "most_outputs", 20)
    first = trained(make_run()).result
    assert sum(n for n, *_ in first["calibration"]["test"]["reliability"]) == 20
    assert first["last"]["test"]["nll"] == pytest.approx(whole["last"]["test"]["nll"], rel=1e-6)
    assert first["last"]["test"]["ece15"] != whole["last"]["test"]["ece15"]


def test_a_teacher_tells_of_tokens_and_gamma_is_theirs():
    teacher_run = make_run(target=smoothed(0.3), recipe=replace(RECIPE, steps=100))
    teacher = trained(teacher_run).network
    run = make_run(method=Named("kd", KD(temperature=2.0)), teacher=teacher_run)
    result = trained(run, teacher_network=teacher).result
    assert result["teacher_evaluated"] == "every step"
    shown = Translation.assemble(PARTS["train"].images, np.arange(60))
    with torch.no_grad():
        told = (teacher.eval()(*shown[:3]) / 2).softmax(-1)
    right = told.gather(1, shown.labels[:, None]).mean().item()
    assert result["gamma"] == pytest.approx((1 - right) * V / (V - 1), rel=1e-5)


@pytest.mark.parametrize("stopped_at", [3, 14, 23])
def test_gone_on_with_it_gives_the_same_bits(tmp_path, stopped_at):
    run, seen = make_run(target=smoothed(0.1)), []

    def stop() -> bool:
        return len(seen) == stopped_at

    whole = trained(run)
    with pytest.raises(Interrupted):
        trained(run, checkpoint=tmp_path / "state", on_step=lambda step, total: seen.append(step), stop=stop)
    resumed = trained(run, checkpoint=tmp_path / "state")
    assert resumed.result["last"] == whole.result["last"]
    for mine, theirs in zip(resumed.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_peers_and_averages_are_those_of_images():
    alone = make_run(recipe=replace(RECIPE, ema=0.9))
    run = replace(alone, method=Named("dml", METHODS["dml"]), peers=(alone.peer(1),))
    result = trained(run).result
    assert {"last", "calibration"} <= result["ensemble"].keys() and len(result["peers"]) == 1


def test_rows_of_a_large_vocabulary_are_made_as_they_are_needed(monkeypatch):
    looked_up = trained(make_run(target=smoothed(0.1))).result
    monkeypatch.setattr("lskd.engine.targets.TABLE", 4)
    assert trained(make_run(target=smoothed(0.1))).result["last"] == looked_up["last"]


def test_memory_is_reckoned_beforehand():
    run = make_run()
    few, many = (run_bytes(replace(run, recipe=replace(RECIPE, batch_size=size)), SPEC, "cpu") for size in (640, 64000))
    assert 0 < few < many


def test_the_schedule_of_vaswani():
    schedule = Schedule("inverse_sqrt", warmup=4, unit="steps")
    factors = [schedule.at(step, total_steps=100, steps_per_epoch=10) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[15] == pytest.approx(0.5) and factors == [*factors[:4], *sorted(factors[4:], reverse=True)]


@pytest.mark.skipif("LSKD_DATA" not in os.environ, reason="needs LSKD_DATA with multi30k")
@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1000, 2048, 4096])
def test_batches_of_real_sentences_are_little_padded(tmp_path, tokens):
    pytest.importorskip("tokenizers")
    text = replace(data.DATASETS["multi30k"].spec.text, vocab=4000)
    parts = data.load(Dataset("multi30k", text=text), data=Path(os.environ["LSKD_DATA"]), cache=tmp_path)
    batches = ByLength(parts["train"].images.lengths, tokens)
    assert batches.waste < 0.15 and sum(batches.sizes) == 29_000
