"""The data steps that lskd ships, a file each: see `lskd.data.step`. Files are found by themselves; they import NumPy
where they use it, because every plan imports them."""

from __future__ import annotations

from lskd.data.step import STEPS, Step, register
from lskd.registry import import_files

__all__ = ["STEPS", "Step", "register"]

import_files(__name__)
STEPS.ship()
