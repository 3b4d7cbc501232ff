"""A store as reports see it: all of its runs, whether a plan knows them or not, and each record read once."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lskd.errors import InputError
from lskd.files import read_json
from lskd.run import ProbeSpec, Run, id_of
from lskd.store import State, Store, check_result, failure_in, unfinished

ID = re.compile("[0-9a-f]{12}")


@dataclass(frozen=True)
class Record:
    """What a store holds of one run, found by its id alone."""

    id: str
    state: State
    config: dict[str, Any]
    env: dict[str, Any]
    result: dict[str, Any]  # empty of a run that has not been done


@dataclass(frozen=True)
class Snapshot(Store):
    """A store as it was when it was first looked at: each record is read once, however often it is asked for. For
    reports; a process that trains beside others needs a `Store`."""

    _read: dict[tuple[str, ...], Any] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(store: Store) -> Snapshot:
        return store if isinstance(store, Snapshot) else Snapshot(store.root)

    def _once(self, what: str, read: Callable[..., Any], run: Run, *more: ProbeSpec) -> Any:
        """What `read` gives or raises, the first time it is asked."""
        key = (what, run.id, *[probe.key for probe in more]) if more else (what, run.id)
        try:
            found = self._read[key]
        except KeyError:
            try:
                found = read(run, *more)
            except InputError as error:
                found = error
            self._read[key] = found
        if isinstance(found, InputError):
            raise InputError(str(found))
        return found

    def result(self, run: Run) -> dict[str, Any] | None:
        return self._once("result", super().result, run)

    def damage(self, run: Run) -> str | None:
        try:
            self.result(run)
        except InputError as error:
            return str(error)
        return None

    def env(self, run: Run) -> dict[str, Any]:
        return self._once("env", super().env, run)

    def failure(self, run: Run) -> dict[str, Any] | None:
        return self._once("failure", super().failure, run)

    def probed(self, run: Run, probe: ProbeSpec) -> dict[str, Any] | None:
        return self._once("probed", super().probed, run, probe)

    def epochs(self, run: Run) -> list[dict[str, Any]]:
        return self._once("epochs", super().epochs, run)

    def record(self, id: str) -> Record | None:
        """What is here of the run `id`, whichever it is; None where there is nothing. Damage is an `InputError`."""
        directory = f"{self.root}/runs/{id}"  # of text: see `Store.result`
        config, result = read_json(f"{directory}/config.json"), read_json(f"{directory}/result.json")
        if config is None and result is None:
            return None
        if config is None or id_of(config) != id:
            raise InputError(f"{directory}/config.json: is not the configuration of run {id}; move it away")
        env: dict[str, Any] = {}
        with contextlib.suppress(InputError):  # as in `env`
            env = read_json(f"{directory}/env.json") or {}
        if result is not None:
            check_result(result, id, directory)
            if not os.path.isfile(f"{directory}/retrain.json"):
                return Record(id, "done", config, env, result)
        folder = Path(directory)
        return Record(id, unfinished(folder, failure_in(folder)), config, env, result or {})

    def find(self, begin: str) -> str:
        """The id that begins so: the first digits are enough where they are those of one run."""
        found = [id for id in self.all_ids() if id.startswith(begin)] if begin else []
        if not found:
            raise InputError(f"id = {begin!r}: is no run in {self.root}; lskd-report --runs lists them")
        if len(found) > 1:
            some = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
            raise InputError(f"id = {begin!r}: {len(found)} runs begin so ({some}); give more digits")
        return found[0]

    def all_ids(self) -> list[str]:
        """Of all runs of which there is something in the store, in their order."""
        runs = self.root / "runs"
        return sorted(name for name in os.listdir(runs) if ID.fullmatch(name)) if runs.is_dir() else []
