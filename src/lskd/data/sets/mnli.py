"""MultiNLI (Williams et al. 2018): does the second sentence follow from the first? 392,702 pairs to train on. The
labels of its test parts are not public: test are the 9,815 pairs of dev_matched, or with
`dataset.text.test=dev_mismatched` the 9,832 of other genres than those of training. Pairs on which the annotators
do not agree (gold_label -) are left out, as usual.
"""

from __future__ import annotations

from lskd.data.dataset import EvaluationSet, Spec
from lskd.data.registry import register
from lskd.data.text.settings import Text
from lskd.data.text.sources import MultiNLI

FILES = "multinli_1.0_{}.jsonl"

register(
    Spec(
        name="mnli",
        title="MultiNLI",
        num_classes=3,
        shape=(),
        train=392_702,
        test=9_815,
        class_names=("entailment", "neutral", "contradiction"),
        digest="",  # it is checked by the numbers of its pairs
        kind="pairs",
        text=Text(longest=128),
        tests=(EvaluationSet("dev_mismatched", 9_832),),
    ),
    recipe="wsl_mnli",
    origin="put multinli_1.0_train.jsonl, multinli_1.0_dev_matched.jsonl and multinli_1.0_dev_mismatched.jsonl, or "
    "multinli_1.0/ with them, in $LSKD_DATA/mnli; a run is given the tokenizer of its network: "
    "dataset.text.tokenizer=FOLDER",
)(
    MultiNLI(
        {"train": FILES.format("train"), "test": FILES.format("dev_matched")},
        tests={"dev_mismatched": FILES.format("dev_mismatched")},
        folder="multinli_1.0",
    )
)
