"""The wheel holds conf/, and works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import lskd

ROOT = Path(lskd.__file__).parents[2]


def test_a_wheel_works_away_from_the_checkout(tmp_path):
    pytest.importorskip("hatchling")
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("not in a checkout")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(tmp_path / built.stdout.split()[-1]) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(tmp_path / "site")
    conf = {f"lskd/conf/{path.relative_to(ROOT / 'conf').as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert "lskd/conf/config.yaml" in conf <= names
    pages = [path for path in (ROOT / "src/lskd/report/site").rglob("*.*") if path.suffix in (".html", ".css", ".js")]
    assert len(pages) > 10 and {path.relative_to(ROOT / "src").as_posix() for path in pages} <= names
    assert {"lskd/py.typed", "lskd/trackers/tracker.py"} <= names
    assert not any(name.startswith(("tests", "results", "conf")) for name in names)

    program = "import lskd, sys; print(lskd.__file__); from lskd.cli import main; main()"
    here = tmp_path / "here"
    here.mkdir()
    finished = subprocess.run(
        [sys.executable, "-c", program, "experiment=quickstart", "plan=true"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "LSKD_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith(str(tmp_path / "site"))
    assert "120 runs" in finished.stdout
    assert list(here.iterdir()) == []
