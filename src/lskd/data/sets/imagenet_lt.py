"""ImageNet-LT (Liu et al. 2019): 115,846 of ImageNet's training images, from 1,280 of a class down to 5; 1000 classes.

Validation: 20,000 others of ImageNet's training images, 20 of each class. Reported: the 50,000 of ImageNet's official
validation set. The images are those of LSKD_DATA/imagenet, of class folders: nothing is copied.
"""

from __future__ import annotations

from lskd.data.dataset import Spec
from lskd.data.readers import Annotated
from lskd.data.registry import register
from lskd.data.sets.imagenet import CLASSES

register(
    Spec(
        name="imagenet_lt",
        title="ImageNet-LT (Liu et al. 2019)",
        num_classes=1000,
        shape=(3, 0, 0),
        train=115_846,
        test=50_000,
        validation=20_000,
        class_names=CLASSES,
        digest="",  # it is checked by the digests of its lists
    ),
    origin="put ImageNet_LT_{train,val,test}.txt in $LSKD_DATA/imagenet_lt, and the images in $LSKD_DATA/imagenet",
)(
    Annotated(
        {"train": "ImageNet_LT_train.txt", "test": "ImageNet_LT_test.txt", "validation": "ImageNet_LT_val.txt"},
        images="../imagenet",
        digests={
            "train": ("efdbdad4f050237c310b2f354cf95a8b1d7c8d57a63c4ea4bb6bf2bcb012f37f",),
            "test": ("d1590191cf8a71fada7b1aaedaa2d139a2aea93ff2f1b755319d0bd8dbaa55d5",),
            "validation": ("9af7ba688acf9532ff5845a8fb14a1e97fdc4c51ac48bc72c08ea9c3f7ff142e",),
        },
    )
)
