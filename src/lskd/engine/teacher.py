"""The frozen teacher: what it says to what the student is about to see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lskd.data import images
from lskd.data.images import at_once
from lskd.engine.capture import GATE
from lskd.engine.features import run_tapped, tapped
from lskd.engine.grouped import group_batch_norms
from lskd.engine.optimizer import BATCH_NORMS
from lskd.engine.shared import LogitCache
from lskd.engine.tasks import Task, forward
from lskd.methods import Method, Stage
from lskd.run import Run

STATISTICS_BATCH = 1000  # images that share their statistics where all are shown to a batch-statistics teacher

Network = TypeVar("Network", bound=nn.Module)


def placed(network: Network, device: torch.device) -> Network:
    """`network` on `device`, in the layout of images."""
    return network.to(device, memory_format=images.LAYOUT)  # type: ignore[call-overload]


class Teacher:
    """A network that only teaches: no gradient, weights and buffers unchanged.

    It sees the student's views of the images in `source`, normalised as in its own training, which may not be the
    student's way. `precision` is the student's: that of all that a run computes. So is `group`, which counts in mode
    "batch_stats" (`Recipe.batch_norm_group`).

    In mode "eval" its logits are a function of the view alone. Where they are all that is asked of it, they are
    evaluated an epoch ahead, in large batches; with a `cache`, which all students of the teacher share, each view of
    each image once. Else it sees the student's batches in every step: in mode "batch_stats", where batch norm uses each
    batch's own statistics; for its features; with `mixed` images, of which none comes twice; and with streamed images,
    lest they be decoded twice.
    """

    @GATE.eager()
    def __init__(
        self,
        network: nn.Module,
        source: Any,
        presenter: Any,
        *,
        precision: str,
        mode: str,
        cache: LogitCache | None = None,
        mixed: bool = False,
        group: int = 0,
    ) -> None:
        self.network = placed(network, source.device).requires_grad_(False).eval()
        self.source, self.presenter, self.precision, self.mode, self.cache = source, presenter, precision, mode, cache
        self.by_view = mode == "eval" and source.views is not None  # whether logits can be had for each view, ahead
        self.mixed = mixed
        self.use, self.taps = "none", list[str]()
        self.batch = 0  # of views that are evaluated ahead
        if self.by_view:
            self.batch = min(source.at_once, at_once(source.device.type, *presenter.seen(source.shape)[1:]))
        self._taught: Tensor | None = None  # (N, K), of the views of this epoch
        if mode == "batch_stats":
            group_batch_norms(network, group)
            for module in network.modules():
                if isinstance(module, BATCH_NORMS):
                    module.train()
                    module.track_running_stats = False  # neither read nor changed; the buffers stay in the state

    @classmethod
    @GATE.eager()
    def of(
        cls, run: Run, network: nn.Module, task: Task, taught_on: Any = None, cache: LogitCache | None = None
    ) -> Teacher:
        """The teacher of `run`, whose student is trained on `task`. `taught_on` are its own training images, a tensor
        (N, C, H, W) uint8 or files: needed unless it was trained with the student's normalisation."""
        presenter, recipe = task.presenter_of(run, taught_on), run.recipe
        return cls(
            network, task.train, presenter, precision=recipe.precision, mode=run.teacher_mode, cache=cache,
            mixed=recipe.augment.mix.any, group=recipe.batch_norm_group,
        )  # fmt: skip

    # ---- in a training --------------------------------------------------------------------------------------------

    def enter(self, lesson: Method | Stage) -> None:
        """From now on, what `lesson` declares is asked of it."""
        self.use, self.taps = lesson.teacher_use, tapped(self.network, lesson.teacher_taps)

    @property
    def ahead(self) -> bool:
        """Whether it is evaluated before each epoch, and not in its steps."""
        return self.by_view and self.use == "logits" and not self.mixed

    @property
    def evaluated(self) -> str:
        """How often its logits are computed, for the record of the run."""
        if self.ahead:
            return "every epoch" if self.cache is None else "once a view"
        return "never" if self.use == "none" else "every step"

    def begin_epoch(self, drawn: Tensor) -> None:
        """The steps to come show each image through the view `drawn` (N,) for it."""
        if self.ahead:
            self.hold(self.epoch(drawn))

    @GATE.eager()
    def hold(self, logits: Tensor) -> None:
        """What it says to the views of this epoch, (N, K), is kept where a step, recorded once, looks it up."""
        if self._taught is None:
            self._taught = logits
        else:
            self._taught.copy_(logits)

    def teach(self, indices: Tensor, pixels: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Its logits (B, K) for the images `indices` of this epoch, which look like `pixels`, and its tapped features:
        as much of them as is asked for."""
        if self.ahead:
            assert self._taught is not None
            return self._taught[indices], {}
        return (None, {}) if self.use == "none" else run_tapped(self.network, self.taps, lambda: self.live(pixels))

    # ---- its logits -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def live(self, pixels: Tensor) -> Tensor:
        """Logits (B, K) for one batch of pixels (B, C, H, W)."""
        return forward(self.network, pixels, self.presenter, self.precision)

    def everything(self, drawn: Tensor) -> Iterator[Tensor]:
        """Logits of all images, in order and piece by piece, each through the view `drawn` (N,) for it."""
        if self.by_view:
            yield self.epoch(drawn)
            return
        size = STATISTICS_BATCH if self.mode == "batch_stats" else self.source.at_once
        with GATE.eager():
            yield from map(self.live, self.source.batches(torch.arange(len(drawn)), drawn, size))

    @torch.no_grad()
    def epoch(self, drawn: Tensor) -> Tensor:
        """Logits (N, K) of every training image through the view `drawn` (N,) for it, where views are numbered."""
        cache, views, device = self.cache, self.source.views, self.source.device
        assert views is not None
        with GATE.eager(None if cache is None else cache.lock):
            rows = torch.arange(len(drawn), device=device) * views + drawn.to(device)
            if cache is None:
                return self._evaluate(rows, views)
            missing = rows[~cache.known[rows]]
            if len(missing):
                cache.logits[missing] = self._evaluate(missing, views)
                cache.known[missing] = True
            if device.type == "cuda":
                torch.cuda.current_stream().synchronize()  # other students read it on streams of their own
            return cache.logits[rows]

    def _evaluate(self, rows: Tensor, views: int) -> Tensor:
        """Logits of views numbered image · views + view.

        The last bits of a product may depend on its shape and on the place of a row in it. So all batches are of one
        size, and an image always stands at the same place: what a student sees does not depend on who asked before.
        """
        place = (rows // views) % self.batch
        order = place.argsort(stable=True)
        counts = place.bincount(minlength=self.batch)
        number = torch.empty_like(rows)  # of the batch that each is in: its rank among those at its place
        number[order] = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[place[order]]
        batches = rows[0].repeat(int(counts.max()), self.batch)
        batches[number, place] = rows
        logits = [self.live(self.source.take(batch // views, batch % views)) for batch in batches]
        return torch.stack(logits)[number, place]
