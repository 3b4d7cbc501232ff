"""The report for people: a static site from the findings, or one HTML file with everything in it.

    index.html                 the question, the answer so far, every claim with its effect, what is missing
    claims.html                all claims in words
    experiments/NAME.html      tables with ours, the paper's and others' numbers, figures, claims, the runs behind them
    runs/ID.html               a run: settings, curves, calibration, environment, teacher and students, its command
    methods/NAME.html          a method: formula, source, settings, runs
    recipes/NAME.html          a protocol: where it comes from, what we had to choose
    style.css, script.js

The pages work from a disk, without a network and (but for sorting and the choice of theme) without scripts. They
depend on the records alone: no dates, so that unchanged results are unchanged files. Whatever stands in a record, a
label or a note is text, never markup: the templates escape it (jinja2's autoescape), and `Markup` is made by
`charts` and `drawn` alone.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lskd import __version__
from lskd.config_groups import Conf
from lskd.errors import InputError
from lskd.files import write_atomically
from lskd.report import Report, ahead, layout
from lskd.report.filled import FilledTable
from lskd.report.site import drawn
from lskd.report.site import experiments as of_experiments
from lskd.report.site import library as of_library
from lskd.report.site import parts as of_parts
from lskd.report.site import runs as of_runs
from lskd.report.site import verdicts as of_verdicts
from lskd.report.site.library import Library
from lskd.report.site.links import Address, Links, anchor
from lskd.report.words import bare_p, number
from lskd.schema import unfolded
from lskd.store import Store

MENU = {
    "start": "Overview",
    "experiments": "Experiments",
    "claims": "Claims",
    "runs": "Runs",
    "methods": "Methods",
    "recipes": "Recipes",
}
UNDER = {"experiment": "experiments", "run": "runs", "method": "methods", "recipe": "recipes"}  # in the menu

Page = tuple[Address, str, dict[str, Any]]  # where, its title, what its template is given


def write(reports: Sequence[Report], store: Store, conf: Conf, out: Path, *, whole: bool = True) -> list[Path]:
    """Write the site: a folder, or one file if `out` ends in .html. The files written, the first page first.

    `whole`: the reports are of all experiments, so that runs of none of them belong there, too.
    """
    calls: dict[Hashable, ahead.Call] = {
        prefix: functools.partial(drawn.figure, filled, prefix)
        for report in reports
        for filled in filter(drawn.is_drawn, report.tables)
        for prefix in [anchor(report.plan.experiment.name, filled.table.name)]
    }
    if calls:
        importlib.import_module("lskd.report.figures")  # here, once, and not in each process that draws
    with ahead.drawn(calls) as figures:
        site = Site(Library(reports, store, conf, whole=whole), figures)
        files = {out: site.one_file()} if out.suffix == ".html" else {out / path: text for path, text in site.files()}
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    except OSError as error:
        raise InputError(f"out = {str(out)!r}: cannot be written: {error.strerror}") from None
    return list(files)


class Site:
    """The pages of a library."""

    def __init__(self, library: Library, figures: ahead.Drawn = ahead.now) -> None:
        self.library, self.figures = library, figures

    def files(self) -> Iterator[tuple[str, str]]:
        """(path, content) of each file of the site."""
        layout = environment().get_template("layout.html")
        for address, title, given in self.pages():
            links = Links(address)
            body = Markup(self._body(address, given, links))
            yield address.path, layout.render(**self._frame(address, title, links), body=body)
        for name in ("style.css", "script.js"):
            yield name, self._asset(name)

    def one_file(self) -> str:
        """All pages in one file: each is a section, of which the browser shows the one that its address names."""
        links = Links(Address("start"), one_file=True)
        sections = []
        for address, title, given in self.pages():
            of_menu = UNDER.get(address.kind, address.kind)
            head = Markup('<section class="page" id="{}" data-title="{}" data-menu="{}">')
            body = Markup(self._body(address, given, links))
            sections.append(head.format(address.id, title, of_menu) + body + Markup("</section>"))
        assets = {"css": Markup(self._asset("style.css")), "script": Markup(self._asset("script.js"))}
        layout = environment().get_template("layout.html")
        frame = self._frame(Address("start"), "lskd", links)
        return layout.render(**frame, **assets, body=Markup("\n").join(sections))

    def _body(self, address: Address, given: dict[str, Any], links: Links) -> str:
        return environment().get_template(f"{address.kind}.html").render(links=links, library=self.library, **given)

    def _frame(self, address: Address, title: str, links: Links) -> dict[str, Any]:
        return {
            "title": title,
            "links": links,
            "menu": MENU.items(),
            "here": UNDER.get(address.kind, address.kind),
            "version": __version__,
            "runs": self.library.done,
        }

    def _asset(self, name: str) -> str:
        return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")

    # ---- the pages ---------------------------------------------------------------------------------------------

    def pages(self) -> Iterator[Page]:
        """Every page of the site, the first one first."""
        library = self.library
        progress = sorted((of_experiments.progress(library, r) for r in library.reports), key=lambda one: one.order)
        yield self._start(progress)
        yield Address("experiments"), "Experiments – lskd", {"progress": progress}
        yield self._claims()
        for one in progress:
            yield self._experiment(one)
        runs = sorted(library.runs.values(), key=lambda run: (run.label, run.seed, run.id))
        yield Address("runs"), "Runs – lskd", {"lines": [of_runs.run_line(library, run) for run in runs]}
        for run in runs:
            yield self._run(run)
        yield from self._methods()
        yield from self._recipes()

    def _start(self, progress: list[of_experiments.Progress]) -> Page:
        entries = self.library.entries
        of_papers = [entry for entry in entries if not entry.filled.experiment.own]
        own = [entry for entry in entries if entry.filled.experiment.own]
        tally: dict[tuple[str, str], int] = {}
        for entry in of_papers:
            key = of_verdicts.sign_of(entry.finding.outcome, entry.finding.final), entry.finding.verdict
            tally[key] = tally.get(key, 0) + 1
        for verdict, sign in (("reproduced", "holds"), ("contradicted", "fails")):
            tally.setdefault((sign, verdict), 0)
        order = ["holds", "holds-so-far", "fails", "fails-so-far", "undecided", "not-run"]
        given = {
            "tally": [
                (sign, words, n) for (sign, words), n in sorted(tally.items(), key=lambda i: order.index(i[0][0]))
            ],
            "undecided": _rest(of_papers),
            "undecided_own": _rest(own),
            "panels": of_verdicts.forest(entries),
            "matrix": of_verdicts.matrix(entries),
            "legend": [
                ("holds", "holds"),
                ("fails", "fails"),
                ("holds-so-far", "holds so far"),
                ("fails-so-far", "fails so far"),
                ("undecided", "undecided"),
                ("not-run", "not run"),
            ],
            "progress": progress,
        }
        return Address("start"), "lskd: label smoothing × knowledge distillation", given

    def _claims(self) -> Page:
        titles = {**of_verdicts.SECTIONS, "not run": "Not run"}
        given = {"by_section": of_verdicts.claim_lines(self.library.entries), "titles": titles}
        return Address("claims"), "Claims – lskd", given

    def _experiment(self, progress: of_experiments.Progress) -> Page:
        experiment = progress.report.plan.experiment
        views = []
        for filled in progress.report.tables:
            entries = {entry.finding.claim.id: entry for entry in self.library.entries if entry.filled is filled}
            claims = []
            for finding in filled.findings:
                rows = [of_verdicts.row_of(entries[finding.claim.id], part) for part in finding.parts]
                claims.append(
                    SimpleNamespace(
                        id=of_library.claim_id(filled, finding),
                        finding=finding,
                        without=[row for row in rows if row.bar is None and row.part.outcome != "not run"],
                        panels=of_verdicts.panels("", [row for row in rows if row.bar is not None]),
                    )
                )
            views.append(
                SimpleNamespace(
                    id=of_library.table_id(filled),
                    filled=filled,
                    selected_on_test=layout.selected_on_test(filled),
                    figure=self._figure(filled, anchor(experiment.name, filled.table.name)),
                    groups=of_experiments.groups(filled) if filled.table.kind != "figure" else [],
                    headings=of_experiments.headings(filled),
                    points=of_experiments.points(filled) if filled.table.kind == "figure" else None,
                    conventions=of_experiments.conventions(filled),
                    notes=of_experiments.notes(filled),
                    claims=claims,
                    cell_runs=of_experiments.cell_runs(filled),
                    recipes=of_experiments.recipes_of(self.library, filled),
                )
            )
        given = {"experiment": experiment, "progress": progress, "tables": views}
        return Address("experiment", experiment.name), f"{experiment.title} – lskd", given

    def _figure(self, filled: FilledTable, prefix: str) -> Any:
        return self.figures(prefix, functools.partial(drawn.figure, filled, prefix))

    def _run(self, run: Any) -> Page:
        library = self.library
        record, env = library.values.record(run), library.store.env(run)
        given = {
            "run": run,
            "training": [] if record is None else of_runs.training(record),
            "weights": (record or {}).get("weights_sha256", ""),
            "failure": None if record is not None else library.store.failure(run),
            "command": of_runs.command(library, run),
            "places": library.places.get(run.id, []),
            "students": sorted(library.students.get(run.id, []), key=str),
            "measured": None if record is None else of_runs.measured(record),
            "charts": of_runs.learning(library.values.epochs(run)),
            "calibration": [] if record is None else of_runs.calibration(record),
            "settings": of_runs.settings(run),
            "env": of_runs.environment(env),
            "started": env.get("command", ""),
        }
        return Address("run", run.id), f"{run} – lskd", given

    def _methods(self) -> Iterator[Page]:
        library = self.library
        by_method: dict[str, list[Any]] = {name: [] for name in library.methods}
        for run in library.runs.values():
            by_method.setdefault(run.method.name, []).append(run)
        pages = [of_parts.method_page(name, method) for name, method in library.methods.items()]
        listed = [(page, len(by_method[page.name])) for page in pages]
        yield Address("methods"), "Methods – lskd", {"methods": listed}
        for page in pages:
            given = {"page": page, "groups": of_runs.by_seed(by_method[page.name])}
            yield Address("method", page.name), f"{page.name} – lskd", given

    def _recipes(self) -> Iterator[Page]:
        pages = [of_parts.recipe_page(self.library, name, recipe) for name, recipe in self.library.recipes.items()]
        yield Address("recipes"), "Recipes – lskd", {"recipes": pages}
        for page in pages:
            yield Address("recipe", page.name), f"{page.name} – lskd", {"page": page}


@functools.cache
def environment() -> Environment:
    """The templates. What they are given is escaped, and must be there."""
    found = Environment(
        loader=PackageLoader("lskd.report.site"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals |= {
        "NOBODY": of_library.NOBODY,
        "bare_p": bare_p,
        "claim_id": of_library.claim_id,
        "decided": of_verdicts.decided,
        "in_words": of_verdicts.in_words,
        "sign_of": of_verdicts.sign_of,
        "name_of": of_library.name_of,
        "said": of_runs.said,
        "table_id": of_library.table_id,
        "unfolded": unfolded,
        "words_of": of_verdicts.words_of,
        "number": _number,
    }
    found.filters |= {"bound": _bound, "breakable": _breakable, "coded": _coded, "whole": _whole}
    return found


def _rest(entries: Sequence[Any]) -> str:
    """Such as "2 are undecided, and 66 have not been run." """
    undecided = sum(entry.finding.outcome == "undecided" for entry in entries)
    not_run = sum(entry.finding.outcome == "not run" for entry in entries)
    parts = [f"{undecided} undecided"] if undecided else []
    parts += [f"{not_run} not run"] if not_run else []
    return f"Of {len(entries)} claims: {', '.join(parts)}." if parts else ""


def _number(value: Any, digits: int) -> str:
    return layout.MISSING if value is None else number(value, digits)


def _bound(text: Any) -> str:
    """Text whose short formulas stay on one line: T = 4, 95 %."""
    return re.sub(r" (?=%)|(?<==) | (?==)", "\u00a0", str(text))


def _breakable(text: str) -> Markup:
    """The name of a setting, which may go on in the next line after a dot or an underscore."""
    return Markup(re.sub(r"(?<=[._])(?=.)", "<wbr>", str(escape(text))))


def _coded(text: Any) -> Markup:
    """Text in which `names` stand between backticks."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _whole(text: Any) -> Markup:
    """Text that breaks between words alone: ResNet-110 stays whole."""
    return Markup(re.sub(r"\S+-\S+", r'<span class="nowrap">\g<0></span>', str(escape(text))))
