"""English to German of WMT 2014, from the corpora as the campaign gives them: Europarl v7, Common Crawl and News
Commentary v9. Lines without a sentence, which these have, are left out in training.

Validation newstest2013, test newstest2014, all 3,003 sentences.
"""

from __future__ import annotations

from lskd.data.dataset import Spec
from lskd.data.registry import register
from lskd.data.text.settings import Text
from lskd.data.text.sources import Aligned

EUROPARL, COMMON_CRAWL = 1_920_209, 2_399_123
CORPORA = ("europarl-v7.de-en", "commoncrawl.de-en")  # in the order in which they are read
FOLDERS = ("", "training")

register(
    Spec(
        name="wmt14_ende",
        title="WMT'14 English-German",
        num_classes=32_000,
        shape=(),
        train=EUROPARL + COMMON_CRAWL + 201_288,
        test=3_003,
        validation=3_000,
        class_names=(),
        digest="",  # it is checked by the numbers of its lines
        kind="translation",
        text=Text("en", "de", vocab=32_000, longest=256),
    ),
    recipe="muller_wmt",
    origin="put europarl-v7.de-en, commoncrawl.de-en, news-commentary-v9.de-en, newstest2013 and newstest2014, each as "
    "NAME.en and NAME.de, in $LSKD_DATA/wmt14_ende (the last: sacrebleu -t wmt14/full -l en-de --echo src, and ref)",
)(
    Aligned(
        {
            "train": [*CORPORA, "news-commentary-v9.de-en"],
            "validation": ["newstest2013"],
            "test": ["newstest2014"],
        },
        folders=FOLDERS,
        empty=True,
    )
)
