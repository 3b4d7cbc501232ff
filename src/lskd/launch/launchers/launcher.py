"""What a launcher is: who carries out a plan. One plan serves all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from lskd.config_groups import Conf
from lskd.launch.sweep import Outcomes
from lskd.plan import Probes
from lskd.registry import Registry
from lskd.run import Run
from lskd.runtime import Runtime
from lskd.store import Store


@dataclass(frozen=True)
class Work:
    """A plan, and where and how it is to be carried out."""

    name: str  # of the experiment; "run" of a single run
    runs: Sequence[Run]  # each after its parents
    store: Store
    runtime: Runtime
    conf: Conf
    probes: Probes
    words: Sequence[str]  # of the command line, its launcher's among them


@dataclass(frozen=True)
class Elsewhere:
    """Where a run is that a launcher has handed over: in which job, and how that is."""

    job: str
    state: Literal["queued", "running", "ended"]
    told: str = ""  # by the cluster: why it waits, or how it ended
    log: str = ""


class Launcher:
    """Who carries out a plan: a frozen dataclass for each, whose fields are its settings (`launcher.FIELD=…`).

    here: whether this process trains. The jobs of a sweep (-m) are one plan then; else each is carried out for itself.
    """

    here: ClassVar[bool] = False

    def carry_out(self, work: Work) -> Outcomes:
        """Have all done that is missing, or see to it that it will be (`Outcomes.submitted`)."""
        raise TypeError(f"{type(self).__name__} does not define carry_out(work)")

    def describe(self, work: Work) -> Sequence[str]:
        """Lines for plan=true about what `carry_out` would do."""
        return ()

    def elsewhere(self, store: Store, ids: Iterable[str]) -> Mapping[str, Elsewhere]:
        """Those of the runs `ids` that have been handed over from this store, whatever has become of them."""
        return {}


LAUNCHERS: Registry[Launcher] = Registry("launcher", Launcher)
register = LAUNCHERS.register


def handed_over(store: Store, ids: Iterable[str]) -> dict[str, Elsewhere]:
    """`Launcher.elsewhere` of all launchers."""
    ids, found = list(ids), dict[str, Elsewhere]()
    for launcher in LAUNCHERS.values():
        found |= launcher.elsewhere(store, ids)
    return found
