"""What a data set is, and which of its images a run uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lskd.errors import InputError, unknown

if TYPE_CHECKING:
    import torch

MAX_SEED = 2**32 - 1  # the largest that NumPy's RandomState takes


@dataclass(frozen=True)
class Dataset:
    """Which images a run trains on and is measured on: a part of the run's identity.

    name: a key of `DATASETS`, or of a data set that was imported.
    holdout: training images held out, class-balanced, as the part "validation"; 0 = none, or the data's own.
    holdout_seed: seed of the draws for `holdout` and `limit`.
    limit: use only this many training images, class-balanced, drawn after the hold-out; 0 = all.
    evaluate: the part whose metrics are reported.
    digest: content of a user's own data, imported or of a plug-in, whose name does not say which data it is; empty for
        built-in data sets.
    """

    name: str
    holdout: int = 0
    holdout_seed: int = 0
    limit: int = 0
    evaluate: Literal["test", "validation"] = "test"
    digest: str = ""

    def __post_init__(self) -> None:
        for field in ("holdout", "limit"):
            if getattr(self, field) < 0:
                raise InputError(f"{field} = {getattr(self, field)}: must be >= 0")
        if not 0 <= self.holdout_seed <= MAX_SEED:
            raise InputError(f"holdout_seed = {self.holdout_seed}: must be >= 0 and <= {MAX_SEED}")
        if self.evaluate not in ("test", "validation"):
            raise unknown("evaluate", self.evaluate, ("test", "validation"))

    def examples(self, spec: Spec) -> int:
        """Images that it trains on."""
        return self.limit or spec.train - self.holdout


@dataclass(frozen=True)
class Spec:
    """What a data set is, known without opening its images.

    shape is (channels, height, width), with height = width = 0 where images have various sizes and are streamed:
    decoded while the network trains, from files that stay where they are. train, test and validation (0 unless the data
    has such a part of its own) are numbers of images; digest is that of `lskd.data.arrays` or, streamed, of
    `lskd.data.index`; empty where nothing is known to compare with.
    """

    name: str
    title: str
    num_classes: int
    shape: tuple[int, int, int]
    train: int
    test: int
    class_names: tuple[str, ...]
    digest: str
    validation: int = 0

    @property
    def parts(self) -> tuple[str, ...]:
        return ("train", "test", "validation") if self.validation else ("train", "test")

    @property
    def streamed(self) -> bool:
        return self.shape[1] == 0

    @property
    def usual_recipe(self) -> str:
        """The recipe of runs that name none, where none is known that suits the data better."""
        return "standard_streamed" if self.streamed else "standard"


class Part(NamedTuple):
    """Images and labels of one part of a data set: a tensor (N, C, H, W) uint8 or, of a streamed data set, N `Files`
    (on a device, as a recipe sees them: an `lskd.data.images.ImageSource`)."""

    images: Any
    labels: torch.Tensor  # (N,) int64


def sizes(spec: Spec) -> str:
    """The size of the images, and how many each part has, in words."""
    shape = "images of various sizes, streamed" if spec.streamed else "x".join(map(str, spec.shape))
    own = f"{spec.validation} validation, " if spec.validation else ""
    return f"{shape}, {spec.train} train, {own}{spec.test} test"
