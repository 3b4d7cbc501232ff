"""Images of a batch mixed with one another, as `lskd.data.augment.Mix` says."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lskd.data.augment import Mix


class Mixer:
    """The mixtures of one training: drawn on the host for a whole epoch (`begin`), and read by its steps.

    Pixels are mixed as they are, before normalisation: CutMix gives uint8, mixup fp32 in [0, 255]. So whoever looks at
    a batch sees the same mixture, whatever its normalisation. (By channel that is affine, and one might as well mix
    after it; per image it is that of the mixed image.)
    """

    def __init__(
        self, mix: Mix, shape: tuple[int, int, int], *, examples: int, batch: int, part: int, device: torch.device
    ) -> None:
        """For `examples` images a pass in batches of `batch`, `part` of which go through the network at once; `shape`
        (C, h, w) is that of what a network sees."""
        self.mix, self.size = mix, shape[1:]
        batches = torch.arange(examples).split(batch)
        self.parts = [len(one) for of in batches for one in of.split(part)]  # sizes of all in an epoch
        steps = len(batches)
        self.shares = torch.ones(steps, device=device)  # λ of each batch
        self.boxes = torch.zeros(steps, 4, dtype=torch.int64, device=device)  # top, bottom, left, right
        # By place in the epoch: the row of each one's partner in its part.
        self.partners = torch.zeros(examples, dtype=torch.int64, device=device)
        height, width = self.size
        self._down = torch.arange(height, device=device)[:, None]
        self._across = torch.arange(width, device=device)

    def begin(self, seed: int) -> None:
        """Draw those of an epoch."""
        rng, steps, (height, width) = np.random.default_rng(seed), len(self.shares), self.size
        mixed = rng.random(steps) < self.mix.probability
        shares = np.where(mixed, rng.beta(self.mix.alpha, self.mix.alpha, steps), 1.0)
        if self.mix.kind == "cutmix":
            boxes = cut(shares, rng.integers(height, size=steps), rng.integers(width, size=steps), height, width)
            shares = 1.0 - (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]) / (height * width)
            self.boxes.copy_(torch.from_numpy(boxes))
        self.shares.copy_(torch.from_numpy(shares))
        self.partners.copy_(torch.from_numpy(np.concatenate([rng.permutation(size) for size in self.parts])))

    def __call__(self, pixels: Tensor, step: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`pixels` (B, C, h, w) uint8 at `places` (B,) of the epoch, in its batch number `step` (1,), mixed; the row of
        each one's partner (B,), and λ (1,)."""
        partners, share = self.partners[places], self.shares[step]
        others = pixels[partners]
        if self.mix.kind == "mixup":
            return share * pixels.float() + (1.0 - share) * others.float(), partners, share
        top, bottom, left, right = self.boxes[step].unbind(1)
        down, across = self._down, self._across
        inside = (down >= top) & (down < bottom) & (across >= left) & (across < right)  # (h, w)
        return torch.where(inside, others, pixels), partners, share


def cut(shares: np.ndarray, rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> np.ndarray:
    """CutMix's boxes (S, 4) of top, bottom, left, right: around the pixels at `rows` and `columns`, 1 - `shares` of the
    image's area before they are clipped, each half of a side rounded down to pixels (all else (S,))."""
    sides = []
    for centre, size in ((rows, height), (columns, width)):
        half = (np.sqrt(1.0 - shares) * size).astype(np.int64) // 2
        sides += [np.clip(centre - half, 0, size), np.clip(centre + half, 0, size)]
    return np.stack(sides, axis=1)
