"""The command `lskd-bench`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lskd.bench import cli, clock, machine, measure, ways
from lskd.bench.cli import main

QUICK = ["--pairs=tiny", "--device=cpu", "--seconds=0.01", "--repeats=1", "--examples=100", "--threads=1"]
LEAST = [*QUICK, "--pairs=least", "--examples=64"]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, small_kernels: None) -> Iterator[None]:
    """A pair of small networks, and one of still smaller ones."""
    words = {"dataset": "digits", "recipe": "quickstart", "arch": "resnet8", "teacher": "mlp", "method": "kd"}
    monkeypatch.setitem(cli.PAIRS, "tiny", words)
    monkeypatch.setitem(cli.PAIRS, "least", {**words, "arch": "mlp"})
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_bench(tiny, tmp_path, capsys):
    assert main([*QUICK, "--fleet", "2,1", "--json", str(tmp_path / "bench.json")]) == 0
    out, err = capsys.readouterr()
    table = [line.split() for line in out.splitlines()]
    columns = "pair case precision fleet images/s ms/step s/epoch × usual × public of floor in turn"
    assert " ".join(table[0]) == columns
    assert "tiny: KD, cached, fp32, fleet 2: " in out
    assert "tiny: ms of a step in fp32: whole step (CE) " in out
    assert out.splitlines()[-1] == f"wrote {tmp_path / 'bench.json'}"
    assert "tiny: usual KD, fp32: " in err

    report = json.loads((tmp_path / "bench.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
    assert report.keys() == {"machine", "versions", "arguments", "pairs", "failed"}
    assert report["failed"] == {}
    fastest = report["machine"]["rates"]["fp32"]
    assert any(line.endswith(f"TFLOP/s in fp32 ({fastest['1']['kernel']})") for line in out.splitlines())
    assert report["machine"]["threads"] == 1
    assert report["versions"]["torch"] == torch.__version__
    assert report["arguments"]["fleets"] == [1, 2]
    record = report["pairs"]["tiny"]
    assert (record["student"], record["teacher"], record["batch_size"], record["examples"]) == (
        "resnet8",
        "mlp",
        64,
        1437,
    )
    assert [(case["case"], case["fleet"]) for case in record["cases"]] == [
        ("usual CE", 1), ("usual KD", 1), ("CE", 1), ("CE", 2), ("KD, teacher every step", 1), ("KD, cached", 1),
        ("KD, cached", 2), ("KD, filling", 1),
    ]  # fmt: skip
    for case in record["cases"]:
        assert len(case["images_per_second"]["each"]) == 1
        assert case["times_usual"]["median"] > 0
        assert case["share_of_floor"] > 0
        assert case["captured"] is None
    assert record["turns"] == 1
    assert record["operators"]["fp32"]["convolutions, backward"].keys() == {"ms", "floor_ms"}
    assert "tiny: ms of a step's operators in fp32, CE (and of their floor): " in out
    assert record["floor"]["fp32"]["KD, cached"].keys() == {
        "bytes", "operations", "ms", "bound_by", "ms_of_bytes", "ms_of_operations", "ms_in_turn", "kernel",
    }  # fmt: skip


@pytest.mark.slow
def test_ratios_compare_cases_of_one_precision(tiny, tmp_path, capsys):
    """The usual loop in bf16 is one by autocast; as public codes leave it, it is fp32 on a CPU."""
    file = tmp_path / "bench.json"
    assert main([*LEAST, "--precisions=bf16", f"--json={file}"]) == 0
    cases = json.loads(file.read_text())["pairs"]["least"]["cases"]
    rates = {(case["case"], case["precision"]): case["images_per_second"]["median"] for case in cases}
    assert [precision for name, precision in rates if name == "usual KD"] == ["fp32", "bf16"]
    for case in cases:
        usual = "usual CE" if case["case"].endswith("CE") else "usual KD"
        rate = case["images_per_second"]["median"]
        assert case["times_usual"]["median"] == pytest.approx(rate / rates[usual, case["precision"]])
        assert case["times_public"]["median"] == pytest.approx(rate / rates[usual, "fp32"])


@pytest.mark.slow
def test_a_failure_costs_the_rest_of_its_pair(tiny, tmp_path, capsys, monkeypatch):
    """What was measured in the turns before is written, the other pairs are measured, and the exit code says so."""
    monkeypatch.setitem(cli.PAIRS, "other", cli.PAIRS["least"])
    window, seen = clock.window, []

    def fails(case, *rest):
        seen.append(str(case))
        if len(seen) == 8:
            raise RuntimeError("operation not permitted when stream is capturing")
        return window(case, *rest)

    monkeypatch.setattr(measure, "window", fails)
    file = tmp_path / "bench.json"
    words = [*LEAST, "--pairs=least,other", "--repeats=2", "--no-usual", f"--json={file}"]
    assert main(words) == 1
    report = json.loads(file.read_text())
    assert report["failed"] == {"least": "RuntimeError: operation not permitted when stream is capturing"}
    assert [(pair, its["turns"]) for pair, its in report["pairs"].items()] == [("least", 1), ("other", 2)]
    assert report["pairs"]["least"]["cases"][0]["images_per_second"]["median"] > 0
    assert "least: FAILED: RuntimeError: operation not permitted when" in capsys.readouterr().out


@pytest.mark.slow
def test_strictly_a_step_that_is_not_captured_is_a_failure(tiny, capsys, monkeypatch):
    """As on a GPU where a capture fails: the step goes on eagerly."""
    assert main([*LEAST, "--no-usual", "--strict"]) == 0  # on a CPU nothing is captured
    runners: list[ways.Runner] = []
    monkeypatch.setattr(
        ways.Runner, "captured", property(lambda self: (runners.append(self), runners.index(self) != 1)[1])
    )
    assert main([*LEAST, "--no-usual", "--strict"]) == 1
    line = "NOT CAPTURED, so slower than it should be: least: KD, teacher every step, fp32, fleet 1"
    assert [said for said in capsys.readouterr().out.splitlines() if "CAPTURED" in said] == [line]
    assert main([*LEAST, "--no-usual"]) == 0


@pytest.mark.slow
def test_a_share_above_1_is_never_shown_alone(tiny, capsys, monkeypatch):
    """A machine that is said to be slower than the training is."""
    monkeypatch.setattr(machine.Machine, "fastest", lambda self, precision, fleet=1: machine.Rate(1e6, SLOW))
    assert main([*LEAST, "--no-usual"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [line for line in lines if "of the floor, which is therefore none: no kernel that was measured" in line]
    assert len(shown) == 4 and shown[0].startswith("least: CE, fp32, fleet 1: ")
    assert lines[-1].endswith("computes 1e-06 TFLOP/s in fp32 (a slow one)")


SLOW = machine.Kernel("a slow one", 1, lambda: lambda: None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_bench_on_cuda(tiny, tmp_path):
    file = tmp_path / "bench.json"
    assert main([*QUICK, "--device=cuda", "--precisions=fp32,bf16", "--fleet=1,3", "--strict", f"--json={file}"]) == 0
    cases = json.loads(file.read_text())["pairs"]["tiny"]["cases"]
    assert len(cases) == 2 * 3 + 2 * 6
    assert all(case["captured"] for case in cases if case["case"] in ("CE", "KD, cached", "KD, teacher every step"))
    one, three = (case["memory"] for case in cases if case["case"] == "CE" and case["precision"] == "bf16")
    assert three.keys() == {"peak_mb", "reserved_mb", "predicted_mb"}
    assert 0 < one["peak_mb"] < three["peak_mb"] < 4 * one["peak_mb"]


@pytest.mark.slow
def test_without_the_usual_loop(tiny, capsys):
    assert main([*QUICK, "--no-usual"]) == 0
    out = capsys.readouterr().out
    assert "usual CE" not in out
    assert " – " in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--pairs wrn", "--pairs = 'wrn': allowed: mlp-mlp, mlp1200-mlp800, resnet18"),
        ("--pairs resnet18,resnet65-resnet20", "--pairs = 'resnet65-resnet20': did you mean 'resnet56-resnet20'?"),
        ("--pairs ,", "--pairs = ',': must be some of wrn_40_2-wrn_16_2, "),
        ("--device gpu", "--device = 'gpu': must be auto, cpu, cuda or cuda:N"),
        ("--device cuda:77", "--device = 'cuda:77': there are "),
        ("--precisions fp32,fp16", "--precisions = 'fp16': did you mean"),
        ("--precisions fp32,tf32 --device cpu", "--precisions = 'tf32': a CPU has no TF32 and would compute in fp32"),
        ("--examples 0", "--examples = 0: must be >= 1"),
        ("--fleet 1,0", "--fleet = '0': must be a whole number >= 1"),
        ("--fleet two", "--fleet = 'two': must be a whole number >= 1"),
        ("--fleet ,", "--fleet = ',': must be whole numbers >= 1"),
        ("--seconds 0", "--seconds = 0.0: must be > 0"),
        ("--seconds nan", "--seconds = nan: must be > 0"),
        ("--repeats 0", "--repeats = 0: must be >= 1"),
        ("--threads -1", "--threads = -1: must be >= 0"),
        ("--json /nowhere/b.json", "--json = '/nowhere/b.json': must be a file in a directory that is there"),
        ("--json .", "--json = '.': must be a file, not a directory"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(words, message, capsys, monkeypatch):
    monkeypatch.setattr(machine, "Machine", None)
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"lskd-bench: {message}")
    assert err.count("\n") == 1


def test_help_imports_no_torch():
    program = (
        "import sys\nfrom lskd.bench.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: sys.exit(end.code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert "wrn_40_2-wrn_16_2" in done.stdout


def test_the_script_is_installed_with_the_package():
    script = 'lskd-bench = "lskd.program:lskd_bench"'
    assert script in (Path(__file__).parents[2] / "pyproject.toml").read_text()
