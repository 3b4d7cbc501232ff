"""The training methods, by name. One small file a method or family; `METHODS` is the whole registry.

Adding one: a frozen dataclass with a `loss` (see `lskd.methods.method`), a line below, conf/method/NAME.yaml, a test.
"""

from __future__ import annotations

from lskd.methods.cross_entropy import CrossEntropy
from lskd.methods.distillation import Distillation
from lskd.methods.logit_matching import LogitMatching
from lskd.methods.method import Batch, Method, Pair, Stage, maps

__all__ = ["METHODS", "Batch", "Method", "Pair", "Stage", "maps"]

METHODS: dict[str, Method] = {
    "ce": CrossEntropy(),
    "kd": Distillation(),
    "logit_matching": LogitMatching(),
}
