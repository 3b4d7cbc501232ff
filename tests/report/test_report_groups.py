"""Headings over the columns of a table, as papers print them: CIFAR-10: accuracy | NLL."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lskd.errors import InputError
from lskd.report import latex, markdown, render, site
from lskd.report.filled import FilledTable
from lskd.report.frames import frame
from lskd.report.layout import spans

COLUMNS: dict[str, Any] = {
    "seeds": {"label": "small", "run": {"arch.hidden": [16]}},
    "top1": {"label": "accuracy", "group": "64 units & more"},
    "nll": {"label": "NLL", "group": "64 units & more", "metric": {"name": "nll"}},
    "top1b": {"label": "accuracy", "group": "128 units", "run": {"arch.hidden": [128]}},
}


@pytest.fixture
def filled(lab: Any) -> FilledTable:
    planned = lab.table(columns=COLUMNS, base={"dataset": "digits", "recipe": "quickstart", "arch": "mlp"})
    for column in COLUMNS:
        if column != "nll":  # the same runs as those of top1
            lab.fill(planned, f"hard/{column}", [91.0, 92.0, 93.0])
    lab.reports = [render(lab.plan(planned), lab.store)]
    found: FilledTable = lab.reports[0].tables[0]
    return found


def test_headings_that_stand_side_by_side_are_one():
    assert spans(["", "", "a", "a", "b", "a", ""]) == [("", 1), ("", 1), ("a", 2), ("b", 1), ("a", 1), ("", 1)]


def test_in_markdown_the_heading_is_in_a_line_over_the_header(filled):
    page = markdown.page(filled, "runs")
    header = next(line for line in page.splitlines() if "NLL" in line and line.startswith("|"))
    assert [cell.strip() for cell in header.split("|")[1:-1]] == [
        "", "small", "64 units & more<br>accuracy", "64 units & more<br>NLL", "128 units<br>accuracy",
    ]  # fmt: skip


def test_where_there_is_one_line_the_heading_is_before_the_label(filled):
    text = markdown.compact(filled, "there", 200)
    assert "64 units & more: NLL" in " ".join(text.split())
    assert "“64 units & more: NLL”: " in markdown.page(filled, "runs")


def test_in_latex_it_goes_over_its_columns_with_a_rule_below(filled):
    lines = latex.environment(filled).splitlines()
    at = lines.index(r"\toprule")
    assert lines[at + 1 : at + 4] == [
        r" &  & \multicolumn{2}{c}{64 units \& more} & \multicolumn{1}{c}{128 units} \\",
        r"\cmidrule(lr){3-4} \cmidrule(lr){5-5}",
        r" & small & accuracy & NLL & accuracy \\",
    ]


def test_blocks_of_a_latex_table_have_the_headings_of_their_columns(lab):
    columns = {
        f"c{n}": {"label": f"{n} units", "group": f"group {n // 8}", "run": {"arch.hidden": [n]}} for n in range(1, 16)
    }
    planned = lab.table(columns=columns, paper={"hard": {"c1": 50.0}})
    tabulars = latex.environment(render(lab.plan(planned), lab.store).tables[0]).split(r"\begin{tabular}")[1:]
    spanned = [re.findall(r"\\multicolumn\{(\d+)\}\{c\}\{(group \d)\}", one) for one in tabulars]
    assert len(tabulars) > 1 and sum(int(n) for one in spanned for n, _ in one) == 15
    assert {name for one in spanned for _, name in one} == {"group 0", "group 1"}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_tex_sets_a_table_with_a_wide_heading_as_wide_as_it_was_reckoned(lab, tmp_path):
    wide = "a heading wider than both of its columns, and than the table"
    columns = {name: {**line, "group": wide} for name, line in COLUMNS.items() if name != "seeds"}
    planned = lab.table(columns=columns)
    text = latex.environment(render(lab.plan(planned), lab.store).tables[0])
    reckoned = float(re.search(r"(\d+) pt wide", text)[1])  # type: ignore[index]
    tabular = re.search(
        r"(\\small|\\footnotesize|)(\\setlength\S*)?\n\\begin\{tabular\}\{lrrr.*\\end\{tabular\}", text, re.DOTALL
    )[0]  # type: ignore[index]
    head = r"\documentclass{article}\usepackage{booktabs}\newsavebox{\measured}\begin{document}"
    page = rf"{head}\sbox{{\measured}}{{{tabular}}}\typeout{{width \the\wd\measured}}\end{{document}}"
    (tmp_path / "t.tex").write_text(page)
    command = ["pdflatex", "-interaction=nonstopmode", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    width = float(re.search(r"width ([\d.]+)pt", done.stdout)[1])  # type: ignore[index]
    assert width - 6 < reckoned < width + 30  # (the heading has the space between columns, too)


def test_csv_has_a_column_for_it_where_there_are_any(filled, lab):
    table = frame(filled)
    assert list(table.loc[table["row"] == "hard", "column_group"]) == [
        "",
        "64 units & more",
        "64 units & more",
        "128 units",
    ]
    assert list(table.loc[table["row"] == "hard", "column_label"]) == ["small", "accuracy", "NLL", "accuracy"]
    assert "column_group" not in frame(render(lab.plan(lab.table()), lab.store).tables[0])


def test_in_html_it_goes_over_its_columns(filled, lab, tmp_path):
    site.write(lab.reports, lab.store, lab.conf, tmp_path / "site")
    page = next(Path(tmp_path / "site").rglob("fiction.html")).read_text(encoding="utf-8")
    headings = re.findall(r'<th scope="colgroup" colspan="(\d)" class="heading">(.*?)</th>', page)
    assert [(int(n), re.sub(r"<.*?>", "", text).replace("\u2060", "")) for n, text in headings] == [
        (2, "64 units &amp; more"), (1, "128 units"),
    ]  # fmt: skip
    first, second = re.search(r"<thead>(<tr>.*?</tr>)(<tr>.*?</tr>)</thead>", page, re.DOTALL).groups()  # type: ignore[union-attr]
    assert first.count("<td") == 2 and second.count("<th") == 5


def test_a_heading_of_a_row_is_refused(lab):
    with pytest.raises(InputError, match=r"rows.a.group = 'x': must be given for columns only"):
        lab.table(rows={"a": {"label": "a", "group": "x"}})
