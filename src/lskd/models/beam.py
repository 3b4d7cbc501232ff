"""Beam search: the likeliest translation that is found by keeping a few beginnings of it at each token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lskd.models.transformer import PAD


class Translation(NamedTuple):
    """tokens: without the token for a beginning and, where it was reached, that for an end. score: Σ log p(token) of
    them and of the end, over the length penalty; p is that at the temperature of the search."""

    tokens: list[int]
    score: float


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length)/6)^α (Wu et al. 2016), by which a sum of log-probabilities is divided; length counts the end."""
    return float(((5 + length) / 6) ** alpha)


@torch.no_grad()
def search(
    network: Any,
    source: Tensor,
    *,
    begin: int,
    end: int,
    beam: int,
    alpha: float,
    temperature: float = 1.0,
    longest: Sequence[int],
) -> list[Translation]:
    """The best translation of each of `source` (B, S) that is found with `beam` beginnings kept.

    network: in eval mode, with `begin` and `step` as `lskd.models.transformer.Transformer`. begin, end: the tokens for
    a beginning and an end. The logits are divided by `temperature` before anything else. longest (B,): the most tokens
    of each translation, its end counted; one that does not end before is cut there.

    A sentence is done when `beam` translations have ended, which a beginning among the `beam` best does by `end` (as in
    fairseq), or when no beginning can become better than the best of these. With beam = 1 this is greedy decoding.
    """
    device, count = source.device, len(source)
    state = network.begin(source, beam)
    left = list(range(count))  # which sentences are not done, in the order of the rows
    best: list[Translation | None] = [None] * count
    ended = [0] * count
    scores = torch.full((count, beam), -math.inf, device=device)
    scores[:, 0] = 0.0
    tokens = torch.full((count * beam, 1), begin, device=device)
    for length in range(1, max(longest) + 1):
        logits, state = network.step(state, tokens[:, -1])
        logits = logits.float() if temperature == 1 else logits.float() / temperature
        log_p = logits.log_softmax(-1)  # (b · k, V)
        log_p[:, PAD] = log_p[:, begin] = -math.inf
        # Twice as many as are kept, of each beginning and then of all: at most one candidate of a beginning ends here.
        of_each, next_ = (
            found.unflatten(0, (len(left), beam)) for found in log_p.topk(min(2 * beam, log_p.shape[1]))
        )  # (b, k, 2k)
        candidates, places = (scores[:, :, None] + of_each).flatten(1).topk(min(2 * beam, beam * of_each.shape[2]))
        from_row, next_ = places // of_each.shape[2], next_.flatten(1).gather(1, places)  # (b, 2k)
        ends = next_ == end
        first = torch.arange(candidates.shape[1], device=device) < beam
        goes_on = candidates.masked_fill(ends, -math.inf)
        scores, kept = goes_on.topk(beam)
        chosen = next_.gather(1, kept)
        beginnings = from_row.gather(1, kept) + torch.arange(len(left), device=device)[:, None] * beam  # their rows
        finished, penalty = (ends & first & candidates.isfinite()).tolist(), length_penalty(length, alpha)
        if any(map(any, finished)):
            sums_of, from_ = candidates.tolist(), from_row.tolist()
        alive, rows, done = scores[:, 0].tolist(), beginnings[:, 0].tolist(), []
        for row, sentence in enumerate(left):
            for place in [place for place, is_end in enumerate(finished[row]) if is_end]:
                ended[sentence] += 1
                score = sums_of[row][place] / penalty
                if (found := best[sentence]) is None or score > found.score:
                    best[sentence] = Translation(tokens[row * beam + from_[row][place], 1:].tolist(), score)
            limit = longest[sentence]
            found = best[sentence]
            if length >= limit and found is None:
                last = int(chosen[row, 0])
                best[sentence] = Translation([*tokens[rows[row], 1:].tolist(), last], alive[row] / penalty)
            highest = alive[row] / length_penalty(limit, alpha)  # sums only fall, and penalties only rise
            over = found is not None and (ended[sentence] >= beam or found.score >= highest)
            done.append(length >= limit or over)
        tokens = torch.cat([tokens[beginnings.flatten()], chosen.flatten()[:, None]], 1)
        if any(done):
            stay = [row for row, is_done in enumerate(done) if not is_done]
            if not stay:
                break
            of = torch.tensor(stay, device=device)
            left, scores, beginnings = [left[row] for row in stay], scores[of], beginnings[of]
            tokens = tokens.unflatten(0, (-1, beam))[of].flatten(0, 1)
        state = state.take(beginnings.flatten())
    return [translation for translation in best if translation is not None]
