"""The command `lskd-bench`."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lskd.bench import cli, measure
from lskd.bench.cli import main

QUICK = ["--pairs=tiny", "--device=cpu", "--seconds=0.01", "--repeats=1", "--examples=100", "--threads=1"]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pair of small networks; matrices and buffers to match."""
    words = {"dataset": "digits", "recipe": "quickstart", "arch": "resnet8", "teacher": "mlp", "method": "kd"}
    monkeypatch.setitem(cli.PAIRS, "tiny", words)
    monkeypatch.setattr(measure, "matrix_rate", functools.partial(measure.matrix_rate, side=64))
    monkeypatch.setattr(measure, "copy_bandwidth", functools.partial(measure.copy_bandwidth, megabytes=1))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_bench(tiny, tmp_path, capsys):
    assert main([*QUICK, "--fleet", "2,1", "--json", str(tmp_path / "bench.json")]) == 0
    out, err = capsys.readouterr()
    table = [line.split() for line in out.splitlines()]
    assert " ".join(table[0]) == "pair case precision fleet images/s ms/step s/epoch × usual of floor"
    assert "tiny: KD, cached, fp32, fleet 2: " in out
    assert "tiny: ms of a step in fp32: whole step (CE) " in out
    assert out.splitlines()[-1] == f"wrote {tmp_path / 'bench.json'}"
    assert "tiny: usual KD, fp32: " in err

    report = json.loads((tmp_path / "bench.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
    assert report.keys() == {"machine", "versions", "arguments", "pairs"}
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
    assert record["floor"]["fp32"]["KD, cached"].keys() == {"bytes", "operations", "ms", "bound_by"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_bench_on_cuda(tiny, tmp_path):
    file = tmp_path / "bench.json"
    assert main([*QUICK, "--device=cuda", "--precisions=fp32,bf16", "--fleet=1,3", f"--json={file}"]) == 0
    cases = json.loads(file.read_text())["pairs"]["tiny"]["cases"]
    assert len(cases) == 2 + 2 * 6
    one, three = (case["memory"] for case in cases if case["case"] == "CE" and case["precision"] == "bf16")
    assert three.keys() == {"peak_mb", "reserved_mb", "predicted_mb"}
    assert 0 < one["peak_mb"] < three["peak_mb"] < 4 * one["peak_mb"]


def test_without_the_usual_loop(tiny, capsys):
    assert main([*QUICK, "--no-usual"]) == 0
    out = capsys.readouterr().out
    assert "usual CE" not in out
    assert " – " in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--pairs wrn", "--pairs = 'wrn': allowed: mlp1200-mlp800, resnet18"),
        ("--pairs resnet18,resnet65-resnet20", "--pairs = 'resnet65-resnet20': did you mean 'resnet56-resnet20'?"),
        ("--pairs ,", "--pairs = ',': must be some of wrn_40_2-wrn_16_2, "),
        ("--device gpu", "--device = 'gpu': must be auto, cpu, cuda or cuda:N"),
        ("--device cuda:77", "--device = 'cuda:77': there are "),
        ("--precisions fp32,fp16", "--precisions = 'fp16': did you mean"),
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
    monkeypatch.setattr(measure.Machine, "measured", None)
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
