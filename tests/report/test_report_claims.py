"""Each verdict rule, with made-up numbers."""

from __future__ import annotations

from typing import Any

import pytest

from lskd.errors import InputError
from lskd.report.claims import p_values
from lskd.report.statistics import Estimate, one_sample
from lskd.tables.claim import Test as Statement


def claim(*tests: dict[str, Any], id: str = "C") -> dict[str, Any]:
    return {"id": id, "text": "Something holds", "tests": list(tests)}


def estimate(low: float, high: float) -> Estimate:
    """An estimate whose 95 % interval is [low, high]."""
    unit = one_sample([-1.0, 0.0, 1.0])
    half = unit.interval()[1]  # type: ignore[index]
    assert unit.error is not None
    return Estimate((low + high) / 2, unit.error * (high - low) / 2 / half, unit.df, unit.n)


@pytest.mark.parametrize(
    "kind, within, interval, verdict",
    [
        ("less", None, (-2, -1), "reproduced"),
        ("less", None, (1, 2), "contradicted"),
        ("less", None, (-1, 2), "undecided"),
        ("greater", None, (1, 2), "reproduced"),
        ("greater", None, (-2, -1), "contradicted"),
        ("greater", None, (-2, 1), "undecided"),
        ("equal", 1.0, (-0.9, 0.5), "reproduced"),
        ("equal", 1.0, (0.2, 0.5), "reproduced"),  # a difference, but a small one
        ("equal", 1.0, (1.1, 2), "contradicted"),
        ("equal", 1.0, (-2, -1.1), "contradicted"),
        ("equal", 1.0, (0.5, 1.5), "undecided"),
        ("equal", 1.0, (-2, 2), "undecided"),
        ("below", 5.0, (3, 4), "reproduced"),
        ("below", 5.0, (6, 7), "contradicted"),
        ("below", 5.0, (4, 6), "undecided"),
        ("above", 5.0, (6, 7), "reproduced"),
        ("above", 5.0, (3, 4), "contradicted"),
        ("not_falling", 1.0, (-0.9, 5), "reproduced"),
        ("not_falling", 1.0, (-3, -1.1), "contradicted"),
        ("not_falling", 1.0, (-2, -0.9), "undecided"),
        ("not_rising", 1.0, (-5, 0.9), "reproduced"),
    ],
)
def test_a_statement_holds_where_its_interval_lies_in_the_region(
    kind: Any, within: float | None, interval: tuple[float, float], verdict: str
) -> None:
    than: Any = "b/c" if kind in ("less", "greater", "equal") else within if kind in ("below", "above") else ()
    margin = within if kind in ("equal", "not_falling", "not_rising") else None
    test = Statement(kind, of="a/c", than=than, within=margin, margin="ours" if within else "")
    p, against = p_values(test, estimate(*interval))
    assert p is not None and against is not None
    assert verdict == ("reproduced" if p <= 0.05 else "contradicted" if against <= 0.05 else "undecided")


def test_equality_takes_the_interval_of_90_percent() -> None:
    """Half widths of 1.1 at 95 %, and of 0.75 at 90 % (t = 4.30, 2.92): two one-sided tests at 5 %."""
    test = Statement("equal", of="a/c", than="b/c", within=1.0, margin="ours")
    p, _ = p_values(test, estimate(-1.1, 1.1))
    assert p is not None and p < 0.05
    assert p_values(Statement("less", of="a/c", than="b/c"), estimate(-2.1, 0.1))[0] == pytest.approx(0.06, abs=0.005)


def test_difference_in_words(lab: Any) -> None:
    planned = lab.table(claims=[claim({"test": "less", "of": "ls/small", "than": "hard/small"})])
    lab.fill(planned, "hard/small", [91.0, 92.0, 93.0])
    lab.fill(planned, "ls/small", [90.0, 90.9, 91.9])  # lower by 1.0, 1.1, 1.1
    finding = lab.findings(planned)["C"]
    assert finding.verdict == "reproduced"
    # m = 1.0667, s = 0.0577, half width 4.3027 · 0.0577/√3 = 0.1434
    assert finding.parts[0].text == "1.07 lower [0.92, 1.21] over 3 seeds, p < 0.001"
    assert finding.parts[0].statement == "ls/small < hard/small"


def test_pairing_by_seed_counts(lab: Any) -> None:
    """The seeds differ by far more than the cells do: only the paired difference sees it."""
    planned = lab.table(claims=[claim({"test": "greater", "of": "ls/small", "than": "hard/small"})])
    lab.fill(planned, "hard/small", {0: 70.0, 1: 80.0, 2: 90.0})
    lab.fill(planned, "ls/small", {2: 91.1, 0: 71.0, 1: 80.9})
    assert lab.findings(planned)["C"].verdict == "reproduced"


def test_partial_cells_are_tested_on_the_seeds_they_share_and_say_so(lab: Any) -> None:
    planned = lab.table(claims=[claim({"test": "less", "of": "ls/small", "than": "hard/small"})])
    lab.fill(planned, "hard/small", {0: 91.0, 1: 92.0})
    lab.fill(planned, "ls/small", {0: 90.0, 1: 91.0001, 2: 99.0})
    finding = lab.findings(planned)["C"]
    assert finding.verdict == "undecided"
    assert "over 2 of 3 seeds" in finding.parts[0].text


@pytest.mark.parametrize("difference", [-5.0, 0.0, 5.0])
def test_one_seed_decides_nothing(lab: Any, difference: float) -> None:
    tests = [{"test": "less", "of": "ls/small", "than": "hard/small"}]
    tests += [{"test": "equal", "of": "ls/small", "than": "hard/small", "within": 1.0, "margin": "ours"}]
    tests += [{"test": "below", "of": "ls/small", "than": 99.0, "margin": "ours"}]
    planned = lab.table(claims=[claim(test, id=test["test"]) for test in tests])
    lab.fill(planned, "hard/small", [90.0])
    lab.fill(planned, "ls/small", [90.0 + difference])
    for finding in lab.findings(planned).values():
        assert finding.verdict == "undecided"
        assert "one seed decides nothing" in finding.parts[0].text


def test_seeds_that_agree_exactly_decide_nothing(lab: Any) -> None:
    """Accuracies on a few hundred images are discrete: two equal differences are no proof."""
    planned = lab.table(claims=[claim({"test": "less", "of": "ls/small", "than": "hard/small"})])
    lab.fill(planned, "hard/small", [98.61, 98.33, 98.06])
    lab.fill(planned, "ls/small", [97.5, 97.22, 96.95])
    finding = lab.findings(planned)["C"]
    assert finding.verdict == "undecided"
    assert "all seeds agree exactly" in finding.parts[0].text


def test_a_cell_without_runs_is_not_run_and_is_named(lab: Any) -> None:
    tests = [
        {"test": "less", "of": "ls/small", "than": "hard/small"},
        {"test": "less", "of": "ls/large", "than": "hard/small"},
    ]
    planned = lab.table(claims=[claim(*tests)])
    lab.fill(planned, "hard/small", [91.0, 92.0, 93.0])
    lab.fill(planned, "ls/small", [90.0, 90.9, 91.9])
    finding = lab.findings(planned)["C"]
    assert (finding.verdict, finding.missing) == ("not run", ("ls/large",))
    assert [part.verdict for part in finding.parts] == ["reproduced so far", "not run"]


def words(planned: Any, test: Statement) -> list[str]:
    return [str(statement) for statement in planned.table.statements(test)]


def test_wildcards_are_one_part_a_cell(lab: Any) -> None:
    planned = lab.table()
    assert words(planned, Statement("less", of="ls/*", than="hard/*")) == [
        "ls/small < hard/small",
        "ls/large < hard/large",
    ]
    assert words(planned, Statement("less", of="ls/*", than="hard/small")) == [
        "ls/small < hard/small",
        "ls/large < hard/small",
    ]
    assert words(planned, Statement("below", of="ls/*", than=1.0, margin="paper")) == [
        "ls/small < 1 (the paper's)",
        "ls/large < 1 (the paper's)",
    ]
    assert words(planned, Statement("less", of="*/small", than="*/large", rows=("ls",))) == ["ls/small < ls/large"]
    assert words(planned, Statement("greater", of="ls/* - hard/*", than="ls/small - hard/large")) == [
        "ls/small - hard/small > ls/small - hard/large",
        "ls/large - hard/large > ls/small - hard/large",
    ]
    figure = lab.figure()
    assert words(figure, Statement("greater", of="large/*", than="small@x")) == [
        f"large/{x} > small@x" for x in ("0", "0.2", "0.4")
    ]
    assert words(figure, Statement("rising", of="large/*")) == ["large/* rising"]
    assert words(figure, Statement("largest", of="large/0.2")) == ["large/0.2 > large/0", "large/0.2 > large/0.4"]
    steady = Statement("not_falling", of="large/*", within=0.5, margin="ours")
    assert words(figure, steady) == ["large/0.2 > large/0 - 0.5 (ours)", "large/0.4 > large/0.2 - 0.5 (ours)"]


def test_what_cancels_has_no_share_in_the_spread(lab: Any) -> None:
    """(a - c) - (b - c) is a - b, however wildly c changes."""
    test = {"test": "greater", "of": "ls/small - hard/large", "than": "hard/small - hard/large"}
    for spread in ("paired", "independent"):
        planned = lab.table(
            spread=spread, claims=[claim(test), claim({**test, "of": "ls/small", "than": "hard/small"}, id="D")]
        )
        lab.fill(planned, "hard/small", [91.0, 92.0, 93.0])
        lab.fill(planned, "ls/small", [90.0, 90.9, 91.9])
        lab.fill(planned, "hard/large", [10.0, 90.0, 50.0])
        with_c, without = (finding.parts[0] for finding in lab.findings(planned).values())
        assert (with_c.effect.error, with_c.effect.df) == pytest.approx((without.effect.error, without.effect.df))


def test_the_same_runs_under_two_names_are_not_compared(lab: Any) -> None:
    rows = {name: {"label": name, "metric": {"name": metric}} for name, metric in (("a", "top1"), ("b", "top5"))}
    test = {"test": "greater", "of": "a/small", "than": "b/small"}
    lab.table(rows=rows, claims=[claim(test)])  # two metrics of the same runs
    with pytest.raises(InputError, match=r"claims.C = 'a/small and b/small': are the same number of the same runs"):
        lab.table(rows=rows, claims=[claim({**test, "metric": {"name": "top1"}})])


def test_lists_are_compared_each_with_each_and_skipped_cells_are_left_out(lab: Any) -> None:
    rows = {name: {"label": name, "run": {"alpha": alpha}} for name, alpha in (("a", 0.0), ("b", 0.1), ("c", 0.2))}
    planned = lab.table(rows=rows, skip={"c": {"large": "too large"}})
    test = Statement("greater", of="a/*", than=("b/*", "c/*"))
    assert words(planned, test) == ["a/small > b/small", "a/large > b/large", "a/small > c/small"]


def test_a_claim_is_reproduced_only_if_all_its_parts_are(lab: Any) -> None:
    planned = lab.table(claims=[claim({"test": "less", "of": "ls/*", "than": "hard/*"})])
    for row, change in (("hard", 0.0), ("ls", -1.0)):
        lab.fill(planned, f"{row}/small", [91.0 + change, 92.0 + 1.1 * change, 93.0 + change])
    lab.fill(planned, "hard/large", [95.0, 96.0, 97.0])
    lab.fill(planned, "ls/large", [96.0, 94.0, 97.5])
    finding = lab.findings(planned)["C"]
    assert [part.verdict for part in finding.parts] == ["reproduced", "undecided"]
    assert finding.verdict == "undecided"


def test_contradiction_of_many_parts_is_corrected(lab: Any) -> None:
    """Against the claim at 95 %, but not at the 97.5 % that two parts ask for: undecided. A clear one: contradicted."""
    planned = lab.table(claims=[claim({"test": "less", "of": "ls/*", "than": "hard/*"})])
    lab.fill(planned, "hard/small", [91.0, 92.0, 93.0])
    lab.fill(planned, "ls/small", [90.0, 90.9, 91.9])
    lab.fill(planned, "hard/large", [90.0, 90.0, 90.0])
    lab.fill(planned, "ls/large", [90.8, 91.0, 91.6])  # t = 4.70 on 2 degrees of freedom: p = 0.042
    finding = lab.findings(planned)["C"]
    assert finding.verdict == "undecided"
    assert "against the claim at 95%, but not at 97.5%" in finding.parts[1].text

    clear = lab.table(seeds=[10, 11, 12], claims=[claim({"test": "less", "of": "ls/*", "than": "hard/*"})])
    for cell, numbers in {
        "hard/small": (91.0, 92.0, 93.0), "ls/small": (90.0, 90.9, 91.9),
        "hard/large": (90.0, 90.0, 90.0), "ls/large": (91.0, 91.1, 91.2),
    }.items():  # fmt: skip
        lab.fill(clear, cell, dict(zip((10, 11, 12), numbers, strict=True)))
    finding = lab.findings(clear)["C"]
    assert [part.verdict for part in finding.parts] == ["reproduced", "contradicted"]
    assert finding.verdict == "contradicted"


def test_an_order_is_tested_by_ranks_within_seeds(lab: Any) -> None:
    rising = {"test": "rising", "of": "small/*"}
    planned = lab.figure(claims=[claim(rising, id="up"), claim({"test": "falling", "of": "small/*"}, id="down")])
    for column, numbers in (("0", [90.0, 91.0, 92.0]), ("0.2", [92.0, 93.2, 94.0]), ("0.4", [93.0, 94.1, 95.1])):
        lab.fill(planned, f"small/{column}", numbers)
    up, down = lab.findings(planned)["up"], lab.findings(planned)["down"]
    assert (up.verdict, down.verdict) == ("reproduced", "contradicted")
    # Every seed has the one order of six that is claimed: p = 2/6³.
    assert up.p == pytest.approx(2 / 6**3)
    assert up.parts[0].text.startswith(
        "Page’s L = 42, 2 of 2 steps rising on average, ends differ by 3.07 [2.92, 3.21]"
    )
    assert up.parts[0].statement == "small/* rising"


def test_a_dip_forbids_an_order_that_a_slope_would_show(lab: Any) -> None:
    """The means rise and then fall by less: their slope is positive, and so is Page's trend."""
    claims = [claim({"test": "rising", "of": "small/*"}), claim({"test": "largest", "of": "small/0.2"}, id="peak")]
    planned = lab.figure(seeds=range(6), claims=claims)
    lab.fill(planned, "small/0", [90.0, 90.3, 90.1, 89.8, 90.2, 90.0])
    lab.fill(planned, "small/0.2", [94.0, 94.2, 94.3, 93.9, 94.1, 94.0])
    lab.fill(planned, "small/0.4", [93.0, 93.3, 93.2, 92.9, 93.2, 92.9])
    findings = lab.findings(planned)
    assert (findings["C"].verdict, findings["peak"].verdict) == ("contradicted", "reproduced")
    assert "1 of 2 steps rising on average" in findings["C"].parts[0].text


def test_an_order_takes_only_seeds_that_have_all_points(lab: Any) -> None:
    planned = lab.figure(claims=[claim({"test": "rising", "of": "small/*"})])
    lab.fill(planned, "small/0", {0: 90.0, 1: 91.0})
    lab.fill(planned, "small/0.2", {0: 92.0, 1: 93.0, 2: 0.0})
    lab.fill(planned, "small/0.4", {0: 94.0, 2: 95.0})
    assert "one seed decides nothing" in lab.findings(planned)["C"].parts[0].text
    apart = lab.figure(seeds=[20, 21], claims=[claim({"test": "rising", "of": "small/*"})])
    lab.fill(apart, "small/0", {20: 90.0})
    lab.fill(apart, "small/0.2", {21: 90.0})
    lab.fill(apart, "small/0.4", {21: 90.0})
    part = lab.findings(apart)["C"].parts[0]
    assert (part.verdict, part.text) == ("undecided", "no seed has all the numbers that this needs")


def test_interpolation_at_the_other_cells_x(lab: Any) -> None:
    """small is 90, 92, 96 at γ = 0, 0.2, 0.4 (for seed 1: one more); at γ = 0.3 that is 94."""
    planned = lab.figure(claims=[claim({"test": "greater", "of": "large/0.2", "than": "small@x"})])
    for column, gamma, top1 in (("0", 0.0, 90.0), ("0.2", 0.2, 92.0), ("0.4", 0.4, 96.0)):
        lab.fill(planned, f"small/{column}", [top1, top1 + 1, top1 + 2], gamma=gamma)
    lab.fill(planned, "large/0.2", [95.0, 96.001, 97.002], gamma=0.3)
    part = lab.findings(planned)["C"].parts[0]
    assert part.effect.mean == pytest.approx(1.001)
    assert part.verdict == "reproduced"
    assert "extrapolated" not in part.text


def test_beyond_the_ends_of_a_series_nothing_is_decided(lab: Any) -> None:
    planned = lab.figure(claims=[claim({"test": "less", "of": "large/0.2", "than": "small@x"})])
    for column, gamma, top1 in (("0", 0.0, 90.0), ("0.2", 0.2, 92.0), ("0.4", 0.4, 96.0)):
        lab.fill(planned, f"small/{column}", [top1, top1 + 1, top1 + 2], gamma=gamma)
    lab.fill(planned, "large/0.2", [85.0, 86.001, 87.002], gamma=0.7)
    part = lab.findings(planned)["C"].parts[0]
    assert part.effect.mean == pytest.approx(-10.999)
    assert (part.verdict, part.p) == ("undecided", None)
    assert part.text.endswith("; extrapolated: beyond the ends of `small` in 3 seeds")


def test_a_test_can_look_at_another_metric(lab: Any) -> None:
    below = {
        "test": "below",
        "of": "ls/small",
        "than": 10,
        "margin": "ours",
        "metric": {"name": "error", "digits": 1},
    }
    planned = lab.table(claims=[claim(below)])
    lab.fill(planned, "ls/small", [95.0, 95.5, 96.0])
    finding = lab.findings(planned)["C"]
    assert finding.verdict == "reproduced"
    assert finding.parts[0].text == "4.5 [3.3, 5.7] over 3 seeds, p = 0.003"


@pytest.mark.parametrize(
    "test, message",
    [
        ({"test": "less", "of": "ls/smal", "than": "hard/small"}, "did you mean 'ls/small'"),
        ({"test": "less", "of": "soft/*", "than": "hard/*"}, "soft/\\*"),
        ({"test": "less", "of": "ls/small", "than": "hard@x"}, "only figures have an x"),
        ({"test": "rising", "of": "ls/*"}, "at least three cells"),
        ({"test": "rising", "of": "ls/small"}, "a whole row"),
        ({"test": "below", "of": "ls/small", "than": 1.0, "margin": "ours", "through": [1]}, "the order of a series"),
        ({"test": "below", "of": "ls/small", "than": 1.0}, "margin = '': must be given with below: paper or ours"),
        ({"test": "equal", "of": "ls/small", "than": "hard/small", "within": -1.0, "margin": "ours"}, "within = -1.0"),
        ({"test": "less", "of": "ls/small"}, "than = \\(\\): must be given with less"),
        ({"test": "less", "of": "ls/small", "than": "hard/small", "at_least": 2}, "at_least = 2: must be from 1 to 1"),
        ({"test": "less", "of": "ls/*", "than": "*/small"}, "not of both"),
        ({"test": "less", "of": "ls/small", "than": "max(ls)"}, "max\\(ls\\)'?: must be compared with a bound"),
        ({"test": "correlated", "of": "ls/*", "than": "hard/*"}, "at least four cells"),
        ({"test": "correlated", "of": "ls/small", "than": "hard/small"}, "row/\\* or \\*/column"),
    ],
)
def test_claims_about_cells_that_are_not_there_are_errors(lab: Any, test: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        lab.table(claims=[claim(test)])


def test_a_claim_without_tests_is_an_error(lab: Any) -> None:
    with pytest.raises(InputError, match=r"claims\[0\].tests = \[\]: must be at least one test"):
        lab.table(claims=[claim()])


def test_claims_about_points_that_are_not_there_are_errors(lab: Any) -> None:
    for test, message in (
        ({"test": "rising", "of": "small/0"}, "a whole row"),
        ({"test": "rising", "of": "small/*", "through": [0, 0.3]}, "through = '0.3': did you mean '0.4'"),
        ({"test": "less", "of": "small@x", "than": "large@x"}, "says at which x"),
    ):
        with pytest.raises(InputError, match=message):
            lab.figure(claims=[claim(test)])
