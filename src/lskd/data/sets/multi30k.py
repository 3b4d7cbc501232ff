"""Multi30k (Elliott et al. 2016, 2017): captions of photographs, English and German. 29,000 sentence pairs to train on
and 1,014 for validation; test: the 1,000 of 2016. Those of 2017 and 2018 are had by `dataset.text.test`."""

from __future__ import annotations

from lskd.data.dataset import EvaluationSet, Spec
from lskd.data.registry import register
from lskd.data.text.settings import Text
from lskd.data.text.sources import Aligned

TESTS = {"test_2017_flickr": 1_000, "test_2017_mscoco": 461, "test_2018_flickr": 1_071}

register(
    Spec(
        name="multi30k",
        title="Multi30k",
        num_classes=8_000,
        shape=(),
        train=29_000,
        test=1_000,
        validation=1_014,
        class_names=(),
        digest="3009efa50beeafbb37c82934af254636fe42c52618b95d80511724595eded1f7",
        kind="translation",
        text=Text("en", "de", vocab=8_000),
        tests=tuple(EvaluationSet(name, size) for name, size in TESTS.items()),
    ),
    recipe="multi30k_small",
    origin="put train, val, test_2016_flickr, test_2017_flickr, test_2017_mscoco and test_2018_flickr, each as NAME.en "
    "and NAME.de, in $LSKD_DATA/multi30k",
)(
    Aligned(
        {"train": ["train"], "test": ["test_2016_flickr|test2016|test_2016"], "validation": ["val|valid|validation"]},
        tests=list(TESTS),
    )
)
