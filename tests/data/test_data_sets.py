from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lskd
from lskd import data
from lskd.data import DATASETS, Dataset, cache, scratch
from lskd.errors import InputError

SRC = Path(lskd.__file__).parent.parent


def python(code: str, *args: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    return subprocess.Popen([sys.executable, "-c", code, *args], env=env, text=True, stdout=-1, stderr=-1)


def replace_spec(monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    """Of "tiny"."""
    known = DATASETS["tiny"]
    changed = dataclasses.replace(known, spec=dataclasses.replace(known.spec, **fields))
    monkeypatch.setitem(DATASETS.entries, "tiny", changed)


def entries(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "data").iterdir()) if (root / "data").exists() else []


def test_importing_is_cheap() -> None:
    heavy = "{'torch', 'torchvision', 'numpy', 'pyarrow', 'sklearn', 'PIL'}"
    out, err = python(f"import sys, lskd.data, lskd.data.cli; print({heavy} & set(sys.modules))").communicate()
    assert (out.strip(), err) == ("set()", "")


# Dataset, Spec


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"holdout": -1}, "holdout = -1: must be >= 0"),
        ({"limit": -2}, "limit = -2: must be >= 0"),
        ({"holdout_seed": -1}, "holdout_seed = -1: must be >= 0"),
        ({"holdout_seed": 2**32}, f"holdout_seed = {2**32}: must be >= 0 and <= {2**32 - 1}"),
        ({"evaluate": "tset"}, "evaluate = 'tset': did you mean 'test'"),
    ],
)
def test_dataset_out_of_range(fields, message) -> None:
    with pytest.raises(InputError) as caught:
        Dataset("mnist", **fields)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"evaluate": "validation"}, "evaluate = 'validation': must be 'test' when holdout = 0"),
        ({"holdout": 9}, "holdout = 9: must be 0, or >= 10, the classes of mnist"),
        ({"limit": 3}, "limit = 3: must be 0, or >= 10, the classes of mnist"),
        ({"holdout": 60_000}, "holdout = 60000: must be < 60000, the training images of mnist"),
        ({"holdout": 50_000, "limit": 10_001}, "limit = 10001: must be <= 10000, the training images of mnist (60000)"),
        ({"digest": "abc"}, "digest = 'abc': must be empty for mnist"),
    ],
)
def test_parts_that_the_data_cannot_give(fields, message) -> None:
    with pytest.raises(InputError) as caught:
        data.check(Dataset("mnist", **fields), DATASETS["mnist"].spec)
    assert str(caught.value).startswith(message)


def test_parts_at_the_limits() -> None:
    data.check(Dataset("mnist", holdout=10_000, limit=50_000), DATASETS["mnist"].spec)
    data.check(Dataset("mnist", holdout=59_999, evaluate="validation"), DATASETS["mnist"].spec)


def test_built_in_specs_are_consistent() -> None:
    for name, known in DATASETS.items():
        spec = known.spec
        assert spec.name == name
        if spec.kind != "translation":  # whose classes are the tokens of a run's vocabulary
            assert len(spec.class_names) == len(set(spec.class_names)) == spec.num_classes
        assert len(spec.digest) == (0 if spec.streamed or (spec.kind != "images" and name != "multi30k") else 64)
        assert len(spec.shape) == (3 if spec.kind == "images" else 0)
        assert (spec.text is None) == (spec.kind == "images")


def test_unknown_name_suggests_also_imported_ones(arrays, write_parquet, tmp_path) -> None:
    write_parquet(tmp_path / "shards", arrays)
    data.import_folder("insects", tmp_path / "shards", cache=tmp_path)
    with pytest.raises(InputError, match=r"dataset.name = 'insect': did you mean 'insects'\? allowed: cifar10, "):
        data.spec("insect", tmp_path)
    with pytest.raises(InputError, match=r"dataset.name = '\.\./data/insects'"):
        data.spec("../data/insects", tmp_path)


# load


def test_load_prepares_once(tiny, arrays, tmp_path, monkeypatch) -> None:
    first = data.load(Dataset("tiny"), data=tiny, cache=tmp_path)
    unread = dataclasses.replace(DATASETS["tiny"], read=None)
    monkeypatch.setitem(DATASETS.entries, "tiny", unread)  # from here on, reading the source would fail
    parts = data.load(Dataset("tiny"), data=tiny, cache=tmp_path)
    assert set(parts) == set(first) == {"train", "test"}
    for part in ("train", "test"):
        images, labels, _ = parts[part]
        assert (str(images.dtype), str(labels.dtype)) == ("torch.uint8", "torch.int64")
        np.testing.assert_array_equal(images.numpy(), getattr(arrays, f"{part}_images"))
        np.testing.assert_array_equal(labels.numpy(), getattr(arrays, f"{part}_labels"))


def test_holdout_and_limit_are_balanced_disjoint_and_seeded(tiny, tmp_path) -> None:
    def rows(holdout_seed: int, limit: int) -> dict[str, set[bytes]]:
        dataset = Dataset("tiny", holdout=6, holdout_seed=holdout_seed, limit=limit, evaluate="validation")
        parts = data.load(dataset, data=tiny, cache=tmp_path)
        assert parts["validation"].labels.bincount().tolist() == [2, 2, 2]
        assert parts["train"].labels.bincount().tolist() == [(limit or 24) // 3] * 3
        return {name: {image.numpy().tobytes() for image in part.images} for name, part in parts.items()}

    whole, limited, other = rows(0, 0), rows(0, 9), rows(1, 0)
    assert not whole["validation"] & whole["train"]
    assert len(whole["validation"] | whole["train"]) == 30
    assert limited["validation"] == whole["validation"] and limited["train"] < whole["train"]
    assert other["validation"] != whole["validation"] and other["test"] == whole["test"]


def test_load_checks_the_digest_of_imported_data(arrays, write_parquet, tmp_path) -> None:
    write_parquet(tmp_path / "shards", arrays)
    spec = data.import_folder("mine", tmp_path / "shards", cache=tmp_path)
    parts = data.load(Dataset("mine", digest=spec.digest), data=tmp_path, cache=tmp_path)
    assert parts["train"].images.shape == (30, 3, 6, 5)
    with pytest.raises(InputError, match="digest = 'other': must be '"):
        data.load(Dataset("mine", digest="other"), data=tmp_path, cache=tmp_path)


# prepare, verify


def test_order_of_the_source_does_not_matter(tiny, arrays, write_parquet, tmp_path) -> None:
    order = np.random.RandomState(5).permutation(30)
    shuffled = arrays._replace(train_images=arrays.train_images[order], train_labels=arrays.train_labels[order])
    write_parquet(tmp_path / "other" / "tiny", shuffled, image="img")
    data.prepare("tiny", data=tiny, cache=tmp_path / "a")
    data.prepare("tiny", data=tmp_path / "other", cache=tmp_path / "b")
    for file in ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"):
        assert (tmp_path / "a/data/tiny" / file).read_bytes() == (tmp_path / "b/data/tiny" / file).read_bytes()


def test_equal_images_are_ordered_by_label(arrays) -> None:
    images = np.zeros((3, 1, 2, 2), dtype=np.uint8)
    doubled = arrays._replace(train_images=images, train_labels=np.array([2, 0, 1]))
    assert doubled.canonical().train_labels.tolist() == [0, 1, 2]


def test_digits_are_the_ones_that_are_known(tmp_path) -> None:
    data.prepare("digits", data=tmp_path, cache=tmp_path)
    assert data.verify("digits", cache=tmp_path) == DATASETS["digits"].spec


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("train", 31, "number of train images = 30: tiny has 31"),
        ("test", 8, "number of test images = 9: tiny has 8"),
        ("shape", (3, 5, 6), r"image shape \(C, H, W\) = \(3, 6, 5\): tiny has \(3, 5, 6\)"),
        ("digest", "0" * 64, "pixels or labels differ from tiny"),
    ],
)
def test_other_data_than_expected_is_not_cached(field, value, message, tiny, tmp_path, monkeypatch) -> None:
    replace_spec(monkeypatch, **{field: value})
    with pytest.raises(InputError, match=message):
        data.prepare("tiny", data=tiny, cache=tmp_path)
    assert entries(tmp_path) == []


PREPARE = """
import json, sys
from pathlib import Path
from lskd import data
raw, cache, spec = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
from lskd.data.readers import read_shards
spec |= {name: tuple(spec[name]) for name in ("shape", "class_names", "tests")}
data.register(data.Spec(**spec))(read_shards)
from lskd.data import cache as disk
write = disk.write
def write_when_both_are_ready(*args, **kwargs):
    print("ready", flush=True)
    sys.stdin.readline()
    write(*args, **kwargs)
disk.write = write_when_both_are_ready
data.prepare("tiny", data=raw, cache=cache)
"""


def test_two_processes_that_prepare_at_once_both_succeed(tiny, tmp_path) -> None:
    spec = json.dumps(dataclasses.asdict(DATASETS["tiny"].spec))
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    command = [sys.executable, "-c", PREPARE, str(tiny), str(tmp_path), spec]
    pair = [subprocess.Popen(command, env=env, stdin=-1, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    for process in pair:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in pair:
        _, err = process.communicate("go\n")
        assert process.returncode == 0, err
    assert entries(tmp_path) == ["tiny"]  # and nothing temporary
    data.verify("tiny", cache=tmp_path)


def test_failure_while_writing_leaves_nothing(tiny, tmp_path, monkeypatch) -> None:
    def disk_full(path: Path, array: np.ndarray) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", disk_full)
    with pytest.raises(InputError, match=r"cannot write the cache \(No space left on device\): set LSKD_CACHE"):
        data.prepare("tiny", data=tiny, cache=tmp_path)
    assert entries(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from lskd import data
raw, cache = Path(sys.argv[1]), Path(sys.argv[2])
import numpy as np
save = np.save
def save_and_die(path, array):
    save(path, array)
    if path.name == "test_images.npy":
        print("half", flush=True)
        sys.stdin.readline()
        os.kill(os.getpid(), signal.SIGKILL)
np.save = save_and_die
data.import_folder("mine", raw, cache=cache)
"""


def test_what_a_killed_import_leaves_is_deleted_and_what_a_living_one_makes_is_not(tiny, tmp_path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tiny / "tiny"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(SRC)}, stdin=-1, stdout=-1, stderr=-1, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "half\n"
    data.prepare("tiny", data=tiny, cache=tmp_path)
    [unfinished, finished] = entries(tmp_path)
    assert unfinished.startswith(".mine.") and finished == "tiny"
    process.communicate("die\n")
    data.prepare("tiny", data=tiny, cache=tmp_path)  # which has nothing to do
    assert entries(tmp_path) == ["tiny"]


def test_what_another_machine_makes_is_deleted_when_it_is_old(tmp_path) -> None:
    places = [tmp_path / f".mine.{'0' * 32}{end}" for end in (".deadbeef", "", ".old")]
    for place in places:
        place.mkdir()
    (tmp_path / ".mine.config").mkdir()  # no name of ours
    scratch.clear(tmp_path)
    assert all(place.is_dir() for place in places)
    for place in tmp_path.iterdir():
        os.utime(place, (0, 0))
    scratch.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mine.config"]


@pytest.mark.parametrize("locks", [True, False])
def test_scratch_folders_without_locks_are_kept_until_they_are_old(locks, tmp_path, monkeypatch) -> None:
    def refuse(lock: int, how: int) -> None:
        raise OSError(38, "Function not implemented")

    if not locks:
        monkeypatch.setattr(scratch.fcntl, "flock", refuse)
    with scratch.scratch(tmp_path, "mine") as place:
        scratch.clear(tmp_path)
        assert place.is_dir()
        os.utime(place, (0, 0))
        scratch.clear(tmp_path)
        assert place.is_dir() == locks
    assert list(tmp_path.iterdir()) == []


def test_data_that_was_about_to_be_replaced_comes_back(tmp_path) -> None:
    """A process that dies between two renames."""
    with scratch.scratch(tmp_path, "mine") as place:
        (place / scratch.REPLACED).mkdir()
        (place / scratch.REPLACED / "meta.json").touch()
        shutil.copytree(place, tmp_path / f".mine.{'0' * 32}.{scratch._machine()}")
    scratch.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"] and (tmp_path / "mine" / "meta.json").is_file()


FILES = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy", "meta.json")


@pytest.mark.parametrize("damage", ["remove", "truncate", "flip"])
@pytest.mark.parametrize("file", FILES)
def test_damaged_cache_is_named_and_mended_by_force(file, damage, tiny, tmp_path) -> None:
    data.prepare("tiny", data=tiny, cache=tmp_path)
    path = tmp_path / "data" / "tiny" / file
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(
            content[:-9] if damage == "truncate" else content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        )
    for use in (
        lambda: data.load(Dataset("tiny"), data=tiny, cache=tmp_path),
        lambda: data.verify("tiny", cache=tmp_path),
        lambda: data.prepare("tiny", data=tiny, cache=tmp_path),
    ):
        with pytest.raises(InputError) as caught:
            use()
        assert str(path) in str(caught.value) and "run `lskd-data prepare tiny --force`" in str(caught.value)
    data.prepare("tiny", data=tiny, cache=tmp_path, force=True)
    data.verify("tiny", cache=tmp_path)
    assert entries(tmp_path) == ["tiny"]


@pytest.mark.parametrize("meta", ["", "[]", "{}", '"x"', "null", '{"shape": 3}', '{"shape": ["a", 1, 2]}'])
def test_garbled_meta(meta, tiny, tmp_path) -> None:
    data.prepare("tiny", data=tiny, cache=tmp_path)
    (tmp_path / "data" / "tiny" / "meta.json").write_text(meta)
    with pytest.raises(InputError, match=r"meta\.json: damaged"):
        data.load(Dataset("tiny"), data=tiny, cache=tmp_path)


def test_cache_of_other_data_under_a_built_in_name(tiny, tmp_path, monkeypatch) -> None:
    data.prepare("tiny", data=tiny, cache=tmp_path)
    replace_spec(monkeypatch, digest="0" * 64)
    with pytest.raises(InputError, match="describes other data than tiny"):
        data.load(Dataset("tiny"), data=tiny, cache=tmp_path)


def test_verify_looks_at_the_content_too(tiny, arrays, tmp_path) -> None:
    arrays.train_images[0] ^= 1
    cache.write(tmp_path / "data" / "tiny", DATASETS["tiny"].spec, arrays, source="a test", replace=False)
    with pytest.raises(InputError, match="pixels or labels differ from tiny"):
        data.verify("tiny", cache=tmp_path)


def test_verify_what_is_not_there(tmp_path) -> None:
    with pytest.raises(InputError, match=r"not in the cache: run `lskd-data prepare mnist`$"):
        data.verify("mnist", cache=tmp_path)


# import_folder


def test_import_under_a_name_that_is_taken(arrays, write_parquet, tmp_path) -> None:
    write_parquet(tmp_path / "one", arrays)
    first = data.import_folder("mine", tmp_path / "one", cache=tmp_path)
    assert data.import_folder("mine", tmp_path / "one", cache=tmp_path) == first  # the same data: nothing to do
    assert data.imported(tmp_path) == {"mine": first} and data.spec("mine", tmp_path) == first

    arrays.test_labels[:] = 0
    write_parquet(tmp_path / "two", arrays)
    with pytest.raises(InputError, match="name = 'mine': other data was imported under this name"):
        data.import_folder("mine", tmp_path / "two", cache=tmp_path)
    assert data.spec("mine", tmp_path) == first
    second = data.import_folder("mine", tmp_path / "two", cache=tmp_path, force=True)
    assert data.verify("mine", cache=tmp_path) == second != first


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("My-Data", None, "name = 'My-Data': must be made of a-z, 0-9 and _ only"),
        ("", None, "name = '': must be"),
        ("a=1", None, "name = 'a=1': must be made of"),
        ("a,b", None, "name = 'a,b': must be made of"),
        ("null", None, "name = 'null': dataset=null would be read as a number, true, false or null"),
        ("true", None, "name = 'true': dataset=true would be read"),
        ("off", None, "name = 'off': dataset=off would be read"),
        ("123", None, "name = '123': dataset=123 would be read"),
        ("1e3", None, "name = '1e3': dataset=1e3 would be read"),
        ("1_000", None, "name = '1_000': dataset=1_000 would be read"),
        ("0x1f", None, "name = '0x1f': dataset=0x1f would be read"),
        ("nan", None, "name = 'nan': dataset=nan would be read"),
        ("cifar10_40k", None, "name = 'cifar10_40k': is a part of a built-in data set"),
        ("mnist", None, "name = 'mnist': is a built-in data set"),
        ("mine", 0, "size = 0: must be >= 1"),
    ],
)
def test_import_of_a_bad_name_or_size(name, size, message, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        data.import_folder(name, tmp_path, cache=tmp_path, size=size)


def test_names_of_shipped_choices_are_taken(tmp_path) -> None:
    for name in (*DATASETS, *(path.stem for path in (SRC.parent / "conf" / "dataset").glob("*.yaml"))):
        with pytest.raises(InputError, match=f"name = '{name}': is a (part of a )?built-in data set"):
            data.import_folder(name, tmp_path, cache=tmp_path)


@pytest.mark.parametrize("name", ["102flowers", "nulls", "e1", "true_or_not", "_1", "a1e3"])
def test_names_that_only_look_like_values_are_names(name, arrays, write_parquet, tmp_path) -> None:
    write_parquet(tmp_path / "shards", arrays)
    data.import_folder(name, tmp_path / "shards", cache=tmp_path)
    assert data.spec(name, tmp_path).train == 30


def test_damaged_imports_are_left_out_of_the_list(arrays, write_parquet, tmp_path, caplog) -> None:
    write_parquet(tmp_path / "shards", arrays)
    for name in ("good", "bad"):
        data.import_folder(name, tmp_path / "shards", cache=tmp_path)
    (tmp_path / "data" / "bad" / "meta.json").write_text("{")
    assert list(data.imported(tmp_path)) == ["good"]
    assert "run `lskd-data import bad PATH --force`" in caplog.text


# Roots


def test_default_roots(monkeypatch) -> None:
    for name in ("LSKD_DATA", "LSKD_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert data.default_cache_root() == Path.home() / ".cache" / "lskd"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert data.default_cache_root() == Path("/xdg/lskd")
    assert data.default_data_root() == Path("/xdg/lskd/raw")
    assert data.default_data_root(Path("/other")) == Path("/other/raw")
    monkeypatch.setenv("LSKD_CACHE", "/cache")
    monkeypatch.setenv("LSKD_DATA", "~/raw")
    assert data.default_cache_root() == Path("/cache")
    assert data.default_data_root(Path("/other")) == Path.home() / "raw"
