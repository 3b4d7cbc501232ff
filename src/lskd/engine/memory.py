"""What a training will need of its device's memory, before it starts: its own code on a few images, counted."""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lskd.data import Part, Spec
from lskd.data.augment import Normalize
from lskd.data.images import LARGE, ImageSource, Normalizer, at_once
from lskd.engine.capture import GATE
from lskd.engine.member import build_network
from lskd.engine.tasks import Images, Task
from lskd.engine.tasks.load import TEXT
from lskd.engine.tasks.text import AT_ONCE
from lskd.engine.teacher import Teacher
from lskd.engine.training import Training
from lskd.recipe import Recipe
from lskd.run import Run

# Beside its tensors a training has on CUDA: what cuBLAS keeps for each thread and stream (32 MiB on Hopper, 8 before);
# what cuDNN's algorithms work in (an estimate, not measured); and what is never used of the segments that torch takes
# of the device: 2 MiB for small tensors and 20 for others, once for the captured step and once for all else.
CUDA_WORKSPACE = (32 + 32 + 2 * (2 + 20)) << 20
BATCHES = (8, 16)  # what a batch of the recipe's size needs is extrapolated from these
FEWER = (2, 4)  # for large images, and large networks
LONG = 64  # tokens of a sentence that is measured with


def run_bytes(run: Run, spec: Spec, device_type: str) -> int:
    """Memory that one training of `run` takes on a device beyond what it shares with others: weights (the method's
    own modules among them, and of a run with peers those of all networks), averages of them, gradients, momentum and
    its teacher's weights, and the most that a step and an evaluation hold besides.

    On CUDA ("cuda") a captured step keeps its memory to itself, so what runs eagerly beside it needs more: the most of
    an evaluation and of a step of the last batch of an epoch, which is captured later. Not counted is what a library's
    kernels take for themselves on a CPU. A run that has finished on the device tells better (`Fleet.learn`).
    """
    _, height, width = run.recipe.input_shape(spec.shape, evaluated=True)
    images = spec.kind == "images"
    batches = BATCHES if images and height * width <= LARGE else FEWER
    few, more = (_measure(run, spec, batch) for batch in batches)
    largest, evaluated = run.recipe.micro_batch, at_once(device_type, height, width)
    if not images:
        evaluated = AT_ONCE[device_type]
        if run.recipe.batch_by == "tokens":
            largest = max(1, largest // LONG)

    def at(batch: int, of: str) -> float:
        """All tensors of a step grow by the same bytes for each example."""
        slope = (more[of] - few[of]) / (batches[1] - batches[0])
        return few[of] + slope * (batch - batches[0])

    step, evaluation = at(largest, "step"), at(evaluated, "evaluation")
    if device_type == "cuda" and images:
        last = min(run.recipe.micro_batch, spec.train % run.recipe.batch_size)
        return round(few["kept"] + step + max(evaluation, at(last, "step"))) + CUDA_WORKSPACE
    workspace = CUDA_WORKSPACE if device_type == "cuda" else 0
    return round(few["kept"] + max(step, evaluation)) + workspace


def failure_at(run: Run, spec: Spec, batch: int) -> Exception | None:
    """What a step of `batch` images ends with, if it fails."""
    try:
        _measure(run, spec, batch)
    except Exception as error:  # of networks and methods of all kinds
        return error
    return None


def _measure(run: Run, spec: Spec, batch: int) -> dict[str, int]:
    """Bytes that are kept between steps, and the most that a step and an evaluation of `batch` images hold besides."""
    in_parts = run.recipe.accumulate > 1
    size = batch * (2 if in_parts else 1)

    # (Compiled code allocates less; what compiling itself takes is not counted.)
    def at_size(recipe: Recipe) -> Recipe:
        return dataclasses.replace(
            recipe, batch_size=size, batch_by="examples", accumulate=size // batch, steps=2, epochs=None, compile=False,
            batch_norm_group=batch // 2 if recipe.batch_norm_group and batch >= 4 else 0,
        )  # fmt: skip

    recipe = at_size(run.recipe)
    with Allocations() as memory:
        # As many images as there will be: a method may keep something for each.
        examples = max(spec.train, 4 * size)
        task, evaluated = images_of(recipe, spec, examples) if spec.kind == "images" else text_of(spec, batch)
        rows = torch.arange(batch)
        shared, teacher = memory.live, None
        if run.teacher is not None:
            network, presenter = build_network(run.teacher, spec), task.presenter
            if isinstance(task, Images):
                presenter = shown(run.teacher.recipe.normalize, task.train)
            teacher = Teacher(
                network, task.train, presenter, precision=recipe.precision, mode=run.teacher_mode,
                mixed=recipe.augment.mix.any, group=recipe.batch_norm_group,
            )  # fmt: skip
            if teacher.by_view:
                teacher.hold(torch.zeros(batch, spec.num_classes))
        peers = tuple(dataclasses.replace(peer, recipe=at_size(peer.recipe)) for peer in run.peers)
        training = Training(dataclasses.replace(run, recipe=at_size(run.recipe), peers=peers), spec, task, teacher)

        def work() -> None:
            """A step; of a batch in parts one of them, which are alike, and the update."""
            for feed in training.one_step.feeds:
                feed.begin(rows, rows, [batch])
                feed.advance()
            if in_parts:
                training.one_step.run_step(batch, size)
                training.one_step.run_update()
            else:
                training.one_step.run_step(batch)

        step = 0
        kept = memory.live
        for _ in range((1 if training.stage is None else 2) if run.recipe.trains else 0):
            if step:
                training.enter(None)
            for member in training.members:
                member.train_mode()
            if not in_parts:  # where gradients are there from the beginning
                work()  # its gradients stay
            kept = memory.live
            step = max(step, memory.most(work) - kept)
        evaluation = max(
            memory.most(functools.partial(member.evaluate, evaluated.batches(rows, rows, batch))) - kept
            for member in training.members
        )
        if (teaches := teacher) is not None:
            evaluation = max(evaluation, memory.most(lambda: teaches.live(task.train.plain(rows))) - kept)
    return {"kept": kept - shared, "step": step, "evaluation": evaluation}


def images_of(recipe: Recipe, spec: Spec, examples: int) -> tuple[Task, Black]:
    """So many images as there will be, and those of an evaluation."""
    source = Black(examples, recipe.view_shape(spec.shape), recipe.augment.views(*spec.shape[1:]))
    labels = torch.arange(examples) % spec.num_classes
    task = Images(source, labels, shown(recipe.normalize, source), held_out={})
    return task, Black(examples, recipe.view_shape(spec.shape, evaluated=True), 1)


def shown(normalize: Normalize, source: ImageSource) -> Normalizer:
    """How a network is shown images, whatever the statistics: how many channels they have is all that counts."""
    kind: Any = "per_image" if normalize.kind == "per_image" else "none"
    return Normalizer(Normalize(kind, resize=normalize.resize), source.plain(torch.arange(1)))


def text_of(spec: Spec, examples: int) -> tuple[Task, Any]:
    """So many long sentences of one token, and those of an evaluation: the same."""
    long = Long(examples)
    task = TEXT[spec.kind]({"train": Part(long, torch.zeros(examples, dtype=torch.int64))}, torch.device("cpu"))
    return task, task.train


class Long:
    """A corpus of long sentences."""

    def __init__(self, examples: int) -> None:
        self._examples = examples
        self.lengths = np.full((examples, 2), LONG)
        # A translation adds the end of a sentence, or its beginning.
        self.source = self.target = self.segments = Tokens(
            np.ones(examples * (LONG - 1), dtype=np.int32), np.arange(examples + 1) * (LONG - 1)
        )

    def __len__(self) -> int:
        return self._examples


class Tokens(NamedTuple):
    tokens: np.ndarray
    starts: np.ndarray


class Black(ImageSource):
    """Black images in the place of those that there will be: they take memory when they are looked at, as others do."""

    def __init__(self, count: int, shape: tuple[int, int, int], views: int | None) -> None:
        super().__init__(count, shape, views, torch.device("cpu"))

    def take(self, indices: Tensor, views: Tensor) -> Tensor:
        return torch.zeros(len(indices), *self.shape, dtype=torch.uint8)


class Allocations(TorchDispatchMode):
    """Counts the bytes of the tensors that are made, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._bytes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._bytes:
                    self._bytes[storage._cdata] = storage.nbytes()
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._freed, storage._cdata)
        return out

    def _freed(self, key: int) -> None:
        self.live -= self._bytes.pop(key, 0)

    def most(self, work: Callable[[], Any]) -> int:
        """The most bytes that live at once during `work()`."""
        self.peak = self.live
        work()
        return self.peak


def release(device: torch.device) -> None:
    """Give back to the device what this process holds of it and nobody uses."""
    with GATE.eager():
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def device_bytes(device: torch.device) -> tuple[int, int]:
    """(free, total) memory of the device; on a CPU, what the kernel says is available, and all there is."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    filled, total = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            available = next(line for line in file if line.startswith("MemAvailable:"))
        return int(available.split()[1]) * 1024, total * filled
    except (OSError, StopIteration):
        return total * filled // 2, total * filled
