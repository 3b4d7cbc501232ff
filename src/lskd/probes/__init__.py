"""What can be looked at in a network besides its metrics, by name: a figure's points, an estimate along the training.

Adding one: a frozen dataclass with a `measure` (see `lskd.probes.probe`), a line below, a test. A table asks for it
with `probe: {name: …}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lskd.probes.mutual_information import MutualInformation
from lskd.probes.penultimate import Penultimate
from lskd.probes.predictions import Predictions
from lskd.probes.probe import Probe, Scene
from lskd.probes.resemblance import Resemblance

__all__ = ["PROBES", "SHIPPED", "Probe", "Scene"]

PROBES: dict[str, Probe] = {
    "penultimate": Penultimate(),
    "mutual_information": MutualInformation(),
    "resemblance": Resemblance(),
    "predictions": Predictions(),
}
SHIPPED: Mapping[str, Probe] = MappingProxyType(dict(PROBES))  # whatever a plug-in puts in their places
