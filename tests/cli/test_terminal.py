"""All programs begin and end alike, wherever they are started and whoever reads what they print."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pwd
import sys
from pathlib import Path

import numpy as np
import pytest

from lskd import cli, program
from lskd.bench import cli as bench_cli
from lskd.config_groups import Conf
from lskd.data import cache
from lskd.data import cli as data_cli
from lskd.data.arrays import Arrays
from lskd.errors import InputError
from lskd.report import cli as report_cli

PROGRAMS = {
    "lskd-run": (cli.main, ["arch=mlp", "alpha=0.1", "plan=true"]),
    "lskd-report": (report_cli.main, ["quickstart"]),
    "lskd-data": (data_cli.main, ["list"]),
    "lskd-bench": (bench_cli.main, ["--pairs", "β"]),
}


@pytest.fixture(autouse=True)
def light(lskd_run, monkeypatch):
    """The environment of `lskd_run`; and a report of one experiment."""
    names = Conf.names
    few = ["quickstart"]
    monkeypatch.setattr(Conf, "names", lambda conf, group: few if group == "experiment" else names(conf, group))


def start(name: str, monkeypatch) -> int:
    """The exit code of a program."""
    main, words = PROGRAMS[name]
    monkeypatch.setattr(sys, "argv", [name, *words])
    try:
        return main() or 0
    except SystemExit as stopped:
        return stopped.code


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_a_terminal_without_greek_letters(monkeypatch, name, encoding):
    streams = io.BytesIO(), io.BytesIO()
    for stream, buffer in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(buffer, encoding=encoding))
    code = start(name, monkeypatch)
    printed = b"".join(stream.getvalue() for stream in streams)
    monkeypatch.undo()
    assert code == (2 if name == "lskd-bench" else 0), printed
    if name in ("lskd-run", "lskd-bench"):
        assert rb"\u03b" in printed


@pytest.mark.parametrize("name", PROGRAMS)
def test_nobody_reads_any_more(monkeypatch, capsys, name):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        code = start(name, monkeypatch)
        monkeypatch.undo()
        if name != "lskd-bench":  # which has printed nothing
            nobody.write("at the interpreter's end")
    assert code == {"lskd-run": 141, "lskd-bench": 2}.get(name, 0)
    said = capsys.readouterr().err
    assert said.count("\n") == (name == "lskd-bench"), said


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_home_directory(monkeypatch, capsys, name):
    for variable in ("HOME", "LSKD_CACHE", "LSKD_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert start(name, monkeypatch) == (2 if name == "lskd-bench" else 0)
    assert "home" not in capsys.readouterr().err, "it was not needed"
    with pytest.raises(InputError, match="'~/here': Could not determine home directory"):
        program.user_path("~/here")


def test_the_makeshift_cache_is_told_of_when_it_is_written(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(cache, "makeshift_cache_root", lambda: tmp_path / "lskd-17")
    images, labels = np.zeros((4, 1, 2, 2), np.uint8), np.array([0, 1, 0, 1])
    arrays = Arrays(images, labels, images, labels, ("no", "yes"))
    for root in ("elsewhere", "lskd-17"):
        assert not caplog.messages
        folder = tmp_path / root / "data" / "dots"
        cache.write(folder, arrays.describe("dots"), arrays, source="nowhere", replace=False)
    assert caplog.messages == [
        f"there is no home directory, so {tmp_path}/lskd-17 keeps the decoded data; set LSKD_CACHE"
    ]


def test_a_working_directory_that_was_deleted(monkeypatch, tmp_path, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert start("lskd-run", monkeypatch) == 2
    assert capsys.readouterr().err == "lskd-run: the working directory has been deleted; go to another one\n"


@pytest.mark.parametrize("script", [program.lskd_run, program.lskd_report, program.lskd_data, program.lskd_bench])
def test_ctrl_c_while_it_starts(monkeypatch, script):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert script() == 130


def test_ctrl_c_later(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    for module, function in ((cli, "prepare_groups"), (report_cli, "_run"), (data_cli, "_run"), (bench_cli, "run")):
        monkeypatch.setattr(module, function, interrupted)
    assert [start(name, monkeypatch) for name in PROGRAMS] == [130] * 4
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", PROGRAMS)
def test_version(monkeypatch, capsys, name):
    main, _ = PROGRAMS[name]
    monkeypatch.setattr(sys, "argv", [name, "--version"])
    with contextlib.suppress(SystemExit):
        main()
    assert capsys.readouterr().out == f"{program.VERSION}\n"


def test_a_path_of_every_program_may_begin_with_a_tilde(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own").mkdir()
    (tmp_path / "plugin.py").write_text("")
    for name, words in {
        "lskd-report": ["--results=~/own", "--out=~/out", "--config-dir=~/own", "--plugin=~/plugin.py"],
        "lskd-data": ["list", "--cache=~/cache", "--data=~/data"],
        "lskd-run": [
            "--config-dir=~/own",
            "plan=true",
            "plugin=[~/plugin.py]",
            *(f"runtime.{d}=~/{d}" for d in ("results", "cache", "data")),
        ],
    }.items():
        monkeypatch.setitem(PROGRAMS, name, (PROGRAMS[name][0], words))
        assert start(name, monkeypatch) == 0, capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []
