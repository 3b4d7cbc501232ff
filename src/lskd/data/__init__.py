"""Data sets: what they are, where they come from, and how their images, or sentences, reach a run.

Importing this package is cheap: NumPy, torch and the readers of file formats are imported where they are needed.

Data sets are decoded once into `<cache>/data/<name>/` (see `lskd.data.cache`) and read from there afterwards. In every
function `cache` is the root, usually `default_cache_root()`, and `data` is the folder with downloaded files, usually
`default_data_root()`.

Adding one: a file in `sets/` that registers its `Spec` with a reader, and a test.
"""

from __future__ import annotations

from lskd.data import sets, steps  # noqa: F401  (they register what is shipped)
from lskd.data.dataset import MAX_SEED, Dataset, EvaluationSet, Part, Spec, balance, sizes, summary
from lskd.data.library import import_folder, load, prepare, tokenize, verify
from lskd.data.registry import (
    DATASETS,
    Origin,
    Reader,
    check,
    how_to_get,
    imported,
    is_shipped,
    register,
    spec,
    spec_of,
    with_class_sizes,
)
from lskd.data.roots import default_cache_root, default_data_root, makeshift_cache_root
from lskd.data.selection import described
from lskd.data.step import STEPS, Step
from lskd.data.text import Text

__all__ = [
    "DATASETS",
    "MAX_SEED",
    "STEPS",
    "Dataset",
    "EvaluationSet",
    "Origin",
    "Part",
    "Reader",
    "Spec",
    "Step",
    "Text",
    "balance",
    "check",
    "default_cache_root",
    "default_data_root",
    "described",
    "how_to_get",
    "import_folder",
    "imported",
    "is_shipped",
    "load",
    "makeshift_cache_root",
    "prepare",
    "register",
    "sizes",
    "spec",
    "spec_of",
    "summary",
    "tokenize",
    "verify",
    "with_class_sizes",
]
