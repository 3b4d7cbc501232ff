"""Augmentation and normalisation: exact, vectorised, on the device, in pixel space before normalisation.

A training image is seen through one of finitely many *views*: where its crop starts, and whether it is flipped. Views
are numbered, drawn for a whole epoch at once, and applied to a batch by one gather. The numbering is what lets a frozen
teacher be evaluated once per view (`lskd.engine.teacher`).

Images of a streamed data set have various sizes, and are seen through `ResizedCrop`, whose views are too many to count:
there a view's number is the seed of its crop (`lskd.data.stream`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lskd.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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
class Augment:
    """Pad every side by `pad` pixels, crop a `crop`×`crop` window at a uniform offset, flip left-right with chance ½.

    pad 4, crop 32 (or 0 = the image's size), flip: the usual CIFAR pipeline, equal in distribution to torchvision's
    RandomCrop(32, padding=4) + RandomHorizontalFlip(). pad 2: MNIST shifts in [-2, 2]². crop 24: random 24×24 windows.
    Evaluation takes the centre window, unflipped.

    With `resized` (for streamed data sets, and only for them) the window is instead a part of any size and shape,
    resized to `crop`×`crop`.
    """

    pad: int = 0
    padding: Literal["zero", "reflect"] = "zero"
    crop: int = 0
    flip: bool = False
    resized: ResizedCrop | None = None

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


class Views:
    """The views of a set of images (N, C, H, W) uint8 on their device.

    View number = (row · columns + column) · (2 if flip else 1) + flipped, with row and column the crop's start in the
    padded image. `plain` is the view that evaluation takes.
    """

    def __init__(self, images: Tensor, augment: Augment) -> None:
        height, width = images.shape[-2:]
        augment.check(height, width)
        self.channels, self.height, self.width = images.shape[1], augment.crop or height, augment.crop or width
        self.rows, self.columns, self.flips = augment.shape(height, width)
        self.count = self.rows * self.columns * self.flips
        self.identity = self.count == 1
        self.plain = ((self.rows - 1) // 2 * self.columns + (self.columns - 1) // 2) * self.flips  # see `centre`
        self.images = pad(images, augment)
        if not self.identity:
            # A pixel's channels side by side: a view is so many pixels of an image, by their places in it.
            self.images = self.images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
            self._places = self._places_of_views()

    def _places_of_views(self) -> Tensor:
        """Where in its padded image each pixel of each view is: (views, h · w) int64."""
        import torch

        device, width = self.images.device, self.images.shape[-1]
        views = torch.arange(self.count, device=device)[:, None, None]
        corner, flipped = views.div(self.flips, rounding_mode="floor"), views % self.flips
        row, column = corner.div(self.columns, rounding_mode="floor"), corner % self.columns
        across = torch.arange(self.width, device=device)
        across = torch.where(flipped == 1, self.width - 1 - across, across)
        down = torch.arange(self.height, device=device)[:, None]
        return ((row + down) * width + column + across).flatten(1)

    def draw(self, generator: torch.Generator) -> Tensor:
        """A uniform view for each image, (N,) int64 on the images' device. Drawn on the CPU: the same everywhere."""
        import torch

        return torch.randint(self.count, (len(self.images),), generator=generator).to(self.images.device)

    def take(self, indices: Tensor, views: Tensor) -> Tensor:
        """Images `indices` (B,) through `views` (B,): (B, C, h, w) uint8."""
        if self.identity:
            return self.images[indices]
        images, channels = self.images, self.channels
        held = (images.untyped_storage().nbytes() - images.storage_offset()) // channels
        pixels = images.as_strided((held, channels), (channels, 1))
        places = (indices * (images.stride(0) // channels))[:, None] + self._places[views]  # (B, h · w)
        taken = pixels.index_select(0, places.flatten()).view(len(views), self.height, self.width, channels)
        return taken.permute(0, 3, 1, 2).contiguous()


def pad(images: Tensor, augment: Augment) -> Tensor:
    """`images` (N, C, H, W) uint8 with `augment.pad` more pixels on every side."""
    import torch
    from torch.nn import functional as F

    if not augment.pad:
        return images
    sides = (augment.pad,) * 4
    if augment.padding == "zero":
        return F.pad(images, sides)
    # Reflection is not defined for integers; exact in float32 for 0..255, in pieces to bound the memory.
    return torch.cat([F.pad(piece.float(), sides, mode="reflect").to(torch.uint8) for piece in images.split(4096)])


def centre(images: Tensor, augment: Augment) -> Tensor:
    """The centre window of `images` (N, C, H, W), padded where the crop is larger than they are, for evaluation.

    An odd margin leaves the extra pixel at the bottom right, as TensorFlow's central crop does.
    """
    if augment.crop > min(images.shape[-2:]):
        images = pad(images, augment)
    height, width = images.shape[-2:]
    size = augment.crop or max(height, width)
    top, left = max(height - size, 0) // 2, max(width - size, 0) // 2
    return images[..., top : top + size, left : left + size]


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


class Normalizer:
    """Normalisation of uint8 batches (B, C, H, W), with the constants on `device`, else that of `train`, the training
    images. `known`: the mean and std of the training part by channel, where they are known without its images."""

    def __init__(
        self,
        normalize: Normalize,
        train: Tensor,
        device: torch.device | None = None,
        known: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        import torch

        channels = train.shape[1]
        self.per_image = normalize.kind == "per_image"
        if normalize.kind == "fixed" and len(normalize.mean) != channels:
            raise InputError(f"mean = {list(normalize.mean)}: the images have {channels} channels")
        mean, std = torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)
        if normalize.kind == "fixed":
            mean, std = torch.tensor(normalize.mean).double(), torch.tensor(normalize.std).double()
        elif normalize.kind == "dataset" and known is not None:
            mean, std = (torch.tensor(values, dtype=torch.float64) for values in known)
        elif normalize.kind == "dataset":
            # From the counts of the 256 values: exact, so the same on every device.
            counts = torch.stack([torch.bincount(train[:, c].flatten(), minlength=256) for c in range(channels)])
            values, counts = torch.arange(256, dtype=torch.float64) / 255, counts.cpu().double()
            mean = (counts * values).sum(1) / counts.sum(1)
            std = ((counts * (values - mean[:, None]).square()).sum(1) / counts.sum(1)).sqrt()
            std[std < 1e-12] = 1.0  # a constant channel becomes 0
        self.mean, self.std = mean.tolist(), std.tolist()
        scale, shift = 1 / (255 * std), -mean / std
        self.scale, self.shift = (x.float().view(1, -1, 1, 1).to(device or train.device) for x in (scale, shift))

    def __call__(self, images: Tensor) -> Tensor:
        x = images.float()
        if not self.per_image:
            return x * self.scale + self.shift
        n = x[0].numel()
        mean = x.mean((1, 2, 3), keepdim=True)
        std = (x - mean).square().mean((1, 2, 3), keepdim=True).sqrt()
        return (x - mean) / std.clamp_min(n**-0.5)
