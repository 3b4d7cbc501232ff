"""lskd from Python: the runs of a store as a data frame, and their networks.

>>> import lskd
>>> frame = lskd.runs()
>>> students = frame[frame["method.name"] == "kd"]
>>> students.groupby(["method.temperature", "teacher.target.alpha"])["top1"].count()
method.temperature  teacher.target.alpha
4.0                 0.0                        1
Name: top1, dtype: int64
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lskd.config_groups import Conf
from lskd.data import Spec
from lskd.errors import InputError, unknown
from lskd.networks import OWN, PEERS
from lskd.plugins import load_installed_plugins
from lskd.run import Run
from lskd.runtime import Runtime
from lskd.snapshot import Snapshot
from lskd.store import Store
from lskd.weights import read_metadata

if TYPE_CHECKING:
    import pandas
    import torch
    from torch import Tensor, nn

__all__ = ["Model", "Prediction", "load", "runs"]


def runs(results: str | Path = "") -> pandas.DataFrame:
    """All runs in the folder `results` ("": $LSKD_RESULTS, else ./results), a line each, in the order of their ids.

    id, state       "done"; "diverged" and "failed" for runs without a result, "started", and "missing" for one that is
                    being trained and has no checkpoint yet
    other_code      whether another version of the code, or of a plug-in, has trained it than the one that is here
    dataset.…, arch.…, method.…, recipe.…, target.…, start.…, seed, teacher_mode, streams
                    every setting with its value, defaults included (`Run.settings`). A setting that a run does not
                    have, such as the temperature of one without a teacher, is missing (NaN): `groupby` leaves such
                    runs out unless it is told dropna=False. Lists are tuples
    teacher.id, teacher.…, teacher.teacher.…
                    the same of its teacher, and of the teacher's; started_from.… of the run that it started from;
                    peer.…, peer2.… of the networks that were trained together with it
    generations     of a run in a chain of them its place there, from 2 on. All its settings, those of its teacher too,
                    are then those of the first in the chain; teacher.id is that of the one before
    top1, error, top3, top5, nll, ece15
                    after the last epoch, on the part that the data set names (dataset.evaluate); percent, nats, shares
    peer.top1, …, ensemble.top1, …
                    the same of its peers, and of all of its networks together
    last.PART.…, best.PART.…, train.…, calibration.…, solved.…, gamma, seconds, …
                    all other numbers of result.json, by their names there
    env.…           where it was trained: versions, commit, device

    Records that are damaged are left out, each with a warning.

    >>> frame = lskd.runs("results")
    >>> frame.loc[frame["method.name"] == "kd", ["method.temperature", "teacher.arch.name", "seed"]]
       method.temperature teacher.arch.name  seed
    0                 4.0               mlp     0
    """
    from lskd.report.runs import frame

    load_installed_plugins()
    found, damaged = frame(Snapshot.of(Store.at(str(results))))
    for reason in damaged:
        warnings.warn(f"left out: {reason}", stacklevel=2)
    return found


def load(run: Run | str, results: str | Path = "", *, network: str = OWN, device: str = "cpu") -> Model:
    """The trained network of a run: a `Run`, or its id (the first digits are enough), in the folder `results` ("":
    $LSKD_RESULTS, else ./results), where its weights must be. `network`: its own, or that of a peer ("peer", "peer2").

    `InputError` for an id that is none here, or several, for weights that are not here, and for a run of a plug-in that
    has not been loaded (`lskd.plugins.load_plugins("mine.py")`).

    >>> model = lskd.load("36e6e2")
    >>> model.run.id, model.class_names[:3]
    ('36e6e2cd5862', ('0', '1', '2'))
    """
    import torch

    from lskd.data.images import Normalizer
    from lskd.engine.teacher import placed
    from lskd.launch.execute import load_parts, read_network

    load_installed_plugins()
    store = Snapshot.of(Store.at(str(results)))
    if isinstance(run, str):
        record = store.record(store.find(run))
        assert record is not None  # it was found
        run = Run.of(record.config)
    names = (OWN, *PEERS[: len(run.peers)])
    if network not in names:
        raise unknown("network", network, names)
    path = store.weights(run, network)
    if not path.is_file():
        raise InputError(
            f"{path}: is not here (results are shared without weights); the command that `lskd-report show {run.id}` "
            "prints makes them with runtime.retrain=true"
        )
    spec = Conf(specs=store.specs()).spec_of(run.dataset)
    trained = read_network(run, spec, store, network)
    where = torch.device(device)
    said = json.loads(read_metadata(path).get("preprocessing", "{}")).get("normalize", {})
    known = (said["mean"], said["std"]) if "mean" in said else None
    images = torch.empty(0, spec.shape[0], 1, 1)  # how many channels there are is all that counts
    if run.recipe.normalize.kind == "dataset" and known is None:  # weights of before they had metadata
        runtime = Runtime()
        images = load_parts(run.dataset, runtime.data_root, runtime.cache_root)["train"].images
    normalizer = Normalizer(run.recipe.normalize, images, where, known)
    return Model(run, placed(trained.requires_grad_(False).eval(), where), spec, normalizer, where)


class Prediction(NamedTuple):
    """What a `Model` says of N images."""

    names: list[str]  # of the likeliest classes
    labels: Tensor  # (N,) int64: their numbers
    probabilities: Tensor  # (N, K) fp32, all classes in the order of `Model.class_names`


@dataclass(frozen=True)
class Model:
    """A trained network, with what it must be shown and what its outputs mean.

    network: in eval mode, without gradients; it takes what `normalizer(pixels)` gives.
    normalizer: uint8 (N, C, h, w) to the network's input, as in training.
    spec: of the data set that it has learned from.
    """

    run: Run
    network: nn.Module
    spec: Spec
    normalizer: Any
    device: torch.device

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the network's outputs."""
        return self.spec.class_names

    def predict(self, images: Any) -> Prediction:
        """The likeliest class of each image, with the probabilities of all (see `pixels` for what images may be).

        >>> from sklearn.datasets import load_digits
        >>> digits = load_digits()
        >>> images = (digits.images[:3] * (255 / 16)).round().astype("uint8")  # 8×8, 0 to 16, as lskd-data decodes them
        >>> names, labels, probabilities = lskd.load("36e6e2").predict(images)
        >>> names, labels.tolist(), tuple(probabilities.shape)
        (['0', '1', '2'], [0, 1, 2], (3, 10))
        """
        probabilities = self.logits(images).softmax(-1)
        labels = probabilities.argmax(-1)
        return Prediction([self.class_names[label] for label in labels.tolist()], labels, probabilities)

    def logits(self, images: Any) -> Tensor:
        """(N, K) fp32 on the model's device, computed in the run's precision (but for TF32, which is a switch of the
        whole process)."""
        import torch

        from lskd.data.images import at_once
        from lskd.engine.tasks import forward

        with torch.no_grad():
            pixels = self.pixels(images)
            batches = pixels.split(at_once(self.device.type, *pixels.shape[-2:]))
            outputs = [forward(self.network, batch, self.normalizer, self.run.recipe.precision) for batch in batches]
        return torch.cat(outputs)

    def pixels(self, images: Any) -> Tensor:
        """Images as the run's evaluation shows them to the normalizer: uint8 (N, C, h, w), where the recipe crops their
        centre.

        images: one or a list of PIL images, of any mode; a uint8 tensor (N, C, H, W) or (C, H, W); a uint8 array
        (N, H, W, C) or (H, W, C). Of one channel C may be left out. H×W must be those of the data set; networks of a
        streamed one, such as ImageNet, take any size. `InputError` for others.
        """
        from PIL import Image

        from lskd.data.images import centre

        augment = self.run.recipe.augment
        some = _several(images, self.spec.shape)
        if augment.resized is None:
            stacked = _stacked([self._image(image) for image in some]) if isinstance(some, list) else some
            return centre(stacked, augment).contiguous().to(self.device)
        if not isinstance(some, list):
            some = [Image.fromarray(image) for image in some.cpu().permute(0, 2, 3, 1).numpy()]
        seen = []
        for image in some:
            part = image.convert("RGB").crop(augment.resized.centre(*image.size))
            seen.append(part.resize((augment.evaluated, augment.evaluated), Image.Resampling.BILINEAR))
        return _stacked(seen).contiguous().to(self.device)

    def _image(self, image: Any) -> Any:
        """A PIL image in the mode of the data set, if it has its size."""
        channels, height, width = self.spec.shape
        if image.size != (width, height):
            raise InputError(
                f"an image of {image.size[0]}×{image.size[1]} pixels: must be of {width}×{height}, as all of "
                f"{self.spec.name} are; resize it"
            )
        return image.convert("L" if channels == 1 else "RGB")


def _stacked(images: Sequence[Any]) -> Tensor:
    """PIL images of one mode and size as uint8 (N, C, H, W)."""
    import numpy as np
    import torch

    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2)


def _several(images: Any, shape: Sequence[int]) -> Any:
    """A list of PIL images, or a uint8 tensor (N, C, H, W)."""
    import numpy as np
    import torch
    from PIL import Image

    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, (list, tuple)) and images and all(isinstance(image, Image.Image) for image in images):
        return list(images)
    channels, height, width = shape
    if isinstance(images, np.ndarray):
        plain = channels == 1 and images.ndim > 1 and images.shape[-1] != 1
        tensor = torch.from_numpy(np.ascontiguousarray(images))
        tensor = tensor[..., None, :, :] if plain else tensor.movedim(-1, -3) if images.ndim > 2 else tensor
    elif isinstance(images, torch.Tensor):
        plain = channels == 1 and images.ndim > 1 and (images.ndim == 2 or images.shape[-3] != 1)
        tensor = images[..., None, :, :] if plain else images
    else:
        raise InputError(
            f"images = {type(images).__name__}: must be a PIL image, a list of them, or a uint8 tensor (N, C, H, W) or "
            "array (N, H, W, C)"
        )
    fits = (
        tensor.ndim in (3, 4) and tensor.shape[-3] == channels and (not height or tensor.shape[-2:] == (height, width))
    )
    if tensor.dtype != torch.uint8 or not fits:
        size = f"{channels}×{height}×{width}" if height else f"{channels} channels and any size"
        raise InputError(
            f"images of {tuple(images.shape)} {images.dtype}: must be uint8, 0 to 255, of {size} (channels first in a "
            "tensor, last in an array), one or several"
        )
    return tensor if tensor.ndim == 4 else tensor[None]
