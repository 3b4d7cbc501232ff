"""Classification of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lskd.data import Part
from lskd.data.images import ImageSource, Normalizer, at_once
from lskd.data.stream import source_of
from lskd.engine.tasks.task import Batches, Forward, Shuffled, Task
from lskd.recipe import Recipe
from lskd.run import Run


@dataclass(frozen=True, eq=False)
class Images(Task):
    """A data set of images, as one recipe sees it. The images of `held_out` are sources, too. true: the labels of the
    training part, where they have been changed."""

    train: ImageSource
    labels: Tensor  # (N,) of the training part
    presenter: Normalizer
    held_out: Mapping[str, Part]
    true: Tensor | None = None

    @staticmethod
    def load(recipe: Recipe, parts: Mapping[str, Part], device: torch.device, decoders: ThreadPoolExecutor) -> Images:
        def move(content: Any) -> Any:
            return None if content is None else content.to(device)

        here = {name: Part(move(one.images), move(one.labels), move(one.true)) for name, one in parts.items()}
        normalizer = Normalizer(recipe.normalize, here["train"].images, device)
        seen = {
            name: part._replace(
                images=source_of(part.images, recipe.augment, device, decoders, trained=name == "train")
            )
            for name, part in here.items()
        }
        for part in seen.values():  # activations are of what the network sees
            part.images.at_once = min(
                part.images.at_once, at_once(device.type, *normalizer.seen(part.images.shape)[1:])
            )
        train = seen.pop("train")
        return Images(train.images, train.labels, normalizer, seen, train.true)

    def batches(self, recipe: Recipe) -> Batches:
        return Shuffled(len(self), recipe.batch_size)

    def labels_of(self, examples: Tensor, inputs: Tensor) -> Tensor:
        return self.labels[examples]

    def outputs(self, part: str, networks: Sequence[Forward]) -> Iterator[tuple[list[Tensor], Tensor]]:
        """All at once."""
        images, labels, _ = self.held_out[part]
        yield [torch.cat([network(pixels) for pixels in images.evaluation()]) for network in networks], labels

    def lessons(self, teacher: Any, drawn: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        begun = 0
        for logits in teacher.everything(drawn):
            yield logits, self.labels[begun : begun + len(logits)]
            begun += len(logits)

    def presenter_of(self, run: Run, taught_on: Any) -> Normalizer:
        """Its own images count unless it was trained with the student's normalisation."""
        assert run.teacher is not None
        normalize = run.teacher.recipe.normalize
        same_images = run.teacher.dataset == run.dataset or normalize.kind != "dataset"
        if normalize == run.recipe.normalize and same_images:
            return self.presenter
        return Normalizer(normalize, taught_on, self.device)

    def example(self, presenter: Normalizer) -> Tensor:
        return torch.zeros(1, *presenter.seen(self.train.shape), device=self.device)

    def scene(self) -> dict[str, Any]:
        sources = {"train": self.train} | {name: part.images for name, part in self.held_out.items()}

        def augmented(indices: Tensor, generator: torch.Generator) -> Tensor:
            drawn = self.train.draw(generator)
            return self.train.take(indices, drawn[indices.cpu()].to(indices.device))

        return {
            "batch": self.train.at_once,  # as in an evaluation
            "labels": {"train": self.labels} | {name: part.labels for name, part in self.held_out.items()},
            "plain": lambda part, indices: sources[part].plain(indices),
            "batches": lambda part, indices: sources[part].plain_batches(indices),
            "augmented": augmented,
            "true": self.true,
        }
