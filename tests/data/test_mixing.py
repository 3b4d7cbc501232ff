"""CutMix and mixup: boxes, shares and partners against closed forms, pixels against loops over them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lskd.data.augment import Augment, Mix
from lskd.data.mixing import Mixer, cut
from lskd.errors import InputError
from lskd.schema import identity, parse

CPU = torch.device("cpu")


def make_mixer(kind: Any, side: int = 8, examples: int = 11, batch: int = 4, part: int = 4, **fields: Any) -> Mixer:
    shape = (3, side, side)
    return Mixer(Mix(kind, **fields), shape, examples=examples, batch=batch, part=part, device=CPU)


def drawn(seed: int = 0, **fields: Any) -> Mixer:
    mixer = make_mixer(**fields)
    mixer.begin(seed)
    return mixer


# ---- what is drawn ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "row", "column", "box"),
    [
        (0.75, 5, 4, (3, 7, 2, 6)),  # half of each side: 4 of 8 rows, 5 of 10 columns, of which an even number counts
        (0.75, 0, 9, (0, 2, 7, 10)),  # clipped on two sides
        (0.0, 4, 5, (0, 8, 0, 10)),  # all of it
        (0.0, 0, 0, (0, 4, 0, 5)),  # a quarter
        (1.0, 3, 3, (3, 3, 3, 3)),  # nothing
        (0.99, 3, 3, (3, 3, 3, 3)),  # less than two pixels a side: nothing
    ],
)
def test_a_box_by_hand(share, row, column, box):
    found = cut(np.array([share]), np.array([row]), np.array([column]), height=8, width=10)
    assert found.tolist() == [list(box)]


def test_the_expected_share_of_cutmix():
    """With side r = √(1-λ), λ uniform: a clipped side is r - r²/4 in the mean, both are independent given r, and so the
    mean area is E[(r - r²/4)²] = E[u - u^1.5/2 + u²/16] = 1/2 - 1/5 + 1/48 over uniform u."""
    shares = drawn(kind="cutmix", side=1000, examples=20_000, batch=1, part=1).shares.double()
    expected = 1 - (1 / 2 - 1 / 5 + 1 / 48)
    assert shares.mean().item() == pytest.approx(expected, abs=4 * shares.std().item() / math.sqrt(20_000) + 1e-3)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_the_distribution_of_mixups_share(alpha):
    """Beta(α, α): mean 1/2, variance 1 / (4 (2α + 1))."""
    shares = drawn(kind="mixup", examples=20_000, batch=1, part=1, alpha=alpha).shares.double()
    assert shares.mean().item() == pytest.approx(0.5, abs=0.015)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.04)


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_the_chance_of_a_batch_to_be_mixed(kind):
    mixer = drawn(kind=kind, side=64, examples=4000, batch=1, part=1, probability=0.3)
    mixed = mixer.shares < 1
    assert mixed.double().mean().item() == pytest.approx(0.3, abs=0.03)
    area = (mixer.boxes[:, 1] - mixer.boxes[:, 0]) * (mixer.boxes[:, 3] - mixer.boxes[:, 2])
    assert (area[~mixed] == 0).all() and (kind == "mixup" or (area[mixed] > 0).all())


def test_partners_are_a_permutation_of_each_part():
    mixer = drawn(kind="cutmix", examples=22, batch=8, part=4)
    parts = mixer.partners.split([4, 4, 4, 4, 4, 2])
    assert [sorted(part.tolist()) for part in parts] == [[0, 1, 2, 3]] * 5 + [[0, 1]]
    assert len({tuple(part.tolist()) for part in parts}) > 2
    assert mixer.shares.shape == (3,)  # one a batch


def test_a_seed_says_what_is_drawn():
    one, same, other = (drawn(seed, kind="cutmix", examples=40) for seed in (1, 1, 2))
    assert torch.equal(one.shares, same.shares) and torch.equal(one.partners, same.partners)
    assert not torch.equal(one.shares, other.shares) and not torch.equal(one.partners, other.partners)


# ---- what is seen -------------------------------------------------------------------------------------------------


def mixed(mixer: Mixer, pixels: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    return mixer(pixels, torch.tensor([step]), step * 4 + torch.arange(len(pixels)))


def test_cutmix_pixel_by_pixel():
    """The box is the partner's, all else its own, in uint8; λ is the share of pixels that are its own."""
    mixer = drawn(kind="cutmix")
    for step, size in enumerate((4, 4, 3)):
        own = torch.randint(256, (size, 3, 8, 8), dtype=torch.uint8)
        seen, partners, share = mixed(mixer, own, step)
        assert seen.dtype == torch.uint8
        top, bottom, left, right = mixer.boxes[step].tolist()
        kept = 0
        for y in range(8):
            for x in range(8):
                within = top <= y < bottom and left <= x < right
                kept += not within
                assert torch.equal(seen[:, :, y, x], own[partners][:, :, y, x] if within else own[:, :, y, x])
        assert share.item() == pytest.approx(kept / 64)
    assert 0 < kept < 64


def test_mixup_is_between_the_two():
    own = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    seen, partners, share = mixed(drawn(kind="mixup"), own, 1)
    assert 0 < share < 1
    expected = share.double() * own.double() + (1 - share.double()) * own[partners].double()
    torch.testing.assert_close(seen, expected.float())


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_a_batch_that_is_not_mixed_is_as_it_was(kind):
    own = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    seen, _, share = mixed(make_mixer(kind), own, 0)
    assert share == 1 and torch.equal(seen, own.to(seen.dtype))


# ---- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "cutout"}, 'mix.kind = "cutout": must be one of none, cutmix, mixup'),
        ({"kind": "cutmix", "alpha": 0.0}, "mix.alpha = 0.0: must be > 0 and finite"),
        ({"kind": "mixup", "probability": 0.0}, "mix.probability = 0.0: must be in (0, 1]"),
        ({"kind": "mixup", "probability": 1.5}, "mix.probability = 1.5: must be in (0, 1]"),
        ({"alpha": 0.2}, "mix.alpha = 0.2: must be 1.0, the default, with kind=none"),
    ],
)
def test_bad_settings(given, message):
    with pytest.raises(InputError) as refused:
        parse(Augment, {"mix": given})
    assert str(refused.value) == message


def test_what_is_not_mixed_has_the_identity_that_it_had():
    assert identity(Augment(pad=4, mix=Mix("none"))) == {"pad": 4}
    assert identity(Augment(mix=Mix("cutmix"))) == {"mix": {"kind": "cutmix"}}
