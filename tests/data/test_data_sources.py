from __future__ import annotations

import gzip
import hashlib
import pickle
import socket
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lskd.data import DATASETS, Spec, readers, sources
from lskd.data.arrays import Arrays
from lskd.data.readers import read_shards
from lskd.errors import InputError


def assert_same(found: Arrays, expected: Arrays) -> None:
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert found.class_names == expected.class_names


def read(name: str, data: Path, *, download: bool = False) -> tuple[Arrays, str]:
    known = DATASETS[name]
    content, source = known.read(known.spec, data=data, download=download)
    assert isinstance(content, Arrays)
    return content, source


TINY = Spec("tiny", "Tiny", 3, (3, 6, 5), 30, 9, ("ant", "bee", "cat"), digest="")


def read_tiny(data: Path) -> Arrays:
    return read_shards(TINY, data=data, download=False)[0]


# Parquet


@pytest.mark.parametrize("below", ["", "data", "plain_text"])
@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "label"), ("img", "fine_label")])
def test_parquet_as_on_the_hub(image, label, below, arrays, write_parquet, tmp_path) -> None:
    write_parquet(tmp_path / "tiny" / below, arrays, image=image, label=label, shards=2)
    assert_same(read_tiny(tmp_path), arrays)


def test_parquet_without_shard_numbers_or_class_names(arrays, write_parquet, tmp_path) -> None:
    write_parquet(tmp_path, arrays, names=False)
    (tmp_path / "train-00000-of-00001.parquet").rename(tmp_path / "train.parquet")
    (tmp_path / "test-00000-of-00001.parquet").rename(tmp_path / "validation.parquet")
    found, source = sources.read_folder(tmp_path, size=None)
    assert_same(found, arrays._replace(class_names=("0", "1", "2")))
    assert "parquet" in source


@pytest.mark.parametrize("below", ["", "default"])
@pytest.mark.parametrize("part", ["test", "validation", "valid", "dev"])
def test_parquet_as_the_hub_converts_it(below, part, arrays, write_parquet, tmp_path) -> None:
    """train/0000.parquet, train/0001.parquet, …"""
    write_parquet(tmp_path / "flat", arrays, shards=2)
    for name, found in (("train", "train"), (part, "test")):
        (tmp_path / "whole" / below / name).mkdir(parents=True)
        for shard in range(2):
            file = tmp_path / "flat" / f"{found}-{shard:05d}-of-00002.parquet"
            file.rename(tmp_path / "whole" / below / name / f"{shard:04d}.parquet")
    assert_same(sources.read_folder(tmp_path / "whole", size=None)[0], arrays)
    (tmp_path / "whole" / below / "train" / "0000.parquet").unlink()
    with pytest.raises(InputError, match=r"train: 0000\.parquet is missing"):
        sources.read_folder(tmp_path / "whole", size=None)


@pytest.mark.parametrize("flat", [False, True])
def test_parquet_with_other_columns_bytes_and_words(flat, arrays, write_parquet, tmp_path) -> None:
    write_parquet(tmp_path, arrays, image="picture", label="kind", names=False, flat=flat, text=True)
    with pytest.raises(InputError, match="has picture, kind, coarse_label; --image-column says which"):
        sources.read_folder(tmp_path, size=None)
    with pytest.raises(InputError, match="must have a column knd, has picture, kind, coarse_label; --label-column"):
        sources.read_folder(tmp_path, None, sources.Columns("picture", "knd"))
    assert_same(sources.read_folder(tmp_path, None, sources.Columns("picture", "kind"))[0], arrays)


def test_parquet_with_categories(arrays, write_parquet, tmp_path) -> None:
    """As pandas writes a column of categories."""
    write_parquet(tmp_path, arrays, names=False, text=True)
    for path in tmp_path.iterdir():
        table = pq.read_table(path)
        pq.write_table(table.set_column(1, "label", table["label"].combine_chunks().dictionary_encode()), path)
    assert_same(sources.read_folder(tmp_path, size=None)[0], arrays)


def test_a_validation_part_of_parquet(arrays, write_parquet, tmp_path) -> None:
    write_parquet(tmp_path, arrays, parts=("train", "validation", "test"))
    found, _ = sources.read_folder(tmp_path, size=None)
    np.testing.assert_array_equal(found.validation_images, arrays.test_images)
    np.testing.assert_array_equal(found.validation_labels, arrays.test_labels)
    assert found.canonical().parts == ("train", "test", "validation")


def test_a_built_in_data_set_has_no_validation_part(tiny) -> None:
    shard = tiny / "tiny" / "test-00000-of-00003.parquet"
    shard.with_name("validation.parquet").write_bytes(shard.read_bytes())
    assert read_tiny(tiny).parts == ("train", "test")


def test_a_word_that_is_no_class_is_named_with_its_row(arrays, write_parquet, tmp_path) -> None:
    write_parquet(tmp_path, arrays, names=False, text=True)
    table = pq.read_table(tmp_path / "test-00000-of-00001.parquet")
    labels = ["ant"] * 8 + ["ape"]
    pq.write_table(table.set_column(1, "label", pa.array(labels)), tmp_path / "test-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"parquet, row 8: label = 'ape': must be one of the training part's"):
        sources.read_folder(tmp_path, size=None)


@pytest.mark.parametrize(
    ("name", "message"),
    [("caf\u00e9", "are one name in two Unicode forms"), ("a\tb", r"class 'a\\tb': must be UTF-8 without control")],
)
def test_words_that_cannot_be_names_of_classes(name, message, arrays, write_parquet, tmp_path) -> None:
    write_parquet(tmp_path, arrays._replace(class_names=(name, "cafe\u0301", "x")), names=False, text=True)
    with pytest.raises(InputError, match=message):
        sources.read_folder(tmp_path, size=None)


@pytest.mark.parametrize(
    ("label", "message"), [(2_000_000_000, "label = 2000000000: must be < 30"), (30, "30: must be < 30")]
)
def test_identifiers_are_not_labels(label, message, arrays, write_parquet, tmp_path) -> None:
    arrays.train_labels[3] = label
    write_parquet(tmp_path, arrays, names=False)
    with pytest.raises(InputError, match=f"{message}, the number of training images: labels count classes from 0"):
        sources.read_folder(tmp_path, size=None)


def test_gaps_in_labels_are_said(arrays, write_parquet, tmp_path, caplog) -> None:
    arrays.train_labels[arrays.train_labels == 1] = 2
    write_parquet(tmp_path, arrays, names=False)
    assert sources.read_folder(tmp_path, size=None)[0].class_names == ("0", "1", "2")
    assert "1 classes without a training image: 1" in caplog.text


def test_parquet_of_one_class(arrays, write_parquet, tmp_path) -> None:
    arrays.train_labels[:] = arrays.test_labels[:] = 0
    write_parquet(tmp_path, arrays, names=False)
    with pytest.raises(InputError, match="must have 2 or more classes, has 1"):
        sources.read_folder(tmp_path, size=None)


def test_all_bad_rows_are_named(arrays, write_parquet, tmp_path) -> None:
    write_parquet(tmp_path, arrays)
    path = tmp_path / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    images = [
        {"bytes": None if row in (2, 17) else image["bytes"]} for row, image in enumerate(table["image"].to_pylist())
    ]
    pq.write_table(table.set_column(0, "image", pa.array(images)), path)
    with pytest.raises(
        InputError, match=r"2 of 39 images cannot be used: train-.*parquet, row 2: .*; train-.*, row 17: "
    ):
        sources.read_folder(tmp_path, size=None)


def test_greyscale_parquet_has_one_channel(arrays, write_parquet, tmp_path) -> None:
    grey = arrays._replace(train_images=arrays.train_images[:, :1], test_images=arrays.test_images[:, :1])
    write_parquet(tmp_path / "tiny", grey)
    assert_same(read_tiny(tmp_path), grey)


def test_missing_shard_is_named(tiny) -> None:
    (tiny / "tiny" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(InputError, match=r"train-00001-of-00003\.parquet is missing"):
        read_tiny(tiny)


def test_shards_of_two_downloads_are_not_mixed(tiny) -> None:
    shard = tiny / "tiny" / "train-00001-of-00003.parquet"
    shard.with_name("train-00001-of-00002.parquet").write_bytes(shard.read_bytes())
    with pytest.raises(InputError, match="must hold the 3 numbered train shards only, not train-00000-of-00003"):
        read_tiny(tiny)


@pytest.mark.parametrize("keep", [0, 100, -20])
def test_truncated_shard_is_named(keep, tiny) -> None:
    shard = tiny / "tiny" / "test-00002-of-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"test-00002-of-00003\.parquet: damaged"):
        read_tiny(tiny)


def test_no_test_part(tiny) -> None:
    for shard in (tiny / "tiny").glob("test-*"):
        shard.unlink()
    with pytest.raises(InputError, match="no test part"):
        read_tiny(tiny)


def test_two_configurations_are_ambiguous(arrays, write_parquet, tmp_path) -> None:
    write_parquet(tmp_path / "tiny" / "one", arrays)
    write_parquet(tmp_path / "tiny" / "two", arrays)
    with pytest.raises(InputError, match="keep one of one, two"):
        read_tiny(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"picture": [{"bytes": b"", "path": None}], "label": [0]},
            "must have a column image or img, has picture, label",
        ),
        ({"image": [{"bytes": b"", "path": None}], "class": [0]}, "must have a column label or fine_label, has image"),
        ({"image": ["a"], "label": [0]}, "column 'image' is string: must be bytes, or a struct of bytes and path"),
        ({"image": [b""], "label": [0.0]}, "column 'label' is double: must be integers or strings"),
        ({"image": [b""], "label": [0]}, r"test\.parquet, row 0: not an image"),
        ({"image": [{"bytes": None, "path": "0.png"}], "label": [0]}, r"test\.parquet, row 0: not an image"),
        ({"image": [{"bytes": b"?", "path": None}], "label": [0]}, r"test\.parquet, row 0: not an image"),
        ({"image": [{"bytes": b"?", "path": None}], "label": pa.array([None], pa.int64())}, "rows without a value"),
        ({"image": pa.array([], pa.struct({"bytes": pa.binary()})), "label": pa.array([], pa.int64())}, "no images"),
    ],
)
def test_parquet_that_is_not_images_and_labels(columns, message, arrays, write_parquet, tmp_path) -> None:
    write_parquet(tmp_path, arrays)
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    with pytest.raises(InputError, match=message):
        sources.read_folder(tmp_path, size=None)


def test_label_out_of_range_is_named_with_its_row(arrays, write_parquet, tmp_path) -> None:
    arrays.test_labels[4] = -1  # what the hub writes where the labels of a test set are secret
    write_parquet(tmp_path, arrays)
    with pytest.raises(InputError, match=r"test-00000-of-00001\.parquet, row 4: label = -1: must be >= 0 and < 3"):
        sources.read_folder(tmp_path, size=None)


# Image folders


def write_folder(folder: Path, arrays: Arrays, *, test: str = "test") -> None:
    for part, name in (("train", "train"), ("test", test)):
        images, labels = getattr(arrays, f"{part}_images"), getattr(arrays, f"{part}_labels")
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / name / arrays.class_names[label] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(path)


@pytest.mark.parametrize("test", ["test", "val"])
def test_image_folder(test, arrays, tmp_path) -> None:
    write_folder(tmp_path, arrays, test=test)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".hidden").mkdir()
    found, source = sources.read_folder(tmp_path, size=None)
    assert_same(found.canonical(), arrays)
    assert source == f"image folder {tmp_path}"


def test_image_folder_of_two_sizes_needs_a_size(arrays, tmp_path) -> None:
    write_folder(tmp_path, arrays)
    Image.new("RGB", (7, 8)).save(tmp_path / "test" / "bee" / "z.png")
    with pytest.raises(InputError, match=r"z\.png: 7x8 RGB: must be 5x6 RGB as in .*, or import with --size N"):
        sources.read_image_folder(tmp_path)
    assert sources.read_image_folder(tmp_path, size=4).test_images.shape == (10, 3, 4, 4)


@pytest.mark.parametrize(("odd", "channels"), [("L", 1), ("RGBA", 3), ("P", 3)])
def test_resized_images_are_grey_only_if_all_are(odd, channels, tmp_path) -> None:
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("L", (3, 3), color=77).save(tmp_path / part / name / "a.png")
    Image.new(odd, (4, 9)).save(tmp_path / "test" / "bee" / "b.png")
    found = sources.read_image_folder(tmp_path, size=2)
    assert found.train_images.shape == (2, channels, 2, 2)
    assert found.test_images.shape == (3, channels, 2, 2)
    assert (found.train_images == 77).all()


def test_image_folder_errors(arrays, tmp_path) -> None:
    with pytest.raises(InputError, match="no data: must hold train/<class>"):
        sources.read_folder(tmp_path, size=None)
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="no test part"):
        sources.read_image_folder(tmp_path)
    (tmp_path / "test").mkdir()
    with pytest.raises(InputError, match="2 or more classes, has 0"):
        sources.read_image_folder(tmp_path)
    write_folder(tmp_path, arrays)
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(InputError, match="same classes, differ in 'dog'"):
        sources.read_image_folder(tmp_path)
    (tmp_path / "test" / "dog").mkdir()
    with pytest.raises(InputError, match="dog: no images"):
        sources.read_image_folder(tmp_path)
    for part in ("train", "test"):
        (tmp_path / part / "dog").rmdir()
    (tmp_path / "train" / "ant" / "x.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"x\.png: not an image"):
        sources.read_image_folder(tmp_path)
    Image.new("I;16", (5, 6)).save(tmp_path / "train" / "ant" / "x.png")
    with pytest.raises(InputError, match="mode I;16: must be 8 bits a channel"):
        sources.read_image_folder(tmp_path, size=4)


# torchvision


def write_mnist(root: Path, train: np.ndarray, test: np.ndarray) -> None:
    """torchvision's files of greyscale images (N, H, W); every label is 1."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, images in (("train", train), ("t10k", test)):
        header = struct.pack(">BBBBIII", 0, 0, 8, 3, *images.shape)
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">BBBBI", 0, 0, 8, 1, len(images))
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(header + b"\1" * len(images))


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.RandomState(1).randint(0, 256, (4, 3, 2), dtype=np.uint8)


@pytest.mark.parametrize("below", ["", "mnist"])
def test_torchvision_mnist(below, grey, tmp_path) -> None:
    write_mnist(tmp_path / below, grey, grey[:2])
    found, source = read("mnist", tmp_path)
    np.testing.assert_array_equal(found.train_images, grey[:, None])
    np.testing.assert_array_equal(found.test_images, grey[:2, None])
    assert found.train_labels.tolist() == [1, 1, 1, 1] and found.train_labels.dtype == np.int64
    assert source == f"torchvision's files in {tmp_path / below / 'MNIST' / 'raw'}"


def test_torchvision_mnist_cut_short(grey, tmp_path) -> None:
    write_mnist(tmp_path, grey, grey)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"raw: incomplete or damaged"):
        read("mnist", tmp_path)


def test_torchvision_cifar(tmp_path, monkeypatch) -> None:
    import torchvision

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    images = np.random.RandomState(2).randint(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    contents = {
        "train": {"data": images.reshape(4, -1), "fine_labels": [3, 2, 1, 0], "coarse_labels": [9, 9, 9, 9]},
        "test": {"data": images[:1].reshape(1, -1), "fine_labels": [5], "coarse_labels": [9]},
        "meta": {"fine_label_names": ["a"]},
    }
    md5 = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    cifar100 = torchvision.datasets.CIFAR100
    monkeypatch.setattr(cifar100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(cifar100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(cifar100, "meta", {**cifar100.meta, "md5": md5["meta"]})

    found, _ = read("cifar100", tmp_path)
    np.testing.assert_array_equal(found.train_images, images)
    np.testing.assert_array_equal(found.test_images, images[:1])
    assert found.train_labels.tolist() == [3, 2, 1, 0] and found.test_labels.tolist() == [5]

    (folder / "test").write_bytes(b"")
    with pytest.raises(InputError, match="cifar-100-python: incomplete or damaged"):
        read("cifar100", tmp_path)


def test_download_arrives_complete_or_not_at_all(grey, tmp_path, monkeypatch) -> None:
    import torchvision

    def download(self: torchvision.datasets.MNIST) -> None:
        write_mnist(Path(self.root), grey, grey)
        print("torchvision's chatter")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    found, source = read("mnist", tmp_path / "new", download=True)
    np.testing.assert_array_equal(found.train_images, grey[:, None])
    assert source == "downloaded by torchvision"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["MNIST"]


def test_no_data_and_no_network_is_one_line_that_says_what_to_do(tmp_path, monkeypatch, capfd) -> None:
    import torchvision

    calls = []

    def download(self: torchvision.datasets.MNIST) -> None:
        calls.append(socket.getdefaulttimeout())
        (Path(self.root) / "half.gz").write_bytes(gzip.compress(b"half"))
        raise URLError("no\nnetwork")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    with pytest.raises(InputError) as caught:
        read("mnist", tmp_path, download=True)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        f"MNIST/raw in {tmp_path / 'mnist'} and in {tmp_path},",
        f"train-*.parquet in {tmp_path / 'mnist'}",
        "the download failed (<urlopen error no network>)",
        "LSKD_DATA",
        "run `lskd-data prepare mnist` on a machine with a network and copy its cache",
        "`lskd-data import`",
    ):
        assert part in message
    assert calls == [readers._DOWNLOAD_TIMEOUT] and socket.getdefaulttimeout() is None
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""


def test_download_into_a_place_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"the download failed \(.*Not a directory"):
        read("mnist", tmp_path / "file" / "raw", download=True)


def test_without_download_nothing_is_tried(tmp_path) -> None:
    with pytest.raises(InputError) as caught:
        read("cifar10", tmp_path)
    assert "download failed" not in str(caught.value)


# scikit-learn


def test_digits() -> None:
    digits = read("digits", Path("nowhere"))[0]
    assert digits.train_images.shape == (1437, 1, 8, 8) and digits.test_images.shape == (360, 1, 8, 8)
    assert digits.train_images.dtype == np.uint8 and digits.train_images.max() == 255
    assert np.ptp(np.bincount(digits.test_labels)) <= 2
