"""An experiment (conf/experiment/NAME.yaml): which tables one command trains and prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lskd.errors import require
from lskd.schema import parse


@dataclass(frozen=True)
class Experiment:
    """What `lskd-run experiment=NAME` trains and prints."""

    title: str
    tables: tuple[str, ...]
    name: str = ""
    description: str = ""
    cost: str = ""
    seeds: tuple[int, ...] = ()  # instead of those of its tables
    # Tables of other experiments whose probes look at these runs, too, where they are theirs: they need not be
    # trained again.
    probe_for: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)  # laid over every cell; a teacher's, where there is one
    threads: int = 0  # CPU threads that suit its networks, where runtime.threads = 0 leaves the choice open
    # Not the paper's protocol, and why: the report says so, and prints no paper values beside these numbers.
    shortened: str = ""
    # Whose protocol it is. What is found at one of our own (every shortened one is) neither reproduces nor contradicts
    # a paper: it agrees or disagrees at this protocol.
    protocol: Literal["paper", "own"] = "paper"

    def __post_init__(self) -> None:
        require(bool(self.tables), "tables", [], "a list of names in conf/table")
        require(len(set(self.tables)) == len(self.tables), "tables", list(self.tables), "all different")
        require(len(set(self.seeds)) == len(self.seeds), "seeds", list(self.seeds), "all different")
        require(self.threads >= 0, "threads", self.threads, ">= 0")

    @property
    def own(self) -> bool:
        """Whether the protocol is one of our own."""
        return self.protocol == "own" or bool(self.shortened)


def load_experiment(content: Mapping[str, Any], name: str = "") -> Experiment:
    """An experiment from the content of its file (as composed by Hydra, or read from conf/experiment)."""
    return parse(Experiment, {"name": name, **content} if name else content, "experiment")
