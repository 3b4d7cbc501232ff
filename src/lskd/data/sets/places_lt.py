"""Places-LT (Liu et al. 2019, the lists of 2020): 62,500 training images of Places365, from 4,980 of a class down to 5.

Validation: 7,300 others, 20 of each of the 365 classes. Reported: the 36,500 of Places365's validation set. The lists
are about with three spellings of the same images: `data_256/a/airfield/…` (the original), `train/airfield/…`, and
`places365_standard/train/airfield/…`. Their paths start from LSKD_DATA/places365.
"""

from __future__ import annotations

from pathlib import Path

from lskd.data.dataset import Spec
from lskd.data.readers import Annotated
from lskd.data.registry import register

# In the order of the lists' labels, which is not quite that of categories_places365.txt.
CLASSES = tuple(Path(__file__).with_name("places_lt.txt").read_text(encoding="utf-8").split())

READER = Annotated(
    {"train": "Places_LT_train.txt", "test": "Places_LT_test.txt", "validation": "Places_LT_val.txt"},
    images="../places365",
    digests={
        "train": (
            "09410632a22045212fb3231623261e8426ba8dc1887a2b633afeab78ba9c8868",
            "726c4871dcbf07ce2f857703bfe32e9a83ffbf52d704239f6d95c4f4f4c247f7",
            "f209ade1f5929f1872804748a52ab11766fd8c2ec8cb0d011a6e2a8ee36fc1ae",
        ),
        "test": (
            "3c34622e44f036b17c7926b0b6bbdd3d335fa63077409ebb06da68afa7073cd9",
            "44eee8441c8098c59195465abede425721bc35525d75209f9433b161a6eb37bc",
        ),
        "validation": (
            "09cf0e5abf684f946f60b6bf9c526a5ee85d09f555d2c4b9cfaaf22b19d04974",
            "719e3cf3766c09134ea28f56f1036c78def511ac1ed2c2532a6beef78f2439ba",
            "9f7b58d59c05cfaa03d50d749e9ecaef99405ed7c536fd09e92243818a4609a9",
        ),
    },
)

register(
    Spec(
        name="places_lt",
        title="Places-LT (Liu et al. 2019)",
        num_classes=365,
        shape=(3, 0, 0),
        train=62_500,
        test=36_500,
        validation=7_300,
        class_names=CLASSES,
        digest="",  # it is checked by the digests of its lists
    ),
    origin="put Places_LT_{train,val,test}.txt in $LSKD_DATA/places_lt, and the images in $LSKD_DATA/places365",
)(READER)
