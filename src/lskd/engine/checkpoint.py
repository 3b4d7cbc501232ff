"""Checkpoints: what an interrupted training goes on from."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import lskd
from lskd.engine.capture import GATE
from lskd.errors import one_line
from lskd.files import write_atomically
from lskd.run import Run

VERSIONS = {"lskd": lskd.__version__, "torch": str(torch.__version__)}


class Checkpoint:
    """The file `path` of one training, written every `seconds`; there is none where `path` is None."""

    def __init__(self, path: Path | None, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self._written = time.perf_counter()

    def load(self, run: Run, readings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The state in it if that is one of `run`, seen by the probes of `readings` so far, and was written by the same
        versions: with others the numbers after it might not be those of the whole run. Any other one costs the work
        since the start, not the run."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            if state["id"] != run.id or state["readings"].keys() != readings.keys():
                return None
            if state["versions"] != VERSIONS:
                raise ValueError(f"it is of {_show(state['versions'])}, and this is {_show(VERSIONS)}")
            return state
        except Exception as error:  # torch.load raises many kinds for a damaged file
            self.refuse(error)
            return None

    def refuse(self, why: Exception) -> None:
        """Say that it is of no use."""
        logging.getLogger(__name__).warning("%s cannot be used (%s): starting the run again", self.path, one_line(why))

    def due(self) -> bool:
        """Whether it is time to write it."""
        return time.perf_counter() - self._written > self.seconds

    def write(self, state: Callable[[], Mapping[str, Any]]) -> None:
        if self.path is None:
            return
        self._written = time.perf_counter()
        with GATE.eager():
            content = {**state(), "versions": VERSIONS}
            write_atomically(self.path, lambda path: _save(content, path))


def _show(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _save(state: Mapping[str, Any], path: Path) -> None:
    """Through a file of ours: of a full disk torch says nothing that a reader could understand."""
    with open(path, "wb") as file:
        torch.save(state, file)
