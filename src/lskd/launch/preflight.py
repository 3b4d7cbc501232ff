"""Checks before anything trains: can each network be built, and can each method serve its networks and data?"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from lskd import data, start
from lskd.engine.compiled import missing_compiler
from lskd.engine.features import Shapes, build_module, make_pair
from lskd.engine.member import build_network, trainable
from lskd.engine.memory import failure_at
from lskd.engine.optimizer import decayed_parameters, lr_factors
from lskd.engine.targets import Targets
from lskd.errors import InputError, one_line, require
from lskd.models.dropout import Random
from lskd.plan import Probes
from lskd.run import Named, Run
from lskd.targets import READS, TARGETS, Target

GLOBAL_DROPOUT = (nn.modules.dropout._DropoutNd, nn.RReLU)  # torch's modules that draw random numbers


def check_buildable(runs: Iterable[Run], cache: Path) -> None:
    """Build each kind of network among `runs` without memory, so that one that cannot be built, or has no parameters of
    the names that its recipe gives, or that its method cannot serve, is an error before anything trains."""
    checked, served, alone, begun, teach = set(), set(), set(), set(), set()
    for run in (one for whole in runs for one in (whole, *whole.peers)):
        classes = data.spec_of(run.dataset, cache).num_classes
        if (repr(run.target), classes) not in teach:
            check_target(run.target, classes)
        teach.add((repr(run.target), classes))
        begins = run.arch, run.start, run.started_from and run.started_from.id, repr(run.dataset), sizes(run)
        if begins not in begun:
            check_start(run, cache)
        begun.add(begins)
        taught = repr((run.method, run.arch, run.teacher and run.teacher.arch, run.dataset, sizes(run),
                       run.teacher and sizes(run.teacher), [peer.arch for peer in run.peers]))  # fmt: skip
        if taught not in served and (reason := unsuitable(run, cache)) is not None:
            raise InputError(reason)
        served.add(taught)
        recipe, spec = run.recipe, data.spec_of(run.dataset, cache)
        parts = (
            taught, run.teacher_mode, recipe.batch_size, recipe.accumulate, recipe.batch_norm_group,
            recipe.total_steps(spec.train),
        )  # fmt: skip
        if parts not in alone and (reason := lone_image(run, cache)) is not None:
            raise InputError(reason)
        alone.add(parts)
        kind = (
            run.arch, run.dataset.name, spec.num_classes, sizes(run), repr(recipe.lr_factors), recipe.weight_decay,
            recipe.compile, recipe.trainable,
        )  # fmt: skip
        if kind in checked:
            continue
        checked.add(kind)
        try:
            network = blank(run, spec).network
            check_evaluated(run, spec, network)
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
        chosen = trainable(network, recipe.trainable)
        if recipe.trainable and not any(True for module in chosen for _ in module.parameters()):
            given = list(recipe.trainable)
            raise InputError(f"recipe.trainable = {given}: these modules of {run.arch.name} have no parameters")
        lr_factors(dict(network.named_parameters()), recipe.lr_factors)
        decayed_parameters(network, recipe.weight_decay)


def check_packages(probes: Probes) -> None:
    """`InputError` unless the packages that probes import are installed."""
    for probe in dict.fromkeys(one for of_run in probes.values() for one in of_run):
        for package, extra in probe.settings.packages.items():
            if find_spec(package) is None:
                raise InputError(f"probe.name = {probe.name}: needs the package {package}: pip install 'lskd[{extra}]'")


def check_target(target: Named[Target], classes: int) -> None:
    """`InputError` unless a target from outside the package teaches distributions, or what stands for them, of so many
    classes: it is asked about two examples."""
    name, settings = target.name, target.settings
    if type(settings) is type(TARGETS.shipped.get(name)):
        return
    reads = list(settings.reads)
    require(set(reads) <= set(READS), f"target = {name}: reads", reads, f"some of {', '.join(READS)}")
    logits = torch.zeros(2, classes, requires_grad=True)
    try:
        taught = Targets(settings, classes, torch.Generator(), lambda network, pixels: pixels, lambda: nn.Linear(1, 1))
        taught.enter(nn.Linear(1, 1))
        found, told = taught(torch.tensor([0, classes - 1]), None, torch.zeros(2, classes), logits, torch.tensor(0.5))
    except InputError:
        raise
    except Exception as error:  # of targets of all kinds
        hint = " (it finds only what it declares in `reads`)" if isinstance(error, (AttributeError, TypeError)) else ""
        raise InputError(f"target = {name}: cannot teach {classes} classes: {one_line(error)}{hint}") from None
    rows = settings.rows(torch.tensor([0, classes - 1]), classes)
    for what, tensor, shape in (("rows", rows, (2, classes)), ("teach", found, (2, classes))):
        sound = tensor.shape == shape and bool(tensor.isfinite().all())
        require(sound, f"target = {name}: {what}", tuple(tensor.shape), f"finite, of shape {shape}")
    extra = sorted(told.keys() - set(settings.watched))
    require(not extra, f"target = {name}: watch", extra, "declared in `watches`")


def unsuitable(run: Run, cache: Path) -> str | None:
    """Why the method of `run` cannot serve its networks, their teacher and data, in one line; None if it can.

    It needs neither data nor weights: features have shapes without values, and the images are as many as there will be
    of each class.
    """
    method = run.method.settings
    if not method.reads_features:
        return None
    reasons = (_unsuitable(run, one, data.spec_of(run.dataset, cache), cache) for one in (run, *run.peers))
    return next((reason for reason in reasons if reason is not None), None)


def _unsuitable(run: Run, of: Run, spec: data.Spec, cache: Path) -> str | None:
    """The same of one of its networks, which is that `of` a run: itself, or a peer."""
    method = run.method.settings
    try:
        student, teacher = blank(of, spec), None
        if run.teacher is not None:
            size, shown = run.teacher.recipe.normalize.resize, run.recipe.view_shape(spec.shape)
            seen = (shown[0], size, size) if size else shown
            teacher = blank(run.teacher, data.spec_of(run.teacher.dataset, cache), seen)
    except InputError:
        return None  # no network, and no matter of the method
    labels = torch.arange(spec.num_classes).repeat_interleave(torch.tensor(spec.sizes()))
    names = f"{of.network} from {run.teacher.network}" if run.teacher else of.network
    shapes = ""
    try:
        pair = make_pair(method, student, teacher, labels, spec.num_classes)
        shapes = f" (student: {show_shapes(pair.student)}; teacher: {show_shapes(pair.teacher)})"
        with torch.device("meta"):
            build_module(method, pair, of.stream_seed)
    except InputError as error:
        return f"method = {run.method.name}: cannot train {names}: {error}{shapes}"
    return None


def lone_image(run: Run, cache: Path) -> str | None:
    """Why `run` cannot train with the single image that its epochs end with, in one line; None if it can, or if they
    end with more. Batch norm cannot, where one value a channel is left of it: that shows in the very step, which is
    taken here."""
    spec = data.spec_of(run.dataset, cache)
    recipe, count = run.recipe, spec.train
    if spec.kind != "images":
        return None
    together = recipe.batch_norm_group or recipe.micro_batch  # images that have their statistics together
    last = count % together or together
    reached = run.method.settings.initial() or recipe.total_steps(count) >= recipe.steps_per_epoch(count)
    if last > 1 or not (reached or together == 1):
        return None
    error = failure_at(run, spec, 1)
    if error is None or failure_at(run, spec, 2) is not None:  # what fails with any batch fails in its run, and is told
        return None
    larger = range(together + 1, 2 * together + 3)
    better = next((size for size in larger if count % size != 1), larger[0])
    if recipe.batch_norm_group:
        return (
            f"recipe.batch_norm_group = {together}: leaves one of the {count:,} images alone at the end of each epoch, "
            f"with which {run.network} cannot be trained ({one_line(error)}); {better} leaves more"
        )
    better *= recipe.accumulate
    accumulate = f", recipe.accumulate = {recipe.accumulate}" if recipe.accumulate > 1 else ""
    return (
        f"recipe.batch_size = {recipe.batch_size}{accumulate}: leaves one of the {count:,} images alone at the end of "
        f"each epoch, with which {run.network} cannot be trained ({one_line(error)}); batch_size={better} leaves more"
    )


BLANK: dict[Hashable, Shapes] = {}  # an experiment has the same few networks hundreds of times


def sizes(run: Run) -> tuple[int, int, int]:
    """What of its recipe says in which sizes the run's network sees images."""
    return run.recipe.augment.crop, run.recipe.augment.evaluate, run.recipe.normalize.resize


def check_start(run: Run, cache: Path) -> None:
    """`InputError` unless the weights that the run starts from are here, and fit its network."""
    if run.started_from is None and not run.start.digest:
        return
    found: start.Tensors
    if run.started_from is not None:
        base = run.started_from
        found = blank(base, data.spec_of(base.dataset, cache)).network.state_dict()
    else:
        found = start.entries(run.start)
        config = start.config(run.start)
        if config is not None and (reason := run.arch.settings.unlike(config)) is not None:
            raise InputError(f"{start_label(run)}: {reason}")
    try:
        network = blank(run, data.spec_of(run.dataset, cache)).network
    except InputError as error:
        raise InputError(f"arch = {run.arch.name}: cannot be built for {run}: {error}") from None
    start.fitted(found, network.state_dict(), run.start, start_label(run), tell=False)


def start_label(run: Run) -> str:
    """What a run starts from, for errors."""
    whence = run.start.source or run.start.word if run.started_from is None else str(run.started_from)
    return f"start = {whence!r} for {run.network} on {run.dataset.name}"


def check_evaluated(run: Run, spec: data.Spec, network: nn.Module) -> None:
    """`InputError` unless the network, which is that of the size of training, serves the size of evaluation, too."""
    seen = run.recipe.input_shape(spec.shape, evaluated=True)
    if seen == run.recipe.input_shape(spec.shape):
        return
    with torch.device("meta"):
        other = run.arch.settings.build(seen, spec.num_classes)
    one, two = ({name: value.shape for name, value in of.state_dict().items()} for of in (network, other))
    if one != two:
        side = run.recipe.augment.evaluate
        raise InputError(
            f"recipe.augment.evaluate = {side}: must be left out: its weights depend on the size of images"
        )


def blank(run: Run, spec: data.Spec, seen: tuple[int, int, int] | None = None) -> Shapes:
    """The run's network without memory for its weights, and the shapes of its features of inputs of the shape `seen`:
    those of its training, unless others are given. It is kept, and not to be changed."""
    seen = seen or run.recipe.input_shape(spec.shape)
    kind = run.arch, spec, run.recipe.input_shape(spec.shape), seen
    if kind not in BLANK:
        with torch.device("meta"):
            BLANK[kind] = Shapes(build_network(run, spec), torch.empty(1, *seen))
    return BLANK[kind]


def show_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """f1 16×32×32, pool 64"""
    return ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in shapes.items())
