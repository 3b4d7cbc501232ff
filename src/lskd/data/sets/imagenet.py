"""ImageNet (ILSVRC 2012): 1000 classes, 1,281,167 training images; reported: the 50,000 of the official validation set.

Its files stay in LSKD_DATA/imagenet/{train,val}/<class>/*.JPEG, or in shards as they come from the hub, tar or parquet,
and are decoded while a network trains. Labels and order are the same, so that a run is the same from either.
"""

from __future__ import annotations

import re
from pathlib import Path

from lskd.data.dataset import Spec
from lskd.data.readers import ImageFolders
from lskd.data.registry import register

# A line a class: the name of its folder (WordNet's number of a synset), and the name by which torchvision calls it.
FOLDERS, CLASSES = zip(
    *(
        line.split(maxsplit=1)
        for line in Path(__file__).with_name("imagenet.txt").read_text(encoding="utf-8").splitlines()
    ),
    strict=True,
)


def shard_name(stem: str) -> str:
    """n01440764_10026 and ILSVRC2012_val_00000293, after which some shards name the class again."""
    return re.sub(r"_n\d{8}$", "", stem)


register(
    Spec(
        name="imagenet",
        title="ImageNet (ILSVRC 2012)",
        num_classes=1000,
        shape=(3, 0, 0),
        train=1_281_167,
        test=50_000,
        class_names=CLASSES,
        digest="",  # it is checked by its folders' names and the numbers of files
    ),
    recipe="standard_streamed",
    origin="put it, or a link to it, at $LSKD_DATA/imagenet: train/<class>/*.JPEG and val/<class>/*.JPEG, or "
    "tar or parquet shards (*train*, *validation*)",
)(ImageFolders(FOLDERS, test="val", shard_name=shard_name))
