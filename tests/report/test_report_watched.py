"""Cells and figures of what methods watch while they train, and the tests of claims that go with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lskd.config_groups import Conf, shipped_conf
from lskd.data import DATASETS
from lskd.errors import InputError
from lskd.methods import METHODS, Batch, Method, Peer
from lskd.plan import TablePlan
from lskd.probes.resemblance import superclass_order
from lskd.report import figures, render, text
from lskd.report.filled import FilledTable
from lskd.tables.line import Printed
from lskd.tables.table import load_table

TAUGHT = {
    "dataset": "digits", "arch": "mlp", "recipe": "quickstart", "method": "kd_wsl", "teacher": {"arch": "mlp"}
}  # fmt: skip
COUNT = {"name": "rs", "total": True, "digits": 0, "unit": ""}
SHARE = {"name": "rs", "digits": 3, "unit": ""}


def log(lab: Any, planned: TablePlan, cell: str, shares: list[float]) -> None:
    """Finish the runs of a cell with this share of regularization samples in each epoch, and ten times the seed more of
    the 1,000 images in each but the first. An initial stage is in the log, too."""
    for run in planned.cell(*cell.split("/")).runs:
        lines: list[dict[str, Any]] = [{"stage": "first", "epoch": 0, "train": {"rs": 9.0}}]
        for epoch, share in enumerate(shares):
            train = {"top1": 50.0, "rs": share + (0.01 * run.seed if epoch else 0.0)}
            lines.append({"epoch": epoch, "train": train, "test": {"top1": 40.0 + epoch}})
        lab.store.directory(run).mkdir(parents=True, exist_ok=True)
        lab.store.begin(run, {})
        lab.store.log(run).write_text("".join(json.dumps(line) + "\n" for line in lines))
        record = {"last": {"test": lines[-1]["test"]}, "best": {}, "train": lines[-1]["train"], "examples": 1000}
        lab.store.finish(run, record)


def filled_of(lab: Any, planned: TablePlan) -> FilledTable:
    filled: FilledTable = render(lab.plan(planned), lab.store).tables[0]
    return filled


def watched_table(lab: Any, **table: Any) -> TablePlan:
    columns = {"share": {"label": "share", "metric": SHARE}, "count": {"label": "number", "metric": COUNT}}
    rows = {"hard": {"label": "hard"}, "ls": {"label": "LS", "run": {"teacher_ls": True}}}
    planned: TablePlan = lab.table(**{"base": TAUGHT, "rows": rows, "columns": columns, **table})
    return planned


def test_a_cell_shows_what_the_method_watched_in_the_last_epoch(lab: Any) -> None:
    planned = watched_table(lab)
    log(lab, planned, "hard/share", [0.9, 0.25])
    share, count, *_ = filled_of(lab, planned).cells
    assert dict(share.values) == pytest.approx({0: 0.25, 1: 0.26, 2: 0.27})
    assert dict(count.values) == pytest.approx({0: 250, 1: 260, 2: 270})
    printed = text(render(lab.plan(planned), lab.store))
    assert "regularization samples, sum over the training images of the last epoch" in printed
    assert "regularization samples, mean over the training images of the last epoch" in printed


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"base": {**TAUGHT, "method": "kd"}}, r"hard/share: metric.name = rs: method=kd .* watches nothing"),
        ({"metric": {"name": "weight"}, "columns": {"share": {"label": ""}}}, r"metric.name = weight: .* watches rs"),
        ({"metric": {"name": "top1", "total": True}}, "total = True: must be left out .* goes with loss, .*rs, weight"),
        ({"metric": {"name": "rs", "epoch": "best_on_test"}}, r"metric.epoch = 'best_on_test': must be left out"),
        ({"metric": {"name": "gamma", "at_epoch": 3}}, r"at_epoch = 3: must be left out .* goes with loss, top1"),
        ({"metric": {"name": "top1", "at_epoch": 31}, "columns": {"a": {"label": ""}}}, "epoch = 31: .* from 1 to 30"),
    ],
)  # fmt: skip
def test_what_is_not_recorded_is_an_error_of_the_plan(lab: Any, table: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        watched_table(lab, **table)


COUNTING = [replace(METHODS[name], count_rs=count) for name in ("kd", "wsl") for count in (False, True)]  # type: ignore[call-arg]


@pytest.mark.parametrize("settings", [*METHODS.values(), *COUNTING], ids=lambda method: type(method).__name__)
def test_methods_watch_what_they_say(settings: Method) -> None:
    batch = Batch(torch.randn(3, 4), torch.tensor([0, 1, 2]), torch.eye(4)[:3], teacher_logits=torch.randn(3, 4),
                  peers=[Peer(torch.randn(3, 4), torch.eye(4)[:3])])  # fmt: skip
    assert settings.watch(batch).keys() == set(settings.watched)
    assert set(settings.watched) <= settings.watches.keys()


def epochs_figure(lab: Any, **table: Any) -> TablePlan:
    series = {"over": "epoch", "values": [1, 5, 30]}
    rows = {"hard": {"label": "hard", **series}, "ls": {"label": "LS", "run": {"teacher_ls": True}, **series}}
    content = {"base": TAUGHT, "metric": COUNT, "x": None, "rows": rows, **table}
    planned: TablePlan = lab.figure(**content)
    return planned


GAP = {"test": "greater", "of": "ls/30 - ls/1", "than": "hard/30 - hard/1"}


def test_a_series_over_epochs_is_the_log_of_one_run(lab: Any) -> None:
    rising = {"id": "R", "text": "it rises", "tests": [{"test": "rising", "of": "hard/*"}]}
    planned = epochs_figure(lab, claims=[rising, {"id": "G", "text": "the gap widens", "tests": [GAP]}])
    assert len({run.id for cell in planned.cells for run in cell.runs}) == 6  # two series of three seeds
    log(lab, planned, "hard/1", [0.01 * epoch for epoch in range(30)])
    filled = filled_of(lab, planned)
    assert [cell.mean for cell in filled.cells[:3]] == pytest.approx([0, 50, 300])  # epochs are counted from 1
    assert {finding.claim.id: finding.verdict for finding in filled.findings} == {"R": "reproduced", "G": "not run"}
    axes = figures.picture(filled)[0].axes[0]
    assert list(axes.containers[0].lines[0].get_xdata()) == [1, 5, 30]
    assert list(axes.containers[0].lines[0].get_ydata()) == pytest.approx([0, 50, 300])


def test_epochs_that_cannot_be_are_errors(lab: Any) -> None:
    rows = {"hard": {"label": "hard", "over": "epoch", "values": [1, 2.5]}}
    with pytest.raises(
        InputError, match=r"rows.hard.values = \[1.0, 2.5\]: must be whole numbers, none below 0, with over=epoch"
    ):
        epochs_figure(lab, rows=rows)
    planned = epochs_figure(lab)
    log(lab, planned, "hard/1", [0.1] * 30)
    path = lab.store.log(planned.cells[0].runs[0])
    path.write_text(path.read_text()[:-9])
    [named] = render(lab.plan(planned), lab.store).damaged
    assert named.startswith(f"{path}: is not one JSON object a line ") and "; restore it, or delete" in named
    assert next(cell for cell in filled_of(lab, planned).cells).n == 2


def test_a_difference_of_cells_is_taken_seed_by_seed(lab: Any) -> None:
    planned = epochs_figure(lab, claims=[{"id": "G", "text": "the gap widens", "tests": [GAP]}])
    log(lab, planned, "hard/1", [0.1] * 30)
    log(lab, planned, "ls/1", [0.1] * 29 + [0.4])
    [finding] = filled_of(lab, planned).findings
    [part] = finding.parts
    assert part.statement == "ls/30 - ls/1 > hard/30 - hard/1"
    assert part.effect is not None and part.effect.mean == pytest.approx(300)  # what seeds add cancels
    assert part.verdict == "undecided"  # exactly the same for all seeds


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ({"test": "greater", "of": "ls/30 - hard/*", "than": "ls/* - hard/30"}, r"is compared with itself"),
        ({"test": "greater", "of": "ls/30 - ls/1", "than": "hard@x"}, r"hard@x'?: must be one operand, beside a cell"),
        ({"test": "greater", "of": "ls/30 - ls/7", "than": "hard/30"}, r"claims.G = 'ls/7': .*allowed: hard/1, "),
        ({"test": "greater", "of": "ls/30", "than": "hard/30", "columns": ["30"]}, r"columns = .* given with row/"),
        ({"test": "greater", "of": "ls/*", "than": "hard/*", "columns": ["7"]}, r"G.columns = '7': allowed: 1, 30, 5"),
    ],
)  # fmt: skip
def test_tests_about_what_is_not_there_are_errors(lab: Any, test: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        epochs_figure(lab, claims=[{"id": "G", "text": "", "tests": [test]}])


def test_a_wildcard_may_stand_for_some_columns(lab: Any) -> None:
    test = {"test": "greater", "of": "ls/*", "than": "hard/*", "columns": ["large"]}
    planned = lab.table(claims=[{"id": "C", "text": "", "tests": [test]}])
    [finding] = filled_of(lab, planned).findings
    assert [part.statement for part in finding.parts] == ["ls/large > hard/large"]
    assert set(finding.missing) == {"ls/large", "hard/large"}


def test_a_cell_that_cannot_be_is_not_missing_and_says_why(lab: Any) -> None:
    planned = lab.table(skip={"ls": {"small": "too small for it"}}, paper={"ls": {"large": 90.0}})
    printed = text(render(lab.plan(planned), lab.store))
    line = next(line for line in printed.splitlines() if line.startswith("| label smoothing"))
    assert [cell.strip() for cell in line.split("|")[3:5]] == ["n/a", "– (0/3 seeds)"]
    assert "n/a: label smoothing (α = 0.1) / small: too small for it" in printed
    with pytest.raises(InputError, match=r"skip.ls = 'tiny': allowed: large, small"):
        lab.table(skip={"ls": {"tiny": "no"}})


def test_a_null_takes_out_what_a_parent_has(tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "mine.yaml").write_text(
        "defaults: [wsl_pair]\ncolumns: {wrn_40_2_wrn_16_2: null, other: {label: other}}\n"
        "rows: {fsp: null}\npaper: {kd: null, at: {other: 70.0}}\nclaims: []\n"
    )
    table, parent = (load_table(name, Conf((tmp_path, shipped_conf()))) for name in ("mine", "wsl_pair"))
    assert list(table.columns) == ["other"]
    assert list(table.rows) == [row for row in parent.rows if row != "fsp"]
    assert table.printed("at", "other") == Printed(70.0)
    assert not {"kd", "fsp"} & table.paper.keys()


def test_the_matrix_is_drawn_by_superclass_without_its_diagonal(lab: Any) -> None:
    base = {"dataset": "cifar100", "arch": "resnet8", "recipe": "crd", "method": "kd", "teacher": "resnet14"}
    metric = {"name": "resemblance_auc", "part": "train", "digits": 3, "unit": ""}
    rows, columns = {"auc": {"label": "AUC"}}, {"one": {"label": "one pair"}}
    content = {"base": base, "rows": rows, "columns": columns, "metric": metric, "diagram": "matrix"}
    planned = lab.table(probe={"name": "resemblance"}, **content)
    lab.fill(planned, "auc/one", [50.0, 51.0, 52.0])
    matrix = np.arange(10_000.0).reshape(100, 100)
    for run in planned.cells[0].runs:
        reading = {"step": 9, "train": {"resemblance_auc": 0.75, "matrix": (matrix + run.seed).tolist()}}
        lab.store.write_readings(run, planned.probes[0], [reading], "00")
    filled = filled_of(lab, planned)
    assert filled.cells[0].mean == 0.75
    axes = figures.picture(filled)[0].axes
    groups, drawn = (panel.images[0].get_array() for panel in axes[:2])
    names = list(DATASETS["cifar100"].spec.class_names)
    beaver, dolphin, trout = (names.index(name) for name in ("beaver", "dolphin", "trout"))
    assert superclass_order()[:2] == ["beaver", "dolphin"] and superclass_order()[9] == "trout"
    assert drawn[0, 1] == matrix[beaver, dolphin] and drawn[9, 0] == matrix[trout, beaver]  # the first seed
    assert np.ma.getmaskarray(drawn)[range(100), range(100)].all() and not np.ma.getmaskarray(drawn)[0, 1:].any()
    assert (groups[0, 1:6].tolist(), groups[5, 6]) == ([1, 1, 1, 1, 0], 1)
    assert len(axes) == 3, "and the scale of the colours"


def test_resemblance_needs_a_teacher_in_eval_mode(lab: Any) -> None:
    base = {"dataset": "cifar100", "arch": "resnet8", "recipe": "crd"}
    taught = {**base, "method": "kd", "teacher": "resnet14", "teacher_mode": "batch_stats"}
    metric = {"name": "resemblance_auc", "part": "train"}
    for settings in (base, taught):
        with pytest.raises(InputError, match="resemblance: the run must have a teacher, with teacher_mode=eval"):
            lab.table(base=settings, probe={"name": "resemblance"}, metric=metric, columns={"a": {"label": "a"}})
    with pytest.raises(InputError, match="diagram = 'matrix': must be given with the probe resemblance"):
        lab.table(diagram="matrix")
