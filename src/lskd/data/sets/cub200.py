"""CUB-200-2011 (Wah et al. 2011): 200 species of birds, 5,994 training and 5,794 test images, split by its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lskd.data.dataset import Spec
from lskd.data.readers import check_is_there
from lskd.data.registry import register
from lskd.errors import InputError

if TYPE_CHECKING:
    from lskd.data.index import Index

CLASSES = tuple(Path(__file__).with_name("cub200.txt").read_text(encoding="utf-8").split())
TABLES = ("images.txt", "image_class_labels.txt", "train_test_split.txt")


@register(
    Spec(
        name="cub200",
        title="CUB-200-2011",
        num_classes=200,
        shape=(3, 0, 0),
        train=5_994,
        test=5_794,
        class_names=CLASSES,
        digest="",  # it is checked by the numbers of its images
    ),
    origin="put what CUB_200_2011/ holds (images/, images.txt, image_class_labels.txt, train_test_split.txt), or a "
    "link to it, at $LSKD_DATA/cub200",
)
def read(spec: Spec, *, data: Path, download: bool) -> tuple[Index, str]:
    """Three tables by an image's number: its path below images/, its class from 1, and whether it is trained on."""
    from lskd.data import lists

    root = data / spec.name
    check_is_there(spec, data, "images", *TABLES)
    names, labels, is_train = (lists.read_pairs(root / table) for table in TABLES)
    parts: dict[str, tuple[str, list[lists.Entry]]] = {"train": ("images", []), "test": ("images", [])}
    for image, name in names.items():
        for table, found in zip(TABLES[1:], (labels, is_train), strict=True):
            if not found.get(image, "").isdecimal():
                raise InputError(f"{root / table}: image {image} ({name}): must have a line with a number")
        part = "train" if is_train[image] == "1" else "test"
        parts[part][1].append(lists.Entry(name, int(labels[image]) - 1))
    return lists.index_entries(root, parts, spec.class_names), f"images and tables in {root}"
