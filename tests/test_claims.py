"""That one process alone has a claim, whoever dies, stops or sleeps; and how soon it is free again."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from lskd import claims
from lskd.claims import EXPIRES, FENCE, Claims, Holder

KILLS = 250 if os.environ.get("LSKD_TEST_ALL") else 12


@pytest.fixture(autouse=True)
def beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.02)


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Claims]]:
    """`at("node")`: the claims as a process of that machine sees them, until it is called again."""
    made: list[Claims] = []

    def machine(name: str) -> Claims:
        monkeypatch.setattr(claims, "_kernel", lambda: name)
        made.append(Claims(tmp_path / "leases"))
        return made[-1]

    yield machine
    for one in made:
        for lease in list(one.held.values()):
            lease.release()


def die(of: Claims) -> None:
    """As if the process had died: nothing is written any more, and its files are closed."""
    for lease in list(of.held.values()):
        of._let_go(lease)
        os.close(lease.file)


def until_taken(of: Claims, name: str) -> float:
    """Seconds until the claim could be taken."""
    began = time.monotonic()
    while of.take(name) is None:
        assert time.monotonic() - began < 20
        time.sleep(0.005)
    return time.monotonic() - began


def test_one_of_two_has_it(at):
    here = at("one")
    lease = here.take("run")
    assert lease is not None and lease.number == 1 and here.take("run") is None
    there = at("two")
    assert (here.take("run"), there.take("run"), there.take("other") is not None) == (None, None, True)
    lease.release()
    second = there.take("run")
    assert second is not None and second.number == 2 and os.listdir(here.folder / "run") == ["2"]
    second.release(over=True)
    assert here.names() == ["other"]


def test_of_this_machine_the_dead_are_known_at_once(at):
    first = at("one")
    first.take("run")
    die(first)
    assert at("one").take("run") is not None


def test_of_another_machine_the_dead_are_known_by_their_silence(at):
    first = at("one")
    first.take("run")
    die(first)
    assert EXPIRES * 0.02 <= until_taken(at("two"), "run") < 10


def test_the_living_are_waited_for_however_long(at):
    """Whatever locks say: those of the other mount are not seen."""
    lease = at("one").take("run")
    other = at("two")
    until = time.monotonic() + 3 * EXPIRES * 0.02
    while time.monotonic() < until:
        assert other.take("run") is None
        time.sleep(0.005)
    assert lease is not None and lease.holds and lease.check()


def test_where_nothing_can_be_locked_silence_tells(at, monkeypatch):
    def flock(file: int, how: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    first = at("one")
    lease = first.take("run")
    assert lease is not None and not lease.holder.locked and at("one").take("run") is None
    die(first)
    assert until_taken(at("one"), "run") >= EXPIRES * 0.02


def test_a_store_that_was_away_does_not_make_the_living_dead(at, monkeypatch):
    """A look after a long time without any says as much as one after a beat."""
    first = at("one")
    first.take("run")
    die(first)
    other = at("two")
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for _ in range(EXPIRES):
        assert other.take("run") is None
        clock[0] += 1000.0
    assert other.take("run") or other.take("run")  # (the beats add up to a little less)


def test_who_could_not_renew_has_lost_it_before_others_take_it(at, monkeypatch):
    lease = at("one").take("run")
    assert lease is not None and lease.holds

    def full(file: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        last = lease.holder.at
        while lease.holds:
            time.sleep(0.001)
        assert lease.holder.at == last and FENCE < EXPIRES
    lease.renew()
    assert not lease.holds  # it is never renewed after that


def test_who_takes_what_was_free_long_ago_gives_it_back(at, monkeypatch):
    """Between its look and its taking it, others have taken it, finished it, and begun it anew."""
    slow, quick = at("one"), at("one")
    for _ in range(2):
        lease = quick.take("run")
        assert lease is not None
        lease.release()
    real, meanwhile = claims.os.open, []

    def late(path, *args):
        if Path(path).name == "3" and not meanwhile:
            meanwhile.append(path)
            lease = quick.take("run")
            assert lease is not None and lease.number == 3
            lease.release(over=True)
            assert quick.take("run").number == 1
        return real(path, *args)

    with monkeypatch.context() as patched:
        patched.setattr(claims.os, "open", late)
        assert slow.take("run") is None
    assert os.listdir(slow.folder / "run") == ["1"] and quick.held["run"].check()


def test_a_deleted_claim_is_lost(at):
    lease = at("one").take("run")
    assert lease is not None
    lease.path.unlink()
    assert not lease.check() and not lease.holds


def test_what_is_half_there_is_somebodys(at, tmp_path):
    folder = tmp_path / "leases" / "run"
    folder.mkdir(parents=True)
    (folder / "1").touch()
    here = at("one")
    assert here.take("run") is None and Holder.of('{"host": 1, "x": 2}').host == 1 and Holder.of("[]") == Holder()
    assert until_taken(here, "run") >= EXPIRES * 0.02


def test_it_says_who_and_how_far(at, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    here = at("one")
    lease = here.take("run")
    assert lease is not None
    for step in (10, 20):
        lease.step, lease.steps = step, 100
        until = time.monotonic() + 5
        while lease.holder.step != step and time.monotonic() < until:
            time.sleep(0.005)
    found = at("two").holder("run")
    assert found is not None
    holder, alive = found
    assert (holder.pid, holder.job, holder.step, holder.steps, alive) == (os.getpid(), "7", 20, 100, True)
    assert holder.pace is not None and 0.0005 < holder.pace < 1 and time.time() - holder.since < 60
    die(here)
    assert at("one").holder("run") == (holder, False) or not at("one").holder("run")[1]
    assert at("one").holder("nobody") is None


def hold(folder: Path, log: int, machine: str, seed: int) -> None:
    """A process that takes the claim whenever it can, and writes its number with each step."""
    claims._kernel = lambda: machine
    chance, mine = random.Random(seed), Claims(folder)
    while True:
        lease = mine.take("run")
        if lease is None:
            time.sleep(0.003)
            continue
        steps = chance.randrange(20, 400)
        while lease.holds and steps:
            os.write(log, f"{lease.number}\n".encode())
            time.sleep(0.0005)
            steps -= 1
        lease.release()


def test_random_kills_never_leave_two(tmp_path):
    """Processes of two machines, each killed or stopped at random. The number of the claim rises with each that takes
    it: were there two at once, a lower one would follow a higher one. (Who is stopped between its look and its step
    does that one step when it goes on.)"""
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    chance, stops = random.Random(KILLS), 0
    nodes: dict[int, int] = {}

    def start(node: int) -> None:
        if not (process := os.fork()):
            try:
                hold(tmp_path / "leases", log, f"machine {node % 2}", chance.randrange(10**6) + node)
            finally:
                os._exit(1)
        nodes[node] = process

    for node in range(3):
        start(node)
    try:
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.0, 0.3))
            node = chance.randrange(3)
            if chance.random() < 0.3:
                stops += 1
                os.kill(nodes[node], signal.SIGSTOP)
                time.sleep(chance.uniform(0, 2 * EXPIRES * 0.02))
                os.kill(nodes[node], signal.SIGCONT)
            else:
                os.kill(nodes[node], signal.SIGKILL)
                assert os.waitpid(nodes[node], 0)[1] == signal.SIGKILL
                start(node)
    finally:
        for process in nodes.values():
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        os.close(log)
    numbers = [int(line) for line in (tmp_path / "log").read_text().split()]
    assert len(set(numbers)) > KILLS / 3
    back = sum(after < before for before, after in pairwise(numbers))
    assert back <= stops
