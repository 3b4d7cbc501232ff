"""Numbers and counts as verdicts word them."""

from __future__ import annotations

from lskd.run import Run


def outputs(run: Run) -> str:
    """What a network says something of, in the plural: what is counted in its metrics."""
    text = run.dataset.text
    return "images" if text is None else "tokens" if text.source else "pairs of sentences"


def number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def show_interval(interval: tuple[float, float], digits: int, label: str = "") -> str:
    return f" [{label}{number(interval[0], digits)}, {number(interval[1], digits)}]"


def show_p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def bare_p(p: float) -> str:
    """ "0.012", "< 0.001": for a column that is headed p."""
    return show_p(p).removeprefix("p = ").removeprefix("p ")


def with_p(p: float | None) -> str:
    """ ", p = 0.012", or nothing."""
    return "" if p is None else f", {show_p(p)}"


def seeds(n: int) -> str:
    return f"{n} seed" + ("" if n == 1 else "s")


def counted(n: tuple[int, ...], wanted: int) -> str:
    """ "3 of 5 seeds", or of independent cells "5 and 4 of 5 seeds"."""
    if len(set(n)) > 1:
        return f"{' and '.join(map(str, n))} of {wanted} seeds"
    return f"{n[0]} of {wanted} seeds" if n[0] < wanted else seeds(n[0])


def some(texts: list[str], most: int = 2) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
