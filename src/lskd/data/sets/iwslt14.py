"""IWSLT'14, German to English (Cettolo et al. 2014), as fairseq's prepare-iwslt14.sh leaves it: talks of TED,
tokenized by Moses and in lower case. 160,239 sentence pairs to train on; validation: every 23rd of those that the
campaign gives for training, 7,283; test: dev2010, dev2012 and tst2010 to tst2012 together, 6,750.

BPE is lskd's own. So the text before fairseq's BPE is wanted: that of the script's folder tmp.
"""

from __future__ import annotations

from lskd.data.dataset import Spec
from lskd.data.registry import register
from lskd.data.text.settings import Text
from lskd.data.text.sources import Aligned

register(
    Spec(
        name="iwslt14",
        title="IWSLT'14 German-English",
        num_classes=10_000,
        shape=(),
        train=160_239,
        test=6_750,
        validation=7_283,
        class_names=(),
        digest="",  # it is checked by the numbers of its lines
        kind="translation",
        text=Text("de", "en", vocab=10_000),
    ),
    recipe="shen_nmt",
    origin="run fairseq's prepare-iwslt14.sh, and put iwslt14.tokenized.de-en/, or a link to it, at $LSKD_DATA/iwslt14 "
    "(what counts is its tmp/: train, valid and test, each as NAME.de and NAME.en)",
)(Aligned({"train": ["train"], "validation": ["valid|val"], "test": ["test"]}, folders=["tmp", ""]))
