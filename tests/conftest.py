"""What several test modules need."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from lskd.data import DATASETS, STEPS
from lskd.launch.launchers import LAUNCHERS
from lskd.methods import METHODS
from lskd.models import ARCHS
from lskd.probes import PROBES
from lskd.registry import Registry
from lskd.targets import TARGETS
from lskd.trackers import TRACKERS

WritePhotographs = Callable[[Path, Mapping[str, int], tuple[str, ...]], Path]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes long for what it tells; runs with LSKD_TEST_ALL=1")
    config.addinivalue_line("markers", "every(n): of its many cases each n-th is enough; all run with LSKD_TEST_ALL=1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("LSKD_TEST_ALL"):
        return
    seen = Counter[str]()
    for item in items:
        test = item.nodeid.partition("[")[0]
        every = item.get_closest_marker("every")
        if item.get_closest_marker("slow") or (every is not None and seen[test] % every.args[0]):
            item.add_marker(pytest.mark.skip(reason="LSKD_TEST_ALL is not set"))
        seen[test] += 1


def pytest_collection_finish() -> None:
    """What torch and the tests' modules hold lives to the end: to look through it again and again is a sixth of the
    time that the tests of the command line take."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


class Operators(TorchDispatchMode):
    """The operators that run inside, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(func)
        return func(*args, **(kwargs or {}))

    def count(self, name: str) -> int:
        """How often one ran, such as "add_.Tensor"."""
        return sum(func.__name__ == name for func in self.calls)


@pytest.fixture
def operators() -> type[Operators]:
    """`with operators() as ran: …`, then `ran.calls`, `ran.count("add_.Tensor")`."""
    return Operators


@pytest.fixture
def forget() -> Iterator[Callable[[], None]]:
    """What a test registers is forgotten at its end, and whenever it calls this."""
    registries: tuple[Registry[Any], ...] = (METHODS, TARGETS, ARCHS, PROBES, DATASETS, STEPS, TRACKERS, LAUNCHERS)
    before = [dict(registry) for registry in registries]

    def restore() -> None:
        for registry, entries in zip(registries, before, strict=True):
            registry.entries.clear()
            registry.entries.update(entries)

    yield restore
    restore()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For networks that are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def write_photographs() -> WritePhotographs:
    """`write_photographs(root, {"train": 6, "val": 3}, classes)`: JPEGs of various sizes, 6 and 3 of each class, in
    `root`/train/<class>/ and `root`/val/<class>/. A class has a colour of its own, under noise."""

    def write(root: Path, parts: Mapping[str, int], classes: tuple[str, ...]) -> Path:
        rng = np.random.RandomState(0)
        for part, count in parts.items():
            for label, name in enumerate(classes):
                folder = root / part / name
                folder.mkdir(parents=True)
                for number in range(count):
                    width, height = rng.randint(20, 70, 2)
                    pixels = rng.randint(0, 60, (height, width, 3))
                    pixels[..., label % 3] += 120 + 40 * (label // 3)
                    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.JPEG", quality=90)
        return root

    return write
