"""Sources of images: what all of them promise, whether images are on the device or stay in their files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import lskd.engine
from lskd.data.augment import Augment, Normalize, ResizedCrop
from lskd.data.images import ImageSource, Normalizer, Resident, at_once, centre
from lskd.data.index import Files
from lskd.data.stream import Streamed, source_of

CPU = torch.device("cpu")
N = 12
POOL = ThreadPoolExecutor(2)
RESIZED = Augment(crop=7, flip=True, resized=ResizedCrop())


@pytest.fixture
def files(write_photographs, tmp_path) -> Files:
    root = write_photographs(tmp_path / "photographs", {"train": 6, "val": 1}, ("ant", "bee")) / "train"
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.JPEG"))
    return Files(root, np.array(names, dtype=object))


@pytest.fixture(params=["resident", "one view", "streamed"])
def source(request, files) -> ImageSource:
    if request.param == "streamed":
        return Streamed(files, RESIZED, CPU, POOL)
    images = torch.randint(256, (N, 3, 7, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Resident(images, Augment(pad=1, flip=True) if request.param == "resident" else Augment())


def test_whoever_draws_the_same_numbers_sees_the_same_pixels(source):
    """One at a time or many, in a training's order or not; and all batches but the last are of one size."""
    assert len(source) == N and source.shape == (3, 7, 7)
    views = source.draw(torch.Generator().manual_seed(3))
    assert torch.equal(views, source.draw(torch.Generator().manual_seed(3))) and views.shape == (N,)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(4))
    batches = [batch.clone() for batch in source.batches(order, views[order], 5)]
    assert [len(batch) for batch in batches] == [5, 5, 2]
    alone = [source.take(torch.tensor([row]), views[row : row + 1]) for row in order.tolist()]
    assert torch.equal(torch.cat(batches), torch.cat(alone))
    assert torch.cat(batches).dtype == torch.uint8 and torch.cat(batches).shape == (N, 3, 7, 7)


def test_a_feed_has_each_batch_at_hand(source):
    """What a step takes is what the source has of these images and views; of a streamed one always at one place."""
    entered: list[int] = []

    @contextlib.contextmanager
    def eager() -> Iterator[None]:
        entered.append(1)
        yield

    feed, views = source.feed(5, eager), source.draw(torch.Generator().manual_seed(3))
    places = set()
    for epoch in range(2):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(epoch))[4 * epoch :]
        feed.begin(order, views, [len(rows) for rows in order.split(5)])
        for rows in order.split(5):
            feed.advance()
            seen = feed.take(rows, views[rows])
            places.add(seen.data_ptr())
            assert torch.equal(seen, source.take(rows, views[rows]))
    streamed = source.views is None
    assert (len(entered), len(places) == 1) == ((5, True) if streamed else (0, False))


def test_an_evaluation_is_of_all_plain_images(source):
    source.at_once = 5
    batches = [batch.clone() for batch in source.evaluation()]
    assert [len(batch) for batch in batches] == [5, 5, 2]
    assert torch.equal(torch.cat(batches), source.plain(torch.arange(N)))


def test_views_that_can_be_counted_are(source):
    """Those of a crop of any size cannot: nothing can be kept for each of them."""
    drawn = source.draw(torch.Generator().manual_seed(0))
    if source.views is None:
        assert len(drawn.unique()) == N and drawn.max() > 2**40
    else:
        assert drawn.max() < source.views


def test_parts_become_sources_by_what_they_hold(files):
    images = torch.randint(256, (N, 3, 9, 9), dtype=torch.uint8)
    augment = Augment(pad=1, crop=7, flip=True)
    trained, held_out = (source_of(images, augment, CPU, POOL, trained=trained) for trained in (True, False))
    assert trained.views == 5 * 5 * 2 and held_out.views == 1
    assert torch.equal(held_out.plain(torch.arange(N)), centre(images, augment))
    assert torch.equal(trained.plain(torch.arange(N)), centre(images, augment))
    assert source_of(files, RESIZED, CPU, POOL, trained=False).views is None


def test_files_stand_where_pixels_would(files):
    """Nothing but their channels is asked of them: statistics of streamed images are refused before."""
    assert files.to(CPU) is files and files.shape == (N, 3, 0, 0)
    normalizer = Normalizer(Normalize("fixed", (0.5,) * 3, (0.25,) * 3), files, CPU)
    assert normalizer(torch.zeros(1, 3, 1, 1)).flatten().tolist() == [-2.0] * 3


def test_few_large_images_are_evaluated_at_once():
    assert [at_once("cuda", side, side) for side in (28, 64, 65, 224)] == [1000, 1000, 128, 128]
    assert at_once("cpu", 28, 28) == at_once("cpu", 224, 224) == 128


def test_nothing_of_the_engine_asks_what_kind_of_source_it_has():
    engine = Path(lskd.engine.__file__).parent
    asking = re.compile(r"\b(Resident|Streamed|Files)\b|\.streamed\b|isinstance\([^)]*\b(images|source|views)\b")
    files = sorted(engine.glob("*.py"))
    assert len(files) > 10
    assert [file.name for file in files if asking.search(file.read_text(encoding="utf-8"))] == []
