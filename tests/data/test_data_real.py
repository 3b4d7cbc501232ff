"""The real data sets, where LSKD_DATA holds them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lskd import data
from lskd.data import DATASETS, Dataset

ROOT = Path(os.environ.get("LSKD_DATA") or "does-not-exist")

# Of all training pixels, from 0 to 1, channel by channel.
MEAN_AND_STD = {
    "mnist": ([0.1307], [0.3081]),
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    "cifar100": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
}


@pytest.fixture(scope="session")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.mark.slow
@pytest.mark.parametrize("name", MEAN_AND_STD)
def test_content(name: str, real_cache: Path) -> None:
    if not (ROOT / name).is_dir():
        pytest.skip(f"LSKD_DATA does not hold {name}")
    # `prepare` compares counts and digest; the rest shows that the digest is that of the right data.
    assert data.prepare(name, data=ROOT, cache=real_cache, download=False) == DATASETS[name].spec
    parts = data.load(Dataset(name), data=ROOT, cache=real_cache)
    classes = DATASETS[name].spec.num_classes
    if name == "mnist":
        counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert parts["train"].labels.bincount().tolist() == counts
    else:
        assert parts["train"].labels.bincount().tolist() == [50_000 // classes] * classes
        assert parts["test"].labels.bincount().tolist() == [10_000 // classes] * classes

    levels = np.arange(256) / 255
    for channel, (mean, std) in enumerate(zip(*MEAN_AND_STD[name], strict=True)):
        weights = np.bincount(parts["train"].images[:, channel].numpy().ravel(), minlength=256)
        found_mean = np.average(levels, weights=weights)
        found_std = np.sqrt(np.average((levels - found_mean) ** 2, weights=weights))
        assert found_mean == pytest.approx(mean, abs=1e-4)
        assert found_std == pytest.approx(std, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MEAN_AND_STD)
def test_holdout(name: str, real_cache: Path) -> None:
    if not (ROOT / name).is_dir():
        pytest.skip(f"LSKD_DATA does not hold {name}")
    dataset = Dataset(name, holdout=5_000, limit=1_000, evaluate="validation")
    parts = data.load(dataset, data=ROOT, cache=real_cache)
    spec = DATASETS[name].spec
    assert parts["validation"].images.shape == (5_000, *spec.shape)
    assert parts["train"].images.shape == (1_000, *spec.shape)
    if name != "mnist":
        assert parts["validation"].labels.bincount().tolist() == [5_000 // spec.num_classes] * spec.num_classes
