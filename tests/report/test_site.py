"""The report as a site: its pages, what they say, and that they link to what there is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from lskd import report
from lskd.commands import Commands
from lskd.report import site
from lskd.report.cli import main
from lskd.report.site import charts, drawn
from lskd.report.site import parts as of_parts
from lskd.report.site import runs as of_runs
from lskd.report.site.charts import Axis, Bar, Series
from lskd.report.site.links import Address, Links, anchor

EVIL = "<b onclick=\"alert('x')\">&amp; \\ {{ 7*7 }} {% raw %}</script>"


class Document(HTMLParser):
    """A page: the ids of its elements, its links, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.headers: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.tags.append(tag)
        if id := given.get("id"):
            self.ids.append(id)
        if tag == "th":
            self.headers.append(given)
        if tag in ("a", "link", "use"):
            self.links.append(str(given.get("href")))
        self.sources += [str(given[key]) for key in ("src", "srcset", "poster", "data") if key in given]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


CLAIM = {"id": "F1", "text": "Smoothing hurts", "tests": [{"test": "less", "of": "ls/small", "than": "hard/small"}]}
LATER = {"id": "F2", "text": "At any size", "tests": [{"test": "less", "of": "ls/large", "than": "hard/large"}]}


@pytest.fixture
def made(lab: Any) -> Any:
    return half_run(lab)


def half_run(lab: Any) -> Any:
    """A table and a figure, half of which is run, with numbers of the paper and of others."""
    table = lab.table(
        claims=[CLAIM, LATER],
        paper={"hard": {"small": 91.5, "large": 95.0}, "ls": {"small": None}},
        replications={"hard": {"small": {"value": 90.5, "source": "Somebody 2021"}}},
        notes=["A note: 5 < 6"],
    )
    lab.fill(table, "hard/small", [91.0, 92.0, 93.0])
    lab.fill(table, "ls/small", [90.0, 91.01, 92.02])
    figure = lab.figure()
    lab.fill(figure, "small/0", [91.0, 92.0, 93.0], gamma=0.1)
    lab.fill(figure, "small/0.2", [90.0, 91.0, 92.0], gamma=0.2)
    lab.reports = [report.render(lab.plan(table, figure), lab.store)]
    return lab


def written(lab: Any, out: Path, **how: Any) -> dict[str, str]:
    """The files of the site, by path."""
    paths = site.write(lab.reports, lab.store, lab.conf, out, **how)
    root = out if out.is_dir() else out.parent
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def broken(pages: dict[str, Document]) -> list[str]:
    """The links that lead nowhere."""
    wrong = []
    for path, page in pages.items():
        assert len(set(page.ids)) == len(page.ids), path
        for link in page.links:
            file, _, part = link.partition("#")
            there = (Path("/") / Path(path).parent / unquote(file)).resolve() if file else Path("/") / path
            name = there.relative_to("/").as_posix()
            if name not in pages or (part and part not in pages[name].ids and unquote(part) not in pages[name].ids):
                wrong.append(f"{path}: {link}")
    return wrong


@pytest.mark.parametrize("one_file", [False, True])
def test_every_link_leads_to_something_of_the_site(made, tmp_path, one_file):
    files = written(made, tmp_path / ("all.html" if one_file else "site"))
    pages = {path: Document(text) for path, text in files.items()}
    assert broken(pages) == []
    assert [page.sources for page in pages.values() if one_file and page.sources] == []
    assert not re.search(r"(src|href)=.(https?:)?//", "".join(files.values()))  # nothing comes over a network
    assert not re.search(r"url\((?!#)|@import", "".join(files.values()))


def test_all_pages_are_there(made, tmp_path):
    files = written(made, tmp_path)
    runs = {run.id for run in made.reports[0].plan.runs if made.store.state(run) == "done"}
    assert len(runs) == 9  # the figure's first point is the table's
    assert {f"runs/{id}.html" for id in runs} == {path for path in files if path.startswith("runs/")}
    assert {"index.html", "claims.html", "experiments/fiction.html", "methods/kd.html"} <= set(files)
    assert next(iter(files)) == "index.html"


def test_unchanged_results_are_unchanged_files(made, tmp_path):
    assert written(made, tmp_path / "a") == written(made, tmp_path / "b")
    assert written(made, tmp_path / "a.html")["a.html"] == written(made, tmp_path / "b.html")["b.html"]


def test_a_number_leads_to_its_runs(made, tmp_path):
    files = written(made, tmp_path)
    page = files["experiments/fiction.html"]
    here = anchor("cell", "fiction", "made_up", "hard", "small")
    assert f'<a href="#{here}">92.00 ± 1.00</a> <small>(3)</small>' in page
    assert f'<a href="#{here}">hard/small</a></code>' in page  # in what a claim says, too
    row = page[page.index(f'<tr id="{here}">') :].partition("</tr>")[0]
    ids = re.findall(r'href="\.\./runs/(\w+)\.html"', row)
    assert ids == [run.id for run in made.reports[0].plan.tables[0].cell("hard", "small").runs]
    assert "made_up/hard/small" in files[f"runs/{ids[0]}.html"]  # and back


def test_a_derived_number_leads_to_the_cells_it_follows_from(lab, tmp_path):
    columns = {
        "small": {"label": "small", "run": {"arch.hidden": [16]}},
        "large": {"label": "large", "run": {"arch.hidden": [64]}},
        "gain": {"label": "gain", "derive": {"kind": "difference", "of": "large", "than": "small"}},
    }
    table = lab.table(columns=columns)
    lab.fill(table, "hard/small", [91.0, 92.0, 93.0])
    lab.fill(table, "hard/large", [92.0, 93.5, 94.0])
    lab.reports = [report.render(lab.plan(table), lab.store)]
    page = written(lab, tmp_path)["experiments/fiction.html"]
    here, large = (anchor("cell", "fiction", "made_up", "hard", name) for name in ("gain", "large"))
    assert f'<a href="#{here}">1.17 ± 0.29</a>' in page
    row = page[page.index(f'<tr id="{here}">') :].partition("</tr>")[0]
    assert f'<a href="#{large}">hard targets / large</a>' in row and "runs/" not in row
    assert "<small>1</small> 1.50" in row


def test_a_table_has_ours_the_papers_and_others(made, tmp_path):
    text = Document(written(made, tmp_path)["experiments/fiction.html"]).text
    assert "hard targets ours 92.00 ± 1.00 (3) – (0/3 seeds) paper 91.5 95.0 others 90.5 [1] – Δ +0.50 inside –" in text
    assert "[1] Somebody 2021" in text
    assert "A note: 5 < 6" in text
    assert "9 of 24 done" in text
    assert "lskd-run experiment=fiction" in text


def test_findings_on_the_first_page(made, tmp_path):
    page = Document(written(made, tmp_path)["index.html"])
    assert "F1 Smoothing hurts" in page.text
    [finding, other] = made.reports[0].tables[0].findings
    assert finding.verdict == "reproduced" and other.outcome == "not run"
    low, high = finding.parts[0].effect.interval()
    assert f"−0.99 [−{-low:.2f}, −{-high:.2f}] 3 of 3" in page.text
    assert "1 reproduced" in page.text and "1 not run" in page.text
    assert "in part: 15 missing" in page.text


def test_a_run_says_how_it_was_made(lab, tmp_path):
    base = {"dataset": "digits", "arch": "mlp", "recipe": "quickstart", "method": "kd", "teacher": "mlp"}
    table = lab.table(base=base, rows={"ls": {"label": "smoothed", "run": {"teacher_ls": True}}})
    lab.fill(table, "ls/small", [91.0, 92.0, 93.0])
    student = table.cell("ls", "small").runs[0]
    measured = {"top1": 99.0, "error": 1.0, "nll": 0.1, "ece15": 0.01}
    record = {"last": {"test": measured}, "best": {}, "train": {"top1": 100.0}, "gamma": None, "seconds": 2.0}
    lab.store.begin(student.teacher, {"device": "Abacus 3", "command": "lskd-run <all>"})
    bins = [[0], [10, 0.7, 0.6], [20, 0.9, 0.95]]
    lab.store.finish(student.teacher, {**record, "epochs": 2, "calibration": {"test": {"reliability": bins}}})
    log = '{"epoch": 0, "step": 1, "train": {"top1": 50.0, "ce": 2.0}, "test": {"top1": 40.0, "nll": 2.0}}\n'
    lab.store.log(student.teacher).write_text(log + log.replace('"epoch": 0', '"epoch": 1'))
    lab.reports = [report.render(lab.plan(table), lab.store)]
    files = written(lab, tmp_path / "site")
    taught, teacher = (files[f"runs/{run.id}.html"] for run in (student, student.teacher))
    assert f'<a href="{student.teacher.id}.html"' not in taught  # links are from the page's own folder, all alike
    assert f'<a href="../runs/{student.teacher.id}.html"' in taught
    assert f'<a href="../runs/{student.id}.html"' in teacher
    assert Commands(lab.conf).line(student) in Document(taught).text
    settings = Document(taught[taught.index("<h2>Settings</h2>") :]).text
    assert re.search(r"method name kd temperature .*Default: ", settings) or "temperature" in settings
    given, default = of_runs.settings(student)["arch"][1], of_runs.settings(student)["arch"][2]
    assert (given.name, given.value, given.given) == ("hidden", "[16]", True)
    assert not default.given
    assert "lskd-run &lt;all&gt;" in teacher
    assert teacher.count('<svg class="chart"') == 4  # accuracy, loss, its terms, calibration


def test_a_run_that_diverged_is_there(made, tmp_path):
    run = made.reports[0].plan.tables[0].cell("ls", "large").runs[0]
    made.store.begin(run, {"device": "Abacus 3"})
    made.store.fail(run, {"reason": "diverged", "message": "the loss is not finite"})
    made.store.begin(made.reports[0].plan.tables[0].cell("ls", "large").runs[1], {})
    made.reports = [report.render(made.reports[0].plan, made.store)]
    files = written(made, tmp_path / "site")
    assert "diverged : the loss is not finite" in Document(files[f"runs/{run.id}.html"]).text
    assert "1 begun, 1 diverged, 13 missing" in Document(files["index.html"]).text


def test_runs_of_no_experiment_have_pages_where_the_site_is_of_the_whole_store(made, tmp_path):
    whole = written(made, tmp_path / "a", whole=True)
    made.reports = [report.render(made.plan(made.table()), made.store)]
    assert {path for path in whole if path.startswith("runs/")} == {
        path for path in written(made, tmp_path / "b") if path.startswith("runs/")
    }
    part = written(made, tmp_path / "c", whole=False)
    assert len([path for path in part if path.startswith("runs/")]) == 6


@pytest.mark.parametrize("one_file", [False, True])
def test_labels_are_text_whatever_they_hold(lab, tmp_path, one_file):
    rows = {"hard": {"label": EVIL, "run": {"alpha": 0.0}}, "ls": {"label": "ls", "run": {"alpha": 0.1}}}
    rows['a "b" <c> & d é'] = {"label": "ok", "run": {"alpha": 0.2}}
    table = lab.table(
        rows=rows, title=EVIL, source=EVIL, notes=[EVIL], diagram="reliability",
        columns={"x": {"label": EVIL, "metric": {"name": "ece15"}}},
        claims=[{"id": EVIL, "text": EVIL, "tests": [{"test": "less", "of": "ls/x", "than": "hard/x"}]}],
    )  # fmt: skip
    lab.fill(table, "hard/x", [91.0, 92.0, 93.0])
    lab.fill(table, 'a "b" <c> & d é/x', [91.0, 92.0, 93.0])
    run = table.cell("hard", "x").runs[0]
    calibration = '"calibration": {"test": {"reliability": [[0], [10, 0.7, 0.6], [20, 0.9, 0.95]]}}'
    path = lab.store.directory(run) / "result.json"
    path.write_text(path.read_text().replace('"gamma"', f'{calibration}, "gamma"'))
    (lab.store.directory(run) / "env.json").write_text('{"device": "<i>&", "command": "<u>"}')
    plan = lab.plan(table, title=EVIL, description=EVIL, shortened=EVIL, cost=EVIL)
    lab.reports = [report.render(plan, lab.store)]
    files = written(lab, tmp_path / ("all.html" if one_file else "site"))
    pages = {path: Document(text) for path, text in files.items() if path.endswith(".html")}
    assert not {"b", "i", "u", "c"} & {tag for page in pages.values() for tag in page.tags}
    assert "49" not in pages["all.html" if one_file else "experiments/fiction.html"].text.split()
    shown = " ".join(page.text for page in pages.values())
    assert shown.count(" ".join(EVIL.split())) > 8
    assert broken(pages | {name: Document("") for name in ("style.css", "script.js")}) == []


def test_pages_can_be_read_aloud(made, tmp_path):
    for path, text in written(made, tmp_path).items():
        if path.endswith(".html"):
            page = Document(text)
            assert {"main", "nav", "header", "footer"} <= set(page.tags), path
            assert page.tags.count("h1") == 1, path
            assert [header for header in page.headers if "scope" not in header] == [], path
            assert text.startswith('<!doctype html>\n<html lang="en">')
            for svg in re.findall(r"<svg[^>]*>", text):
                assert "aria-hidden" in svg or ('role="img"' in svg and "aria-label=" in svg), svg


def test_the_command_writes_a_site_or_a_file(made, tmp_path, monkeypatch, capsys):
    from lskd.config_groups import Conf

    few = {"experiment": ["muller_table1", "quickstart"]}
    monkeypatch.setattr(Conf, "names", lambda conf, group: few.get(group, []))
    results = made.store.root
    assert main(["--html", "--results", str(results)]) == 0
    assert f"wrote {results}/site/index.html and " in capsys.readouterr().out
    assert (results / "site" / "experiments" / "quickstart.html").is_file()
    assert not (results / "tables").exists()
    assert main(["--html", str(tmp_path / "x" / "all.html"), "quickstart", "--results", str(results)]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path}/x/all.html\n"
    assert "muller_table1" not in (tmp_path / "x" / "all.html").read_text(encoding="utf-8")
    assert main(["--html", "quickstart", "--results", str(results), "--out", str(tmp_path / "y")]) == 0
    assert not (tmp_path / "y" / "site" / "experiments" / "muller_table1.html").exists()
    assert main(["--html", "quikstart", "--results", str(results)]) == 2
    (tmp_path / "file").touch()
    assert main(["--html", str(tmp_path / "file" / "all.html"), "--results", str(results)]) == 2
    assert "is not a directory" in capsys.readouterr().err


# ---- parts --------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_their_seeds_are_together(made):
    runs = made.reports[0].plan.runs
    groups = of_runs.by_seed([run for run in runs if run.target.settings.alpha == 0.1] + [replace(runs[0], seed=9)])
    names = [(group.label, [run.seed for run in group.runs]) for group in groups]
    assert names == [
        ("mlp(hidden=16) on digits", [9]),
        ("mlp(hidden=16) on digits, α=0.1", [0, 1, 2]),
        ("mlp(hidden=64) on digits, α=0.1", [0, 1, 2]),
    ]
    dropped = replace(runs[0], recipe=replace(runs[0].recipe, momentum=0.5))
    assert [group.own for group in of_runs.by_seed([runs[0], dropped])] == [
        ["recipe.momentum=0.5"],
        ["recipe.momentum=0.9"],
    ]


def test_a_docstring_is_paragraphs_lists_and_tables():
    text = "L = a\n  + b\n\n| x | y |\n|---|:-:|\n| 1 | 2 |\n\nWords:\n\n- one\n  and a half\n- two"
    found = of_parts.blocks(text)
    assert [block.kind for block in found] == ["text", "table", "text", "list"]
    assert found[0].lines == ["L = a + b"]
    assert found[1].rows == [["x", "y"], ["1", "2"]]
    assert found[3].lines == ["one and a half", "two"]


@pytest.mark.parametrize("name", ["coded", "breakable", "whole", "bound"])
def test_filters_escape_what_they_are_given(name):
    made = site.environment().from_string("{{ text|" + name + " }}").render(text="a `<b>`_x-y.z & T = 1")
    assert "&lt;b&gt;" in made and "&amp;" in made
    assert "".join(Document(made).words).replace("\u00a0", " ").replace("`", "") == "a <b>_x-y.z & T = 1"
    tags = {"coded": {"code"}, "breakable": {"wbr"}, "whole": {"span"}, "bound": set()}
    assert set(Document(made).tags) == tags[name]


def test_links():
    run, start = Links(Address("run", "a/b")), Links(Address("start"))
    assert run.here.path == "runs/a%2Fb.html"
    assert run.to("start") == "../index.html"
    assert start.to("run", "a/b") == "runs/a%252Fb.html"
    assert run.to("run", "a/b", "x") == "#x"
    assert start.to("claims", part="x") == "claims.html#x"
    assert Links(Address("start"), one_file=True).to("run", "a/b") == "#run/a%2Fb"


def test_ticks_are_round_and_few():
    assert charts.ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert charts.ticks(-4.9, 4.9) == [-4, -2, 0, 2, 4]
    assert charts.ticks(3, 3) == [3]
    for high in (0.001, 0.7, 3, 99, 12345):
        assert 3 <= len(charts.ticks(0, high)) <= 6


def test_a_row_of_a_forest_plot_is_in_proportion():
    axis = Axis(2.0)
    drawing = charts.forest_row(Bar(1.0, (0.5, 3.0), (0.0, float("inf"))), axis)
    assert 'class="region" x="50.0" y="0" width="50.0"' in drawing
    assert "M62.5 5H100.0" in drawing and "M75.0 5h0" in drawing
    assert "cut after" in drawing and "cut before" not in drawing
    assert charts.axis_of([(Bar(1.0, (0, 2.0), (0, 1)), True), (Bar(9.0, (0, 90), (0, 1)), False)]).limit == 2.16


def test_curves_are_where_their_points_are():
    series = [Series("a", [(0, 0.0), (1, 1.0)]), Series("b <", [(0, 1.0)])]
    svg = charts.curves(series, title='"q"', x_label="x", y_label="y", x=(0, 1), y=(0, 1))
    left, right, top, bottom = charts.LEFT, charts.WIDTH - charts.RIGHT, charts.TOP, charts.HEIGHT - charts.BOTTOM
    assert f"M{left:.1f} {bottom:.1f}L{right:.1f} {top:.1f}" in svg
    assert "b &lt;" in svg and 'aria-label="&#34;q&#34;"' in svg
    assert charts.curves([Series("a", [])], title="", x_label="", y_label="") == ""
    many = [(float(i), float(i)) for i in range(10_000)]
    assert len(charts.thinned(many)) <= 201 and charts.thinned(many)[-1] == many[-1]


def test_a_drawn_figure_is_part_of_the_page(made):
    filled = made.reports[0].tables[1]
    svg, said = drawn.figure(filled, "here")
    assert "runs" in said
    assert svg.startswith('<svg class="drawn" role="img" aria-label="Made-up accuracies over γ" viewBox=')
    assert "var(--ink)" in svg or "var(--quiet)" in svg
    assert "#ffffff" not in svg and "<metadata" not in svg
    assert set(re.findall(r'id="(\w+)-', svg)) == {"here"}
    assert "small network" in svg  # text, not its outlines


def test_labels_of_a_drawn_figure_stay_as_they_are():
    head = '<?xml?><svg width="3" viewBox="0 0 110.0 50"><g id="a" style="fill: #ffffff"/>'
    made = drawn.inline(head + '<text x="0.12345">0.12345 #ffffff url(#a)</text></svg>', r"\1 <", "p")
    assert made == (
        '<svg class="drawn" role="img" aria-label="\\1 &lt;" viewBox="0 0 110.0 50" style="max-width:10.0rem">'
        '<g id="p-a" style="fill: var(--paper)"/><text x="0.12">0.12345 #ffffff url(#a)</text></svg>'
    )


# ---- in a browser -------------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def places(new_lab: Any, tmp_path_factory: Any) -> Path:
    """A folder with a site, and all.html."""
    root = tmp_path_factory.mktemp("site")
    lab = half_run(new_lab(root / "results"))
    for out in (root, root / "all.html"):
        site.write(lab.reports, lab.store, lab.conf, out)
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page in the light. What its console says is in `page.said`."""
    context = browser.new_context(color_scheme="light", viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.said = []
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("requestfailed", lambda request: opened.said.append(request.url))
    yield opened
    context.close()


def test_no_page_complains_and_none_is_wider_than_a_phone(places, page):
    paths = [path.relative_to(places) for path in sorted(places.glob("**/*.html"))]
    seen = {path.parent: path for path in paths if path.parent != Path()}  # one of each kind
    for path in [*seen.values(), *(path for path in paths if path.parent == Path())]:
        for width in (360, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            page.goto((places / path).as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert page.locator("h1:visible").count() == 1, path
    assert page.said == []


def test_rows_are_sorted_by_a_click_or_a_key(places, page):
    page.goto((places / "experiments" / "fiction.html").as_uri())
    table = page.locator("table.results").nth(1)  # the points of the figure
    head, means = table.locator("thead th").nth(3), "td:nth-child(4)"

    def shown() -> list[str]:
        return [text.split(" ")[0] for text in table.locator(f"tbody tr {means}").all_inner_texts()]

    assert shown() == ["92.00", "91.00", "–", "–", "–", "–"]
    head.locator("button").click()
    assert shown() == ["91.00", "92.00", "–", "–", "–", "–"]
    assert head.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert shown() == ["92.00", "91.00", "–", "–", "–", "–"]
    assert head.get_attribute("aria-sort") == "descending"
    # Rows of several lines stay together.
    rows = page.locator("table.grouped")
    rows.locator("thead th").nth(1).locator("button").click()
    assert [body.split()[0] for body in rows.locator("tbody").all_inner_texts()] == ["label", "hard"]
    assert rows.locator("tbody").first.locator("tr").count() == 3
    assert page.said == []


def test_the_theme_is_the_systems_until_another_is_chosen_which_stays(places, page):
    def paper() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    page.goto((places / "index.html").as_uri())
    light = paper()
    page.emulate_media(color_scheme="dark")
    dark = paper()
    assert light != dark
    assert page.locator("#theme").inner_text() == "Light theme"
    page.locator("#theme").click()
    assert paper() == light
    page.goto((places / "claims.html").as_uri())
    assert paper() == light
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("nav").is_visible() is False


def test_a_keyboard_is_enough(places, page):
    page.goto((places / "index.html").as_uri())
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("element => element === document.activeElement && element.getBoundingClientRect().left > 0")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    focused = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate("document.activeElement.closest('main') !== null")
    assert page.evaluate(focused) == "solid"


def test_in_one_file_a_link_shows_its_page(places, page):
    page.goto((places / "all.html").as_uri())
    shown = "[...document.querySelectorAll('.page')].filter(one => one.offsetParent).map(one => one.id)"
    assert page.evaluate(shown) == ["start"]
    page.locator(".masthead nav a", has_text="Experiments").click()
    assert page.evaluate(shown) == ["experiments"]
    assert page.title() == "Experiments – lskd"
    page.locator("#experiments a", has_text="fiction").click()
    assert page.evaluate(shown) == ["experiment/fiction"]
    page.locator("td.number:visible a", has_text="92.00").first.click()  # unfolds the runs behind the number
    row = page.locator("tr:target")
    assert row.is_visible()
    row.locator("a").first.click()
    assert [id.partition("/")[0] for id in page.evaluate(shown)] == ["run"]
    assert page.evaluate("document.activeElement.id") == "main"
    page.go_back()
    assert page.evaluate(shown) == ["experiment/fiction"]
    assert page.said == []


def test_runs_are_found_by_words(places, page):
    page.goto((places / "runs.html").as_uri())
    page.locator("#filter").fill("64 seed")
    assert page.locator("#filtered").inner_text() == "0 of 9"
    page.locator("#filter").fill("hidden=16 0.1")
    assert page.locator("table.runs tbody tr:visible").count() == 3
