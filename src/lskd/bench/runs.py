"""The runs and the images of a benchmark."""

from __future__ import annotations

from dataclasses import replace

import torch

from lskd.data import Part, Spec
from lskd.data.augment import Normalize
from lskd.methods import METHODS, Method
from lskd.methods.kd import KD
from lskd.recipe import WeightDecay
from lskd.run import HARD, Named, Run


def synthetic(spec: Spec, examples: int) -> dict[str, Part]:
    """Noise of the data set's shape and classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (examples, *spec.shape), generator=generator, dtype=torch.uint8)
    return {"train": Part(images, torch.randint(spec.num_classes, (examples,), generator=generator))}


def at_precision(run: Run, precision: str) -> Run:
    return replace(run, recipe=replace(run.recipe, precision=precision))  # type: ignore[arg-type]


def without_teacher(run: Run) -> Run:
    return replace(run, method=Named("ce", METHODS["ce"]), teacher=None)


def as_public_code(run: Run) -> Run:
    """`run` with the optimizer, loss and normalisation of RepDistiller and mdistiller."""
    recipe = run.recipe
    recipe = replace(
        recipe, momentum=0.9, dampening=0.0, nesterov=False, lr_factors={}, clip_norm=None, loss_scale=1.0,
        weight_decay=WeightDecay(5e-4),
        normalize=Normalize("dataset") if recipe.normalize.kind == "per_image" else recipe.normalize,
    )  # fmt: skip
    method = Named[Method]("ce", METHODS["ce"]) if run.teacher is None else Named[Method]("kd", KD())
    return replace(run, method=method, recipe=recipe, target=HARD)
