"""`lskd-run -m`: the jobs of a sweep are one plan, and end in one table."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, run_job
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig

from lskd.run import Run
from lskd.store import Store

WORDS = ("-m", "dataset=digits", "dataset.limit=64", "arch=mlp", "arch.hidden=[4]", "recipe.epochs=1",
         "runtime.device=cpu")  # fmt: skip


def table_of(results: Path) -> pandas.DataFrame:
    """The CSV file of the one sweep in `results`; its Markdown file has as many lines."""
    [path] = results.glob(".sweeps/*/*/table.csv")
    table = pandas.read_csv(path)
    lines = path.with_suffix(".md").read_text().splitlines()
    assert sum(line.startswith("|") for line in lines) == len(table) + 2
    return table


def test_jobs_train_side_by_side_and_end_in_one_table(lskd_run, tmp_path):
    finished = lskd_run(*WORDS, "alpha=0,0.1", "seed=0,1")
    assert finished.code == 0, finished.err
    assert "[4/4]" in finished.err and finished.out.count("4 runs: 0 done, 4 to train") == 1
    table = table_of(tmp_path / "results")
    assert list(table["target.alpha"]) == [0.0, 0.1] and list(table["n"]) == [2, 2] and "state" not in table
    found: dict[float, list[float]] = {}
    for config, _, result in Store(tmp_path / "results").results():
        found.setdefault(Run.of(config).target.settings.alpha, []).append(result["last"]["test"]["nll"])
    for _, row in table.iterrows():
        values = found[row["target.alpha"]]
        assert row["nll.mean"] == pytest.approx(statistics.mean(values), abs=1e-12)
        assert row["nll.sd"] == pytest.approx(statistics.stdev(values), abs=1e-12)
        runs = {path.name for path in (tmp_path / "results" / "runs").iterdir()}
        assert set(row["id"].split(", ")) <= runs and len(row["id"].split(", ")) == 2
    [path] = tmp_path.glob("results/.sweeps/*/*/table.md")
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    assert "\n".join(lines) in finished.out and " ± " in lines[2]


def test_a_failed_job_is_named_with_its_reason(lskd_run, tmp_path):
    finished = lskd_run(*WORDS, "method=kd", "teacher=mlp", "recipe.lr=0.1,1e30", "teacher.recipe.lr=0.1,1e30")
    assert finished.code == 1
    assert finished.err.count("lskd-run: FAILED ") == 2 and finished.err.count("NOT RUN") == 2
    table = table_of(tmp_path / "results").set_index(["recipe.lr", "teacher.recipe.lr"])
    assert list(table["n"]) == [1, 0, 0, 0]
    assert table["state"][0.1, 0.1] == "done"
    assert re.match("failed: .* not finite", table["state"][1e30, 0.1])
    for lr in (0.1, 1e30):
        assert re.match("not run, for want of one that it needs: failed: .* not finite", table["state"][lr, 1e30])
    again = lskd_run(*WORDS, "recipe.lr=0.1,1e30", "method=kd", "teacher=mlp", "teacher.recipe.lr=0.1")
    assert again.code == 1 and "runtime.retry=true" in again.err


ALPHAS = {"mine": (0.0, 0.1), "yours": (0.1, 0.2)}


def test_experiments_share_a_plan_and_a_table(lskd_run, tmp_path):
    for name in ALPHAS:
        columns = {f"a{alpha}": {"label": "", "run": {"alpha": alpha}} for alpha in ALPHAS[name]}
        base = {"dataset": "digits", "dataset.limit": 64, "arch": "mlp", "arch.hidden": [4], "recipe.epochs": 1}
        table = {"title": name, "seeds": [0], "base": base, "rows": {"net": {"label": ""}}, "columns": columns}
        for group, content in (("table", table), ("experiment", {"title": name, "tables": [name]})):
            (tmp_path / "conf" / group).mkdir(parents=True, exist_ok=True)
            (tmp_path / "conf" / group / f"{name}.yaml").write_text(json.dumps(content))  # JSON is YAML
    own = ("--config-dir", str(tmp_path / "conf"), "runtime.device=cpu")
    finished = lskd_run("-m", "experiment=mine,yours", *own)
    assert finished.code == 0, finished.err
    table = table_of(tmp_path / "results")
    assert set(table["experiment"]) == {"mine", "yours"}
    assert len(table) == 4 and "[3/3]" in finished.err  # one is in both
    for name in ALPHAS:
        assert list(tmp_path.glob(f"results/tables/{name}/*.md"))


def test_status_is_of_the_whole_sweep(lskd_run, tmp_path):
    assert lskd_run(*WORDS, "seed=0").code == 0
    status = lskd_run(*WORDS, "seed=0,1", "status=true")
    assert status.code == 1 and "sweep: 2 runs: 1 done, 1 that nobody has" in status.out
    assert lskd_run(*WORDS, "seed=0", "status=true").code == 0
    assert "2 runs: 1 done, 1 to train" in lskd_run(*WORDS, "seed=0,1", "plan=true").out
    assert len(list(tmp_path.glob("results/.sweeps/*/*/table.md"))) == 1


class Elsewhere(Launcher):
    """As joblib's and submitit's: each job for itself; the process of the last one dies."""

    def setup(self, *, hydra_context: HydraContext, task_function: Callable[..., None], config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        for number, words in enumerate(job_overrides[:-1]):
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(words))
            config.hydra.job.num = number
            run_job(
                hydra_context=self.hydra_context, task_function=self.task_function, config=config,
                job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
            )  # fmt: skip
        raise RuntimeError("the worker was killed")


def test_of_launchers_that_start_processes_too(lskd_run, tmp_path, monkeypatch):
    name = "hydra_plugins.elsewhere.Elsewhere"
    monkeypatch.setitem(Plugins.instance().class_name_to_class, name, Elsewhere)
    ConfigStore.instance().store(group="hydra/launcher", name="elsewhere", node={"_target_": name})
    finished = lskd_run(*WORDS, "hydra/launcher=elsewhere", "recipe.lr=0.1,1e30", "seed=0,1")
    assert finished.code == 1
    assert "lskd-run: a process of the sweep did not end well: RuntimeError: the worker was killed\n" in finished.err
    table = table_of(tmp_path / "results").set_index("recipe.lr")
    assert table["state"][0.1] == "done" and table["n"].tolist() == [2, 0]
    assert re.fullmatch("failed: .* not finite.*, not run", table["state"][1e30])
