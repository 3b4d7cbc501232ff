"""Training: the loop, the optimizer, the frozen teacher, checkpoints. It knows no method, network or paper by name."""

from lskd.engine.loop import Diverged, Interrupted, Outcome, train

__all__ = ["Diverged", "Interrupted", "Outcome", "train"]
