"""Networks whose training step is compiled (`Recipe.compile`)."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

BACKEND = "inductor"
# Torch's own limit, of 8 for all networks of a class together, would end a sweep over widths and batch sizes.
KINDS = 64


def compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """What `network` computes, compiled for each shape of its input at the first call with it, the backward pass too.

    The network is compiled whole, or an error says what of it cannot be: falling back on parts that are not compiled
    would be slow, and not be seen. It keeps its weights and buffers, and may be called beside as it is.
    """
    import torch._dynamo

    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, KINDS)
    return torch.compile(network, fullgraph=True, dynamic=False, backend=BACKEND)


def missing_compiler() -> str | None:
    """What `compiled` would miss on this machine."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")  # as torch chooses it
    header = Path(sysconfig.get_path("include"), "Python.h")
    if shutil.which(compiler) is None:
        return f"{compiler!r} (CXX names another)"
    return None if header.is_file() else str(header)
