"""The data sets that lskd ships, a file each: what they are, with the digest of the original data, so that `prepare`
checks every pixel and label, whatever the source. Files are found by themselves; they import NumPy where they use it.
"""

from __future__ import annotations

from lskd.data.registry import DATASETS
from lskd.registry import import_files

import_files(__name__)
DATASETS.ship()
