"""Pages of what probes saw, and of what is only quoted."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.figure import Figure

from lskd.errors import InputError
from lskd.plan import TablePlan
from lskd.probes.probe import panels
from lskd.report import figures, frame, render, text, write
from lskd.report.filled import FilledTable
from lskd.report.values import Values

PLANE = {"name": "penultimate", "classes": ["0", "1", "7"], "examples": 2}
INFORMATION = {"name": "mutual_information", "classes": ["0", "1"], "every": 10}
CORNERS = [[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]]


def plane_table(lab: Any, **table: Any) -> TablePlan:
    metric = {"name": "cluster_spread", "digits": 3, "unit": ""}
    rows = {
        "spread": {"label": "spread, test"},
        "spread_train": {"label": "spread, training", "metric": {**metric, "part": "train"}},
    }
    columns = {"hard": {"label": "hard targets", "run": {"alpha": 0.0}}, "ls": {"label": "LS", "run": {"alpha": 0.1}}}
    content = {"probe": PLANE, "diagram": "projection", "metric": metric, "rows": rows, "columns": columns, **table}
    planned: TablePlan = lab.table(**content)
    return planned


def see(lab: Any, planned: TablePlan, cell: str, spread: float, scale: float = 1.0) -> None:
    """Finish the runs of a cell, and let them be seen: with this spread on the test part, twice it on training."""
    lab.fill(planned, cell, [90.0, 91.0, 92.0])
    for run in planned.cell(*cell.split("/")).runs:
        points = [[[scale * x, scale * y], [scale * x + 1, scale * y]] for x, y in CORNERS]
        reading = {"cluster_spread": spread + 0.01 * run.seed, "points": points, "templates": CORNERS}
        readings = [{"step": 40, "train": {**reading, "cluster_spread": 2 * spread}, "test": reading}]
        lab.store.write_readings(run, planned.probes[0], readings, "00")


def filled_of(lab: Any, planned: TablePlan, **experiment: Any) -> FilledTable:
    filled: FilledTable = render(lab.plan(planned, **experiment), lab.store).tables[0]
    return filled


def test_runs_that_the_probe_has_not_looked_at_are_said_to_be_trained(lab: Any) -> None:
    planned = plane_table(lab)
    see(lab, planned, "spread/hard", 0.5)
    assert filled_of(lab, planned).progress == "3 of 6 runs done"
    lab.fill(planned, "spread/ls", [90.0, 91.0])
    printed = text(render(lab.plan(planned), lab.store))
    assert "3 of 6 runs done (2 more are trained, and lack what the probe reads)" in printed


def test_cells_show_what_was_seen_of_a_part(lab: Any) -> None:
    planned = plane_table(lab)
    see(lab, planned, "spread/hard", 0.5)
    printed = text(render(lab.plan(planned), lab.store))
    assert "0.510 ± 0.010 (3)" in printed
    assert "1.000 ± 0.000 (3)" in printed
    assert "on the test part" in printed
    assert "on the train part" in printed


def test_a_finished_run_that_nobody_has_seen_is_not_done(lab: Any) -> None:
    planned = plane_table(lab)
    lab.fill(planned, "spread/hard", [90.0, 91.0, 92.0])
    see(lab, planned, "spread/ls", 0.5)
    filled = filled_of(lab, planned)
    assert (filled.done, len(filled.runs)) == (3, 6)
    hard = next(cell for cell in filled.cells if (cell.cell.row, cell.cell.column) == ("spread", "hard"))
    assert (hard.mean, dict(hard.ids)) == (None, {})


def test_a_page_says_when_another_training_was_seen_than_the_recorded_one(lab: Any) -> None:
    planned = plane_table(lab)
    see(lab, planned, "spread/hard", 0.5)
    assert "3 of the 3 networks were trained again to be looked at" in text(render(lab.plan(planned), lab.store))
    for run in planned.cell("spread", "hard").runs:
        path = lab.store.directory(run) / "result.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "weights_sha256": "00"}))
    assert "trained again" not in text(render(lab.plan(planned), lab.store))


def test_a_record_of_something_else_is_left_out_and_named(lab: Any) -> None:
    planned = plane_table(lab)
    see(lab, planned, "spread/hard", 0.5)
    run = planned.cell("spread", "hard").runs[0]
    path = lab.store.directory(run) / "probes" / f"{planned.probes[0].key}.json"
    path.write_text(path.read_text().replace('"0"', '"5"'))
    [named] = render(lab.plan(planned), lab.store).damaged
    assert named.startswith(f"{path}: is not the record of ") and named.endswith("; delete it to run the probe again")
    hard = next(
        cell for cell in filled_of(lab, planned).cells if (cell.cell.row, cell.cell.column) == ("spread", "hard")
    )
    assert (hard.n, hard.mean) == (2, pytest.approx(0.515))


@pytest.mark.parametrize("times", [3.0, 10.0])
def test_the_projection_is_drawn_once_a_column_in_two_panels(lab: Any, times: float) -> None:
    planned = plane_table(lab)
    see(lab, planned, "spread/hard", 0.5, scale=times)
    see(lab, planned, "spread/ls", 0.2)
    filled = filled_of(lab, planned)
    figure, said = figures.picture(filled)
    axes = figure.axes
    assert [a.get_title() for a in axes] == [
        "hard targets\ntrain part, seed 0",
        "hard targets\ntest part, seed 0",
        "LS\ntrain part, seed 0",
        "LS\ntest part, seed 0",
    ]
    one_scale = times < 4  # beyond it one would be a dot
    assert len({a.get_xlim() for a in axes}) == len({a.get_ylim() for a in axes}) == (1 if one_scale else 2)
    assert ("One scale for all." in said) is one_scale
    assert axes[0].get_xlim() == axes[1].get_xlim()
    points = [[list(point) for point in line.get_xydata()] for line in axes[2].lines]
    assert points == [[[x, y], [x + 1, y]] for x, y in CORNERS]
    assert [line.get_label() for line in axes[0].lines] == ["0", "1", "7"]
    assert len({line.get_marker() for line in axes[0].lines}) == 3, "in grey, too"
    shortened, _ = figures.picture(filled_of(lab, planned, shortened="three steps"))
    assert "Shortened: three steps" in shortened.get_supxlabel()


def test_panels_stand_in_as_many_rows_as_the_width_asks_for() -> None:
    for form, rows in ((figures.SCREEN, 2), (figures.PAPER["page"], 1), (figures.PAPER["column"], 2)):
        with matplotlib.rc_context(form.style):
            figure = Figure(figsize=(form.width, form.width), layout="constrained")
            axes = panels(figure, 4, together=2)
            for one in axes:
                one.set_title("label smoothing (α = 0.1)\nvalidation part, seed 0", fontsize="small")
                one.set_aspect("equal")
            figure.draw_without_rendering()
            boxes = [one.get_tightbbox() for one in axes]
            assert len({round(box.y0) for box in boxes}) == rows
            overlap = [a.overlaps(b) for a, b in itertools.combinations(boxes, 2)]
            assert not any(overlap)


OVER_STEPS = {"label": "hard", "over": "step", "values": [0, 10, 20]}


def steps_figure(lab: Any, **table: Any) -> TablePlan:
    content = {
        "probe": INFORMATION,
        "metric": {"name": "mutual_information", "part": "train", "digits": 2, "unit": "nats"},
        "rows": {"hard": OVER_STEPS},
        "base": {"dataset": "digits", "arch": "mlp", "recipe": "quickstart"},
        "x": None,
        "levels": {"log 2": 0.6931},
        "claims": [{"id": "C", "text": "it rises", "tests": [{"test": "rising", "of": "hard/*"}]}],
        **table,
    }
    planned: TablePlan = lab.figure(**content)
    return planned


def test_a_series_over_steps_is_one_run_seen_several_times(lab: Any) -> None:
    planned = steps_figure(lab)
    assert len({run.id for cell in planned.cells for run in cell.runs}) == 3  # seeds
    for run in planned.cells[0].runs:
        lab.fill(planned, "hard/0", [90.0, 91.0, 92.0])
        readings = [
            {"step": step, "train": {"mutual_information": step / 10 + run.seed * (1 + step) / 100}}
            for step in (0, 10, 20, 30)
        ]
        lab.store.write_readings(run, planned.probes[0], readings, "00")
    filled = filled_of(lab, planned)
    assert [cell.mean for cell in filled.cells] == pytest.approx([0.01, 1.11, 2.21])
    assert filled.findings[0].verdict == "reproduced"
    axes = figures.picture(filled)[0].axes[0]
    assert list(axes.containers[0].lines[0].get_xdata()) == [0, 10, 20]
    assert [line.get_ydata() for line in axes.lines if list(line.get_ydata()) == [0.6931] * 2]
    assert "log 2" in [annotation.get_text() for annotation in axes.texts]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rows": {"hard": {**OVER_STEPS, "values": [0, 10, 15]}}}, r"hard/15: step = 15: must be a multiple of 10"),
        ({"probe": {}}, r"metric.name = mutual_information: must be in a table with probe: {name: mut"),
        ({"probe": {"name": "eye"}}, r"probe.name = 'eye': allowed: class_centres, confidence, label_noise"),
        ({"probe": {**INFORMATION, "classes": ["0", "x"]}}, r"hard/0: probe.classes = 'x': allowed: 0, 1, 2"),
        ({"probe": {**INFORMATION, "class": []}}, r"probe.class = \[\]: unknown key; did you mean 'classes'"),
        ({"probe": {**INFORMATION, "draws": 1}}, r"probe.draws = 1: must be >= 2"),
        ({"metric": {"name": "mutual_information", "epoch": "best_on_test"}}, r"'best_on_test': must be left out"),
        ({"metric": {"name": "top1", "step": 10}}, r"metric.step = 10: must be left out .* cluster_spread"),
    ],
)  # fmt: skip
def test_what_cannot_be_seen_is_an_error_of_the_plan(lab: Any, table: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        steps_figure(lab, **table)


def test_a_projection_needs_its_observer(lab: Any) -> None:
    with pytest.raises(InputError, match="diagram = 'projection': must be given with the probe penultimate"):
        plane_table(lab, probe=INFORMATION)


def test_a_grid_of_alpha_beyond_its_range_names_the_cell(lab: Any) -> None:
    series = {"label": "over α", "over": "alpha", "values": [0, 0.5, 1.2]}
    with pytest.raises(InputError, match=r"table.made_up_figure, cell small/1.2: .*alpha = 1.2: must be in \[0, 1\)"):
        lab.figure(rows={"small": series})


REFERENCE = {
    "kind": "reference",
    "seeds": [],
    "base": {},
    "rows": {"a": {"label": "net a, error (%)"}, "b": {"label": "net b, BLEU"}},
    "columns": {"hard": {"label": "hard"}, "ls": {"label": "smoothed"}},
    "paper": {"a": {"hard": {"value": 23.1, "std": 0.2}, "ls": 22.8}, "b": {"hard": "7.0 / 6.7", "ls": None}},
}


def test_a_quoted_table_prints_the_paper_and_has_no_runs(lab: Any, tmp_path: Path) -> None:
    plan = lab.plan(lab.table(**REFERENCE))
    assert plan.runs == ()
    printed = text(render(plan, lab.store))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    assert lines[2:] == [["net a, error (%)", "23.1 ± 0.2", "22.8"], ["net b, BLEU", "7.0 / 6.7", "n/a"]]
    assert "nothing of it is run here" in printed
    assert "Protocol" not in write(render(plan, lab.store), tmp_path)[0].read_text()
    assert list(frame(render(plan, lab.store))["paper"]) == [23.1, 22.8, "7.0 / 6.7", None]


def test_a_quoted_table_has_no_seeds(lab: Any) -> None:
    with pytest.raises(InputError, match=r"seeds = .*of a reference none"):
        lab.table(**{**REFERENCE, "seeds": [0]})


def test_numbers_over_the_runs_of_a_cell(lab: Any) -> None:
    """Two runs that contradict one another: their mean prediction is (½, ½), at a loss of log 2; see the probe."""
    metric = {"name": "variance_term", "digits": 4, "unit": "nats"}
    planned = lab.table(
        seeds=(0, 1),
        probe={"name": "predictions"},
        metric=metric,
        columns={
            "variance": {"label": "variance"},
            "bias": {"label": "bias", "metric": {**metric, "name": "bias_term"}},
        },
    )
    lab.fill(planned, "hard/variance", [90.0, 91.0])
    surprise = ["0.11 2.30", "2.30 0.11"]
    runs = planned.cell("hard", "variance").runs
    lab.store.write_readings(
        runs[0], planned.probes[0], [{"step": 40, "test": {"nll": 0.11, "surprise": surprise[:1]}}], "00"
    )
    assert "| hard targets" in text(render(lab.plan(planned), lab.store))
    assert "0/2 seeds" in text(render(lab.plan(planned), lab.store)).replace("1/2", "0/2")  # one run shows no variance
    lab.store.write_readings(
        runs[1], planned.probes[0], [{"step": 40, "test": {"nll": 2.30, "surprise": surprise[1:]}}], "00"
    )
    variance = (2.30 + 0.11) / 2 - math.log(2)
    printed = text(render(lab.plan(planned), lab.store))
    assert f"{variance:.4f} ± 0.0000 (2)" in printed
    assert f"{math.log(2):.4f} ± " in printed


@pytest.mark.parametrize("damage", ["0.11", "0.11 x", "0.11 2.30 5.0", None])
def test_one_damaged_prediction_does_not_stop_the_others(lab: Any, damage: str | None) -> None:
    metric = {"name": "variance_term", "digits": 4, "unit": "nats"}
    planned = lab.table(probe={"name": "predictions"}, metric=metric, columns={"variance": {"label": "variance"}})
    lab.fill(planned, "hard/variance", [90.0, 91.0, 92.0])
    runs = planned.cell("hard", "variance").runs
    for run, line in zip(runs, ("0.11 2.30", "2.30 0.11", damage), strict=True):
        reading = {"nll": 1.0, "surprise": [line]} if line is not None else {"nll": 1.0}
        lab.store.write_readings(run, planned.probes[0], [{"step": 40, "test": reading}], "00")
    values = Values(lab.store)
    assert list(values.of(planned, planned.cell("hard", "variance"))) == [0, 1]
    [line] = values.damaged
    assert str(lab.store.directory(runs[2])) in line and "damaged" in line


CENTRES = {"name": "class_centres"}
OVER_CLASSES = {"over": "class", "values": [0, 1, 2, 3, 4]}


def order_of_classes(lab: Any, **table: Any) -> TablePlan:
    content = {
        "x": None,
        "probe": CENTRES,
        "metric": {"name": "class_distance", "part": "train"},
        "rows": {
            "hard": {"label": "hard targets", **OVER_CLASSES},
            "ls": {"label": "LS", "run": {"alpha": 0.1}, **OVER_CLASSES},
        },
        "claims": [{"id": "K", "text": "", "tests": [{"test": "correlated", "of": "ls/*", "than": "hard/*"}]}],
    }
    planned: TablePlan = lab.figure(**{**content, **table})
    return planned


def test_the_order_of_classes_of_two_networks_is_compared_seed_by_seed(lab: Any) -> None:
    planned = order_of_classes(lab)
    numbers = {"hard": [1.0, 2.0, 3.0, 4.0, 5.0], "ls": [10.0, 30.0, 20.0, 40.0, 50.0]}  # ρ = 1 - 6·2/(5·24) = 0.9
    for row, of_classes in numbers.items():
        lab.fill(planned, f"{row}/0", [90.0, 91.0, 92.0])
        for run in planned.cell(row, "0").runs:
            reading = {"class_distance": {str(c): run.seed + of_classes[c] for c in range(5)}}
            lab.store.write_readings(run, planned.probes[0], [{"step": 40, "train": reading, "test": {}}], "00")
    filled = filled_of(lab, planned)
    assert [cell.mean for cell in filled.cells] == [value + 1 for of_row in numbers.values() for value in of_row]
    assert "mean rank correlation 0.90 of 5 cells" in str(filled.findings)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rows": {"hard": {"label": "", "over": "class", "values": [0, 10]}}}, "at_class = 10: .* from 0 to 9"),
        ({"rows": {"hard": {"label": "", "over": "class", "values": [0.5]}}}, "none below 0, with over=class"),
        ({"rows": {"hard": {"label": "", "over": "alpha", "values": [0]}}}, "at_class = None: must be given"),
        ({"metric": {"name": "centre_ratio", "at_class": 1}}, "at_class = 1: must be left out .* class_probability"),
    ],
)  # fmt: skip
def test_classes_that_there_are_not_are_errors_of_the_plan(lab: Any, table: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        order_of_classes(lab, claims=[], **table)


TEMPERATURES = [0.5, 1, 2]
SCALING = {"name": "temperature_scaling", "temperatures": TEMPERATURES}
OVER_TEMPERATURES = {"over": "at_temperature", "values": TEMPERATURES}


def over_temperatures(lab: Any, **table: Any) -> TablePlan:
    ece = {"metric": {"name": "scaled_ece15"}, "right": "ECE"}
    content = {
        "x": None,
        "probe": [SCALING, CENTRES],
        "metric": {"name": "scaled_nll"},
        "rows": {
            "nll": {"label": "hard", **OVER_TEMPERATURES},
            "ece": {"label": "hard", **OVER_TEMPERATURES, **ece},
        },
        "claims": [{"id": "T", "text": "", "tests": [{"test": "smallest", "of": "nll/1"}]}],
    }
    planned: TablePlan = lab.figure(**{**content, **table})
    return planned


def test_two_quantities_over_the_temperature_have_an_axis_each(lab: Any) -> None:
    planned = over_temperatures(lab)
    assert len({run.id for cell in planned.cells for run in cell.runs}) == 3  # seeds
    lab.fill(planned, "nll/1", [90.0, 91.0, 92.0])
    scaling, centres = planned.probes
    for run in planned.cell("nll", "1").runs:
        nll = {"0.5": 1.25, "1": 1.0 + run.seed / 100, "2": 1.5}
        reading = {"scaled_nll": nll, "scaled_ece15": {"0.5": 0.25, "1": 0.125, "2": 0.0625}}
        lab.store.write_readings(run, scaling, [{"step": 40, "test": reading}], "00")
    assert filled_of(lab, planned).done == 0, "one of two probes has not looked"
    for run in planned.cell("nll", "1").runs:
        lab.store.write_readings(run, centres, [{"step": 40, "test": {}}], "00")
    filled = filled_of(lab, planned)
    assert (filled.done, filled.findings[0].verdict) == (3, "reproduced")
    figure, _ = figures.picture(filled)
    left, right = figure.axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("negative log-likelihood at a temperature\n(nats)", "ECE")
    drawn = [list(axes.containers[0].lines[0].get_ydata()) for axes in (left, right)]
    assert drawn == [pytest.approx([1.25, 1.01, 1.5]), [0.25, 0.125, 0.0625]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["hard", "hard (right axis)"]
    assert right.get_ylim()[1] < 0.3 < 1 < left.get_ylim()[1], "each axis has the range of its own series"
    assert right.spines["right"].get_visible() and left.get_xlim() == right.get_xlim()


def test_a_cell_shows_a_number_at_a_temperature(lab: Any) -> None:
    """At 1 unless it says another: a cell that says 1 shows the same number."""
    columns = {
        name: {"label": name, "metric": {"name": "scaled_nll", **choice}}
        for name, choice in (("usual", {}), ("one", {"at_temperature": 1}), ("two", {"at_temperature": 2}))
    }
    planned = lab.table(probe=SCALING, rows={"hard": {"label": "hard"}}, columns=columns, claims=[])
    lab.fill(planned, "hard/usual", [90.0, 91.0, 92.0])
    for run in planned.cell("hard", "usual").runs:
        lab.store.write_readings(run, planned.probes[0], [{"step": 40, "test": {"scaled_nll": {"1": 3, "2": 4}}}], "00")
    assert [cell.mean for cell in filled_of(lab, planned).cells] == [3, 3, 4]
    assert planned.cells[0].number == planned.cells[1].number != planned.cells[2].number
    with pytest.raises(InputError, match=r"claims.A = .*: are the same number of the same runs"):
        test = {"test": "less", "of": "hard/usual", "than": "hard/one"}
        same = [{"id": "A", "text": "", "tests": [test]}]
        lab.table(probe=SCALING, rows={"hard": {"label": "hard"}}, columns=columns, claims=same)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rows": {"a": {"label": "", "over": "at_temperature", "values": [3]}}}, "at_temperature = 3.0: .* 0.5, 1, 2"),
        ({"metric": {"name": "top1", "at_temperature": 2}}, "at_temperature = 2.0: .* scaled_nll, scaled_ece15"),
        ({"probe": [SCALING, SCALING]}, r"probe = .*: must be of different names"),
        ({"probe": {**SCALING, "part": "validation"}}, "probe.part = 'validation': must be a part of digits: train, t"),
        ({"probe": {**SCALING, "temperatures": [0.0]}}, r"temperatures = \[0.0\]: must be a list of numbers, all > 0"),
        ({"probe": {**SCALING, "temperatures": [1, 1.0]}}, "must be all different, in their first 6 digits"),
        ({"rows": {"a": {"label": "", "right": "y", **OVER_TEMPERATURES}}}, r"right = \['y'\]: must be one name"),
    ],
)  # fmt: skip
def test_temperatures_that_there_are_not_are_errors_of_the_plan(lab: Any, table: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        over_temperatures(lab, claims=[], **table)
