"""MultiNLI (Williams et al. 2018): does the second sentence follow from the first? 392,702 pairs to train on. The
labels of its test parts are not public: test are the 9,815 pairs of dev_matched, and validation the 9,832 of
dev_mismatched, of other genres than those of training: so a run is measured on both. Pairs on which the annotators do
not agree (gold_label -) are left out, as usual.
"""

from __future__ import annotations

from lskd.data.dataset import Spec
from lskd.data.registry import register
from lskd.data.text.settings import Text
from lskd.data.text.sources import MultiNLI

FILES = "multinli_1.0_{}.jsonl"
FROM = {"train": "train", "test": "dev_matched", "validation": "dev_mismatched"}

register(
    Spec(
        name="mnli",
        title="MultiNLI",
        num_classes=3,
        shape=(),
        train=392_702,
        test=9_815,
        validation=9_832,
        class_names=("entailment", "neutral", "contradiction"),
        digest="",  # it is checked by the numbers of its pairs
        kind="pairs",
        text=Text(longest=128),
    ),
    recipe="wsl_mnli",
    origin="put multinli_1.0_train.jsonl, multinli_1.0_dev_matched.jsonl and multinli_1.0_dev_mismatched.jsonl, or "
    "multinli_1.0/ with them, in $LSKD_DATA/mnli; a run is given the tokenizer of its network: "
    "dataset.text.tokenizer=FOLDER",
)(
    MultiNLI(
        {name: FILES.format(of) for name, of in FROM.items()},
        folder="multinli_1.0",
    )
)
