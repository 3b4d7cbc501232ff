"""results/: the only module that knows its file names.

results/datasets/NAME.json    what an imported data set is, but for its images                  (tracked)
results/runs/<id>/
    config.json        exactly what was hashed into the id                                        (tracked)
    env.json           where it was trained: commit, versions, device, command                    (tracked)
    log.jsonl          one line an epoch                                                          (tracked)
    result.json        last and atomically: the run is done when, and only when, it exists        (tracked)
    failed.json        instead of it: why the run diverged or failed                              (tracked)
    rebuilt.json       the result of training a done run again for its weights, or to look at it  (tracked)
    observed/KEY.json  what an observer saw of it (`lskd.observers`)                              (tracked)
    model.safetensors  weights                                                                    (ignored)
    checkpoint.pt      from which an interrupted run goes on; removed when the run is done        (ignored)
    claim              locked by the process that is training the run                             (ignored)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lskd.config import Observation, Run
from lskd.data import Spec
from lskd.errors import InputError
from lskd.program import user_path
from lskd.strict import parse

State = Literal["done", "diverged", "failed", "started", "missing"]


@dataclass(frozen=True)
class Store:
    """The results below `root`."""

    root: Path

    @staticmethod
    def at(results: str) -> Store:
        """The store that a `runtime.results` names: "" is $LSKD_RESULTS, else ./results."""
        root = user_path(results or os.environ.get("LSKD_RESULTS") or "results")
        if root.exists() and not root.is_dir():
            raise InputError(f"runtime.results = {str(root)!r}: is not a directory")
        return Store(root)

    def directory(self, run: Run) -> Path:
        return self.root / "runs" / run.id

    def weights(self, run: Run) -> Path:
        return self.directory(run) / "model.safetensors"

    def checkpoint(self, run: Run) -> Path:
        return self.directory(run) / "checkpoint.pt"

    def log(self, run: Run) -> Path:
        return self.directory(run) / "log.jsonl"

    # ---- reading -------------------------------------------------------------------------------------------------

    def state(self, run: Run) -> State:
        directory = self.directory(run)
        if (directory / "result.json").is_file():
            return "done"
        if failure := read_json(directory / "failed.json"):
            return "diverged" if failure.get("reason") == "diverged" else "failed"
        return "started" if (directory / "checkpoint.pt").is_file() else "missing"

    def result(self, run: Run) -> dict[str, Any] | None:
        """The record of a done run, or None. A record of another configuration is an `InputError`, never used."""
        directory = self.directory(run)
        result = read_json(directory / "result.json")
        if result is not None:
            written = read_json(directory / "config.json")
            if written != run.identity():
                raise InputError(f"{directory}/config.json: is not the configuration of run {run.id}; move it away")
            if result.get("id") != run.id:
                raise InputError(f"{directory}/result.json: is not the record of run {run.id}; move it away")
        return result

    def env(self, run: Run) -> dict[str, Any]:
        """Where the run was trained; empty where that is not known."""
        return read_json(self.directory(run) / "env.json") or {}

    def failure(self, run: Run) -> dict[str, Any] | None:
        return read_json(self.directory(run) / "failed.json")

    def observed(self, run: Run, observation: Observation) -> dict[str, Any] | None:
        """What was seen of the run: `looks`, a record each in the order of steps, and `weights_sha256`, the digest of
        the network's last weights; None where nobody has looked."""
        path = self._observed(run, observation)
        record = read_json(path)
        if record is None:
            return None
        if record.get("observation") != observation.identity() or not isinstance(record.get("looks"), list):
            raise InputError(f"{path}: is not the record of {observation.identity()}; delete it to look again")
        return record

    def looks(self, run: Run, observation: Observation) -> list[dict[str, Any]] | None:
        """The looks alone."""
        record = self.observed(run, observation)
        return None if record is None else record["looks"]

    def _observed(self, run: Run, observation: Observation) -> Path:
        return self.directory(run) / "observed" / f"{observation.key}.json"

    def epochs(self, run: Run) -> list[dict[str, Any]]:
        """The lines of the run's log."""
        path = self.log(run)
        try:
            return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path}: is not one JSON object a line ({error}); restore it, or delete its directory to train again"
            ) from None

    def results(self) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
        """(config, env, result) of every done run in the store, for estimates of cost; damaged ones are left out."""
        for path in sorted(self.root.glob("runs/*/result.json")):
            try:
                config, env, result = (read_json(path.parent / f"{name}.json") for name in ("config", "env", "result"))
            except InputError:
                continue
            if config and env and result:
                yield config, env, result

    def configs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(id, config) of every done run in the store; damaged ones are left out."""
        for path in sorted(self.root.glob("runs/*/result.json")):
            with contextlib.suppress(InputError):
                if config := read_json(path.parent / "config.json"):
                    yield path.parent.name, config

    def specs(self) -> dict[str, Spec]:
        """The imported data sets of the runs in the store, by name."""
        paths = sorted(self.root.glob("datasets/*.json"))
        return {path.stem: parse(Spec, read_json(path) or {}, str(path)) for path in paths}

    # ---- writing -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def claim(self, run: Run) -> Iterator[bool]:
        """Whether this process now holds the run. Released at the end of the block, or when the process dies."""
        directory = self.directory(run)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            file = open(directory / "claim", "a+")  # noqa: SIM115 (it is closed below, and stays open in between)
        except OSError as error:
            raise InputError(f"runtime.results = {str(self.root)!r}: cannot be written: {error.strerror}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            file.seek(0)
            file.truncate()
            file.write(f"{socket.gethostname()} {os.getpid()}\n")
            file.flush()
            yield True

    def begin(self, run: Run, env: dict[str, Any]) -> None:
        """Record what is about to be trained, and where. The caller holds the claim."""
        directory = self.directory(run)
        for remains in directory.glob(".*.tmp"):  # of `write_atomically` in a process that was killed
            remains.unlink(missing_ok=True)
        write_json(directory / "config.json", run.identity())
        if self.result(run) is None:
            write_json(directory / "env.json", env)

    def finish(self, run: Run, result: dict[str, Any]) -> None:
        """Make the run done. The record of a run that was done before stays; training it again is `rebuilt.json`."""
        directory = self.directory(run)
        name = "rebuilt.json" if (directory / "result.json").is_file() else "result.json"
        write_json(directory / name, {"id": run.id, **result})
        for leftover in ("failed.json", "checkpoint.pt"):
            (directory / leftover).unlink(missing_ok=True)

    def describe(self, spec: Spec) -> None:
        """Record what an imported data set is, so that its runs can be reported where its images are not."""
        path = self.root / "datasets" / f"{spec.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(spec))

    def observe(self, run: Run, observation: Observation, looks: list[dict[str, Any]], weights_sha256: str) -> None:
        """Record what was seen of the run, and of which weights at the end."""
        path = self._observed(run, observation)
        path.parent.mkdir(exist_ok=True)
        content = {"observation": observation.identity(), "weights_sha256": weights_sha256, "looks": looks}
        write_json(path, content)

    def fail(self, run: Run, failure: dict[str, Any]) -> None:
        write_json(self.directory(run) / "failed.json", failure)
        if failure["reason"] == "diverged":
            self.checkpoint(run).unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None where there is no such file."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: is not valid JSON ({error}); restore it, or delete its directory to train again"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a JSON object; restore it, or delete its directory to train again")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(path, lambda temporary: temporary.write_text(text + "\n"))


def write_atomically(path: Path, write: Any) -> None:
    """`write(temporary path)`, flushed to the disk, then renamed: `path` is absent, old or whole, never half there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
