"""Figures: files, their determinism, and what they say about what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lskd.errors import InputError
from lskd.plan import TablePlan
from lskd.report import figures, render, write
from lskd.report.filled import FilledTable


@pytest.fixture
def planned(lab: Any) -> TablePlan:
    planned: TablePlan = lab.figure()
    for row, best in (("small", 92.0), ("large", 95.0)):
        for i, column in enumerate(("0", "0.2", "0.4")):
            lab.fill(planned, f"{row}/{column}", [best - i, best - i + 0.4, best - i - 0.3], gamma=float(column))
    return planned


def filled_of(lab: Any, planned: TablePlan, **experiment: Any) -> FilledTable:
    filled: FilledTable = render(lab.plan(planned, **experiment), lab.store).tables[0]
    return filled


def test_files_are_written_and_deterministic(lab: Any, planned: TablePlan, tmp_path: Path) -> None:
    filled = filled_of(lab, planned)
    first, second = (figures.write(filled, tmp_path / place) for place in ("here", "there"))
    assert [path.name for path in first] == ["made_up_figure.png", "made_up_figure.svg"]
    for one, other in zip(first, second, strict=True):
        assert one.stat().st_size > 1000
        assert one.read_bytes() == other.read_bytes()
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert b"<dc:date>" not in first[1].read_bytes()


def test_series_stand_at_their_means_with_whiskers_to_the_extremes(lab: Any, planned: TablePlan) -> None:
    axes = figures.draw(filled_of(lab, planned)).axes[0]
    small, large = axes.containers
    assert list(small.lines[0].get_xdata()) == pytest.approx([0.0, 0.2, 0.4])
    assert list(small.lines[0].get_ydata()) == pytest.approx([92 + 0.1 / 3, 91 + 0.1 / 3, 90 + 0.1 / 3])
    whisker = small.lines[2][0].get_segments()[0]
    assert list(whisker[:, 1]) == pytest.approx([91.7, 92.4])
    assert (small.lines[0].get_color(), large.lines[0].get_color()) == figures.COLORS[:2]
    assert (large.lines[0].get_linestyle(), large.lines[0].get_marker()) == ("--", "s")
    assert [container.get_label() for container in axes.containers] == ["small network", "large network"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("equivalent label smoothing γ", "top-1 accuracy (%)")


def test_missing_points_are_left_out_and_counted(lab: Any) -> None:
    planned = lab.figure()
    lab.fill(planned, "small/0", [90.0, 91.0, 92.0], gamma=0.0)
    lab.fill(planned, "small/0.4", [93.0], gamma=0.4)
    filled = filled_of(lab, planned)
    assert figures.caption(filled).endswith("4 of 18 runs. 4 of 6 points are missing.")
    (series,) = figures.draw(filled).axes[0].containers
    assert list(series.lines[0].get_xdata()) == [0.0, 0.4]


def test_nothing_run_is_no_figure(lab: Any, tmp_path: Path) -> None:
    planned = lab.figure()
    files = write(render(lab.plan(planned), lab.store), tmp_path / "out")
    assert [path.suffix for path in files] == [".md", ".csv", ".tex"]
    assert not (tmp_path / "out" / "figures").exists()


def test_the_page_shows_the_figure(lab: Any, planned: TablePlan, tmp_path: Path) -> None:
    files = write(render(lab.plan(planned), lab.store), tmp_path / "out")
    filled = next(path for path in files if path.suffix == ".md")
    link = "../../figures/fiction/made_up_figure.svg"
    assert f"![Made-up accuracies over γ]({link})" in filled.read_text()
    assert (filled.parent / link).is_file()


def test_a_shortened_figure_says_so_itself(lab: Any, planned: TablePlan) -> None:
    figure = figures.draw(filled_of(lab, planned, shortened="three steps"))
    assert figure.axes[0].get_title().startswith("Shortened: three steps. Not the paper's protocol")


def test_a_wrong_style_is_an_input_error(lab: Any) -> None:
    rows = {"only": {"label": "only", "over": "alpha", "values": [0], "style": "zigzag"}}
    planned = lab.figure(rows=rows)
    lab.fill(planned, "only/0", [90.0, 91.0, 92.0])
    with pytest.raises(InputError, match=r"rows\.only\.style = 'zigzag'"):
        figures.draw(filled_of(lab, planned))


# ---- reliability diagrams -----------------------------------------------------------------------------------------


def calibrated(shift: float, empty: int) -> dict[str, Any]:
    """15 bins of 10 examples, each as accurate as it is sure less `shift`; one is empty."""
    bins = [[10, (i + 0.5) / 15, max(0.0, (i + 0.5) / 15 - shift)] for i in range(15)]
    bins[empty] = [0]
    return {"test": {"reliability": bins, "scaled": {"test": {"temperature": 2.0, "ece15": 0.01, "reliability": bins}}}}


def test_a_table_may_draw_the_reliability_of_its_calibration_errors(lab: Any, tmp_path: Path) -> None:
    ece = {"name": "ece15", "digits": 3, "unit": ""}
    columns = {
        "plain": {"label": "as it is", "metric": ece},
        "scaled": {"label": "scaled", "metric": {**ece, "scaled_on": "evaluate"}},
        "top1": {"label": "accuracy"},
    }
    rows = {"net": {"label": "network"}}
    planned = lab.table(columns=columns, rows=rows, diagram="reliability")
    assert figures.write(filled_of(lab, planned), tmp_path) == []
    runs = planned.cell("net", "plain").runs
    for run, shift in zip(runs, (0.1, 0.2), strict=False):  # one of three seeds is missing
        lab.store.directory(run).mkdir(parents=True)
        lab.store.begin(run, {})
        record = {"last": {"test": {"top1": 90.0, "ece15": shift}}, "best": {}, "train": {}, "gamma": 0.0}
        lab.store.finish(run, {**record, "calibration": calibrated(shift, empty=int(10 * shift))})
    filled = filled_of(lab, planned)
    axes = figures.draw_reliability(filled).axes[0]
    labels = [container.get_label() for container in axes.containers]
    assert labels == ["as it is (n = 2)", "scaled (n = 2)"]
    xs, means = axes.containers[0].lines[0].get_data()
    assert xs == pytest.approx([(i + 0.5) / 15 for i in range(15)])
    assert means[10] == pytest.approx(10.5 / 15 - 0.15)
    assert means[1] == pytest.approx(0.0) and means[2] == pytest.approx(2.5 / 15 - 0.1)  # alone in its bin
    whisker = axes.containers[0].lines[2][0].get_segments()[10]
    assert list(whisker[:, 1]) == pytest.approx([10.5 / 15 - 0.2, 10.5 / 15 - 0.1])
    assert [path.suffix for path in figures.write(filled, tmp_path)] == [".png", ".svg"]


def test_only_tables_have_diagrams(lab: Any) -> None:
    with pytest.raises(InputError, match="diagram = 'reliability': must be given in a table only"):
        lab.figure(diagram="reliability")
