"""Figures: files, their determinism, and what they say about what is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from lskd.config_groups import Conf, shipped_conf
from lskd.errors import InputError
from lskd.plan import TablePlan
from lskd.report import figures, render, write, write_for_paper
from lskd.report.filled import FilledTable
from lskd.tables.table import load_table


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
    assert [path.name for path in first] == ["made_up_figure.png", "made_up_figure.pdf", "made_up_figure.svg"]
    for one, other in zip(first, second, strict=True):
        assert one.stat().st_size > 1000
        assert one.read_bytes() == other.read_bytes()
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert b"Date" not in first[1].read_bytes() and b"<dc:date>" not in first[2].read_bytes()


def drawn(filled: FilledTable) -> Axes:
    axes: Axes = figures.picture(filled)[0].axes[0]
    return axes


def whiskers(series: Any) -> list[list[float]]:
    """(low, high) of each point's; those of points without one are left out."""
    segments = series.lines[2][0].get_segments()
    return [list(segment[:, 1]) for segment in segments if segment.size and not np.isnan(segment).any()]


def test_series_stand_at_their_means_with_intervals(lab: Any, planned: TablePlan) -> None:
    filled = filled_of(lab, planned)
    axes = drawn(filled)
    small, large = axes.containers
    assert list(small.lines[0].get_xdata()) == pytest.approx([0.0, 0.2, 0.4])
    assert list(small.lines[0].get_ydata()) == pytest.approx([92 + 0.1 / 3, 91 + 0.1 / 3, 90 + 0.1 / 3])
    assert whiskers(small) == [pytest.approx(cell.interval) for cell in filled.cells[:3]], "as the claims' (values.py)"
    assert whiskers(small)[0][1] - 92 - 0.1 / 3 == pytest.approx(4.3026527 * (0.37 / 3) ** 0.5 / 3**0.5)
    assert (small.lines[0].get_color(), large.lines[0].get_color()) == figures.COLORS[:2]
    assert (large.lines[0].get_linestyle(), large.lines[0].get_marker()) == ("--", "s")
    assert [container.get_label() for container in axes.containers] == ["small network", "large network"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("equivalent label smoothing γ", "top-1 accuracy (%)")
    assert figures.caption(filled).startswith("Mean over seeds; whiskers: the 95 % interval of the mean")


def test_whiskers_are_the_extremes_where_the_papers_are(lab: Any) -> None:
    planned = lab.figure(whiskers="extremes")
    lab.fill(planned, "small/0", [92.0, 92.4, 91.7])
    filled = filled_of(lab, planned)
    assert whiskers(drawn(filled).containers[0]) == [pytest.approx([91.7, 92.4])]
    assert "whiskers from minimum to maximum, as in the paper" in figures.caption(filled)
    with pytest.raises(InputError, match="whiskers = 'extremes': must be given in a figure only"):
        lab.table(whiskers="extremes")


def test_two_runs_have_no_interval(lab: Any) -> None:
    planned = lab.figure()
    lab.fill(planned, "small/0", [92.0, 92.4])
    filled = filled_of(lab, planned)
    assert whiskers(drawn(filled).containers[0]) == []
    assert figures.caption(filled).startswith("Mean over seeds, without intervals: no point has 3 runs.")
    lab.fill(planned, "large/0", [92.0, 92.4, 92.1])
    assert "(none of fewer than 3 runs)" in figures.caption(filled_of(lab, planned))


def test_series_over_one_setting_stand_side_by_side_where_they_are(lab: Any, planned: TablePlan) -> None:
    """Moved on the page, not in their numbers; the axis reaches all."""
    filled = filled_of(lab, replace(planned, table=replace(planned.table, x=None)))
    filled = replace(filled, cells=tuple(replace(cell, x=float(cell.cell.column)) for cell in filled.cells))
    axes = drawn(filled)
    axes.figure.draw_without_rendering()
    small, large = (container.lines[0] for container in axes.containers)
    assert list(small.get_xdata()) == list(large.get_xdata()) == [0.0, 0.2, 0.4]
    assert small.get_transform().transform((0.2, 92))[0] < large.get_transform().transform((0.2, 92))[0]
    low, high = axes.get_ylim()
    assert low < min(cell.interval[0] for cell in filled.cells) and high > max(
        cell.interval[1] for cell in filled.cells
    )
    assert -0.1 < axes.get_xlim()[0] < 0 and 0.4 < axes.get_xlim()[1] < 0.5


def test_missing_points_are_left_out_and_counted(lab: Any) -> None:
    planned = lab.figure()
    lab.fill(planned, "small/0", [90.0, 91.0, 92.0], gamma=0.0)
    lab.fill(planned, "small/0.4", [93.0], gamma=0.4)
    filled = filled_of(lab, planned)
    assert figures.caption(filled).endswith("4 of 18 runs. 4 of 6 points are missing.")
    (series,) = drawn(filled).containers
    assert list(series.lines[0].get_xdata()) == [0.0, 0.4]


def test_a_figure_has_room_for_all_its_points_and_no_scale_where_there_are_none(lab: Any) -> None:
    """One point of four: its axis is that of all of them, in whole numbers; an empty panel says so."""
    line = {"over": "recipe.epochs", "values": [1, 2, 3, 4]}
    rows: dict[str, Any] = {"one": {"label": "one", "panel": "above", **line}}
    rows["other"] = {"label": "other", "panel": "below", "run": {"arch.hidden": [64]}, **line}
    planned = lab.figure(rows=rows, x=None)
    lab.fill(planned, "one/1", [92.0, 92.4, 91.7])
    figure, _ = figures.picture(filled_of(lab, planned))
    above, below = figure.axes
    low, high = above.get_xlim()
    assert low < 1 and high > 4
    ticks = [tick for tick in above.get_xticks() if low <= tick <= high]
    assert ticks and all(float(tick).is_integer() for tick in ticks)
    assert (len(below.get_yticks()), [text.get_text() for text in below.texts]) == (0, ["nothing yet"])


def test_a_papers_images_have_no_text_but_their_axes_and_fit_its_columns(lab: Any, planned: TablePlan) -> None:
    filled = filled_of(lab, planned, shortened="three steps")
    for form, width in ((figures.PAPER["column"], 3.25), (figures.PAPER["page"], 6.75)):
        figure, text = figures.picture(filled, form)
        assert figure.get_figwidth() == width
        assert figure.get_suptitle() == figure.axes[0].get_title() == figure.get_supxlabel() == ""
        assert text == figures.caption(filled)


def test_what_an_image_does_not_say_its_float_says(lab: Any, planned: TablePlan, tmp_path: Path) -> None:
    files = write_for_paper(render(lab.plan(planned, shortened="three steps"), lab.store), tmp_path)
    assert sorted(path.name for path in files) == [
        "made_up_figure.tex", "made_up_figure_column.pdf", "made_up_figure_column.tex", "made_up_figure_page.pdf",
        "made_up_figure_page.tex",
    ]  # fmt: skip
    folder = tmp_path / "paper" / "fiction"
    column, page = (folder / f"made_up_figure_{name}.tex" for name in ("column", "page"))
    assert r"\includegraphics[width=\columnwidth]{made_up_figure_column.pdf}" in column.read_text()
    assert r"\begin{figure*}" in page.read_text() and r"\textwidth" in page.read_text()
    assert r"\caption{Shortened: three steps. Not the paper" in column.read_text()
    assert "whiskers: the 95 \\% interval" in column.read_text()
    for image in folder.glob("*.pdf"):  # letters are TrueType (Type 42), not drawings (Type 3), which publishers refuse
        content = image.read_bytes()
        assert b"/CIDFontType2" in content and b"/FontFile2" in content and b"/Type3" not in content
    if shutil.which("pdflatex"):
        inputs = r"\input{made_up_figure_page}\input{made_up_figure_column}"
        packages = r"\documentclass[twocolumn]{article}\usepackage{booktabs,graphicx}"
        (folder / "all.tex").write_text(rf"{packages}\begin{{document}}{inputs}\end{{document}}")
        done = subprocess.run(["pdflatex", "-halt-on-error", "all.tex"], cwd=folder, check=True, capture_output=True)
        assert b"Overfull" not in done.stdout


def test_series_of_shipped_figures_differ_in_grey() -> None:
    conf = Conf()
    paths = [path for path in (shipped_conf() / "table").glob("*.yaml") if "kind: figure" in path.read_text()]
    assert len(paths) > 5
    for table in (load_table(path.stem, conf) for path in paths):
        styles = [(line.panel, line.style or figures.STYLES[i]) for i, line in enumerate(table.rows.values())]
        assert len(set(styles)) == len(styles), table.name
    assert len(set(figures.STYLES)) == len(figures.STYLES) == len(figures.COLORS)


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
    axes = drawn(filled_of(lab, planned, shortened="three steps"))
    assert axes.get_title().startswith("Shortened: three steps. Not the paper's protocol")


def test_a_wrong_style_is_an_input_error(lab: Any) -> None:
    rows = {"only": {"label": "only", "over": "alpha", "values": [0], "style": "zigzag"}}
    planned = lab.figure(rows=rows)
    lab.fill(planned, "only/0", [90.0, 91.0, 92.0])
    with pytest.raises(InputError, match=r"rows\.only\.style = 'zigzag'"):
        drawn(filled_of(lab, planned))


# ---- reliability diagrams -----------------------------------------------------------------------------------------


def calibrated(shift: float, empty: int) -> dict[str, Any]:
    """15 bins of 10 examples, each as accurate as it is sure less `shift`; one is empty, and the first nearly so."""
    bins = [[10, (i + 0.5) / 15, max(0.0, (i + 0.5) / 15 - shift)] for i in range(15)]
    bins[empty], bins[0] = [0], [1, 0.05, 1.0]
    return {"test": {"reliability": bins, "scaled": {"test": {"temperature": 2.0, "ece15": 0.01, "reliability": bins}}}}


def test_a_table_may_draw_the_reliability_of_its_calibration_errors(lab: Any, tmp_path: Path) -> None:
    ece = {"name": "ece15", "digits": 3, "unit": ""}
    columns = {
        "plain": {"label": "as it is", "metric": ece},
        "scaled": {"label": "scaled", "metric": {**ece, "scaled_on": "evaluate"}},
        "top1": {"label": "accuracy"},
    }
    rows = {"net": {"label": "network"}}
    planned = lab.table(columns=columns, rows=rows, diagram="reliability", seeds=[0, 1, 2, 3])
    assert figures.write(filled_of(lab, planned), tmp_path) == []
    runs = planned.cell("net", "plain").runs
    for run, shift in zip(runs, (0.1, 0.2, 0.3), strict=False):  # one of four seeds is missing
        lab.store.directory(run).mkdir(parents=True)
        lab.store.begin(run, {})
        record = {"last": {"test": {"top1": 90.0, "ece15": shift}}, "best": {}, "train": {}, "gamma": 0.0}
        lab.store.finish(run, {**record, "calibration": calibrated(shift, empty=int(10 * shift))})
    filled = filled_of(lab, planned)
    figure, text = figures.picture(filled)
    axes, below = figure.axes
    labels = [container.get_label() for container in axes.containers]
    assert labels == ["as it is (n = 3)", "scaled (n = 3)"]
    xs, means = axes.containers[0].lines[0].get_data()
    assert xs == pytest.approx([(i + 0.5) / 15 for i in range(1, 15)]), "the first has too few examples for the line"
    assert means[9] == pytest.approx(10.5 / 15 - 0.2)
    assert means[1] == pytest.approx(2.5 / 15 - 0.1) or means[1] < 2.5 / 15, "of the two runs that have the bin"
    assert whiskers(axes.containers[0])[9] == [
        pytest.approx(10.5 / 15 - 0.2 + sign * 4.3026527 * 0.1 / 3**0.5) for sign in (-1, 1)
    ]  # fmt: skip
    faint = next(line for line in axes.lines if line.get_fillstyle() == "none")
    assert list(faint.get_xdata()) == pytest.approx([0.05]) and list(faint.get_ydata()) == [1.0]
    assert "less than 1 % of the images" in text
    shares = below.patches[0].get_data().values
    assert sum(shares) == pytest.approx(100) and shares[1] < shares[10]
    assert [path.suffix for path in figures.write(filled, tmp_path)] == [".png", ".pdf", ".svg"]


def test_a_diagram_all_of_whose_bins_are_full_has_its_room(lab: Any) -> None:
    columns = {"plain": {"label": "as it is", "metric": {"name": "ece15"}}}
    planned = lab.table(columns=columns, rows={"net": {"label": "network"}}, diagram="reliability", claims=[])
    bins = [[10, (i + 0.5) / 15, (i + 0.5) / 15] for i in range(15)]
    for run in planned.cell("net", "plain").runs:
        lab.store.directory(run).mkdir(parents=True)
        lab.store.begin(run, {})
        record = {"last": {"test": {"ece15": 0.0}}, "best": {}, "train": {}, "gamma": 0.0}
        lab.store.finish(run, {**record, "calibration": {"test": {"reliability": bins, "scaled": {}}}})
    figure, _ = figures.picture(filled_of(lab, planned))
    figure.draw_without_rendering()
    assert [axes.get_position().height > height for axes, height in zip(figure.axes, (0.3, 0.08), strict=True)] == [
        True, True,
    ]  # fmt: skip


def test_only_tables_have_diagrams(lab: Any) -> None:
    with pytest.raises(InputError, match="diagram = 'reliability': must be given in a table only"):
        lab.figure(diagram="reliability")


# ---- curves over epochs, in panels --------------------------------------------------------------------------------

EPOCHS = [5, 10, 15]  # of those that are evaluated
OVER_EPOCHS = {"over": "epoch", "values": EPOCHS}


def curves(lab: Any, **table: Any) -> TablePlan:
    """The training loss and the accuracy of two runs over their epochs."""
    loss, top1 = {"panel": "training loss", "metric": {"name": "loss"}}, {"panel": "accuracy (%)"}
    content = {
        "x": None,
        "draw": "bands",
        "rows": {
            "hard_loss": {"label": "hard", **OVER_EPOCHS, **loss},
            "ls_loss": {"label": "LS", "run": {"alpha": 0.1}, **OVER_EPOCHS, **loss},
            "hard": {"label": "hard", **OVER_EPOCHS, **top1},
            "ls": {"label": "LS", "run": {"alpha": 0.1}, **OVER_EPOCHS, **top1},
        },
    }
    planned: TablePlan = lab.figure(**{**content, **table})
    return planned


def train_losses(lab: Any, planned: TablePlan, row: str, losses: Sequence[float]) -> None:
    """Finish a row's runs, whose loss has two terms; a seed adds a tenth to the one, and a point to the accuracy."""
    lab.fill(planned, f"{row}/5", [90.0, 91.0, 92.0])
    for run in planned.cell(row, "5").runs:
        lines = [
            {
                "epoch": epoch - 1, "seconds": 1.0, "lr": 0.1, "step": 10 * epoch,
                "train": {"top1": 50.0, "ce": loss / 2 + run.seed / 10, "soft": loss / 2},
                "test": {"top1": 80.0 + epoch / 5 + run.seed, "nll": 0.1},
            }
            for epoch, loss in zip(EPOCHS, losses, strict=True)
        ]  # fmt: skip
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (lab.store.directory(run) / "log.jsonl").write_text(text)


def test_two_quantities_over_epochs_stand_in_two_panels_with_bands(lab: Any) -> None:
    planned = curves(lab)
    train_losses(lab, planned, "hard", [2.0, 1.0, 0.5])
    train_losses(lab, planned, "ls", [3.0, 2.0, 1.5])
    filled = filled_of(lab, planned)
    figure, said = figures.picture(filled)
    upper, lower = figure.axes
    assert (upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == ("training loss", "accuracy (%)", "epoch")
    losses = [[2.1, 1.1, 0.6], [3.1, 2.1, 1.6]]
    assert [list(line.get_ydata()) for line in upper.lines] == [pytest.approx(of_run) for of_run in losses]
    assert [list(line.get_ydata()) for line in lower.lines] == [[82.0, 83.0, 84.0]] * 2
    assert [line.get_color() for line in upper.lines] == [line.get_color() for line in lower.lines]
    [band, _] = lower.collections
    reach = 4.302653 / 3**0.5  # t of 2 degrees of freedom, over √3 seeds whose standard deviation is 1
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((82 - reach, 84 + reach), rel=1e-5)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["hard", "LS"]
    assert "bands: the 95 % interval of the mean" in said


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rows": {"a": {"label": "", "panel": "p", **OVER_EPOCHS}, "b": {"label": "", **OVER_EPOCHS}}}, "or of none"),
        ({"scatter": {"x": "a", "y": "b"}}, "given with diagram=scatter only"),
        ({"metric": {"name": "loss", "part": "test"}}, "part = 'test': must be left out with name=loss"),
    ],
)
def test_panels_and_losses_that_cannot_be_are_refused(lab: Any, table: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        curves(lab, **table)


# ---- scatter ------------------------------------------------------------------------------------------------------

POINTS = {"a": (10.0, 20.0), "b": (12.0, 21.0), "c": (14.0, 20.5), "d": (16.0, 23.0)}  # teachers, students


def scatter_table(lab: Any, **table: Any) -> TablePlan:
    tests = [{"test": "correlated", "of": "*/student", "than": "*/teacher"}]
    content = {
        "diagram": "scatter",
        "scatter": {"x": "teacher", "y": "student"},
        "rows": {row: {"label": f"teacher {row}", "run": {"recipe.lr": 0.1 + i}} for i, row in enumerate(POINTS)},
        "columns": {"teacher": {"label": "teacher (%)"}, "student": {"label": "student (%)", "run": {"alpha": 0.1}}},
        "paper": {row: {"teacher": x, "student": 40 - y} for row, (x, y) in POINTS.items()},
        "claims": [{"id": "K7", "text": "", "tests": tests}],
    }
    planned: TablePlan = lab.table(**{**content, **table})
    return planned


def test_a_table_may_draw_its_columns_against_one_another(lab: Any, tmp_path: Path) -> None:
    """ρ of (1, 3, 2, 4) with (1, 2, 3, 4) is 1 - 6·2/(4·15) = 0.8; the paper's made-up students run the other way."""
    planned = scatter_table(lab)
    for row, (x, y) in POINTS.items():
        lab.fill(planned, f"{row}/teacher", [x, x + 1, x + 2])
        lab.fill(planned, f"{row}/student", [y, y + 1, y + 2])
    filled = filled_of(lab, planned)
    figure, said = figures.picture(filled)
    [axes] = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("teacher (%)", "student (%)")
    large = [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_label() == "student (%)"]
    assert large == [(11.0, 21.0), (13.0, 22.0), (15.0, 21.5), (17.0, 24.0)]
    small = [line.get_xydata() for line in axes.lines if len(line.get_xydata()) == 3]
    assert small[0].tolist() == [[10.0, 20.0], [11.0, 21.0], [12.0, 22.0]]
    assert [text.get_text() for text in axes.texts] == [f"teacher {row}" for row in "abcd"]
    assert "student (%): 0.80 of 4 rows within seeds, mean over 3, -0.80 of the paper's 4" in said
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["student (%)", "the paper's"]
    assert "mean rank correlation 0.80 of 4 cells" in str(filled.findings)
    assert [path.suffix for path in figures.write(filled, tmp_path)] == [".png", ".pdf", ".svg"]


def test_a_scatter_of_nothing_is_not_drawn_and_unknown_columns_are_refused(lab: Any) -> None:
    assert not figures.drawable(filled_of(lab, scatter_table(lab)))
    with pytest.raises(InputError, match="scatter = 'studnet': did you mean 'student'"):
        scatter_table(lab, scatter={"x": "teacher", "y": "studnet"})
    with pytest.raises(InputError, match="scatter = None: must be given with diagram=scatter"):
        scatter_table(lab, scatter=None)


# ---- logarithmic axes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [None, {"name": "gamma"}])
def test_a_logarithmic_axis_has_plain_numbers(lab: Any, x: Any) -> None:
    """At the values of the series, if its runs have no places of their own."""
    planned = lab.figure(x=x, x_axis="log", rows={"a": {"label": "a", "over": "alpha", "values": [0.1, 0.15, 0.4]}})
    for cell in planned.cells:
        lab.fill(planned, f"a/{cell.column}", [90.0, 91.0, 92.0], gamma=float(cell.column))
    figure, _ = figures.picture(filled_of(lab, planned))
    figure.draw_without_rendering()
    [axes] = figure.axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert not any("$" in label for label in labels)
    assert x is not None or labels == ["0.1", "0.15", "0.4"]
