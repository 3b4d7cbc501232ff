"""Data sets whose images are named by files of annotations: what is built in, in its usual layout, and bad input."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lskd import cli, data
from lskd.data import DATASETS, Dataset, lists
from lskd.data.sets import cub200, imagenet, imagenet_lt, places_lt, tiny_imagenet
from lskd.errors import InputError

CLASSES = tuple(f"class{number}" for number in range(10))
COUNTS = {"train": 2, "test": 1}  # images of each class
LONG_TAILED = ("imagenet_lt", "places_lt")


def picture(path: Path, label: int, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(100 * label + number).randint(0, 60, (24, 30, 3))
    pixels[..., label % 3] += 18 * label
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)


def tables(root: Path) -> None:
    rows = [(label, number) for label in range(10) for number in range(3)]
    names = [f"{label + 1:03d}.{CLASSES[label]}/{CLASSES[label]}_{number}.jpg" for label, number in rows]
    for name, (label, number) in zip(names, rows, strict=True):
        picture(root / "images" / name, label, number)
    for table, values in (
        ("images.txt", names),
        ("image_class_labels.txt", [label + 1 for label, _ in rows]),
        ("train_test_split.txt", [int(number < 2) for _, number in rows]),
    ):
        (root / table).write_text("".join(f"{image} {value}\n" for image, value in enumerate(values, start=1)))


def tiny(root: Path) -> None:
    lines = []
    for label in range(10):
        for number in range(2):
            picture(root / f"train/n{label}/images/n{label}_{number}.JPEG", label, number)
        (root / f"train/n{label}/n{label}_boxes.txt").write_text("n0_0.JPEG\t0\t0\t62\t62\n")
        picture(root / f"val/images/val_{label}.JPEG", label, 9)
        lines.append(f"val_{label}.JPEG\tn{label}\t0\t32\t44\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    picture(root / "test/images/test_0.JPEG", 0, 0)


def coco(root: Path) -> None:
    for file, count, first in (("train2019.json", 2, 0), ("val2019.json", 1, 100)):
        rows = [(first + 10 * number + label, label) for label in range(10) for number in range(count)]
        images = [{"id": image, "file_name": f"train_val2019/Birds/{label}/{image}.jpg"} for image, label in rows]
        for (image, label), one in zip(rows, images, strict=True):
            picture(root / one["file_name"], label, image)
        annotations = [{"id": image, "image_id": image, "category_id": label} for image, label in reversed(rows)]
        categories = [{"id": label, "name": str(label)} for label in reversed(range(10))]
        (root / file).write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def products(root: Path) -> None:
    for part, count in (("train", 2), ("val", 1)):
        rows = [
            (f"{part}{label}x{number}" + ".jpg" * (label % 2), label) for label in range(10) for number in range(count)
        ]
        for name, label in rows:
            picture(root / part / (name.removesuffix(".jpg") + ".jpg"), label, len(name))
        images = [{"id": name, "url": "http://…", "class": label} for name, label in rows]
        (root / f"{part}.json").write_text(json.dumps({"images": images}))


def long_tail(prefix: str, images: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        root.mkdir(parents=True)
        for part, count in (("train", None), ("test", 1), ("val", 1)):
            rows = [(label, number) for label in range(10) for number in range(count or 1 + label % 3)]
            names = [
                f"{'val' if part == 'test' else 'train'}/{CLASSES[label]}/{part}_{number}.JPEG"
                for label, number in rows
            ]
            for name, (label, number) in zip(names, rows, strict=True):
                picture(root.parent / images / name, label, number)
            text = "".join(f"{name} {label}\n" for name, (label, _) in zip(names, rows, strict=True))
            (root / f"{prefix}_{part}.txt").write_text(text)
        picture(root.parent / images / "train/class0/of_no_list.JPEG", 0, 0)

    return write


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "cub200": tables,
    "tiny_imagenet": tiny,
    "inaturalist2019": coco,
    "imaterialist": products,
    "imagenet_lt": long_tail("ImageNet_LT", "imagenet"),
    "places_lt": long_tail("Places_LT", "places365"),
}


@pytest.fixture
def small(monkeypatch, tmp_path) -> Callable[[str], Path]:
    """`small(name)`: a built-in data set with 10 classes in its usual layout, in the returned data root."""

    def make(name: str) -> Path:
        known = DATASETS[name]
        sizes = {"train": 18, "test": 10, "validation": 10} if name in LONG_TAILED else {"train": 20, "test": 10}
        read = known.read
        if name in LONG_TAILED:
            sizes["train"] = sum(1 + label % 3 for label in range(10))
            read = replace(read, digests={})
        if name == "tiny_imagenet":
            read = replace(read, folders=tuple(f"n{label}" for label in range(10)))
        spec = replace(known.spec, num_classes=10, class_names=CLASSES, **sizes)
        monkeypatch.setitem(DATASETS.entries, name, replace(known, spec=spec, read=read))
        LAYOUTS[name](tmp_path / "raw" / name)
        return tmp_path / "raw"

    return make


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_built_in_one_is_indexed_where_it_is(name, small, tmp_path):
    root, cache = small(name), tmp_path / "cache"
    spec = data.prepare(name, data=root, cache=cache)
    parts = data.load(Dataset(name), data=root, cache=cache)
    assert set(parts) == set(spec.parts)
    for part, (files, labels, _) in parts.items():
        assert len(files) == getattr(spec, part) == len(labels)
        for row, label in enumerate(labels.tolist()):
            mean = np.asarray(Image.open(files.path(row)).convert("RGB")).mean((0, 1))
            assert abs(mean[label % 3] - 18 * label - 30) < 8, "the image is of its label's colour"
        if part != "train" or name not in LONG_TAILED:
            assert set(labels.bincount().tolist()) == {COUNTS.get(part, 1)}, "balanced"
    if name in LONG_TAILED:
        assert parts["train"].labels.bincount().tolist() == [1 + label % 3 for label in range(10)]
    assert not list((cache / "data" / name).glob("*.npy")), "nothing is copied"
    assert data.verify(name, data=root, cache=cache).train == spec.train


def test_the_numbers_of_the_real_ones():
    """CUB: Wah et al. 2011; iMaterialist and iNaturalist: their competitions' pages; -LT: the lists of Liu et al."""
    sizes = {name: (s.num_classes, s.train, s.test, s.validation) for name in LAYOUTS for s in [DATASETS[name].spec]}
    assert sizes == {
        "cub200": (200, 5_994, 5_794, 0),
        "tiny_imagenet": (200, 100_000, 10_000, 0),
        "inaturalist2019": (1010, 268_243 - 3_030, 3_030, 0),
        "imaterialist": (2019, 1_011_532, 10_095, 0),
        "imagenet_lt": (1000, 115_846, 50_000, 20_000),
        "places_lt": (365, 62_500, 36_500, 7_300),
    }
    for name in LAYOUTS:
        spec = DATASETS[name].spec
        assert len(set(spec.class_names)) == spec.num_classes and spec.streamed
    assert cub200.CLASSES[0] == "Black_footed_Albatross" and cub200.CLASSES[-1] == "Common_Yellowthroat"
    assert imagenet_lt.CLASSES == imagenet.CLASSES and places_lt.CLASSES[364] == "zen_garden"
    assert list(tiny_imagenet.FOLDERS) == sorted(set(tiny_imagenet.FOLDERS) & set(imagenet.FOLDERS))


def test_the_order_does_not_depend_on_the_folders_of_a_list(tmp_path):
    """Two spellings of Places-LT: other folders, the same images, in the same order."""
    orders = []
    for folders in (("a/airfield", "b/bank"), ("zoo", "airfield")):
        entries = [lists.Entry(f"{folders[label]}/{number}.jpg", label) for label in (1, 0) for number in (2, 1)]
        for entry in entries:
            picture(tmp_path / folders[0] / entry.name, entry.label, 0)
        index = lists.index_entries(tmp_path, {"train": (folders[0], entries), "test": (folders[0], [])}, ("a", "b"))
        train = index.parts["train"]
        orders.append(
            [(Path(name).name, label) for name, label in zip(train.names, train.labels.tolist(), strict=True)]
        )
    assert orders[0] == orders[1] == [("1.jpg", 0), ("2.jpg", 0), ("1.jpg", 1), ("2.jpg", 1)]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


BROKEN = {
    "no table": ("cub200", lambda r: (r / "images.txt").unlink(), "no data: looked for .*cub200/images.txt. Put CUB"),
    "no images": ("cub200", lambda r: shutil.rmtree(r / "images"), "looked for .*/cub200/images. Put CUB-200-2011"),
    "no label": (
        "cub200",
        lambda r: edit(r / "image_class_labels.txt", "7 3\n", ""),
        r"labels.txt: image 7 \(003.class2",
    ),
    "label 0": (
        "cub200",
        lambda r: edit(r / "image_class_labels.txt", "1 1\n", "1 0\n"),
        "label = -1: must be >= 0 and < 10",
    ),
    "label 11": (
        "cub200",
        lambda r: edit(r / "image_class_labels.txt", "1 1\n", "1 11\n"),
        "label = 10: must be >= 0 and < 10",
    ),
    "half a line": (
        "cub200",
        lambda r: edit(r / "images.txt", "1 001.class0/class0_0.jpg", "1"),
        "images.txt, line 1: '1': must have 2 words",
    ),
    "twice": (
        "cub200",
        lambda r: edit(r / "images.txt", "class0_1.jpg", "class0_0.jpg"),
        "train: 001.class0/class0_0.jpg is named twice",
    ),
    "overlap": (
        "cub200",
        lambda r: edit(r / "images.txt", "class0_2.jpg", "class0_0.jpg"),
        "train and test overlap: images/001.class0/class0_0.jpg is in both",
    ),
    "not there": (
        "cub200",
        lambda r: (r / "images/001.class0/class0_0.jpg").unlink(),
        r"1 of 20 train images are not there: 001.class0/class0_0.jpg",
    ),
    "empty": (
        "cub200",
        lambda r: (r / "images/001.class0/class0_0.jpg").write_bytes(b""),
        "1 of 20 train images are empty",
    ),
    "no class": (
        "tiny_imagenet",
        lambda r: edit(r / "val/val_annotations.txt", "\tn3\t", "\tn33\t"),
        "val_3.JPEG: class = 'n33': must be a class folder",
    ),
    "other folders": (
        "tiny_imagenet",
        lambda r: (r / "train/n3").rename(r / "train/n33"),
        r"must hold the 10 class folders .* differs in 'n3'",
    ),
    "fewer": (
        "tiny_imagenet",
        lambda r: (r / "train/n3/images/n3_1.JPEG").unlink(),
        "number of train images = 19: tiny_imagenet has 20",
    ),
    "no json": (
        "inaturalist2019",
        lambda r: (r / "val2019.json").write_text("{"),
        "val2019.json: must be json with images, annotations and categories",
    ),
    "category": (
        "inaturalist2019",
        lambda r: edit(r / "val2019.json", '"category_id": 3', '"category_id": 33'),
        "category_id = 33: must be one of the 10 categories",
    ),
    "no annotation": (
        "inaturalist2019",
        lambda r: edit(r / "val2019.json", '"image_id": 103', '"image_id": 999'),
        "3/103.jpg: no annotation names it",
    ),
    "no class key": (
        "imaterialist",
        lambda r: edit(r / "val.json", '"class": 3', '"class": "x"'),
        "image val3x0.jpg: label = 'x': must be a whole number",
    ),
    "a word": (
        "places_lt",
        lambda r: edit(r / "Places_LT_val.txt", " 3\n", " three\n"),
        "Places_LT_val.txt, line 4: label = 'three': must be a whole number",
    ),
    "no list": (
        "imagenet_lt",
        lambda r: (r / "ImageNet_LT_val.txt").unlink(),
        "looked for .*/imagenet_lt/ImageNet_LT_val.txt",
    ),
    "no class 3": (
        "places_lt",
        lambda r: edit(r / "Places_LT_train.txt", "train/class3/train_0.JPEG 3", "train/class0/of_no_list.JPEG 0"),
        r"class 'class3' \(label 3\) has no training image",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_bad_input_is_one_clear_line(kind, small, tmp_path):
    name, spoil, message = BROKEN[kind]
    root = small(name)
    spoil(root / name)
    with pytest.raises(InputError, match=message) as caught:
        data.prepare(name, data=root, cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache" / "data" / name).exists()


def test_another_list_is_not_the_published_one(small, monkeypatch, tmp_path):
    root = small("places_lt")
    known = DATASETS["places_lt"]
    published = replace(known, read=replace(known.read, digests=places_lt.READER.digests))
    monkeypatch.setitem(DATASETS.entries, "places_lt", published)
    with pytest.raises(
        InputError, match=r"Places_LT_train.txt: not the file of Places-LT .*: SHA-256 .* 09410632a2204521… or"
    ):
        data.prepare("places_lt", data=root, cache=tmp_path / "cache")


def test_images_beside_the_list_do_not_count_and_changed_ones_are_seen(small, tmp_path):
    root, cache = small("imagenet_lt"), tmp_path / "cache"
    data.prepare("imagenet_lt", data=root, cache=cache)
    picture(root / "imagenet/train/class0/another.JPEG", 0, 7)
    data.load(Dataset("imagenet_lt"), data=root, cache=cache)
    with open(root / "imagenet/train/class1/train_0.JPEG", "ab") as file:
        file.write(b"x")
    (root / "imagenet/val/class2/test_0.JPEG").unlink()
    with pytest.raises(InputError, match=r"1 gone \(../imagenet/val/class2/test_0.JPEG\), 1 of another size") as caught:
        data.load(Dataset("imagenet_lt"), data=root, cache=cache)
    assert "`lskd-data prepare imagenet_lt --force`" in str(caught.value)


@pytest.mark.parametrize("name", ["cub200", "imagenet_lt"])
def test_a_run_trains_on_it(name, small, monkeypatch, tmp_path, capsys):
    for word in ("raw", "cache", "results"):
        monkeypatch.setenv({"raw": "LSKD_DATA"}.get(word, f"LSKD_{word.upper()}"), str(tmp_path / word))
    small(name)
    few = "recipe.batch_size=10 recipe.epochs=1 recipe.augment.crop=16 recipe.schedule.warmup=0 recipe.precision=fp32"
    plain = f"runtime.progress=false runtime.threads=1 runtime.workers=1 hydra.run.dir={tmp_path}"
    words = f"dataset={name} arch=timm arch.model=test_resnet {few} {plain}".split()
    monkeypatch.setattr(sys, "argv", ["lskd-run", *words])
    with contextlib.suppress(SystemExit):
        cli.main()
    shown = capsys.readouterr()
    [result] = (tmp_path / "results" / "runs").glob("*/result.json")
    found = json.loads(result.read_text())
    assert found["examples"] == DATASETS[name].spec.train, shown.err
    assert set(found["last"]) == set(DATASETS[name].spec.parts) - {"train"}


def test_a_plug_in_reads_lists_of_its_own(tmp_path, forget):
    """With the general reader: two lists and the digest that `prepare` asks for."""
    root = tmp_path / "raw" / "mine"
    for part, count in (("train", 2), ("test", 1)):
        rows = [(f"{part} {label} {number}.jpg", label) for label in range(3) for number in range(count)]
        for name, label in rows:
            picture(root / "pictures" / name, label, 1)
        (root / f"{part}.txt").write_text("".join(f"{name}\t{label}\n" for name, label in rows))
    from lskd.data.readers import Annotated

    spec = data.Spec("mine", "Mine", 3, (3, 0, 0), 6, 3, ("a", "b", "c"), digest="")
    read = Annotated({"train": "train.txt", "test": "test.txt"}, images="pictures")
    data.register(spec)(read)
    with pytest.raises(InputError, match=r"give it digest='(.*)'") as caught:
        data.prepare("mine", data=tmp_path / "raw", cache=tmp_path / "cache")
    forget()
    data.register(replace(spec, digest=str(caught.value).split("'")[1]))(read)
    assert data.prepare("mine", data=tmp_path / "raw", cache=tmp_path / "cache").test == 3
