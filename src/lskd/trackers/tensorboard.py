"""TensorBoard: `tensorboard --logdir results/trackers/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from lskd.run import Run
from lskd.trackers.tracker import Tracker, Value, register

if TYPE_CHECKING:
    from pathlib import Path

    from torch.utils.tensorboard import SummaryWriter


@register("tensorboard")
class TensorBoard(Tracker):
    """One folder of event files a run, with its settings under HPARAMS. What it has of a run is replaced."""

    packages: ClassVar[tuple[str, ...]] = ("tensorboard",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.writers: dict[str, SummaryWriter] = {}
        self.settings: dict[str, Mapping[str, Value]] = {}

    def begin(self, run: Run, settings: Mapping[str, Value]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        name = str(run).replace("α", "alpha").replace("/", "-").encode("ascii", "replace").decode()
        folder = self.folder / f"{name[:200]} {run.id}"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.writers[run.id] = SummaryWriter(str(folder), flush_secs=10)
        self.settings[run.id] = settings

    def log(self, run: Run, line: int, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writers[run.id].add_scalar(name, value, step)

    def end(self, run: Run, final: Mapping[str, float] | None) -> None:
        from torch.utils.tensorboard.summary import hparams

        writer, settings = self.writers.pop(run.id), self.settings.pop(run.id)
        file = writer.file_writer
        if final is not None and file is not None:  # `SummaryWriter.add_hparams` would make a second run of it
            for summary in hparams(dict(settings), dict(final)):
                file.add_summary(summary)
            for name, value in final.items():
                writer.add_scalar(name, value)
        writer.close()
