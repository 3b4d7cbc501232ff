"""What a network is taught of an image: the targets, by name: `TARGETS`. A file is called as its target.

Adding one: a file here with a frozen dataclass (see `lskd.targets.target`) under `@register("name")`, and a test. Files
are found by themselves. They import torch where they use it, because every plan imports them.
"""

from __future__ import annotations

from lskd.registry import import_files
from lskd.targets.target import READS, TARGETS, TAUGHT, Seen, Target, register

__all__ = ["READS", "TARGETS", "TAUGHT", "Seen", "Target", "register"]

import_files(__name__)
TARGETS.ship()
