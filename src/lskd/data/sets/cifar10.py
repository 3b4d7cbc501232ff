"""CIFAR-10: 32×32 RGB, 10 classes, 50,000 training and 10,000 test images. Reported: the official test set."""

from __future__ import annotations

from lskd.data.dataset import Spec
from lskd.data.readers import Torchvision
from lskd.data.registry import register

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# As Patrini et al. 2017.
FLIPS = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}

register(
    Spec(
        name="cifar10",
        title="CIFAR-10",
        num_classes=10,
        shape=(3, 32, 32),
        train=50_000,
        test=10_000,
        class_names=CLASSES,
        digest="e834c00b0b0f3ae7667b554be02ae0d6526f13c3715312f0d971842523d1a715",
        class_sizes=((5_000,) * 10, (1_000,) * 10),
    ),
    recipe="crd",
    origin="from $LSKD_DATA/cifar10, else downloaded",
    flips=FLIPS,
)(Torchvision("CIFAR10", "cifar-10-batches-py"))
