"""The experiments of Zhang & Sabuncu 2020 from the command line, on scikit-learn's digits in the place of CIFAR."""

from __future__ import annotations

import json
import re

import pytest

import lskd
from lskd.config_groups import Conf
from lskd.report.show import show
from lskd.report.site.runs import training
from lskd.report.words import number
from lskd.snapshot import Snapshot
from lskd.store import Store

OVER = {
    "dataset": "digits", "dataset.limit": "60", "recipe.epochs": "2", "recipe.batch_size": "20", "recipe.lr": "0.1",
    "recipe.precision": "fp32", "recipe.evaluate_every": "1", "recipe.augment.crop": "0", "recipe.augment.pad": "1",
    "recipe.normalize": "{kind: none, mean: [], std: []}",
}  # fmt: skip
MLP = {"arch": "mlp", "arch.hidden": "[12]"}
VGG = {"arch": "vgg8", "arch.widths": "[4, 6, 8, 8, 8]"}


def taught(network: dict[str, str]) -> dict[str, str]:
    """A network, and its teacher, which learns for longer."""
    return {**network, **{f"teacher.{key}": value for key, value in network.items()}, "teacher.recipe.epochs": "10"}


# Of each experiment: what else is laid over it, and the runs of one seed.
PATHS = {
    "zhang_temperature": ({"dataset.holdout": "20", **taught(MLP)}, 10),
    "zhang_methods_small": (
        {**VGG, "recipe.epochs": "18", "recipe.augment.pad": "0", "recipe.augment.flip": "false"},
        6,
    ),
    "zhang_generations_small": (taught(VGG), 7),
    "zhang_temperature_small": (taught(VGG), 9),
}


@pytest.mark.every(2)
@pytest.mark.parametrize("name", PATHS)
def test_an_experiment_from_its_data_to_its_tables(name, lskd_run, tmp_path):
    more, count = PATHS[name]
    words = "++experiment.settings={" + ", ".join(f"{key}: {value}" for key, value in {**OVER, **more}.items()) + "}"
    done = lskd_run(
        f"experiment={name}", "seeds=[0]", words, "runtime.progress=false", "runtime.threads=1", "runtime.fleet=1"
    )
    assert done.code == 0, done.err
    assert f"{count} of {count} runs done" in done.out
    assert not re.search(r"\| +– +\||\(0/1 seeds\)", done.out)  # an empty cell
    results = [json.loads(path.read_text()) for path in (tmp_path / "results" / "runs").glob("*/result.json")]
    assert len(results) == count
    solved = [one["solved"] for one in results if "solved" in one]
    assert len(solved) == (2 if name == "zhang_methods_small" else 0)
    if solved:
        [temperature] = [one["temperature"] for one in solved if "temperature" in one]
        assert f"{temperature:.2f}" in done.out  # the table shows it
        frame = lskd.runs(tmp_path / "results").set_index("id")["solved.temperature"].dropna()
        assert frame.tolist() == [temperature]
        page = show(frame.index[0], Snapshot.of(Store(tmp_path / "results")), Conf())
        assert f"temperature (solved for) {temperature:.4g}" in page
        [result] = [one for one in results if one.get("solved") == {"temperature": temperature}]
        assert ("temperature, solved for", number(temperature, 4)) in training(result)


@pytest.mark.parametrize("name", ["zhang_generations_small", "zhang_temperature_small", "zhang_methods_small"])
def test_an_experiment_on_data_at_hand_is_declared(name, lskd_run):
    done = lskd_run(f"experiment={name}", "plan=true")
    assert done.code == 0, done.err
    assert re.search(r"claim Z\d.*: n = (5|10), .*is seen with 80%", done.out)


def test_a_target_that_no_temperature_gives_is_one_line(lskd_run):
    """Of ten classes the true one has 0.6 + 0.4/10 at least. It is known when the teacher is there."""
    words = [f"{key}={value}" for key, value in {**OVER, **taught(MLP)}.items()]
    done = lskd_run(*words, "method=kd_zhang", "method.true_class=0.62", "runtime.progress=false", "runtime.threads=1")
    assert done.code == 1
    [line] = [line for line in done.err.splitlines() if "true_class" in line]
    assert re.search(r"method.true_class = 0.62: must be between 0.64\d* and [\d.]+, what this teacher gives at", line)
    assert "Traceback" not in done.err + done.out
