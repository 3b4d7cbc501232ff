"""iMaterialist 2019, product recognition (FGVC6): 2,019 classes without names, 1,011,532 noisy training images from the
web; reported: the 10,095 validation images, which were cleaned by hand. The test images have no labels.
"""

from __future__ import annotations

from lskd.data.dataset import Spec
from lskd.data.readers import Annotated
from lskd.data.registry import register

register(
    Spec(
        name="imaterialist",
        title="iMaterialist 2019 (products)",
        num_classes=2019,
        shape=(3, 0, 0),
        train=1_011_532,
        test=10_095,
        class_names=tuple(map(str, range(2019))),
        digest="",  # it is checked by the numbers of its images
    ),
    origin="put train.json, val.json, and the images as train/ID.jpg and val/ID.jpg, in $LSKD_DATA/imaterialist",
)(
    Annotated(
        {"train": "train.json", "test": "val.json"},
        read="json",
        images={"train": "train", "test": "val"},
        suffix=".jpg",
    )
)
