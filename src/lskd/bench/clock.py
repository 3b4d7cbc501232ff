"""The clock of a benchmark: how long a window of steps takes, at which precision and in which layout."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from lskd.bench.cases import AS_IT_COMES, Case, Options
from lskd.bench.machine import LAYOUTS, timed
from lskd.data import images as of_images
from lskd.engine.training import set_precision

WARM_UP = {"cpu": 5, "cuda": 8}  # steps; on CUDA the step is captured in them


def window(case: Case, device: torch.device, options: Options) -> float:
    """Images/s of one window of `case`."""
    switch(case.precision, options)
    case.work(case.settle)
    images, seconds = timed(device, lambda: case.work(case.steps))
    return images / seconds


def switch(precision: str, options: Options) -> None:
    """The numerics of `precision`, and how cuDNN finds its algorithms. (The usual loop sets its own.)"""
    search = max(options.fleets) == 1 if options.search is None else options.search
    set_precision("fp32" if precision == AS_IT_COMES else precision, search=search)


@contextlib.contextmanager
def laid_out(layout: str) -> Iterator[None]:
    """Images and weights in another `layout` than the engine's own."""
    own = of_images.LAYOUT
    of_images.LAYOUT = LAYOUTS[layout]
    try:
        yield
    finally:
        of_images.LAYOUT = own


def calibrated(device: torch.device, work: Callable[[int], Any], seconds: float, most: int) -> int:
    """How many steps take about `seconds`: at least 2. A clock is read at both ends of a window only, so that it
    never holds up what is timed; hence the number must be known before."""
    steps = 1
    while True:
        _, taken = timed(device, functools.partial(work, steps))
        if taken > seconds / 10 or 2 * steps > most:
            return max(2, min(most, round(steps * seconds / taken)))
        steps *= 2
