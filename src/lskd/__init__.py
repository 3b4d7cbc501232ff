"""lskd: the reference bench for label smoothing and knowledge distillation.

lskd.runs()        every run in ./results as a pandas.DataFrame, all its settings resolved
lskd.load("36e6")  the trained network of a run, with preprocessing and class names
lskd.Run.of(…)     a run from its config.json
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lskd.api import Model, Prediction, load, runs
    from lskd.errors import InputError
    from lskd.run import Run

__version__ = "0.1.0"
__all__ = ["InputError", "Model", "Prediction", "Run", "__version__", "load", "runs"]

# Imported when they are first used: `import lskd` costs nothing.
_PLACES = {"InputError": "errors", "Model": "api", "Prediction": "api", "Run": "run", "load": "api", "runs": "api"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'lskd' has no attribute {name!r}")
    return getattr(importlib.import_module(f"lskd.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
