"""English to German of WMT 2018, from the corpora as the campaign gives them: Europarl v7, Common Crawl and News
Commentary v13. Lines without a sentence, which these have, are left out in training.

The data of tensor2tensor's problem translate_ende_wmt32k; test newstest2013, of which tensor2tensor reports BLEU.
"""

from __future__ import annotations

from lskd.data.dataset import Spec
from lskd.data.registry import register
from lskd.data.sets.wmt14_ende import COMMON_CRAWL, CORPORA, EUROPARL, FOLDERS
from lskd.data.text.settings import Text
from lskd.data.text.sources import Aligned

register(
    Spec(
        name="wmt18_ende",
        title="WMT'18 English-German (translate_ende_wmt32k)",
        num_classes=32_768,
        shape=(),
        train=EUROPARL + COMMON_CRAWL + 284_246,
        test=3_000,
        class_names=(),
        digest="",  # it is checked by the numbers of its lines
        kind="translation",
        text=Text("en", "de", vocab=32_768, longest=256),
    ),
    recipe="muller_wmt",
    origin="put news-commentary-v13.de-en, commoncrawl.de-en, europarl-v7.de-en and newstest2013, each as NAME.en and "
    "NAME.de, in $LSKD_DATA/wmt18_ende",
)(
    Aligned(
        {"train": ["news-commentary-v13.de-en", *reversed(CORPORA)], "test": ["newstest2013"]},
        folders=FOLDERS,
        empty=True,
    )
)
