"""The step that all methods share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lskd.data.mixing import Mixer
from lskd.engine.capture import GATE, Captured, Pace, unowned
from lskd.engine.member import Member
from lskd.engine.shared import Images
from lskd.engine.teacher import Teacher
from lskd.methods import Batch, Mixture, Stage
from lskd.run import Run


class Step:
    """The steps of one stage of a training, or (None) of the training proper: from the images of a batch to updated
    weights. Call `begin` at an epoch, and then the step for each batch.

    Everything that it reads or changes is on the device, at one place: so on a GPU it is captured once and replayed,
    and nothing waits for the device before an epoch ends.
    """

    def __init__(
        self,
        run: Run,
        stage: Stage | None,
        member: Member,
        teacher: Teacher | None,
        images: Images,
        factors: Sequence[float],
    ) -> None:
        """`factors` of the learning rate, of each step that there will be."""
        self.recipe, self.method, self.stage = run.recipe, run.method.settings, stage
        self.member, self.teacher, self.images = member, teacher, images
        self.device = device = images.labels.device
        self.examples, self.total = len(images.labels), len(factors)
        self.steps_per_epoch = self.recipe.steps_per_epoch(self.examples)
        self.feed = images.train.feed(self.recipe.micro_batch, GATE.eager)
        sizes = {"examples": self.examples, "batch": self.recipe.batch_size, "part": self.recipe.micro_batch}
        mix = self.recipe.augment.mix
        self.mixer = Mixer(mix, images.train.shape, **sizes, device=device) if mix.any else None

        # What the step reads, at fixed addresses.
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        self.order = torch.zeros(self.examples, dtype=torch.int64, device=device)
        self.drawn = torch.zeros(self.examples, dtype=torch.int64, device=device)
        self._taken = torch.zeros(1, dtype=torch.int64, device=device)  # examples of the batch that are done already
        self._places = torch.arange(self.recipe.micro_batch, device=device)
        self._factors = torch.tensor(factors, dtype=torch.float64, device=device)
        self.sums = Sums(device)

        self.run_step: Callable[..., None] = unowned(self._step)
        self.run_update: Callable[..., None] = unowned(self._update)
        self._pace: Pace | None = None
        if device.type == "cuda":
            self.run_step = Captured(self.run_step, member.generator)
            self.run_update = Captured(self.run_update, member.generator)
            self._pace = Pace()

    @property
    def captured(self) -> list[Captured]:
        """What is recorded and replayed: nothing on a CPU."""
        return [step for step in (self.run_step, self.run_update) if isinstance(step, Captured)]

    def close(self) -> None:
        """Let go of what was captured."""
        self.run_step, self.run_update = unowned(self._step), unowned(self._update)

    def begin(self, order: Tensor, drawn: Tensor, place: int, mixing: int) -> None:
        """An epoch over the images in `order` (N,), each through the view `drawn` (N,) for it, from its batch number
        `place` on. Both are on the CPU. `mixing` seeds how images are mixed, if they are."""
        with GATE.eager():
            self.order.copy_(order)
            self.drawn.copy_(drawn)
            if self.mixer is not None:
                self.mixer.begin(mixing)
        self.feed.begin(order[place * self.recipe.batch_size :], drawn)

    def __call__(self, place: int) -> None:
        """One update, from batch number `place` of the epoch."""
        batch, part = self.recipe.batch_size, self.recipe.micro_batch
        size = min(batch, self.examples - place * batch)
        for begun in range(0, size, part):
            self.feed.advance()
            if self.recipe.accumulate == 1:
                self.run_step(size)
            else:
                self.run_step(min(part, size - begun), size)
        if self.recipe.accumulate > 1:
            self.run_update()
        if self._pace is not None:
            self._pace.step()

    def _step(self, size: int, of: int = 0) -> None:
        """The update from the batch, of `size` examples, that `number` stands at; no Python state changes here.
        With `of`, only the share in its gradient of the next `size` of its examples, which are `of`."""
        recipe, member = self.recipe, self.member
        place = self.number % self.steps_per_epoch
        begins = place * recipe.batch_size
        if of:
            begins = begins + self._taken
        places = begins + self._places[:size]
        indices = self.order[places]  # (B,)
        pixels = self.feed.take(indices, self.drawn[indices])
        labels = self.images.labels[indices]
        mixture = None
        if self.mixer is not None:
            pixels, partners, share = self.mixer(pixels, place, places)
            mixture = Mixture(share, labels[partners])
        teacher_logits, teacher_features = None, dict[str, Tensor]()
        if self.teacher is not None:
            teacher_logits, teacher_features = self.teacher.teach(indices, pixels)
        with member.counting():
            logits, features = member.see(pixels)
            progress = (self.number / self.total).squeeze(0)
            targets, taught = member.targets(labels, mixture, pixels, logits, progress)
            batch = Batch(
                logits=logits,
                labels=labels,
                targets=targets,
                teacher_logits=teacher_logits,
                progress=progress,
                indices=indices,
                features=features,
                teacher_features=teacher_features,
                module=member.module,
                generator=member.generator,
                mixture=mixture,
                taught=taught,
            )
            terms = (self.stage or self.method).loss(batch)  # by name, each (B,)
        totals = {name: term.sum() for name, term in terms.items()}
        means = [total / terms[name].numel() for name, total in totals.items()]
        loss = recipe.loss_scale * functools.reduce(torch.add, means)
        if of:
            (loss * (size / of)).backward()
            self._taken += size
        else:
            self._update(loss)

        for name, total in totals.items():
            self.sums.add(name, total.detach())
        if self.stage is None:
            with torch.no_grad():
                for name, watched in [*self.method.watch(batch).items(), *batch.taught.items()]:
                    self.sums.add(name, watched.sum())
            best = logits.detach().argmax(-1)
            self.sums.add(Sums.CORRECT, batch.by_label(best.eq).sum())
        self.sums.add(Sums.EXAMPLES, self._places[:size].numel())

    def _update(self, loss: Tensor | None = None) -> None:
        """The update from `loss`, or from the gradient that the parts of a batch have left."""
        self.member.update(loss, self._factors[self.number].squeeze(0), self.number)
        if loss is None:
            self._taken.zero_()
        self.number += 1


class Sums:
    """Sums over the examples of an epoch, by name, on the device: of the terms of the loss and what else is watched, of
    the examples themselves, and of those that are classified correctly (of mixed images, the shares that are)."""

    EXAMPLES, CORRECT = "#examples", "#correct"

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.totals: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor | int) -> None:
        if name not in self.totals:
            self.totals[name] = torch.zeros((), dtype=torch.float64, device=self.device)
        self.totals[name] += value

    def end_epoch(self) -> dict[str, float]:
        """top1 (%), where what is correct was counted, and the means by name. All begin anew. Waits for the device."""
        totals = dict(zip(self.totals, torch.stack(list(self.totals.values())).tolist(), strict=True))
        for value in self.totals.values():
            value.zero_()
        seen = totals.pop(self.EXAMPLES)
        top1 = {"top1": 100.0 * totals.pop(self.CORRECT) / seen} if self.CORRECT in totals else {}
        return top1 | {name: total / seen for name, total in totals.items()}

    def restore(self, totals: dict[str, Tensor]) -> None:
        self.totals = {name: value.to(self.device) for name, value in totals.items()}
