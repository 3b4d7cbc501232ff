"""Training: the loop, the optimizer, the frozen teacher, checkpoints. It knows no method, network or paper by name."""

from lskd.engine.capture import STREAMS, CaptureFailed
from lskd.engine.loop import Diverged, Interrupted, Outcome, train
from lskd.engine.memory import device_bytes, release, run_bytes
from lskd.engine.probing import run_probes
from lskd.engine.shared import Shared

__all__ = [
    "STREAMS", "CaptureFailed", "Diverged", "Interrupted", "Outcome", "Shared", "device_bytes", "release",
    "run_bytes", "run_probes", "train",
]  # fmt: skip
