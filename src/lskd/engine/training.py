"""One training on one device: its network, optimizer and data order, and the step that all methods share."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lskd.data import Spec
from lskd.data.augment import Normalizer
from lskd.data.stream import Stream
from lskd.engine.average import Average
from lskd.engine.capture import GATE, Captured, Pace, unowned
from lskd.engine.casts import Casts
from lskd.engine.compiled import compiled
from lskd.engine.counters import Counters
from lskd.engine.features import build_module, make_pair, module_at, run_tapped, tapped
from lskd.engine.heap import keep_freed_memory
from lskd.engine.optimizer import SGD
from lskd.engine.seeds import generator_for, initial_weights, seed_for
from lskd.engine.shared import Images, Table, teacher_normalizer
from lskd.engine.teacher import Teacher, forward, placed
from lskd.methods import Batch, Stage
from lskd.run import Run
from lskd.targets import smooth_labels


class Training:
    """Everything that a step reads or changes is on the device, at one place: so a step can be captured and replayed,
    and nothing waits for the device before an epoch ends.

    `begin_epoch`, then `step` for each batch, then `end_epoch`. `state` and `restore` are for checkpoints, between any
    two steps. A method may declare a stage before the training proper: then it begins there, and `enter(None)` is next.
    `close` ends its use of a GPU.
    """

    @GATE.eager()
    def __init__(
        self,
        run: Run,
        spec: Spec,
        images: Images,
        teacher_network: nn.Module | None = None,
        table: Table | None = None,
        normalizer: Normalizer | None = None,
    ) -> None:
        """`normalizer` is the teacher's (`teacher_normalizer`), which finds it itself where it needs no images."""
        recipe = run.recipe
        self.run, self.num_classes, self.images = run, spec.num_classes, images
        self.class_names = spec.class_names
        self.device = device = images.labels.device
        if device.type == "cpu":
            keep_freed_memory()
        self.examples = len(images.labels)
        self.steps_per_epoch = recipe.steps_per_epoch(self.examples)

        self.network: nn.Module = placed(build_network(run, spec), device)
        self.generator = torch.Generator(device).manual_seed(seed_for(run.stream_seed, "dropout"))
        for module in self.network.modules():
            if hasattr(module, "generator"):
                module.generator = self.generator  # type: ignore[assignment]
        if teacher_network is not None:
            teacher_network = placed(teacher_network, device)
        views, method = images.views, run.method.settings
        pixels = torch.zeros(1, views.channels, views.height, views.width, device=device)
        pair = make_pair(method, self.network, teacher_network, pixels, images.labels.cpu(), spec.num_classes)
        self.module = build_module(method, pair, run.stream_seed)
        if self.module is not None:
            self.module = placed(self.module, device)
        self.teacher: Teacher | None = None
        if teacher_network is not None:
            self.teacher = Teacher(
                teacher_network, views, normalizer or teacher_normalizer(run, images),
                precision=recipe.precision, mode=run.teacher_mode, table=table,
            )  # fmt: skip

        # What the step reads, at fixed addresses.
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        self._order = torch.zeros(self.examples, dtype=torch.int64, device=device)
        self._drawn = torch.zeros(self.examples, dtype=torch.int64, device=device)
        self._taught: Tensor | None = None  # (N, K), of the views of this epoch
        classes = torch.arange(spec.num_classes, device=device)
        self._targets = smooth_labels(classes, spec.num_classes, run.smoothing.alpha, run.smoothing.mass)  # (K, K)
        self._places = torch.arange(recipe.micro_batch, device=device)
        self._taken = torch.zeros(1, dtype=torch.int64, device=device)  # examples of the batch that are done already
        self._pixels: Tensor | None = None  # of streamed images: those that the network is about to see
        self._stream: Iterator[Tensor] = iter(())
        if isinstance(views, Stream):
            self._pixels = views.buffer(recipe.micro_batch)
        # Compiled code brings kernels together by itself.
        self._trainable: Callable[[Tensor], Tensor] = compiled(self.network) if recipe.compile else self.network
        self._counters = Counters() if recipe.compile else Counters(self.network, self.module)
        self._pace = Pace() if device.type == "cuda" else None
        trained = [module for module in (self.network, self.module) if module is not None]
        self._learnable = [p for module in trained for p in module.parameters() if p.requires_grad]
        initial = method.initial()
        self._initial_steps = 0 if initial is None else initial.epochs * self.steps_per_epoch
        self.enter(initial)

    @GATE.eager()
    def enter(self, stage: Stage | None) -> None:
        """Begin `stage`, or (None) the training proper, at its step 0, with an optimizer that starts afresh."""
        run, recipe, schedule = self.run, self.run.recipe, self.run.recipe.schedule
        declared = run.method.settings if stage is None else stage
        self.stage, self.step_number = stage, 0
        self._step.zero_()
        self._sums: dict[str, Tensor] = {}
        self.total_steps = stage.epochs * self.steps_per_epoch if stage else recipe.total_steps(self.examples)
        factors = [
            1.0 if stage else schedule.at(step, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch)
            for step in range(self.total_steps)
        ]
        self._lr_factors = torch.tensor(factors, dtype=torch.float64, device=self.device)

        self._taps = tapped(self.network, declared.taps)
        self._teacher_taps: list[str] = []
        self._live = self._ahead = False  # whether the teacher runs in each step, or before each epoch
        if self.teacher is not None:
            self._teacher_taps = tapped(self.teacher.network, declared.teacher_taps)
            use = "features" if stage else run.method.settings.teacher_use
            self._ahead = use == "logits" and self.teacher.ahead
            self._live = use != "none" and not self._ahead

        own = [] if self.module is None else [self.module]
        self._trained = [self.network, *own]
        if stage is not None:
            self._trained = [module.get_submodule(name) for module in own for name in stage.modules]
            if stage.student is not None:
                self._trained += [module_at(self.network, name) for name in tapped(self.network, stage.student)]
        trained = {id(parameter) for module in self._trained for parameter in module.parameters()}
        for parameter in self._learnable:
            parameter.requires_grad_(id(parameter) in trained)
        self._casts = Casts(self.network) if recipe.precision == "bf16" and not recipe.compile else None
        self.optimizer = SGD(self.network, recipe, beside=self.module, lr=stage.lr if stage else None)
        if recipe.accumulate > 1:
            self.optimizer.hold_gradients()
        self.average = Average(self.network, recipe.ema) if recipe.ema and stage is None else None
        self.run_step: Callable[..., None] = unowned(self._one_step)
        self.run_update: Callable[..., None] = unowned(self._update)
        if self.device.type == "cuda":
            self.run_step = Captured(self.run_step, self.generator)
            self.run_update = Captured(self.run_update, self.generator)

    @GATE.eager()
    def close(self) -> None:
        """Let go of what was captured. (Not when the last user happens to leave: another training may capture then.)"""
        self.run_step, self.run_update = unowned(self._one_step), unowned(self._update)

    @property
    def trained(self) -> nn.Module:
        """The network that is evaluated and kept: the average of its weights, where the recipe asks for that."""
        return self.network if self.average is None else self.average.network

    def forward(self, network: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> fp32 logits (B, K), normalised and computed as the recipe says."""
        return forward(network, pixels, self.images.normalizer, self.run.recipe.precision)

    @property
    def steps_done(self) -> tuple[int, int]:
        """The steps done and their total, those of a stage before the training proper among them."""
        if self.stage is not None:
            return self.step_number, self._initial_steps + self.run.recipe.total_steps(self.examples)
        return self._initial_steps + self.step_number, self._initial_steps + self.total_steps

    @property
    def teacher_evaluated(self) -> str:
        """How often in the training proper, for the record of the run."""
        assert self.teacher is not None
        return self.teacher.how if self._ahead else "every step" if self._live else "never"

    # ---- an epoch -------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of the next step, counted from 0."""
        return self.step_number // self.steps_per_epoch

    @GATE.eager()
    def lr(self, step: int) -> float:
        """The learning rate at `step` of this stage."""
        return self.optimizer.lr * self._lr_factors[step].item()

    def begin_epoch(self) -> None:
        """Draw the order and the views of the present epoch, and have the teacher look at them."""
        seed, epoch, recipe = self.run.stream_seed, self.epoch, self.run.recipe
        stage = "initial " if self.stage else ""
        with GATE.eager():
            order = torch.randperm(self.examples, generator=generator_for(seed, f"{stage}shuffle", epoch))
            drawn = self.images.views.draw(generator_for(seed, f"{stage}augment", epoch))
            self._order.copy_(order)
            self._drawn.copy_(drawn)
        if isinstance(self.images.views, Stream):
            left = order[self.step_number % self.steps_per_epoch * recipe.batch_size :]
            self._stream = self.images.views.batches(left, drawn[left], recipe.micro_batch, self._pixels)
        if self.teacher is not None and self._ahead:
            self.hold_logits(self.teacher.epoch(self._drawn))
        self.train_mode()

    def train_mode(self) -> None:
        """What this stage trains is put into train mode, and all else into eval mode."""
        self.network.eval()
        if self.module is not None:
            self.module.eval()
        for module in self._trained:
            module.train()

    @GATE.eager()
    def hold_logits(self, logits: Tensor) -> None:
        """What the teacher says to the views of this epoch, (N, K), kept where the step looks it up."""
        if self._taught is None:
            self._taught = logits
        else:
            self._taught.copy_(logits)

    def step(self) -> None:
        """One update."""
        recipe = self.run.recipe
        if self._at_reset():
            with GATE.eager():
                self.optimizer.reset_momentum()
        place = self.step_number % self.steps_per_epoch
        size = min(recipe.batch_size, self.examples - place * recipe.batch_size)
        for begun in range(0, size, recipe.micro_batch):
            if self._pixels is not None:
                with GATE.eager():
                    next(self._stream)
            if recipe.accumulate == 1:
                self.run_step(size)
            else:
                self.run_step(min(recipe.micro_batch, size - begun), size)
        if recipe.accumulate > 1:
            self.run_update()
        self.step_number += 1
        if self._pace is not None:
            self._pace.step()

    def _at_reset(self) -> bool:
        """Whether the next step is the first one after a milestone at which momentum starts afresh."""
        schedule, step = self.run.recipe.schedule, self.step_number
        if not schedule.reset_momentum or self.stage is not None or step == 0:
            return False
        now, before = (schedule.passed(at, steps_per_epoch=self.steps_per_epoch) for at in (step, step - 1))
        return now > before

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
        teacher_logits, teacher_features = None, dict[str, Tensor]()
        if self._live:
            teacher_logits, teacher_features = self._see_live(pixels)
        elif self._ahead:
            assert self._taught is not None
            teacher_logits = self._taught[indices]
        with self._counters.together():
            logits, features = self._see(pixels)
            batch = Batch(
                logits=logits,
                labels=labels,
                targets=self._targets[labels],
                teacher_logits=teacher_logits,
                progress=(self._step / self.total_steps).squeeze(0),
                indices=indices,
                features=features,
                teacher_features=teacher_features,
                module=self.module,
                generator=self.generator,
            )
            terms = (self.stage or run.method.settings).loss(batch)  # by name, each (B,)
        totals = {name: term.sum() for name, term in terms.items()}
        means = [total / terms[name].numel() for name, total in totals.items()]
        loss = run.recipe.loss_scale * functools.reduce(torch.add, means)
        if of:
            (loss * (size / of)).backward()
            self._taken += size
        else:
            self._update(loss)

        for name, total in totals.items():
            self._add(name, total.detach())
        if self.stage is None:
            with torch.no_grad():
                for name, watched in run.method.settings.watch(batch).items():
                    self._add(name, watched.sum())
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

    def _see(self, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The network's logits and tapped features."""
        if self.stage is not None and self.stage.student is None:
            return torch.empty(len(pixels), 0, device=self.device), {}
        with contextlib.nullcontext() if self._casts is None else self._casts.together():
            return run_tapped(self.network, self._taps, lambda: self.forward(self._trainable, pixels))

    def _see_live(self, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Those of the teacher."""
        teacher = self.teacher
        assert teacher is not None
        return run_tapped(teacher.network, self._teacher_taps, lambda: teacher.live(pixels))

    def _add(self, name: str, value: Tensor | int) -> None:
        if name not in self._sums:
            self._sums[name] = torch.zeros((), dtype=torch.float64, device=self.device)
        self._sums[name] += value

    @GATE.eager()
    def end_epoch(self) -> dict[str, float]:
        """top1 (%), and the mean over the epoch of each term of the loss and of what the method watches. Waits for the
        device. (No top1 of a stage before the training proper.)"""
        totals = dict(zip(self._sums, torch.stack(list(self._sums.values())).tolist(), strict=True))
        for value in self._sums.values():
            value.zero_()
        seen = totals.pop("#examples")
        top1 = {"top1": 100.0 * totals.pop("#correct") / seen} if self.stage is None else {}
        return top1 | {name: total / seen for name, total in totals.items()}

    # ---- checkpoints ----------------------------------------------------------------------------------------------
    # Order and views are drawn anew at every epoch, so the step says where they are.

    def state(self) -> dict[str, Any]:
        more: dict[str, Any] = {} if self.module is None else {"module": self.module.state_dict()}
        if self.run.method.settings.initial() is not None:
            more["initial"] = self.stage is not None
        return more | {
            "id": self.run.id,
            "step": self.step_number,
            "sums": self._sums,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "average": None if self.average is None else self.average.network.state_dict(),
        }

    @GATE.eager()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, which is one of this run."""
        if self.stage is not None and not state["initial"]:
            self.enter(None)
        self.step_number = state["step"]
        self._step.fill_(self.step_number)
        self._sums = {name: value.to(self.device) for name, value in state["sums"].items()}
        self.network.load_state_dict(state["network"])
        if self.module is not None:
            self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])


def build_network(run: Run, spec: Spec) -> nn.Module:
    """The run's network with its initial weights, which depend on the seed alone (not on the device)."""
    with initial_weights(run.stream_seed, "init"):
        return run.arch.settings.build(run.recipe.input_shape(spec.shape), spec.num_classes)


def set_precision(precision: str, *, search: bool = False) -> None:
    """Allow TF32 matrix products and convolutions where the recipe says so, and only there (torch's default for
    convolutions is to use them). With `search` cuDNN tries its algorithms for each shape of input, which stay few:
    for that it waits for the whole device, which no other training's capture outlives. These are switches of the whole
    process: runs side by side have one precision."""
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.benchmark = search
