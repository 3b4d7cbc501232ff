"""Weights & Biases. Its own variables say where to: WANDB_PROJECT (default lskd), WANDB_ENTITY, WANDB_MODE=offline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from lskd.run import Run
from lskd.trackers.tracker import Tracker, Value, register


@register("wandb")
class WeightsAndBiases(Tracker):
    """A run there has the run's id, and goes on where it was: lines that are there stay as they are."""

    packages: ClassVar[tuple[str, ...]] = ("wandb",)

    def __init__(self, folder: Path) -> None:
        import wandb

        super().__init__(folder)
        self.runs: dict[str, Any] = {}
        # It is not to print among the sweep's lines, nor to ask for a key there: without one, it is an error here.
        there = wandb.setup(wandb.Settings(silent=True, console="off"))
        if there.settings.mode == "online":
            wandb.login()

    def begin(self, run: Run, settings: Mapping[str, Value]) -> None:
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        self.runs[run.id] = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "lskd",
            id=run.id,
            name=str(run),
            config=dict(settings),
            dir=str(self.folder),
            resume="allow",
            reinit="create_new",  # several runs side by side
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, run: Run, line: int, step: int, values: Mapping[str, float]) -> None:
        there = self.runs[run.id]
        if line >= there.step:
            there.log({**values, "step": step}, step=line)

    def end(self, run: Run, final: Mapping[str, float] | None) -> None:
        there = self.runs.pop(run.id)
        there.summary.update(dict(final or {}))
        there.finish(exit_code=0 if final is not None else 1)
