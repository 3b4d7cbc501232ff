"""What became of each claim of each paper: results/tables/claims.md.

A claim may stand in several tables and experiments (readings, protocols): each has a line. Holm's correction is over
all final verdicts at papers' protocols, decided or not: an index of so many claims errs in some by chance.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from lskd.report.characters import plain
from lskd.report.claims import Finding
from lskd.report.filled import FilledTable
from lskd.report.layout import MISSING
from lskd.report.statistics import LEVEL, holm
from lskd.report.words import bare_p, number

HEAD = """\
# Claims

What became of each claim of each paper. The effect is that of the part of a claim on which its verdict hangs, with its
95 % interval; n is the fewest runs in a cell, of those declared; p is that of the verdict, or of the nearer of the two
where it is undecided (0.05 is the limit; docs/statistics.md has the rule). Holm's p is corrected for all lines of the
first table."""

SECTIONS = {
    "final": "## Final: all declared seeds, at the papers' protocols",
    "interim": "## Interim: not all declared seeds, at the papers' protocols",
    "own": "## At protocols of our own\n\nNeither for nor against a paper.",
    "not run": "## Not run",
}

LEFT_OUT: dict[str, tuple[str, ...]] = {
    "final": (),
    "interim": ("Holm's p",),
    "own": ("Holm's p",),
    "not run": ("verdict", "effect", "n", "p", "Holm's p"),
}


@dataclass(frozen=True)
class Entry:
    """A claim of one table of one experiment."""

    filled: FilledTable
    finding: Finding

    @property
    def section(self) -> str:
        if self.finding.outcome == "not run":
            return "not run"
        if self.filled.experiment.own:
            return "own"
        return "final" if self.finding.final else "interim"

    @property
    def order(self) -> tuple[object, ...]:
        """By paper and claim, C2 before C10."""
        words = re.split(r"(\d+)", self.finding.claim.id)
        key = [(word.isdigit(), int(word) if word.isdigit() else word) for word in words]
        return self.filled.paper, key, self.filled.experiment.name, self.filled.table.name

    @property
    def p(self) -> float:
        """Of the verdict; of an undecided claim the smaller of both."""
        by_outcome = {"holds": self.finding.p, "fails": self.finding.against}
        return by_outcome.get(self.finding.outcome, min(self.finding.p, self.finding.against))

    def cells(self, corrected: float, folder: Path) -> dict[str, str]:
        finding, filled = self.finding, self.filled
        decided = finding.outcome != "undecided" or any(part.p is not None for part in finding.parts)
        return {
            "paper": plain(filled.paper) or MISSING,
            "claim": plain(finding.claim.id),
            "text": plain(finding.claim.text),
            "verdict": finding.verdict,
            "effect": _effect(finding).replace("|", "\\|"),
            "n": f"{finding.n} of {len(filled.planned.declared_seeds)}",
            "p": bare_p(self.p) if decided else MISSING,
            "Holm's p": bare_p(corrected) if decided else MISSING,
            "table": _link(filled, folder),
        }


def claims(tables: Iterable[FilledTable], folder: Path) -> str:
    """The page, for the `folder` that the pages' tables are in."""
    entries = sorted(
        (Entry(filled, finding) for filled in tables for finding in filled.findings), key=lambda e: e.order
    )
    parts = [HEAD]
    for section, title in SECTIONS.items():
        chosen = [entry for entry in entries if entry.section == section]
        parts += [title, _table(section, chosen, folder) if chosen else "None."]
    return "\n\n".join(parts) + "\n"


def _table(section: str, entries: Sequence[Entry], folder: Path) -> str:
    adjusted = holm([entry.p for entry in entries])
    lines = [entry.cells(p, folder) for entry, p in zip(entries, adjusted, strict=True)]
    shown = [header for header in lines[0] if header not in LEFT_OUT[section]]
    body = [[line[header] for header in shown] for line in lines]
    return tabulate(body, shown, tablefmt="pipe", disable_numparse=True)


def _effect(finding: Finding) -> str:
    """Such as "`ls/student > hard/student`: 0.17 [0.00, 0.33] (weakest of 2)"."""
    part = finding.weakest
    if part is None or part.effect is None:
        return MISSING
    text = f"`{part.statement}`: {number(part.effect.mean, part.digits)}"
    if interval := part.effect.interval(LEVEL):
        text += f" [{number(interval[0], part.digits)}, {number(interval[1], part.digits)}]"
    return text + (f" (weakest of {len(finding.parts)})" if len(finding.parts) > 1 else "")


def _link(filled: FilledTable, folder: Path) -> str:
    path = Path(filled.experiment.name) / f"{filled.table.name}.md"
    name = f"`{filled.experiment.name}`/{filled.table.name}"
    return f"[{name}]({path.as_posix()})" if (folder / path).is_file() else name
