"""lskd: the reference bench for label smoothing and knowledge distillation."""

__version__ = "0.1.0"
