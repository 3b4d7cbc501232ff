"""The record of a finished training."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lskd import metrics
from lskd.data import Part
from lskd.engine.capture import GATE
from lskd.engine.settled import first_views
from lskd.engine.training import Training
from lskd.run import Run
from lskd.targets.distributions import equivalent_smoothing

# By held-out part, logits (n, K) and labels (n,): of all outputs, or of as many as calibration takes.
Outputs = dict[str, tuple[Tensor, Tensor]]


def summarise(
    training: Training, epochs: list[dict[str, Any]], outputs: Sequence[Outputs], seconds: float
) -> dict[str, Any]:
    """The record of a finished training, whose `outputs` are those of its last epoch (`loop.evaluate`)."""
    run, task, steps, examples = training.run, training.task, training.step_number, training.examples
    with GATE.eager():
        calibration, *calibrations = [metrics.calibration(one) for one in outputs]
    full_epochs, more_steps = divmod(steps, training.steps_per_epoch)
    examples_trained = full_epochs * examples + sum(training.one_step.sizes[:more_steps])
    initial = [record for record in epochs if "stage" in record]
    proper = seconds - (initial[-1]["seconds"] if initial else 0.0)  # without the stage before
    held_out = task.held_out
    result: dict[str, Any] = {
        "run": str(run),
        "parameters": sum(p.numel() for p in training.member.network.parameters()),
        "examples": examples,
        "steps": steps,
        "epochs": len(epochs) - len(initial) if run.recipe.trains else 0,
        "last": {name: epochs[-1][name] for name in held_out},
        "best": {name: best_epoch(epochs, name, held_out) for name in held_out},
        "train": epochs[-1]["train"],
        "calibration": calibration,
        "gamma": gamma(training, run, epochs[-1]["train"]),
        "seconds": round(seconds, 3),
        "seconds_per_epoch": round(proper / steps * training.steps_per_epoch, 4) if steps else 0.0,
        "images_per_second": round(examples_trained / max(proper, 1e-9), 1),
        "peak_memory_mb": peak_memory_mb(training.device),
    }
    result |= task.record(training.batches)
    if replayed := training.one_step.captured:
        # The sizes of batches (or of parts and their batch; none: the update) whose steps are replayed.
        result["captured"] = [list(sizes) for step in replayed for sizes in sorted(step.graphs)]
        if failed := [[*sizes, why] for step in replayed for sizes, why in step.failed.items()]:
            result["not_captured"] = failed
    if training.teacher is not None:
        result["teacher_evaluated"] = training.teacher.evaluated
    if run.dataset.steps:
        # What was drawn, and what came of it: the classes, and the training images of each by the labels trained on.
        sizes = task.labels.bincount(minlength=training.spec.num_classes).tolist()
        result["data"] = {"classes": list(training.spec.class_names), "train": sizes}
    if initial:
        kept = ("stage", "seconds", "train")
        result["initial"] = {"epochs": len(initial), **{key: initial[-1][key] for key in kept}}
    if run.peers:
        lines = [[{"epoch": line["epoch"], **line["peers"][k]} for line in epochs] for k in range(len(run.peers))]
        result["peers"] = [
            {
                "run": str(member.run),
                "parameters": sum(p.numel() for p in member.network.parameters()),
                "last": {name: of_peer[-1][name] for name in held_out},
                "best": {name: best_epoch(of_peer, name, held_out) for name in held_out},
                "train": of_peer[-1]["train"],
                "calibration": calibrated,
                "gamma": gamma(training, member.run, of_peer[-1]["train"]),
            }
            for member, of_peer, calibrated in zip(training.members[1:], lines, calibrations[:-1], strict=True)
        ]
        together = [{"epoch": line["epoch"], **line["ensemble"]} for line in epochs if "ensemble" in line]
        result["ensemble"] = {
            "last": {name: together[-1][name] for name in held_out},
            "best": {name: best_epoch(together, name, held_out) for name in held_out},
            "calibration": calibrations[-1],
        }
    return result


def gamma(training: Training, run: Run, trained: Mapping[str, float]) -> float | None:
    """Müller's γ: of a run without a teacher, that of its target (of one that changes, in the last epoch, whose means
    are `trained`); with a teacher, `equivalent_smoothing` of what it shows. `run`: the training's own, or a peer's.

    The mean is over the training set, each image through the view of the first epoch, and not mixed. None for a method
    that shows the student no distribution.
    """
    task, teacher = training.task, training.teacher
    method, classes = training.run.method.settings, training.spec.num_classes
    if teacher is None:
        target = run.target.settings
        return trained.get("target_gamma") if target.reads else target.gamma(classes)
    if not method.tells:
        return None
    smoothing = list[Tensor]()
    for logits, labels in task.lessons(teacher, first_views(run, task)):
        with GATE.eager():
            probs = method.teacher_probs(logits)
            if probs is None:
                return None
            smoothing.append(equivalent_smoothing(probs, labels).double())
    with GATE.eager():
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
