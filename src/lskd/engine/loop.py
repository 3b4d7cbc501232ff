"""The training loop: epochs, evaluation, checkpoints, and the record of a run."""

from __future__ import annotations

import contextlib
import logging
import math
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lskd
from lskd import metrics
from lskd.data import Part, Spec
from lskd.data.augment import Views
from lskd.data.stream import LARGEST, Stream
from lskd.engine.capture import GATE, Captured, own_stream
from lskd.engine.probing import Probing, Readings
from lskd.engine.seeds import generator_for
from lskd.engine.shared import Shared, teacher_normalizer
from lskd.engine.teacher import EVALUATION_BATCH
from lskd.engine.training import Training, set_precision
from lskd.errors import one_line
from lskd.files import write_atomically
from lskd.run import ProbeSpec, Run
from lskd.targets import equivalent_smoothing

STATISTICS_BATCH = 1000  # images that share their statistics where γ of a batch-statistics teacher is measured


class Diverged(Exception):
    """The loss or the outputs are no longer finite."""


class Interrupted(Exception):
    """Asked to stop. Where a checkpoint path was given, the state has been written there."""


@dataclass
class Outcome:
    """What a training gives: the network, on the CPU, the record for result.json, one record an epoch for log.jsonl,
    and what the probes saw, by their keys."""

    network: nn.Module
    result: dict[str, Any]
    epochs: list[dict[str, Any]]
    readings: Readings = field(default_factory=dict)


def train(
    run: Run,
    spec: Spec,
    parts: Mapping[str, Part],
    teacher_network: nn.Module | None = None,
    *,
    taught_on: Tensor | None = None,
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
    (`teacher_normalizer`).

    Several trainings may share the device, each in a thread of its own; their recipes must then agree in `precision`.
    With `checkpoint`, the state is written there every `checkpoint_seconds` and when `stop()` says so, and a state that
    is there is gone on from: on a CPU the result is bit-identical to that of an undisturbed run. `on_epoch` gets all
    epoch records so far, `on_step` the number of steps done and their total. Probes look at the network between
    steps, and change nothing of it. Raises Diverged, Interrupted.
    """
    recipe = run.recipe
    set_precision(recipe.precision, search=shared.search)
    with contextlib.ExitStack() as stack:
        stack.enter_context(own_stream(shared.device))
        images = shared.images(run, parts)
        table = normalizer = None
        looked_up = run.teacher_mode == "eval" and run.method.settings.teacher_use == "logits"
        if teacher_network is not None and looked_up and isinstance(images.views, Views):
            table = stack.enter_context(shared.table(run, images.views, spec.num_classes))
        if teacher_network is not None:
            with GATE.eager():
                taught_on = parts["train"].images if taught_on is None else taught_on
                normalizer = teacher_normalizer(run, images, taught_on)

        def from_the_start() -> tuple[Training, Probing]:
            training = Training(run, spec, images, teacher_network, table, normalizer)
            return training, Probing(probes, training, run)

        training, probing = from_the_start()
        stack.callback(lambda: training.close())  # whichever it is then
        seconds, epochs = 0.0, list[dict[str, Any]]()
        saved = None if checkpoint is None else load_checkpoint(checkpoint, run, probing.readings)
        if saved is not None:
            try:
                training.restore(saved)
                seconds, epochs, probing.readings = saved["seconds"], saved["epochs"], saved["readings"]
            except Exception as error:  # it is of this run, and yet does not fit it
                _start_again(checkpoint, error)
                training.close()
                saved, (training, probing) = None, from_the_start()
        if saved is None and probing.due():
            probing.measure()
        outputs: dict[str, tuple[Tensor, Tensor]] = {}  # logits and labels of the held-out parts, at the last epoch
        held: float | None = None
        saved_at = began_at = time.perf_counter()

        def checkpoint_if_due() -> None:
            """Between two steps: write the state if it is time to, or if a stop is asked for; then stop."""
            nonlocal saved_at
            now, asked = time.perf_counter(), stop()
            if checkpoint is not None and (asked or now - saved_at > checkpoint_seconds):
                saved_at = now
                kept = {"epochs": epochs, "readings": probing.readings}
                with GATE.eager():
                    state = {**training.state(), **kept, "seconds": seconds + now - began_at, "versions": VERSIONS}
                    write_atomically(checkpoint, lambda path: _save(state, path))
            if asked:
                raise Interrupted

        while training.step_number < training.total_steps:
            epoch = training.epoch
            end = min((epoch + 1) * training.steps_per_epoch, training.total_steps)
            training.begin_epoch()
            while training.step_number < end:
                training.step()
                on_step(*training.steps_done)
                if probing.due():
                    seconds += time.perf_counter() - began_at  # looking is not training time
                    probing.measure()
                    began_at = time.perf_counter()
                if training.step_number < end:
                    checkpoint_if_due()
            trained = training.end_epoch()

            seconds += time.perf_counter() - began_at
            stage = training.stage
            record: dict[str, Any] = {} if stage is None else {"stage": stage.name}
            record |= {"epoch": epoch, "step": end, "lr": training.lr(end - 1)}
            record |= {"seconds": round(seconds, 3), "train": trained}
            if not all(math.isfinite(value) for value in trained.values()):
                of = f" of {stage.name}" if stage else ""
                raise Diverged(f"the training loss is not finite in epoch {epoch}{of}, by step {end}")
            if stage is None and ((epoch + 1) % recipe.evaluate_every == 0 or end == training.total_steps):
                try:
                    with GATE.eager():
                        for name, part in images.held_out.items():
                            outputs[name] = evaluate(training, part.images), part.labels
                            record[name] = metrics.summary(*outputs[name])
                        held = held_memory_mb(training.device)
                except FloatingPointError as error:
                    raise Diverged(f"{error} in epoch {epoch}, by step {end}") from None
            epochs.append(record)
            on_epoch(epochs)
            began_at = time.perf_counter()  # evaluation is not training time
            if stage is not None and end == training.total_steps:
                training.enter(None)
                if probing.due():
                    probing.measure()
                    began_at = time.perf_counter()
            if training.step_number < training.total_steps:
                checkpoint_if_due()
        result = summarise(training, epochs, outputs, seconds)
        if held is not None:
            result["held_memory_mb"] = held
        with GATE.eager():
            training.trained.zero_grad()
            return Outcome(training.trained.cpu(), result, epochs, probing.readings)


def summarise(
    training: Training, epochs: list[dict[str, Any]], outputs: Mapping[str, tuple[Tensor, Tensor]], seconds: float
) -> dict[str, Any]:
    """The record of a finished training."""
    run, steps, examples = training.run, training.step_number, training.examples
    with GATE.eager():
        calibration = metrics.calibration(outputs)
    full_epochs, more_steps = divmod(steps, training.steps_per_epoch)
    images_trained = full_epochs * examples + more_steps * run.recipe.batch_size
    initial = [record for record in epochs if "stage" in record]
    proper = seconds - (initial[-1]["seconds"] if initial else 0.0)  # without the stage before
    held_out = training.images.held_out
    result: dict[str, Any] = {
        "run": str(run),
        "parameters": sum(p.numel() for p in training.network.parameters()),
        "examples": examples,
        "steps": steps,
        "epochs": len(epochs) - len(initial),
        "last": {name: epochs[-1][name] for name in held_out},
        "best": {name: best_epoch(epochs, name, held_out) for name in held_out},
        "train": epochs[-1]["train"],
        "calibration": calibration,
        "gamma": gamma(training),
        "seconds": round(seconds, 3),
        "seconds_per_epoch": round(proper / steps * training.steps_per_epoch, 4),
        "images_per_second": round(images_trained / max(proper, 1e-9), 1),
        "peak_memory_mb": peak_memory_mb(training.device),
    }
    replayed = [step for step in (training.run_step, training.run_update) if isinstance(step, Captured)]
    if replayed:  # the sizes of batches (or of parts and their batch; none: the update) whose steps are replayed
        result["captured"] = [list(sizes) for step in replayed for sizes in sorted(step.graphs)]
        if failed := [[*sizes, why] for step in replayed for sizes, why in step.failed.items()]:
            result["not_captured"] = failed
    if training.teacher is not None:
        result["teacher_evaluated"] = training.teacher_evaluated
    if initial:
        kept = ("stage", "seconds", "train")
        result["initial"] = {"epochs": len(initial), **{key: initial[-1][key] for key in kept}}
    return result


@torch.no_grad()
def evaluate(training: Training, images: Tensor | Stream) -> Tensor:
    """fp32 logits (N, K) of uint8 `images`, in eval mode."""
    network = training.trained.eval()
    return torch.cat([training.forward(network, chunk) for chunk in images.split(EVALUATION_BATCH[images.device.type])])


def gamma(training: Training) -> float | None:
    """Müller's γ: the α of a run without a teacher; with one, `equivalent_smoothing` of what the student is shown.

    The mean is over the training set, each image through the view of the first epoch. None for a method that shows the
    student no distribution.
    """
    run, images, teacher = training.run, training.images, training.teacher
    method = run.method.settings
    if teacher is None:
        k = training.num_classes
        return run.smoothing.alpha * (k / (k - 1) if run.smoothing.mass == "others" else 1.0)
    if method.teacher_probs(torch.zeros(1, training.num_classes)) is None:  # no need to ask the teacher
        return None
    views = images.views.draw(generator_for(run.stream_seed, "augment", 0))
    chunks: Iterable[Tensor]
    if teacher.ahead:
        chunks = [teacher.epoch(views)]
    elif isinstance(images.views, Stream):
        size = STATISTICS_BATCH if run.teacher_mode == "batch_stats" else LARGEST
        chunks = map(teacher.live, images.views.batches(torch.arange(len(views)), views, size))
    else:
        rows = torch.arange(len(views), device=views.device).split(STATISTICS_BATCH)
        chunks = (teacher.live(images.views.take(row, views[row])) for row in rows)
    smoothing, begun = list[Tensor](), 0
    with GATE.eager():
        for logits in chunks:
            probs = method.teacher_probs(logits)
            if probs is None:
                return None
            smoothing.append(equivalent_smoothing(probs, images.labels[begun : begun + len(logits)]).double())
            begun += len(logits)
        return torch.cat(smoothing).mean().item()


def best_epoch(epochs: list[dict[str, Any]], part: str, parts: Mapping[str, Part]) -> dict[str, Any]:
    """The first epoch with the highest top-1 on `part`, with the metrics of all parts at that epoch."""
    best = max((record for record in epochs if part in record), key=lambda record: record[part]["top1"])
    return {"epoch": best["epoch"], **{name: best[name] for name in parts}}


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory of all trainings side by side: on CUDA what torch took of the device (captured steps keep theirs,
    which torch does not count as allocated between replays), on a CPU that of the whole process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_reserved(device) / 1e6, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)


def held_memory_mb(device: torch.device) -> float | None:
    """What torch holds of a GPU for the training on the current stream alone: its tensors, graphs and workspaces, and
    what is free between them. Others may give the last back when they capture: ask after an evaluation, in its eager
    section. None on a CPU."""
    if device.type != "cuda":
        return None
    stream = torch.cuda.current_stream(device)
    held = (segment["total_size"] for segment in torch.cuda.memory_snapshot()
            if (segment["device"], segment["stream"]) == (stream.device_index, stream.cuda_stream))  # fmt: skip
    return round(sum(held) / 1e6, 1)


def load_checkpoint(path: Path, run: Run, readings: Readings) -> dict[str, Any] | None:
    """The state in `path` if it is one of `run`, seen by the probes of `readings` so far, and was written by the same
    versions: with others the numbers after it might not be those of the whole run. Any other one costs the work since
    the start, not the run."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["id"] != run.id or state["readings"].keys() != readings.keys():
            return None
        if state["versions"] != VERSIONS:
            raise ValueError(f"it is of {_show(state['versions'])}, and this is {_show(VERSIONS)}")
        return state
    except Exception as error:  # torch.load raises many kinds for a damaged file
        _start_again(path, error)
        return None


VERSIONS = {"lskd": lskd.__version__, "torch": str(torch.__version__)}


def _show(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _start_again(path: Path | None, why: Exception) -> None:
    logging.getLogger(__name__).warning("%s cannot be used (%s): starting the run again", path, one_line(why))


def _save(state: Mapping[str, Any], path: Path) -> None:
    """Through a file of ours: of a full disk torch says nothing that a reader could understand."""
    with open(path, "wb") as file:
        torch.save(state, file)
