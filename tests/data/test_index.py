"""Streamed images and their index: what has changed since they were indexed is seen before a run uses them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lskd import data
from lskd.data import Dataset, index
from lskd.data import cache as disk
from lskd.data.readers import ImageFolders
from lskd.errors import InputError

CLASSES = ("ant", "bee")
DAY = 24 * 3600 * 10**9  # ns


@pytest.fixture
def root(write_photographs, tmp_path) -> Path:
    return write_photographs(tmp_path / "photographs", {"train": 6, "val": 3}, CLASSES)


def bring(root: Path, name: str = "mine", **options) -> data.Spec:
    return data.import_folder(name, root, cache=root.with_name("cache"), stream=True, **options)


def use(root: Path, name: str = "mine") -> None:
    """As a run does: before anything trains, and when it opens its data."""
    data.prepare(name, data=root, cache=root.with_name("cache"))
    data.load(Dataset(name), data=root, cache=root.with_name("cache"))


def spoil(path: Path, *, mtime: int = 0) -> None:
    """Other content of the same size; written `mtime` ns later than the old."""
    written, content = path.stat().st_mtime_ns + mtime, bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(written, written))


def move_times(root: Path, by: int = DAY) -> None:
    for path in root.rglob("*.JPEG"):
        os.utime(path, ns=(written := path.stat().st_mtime_ns + by, written))


CHANGES = {
    "a byte more": (lambda root: (root / "train/ant/0.JPEG").open("ab").write(b"x"), "1 of another size (train/ant/0"),
    "gone": (lambda root: (root / "val/bee/1.JPEG").unlink(), "1 gone (val/bee/1.JPEG)"),
    "new": (lambda root: shutil.copy(root / "val/bee/1.JPEG", root / "val/bee/9.JPEG"), "1 new (val/bee/9.JPEG)"),
    "a new class": (
        lambda root: shutil.copytree(root / "val/bee", root / "val/cat"),
        "3 new (val/cat/0.JPEG, val/cat/1.JPEG, val/cat/2.JPEG)",
    ),
    "renamed": (lambda root: (root / "val/bee/1.JPEG").rename(root / "val/bee/9.JPEG"), "1 gone (val/bee/1.JPEG), 1 n"),
    "other content": (lambda root: spoil(root / "train/ant/0.JPEG", mtime=DAY), "1 rewritten (train/ant/0.JPEG)"),
    "other content, same time": (lambda root: spoil(root / "train/ant/0.JPEG"), "1 rewritten (train/ant/0.JPEG)"),
    "all rewritten": (
        lambda root: [spoil(path) for path in root.rglob("*.JPEG")],
        "18 rewritten (train/ant/0.JPEG, train/ant/1.JPEG, ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_changed_images_are_refused_and_other_data_when_imported_again(change, root):
    first = bring(root)
    use(root)
    act, said = CHANGES[change]
    act(root)
    if change == "a new class":
        with pytest.raises(InputError) as caught:
            use(root)
        assert said in str(caught.value)
        return
    for again in (lambda: use(root), lambda: data.load(Dataset("mine"), data=root, cache=root.with_name("cache"))):
        with pytest.raises(InputError, match="not the images that were indexed: ") as caught:
            again()
        assert said in str(caught.value) and "\n" not in str(caught.value)
        assert f"`lskd-data import mine {root} --stream --force`" in str(caught.value)
    with pytest.raises(InputError, match="other data was imported under this name"):
        bring(root)
    second = bring(root, force=True)
    assert second.digest != first.digest
    use(root)
    assert bring(root) == second == data.verify("mine", cache=root.with_name("cache"))


def test_verify_names_all_that_broke_since_the_import(root):
    bring(root)
    (root / "train/ant/0.JPEG").write_bytes(b"")
    (root / "train/bee/1.JPEG").write_bytes(b"<html>404</html>")
    (root / "val/bee/1.JPEG").unlink()
    spoil(root / "val/ant/2.JPEG")
    (root / "val/ant/1.JPEG").unlink()
    os.mkfifo(root / "val/ant/1.JPEG")
    with pytest.raises(InputError) as caught:
        data.verify("mine", cache=root.with_name("cache"))
    broken, changed = str(caught.value).split("not the images that were indexed: ")
    assert "4 of 18 images cannot be used: train/ant/0.JPEG: not an image, but an empty file; train/bee/1" in broken
    assert "val/ant/1.JPEG: not a file" in broken
    assert "3 of another size (train/ant/0.JPEG, train/bee/1.JPEG, val/ant/1.JPEG)" in changed
    assert "1 gone (val/bee/1.JPEG)" in changed and "1 rewritten (val/ant/2.JPEG)" in changed


def test_two_changes_of_content_are_two_data_sets(root):
    digests = [bring(root).digest]
    for _ in range(2):
        spoil(root / "train/ant/0.JPEG")
        spoil(root / "train/ant/1.JPEG")
        digests.append(bring(root, force=True).digest)
    assert len(set(digests[:2])) == 2
    assert digests[2] != digests[1]


def test_a_copy_with_other_times_is_the_same_data(root, tmp_path):
    """Copied without times (rsync without -t), or to a file system that keeps seconds only."""
    first = bring(root)
    move_times(root)
    use(root)
    copy = shutil.copytree(root, tmp_path / "elsewhere")
    assert bring(copy) == first
    shutil.rmtree(root)
    use(copy)  # the index has followed the images
    assert json.loads((tmp_path / "cache/data/mine/meta.json").read_text())["root"] == str(copy)


@pytest.mark.parametrize(("moved", "unlike", "said"), [(1, 0, 1), (12, 0, 0), (12, 1, 7), (5, 0, 0), (3, 0, 2)])
def test_of_large_data_a_sample_is_compared(moved, unlike, said, root, monkeypatch):
    """12 training images, of which the content of 6 is known: where 2 of these are among the files written anew, and
    are the same, the others count as copied."""
    monkeypatch.setattr(index, "SAMPLE", 6)
    monkeypatch.setattr(index, "ENOUGH", 2)
    bring(root)
    found = disk.read(root.with_name("cache") / "data" / "mine", root)
    known = found.stamps.rows[found.stamps.rows < 12].tolist()
    others = [row for row in range(12) if row not in known]
    rows = {1: others[:1], 3: [*others[:2], known[0]], 5: [*others[:3], *known[:2]], 12: range(12)}[moved]
    for row in rows:
        path = root / found.files[row]
        spoil(path) if unlike and row == known[0] else None
        os.utime(path, ns=(written := path.stat().st_mtime_ns + DAY, written))
    changes = index.find_changes(found)
    assert len(changes.rewritten) == said
    assert not (changes.gone or changes.resized or changes.new)
    first = data.spec("mine", root.with_name("cache"))
    assert (bring(root, force=True).digest == first.digest) == (not said)


def test_an_index_of_an_older_version_still_works(root, tmp_path):
    """It has neither times nor contents; imported again, it gets them and stays the same data."""
    first = bring(root)
    folder = tmp_path / "cache" / "data" / "mine"
    meta = json.loads((folder / "meta.json").read_text())
    for key in ("content", "validation"):
        del meta[key]
    del meta["files"]["stamps.npz"]
    (folder / "stamps.npz").unlink()
    (folder / "meta.json").write_text(json.dumps(meta))
    use(root)
    assert data.verify("mine", cache=tmp_path / "cache") == first
    assert bring(root) == first and (folder / "stamps.npz").is_file()
    (root / "train/ant/0.JPEG").write_bytes(b"x")
    with pytest.raises(InputError, match="1 of another size"):
        use(root)


def test_what_an_older_version_counted_is_not_new_or_gone(root, tmp_path):
    """Thumbnails were images once, and are passed over now."""
    thumbnails = root / "train" / "ant" / "thumbs"
    thumbnails.mkdir()
    shutil.copy(root / "train/ant/0.JPEG", thumbnails / "0.JPEG")
    bring(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lskd.data.folders.SYSTEM_FOLDERS", {"thumbs"})
        use(root)


@pytest.mark.parametrize(("stream", "digest"), [(False, "2cb68fc8"), (True, "b48d6292")])
def test_the_digest_of_unchanged_data_never_changes(stream, digest, tmp_path):
    """Those of versions without stamps, validation parts and one rule for what counts."""
    rng = np.random.RandomState(0)
    for part, count in (("train", 6), ("val", 3)):
        for name in ("ant", "bée"):
            (tmp_path / "p" / part / name / "sub").mkdir(parents=True)
            for number in range(count):
                folder = tmp_path / "p" / part / name / ("sub" if number % 2 else ".")
                pixels = rng.randint(0, 256, (6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.ppm")
    spec = data.import_folder("mine", tmp_path / "p", cache=tmp_path / "cache", stream=stream)
    assert spec.digest[:8] == digest


def test_a_built_in_one_is_restored_or_indexed_again(root, tmp_path, monkeypatch):
    small = data.Spec("imagenet", "ImageNet", 2, (3, 0, 0), 12, 6, CLASSES, digest="")
    origin = data.Origin(small, ImageFolders(CLASSES, test="val"), "standard_streamed")
    monkeypatch.setitem(data.DATASETS.entries, "imagenet", origin)
    root.rename(tmp_path / "imagenet")
    data.load(Dataset("imagenet"), data=tmp_path, cache=tmp_path / "cache")
    spoil(tmp_path / "imagenet/train/ant/0.JPEG")
    with pytest.raises(
        InputError, match=r"1 rewritten .*; restore them, or if .* run `lskd-data prepare imagenet --force`"
    ):
        data.load(Dataset("imagenet"), data=tmp_path, cache=tmp_path / "cache")
