"""The networks, by the names that the papers give them: `ARCHS`, and what every one of them promises.

- `forward` maps images (B, C, H, W) to logits (B, K), for any number of channels, contiguous or channels_last;
- `head` is the last dense layer, an `nn.Linear`; what goes into it are the penultimate activations;
- networks of the CRD benchmark name their parts `stem`, `stage1`, `stage2`, ..., and their features in `taps`
  (`lskd.models.taps`);
- initial weights are drawn from torch's global CPU generator: the same seed gives the same weights.

Adding one: its module in a file here, its knobs and names in `archs.py`, and its number of parameters in a test.
"""

from __future__ import annotations

from lskd.models.archs import (
    ARCHS,
    AlexNetArch,
    Arch,
    CifarResNetArch,
    DenseNetArch,
    MLPArch,
    MobileNetV2Arch,
    ReActNetArch,
    ResNetArch,
    ShuffleNetV1Arch,
    ShuffleNetV2Arch,
    T2TResNetArch,
    TimmArch,
    TorchvisionArch,
    VGGArch,
    WideResNetArch,
    register,
)

__all__ = [
    "ARCHS",
    "AlexNetArch",
    "Arch",
    "CifarResNetArch",
    "DenseNetArch",
    "MLPArch",
    "MobileNetV2Arch",
    "ReActNetArch",
    "ResNetArch",
    "ShuffleNetV1Arch",
    "ShuffleNetV2Arch",
    "T2TResNetArch",
    "TimmArch",
    "TorchvisionArch",
    "VGGArch",
    "WideResNetArch",
    "register",
]

ARCHS.ship()
