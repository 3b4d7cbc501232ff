"""The training loop: epochs, evaluation, checkpoints."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lskd import metrics
from lskd.data import Part, Spec
from lskd.engine.capture import GATE, own_stream
from lskd.engine.checkpoint import Checkpoint
from lskd.engine.judged import Judged
from lskd.engine.probing import Probing, Readings
from lskd.engine.record import Outputs, held_memory_mb, summarise
from lskd.engine.settled import settled
from lskd.engine.shared import Shared
from lskd.engine.teacher import Teacher
from lskd.engine.training import Training, set_precision
from lskd.run import ProbeSpec, Run


class Diverged(Exception):
    """The loss or the outputs are no longer finite."""


class Interrupted(Exception):
    """Asked to stop. Where a checkpoint path was given, the state has been written there."""


@dataclass
class Outcome:
    """What a training gives: the network, on the CPU, the record for result.json, one record an epoch for log.jsonl,
    what the probes saw, by their keys, and the networks of its peers."""

    network: nn.Module
    result: dict[str, Any]
    epochs: list[dict[str, Any]]
    readings: Readings = field(default_factory=dict)
    peers: Sequence[nn.Module] = ()


def train(
    run: Run,
    spec: Spec,
    parts: Mapping[str, Part],
    teacher_network: nn.Module | None = None,
    *,
    taught_on: Tensor | None = None,
    begins: Sequence[Mapping[str, Tensor] | None] = (),
    shared: Shared,
    probes: Sequence[ProbeSpec] = (),
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_epoch: Callable[[list[dict[str, Any]]], None] = lambda epochs: None,
    on_step: Callable[[int, int], None] = lambda step, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train `run` on `parts` ("train", and what there is of "validation" and "test"), on the device of `shared`.
    `taught_on` are the training images of its teacher, where they are others than the student's and count
    (`Teacher.of`). `begins`: what of each network's state, the run's own first, is not drawn from the seed.

    Several trainings may share the device, each in a thread of its own; their recipes must then agree in `precision`.
    With `checkpoint`, the state is written there every `checkpoint_seconds` and when `stop()` says so, and a state that
    is there is gone on from: on a CPU the result is bit-identical to that of an undisturbed run. `on_epoch` gets all
    epoch records so far, `on_step` the number of steps done and their total. Probes look at the network between
    steps, and change nothing of it; of peers, at the run's own. Raises Diverged, Interrupted.
    """
    recipe = run.recipe
    set_precision(recipe.precision, search=shared.search)
    with contextlib.ExitStack() as stack:
        stack.enter_context(own_stream(shared.device))
        task, teacher = shared.task(run, parts), None
        if teacher_network is not None:
            cache = stack.enter_context(shared.logit_cache(run, task.train, spec.num_classes))
            taught_on = parts["train"].images if taught_on is None else taught_on
            teacher = Teacher.of(run, teacher_network, task, taught_on, cache)
        run, solved = settled(run, teacher, task, spec.num_classes)

        def from_the_start() -> tuple[Training, Probing]:
            training = Training(run, spec, task, teacher, begins)
            return training, Probing(probes, training, run)

        training, probing = from_the_start()
        stack.callback(lambda: training.close())  # whichever it is then
        clock, epochs, kept = Clock(), list[dict[str, Any]](), Checkpoint(checkpoint, checkpoint_seconds)
        saved = kept.load(run, probing.readings)
        if saved is not None:
            try:
                training.restore(saved)
                clock.seconds, epochs, probing.readings = saved["seconds"], saved["epochs"], saved["readings"]
            except Exception as error:  # it is of this run, and yet does not fit it
                kept.refuse(error)
                training.close()
                saved, (training, probing) = None, from_the_start()
        if saved is None and probing.due():
            probing.measure()
        outputs, held = list[Outputs](), None

        def checkpoint_if_due() -> None:
            """Between two steps: write the state if it is time to, or if a stop is asked for; then stop."""
            asked = stop()
            if kept.due() or asked:
                more = {"epochs": epochs, "readings": probing.readings, "seconds": clock.read()}
                kept.write(lambda: training.state() | more)
            if asked:
                raise Interrupted

        clock.start()
        while training.step_number < training.total_steps:
            epoch, stage = training.epoch, training.stage
            end = min((epoch + 1) * training.steps_per_epoch, training.total_steps)
            last = end == training.total_steps
            training.begin_epoch()
            while training.step_number < end:
                training.step()
                on_step(*training.steps_done)
                if probing.due():
                    with clock.stopped():
                        probing.measure()
                if training.step_number < end:
                    checkpoint_if_due()
            record: dict[str, Any] = {} if stage is None else {"stage": stage.name}
            record |= {"epoch": epoch, "step": end, "lr": training.member.lr(end - 1)}
            trained, *of_peers = training.end_epoch()

            with clock.stopped():
                record |= {"seconds": round(clock.seconds, 3), "train": trained}
                if of_peers:
                    record["peers"] = [{"train": one} for one in of_peers]
                if not all(math.isfinite(value) for one in (trained, *of_peers) for value in one.values()):
                    of = f" of {stage.name}" if stage else ""
                    raise Diverged(f"the training loss is not finite in epoch {epoch}{of}, by step {end}")
                if stage is None and (last or (epoch + 1) % recipe.evaluate_every == 0):
                    with GATE.eager():
                        outputs, found = evaluate(training, f"in epoch {epoch}, by step {end}")
                        held = held_memory_mb(training.device)
                    note(record, found)
                epochs.append(record)
                on_epoch(epochs)
                if training.stage is not stage and probing.due():  # the training proper begins
                    probing.measure()
            if training.step_number < training.total_steps:
                checkpoint_if_due()
        if not recipe.trains:
            with GATE.eager():
                outputs, found = evaluate(training, "as it is")
            epochs = [{"epoch": 0, "step": 0, "lr": 0.0, "seconds": round(clock.read(), 3), "train": {}}]
            note(epochs[0], found)
            on_epoch(epochs)
        result = summarise(training, epochs, outputs, clock.read() if not recipe.trains else clock.seconds)
        if solved:
            result["solved"] = solved
        if held is not None:
            result["held_memory_mb"] = held
        with GATE.eager():
            for member in training.members:
                member.trained.zero_grad()
            network, *peers = [member.trained.cpu() for member in training.members]
            return Outcome(network, result, epochs, probing.readings, peers)


def evaluate(training: Training, when: str) -> tuple[list[Outputs], list[dict[str, dict[str, float]]]]:
    """Outputs and labels of the held-out parts, and their metrics: of each network, and, where they are several, of all
    together, whose probability of a class is the mean of theirs. `Diverged`, which says `when`, for outputs that are
    not finite."""
    task, networks = training.task, [member.evaluated() for member in training.members]
    together = len(networks) > 1
    judged: list[dict[str, Judged]] = [
        {part: Judged(task.most_outputs) for part in task.held_out} for _ in range(len(networks) + together)
    ]
    try:
        for part in task.held_out:
            for outputs, labels in task.outputs(part, networks):
                if together:
                    outputs.append(metrics.ensemble(torch.stack(outputs)))
                for one, logits in zip(judged, outputs, strict=True):
                    one[part].add(logits, labels)
        found = [{part: of.summary() for part, of in one.items()} for one in judged]
    except FloatingPointError as error:
        raise Diverged(f"{error} {when}") from None
    return [{part: of.outputs for part, of in one.items()} for one in judged], found


def note(record: dict[str, Any], found: Sequence[Mapping[str, Any]]) -> None:
    """Add to the line of an epoch what `evaluate` found."""
    own, *others = found
    record |= own
    if others:
        *peers, together = others
        for line, of_peer in zip(record["peers"], peers, strict=True):
            line |= of_peer
        record["ensemble"] = together


class Clock:
    """Seconds of training: those of evaluations and probes do not count."""

    def __init__(self) -> None:
        self.seconds = 0.0  # until it was last stopped
        self.start()

    def start(self) -> None:
        self._began = time.perf_counter()

    def read(self) -> float:
        return self.seconds + time.perf_counter() - self._began

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        self.seconds = self.read()
        yield
        self.start()
