"""Beam search against greedy decoding, sums of log-probabilities, and exhaustive search."""

from __future__ import annotations

import itertools

import pytest
import torch

from lskd.models.archs import TransformerArch
from lskd.models.beam import length_penalty, search

V, BEGIN, END = 7, 1, 2


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    made = TransformerArch(encoder_layers=1, decoder_layers=2, width=16, heads=2, feed_forward=24, positions=16).build(
        (), V
    )
    for parameter in made.parameters():
        parameter.data *= 1.5  # far from uniform
    return made.eval()


SOURCE = torch.tensor([[4, 5, 6, 3, END], [6, END, 0, 0, 0], [3, 3, 4, END, 0], [5, 6, 6, END, 0]])


def log_p(network, row, tokens, temperature=1.0):
    """log p of each of `tokens`. (What may not be chosen keeps its share, in the search, too.)"""
    source = SOURCE[row : row + 1]
    target = torch.tensor([[BEGIN, *tokens[:-1]]])
    with torch.no_grad():
        logits = network(source, target)[0] / temperature
    return logits.log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)]


def searched(network, beam, rows=range(4), **how):
    rows = list(rows)
    settings = {"alpha": 0.6, "longest": [9] * len(rows), **how}
    return search(network, SOURCE[rows], begin=BEGIN, end=END, beam=beam, **settings)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_beam_of_one_is_greedy(network, temperature):
    for row, found in enumerate(searched(network, 1, temperature=temperature)):
        tokens = []
        while len(tokens) < 9 and END not in tokens:
            with torch.no_grad():
                logits = network(SOURCE[row : row + 1], torch.tensor([[BEGIN, *tokens]]))[0, -1]
            logits[[0, BEGIN]] = -torch.inf
            tokens.append(int(logits.argmax()))
        assert found.tokens == [token for token in tokens if token != END]


@pytest.mark.parametrize(("beam", "alpha", "temperature"), [(1, 0.6, 1.0), (3, 0.0, 1.0), (5, 1.0, 0.7), (4, 0.6, 1.6)])
def test_a_score_is_the_sum_of_log_probabilities(network, beam, alpha, temperature):
    for row, found in enumerate(searched(network, beam, alpha=alpha, temperature=temperature)):
        whole = found.tokens if len(found.tokens) == 9 else [*found.tokens, END]
        total = log_p(network, row, whole, temperature).sum().item()
        assert found.score == pytest.approx(total / length_penalty(len(whole), alpha), rel=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_beam_as_wide_as_everything_finds_the_best(network, alpha):
    longest, letters = 4, [token for token in range(V) if token not in (0, BEGIN, END)]
    for row, found in enumerate(searched(network, 300, alpha=alpha, longest=[longest] * 4)):
        best = max(
            (log_p(network, row, [*tokens, END]).sum().item() / length_penalty(length + 1, alpha), list(tokens))
            for length in range(longest)
            for tokens in itertools.product(letters, repeat=length)
        )
        assert (found.score, found.tokens) == (pytest.approx(best[0], rel=1e-4), best[1])


@pytest.mark.parametrize("beam", [1, 4])
def test_sentences_together_are_as_alone(network, beam):
    together = searched(network, beam, longest=[9, 3, 9, 6])
    for row, limit in enumerate([9, 3, 9, 6]):
        (alone,) = searched(network, beam, [row], longest=[limit])
        assert together[row].tokens == alone.tokens and together[row].score == pytest.approx(alone.score, rel=1e-4)
        assert len(alone.tokens) <= limit


def test_the_penalty_of_wu():
    assert length_penalty(1, 0.6) == 1.0 and length_penalty(7, 0.5) == pytest.approx(2**0.5)
