"""Rendered pages, against strings."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import pytest

from lskd.data.text.settings import Text
from lskd.plan import Plan, TablePlan
from lskd.report import frames, latex, layout, markdown, render, text, write
from lskd.report.filled import FilledTable
from lskd.report.words import outputs
from lskd.tables.metric import Metric

PAPER = {
    "hard": {"small": {"value": 91.9, "std": 0.2}, "large": 96.0},
    "ls": {"small": None, "large": 95},
}
CLAIM = {
    "id": "C9",
    "text": "Label smoothing hurts the small network",
    "tests": [{"test": "less", "of": "ls/small", "than": "hard/small"}],
}

MARKDOWN = """\
|                           |       |            small |                       large |
|:--------------------------|:------|-----------------:|----------------------------:|
| hard targets              | ours  | 92.00 ± 1.00 (3) |    95.50 ± 0.71 (2/3 seeds) |
|                           | paper |       91.9 ± 0.2 |                        96.0 |
|                           | Δ     |     +0.10 inside |                −0.50 inside |
| label smoothing (α = 0.1) | ours  | 90.93 ± 0.95 (3) | – (0/3 seeds, 1 diverged) |
|                           | paper |              n/a |                          95 |
|                           | Δ     |              n/a |                           – |
"""


@pytest.fixture
def planned(lab: Any) -> TablePlan:
    """Cells of every kind: complete, partial, and missing with a diverged run."""
    planned: TablePlan = lab.table(paper=PAPER, claims=[CLAIM], notes=["Nobody printed this."])
    lab.fill(planned, "hard/small", [91.0, 92.0, 93.0])
    lab.fill(planned, "hard/large", [95.0, 96.0])
    lab.fill(planned, "ls/small", [90.0, 90.9, 91.9])
    diverged = planned.cell("ls", "large").runs[0]
    lab.store.directory(diverged).mkdir(parents=True)
    lab.store.fail(diverged, {"reason": "diverged"})
    return planned


def filled_of(lab: Any, planned: TablePlan, **experiment: Any) -> FilledTable:
    filled: FilledTable = render(lab.plan(planned, **experiment), lab.store).tables[0]
    return filled


def squeezed(table: str) -> list[str]:
    """Lines without the padding of their columns."""
    return [" ".join(line.replace(":", "-").replace("-", "").split()) for line in table.strip().splitlines()]


def test_markdown(lab: Any, planned: TablePlan) -> None:
    filled = markdown.page(filled_of(lab, planned), runs="../../runs")
    shown = "\n".join(line for line in filled.splitlines() if line.startswith("|"))
    assert squeezed(shown) == squeezed(MARKDOWN)
    assert filled.startswith(
        "# Made-up accuracies\n\nNobody 2020, Table 1. 8 of 12 runs done: `lskd-run experiment=fiction`"
    )
    assert (
        "Top-1 accuracy (%) on the test part, last epoch. Mean ± sample standard deviation (number of seeds). Δ"
        in filled
    )
    assert (
        "- C9: **reproduced**. Label smoothing hurts the small network\n    - `ls/small < hard/small` reproduced: "
        in filled
    )
    assert "- Nobody printed this." in filled
    ids = [run.id for run in planned.cell("hard", "large").runs]
    assert f"- `hard/large`, seed 0, 1: [{ids[0]}](../../runs/{ids[0]}/) [{ids[1]}](../../runs/{ids[1]}/)\n" in filled
    assert "- 8 runs: Abacus 3, lskd 0.1.0, commit 0123456789ab" in filled


def test_columns_of_a_table_line_up(lab: Any, planned: TablePlan) -> None:
    lines = [line for line in text(render(lab.plan(planned), lab.store)).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1


def test_csv_has_every_number_of_every_cell(lab: Any, planned: TablePlan) -> None:
    records = list(csv.DictReader(io.StringIO(frames.to_csv(filled_of(lab, planned)))))
    assert [(record["row"], record["column"]) for record in records] == [
        ("hard", "small"), ("hard", "large"), ("ls", "small"), ("ls", "large")
    ]  # fmt: skip
    first, partial, no_paper, missing = records
    assert {key: first[key] for key in ("metric", "unit", "part", "epoch", "n", "wanted", "mean", "sd", "within")} == {
        "metric": "top1", "unit": "%", "part": "test", "epoch": "last",
        "n": "3", "wanted": "3", "mean": "92.0", "sd": "1.0", "within": "true",
    }  # fmt: skip
    assert float(first["ci_low"]) == pytest.approx(92 - 4.3026527 / 3**0.5)
    assert float(first["delta"]) == pytest.approx(0.1)
    assert (first["seeds"], first["values"]) == ("0 1 2", "91.0 92.0 93.0")
    assert first["runs"].split() == [run.id for run in planned.cell("hard", "small").runs]
    assert (partial["n"], partial["wanted"], partial["paper"], partial["paper_sd"]) == ("2", "3", "96.0", "")
    assert (no_paper["paper"], no_paper["delta"], no_paper["within"]) == ("", "", "")
    assert (missing["n"], missing["mean"], missing["sd"], missing["diverged"]) == ("0", "", "", "1")


def test_one_seed_has_no_spread(lab: Any) -> None:
    planned = lab.table(seeds=[0], paper={"hard": {"small": 92.0}})
    lab.fill(planned, "hard/small", [91.0])
    filled = markdown.page(filled_of(lab, planned), runs="runs")
    assert " 91.00 (1) |" in filled
    assert " −1.00 |" in filled  # neither inside nor outside of an interval that there is not
    record = next(csv.DictReader(io.StringIO(frames.to_csv(filled_of(lab, planned)))))
    assert (record["mean"], record["sd"], record["ci_low"], record["within"]) == ("91.0", "", "", "")


def test_no_paper_columns_where_the_paper_prints_nothing(lab: Any) -> None:
    filled = filled_of(lab, lab.table())
    assert "paper" not in markdown.page(filled, runs="runs") + frames.to_csv(filled) + latex.environment(filled)


def test_a_shortened_experiment_is_never_set_beside_the_paper(lab: Any, planned: TablePlan) -> None:
    filled = filled_of(lab, planned, shortened="three steps instead of 64,000")
    warning = (
        "Shortened: three steps instead of 64,000. Not the paper's protocol; "
        "its numbers must not be compared with the paper's."
    )
    for rendered in (markdown.page(filled, runs="runs"), markdown.compact(filled, "there")):
        assert rendered.startswith(f"> **{warning}**\n")
        assert "- C9: at this shortened recipe: **agrees**." in rendered
        assert "91.9" not in rendered.replace("91.9]", "") and "inside" not in rendered
    assert rf"\caption{{{warning}" in latex.environment(filled)
    assert "paper" not in frames.to_csv(filled)


def test_settings_laid_over_an_experiment_are_said(lab: Any, planned: TablePlan) -> None:
    rendered = markdown.page(filled_of(lab, planned, settings={"recipe.epochs": 3}), runs="runs")
    assert rendered.index('**Settings laid over every cell: {"recipe.epochs": 3}**') < rendered.index("| hard targets")


def test_selection_on_the_test_part_is_said_loudly(lab: Any) -> None:
    planned = lab.table(metric={"epoch": "best_on_test"})
    lab.fill(planned, "hard/small", [91.0, 92.0, 93.0])
    rendered = markdown.page(filled_of(lab, planned), runs="runs")
    assert "93.00 ± 1.00 (3)" in rendered  # the best epoch is one point better
    assert rendered.index("**Selected on the test part") < rendered.index("| hard targets")
    assert "EPOCH WITH THE BEST TOP-1 ON THE TEST PART" in rendered


def test_metrics_that_differ_by_column_are_named(lab: Any) -> None:
    columns = {
        "accuracy": {"label": "accuracy"},
        "nll": {"label": "NLL", "metric": {"name": "nll", "digits": 3, "unit": "nats"}},
        "top5": {"label": "top-5", "metric": {"name": "top5"}},
    }
    planned = lab.table(columns=columns)
    lab.fill(planned, "hard/nll", [91.0, 92.0, 93.0])
    rendered = markdown.page(filled_of(lab, planned), runs="runs")
    assert "“NLL”: negative log-likelihood (nats) on the test part, last epoch; “top-5”: " in rendered
    assert "0.500 ± 0.000 (3)" in rendered
    assert "not recorded (3)" in rendered  # the runs are there, without this number
    assert rendered.count("`hard/accuracy`, `hard/nll`, `hard/top5`, seed 0, 1, 2: ") == 1


def test_runs_that_are_one_and_the_same_count_once(lab: Any) -> None:
    """Students of one teacher, whose seed is fixed: the teacher's cell has one run, not three."""
    columns = {"teacher": {"label": "teacher", "take": "teacher"}, "student": {"label": "student"}}
    base = {"dataset": "digits", "arch": "mlp", "recipe": "quickstart", "method": "kd", "temperature": 4,
            "teacher": {"arch": "mlp", "arch.hidden": [64], "seed": 0}}  # fmt: skip
    planned = lab.table(base=base, columns=columns, rows={"kd": {"label": "KD"}})
    lab.fill(planned, "kd/teacher", [91.0])
    lab.fill(planned, "kd/student", [90.0, 90.5, 91.0])
    assert "| KD | 91.00 (1) | 90.50 ± 0.50 (3) |" in " ".join(markdown.page(filled_of(lab, planned), "runs").split())


def test_a_wide_table_is_broken_into_blocks(lab: Any) -> None:
    columns = {f"w{n}": {"label": f"{n} hidden units", "run": {"arch.hidden": [n]}} for n in range(1, 14)}
    planned = lab.table(columns=columns, paper={"hard": {"w1": 50.0}})
    lines = [line for line in text(render(lab.plan(planned), lab.store)).splitlines() if line.startswith("|")]
    assert max(map(len, lines)) <= markdown.WIDTH
    headers = [line for line in lines if "hidden units" in line]
    assert len(headers) > 1
    assert sum(line.count("hidden units") for line in headers) == 13


def test_a_figure_is_a_table_of_its_points(lab: Any) -> None:
    planned = lab.figure(seeds=[0, 1])
    lab.fill(planned, "small/0", [90.0, 91.0], gamma=0.0)
    lab.fill(planned, "small/0.2", [92.0], gamma=0.2)
    lines = [line for line in markdown.page(filled_of(lab, planned), runs="runs").splitlines() if line.startswith("|")]
    assert [" ".join(line.split()) for line in lines[:1] + lines[2:6]] == [
        "| series | setting | gamma | mean ± sd | min | max | n |",
        "| small network | alpha = 0 | 0.000 | 90.50 ± 0.71 | 90.00 | 91.00 | 2 |",
        "| | alpha = 0.2 | 0.200 | 92.00 | 92.00 | 92.00 | 1/2 |",
        "| | alpha = 0.4 | – | – | – | – | 0/2 |",
        "| large network | alpha = 0 | – | – | – | – | 0/2 |",
    ]
    records = list(csv.DictReader(io.StringIO(frames.to_csv(filled_of(lab, planned)))))
    assert (records[1]["x"], records[1]["mean"], records[2]["x"]) == ("0.2", "92.0", "")


def test_recipes_are_printed_with_their_origin(lab: Any) -> None:
    planned = lab.table(base={"dataset": "mnist", "arch": "mlp", "recipe": "muller_mnist"})
    recipe = planned.cells[0].runs[0].recipe
    rendered = markdown.page(filled_of(lab, planned), runs="runs")
    assert "### Recipe muller_mnist (mlp)\n\nAs run (what is not named is at its default): lr 1.0, " in rendered
    for line in (*recipe.provenance, *recipe.deviations):
        assert f"\n- {line}" in rendered
    assert recipe.deviations and recipe.deviations[0] not in markdown.compact(filled_of(lab, planned), "there")


def test_a_page_depends_on_nothing_but_the_results(lab: Any, planned: TablePlan, tmp_path: Any) -> None:
    plan: Plan = lab.plan(planned)
    first, second = (write(render(plan, lab.store), tmp_path / place) for place in ("here", "there"))
    assert [path.name for path in first] == ["made_up.md", "made_up.csv", "made_up.tex"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert str(tmp_path) not in one.read_text()
    link = f"../../../results/runs/{planned.cells[0].runs[0].id}/"
    assert link in first[0].read_text()
    assert (first[0].parent / link).is_dir()


def test_text_points_to_the_page(lab: Any, planned: TablePlan) -> None:
    assert f"{lab.store.root}/tables/fiction/made_up.md" in text(render(lab.plan(planned), lab.store))


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (
            {"name": "ece15", "unit": "", "scaled_on": "evaluate"},
            "expected calibration error (15 bins) on the test part, last epoch, outputs scaled by the temperature of "
            "the least negative log-likelihood, chosen A POSTERIORI, on this part itself",
        ),
        (
            {"name": "nll", "unit": "nats", "part": "validation", "scaled_on": "test"},
            "negative log-likelihood (nats) on the validation part, last epoch, outputs scaled by the temperature of "
            "the least negative log-likelihood, chosen on the test part",
        ),
        (
            {"name": "temperature", "unit": "", "scaled_on": "test"},
            "temperature of the least negative log-likelihood, chosen A POSTERIORI, on this part itself",
        ),
    ],
)
def test_a_table_says_where_a_temperature_was_chosen(lab: Any, metric: dict[str, Any], expected: str) -> None:
    run = lab.table().cell("hard", "small").runs[0]
    assert layout.describe(Metric(**metric), run) == expected


@pytest.mark.parametrize(
    ("settings", "counted"),
    [(None, "images"), (Text("en", "de", vocab=4000), "tokens"), (Text(tokenizer="sha256:" + "0" * 64), "pairs")],
)
def test_what_is_counted_is_called_by_its_name(lab: Any, settings: Text | None, counted: str) -> None:
    run = lab.table().cells[0].runs[0]
    of_text = replace(run, dataset=replace(run.dataset, text=settings))
    assert outputs(of_text).startswith(counted)
    assert f"over the training {counted}" in layout.describe(Metric("loss"), of_text)
