"""The scripts for machines with GPUs, without one: what they start, when they stop it, and what they leave behind."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from lskd.launch.jobs import Array

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """`script("measure_gpu")`, as if it were started."""
    monkeypatch.syspath_prepend(SCRIPTS)
    yield importlib.import_module
    for name in [name for name, module in sys.modules.items() if _is_script(module)]:
        del sys.modules[name]


def _is_script(module: ModuleType) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(str(SCRIPTS))


def program(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


# ---- every_gpu.sh -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "used"),
    [
        (None, ["GPU-aa", "GPU-bb"]),
        ("3,1", ["1", "3"]),
        ("MIG-1-x", ["MIG-1-x"]),
        ("GPU-1f,-1,2", ["GPU-1f"]),  # CUDA stops there, too
        ("", None),
        ("-1", None),
    ],
)
def test_every_gpu_that_the_job_may_use_and_no_other(visible, used, tmp_path):
    """Of a cluster's job these are those of CUDA_VISIBLE_DEVICES, not all that nvidia-smi lists."""
    program(tmp_path / "nvidia-smi", "#!/bin/sh\necho GPU-aa\necho GPU-bb\n")
    program(tmp_path / "lskd-run", f'#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES $*" >>{tmp_path}/started\n')
    env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    env |= {"PATH": f"{tmp_path}:{env['PATH']}", "TMPDIR": str(tmp_path)}
    if visible is not None:
        env["CUDA_VISIBLE_DEVICES"] = visible
    done = subprocess.run([SCRIPTS / "every_gpu.sh", "experiment=x"], env=env, capture_output=True, text=True)
    if used is None:
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"CUDA_VISIBLE_DEVICES = '{visible}' names no GPU" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        started = sorted((tmp_path / "started").read_text().splitlines())
        assert started == [f"{gpu} experiment=x" for gpu in used]


# ---- from a source tree -------------------------------------------------------------------------------------------


def test_programs_find_the_tree_and_what_the_wheels_hold(script, tmp_path):
    """The wheels are unpacked, not installed."""
    with zipfile.ZipFile(tmp_path / "carried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried/__init__.py", "answer = 42\n")
    env = script("from_tree").environment(tmp_path, EXTRA="1")
    code = "import carried, lskd; print(carried.answer, lskd.__file__)"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["42", str(SCRIPTS.parent / "src/lskd/__init__.py")], done.stderr
    assert env["EXTRA"] == "1"


def test_a_program_is_stopped_in_time_with_all_that_it_started(script, tmp_path):
    """First it is asked to (SIGTERM); what does not listen is ended after some grace."""
    run = script("from_tree").run
    listens = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(3)));"
        "print('up', flush=True); time.sleep(60)"
    )
    deaf = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    )
    log, readings = tmp_path / "log", []
    for code, text in ((listens, "saved"), (deaf, "")):
        began = time.monotonic()
        output = tmp_path / "output"
        output.unlink(missing_ok=True)
        found = run(
            [sys.executable, "-c", code],
            log,
            0.6,
            os.environ,
            grace=0.3,
            output=output,
            look=lambda: readings.append(1),
        )
        assert found is None and time.monotonic() - began < 20
        assert output.read_text().endswith(f"{text}\n")
    child = int(output.read_text())
    until = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert len(readings) >= 2
    assert run([sys.executable, "-c", "import sys; print('told'); sys.exit(7)"], log, 30, os.environ) == 7
    assert log.read_text().endswith("told\n")


# ---- measure_gpu.py -----------------------------------------------------------------------------------------------

BENCH = """
import json, pathlib, sys, time
file = pathlib.Path(next(word for word in sys.argv if word.startswith("--json="))[7:])
for turn in (1, 2):
    file.with_suffix(".new").write_text(json.dumps({"turns": turn}))
    file.with_suffix(".new").replace(file)
    print("turn", turn, flush=True)
    time.sleep({seconds})
sys.exit({code})
"""


@pytest.fixture
def measured(script, tmp_path, monkeypatch) -> Callable[..., tuple[int, dict]]:
    """`measured("part", …, NAME=Part)`: exit code and record of a call, with parts of the test's own."""
    measure_gpu = script("measure_gpu")
    monkeypatch.setattr(measure_gpu, "LSKD_BENCH", [sys.executable, "-c"])
    monkeypatch.setattr(script("from_tree"), "POLL", 0.05)

    def call(*words: str, **parts: object) -> tuple[int, dict]:
        if parts:
            monkeypatch.setattr(measure_gpu, "PARTS", parts)
        code = measure_gpu.main([*words, f"--out={tmp_path / 'out'}"])
        return code, json.loads((tmp_path / "out/record.json").read_text())

    return call


def bench(seconds: float = 0.0, code: int = 0) -> tuple[str, str]:
    return "-c", BENCH.replace("{seconds}", str(seconds)).replace("{code}", str(code))


def test_each_part_and_each_call_adds_to_one_record(measured, script, tmp_path, capsys):
    part = script("measure_gpu").Part
    parts = {"good": part(30, {"a": bench(), "b": bench()}), "bad": part(30, {"c": bench(code=1)})}
    code, record = measured("good", **parts)
    assert code == 0 and record.keys() == {"good"}
    code, record = measured("bad")
    assert code == 1
    assert [(name, its["state"]) for name, its in record.items()] == [("good", "done"), ("bad", "failed")]
    assert [its["bench"] for its in record["good"]["programs"].values()] == 2 * [{"turns": 2}]
    assert record["bad"]["programs"]["c"]["exit_code"] == 1
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"record.json", "log.txt", "tables.txt"}
    assert (tmp_path / "out/tables.txt").read_text().count("turn 2") == 3
    assert "bad: failed; c: exit code 1" in capsys.readouterr().out


def test_what_a_part_has_measured_when_its_time_is_over_stays(measured, script, monkeypatch):
    """And a part for which too little time is left is named, and not begun."""
    part = script("measure_gpu").Part
    written = []
    write = script("from_tree").write
    monkeypatch.setattr(
        script("measure_gpu"), "write", lambda file, record: (written.append(json.dumps(record)), write(file, record))
    )
    parts = {"long": part(1.5, {"a": bench(seconds=60)}), "next": part(600, {"b": bench()})}
    code, record = measured("long", "next", "--minutes=0.2", **parts)
    assert code == 1
    assert (record["long"]["state"], record["next"]["state"]) == ("stopped", "left out")
    assert record["long"]["programs"]["a"]["bench"] == {"turns": 1}
    assert '"running"' in written[0]  # while it ran: had all of this been ended then, the turn would be there


def test_tests_without_pytest_are_a_failure_that_says_so(measured, script, monkeypatch):
    monkeypatch.setattr(script("measure_gpu").importlib.util, "find_spec", lambda name: None)
    part = script("measure_gpu").Part(30, {"tests": ("-m", "pytest", "nothing")})
    code, record = measured("tests", tests=part)
    assert code == 1
    assert record["tests"]["programs"]["tests"]["skipped"].startswith("there is no pytest here")


def test_the_parts_are_there_and_fit_a_call(script):
    """Files of tests exist, options of the benchmark are known, and no group needs more than ten minutes."""
    measure_gpu = script("measure_gpu")
    from lskd.bench import cli

    for name, part in measure_gpu.PARTS.items():
        for words in part.programs.values():
            for word in words:
                if word.startswith("tests/") or word.endswith(".py"):
                    assert (SCRIPTS.parent / word.removeprefix("--ignore=")).exists(), (name, word)
            if "lskd.bench.cli" in words:
                given = cli._parser().parse_args(words[2:])
                assert given.strict and set(given.pairs.split(",")) <= set(cli.PAIRS)
    for group, names in measure_gpu.GROUPS.items():
        assert sum(measure_gpu.PARTS[name].seconds for name in names) <= 660, group
    assert sorted(name for names in measure_gpu.GROUPS.values() for name in names) == sorted(measure_gpu.PARTS)


# ---- gpu_evidence.py ----------------------------------------------------------------------------------------------

# As lskd-run: each word id=SECONDS is a run, done after so long; SIGTERM leaves a checkpoint. What is done stays.
TRAIN = """
import json, pathlib, signal, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:])
store = pathlib.Path(words.pop("runtime.results")) / "runs"
assert words.pop("runtime.device") == "cuda"
for id, seconds in words.items():
    run = store / id
    run.mkdir(parents=True, exist_ok=True)
    if (run / "result.json").exists():
        continue
    def stop(*_):
        (run / "checkpoint.pt").write_text("half of " + id)
        sys.exit(130)
    signal.signal(signal.SIGTERM, stop)
    teacher = {"teacher": {"seed": "teacher"}} if id != "teacher" else {}
    (run / "config.json").write_text(json.dumps({"seed": id, **teacher}))
    (run / "log.jsonl").write_text("{}")
    went_on = (run / "checkpoint.pt").exists()
    time.sleep(0 if went_on else float(seconds))
    (run / "checkpoint.pt").unlink(missing_ok=True)
    (run / "model.safetensors").write_text("weights of " + id)
    (run / "result.json").write_text(json.dumps({"went_on": went_on}))
"""


@pytest.fixture
def evidence(script, tmp_path, monkeypatch) -> Callable[..., tuple[int, dict]]:
    gpu_evidence = script("gpu_evidence")
    monkeypatch.setattr(gpu_evidence, "LSKD_RUN", [sys.executable, "-c", TRAIN])
    monkeypatch.setattr(gpu_evidence, "GRACE", 2.0)
    monkeypatch.setattr(script("from_tree"), "POLL", 0.05)

    def call(store: str, *words: str, out: str = "out", seconds: float = 30.0) -> tuple[int, dict]:
        folders = (f"--store={tmp_path / store}", f"--out={tmp_path / out}")
        code = gpu_evidence.main([*folders, f"--minutes={(seconds + gpu_evidence.GRACE) / 60}", *words])
        return code, json.loads((tmp_path / out / "record.json").read_text())

    return call


def names_in(tar: Path) -> set[str]:
    with tarfile.open(tar) as content:
        return set(content.getnames())


def test_the_runs_in_order_until_the_time_is_over_and_then_on(evidence, script, tmp_path, monkeypatch):
    monkeypatch.setattr(script("gpu_evidence"), "WORK", (("teacher=0",), ("a=0", "b=60"), ("c=0",)))
    code, record = evidence("store", "--state", seconds=1.5)
    assert code == 3
    states = [entry.get("state") for entry in record["calls"][0]["work"]]
    assert states == ["done", "time is over", "time is over"]  # the last was not begun
    assert record["finished"] == ["a", "teacher"]
    kept = {f"runs/{run}/{file}" for run in ("a", "teacher") for file in ("config.json", "log.jsonl", "result.json")}
    assert names_in(tmp_path / "out/results.tar.gz") == kept
    assert names_in(tmp_path / "out/state.tar.0") == {"runs/teacher/model.safetensors", "runs/b/checkpoint.pt"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "results.tar.gz", "state.tar.0", "record.json", "log.txt",
    }  # fmt: skip
    # On a machine that has nothing of it: b goes on from its checkpoint, and what was done is not done again.
    code, record = evidence("fresh", f"--resume={tmp_path / 'out'}", out="then")
    assert code == 0 and record["finished"] == ["a", "b", "c", "teacher"]
    assert json.loads((tmp_path / "fresh/runs/b/result.json").read_text()) == {"went_on": True}
    assert (tmp_path / "fresh/runs/teacher/model.safetensors").read_text() == "weights of teacher"
    assert not (tmp_path / "fresh/runs/a/model.safetensors").exists()
    assert len(names_in(tmp_path / "then/results.tar.gz")) == 4 * 3


def test_runs_are_collected_while_the_others_train(evidence, script, tmp_path, monkeypatch):
    """Had everything been ended then, what was done would be there."""
    gpu_evidence, packed = script("gpu_evidence"), []
    monkeypatch.setattr(gpu_evidence, "WORK", (("a=0", "b=0.4"),))
    pack = gpu_evidence.pack
    monkeypatch.setattr(
        gpu_evidence, "pack", lambda *given: (pack(*given), packed.append(gpu_evidence.finished(given[1])))
    )
    assert evidence("store")[0] == 0
    assert packed[-2:] == [["a"], ["a", "b"]]


def test_a_failure_does_not_keep_the_rest_from_training(evidence, script, monkeypatch):
    monkeypatch.setattr(script("gpu_evidence"), "WORK", (("a=never",), ("b=0",)))
    code, record = evidence("store")
    assert code == 1
    assert [entry["state"] for entry in record["calls"][0]["work"]] == ["failed", "done"]


def test_a_process_that_can_capture_no_more_is_started_afresh(script, tmp_path, monkeypatch):
    """As of a torch before 2.13: the same command again, and at last with one run at a time."""
    gpu_evidence, given = script("gpu_evidence"), []

    def run(command, *rest, **how):
        given.append(command[-1])
        return 0 if command[-1] == "runtime.fleet=1" else 130

    monkeypatch.setattr(gpu_evidence, "run", run)
    monkeypatch.setattr(gpu_evidence, "WORK", (("a=0",), ("b=0",)))
    folders = (f"--store={tmp_path / 'store'}", f"--out={tmp_path / 'out'}")
    assert gpu_evidence.main([*folders, "recipe.x=1"]) == 0
    assert given == 2 * ["recipe.x=1", "recipe.x=1", "runtime.fleet=1"]
    work = json.loads((tmp_path / "out/record.json").read_text())["calls"][0]["work"]
    assert [entry["exit_codes"] for entry in work] == 2 * [[130, 130, 0]]


def test_state_beyond_its_room_is_left_out_and_named(evidence, script, tmp_path, monkeypatch):
    gpu_evidence = script("gpu_evidence")
    monkeypatch.setattr(gpu_evidence, "WORK", (("teacher=0", "b=60"),))
    monkeypatch.setattr(gpu_evidence, "PIECE", 26_000)
    for run, size in (("teacher", 60_000), ("x", 1_000)):
        folder = tmp_path / "store/runs" / run
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(os.urandom(size))
        (folder / "config.json").write_text(json.dumps({"seed": run}))
        (folder / "result.json").write_text("{}")
    code, record = evidence("store", "--state", seconds=0.8)
    assert code == 3
    assert record["state_left_out"] == ["runs/teacher/model.safetensors"]
    assert names_in(tmp_path / "out/state.tar.0") == {"runs/b/checkpoint.pt", "runs/x/model.safetensors"}


def test_nothing_to_resume_from_is_said(evidence, tmp_path):
    with pytest.raises(SystemExit, match="has no results"):
        evidence("store", f"--resume={tmp_path}")


def test_the_work_is_that_of_experiments_that_are_there(script, capsys):
    gpu_evidence = script("gpu_evidence")
    assert gpu_evidence.main(["--plan", "--store=/s", "runtime.fleet=4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lskd-run experiment=muller_mnist_second runtime.device=cuda runtime.results=/s runtime.fleet=4"
    for line in lines:
        name = line.split()[1].removeprefix("experiment=")
        assert (SCRIPTS.parent / f"conf/experiment/{name}.yaml").is_file()


# ---- both, in earnest ---------------------------------------------------------------------------------------------


def test_rehearsals(script, tmp_path, monkeypatch):
    """The scripts' own rehearsal on a CPU, with the real programs; but in this process, where torch is imported."""
    from hydra.core.config_store import ConfigStore

    from lskd import cli as run_cli
    from lskd.bench import cli as bench_cli
    from lskd.bench import machine

    for name, few in (
        ("SIDES", {"cpu": (64,)}),
        ("CONVOLUTIONS", {"cpu": ()}),
        ("COPIES", {"cpu": (2**18,)}),
        ("WINDOWS", 0.0),
    ):
        monkeypatch.setattr(machine, name, few)
    monkeypatch.setattr(ConfigStore.instance(), "repo", {**ConfigStore.instance().repo})
    monkeypatch.setenv("LSKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    programs = {"lskd.bench.cli": bench_cli.main, script("from_tree").PROGRAM: run_cli.main}

    def run(command, log, seconds, env, *, output=None, look, **how):
        code = 0
        if command[2] in programs:
            monkeypatch.setattr(sys, "argv", ["program", *command[3:]])
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                try:
                    code = programs[command[2]]() or 0
                except SystemExit as end:
                    code = end.code or 0
            if output is not None:
                output.write_text(printed.getvalue())
        look()
        return code

    threads = torch.get_num_threads()
    measure_gpu, gpu_evidence = script("measure_gpu"), script("gpu_evidence")
    for module in (measure_gpu, gpu_evidence):
        monkeypatch.setattr(module, "run", run)
    try:
        assert measure_gpu.main(["--rehearse", f"--out={tmp_path / 'bench'}"]) == 0
        record = json.loads((tmp_path / "bench/record.json").read_text())
        assert record["wrn"]["programs"]["wrn"]["bench"]["pairs"]["mlp-mlp"]["turns"] == 1
        monkeypatch.setattr(gpu_evidence, "REHEARSAL", gpu_evidence.REHEARSAL[:1])
        folders = (f"--store={tmp_path / 'store'}", f"--out={tmp_path / 'runs'}")
        assert gpu_evidence.main(["--rehearse", "--minutes=2", *folders]) == 0
    finally:
        torch.set_num_threads(threads)
    [id] = json.loads((tmp_path / "runs/record.json").read_text())["finished"]
    assert {f"runs/{id}/{name}" for name in ("config.json", "env.json", "log.jsonl", "result.json")} == names_in(
        tmp_path / "runs/results.tar.gz"
    )


# ---- simulate_cluster.py ------------------------------------------------------------------------------------------


def test_a_simulated_week_keeps_its_gpus_busy_and_asks_little_of_the_file_system(script, capsys):
    found = script("simulate_cluster").main(["--runs", "600", "--gpus", "6"])
    assert found["busy"] >= 0.95 and 6 < found["days"] < 9 and found["arrays"] <= 18
    assert "| plan of 600 runs | " in capsys.readouterr().out
    calls = {name: number for name, number in found.items() if name.startswith("calls: ")}
    assert len(calls) == 8 and all(number < 20 for number in calls.values()), calls
    assert calls["calls: cut into jobs"] == 0 and calls["calls: report, half done"] <= 8
    with pytest.raises(SystemExit) as bad:
        script("simulate_cluster").main(["--gpus", "0"])
    assert bad.value.code == 2


def test_simulated_gpus_idle_where_a_plan_lets_them(script):
    """Two GPUs, three runs of an hour each; the third could begin at once, and its array waits for the second task."""
    runs = [SimpleNamespace(id=id, parents=[]) for id in "abc"]
    first = Array("x", ((runs[0],), (runs[1],)), at_once=2)
    second = Array("y", ((runs[2],),), frozenset({("x", 1)}))
    hours = {"a": 1.0, "b": 2.0, "c": 1.0}
    ready, used, end = script("simulate_cluster").simulate([first, second], 2, lambda run: hours[run.id])
    assert end == 3.0 and used == pytest.approx(4 / 6)  # from 1 to 2 one GPU idles, though c is ready; from 2 to 3 not
    assert ready == pytest.approx(4 / 5)
