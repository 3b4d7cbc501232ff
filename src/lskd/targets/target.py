"""What a target is: knobs of a paper as fields, and the distribution that each class, or each image, is taught."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lskd.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Target:
    """What a network is taught of an image. Subclasses are frozen dataclasses whose fields, with defaults, are the
    paper's knobs. A method finds it as `Batch.targets`."""

    version: ClassVar[int] = 1  # of the code, as `lskd.methods.method.Method.version`

    def rows(self, classes: int) -> Tensor:
        """(K, K) fp32, on the CPU: what an image of each class is taught. By default the class itself."""
        import torch

        return torch.eye(classes)

    def gamma(self, classes: int) -> float:
        """Müller's γ of `rows` (`equivalent_smoothing`)."""
        import torch

        from lskd.targets.distributions import equivalent_smoothing

        return equivalent_smoothing(self.rows(classes), torch.arange(classes)).double().mean().item()

    @property
    def label(self) -> str | None:
        """How the label of a run speaks of it: "" for not at all. None: by its name, with the settings that are not
        its usual ones."""
        return None


TARGETS: Registry[Target] = Registry("target", Target)
register = TARGETS.register
