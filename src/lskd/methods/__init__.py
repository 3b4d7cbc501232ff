"""The training methods, by name. One small file a method or family; `METHODS` is the whole registry.

Those after `wsl` are the methods of the CRD benchmark, with its settings, and Overhaul: each says what L_feature is in
`feature_method.FeatureMethod`.

Adding one: a frozen dataclass with a `loss` (see `lskd.methods.method`), a line below, conf/method/NAME.yaml, a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lskd.methods.attention import AttentionTransfer
from lskd.methods.boundaries import ActivationBoundaries
from lskd.methods.contrastive import Contrastive
from lskd.methods.correlation import CorrelationCongruence
from lskd.methods.cross_entropy import CrossEntropy
from lskd.methods.distillation import Distillation
from lskd.methods.factors import FactorTransfer
from lskd.methods.fitnet import FitNet
from lskd.methods.flow import SolutionFlow
from lskd.methods.logit_matching import LogitMatching
from lskd.methods.method import Batch, Method, Pair, Stage, maps
from lskd.methods.overhaul import Overhaul
from lskd.methods.probabilistic import ProbabilisticTransfer
from lskd.methods.relational import Relational
from lskd.methods.selectivity import NeuronSelectivity
from lskd.methods.similarity import SimilarityPreserving
from lskd.methods.variational import VariationalInformation
from lskd.methods.wsl import WeightedSoftLabels

__all__ = ["METHODS", "SHIPPED", "Batch", "Method", "Pair", "Stage", "maps"]

METHODS: dict[str, Method] = {
    "ce": CrossEntropy(),
    "kd": Distillation(),
    "logit_matching": LogitMatching(),
    "wsl": WeightedSoftLabels(),
    "fitnet": FitNet(),
    "at": AttentionTransfer(),
    "sp": SimilarityPreserving(),
    "cc": CorrelationCongruence(),
    "vid": VariationalInformation(),
    "rkd": Relational(),
    "pkt": ProbabilisticTransfer(),
    "ab": ActivationBoundaries(),
    "ft": FactorTransfer(),
    "fsp": SolutionFlow(),
    "nst": NeuronSelectivity(),
    "ofd": Overhaul(),
    "crd": Contrastive(),
}
SHIPPED: Mapping[str, Method] = MappingProxyType(dict(METHODS))  # whatever a plug-in puts in their places
