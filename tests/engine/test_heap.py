"""Memory that a step frees is there for the next one."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from lskd.engine.heap import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about glibc")
def test_freed_memory_is_not_given_back(one_thread):
    keep_freed_memory()

    def step() -> None:
        """Activations, each of which is freed when its gradient is there."""
        activations = [torch.ones(1 << power) for power in (18, 19, 20, 19, 18, 20, 18, 19)]
        while activations:
            torch.ones_like(activations.pop())

    for _ in range(3):
        step()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults < 2000  # else 4,000 pages a step


def test_an_environment_that_says_otherwise_is_respected(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("asked for the C library"))
    keep_freed_memory.__wrapped__()


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    keep_freed_memory.__wrapped__()
