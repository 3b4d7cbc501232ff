"""Which task there is for each kind of data (`Spec.kind`)."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch

from lskd.data import Part
from lskd.engine.tasks.images import Images
from lskd.engine.tasks.pairs import Pairs
from lskd.engine.tasks.task import Task
from lskd.engine.tasks.text import Text
from lskd.engine.tasks.translation import Translation
from lskd.recipe import Recipe

TEXT: Mapping[str, type[Text]] = {"translation": Translation, "pairs": Pairs}


def load(recipe: Recipe, parts: Mapping[str, Part], device: torch.device, decoders: ThreadPoolExecutor) -> Task:
    """`parts` ("train", and those held out) on `device`, as `recipe` sees them. `decoders` are for streamed images."""
    kind = getattr(parts["train"].images, "kind", "images")
    if kind in TEXT:
        return TEXT[kind](parts, device)
    return Images.load(recipe, parts, device, decoders)
