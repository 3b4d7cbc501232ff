"""How fast this machine moves and computes: the rates of its fastest kernels and copies."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lskd.bench.floor import PURPOSE, Floor, Work
from lskd.engine.training import set_precision

SIDES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}  # of the matrices that are multiplied

CONVOLUTIONS = {  # channels, side: those of ResNet-20 and WRN-16-2; on a GPU larger ones, which keep it busy
    "cpu": ((16, 32), (32, 16), (64, 8), (32, 32), (64, 16), (128, 8)),
    "cuda": ((128, 16), (256, 16)),
}

BATCH = 64
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

COPIES = {  # bytes read and written
    "cpu": tuple(2**k for k in (17, 18, 19, 20, 21, 22, 23, 24, 26, 28, 29)),
    "cuda": tuple(2**k for k in (20, 22, 24, 25, 26, 27, 28, 31)),
}

WINDOW, WINDOWS = 0.002, 0.015  # seconds of one, and of all in a row: short ones find a busy machine's free moments
KEPT = 3  # kernels that are looked at again: any of them may prove to be the fastest


@dataclass(frozen=True)
class Kernel:
    """Something that the machine can do again and again: `amount` (operations, or bytes) each time. `make` gives it
    memory of its own, for each who does it."""

    name: str
    amount: int
    make: Callable[[], Callable[[], object]]


@dataclass(frozen=True)
class Rate:
    """The most that was seen, and which kernel it was."""

    per_second: float
    kernel: Kernel


def use(precision: str) -> None:
    """Numerics of `precision`, and cuDNN's fastest algorithms for them."""
    set_precision(precision, search=True)


def dtype_of(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32


def products(device: torch.device, precision: str) -> list[Kernel]:
    """Products of two square matrices."""

    def make(side: int) -> Callable[[], object]:
        a, b = (torch.randn(side, side, device=device).to(dtype_of(precision)) for _ in range(2))
        product = torch.empty_like(a)
        return lambda: torch.mm(a, b, out=product)

    return [
        Kernel(f"product of {side} × {side} matrices", 2 * side**3, functools.partial(make, side))
        for side in SIDES[device.type]
    ]


def convolutions(device: torch.device, precision: str) -> list[Kernel]:
    """3×3 convolutions that keep the number of channels, and both of their gradients, in both layouts."""
    masks = {
        "forward": None, "gradient of the input": (True, False, False), "gradient of the weight": (False, True, False),
    }  # fmt: skip

    def make(channels: int, side: int, layout: str, mask: tuple[bool, ...] | None) -> Callable[[], object]:
        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, device=device).to(dtype_of(precision), memory_format=LAYOUTS[layout])

        x, out = (draw(BATCH, channels, side, side) for _ in range(2))
        weight, one = draw(channels, channels, 3, 3), (1, 1)
        if mask is None:
            return lambda: torch.conv2d(x, weight, padding=1)
        gradients = torch.ops.aten.convolution_backward
        return lambda: gradients(out, x, weight, None, one, one, one, False, (0, 0), 1, mask)

    return [
        Kernel(
            f"convolution of {channels} channels of {side} × {side}, {layout}, {direction}",
            2 * BATCH * side**2 * 9 * channels**2,
            functools.partial(make, channels, side, layout, mask),
        )
        for channels, side in CONVOLUTIONS[device.type]
        for layout in LAYOUTS
        for direction, mask in masks.items()
    ]


def copies(device: torch.device) -> list[Kernel]:
    """Copies from one place of memory to another, the smallest first."""

    def make(size: int) -> Callable[[], object]:
        source = torch.ones(size // 8, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    return [Kernel(f"copy of {size} bytes", size, functools.partial(make, size)) for size in COPIES[device.type]]


def rate(device: torch.device, kernel: Kernel, lanes: int = 1) -> float:
    """What `device` does of `kernel` a second in the best of some windows: with lanes, so many of them side by side,
    among which the CPU's threads are shared out."""
    with Lanes(lanes) as side_by_side:
        acts = [kernel.make() for _ in range(lanes)]

        def seconds(calls: int) -> float:
            return timed(device, lambda: side_by_side([functools.partial(repeat, act, calls) for act in acts]))[1]

        seconds(1)
        calls = max(1, round(WINDOW / seconds(1)))
        times = [seconds(calls) for _ in range(3)]
        while sum(times) < WINDOWS:
            times.append(seconds(calls))
        return lanes * calls * kernel.amount / min(times)


class Lanes:
    """Threads in which things are done side by side; the calling one, if it is one thing at a time."""

    def __init__(self, count: int) -> None:
        self.threads = torch.get_num_threads()
        share = max(1, self.threads // count)
        self.pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(share,))

    def __enter__(self) -> Lanes:
        return self

    def __call__(self, acts: Sequence[Callable[[], object]]) -> None:
        if len(acts) == 1:
            acts[0]()
        else:
            list(self.pool.map(lambda act: act(), acts))

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown()
        torch.set_num_threads(self.threads)  # it is one number for the libraries


def repeat(act: Callable[[], object], times: int) -> None:
    for _ in range(times):
        act()


def again(device: torch.device, rates: Sequence[Rate], lanes: int = 1) -> list[Rate]:
    """`rates`, each the better of what it was and what it is now."""
    return [Rate(max(known.per_second, rate(device, known.kernel, lanes)), known.kernel) for known in rates]


class Machine:
    """What the floors stand on: the operations/s of each precision, and the bytes/s of copies of each size; for one run
    at a time, and (on a CPU, among whose runs the threads are shared out) for several side by side.

    `again` looks at the best of them once more: of a machine with other work, too, the fastest moment counts.
    """

    def __init__(self, device: torch.device, precisions: Sequence[str], fleets: Sequence[int] = (1,)) -> None:
        self.device = device
        self.computing: dict[tuple[str, int], list[Rate]] = {}  # by precision and runs at once: the best three
        self.copying: dict[int, list[Rate]] = {}  # by the number of runs: the smallest copy first
        for lanes in dict.fromkeys(map(self.lanes, (1, *fleets))):
            for precision in precisions:
                use(precision)
                kernels = products(device, precision) + convolutions(device, precision)
                rates = [Rate(rate(device, kernel, lanes), kernel) for kernel in kernels]
                for kept in (4 * KEPT, KEPT):
                    rates = again(device, sorted(rates, key=lambda one: -one.per_second)[:kept], lanes)
                self.computing[precision, lanes] = rates
            self.copying[lanes] = [Rate(rate(device, kernel, lanes), kernel) for kernel in copies(device)]

    def lanes(self, fleet: int) -> int:
        """How many of a fleet's runs can be busy at once: those of a GPU share all of it."""
        return 1 if self.device.type == "cuda" else min(fleet, torch.get_num_threads())

    def again(self) -> None:
        for (precision, lanes), rates in self.computing.items():
            use(precision)
            self.computing[precision, lanes] = again(self.device, rates, lanes)
        for lanes, rates in self.copying.items():
            self.copying[lanes] = again(self.device, rates, lanes)

    def fastest(self, precision: str, fleet: int = 1) -> Rate:
        """The kernel that does most operations a second."""
        return max(self.computing[precision, self.lanes(fleet)], key=lambda rate: rate.per_second)

    def bandwidth(self, size: int, lanes: int = 1) -> float:
        """Bytes/s of a copy of `size` bytes: the best of the copies that are not smaller, or the largest one."""
        there = self.copying[lanes]
        return max((one.per_second for one in there if one.kernel.amount >= size), default=there[-1].per_second)

    def floor(self, work: Work, precision: str, fleet: int = 1) -> Floor:
        """The least that `work` takes, of each run of a fleet."""
        lanes, per_second = self.lanes(fleet), self.fastest(precision, fleet).per_second
        moved = [call.bytes / self.bandwidth(call.bytes, lanes) for call in work.calls]
        computed = [call.operations / per_second for call in work.calls]
        return Floor(sum(moved), sum(computed), sum(map(max, moved, computed)))

    def by_purpose(self, work: Work, precision: str) -> dict[str, tuple[float, float]]:
        """(seconds that the operators of `work` took, and that they take at least), by what they are for; the longest
        first."""
        found: dict[str, tuple[float, float]] = {}
        for call in work.calls:
            purpose = PURPOSE.get(call.name, "others")
            took, least = found.get(purpose, (0.0, 0.0))
            found[purpose] = took + call.seconds, least + self.floor(Work((call,)), precision).in_turn
        return dict(sorted(found.items(), key=lambda item: -item[1][0]))

    def describe(self) -> dict[str, Any]:
        """For the record: rates by precision and bandwidths by size, each by the number of runs side by side."""
        rates: dict[str, dict[str, Any]] = {}
        for precision, lanes in self.computing:
            best = self.fastest(precision, lanes)
            rates.setdefault(precision, {})[str(lanes)] = {
                "operations_per_second": best.per_second, "kernel": best.kernel.name,
            }  # fmt: skip
        copied = {
            str(lanes): {str(one.kernel.amount): one.per_second for one in rates}
            for lanes, rates in self.copying.items()
        }
        return {"rates": rates, "copy_bytes_per_second": copied}


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` gives, and the seconds it takes, up to the last of what it has the device do."""
    synchronize(device)
    began = time.perf_counter()
    result = work()
    synchronize(device)
    return result, time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    """Wait for all that `device` has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
