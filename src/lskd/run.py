"""One run from its configuration to its files in the store. Its teacher must be there already (`lskd.launch`)."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

import lskd
from lskd import data
from lskd.config import Observation, Run, Runtime
from lskd.data import Part
from lskd.engine import Shared, observe, train
from lskd.engine.features import build_module, make_pair
from lskd.engine.observing import Looks
from lskd.engine.optimizer import decayed_parameters, lr_factors
from lskd.engine.training import build_network
from lskd.errors import InputError
from lskd.store import Store, write_atomically

GLOBAL_DROPOUT = (nn.modules.dropout._DropoutNd, nn.RReLU)  # torch's modules that draw random numbers


def resolve_device(name: str) -> torch.device:
    """The device that `runtime.device` names; asking for a GPU that is not there is an `InputError`."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            there = f"cuda:0 to cuda:{count - 1}, " if count else ""
            raise InputError(
                f"runtime.device = {name!r}: there are {count} CUDA devices here; allowed: {there}auto, cpu"
            )
    return device


def available_cores() -> int:
    """Cores that this process may use (a cluster's job may have fewer than the machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_buildable(runs: Iterable[Run], cache: Path) -> None:
    """Build each kind of network among `runs` without memory, so that one that cannot be built, or has no parameters of
    the names that its recipe gives, or that its method cannot serve, is an error before anything trains."""
    checked, served = set(), set()
    for run in runs:
        taught = repr((run.method, run.arch, run.teacher and run.teacher.arch, run.dataset, run.recipe.augment.crop))
        if taught not in served and (reason := unsuitable(run, cache)) is not None:
            raise InputError(reason)
        served.add(taught)
        recipe = run.recipe
        kind = (run.arch, run.dataset.name, recipe.augment.crop, repr(recipe.lr_factors), recipe.weight_decay)
        if kind in checked:
            continue
        checked.add(kind)
        try:
            network = blank_network(run, data.spec(run.dataset.name, cache))
        except InputError as error:
            raise InputError(f"arch = {run.arch.name}: cannot be built for {run}: {error}") from None
        for name, module in network.named_modules():
            if isinstance(module, GLOBAL_DROPOUT) and getattr(module, "p", True):  # at a rate of 0 nothing is drawn
                raise InputError(
                    f"arch = {run.arch.name}: {name} is {type(module).__name__}, which draws from torch's global "
                    "generator, so that runs side by side would change one another; use lskd.models.dropout.Dropout"
                )
        lr_factors(dict(network.named_parameters()), recipe.lr_factors)
        decayed_parameters(network, recipe.weight_decay)


def unsuitable(run: Run, cache: Path) -> str | None:
    """Why the method of `run` cannot serve its student, its teacher and their data, in one line; None if it can.

    It needs neither data nor weights: features have shapes without values, and the images are as many as there will be,
    in classes of one size.
    """
    method = run.method.settings
    if not method.reads_features:
        return None
    spec, side = data.spec(run.dataset.name, cache), run.recipe.augment.crop
    try:
        student, teacher = blank_network(run, spec), None
        if run.teacher is not None:
            teacher = blank_network(run.teacher, data.spec(run.teacher.dataset.name, cache))
        pixels = torch.empty(1, spec.shape[0], side or spec.shape[1], side or spec.shape[2], device="meta")
    except InputError:
        return None  # no network, and no matter of the method
    labels = torch.arange(run.dataset.limit or spec.train - run.dataset.holdout) % spec.num_classes
    names = f"{run.network} from {run.teacher.network}" if run.teacher else run.network
    shapes = ""
    try:
        pair = make_pair(method, student, teacher, pixels, labels, spec.num_classes)
        shapes = f" (student: {show_shapes(pair.student)}; teacher: {show_shapes(pair.teacher)})"
        with torch.device("meta"):
            build_module(method, pair, run.stream_seed)
    except InputError as error:
        return f"method = {run.method.name}: cannot train {names}: {error}{shapes}"
    return None


BLANK: dict[Hashable, nn.Module] = {}  # an experiment has the same few networks hundreds of times


def blank_network(run: Run, spec: data.Spec) -> nn.Module:
    """The run's network without memory for its weights. It is kept, and not to be changed."""
    kind = run.arch, spec, run.recipe.augment.crop
    if kind not in BLANK:
        with torch.device("meta"):
            BLANK[kind] = build_network(run, spec)
    return BLANK[kind]


def show_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """f1 16×32×32, pool 64"""
    return ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in shapes.items())


@functools.lru_cache(maxsize=4)
def load_parts(dataset: data.Dataset, raw: Path, cache: Path) -> Mapping[str, Part]:
    """The data of a run; kept, because the runs of an experiment share it."""
    return data.load(dataset, data=raw, cache=cache)


def train_run(
    run: Run,
    store: Store,
    runtime: Runtime,
    shared: Shared,
    *,
    observations: Sequence[Observation] = (),
    fleet: int = 1,
    on_step: Callable[[int, int], None] = lambda step, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train `run`, or go on where it was interrupted, and finish it in the store. The caller holds its claim.
    Of a finished run, make the `observations` that are missing: of its weights where they are here and suffice.
    `fleet` is the number of runs that may be training on the device of `shared` meanwhile, for the record.

    Raises `engine.Diverged`, `engine.Interrupted`, and whatever else goes wrong; the store then has no result.
    """
    spec = data.spec(run.dataset.name, runtime.cache_root)
    parts = load_parts(run.dataset, runtime.data_root, runtime.cache_root)
    missing = [observation for observation in observations if store.looks(run, observation) is None]
    if store.state(run) == "done" and store.weights(run).is_file() and not any(o.settings.every for o in missing):
        shown = run.teacher if any(o.settings.needs_teacher for o in missing) else None
        teacher = load_network(shown, store, runtime) if shown is not None else None
        looks = observe(run, spec, parts, load_network(run, store, runtime), missing, shared, teacher)
        record_looks(run, store, missing, looks)
        return
    teacher, taught_by = None, None
    if run.teacher is not None:
        teacher = load_network(run.teacher, store, runtime)
        taught_by = {"id": run.teacher.id, "weights_sha256": file_sha256(store.weights(run.teacher))}

    rebuilding = store.result(run) is not None  # done before, but the weights were not kept: its log stays
    store.begin(run, environment(shared.device, fleet))
    outcome = train(
        run, spec, parts, teacher,
        shared=shared,
        observations=missing,
        checkpoint=store.checkpoint(run),
        checkpoint_seconds=runtime.checkpoint_seconds,
        on_epoch=lambda epochs: None if rebuilding else write_log(store.log(run), epochs),
        on_step=on_step,
        stop=stop,
    )  # fmt: skip

    weights = {name: tensor.cpu().contiguous() for name, tensor in outcome.network.state_dict().items()}
    write_atomically(store.weights(run), lambda path: safetensors.torch.save_file(weights, path))
    result = {**outcome.result, "weights_sha256": file_sha256(store.weights(run))}
    if taught_by is not None:
        result["teacher"] = taught_by
    record_looks(run, store, missing, outcome.looks)
    store.finish(run, result)


def record_looks(run: Run, store: Store, observations: Sequence[Observation], looks: Looks) -> None:
    """Record what was seen of a run whose weights are in the store."""
    if observations:
        weights = file_sha256(store.weights(run))
        for observation in observations:
            store.observe(run, observation, looks[observation.key], weights)


def load_network(run: Run, store: Store, runtime: Runtime) -> nn.Module:
    """The trained network of a finished run, on the CPU."""
    network = build_network(run, data.spec(run.dataset.name, runtime.cache_root))
    try:
        network.load_state_dict(safetensors.torch.load_file(store.weights(run)))
    except Exception as error:  # safetensors and torch raise several kinds for a damaged or foreign file
        raise InputError(f"{store.weights(run)}: cannot be loaded ({error}); delete it to train {run} again") from None
    return network


def write_log(path: Path, epochs: list[dict[str, Any]]) -> None:
    """The epochs so far, one JSON object a line: appended to what is there, rewritten where a resumed run went back."""
    there = path.read_text().count("\n") if path.is_file() else 0
    if there == len(epochs) - 1:
        with open(path, "a") as file:
            file.write(json.dumps(epochs[-1], ensure_ascii=False) + "\n")
    else:
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in epochs)
        write_atomically(path, lambda temporary: temporary.write_text(text))


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def environment(device: torch.device, fleet: int = 1) -> dict[str, Any]:
    """Where a run is trained: code, versions, hardware, command. No host names and no paths: it is published."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        "lskd": lskd.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        # Whose networks and pixels depend on their versions, where a run may have used them.
        **{name: sys.modules[name].__version__ for name in ("timm", "PIL") if name in sys.modules},
        "device": name,
        "fleet": fleet,  # runs that trained side by side: seconds and images/s are those of one among them
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        # As it was typed: without the ++ that lskd.cli puts before some words.
        "command": shlex.join(
            word for word in (w.removeprefix("++") for w in words) if not word.startswith("runtime.")
        ),
    }


@functools.cache
def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that this package runs from, with "+" if it has changes; None outside one."""
    try:
        here = Path(__file__).parent

        def git(*words: str) -> str:
            return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True).stdout

        if not git("ls-files", "run.py").strip():  # installed inside somebody else's repository
            return None
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/src", ":/conf").strip()
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
