"""docs/tables.md: every example in it is a file that is read and planned, and it names every key and kind there is."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lskd.config_groups import Conf, shipped_conf
from lskd.metrics import METRICS
from lskd.plan import make_plan, plan_table
from lskd.tables.claim import TESTS, Claim
from lskd.tables.claim import Test as Statement
from lskd.tables.derived import DERIVED, Derivation
from lskd.tables.experiment import Experiment, load_experiment
from lskd.tables.line import Line, Printed
from lskd.tables.metric import Metric
from lskd.tables.table import Table, load_table

PAGE = (Path(__file__).parents[1] / "docs" / "tables.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(yaml|python)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def examples() -> Iterator[tuple[str, str]]:
    """The path that the first line of each example says, and its content."""
    for _, content in BLOCKS:
        yield content.splitlines()[0].removeprefix("# "), content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("docs")
    for name, content in examples():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    return root


def named(kind: str) -> list[str]:
    return [Path(name).stem for name, _ in examples() if name.startswith(f"{kind}/") and "dkd" not in name]


def test_every_example_says_which_file_it_is():
    names = [name for name, _ in examples()]
    assert all(re.fullmatch(r"(table|experiment)/\w+\.yaml|\w+\.py", name) for name in names), names
    assert len(set(names)) == len(names) > 12


@pytest.mark.parametrize("name", named("table"))
def test_a_table_of_the_page_is_planned(folder, name):
    conf = Conf((folder, shipped_conf()))
    table = load_table(name, conf)
    planned = plan_table(table, conf)
    assert [(cell.row, cell.column) for cell in planned.cells] == (table.keys() if table.has_cells else [])


@pytest.mark.parametrize("name", named("experiment"))
def test_an_experiment_of_the_page_is_planned(folder, name):
    conf = Conf((folder, shipped_conf()))
    assert make_plan(load_experiment(conf.load("experiment", name), name), conf).runs


def test_a_new_paper_is_planned_with_its_plugin(folder, tmp_path):
    """As the page says to do it, in a program of its own: what a plug-in registers stays registered."""
    [command] = re.findall(r"^lskd-run (--config-dir my plugin=dkd.py .*)$", PAGE, flags=re.MULTILINE)
    words = [*command.replace("--config-dir my", f"--config-dir {folder}").split(), f"runtime.results={tmp_path}"]
    program = "import sys; sys.argv[0] = 'lskd-run'; from lskd.program import lskd_run; sys.exit(lskd_run())"
    finished = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, encoding="utf-8", cwd=folder
    )
    assert finished.returncode == 0, finished.stderr
    # Six students of each method, of five teachers, under three seeds.
    assert "51 runs: 0 done, 51 to train" in finished.stdout
    assert "claim D2: n = 3" in finished.stdout


@pytest.mark.parametrize("kind", [Table, Line, Derivation, Claim, Statement, Metric, Printed, Experiment])
def test_the_page_names_every_key(kind: Any) -> None:
    left_out = {"name", "kind", "step", "x"} if kind in (Table, Metric, Experiment) else set()  # in its text, or given
    keys = [field.name for field in dataclasses.fields(kind) if field.name not in left_out]
    yaml = "".join(content for language, content in BLOCKS if language == "yaml")
    assert [key for key in keys if not re.search(rf"\b{key}: ", yaml) and f"\n{key}:\n" not in yaml] == []


@pytest.mark.parametrize("registry", [TESTS, DERIVED, METRICS], ids=["tests", "derived", "metrics"])
def test_the_page_names_every_kind(registry):
    assert [name for name in registry if f"`{name}`" not in PAGE] == []
