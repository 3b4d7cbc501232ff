"""Tables as LaTeX: against strings, and as pdfLaTeX sets them."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lskd.config_groups import Conf
from lskd.plan import TablePlan, plan_table
from lskd.report import latex, render
from lskd.report.filled import FilledTable, fill
from lskd.report.layout import best
from lskd.report.values import Values
from lskd.store import Store
from lskd.tables.experiment import Experiment
from lskd.tables.table import load_table

RESULTS = Path(__file__).parents[2] / "results"

PAPER = {"hard": {"small": {"value": 91.9, "std": 0.2}, "large": 96.0}, "ls": {"small": None, "large": 95}}

TABLE = r"""
% Written by lskd-report. Needs \usepackage{booktabs}. 304 pt wide.
\begin{table}
\centering
\caption{Made-up accuracies. Nobody 2020, Table 1.}
\label{tab:fiction:made_up}
\par\smallskip
\begin{tabular}{llrr}
\toprule
 &  & small & large \\
\midrule
hard targets & ours & 92.00 \ensuremath{\pm} 1.00 (3) & 95.50 \ensuremath{\pm} 0.71 (2/3 seeds) \\
 & paper & 91.9 \ensuremath{\pm} 0.2 & 96.0 \\
 & \ensuremath{\Delta} & +0.10 inside & \ensuremath{-}0.50 inside \\
\addlinespace
\ensuremath{\alpha} = 0.1 & ours & 90.93 \ensuremath{\pm} 0.95 (3) & {\textendash} (0/3 seeds) \\
 & paper & n/a & 95 \\
 & \ensuremath{\Delta} & n/a & {\textendash} \\
\bottomrule
\end{tabular}
\par\smallskip{\footnotesize\raggedright Top-1 accuracy (\%) on the test part, last epoch. Mean"""


@pytest.fixture
def planned(lab: Any) -> TablePlan:
    rows = {
        "hard": {"label": "hard targets", "run": {"alpha": 0.0}},
        "ls": {"label": "α = 0.1", "run": {"alpha": 0.1}},
    }
    planned: TablePlan = lab.table(rows=rows, paper=PAPER, notes=["Nobody printed this."])
    lab.fill(planned, "hard/small", [91.0, 92.0, 93.0])
    lab.fill(planned, "hard/large", [95.0, 96.0])
    lab.fill(planned, "ls/small", [90.0, 90.9, 91.9])
    return planned


def filled_of(lab: Any, planned: TablePlan, **experiment: Any) -> FilledTable:
    filled: FilledTable = render(lab.plan(planned, **experiment), lab.store).tables[0]
    return filled


def test_a_table(lab: Any, planned: TablePlan) -> None:
    rendered = latex.environment(filled_of(lab, planned))
    assert rendered.startswith(TABLE.lstrip())
    assert rendered.endswith("\\par}\n% Nobody printed this.\n\\end{table}\n"), "a table's own notes are comments"
    rendered.encode("ascii")  # pdfLaTeX takes it as it is


def test_the_number_of_seeds_is_said_once_where_it_is_one(lab: Any) -> None:
    planned = lab.table(rows={"hard": {"label": "hard"}})
    for column in ("small", "large"):
        lab.fill(planned, f"hard/{column}", [91.0, 92.0, 93.0])
    rendered = latex.environment(filled_of(lab, planned))
    assert "hard & 92.00 \\ensuremath{\\pm} 1.00 & 92.00 \\ensuremath{\\pm} 1.00 \\\\" in rendered
    assert "Mean \\ensuremath{\\pm} sample standard deviation of 3 seeds." in rendered


def test_what_must_be_read_first_is_in_the_caption(lab: Any) -> None:
    planned = lab.table(metric={"epoch": "best_on_test"})
    rendered = latex.environment(filled_of(lab, planned, shortened="three steps"))
    assert r"\caption{Shortened: three steps. Not the paper" in rendered
    assert "Selected on the test part" in rendered.split(r"\label")[0]


def test_the_best_is_bold_where_that_is_asked_for(lab: Any, planned: TablePlan) -> None:
    filled = filled_of(lab, planned)
    assert "textbf" not in latex.environment(filled)
    assert latex.environment(filled, bold=True).count(r"\textbf{92.00} \ensuremath{\pm} 1.00 (3) & 95.50") == 1
    assert best(filled) == {("hard", "small")}, "of `large` only one cell has all its runs, or none"


@pytest.mark.parametrize(
    ("metric", "expected"), [("top1", {"b", "c"}), ("error", {"a"}), ("nll", {"a", "b", "c"}), ("gamma", set())]
)
def test_which_way_is_better_is_the_metrics(lab: Any, metric: str, expected: set[str]) -> None:
    planned = lab.table(
        rows={key: {"label": key, "run": {"alpha": 0.1 * i}} for i, key in enumerate("abc")},
        columns={"only": {"label": "only", "metric": {"name": metric}}},
    )
    for key, top1 in (("a", 91.0), ("b", 93.0), ("c", 93.001)):
        lab.fill(planned, f"{key}/only", [top1] * 3, error=top1)
    assert {row for row, _ in best(filled_of(lab, planned))} == expected


def test_rows_with_metrics_of_their_own_are_compared_along_the_row(lab: Any) -> None:
    rows = {name: {"label": name, "metric": {"name": name}} for name in ("top1", "error")}
    planned = lab.table(rows=rows)
    lab.fill(planned, "top1/small", [91.0] * 3)
    lab.fill(planned, "top1/large", [92.0] * 3)
    assert best(filled_of(lab, planned)) == {("top1", "large"), ("error", "large")}


def test_what_does_not_fit_gets_smaller_letters_then_the_page_then_blocks(lab: Any) -> None:
    found = []
    for count in (2, 5, 7, 12):
        columns = {f"w{n}": {"label": f"{n} hidden units", "run": {"arch.hidden": [n]}} for n in range(1, count + 1)}
        rendered = latex.environment(filled_of(lab, lab.table(columns=columns, paper={"hard": {"w1": 50.0}})))
        [name] = set(re.findall(r"\\begin\{(table\*?)\}", rendered))
        size = re.search(r"\\(small|footnotesize)\\setlength", rendered)
        found.append((name, size and size[1], rendered.count(r"\toprule")))
        assert rendered.count("hidden") == count
    small = "footnotesize"
    assert found == [("table", None, 1), ("table", small, 1), ("table*", small, 1), ("table*", small, 2)]


def test_a_table_higher_than_a_page_goes_on(lab: Any) -> None:
    series = {"label": "curve", "over": "alpha", "values": [i / 100 for i in range(60)]}
    rendered = latex.environment(filled_of(lab, lab.figure(rows={"one": series})))
    assert rendered.count(r"\begin{table}") == rendered.count("\ncurve & ") == 2
    assert rendered.count(r"\label") == 1 and rendered.count("(continued)") == 1
    assert rendered.count("alpha = ") == 60
    assert rendered.index(r"\footnotesize\raggedright") > rendered.index("(continued)"), "the note stands at the end"


def test_a_label_is_broken_between_words_but_not_at_an_equals_sign() -> None:
    assert latex.wrap("label smoothing (α = 0.1)", 60.0) == ["label", "smoothing", "(α = 0.1)"]
    assert latex.wrap("", 60.0) == [""]


# ---- as pdfLaTeX sets them ----------------------------------------------------------------------------------------

pdflatex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")


def complaints(folder: Path, sources: dict[str, str]) -> list[str]:
    """What pdfLaTeX says of boxes and floats that do not fit when it sets these tables, each on pages of its own: those
    that say `table*` in two columns."""
    found = []
    for options in ("a4paper", "a4paper,twocolumn", "letterpaper,twocolumn"):
        names = [name for name, text in sources.items() if (r"\begin{table*}" in text) == ("twocolumn" in options)]
        inputs = [rf"\typeout{{== {name}}}\input{{{name}.tex}}\clearpage" for name in names]
        for name in names:
            (folder / f"{name}.tex").write_text(sources[name], encoding="utf-8")
        document = rf"\documentclass[{options}]{{article}}\usepackage{{booktabs}}\begin{{document}}A\clearpage"
        (folder / "all.tex").write_text("\n".join([document, *inputs, r"\end{document}"]), encoding="utf-8")
        command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "all.tex"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        said = [
            line for line in done.stdout.splitlines() if re.match(r"== |!|Overfull|LaTeX Warning: (Flo|Label `)", line)
        ]
        found += [f"{table}: {line}" for table, line in itertools.pairwise(said) if not line.startswith("==")]
        assert done.returncode == 0, found
    return found


@pdflatex
def test_every_committed_table_fits_its_page(tmp_path: Path) -> None:
    paths = sorted((RESULTS / "tables").glob("*/*.tex"))
    sources = {f"{path.parent.name}-{path.stem}": path.read_text(encoding="utf-8") for path in paths}
    assert complaints(tmp_path, sources) == []
    labels = [label for text in sources.values() for label in re.findall(r"\\label\{(.*)\}", text)]
    assert len(labels) == len(set(labels)) == len(sources)


# The widest and the highest of conf/table, figures and tables that are only quoted among them.
LARGEST = (
    "mnist_figure5", "muller_choices_cifar10", "muller_figure1_cifar10", "muller_figure5", "muller_figure6",
    "muller_table3_cifar100", "precision", "proselflc_table5", "shen_table2_cub", "wsl_table3_same", "wsl_table9",
)  # fmt: skip


@pytest.mark.slow
@pdflatex
def test_the_largest_shipped_tables_fit_their_pages_when_they_are_full(tmp_path: Path) -> None:
    conf, values = Conf(), Values(Store(tmp_path))
    sources = {}
    for name in LARGEST:
        planned = plan_table(load_table(name, conf), conf)
        filled = fill(Experiment(title=name, name="made_up", tables=(name,)), planned, values)
        numbers = {seed: 50.0 + seed**2 % 7 for seed in planned.table.seeds}
        runs = [{run.seed: run.id for run in cell.cell.runs} for cell in filled.cells]
        cells = [
            replace(cell, x=0.5, ids=ids, values={seed: numbers[seed] for seed in ids if seed in numbers})
            for cell, ids in zip(filled.cells, runs, strict=True)
        ]
        sources[name] = latex.environment(replace(filled, cells=tuple(cells)), bold=True)
    assert complaints(tmp_path, sources) == []
