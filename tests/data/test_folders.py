"""Image folders: which files count, and what is said of the others; the same whether images are decoded or streamed."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import subprocess
import sys
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lskd import data
from lskd.data import Dataset
from lskd.data.folders import SYSTEM_FOLDERS, some
from lskd.errors import InputError

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["decoded", "streamed"])
COUNTS = {"train": 4, "test": 2}  # images of each class
NFC, NFD = "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")


@pytest.fixture
def root(tmp_path) -> Path:
    return write(tmp_path / "pictures", COUNTS)


def write(root: Path, counts: dict[str, int], classes: tuple[str, ...] = ("ant", "bee")) -> Path:
    """Images of one size, no two of them equal."""
    for part, count in counts.items():
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                picture(root / part / name / f"{number}.png")
    return root


def picture(path: Path, mode: str = "RGB", **options) -> Path:
    pixels = np.random.RandomState(zlib.crc32(str(path).encode(errors="surrogateescape"))).randint(
        0, 256, (6, 5, 3), dtype=np.uint8
    )
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def bring(root: Path, stream: bool, **options) -> data.Spec:
    """Imported, and loaded as a run does."""
    cache = root.with_name("cache")
    spec = data.import_folder("mine", root, cache=cache, stream=stream, force=True, **options)
    parts = data.load(Dataset("mine"), data=root, cache=cache)
    assert {part: len(images.labels) for part, images in parts.items()} == {
        part: getattr(spec, part) for part in spec.parts
    }
    return spec


# ---- what counts ----------------------------------------------------------------------------------------------------


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def make(path: Path, content: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def nested(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(path)


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.open(path.parent, os.O_RDONLY)  # a socket's path may have 100 bytes only
        one.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


# What is added to a class of 4 images; how many count then; what is said.
ADDED = {
    "hidden": (lambda ant: nested(ant / ".0.png"), 4, "1 hidden files or folders passed over: train/ant/.0.png"),
    "notebook": (lambda ant: nested(ant / ".ipynb_checkpoints" / "0.png"), 4, "train/ant/.ipynb_checkpoints"),
    "notebook, deep": (lambda ant: nested(ant / "a" / "b" / ".ipynb_checkpoints" / "0.png"), 4, "a/b/.ipynb"),
    "beside classes": (lambda ant: nested(ant.parent / ".ipynb_checkpoints" / "0.png"), 4, "hidden files or folders"),
    "thumbnails": (lambda ant: nested(ant / "@eaDir" / "0.png" / "S.png"), 4, "systems keep .*: train/ant/@eaDir"),
    "thumbnails of all": (lambda ant: nested(ant.parent / "@eaDir" / "0.png"), 4, "systems keep their own"),
    "archive": (lambda ant: nested(ant.parent / "__MACOSX" / "0.png"), 4, "systems keep their own things: __MACOSX"),
    "thumbs.db": (lambda ant: make(ant / "Thumbs.db"), 4, "1 files passed over that end in .db: train/ant/Thumbs.db"),
    "no suffix": (lambda ant: make(ant / "png"), 4, "1 files passed over that end in no suffix of images"),
    "odd suffix": (lambda ant: make(ant / "a.{x}"), 4, "no suffix of images: train/ant/a.{x}"),
    "pipe": (lambda ant: os.mkfifo(ant / "p.png"), 4, "1 pipes, sockets or devices passed over: train/ant/p.png"),
    "socket": (lambda ant: bind(ant / "s.png"), 4, "1 pipes, sockets or devices passed over: train/ant/s.png"),
    "device": (lambda ant: link(ant / "d.png", Path("/dev/zero")), 4, "devices passed over: train/ant/d.png"),
    "loop": (lambda ant: link(ant / "deep" / "up", ant), 4, "1 links passed over to a folder around them: .*deep/up"),
    "not in a class": (lambda ant: nested(ant.parent / "x.png"), 4, "1 images passed over that are in no class"),
    "another part": (lambda ant: nested(ant.parent.with_name("extra") / "x.png"), 4, "beside the parts .*: extra"),
    "upper case": (lambda ant: picture(ant / "A.PNG"), 5, ""),
    "folder": (lambda ant: nested(ant / "more" / "0.png"), 5, ""),
    "folder named as an image": (lambda ant: nested(ant / "x.png" / "0.png"), 5, ""),
    "link to a file": (lambda ant: link(ant / "l.png", picture(ant.parents[2] / "out.png")), 5, ""),
    "link to a folder": (lambda ant: link(ant / "more", write(ant.parents[2] / "far", {"x": 3}, ("y",))), 7, ""),
    "not UTF-8": (lambda ant: os.rename(picture(ant / "c.png"), os.fsencode(ant) + b"/caf\xe9.png"), 5, ""),
    "carriage return": (lambda ant: picture(ant / "c\rd.png"), 5, ""),
    "line break": (lambda ant: picture(ant / "c\nd.png"), 5, ""),
    "tab": (lambda ant: picture(ant / "c\td.png"), 5, ""),
    "line separators": (lambda ant: picture(ant / "c\x85\u2028\x0b d.png"), 5, ""),
}


@BOTH
@pytest.mark.parametrize("case", ADDED)
def test_what_counts_is_the_same_both_ways_and_the_rest_is_said(case, stream, root, caplog):
    add, count, said = ADDED[case]
    add(root / "train" / "ant")
    spec = bring(root, stream)
    assert (spec.train, spec.test, spec.class_names) == (count + 4, 4, ("ant", "bee"))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (said != "")
    if said:
        assert re.search(said, warnings[0])
    assert data.verify("mine", cache=root.with_name("cache")) == spec


def test_names_and_digests_do_not_depend_on_the_locale(tmp_path):
    root, cache = write(tmp_path / "pictures", COUNTS, ("ant", "bée")), tmp_path / "other"
    picture(root / "train" / "bée" / "ü.png")
    program = """
import sys
from lskd.data.cli import main
for how in ([], ["--stream"]):
    assert main(["import", f"mine{len(how)}", sys.argv[1], "--cache", sys.argv[2], *how]) == 0
"""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program, root, cache], env=plain, check=True, capture_output=True)
    for name, stream in (("mine0", False), ("mine1", True)):
        assert data.verify(name, cache=cache) == dataclasses.replace(bring(root, stream), name=name, title=name)


def test_folders_of_systems_are_known_in_any_case():
    assert {name.lower() for name in SYSTEM_FOLDERS} == SYSTEM_FOLDERS


def test_what_can_be_read_only_by_others_is_an_error(root, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("bee"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for stream in (False, True):
        with pytest.raises(InputError, match=r"train/bee: cannot be read \(Permission denied\)"):
            bring(root, stream)


# ---- what cannot be used --------------------------------------------------------------------------------------------

BROKEN = {
    "empty": (lambda path: path.write_bytes(b""), "not an image, but an empty file"),
    "html": (lambda path: path.write_bytes(b"<html>404</html>"), "not an image that can be decoded .* no known format"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:60]), "not an image that can be decoded"),
    "16 bits": (lambda path: Image.new("I;16", (5, 6)).save(path), "mode I;16: must be 8 bits a channel"),
    "link to nothing": (lambda path: (path.unlink(), path.symlink_to("nowhere")), "a link to nothing"),
}


@BOTH
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_image_is_an_error_of_the_import(case, stream, root):
    spoil, reason = BROKEN[case]
    spoil(root / "test" / "bee" / "1.png")
    with pytest.raises(InputError, match=f"pictures: 1 of 12 images cannot be used: test/bee/1.png: {reason}"):
        bring(root, stream)


@BOTH
def test_all_broken_images_are_named_in_one_line(stream, root):
    names = ["train/ant/0.png", "train/ant/3.png", "train/bee/1.png", "test/ant/1.png"]
    for name, (spoil, _) in zip(names, [BROKEN[key] for key in ("html", "16 bits", "cut short", "html")], strict=True):
        spoil(root / name)
    with pytest.raises(InputError, match="4 of 12 images cannot be used: ") as caught:
        bring(root, stream)
    assert all(name in str(caught.value) for name in names) and "\n" not in str(caught.value)


@BOTH
def test_of_many_broken_images_ten_are_named(stream, tmp_path):
    root = write(tmp_path / "pictures", {"train": 20, "test": 7})
    for path in sorted((root / "train").rglob("*.png")):
        path.write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"40 of 54 images cannot be used: .*; and 30 more$"):
        bring(root, stream)


def test_verify_decodes_every_streamed_image_and_names_all_broken_ones(tmp_path):
    """More of them than are looked at by the import."""
    root = write(tmp_path / "pictures", {"train": 20, "test": 2})
    cache = tmp_path / "cache"
    broken = [root / "train" / "ant" / f"{number}.png" for number in range(8, 20)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lskd.data.index.SAMPLE", 1)
        for number, path in enumerate(broken):
            path.write_bytes(b"<html>404</html>" if number % 2 else path.read_bytes()[:-30])
        data.import_folder("mine", root, cache=cache, stream=True)
    with pytest.raises(InputError, match="12 of 44 images cannot be used: ") as caught:
        data.verify("mine", cache=cache)
    assert all(f"train/ant/{path.name}: not an image" in str(caught.value) for path in broken)


@BOTH
def test_a_class_without_images_says_what_is_there(stream, root):
    for path in (root / "train" / "bee").iterdir():
        path.rename(path.with_suffix(".gif"))
    with pytest.raises(InputError, match=r"train/bee: no images \(4 files passed over that end in .gif: "):
        bring(root, stream)


def test_mixed_sizes_have_two_remedies(root):
    Image.new("RGB", (9, 9)).save(root / "train" / "bee" / "z.png")
    with pytest.raises(InputError, match=r"--size N to resize all, or with --stream to crop them in training"):
        bring(root, stream=False)


# ---- what is odd ----------------------------------------------------------------------------------------------------


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


ODD = {
    "turned": (lambda path: picture(path, exif=turned()), "1 images that a viewer turns .*: train/ant/0.png"),
    "animated": (
        lambda path: Image.new("RGB", (5, 6)).save(
            path, "PNG", save_all=True, append_images=[Image.new("RGB", (5, 6), "red")]
        ),
        "1 animated images, of which the first frame counts: train/ant/0.png",
    ),
    "renamed": (
        lambda path: Image.new("RGB", (5, 6)).save(path, "JPEG"),
        r"1 images of another format than their names say: train/ant/0.png \(JPEG\)",
    ),
    "copied to test": (
        lambda path: (path.parents[2] / "test" / "bee" / "1.png").write_bytes(path.read_bytes()),
        "1 test images equal to a training image: test/bee/1.png = train/ant/0.png",
    ),
}


@BOTH
@pytest.mark.parametrize("case", ODD)
def test_odd_images_are_used_and_said(case, stream, root, caplog):
    """Decoded as by torchvision: never turned. What needs all images to be decoded, verify says of streamed ones."""
    odd, said = ODD[case]
    path = root / "train" / "ant" / "0.png"
    odd(path)
    spec = bring(root, stream)
    if stream:
        data.verify("mine", cache=root.with_name("cache"))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and re.search(said, warnings[0])
    assert spec.train == 8


def test_verify_says_duplicates_of_decoded_data_too(root, caplog):
    ODD["copied to test"][0](root / "train" / "ant" / "0.png")
    bring(root, stream=False)
    caplog.clear()
    data.verify("mine", cache=root.with_name("cache"))
    assert "mine: 1 test images equal to a training image: test " in caplog.text


def test_an_orientation_changes_no_pixel(tmp_path):
    one, other = (write(tmp_path / name, COUNTS) for name in ("a", "b"))
    for path in sorted(one.rglob("*.png")):
        image = Image.open(path)
        image.save(path)
        image.save(other / path.relative_to(one), exif=turned())
    digests = {data.import_folder(root.name, root, cache=tmp_path / "cache").digest for root in (one, other)}
    assert len(digests) == 1


# ---- classes --------------------------------------------------------------------------------------------------------


@BOTH
def test_two_forms_of_a_name_are_shown(stream, tmp_path):
    root = write(tmp_path / "pictures", {"train": 1}, ("ant", NFC))
    write(root, {"test": 1}, ("ant", NFD))
    with pytest.raises(InputError, match="one name in two Unicode forms") as caught:
        bring(root, stream)
    assert r"'caf\xe9'" in str(caught.value) and r"'cafe\u0301'" in str(caught.value)
    with pytest.raises(InputError, match=r"pictures/train: .* are one name in two Unicode forms"):
        (root / "train" / NFD).mkdir()
        bring(root, stream)


@BOTH
@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("ant",), "must hold a folder for each of 2 or more classes, has 1"),
        (("ant", "b\nee"), r"class 'b\\nee': must be UTF-8 without control characters"),
        (("ant", os.fsdecode(b"caf\xe9")), r"class 'caf\\udce9': must be UTF-8 without control characters"),
    ],
)
def test_classes_that_cannot_be_used(classes, message, stream, tmp_path):
    with pytest.raises(InputError, match=message):
        bring(write(tmp_path / "pictures", COUNTS, classes), stream)


# ---- parts ----------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("own", ["val", "valid", "validation", "dev"])
def test_a_validation_part_of_its_own(own, stream, tmp_path):
    root = write(tmp_path / "pictures", {"train": 4, own: 3, "test": 2})
    spec = bring(root, stream)
    assert (spec.train, spec.validation, spec.test) == (8, 6, 4)
    cache = tmp_path / "cache"
    assert data.spec("mine", cache) == data.verify("mine", cache=cache) == spec
    data.check(Dataset("mine", evaluate="validation"), spec)
    with pytest.raises(InputError, match="holdout = 4: must be 0: mine has a validation part of its own"):
        data.load(Dataset("mine", holdout=4), data=tmp_path, cache=cache)
    parts = data.load(Dataset("mine", limit=4, evaluate="validation"), data=tmp_path, cache=cache)
    assert {part: len(images.labels) for part, images in parts.items()} == {"train": 4, "test": 4, "validation": 6}
    without = data.import_folder("other", write(tmp_path / "o", COUNTS), cache=cache, stream=stream)
    assert without.validation == 0 and without.digest != spec.digest


@BOTH
@pytest.mark.parametrize("own", ["val", "valid", "validation", "dev"])
def test_a_part_of_that_name_alone_is_the_test_part(own, stream, tmp_path):
    spec = bring(write(tmp_path / "pictures", {"train": 4, own: 3}), stream)
    assert (spec.train, spec.validation, spec.test) == (8, 0, 6)


@BOTH
@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ({"train": 2, "val": 1, "valid": 1}, {}, "val and valid could be one part: keep one of them"),
        ({"train": 2}, {}, "no test part .* one of test, val, valid, validation, dev; or draw one with --split 0.2"),
        (COUNTS, {"split": 0.2}, "--split is for data without a test part, and test is one"),
        ({"Train": 2, "Test": 1}, {}, "must hold train/<class>.* or <class>/.*.png with --split 0.2; has Test, Train"),
        ({"train": 2}, {"split": 1.0}, "split = 1: must be > 0 and < 1"),
        ({"train": 2}, {"split": float("nan")}, "split = nan: must be > 0 and < 1"),
        ({"train": 2}, {"split": 0.2, "seed": -1}, "seed = -1: must be >= 0"),
        ({"train": 2}, {"split": 0.1}, r"split = 0.1: class 'ant' has too few images for both parts \(2\)"),
        ({"train": 2}, {"image_column": "a"}, "parquet"),
    ],
)
def test_parts_that_cannot_be_told(counts, options, message, stream, tmp_path):
    with pytest.raises(InputError, match=message):
        bring(write(tmp_path / "pictures", counts), stream, **options)


@BOTH
@pytest.mark.parametrize("below", ["", "train"])
def test_an_unsplit_folder_is_split_by_class_and_seed(below, stream, tmp_path):
    root = write(tmp_path / "pictures", {below: 10} if below else {".": 10})
    cache = tmp_path / "cache"
    digests = []
    for seed in (0, 0, 1):
        spec = bring(root, stream, split=0.2, seed=seed)
        assert (spec.train, spec.validation, spec.test) == (16, 0, 4)
        parts = data.load(Dataset("mine"), data=tmp_path, cache=cache)
        assert parts["test"].labels.bincount().tolist() == [2, 2]
        digests.append(spec.digest)
        assert data.verify("mine", cache=cache) == spec
    assert digests[0] == digests[1] != digests[2]
    assert "a share of 0.2 drawn with seed 1" in (cache / "data" / "mine" / "meta.json").read_text(encoding="utf-8")


def test_a_class_may_be_called_train(tmp_path):
    spec = bring(write(tmp_path / "pictures", {".": 5}, ("bus", "train")), stream=False, split=0.2)
    assert spec.class_names == ("bus", "train")


def test_a_list_that_is_too_long_says_how_many_more():
    assert some(["a", "b\n", "c", "d"], most=2) == "a, b\\n and 2 more"
