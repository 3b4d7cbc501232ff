"""Figures drawn in processes side by side: the same files, and the error of one where it belongs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lskd import report
from lskd.errors import InputError
from lskd.report import ahead, figures, site

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_cores", lambda: 2)
    monkeypatch.setattr(ahead, "_may_fork", lambda: True)  # (other tests have imported torch by now)


def failing() -> None:
    raise InputError("rows.a.style = 'x': is no style")


def in_a_process_that_ends(here: int) -> int:
    if os.getpid() != here:
        os._exit(9)
    return here


@linux
def test_calls_are_made_in_other_processes(two_cores):
    calls: dict[Any, Any] = {i: os.getpid for i in range(4)} | {"wrong": failing}
    with ahead.drawn(calls) as drawn:
        found = {drawn(i, os.getpid) for i in range(4)}
        assert os.getpid() not in found and 1 <= len(found) <= 2
        with pytest.raises(InputError, match=r"^rows\.a\.style = 'x': is no style$"):
            drawn("wrong", failing)
        assert drawn("another", os.getpid) == os.getpid(), "what nobody asked for ahead is made here"


@linux
def test_what_a_process_leaves_undone_is_done_here(two_cores):
    here = os.getpid()
    calls = {i: lambda: in_a_process_that_ends(here) for i in range(3)}
    with ahead.drawn(calls) as drawn:
        assert [drawn(i, call) for i, call in calls.items()] == [here] * 3


@pytest.mark.parametrize(("cores", "may_fork"), [(1, True), (4, False)])
def test_on_one_core_or_beside_torch_calls_are_made_here(monkeypatch, cores, may_fork):
    monkeypatch.setattr(ahead, "_cores", lambda: cores)
    monkeypatch.setattr(ahead, "_may_fork", lambda: may_fork)
    calls = {i: os.getpid for i in range(3)}
    with ahead.drawn(calls) as drawn:
        assert {drawn(i, os.getpid) for i in range(3)} == {os.getpid()}


def test_a_process_with_torch_is_not_forked(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", sys)
    assert not ahead._may_fork()


@pytest.fixture
def made(lab: Any) -> report.Report:
    """Two figures."""
    planned = [lab.figure(name=name, title=name) for name in ("first", "second")]
    for i, point in enumerate(("small/0", "small/0.2", "large/0.4")):
        lab.fill(planned[0], point, [91.0 + i, 92.0, 93.5], gamma=0.1 * i)
    found: report.Report = report.render(lab.plan(*planned), lab.store)
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@linux
def test_drawn_ahead_the_files_are_the_same(two_cores, made, tmp_path):
    assert len(report.drawings([made], tmp_path / "ahead", paper=True)) == 4
    with ahead.drawn(report.drawings([made], tmp_path / "ahead")) as drawn:
        written = report.write(made, tmp_path / "ahead", drawn=drawn)
    report.write(made, tmp_path / "here")
    here = files(tmp_path / "here")
    for texts in (here, drawn_ahead := files(tmp_path / "ahead")):
        for name in [name for name in texts if name.endswith(".md")]:
            del texts[name]  # in which the store is another way off
    assert drawn_ahead == here and sum(name.endswith(".svg") for name in here) == 2
    assert all(path.is_file() for path in written)


@linux
def test_the_failure_of_one_figure_is_told_by_its_experiment(two_cores, made, tmp_path, monkeypatch):
    draw = figures.write

    def breaking(filled: Any, folder: Path) -> list[Path]:
        return failing() or [] if filled.table.name == "second" else draw(filled, folder)

    monkeypatch.setattr(figures, "write", breaking)
    with ahead.drawn(report.drawings([made], tmp_path)) as drawn, pytest.raises(InputError, match="is no style"):
        report.write(made, tmp_path, drawn=drawn)
    assert (tmp_path / "figures" / "fiction" / "first.svg").is_file()


@linux
def test_drawn_ahead_a_site_is_the_same(two_cores, made, lab, tmp_path, monkeypatch):
    site.write([made], lab.store, lab.conf, tmp_path / "ahead")
    monkeypatch.setattr(ahead, "_may_fork", lambda: False)
    site.write([made], lab.store, lab.conf, tmp_path / "here")
    here = files(tmp_path / "here")
    assert files(tmp_path / "ahead") == here
    assert sum(content.count(b'<svg class="drawn"') for content in here.values()) == 2
