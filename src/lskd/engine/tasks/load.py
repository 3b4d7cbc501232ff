"""Which task there is for the data of a run."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch

from lskd.data import Part
from lskd.engine.tasks.images import Images
from lskd.engine.tasks.task import Task
from lskd.recipe import Recipe


def load(recipe: Recipe, parts: Mapping[str, Part], device: torch.device, decoders: ThreadPoolExecutor) -> Task:
    """`parts` ("train", and those held out) on `device`, as `recipe` sees them. `decoders` are for streamed images."""
    return Images.load(recipe, parts, device, decoders)
