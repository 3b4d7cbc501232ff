"""Each verdict rule, with made-up numbers."""

from __future__ import annotations

from typing import Any

import pytest

from lskd.errors import InputError
from lskd.plan import Test as Statement
from lskd.report.claims import expand, judge
from lskd.report.statistics import Estimate, one_sample


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
        ("rising", None, (1, 2), "reproduced"),
        ("rising", None, (-2, -1), "contradicted"),
        ("falling", None, (-2, -1), "reproduced"),
        ("falling", None, (-1, 1), "undecided"),
    ],
)
def test_judge(kind: Any, within: float | None, interval: tuple[float, float], verdict: str) -> None:
    than = "b/c" if kind in ("less", "greater", "equal") else ""
    test = Statement(kind, of="a/c", than=than, within=within)
    assert judge(test, estimate(*interval))[0] == verdict


def test_difference_in_words(lab: Any) -> None:
    grid = lab.table(claims=[claim({"test": "less", "of": "ls/small", "than": "hard/small"})])
    lab.fill(grid, "hard/small", [91.0, 92.0, 93.0])
    lab.fill(grid, "ls/small", [90.0, 90.9, 91.9])  # lower by 1.0, 1.1, 1.1
    finding = lab.findings(grid)["C"]
    assert finding.verdict == "reproduced"
    # m = 1.0667, s = 0.0577, half width 4.3027 · 0.0577/√3 = 0.1434
    assert finding.parts[0].text == "1.07 lower [0.92, 1.21] over 3 seeds, p < 0.001"
    assert finding.parts[0].statement == "ls/small < hard/small"


def test_pairing_by_seed_counts(lab: Any) -> None:
    """The seeds differ by far more than the cells do: only the paired difference sees it."""
    grid = lab.table(claims=[claim({"test": "greater", "of": "ls/small", "than": "hard/small"})])
    lab.fill(grid, "hard/small", {0: 70.0, 1: 80.0, 2: 90.0})
    lab.fill(grid, "ls/small", {2: 91.1, 0: 71.0, 1: 80.9})
    assert lab.findings(grid)["C"].verdict == "reproduced"


def test_partial_cells_are_tested_on_the_seeds_they_share_and_say_so(lab: Any) -> None:
    grid = lab.table(claims=[claim({"test": "less", "of": "ls/small", "than": "hard/small"})])
    lab.fill(grid, "hard/small", {0: 91.0, 1: 92.0})
    lab.fill(grid, "ls/small", {0: 90.0, 1: 91.0001, 2: 99.0})
    finding = lab.findings(grid)["C"]
    assert finding.verdict == "reproduced"
    assert "over 2 of 3 seeds" in finding.parts[0].text


@pytest.mark.parametrize("difference", [-5.0, 0.0, 5.0])
def test_one_seed_decides_nothing(lab: Any, difference: float) -> None:
    tests = [{"test": "less", "of": "ls/small", "than": "hard/small"}]
    tests += [{"test": "equal", "of": "ls/small", "than": "hard/small", "within": 1.0}]
    tests += [{"test": "below", "of": "ls/small", "within": 99.0}]
    grid = lab.table(claims=[claim(test, id=test["test"]) for test in tests])
    lab.fill(grid, "hard/small", [90.0])
    lab.fill(grid, "ls/small", [90.0 + difference])
    for finding in lab.findings(grid).values():
        assert finding.verdict == "undecided"
        assert "one seed decides nothing" in finding.parts[0].text


def test_seeds_that_agree_exactly_decide_nothing(lab: Any) -> None:
    """Accuracies on a few hundred images are discrete: two equal differences are no proof."""
    grid = lab.table(claims=[claim({"test": "less", "of": "ls/small", "than": "hard/small"})])
    lab.fill(grid, "hard/small", [98.61, 98.33])
    lab.fill(grid, "ls/small", [97.5, 97.22])
    finding = lab.findings(grid)["C"]
    assert finding.verdict == "undecided"
    assert "all seeds agree exactly" in finding.parts[0].text


def test_a_cell_without_runs_is_not_run_and_is_named(lab: Any) -> None:
    tests = [
        {"test": "less", "of": "ls/small", "than": "hard/small"},
        {"test": "less", "of": "ls/large", "than": "hard/small"},
    ]
    grid = lab.table(claims=[claim(*tests)])
    lab.fill(grid, "hard/small", [91.0, 92.0, 93.0])
    lab.fill(grid, "ls/small", [90.0, 90.9, 91.9])
    finding = lab.findings(grid)["C"]
    assert (finding.verdict, finding.missing) == ("not run", ("ls/large",))
    assert [part.verdict for part in finding.parts] == ["reproduced", "not run"]


def test_wildcards_are_one_part_a_column(lab: Any) -> None:
    grid = lab.table()
    both = Statement("less", of="ls/*", than="hard/*")
    assert expand(grid, both) == [("ls/small", "hard/small"), ("ls/large", "hard/large")]
    one = Statement("less", of="ls/*", than="hard/small")
    assert expand(grid, one) == [("ls/small", "hard/small"), ("ls/large", "hard/small")]
    assert expand(grid, Statement("below", of="ls/*", within=1.0)) == [("ls/small", ""), ("ls/large", "")]
    figure = lab.figure()
    at_x = Statement("greater", of="large/*", than="small@x")
    assert expand(figure, at_x) == [(f"large/{x}", "small@x") for x in ("0", "0.2", "0.4")]
    assert expand(figure, Statement("rising", of="large/*")) == [("large/*", "")]


def test_a_claim_is_reproduced_only_if_all_its_parts_are(lab: Any) -> None:
    grid = lab.table(claims=[claim({"test": "less", "of": "ls/*", "than": "hard/*"})])
    for row, change in (("hard", 0.0), ("ls", -1.0)):
        lab.fill(grid, f"{row}/small", [91.0 + change, 92.0 + 1.1 * change, 93.0 + change])
    lab.fill(grid, "hard/large", [95.0, 96.0, 97.0])
    lab.fill(grid, "ls/large", [96.0, 94.0, 97.5])
    finding = lab.findings(grid)["C"]
    assert [part.verdict for part in finding.parts] == ["reproduced", "undecided"]
    assert finding.verdict == "undecided"


def test_contradiction_of_many_parts_is_corrected(lab: Any) -> None:
    """Against the claim at 95 %, but not at the 97.5 % that two parts ask for: undecided. A clear one: contradicted."""
    grid = lab.table(claims=[claim({"test": "less", "of": "ls/*", "than": "hard/*"})])
    lab.fill(grid, "hard/small", [91.0, 92.0, 93.0])
    lab.fill(grid, "ls/small", [90.0, 90.9, 91.9])
    lab.fill(grid, "hard/large", [90.0, 90.0, 90.0])
    lab.fill(grid, "ls/large", [90.8, 91.0, 91.6])  # t = 4.70 on 2 degrees of freedom: p = 0.042
    finding = lab.findings(grid)["C"]
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


def test_slopes_are_over_the_settings_values(lab: Any) -> None:
    rising = {"test": "rising", "of": "small/*", "through": [0, 0.2]}
    grid = lab.figure(claims=[claim(rising, id="up"), claim({"test": "falling", "of": "large/*"}, id="down")])
    lab.fill(grid, "small/0", [90.0, 91.0, 92.0])
    lab.fill(grid, "small/0.2", [92.0, 93.2, 94.0])  # slopes 10, 11, 10; 0.4 is not needed
    finding = lab.findings(grid)["up"]
    assert finding.verdict == "reproduced"
    assert finding.parts[0].text.startswith("slope 10.3 [8.9, 11.8] per unit of alpha over 3 seeds, p = 0.001")
    assert finding.parts[0].statement == "small/* rising through 0.2"
    assert lab.findings(grid)["down"].missing == ("large/0", "large/0.2", "large/0.4")


def test_a_slope_takes_only_seeds_that_have_all_points(lab: Any) -> None:
    grid = lab.figure(claims=[claim({"test": "rising", "of": "small/*"})])
    lab.fill(grid, "small/0", {0: 90.0, 1: 91.0})
    lab.fill(grid, "small/0.2", {0: 92.0, 1: 93.0, 2: 0.0})
    lab.fill(grid, "small/0.4", {0: 94.0, 2: 95.0})
    assert "one seed decides nothing" in lab.findings(grid)["C"].parts[0].text
    apart = lab.figure(seeds=[20, 21], claims=[claim({"test": "rising", "of": "small/*"})])
    lab.fill(apart, "small/0", {20: 90.0})
    lab.fill(apart, "small/0.2", {21: 90.0})
    lab.fill(apart, "small/0.4", {21: 90.0})
    part = lab.findings(apart)["C"].parts[0]
    assert (part.verdict, part.text) == ("undecided", "no seed has all the numbers that this needs")


def test_interpolation_at_the_other_cells_x(lab: Any) -> None:
    """small is 90, 92, 96 at γ = 0, 0.2, 0.4 (for seed 1: one more); at γ = 0.3 that is 94."""
    grid = lab.figure(seeds=[0, 1], claims=[claim({"test": "greater", "of": "large/0.2", "than": "small@x"})])
    for column, gamma, top1 in (("0", 0.0, 90.0), ("0.2", 0.2, 92.0), ("0.4", 0.4, 96.0)):
        lab.fill(grid, f"small/{column}", [top1, top1 + 1], gamma=gamma)
    lab.fill(grid, "large/0.2", [95.0, 96.001], gamma=0.3)
    part = lab.findings(grid)["C"].parts[0]
    assert part.effect.mean == pytest.approx(1.0005)
    assert part.verdict == "reproduced"
    assert "extrapolated" not in part.text


def test_interpolation_beyond_the_ends_takes_the_nearest_and_says_so(lab: Any) -> None:
    grid = lab.figure(seeds=[0, 1], claims=[claim({"test": "less", "of": "large/0.2", "than": "small@x"})])
    for column, gamma, top1 in (("0", 0.0, 90.0), ("0.2", 0.2, 92.0), ("0.4", 0.4, 96.0)):
        lab.fill(grid, f"small/{column}", [top1, top1 + 1], gamma=gamma)
    lab.fill(grid, "large/0.2", [95.0, 96.001], gamma=0.7)
    part = lab.findings(grid)["C"].parts[0]
    assert part.effect.mean == pytest.approx(-0.9995)
    assert part.text.endswith("; extrapolated: nearest end used")


def test_a_test_can_look_at_another_metric(lab: Any) -> None:
    below = {"test": "below", "of": "ls/small", "within": 10.0, "metric": {"name": "error", "digits": 1}}
    grid = lab.table(claims=[claim(below)])
    lab.fill(grid, "ls/small", [95.0, 95.5, 96.0])
    finding = lab.findings(grid)["C"]
    assert finding.verdict == "reproduced"
    assert finding.parts[0].text == "4.5 [3.3, 5.7] over 3 seeds, p = 0.003"


@pytest.mark.parametrize(
    "test, message",
    [
        ({"test": "less", "of": "ls/smal", "than": "hard/small"}, "did you mean 'ls/small'"),
        ({"test": "less", "of": "soft/*", "than": "hard/*"}, "soft/\\*"),
        ({"test": "less", "of": "ls/small", "than": "hard@x"}, "only figures have an x"),
        ({"test": "rising", "of": "ls/*"}, "a whole series of a figure"),
        ({"test": "below", "of": "ls/small", "within": 1.0, "through": [1]}, "rising and falling only"),
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
        ({"test": "rising", "of": "small/0"}, "a whole series"),
        ({"test": "rising", "of": "small/*", "through": [0, 0.3]}, "at least two of"),
        ({"test": "less", "of": "small@x", "than": "large@x"}, "at which x"),
    ):
        with pytest.raises(InputError, match=message):
            lab.figure(claims=[claim(test)])
