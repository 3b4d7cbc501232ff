"""What is done to a data set before a network learns from it, step by step: `Dataset.steps`.

A step is a frozen dataclass under `@register("name")` in `steps/`, or in a plug-in. It says twice what it does: of the
`Spec` (`describe`), for the plan, and of images and labels (`apply`). The numbers of images of each class that the two
come to are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lskd import entries
from lskd.errors import InputError, unknown
from lskd.registry import Registry
from lskd.schema import identity, parse, show

if TYPE_CHECKING:
    import numpy as np

    from lskd.data.dataset import Spec

# What steps change, in the order in which they must stand. What changes the classes changes them in all parts, before
# anything is held out or left out; all else changes only the images to train on, which are left after that.
ORDER = ("classes", "images", "labels")


@dataclass(frozen=True)
class Step:
    """Subclasses are frozen dataclasses whose fields, with defaults, are its settings."""

    version: ClassVar[int] = 1  # of the code, as `lskd.methods.method.Method.version`
    changes: ClassVar[Literal["classes", "images", "labels"]] = "images"

    def check(self, spec: Spec) -> None:
        """`InputError` unless this can be done to the data set `spec`."""

    def describe(self, spec: Spec) -> Spec:
        """What the data set `spec` becomes: its classes, and the images of each (`Spec.having`)."""
        return spec

    def apply(self, images: Any, labels: np.ndarray, spec: Spec) -> tuple[Any, np.ndarray]:
        """What the images and labels (N,) of a part become: of every part, if classes change, else of the training
        part. `images[rows]` are others of them; `spec` is what the data set was before. What is drawn must be the same
        on every machine (`lskd.data.splits.stream`)."""
        return images, labels

    def __str__(self) -> str:
        """In a few words, for the label of a run."""
        return self.name.replace("_", " ")

    # ---- as a setting: {name: {settings}} -------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return next(name for name, entry in STEPS.items() if type(entry) is type(self))

    @staticmethod
    def of_setting(value: Any, path: str) -> Step:
        """The step that a user asks for."""
        if not isinstance(value, Mapping) or len(value) != 1:
            rule = f"a mapping with one key, {', '.join(STEPS)}: {{classes: {{first: 10}}}}"
            raise InputError(f"{path} = {show(value)}: must be {rule}")
        [(name, settings)] = value.items()
        if name not in STEPS:
            raise unknown(path, name, STEPS)
        return parse(type(STEPS[name]), settings, f"{path}.{name}", defaults=STEPS[name])

    def described(self) -> dict[str, Any]:
        """What counts in the identity of a run."""
        return {self.name: entries.described(self.name, self, STEPS)}

    def as_setting(self) -> dict[str, Any]:
        """As a user writes it: all settings that are not at their defaults, be they part of an identity or not."""
        return {self.name: identity(self, STEPS[self.name], everything=True)}


STEPS: Registry[Step] = Registry("data step", Step)
register = STEPS.register
