"""What can be looked at in a network besides its metrics, by name: a figure's points, an estimate along the training.

Adding one: a frozen dataclass with a `look` (see `lskd.observers.observer`), a line below, a test. A table asks for it
with `observe: {name: …}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lskd.observers.mutual_information import MutualInformation
from lskd.observers.observer import Observer, Scene
from lskd.observers.penultimate import Penultimate
from lskd.observers.predictions import Predictions
from lskd.observers.resemblance import Resemblance

__all__ = ["OBSERVERS", "SHIPPED", "Observer", "Scene"]

OBSERVERS: dict[str, Observer] = {
    "penultimate": Penultimate(),
    "mutual_information": MutualInformation(),
    "resemblance": Resemblance(),
    "predictions": Predictions(),
}
SHIPPED: Mapping[str, Observer] = MappingProxyType(dict(OBSERVERS))  # whatever a plug-in puts in their places
