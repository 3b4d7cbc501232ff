"""Streamed data sets: what is drawn of an image, what comes out of its file, and what is said when a file is bad."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import pil_to_tensor, resized_crop

from lskd import data
from lskd.data import DATASETS, Dataset
from lskd.data import cli as data_cli
from lskd.data.augment import Augment, ResizedCrop
from lskd.data.index import Files
from lskd.data.readers import ImageFolders
from lskd.data.sets.imagenet import FOLDERS
from lskd.data.stream import NO_VIEW, Streamed, source_of
from lskd.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture
def photographs(write_photographs, tmp_path) -> Path:
    return write_photographs(tmp_path / "photographs", {"train": 6, "val": 3}, ("ant", "bee"))


def stream(root: Path, augment: Augment, threads: int = 2) -> Streamed:
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.JPEG"))
    return Streamed(Files(root, np.array(files, dtype=object)), augment, CPU, ThreadPoolExecutor(threads))


# ---- crops --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "scale"), [(500, 375, (0.08, 1.0)), (60, 400, (0.6, 1.0)), (37, 41, (0.05, 0.4))]
)
def test_random_crops_have_the_distribution_of_torchvision(width, height, scale):
    """Two-sample Kolmogorov-Smirnov tests on the four numbers of a crop; also where most draws do not fit."""
    ratio, n = (3 / 4, 4 / 3), 1500
    crop, rng, generator_state = ResizedCrop(scale, ratio), random.Random(1), torch.get_rng_state()
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(n)])
    torch.set_rng_state(generator_state)
    left, top, right, bottom = np.array([crop.draw(width, height, rng) for _ in range(n)]).T
    for ours, other in zip((top, left, bottom - top, right - left), theirs.T, strict=True):
        assert stats.ks_2samp(ours, other).pvalue > 0.001


def test_a_random_crop_is_what_its_two_uniform_numbers_say():
    """area = ¼ · 400 · 300, aspect = √(½ · 2) = 1: a square of √30,000 = 173 pixels; a quarter and half of the way."""

    class Fixed(random.Random):
        numbers = iter((0.5, 0.5, 0.25, 0.5))

        def random(self) -> float:
            return next(self.numbers)

    box = ResizedCrop(scale=(0.1, 0.4), ratio=(0.5, 2.0)).draw(400, 300, Fixed())
    top, left = int(0.25 * (300 - 173 + 1)), int(0.5 * (400 - 173 + 1))
    assert box == (left, top, left + 173, top + 173)


@pytest.mark.parametrize(
    ("crop", "size", "box"),
    [
        (ResizedCrop(), (500, 375), (31, 23, 469, 352)),  # margins int(31.25), int(23.4): TF's central_crop
        (ResizedCrop(square=True), (500, 375), (86, 23, 414, 351)),  # a side of round(328.125)
        (ResizedCrop(central=1.0), (7, 5), (0, 0, 7, 5)),
        (ResizedCrop(square=True), (1, 1), (0, 0, 1, 1)),
    ],
)
def test_evaluation_takes_the_middle(crop, size, box):
    assert crop.centre(*size) == box


def test_pixels_are_those_of_the_crop(tmp_path):
    """An image of four flat quadrants: a crop inside one of them, resized, is flat."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30], pixels[:20, 30:], pixels[20:, :30] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    files = Files(tmp_path, np.array(["0.png"], dtype=object))
    crop = ResizedCrop(scale=(0.01, 0.02), central=1.0)
    pictures = Streamed(files, Augment(crop=8, flip=True, resized=crop), CPU, ThreadPoolExecutor(1))
    flat = {tuple(pixels[y, x]) for y, x in ((0, 0), (0, 59), (39, 0), (39, 59))}
    seen = set()
    for view in range(200):
        left, top, right, bottom = crop.draw(60, 40, random.Random(view))
        if (right <= 30 or left >= 30) and (bottom <= 20 or top >= 20):
            image = pictures.take(torch.tensor([0]), torch.tensor([view]))[0]
            assert (image == image[:, :1, :1]).all()
            assert tuple(image[:, 0, 0].tolist()) == tuple(pixels[top, left])
            seen.add(tuple(pixels[top, left]))
    assert seen == flat
    [evaluated] = pictures.evaluation()
    halves = evaluated[0, :, ::7, ::7]  # its corners
    assert halves.permute(1, 2, 0).tolist() == [[[200, 0, 0], [0, 200, 0]], [[0, 0, 200], [0, 0, 0]]]


def test_pixels_are_those_that_torchvision_gives(photographs):
    """The same box, cropped and resized by it."""
    pictures, crop = stream(photographs / "train", Augment(crop=9, resized=ResizedCrop())), ResizedCrop()
    for row in range(12):
        image = Image.open(pictures.files.path(row))
        left, top, right, bottom = crop.draw(*image.size, random.Random(row))
        expected = pil_to_tensor(resized_crop(image, top, left, bottom - top, right - left, [9, 9]))
        assert torch.equal(pictures.take(torch.tensor([row]), torch.tensor([row]))[0], expected)


def test_half_of_the_views_are_flipped_and_a_view_is_always_the_same(photographs):
    flipping = stream(photographs / "train", Augment(crop=9, flip=True, resized=ResizedCrop()))
    upright = stream(photographs / "train", Augment(crop=9, resized=ResizedCrop()), threads=1)
    row = torch.tensor([0])
    flipped = 0
    for view in torch.arange(60)[:, None]:
        one, again, other = flipping.take(row, view), flipping.take(row, view), upright.take(row, view)
        assert torch.equal(one, again)
        assert torch.equal(one, other) or torch.equal(one, other.flip(3))
        flipped += torch.equal(one, other.flip(3))
    assert 18 <= flipped <= 42  # three standard deviations


def test_batches_are_the_images_in_the_order_asked_for(photographs):
    """More batches than are decoded ahead, the last of them smaller; all in one place, that of `into`."""
    pictures = stream(photographs / "train", Augment(crop=7, resized=ResizedCrop()))
    order, views = torch.randperm(12).repeat(3), torch.randint(2**62, (36,))
    into = pictures.buffer(5)
    batches = []
    for batch in pictures.batches(order, views, 5, into):
        assert batch.data_ptr() == into.data_ptr()
        batches.append(batch.clone())
    assert [len(batch) for batch in batches] == [5] * 7 + [1]
    assert torch.equal(torch.cat(batches), pictures.take(order, views))
    assert torch.cat(batches).is_contiguous(memory_format=torch.channels_last)


def test_views_are_drawn_by_the_generator_alone(photographs):
    pictures = stream(photographs / "train", Augment(crop=7, resized=ResizedCrop()))
    first, again = (pictures.draw(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (12,) and first.min() > NO_VIEW
    assert not torch.equal(first, pictures.draw(torch.Generator().manual_seed(4)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": (0.0, 1.0)}, r"scale = \[0.0, 1.0\]: must be two numbers > 0, rising, at most 1"),
        ({"scale": (0.5,)}, "scale"),
        ({"ratio": (2.0, 1.0)}, r"ratio = \[2.0, 1.0\]: must be two numbers > 0, rising"),
        ({"central": 1.1}, r"central = 1.1: must be in \(0, 1\]"),
    ],
)
def test_crops_out_of_range_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        ResizedCrop(**fields)


def test_resized_crops_and_streamed_images_go_together():
    with pytest.raises(InputError, match="pad must be 0 and crop given"):
        Augment(resized=ResizedCrop())
    with pytest.raises(InputError, match="resized: must be given, with crop, for a streamed data set"):
        Augment(crop=8).check(0, 0)
    with pytest.raises(InputError, match="resized: is for streamed data sets only"):
        Augment(crop=8, resized=ResizedCrop()).check(32, 32)


# ---- files --------------------------------------------------------------------------------------------------------


def test_an_imported_folder_is_indexed_and_split_like_any_data_set(photographs, tmp_path):
    cache = tmp_path / "cache"
    (photographs / "train" / "bee" / "notes.txt").write_text("no image")
    known = data.import_folder("insects", photographs, cache=cache, stream=True)
    assert (known.num_classes, known.train, known.test, known.class_names) == (2, 12, 6, ("ant", "bee"))
    assert known.streamed and data.spec("insects", cache) == known
    assert not list((cache / "data" / "insects").glob("*.npy"))

    parts = data.load(Dataset("insects", holdout=4, limit=6), data=tmp_path, cache=cache)
    assert {name: part.labels.bincount().tolist() for name, part in parts.items()} == {
        "train": [3, 3], "validation": [2, 2], "test": [3, 3],
    }  # fmt: skip
    names = {name: set(part.images.names) for name, part in parts.items()}
    assert not names["train"] & names["validation"]
    for part in parts.values():
        for row, label in enumerate(part.labels.tolist()):
            path = Path(part.images.path(row))
            assert path.is_file() and path.parent.name == known.class_names[label]


def test_the_digest_says_which_files(photographs, tmp_path, write_photographs):
    first = data.import_folder("one", photographs, cache=tmp_path / "cache", stream=True)
    other = write_photographs(tmp_path / "other", {"train": 6, "val": 3}, ("ant", "bee"))
    assert data.import_folder("two", other, cache=tmp_path / "cache", stream=True).digest == first.digest
    with open(photographs / "train" / "ant" / "0.JPEG", "ab") as file:
        file.write(b"one byte more")
    with pytest.raises(InputError, match="not the images that were indexed: 1 of another size"):
        data.verify("one", cache=tmp_path / "cache")
    assert data.verify("two", cache=tmp_path / "cache").digest == first.digest
    with pytest.raises(InputError, match="other data was imported under this name"):
        data.import_folder("two", photographs, cache=tmp_path / "cache", stream=True)


def test_images_that_have_gone_are_an_error(photographs, tmp_path):
    cache = tmp_path / "cache"
    data.import_folder("insects", photographs, cache=cache, stream=True)
    photographs.rename(tmp_path / "moved")
    for use in (data.prepare, lambda name, data, cache: globals()["data"].load(Dataset(name), data=data, cache=cache)):
        with pytest.raises(InputError, match="train: not there: the images of insects are indexed and not copied"):
            use("insects", data=tmp_path, cache=cache)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_bad_file_is_named(photographs, content):
    bad = photographs / "train" / "bee" / "2.JPEG"
    bad.unlink() if content is None else bad.write_bytes(content)
    files = Files(photographs / "train", np.array(["ant/1.JPEG", "bee/2.JPEG"], dtype=object))
    pictures = Streamed(files, Augment(crop=8, resized=ResizedCrop()), CPU, ThreadPoolExecutor(2))
    with pytest.raises(InputError, match=r"train/bee/2.JPEG: not an image that can be decoded"):
        list(pictures.evaluation())


def test_grey_and_cmyk_images_become_rgb(tmp_path):
    Image.new("L", (9, 5), 77).save(tmp_path / "grey.JPEG")
    Image.new("CMYK", (5, 9), (0, 0, 0, 255)).save(tmp_path / "print.JPEG")
    files = Files(tmp_path, np.array(["grey.JPEG", "print.JPEG"], dtype=object))
    [images] = Streamed(files, Augment(crop=4, resized=ResizedCrop()), CPU, ThreadPoolExecutor(1)).evaluation()
    assert (images[0] == 77).all() and (images[1] < 5).all()


# ---- ImageNet -----------------------------------------------------------------------------------------------------


def test_imagenet_is_known_by_its_folders_and_names():
    spec, ids = DATASETS["imagenet"].spec, FOLDERS
    assert (spec.num_classes, spec.train, spec.test) == (1000, 1_281_167, 50_000)
    assert len(set(spec.class_names)) == len(set(ids)) == 1000
    assert list(ids) == sorted(ids), "labels are positions in alphabetical order of the folders"
    named = dict(zip(ids, spec.class_names, strict=True))
    assert (named["n01440764"], named["n02113624"], named["n02113712"]) == ("tench", "toy poodle", "miniature poodle")
    assert {"meerkat", "cleaver"} <= set(spec.class_names)


@pytest.fixture
def tiny_imagenet(monkeypatch, write_photographs, tmp_path) -> Path:
    """`imagenet` with two of its classes and a few images, in the returned data root."""
    ids = FOLDERS[:2]
    known = DATASETS["imagenet"].spec
    small = data.Spec("imagenet", known.title, 2, (3, 0, 0), 8, 4, known.class_names[:2], digest="")
    origin = data.Origin(small, ImageFolders(ids, test="val"), "standard_streamed")
    monkeypatch.setitem(DATASETS.entries, "imagenet", origin)
    write_photographs(tmp_path / "raw" / "imagenet", {"train": 4, "val": 2}, ids)
    (tmp_path / "raw" / "imagenet" / "test").mkdir()  # the official test images have no labels
    return tmp_path / "raw"


def test_imagenet_is_indexed_where_it_is(tiny_imagenet, tmp_path):
    cache = tmp_path / "cache"
    parts = data.load(Dataset("imagenet"), data=tiny_imagenet, cache=cache)
    assert (len(parts["train"].images), len(parts["test"].images)) == (8, 4)
    assert json.loads((cache / "data" / "imagenet" / "meta.json").read_text())["class_names"] == ["tench", "goldfish"]
    moved = tiny_imagenet.rename(tmp_path / "elsewhere")  # LSKD_DATA may differ from machine to machine
    assert Path(data.load(Dataset("imagenet"), data=moved, cache=cache)["train"].images.path(0)).is_file()
    assert data_cli.main(["verify", "--cache", str(cache), "--data", str(moved)]) == 0


def test_what_is_not_imagenet_is_refused(tiny_imagenet, tmp_path):
    root = tiny_imagenet / "imagenet"
    with pytest.raises(InputError, match=r"looked for .*nowhere/imagenet/train/<class>/\*.JPEG and .*/val/<class>"):
        data.prepare("imagenet", data=tmp_path / "nowhere", cache=tmp_path / "cache")
    (root / "val" / "n01440764" / "0.JPEG").unlink()
    with pytest.raises(InputError, match=r"imagenet/val: 3 images: ImageNet .* has 4"):
        data.prepare("imagenet", data=tiny_imagenet, cache=tmp_path / "cache")
    for part in ("train", "val"):
        (root / part / "n01440764").rename(root / part / "tench")
    with pytest.raises(InputError, match=r"must hold the 2 class folders of ImageNet .* differs in 'n01440764'"):
        data.prepare("imagenet", data=tiny_imagenet, cache=tmp_path / "cache")
    assert not (tmp_path / "cache" / "data").exists()


def test_the_command_imports_a_streamed_folder(photographs, tmp_path, capsys):
    words = ["import", "insects", str(photographs), "--cache", str(tmp_path / "cache"), "--stream"]
    assert data_cli.main(words) == 0
    assert "insects: 2 classes, images of various sizes, streamed, 12 train, 6 test" in capsys.readouterr().out
    assert data_cli.main([*words, "--size", "8"]) == 2
    assert "size = 8: must be left out with --stream" in capsys.readouterr().err


def test_an_evaluation_may_have_a_size_of_its_own(photographs):
    """FixRes: views of the training are of 8x8 pixels, and those of an evaluation the same middle at 12x12."""
    augment = Augment(crop=8, evaluate=12, resized=ResizedCrop())
    files = stream(photographs / "train", augment).files
    pool = ThreadPoolExecutor(1)
    trained, evaluated = (source_of(files, augment, CPU, pool, trained=trained) for trained in (True, False))
    assert (trained.shape, evaluated.shape) == ((3, 8, 8), (3, 12, 12))
    plain = stream(photographs / "train", Augment(crop=12, resized=ResizedCrop()))
    for ours, usual in zip(evaluated.evaluation(), plain.evaluation(), strict=True):
        assert torch.equal(ours, usual)
