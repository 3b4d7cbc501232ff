"""One training on one device: its stages, its epochs, and what a checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lskd.data import Spec
from lskd.engine.capture import GATE
from lskd.engine.heap import keep_freed_memory
from lskd.engine.member import Member
from lskd.engine.seeds import generator_for, seed_for
from lskd.engine.step import Step
from lskd.engine.tasks import Task
from lskd.engine.teacher import Teacher
from lskd.methods import Stage
from lskd.run import Run


class Training:
    """`begin_epoch`, then `step` for each batch, then `end_epoch`. `state` and `restore` are for checkpoints, between
    any two steps. A method may declare a stage before the training proper: then it begins there, and the end of that
    stage's last epoch is the beginning of the training proper. `close` ends its use of a GPU.

    members: what is trained, and how it is evaluated: the run's own network, `member`, and those of its peers.
    one_step: what it does at each batch.
    """

    @GATE.eager()
    def __init__(
        self,
        run: Run,
        spec: Spec,
        task: Task,
        teacher: Teacher | None = None,
        begins: Sequence[Mapping[str, Tensor] | None] = (),
    ) -> None:
        """`begins`: what of each network's state is not drawn from the seed."""
        self.run, self.spec, self.task, self.teacher = run, spec, task, teacher
        self.device = task.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.examples, self.batches = len(task), task.batches(run.recipe)
        self.steps_per_epoch = len(self.batches.sizes)
        runs = (run, *run.peers)
        self.members = [
            Member(one, run.method.settings, spec, task, teacher, state)
            for one, state in zip(runs, begins or [None] * len(runs), strict=True)
        ]
        initial = run.method.settings.initial()
        self._initial_steps = 0 if initial is None else initial.epochs * self.steps_per_epoch
        self.enter(initial)

    @GATE.eager()
    def enter(self, stage: Stage | None) -> None:
        """Begin `stage`, or (None) the training proper, at its step 0, with an optimizer that starts afresh."""
        run = self.run
        self.stage, self.step_number = stage, 0
        self.total_steps = stage.epochs * self.steps_per_epoch if stage else self.proper_steps
        for member in self.members:
            member.enter(stage, self.total_steps, self.steps_per_epoch)
        if self.teacher is not None:
            self.teacher.enter(stage or run.method.settings)
        self.one_step = Step(run, stage, self.members, self.teacher, self.task, self.batches, self.total_steps)

    @property
    def member(self) -> Member:
        """The run's own."""
        return self.members[0]

    @GATE.eager()
    def close(self) -> None:
        """Let go of what was captured. (Not when the last user happens to leave: another training may capture then.)"""
        self.one_step.close()

    @property
    def proper_steps(self) -> int:
        """Of the training proper."""
        return self.run.recipe.total_steps(self.examples)

    @property
    def steps_done(self) -> tuple[int, int]:
        """The steps done and their total, those of a stage before the training proper among them."""
        before = 0 if self.stage is not None else self._initial_steps
        return before + self.step_number, self._initial_steps + self.proper_steps

    # ---- an epoch -------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of the next step, counted from 0."""
        return self.step_number // self.steps_per_epoch

    def begin_epoch(self) -> None:
        """Draw the order, the views and the mixtures of the present epoch, and have the teacher look at the views."""
        seed, stage = self.run.data_stream, "initial " if self.stage else ""
        order = self.batches.draw(generator_for(seed, f"{stage}shuffle", self.epoch))
        shown = [seed, *(member.run.stream_seed for member in self.members[1:])][: len(self.one_step.feeds)]
        drawn = [self.task.train.draw(generator_for(one, f"{stage}augment", self.epoch)) for one in shown]
        mixing = seed_for(seed, f"{stage}mix", self.epoch)
        self.one_step.begin(order, drawn, self.step_number % self.steps_per_epoch, mixing)
        if self.teacher is not None:
            self.teacher.begin_epoch(drawn[0])
        for member in self.members:
            member.train_mode()

    def step(self) -> None:
        """One update."""
        for member in self.members:
            if member.resets_momentum(self.step_number):
                with GATE.eager():
                    member.optimizer.reset_momentum()
        self.one_step(self.step_number % self.steps_per_epoch)
        self.step_number += 1

    @GATE.eager()
    def end_epoch(self) -> list[dict[str, float]]:
        """Of each network top1 (%), and the mean over the epoch of each term of the loss and of what the method
        watches. Waits for the device. (No top1 of a stage before the training proper.) A stage that is over makes way
        for the training proper."""
        means = [member.sums.end_epoch() for member in self.members]
        if self.stage is not None and self.step_number == self.total_steps:
            self.enter(None)
        return means

    # ---- checkpoints ----------------------------------------------------------------------------------------------
    # Order and views are drawn anew at every epoch, so the step says where they are.

    def state(self) -> dict[str, Any]:
        own, *peers = [member.state() for member in self.members]
        return own | {
            "id": self.run.id,
            "initial": self.stage is not None,
            "step": self.step_number,
            "peers": peers,
        }

    @GATE.eager()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, which is one of this run."""
        if self.stage is not None and not state["initial"]:
            self.enter(None)
        self.go_to(state["step"])
        for member, kept in zip(self.members, [state, *state["peers"]], strict=True):
            member.restore(kept)

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
