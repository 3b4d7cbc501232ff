"""Labels survive as they are, in Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from lskd.config_groups import Conf
from lskd.report import figures, layout, render, write
from lskd.report.characters import plain, tex
from lskd.tables.experiment import load_experiment
from lskd.tables.metric import known
from lskd.tables.table import load_table

CONF = Conf()
LETTERS = "ε ↓ ∞ σ ℓ ∂ … α β γ Γ Δ Ω λ Λ π ϕ φ − – — × · ± ≤ ≥ ≈ ≠ → ↑ ∈ ∑ √ ² ³ ₁ ½ ‖ ° é ü ß ñ č ő Ø ł µ « » | < > ~"
ODD = "a|b *c* _d_ `e` <f> #g $h$ [i](j) \\ & &amp; k_l 100 % {m}\n# n"


def texts() -> list[str]:
    """All that the shipped tables and experiments print as text."""
    found = []
    for name in CONF.names("table"):
        table = load_table(name, CONF)
        lines = [*table.rows.values(), *table.columns.values()]
        found += [table.title, table.source, *(line.label for line in lines), *(line.over for line in lines)]
        found += [reason for of_row in table.skip.values() for reason in of_row.values()]
        found += [number.source for row, column in table.keys() for number in table.replicated(row, column)]  # noqa: SIM118
    for name in CONF.names("experiment"):
        found.append(load_experiment(CONF.load("experiment", name)).shortened)
    return found


def test_pdflatex_gets_ascii_for_all_that_is_shipped():
    """A character of conf/table that there is no command for fails here, not in somebody's paper."""
    for text in [*texts(), *(quantity.title for _, quantity, _ in known()), *layout.EPOCHS.values(), LETTERS]:
        assert tex(text, unknown="fail").isascii(), text
    characters = set(LETTERS) - {" "}
    assert len({tex(character) for character in characters}) > 0.9 * len(characters), "they stay apart"
    assert not any(tex(character).strip("{} ") == "" for character in characters)
    assert tex("σ é x² _% a|b") == r"\ensuremath{\sigma} \'e x{\texttwosuperior} \_\% a\ensuremath{|}b"
    assert tex("e\u0301\n") == r"\'e", "composed, on one line"
    assert tex("日") == "日", "there is no command for it"
    with pytest.raises(ValueError, match="日"):
        tex("日", unknown="fail")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_pdflatex_takes_it(tmp_path: Path) -> None:
    lines = "\n\n".join(map(tex, [*texts(), LETTERS, ODD]))
    (tmp_path / "all.tex").write_text(rf"\documentclass{{article}}\begin{{document}}{lines}\end{{document}}")
    subprocess.run(["pdflatex", "-halt-on-error", "all.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_markdown_shows_a_label_as_it_is_written():
    assert plain("label smoothing (α = 0.1), teacher_ls = 0, 95 % [0, 1] < 3") == (
        "label smoothing (α = 0.1), teacher_ls = 0, 95 % [0, 1] < 3"
    )
    assert plain(ODD) == (r"a\|b \*c\* \_d\_ \`e\` \<f> \#g \$h\$ [i\](j) \\ & \&amp; k_l 100 % {m} \# n")


def test_odd_labels_in_a_table(lab: Any, tmp_path: Path) -> None:
    rows = {"hard": {"label": ODD, "run": {"alpha": 0.0}}, "ls": {"label": '[x] "y", z', "run": {"alpha": 0.1}}}
    planned = lab.table(rows=rows, title=ODD, notes=["one\nnote"], skip={"ls": {"large": "no\n# such"}})
    written = {path.suffix: path.read_text() for path in write(render(lab.plan(planned), lab.store), tmp_path)}
    markdown = written[".md"]
    assert f"# {plain(ODD)}\n" in markdown and "- one note\n" in markdown and "no # such" in markdown
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(table) == 4 and {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {4}
    records = list(csv.DictReader(io.StringIO(written[".csv"])))
    assert {record["row_label"] for record in records} == {ODD, '[x] "y", z'}
    lines = written[".tex"].splitlines()
    assert sum(line.startswith("{}[x] ") for line in lines) == 1, "no argument of the line break before it"


def test_odd_labels_in_a_figure(lab: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A label is no formula, and is in the legend even if it begins with _, which matplotlib leaves out."""
    planned = lab.figure(title=r"$\nope$ of $5")
    rows = {key: replace(line, label=f"_{key} $\nope$") for key, line in planned.table.rows.items()}
    planned = replace(planned, table=replace(planned.table, rows=rows))
    lab.fill(planned, "small/0", [90.0, 91.0, 92.0])
    drawn: list[Figure] = []
    save = Figure.savefig

    def savefig(figure: Figure, *args: Any, **how: Any) -> None:
        drawn.append(figure)
        save(figure, *args, **how)

    monkeypatch.setattr(Figure, "savefig", savefig)
    paths = write(render(lab.plan(planned), lab.store), tmp_path)
    assert [path.suffix for path in paths][-3:] == [".png", ".pdf", ".svg"]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == [" _small $ ope$"]
    assert figures.STYLE["text.parse_math"] is False
