"""MNIST: 28×28 grey, 10 digits, 60,000 training and 10,000 test images. Reported: the official test set."""

from __future__ import annotations

from lskd.data.dataset import Spec
from lskd.data.readers import Torchvision
from lskd.data.registry import register

register(
    Spec(
        name="mnist",
        title="MNIST",
        num_classes=10,
        shape=(1, 28, 28),
        train=60_000,
        test=10_000,
        class_names=tuple("0123456789"),
        digest="2647a6fdabcad38f24f180fa2371516855becf839df1247bafde77dc5559f21c",
        class_sizes=(
            (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
            (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
        ),
    ),
    recipe="muller_mnist",
    origin="from $LSKD_DATA/mnist, else downloaded",
)(Torchvision("MNIST", "MNIST/raw"))
