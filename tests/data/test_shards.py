"""Shards as they come from the hub, streamed from where they are: tar (webdataset) and parquet."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lskd import data
from lskd.data import DATASETS, Dataset
from lskd.data import cli as data_cli
from lskd.data.augment import Augment, ResizedCrop
from lskd.data.sets.imagenet import FOLDERS
from lskd.data.stream import Streamed
from lskd.errors import InputError

CPU = torch.device("cpu")
Sample = tuple[str, bytes, int]  # key, image, label
PARTS = {"train": 4, "validation": 2}


def photograph(label: int, number: int) -> bytes:
    pixels = np.random.RandomState(100 * label + number).randint(0, 60, (24 + number, 30, 3))
    pixels[..., label % 3] += 120
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_tar(path: Path, samples: Sequence[Sample], *, by_json: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, image, label in samples:
            said = ("json", json.dumps({"label": label}).encode()) if by_json else ("cls", str(label).encode())
            for suffix, content in (("jpg", image), said):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def write_parquet(path: Path, samples: Sequence[Sample], *, group: int = 2, names: Sequence[str] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": image, "path": f"{key}.JPEG"} for key, image, _ in samples]
    features = {"info": {"features": {"label": {"names": list(names)}}}} if names else {}
    table = pa.table({"image": images, "label": [label for *_, label in samples]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path, row_group_size=group)


def samples_of(part: str, count: int, classes: int = 3) -> list[Sample]:
    """In an order of its own, as shards have them."""
    chosen = [
        (f"{part}_{label}_{number}", photograph(label, number), label)
        for number in range(count)
        for label in range(classes)
    ]
    return chosen[::-1]


@pytest.fixture(params=["tar", "json", "parquet"])
def root(request, tmp_path) -> Path:
    """Two shards of each part."""
    for part, count in PARTS.items():
        samples = samples_of(part, count)
        for number, shard in enumerate((samples[:4], samples[4:])):
            if request.param == "parquet":
                write_parquet(tmp_path / f"shards/{part}-{number:05d}-of-00002.parquet", shard)
            else:
                write_tar(tmp_path / f"shards/mine-{part}-{number:04d}.tar", shard, by_json=request.param == "json")
    return tmp_path / "shards"


def bring(root: Path, name: str = "mine", **options: bool) -> data.Spec:
    return data.import_folder(name, root, cache=root.with_name("cache"), stream=True, **options)


def test_what_is_read_is_what_was_put_in(root, tmp_path):
    spec = bring(root)
    assert (spec.train, spec.test, spec.class_names) == (12, 6, ("0", "1", "2"))
    parts = data.load(Dataset("mine", holdout=3), data=tmp_path, cache=tmp_path / "cache")
    found = {}
    for part, (files, labels, _) in parts.items():
        contents = [files.source(row).getvalue() for row in range(len(files))]
        assert len(set(contents)) == len(files) == len(labels)
        found[part] = dict(zip(contents, labels.tolist(), strict=True))
    expected = {part: {image: label for _, image, label in samples_of(part, count)} for part, count in PARTS.items()}
    assert found["test"] == expected["validation"]
    assert {**found["train"], **found["validation"]} == expected["train"]
    assert not set(found["train"]) & set(found["validation"])
    assert data.verify("mine", cache=tmp_path / "cache") == spec == bring(root)


def test_decoded_by_many_threads_in_any_order_they_are_the_files_pixels(root, tmp_path):
    bring(root)
    files, *_ = data.load(Dataset("mine"), data=tmp_path, cache=tmp_path / "cache")["train"]
    folder = tmp_path / "files"
    folder.mkdir()
    for row in range(len(files)):
        (folder / f"{row:02d}.JPEG").write_bytes(files.source(row).getvalue())
    names = np.array(sorted(os.listdir(folder)), dtype=object)
    augment, order = Augment(crop=9, flip=True, resized=ResizedCrop()), torch.randperm(12).repeat(5)
    views = torch.randint(2**62, (60,))
    shards, loose = (Streamed(its, augment, CPU, ThreadPoolExecutor(4)) for its in (files, type(files)(folder, names)))
    assert torch.equal(shards.take(order, views), loose.take(order, views))


def rewrite(path: Path, act: Callable[[bytearray], bytearray]) -> None:
    path.write_bytes(act(bytearray(path.read_bytes())))


def first(root: Path, part: str = "train") -> Path:
    return sorted(root.glob(f"*{part}*"))[0]


def zeroed(content: bytearray) -> bytearray:
    """The header of the second sample's image, whose place the first's says."""
    second = content.index(b".jpg", 512)
    begin = second // 512 * 512
    content[begin + 100 : begin + 110] = b"\xff" * 10
    return content


DAMAGED = {
    "cut short": (lambda c: c[: len(c) // 2], "damaged or not a (tar|parquet) file"),
    "something else": (lambda c: bytearray(b"<html>404</html>" * 100), "damaged or not a (tar|parquet) file"),
    "empty": (lambda c: bytearray(), "damaged or not a (tar|parquet) file"),
    "a header": (zeroed, "damaged"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_shard_is_named(kind, root, tmp_path):
    act, message = DAMAGED[kind]
    if kind == "a header" and first(root).suffix == ".parquet":
        return
    rewrite(first(root), act)
    with pytest.raises(InputError, match=message) as caught:
        bring(root)
    assert str(first(root)) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "cache/data/mine").exists()


def test_shards_that_have_changed_are_seen(root, tmp_path):
    bring(root)
    path, other = first(root), first(root, "validation")
    before = path.read_bytes(), other.read_bytes()
    with path.open("ab") as file:
        file.write(b"\0" * 512)
    other.unlink()
    with pytest.raises(InputError, match=r": 4 of another size|: 4 gone \(.*, 4 of another size") as caught:
        data.load(Dataset("mine"), data=tmp_path, cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    content = bytearray(before[0])
    content[content.index(b"\xff\xd9") - 20] ^= 1  # within an image, whose bytes are too random to be compressed
    path.write_bytes(content)
    other.write_bytes(before[1])
    with pytest.raises(InputError, match=r": 1 rewritten \("):
        data.prepare("mine", data=tmp_path, cache=tmp_path / "cache")
    path.write_bytes(before[0])
    data.prepare("mine", data=tmp_path, cache=tmp_path / "cache")


def test_a_missing_shard_is_named(root, tmp_path):
    path = first(root)
    path.rename(path.with_name("mine-train-0003.tar") if path.suffix == ".tar" else path.with_name("other.parquet"))
    with pytest.raises(InputError, match=r"(mine-train-0002.tar|train-00000-of-00002.parquet) is missing"):
        bring(root)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([("a", photograph(0, 0), -1), ("b", photograph(1, 0), 1)], "label = -1: must be >= 0 and < 2"),
        ([("a", photograph(0, 0), 0), ("b", photograph(1, 0), 7)], "label = 7: must be < 2, the number of training im"),
        ([("a", photograph(0, 0), 0), ("b", photograph(1, 0), 0)], "must have 2 or more classes, has 1"),
        ([("a", photograph(0, 0), 0), ("b", b"no image", 1)], "b.*: not an image that can be decoded"),
    ],
)
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_bad_samples_are_refused(kind, samples, message, tmp_path):
    write = write_tar if kind == "tar" else write_parquet
    for part in ("train", "test"):
        write(tmp_path / f"shards/{part}.{kind}", samples if part == "train" else [("a", photograph(0, 0), 0)])
    with pytest.raises(InputError, match=message) as caught:
        bring(tmp_path / "shards")
    assert "\n" not in str(caught.value)


def test_bad_tars_are_refused(tmp_path):
    write_tar(tmp_path / "shards/test.tar", samples_of("test", 1))
    path = tmp_path / "shards/train.tar"
    write_tar(path, samples_of("train", 2))
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("lost.jpg")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(InputError, match=r"train.tar: lost.jpg: no label: must have a file .cls, or .json"):
        bring(tmp_path / "shards")
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("lost.cls")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"cat"))
    with pytest.raises(InputError, match=r"lost.jpg: label = 'cat': must be a whole number"):
        bring(tmp_path / "shards")


def test_the_command_says_what_tars_need(tmp_path, capsys):
    for part in ("train", "test"):
        write_tar(tmp_path / f"shards/{part}/0000.tar", samples_of(part, 2))
    words = ["import", "mine", str(tmp_path / "shards"), "--cache", str(tmp_path / "cache")]
    assert data_cli.main(words) == 2
    assert "tar shards are streamed: add --stream" in capsys.readouterr().err
    assert data_cli.main([*words, "--stream"]) == 0
    assert "mine: 3 classes, images of various sizes, streamed, 6 train, 6 test" in capsys.readouterr().out


def test_one_part_can_be_split_and_names_come_from_parquet(tmp_path):
    write_parquet(tmp_path / "shards/train.parquet", samples_of("train", 5), names=("ant", "bee", "cat"))
    spec = data.import_folder("mine", tmp_path / "shards", cache=tmp_path / "cache", stream=True, split=0.4)
    assert (spec.train, spec.test, spec.class_names) == (9, 6, ("ant", "bee", "cat"))
    parts = data.load(Dataset("mine"), data=tmp_path, cache=tmp_path / "cache")
    assert parts["test"].labels.bincount().tolist() == [2, 2, 2]
    contents = {
        part: {files.source(row).getvalue() for row in range(len(files))} for part, (files, *_) in parts.items()
    }
    assert not contents["train"] & contents["test"]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_imagenet_is_the_same_from_folders_and_from_shards(kind, monkeypatch, tmp_path):
    """The same images, labels and order, and so the same digest: a run does not see which it has."""
    known = DATASETS["imagenet"]
    spec = replace(known.spec, num_classes=2, train=8, test=4, class_names=known.spec.class_names[:2])
    small = replace(known, spec=spec, read=replace(known.read, folders=FOLDERS[:2]))
    monkeypatch.setitem(DATASETS.entries, "imagenet", small)
    found = {}
    for layout in ("folders", "shards"):
        root = tmp_path / layout / "imagenet"
        for part, folder, count in (("train", "train", 4), ("validation", "val", 2)):
            samples = []
            for label, synset in enumerate(FOLDERS[:2]):
                for number in range(count):
                    image = photograph(label, number)
                    name = f"{synset}_{97 - number}" if part == "train" else f"ILSVRC2012_val_{label}{number}"
                    samples.append((f"{name}_{synset}" if kind == "parquet" else name, image, label))
                    if layout == "folders":
                        (root / folder / synset).mkdir(parents=True, exist_ok=True)
                        (root / folder / synset / f"{name}.JPEG").write_bytes(image)
            if layout == "shards":
                write, name = (write_tar, "0") if kind == "tar" else (write_parquet, "00000-of-00001")
                write(
                    root / f"imagenet1k-{part}-{name}.tar" if kind == "tar" else root / f"{part}-{name}.parquet",
                    samples,
                )
                if part == "validation":  # the hub's third part has no labels
                    write(root / f"test-{name}.{kind}", [("a", photograph(0, 0), -1)])
        cache = tmp_path / layout / "cache"
        parts = data.load(Dataset("imagenet", holdout=2), data=root.parent, cache=cache)
        source = [
            Path(p).read_bytes() if isinstance(p, str) else p.getvalue()
            for p in (parts["train"].images.source(row) for row in range(6))
        ]
        found[layout] = (
            source,
            parts["train"].labels.tolist(),
            json.loads((cache / "data/imagenet/meta.json").read_text())["digest"],
        )
    assert found["folders"] == found["shards"]
