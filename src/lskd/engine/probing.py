"""Probes at work: when they look at a network, and what they are shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lskd.data import Part, Spec
from lskd.engine.capture import GATE, own_stream
from lskd.engine.features import eval_mode
from lskd.engine.seeds import generator_for
from lskd.engine.settled import settled
from lskd.engine.shared import Shared
from lskd.engine.teacher import Teacher
from lskd.engine.training import Training, set_precision
from lskd.methods import METHODS
from lskd.probes import Scene
from lskd.run import HARD, Named, ProbeSpec, Run

Readings = dict[str, list[dict[str, Any]]]  # by the key of the probe, in the order of steps


class Probing:
    """The probes of one training, and what they have seen of it so far."""

    def __init__(self, probes: Sequence[ProbeSpec], training: Training, run: Run) -> None:
        self.training, self.run = training, run
        self.readings: Readings = {probe.key: [] for probe in probes}
        end = run.recipe.total_steps(training.examples)
        self._due: dict[int, list[ProbeSpec]] = {end: list(probes)}
        for probe in probes:
            if every := probe.settings.every:
                for step in range(0, end, every):
                    self._due.setdefault(step, []).append(probe)

    def due(self) -> bool:
        """Whether somebody looks at the network as it is, after `training.step_number` steps of the training proper."""
        return self.training.stage is None and self.training.step_number in self._due

    @torch.no_grad()
    @GATE.eager()
    def measure(self) -> None:
        """Let those who are due look. The network is in eval mode meanwhile, and nothing of the training changes."""
        step = self.training.step_number
        with eval_mode(self.training.member.trained):
            for probe in self._due.get(step, []):
                seen = probe.settings.measure(scene(self.training, probe, self.run))
                self.readings[probe.key].append({"step": step, **seen})


def scene(training: Training, probe: ProbeSpec, run: Run) -> Scene:
    """What `probe` may see of `training` as it is, the one of `run` or of its trained network alone."""
    task, member = training.task, training.member

    def outputs(part: str) -> Iterator[tuple[Tensor, Tensor]]:
        for (logits,), labels in task.outputs(part, [member.evaluated()]):
            yield logits, labels

    return Scene(
        network=member.trained,
        forward=lambda inputs: member.forward(member.trained, inputs),
        outputs=outputs,
        evaluated=run.dataset.evaluate,
        class_names=training.spec.class_names,
        generator=generator_for(run.stream_seed, f"observe {probe.name}", training.step_number),
        teacher=training.teacher.live if training.teacher is not None else None,
        told=run.method.settings.teacher_probs,
        **task.scene(),
    )


def run_probes(
    run: Run,
    spec: Spec,
    parts: Mapping[str, Part],
    network: nn.Module,
    probes: Sequence[ProbeSpec],
    shared: Shared,
    teacher: nn.Module | None = None,
    taught_on: Tensor | None = None,
) -> Readings:
    """What probes of trained networks see of `network`, which is the one of `run`, and of its `teacher`, which they
    need if they say so; `taught_on` as for `engine.train`."""
    set_precision(run.recipe.precision, search=shared.search)
    with own_stream(shared.device):
        # How it was trained does not matter any more.
        recipe, method = replace(run.recipe, ema=0.0), Named("ce", METHODS["ce"])
        alone = replace(
            run, recipe=recipe, method=method, target=HARD, teacher=None, teacher_mode="eval", peers=(),
            peer_views="same",
        )  # fmt: skip
        task, shown = shared.task(run, parts), None
        if teacher is not None:
            taught_on = parts["train"].images if taught_on is None else taught_on
            shown = Teacher.of(replace(run, teacher_mode="eval"), teacher, task, taught_on)
        run, _ = settled(run, shown, task, spec.num_classes)
        training = Training(alone, spec, task, shown)
        with GATE.eager():
            training.member.network.load_state_dict(network.state_dict())
            training.go_to(training.total_steps)
        probing = Probing(probes, training, run)
        probing.measure()
        return probing.readings
