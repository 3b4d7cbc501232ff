"""`lskd-bench images`."""

from __future__ import annotations

import io
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from lskd.bench import pictures
from lskd.bench.cli import main

QUICK = ["images", "--seconds=0.01", "--repeats=1", "--images=8", "--size=40x30", "--threads=1"]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_table_of_all_ways(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pictures, "BATCH", 8)
    assert main([*QUICK, "--need", "1000", "--json", str(tmp_path / "images.json")]) == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "images.json").read_text())
    ways = {way["way"]: way for way in report["ways"]}
    assert list(ways) == [
        "lskd, files, 1 thread", "lskd, tar, 1 thread", "lskd, parquet, 1 thread", "usual, 1 worker",
        "usual, v2, 1 worker",
    ]  # fmt: skip
    for name, way in ways.items():
        assert name in out
        assert way["images_per_core_second"] == pytest.approx(1e3 / way["cpu_ms"]["best"])
    way = ways["lskd, files, 1 thread"]
    [row] = (line for line in out.splitlines() if "lskd, files" in line)
    assert f"{way['images_per_second']['best'] / 1000:.0%}" in row
    assert row.split()[-1] == f"{1000 / way['images_per_core_second']:.1f}"


def test_the_images_have_the_spectrum_of_photographs():
    """Power falls as 1/f²: its logarithm, by rings of frequencies, has a slope of -2."""
    noise = pictures.natural_noise(np.random.RandomState(1), 256, 256)
    assert (abs(noise.mean()), noise.std()) == (pytest.approx(0, abs=1e-9), pytest.approx(1))
    power = np.abs(np.fft.fft2(noise)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    rings = np.geomspace(0.02, 0.45, 12)
    means = [power[(frequency >= low) & (frequency < high)].mean() for low, high in itertools.pairwise(rings)]
    slope = np.polyfit(np.log(np.sqrt(rings[1:] * rings[:-1])), np.log(means), 1)[0]
    assert slope == pytest.approx(-2, abs=0.15)
    [(name, content)] = pictures.photographs(1, (50, 40), 88)
    assert name.startswith("train/0/") and Image.open(io.BytesIO(content)).size == (50, 40)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--size=500", "--size = '500': must be as 500x375"),
        ("--seconds=0", "--seconds = 0.0: must be > 0"),
        ("--need=0", "--need = 0: must be > 0"),
        ("--quality=101", "--quality = 101: must be in [0, 100]"),
    ],
)
def test_bad_words_are_one_line(word, message, capsys):
    assert main(["images", word]) == 2
    assert message in capsys.readouterr().err
