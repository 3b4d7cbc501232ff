"""`launcher=slurm` and `status=true`: with commands in Slurm's place, and, where there is one, with Slurm itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lskd
from lskd.claims import Claims
from lskd.errors import InputError
from lskd.launch.cluster import seconds_of
from lskd.launch.launchers.slurm import Slurm
from lskd.store import Store

BASE = {"dataset": "digits", "dataset.limit": 64, "arch": "mlp", "arch.hidden": [4], "recipe.epochs": 1}
TAUGHT = {**BASE, "method": "kd", "teacher": {"arch": "mlp", "arch.hidden": [8]}}


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[..., list[str]]:
    """`experiment(base, rows…)`: the words of an experiment "mine" of a table with them."""

    def make(base: dict[str, Any] = TAUGHT, seeds: tuple[int, ...] = (0, 1), **rows: dict[str, Any]) -> list[str]:
        table = {
            "title": "mine", "seeds": list(seeds), "base": base,
            "rows": {key: {"label": key, "run": run} for key, run in (rows or {"a": {}}).items()},
            "columns": {"net": {"label": "student"}},
        }  # fmt: skip
        for group, content in (("table", table), ("experiment", {"title": "mine", "tables": ["mine"]})):
            (tmp_path / "conf" / group).mkdir(parents=True, exist_ok=True)
            (tmp_path / "conf" / group / "mine.yaml").write_text(json.dumps(content))  # JSON is YAML
        return [f"--config-dir={tmp_path / 'conf'}", "experiment=mine", "runtime.threads=1", "runtime.device=cpu"]

    return make


# ---- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("90", 5400), ("1:30", 90), ("04:00:00", 14400), ("2-12", 216000), ("1-0:30", 88200),
     ("1-02:03:04", 93784), ("abc", None), ("1:2:3:4", None), ("", None)],
)  # fmt: skip
def test_time_limits_are_read_as_sbatch_reads_them(limit, seconds):
    assert seconds_of(limit) == seconds


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpus": -1}, "gpus = -1: must be >= 0"),
        ({"cpus": 0}, "cpus = 0: must be >= 1"),
        ({"array": 0}, "array = 0: must be >= 1"),
        ({"time": "soon"}, "time = 'soon': must be h:mm:ss or days-h:mm:ss, in"),
        ({"time": "2:00", "warning": 120}, "time = '2:00': must be longer than launcher.warning = 120 s"),
        ({"sbatch": {"gpus-per-node": 2}}, "sbatch.gpus-per-node = 2: is said by launcher.gpus"),
        ({"sbatch": {"output": "x"}}, "sbatch.output = 'x': is said by lskd itself"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(InputError, match="^" + re.escape(message)):
        Slurm(**settings)


def test_anything_that_sbatch_takes():
    words = Slurm(
        partition="gpu", time="1:00:00", memory="8G", sbatch={"qos": "long", "exclusive": True, "mail_type": None}
    ).options()
    assert {"--partition=gpu", "--time=1:00:00", "--mem=8G", "--qos=long", "--exclusive", "--requeue"} <= set(words)
    assert {"--gpus-per-node=1", "--cpus-per-task=4", "--signal=USR1@120", "--open-mode=append"} <= set(words)
    assert not any("account" in word or "mail" in word for word in words)
    assert not any("gpus" in word for word in Slurm(gpus=0).options())


# ---- with commands in Slurm's place ---------------------------------------------------------------------------------

SBATCH = """#!/bin/sh
cd {folder}
case "$*" in *--test-only*) [ -f refusal ] && { cat refusal >&2; exit 1; }; exit 0;; esac
n=$(($(cat count 2>/dev/null || echo 100) + 1)); echo $n >count
echo "$*" >>sbatch.log
echo $n
"""


class Cluster:
    """Commands that say what the test tells them to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("squeue", "sacct", "sinfo"):
            self.says(name, "")
        self.says("scontrol", "MaxArraySize = 1001")
        self.program("sbatch", SBATCH.replace("{folder}", str(folder)))

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def says(self, name: str, text: str) -> None:
        (self.folder / f"{name}.txt").write_text(text)
        self.program(name, f"#!/bin/sh\ncat {self.folder}/{name}.txt\n")

    @property
    def submitted(self) -> list[str]:
        log = self.folder / "sbatch.log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return Cluster(tmp_path / "bin")


SLURM = ["launcher=slurm", "launcher.gpus=0", "launcher.cpus=1"]


def test_teachers_are_submitted_first_and_students_after_theirs(lskd_run, experiment, cluster, tmp_path):
    words = [*experiment(), *SLURM]
    planned = lskd_run(*words, "plan=true")
    assert planned.out.splitlines()[-3:] == [
        "  array 1: 2 tasks, 2 runs",
        "  array 2: 1 task, 1 run, after array 1_0",
        "  array 3: 1 task, 1 run, after array 1_1",
    ]
    assert planned.code == 0 and cluster.submitted == []
    finished = lskd_run(*words)
    assert finished.code == 0, finished.err
    assert "job 101: 2 tasks, 2 runs\n" in finished.out and "job 102: 1 task, 1 run, after 101_0\n" in finished.out
    first, *others = cluster.submitted
    assert "--array=0-1%2" in first and "--dependency" not in first and "--job-name=lskd-mine" in first
    assert all("--kill-on-invalid-dep=yes" in line for line in others)
    assert [re.findall(r"--dependency=(\S+)", line) for line in others] == [["afterany:101_0"], ["afterany:101_1"]]
    records = [json.loads(path.read_text()) for path in (tmp_path / "results").glob(".jobs/*/job.json")]
    assert sorted(record["job"] for record in records) == ["101", "102", "103"]
    assert len({id for record in records for task in record["tasks"] for id in task}) == 4
    script = next((tmp_path / "results").glob(".jobs/*/job.sh")).read_text()
    assert "srun --ntasks=1" in script and "experiment=mine" in script and "launcher.job=" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_started_again_it_submits_only_what_nobody_has(lskd_run, experiment, cluster, tmp_path):
    words = [*experiment(), *SLURM]
    assert lskd_run(*words).code == 0
    queue = "101|0|RUNNING|None\n101|1|PENDING|Priority\n102|0|PENDING|Dependency\n103|0|PENDING|Dependency\n"
    cluster.says("squeue", queue)
    finished = lskd_run(*words)
    assert finished.code == 0 and "4 runs in jobs already" in finished.out and len(cluster.submitted) == 3

    cluster.says("squeue", queue.replace("103|0|PENDING|Dependency\n", "").replace("101|0|RUNNING|None\n", ""))
    cluster.says("sacct", "101_0|OUT_OF_MEMORY\n103_0|CANCELLED by 0\n")
    status = lskd_run(*words, "status=true")
    assert status.code == 3
    assert "mine: 4 runs: 2 queued, 2 failed\n" in status.out
    assert "job 101_0 ended: OUT_OF_MEMORY" in status.out and "job 101_1 (PENDING: Priority)" in status.out
    finished = lskd_run(*words)
    assert finished.code == 0 and "2 runs in jobs already" in finished.out
    # The teacher that found no memory, and the student that was cancelled, which waits where its teacher is queued.
    assert [re.findall(r"--dependency=(\S+)", line) for line in cluster.submitted[3:]] == [[], ["afterany:101_1"]]


def test_what_another_process_trains_is_left_to_it(lskd_run, experiment, cluster, tmp_path):
    words = [*experiment(seeds=(0,)), *SLURM]
    assert lskd_run(*words).code == 0
    [teacher] = json.loads(sorted((tmp_path / "results").glob(".jobs/*/job.json"))[0].read_text())["tasks"][0]
    shutil.rmtree(tmp_path / "results" / ".jobs")
    lease = Store(tmp_path / "results").claims.take(teacher)
    assert lease is not None
    finished = lskd_run(*words)
    lease.release()
    assert finished.code == 0 and len(cluster.submitted) == 2  # those of the first time
    assert f"is being trained on {os.uname().nodename} (process {os.getpid()})" in finished.out
    assert "1 run not submitted, for want of these: start again when they are done" in finished.out


def test_two_submissions_at_once_are_one_after_the_other(lskd_run, experiment, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("lskd.claims.BEAT", 0.01)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    lease = Claims(tmp_path / "results" / ".leases").take("submission")
    assert lease is not None
    finished = lskd_run(*experiment(), *SLURM)
    lease.release()
    assert (finished.code, finished.err.count("\n")) == (2, 1) and "another process is submitting" in finished.err


def test_what_is_done_is_reported(lskd_run, experiment, cluster):
    words = experiment(BASE, (0,))
    assert lskd_run(*words).code == 0
    finished = lskd_run(*words, *SLURM)
    assert finished.code == 0 and "1 done, 0 to train" in finished.out and "wrote " in finished.out
    assert cluster.submitted == []
    assert lskd_run(*words, "status=true").out == "mine: 1 run: 1 done\ngeneration 0: 1 run: 1 done\n"


@pytest.mark.parametrize(
    ("words", "refusal", "message"),
    [
        (["launcher.partition=gpus"], "sbatch: error: invalid partition specified: gpus\nallocation failure: Invalid",
         "lskd-run: launcher.partition = 'gpus': did you mean 'gpu'? allowed: cpu, gpu\n"),
        (["launcher.gpus=9"], "allocation failure: Requested node configuration is not available",
         "lskd-run: launcher.gpus = 9, launcher.cpus = 1, launcher.memory = None: no node has so much "
         "(cpu: 8 cores, 100 MB, gpu:4)\n"),
        (["launcher.account=me"], "sbatch: error: Invalid account", "lskd-run: launcher = slurm: sbatch refuses it: "
         "Invalid account\n"),
        (["launcher.sbatch.qso=long"], "sbatch: unrecognized option '--qso=long'\nTry", "lskd-run: launcher = slurm: "
         "sbatch refuses it: unrecognized option '--qso=long'; Try\n"),
        (["launcher.partitions=x"], "", "lskd-run: launcher.partitions = 'x': unknown key; did you mean 'partition'?"),
        (["launcher.time=90"], "", "lskd-run: launcher.time = 90: must be "),
        (["launcher.time=soon"], "", "lskd-run: launcher.time = 'soon': must be h:mm:ss or days-h:mm:ss"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_anything_is_submitted(
    lskd_run, experiment, cluster, tmp_path, words, refusal, message
):
    if refusal:
        (cluster.folder / "refusal").write_text(f"{refusal}\n")
    says = "case \"$*\" in *%c*) echo 'cpu: 8 cores, 100 MB, gpu:4';; *) printf 'cpu\\ngpu*\\n';; esac"
    cluster.program("sinfo", f"#!/bin/sh\n{says}\n")
    finished = lskd_run(*experiment(), *SLURM, *words)
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert finished.err.startswith(message)
    assert cluster.submitted == [] and not list((tmp_path / "results").glob(".jobs/*"))


def test_where_there_is_no_slurm(lskd_run, experiment, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    finished = lskd_run(*experiment(), *SLURM)
    assert (finished.code, finished.err.count("\n")) == (2, 1) and "there is no sbatch on the PATH" in finished.err
    finished = lskd_run(*experiment(), "launcher=slrum")
    assert (finished.code, finished.err) == (
        2, "lskd-run: launcher = 'slrum': did you mean 'slurm'? allowed: local, slurm\n"
    )  # fmt: skip
    status = lskd_run(*experiment(), "status=true")
    assert status.code == 1 and status.out.startswith("mine: 4 runs: 4 that nobody has\n")


def test_a_job_does_its_own_runs_and_waits_for_none(lskd_run, experiment, cluster, monkeypatch, tmp_path):
    words = [*experiment(), *SLURM]
    assert lskd_run(*words).code == 0
    keys = {}
    for path in (tmp_path / "results").glob(".jobs/*/job.json"):
        keys[json.loads(path.read_text())["job"]] = path.parent.name
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setattr("lskd.launch.sweep.SETTLE_SECONDS", 0.1)
    began = time.monotonic()
    finished = lskd_run(*words, f"launcher.job={keys['103']}")  # whose teacher, of 101_1, is not there
    assert finished.code == 0 and "LEFT" in finished.err and time.monotonic() - began < 10
    finished = lskd_run(*words, f"launcher.job={keys['101']}")
    assert finished.code == 0 and "wrote" not in finished.out
    finished = lskd_run(*words, f"launcher.job={keys['102']}")
    assert finished.code == 0
    assert len(list((tmp_path / "results").glob("runs/*/result.json"))) == 2
    command = next((tmp_path / "results").glob("runs/*/env.json")).read_text()
    assert "launcher" not in command and "experiment=mine" in command
    finished = lskd_run(*words, "launcher.job=nosuch")
    assert finished.code == 2 and "is no job of" in finished.err
    for name in ("squeue", "sacct"):  # the results on a machine without Slurm
        (cluster.folder / name).unlink()
    monkeypatch.setenv("PATH", str(cluster.folder))
    status = lskd_run(*words, "status=true")
    assert status.code == 1 and "4 runs: 2 done, 2 that nobody has" in status.out


MINE = """
from dataclasses import dataclass
from lskd.launch.launchers import Elsewhere, Launcher, register
from lskd.launch.sweep import Outcomes

@register("mine")
@dataclass(frozen=True)
class Mine(Launcher):
    queue: str = "slow"

    def carry_out(self, work):
        return Outcomes(submitted=[f"{work.name}: {len(work.runs)} runs in {self.queue}"])

    def elsewhere(self, store, ids):
        return {id: Elsewhere("7", "queued", self.queue) for id in ids}
"""


def test_a_launcher_of_a_plug_in_and_a_file_of_settings(lskd_run, experiment, cluster, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    words = [*experiment(), f"plugin={tmp_path / 'mine.py'}"]
    finished = lskd_run(*words, "launcher=mine", "launcher.queue=fast")
    assert (finished.code, finished.err) == (0, "") and "mine: 4 runs in fast\n" in finished.out
    status = lskd_run(*words, "status=true")
    assert status.code == 3 and "queued   2 runs in job 7 (slow)" in status.out
    (tmp_path / "conf" / "launcher").mkdir()
    (tmp_path / "conf" / "launcher" / "ours.yaml").write_text("name: slurm\npartition: gpu\ntime: '8:00:00'\n")
    finished = lskd_run(*experiment(), "launcher=ours", "launcher.memory=32G", "launcher.sbatch={qos: long}")
    assert finished.code == 0, finished.err
    assert {"--partition=gpu", "--time=8:00:00", "--mem=32G", "--qos=long"} <= set(cluster.submitted[0].split())
    finished = lskd_run(*experiment(), "launcher=slurm", "launcher.time=1-12:00:00")
    assert finished.code == 0 and "--time=1-12:00:00" in cluster.submitted[-1], finished.err


def test_of_a_sweep_every_job_is_submitted(lskd_run, cluster):
    words = ["-m", "dataset=digits", "dataset.limit=64", "recipe.epochs=1", "seed=0,1"]
    finished = lskd_run(*words, *SLURM, "launcher.cpus=0")
    assert (finished.code, finished.err) == (2, "lskd-run: launcher.cpus = 0: must be >= 1\n")
    assert lskd_run(*words, *SLURM).code == 0 and len(cluster.submitted) == 2
    assert "--job-name=lskd-run" in cluster.submitted[0]


@pytest.mark.parametrize("value", ["1", "yes please"])
def test_status_is_true_or_false(lskd_run, value):
    finished = lskd_run(f"status='{value}'" if " " in value else f"status={value}")
    assert (finished.code, finished.err.count("\n")) == (2, 1) and "must be true or false" in finished.err


@pytest.mark.parametrize(
    ("name", "extra"), [("submitit_slurm", "slurm"), ("submitit_local", "slurm"), ("joblib", "joblib")]
)
def test_the_launcher_of_hydra_names_its_extra(lskd_run, name, extra):
    finished = lskd_run(f"hydra/launcher={name}", "seed=1", "plan=true")
    if finished.code:
        said = f"is not installed; its extra is {extra}: pip install 'lskd[{extra}]'"
        assert (finished.code, finished.err) == (2, f"lskd-run: hydra/launcher = {name}: {said}\n")


def test_runs_in_training_say_where_and_how_far(lskd_run, experiment, tmp_path, monkeypatch):
    words = experiment({**BASE, "recipe.epochs": 10}, (0,))
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    [line] = [line for line in lskd_run(*words, "plan=commands").out.splitlines() if " lskd-run " in line]
    lease = Store(tmp_path / "results").claims.take(line.split()[0])
    assert lease is not None
    lease.write(step=3, steps=10, pace=0.05)  # of 64 images
    status = lskd_run(*words, "status=true")
    assert status.code == 3
    assert re.search(
        rf"running  {line.split()[0]}  .*, seed 0: {os.uname().nodename} job 4711, since \d\d:\d\d, epoch 4/10, "
        r"1,280 images/s, 0 s left\n",
        status.out,
    )
    lease.release()
    assert lskd_run(*words, "status=true").code == 1


def test_runs_that_failed_say_why(lskd_run, experiment):
    wild = {"method": "kd", "teacher": {"arch": "mlp", "recipe.lr": 1e6, "recipe.normalize": {"kind": "none"}}}
    words = experiment({**BASE, "dataset.limit": 640, "recipe.epochs": 2}, (0,), wild=wild, calm={})
    assert lskd_run(*words).code == 1
    status = lskd_run(*words, "status=true")
    assert status.code == 1
    assert "3 runs: 1 done, 1 failed, 1 that need one that failed" in status.out
    assert re.search(r"failed   [0-9a-f]{12}  mlp on digits, seed 0: .*not finite", status.out)


# ---- with Slurm itself ----------------------------------------------------------------------------------------------


def has_slurm() -> bool:
    if shutil.which("sinfo") is None or shutil.which("sbatch") is None:
        return False
    try:
        return bool(subprocess.run(["sinfo", "-h"], capture_output=True, timeout=3).stdout.strip())
    except subprocess.TimeoutExpired:
        return False


REAL = pytest.mark.skipif(not has_slurm(), reason="there is no Slurm here")
TRAINED = {
    "dataset": "digits", "arch": "mlp", "arch.hidden": [16], "arch.hidden_dropout": 0.1, "recipe.evaluate_every": 20,
    "method": "kd", "teacher": {"arch": "mlp", "arch.hidden": [8], "arch.hidden_dropout": 0.1},
}  # fmt: skip


class Real:
    """An experiment on a real Slurm."""

    def __init__(self, lskd_run: Any, words: list[str], results: Path) -> None:
        self.lskd_run, self.results = lskd_run, results
        self.words = [*words, "runtime.fleet=2", "runtime.checkpoint_seconds=1"]
        self.slurm = ["launcher=slurm", "launcher.gpus=0", "launcher.cpus=1", "launcher.memory=3G",
                      "launcher.time=10:00", "launcher.warning=20"]  # fmt: skip

    def submit(self, *more: str) -> None:
        finished = self.lskd_run(*self.words, *self.slurm, *more)
        assert finished.code == 0, finished.err

    def jobs(self) -> list[str]:
        return sorted({str(record["job"]) for _, record in Store(self.results).jobs()})

    def states(self) -> dict[str, str]:
        listed = subprocess.run(
            ["squeue", "-h", "-r", "-j", ",".join(self.jobs()), "-o", "%F_%K %T"], capture_output=True, text=True
        ).stdout
        return dict(line.split() for line in listed.splitlines())

    def until(self, holds: Callable[[], bool], seconds: float = 180) -> None:
        until, pending = time.monotonic() + seconds, dict[str, int]()
        while not holds():
            for job, state in self.states().items():
                pending[job] = pending.get(job, 0) + 1 if state == "PENDING" else 0
                if pending[job] == 8:  # those that are requeued wait for two minutes
                    subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], capture_output=True)
            assert time.monotonic() < until, self.told()
            time.sleep(0.5)

    def told(self) -> str:
        logs = sorted(self.results.glob(".jobs/*/*.out"))
        return "\n".join([str(self.states()), *(f"{path.parent.name}: {path.read_text()}" for path in logs)])

    def steps(self) -> dict[str, int]:
        """Of the runs in training."""
        claims = Store(self.results).claims
        held = {name: claims.holder(name) for name in claims.names()}
        return {name: found[0].step for name, found in held.items() if found and found[1] and found[0].step}

    def processes(self) -> list[int]:
        """Those of the tasks that train."""
        claims = Store(self.results).claims
        held = [claims.holder(name) for name in claims.names()]
        return [found[0].pid for found in held if found and found[1]]

    def records(self) -> dict[str, Any]:
        """All that is reproducible about each done run, by its id."""
        found = {}
        for path in self.results.glob("runs/*/result.json"):
            result = json.loads(path.read_text())
            for name in ("seconds", "seconds_per_epoch", "images_per_second", "peak_memory_mb"):
                result.pop(name, None)
            lines = (path.parent / "log.jsonl").read_text().splitlines()
            result["log"] = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
            found[path.parent.name] = result
        return found

    def finish(self) -> None:
        self.until(lambda: not self.states())
        status = self.lskd_run(*self.words, "status=true")
        assert status.code == 0, status.out + self.told()


@pytest.fixture
def real(lskd_run, experiment, tmp_path, monkeypatch) -> Iterator[Callable[..., Real]]:
    monkeypatch.setenv("PYTHONPATH", str(Path(lskd.__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made: list[Real] = []

    def make(epochs: int, seeds: tuple[int, ...] = (0, 1)) -> Real:
        made.append(Real(lskd_run, experiment({**TRAINED, "recipe.epochs": epochs}, seeds), tmp_path / "results"))
        return made[-1]

    yield make
    for one in made:
        subprocess.run(["scancel", *one.jobs()], capture_output=True)


@REAL
def test_an_experiment_on_slurm(real):
    mine = real(2, (0,))
    mine.submit()
    mine.submit()
    assert len(mine.jobs()) == 2  # submitted once
    mine.finish()
    assert len(mine.records()) == 2


@REAL
@pytest.mark.slow
def test_disturbed_on_slurm_the_numbers_are_the_same(real, lskd_run, tmp_path):
    """Requeued, told to stop as before a time limit, preempted, cancelled, killed as for want of memory."""
    mine = real(300)
    mine.submit("launcher.array=1")

    def disturb(how: Callable[[str], Any], resubmit: bool = False) -> None:
        before = max(mine.steps().values(), default=0)
        mine.until(lambda: max(mine.steps().values(), default=0) > before or len(mine.records()) == 4)
        [job] = [job for job, state in mine.states().items() if state == "RUNNING"][:1] or [""]
        if job:
            how(job)
        if resubmit:
            mine.until(lambda: job not in mine.states())
            mine.submit()

    def call(*words: str) -> None:
        subprocess.run(words, check=True, capture_output=True)

    disturb(lambda job: call("scancel", "--signal=USR1", job))
    disturb(lambda job: call("scontrol", "requeue", job))
    disturb(lambda job: os.kill(mine.processes()[0], signal.SIGKILL), resubmit=True)
    disturb(lambda job: call("scancel", job), resubmit=True)
    if "high" in subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True).stdout:
        disturb(lambda job: call("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 2"))
    mine.finish()
    got = mine.records()
    assert len(got) == 4
    finished = lskd_run(*mine.words, f"runtime.results={tmp_path / 'undisturbed'}")
    assert finished.code == 0
    mine.results = tmp_path / "undisturbed"
    assert mine.records() == got


@REAL
@pytest.mark.slow
def test_a_run_that_takes_longer_than_a_job_goes_on_in_the_next(real, lskd_run, tmp_path):
    mine = real(1200, (0,))
    mine.submit("launcher.time=1:00", "launcher.warning=25")
    mine.until(lambda: any("interrupted; the same command" in path.read_text()
                           for path in mine.results.glob(".jobs/*/*.out")))  # fmt: skip
    mine.until(lambda: len(mine.records()) >= 1, 400)
    assert "DUE TO TIME LIMIT" not in mine.told()
    got = mine.records()
    mine.results = tmp_path / "undisturbed"
    assert lskd_run(*mine.words, f"runtime.results={mine.results}").code == 0
    undisturbed = mine.records()
    assert got == {id: undisturbed[id] for id in got}


HUNGRY = """
import time
from lskd.trackers import Tracker, register

@register("hungry")
class Hungry(Tracker):
    def log(self, run, line, step, values):
        if list(self.folder.parents[1].glob("runs/*/checkpoint.pt")):
            eaten = bytearray(b"x") * 2**32
            time.sleep(10)
"""


@REAL
@pytest.mark.slow
def test_killed_by_slurm_for_want_of_memory(real, lskd_run, tmp_path):
    """Needs a Slurm that watches memory: a cgroup, or JobAcctGatherParams=OverMemoryKill."""
    config = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True).stdout
    if "OverMemoryKill" not in config and "task/cgroup" not in config:
        pytest.skip("this Slurm lets a job have more memory than it asked for")
    (tmp_path / "hungry.py").write_text(HUNGRY)
    mine = real(300, (0,))
    mine.submit(f"plugin={tmp_path / 'hungry.py'}", "runtime.tracker=[hungry]")
    mine.until(lambda: not mine.states(), 400)  # the student's job looks for its teacher for 90 s
    assert mine.records() == {} and list(mine.results.glob("runs/*/checkpoint.pt"))
    status = lskd_run(*mine.words, "status=true")
    ended = re.search(r"failed .*: job \d+_0 ended: (\w+).*; it printed ", status.out)
    # Only with a cgroup does Slurm call the end so; else it says what it was in what the job prints.
    assert status.code == 1 and ended and (ended[1] == "OUT_OF_MEMORY" or "exceeded memory limit" in mine.told())
    mine.submit()
    mine.finish()
    got = mine.records()
    mine.results = tmp_path / "undisturbed"
    assert lskd_run(*mine.words, f"runtime.results={mine.results}").code == 0
    assert mine.records() == got
