"""A store as reports see it: still."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lskd.errors import InputError
from lskd.run import ProbeSpec, Run
from lskd.store import Store


@dataclass(frozen=True)
class Snapshot(Store):
    """A store as it is when it is first looked at: each record is read once, however many ask for it. It is for those
    who report; whoever trains beside others needs a `Store`."""

    _read: dict[tuple[str, ...], Any] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(store: Store) -> Snapshot:
        return store if isinstance(store, Snapshot) else Snapshot(store.root)

    def _once(self, what: str, read: Callable[..., Any], run: Run, *more: ProbeSpec) -> Any:
        """What `read` gives or raises, the first time it is asked."""
        key = (what, run.id, *(probe.key for probe in more))
        if key not in self._read:
            try:
                self._read[key] = read(run, *more)
            except InputError as error:
                self._read[key] = error
        if isinstance(self._read[key], InputError):
            raise InputError(str(self._read[key]))
        return self._read[key]

    def result(self, run: Run) -> dict[str, Any] | None:
        return self._once("result", super().result, run)

    def env(self, run: Run) -> dict[str, Any]:
        return self._once("env", super().env, run)

    def failure(self, run: Run) -> dict[str, Any] | None:
        return self._once("failure", super().failure, run)

    def probed(self, run: Run, probe: ProbeSpec) -> dict[str, Any] | None:
        return self._once("probed", super().probed, run, probe)

    def epochs(self, run: Run) -> list[dict[str, Any]]:
        return self._once("epochs", super().epochs, run)
