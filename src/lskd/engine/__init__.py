"""Training: the loop, the optimizer, the frozen teacher, checkpoints. It knows no method, network or paper by name."""

from lskd.engine.loop import Diverged, Interrupted, Outcome, train
from lskd.engine.memory import device_bytes, run_bytes
from lskd.engine.observing import observe
from lskd.engine.shared import Shared

__all__ = ["Diverged", "Interrupted", "Outcome", "Shared", "device_bytes", "observe", "run_bytes", "train"]
