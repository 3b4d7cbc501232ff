"""Files of weights (safetensors): what they say of themselves, and how it is told that two hold the same bits.

The metadata of a file are strings, as safetensors has them, so that it can be used without lskd and without its run's
directory:

    format         "pt"
    lskd           version of lskd
    run            id of the run
    network        peer, peer2, …: that the weights are those of a peer; left out where they are of its own network
    identity       JSON: what was hashed into the id, config.json's content (`lskd.Run.of`)
    classes        JSON: names of the classes, in the order of the network's outputs
    preprocessing  JSON: `image` (channels, height, width; 0: of any size), uint8; `augment`, of which an evaluation
                   takes the central crop; `normalize`: kind none, fixed or dataset: (x/255 - mean) / std by channel;
                   per_image: (x - its mean) / max(its standard deviation, 1/√n) over all n values of an image; with
                   `resize`, of pixels that are first resized to it (`lskd.data.augment.Normalize`)
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import lskd
from lskd.data import Spec
from lskd.networks import OWN
from lskd.run import Run
from lskd.schema import identity

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_HEADER = 100_000_000  # bytes: safetensors' own limit

_HASHING = threading.Lock()
_DIGESTS: dict[Hashable, str] = {}


def metadata(run: Run, spec: Spec, mean: Sequence[float], std: Sequence[float], network: str = OWN) -> dict[str, str]:
    """What a file of the weights of `run` says of itself. `mean`, `std`: of its normalisation, one a channel;
    `network`: whose they are (`lskd.networks`)."""
    normalize: dict[str, Any] = {"kind": run.recipe.normalize.kind}
    if normalize["kind"] != "per_image":
        normalize |= {"mean": list(mean), "std": list(std)}
    if run.recipe.normalize.resize:
        normalize["resize"] = run.recipe.normalize.resize
    preprocessing = {"image": spec.shape, "augment": asdict(run.recipe.augment), "normalize": normalize}
    if run.dataset.text is not None:
        preprocessing = {"text": identity(run.dataset.text)}
    return {
        "format": "pt",
        "lskd": lskd.__version__,
        "run": run.id,
        **({} if network == OWN else {"network": network}),
        "identity": _json(run.identity()),
        "classes": _json(list(spec.class_names)),
        "preprocessing": _json(preprocessing),
    }


def _json(content: Any) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False)


def dump(tensors: Mapping[str, Tensor], said: Mapping[str, str]) -> bytes:
    """The content of a file of weights with the metadata `said`: the same bytes for the same tensors and metadata.
    (safetensors puts metadata in an order of chance.)"""
    import safetensors.torch

    content = safetensors.torch.save(dict(tensors))
    begin, entries = _header(io.BytesIO(content))
    return _begin({"__metadata__": dict(sorted(said.items())), **entries}) + content[len(begin) :]


def read_metadata(path: Path) -> dict[str, str]:
    """What the file of weights says of itself; empty where it is an old one, or none."""
    with open(path, "rb") as file:
        _, entries = _header(file)
    said = entries.get("__metadata__")
    return said if isinstance(said, dict) else {}


def sha256(content: bytes) -> str:
    """The digest of the content of a file of weights, as `file_sha256`."""
    return _digest(io.BytesIO(content))


def file_sha256(path: Path) -> str:
    """The digest by which a record names the weights of its run: the SHA-256 of the file as it is without metadata.

    So the same tensors have the same digest, whatever the file says of itself, and of a file without metadata, as lskd
    wrote them first, it is what `sha256sum` prints. A file is read once, as long as it stays the same: weights are
    large, and every student of a teacher asks for them.
    """
    status = path.stat()
    same = path.absolute(), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    with _HASHING:
        if same not in _DIGESTS:
            with open(path, "rb") as file:
                _DIGESTS[same] = _digest(file)
        return _DIGESTS[same]


def _digest(file: BinaryIO) -> str:
    begin, entries = _header(file)
    if "__metadata__" in entries:
        del entries["__metadata__"]
        begin = _begin(entries)
    digest = hashlib.sha256(begin)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _begin(entries: Mapping[str, Any]) -> bytes:
    """What stands before the tensors of a file that has these `entries`, as safetensors writes it."""
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _header(file: BinaryIO) -> tuple[bytes, dict[str, Any]]:
    """What stands before the tensors of a file, and what it says: nothing, where the file is of another kind."""
    begin = file.read(8)
    length = int.from_bytes(begin, "little")
    if len(begin) < 8 or length > LARGEST_HEADER:
        return begin, {}
    header = file.read(length)
    try:
        entries = json.loads(header)
    except ValueError:
        entries = {}
    return begin + header, entries if isinstance(entries, dict) else {}
