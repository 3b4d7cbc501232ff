"""What a network in training is taught of the images of a batch, by the target of its run."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Generator, Tensor, nn

from lskd.engine.average import Average
from lskd.losses import entropy
from lskd.methods import Mixture
from lskd.targets import Seen, Target
from lskd.targets.distributions import equivalent_smoothing

TABLE = 2048  # classes whose rows are looked up


class Targets:
    """The targets of one network, which have what they say they read (`Target.reads`): of most a table looked up by
    label is all that is needed. `enter` comes before all else, and again at the end of a stage before the training
    proper, in which labels alone are taught.

    average: what the averaged network is kept by, where the target reads one; `network`: that network.
    """

    def __init__(
        self,
        target: Target,
        classes: int,
        generator: Generator,
        forward: Callable[[nn.Module, Tensor], Tensor],
        build: Callable[[], nn.Module],
    ) -> None:
        """`generator` is the run's own. `forward` gives the logits of a network for pixels; `build` a network like the
        one that is trained, from initial weights of its own."""
        self.target, self.generator, self._forward, self._build = target, generator, forward, build
        self.classes = classes
        # (K, K); of a vocabulary of thousands it would take more memory than all else.
        self.rows = self._made(torch.arange(classes, device=generator.device)) if classes <= TABLE else None

    def enter(self, network: nn.Module | None) -> None:
        """Teach from now on what the target says of `network`, in training from now on; or (None) of labels alone."""
        self._reads: Collection[str] = () if network is None else self.target.reads
        self.average = None
        if network is not None and "average" in self._reads:
            self.average = Average(network, self.target.average_decay, into=self._build())

    @property
    def network(self) -> nn.Module | None:
        return None if self.average is None else self.average.network

    def _rows_of(self, labels: Tensor) -> Tensor:
        return self._made(labels) if self.rows is None else self.rows[labels]

    def _made(self, labels: Tensor) -> Tensor:
        return self.target.rows(labels, self.classes)

    def __call__(
        self, labels: Tensor, mixture: Mixture | None, pixels: Tensor, logits: Tensor, progress: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the images are taught, (B, K), and what is to be logged of it, by name, each (B,).

        labels (B,), of mixed images those of one of the two; logits (B, K) the network's, with their gradient;
        progress () the share of the training done.
        """
        rows = self._rows_of(labels)
        if mixture is not None:
            rows = mixture.share * rows + (1.0 - mixture.share) * self._rows_of(mixture.labels)
        if not self._reads:
            return rows, {}
        seen = Seen(rows, self.generator)
        if "labels" in self._reads:
            seen.labels = labels
        if "outputs" in self._reads:
            seen.outputs = logits
        if "progress" in self._reads:
            seen.progress = progress
        if self.average is not None:
            with torch.no_grad():
                seen.average = self._forward(self.average.network, pixels)
        targets = self.target.teach(seen)
        with torch.no_grad():
            told = {"target_gamma": equivalent_smoothing(targets, labels)}
            if mixture is not None:
                others = equivalent_smoothing(targets, mixture.labels)
                told["target_gamma"] = mixture.share * told["target_gamma"] + (1.0 - mixture.share) * others
            if self.target.distribution:
                told["target_entropy"] = entropy(targets)
            return targets, told | dict(self.target.watch(seen))
