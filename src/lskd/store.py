"""results/: the only module that knows its file names.

    results/datasets/NAME.json    what an imported data set is, but for its images                  (tracked)
    results/runs/<id>/
        config.json        exactly what was hashed into the id                                        (tracked)
        env.json           where it was trained: commit, versions, device, command                    (tracked)
        log.jsonl          one line an epoch                                                          (tracked)
        result.json        last and atomically: the run is done when, and only when, it exists        (tracked)
        failed.json        instead of it: why the run diverged or failed                              (tracked)
        rebuilt.json       the result of training a done run again for its weights, or for a probe    (tracked)
        probes/KEY.json    what a probe saw of it (`lskd.probes`)                                     (tracked)
        model.safetensors  weights                                                                    (ignored)
        peer.safetensors   those of the network that was trained together with it; peer2, …           (ignored)
        checkpoint.pt      from which an interrupted run goes on; removed when the run is done        (ignored)
        retrain.json       runtime.retrain has asked for the run again: it is trained as if it were   (ignored)
                           not done, and its record stays until the new one takes its place; delete
                           the file to have the record back as it is

    results/.jobs/KEY/     which runs a cluster's job is to do; its script, and what it prints           (ignored)
    results/trackers/NAME  what a tracker keeps here, such as TensorBoard's files (`lskd.trackers`)       (ignored)
    results/.leases/<id>   who is training the run, and how far it is (`lskd.claims`)                 (ignored)

What is damaged, or of something else, is named and never used, and never overwritten.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lskd.claims import Claims, unfit
from lskd.data import Spec
from lskd.errors import InputError
from lskd.files import RESTORE, read_json, write_atomically, write_json
from lskd.networks import OWN, PEERS, of_network
from lskd.program import user_path
from lskd.records import fault, wrong_numbers
from lskd.run import ProbeSpec, Run
from lskd.schema import parse

State = Literal["done", "diverged", "failed", "started", "missing", "damaged"]


class ClaimLost(Exception):
    """The run is another process's by now: its claim was deleted while it trained here, or could not be renewed."""


@dataclass(frozen=True)
class Store:
    """The results below `root`."""

    root: Path
    # Runs that were done when their training began.
    _were_done: set[str] = field(default_factory=set, repr=False, compare=False)
    _env: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)  # of those trained again
    # What `damage` found, with the state of the files that it looked at.
    _damage: dict[str, tuple[object, str | None]] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def at(results: str) -> Store:
        """The store that a `runtime.results` names: "" is $LSKD_RESULTS, else ./results."""
        root = user_path(results or os.environ.get("LSKD_RESULTS") or "results")
        if root.exists() and not root.is_dir():
            raise InputError(f"runtime.results = {str(root)!r}: is not a directory")
        return Store(root)

    def directory(self, run: Run) -> Path:
        return self.root / "runs" / run.id

    def weights(self, run: Run, network: str = OWN) -> Path:
        """Of its own network, or of a peer's (`lskd.networks`)."""
        return self.directory(run) / ("model.safetensors" if network == OWN else f"{network}.safetensors")

    def all_weights(self, run: Run) -> list[Path]:
        """Of all of its networks."""
        return [self.weights(run, network) for network in (OWN, *PEERS[: len(run.peers)])]

    def checkpoint(self, run: Run) -> Path:
        return self.directory(run) / "checkpoint.pt"

    def log(self, run: Run) -> Path:
        return self.directory(run) / "log.jsonl"

    @property
    def trackers(self) -> Path:
        """The folder of folders that trackers (`lskd.trackers`) may write to, by their names."""
        return self.root / "trackers"

    # ---- reading -------------------------------------------------------------------------------------------------

    def state(self, run: Run) -> State:
        directory = f"{self.root}/runs/{run.id}"  # of text: a sweep asks it of all that waits, and often
        if not os.path.lexists(directory):
            return "missing"
        if self.damage(run) is not None:
            return "damaged"
        if os.path.isfile(f"{directory}/result.json") and not os.path.isfile(f"{directory}/retrain.json"):
            return "done"
        return unfinished(self.directory(run), self.failure(run))

    def ready(self, run: Run) -> bool:
        """Whether the run is done and its weights are here: it can teach, and probes can run."""
        return self.state(run) == "done" and self.weights(run).is_file()

    def damage(self, run: Run) -> str | None:
        """Why what is here of the run cannot be used, in a line that says what to do; None where nothing is wrong."""
        directory = self.directory(run)
        files = _version(directory / "result.json"), _version(directory / "config.json")
        known = self._damage.get(run.id)
        if known is None or known[0] != files:
            try:
                self.result(run)
                known = files, None
            except InputError as error:
                known = files, str(error)
            self._damage[run.id] = known
        return known[1]

    def result(self, run: Run) -> dict[str, Any] | None:
        """The record of a done run, or None. What is damaged, or of another run, is an `InputError`, never used."""
        directory = f"{self.root}/runs/{run.id}"  # a `Path` takes as long as a read, and reports ask for thousands
        if not os.path.isdir(directory):
            if os.path.lexists(directory):
                raise InputError(f"{directory}: is not a directory, as that of a run is; move it away")
            return None
        result, written = read_json(f"{directory}/result.json"), read_json(f"{directory}/config.json")
        if written != run.identity() and (result is not None or written is not None):
            raise InputError(f"{directory}/config.json: is not the configuration of run {run.id}; move it away")
        if result is not None:
            check_result(result, run.id, directory)
        return result

    def weights_sha256(self, run: Run, network: str = OWN) -> list[str]:
        """The digests that the weights of a done run may have: that of the record, and that of those made again. (What
        is damaged has none.)"""
        digests = []
        for name in ("result", "rebuilt"):
            with contextlib.suppress(InputError):
                record = read_json(self.directory(run) / f"{name}.json") or {}
                digests.append(of_network(record, network).get("weights_sha256"))
        return [digest for digest in digests if isinstance(digest, str)]

    def sources(self, run: Run) -> dict[str, str]:
        """Where the weights lay, by their digests, that the run and those of its lineage have started from."""
        found: dict[str, str] = {}
        for parent in run.parents:
            found |= self.sources(parent)
        for network, one in ((OWN, run), *zip(PEERS, run.peers, strict=False)):
            if one.start.digest:
                with contextlib.suppress(InputError):
                    source = (of_network(self.result(run) or {}, network).get("start") or {}).get("source")
                    if isinstance(source, str):
                        found[one.start.digest] = source
        return found

    def request(self, run: Run) -> str | None:
        """Which request to train the run again is open (see `ask_again`)."""
        try:
            content = read_json(self.directory(run) / "retrain.json")
        except InputError:  # it is one, whatever it says
            content = {}
        return None if content is None else str(content.get("request"))

    def env(self, run: Run) -> dict[str, Any]:
        """Where the run was trained; empty where that is not known."""
        with contextlib.suppress(InputError):  # no number depends on it
            return read_json(f"{self.root}/runs/{run.id}/env.json") or {}
        return {}

    def failure(self, run: Run) -> dict[str, Any] | None:
        """Why the run failed or diverged; None if it did not."""
        return failure_in(self.directory(run))

    def failure_version(self, run: Run) -> object:
        """Another one whenever `failure` has been recorded anew."""
        return _version(self.directory(run) / "failed.json")

    def probed(self, run: Run, probe: ProbeSpec) -> dict[str, Any] | None:
        """What a probe saw of the run: `readings`, one a step that it looked at, and `weights_sha256`, the digest
        of the network's last weights; None where it has not run."""
        path = self._probed(run, probe)
        record = read_json(path)
        if record is None:
            return None
        readings = record.get("readings")
        whole = isinstance(readings, list) and all(
            isinstance(reading, dict) and "step" in reading for reading in readings
        )
        if record.get("probe") != probe.identity() or not whole:
            raise InputError(f"{path}: is not the record of {probe.identity()}; delete it to run the probe again")
        for reason in wrong_numbers(readings, "readings", probe.settings.lines, probe.settings.texts):
            raise InputError(f"{path}: is damaged: {reason}; delete it to run the probe again")
        return record

    def readings(self, run: Run, probe: ProbeSpec) -> list[dict[str, Any]] | None:
        """The readings alone."""
        record = self.probed(run, probe)
        return None if record is None else record["readings"]

    def seen(self, run: Run, probe: ProbeSpec) -> bool:
        """Whether there is such a record, be it damaged."""
        return os.path.lexists(self._probed(run, probe))

    def beside(self, run: Run, probe: ProbeSpec, name: str) -> Path:
        """A file that a probe has made, which is not tracked, as the weights are not."""
        return self.directory(run) / "probes" / f"{probe.key}.{name}"

    def _probed(self, run: Run, probe: ProbeSpec) -> Path:
        return self.directory(run) / "probes" / f"{probe.key}.json"

    def epochs(self, run: Run) -> list[dict[str, Any]]:
        """The lines of the run's log."""
        return self.log_of(run.id)

    def log_of(self, id: str) -> list[dict[str, Any]]:
        """`epochs` of the run `id`, whichever it is."""
        path = self.root / "runs" / id / "log.jsonl"
        try:
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            lines = [json.loads(line) for line in text.splitlines()]
            if any(not isinstance(line, dict) or "epoch" not in line for line in lines):
                raise ValueError("a line is none of an epoch")
        except (OSError, ValueError) as error:  # JSON's and UTF-8's errors are ValueErrors
            raise InputError(f"{path}: is not one JSON object a line ({error}); {RESTORE}") from None
        return lines

    def results(
        self, wanted: Callable[[dict[str, Any]], bool] = lambda config: True
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
        """(config, env, result) of the done runs in the store whose config is `wanted`, in the order of their ids.
        Damaged ones are left out. Records are read one by one, as they are asked for."""
        for directory in self._done():
            try:
                config = read_json(directory / "config.json")
                if config and wanted(config):
                    env, result = read_json(directory / "env.json"), read_json(directory / "result.json")
                    if env and result:
                        yield config, env, result
            except InputError:
                continue

    def configs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(id, config) of every done run in the store; damaged ones are left out."""
        for directory in self._done():
            with contextlib.suppress(InputError):
                if config := read_json(directory / "config.json"):
                    yield directory.name, config

    def ids(self) -> list[str]:
        """Those of the done runs, damaged ones among them."""
        return [directory.name for directory in self._done()]

    def _done(self) -> Iterator[Path]:
        """The directories of done runs, in the order of their ids."""
        runs = self.root / "runs"
        for id in sorted(os.listdir(runs)) if runs.is_dir() else ():
            if os.path.exists(f"{runs}/{id}/result.json"):
                yield runs / id

    def specs(self) -> dict[str, Spec]:
        """The imported data sets of the runs in the store, by name; damaged ones are left out."""
        specs = {}
        for path in sorted(self.root.glob("datasets/*.json")):
            with contextlib.suppress(InputError):
                specs[path.stem] = parse(Spec, read_json(path) or {}, str(path))
        return specs

    def job_folder(self, key: str) -> Path:
        """Of what was handed to a cluster under `key`."""
        return self.root / ".jobs" / key

    def job(self, key: str) -> dict[str, Any] | None:
        """Its record, if there is one."""
        return read_json(self.job_folder(key) / "job.json")

    def jobs(self) -> list[tuple[str, dict[str, Any]]]:
        """(key, record) of each, the oldest first; damaged ones are left out."""
        found = []
        for path in self.root.glob(".jobs/*/job.json"):
            with contextlib.suppress(InputError):
                if record := read_json(path):
                    found.append((path.parent.name, record))
        return sorted(found, key=lambda one: one[1].get("submitted", 0))

    def write_job(self, key: str, record: dict[str, Any]) -> None:
        write_json(self.job_folder(key) / "job.json", record)

    # ---- writing -------------------------------------------------------------------------------------------------

    @functools.cached_property
    def claims(self) -> Claims:
        return Claims(self.root / ".leases")

    def check_writable(self) -> None:
        """`InputError` unless runs can be claimed and recorded here: on a disk that is full or read-only, or on a file
        system where no claim would hold, they cannot."""
        where = f"runtime.results = {str(self.root)!r}"
        try:
            (self.root / "runs").mkdir(parents=True, exist_ok=True)
            reason = unfit(self.claims.folder)
        except OSError as error:
            raise InputError(f"{where}: cannot be written: {error.strerror}") from None
        if reason is not None:
            rule = "so that nothing would keep a run from being trained twice; give a directory on another one"
            raise InputError(f"{where}: is on {reason}, {rule}")

    @contextlib.contextmanager
    def claim(self, run: Run) -> Iterator[bool]:
        """Whether this process now holds the run. Released at the end of the block, or some time after the process dies
        (`lskd.claims`).

        A claim is no part of the run's directory, so that cleaning up there, or deleting it, frees no run that is being
        trained. Of a claim that is deleted its holder learns: see `check_claim`.
        """
        lease = self.claims.take(run.id)
        if lease is None:
            yield False
            return
        try:
            yield True
        finally:
            done = f"{self.root}/runs/{run.id}"
            over = os.path.isfile(f"{done}/result.json") and not os.path.isfile(f"{done}/retrain.json")
            lease.release(over=over)

    @contextlib.contextmanager
    def lend_claim(self, run: Run) -> Iterator[int]:
        """The open file of a claim that is held here, for another process (`lent_claim`), which renews it meanwhile."""
        with self.claims.held[run.id].lent() as file:
            yield file

    @contextlib.contextmanager
    def lent_claim(self, run: Run, file: int) -> Iterator[None]:
        """Hold the claim of another process on the run, too, through its open `file`, which is closed at the end of the
        block: the run is free when both have let go of it."""
        lease = self.claims.borrow(run.id, file)
        try:
            yield
        finally:
            lease.give_back()

    def keep_claim(self, run: Run, step: int, steps: int) -> None:
        """`ClaimLost` where the run's claim has been lost, by what is known without a look at the store: to be asked
        between two steps, of `steps` that `step` are done of."""
        if (lease := self.claims.held.get(run.id)) is not None:
            lease.step, lease.steps = step, steps
            if not lease.holds:
                raise ClaimLost(f"{run} may be trained by another process: its claim was not renewed in time")

    def check_claim(self, run: Run) -> None:
        """`ClaimLost` unless the run is still this process's to finish: its claim is, and no other process has finished
        it since its training began."""
        lease = self.claims.held.get(run.id)
        lost = lease is not None and not lease.check()
        if lost or (run.id not in self._were_done and (self.directory(run) / "result.json").exists()):
            raise ClaimLost(f"{run} is trained by another process")

    def begin(self, run: Run, env: dict[str, Any]) -> None:
        """Record what is about to be trained, and where. The caller holds the claim."""
        directory = self.directory(run)
        directory.mkdir(parents=True, exist_ok=True)
        for remains in directory.glob(".*.tmp"):  # of `write_atomically` in a process that was killed
            remains.unlink(missing_ok=True)
        self._were_done.discard(run.id)
        if self.result(run) is not None:
            self._were_done.add(run.id)
            self._env[run.id] = env
        else:
            write_json(directory / "config.json", run.identity())
            write_json(directory / "env.json", env)

    def finish(self, run: Run, result: dict[str, Any]) -> None:
        """Make the run done. The record of a run that was done before stays; training it again is `rebuilt.json`.

        Of two processes that finish a run at once, which claims prevent, one has done it. The other one
        raises `ClaimLost`, and takes its weights away if they have replaced those of the record.
        """
        directory = self.directory(run)
        self.check_claim(run)
        record = {"id": run.id, **result}
        if run.id in self._were_done and self.request(run) is not None:
            write_json(directory / "env.json", self._env[run.id])
            write_json(directory / "result.json", record)
            (directory / "rebuilt.json").unlink(missing_ok=True)
        elif run.id in self._were_done:
            write_json(directory / "rebuilt.json", record)
        else:
            try:
                write_json(directory / "result.json", record, new=True)
            except FileExistsError:
                of_record = (read_json(directory / "result.json") or {}).get("weights_sha256")
                if of_record != result.get("weights_sha256"):
                    for path in self.all_weights(run):
                        path.unlink(missing_ok=True)
                raise ClaimLost(f"{run} was finished by another process") from None
        for leftover in ("failed.json", "checkpoint.pt", "retrain.json"):
            (directory / leftover).unlink(missing_ok=True)

    def ask_again(self, run: Run, request: str) -> None:
        """Have the run trained again from its start, if there is anything of it that can be used. The caller holds the
        claim. `request` names the command that asked: a process that finds it open joins it, and makes no other."""
        directory, state = self.directory(run), self.state(run)
        if state == "damaged":
            return
        if state != "missing" or (directory / "retrain.json").exists():
            for begun in ("failed.json", "checkpoint.pt"):
                (directory / begun).unlink(missing_ok=True)
            write_json(directory / "retrain.json", {"request": request})

    def describe(self, spec: Spec) -> None:
        """Record what an imported data set is, so that its runs can be reported where its images are not."""
        path = self.root / "datasets" / f"{spec.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(spec))

    def write_readings(self, run: Run, probe: ProbeSpec, readings: list[dict[str, Any]], weights_sha256: str) -> None:
        """Record what was seen of the run, and of which weights at the end."""
        path = self._probed(run, probe)
        path.parent.mkdir(exist_ok=True)
        readings = [dict(reading) for reading in readings]
        files = [reading.pop("files", {}) for reading in readings]
        for name, text in files[-1].items() if files else ():
            write = functools.partial(Path.write_text, data=text, encoding="utf-8")
            write_atomically(self.beside(run, probe, name), write)
        content = {"probe": probe.identity(), "weights_sha256": weights_sha256, "readings": readings}
        write_json(path, content)

    def fail(self, run: Run, failure: dict[str, Any]) -> None:
        write_json(self.directory(run) / "failed.json", failure)
        if failure["reason"] == "diverged":
            self.checkpoint(run).unlink(missing_ok=True)


def failure_in(directory: Path) -> dict[str, Any] | None:
    try:
        return read_json(directory / "failed.json")
    except InputError as error:
        return {"reason": "failed", "message": str(error)}


def unfinished(directory: Path, failure: Mapping[str, Any] | None) -> State:
    """The state of a run that is not done."""
    if failure is not None:
        return "diverged" if failure.get("reason") == "diverged" else "failed"
    return "started" if (directory / "checkpoint.pt").is_file() else "missing"


def check_result(result: Mapping[str, Any], id: str, directory: Path | str) -> None:
    """`InputError` unless `result` is the record of the run `id`, and whole."""
    if result.get("id") != id:
        raise InputError(f"{directory}/result.json: is not the record of run {id}; move it away")
    if reason := fault(result):
        raise InputError(f"{directory}/result.json: is damaged: {reason}; {RESTORE}")


def _version(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
