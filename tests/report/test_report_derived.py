"""Cells that follow from others: their numbers seed by seed, their claims, their words; and other kinds of figures."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from lskd.plan import TablePlan
from lskd.report import figures, frame, power, render, text
from lskd.report.filled import FilledTable
from lskd.report.values import Values

PAIRS = {
    "small": {"label": "small", "run": {"arch.hidden": [16]}},
    "large": {"label": "large", "run": {"arch.hidden": [64]}},
    "mean": {"label": "mean of both", "derive": {"kind": "mean", "of": "*"}},
    "rank": {"label": "mean rank", "derive": {"kind": "rank", "of": "*"}},
    "wins": {"label": "wins", "derive": {"kind": "wins", "of": "*", "than": "hard"}},
}
GAIN = {
    "hard": {"label": "hard targets", "run": {"alpha": 0.0}},
    "ls": {"label": "label smoothing", "run": {"alpha": 0.1}},
    "gain": {"label": "gain", "derive": {"kind": "difference", "of": "ls", "than": "hard"}},
}


def filled_of(lab: Any, planned: TablePlan) -> FilledTable:
    filled: FilledTable = render(lab.plan(planned), lab.store).tables[0]
    return filled


def numbers(filled: FilledTable, row: str, column: str) -> dict[int, float]:
    return next(dict(one.values) for one in filled.cells if (one.cell.row, one.cell.column) == (row, column))


def fill(lab: Any, planned: TablePlan, large: Any = MappingProxyType({0: 97.0, 2: 94.0})) -> None:
    """Label smoothing is better by 1 on the small network, by 3 and -2 on the large one, of which a seed is missing."""
    lab.fill(planned, "hard/small", [90.0, 91.0, 92.0])
    lab.fill(planned, "ls/small", [91.0, 92.0, 93.0])
    lab.fill(planned, "hard/large", [94.0, 95.0, 96.0])
    lab.fill(planned, "ls/large", large)


def test_derived_numbers_are_of_the_seeds_that_all_have(lab: Any) -> None:
    planned = lab.table(rows=GAIN, columns=PAIRS)
    fill(lab, planned)
    filled = filled_of(lab, planned)
    assert numbers(filled, "gain", "small") == {0: 1, 1: 1, 2: 1}
    assert numbers(filled, "gain", "large") == {0: 3, 2: -2}
    assert numbers(filled, "ls", "mean") == {0: 94, 2: 93.5}
    assert numbers(filled, "gain", "mean") == {0: 2, 2: -0.5}
    assert numbers(filled, "ls", "rank") == {0: 1, 2: 1.5}
    assert numbers(filled, "hard", "rank") == {0: 2, 2: 1.5}
    assert numbers(filled, "ls", "wins") == {0: 2, 2: 1}
    assert len(filled.runs) == 12 and filled.done == 11  # a derived cell has no runs of its own


def test_less_is_better_of_an_error(lab: Any) -> None:
    planned = lab.table(rows=GAIN, columns=PAIRS, metric={"name": "error"})
    fill(lab, planned)
    filled = filled_of(lab, planned)
    assert numbers(filled, "ls", "rank") == {0: 1, 2: 1.5}
    assert numbers(filled, "ls", "wins") == {0: 2, 2: 1}
    assert numbers(filled, "gain", "small") == {0: -1, 1: -1, 2: -1}


def test_a_page_says_what_a_derived_cell_is(lab: Any) -> None:
    planned = lab.table(columns=PAIRS, paper={"ls": {"mean": 93.0}})
    fill(lab, planned)
    page = text(render(lab.plan(planned), lab.store))
    assert "“mean of both”: mean over cells of top-1 accuracy (%) on the test part, last epoch" in page
    assert "“mean rank”: rank (1: the best) by top-1 accuracy (%)" in page
    cells = {cell.strip() for line in page.splitlines() if line.startswith("| label") for cell in line.split("|")}
    assert {"93.75 ± 0.35 (2/3 seeds)", "1.2 ± 0.4 (2/3 seeds)", "1.5 ± 0.7 (2/3 seeds)"} <= cells
    table = frame(render(lab.plan(planned), lab.store)).set_index(["row", "column"])
    assert table.loc[("ls", "mean"), "values"] == "94.0 93.5" and table.loc[("ls", "mean"), "runs"] == ""
    assert "- n/a: hard targets / wins: a cell that it would follow from does not exist, or it is none of" in page
    rows = lab.table(rows=GAIN)
    assert "“gain”: difference of top-1 accuracy (%)" in text(render(lab.plan(rows), lab.store))


def test_a_claim_about_derived_cells_is_tested_seed_by_seed(lab: Any) -> None:
    tests = [{"test": "above", "of": "gain/mean", "than": 0, "margin": "ours"}]
    ranks = [{"test": "less", "of": "ls/rank", "than": "hard/rank"}]
    claims = [{"id": "C", "text": "", "tests": tests}, {"id": "R", "text": "", "tests": ranks}]
    planned = lab.table(rows=GAIN, columns=PAIRS, claims=claims, spread="pooled")
    findings = lab.findings(planned)
    assert findings["C"].verdict == "not run"
    assert findings["C"].missing == ("ls/small", "ls/large", "hard/small", "hard/large")
    fill(lab, planned, [97.0, 97.5, 98.9])
    found = lab.findings(planned)
    [part] = found["C"].parts
    # Gains 1 and 3, 1 and 2.5, 1 and 2.9: means 2, 1.75, 1.95.
    assert part.effect is not None and part.effect.mean == pytest.approx(5.7 / 3)
    assert (part.verdict, part.statement) == ("reproduced", "gain/mean > 0 (ours)")
    assert found["R"].verdict == "undecided" and "all seeds agree exactly" in found["R"].parts[0].text
    assert [line.rpartition(" (")[0] for line in power.lines(planned, Values(lab.store))] == [
        "claim C: n = 3, 1 part without a known power", "claim R: n = 3, 1 part without a known power"
    ]  # fmt: skip


SWEEP = {
    "t1": {"label": "T = 1", "run": {"arch.hidden": [16]}},
    "t4": {"label": "T = 4", "run": {"arch.hidden": [32]}},
    "t8": {"label": "T = 8", "run": {"arch.hidden": [64]}},
    "best": {"label": "the best", "derive": {"kind": "best", "of": ["t1", "t4", "t8"]}},
}


def test_the_best_of_several_is_chosen_on_one_part_and_reported_on_another(lab: Any) -> None:
    """The epoch that is best on the test part stands for the validation part, of which made-up runs have none."""
    select = {"name": "top5", "part": "test"}
    tests = [{"test": "greater", "of": "best(ls)", "than": "hard/best"}]
    planned = lab.table(columns=SWEEP, select=select, claims=[{"id": "B", "text": "", "tests": tests}])
    for row, better in (("hard", 0.0), ("ls", 2.0)):
        lab.fill(planned, f"{row}/t1", [90.0 + better, 90.1, 90.2 + better], top5=70.0)
        lab.fill(planned, f"{row}/t4", [80.0, 80.1 + better, 80.3], top5=75.0)
        lab.fill(planned, f"{row}/t8", [95.0, 95.1, 95.2], top5=60.0)
    filled = filled_of(lab, planned)
    assert numbers(filled, "ls", "best") == {0: 80, 1: 82.1, 2: 80.3}  # t4's, though t8's are higher
    [part] = filled.findings[0].parts
    assert part.effect is not None and part.effect.mean == pytest.approx(2 / 3)
    assert part.statement == "best(ls) > hard/best"


def test_a_derived_series_is_drawn_where_both_are(lab: Any) -> None:
    series = {"over": "alpha", "values": [0, 0.2, 0.4]}
    rows = {
        "small": {"label": "small", "run": {"arch.hidden": [16]}, **series},
        "large": {"label": "large", "run": {"arch.hidden": [64]}, **series},
        "gap": {"label": "gap", "derive": {"kind": "difference", "of": "large", "than": "small"}},
    }
    planned = lab.figure(rows=rows, x=None)
    for column, top1 in (("0", 90.0), ("0.2", 92.0)):
        lab.fill(planned, f"small/{column}", [top1, top1, top1 + 1])
        lab.fill(planned, f"large/{column}", [top1 + 1, top1 + 2, top1 + 2])
    *_, gap = figures.picture(filled_of(lab, planned))[0].axes[0].containers
    assert list(gap.lines[0].get_xdata()) == [0, 0.2]
    assert list(gap.lines[0].get_ydata()) == pytest.approx([4 / 3, 4 / 3])


# ---- other kinds of figures -----------------------------------------------------------------------------------------


def categories(lab: Any, **table: Any) -> FilledTable:
    series = {"over": "arch", "values": ["mlp", "mlp800"]}
    rows = {"hard": {"label": "hard", **series}, "ls": {"label": "LS", "run": {"alpha": 0.1}, **series, "style": "s--"}}
    planned = lab.figure(x=None, rows=rows, x_axis="category", **table)
    lab.fill(planned, "hard/mlp", [90.0, 91.0, 92.0])
    lab.fill(planned, "ls/mlp800", [93.0, 94.0, 95.0])
    return filled_of(lab, planned)


def test_bars_stand_side_by_side_over_their_names(lab: Any) -> None:
    axes = figures.picture(categories(lab, draw="bars"))[0].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["mlp", "mlp800"]
    hard, ls = (bars for bars in axes.containers if hasattr(bars, "patches"))
    assert [(bar.get_x(), bar.get_height()) for bar in hard] == [(pytest.approx(-0.4), 91)]
    assert [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in ls] == [
        (pytest.approx(1), pytest.approx(0.4), 94)
    ]


def test_points_are_one_a_run(lab: Any) -> None:
    filled = categories(lab, draw="points")
    hard, ls = figures.picture(filled)[0].axes[0].lines
    assert (list(hard.get_xdata()), list(hard.get_ydata())) == ([0, 0, 0], [90, 91, 92])
    assert (list(ls.get_xdata()), ls.get_marker(), ls.get_linestyle()) == ([1, 1, 1], "s", "None")
    assert figures.caption(filled).startswith("A point a run.")


def test_an_axis_may_be_logarithmic(lab: Any) -> None:
    rows = {"only": {"label": "only", "over": "recipe.lr", "values": [0.01, 0.1]}}
    planned = lab.figure(x=None, rows=rows, x_axis="log")
    lab.fill(planned, "only/0.01", [90.0, 91.0, 92.0])
    assert figures.picture(filled_of(lab, planned))[0].axes[0].get_xscale() == "log"
