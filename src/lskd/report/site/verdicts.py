"""What pages say of claims: verdicts, the forest plot, the matrix of papers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lskd.quantity import Quantity
from lskd.report import layout
from lskd.report.claims import Part
from lskd.report.filled import FilledTable
from lskd.report.index import Entry
from lskd.report.site import charts
from lskd.report.site.charts import Axis, Bar
from lskd.report.site.library import cell_id, has_runs
from lskd.report.statistics import LEAST, LEVEL, holm
from lskd.report.words import bare_p, number
from lskd.tables import statements


def sign_of(outcome: str, final: bool) -> str:
    """The sign of a verdict: a name of a symbol in the pages."""
    return outcome.replace(" ", "-") + ("" if final or outcome not in ("holds", "fails") else "-so-far")


@dataclass(frozen=True)
class ForestRow:
    """A part of a claim, as a row of a forest plot."""

    entry: Entry
    part: Part
    bar: Bar | None
    axis: Axis | None = None

    @property
    def mark(self) -> str:
        return sign_of(self.part.outcome, self.entry.finding.final)

    @property
    def drawing(self) -> Markup:
        return Markup() if self.bar is None or self.axis is None else charts.forest_row(self.bar, self.axis)

    @property
    def effect(self) -> str:
        return layout.MISSING if self.bar is None else number(self.bar.mean, self.part.digits)

    @property
    def interval(self) -> str:
        if self.bar is None or self.bar.interval is None:
            return ""
        low, high = (number(end, self.part.digits) for end in self.bar.interval)
        return f"[{low}, {high}]"

    @property
    def n(self) -> str:
        return f"{self.entry.finding.n} of {len(self.entry.filled.planned.declared_seeds)}"

    @property
    def enough(self) -> bool:
        """Whether its runs can decide anything."""
        return self.part.effect is not None and min(self.part.effect.n) >= LEAST

    @property
    def more(self) -> int:
        """How many parts of the claim there are besides."""
        return len(self.entry.finding.parts) - 1


@dataclass(frozen=True)
class Panel:
    """Rows of a forest plot that share an axis."""

    title: str
    unit: str
    axis: Axis
    rows: tuple[ForestRow, ...]


def row_of(entry: Entry, part: Part) -> ForestRow:
    effect = part.effect
    if effect is None:
        return ForestRow(entry, part, None)
    return ForestRow(entry, part, Bar(effect.mean, effect.interval(LEVEL), part.about.test.region))


def words_of(filled: FilledTable, part: Part) -> list[tuple[str, str]]:
    """The words of a statement, those that are cells with the anchor of their runs."""
    anchors = {f"{cell.cell.row}/{cell.cell.column}": cell_id(filled, cell) for cell in filled.cells if has_runs(cell)}
    return [(word, anchors.get(word, "")) for word in part.statement.split(" ")]


def unit(entry: Entry, part: Part) -> str:
    """What the effect of a part is counted in."""
    test, planned = part.about.test, entry.filled.planned
    if test.kind.number == "correlation":
        return "rank correlation"
    metric = test.metric or planned.cell(*statements.places(planned.table, part.about)[0]).metric
    return "percentage points" if metric.rate else titled(metric.quantity, metric.unit)


def titled(quantity: Quantity, unit: str | None = None) -> str:
    """Such as "top-1 accuracy (%)"."""
    unit = quantity.unit if unit is None else unit
    return quantity.title + (f" ({unit})" if unit else "")


def panels(title: str, rows: Iterable[ForestRow]) -> list[Panel]:
    """The rows by what they are counted in, each group with an axis of its own; those that decide nothing last."""
    groups: dict[str, list[ForestRow]] = defaultdict(list)
    for row in rows:
        groups[unit(row.entry, row.part)].append(row)
    found = []
    for name, group in groups.items():
        group.sort(key=lambda row: not row.enough)
        axis = charts.axis_of((row.bar, row.enough) for row in group if row.bar is not None)
        found.append(Panel(title, name, axis, tuple(ForestRow(row.entry, row.part, row.bar, axis) for row in group)))
    return found


SECTIONS = {
    "final": "At the papers’ protocols",
    "interim": "At the papers’ protocols, so far: not all declared seeds",
    "own": "At protocols of our own: neither for nor against a paper",
}


def forest(entries: Sequence[Entry]) -> list[Panel]:
    """Every claim of which there are numbers, by the part on which its verdict hangs."""
    found = []
    for section, title in SECTIONS.items():
        chosen = [entry for entry in entries if entry.section == section]
        rows = [row_of(entry, part) for entry in chosen for part in [entry.finding.weakest] if part is not None]
        found += panels(title, rows)
    return found


@dataclass(frozen=True)
class PaperClaims:
    """A paper's part of the matrix: its claims, and what became of each at either kind of protocol."""

    paper: str
    claims: dict[str, str]  # id: text
    rows: dict[str, dict[str, list[Entry]]]  # by protocol, by claim

    @property
    def heads(self) -> list[tuple[str, int]]:
        """(C14, how many claims are called so: "C14", "C14, no better than …") for the columns."""
        return list(Counter(id.partition(",")[0] for id in self.claims).items())


def matrix(entries: Sequence[Entry]) -> list[PaperClaims]:
    by_paper: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_paper[entry.filled.paper].append(entry)
    found = []
    for paper in sorted(by_paper, key=lambda name: (not name, name)):
        claims = {entry.finding.claim.id: entry.finding.claim.text for entry in by_paper[paper]}
        rows: dict[str, dict[str, list[Entry]]] = {"the paper’s": defaultdict(list), "our own": defaultdict(list)}
        for entry in by_paper[paper]:
            protocol = "our own" if entry.filled.experiment.own else "the paper’s"
            rows[protocol][entry.finding.claim.id].append(entry)
        found.append(PaperClaims(paper, claims, {key: row for key, row in rows.items() if row}))
    return found


@dataclass(frozen=True)
class ClaimLine:
    """A claim in the list of all."""

    entry: Entry
    row: ForestRow | None
    p: str
    p_value: float | None
    holm: str


def claim_lines(entries: Sequence[Entry]) -> dict[str, list[ClaimLine]]:
    """By section; Holm's p over the final ones."""
    found: dict[str, list[ClaimLine]] = {}
    for section in (*SECTIONS, "not run"):
        chosen = [entry for entry in entries if entry.section == section]
        corrected = holm([entry.p for entry in chosen])
        lines = []
        for entry, adjusted in zip(chosen, corrected, strict=True):
            finding = entry.finding
            decided = finding.outcome != "undecided" or any(part.p is not None for part in finding.parts)
            decided = decided and section != "not run"
            weakest = finding.weakest
            lines.append(
                ClaimLine(
                    entry,
                    None if weakest is None else row_of(entry, weakest),
                    bare_p(entry.p) if decided else layout.MISSING,
                    entry.p if decided else None,
                    bare_p(adjusted) if decided and section == "final" else "",
                )
            )
        found[section] = lines
    return found


def counts(entries: Iterable[Entry]) -> Counter[str]:
    """How many claims have which verdict, those of the papers' protocols and ours apart."""
    return Counter(entry.finding.verdict for entry in entries)


def in_words(entry: Entry) -> list[Part]:
    """The parts that say what was found: all of them if they are few, else the one on which the verdict hangs."""
    finding = entry.finding
    few = len(finding.parts) <= 3 or finding.weakest is None
    return list(finding.parts) if few else [part for part in [finding.weakest] if part is not None]


def decided(entries: Sequence[Entry], section: str) -> list[Entry]:
    return [entry for entry in entries if entry.section == section and entry.finding.outcome in ("holds", "fails")]
