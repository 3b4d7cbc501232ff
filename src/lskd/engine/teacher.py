"""The frozen teacher: its logits for what the student is about to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from lskd.data.augment import Normalizer, Views
from lskd.data.stream import Stream
from lskd.engine.capture import GATE
from lskd.engine.optimizer import BATCH_NORMS
from lskd.engine.shared import Table

# Images evaluated at once, without gradients. On a CPU, activations of more would not stay in its caches (ResNets and
# WRNs: a thousand at once take up to 2.5 times as long).
EVALUATION_BATCH = {"cpu": 128, "cuda": 1000}

# Of networks and of what they see. On a CPU 1.2 to 1.4 times as fast as contiguous; on CUDA it suits tensor cores, and
# in fp32 it may be the slower one: not measured.
LAYOUT = torch.channels_last

Network = TypeVar("Network", bound=nn.Module)


def placed(network: Network, device: torch.device) -> Network:
    """`network` on `device`, in `LAYOUT`."""
    return network.to(device, memory_format=LAYOUT)  # type: ignore[call-overload]


def forward(network: Callable[[Tensor], Tensor], pixels: Tensor, normalizer: Normalizer, precision: str) -> Tensor:
    """uint8 (B, C, H, W) -> fp32 logits (B, K)."""
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return network(normalizer(pixels).contiguous(memory_format=LAYOUT)).float()


class Teacher:
    """A network that only teaches: no gradient, weights and buffers unchanged.

    It sees the student's views, normalised as in its own training (`normalizer`, `shared.teacher_normalizer`), which
    may not be the student's way. `precision` is the student's: that of all that a run computes.

    In mode "eval" its logits are a function of the view alone. They are evaluated an epoch ahead, in large batches;
    with a `table`, which all students of the teacher share, each view of each image once. In mode "batch_stats" batch
    norm uses each batch's own statistics, so the teacher must see the student's batches: `live`. So it does with
    streamed images, lest they be decoded twice.
    """

    def __init__(
        self,
        network: nn.Module,
        views: Views | Stream,
        normalizer: Normalizer,
        *,
        precision: str,
        mode: str,
        table: Table | None,
    ) -> None:
        self.network = network.requires_grad_(False).eval()
        self.normalizer, self.precision, self.table = normalizer, precision, table
        self.ahead = False
        if isinstance(views, Views):
            self.views, self.batch = views, EVALUATION_BATCH[views.images.device.type]
            self.ahead = mode == "eval"
        if mode == "batch_stats":
            for module in network.modules():
                if isinstance(module, BATCH_NORMS):
                    module.train()
                    module.track_running_stats = False  # neither read nor changed; the buffers stay in the state

    @property
    def how(self) -> str:
        """How often its logits are computed, for the record of the run."""
        return "every step" if not self.ahead else "every epoch" if self.table is None else "once a view"

    @torch.no_grad()
    def live(self, pixels: Tensor) -> Tensor:
        """Logits (B, K) for one batch (B, C, H, W) uint8."""
        return forward(self.network, pixels, self.normalizer, self.precision)

    @torch.no_grad()
    def epoch(self, drawn: Tensor) -> Tensor:
        """Logits (N, K) of every training image through the view `drawn` (N,) for it. For mode "eval"."""
        table = self.table
        with GATE.eager(None if table is None else table.lock):
            rows = torch.arange(len(drawn), device=drawn.device) * self.views.count + drawn
            if table is None:
                return self._evaluate(rows)
            missing = rows[~table.known[rows]]
            if len(missing):
                table.logits[missing] = self._evaluate(missing)
                table.known[missing] = True
            if drawn.is_cuda:
                torch.cuda.current_stream().synchronize()  # other students read it on streams of their own
            return table.logits[rows]

    def _evaluate(self, rows: Tensor) -> Tensor:
        """Logits of views numbered image · views + view.

        The last bits of a product may depend on its shape and on the place of a row in it. So all batches are of one
        size, and an image always stands at the same place: what a student sees does not depend on who asked before.
        """
        place = (rows // self.views.count) % self.batch
        order = place.argsort(stable=True)
        counts = place.bincount(minlength=self.batch)
        number = torch.empty_like(rows)  # of the batch that each is in: its rank among those at its place
        number[order] = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[place[order]]
        batches = rows[0].repeat(int(counts.max()), self.batch)
        batches[number, place] = rows
        logits = [self.live(self.views.take(batch // self.views.count, batch % self.views.count)) for batch in batches]
        return torch.stack(logits)[number, place]
