"""A sweep that is killed, interrupted, run twice at once, or has a run that fails, ends with the right numbers.

Processes are forked from a server that has imported everything: a process costs a tenth of a second, not four.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

SERVER = """
import json, os, sys, time, traceback
import rich.progress, sklearn.datasets
import lskd.claims, lskd.cli, lskd.launch.execute, lskd.launch.sweep, lskd.launch.workers, lskd.report
import torch

torch.optim.SGD([torch.zeros(())], lr=0.0)  # imports much, too

train = lskd.launch.execute.train_run

def traced(run, *args, **kwargs):
    note("begin", run)
    try:
        train(run, *args, **kwargs)
    except BaseException:
        note("left", run)
        raise
    note("end", run)

def note(what, run):
    with open("trace", "a") as file:
        file.write(f"{what} {run.id} {os.getpgid(0)} {os.getpid()} {time.monotonic()}\\n")

lskd.launch.execute.train_run = traced
for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
    elif not (answer := os.fork()):
        os.chdir(request["directory"])
        os.setsid()
        if node := request.get("node"):
            lskd.claims._kernel, lskd.claims.BEAT = (lambda: node), 0.1
        os.dup2(os.open(request["output"], os.O_WRONLY | os.O_CREAT, 0o644), 1)
        os.dup2(1, 2)
        sys.argv = ["lskd-run", *request["words"]]
        code = 70
        try:
            lskd.cli.main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(answer, flush=True)
"""


class Server:
    """Starts `lskd-run` processes in no time."""

    def __init__(self, cache: Path) -> None:
        settings = {"LSKD_CACHE": str(cache), "LSKD_DATA": str(cache), "LSKD_RESULTS": "results"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **settings},
        )

    def ask(self, **request: Any) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Sweep:
    """An experiment in a directory of its own, and the processes that work on it."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server, self.directory, self.started = server, directory, 0

    def start(self, *words: str, node: str = "") -> int:
        """The process id of a new `lskd-run experiment=mine WORDS`, of a process group of its own, on a machine `node`
        whose locks others do not see."""
        self.started += 1
        words = ("--config-dir=conf", "experiment=mine", "runtime.threads=1", "runtime.device=cpu", *words)
        output = f"output{self.started}"
        return self.server.ask(words=words, directory=str(self.directory), output=output, node=node)

    def wait(self, process: int) -> int:
        return self.server.ask(wait=process)

    def run(self, *words: str) -> tuple[int, str]:
        """The exit code and the output of a whole process."""
        code = self.wait(self.start(*words))
        return code, (self.directory / f"output{self.started}").read_text()

    def wait_for_training(self, begun: int) -> None:
        """Until one more training than `begun` has begun."""
        deadline = time.monotonic() + 30
        while sum(self.trace("begin").values()) <= begun:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def trace(self, what: str) -> Counter[str]:
        """How often training began, or ended, by run id."""
        path = self.directory / "trace"
        lines = path.read_text().splitlines() if path.is_file() else []
        return Counter(line.split()[1] for line in lines if line.startswith(what))

    def overlaps(self, killed: Mapping[int, float]) -> list[str]:
        """The runs that two processes trained at once. `killed`: when a process group was."""
        path = self.directory / "trace"
        spans: dict[str, list[tuple[float, float]]] = {}
        begun: dict[tuple[str, str], tuple[float, int]] = {}
        for line in path.read_text().splitlines() if path.is_file() else []:
            what, run, group, process, at = line.split()
            if what == "begin":
                begun[run, process] = float(at), int(group)
            else:
                spans.setdefault(run, []).append((begun.pop((run, process))[0], float(at)))
        for (run, _), (at, of) in begun.items():
            spans.setdefault(run, []).append((at, killed[of]))
        ordered = {run: sorted(times) for run, times in spans.items()}
        return [run for run, times in ordered.items() if any(b[0] < a[1] for a, b in pairwise(times))]

    def records(self) -> dict[str, Any]:
        """All that is reproducible about each done run: its result and its log, without times, by run id."""
        records = {}
        for path in sorted(self.directory.glob("results/runs/*/result.json")):
            result = json.loads(path.read_text())
            for name in ("seconds", "seconds_per_epoch", "images_per_second", "peak_memory_mb"):
                result.pop(name)
            lines = (path.parent / "log.jsonl").read_text().splitlines()
            result["log"] = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
            records[path.parent.name] = result
        return records


RECIPE = {"recipe.epochs": 2, "recipe.evaluate_every": 1}
BASE = {
    "dataset": "digits", "dataset.limit": 640, "arch": "mlp", "arch.hidden": [8], "arch.hidden_dropout": 0.1, **RECIPE,
    "method": "kd", "teacher": {"arch": "mlp", "arch.hidden": [16], "arch.hidden_dropout": 0.1},
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("cache"))
    yield server
    server.close()


@pytest.fixture
def make_sweep(server, tmp_path):
    def make(name: str, *, base=BASE, seeds=(0, 1), **rows) -> Sweep:
        rows = rows or {"hard": {}, "ls": {"teacher_ls": True}}
        table = {
            "title": "mine", "seeds": list(seeds), "base": base,
            "rows": {key: {"label": key, "run": run} for key, run in rows.items()},
            "columns": {"net": {"label": "student"}},
        }  # fmt: skip
        for group, content in (("table", table), ("experiment", {"title": "mine", "tables": ["mine"]})):
            (tmp_path / name / "conf" / group).mkdir(parents=True)
            (tmp_path / name / "conf" / group / "mine.yaml").write_text(json.dumps(content))  # JSON is YAML
        return Sweep(server, tmp_path / name)

    return make


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    """The records of the eight runs of the usual sweep, trained in one go; computed once."""
    return {}


@pytest.fixture
def expected(undisturbed, make_sweep):
    if not undisturbed:
        sweep = make_sweep("undisturbed")
        code, output = sweep.run()
        assert code == 0, output
        undisturbed.update(sweep.records())
        assert len(undisturbed) == 8 and set(sweep.trace("end").values()) == {1}
    return undisturbed


def test_killed_again_and_again(make_sweep, expected):
    sweep, chance, kills = make_sweep("killed"), random.Random(0), 0
    while kills < 12:
        begun = sum(sweep.trace("begin").values())
        process = sweep.start("runtime.checkpoint_seconds=0")
        sweep.wait_for_training(begun)
        time.sleep(chance.uniform(0, 0.04))  # the eight runs take about a second on an idle machine
        os.kill(process, signal.SIGKILL)
        assert sweep.wait(process) == -signal.SIGKILL, "the sweep ended before it was killed often enough"
        kills += 1
    code, output = sweep.run("runtime.checkpoint_seconds=0")
    assert code == 0, output

    assert sweep.records() == expected
    assert all(count <= 1 for count in sweep.trace("end").values())
    assert sum(sweep.trace("begin").values()) >= 8 + 4  # many of the kills were amid a run
    left = {path.name for path in sweep.directory.glob("results/runs/*/*")} | {
        path.name for path in sweep.directory.glob("results/runs/*/.*")
    }
    assert left == {"config.json", "env.json", "log.jsonl", "result.json", "model.safetensors"}


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_two_machines_killed_at_random_never_train_one_run_twice(make_sweep, expected, kills):
    """Whose locks the other one does not see. Killed are a sweep alone, whose workers then end by themselves, or all of
    it at once, as a machine that dies."""
    chance, sweeps = random.Random(kills), 0
    while kills:
        sweeps += 1
        sweep, killed = make_sweep(f"killed{sweeps}"), dict[int, float]()
        nodes = {node: sweep.start("runtime.checkpoint_seconds=0", node=node) for node in ("one", "two")}
        for _ in range(min(kills, 12)):
            kills -= 1
            sweep.wait_for_training(chance.randrange(1 + sum(sweep.trace("begin").values())))
            time.sleep(chance.uniform(0, 0.3))
            node = chance.choice(["one", "two"])
            if chance.random() < 0.5:
                with contextlib.suppress(ProcessLookupError):  # so soon after its start that it has no group yet
                    os.killpg(nodes[node], signal.SIGKILL)
            os.kill(nodes[node], signal.SIGKILL)
            sweep.wait(nodes[node])
            killed[nodes[node]] = time.monotonic()
            nodes[node] = sweep.start("runtime.checkpoint_seconds=0", node=node)
        assert [sweep.wait(process) for process in nodes.values()] == [0, 0]
        assert sweep.records() == expected
        assert all(count <= 1 for count in sweep.trace("end").values()) and sweep.overlaps(killed) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(make_sweep, expected, number):
    sweep = make_sweep("interrupted")
    process = sweep.start("runtime.checkpoint_seconds=0")
    sweep.wait_for_training(1)
    os.kill(process, number)
    assert sweep.wait(process) == 130
    assert "the same command goes on from here" in (sweep.directory / "output1").read_text()

    for checkpoint in sweep.directory.glob("results/runs/*/checkpoint.pt"):
        if number == signal.SIGTERM:  # a damaged checkpoint costs the run's progress, not the run
            checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    code, output = sweep.run()
    assert code == 0, output
    assert sweep.records() == expected
    assert set(sweep.trace("end").values()) == {1}


def test_two_processes_share_the_work(make_sweep, expected):
    sweep = make_sweep("shared")
    processes = [sweep.start(), sweep.start()]
    assert [sweep.wait(process) for process in processes] == [0, 0]
    assert sweep.records() == expected
    assert set(sweep.trace("begin").values()) == set(sweep.trace("end").values()) == {1}


def test_nothing_is_left_to_do(make_sweep, expected, tmp_path):
    sweep = make_sweep("finished")
    assert sweep.run()[0] == 0
    begun = sweep.trace("begin")
    program = (
        "import atexit, sys; from lskd.cli import main; atexit.register(lambda: print('torch' in sys.modules)); main()"
    )
    words = ["--config-dir=conf", "experiment=mine"]
    environment = {**os.environ, "LSKD_CACHE": str(tmp_path), "LSKD_RESULTS": "results"}
    again = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=sweep.directory, env=environment, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert "8 runs: 8 done, 0 to train" in again.stdout
    assert again.stdout.endswith("False\n"), "torch was imported to print a table"
    assert sweep.trace("begin") == begun and sweep.records() == expected


PLAIN = {"dataset": "digits", "dataset.limit": 640, "arch": "mlp", "arch.hidden": [4], **RECIPE}


def test_a_diverging_run_stops_no_other(make_sweep):
    teacher = {"method": "kd", "teacher": {"arch": "mlp", "recipe.lr": 1e6, "recipe.normalize": {"kind": "none"}}}
    sweep = make_sweep("diverging", base=PLAIN, seeds=(0,), wild=teacher, calm={}, calmer={"recipe.lr": 0.01})
    code, output = sweep.run()
    assert code == 1
    assert "FAILED mlp on digits, seed 0" in output and "diverged: " in output
    assert "NOT RUN mlp(hidden=4) on digits, kd T=4 from mlp, seed 0: its teacher failed" in output
    assert len(sweep.records()) == 2

    code, output = sweep.run()
    assert (code, sum(sweep.trace("begin").values())) == (1, 3), "it was tried again"
    assert "FAILED mlp on digits, seed 0" in output and "runtime.retry=true tries again" in output

    code, output = sweep.run("runtime.retry=true")
    assert (code, sum(sweep.trace("begin").values())) == (1, 4)


BROKEN = """
from dataclasses import dataclass
from lskd.methods import Method, register

@register("broken")
@dataclass(frozen=True)
class Broken(Method):
    def loss(self, batch):
        raise RuntimeError("out of order")
"""


def test_a_crash_inside_a_run_stops_no_other(make_sweep):
    sweep = make_sweep("crashing", base=PLAIN, seeds=(0,), broken={"method": "broken"}, fine={}, smooth={"alpha": 0.1})
    (sweep.directory / "broken.py").write_text(BROKEN)
    code, output = sweep.run("plugin=broken.py")
    assert code == 1
    assert "RuntimeError: out of order" in output and "Traceback" not in output
    assert len(sweep.records()) == 2
    [failure] = sweep.directory.glob("results/runs/*/failed.json")
    record = json.loads(failure.read_text())
    assert record["reason"] == "failed" and "Traceback" in record["traceback"]
