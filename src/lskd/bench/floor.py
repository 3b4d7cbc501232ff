"""The floor of a machine: no step can take less than moving its bytes takes, nor than computing its operations.

The floor of a step = max(Σ bytes / bandwidth, Σ operations / rate) over its operators, and the share of the floor that
a training reaches = floor / time. Operators of one run do not overlap: Σ max(bytes / bandwidth, operations / rate), the
floor "in turn", is the tighter one for a run alone. Bytes are counted as if operators were not fused, each reading its
inputs once and writing its outputs once; operations as the definition has them.

The rate is that of the fastest of several kernels: matrix products, and the convolutions of the networks that are
measured here. The bandwidth of an operator is that of a copy of as many bytes: a small one stays in a cache, from one
call to the next as from one operator to the next. So it is the floor of a loop made of ordinary operators: one that
fuses them, or whose convolutions need fewer multiplications (Winograd's), may exceed a share of 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# Operators by what they read and write, where the general rule (all inputs, all outputs) is wrong.
MOVES_NOTHING = {
    "_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_",
    "_local_scalar_dense",
}  # fmt: skip

WRITES_ONLY = {
    "zero_", "fill_", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "bernoulli_",
}  # fmt: skip

READS_WHAT_IT_TAKES = {"index", "index_select", "gather", "embedding"}  # not the whole of the tensor it takes from

# What an operator is for, in the order in which it is told.
PURPOSES = {
    "convolutions": ("convolution",),
    "convolutions, backward": ("convolution_backward",),
    "batch norm": ("native_batch_norm", "_native_batch_norm_legit"),
    "batch norm, backward": ("native_batch_norm_backward",),
    "ReLU": ("relu", "relu_"),
    "ReLU, backward": ("threshold_backward",),
    "sums of branches and gradients": ("add", "add_"),
    "dense layers": ("addmm", "mm", "addmm_", "bmm"),
    "casts and copies": ("_to_copy", "copy_", "clone", "_foreach_copy_"),
    "images by index": ("index", "index_select", "gather"),
    "optimizer": ("_fused_sgd_",),
}

PURPOSE = {name: purpose for purpose, names in PURPOSES.items() for name in names}
READ_THOUGH_MARKED_AS_WRITTEN = {"_fused_sgd_": {"grads"}}  # (to unscale them, which nobody asks for)


@dataclass(frozen=True)
class Call:
    """What one call of an operator asks of the machine, and (in seconds) how long it took."""

    name: str
    bytes: int
    operations: int
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Work:
    """What a step asks of the machine."""

    calls: tuple[Call, ...]

    @property
    def bytes(self) -> int:
        return sum(call.bytes for call in self.calls)

    @property
    def operations(self) -> int:
        return sum(call.operations for call in self.calls)


def work_of(step: Callable[[], object]) -> Work:
    """The work of `step()`, backward included.

    For a step on the CPU: there a backward pass runs in the calling thread, in which the counter listens. Operations
    are those of matrix products and convolutions, a multiplication and an addition being two; the others are few, and
    bound by memory.
    """
    with Counter() as counter:
        step()
    return Work(tuple(counter.calls))


class Counter(TorchDispatchMode):
    """The calls of operators while it is active. Their bytes are those of distinct inputs and outputs; views move
    nothing. (Times are of use on a CPU, where an operator is done when it returns.)"""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        began = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - began
        name = func._schema.name.split("::")[-1]
        if not func.is_view and name not in MOVES_NOTHING:
            count = flop_registry.get(func.overloadpacket)
            operations = count(*args, **(kwargs or {}), out_val=result) if count is not None else 0
            self.calls.append(Call(name, moved(func, name, args, kwargs or {}, result), operations, seconds))
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


@dataclass(frozen=True)
class Floor:
    """Seconds that a step takes at least: for its bytes, for its operations, and for one operator after another."""

    bytes: float
    operations: float
    in_turn: float

    @property
    def seconds(self) -> float:
        return max(self.bytes, self.operations)

    @property
    def bound_by(self) -> str:
        return "bytes" if self.bytes > self.operations else "operations"
