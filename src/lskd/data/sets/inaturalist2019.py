"""iNaturalist 2019 (FGVC6): 1,010 species, 265,213 training images, long-tailed; reported: the 3,030 validation images.

Its test images have no labels. Species are named by the numbers of their categories: the names of the competition's own
files were hidden.
"""

from __future__ import annotations

from lskd.data.dataset import Spec
from lskd.data.readers import Annotated
from lskd.data.registry import register

register(
    Spec(
        name="inaturalist2019",
        title="iNaturalist 2019",
        num_classes=1010,
        shape=(3, 0, 0),
        train=265_213,
        test=3_030,
        class_names=tuple(map(str, range(1010))),
        digest="",  # it is checked by the numbers of its images
    ),
    origin="put train2019.json, val2019.json and train_val2019/ in $LSKD_DATA/inaturalist2019",
)(Annotated({"train": "train2019.json", "test": "val2019.json"}, read="json"))
