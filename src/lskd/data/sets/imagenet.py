"""ImageNet (ILSVRC 2012): 1000 classes, 1,281,167 training images; reported: the 50,000 of the official validation set.

Its files stay in LSKD_DATA/imagenet/{train,val}/<class>/*.JPEG and are decoded while a network trains.
"""

from __future__ import annotations

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
    origin="put it, or a link to it, at $LSKD_DATA/imagenet: train/<class>/*.JPEG and val/<class>/*.JPEG",
)(ImageFolders(FOLDERS, test="val"))
