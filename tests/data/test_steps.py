"""Data steps: what they leave of a data set, against closed forms, and that the plan and the data agree about it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from lskd import data
from lskd.data import DATASETS, STEPS, Dataset, Spec, described
from lskd.data.selection import select
from lskd.data.sets.cifar100 import SUPERCLASSES
from lskd.data.step import Step, register
from lskd.data.steps.long_tail import exponential, pareto
from lskd.data.steps.noise import Noise
from lskd.errors import InputError
from lskd.schema import parse

CIFAR10, CIFAR100 = DATASETS["cifar10"].spec, DATASETS["cifar100"].spec
Parts = dict[str, tuple[np.ndarray, np.ndarray]]


def with_steps(*steps: Any, name: str = "cifar100", **fields: Any) -> Dataset:
    return parse(Dataset, {"name": name, "steps": list(steps), **fields}, "dataset")


def rows_of(spec: Spec, seed: int = 0) -> Parts:
    """As many labels as the data set has, shuffled; each image is its own number."""
    parts = {}
    for part in spec.parts:
        labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(spec.num_classes), spec.sizes(part)))
        parts[part] = np.arange(len(labels)), labels
    return parts


def chosen(dataset: Dataset, spec: Spec) -> Parts:
    found = select(dataset, spec, rows_of(spec), lambda spec: data.check(dataset, spec))
    return {part: (one.images, one.labels) for part, one in found.items()}


def relabelled(spec: Spec, **noise: Any) -> tuple[np.ndarray, np.ndarray]:
    """True and noisy training labels."""
    rows, noisy = chosen(with_steps({"noise": noise}, name=spec.name), spec)["train"]
    return rows_of(spec)["train"][1][rows], noisy


# ---- long tail ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec, imbalance, total, last",  # as printed by the papers that use these data sets
    [(CIFAR100, 100, 10_847, 5), (CIFAR100, 50, 12_608, 10), (CIFAR100, 10, 19_573, 50),
     (CIFAR10, 100, 12_406, 50), (CIFAR10, 50, 13_996, 100), (CIFAR10, 10, 20_431, 500)],
)  # fmt: skip
def test_an_exponential_long_tail_has_the_published_numbers_of_images(spec, imbalance, total, last):
    dataset = with_steps({"long_tail": {"imbalance": imbalance}}, name=spec.name)
    images, labels = chosen(dataset, spec)["train"]
    counts = np.bincount(labels)
    assert len(images) == len(set(images)) == total and counts[0] == spec.sizes()[0] and counts[-1] == last
    assert (np.diff(counts) <= 0).all()
    true = rows_of(spec)["train"][1]
    assert (true[images] == labels).all()


def test_whole_numbers_are_not_missed_by_the_last_bit_of_a_power():
    assert exponential(1000, 4, 1000) == [1000, 100, 10, 1]
    assert exponential(5 * 3**6, 7, 3.0**6) == [5 * 3**k for k in (6, 5, 4, 3, 2, 1, 0)]
    assert exponential(8, 1, 2.0) == [8] and exponential(7, 3, 1.0) == [7, 7, 7]


def test_a_longer_tail_keeps_some_of_the_images_of_a_shorter_one():
    kept = [set(chosen(with_steps({"long_tail": {"imbalance": one}}), CIFAR100)["train"][0]) for one in (100, 50, 10)]
    assert kept[0] < kept[1] < kept[2]
    other = chosen(with_steps({"long_tail": {"imbalance": 100, "seed": 1}}), CIFAR100)["train"][0]
    assert len(other) == len(kept[0]) and set(other) != kept[0]


def test_pareto_sizes_are_quantiles_of_the_distribution():
    sizes = np.array(pareto(1280, 1000, 6.0, 5))
    assert sizes[0] == 1280 and sizes[-1] == 5
    assert sizes.sum() == pytest.approx(115_846, rel=0.02)  # ImageNet-LT, which was drawn
    # P(more than x) = (1 + x)^-6 of NumPy's pareto(6), in units of which the largest class has the (K+1)-th quantile.
    unit = 1280 / (1001 ** (1 / 6) - 1)
    for k in (9, 99, 499):
        assert (1 + sizes[k] / unit) ** -6 == pytest.approx((k + 1) / 1001, rel=0.03)
    spec = described(with_steps({"long_tail": {"kind": "pareto"}}), CIFAR100)
    assert spec.sizes()[0] == 500 and spec.sizes()[-1] == 5


# ---- noise --------------------------------------------------------------------------------------------------------


def transitions(true: np.ndarray, noisy: np.ndarray, classes: int) -> np.ndarray:
    """(K, K): of each true class, the shares of labels."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (true, noisy), 1)
    return counts / counts.sum(1, keepdims=True)


def test_asymmetric_noise_of_cifar100_goes_round_in_each_superclass():
    found = transitions(*relabelled(CIFAR100, kind="asymmetric", rate=0.3), 100)
    expected = 0.7 * np.eye(100)
    for group in SUPERCLASSES.values():
        numbers = sorted(CIFAR100.class_names.index(name) for name in group)
        for here, there in zip(numbers, [*numbers[1:], numbers[0]], strict=True):
            expected[here, there] += 0.3
    assert np.allclose(found, expected)


def test_asymmetric_noise_of_cifar10_swaps_the_usual_pairs():
    found = transitions(*relabelled(CIFAR10, kind="asymmetric", rate=0.4), 10)
    expected = np.eye(10)  # airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck
    for here, there in ((9, 1), (2, 0), (4, 7), (3, 5), (5, 3)):
        expected[here, here], expected[here, there] = 0.6, 0.4
    assert np.allclose(found, expected)


def test_pairs_of_each_superclass_exchange_labels():
    """Of ProSelfLC's CIFAR-100: 40 classes in 20 pairs, so that 0.4 of the rate are wrong."""
    found = transitions(*relabelled(CIFAR100, kind="pairs", rate=0.3), 100)
    assert np.allclose(found, found.T) and np.allclose(found.sum(1), 1)
    for group in SUPERCLASSES.values():
        numbers = [CIFAR100.class_names.index(name) for name in group]
        own = found[np.ix_(numbers, numbers)]
        paired = np.diag(own) < 1
        assert paired.sum() == 2 and np.allclose(own[np.ix_(paired, paired)], [[0.7, 0.3], [0.3, 0.7]])
    assert np.trace(found) == pytest.approx(100 - 40 * 0.3)
    other = transitions(*relabelled(CIFAR100, kind="pairs", rate=0.3, seed=1), 100)
    assert np.trace(other) == pytest.approx(np.trace(found)) and not np.allclose(other, found)  # other pairs
    given = transitions(*relabelled(CIFAR10, kind="pairs", rate=0.5, flips={"cat": "dog"}), 10)
    expected = np.eye(10)
    expected[3, 3] = expected[3, 5] = expected[5, 3] = expected[5, 5] = 0.5
    assert np.allclose(given, expected)


def test_pairs_are_of_classes_that_are_left():
    dataset = with_steps(
        {"classes": {"names": ["whale", "beaver", "apple"]}}, {"noise": {"kind": "pairs", "rate": 1.0}}
    )
    rows, labels = chosen(dataset, CIFAR100)["train"]
    true = [CIFAR100.class_names[number] for number in rows_of(CIFAR100)["train"][1][rows]]
    became = dict(zip(true, (("whale", "beaver", "apple")[label] for label in labels), strict=True))
    assert became == {"whale": "beaver", "beaver": "whale", "apple": "apple"}


@pytest.mark.parametrize("rate", [0.2, 0.4, 0.6])
def test_noise_over_all_images_is_of_just_so_many(rate):
    """ProSelfLC's symmetric noise: int(r·N) images, whatever their classes, each with another label than its own."""
    true, noisy = relabelled(CIFAR100, rate=rate, counts="total")
    wrong = np.bincount(true[noisy != true], minlength=100)
    assert wrong.sum() == int(rate * 50_000)
    assert wrong.std() == pytest.approx(np.sqrt(500 * rate * (1 - rate)), rel=0.3)  # with counts=exact: 0
    assert len(relabelled(CIFAR10, rate=0.00003, counts="total")[0]) == 50_000


def test_the_true_labels_are_kept():
    steps = ({"classes": {"first": 8}}, {"long_tail": {"imbalance": 3}}, {"noise": {"rate": 0.3}})
    dataset = with_steps(*steps, name="cifar10", holdout=80, limit=4000)
    found = select(dataset, CIFAR10, rows_of(CIFAR10), lambda spec: data.check(dataset, spec))
    clean = replace(dataset, steps=dataset.steps[:2])
    assert (found["train"].true == chosen(clean, CIFAR10)["train"][1]).all()
    assert (found["train"].true == rows_of(CIFAR10)["train"][1][found["train"].images]).all()
    assert found["test"].true is None is found["validation"].true
    assert select(clean, CIFAR10, rows_of(CIFAR10), lambda spec: None)["train"].true is None
    assert dataset.relabelled and not clean.relabelled


def test_asymmetric_noise_by_a_given_map():
    found = transitions(*relabelled(CIFAR10, kind="asymmetric", rate=0.5, flips={"ship": "frog"}), 10)
    expected = np.eye(10)
    expected[8, 8], expected[8, 6] = 0.5, 0.5
    assert np.allclose(found, expected)


def test_a_circle_of_classes_closes_where_one_was_left_out():
    names = ["whale", "beaver", "otter", "apple"]  # of beaver → dolphin → otter → seal → whale → beaver
    dataset = with_steps({"classes": {"names": names}}, {"noise": {"kind": "asymmetric", "rate": 1.0}})
    rows, labels = chosen(dataset, CIFAR100)["train"]
    true = [CIFAR100.class_names[number] for number in rows_of(CIFAR100)["train"][1][rows]]
    became = dict(zip(true, (names[label] for label in labels), strict=True))
    assert became == {"beaver": "otter", "otter": "whale", "whale": "beaver", "apple": "apple"}


@pytest.mark.parametrize("rate", [0.2, 0.4, 0.8])
def test_symmetric_noise_is_uniform_over_the_other_classes(rate):
    true, noisy = relabelled(CIFAR10, rate=rate)
    found = transitions(true, noisy, 10)
    assert np.allclose(np.diag(found), 1 - rate)  # exactly so many of each class
    others = found[~np.eye(10, dtype=bool)]
    assert np.abs(others - rate / 9).max() < 4 * np.sqrt(rate / 9 / 5000)


def test_where_the_true_class_may_be_drawn_fewer_labels_are_wrong():
    true, noisy = relabelled(CIFAR10, rate=0.5, into="all")
    assert (true != noisy).mean() == pytest.approx(0.5 * 9 / 10, abs=4 * np.sqrt(0.25 / 50_000))


def test_bernoulli_noise_chooses_each_image_by_itself():
    true, noisy = relabelled(CIFAR100, rate=0.4, counts="bernoulli")
    wrong = np.array([(noisy[true == number] != number).sum() for number in range(100)])
    assert wrong.sum() / 50_000 == pytest.approx(0.4, abs=4 * np.sqrt(0.24 / 50_000))
    assert wrong.var() == pytest.approx(500 * 0.4 * 0.6, rel=0.6)  # with counts=exact: 0


@pytest.mark.parametrize("counts", ["exact", "total", "bernoulli"])
@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "pairs"])
def test_more_noise_leaves_the_wrong_labels_of_less(counts, kind):
    spec = CIFAR100 if kind == "pairs" else CIFAR10
    (true, low), (_, high) = (relabelled(spec, kind=kind, rate=rate, counts=counts) for rate in (0.2, 0.4))
    assert (high[low != true] == low[low != true]).all()
    other = relabelled(spec, kind=kind, rate=0.2, counts=counts, seed=1)[1]
    assert (other != low).any()


# ---- classes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step, names",
    [
        ({"first": 3}, ("airplane", "automobile", "bird")),
        ({"names": ["truck", "cat"]}, ("truck", "cat")),
        ({"draw": 4}, ("cat", "frog", "horse", "truck")),
        ({"draw": 4, "seed": 1}, ("airplane", "bird", "cat", "frog")),
    ],
)  # the draws are the same on every machine, for ever
def test_some_classes_are_left_in_all_parts_and_numbered_anew(step, names):
    dataset = with_steps({"classes": step}, name="cifar10")
    spec = described(dataset, CIFAR10)
    assert (spec.class_names, spec.num_classes, spec.train, spec.test) == (
        names, len(names), 5000 * len(names), 1000 * len(names),
    )  # fmt: skip
    for part, (images, labels) in chosen(dataset, CIFAR10).items():
        true = rows_of(CIFAR10)[part][1][images]
        assert [CIFAR10.class_names[number] for number in true] == [names[label] for label in labels]
        assert len(images) == getattr(spec, part)


# ---- together -----------------------------------------------------------------------------------------------------

UNEVEN = replace(CIFAR10, name="uneven").having(train=range(30, 230, 20), test=range(3, 13))


@pytest.mark.parametrize("spec", [UNEVEN, UNEVEN.having(validation=[4] * 10)], ids=["two parts", "three"])
@pytest.mark.parametrize(
    "steps",
    [
        [],
        [{"classes": {"draw": 6}}],
        [{"long_tail": {"imbalance": 8}}],
        [{"classes": {"names": ["dog", "cat", "truck", "ship"]}}, {"long_tail": {"kind": "pareto", "least": 2}}],
        [{"classes": {"first": 8}}, {"long_tail": {"imbalance": 3}}, {"noise": {"rate": 0.3}}],
    ],
)
@pytest.mark.parametrize("fields", [{}, {"holdout": 41}, {"holdout": 33, "limit": 150}, {"limit": 200}])
def test_what_is_told_beforehand_is_what_comes(spec, steps, fields):
    """Of classes of any sizes, whatever is held out and left out."""
    if spec.validation:
        fields = {key: value for key, value in fields.items() if key != "holdout"}
    dataset = with_steps(*steps, name="uneven", **fields)
    told, found = described(dataset, spec), chosen(dataset, spec)
    clean = chosen(replace(dataset, steps=tuple(one for one in dataset.steps if one.name != "noise")), spec)
    assert set(found) == set(told.parts)
    for part, (images, labels) in found.items():
        assert np.bincount(clean[part][1], minlength=told.num_classes).tolist() == list(told.sizes(part))
        assert len(images) == len(labels) == getattr(told, part) == sum(told.sizes(part))
        if part != "train":
            assert (labels == clean[part][1]).all()
    if len(steps) == 3:
        assert (found["train"][1] != clean["train"][1]).any()


def test_without_known_sizes_classes_are_taken_for_equal():
    spec = replace(CIFAR10, train=50_003, class_sizes=())
    assert spec.sizes() == (5001, 5001, 5001, *[5000] * 7)
    assert described(with_steps({"classes": {"first": 4}}, name="cifar10"), spec).train == 20_003


def test_a_prepared_data_set_knows_the_sizes_of_its_classes(write_photographs, tmp_path):
    root = write_photographs(tmp_path / "own", {"train": 5, "test": 2}, ("ant", "bee", "cat"))
    (root / "train" / "cat" / "0.JPEG").unlink()
    for stream in (False, True):
        spec = data.import_folder("own", root, cache=tmp_path / str(stream), stream=stream, size=None if stream else 8)
        assert spec.class_sizes == ((5, 5, 4), (2, 2, 2))
        assert data.spec("own", tmp_path / str(stream)) == spec


@pytest.mark.parametrize("stream", [False, True])
def test_images_of_a_cache_whether_resident_or_streamed(stream, write_photographs, tmp_path):
    root = write_photographs(tmp_path / "own", {"train": 8, "test": 2}, ("ant", "bee", "cat"))
    cache = tmp_path / "cache"
    spec = data.import_folder("own", root, cache=cache, stream=stream, size=None if stream else 8)
    steps = ({"classes": {"names": ["cat", "ant"]}}, {"long_tail": {"imbalance": 4}}, {"noise": {"rate": 0.5}})
    dataset = with_steps(*steps, name="own", digest=spec.digest)
    parts, told = data.load(dataset, data=tmp_path, cache=cache), data.spec_of(dataset, cache)
    images, labels, true = parts["train"]
    assert (told.class_names, told.sizes(), told.test) == (("cat", "ant"), (8, 2), 4)
    assert len(images) == 10 and labels.tolist().count(0) == 5  # 4 of the cats, and one of the ants
    assert true.bincount().tolist() == [8, 2] and (true != labels).sum() == 5
    assert parts["test"].labels.tolist().count(0) == 2
    if stream:
        folders = [name.split("/")[0] for name in images.names]
        assert folders.count("cat") == 8 and folders.count("ant") == 2


def test_a_published_list_of_images(write_photographs, tmp_path):
    root = write_photographs(tmp_path / "own", {"train": 4, "test": 2}, ("ant", "bee"))
    cache, lines = tmp_path / "cache", ["train/bee/2.JPEG 1", "train/ant/0.JPEG 0", "train/ant/3.JPEG 0"]
    spec = data.import_folder("own", root, cache=cache, stream=True)
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(lines) + "\n")
    digest = hashlib.sha256(listing.read_bytes()).hexdigest()

    def load(**fields: Any) -> Any:
        step = {"long_tail": {"kind": "file", "path": str(listing), "digest": digest, **fields}}
        dataset = with_steps(step, name="own", digest=spec.digest)
        data.check(dataset, spec)
        return data.spec_of(dataset, cache), data.load(dataset, data=tmp_path, cache=cache)

    told, parts = load()
    assert told.train == 3 and parts["train"].images.names.tolist() == ["ant/0.JPEG", "ant/3.JPEG", "bee/2.JPEG"]
    assert parts["train"].labels.tolist() == [0, 0, 1]
    with pytest.raises(InputError, match=rf"^steps\[0\].long_tail.digest = 'no': must be '{digest}'"):
        load(digest="no")
    with pytest.raises(InputError, match=r"long_tail\.path = '/nowhere': cannot be read"):
        load(path="/nowhere")
    for line, what in (("ant/9.JPEG", "none of the training images"), (lines[0], "twice")):
        listing.write_text("\n".join([*lines, line]))
        with pytest.raises(InputError, match=what):
            load(digest=hashlib.sha256(listing.read_bytes()).hexdigest())


TRUE = [0, 1, 1, 1, 2, 0, 0, 2, 2, 1, 1, 2, 1, 0, 0, 0, 2, 2]
TAIL_ROWS = [0, 3, 5, 6, 11, 12, 13, 14, 15]
NOISY = [1, 0, 1, 1, 2, 0, 0, 0, 2, 2, 1, 1, 2, 1, 0, 2, 2, 1]
NOISY_ALL = [0, 1, 1, 2, 0, 0, 0, 1, 2, 1, 1, 2, 1, 1, 1, 0, 2, 2]
NOISY_TOTAL = [1, 1, 0, 0, 1, 0, 0, 0, 0, 2, 1, 1, 1, 0, 0, 0, 0, 2]
PAIRED = ["apple-mushroom", "aquarium_fish-flatfish", "boy-woman", "bridge-skyscraper"]


def test_draws_never_change():
    """The same on every machine, for ever: identities do not say what was drawn."""
    spec = replace(CIFAR10, num_classes=3).having(train=[6, 6, 6], test=[1, 1, 1])

    def drawn(step: dict[str, Any]) -> list[list[int]]:
        images, labels = chosen(with_steps(step, name="cifar10"), spec)["train"]
        return [images.tolist(), labels.tolist()]

    assert rows_of(spec)["train"][1].tolist() == TRUE
    assert drawn({"long_tail": {"imbalance": 6}}) == [TAIL_ROWS, [TRUE[row] for row in TAIL_ROWS]]
    assert drawn({"noise": {"rate": 0.5}})[1] == NOISY
    assert drawn({"noise": {"rate": 0.5, "counts": "bernoulli", "into": "all", "seed": 2}})[1] == NOISY_ALL
    assert drawn({"noise": {"rate": 0.5, "counts": "total"}})[1] == NOISY_TOTAL
    pairs = parse(Noise, {"kind": "pairs", "rate": 0.5}, "noise").taken_for(CIFAR100)
    names = CIFAR100.class_names
    paired = [f"{names[one]}-{names[other]}" for one, other in enumerate(pairs) if one != other]
    assert len(paired) == 40 and paired[:4] == PAIRED


# ---- bad input ----------------------------------------------------------------------------------------------------

NOISE, TAIL, FIRST = {"noise": {"rate": 0.2}}, {"long_tail": {"imbalance": 10}}, {"classes": {"first": 10}}


@pytest.mark.parametrize(
    "steps, words",
    [
        ([{"classes": {"names": ["apple", "dragon"]}}], "names[1] = 'dragon': "),
        ([{"classes": {"names": ["apple", "apple"]}}], "must be 2 or more different classes"),
        ([{"classes": {"draw": 101}}], "classes.draw = 101: must be <= 100, the classes of cifar100"),
        ([{"classes": {"first": 1}}], "classes.first = 1: must be >= 2"),
        ([{"classes": {}}], "classes.first, names, draw: give one of them"),
        ([{"classes": {"first": 2, "draw": 3}}], "give one of them"),
        ([{"classes": {"first": 2, "seed": 3}}], "classes.seed = 3: is for draw"),
        ([{"long_tail": {"imbalance": 0.5}}], "long_tail.imbalance = 0.5: must be >= 1"),
        ([{"long_tail": {}}], "long_tail.imbalance: is required"),
        ([{"long_tail": {"imbalance": 1000}}], "long_tail.imbalance = 1000: must be <= 500"),
        ([{"long_tail": {"kind": "pareto", "imbalance": 5}}], "imbalance = 5.0: is for kind=exponential, not pareto"),
        ([{"long_tail": {"kind": "file"}}], "kind = file: is for streamed data sets; images of cifar100 have no names"),
        ([{"noise": {"rate": 1.5}}], "noise.rate = 1.5: must be in (0, 1]"),
        ([{"noise": {}}], "noise.rate = 0.0: must be in (0, 1]"),
        ([{"noise": {"rate": 0.1, "flips": {"apple": "pear"}}}], "is for kind=asymmetric"),
        ([{"noise": {"kind": "pairs", "rate": 0.1, "into": "all"}}], "into = all: is for kind=symmetric, not pairs"),
        ([{"noise": {"kind": "pairs", "rate": 0.1, "flips": {"apple": "pear", "pear": "bear"}}}], "in one pair"),
        ([{"noise": {"kind": "asymmetric", "rate": 0.1, "into": "all"}}], "into = all: is for kind=symmetric"),
        ([{"noise": {"kind": "asymmetric", "rate": 0.1, "flips": {"apple": "per"}}}], "flips = 'per': did you mean"),
        ([{"noise": {"kind": "asymmetric", "rate": 0.1, "flips": {"apple": "apple"}}}], "must be another class"),
        ([TAIL, FIRST], "steps[1] = classes: must stand before long_tail"),
        ([NOISE, TAIL], "steps[1] = long_tail: must stand before noise"),
        ([TAIL, TAIL], "steps[1] = long_tail: must stand there once"),
        ([{"clases": {}}], "steps[0] = 'clases': did you mean 'classes'?"),
        (["noise"], "must be a mapping with one key, classes, long_tail, noise"),
        ([NOISE | TAIL], "must be a mapping with one key"),
        ([{"noise": {"rat": 0.1}}], "noise.rat = 0.1: unknown key; did you mean 'rate'?"),
    ],
)
def test_bad_steps_are_one_line(steps, words):
    with pytest.raises(InputError) as caught:
        data.check(with_steps(*steps), CIFAR100)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_asymmetric_noise_needs_to_know_which_classes_are_alike():
    dataset = with_steps({"noise": {"kind": "asymmetric", "rate": 0.1}}, name="digits")
    with pytest.raises(InputError, match="which classes of digits are taken for one another is not known; give flips"):
        data.check(dataset, DATASETS["digits"].spec)


def test_holdout_and_limit_are_of_the_classes_that_are_left():
    data.check(with_steps(FIRST, limit=20), CIFAR100)
    with pytest.raises(InputError, match=r"holdout = 5000: must be < 5000, the training images"):
        data.check(with_steps(FIRST, holdout=5000), CIFAR100)


# ---- a step of somebody's own -------------------------------------------------------------------------------------


def test_a_plug_in_registers_a_step(forget):
    @register("every_other")
    @dataclass(frozen=True)
    class EveryOther(Step):
        begin: int = 0

        def describe(self, spec: Spec) -> Spec:
            return spec.having(train=[size // 2 for size in spec.sizes()])

        def apply(self, images, labels, spec):
            rows = np.sort(np.concatenate([np.flatnonzero(labels == k)[self.begin :: 2] for k in range(10)]))
            return images[rows], labels[rows]

    dataset = with_steps({"every_other": {}}, name="cifar10")
    assert STEPS["every_other"].name == str(STEPS["every_other"]).replace(" ", "_") == "every_other"
    assert described(dataset, CIFAR10).train == len(chosen(dataset, CIFAR10)["train"][0]) == 25_000
    [described_step] = (step.described() for step in dataset.steps)
    assert described_step["every_other"].keys() == {"begin", "code"}  # all its settings, and its code
    with pytest.raises(InputError, match=r"begin = 0\.5: must be a whole number"):
        with_steps({"every_other": {"begin": 0.5}})
