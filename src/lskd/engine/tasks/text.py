"""Sentences: what is common to the tasks whose data are tokens.

Batches are put together on the host, from the ragged arrays of a corpus (`lskd.data.text`), and go to the device one by
one: a batch is a few thousand integers, and its shape, which the host knows, says what a network has to compute.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from lskd.data import Part
from lskd.engine.tasks.task import Batches, Forward, Order, Task
from lskd.run import Run

AT_ONCE = {"cpu": 32, "cuda": 256}  # sentences to evaluate at once


class Sentences:
    """The examples of one part, each of which is seen in one way."""

    views = None  # too few of its outputs come twice to be kept

    def __init__(self, corpus: Any, device: torch.device, assemble: Callable[[Any, np.ndarray], Any]) -> None:
        """`assemble(corpus, rows)` gives what a network is shown of the examples `rows`: a named tuple of tensors."""
        self.corpus, self.device, self._assemble = corpus, device, assemble
        self.at_once = AT_ONCE.get(device.type, AT_ONCE["cuda"])

    def __len__(self) -> int:
        return len(self.corpus)

    def draw(self, generator: Generator) -> Tensor:
        return torch.zeros(len(self), dtype=torch.int64)

    def take(self, indices: Tensor, views: Tensor | None = None) -> Any:
        """What a network is shown of the examples `indices` (B,)."""
        batch = self._assemble(self.corpus, indices.cpu().numpy())
        return type(batch)(*(tensor.to(self.device, non_blocking=True) for tensor in batch))

    plain = take

    def batches(self, indices: Tensor, views: Tensor | None, size: int) -> Iterator[Any]:
        return map(self.take, indices.split(size))

    def evaluation(self) -> Iterator[Any]:
        """All, in their order."""
        return self.batches(torch.arange(len(self)), None, self.at_once)

    def feed(self, size: int, eager: Callable[[], Any]) -> Feed:
        return Feed(self)


class Feed:
    """The batches of one training, as `lskd.data.images.Feed`."""

    def __init__(self, source: Sentences) -> None:
        self._source, self._left, self._batch = source, iter(()), None

    def begin(self, indices: Tensor, views: Tensor, sizes: Sequence[int]) -> None:
        self._left = iter(indices.split(list(sizes)))

    def advance(self) -> None:
        self._batch = self._source.take(next(self._left))

    def take(self, indices: Tensor, views: Tensor) -> Any:
        return self._batch


class Verbatim:
    """Tokens are shown as they are. `counts`: how many of the tensors of a batch are the network's arguments."""

    mean = std = ()

    def __init__(self, counts: int) -> None:
        self._counts = counts

    def arguments(self, inputs: Any) -> tuple[Tensor, ...]:
        return tuple(inputs[: self._counts])


class ByLength:
    """Batches of sequences of like lengths, with as many as fit into `tokens`: those of a batch times its longest
    sequence, padding counted. With two lengths (source and target) the longer of the two counts.

    Sequences are sorted by their lengths, in an order that is drawn for each epoch where lengths are equal, and cut
    into batches; these come in an order of their own. So all epochs have batches of the same shapes.
    """

    def __init__(self, lengths: np.ndarray, tokens: int) -> None:
        """lengths (N, 1 or 2)"""
        self.lengths, self.tokens = lengths.astype(np.int64), tokens
        by_length = self.lengths[self._sorted(np.arange(len(lengths)))]
        self._begins, longest, begun = [0], by_length[0].copy(), 0
        padded = 0
        for number, one in enumerate(by_length):
            both = np.maximum(longest, one)
            if (number + 1 - begun) * both.max() > tokens and number > begun:
                padded += int(longest.sum()) * (number - begun)
                self._begins.append(number)
                begun, both = number, one.copy()
            longest = both
        padded += int(longest.sum()) * (len(by_length) - begun)
        self._begins.append(len(by_length))
        self.sizes = np.diff(self._begins).tolist()
        self.waste = 1.0 - int(self.lengths.sum()) / padded  # the share of padding in what networks are shown

    def _sorted(self, order: np.ndarray) -> np.ndarray:
        """`order`, sorted by the last lengths and, where they are equal, by the first ones."""
        return order[np.lexsort(self.lengths[order].T)]

    def draw(self, generator: Generator) -> Order:
        order = torch.from_numpy(self._sorted(torch.randperm(len(self.lengths), generator=generator).numpy()))
        pieces = order.split(self.sizes)
        chosen = torch.randperm(len(pieces), generator=generator).tolist()
        return Order(torch.cat([pieces[one] for one in chosen]), [self.sizes[one] for one in chosen])


class Text(Task):
    """What tasks on text share. A step is not recorded: each batch has a shape of its own."""

    captures = False
    arguments: ClassVar[int]  # of the tensors of a batch, what the network is called with

    def __init__(self, parts: Mapping[str, Part], device: torch.device) -> None:
        sources = {name: Sentences(part.images, device, self.assemble) for name, part in parts.items()}
        self.train = sources.pop("train")
        self.held_out = {name: parts[name]._replace(images=source) for name, source in sources.items()}
        self.labels = parts["train"].labels.to(device)
        self.presenter = Verbatim(self.arguments)

    @staticmethod
    @abstractmethod
    def assemble(corpus: Any, rows: np.ndarray) -> Any:
        """What a batch has of the examples `rows` of a corpus: a named tuple, with the network's arguments first."""

    def presenter_of(self, run: Run, taught_on: Any) -> Verbatim:
        return self.presenter

    def example(self, presenter: Any) -> Tensor:
        return torch.empty(0, device=self.device)  # whatever asks for features has been refused

    def record(self, batches: Batches) -> dict[str, Any]:
        """Which tokens these are, and how many training pairs were too long, or had no sentence on a side."""
        corpus = self.train.corpus
        tokens = corpus.vocabulary
        return {"vocabulary": {"tokens": len(tokens), "sha256": tokens.digest}, "left_out": corpus.left_out}

    def scene(self) -> dict[str, Any]:
        held_out = {name: part.images.corpus for name, part in self.held_out.items()}
        return {"parts": {"train": self.train.corpus, **held_out}, "device": self.device}

    def _outputs(self, part: str, networks: Sequence[Forward]) -> Iterator[tuple[list[Tensor], Tensor]]:
        begun = 0
        source = self.train if part == "train" else self.held_out[part].images
        for inputs in source.evaluation():
            rows = torch.arange(begun, begun + len(inputs[0]))
            begun += len(rows)
            yield [network(inputs) for network in networks], self.labels_in(part, rows, inputs)

    @abstractmethod
    def labels_in(self, part: str, examples: Tensor, inputs: Any) -> Tensor:
        """`labels_of`, in any part; examples are on the CPU."""

    def outputs(self, part: str, networks: Sequence[Forward]) -> Iterator[tuple[list[Tensor], Tensor]]:
        return self._outputs(part, networks)

    def lessons(self, teacher: Any, drawn: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        seen = 0
        for (logits,), labels in self._outputs("train", [teacher.live]):
            yield logits, labels
            seen += len(labels)
            if self.most_outputs is not None and seen >= self.most_outputs:
                return
