"""One training on one device: its stages, its epochs, and what a checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lskd.data import Spec
from lskd.engine.capture import GATE
from lskd.engine.heap import keep_freed_memory
from lskd.engine.member import Member
from lskd.engine.seeds import generator_for, seed_for
from lskd.engine.shared import Images
from lskd.engine.step import Step
from lskd.engine.teacher import Teacher
from lskd.methods import Stage
from lskd.run import Run


class Training:
    """`begin_epoch`, then `step` for each batch, then `end_epoch`. `state` and `restore` are for checkpoints, between
    any two steps. A method may declare a stage before the training proper: then it begins there, and the end of that
    stage's last epoch is the beginning of the training proper. `close` ends its use of a GPU.

    member: what is trained, and how it is evaluated. one_step: what it does at each batch.
    """

    @GATE.eager()
    def __init__(
        self,
        run: Run,
        spec: Spec,
        images: Images,
        teacher: Teacher | None = None,
        begins: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`begins`: what of the network's state is not drawn from the seed."""
        self.run, self.spec, self.images, self.teacher = run, spec, images, teacher
        self.device = images.labels.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.examples = len(images.labels)
        self.steps_per_epoch = run.recipe.steps_per_epoch(self.examples)
        self.member = Member(run, spec, images, teacher, begins)
        initial = run.method.settings.initial()
        self._initial_steps = 0 if initial is None else initial.epochs * self.steps_per_epoch
        self.enter(initial)

    @GATE.eager()
    def enter(self, stage: Stage | None) -> None:
        """Begin `stage`, or (None) the training proper, at its step 0, with an optimizer that starts afresh."""
        run = self.run
        self.stage, self.step_number = stage, 0
        self.total_steps = stage.epochs * self.steps_per_epoch if stage else run.recipe.total_steps(self.examples)
        self.member.enter(stage)
        if self.teacher is not None:
            self.teacher.enter(stage or run.method.settings)
        factors = [self._lr_factor(step) for step in range(self.total_steps)]
        self.one_step = Step(run, stage, self.member, self.teacher, self.images, factors)

    @GATE.eager()
    def close(self) -> None:
        """Let go of what was captured. (Not when the last user happens to leave: another training may capture then.)"""
        self.one_step.close()

    @property
    def steps_done(self) -> tuple[int, int]:
        """The steps done and their total, those of a stage before the training proper among them."""
        before = 0 if self.stage is not None else self._initial_steps
        return before + self.step_number, self._initial_steps + self.run.recipe.total_steps(self.examples)

    # ---- an epoch -------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of the next step, counted from 0."""
        return self.step_number // self.steps_per_epoch

    def lr(self, step: int) -> float:
        """The learning rate at `step` of this stage."""
        return self.member.optimizer.lr * self._lr_factor(step)

    def _lr_factor(self, step: int) -> float:
        schedule, per_epoch = self.run.recipe.schedule, self.steps_per_epoch
        return 1.0 if self.stage else schedule.at(step, total_steps=self.total_steps, steps_per_epoch=per_epoch)

    def begin_epoch(self) -> None:
        """Draw the order, the views and the mixtures of the present epoch, and have the teacher look at the views."""
        seed, stage = self.run.stream_seed, "initial " if self.stage else ""
        order = torch.randperm(self.examples, generator=generator_for(seed, f"{stage}shuffle", self.epoch))
        drawn = self.images.train.draw(generator_for(seed, f"{stage}augment", self.epoch))
        mixing = seed_for(seed, f"{stage}mix", self.epoch)
        self.one_step.begin(order, drawn, self.step_number % self.steps_per_epoch, mixing)
        if self.teacher is not None:
            self.teacher.begin_epoch(drawn)
        self.member.train_mode()

    def step(self) -> None:
        """One update."""
        if self._at_reset():
            with GATE.eager():
                self.member.optimizer.reset_momentum()
        self.one_step(self.step_number % self.steps_per_epoch)
        self.step_number += 1

    def _at_reset(self) -> bool:
        """Whether the next step is the first one after a milestone at which momentum starts afresh."""
        schedule, step = self.run.recipe.schedule, self.step_number
        if not schedule.reset_momentum or self.stage is not None or step == 0:
            return False
        now, before = (schedule.passed(at, steps_per_epoch=self.steps_per_epoch) for at in (step, step - 1))
        return now > before

    @GATE.eager()
    def end_epoch(self) -> dict[str, float]:
        """top1 (%), and the mean over the epoch of each term of the loss and of what the method watches. Waits for the
        device. (No top1 of a stage before the training proper.) A stage that is over makes way for the training
        proper."""
        means = self.one_step.sums.end_epoch()
        if self.stage is not None and self.step_number == self.total_steps:
            self.enter(None)
        return means

    # ---- checkpoints ----------------------------------------------------------------------------------------------
    # Order and views are drawn anew at every epoch, so the step says where they are.

    def state(self) -> dict[str, Any]:
        return self.member.state() | {
            "id": self.run.id,
            "initial": self.stage is not None,
            "step": self.step_number,
            "sums": self.one_step.sums.totals,
        }

    @GATE.eager()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, which is one of this run."""
        if self.stage is not None and not state["initial"]:
            self.enter(None)
        self.go_to(state["step"])
        self.one_step.sums.restore(state["sums"])
        self.member.restore(state)

    def go_to(self, step: int) -> None:
        """The next step is number `step` of this stage."""
        self.step_number = step
        self.one_step.number.fill_(step)


def set_precision(precision: str, *, search: bool = False) -> None:
    """Allow TF32 matrix products and convolutions where the recipe says so, and only there (torch's default for
    convolutions is to use them). With `search` cuDNN tries its algorithms for each shape of input, which stay few:
    for that it waits for the whole device, which no other training's capture outlives. These are switches of the whole
    process: runs side by side have one precision."""
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.benchmark = search
