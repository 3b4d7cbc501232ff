"""What a probe is: settings as fields, and a measurement of a network that changes nothing of its training."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from lskd.errors import InputError, unknown
from lskd.quantity import Quantity
from lskd.registry import Registry

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from lskd.data import Spec


def no_images(*asked: Any) -> Any:
    raise TypeError("the data are no images")


@dataclass(frozen=True)
class Scene:
    """A network at one step of its training, in eval mode, and the data it may be shown, images or text."""

    network: nn.Module
    # uint8 (B, C, H, W) -> fp32 logits (B, K), as the recipe computes them; of text, what its task shows a network.
    forward: Callable[[Any], Tensor]
    # Of a held-out part, logits (n, K) and labels (n,), piece by piece: of images in their order, of text every token.
    outputs: Callable[[str], Iterator[tuple[Tensor, Tensor]]]
    evaluated: str  # the part that the run is measured on
    class_names: tuple[str, ...]
    generator: torch.Generator  # on the CPU; a stream of its own for each run and step
    # ---- images
    batch: int = 0  # images to show at once
    labels: Mapping[str, Tensor] = field(default_factory=dict)  # of each part, (N,)
    plain: Callable[[str, Tensor], Tensor] = no_images  # (part, indices) -> pixels as in an evaluation
    # The same of many images, `batch` at a time; of streamed data the next ones are decoded meanwhile. Each batch is
    # valid until the next.
    batches: Callable[[str, Tensor], Iterator[Tensor]] = no_images
    # Indices of training images -> pixels through random views.
    augmented: Callable[[Tensor, torch.Generator], Tensor] = no_images
    # ---- text: the corpus of each part
    parts: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device | None = None
    # ---- both
    teacher: Callable[[Tensor], Tensor] | None = None  # as `forward`, of the run's teacher in eval mode
    # Of the teacher's logits (B, K), the distribution that the run's method makes of them (`Method.teacher_probs`).
    told: Callable[[Tensor], Tensor | None] = lambda teacher_logits: None
    true: Tensor | None = None  # (N,): labels of the training images before a step changed them; None: none did


class Seen(NamedTuple):
    """The last reading of a run, to be drawn."""

    label: str  # of the run's cell
    seed: int
    reading: Mapping[str, Any]  # by part
    outputs: str = "images"  # what the network says something of, in the plural


@dataclass(frozen=True)
class Probe:
    """Subclasses are frozen dataclasses whose fields, with defaults, say what is looked at.

    No probe is a part of a run's identity: it draws no random numbers of the training and changes no state.
    every: steps between two readings, from the untrained network on; 0 = one reading, of the trained network. There is
    always one after the last step.
    """

    version: ClassVar[int] = 1  # of the code, as `lskd.methods.method.Method.version`
    # The numbers that a reading gives, by the name that a table's metric has.
    gives: ClassVar[Mapping[str, Quantity]] = {}
    needs_teacher: ClassVar[bool] = False  # whether `measure` shows images to the teacher, too
    needs_told: ClassVar[bool] = False  # whether it asks for `Scene.told`
    needs_noise: ClassVar[bool] = False  # whether it asks for `scene.true`: labels must have been changed (`noise`)
    lines: ClassVar[tuple[str, ...]] = ()  # of what is recorded, lists of lines of text that hold numbers
    texts: ClassVar[tuple[str, ...]] = ()  # of what is recorded, what is text
    pictures: ClassVar[tuple[str, ...]] = ()  # which of them `draw` makes; a table asks for one as its `diagram`
    kinds: ClassVar[Collection[str]] = ("images",)  # of data that it can look at (`Spec.kind`)
    packages: ClassVar[Mapping[str, str]] = {}  # that `measure` imports, by name: the extra of lskd that has each
    # Whether a run's numbers follow from readings of all runs of its cell (`numbers`).
    over_runs: ClassVar[bool] = False

    every: int = 0

    def check(self, spec: Spec) -> None:
        """`InputError` unless there is in the data what these settings ask for."""

    def measure(self, scene: Scene) -> dict[str, Any]:
        """{part: {name: number, or nested lists of them}}, ready for JSON; and perhaps, as "files", {name: text} of
        files that shall stand beside the weights: of the last reading, and not part of the record."""
        raise TypeError(f"{type(self).__name__} does not define measure(scene)")

    def numbers(self, name: str, readings: Sequence[Mapping[str, Any]]) -> list[float]:
        """(over_runs) The number `name` of each run of a cell, from what was seen of a part of all of them."""
        raise TypeError(f"{type(self).__name__} does not define numbers(name, readings)")

    def draw(self, picture: str, figure: Figure, seen: Sequence[Seen]) -> str:
        """(pictures) Draw the picture of that name on an empty `figure` of the width that it has, and set its height
        (see `panels`). What is shown, in words: they stand below the picture, or in its caption in a paper.

        Colours are those of the style: "C0", "C1", ...; sizes of letters, too: "medium", "small".
        """
        raise TypeError(f"{type(self).__name__} does not define draw(picture, figure, seen)")


PROBES: Registry[Probe] = Registry("probe", Probe)
register = PROBES.register


def check_classes(name: str, classes: tuple[str, ...], spec: Spec) -> None:
    """`InputError` unless `classes` are different classes of the data."""
    for given in classes:
        if given not in spec.class_names:
            raise unknown(name, given, spec.class_names)
    if len(set(classes)) < len(classes):
        raise InputError(f"{name} = {list(classes)}: must be different classes of {spec.name}")


def members(labels: Tensor, number: int, most: int) -> Tensor:
    """Indices of the first `most` examples of class `number`; of all where there are fewer."""
    return (labels == number).nonzero().squeeze(1)[:most]


def by_class(scene: Scene, part: str, see: Callable[[Tensor], Tensor]) -> Iterator[tuple[int, Tensor]]:
    """(class, (n, D) fp64): what `see`, of pixels, gives for all images of a part as in an evaluation, class by class;
    classes without images are left out.

    Images are shown once, in the order of their classes, so that no more is held than a class and a batch: what is
    computed of a class needs no running sums, in which small differences of large numbers would be lost.
    """
    import torch

    labels = scene.labels[part]
    sizes = labels.bincount(minlength=len(scene.class_names)).tolist()
    left = iter([(number, size) for number, size in enumerate(sizes) if size])
    number, size = next(left, (0, 0))
    held: list[Tensor] = []
    count = 0
    for pixels in scene.batches(part, labels.argsort(stable=True)):
        held.append(see(pixels).double())
        count += len(pixels)
        while size and count >= size:
            rows = torch.cat(held)
            yield number, rows[:size]
            held, count = [rows[size:]], count - size
            number, size = next(left, (0, 0))


def panels(figure: Figure, count: int, together: int = 1) -> list[Axes]:
    """Square axes for a probe's picture, in rows that fill the width of `figure`, whose height is set: as many in a row
    as have room for a title of two words a line, and those that belong `together` in one."""
    from matplotlib import rcParams

    letter = float(rcParams["font.size"]) / 72
    most = max(1, int(figure.get_figwidth() / (13 * letter * together)))  # groups in a row
    groups = math.ceil(count / together)
    rows = math.ceil(groups / most)
    across = together * math.ceil(groups / rows)
    # A little too low for what stands around them: axes that have to shrink in height are arranged badly.
    figure.set_figheight(rows * (figure.get_figwidth() / across + 2 * letter))
    grid = figure.subplots(rows, across, squeeze=False)
    for empty in grid.flat[count:]:
        empty.set_axis_off()
    return list(grid.flat[:count])
