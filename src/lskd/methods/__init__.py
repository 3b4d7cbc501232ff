"""The training methods, by name: `METHODS`. A file is called as its method, and its class as the field calls it.

The methods of the CRD benchmark, with its settings, and Overhaul (`ofd`) say what L_feature is in
`feature_method.FeatureMethod`. Modules of their own are in `modules/`.

Adding one: a file here with a frozen dataclass that has a `loss` (see `lskd.methods.method`) under `@register("name")`,
and a test. Files are found by themselves. They import torch where they use it, because every plan imports them.
"""

from __future__ import annotations

from lskd.methods.method import METHODS, Batch, Lesson, Method, Mixture, Pair, Peer, Stage, maps, register
from lskd.quantity import Quantity
from lskd.registry import import_files

__all__ = ["METHODS", "Batch", "Lesson", "Method", "Mixture", "Pair", "Peer", "Quantity", "Stage", "maps", "register"]

import_files(__name__)
METHODS.ship()
