"""One run from its configuration to its files in the store. Its teacher must be there already (`lskd.launch`)."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import safetensors.torch
import torch
from torch import nn

import lskd
from lskd import data
from lskd.config import Observation, Run, Runtime
from lskd.data import Part
from lskd.engine import Shared, observe, train
from lskd.engine.compiled import missing_compiler
from lskd.engine.features import build_module, make_pair
from lskd.engine.memory import failure_at
from lskd.engine.observing import Looks
from lskd.engine.optimizer import decayed_parameters, lr_factors
from lskd.engine.training import build_network
from lskd.errors import InputError, one_line
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


def check_precision(precisions: Iterable[str], device: torch.device, setting: str = "recipe.precision") -> None:
    """`InputError` where TF32 is asked for and `device` does not have it: then numbers would be those of fp32, under
    another name."""
    has = device.type == "cuda" and (torch.version.hip or torch.cuda.get_device_capability(device) >= (8, 0))
    if "tf32" in precisions and not has:
        there = "a CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
        raise InputError(f"{setting} = 'tf32': {there} has no TF32 and would compute in fp32; allowed here: fp32, bf16")


def available_cores(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores that this process may use: a cluster's job may have fewer than the machine, and a container a share of
    them (`cgroup_cores`, which is rounded up)."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13: what -X cpu_count says counts
        cores = os.process_cpu_count() or 1
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cgroup_cores(cgroups, own))))


def cgroup_cores(cgroups: Path, own: Path) -> float:
    """Cores whose time the control groups of this process, which `own` names, allow: the least that one of them or of
    those around it does; infinite where none limits it.

    Version 2 has the microseconds that are allowed in a period, and the period, in cpu.max, version 1 each in a file.
    In a container the names may be those outside; what is mounted at `cgroups` then is its own group.
    """
    least = math.inf
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return least
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (cgroups / controllers, cgroups / "cpu") if controllers else (cgroups, cgroups / "unified"):
            group = PurePosixPath(path)
            for name in (group, *group.parents):
                folder = mount / str(name).lstrip("/")
                files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
                try:
                    text = " ".join((folder / file).read_text(encoding="utf-8") for file in files)
                    quota, period = map(float, text.split())  # "max", or -1: no limit
                except (OSError, ValueError):
                    continue
                if quota > 0 and period > 0:
                    least = min(least, quota / period)
    return least


def check_buildable(runs: Iterable[Run], cache: Path) -> None:
    """Build each kind of network among `runs` without memory, so that one that cannot be built, or has no parameters of
    the names that its recipe gives, or that its method cannot serve, is an error before anything trains."""
    checked, served, alone = set(), set(), set()
    for run in runs:
        taught = repr((run.method, run.arch, run.teacher and run.teacher.arch, run.dataset, run.recipe.augment.crop))
        if taught not in served and (reason := unsuitable(run, cache)) is not None:
            raise InputError(reason)
        served.add(taught)
        recipe = run.recipe
        count = run.dataset.examples(data.spec(run.dataset.name, cache))
        parts = taught, run.teacher_mode, recipe.batch_size, recipe.accumulate, recipe.total_steps(count)
        if parts not in alone and (reason := lone_image(run, cache)) is not None:
            raise InputError(reason)
        alone.add(parts)
        kind = (
            run.arch, run.dataset.name, recipe.augment.crop, repr(recipe.lr_factors), recipe.weight_decay,
            recipe.compile,
        )  # fmt: skip
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
            if recipe.compile and hasattr(module, "generator"):
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

    It needs neither data nor weights: features have shapes without values, and the images are as many as there will be,
    in classes of one size.
    """
    method = run.method.settings
    if not method.reads_features:
        return None
    spec = data.spec(run.dataset.name, cache)
    try:
        student, teacher = blank_network(run, spec), None
        if run.teacher is not None:
            teacher = blank_network(run.teacher, data.spec(run.teacher.dataset.name, cache))
        pixels = torch.empty(1, *run.recipe.input_shape(spec.shape), device="meta")
    except InputError:
        return None  # no network, and no matter of the method
    labels = torch.arange(run.dataset.examples(spec)) % spec.num_classes
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


def lone_image(run: Run, cache: Path) -> str | None:
    """Why `run` cannot train with the single image that its epochs end with, in one line; None if it can, or if they
    end with more. Batch norm cannot, where one value a channel is left of it: that shows in the very step, which is
    taken here."""
    spec = data.spec(run.dataset.name, cache)
    recipe, count = run.recipe, run.dataset.examples(spec)
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


LOADING: dict[Hashable, threading.Lock] = {}


def load_parts(dataset: data.Dataset, raw: Path, cache: Path) -> Mapping[str, Part]:
    """The data of a run; kept, because the runs of an experiment share it. Of those that ask side by side one loads it,
    and the others wait."""
    with LOADING.setdefault((dataset, raw, cache), threading.Lock()):
        return _load_parts(dataset, raw, cache)


@functools.lru_cache(maxsize=4)
def _load_parts(dataset: data.Dataset, raw: Path, cache: Path) -> Mapping[str, Part]:
    return data.load(dataset, data=raw, cache=cache)


def taught_elsewhere(run: Run) -> data.Dataset | None:
    """The data of the run's teacher, where its images are normalised by their statistics and the run's own data are
    others."""
    teacher = run.teacher
    needed = teacher is not None and teacher.recipe.normalize.kind == "dataset" and teacher.dataset != run.dataset
    return teacher.dataset if teacher is not None and needed else None


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
) -> dict[str, Any] | None:
    """Train `run`, or go on where it was interrupted, and finish it in the store. The caller holds its claim. Returns
    its record. Of a finished run, make the `observations` that are missing: of its weights where they are here and
    suffice, and then nothing is trained, and None returned.
    `fleet` is the number of runs that may be training on the device of `shared` meanwhile, for the record.

    Raises `engine.Diverged`, `engine.Interrupted`, and whatever else goes wrong; the store then has no result.
    """
    spec = data.spec(run.dataset.name, runtime.cache_root)
    parts = load_parts(run.dataset, runtime.data_root, runtime.cache_root)
    taught_on = None
    if (elsewhere := taught_elsewhere(run)) is not None:
        taught_on = load_parts(elsewhere, runtime.data_root, runtime.cache_root)["train"].images
    again = store.request(run) is not None
    missing = [observation for observation in observations if again or not store.seen(run, observation)]
    if store.state(run) == "done" and store.weights(run).is_file() and not any(o.settings.every for o in missing):
        shown = run.teacher if any(o.settings.needs_teacher for o in missing) else None
        teacher = load_network(shown, store, runtime) if shown is not None else None
        looks = observe(run, spec, parts, load_network(run, store, runtime), missing, shared, teacher, taught_on)
        record_looks(run, store, missing, looks, file_sha256(store.weights(run)))
        return None
    teacher, taught_by = None, None
    if run.teacher is not None:
        teacher = load_network(run.teacher, store, runtime)
        taught_by = {"id": run.teacher.id, "weights_sha256": file_sha256(store.weights(run.teacher))}

    done = store.result(run) is not None  # what is recorded stays meanwhile
    rebuilding = done and not again  # for weights that were not kept: and it stays
    store.begin(run, {**environment(shared.device, fleet), "code": run.code})
    if run.dataset.digest:
        store.describe(spec)
    outcome = train(
        run, spec, parts, teacher,
        taught_on=taught_on,
        shared=shared,
        observations=missing,
        checkpoint=store.checkpoint(run),
        checkpoint_seconds=runtime.checkpoint_seconds,
        on_epoch=lambda epochs: None if done else write_log(store.log(run), epochs),
        on_step=on_step,
        stop=stop,
    )  # fmt: skip

    # Copies: a layer that the network has under several names is saved under each.
    weights = {name: tensor.cpu().contiguous().clone() for name, tensor in outcome.network.state_dict().items()}
    store.check_claim(run)  # before anything of another process is written over
    if not rebuilding:
        write_log(store.log(run), outcome.epochs, whole=True)
    content = safetensors.torch.save(weights)
    digest = hashlib.sha256(content).hexdigest()
    result = {**outcome.result, "weights_sha256": digest}
    if taught_by is not None:
        result["teacher"] = taught_by
    # A killed process must not leave other weights than those of a record: a run is done when it has its weights, and
    # weights that are made again come when their digest is known.
    store.weights(run).unlink(missing_ok=True)
    if not rebuilding:
        write_atomically(store.weights(run), lambda path: path.write_bytes(content))
    record_looks(run, store, missing, outcome.looks, digest)
    store.finish(run, result)
    if rebuilding:
        write_atomically(store.weights(run), lambda path: path.write_bytes(content))
    return result


def record_looks(run: Run, store: Store, observations: Sequence[Observation], looks: Looks, weights: str) -> None:
    """Record what was seen of a run, whose weights have the digest `weights`."""
    for observation in observations:
        store.observe(run, observation, looks[observation.key], weights)


class UnusableWeights(InputError):
    """The weights of a finished run are not those of its record, or no network. It is no fault of who asks for them."""


def load_network(run: Run, store: Store, runtime: Runtime) -> nn.Module:
    """The trained network of a finished run, on the CPU. `UnusableWeights` unless its file can be loaded, is the one of
    the record, and holds finite values."""
    network = build_network(run, data.spec(run.dataset.name, runtime.cache_root))
    path, again = store.weights(run), f"delete it to train {run} again"
    try:
        weights = safetensors.torch.load_file(path)
        network.load_state_dict(weights)
    except Exception as error:  # safetensors and torch raise several kinds for a damaged or foreign file
        raise UnusableWeights(f"{path}: cannot be loaded ({error}); {again}") from None
    found, recorded = file_sha256(path), store.weights_sha256(run)
    if recorded and found not in recorded:
        told = f"its SHA-256 is {found}, recorded is {' or '.join(recorded)}"
        raise UnusableWeights(f"{path}: is not the network of the record ({told}); put that back, or {again}")
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UnusableWeights(f"{path}: the values of {name} are not finite; {again}")
    return network


def write_log(path: Path, epochs: list[dict[str, Any]], *, whole: bool = False) -> None:
    """The epochs so far, one JSON object a line: the last one appended to what is there, or (`whole`, and where
    something else is there: a resumed run went back, a line was cut) all of them written, if they are not there."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in epochs]
    there = path.read_bytes() if path.is_file() else b""
    text, before = "".join(lines).encode(), "".join(lines[:-1]).encode()
    if there == before and not whole:
        with open(path, "ab") as file:
            file.write(lines[-1].encode())
    elif there != text:
        write_atomically(path, lambda temporary: temporary.write_bytes(text))


HASHING = threading.Lock()
DIGESTS: dict[Hashable, str] = {}


def file_sha256(path: Path) -> str:
    """The digest of a file. It is read once, as long as it stays the same: weights are large, and every student of a
    teacher asks for them."""
    status = path.stat()
    same = path.absolute(), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    with HASHING:
        if same not in DIGESTS:
            DIGESTS[same] = _sha256(path)
        return DIGESTS[same]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def environment(device: torch.device, fleet: int = 1) -> dict[str, Any]:
    """Where a run is trained: code, versions, hardware, command. No host names and no paths: it is published."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
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
        "command": published(sys.argv),
    }


HOW = re.compile(r"runtime\b|hydra\.")  # words that say where and how, never what
FOLDERS = re.compile(r"(?<![\w.~$}/-])(~[\w-]*|\.{1,2})?/([^/\s,;'\"()\[\]{}]*/)*")


def published(command: Sequence[str]) -> str:
    """A command line without what it tells of this machine: of paths the last name is kept, of words that say where and
    how nothing. Otherwise as it was typed, without the ++ that `lskd.cli` puts before some words."""
    words: list[str] = []
    for word in (word.removeprefix("++") for word in command):
        is_path = not words or words[-1] in ("--config-dir", "-cd") or word.startswith(("plugin=", "--config-dir="))
        if is_path:  # be it a relative one
            word = re.sub(r"[^=,'\"\[\]]*/(?=[^/])", "", word.rstrip("/"))
        if not HOW.match(word):
            words.append(FOLDERS.sub("", word))
    return shlex.join(words)


@functools.cache
def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that this package runs from, with "+" if it has changes; None outside one."""
    try:
        here = Path(__file__).parent

        def git(*words: str) -> str:
            command = ["git", "-C", str(here), *words]
            return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout

        if not git("ls-files", "run.py").strip():  # installed inside somebody else's repository
            return None
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/src", ":/conf").strip()
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
