"""Some of the classes of a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lskd.data.dataset import check_seed
from lskd.data.step import Step, register
from lskd.errors import InputError, unknown

if TYPE_CHECKING:
    import numpy as np

    from lskd.data.dataset import Spec


@register("classes")
@dataclass(frozen=True)
class Classes(Step):
    """Only the images of some classes, in all parts, numbered anew. One of three says which:

    first: the first n, as the data set numbers them.
    names: these, in this order, which is that of the network's outputs.
    draw: n that are drawn with `seed`, in the order of the data set.
    """

    changes: ClassVar[Literal["classes", "images", "labels"]] = "classes"

    first: int = 0
    names: tuple[str, ...] = ()
    draw: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("first", "draw"):
            count = getattr(self, field)
            if count < 0 or count == 1:
                raise InputError(f"{field} = {count}: must be >= 2, or left out")
        if len(set(self.names)) < len(self.names) or len(self.names) == 1:
            raise InputError(f"names = {list(self.names)}: must be 2 or more different classes")
        if sum(map(bool, (self.first, self.names, self.draw))) > 1:
            raise InputError("first, names, draw: give one of them")
        check_seed(self, needed=not (self.first or self.names), by="draw")

    def check(self, spec: Spec) -> None:
        if not (self.first or self.names or self.draw):
            raise InputError("first, names, draw: give one of them, such as first: 10")
        for field in ("first", "draw"):
            if (count := getattr(self, field)) > spec.num_classes:
                raise InputError(f"{field} = {count}: must be <= {spec.num_classes}, the classes of {spec.name}")
        for i, given in enumerate(self.names):
            if given not in spec.class_names:
                raise unknown(f"names[{i}]", given, spec.class_names)

    def numbers(self, spec: Spec) -> list[int]:
        """The classes that stay, by their numbers in `spec`, in their new order."""
        if self.names:
            return [spec.class_names.index(name) for name in self.names]
        if self.draw:
            from lskd.data.splits import stream

            drawn = stream(self.seed, "classes").permutation(spec.num_classes)[: self.draw]
            return sorted(int(number) for number in drawn)
        return list(range(self.first))

    def describe(self, spec: Spec) -> Spec:
        numbers = self.numbers(spec)
        names = tuple(spec.class_names[number] for number in numbers)
        sizes = {part: [spec.sizes(part)[number] for number in numbers] for part in spec.parts}
        return replace(spec.having(**sizes), num_classes=len(numbers), class_names=names)

    def apply(self, images: Any, labels: np.ndarray, spec: Spec) -> tuple[Any, np.ndarray]:
        import numpy as np

        anew = np.full(spec.num_classes, -1, dtype=np.int64)
        anew[self.numbers(spec)] = np.arange(len(self.numbers(spec)))
        rows = np.flatnonzero(anew[labels] >= 0)
        return images[rows], anew[labels[rows]]

    def __str__(self) -> str:
        if self.names:
            return f"{', '.join(self.names[:-1])} and {self.names[-1]}" if len(self.names) < 4 else (
                f"{len(self.names)} classes from {self.names[0]} to {self.names[-1]}")  # fmt: skip
        return f"first {self.first} classes" if self.first else f"{self.draw} classes drawn by seed {self.seed}"
