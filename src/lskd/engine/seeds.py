"""Random streams. Each is named by its purpose, never by the method, so that methods are paired by seed: with one seed
students start from the same weights and see the same images in the same order through the same crops and flips.

No two networks of one lineage share a stream (`Run.stream_seed`), unless the run says so: a student that starts from
its teacher's initial weights, and sees in the same order what it saw, is another experiment.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator

import torch

GLOBAL_GENERATOR = threading.Lock()  # initial weights are drawn from it, and trainings may start side by side


def seed_for(seed: int | str, purpose: str, epoch: int = 0) -> int:
    """A 63-bit seed for one purpose and epoch of a run with `seed`, which is its `stream_seed`.

    Purposes are "init", "shuffle", "augment", "mix" and "dropout", "method" for the weights of its own modules,
    "average" for those at which the averaged network of its target begins, and "initial shuffle", "initial augment" and
    "initial mix" for the stage before the training.

    Streams that are re-seeded every epoch have no state to save: a resumed run draws the epoch again.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator_for(seed: int | str, purpose: str, epoch: int = 0) -> torch.Generator:
    """A CPU generator: what it draws does not depend on the device that trains."""
    return torch.Generator().manual_seed(seed_for(seed, purpose, epoch))


@contextlib.contextmanager
def initial_weights(seed: int | str, purpose: str) -> Iterator[None]:
    """Inside, torch's global CPU generator is that of `purpose`; afterwards, as it was."""
    with GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(seed, purpose))
        yield
