"""One run from its configuration to its files in the store. Its teacher must be there already (`lskd.launch.sweep`)."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from lskd import data, start
from lskd.data import Part
from lskd.engine import Shared, run_probes, train
from lskd.engine.member import build_network
from lskd.engine.probing import Readings
from lskd.environment import environment
from lskd.errors import InputError
from lskd.files import write_atomically
from lskd.launch.preflight import blank, start_label
from lskd.launch.queue import needs_only_probes
from lskd.networks import OWN, PEERS
from lskd.run import LINEAGE, ProbeSpec, Run
from lskd.runtime import Runtime
from lskd.store import Store
from lskd.weights import dump, file_sha256, metadata, sha256

LOADING: dict[Hashable, threading.Lock] = {}


def load_parts(dataset: data.Dataset, raw: Path, cache: Path) -> Mapping[str, Part]:
    """The data of a run; kept, because the runs of an experiment share it. Of those that ask side by side one loads it,
    and the others wait."""
    with LOADING.setdefault((dataset, raw, cache), threading.Lock()):
        return _load_parts(dataset, raw, cache)


@functools.lru_cache(maxsize=4)
def _load_parts(dataset: data.Dataset, raw: Path, cache: Path) -> Mapping[str, Part]:
    return data.load(dataset, data=raw, cache=cache)


def check_lengths(runs: Iterable[Run], runtime: Runtime) -> None:
    """`InputError` for a sentence of the data that has more tokens than a network has positions, and for tokens that a
    network with a vocabulary of its own does not know."""
    checked = set()
    for run in (one for whole in runs for one in (whole, *whole.peers)):
        positions, vocabulary = (getattr(run.arch.settings, name, None) for name in ("positions", "vocabulary"))
        if positions is None or run.dataset.text is None or (run.dataset, positions, vocabulary) in checked:
            continue
        checked.add((run.dataset, positions, vocabulary))
        for name, part in load_parts(run.dataset, runtime.data_root, runtime.cache_root).items():
            tokens = len(part.images.vocabulary)
            if vocabulary is not None and tokens > vocabulary:
                text = run.dataset.text
                raise InputError(
                    f"dataset.text.tokenizer = {text.folder or text.tokenizer!r}: has {tokens} tokens, more than "
                    f"arch.vocabulary = {vocabulary} of {run.arch.name}: must be the tokenizer of the network"
                )
            lengths = part.images.lengths.max(1)
            if (most := int(lengths.max(initial=0))) > positions:
                cure = "; text.longest leaves out such pairs" if name == "train" else ""
                if part.images.kind == "pairs":
                    cure = "; text.longest cuts such pairs"
                raise InputError(
                    f"arch.positions = {positions}: must be >= {most}, the tokens of sentence {lengths.argmax() + 1} "
                    f"of {run.dataset.name}, part {name}, its end counted{cure}"
                )


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
    probes: Sequence[ProbeSpec] = (),
    fleet: int = 1,
    on_step: Callable[[int, int], None] = lambda step, total: None,
    on_epoch: Callable[[list[dict[str, Any]]], None] = lambda records: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Train `run`, or go on where it was interrupted, and finish it in the store. The caller holds its claim. Returns
    its record. Of a finished run, make the `probes` that are missing: of its weights where they are here and
    suffice, and then nothing is trained, and None returned.
    `fleet` is the number of runs that may be training on the device of `shared` meanwhile, for the record.
    `on_epoch` gets the records of the epochs since its last call; at its first one also those from before, of a run
    that goes on.

    Raises `engine.Diverged`, `engine.Interrupted`, and whatever else goes wrong; the store then has no result.
    """
    spec = data.spec_of(run.dataset, runtime.cache_root)
    parts = load_parts(run.dataset, runtime.data_root, runtime.cache_root)
    taught_on = None
    if (elsewhere := taught_elsewhere(run)) is not None:
        taught_on = load_parts(elsewhere, runtime.data_root, runtime.cache_root)["train"].images
    again = store.request(run) is not None
    missing = [probe for probe in probes if again or not store.seen(run, probe)]
    if needs_only_probes(run, store, {run.id: tuple(probes)}):
        shown = run.teacher if any(o.settings.needs_teacher for o in missing) else None
        teacher = load_network(shown, store, runtime) if shown is not None else None
        readings = run_probes(run, spec, parts, load_network(run, store, runtime), missing, shared, teacher, taught_on)
        record_readings(run, store, missing, readings, file_sha256(store.weights(run)))
        return None
    teacher = load_network(run.teacher, store, runtime) if run.teacher is not None else None
    used = {name: {"id": one.id, "weights_sha256": file_sha256(store.weights(one))}
            for name in LINEAGE if (one := getattr(run, name)) is not None}  # fmt: skip
    runs = (run, *run.peers)
    begun = [{"start": start.record(one.start)} if one.start.digest else {} for one in runs]

    at = 0, 0

    def stepped(step: int, total: int) -> None:
        nonlocal at
        at = step, total
        on_step(step, total)

    def asked_to_stop() -> bool:
        store.keep_claim(run, *at)  # before it writes anything, and before the next step
        return stop()

    done = store.result(run) is not None  # what is recorded stays meanwhile
    rebuilding = done and not again  # for weights that were not kept: and it stays
    told = 0

    def note(epochs: list[dict[str, Any]]) -> None:
        nonlocal told
        if not done:
            write_log(store.log(run), epochs)
        on_epoch(epochs[told:])
        told = len(epochs)

    store.begin(run, {**environment(shared.device, fleet), "code": run.code})
    if run.dataset.digest:
        store.describe(data.spec(run.dataset.name, runtime.cache_root))
    outcome = train(
        run, spec, parts, teacher,
        taught_on=taught_on,
        begins=[initial_state(one, spec, store, runtime) for one in runs],
        shared=shared,
        probes=missing,
        checkpoint=store.checkpoint(run),
        checkpoint_seconds=runtime.checkpoint_seconds,
        on_epoch=note,
        on_step=stepped,
        stop=asked_to_stop,
    )  # fmt: skip

    store.check_claim(run)  # before anything of another process is written over
    if not rebuilding:
        write_log(store.log(run), outcome.epochs, whole=True)
    presenter = shared.task(run, parts).presenter
    contents = [
        dump(weights_of(network), metadata(run, spec, presenter.mean, presenter.std, name))
        for name, network in zip((OWN, *PEERS), (outcome.network, *outcome.peers), strict=False)
    ]
    digest, *digests = map(sha256, contents)
    result = {**outcome.result, "weights_sha256": digest, **used, **begun[0]}
    for record, its, source in zip(result.get("peers", ()), digests, begun[1:], strict=True):
        record |= {"weights_sha256": its, **source}
    # A killed process must not leave other weights than those of a record: a run is done when it has its weights, and
    # weights that are made again come when their digest is known.
    paths = store.all_weights(run)
    for path in paths:
        path.unlink(missing_ok=True)
    if not rebuilding:
        write_weights(paths, contents)
    record_readings(run, store, missing, outcome.readings, digest)
    store.finish(run, result)
    if rebuilding:
        write_weights(paths, contents)
    return result


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Copies, on the CPU: a layer that the network has under several names is saved under each."""
    return {name: tensor.cpu().contiguous().clone() for name, tensor in network.state_dict().items()}


def write_weights(paths: Sequence[Path], contents: Sequence[bytes]) -> None:
    for path, content in zip(paths, contents, strict=True):
        write_atomically(path, functools.partial(Path.write_bytes, data=content))


def initial_state(run: Run, spec: data.Spec, store: Store, runtime: Runtime) -> dict[str, Tensor] | None:
    """What its network begins with, by the names of its state, where not all of that is drawn from the seed: all, or
    all but a new head."""
    found: start.Tensors
    if run.started_from is not None:
        found = load_network(run.started_from, store, runtime).state_dict()
    elif run.start.digest:
        found = start.entries(run.start)
    else:
        return None
    return start.fitted(found, blank(run, spec).network.state_dict(), run.start, start_label(run))


def record_readings(run: Run, store: Store, probes: Sequence[ProbeSpec], readings: Readings, weights: str) -> None:
    """Record what was seen of a run, whose weights have the digest `weights`."""
    for probe in probes:
        store.write_readings(run, probe, readings[probe.key], weights)


class UnusableWeights(InputError):
    """The weights of a finished run are not those of its record, or no network: a fault of none that need them."""


def load_network(run: Run, store: Store, runtime: Runtime) -> nn.Module:
    """The trained network of a finished run, on the CPU. `UnusableWeights` unless its file can be loaded, is the one of
    the record, and holds finite values."""
    return read_network(run, data.spec_of(run.dataset, runtime.cache_root), store)


def read_network(run: Run, spec: data.Spec, store: Store, name: str = OWN) -> nn.Module:
    """`load_network`, where what the data set is is known; `name`: its own, or a peer's (`lskd.networks`)."""
    network = build_network(run if name == OWN else run.others[name], spec)
    path, again = store.weights(run, name), f"delete it to train {run} again"
    try:
        weights = safetensors.torch.load_file(path)
        network.load_state_dict(weights)
    except Exception as error:  # safetensors and torch raise several kinds for a damaged or foreign file
        raise UnusableWeights(f"{path}: cannot be loaded ({error}); {again}") from None
    found, recorded = file_sha256(path), store.weights_sha256(run, name)
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
