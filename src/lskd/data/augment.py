"""Augmentation and normalisation as a recipe has them. (`lskd.data.images` carries them out.)

A training image is seen through one of finitely many *views*: where its crop starts, and whether it is flipped. Views
are numbered. That is what lets a frozen teacher be evaluated once per view (`lskd.engine.teacher`). Images of a
streamed data set have various sizes, and are seen through `ResizedCrop`, whose views are too many to count.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

from lskd.errors import InputError, require

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels

TRIES = 10  # at a crop that fits


@dataclass(frozen=True)
class ResizedCrop:
    """A random part of an image, resized to a square; at evaluation its middle.

    Training: torchvision's RandomResizedCrop. A share of the image's area uniform in `scale`, width/height
    log-uniform in `ratio`, both sides rounded to pixels, anywhere in the image; where ten such draws do not fit, the
    largest central part whose width/height lies in `ratio`.
    Evaluation: the middle `central` of each side, as in TF-slim's Inception preprocessing; with `square`, a square of
    `central` times the shorter side, which is torchvision's Resize(256) and CenterCrop(224) for 0.875.
    """

    scale: tuple[float, ...] = (0.08, 1.0)
    ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    central: float = 0.875
    square: bool = False

    def __post_init__(self) -> None:
        for name, most in (("scale", 1.0), ("ratio", math.inf)):
            value = getattr(self, name)
            if len(value) != 2 or not 0 < value[0] <= value[1] <= most:
                limit = ", at most 1" if most == 1 else ""
                raise InputError(f"{name} = {list(value)}: must be two numbers > 0, rising{limit}")
        if not 0 < self.central <= 1:
            raise InputError(f"central = {self.central}: must be in (0, 1]")

    def draw(self, width: int, height: int, rng: random.Random) -> Box:
        """The part of an image that a training sees."""
        low, high = self.ratio
        for _ in range(TRIES):
            area = width * height * (self.scale[0] + (self.scale[1] - self.scale[0]) * rng.random())
            aspect = math.exp(math.log(low) + (math.log(high) - math.log(low)) * rng.random())
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                top, left = int((height - h + 1) * rng.random()), int((width - w + 1) * rng.random())
                return left, top, left + w, top + h
        w, h = min(width, max(1, round(height * high))), min(height, max(1, round(width / low)))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h

    def centre(self, width: int, height: int) -> Box:
        """The part of an image that is evaluated."""
        if self.square:
            side = max(1, round(self.central * min(width, height)))
            left, top = (width - side) // 2, (height - side) // 2
            return left, top, left + side, top + side
        left, top = (int((size - size * self.central) / 2) for size in (width, height))
        return left, top, width - left, height - top


@dataclass(frozen=True)
class Mix:
    """Images of a batch are mixed with one another, each with a partner: a random permutation of the batch says which.

    cutmix: a box of each image is its partner's (Yun et al. 2019). λ ~ Beta(alpha, alpha); the box has √(1-λ) of the
    image's height and of its width, its centre is a uniform pixel, and what lies beyond the image is cut off. λ is then
    the share of the image's area that is left.
    mixup: λ·image + (1-λ)·partner (Zhang et al. 2018), λ ~ Beta(alpha, alpha).

    The target is λ·(its own) + (1-λ)·(its partner's), each after label smoothing. λ and the box are drawn once for a
    batch, as in the papers' codes, and with chance 1-probability a batch stays as it is. A batch in parts
    (`Recipe.accumulate`) has partners within each of them.
    """

    kind: Literal["none", "cutmix", "mixup"] = "none"
    alpha: float = 1.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        require(0 < self.alpha < math.inf, "alpha", self.alpha, "> 0 and finite")
        require(0 < self.probability <= 1, "probability", self.probability, "in (0, 1]")
        for name in ("alpha", "probability"):  # else runs that are the same would have two identities
            given = getattr(self, name)
            require(self.any or given == 1, name, given, "1.0, the default, with kind=none")

    @property
    def any(self) -> bool:
        """Whether images are mixed."""
        return self.kind != "none"


@dataclass(frozen=True)
class Augment:
    """Pad every side by `pad` pixels, crop a `crop`×`crop` window at a uniform offset, flip left-right with chance ½.

    pad 4, crop 32 (or 0 = the image's size), flip: the usual CIFAR pipeline, equal in distribution to torchvision's
    RandomCrop(32, padding=4) + RandomHorizontalFlip(). pad 2: MNIST shifts in [-2, 2]². crop 24: random 24×24 windows.
    Evaluation takes the centre window, unflipped.

    With `resized` (for streamed data sets, and only for them) the window is instead a part of any size and shape,
    resized to `crop`×`crop`.

    mix: what is seen of the images of a batch is then mixed with one another.
    """

    pad: int = 0
    padding: Literal["zero", "reflect"] = "zero"
    crop: int = 0
    flip: bool = False
    resized: ResizedCrop | None = None
    mix: Mix = Mix()

    def __post_init__(self) -> None:
        for name in ("pad", "crop"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} = {getattr(self, name)}: must be >= 0")
        if self.resized is not None and (self.pad or not self.crop):
            raise InputError(f"pad = {self.pad}, crop = {self.crop}: with resized, pad must be 0 and crop given")

    def check(self, height: int, width: int) -> None:
        """`InputError` unless the window fits the padded image. height = width = 0: images of various sizes."""
        if height == 0 and self.resized is None:
            raise InputError("resized: must be given, with crop, for a streamed data set: its images vary in size")
        if height == 0:
            return
        if self.resized is not None:
            raise InputError("resized: is for streamed data sets only; leave it out, or null")
        smallest = min(height, width)
        if self.crop > smallest + 2 * self.pad:
            raise InputError(f"crop = {self.crop}: must be at most {smallest + 2 * self.pad}, the padded image's size")
        if self.padding == "reflect" and self.pad >= smallest:
            raise InputError(f"pad = {self.pad}: must be < {smallest}, the image's size, to reflect")

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(rows, columns, flips) of the views of an image: their number is the product."""
        rows = height + 2 * self.pad - (self.crop or height) + 1
        columns = width + 2 * self.pad - (self.crop or width) + 1
        return rows, columns, 2 if self.flip else 1

    def views(self, height: int, width: int) -> int | None:
        """The number of views of an image; None where they are too many to count."""
        return None if self.resized is not None else math.prod(self.shape(height, width))


@dataclass(frozen=True)
class Normalize:
    """From uint8 pixels to the network's float input.

    none: x/255. fixed: (x/255 - mean)/std by channel, with the paper's constants. dataset: the same with the mean and
    std of the training part. per_image: (x - mean)/max(std, 1/√n) over all n values of the image as augmented
    (TensorFlow's per_image_standardization).
    """

    kind: Literal["none", "fixed", "dataset", "per_image"] = "none"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "fixed" and not (self.mean and len(self.mean) == len(self.std)):
            raise InputError(
                f"mean = {list(self.mean)}, std = {list(self.std)}: kind=fixed needs one of each a channel"
            )
        if self.kind != "fixed" and (self.mean or self.std):
            raise InputError(f"mean = {list(self.mean)}, std = {list(self.std)}: only kind=fixed takes them")
        if any(value <= 0 for value in self.std):
            raise InputError(f"std = {list(self.std)}: must be > 0")
