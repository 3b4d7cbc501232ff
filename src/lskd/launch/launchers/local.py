"""`launcher=local`: this process trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lskd.launch.launchers.launcher import Launcher, Work, register
from lskd.launch.sweep import Outcomes, carry_out


@register("local")
@dataclass(frozen=True)
class Local(Launcher):
    """This process, beside others on the same store."""

    here: ClassVar[bool] = True

    def carry_out(self, work: Work) -> Outcomes:
        return carry_out(work.runs, work.store, work.runtime, work.conf, work.probes)
