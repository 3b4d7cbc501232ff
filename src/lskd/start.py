"""Where a network's weights come from, if not from the seed or another run: files of other codes, folders in the hub's
format, and pretrained tags.

A file is safetensors, or what `torch.save` writes of a state dict, alone or as an entry (`ENTRIES`) of a checkpoint's
mapping. It is read without running code that is in it. Prefixes that wrappers put before all names (`WRAPPERS`) are
taken off. What counts, and is part of a run's identity, is the digest of what is left; where it lies is not. Of weights
that were published under a name (hub:NAME) the name counts, as of a data set: a plan needs no file, and the digest of
what was found is in the record.

This module imports torch only where weights are read.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lskd.data.roots import HUB, hub_folder, not_here
from lskd.errors import InputError, one_line
from lskd.program import user_path
from lskd.recipe import NOT_IDENTITY

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = Mapping[str, Tensor]

SEED, RUN, DIGEST = "seed", "run:", "sha256:"  # words that name no file
PRETRAINED = ("timm:", "torchvision:")
FILES = ("model.safetensors", "pytorch_model.bin")  # of a folder in the hub's format: the first that is there counts
CONFIG = "config.json"  # what it says of its network
ENTRIES = ("state_dict", "model_state_dict", "model", "net", "network", "weights")  # of a checkpoint, the first counts
WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and DistributedDataParallel, and of torch.compile

COUNTER = "num_batches_tracked"  # of batch norms; files of before PyTorch 0.4.1 have none
_DENSE = r"(?:fc|linear|classifier|head|head\.fc|last_linear|logits|output)(?:\.\d+)?\.(weight|bias)"
# How other codes call what lskd's networks have. Each is a way to rename all entries of a file, or to leave some out
# (None); the one after which most are the network's counts, and of these the one after which fewest are not.
_RESNET = (  # of torchvision, and of most codes for CIFAR
    (r"conv1\.", "stem.0."),
    (r"bn1\.", "stem.1."),
    (r"layer(\d+)\.(\d+)\.(?:downsample|shortcut)\.", r"stage\1.\2.shortcut."),
    (r"layer(\d+)\.", r"stage\1."),
    (_DENSE, r"head.\1"),
)
_HEAD = ((_DENSE, r"head.\1"),)
_TIMM = ((_DENSE, r"head.\1"), (r"(?!head\.)", "features."))  # timm's networks stand in `features` of lskd's
_BERT = (  # of the hub, with the heads of its pre-training, and with names of before PyTorch; without "bert." alone
    (r"cls\.|(?:bert\.)?embeddings\.position_ids$", None),
    (r"(?:bert\.)?(.*LayerNorm\.)gamma$", r"bert.\1weight"),
    (r"(?:bert\.)?(.*LayerNorm\.)beta$", r"bert.\1bias"),
    (r"(?:bert\.)?(?=(?:embeddings|encoder|pooler)\.)", "bert."),
    (_DENSE, r"head.\1"),
)
Way = tuple[tuple[str, str | None], ...]
WAYS: tuple[Way, ...] = ((), _HEAD, _RESNET, _TIMM, _BERT)
_LAYER = r"((?:.*\.)?layers?)\.(\d+)\."  # one of several that are alike


@dataclass(frozen=True)
class Start:
    """The weights that a run begins with, where they are not drawn from the seed.

    digest: SHA-256 of the entries of a file or of a pretrained tag, or hub:NAME, the name of published ones; empty:
        they come from another run (`Run.started_from`), or from the seed.
    head: of the last dense layer: same, it starts as the rest does; new, from the seed, for other classes.
    layers: all, as many as the network has; first, of more those that come first.
    source, prefix: where the entries are, and which: those whose names begin with `prefix`, which is taken off.
    """

    digest: str = ""
    head: Literal["same", "new"] = "same"
    layers: Literal["all", "first"] = "all"
    source: str = field(default="", metadata=NOT_IDENTITY, compare=False)
    prefix: str = field(default="", metadata=NOT_IDENTITY, compare=False)

    @property
    def published(self) -> bool:
        """Whether a name stands for them."""
        return self.digest.startswith(HUB)

    @property
    def word(self) -> str:
        """What names them without saying where they are."""
        return self.digest if self.published else f"{DIGEST}{self.digest}"

    @property
    def short(self) -> str:
        """The same, for a line in which it is not all."""
        return self.digest.removeprefix(HUB) if self.published else self.digest[:12]


NO_START = Start()


# ---- reading ------------------------------------------------------------------------------------------------------


def of(word: str, prefix: str = "") -> Start:
    """The start that a user's `word` names: a file, a folder in the hub's format, timm:TAG, torchvision:WEIGHTS, or,
    which need not be here, hub:NAME or sha256:DIGEST."""
    if word.startswith(DIGEST):
        digest = word.removeprefix(DIGEST)
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise InputError(f"start = {word!r}: must have 64 hexadecimal digits after {DIGEST}")
        return Start(digest)
    if word.startswith(HUB):
        hub_folder(word, f"start = {word!r}")
        if prefix:
            raise InputError(f"start.prefix = {prefix!r}: is for start=PATH")
        return Start(word, source=word)
    source = word if word.startswith(PRETRAINED) else str(user_path(word).absolute())
    return Start(_digest(source, prefix, _version(source)), source=source, prefix=prefix)


def entries(start: Start) -> Tensors:
    """What `start` names, on the CPU; `InputError` where it is not here, or other by now."""
    if start.published:
        return _read(start.digest, "")
    if not start.source:
        raise InputError(f"start = {start.word}: where these weights are is not known here; give start=PATH")
    digest = _digest(start.source, start.prefix, _version(start.source))
    if digest != start.digest:
        raise InputError(
            f"start = {start.source!r}: has other weights by now: SHA-256 {digest}, and was {start.digest}"
        )
    return _read(start.source, start.prefix)


def record(start: Start) -> dict[str, Any]:
    """What the record of a run says of weights that it started from: also of published ones their digest."""
    if start.published:
        return {"digest": _digest(start.digest, "", _version(start.digest)), "source": start.digest}
    return {"digest": start.digest, "source": start.source}


def config(start: Start) -> dict[str, Any] | None:
    """What the folder of `start` says of its network; None where it is no folder in the hub's format."""
    source = start.digest if start.published else start.source
    if not source or source.startswith(PRETRAINED) or not (folder := _path(source)).is_dir():
        return None
    try:
        said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else one_line(error)
        raise InputError(f"start = {source!r}: its {CONFIG} cannot be read: {why}") from None
    if not isinstance(said, dict):
        raise InputError(f"start = {source!r}: its {CONFIG} is no mapping")
    return said


def _path(source: str) -> Path:
    """The file, or the folder in the hub's format."""
    return hub_folder(source, f"start = {source!r}") if source.startswith(HUB) else Path(source)


def _file(source: str) -> Path:
    """The file with the weights."""
    path = _path(source)
    if not path.is_dir():
        if source.startswith(HUB):
            raise not_here(f"start = {source!r}", path, f"{CONFIG} and {' or '.join(FILES)}")
        return path
    found = next((path / name for name in FILES if (path / name).is_file()), None)
    if found is None:
        raise InputError(
            f"start = {source!r}: is a folder without {' or '.join(FILES)}, which one in the hub's format has"
        )
    return found


def _version(source: str) -> tuple[int, ...]:
    """What changes when the file does."""
    if source.startswith(PRETRAINED):
        return ()
    path = _file(source)
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"start = {source!r}: cannot be read: {error.strerror}") from None
    return status.st_ino, status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _digest(source: str, prefix: str, version: tuple[int, ...]) -> str:
    """SHA-256 over the entries, in order: name, type, shape, values."""
    digest = hashlib.sha256()
    for name, tensor in _read(source, prefix).items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        import torch

        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(source: str, prefix: str) -> Tensors:
    named = f"start = {source!r}"
    if source.startswith(PRETRAINED):
        content: Any = _pretrained(source)
    elif (path := _file(source)).suffix == ".safetensors":
        import safetensors.torch

        try:
            content = dict(sorted(safetensors.torch.load_file(path).items()))
        except Exception as error:  # of several kinds
            raise InputError(f"{named}: cannot be read as safetensors: {one_line(error)}") from None
    else:
        content = _unpickled(path, named)
    found = _state(content)
    if found is None:
        kind = type(content).__name__
        raise InputError(
            f"{named}: is no state dict but a {kind}: must be one, or a mapping with one as {', '.join(ENTRIES)}; "
            "torch.save(network.state_dict(), PATH) writes it"
        )
    return _without_prefix(found, prefix, named)


def _unpickled(path: Path, named: str) -> Any:
    import argparse
    import pickle

    import numpy as np
    import torch

    # What training scripts keep beside the weights: their options, and numbers of NumPy's.
    numbers = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)]
    scalar = np.float64(0).__reduce__()[0]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # before NumPy 2, and since
    beside: list[Any] = [argparse.Namespace, np.dtype, *numbers, *names]
    try:
        with torch.serialization.safe_globals(beside):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if other := re.search(r"GLOBAL (\S+)", str(error)):
            raise InputError(
                f"{named}: holds more than tensors ({other[1]}), and is not read, since that runs its code; "
                "where it comes from, save the weights alone: torch.save(network.state_dict(), PATH)"
            ) from None
        raise InputError(f"{named}: cannot be read: {one_line(error)}") from None
    except Exception as error:  # torch has several kinds for a file of another kind
        raise InputError(f"{named}: cannot be read by torch.load: {one_line(error)}") from None


def _pretrained(source: str) -> Any:
    library, _, tag = source.partition(":")
    try:
        if library == "timm":
            import timm

            if not timm.is_model(tag.partition(".")[0]):
                raise InputError(
                    f"start = {source!r}: timm {timm.__version__} has no such tag (timm.list_pretrained())"
                )
            return timm.create_model(tag, pretrained=True).state_dict()
        import torchvision

        try:
            weights = torchvision.models.get_weight(tag)
        except (AttributeError, ValueError) as error:
            raise InputError(f"start = {source!r}: {one_line(error)}; such as ResNet18_Weights.IMAGENET1K_V1") from None
        return weights.get_state_dict(progress=False, check_hash=True)
    except InputError:
        raise
    except Exception as error:  # of networks, hubs and files of all kinds
        raise InputError(f"start = {source!r}: cannot be had: {one_line(error)}; is there a network?") from None


def _state(content: Any) -> Tensors | None:
    """The state dict that `content` is, or that is one of its entries."""
    import torch

    for _ in range(3):
        if not isinstance(content, Mapping):
            return None
        inner = next((content[key] for key in ENTRIES if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    return tensors if tensors and len(tensors) == len(content) else None


def _without_prefix(found: Tensors, prefix: str, named: str) -> Tensors:
    if prefix:
        chosen = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
        if not chosen:
            raise InputError(f"start.prefix = {prefix!r}: no entry begins so; there are {_few(found)}")
        found = chosen
    while wrapper := next((one for one in WRAPPERS if all(name.startswith(one) for name in found)), ""):
        found = {name.removeprefix(wrapper): value for name, value in found.items()}
    return found


# ---- into a network -----------------------------------------------------------------------------------------------


def fitted(found: Tensors, network: Tensors, start: Start, label: str, tell: bool = True) -> dict[str, Tensor]:
    """The entries of `network`, a state dict, with the values that `found` has for them; with head=new, all but the
    head's. `label` names both in errors: "start = 'x.pt' for resnet20".

    Names are the network's, or become so by one of `WAYS`. Where they do not, but `found` has as many entries, of the
    same shapes in the same order, that is what counts, and is logged. `InputError`, which names the first three
    entries that differ, where nothing fits.
    """
    new = {name for name in network if start.head == "new" and _is_head(name)}
    wanted = {name: value for name, value in network.items() if name not in new}
    own_names = network.keys()
    renamed = max(
        (_renamed(found, way) for way in WAYS),
        key=lambda one: (len(one.keys() & own_names), -len(one.keys() - own_names)),
    )
    given = {name: value for name, value in renamed.items() if name not in new}
    depth, its = _depths(wanted), _depths(given)
    if start.layers == "first":
        given = {name: value for name, value in given.items() if not _is_beyond(name, depth)}
    differing = list(_differing(given, wanted))
    if not differing:
        return {name: given[name].to(wanted[name].dtype) for name in wanted if name in given}
    if (rows := head_rows(given)) is not None and (own := head_rows(wanted)) is not None and rows != own:
        raise InputError(f"{label}: has a head of {rows} classes, not of {own}: start.head=new starts it from the seed")
    for stack in depth.keys() & its.keys():
        if its[stack] != depth[stack] and (its[stack] < depth[stack] or start.layers == "all"):
            hint = ": start.layers=first takes the first of them" if its[stack] > depth[stack] else ""
            raise InputError(f"{label}: has {its[stack]} layers, not {depth[stack]}{hint}")
    missing = wanted.keys() - given.keys()
    if len(missing) == len(differing) and all(map(_is_head, missing)):
        raise InputError(f"{label}: has no head: start.head=new starts it from the seed")
    named_in_order = not start.published and not start.source.endswith(".safetensors")  # which knows no order
    ordered = _by_order(found, network, new) if named_in_order else None
    if ordered is not None:
        if tell:
            logging.getLogger(__name__).warning(
                "%s: names differ, and shapes agree one to one in their order: taken in order, %s as %s",
                label, _few(found), _few(network),
            )  # fmt: skip
        return ordered
    more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
    raise InputError(f"{label}: does not fit: {'; '.join(differing[:3])}{more}")


def head_rows(state: Tensors) -> int | None:
    """The number of classes of a network's head."""
    return len(state["head.weight"]) if "head.weight" in state else None


def _is_head(name: str) -> bool:
    return re.fullmatch(r"head\.(weight|bias)", name) is not None


def _depths(state: Iterable[str]) -> dict[str, int]:
    """How many layers there are of each kind, by what their names begin with."""
    found = [match for name in state if (match := re.match(_LAYER, name))]
    return {stack: 1 + max(int(one[2]) for one in found if one[1] == stack) for stack in {one[1] for one in found}}


def _is_beyond(name: str, depth: Mapping[str, int]) -> bool:
    """Whether it is of a layer that comes after as many as there are."""
    match = re.match(_LAYER, name)
    return match is not None and match[1] in depth and int(match[2]) >= depth[match[1]]


def _renamed(found: Tensors, way: Way) -> Tensors:
    def name(given: str) -> str | None:
        for pattern, instead in way:
            whole = pattern == _DENSE
            if re.fullmatch(pattern, given) if whole else re.match(pattern, given):
                return None if instead is None else re.sub(pattern, instead, given, count=1)
        return given

    return {own: value for given, value in found.items() if (own := name(given)) is not None}


def _differing(given: Tensors, wanted: Tensors) -> Iterable[str]:
    for name, value in wanted.items():
        if name not in given:
            if not name.endswith(COUNTER):
                yield f"{name} ({_shape(value)}) is not in it"
        elif given[name].shape != value.shape:
            yield f"{name} is {_shape(given[name])} in it, and {_shape(value)} here"
    yield from (f"{name} ({_shape(value)}) is not here" for name, value in given.items() if name not in wanted)


def _by_order(found: Tensors, network: Tensors, new: set[str]) -> dict[str, Tensor] | None:
    """Entry by entry, where they are as many, and of one shape; counters of batch norms apart."""
    pairs: tuple[list[tuple[str, Tensor]], ...] = tuple(
        [(name, value) for name, value in state.items() if not name.endswith(COUNTER)] for state in (found, network)
    )
    if len(pairs[0]) != len(pairs[1]):
        return None
    taken = {}
    for (_, value), (name, own) in zip(*pairs, strict=True):
        if name in new:
            continue
        if value.shape != own.shape:
            return None
        taken[name] = value.to(own.dtype)
    return taken


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


def _few(state: Iterable[str]) -> str:
    first = list(state)[:3]
    return ", ".join(first) + ("" if len(list(state)) <= 3 else ", …")
