"""Checks before anything trains: can each network be built, and can each method serve its networks and data?"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from lskd import data
from lskd.engine.compiled import missing_compiler
from lskd.engine.features import Shapes, build_module, make_pair
from lskd.engine.member import build_network
from lskd.engine.memory import failure_at
from lskd.engine.optimizer import decayed_parameters, lr_factors
from lskd.errors import InputError, one_line
from lskd.models.dropout import Random
from lskd.run import Run

GLOBAL_DROPOUT = (nn.modules.dropout._DropoutNd, nn.RReLU)  # torch's modules that draw random numbers


def check_buildable(runs: Iterable[Run], cache: Path) -> None:
    """Build each kind of network among `runs` without memory, so that one that cannot be built, or has no parameters of
    the names that its recipe gives, or that its method cannot serve, is an error before anything trains."""
    checked, served, alone = set(), set(), set()
    for run in runs:
        taught = repr((run.method, run.arch, run.teacher and run.teacher.arch, run.dataset, run.recipe.augment.crop))
        if taught not in served and (reason := unsuitable(run, cache)) is not None:
            raise InputError(reason)
        served.add(taught)
        recipe, spec = run.recipe, data.spec_of(run.dataset, cache)
        parts = taught, run.teacher_mode, recipe.batch_size, recipe.accumulate, recipe.total_steps(spec.train)
        if parts not in alone and (reason := lone_image(run, cache)) is not None:
            raise InputError(reason)
        alone.add(parts)
        kind = (
            run.arch, run.dataset.name, spec.num_classes, recipe.augment.crop, repr(recipe.lr_factors),
            recipe.weight_decay, recipe.compile,
        )  # fmt: skip
        if kind in checked:
            continue
        checked.add(kind)
        try:
            network = blank(run, spec, recipe.input_shape(spec.shape)).network
        except InputError as error:
            raise InputError(f"arch = {run.arch.name}: cannot be built for {run}: {error}") from None
        for name, module in network.named_modules():
            if isinstance(module, GLOBAL_DROPOUT) and getattr(module, "p", True):  # at a rate of 0 nothing is drawn
                raise InputError(
                    f"arch = {run.arch.name}: {name} is {type(module).__name__}, which draws from torch's global "
                    "generator, so that runs side by side would change one another; use lskd.models.dropout.Dropout"
                )
            if getattr(module, "generator", module) is None and not isinstance(module, Random):
                raise InputError(
                    f"arch = {run.arch.name}: {name} is {type(module).__name__}, whose generator nobody sets; a module "
                    "that draws random numbers must be a lskd.models.dropout.Random"
                )
            if recipe.compile and isinstance(module, Random):
                raise InputError(
                    f"recipe.compile = true: must be false with arch={run.arch.name}, whose {name} "
                    f"({type(module).__name__}) draws random numbers: compiled code would draw others"
                )
        if recipe.compile and (missing := missing_compiler()) is not None:
            raise InputError(f"recipe.compile = true: needs a C++ compiler and Python's headers: there is no {missing}")
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise InputError(f"arch = {run.arch.name}: has no parameter to train")
        lr_factors(dict(network.named_parameters()), recipe.lr_factors)
        decayed_parameters(network, recipe.weight_decay)


def unsuitable(run: Run, cache: Path) -> str | None:
    """Why the method of `run` cannot serve its student, its teacher and their data, in one line; None if it can.

    It needs neither data nor weights: features have shapes without values, and the images are as many as there will be
    of each class.
    """
    method = run.method.settings
    if not method.reads_features:
        return None
    spec = data.spec_of(run.dataset, cache)
    try:
        seen = run.recipe.input_shape(spec.shape)
        student, teacher = blank(run, spec, seen), None
        if run.teacher is not None:
            teacher = blank(run.teacher, data.spec_of(run.teacher.dataset, cache), seen)
    except InputError:
        return None  # no network, and no matter of the method
    labels = torch.arange(spec.num_classes).repeat_interleave(torch.tensor(spec.sizes()))
    names = f"{run.network} from {run.teacher.network}" if run.teacher else run.network
    shapes = ""
    try:
        pair = make_pair(method, student, teacher, labels, spec.num_classes)
        shapes = f" (student: {show_shapes(pair.student)}; teacher: {show_shapes(pair.teacher)})"
        with torch.device("meta"):
            build_module(method, pair, run.stream_seed)
    except InputError as error:
        return f"method = {run.method.name}: cannot train {names}: {error}{shapes}"
    return None


def lone_image(run: Run, cache: Path) -> str | None:
    """Why `run` cannot train with the single image that its epochs end with, in one line; None if it can, or if they
    end with more. Batch norm cannot, where one value a channel is left of it: that shows in the very step, which is
    taken here."""
    spec = data.spec_of(run.dataset, cache)
    recipe, count = run.recipe, spec.train
    last = count % recipe.micro_batch or recipe.micro_batch
    reached = run.method.settings.initial() or recipe.total_steps(count) >= recipe.steps_per_epoch(count)
    if last > 1 or not (reached or recipe.micro_batch == 1):
        return None
    error = failure_at(run, spec, 1)
    if error is None or failure_at(run, spec, 2) is not None:  # what fails with any batch fails in its run, and is told
        return None
    larger = range(recipe.micro_batch + 1, 2 * recipe.micro_batch + 3)
    better = next((size for size in larger if count % size != 1), larger[0]) * recipe.accumulate
    accumulate = f", recipe.accumulate = {recipe.accumulate}" if recipe.accumulate > 1 else ""
    return (
        f"recipe.batch_size = {recipe.batch_size}{accumulate}: leaves one of the {count:,} images alone at the end of "
        f"each epoch, with which {run.network} cannot be trained ({one_line(error)}); batch_size={better} leaves more"
    )


BLANK: dict[Hashable, Shapes] = {}  # an experiment has the same few networks hundreds of times


def blank(run: Run, spec: data.Spec, seen: tuple[int, int, int]) -> Shapes:
    """The run's network without memory for its weights, and the shapes of its features of images of the shape `seen`.
    It is kept, and not to be changed."""
    kind = run.arch, spec, run.recipe.augment.crop, seen
    if kind not in BLANK:
        with torch.device("meta"):
            BLANK[kind] = Shapes(build_network(run, spec), torch.empty(1, *seen))
    return BLANK[kind]


def show_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """f1 16×32×32, pool 64"""
    return ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in shapes.items())
