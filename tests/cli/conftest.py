"""`lskd_run`: the command line inside the test process, which is much faster than a process a command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra.core.config_store import ConfigStore

from lskd import cli


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str


LskdRun = Callable[..., Finished]


@pytest.fixture
def lskd_run(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    forget: Callable[[], None],
) -> Iterator[LskdRun]:
    """`lskd_run("seed=1", …)` in an empty directory, without data of the machine's; results go to tmp_path/results.

    What a plugin registers is forgotten after the test.
    """
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("LSKD_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("LSKD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))  # the digits are decoded once
    monkeypatch.setenv("LSKD_DATA", str(tmp_path / "no data"))
    monkeypatch.setattr(ConfigStore.instance(), "repo", {**ConfigStore.instance().repo})

    def run(*words: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["lskd-run", *words])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stopped:
            code = stopped.code
        out, err = capsys.readouterr()
        return Finished(code, out, err)

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)  # runtime.threads=1 is for this process
