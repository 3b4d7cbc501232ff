"""What a task is: the data of a run on their device, and all that a training asks of them.

The loop knows no task by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn

from lskd.data import Part
from lskd.recipe import Recipe
from lskd.run import Run

# Of one network in evaluation: what it is shown -> fp32 logits (n, K).
Forward = Callable[[Any], Tensor]


class Order(NamedTuple):
    """The batches of an epoch: examples (N,) int64 on the CPU, in their order, and how many of them each batch has."""

    examples: Tensor
    sizes: Sequence[int]


class Batches(Protocol):
    """How the examples of a training part come together in batches. Each epoch has as many batches, of the same sizes,
    in an order of its own."""

    @property
    def sizes(self) -> Sequence[int]:
        """Of all batches of an epoch, in no particular order."""
        ...

    def draw(self, generator: Generator) -> Order:
        """The batches of an epoch. Drawn on the CPU: the same everywhere."""
        ...


class Shuffled:
    """Batches of equal sizes in a random order; the last one of an epoch has what remains."""

    def __init__(self, examples: int, batch_size: int) -> None:
        self.examples = examples
        whole, rest = divmod(examples, batch_size)
        self.sizes = [batch_size] * whole + ([rest] if rest else [])

    def draw(self, generator: Generator) -> Order:
        return Order(torch.randperm(self.examples, generator=generator), self.sizes)


class Presenter(Protocol):
    """How a network is shown what a batch has: of images, `lskd.data.images.Normalizer`."""

    def arguments(self, inputs: Any) -> tuple[Any, ...]:
        """What the network is called with."""
        ...


class Source(Protocol):
    """The examples of the training part, each through numbered views (`lskd.data.images.ImageSource`)."""

    device: torch.device
    views: int | None  # of each example; None: nothing can be kept for each

    def __len__(self) -> int: ...

    def draw(self, generator: Generator) -> Tensor: ...

    def feed(self, size: int, eager: Callable[[], Any]) -> Any: ...


class Task(ABC):
    """The examples of a run's data, on their device, and what counts of a network's outputs for them.

    train: the examples that are trained on. held_out: the parts for evaluations, in their order. presenter: how the
    run's network is shown them. labels: of the training examples, (N,), where each has one.
    """

    captures: ClassVar[bool] = True  # whether all batches of a size have one shape, so that a step can be recorded

    train: Any
    held_out: Mapping[str, Part]
    presenter: Any
    labels: Tensor

    @property
    def device(self) -> torch.device:
        return self.train.device

    def __len__(self) -> int:
        """Training examples."""
        return len(self.train)

    # ---- training -------------------------------------------------------------------------------------------------

    @abstractmethod
    def batches(self, recipe: Recipe) -> Batches:
        """How the training examples come together."""

    @abstractmethod
    def labels_of(self, examples: Tensor, inputs: Any) -> Tensor:
        """The label (n,) of each of a network's outputs for `inputs`, which show the training examples `examples`."""

    # ---- evaluation -----------------------------------------------------------------------------------------------

    # Outputs that calibration is reckoned of, and whatever needs all of them at once; None: all that there are.
    most_outputs: ClassVar[int | None] = None

    @abstractmethod
    def outputs(self, part: str, networks: Sequence[Forward]) -> Iterator[tuple[list[Tensor], Tensor]]:
        """What each of `networks` says of a held-out part, (n, K), and the labels (n,), piece by piece."""

    @abstractmethod
    def lessons(self, teacher: Any, drawn: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """A teacher's logits (n, K) of training examples through the views `drawn` (N,), and their labels (n,), piece
        by piece: of all, or of the first `most_outputs`."""

    # ---- other networks -------------------------------------------------------------------------------------------

    @abstractmethod
    def presenter_of(self, run: Run, taught_on: Any) -> Any:
        """How the teacher of `run` is shown the examples; `taught_on` are those that it was trained on."""

    @abstractmethod
    def example(self, presenter: Any) -> Tensor:
        """What a network that is shown examples like this is called with, of one of them and without its content: for
        the shapes of its features."""

    # ---- what is told of it ---------------------------------------------------------------------------------------

    @abstractmethod
    def scene(self) -> dict[str, Any]:
        """What probes may see of it: fields of `lskd.probes.Scene`."""

    def record(self, batches: Batches) -> dict[str, Any]:
        """What the record of a run says of its training examples, beside their number, and of their batches."""
        return {}


def forward(network: Callable[..., Tensor], inputs: Any, presenter: Presenter, precision: str) -> Tensor:
    """What `network` says to `inputs`, in fp32: (n, K)."""
    arguments = presenter.arguments(inputs)
    with torch.autocast(arguments[0].device.type, torch.bfloat16, enabled=precision == "bf16"):
        return network(*arguments).float()


def forward_of(network: nn.Module, presenter: Presenter, precision: str) -> Forward:
    """`network` in evaluation. It is put into eval mode."""
    network.eval()
    return torch.no_grad()(lambda inputs: forward(network, inputs, presenter, precision))
