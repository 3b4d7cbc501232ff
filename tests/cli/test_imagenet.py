"""`experiment=muller_imagenet` from the command line, on a folder of JPEGs made up here in the place of ImageNet."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import timm

from lskd import data

CLASSES = ("cleaver", "meerkat", "miniature poodle", "tench", "toy poodle")  # those of Figure 1

# The experiment's own settings but for what makes it large; the data set is one that `lskd-data import --stream` made.
SMALL = (
    "experiment=muller_imagenet",
    "seeds=[0,1]",
    "++experiment.settings={dataset: insects, dataset.holdout: 8, arch: timm, arch.model: test_resnet, "
    "arch.drop_rate: 0.2, recipe.batch_size: 16, recipe.accumulate: 2, recipe.epochs: 4, recipe.augment.crop: 32, "
    "recipe.lr: 0.05, recipe.schedule.warmup: 1, recipe.precision: fp32}",
    "runtime.progress=false",
    "runtime.threads=1",
    "runtime.workers=2",
)


def test_without_the_data_it_is_planned_and_not_trained(lskd_run, tmp_path):
    done = lskd_run("experiment=muller_imagenet", "plan=true")
    assert done.code == 0, done.err
    assert "6 runs: 0 done, 6 to train" in done.out and "[48,160 steps, seeds 0-2]" in done.out
    commands = lskd_run("experiment=muller_imagenet", "plan=commands").out
    assert (
        "lskd-run dataset=imagenet_held_out arch=inception_v4 recipe=muller_inception_v4 alpha=0.1 seed=2" in commands
    )


def test_without_the_data_a_training_is_one_line_of_error(lskd_run, tmp_path):
    done = lskd_run("dataset=imagenet", "arch=timm", "arch.model=test_resnet")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert (
        f"looked for {tmp_path}/no data/imagenet/train/<class>/*.JPEG and {tmp_path}/no data/imagenet/val" in done.err
    )
    assert not list((tmp_path / "results").rglob("config.json"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("recipe.normalize={kind: dataset, mean: [], std: []}",), "must be none, fixed or per_image for a streamed"),
        (("recipe=crd",), "recipe.augment.resized: must be given, with crop, for a streamed data set"),
        (("arch.model=resnet_50",), "model = 'resnet_50': did you mean"),
        (("recipe.augment.resized.central=2",), "recipe.augment.resized.central = 2.0: must be in (0, 1]"),
        (("recipe.accumulate=7",), "recipe.accumulate = 7: must be a divisor of batch_size = 256"),
        (("runtime.workers=-1",), "runtime.workers = -1: must be >= 0"),
    ],
)
def test_bad_settings_are_errors_before_the_data_is_looked_for(lskd_run, words, message):
    done = lskd_run("dataset=imagenet", "arch=timm", *words)
    assert done.code == 2 and message in done.err


def test_resized_crops_of_data_in_memory_are_refused(lskd_run):
    done = lskd_run("dataset=digits", "recipe=standard_streamed", "recipe.normalize={kind: none, mean: [], std: []}")
    assert done.code == 2 and "recipe.augment.resized: is for streamed data sets only" in done.err


def test_the_whole_experiment(lskd_run, write_photographs, monkeypatch, tmp_path):
    """Four tables from four trainings; what is done is not trained again."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("LSKD_CACHE", str(cache))
    root = write_photographs(tmp_path / "photographs", {"train": 8, "val": 4}, CLASSES)
    data.import_folder("insects", root, cache=cache, stream=True)

    done = lskd_run(*SMALL)
    assert done.code == 0, done.err
    assert "4 runs: 0 done, 4 to train" in done.out
    for claim in ("C3", "C4", "C8"):
        assert claim in done.out
    assert "80.9" in done.out and "0.071" in done.out

    results = [json.loads(path.read_text()) for path in (tmp_path / "results" / "runs").glob("*/result.json")]
    assert len(results) == 4
    for result in results:
        assert (result["examples"], result["steps"]) == (32, 8)
        assert set(result["last"]) == {"test", "validation"} == set(result["best"])
        assert set(result["calibration"]["test"]["scaled"]) >= {"test", "validation"}
    for path in (tmp_path / "results" / "runs").glob("*/env.json"):
        assert json.loads(path.read_text())["timm"] == timm.__version__
    assert sorted(round(result["gamma"], 6) for result in results) == [0.0, 0.0, 0.1, 0.1]

    written = {path.stem for path in (tmp_path / "results").rglob("muller_*_imagenet*")}
    assert {"muller_table2_imagenet", "muller_table3_imagenet", "muller_figure1_imagenet"} <= written
    probed = [len(list(path.iterdir())) for path in (tmp_path / "results" / "runs").glob("*/probes")]
    assert probed == [2] * 4
    weights = list((tmp_path / "results" / "runs").glob("*/*.safetensors"))
    assert [safetensors.torch.load_file(path)["head.weight"].shape[0] for path in weights] == [5] * 4

    again = lskd_run(*SMALL)
    assert again.code == 0 and "4 runs: 4 done, 0 to train" in again.out
