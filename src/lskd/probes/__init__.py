"""What can be looked at in a network besides its metrics, by name: a figure's points, an estimate along the training.

Adding one: a file here with a frozen dataclass that has a `measure` (see `lskd.probes.probe`) under
`@register("name")` and, if there is something to see, a picture; and a test. A table asks for it with
`probe: {name: …}`, and for its picture with `diagram: …`.
"""

from __future__ import annotations

from lskd.probes.probe import PROBES, Probe, Scene, Seen, register
from lskd.quantity import Quantity
from lskd.registry import import_files

__all__ = ["PROBES", "Probe", "Quantity", "Scene", "Seen", "register"]

import_files(__name__)
PROBES.ship()
