"""The one training loop."""

from __future__ import annotations

import logging
import math
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lskd import metrics
from lskd.config import Run
from lskd.data import Part, Spec
from lskd.data.augment import Normalizer, Views, centre
from lskd.engine.optimizer import SGD
from lskd.engine.seeds import generator_for, seed_for
from lskd.engine.teacher import Teacher
from lskd.methods import Batch
from lskd.store import write_atomically
from lskd.targets import equivalent_smoothing, smooth_labels

EVALUATION_BATCH = 1000


class Diverged(Exception):
    """The loss or the outputs are no longer finite."""


class Interrupted(Exception):
    """Asked to stop. Where a checkpoint path was given, the state has been written there."""


@dataclass
class Outcome:
    """What a training gives: the network, the record for result.json, and one record an epoch for log.jsonl."""

    network: nn.Module
    result: dict[str, Any]
    epochs: list[dict[str, Any]]


def train(
    run: Run,
    spec: Spec,
    parts: Mapping[str, Part],
    teacher_network: nn.Module | None = None,
    *,
    device: torch.device,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    teacher_memory: float = 2e9,
    on_epoch: Callable[[list[dict[str, Any]]], None] = lambda epochs: None,
    on_step: Callable[[int, int], None] = lambda step, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train `run` on `parts` ("train", and what there is of "validation" and "test").

    With `checkpoint`, the state is written there every `checkpoint_seconds` and when `stop()` says so, and a state that
    is there is gone on from: on a CPU the result is bit-identical to that of an undisturbed run. `on_epoch` gets all
    epoch records so far, `on_step` the number of steps done and their total. Raises Diverged, Interrupted.
    """
    recipe, method = run.recipe, run.method.settings
    set_precision(recipe.precision)

    # Data: uint8 on the device; batches are gathered, augmented and normalised there.
    images, labels = parts["train"].images.to(device), parts["train"].labels.to(device)
    held_out = {name: Part(*(t.to(device) for t in part)) for name, part in parts.items() if name != "train"}
    views, normalizer = Views(images, recipe.augment), Normalizer(recipe.normalize, images)
    examples = len(labels)
    total_steps, steps_per_epoch = recipe.total_steps(examples), recipe.steps_per_epoch(examples)

    def forward(network: nn.Module, pixels: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> fp32 logits (B, K)."""
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            return network(normalizer(pixels).contiguous(memory_format=torch.channels_last)).float()

    # Networks.
    network = build_network(run, spec).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = SGD(network, recipe)
    teacher = None
    if teacher_network is not None:
        teacher_network = teacher_network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        passes = total_steps / steps_per_epoch
        teacher = Teacher(teacher_network, views, forward, mode=run.teacher_mode, passes=passes, memory=teacher_memory)

    # Where to begin: at step 0, or at the checkpoint.
    step, seconds, epochs = 0, 0.0, list[dict[str, Any]]()
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64, device=device))
    torch.manual_seed(seed_for(run.seed, "dropout"))
    if checkpoint is not None and (saved := load_checkpoint(checkpoint, run)):
        network.load_state_dict(saved["network"])
        optimizer.sgd.load_state_dict(saved["optimizer"])
        set_random_state(saved["random"], device)
        step, seconds, epochs = saved["step"], saved["seconds"], saved["epochs"]
        sums.update({name: value.to(device) for name, value in saved["sums"].items()})

    saved_at = began_at = time.perf_counter()

    def checkpoint_if_due() -> None:
        """Between two steps: write the state if it is time to, or if a stop is asked for; then stop."""
        nonlocal saved_at
        now, asked = time.perf_counter(), stop()
        if checkpoint is not None and (asked or now - saved_at > checkpoint_seconds):
            saved_at = now
            state = {
                "id": run.id, "step": step, "seconds": seconds + now - began_at, "epochs": epochs, "sums": dict(sums),
                "network": network.state_dict(), "optimizer": optimizer.sgd.state_dict(),
                "random": random_state(device),
            }  # fmt: skip
            write_atomically(checkpoint, lambda path: torch.save(state, path))
        if asked:
            raise Interrupted

    while step < total_steps:
        epoch, first = divmod(step, steps_per_epoch)
        steps = min(steps_per_epoch, total_steps - epoch * steps_per_epoch)
        order = torch.randperm(examples, generator=generator_for(run.seed, "shuffle", epoch)).to(device)
        drawn = views.draw(generator_for(run.seed, "augment", epoch))
        network.train()
        for i in range(first, steps):
            indices = order[i * recipe.batch_size : (i + 1) * recipe.batch_size]  # (B,); the last batch may be smaller
            seen_through = drawn[indices]
            logits = forward(network, views.take(indices, seen_through))
            batch = Batch(
                logits=logits,
                labels=labels[indices],
                targets=smooth_labels(labels[indices], spec.num_classes, run.smoothing.alpha, run.smoothing.mass),
                teacher_logits=None if teacher is None else teacher(indices, seen_through),
                progress=step / total_steps,
            )
            terms = method.loss(batch)  # by name, each (B,)
            loss = recipe.loss_scale * torch.stack([term.mean() for term in terms.values()]).sum()
            factor = recipe.schedule.at(step, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
            optimizer.step(loss, factor)

            # Sums over the epoch stay on the device: nothing here waits for it.
            for name, term in terms.items():
                sums[name] += term.detach().sum()
            sums["#correct"] += (logits.detach().argmax(-1) == batch.labels).sum()
            sums["#examples"] += len(indices)

            step += 1
            on_step(step, total_steps)
            if i + 1 < steps:
                checkpoint_if_due()

        # The end of an epoch.
        totals = {name: value.item() for name, value in sums.items()}
        sums.clear()
        seconds += time.perf_counter() - began_at
        seen = totals.pop("#examples")
        record: dict[str, Any] = {"epoch": epoch, "step": step, "lr": recipe.lr * factor, "seconds": round(seconds, 3)}
        record["train"] = {"top1": 100.0 * totals.pop("#correct") / seen, **{k: v / seen for k, v in totals.items()}}
        if not all(math.isfinite(value) for value in record["train"].values()):
            raise Diverged(f"the training loss is not finite in epoch {epoch}, by step {step}")
        if (epoch + 1) % recipe.evaluate_every == 0 or step == total_steps:
            try:
                for name, part in held_out.items():
                    logits = evaluate(network, forward, centre(part.images, recipe.augment))
                    record[name] = metrics.summary(logits, part.labels)
            except FloatingPointError as error:
                raise Diverged(f"{error} in epoch {epoch}, by step {step}") from None
        epochs.append(record)
        on_epoch(epochs)
        began_at = time.perf_counter()  # evaluation is not training time
        if step < total_steps:
            checkpoint_if_due()

    full_epochs, more_steps = divmod(step, steps_per_epoch)
    images_trained = full_epochs * examples + more_steps * recipe.batch_size
    result: dict[str, Any] = {
        "run": str(run),
        "parameters": sum(p.numel() for p in network.parameters()),
        "examples": examples,
        "steps": step,
        "epochs": len(epochs),
        "last": {name: epochs[-1][name] for name in held_out},
        "best": {name: best_epoch(epochs, name, held_out) for name in held_out},
        "train": epochs[-1]["train"],
        "gamma": gamma(run, spec, labels, views, teacher),
        "seconds": round(seconds, 3),
        "seconds_per_epoch": round(seconds / step * steps_per_epoch, 4),
        "images_per_second": round(images_trained / max(seconds, 1e-9), 1),
        "peak_memory_mb": peak_memory_mb(device),
    }
    if teacher is not None:
        result["teacher_cached"] = teacher.table is not None
    return Outcome(network, result, epochs)


# ---- networks and numerics ----------------------------------------------------------------------------------------


def build_network(run: Run, spec: Spec) -> nn.Module:
    """The run's network with its initial weights, which depend on the seed alone (not on the device)."""
    size = run.recipe.augment.crop
    shape = (spec.shape[0], size or spec.shape[1], size or spec.shape[2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(run.seed, "init"))
        return run.arch.settings.build(shape, spec.num_classes)


def set_precision(precision: str) -> None:
    """Allow TF32 matrix products and convolutions where the recipe says so, and only there (torch's default for
    convolutions is to use them)."""
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"


@torch.no_grad()
def evaluate(network: nn.Module, forward: Callable[[nn.Module, Tensor], Tensor], images: Tensor) -> Tensor:
    """fp32 logits (N, K) of uint8 `images`, in eval mode."""
    network.eval()
    return torch.cat([forward(network, chunk) for chunk in images.split(EVALUATION_BATCH)])


def gamma(run: Run, spec: Spec, labels: Tensor, views: Views, teacher: Teacher | None) -> float | None:
    """Müller's γ: the α of a run without a teacher; with one, `equivalent_smoothing` of what the student is shown.

    The mean is over the training set, each image through the view of the first epoch. None for a method that shows the
    student no distribution.
    """
    if teacher is None:
        k = spec.num_classes
        return run.smoothing.alpha * (k / (k - 1) if run.smoothing.mass == "others" else 1.0)
    drawn = views.draw(generator_for(run.seed, "augment", 0))
    total = 0.0
    for chunk in torch.arange(len(labels), device=labels.device).split(EVALUATION_BATCH):
        probs = run.method.settings.teacher_probs(teacher(chunk, drawn[chunk]))
        if probs is None:
            return None
        total += equivalent_smoothing(probs, labels[chunk]).double().sum().item()
    return total / len(labels)


def best_epoch(epochs: list[dict[str, Any]], part: str, parts: Mapping[str, Part]) -> dict[str, Any]:
    """The first epoch with the highest top-1 on `part`, with the metrics of all parts at that epoch."""
    best = max((record for record in epochs if part in record), key=lambda record: record[part]["top1"])
    return {"epoch": best["epoch"], **{name: best[name] for name in parts}}


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory: of the device's allocator on CUDA, of the whole process on a CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)


# ---- checkpoints --------------------------------------------------------------------------------------------------
# Shuffling and augmentation are seeded anew at every epoch, so the step says where they are. What remains is the global
# generator, which dropout draws from.


def random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def load_checkpoint(path: Path, run: Run) -> dict[str, Any] | None:
    """The state in `path` if it is one of `run`. An unreadable one costs the work since the start, not the run."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return state if state["id"] == run.id else None
    except Exception as error:  # torch.load raises many kinds for a damaged file
        logging.getLogger(__name__).warning(
            "%s cannot be read (%s): starting the run again", path, type(error).__name__
        )
        return None
