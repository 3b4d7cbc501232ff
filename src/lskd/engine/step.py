"""The step that all methods share."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lskd.data.mixing import Mixer
from lskd.engine.capture import GATE, Captured, Pace, unowned
from lskd.engine.member import Member
from lskd.engine.sums import Sums
from lskd.engine.tasks import Batches, Order, Task
from lskd.engine.teacher import Teacher
from lskd.methods import Batch, Mixture, Peer, Stage
from lskd.run import Run


class Step:
    """The steps of one stage of a training, or (None) of the training proper: from the images of a batch to updated
    weights. Call `begin` at an epoch, and then the step for each batch.

    Several `members` learn from the same images, and from one another's outputs as they are before the step: all see
    the batch, then all have their losses, then all are updated.

    Everything that it reads or changes is on the device, at one place: so on a GPU it is captured once and replayed,
    and nothing waits for the device before an epoch ends.
    """

    def __init__(
        self,
        run: Run,
        stage: Stage | None,
        members: Sequence[Member],
        teacher: Teacher | None,
        task: Task,
        batches: Batches,
        total: int,
    ) -> None:
        """`total` steps that there will be."""
        self.recipe, self.method, self.stage = run.recipe, run.method.settings, stage
        self.members, self.teacher, self.task = members, teacher, task
        self.device = device = task.device
        self.examples, self.total = len(task), total
        self.sizes = batches.sizes  # of the batches of this epoch, in their order
        self.steps_per_epoch, largest = len(self.sizes), max(self.sizes)
        # One for all members, or one for each, through which it sees the images in its own way.
        self.feeds = [
            task.train.feed(self.recipe.micro_batch, GATE.eager)
            for _ in (members if run.peer_views == "own" else members[:1])
        ]
        sizes = {"examples": self.examples, "batch": self.recipe.batch_size, "part": self.recipe.micro_batch}
        mix = self.recipe.augment.mix
        self.mixer = Mixer(mix, task.train.shape, **sizes, device=device) if mix.any else None

        # What the step reads, at fixed addresses.
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        self.order = torch.zeros(self.examples, dtype=torch.int64, device=device)
        self.drawn = [torch.zeros(self.examples, dtype=torch.int64, device=device) for _ in self.feeds]
        self._begins = torch.zeros(self.steps_per_epoch, dtype=torch.int64, device=device)  # of each batch in `order`
        self._taken = torch.zeros(1, dtype=torch.int64, device=device)  # examples of the batch that are done already
        self._places = torch.arange(min(largest, self.recipe.micro_batch), device=device)

        self.run_step: Callable[..., None] = unowned(self._step)
        self.run_update: Callable[..., None] = unowned(self._update)
        self._pace: Pace | None = None
        if device.type == "cuda" and task.captures:
            generators = [member.generator for member in members]
            self.run_step = Captured(self.run_step, *generators)
            self.run_update = Captured(self.run_update, *generators)
            self._pace = Pace()

    @property
    def captured(self) -> list[Captured]:
        """What is recorded and replayed: nothing on a CPU."""
        return [step for step in (self.run_step, self.run_update) if isinstance(step, Captured)]

    def close(self) -> None:
        """Let go of what was captured."""
        self.run_step, self.run_update = unowned(self._step), unowned(self._update)

    def begin(self, order: Order, drawn: Sequence[Tensor], place: int, mixing: int) -> None:
        """An epoch over the examples in `order`, each through the view `drawn` (N,) for it (one for each of `feeds`),
        from its batch number `place` on. All are on the CPU. `mixing` seeds how images are mixed, if they are."""
        self.sizes = order.sizes
        begins = [0, *itertools.accumulate(order.sizes)]
        with GATE.eager():
            self.order.copy_(order.examples)
            self._begins.copy_(torch.tensor(begins[:-1]))
            for here, views in zip(self.drawn, drawn, strict=True):
                here.copy_(views)
            if self.mixer is not None:
                self.mixer.begin(mixing)
        for feed, views in zip(self.feeds, drawn, strict=True):
            feed.begin(order.examples[begins[place] :], views, order.sizes[place:])

    def __call__(self, place: int) -> None:
        """One update, from batch number `place` of the epoch."""
        size = self.sizes[place]
        part = size if self.recipe.accumulate == 1 else self.recipe.micro_batch
        for begun in range(0, size, part):
            for feed in self.feeds:
                feed.advance()
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
        place = self.number % self.steps_per_epoch
        begins = self._begins[place]
        if of:
            begins = begins + self._taken
        places = begins + self._places[:size]
        indices = self.order[places]  # (B,)
        seen = [feed.take(indices, drawn[indices]) for feed, drawn in zip(self.feeds, self.drawn, strict=True)]
        labels = self.task.labels_of(indices, seen[0])
        mixture = None
        if self.mixer is not None:
            seen[0], partners, share = self.mixer(seen[0], place, places)
            mixture = Mixture(share, labels[partners])
        teacher_logits, teacher_features = None, dict[str, Tensor]()
        if self.teacher is not None:
            teacher_logits, teacher_features = self.teacher.teach(indices, seen[0])
        progress = (self.number / self.total).squeeze(0)
        with contextlib.ExitStack() as stack:
            batches = []
            for member, pixels in zip(self.members, itertools.cycle(seen), strict=False):
                stack.enter_context(member.counting())
                logits, features = member.see(pixels, len(labels))
                targets, taught = member.targets(labels, mixture, pixels, logits, progress)
                batches.append(
                    Batch(
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
                )
            if len(batches) > 1:
                told = [Peer(batch.logits.detach(), batch.targets.detach()) for batch in batches]
                for number, batch in enumerate(batches):
                    batch.peers = (*told[:number], *told[number + 1 :])
            losses = [self._loss(member, batch) for member, batch in zip(self.members, batches, strict=True)]
        if of:
            for loss in losses:
                (loss * (size / of)).backward()
            self._taken += size
        else:
            self._update(losses)
        for member, batch in zip(self.members, batches, strict=True):
            self._count(member, batch)

    def _loss(self, member: Member, batch: Batch) -> Tensor:
        """The loss of one network, whose terms are counted."""
        terms = (self.stage or self.method).loss(batch)  # by name, each (B,)
        totals = {name: term.sum() for name, term in terms.items()}
        means = [total / terms[name].numel() for name, total in totals.items()]
        for name, total in totals.items():
            member.sums.add(name, total.detach())
        return self.recipe.loss_scale * functools.reduce(torch.add, means)

    def _count(self, member: Member, batch: Batch) -> None:
        """What is to be told of one network's epoch beside its loss."""
        if self.stage is None:
            with torch.no_grad():
                for name, watched in [*self.method.watch(batch).items(), *batch.taught.items()]:
                    member.sums.add(name, watched.sum())
            best = batch.logits.detach().argmax(-1)
            member.sums.add(Sums.CORRECT, batch.by_label(best.eq).sum())
        member.sums.add(Sums.EXAMPLES, len(batch.logits))

    def _update(self, losses: Sequence[Tensor] = ()) -> None:
        """The update of each network from its loss, or (none) from the gradient that the parts of a batch have left."""
        for number, member in enumerate(self.members):
            member.update(losses[number] if losses else None, self.number)
        if not losses:
            self._taken.zero_()
        self.number += 1
