"""Tasks: what a network is trained to do with a kind of data."""

from lskd.engine.tasks.images import Images
from lskd.engine.tasks.load import load
from lskd.engine.tasks.task import Batches, Forward, Order, Presenter, Shuffled, Source, Task, forward, forward_of

__all__ = [
    "Batches",
    "Forward",
    "Images",
    "Order",
    "Presenter",
    "Shuffled",
    "Source",
    "Task",
    "forward",
    "forward_of",
    "load",
]
