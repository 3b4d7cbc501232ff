"""The floor of a machine: no step can take less than moving its bytes takes, nor than computing its operations.

The floor of a step = max(bytes / copy bandwidth, operations / matrix rate), and the share of the floor that a training
reaches = floor / time. Bytes are counted as if operators were not fused, each reading its inputs from memory and
writing its outputs there once; operations as the definition has them. So it is the floor of a loop made of ordinary
operators: one that fuses them, whose tensors stay in a cache (small networks on a CPU), or whose convolutions need
fewer multiplications (Winograd's), may exceed a share of 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lskd.engine.training import set_precision

# Operators by what they read and write, where the general rule (all inputs, all outputs) is wrong.
MOVES_NOTHING = {
    "_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_",
    "_local_scalar_dense",
}  # fmt: skip
WRITES_ONLY = {
    "zero_", "fill_", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "bernoulli_",
}  # fmt: skip
READS_WHAT_IT_TAKES = {"index", "index_select", "gather", "embedding"}  # not the whole of the tensor it takes from
READ_THOUGH_MARKED_AS_WRITTEN = {"_fused_sgd_": {"grads"}}  # (to unscale them, which nobody asks for)


@dataclass(frozen=True)
class Work:
    """What a step asks of the machine."""

    bytes: int
    operations: int

    def seconds(self, bandwidth: float, rate: float) -> float:
        """The floor, on a machine of `bandwidth` bytes/s and `rate` operations/s."""
        return max(self.bytes / bandwidth, self.operations / rate)


def bytes_and_operations(step: Callable[[], object]) -> Work:
    """The bytes that `step()` moves, backward included, and its floating-point operations.

    For a step on the CPU: there a backward pass runs in the calling thread, in which the two counters listen.
    Operations are those of matrix products and convolutions, a multiplication and an addition being two; the others are
    few, and bound by memory.
    """
    with FlopCounterMode(display=False) as operations, ByteCounter() as moved:
        step()
    return Work(moved.bytes, operations.get_total_flops())


class ByteCounter(TorchDispatchMode):
    """While it is active: Σ over operators of the bytes of their distinct inputs and outputs. Views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1]
        if not func.is_view and name not in MOVES_NOTHING:
            self.bytes += moved(func, name, args, kwargs or {}, result)
        return result


def moved(func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> int:
    """Bytes read and written by one call of an operator."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    changed = [
        given.get(argument.name)
        for argument in func._schema.arguments
        if argument.is_write and argument.name not in READ_THOUGH_MARKED_AS_WRITTEN.get(name, ())
    ]
    read, written = distinct(given), distinct([result, changed])
    if name in WRITES_ONLY:
        read = {}
    elif name == "copy_":
        read = distinct(given["src"])
    elif name in READS_WHAT_IT_TAKES:
        taken_from = distinct(next(iter(given.values())))
        read = {key: size for key, size in read.items() if key not in taken_from}
        return sum(read.values()) + 2 * sum(written.values())
    return sum(read.values()) + sum(written.values())


def distinct(value: Any) -> dict[tuple[Any, ...], int]:
    """Bytes of each tensor somewhere in `value`; the same part of the same memory counts once."""
    return {
        (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()): size_in_memory(
            tensor
        )
        for tensor in tensors_in(value)
    }


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


def size_in_memory(tensor: Tensor) -> int:
    """Bytes; a dimension that is only expanded has none of its own."""
    size = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        size *= length if stride else min(length, 1)
    return size


# ---- the machine --------------------------------------------------------------------------------------------------


def copy_bandwidth(device: torch.device, megabytes: int | None = None, repeats: int = 10) -> float:
    """Bytes/s of copying `megabytes` (default: much more than any cache) on `device`, read + written; the best."""
    size = (megabytes or (2048 if device.type == "cuda" else 256)) * 2**20
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / best_time(device, lambda: target.copy_(source), repeats)


def matrix_rate(device: torch.device, precision: str, side: int | None = None, repeats: int = 10) -> float:
    """Operations/s of the product of two matrices of `side` × `side` on `device` in `precision`; the best."""
    side = side or (8192 if device.type == "cuda" else 2048)
    set_precision(precision)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(a)
    return 2 * side**3 / best_time(device, lambda: torch.mm(a, b, out=product), repeats)


def best_time(device: torch.device, act: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` calls, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        began = time.perf_counter()
        act()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def synchronize(device: torch.device) -> None:
    """Wait for all that `device` has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
