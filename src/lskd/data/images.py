"""The images of one part of a data set, as a recipe sees them: where the engine has its pixels from.

uint8 throughout, in pixel space before normalisation. An image is seen through *views*: crops, flipped or not, which
have numbers. Views of a whole epoch are drawn at once, and taken of a batch at a time: so whoever draws the same
numbers sees the same pixels, on every device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn import functional as F

from lskd.data.augment import Augment, Normalize
from lskd.errors import InputError

LARGE = 64 * 64  # pixels: of larger images few at a time fill a device, and tell what memory more of them take
# Of networks and of what they see. On a CPU 1.2 to 1.4 times as fast as contiguous; on CUDA it suits tensor cores, and
# in fp32 it may be the slower one: not measured.
LAYOUT = torch.channels_last
SEEDS = 2**63 - 1  # what a view is drawn from where views are too many to count: its number is the seed of its crop


def at_once(device_type: str, height: int, width: int) -> int:
    """Images to evaluate at once, without gradients. On a CPU, activations of more would not stay in its caches
    (ResNets and WRNs: a thousand at once take up to 2.5 times as long)."""
    return 1000 if device_type == "cuda" and height * width <= LARGE else 128


class ImageSource(ABC):
    """N images, each through numbered views, as uint8 pixels (B, C, h, w) on `device`."""

    def __init__(
        self, count: int, shape: tuple[int, int, int], views: int | None, device: torch.device, *, plain_view: int = 0
    ) -> None:
        self._count = count
        self.shape = shape  # (C, h, w) of what a network sees
        self.views = views  # of each image; None: too many to count, so that nothing can be kept for each
        self.device = device
        self.plain_view = plain_view  # the view of an evaluation
        self.at_once = at_once(device.type, *shape[1:])

    def __len__(self) -> int:
        return self._count

    def draw(self, generator: torch.Generator) -> Tensor:
        """A uniform view for each image, (N,) int64. Drawn on the CPU: the same everywhere."""
        return torch.randint(SEEDS if self.views is None else self.views, (len(self),), generator=generator)

    @abstractmethod
    def take(self, indices: Tensor, views: Tensor) -> Tensor:
        """Images `indices` (B,) through `views` (B,): (B, C, h, w)."""

    def batches(self, indices: Tensor, views: Tensor, size: int) -> Iterator[Tensor]:
        """Images `indices` through `views`, `size` at a time (the last: what remains). Each is valid until the next."""
        return map(self.take, indices.to(self.device).split(size), views.to(self.device).split(size))

    def plain(self, indices: Tensor) -> Tensor:
        """Images `indices` (B,) as they are evaluated: (B, C, h, w)."""
        return self.take(indices, torch.full_like(indices, self.plain_view))

    def evaluation(self) -> Iterator[Tensor]:
        """All images as they are evaluated, `at_once` at a time. Each batch is valid until the next."""
        return self.plain_batches(torch.arange(len(self)))

    def plain_batches(self, indices: Tensor) -> Iterator[Tensor]:
        """Images `indices` as they are evaluated, `at_once` at a time. Each batch is valid until the next."""
        return self.batches(indices, torch.full_like(indices, self.plain_view), self.at_once)

    def feed(self, size: int, eager: Callable[[], AbstractContextManager[None]]) -> Feed:
        """What the steps of a training take batches of up to `size` images from. `eager()`: in it, work may be put on
        the device between two steps."""
        return Feed(self)


class Feed:
    """The batches of one training. A step is recorded once and finds its pixels by `take`; what has to be done for them
    on the host is done between steps: by `begin` at an epoch, and by `advance` at each batch."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def begin(self, indices: Tensor, views: Tensor, sizes: Sequence[int]) -> None:
        """The batches to come are of images `indices`, in this order, each through its own of all `views` (N,). Both
        are on the CPU. `sizes`: of these batches, all of which but the last are equal."""

    def advance(self) -> None:
        """The next batch begins."""

    def take(self, indices: Tensor, views: Tensor) -> Tensor:
        """The batch, which is of these images through these views: (B, C, h, w)."""
        return self.source.take(indices, views)


class Resident(ImageSource):
    """Images (N, C, H, W) that are on their device.

    View number = (row · columns + column) · (2 if flip else 1) + flipped, with row and column the crop's start in the
    padded image.
    """

    def __init__(self, images: Tensor, augment: Augment) -> None:
        height, width = images.shape[-2:]
        augment.check(height, width)
        self.rows, self.columns, self.flips = augment.shape(height, width)
        views = self.rows * self.columns * self.flips
        plain = ((self.rows - 1) // 2 * self.columns + (self.columns - 1) // 2) * self.flips  # see `centre`
        shape = images.shape[1], augment.crop or height, augment.crop or width
        super().__init__(len(images), shape, views, images.device, plain_view=plain)
        self.images = pad(images, augment)
        if views > 1:
            # A pixel's channels side by side: a view is so many pixels of an image, by their places in it.
            self.images = self.images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
            self._places = self._places_of_views()

    def _places_of_views(self) -> Tensor:
        """Where in its padded image each pixel of each view is: (views, h · w) int64."""
        _, h, w = self.shape
        views = torch.arange(self.views or 0, device=self.device)[:, None, None]
        corner, flipped = views.div(self.flips, rounding_mode="floor"), views % self.flips
        row, column = corner.div(self.columns, rounding_mode="floor"), corner % self.columns
        across = torch.arange(w, device=self.device)
        across = torch.where(flipped == 1, w - 1 - across, across)
        down = torch.arange(h, device=self.device)[:, None]
        return ((row + down) * self.images.shape[-1] + column + across).flatten(1)

    def take(self, indices: Tensor, views: Tensor) -> Tensor:
        if self.views == 1:
            return self.images[indices]
        images, (channels, h, w) = self.images, self.shape
        held = (images.untyped_storage().nbytes() - images.storage_offset()) // channels
        pixels = images.as_strided((held, channels), (channels, 1))
        places = (indices * (images.stride(0) // channels))[:, None] + self._places[views]  # (B, h · w)
        taken = pixels.index_select(0, places.flatten()).view(len(views), h, w, channels)
        return taken.permute(0, 3, 1, 2).contiguous()


def pad(images: Tensor, augment: Augment) -> Tensor:
    """`images` (N, C, H, W) uint8 with `augment.pad` more pixels on every side."""
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
    if augment.evaluated > min(images.shape[-2:]):
        images = pad(images, augment)
    height, width = images.shape[-2:]
    size = augment.evaluated or max(height, width)
    top, left = max(height - size, 0) // 2, max(width - size, 0) // 2
    return images[..., top : top + size, left : left + size]


class Normalizer:
    """Normalisation of batches of pixels (B, C, H, W), uint8 or of mixed images fp32 in [0, 255].

    The constants are on `device`, else that of `train`, the training images, whose pixels count with kind=dataset only;
    then, too, only unless their mean and std by channel are `known`.
    """

    def __init__(
        self,
        normalize: Normalize,
        train: Tensor,
        device: torch.device | None = None,
        known: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        channels = train.shape[1]
        self.resize = normalize.resize
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

    def seen(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, h, w) of the network's input, of pixels of `shape`."""
        return (shape[0], self.resize, self.resize) if self.resize else shape

    def arguments(self, images: Tensor) -> tuple[Tensor, ...]:
        """What a network is called with."""
        return (self(images).contiguous(memory_format=LAYOUT),)

    def __call__(self, images: Tensor) -> Tensor:
        x = images.float()
        if self.resize and x.shape[-2:] != (self.resize, self.resize):
            size = (self.resize, self.resize)
            x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
        if not self.per_image:
            return x * self.scale + self.shift
        n = x[0].numel()
        mean = x.mean((1, 2, 3), keepdim=True)
        std = (x - mean).square().mean((1, 2, 3), keepdim=True).sqrt()
        return (x - mean) / std.clamp_min(n**-0.5)
