"""What is measured: the ways to train, by name, and how long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lskd.bench.ways import Runner


CPU_EXAMPLES = 2048  # on a CPU, an epoch of a whole data set would outlast every window
STEPS = 400_000  # of each training at most, all windows together
USUAL_CE, USUAL_KD = "usual CE", "usual KD"
PUBLIC_CE, PUBLIC_KD = "usual CE as public codes leave it", "usual KD as public codes leave it"
CE, LIVE, FILLING, CACHED = "CE", "KD, teacher every step", "KD, filling", "KD, cached"
TEACHER = "teacher"  # its evaluation ahead of an epoch: a part of FILLING

USUAL = {
    USUAL_CE: USUAL_CE, PUBLIC_CE: USUAL_CE, CE: USUAL_CE,
    USUAL_KD: USUAL_KD, PUBLIC_KD: USUAL_KD, LIVE: USUAL_KD, FILLING: USUAL_KD, CACHED: USUAL_KD,
}  # fmt: skip

PUBLIC = {USUAL_CE: PUBLIC_CE, USUAL_KD: PUBLIC_KD}

# The precision of public codes: that of torch as it comes, which is TF32 for the convolutions of a GPU, and fp32 for
# products. On a CPU it is fp32, and the case is the usual one.
AS_IT_COMES = "fp32, convolutions tf32"

# Whose work a step does.
FLOOR = {
    USUAL_CE: CE, PUBLIC_CE: CE, CE: CE, USUAL_KD: LIVE, PUBLIC_KD: LIVE, LIVE: LIVE, FILLING: LIVE, CACHED: CACHED,
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """How to measure: `repeats` windows of `seconds` for each case, one after the other in turns."""

    seconds: float
    repeats: int
    precisions: tuple[str, ...]
    fleets: tuple[int, ...]
    usual: bool = True
    examples: int | None = None  # None: those of the data set, `CPU_EXAMPLES` on a CPU
    search: bool | None = (
        None  # whether cuDNN tries its algorithms for each shape; None: if runs are alone, as lskd-run
    )
    layout: str = "channels_last"  # or "contiguous"


@dataclass
class Case:
    """One way to train, and what the clock said: images/s of each window, of all runs of a fleet together."""

    name: str
    precision: str
    fleet: int
    work: Callable[[int], int]  # this many steps of each run -> the images they took
    settle: int  # steps before each window
    runners: Sequence[Runner] = ()
    memory: dict[str, float] = field(default_factory=dict)
    steps: int = 0  # of a window
    rates: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.name}, {self.precision}" + (f", fleet of {self.fleet}" if self.fleet > 1 else "")

    @property
    def captured(self) -> bool | None:
        """Whether all steps are replayed; None where nothing is (on a CPU, in the usual loop)."""
        each = [runner.captured for runner in self.runners]
        return None if None in each or not each else all(each)
