"""One training on one device: its network, optimizer and data order, and the step that all methods share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lskd.config import Run
from lskd.data import Spec
from lskd.data.augment import Normalizer
from lskd.data.stream import Stream
from lskd.engine.average import Average
from lskd.engine.capture import Captured
from lskd.engine.optimizer import SGD
from lskd.engine.seeds import generator_for, seed_for
from lskd.engine.shared import Images, Table
from lskd.engine.teacher import Teacher
from lskd.methods import Batch
from lskd.targets import smooth_labels

GLOBAL_GENERATOR = threading.Lock()  # initial weights are drawn from it, and trainings may start side by side


class Training:
    """Everything that a step reads or changes is on the device, at one place: so a step can be captured and replayed,
    and nothing waits for the device before an epoch ends.

    `begin_epoch`, then `step` for each batch, then `end_epoch`. `state` and `restore` are for checkpoints, between any
    two steps.
    """

    def __init__(
        self,
        run: Run,
        spec: Spec,
        images: Images,
        teacher_network: nn.Module | None = None,
        table: Table | None = None,
    ) -> None:
        recipe = run.recipe
        self.run, self.num_classes, self.images = run, spec.num_classes, images
        self.device = device = images.labels.device
        self.examples = len(images.labels)
        self.total_steps = recipe.total_steps(self.examples)
        self.steps_per_epoch = recipe.steps_per_epoch(self.examples)
        self.step_number = 0

        self.network = build_network(run, spec).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = Average(self.network, recipe.ema) if recipe.ema else None
        self.generator = torch.Generator(device).manual_seed(seed_for(run.seed, "dropout"))
        for module in self.network.modules():
            if hasattr(module, "generator"):
                module.generator = self.generator
        self.optimizer = SGD(self.network, recipe)
        if recipe.accumulate > 1:
            self.optimizer.hold_gradients()
        self.teacher: Teacher | None = None
        if teacher_network is not None:
            teacher_network = teacher_network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.teacher = Teacher(teacher_network, images.views, self.forward, mode=run.teacher_mode, table=table)

        schedule = recipe.schedule
        factors = [
            schedule.at(step, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch)
            for step in range(self.total_steps)
        ]
        # What the step reads, at fixed addresses.
        self._lr_factors = torch.tensor(factors, dtype=torch.float64, device=device)
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        self._order = torch.zeros(self.examples, dtype=torch.int64, device=device)
        self._drawn = torch.zeros(self.examples, dtype=torch.int64, device=device)
        self._taught: Tensor | None = None  # (N, K), of the views of this epoch
        self._places = torch.arange(recipe.micro_batch, device=device)
        self._taken = torch.zeros(1, dtype=torch.int64, device=device)  # examples of the batch that are done already
        self._pixels: Tensor | None = None  # of streamed images: those that the network is about to see
        self._stream: Iterator[Tensor] = iter(())
        if isinstance(images.views, Stream):
            self._pixels = images.views.buffer(recipe.micro_batch)
        self._sums: dict[str, Tensor] = {}
        self.run_step: Callable[..., None] = self._one_step
        self.run_update: Callable[[], None] = self._update
        if device.type == "cuda":
            self.run_step = Captured(self._one_step, self.generator)
            self.run_update = Captured(self._update, self.generator)

    @property
    def trained(self) -> nn.Module:
        """The network that is evaluated and kept: the average of its weights, where the recipe asks for that."""
        return self.network if self.average is None else self.average.network

    def forward(self, network: nn.Module, pixels: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> fp32 logits (B, K), normalised and computed as the recipe says."""
        return forward(network, pixels, self.images.normalizer, self.run.recipe.precision)

    # ---- an epoch -------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of the next step, counted from 0."""
        return self.step_number // self.steps_per_epoch

    def lr(self, step: int) -> float:
        """The recipe's learning rate at `step`."""
        return self.run.recipe.lr * self._lr_factors[step].item()

    def begin_epoch(self) -> None:
        """Draw the order and the views of the present epoch, and have the teacher look at them."""
        seed, epoch, recipe = self.run.seed, self.epoch, self.run.recipe
        order = torch.randperm(self.examples, generator=generator_for(seed, "shuffle", epoch))
        drawn = self.images.views.draw(generator_for(seed, "augment", epoch))
        self._order.copy_(order)
        self._drawn.copy_(drawn)
        if isinstance(self.images.views, Stream):
            left = order[self.step_number % self.steps_per_epoch * recipe.batch_size :]
            self._stream = self.images.views.batches(left, drawn[left], recipe.micro_batch, self._pixels)
        if self.teacher is not None and self.teacher.ahead:
            self.hold_logits(self.teacher.epoch(self._drawn))
        self.network.train()

    def hold_logits(self, logits: Tensor) -> None:
        """What the teacher says to the views of this epoch, (N, K), kept where the step looks it up."""
        if self._taught is None:
            self._taught = logits
        else:
            self._taught.copy_(logits)

    def step(self) -> None:
        """One update."""
        recipe = self.run.recipe
        place = self.step_number % self.steps_per_epoch
        size = min(recipe.batch_size, self.examples - place * recipe.batch_size)
        for begun in range(0, size, recipe.micro_batch):
            if self._pixels is not None:
                next(self._stream)
            if recipe.accumulate == 1:
                self.run_step(size)
            else:
                self.run_step(min(recipe.micro_batch, size - begun), size)
        if recipe.accumulate > 1:
            self.run_update()
        self.step_number += 1

    def _one_step(self, size: int, of: int = 0) -> None:
        """The update from the batch, of `size` examples, that `_step` stands at; no Python state changes here.
        With `of`, only the share in its gradient of the next `size` of its examples, which are `of`."""
        run, images = self.run, self.images
        begins = self._step % self.steps_per_epoch * run.recipe.batch_size
        if of:
            begins = begins + self._taken
        indices = self._order[begins + self._places[:size]]  # (B,)
        pixels = images.views.take(indices, self._drawn[indices]) if self._pixels is None else self._pixels[:size]
        labels = images.labels[indices]
        teacher_logits = None
        if self.teacher is not None:
            teacher_logits = self.teacher.live(pixels) if self._taught is None else self._taught[indices]
        logits = self.forward(self.network, pixels)
        terms = run.method.settings.loss(
            Batch(
                logits=logits,
                labels=labels,
                targets=smooth_labels(labels, self.num_classes, run.smoothing.alpha, run.smoothing.mass),
                teacher_logits=teacher_logits,
                progress=(self._step / self.total_steps).squeeze(0),
            )
        )  # by name, each (B,)
        loss = run.recipe.loss_scale * torch.stack([term.mean() for term in terms.values()]).sum()
        if of:
            (loss * (size / of)).backward()
            self._taken += size
        else:
            self._update(loss)

        for name, term in terms.items():
            self._add(name, term.detach().sum())
        self._add("#correct", (logits.detach().argmax(-1) == labels).sum())
        self._add("#examples", self._places[:size].numel())

    def _update(self, loss: Tensor | None = None) -> None:
        """The update from `loss`, or from the gradient that the parts of a batch have left."""
        factor = self._lr_factors[self._step].squeeze(0)
        if loss is not None:
            self.optimizer.step(loss, factor)
        else:
            self.optimizer.update(factor)
            self.optimizer.clear()
            self._taken.zero_()
        if self.average is not None:
            self.average.update(self._step)
        self._step += 1

    def _add(self, name: str, value: Tensor | int) -> None:
        if name not in self._sums:
            self._sums[name] = torch.zeros((), dtype=torch.float64, device=self.device)
        self._sums[name] += value

    def end_epoch(self) -> dict[str, float]:
        """top1 (%) and the mean of each term of the loss over the epoch. Waits for the device."""
        totals = dict(zip(self._sums, torch.stack(list(self._sums.values())).tolist(), strict=True))
        for value in self._sums.values():
            value.zero_()
        seen = totals.pop("#examples")
        return {"top1": 100.0 * totals.pop("#correct") / seen, **{name: total / seen for name, total in totals.items()}}

    # ---- checkpoints ----------------------------------------------------------------------------------------------
    # Order and views are drawn anew at every epoch, so the step says where they are.

    def state(self) -> dict[str, Any]:
        return {
            "id": self.run.id,
            "step": self.step_number,
            "sums": self._sums,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "average": None if self.average is None else self.average.network.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, which is one of this run."""
        self.step_number = state["step"]
        self._step.fill_(self.step_number)
        self._sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])


def forward(network: nn.Module, pixels: Tensor, normalizer: Normalizer, precision: str) -> Tensor:
    """uint8 (B, C, H, W) -> fp32 logits (B, K)."""
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return network(normalizer(pixels).contiguous(memory_format=torch.channels_last)).float()


def build_network(run: Run, spec: Spec) -> nn.Module:
    """The run's network with its initial weights, which depend on the seed alone (not on the device)."""
    size = run.recipe.augment.crop
    shape = (spec.shape[0], size or spec.shape[1], size or spec.shape[2])
    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(run.seed, "init"))
        return run.arch.settings.build(shape, spec.num_classes)


def set_precision(precision: str) -> None:
    """Allow TF32 matrix products and convolutions where the recipe says so, and only there (torch's default for
    convolutions is to use them); have cuDNN try its algorithms for each shape of input, which stay few. These are
    switches of the whole process: runs side by side have one precision."""
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.benchmark = True
