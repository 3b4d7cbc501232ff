"""scikit-learn's handwritten digits: 8×8 grey, 10 classes, 1,437 training and 360 test images. Bundled: nothing is
downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lskd.data.dataset import Spec
from lskd.data.registry import register

if TYPE_CHECKING:
    from lskd.data.arrays import Arrays

CLASSES = tuple("0123456789")


@register(
    Spec(
        name="digits",
        title="scikit-learn digits",
        num_classes=10,
        shape=(1, 8, 8),
        train=1_437,
        test=360,
        class_names=CLASSES,
        digest="ed448f0c893070213fe5aa201377462417499069b788b7715bd7be25d0678a82",
        class_sizes=(
            (142, 145, 142, 146, 145, 146, 145, 143, 139, 144),
            (36, 37, 35, 37, 36, 36, 36, 36, 35, 36),
        ),
    ),
    recipe="quickstart",
    origin="bundled with scikit-learn",
)
def read(spec: Spec, *, data: Path, download: bool) -> tuple[Arrays, str]:
    """scikit-learn's 1,797 digits, grey values 0 … 16 stretched to 0 … 255."""
    import numpy as np
    from sklearn.datasets import load_digits

    from lskd.data.arrays import Arrays
    from lskd.data.splits import class_balanced

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]  # (1797, 1, 8, 8)
    labels = digits.target.astype(np.int64)
    # scikit-learn ships only the test half of the original data (Optical Recognition of Handwritten Digits, UCI), so
    # there is no official split of these images: a fifth is drawn.
    test, train = class_balanced(labels, 360, seed=0)
    arrays = Arrays(images[train], labels[train], images[test], labels[test], CLASSES)
    return arrays, "scikit-learn's bundled digits"
