"""The results in the repository: real runs, whole, and the tables and figures that they give."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from lskd import report
from lskd.config_groups import Conf
from lskd.plan import make_plan
from lskd.store import Store
from lskd.tables.experiment import load_experiment

RESULTS = Path(__file__).parents[2] / "results"
RUNS = sorted((RESULTS / "runs").glob("*/result.json"))
EXPERIMENTS = sorted(path.name for path in (RESULTS / "tables").glob("*") if path.is_dir())

pytestmark = pytest.mark.skipif(not RUNS, reason="not a checkout with results")


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.parent.name)
def test_a_run_is_what_its_id_says_and_is_whole(path):
    run = path.parent
    config = json.loads((run / "config.json").read_text())
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(canonical.encode()).hexdigest()[:12] == run.name
    result, log = (
        json.loads(path.read_text()),
        [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()],
    )
    assert result["id"] == run.name
    assert len(log) == result["epochs"]
    assert log[-1]["step"] == result["steps"]
    assert {part: log[-1][part] for part in result["last"]} == result["last"]
    assert [record["epoch"] for record in log] == list(range(len(log)))
    if "teacher" in config:
        # The teacher's record is here too, of the very weights that taught.
        taught_by = result["teacher"]
        teacher = json.loads((run.parent / taught_by["id"] / "result.json").read_text())
        assert json.loads((run.parent / taught_by["id"] / "config.json").read_text()) == config["teacher"]
        rebuilt = run.parent / taught_by["id"] / "rebuilt.json"
        known = [
            teacher["weights_sha256"],
            *([json.loads(rebuilt.read_text())["weights_sha256"]] if rebuilt.exists() else []),
        ]
        assert taught_by["weights_sha256"] in known


def test_no_run_tells_of_the_machine_it_was_made_on():
    for path in (RESULTS / "runs").glob("*/*.json*"):
        text = path.read_text()
        assert not any(word in text for word in ("/home", "/root", "/tmp", "/mnt")), path


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_committed_tables_are_those_of_the_committed_runs(tmp_path, name):
    """Golden test of the reporter on real runs. If it fails after a change meant to show: `make tables`, and look."""
    (tmp_path / "runs").symlink_to(RESULTS / "runs")
    conf = Conf()
    plan = make_plan(load_experiment(conf.load("experiment", name), name), conf)
    written = report.write(report.render(plan, Store(tmp_path)), tmp_path)
    tables = [path for path in written if path.suffix in (".md", ".csv", ".tex")]
    assert tables
    for path in tables:
        assert path.read_text() == (RESULTS / path.relative_to(tmp_path)).read_text(), path.name


def test_the_answer_in_the_readme_is_that_of_the_tables():
    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    answer = readme[readme.index("**The answer so far**") : readme.index("Every claim of every paper")]
    intervals = re.findall(r"[\d.]+ (?:points )?(?:lower |higher |better |worse )?(\[[^]]+\])", answer)
    tables = "".join(
        path.read_text(encoding="utf-8")
        for name in ("muller_mnist", "quickstart")
        for path in (RESULTS / "tables" / name).glob("*.md")
    )
    assert len(intervals) >= 4
    assert [interval for interval in intervals if interval not in tables] == []


def test_a_frame_holds_every_cell():
    plan = make_plan(load_experiment(Conf().load("experiment", "quickstart_five"), "quickstart_five"), Conf())
    frame = report.frame(report.render(plan, Store(RESULTS)))
    assert len(frame) == sum(len(planned.cells) for planned in plan.tables)
    accuracy = frame.query("table == 'quickstart_five' and row == 'hard' and column == 'teacher'")["mean"].item()
    assert accuracy == pytest.approx(99.0, abs=1.0)
