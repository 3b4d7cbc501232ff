"""What the tests of the benchmark share."""

from __future__ import annotations

import pytest

from lskd.bench import machine


@pytest.fixture
def small_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is measured by few and small kernels, in no time."""
    monkeypatch.setattr(machine, "SIDES", {"cpu": (64,), "cuda": (64,)})
    monkeypatch.setattr(machine, "CONVOLUTIONS", {"cpu": ((8, 4),), "cuda": ((8, 4),)})
    monkeypatch.setattr(machine, "COPIES", {"cpu": (2**18, 2**20), "cuda": (2**18, 2**20)})
    monkeypatch.setattr(machine, "WINDOWS", 0.0)
