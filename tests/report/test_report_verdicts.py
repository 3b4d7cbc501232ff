"""When a verdict is final, whose protocol it is of, what it cannot rest on, and how often it errs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lskd.errors import InputError
from lskd.plan import Cell, TablePlan
from lskd.report import frames, latex, markdown, render, statistics, text, write_index
from lskd.report.claims import evaluate
from lskd.report.power import lines
from lskd.report.values import Values
from lskd.tables.metric import Metric

LESS = {"test": "less", "of": "ls/small", "than": "hard/small"}
HARD, LS = [91.0, 92.0, 93.0, 92.5, 91.5], [90.0, 90.9, 91.9, 91.6, 90.4]  # lower by 1.0, 1.1, 1.1, 0.9, 1.1


def claim(*tests: dict[str, Any], id: str = "C") -> dict[str, Any]:
    return {"id": id, "text": "Something holds", "tests": list(tests)}


def test_a_verdict_on_fewer_seeds_than_declared_is_interim(lab: Any) -> None:
    """In any of the claim's cells: the two tests have all seeds of their own cells but for one."""
    planned = lab.table(seeds=range(5), claims=[claim(LESS, {**LESS, "of": "ls/large", "than": "hard/large"})])
    for cell, numbers in {"hard/small": HARD, "ls/small": LS, "hard/large": HARD, "ls/large": LS[:4]}.items():
        lab.fill(planned, cell, numbers)
    finding = lab.findings(planned)["C"]
    assert (finding.verdict, finding.final, finding.n) == ("reproduced so far", False, 4)
    filled = render(lab.plan(planned), lab.store).tables[0]
    assert filled.verdicts() == "1 reproduced so far"
    lab.fill(planned, "ls/large", LS)
    assert lab.findings(planned)["C"].verdict == "reproduced"


def test_seeds_that_were_asked_for_are_not_those_declared(lab: Any) -> None:
    planned = lab.table(claims=[claim(LESS)])
    lab.fill(planned, "hard/small", HARD[:3])
    lab.fill(planned, "ls/small", LS[:3])
    assert lab.findings(planned)["C"].verdict == "reproduced"
    assert lab.findings(replace(planned, declared=tuple(range(5))))["C"].verdict == "reproduced so far"
    assert lab.findings(replace(planned, declared=(0, 1)))["C"].verdict == "reproduced so far"


@pytest.mark.parametrize("experiment", [{"protocol": "own"}, {"shortened": "three steps"}])
def test_a_protocol_of_our_own_agrees_or_disagrees(lab: Any, experiment: dict[str, str]) -> None:
    more = {"test": "greater", "of": "ls/small", "than": "hard/small"}
    planned = lab.table(
        seeds=range(5), claims=[claim(LESS, id="yes"), claim(more, id="no")], paper={"ls": {"small": 77}}
    )
    lab.fill(planned, "hard/small", HARD)
    lab.fill(planned, "ls/small", LS[:4])
    assert (
        render(lab.plan(planned, **experiment), lab.store).tables[0].verdicts() == "1 agrees so far, 1 disagrees so far"
    )
    lab.fill(planned, "ls/small", LS)
    plan = lab.plan(planned, **experiment)
    assert render(plan, lab.store).tables[0].verdicts() == "1 agrees, 1 disagrees"
    printed = text(render(plan, lab.store))
    where = "at this shortened recipe" if "shortened" in experiment else "at this protocol"
    assert f"- yes: {where}: **agrees**." in printed
    assert "| 77" not in printed and "reproduced" not in printed  # the paper prints 77


def test_two_seeds_decide_nothing(lab: Any) -> None:
    planned = lab.table(seeds=[0, 1], claims=[claim(LESS)])
    lab.fill(planned, "hard/small", [91.0, 92.0])
    lab.fill(planned, "ls/small", [81.0, 82.0001])
    finding = lab.findings(planned)["C"]
    assert (finding.verdict, finding.final) == ("undecided", True)
    assert "fewer than 3 seeds decide nothing" in finding.parts[0].text


def test_the_survivors_of_divergence_decide_nothing(lab: Any) -> None:
    """Neither for a claim nor against it."""
    more = {"test": "greater", "of": "ls/small", "than": "hard/small"}
    planned = lab.table(seeds=range(5), claims=[claim(LESS), claim(more, id="D")])
    lab.fill(planned, "hard/small", HARD)
    lab.fill(planned, "ls/small", LS[:4])
    assert lab.findings(planned)["C"].verdict == "reproduced so far"
    run = planned.cell("ls", "small").runs[4]
    lab.store.directory(run).mkdir(parents=True)
    lab.store.fail(run, {"reason": "diverged"})
    findings = lab.findings(planned)
    assert [finding.verdict for finding in findings.values()] == ["undecided", "undecided"]
    assert "survivors: 1 of 5 runs of `ls/small` diverged" in findings["C"].parts[0].text


def test_runs_without_the_number_are_named(lab: Any) -> None:
    error = {"name": "nll", "digits": 2}
    planned = lab.table(claims=[claim({**LESS, "metric": error})], seeds=range(4))
    lab.fill(planned, "hard/small", HARD[:4])
    lab.fill(planned, "ls/small", LS[:3])
    run = planned.cell("ls", "small").runs[3]
    lab.store.directory(run).mkdir(parents=True)
    lab.store.begin(run, {})
    measured = {"top1": 90.0, "error": 10.0}
    record = {"last": {"test": measured}, "best": {"test": {"epoch": 3, "test": measured}}, "train": {"top1": 100.0}}
    lab.store.finish(run, {**record, "gamma": 0.0})
    finding = lab.findings(planned)["C"]
    assert "1 of 4 finished runs of `ls/small` have no such number" in finding.parts[0].text
    assert not finding.final


def test_a_conjunction_that_need_not_hold_throughout_is_counted(lab: Any) -> None:
    """One clear win, one clear loss: of both, one must hold."""
    either = {"test": "less", "of": "ls/*", "than": "hard/*", "at_least": 1}
    both = {"test": "less", "of": "ls/*", "than": "hard/*", "at_least": 2}
    planned = lab.table(seeds=range(5), claims=[claim(either), claim(both, id="D")])
    for cell, numbers in {"hard/small": HARD, "ls/small": LS, "hard/large": LS, "ls/large": HARD}.items():
        lab.fill(planned, cell, numbers)
    findings = lab.findings(planned)
    assert (findings["C"].verdict, findings["D"].verdict) == ("reproduced", "contradicted")
    one, other = (part.p for part in findings["C"].parts)
    assert findings["C"].p == pytest.approx(2 * min(one, other))
    [count] = findings["C"].counts
    # 4, 17 and 4 of 25 pairs: in 21 a run of hard is above one of ls.
    chance = sum(a > b for a in HARD for b in LS) / 25
    assert str(count) == (
        "1 of 2 hold, 0 undecided, 1 fail; at least 1 must hold; mean probability of improvement "
        f"{(chance + 1 - chance) / 2:.2f}"
    )
    assert f"    - {count}\n" in text(render(lab.plan(planned), lab.store))


def test_an_association_is_taken_within_seeds(lab: Any) -> None:
    rows = {f"r{i}": {"label": f"row {i}", "run": {"alpha": i / 10}} for i in range(5)}
    columns = {"top1": {"label": "accuracy"}, "nll": {"label": "loss", "metric": {"name": "nll"}}}
    tests = {kind: {"test": kind, "of": "*/top1", "than": "*/nll"} for kind in ("correlated", "anticorrelated")}
    planned = lab.table(rows=rows, columns=columns, claims=[claim(test, id=kind) for kind, test in tests.items()])
    losses = [[0.5, 0.5, 0.5], [0.4, 0.4, 0.3], [0.3, 0.3, 0.4], [0.2, 0.1, 0.2], [0.1, 0.2, 0.1]]  # ρ = −1, −0.9, −0.9
    for i, by_seed in enumerate(losses):
        for run, loss in zip(planned.cell(f"r{i}", "top1").runs, by_seed, strict=True):
            lab.fill(planned, f"r{i}/top1", {run.seed: 90.0 + i}, nll=loss)
    findings = lab.findings(planned)
    assert {id: finding.verdict for id, finding in findings.items()} == {
        "correlated": "contradicted",
        "anticorrelated": "reproduced",
    }
    part = findings["correlated"].parts[0]
    assert part.effect.mean == pytest.approx(-2.8 / 3)
    assert part.statement == "*/top1 correlated with */nll"


def test_a_peak_is_each_runs_own(lab: Any) -> None:
    """The largest of a series, wherever it is, above its end by more than a bound."""
    falls = {"test": "above", "of": "max(small) - small/0.4", "than": 1.0, "margin": "ours"}
    planned = lab.figure(claims=[claim(falls)])
    for column, numbers in (("0", [95.0, 90.0, 94.1]), ("0.2", [94.0, 95.0, 90.0]), ("0.4", [92.0, 92.1, 91.0])):
        lab.fill(planned, f"small/{column}", numbers)
    part = lab.findings(planned)["C"].parts[0]
    assert part.effect.mean == pytest.approx((3.0 + 2.9 + 3.1) / 3)
    assert (part.verdict, part.statement) == ("reproduced", "max(small) - small/0.4 > 1 (ours)")


@pytest.mark.parametrize("spread", ["paired", "independent", "pooled"])
def test_the_spread_is_the_declared_one(lab: Any, spread: str) -> None:
    rng = np.random.default_rng(1)
    planned = lab.table(seeds=range(4), spread=spread, claims=[claim(LESS)])
    numbers = {f"{cell.row}/{cell.column}": 50 + rng.normal(size=4) for cell in planned.cells}
    for cell, values in numbers.items():
        lab.fill(planned, cell, list(map(float, values)))
    part = lab.findings(planned)["C"].parts[0]
    samples = [(sign, dict(enumerate(numbers[cell]))) for sign, cell in ((1.0, "ls/small"), (-1.0, "hard/small"))]
    if spread == "pooled":
        pool = statistics.pool([dict(enumerate(values)) for values in numbers.values()])
        assert pool is not None
        expected = pool.estimate(samples)
        assert "(spread pooled over 4 cells, df 9)" in part.text
    else:
        expected = getattr(statistics, spread)(samples)
    assert part.effect.error == pytest.approx(expected.error)
    assert part.effect.df == pytest.approx(expected.df)


def test_a_spread_is_not_pooled_where_it_differs(lab: Any) -> None:
    planned = lab.table(seeds=range(5), spread="pooled", claims=[claim(LESS)])
    lab.fill(planned, "hard/small", [80.0, 85.0, 90.0, 95.0, 99.0])
    lab.fill(planned, "ls/small", [98.0, 84.0, 91.0, 79.0, 90.0])
    lab.fill(planned, "hard/large", [90.0, 90.1, 90.2, 90.1, 90.0])
    lab.fill(planned, "ls/large", [91.0, 91.1, 91.2, 91.1, 91.1])
    part = lab.findings(planned)["C"].parts[0]
    assert part.effect.df == 4
    assert "(paired, not pooled: " in part.text


# ---- what the design can decide, and the index ---------------------------------------------------------------------


def test_the_plan_says_what_can_be_seen(lab: Any) -> None:
    same = {"test": "equal", "of": "ls/small", "than": "hard/small", "within": 0.5, "margin": "ours"}
    loss = {**LESS, "metric": {"name": "nll", "digits": 2}}
    claims = [claim(LESS), claim(same, id="E"), claim(loss, id="L")]
    planned = lab.table(seeds=range(5), claims=claims)
    difference = statistics.smallest_difference(0.3 * (2 / 5) ** 0.5, 4)
    power = statistics.power_of_equality(0.5, 0.3 * (2 / 5) ** 0.5, 4)
    assert list(lines(planned, Values(lab.store))) == [
        f"claim C: n = 5, top1 {difference:.2f} is seen with 80% (sd top1 0.3 assumed)",
        f"claim E: n = 5, its margin is shown with {power:.0%} where there is no difference (sd top1 0.3 assumed)",
        "claim L: n = 5, 1 part without a known power (sd nll not known)",
    ]
    declared = lab.table(seeds=range(5), claims=claims[2:], sd={"nll": 0.01}, spread="independent")
    difference = statistics.smallest_difference(0.01 * (2 / 5) ** 0.5, 8)
    assert list(lines(declared, Values(lab.store))) == [
        f"claim L: n = 5, nll {difference:.2f} is seen with 80% (sd nll 0.01 declared)"
    ]
    lab.fill(planned, "hard/small", HARD[:3])  # s = 1
    assert "(sd top1 1 of 3 runs)" in next(lines(planned, Values(lab.store)))
    [line] = lines(lab.table(seeds=[0, 1], claims=claims[:1]), Values(lab.store))
    assert line == "claim C: nothing is decided on fewer than 3 seeds"


def test_the_index_of_claims_corrects_what_is_final(lab: Any, tmp_path: Any) -> None:
    more = {"test": "greater", "of": "ls/small", "than": "hard/small"}
    planned = lab.table(
        claims=[claim(LESS, id="C2"), claim(more, id="C10"), claim({**LESS, "of": "ls/large"}, id="C3")]
    )
    lab.fill(planned, "hard/small", [91.0, 92.0, 93.0])
    lab.fill(planned, "ls/small", [90.0, 91.3, 91.9])
    experiments = [{}, {"protocol": "own", "name": "ours"}]
    reports = [render(lab.plan(planned, **experiment), lab.store) for experiment in experiments]
    interim = replace(planned, declared=tuple(range(5)))
    reports.append(render(lab.plan(interim, name="early"), lab.store))
    paths = write_index(reports, tmp_path)
    assert [path.name for path in paths] == ["README.md", "claims.md"]
    filled = paths[1].read_text()
    p = lab.findings(planned)["C2"].p
    sections = {part.split("\n")[0]: part for part in filled.split("\n## ")[1:]}
    final, early, own, missing = sections.values()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in final.splitlines() if "Nobody" in line]
    assert [row[:2] + row[3:4] + row[5:8] for row in rows] == [
        ["Nobody 2020", "C2", "reproduced", "3 of 3", f"{p:.3f}", f"{2 * p:.3f}"],
        ["Nobody 2020", "C10", "contradicted", "3 of 3", f"{p:.3f}", f"{2 * p:.3f}"],
    ]
    assert rows[0][4].startswith("`ls/small < hard/small`: −0.93 [−1.45, −0.42]")
    assert "reproduced so far" in early and "3 of 5" in early and "Holm" not in early
    assert "agrees" in own and "disagrees" in own and "reproduced" not in own
    assert missing.count("C3") == 3
    assert "(own protocol)" in paths[0].read_text()


# ---- beside the paper's numbers -------------------------------------------------------------------------------------


def test_numbers_of_others_have_a_line_of_their_own(lab: Any) -> None:
    replications = {
        "hard": {
            "small": [
                {"value": 91.5, "std": 0.1, "runs": 3, "source": "Somebody 2022"},
                {"value": 92, "source": "X"},
            ]
        }
    }
    paper = {"hard": {"small": 95.0}}
    planned = lab.table(paper=paper, replications=replications, paper_runs=4)
    lab.fill(planned, "hard/small", [91.0, 92.0, 93.0])
    filled = render(lab.plan(planned), lab.store).tables[0]
    rendered = markdown.page(filled, runs="runs")
    shown = [" ".join(line.split()) for line in rendered.splitlines() if line.startswith("|")]
    assert shown[2:6] == [
        "| hard targets | ours | 92.00 ± 1.00 (3) | – (0/3 seeds) |",
        "| | paper | 95.0 | n/a |",
        "| | others | 91.5 ± 0.1 (3) [1]; 92 [2] | – |",
        "| | Δ | −3.00 inside | n/a |",
    ]
    assert "- [1] Somebody 2022\n- [2] X" in rendered
    assert "95 % prediction interval for what it reports, a mean of 4 runs." in rendered
    # m ± t(0.975, 2) · s √(1/3 + 1/4)
    [record, *_] = frames.frame(filled).to_dict("records")
    assert record["pi_high"] == pytest.approx(92 + 4.3026527 * (1 / 3 + 1 / 4) ** 0.5)
    assert (record["paper_runs"], record["others"]) == (4, "91.5 ± 0.1 (3) [1]; 92 [2]")
    assert "others" in latex.environment(filled)


def test_a_quoted_table_has_spreads_and_others_too(lab: Any) -> None:
    paper = {"hard": {"small": {"value": 1.5, "std": 0.25, "runs": 5}, "large": "7.0 / 6.7"}}
    others = {"ls": {"large": {"value": 2, "source": "Somebody 2022"}}}
    planned = lab.table(seeds=[], kind="reference", base={}, paper=paper, replications=others)
    filled = render(lab.plan(planned), lab.store).tables[0]
    shown = [" ".join(line.split()) for line in markdown.page(filled, runs="runs").splitlines() if line[:1] == "|"]
    assert shown[2:] == [
        "| hard targets | 1.5 ± 0.25 | 7.0 / 6.7 |",
        "| label smoothing (α = 0.1) | n/a | n/a |",
        "| others | – | 2 [1] |",
    ]
    record = frames.frame(filled).to_dict("records")[0]
    assert (record["paper"], record["paper_sd"], record["paper_runs"]) == (1.5, 0.25, 5)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"paper": {"hard": {"small": {"value": 1.0, "sd": 0.1}}}}, r"paper.hard.small.sd = 0.1: unknown key"),
        (
            {"paper": {"hard": {"small": [1.0]}}},
            r"paper.hard.small.value = \[1.0\]: must be a number, a string, or null",
        ),
        ({"paper_runs": 0}, r"paper_runs = 0: must be >= 1"),
        ({"replications": {"hard": {"small": 1.0}}}, r"replications.hard.small.source = '': must be given"),
        ({"replications": {"hard": {"tiny": 1.0}}}, r"replications.hard = 'tiny': allowed: large, small"),
        ({"spread": "shared"}, r"spread = \"shared\": must be one of paired, independent, pooled"),
        ({"sd": {"top1": 0.0}}, r"sd.top1 = 0.0: must be > 0"),
    ],
)
def test_what_is_quoted_is_checked(lab: Any, table: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        lab.table(**table)


def test_an_unknown_held_out_part_widens_the_interval(lab: Any) -> None:
    """The paper's 10,000 images are others: 1.2 points off is no wonder; of the test part it is."""
    base = {"dataset": "cifar100_40k", "arch": "resnet8", "recipe": "crd"}
    for name, inside in (("cifar100_40k", True), ("cifar100", False)):
        columns, rows = {"a": {"label": "a"}}, {"hard": {"label": "hard"}}
        content = {"base": {**base, "dataset": name}, "columns": columns, "rows": rows, "paper": {"hard": {"a": 73.2}}}
        planned = lab.table(seeds=range(5), **content)
        for run, top1 in zip(planned.cells[0].runs, (71.9, 72.2, 72.0, 71.8, 72.1), strict=True):
            lab.store.directory(run).mkdir(parents=True)
            lab.store.begin(run, {})
            part = {run.dataset.evaluate: {"top1": top1}}
            lab.store.finish(run, {"last": part, "best": {}, "train": {}, "gamma": 0.0})
        filled = render(lab.plan(planned), lab.store).tables[0]
        assert filled.cells[0].within is inside
        assert ("the binomial share of two random held-out parts" in markdown.page(filled, runs="runs")) is inside


# ---- how often verdicts err ------------------------------------------------------------------------------------------


class Simulated(Values):
    """Every run is done; its number is that of its cell and seed."""

    numbers: Mapping[str, Sequence[float]]

    def of(self, planned: TablePlan, cell: Cell, metric: Metric | None = None) -> dict[int, float]:
        return {run.seed: float(x) for run, x in zip(cell.runs, self.numbers[f"{cell.row}/{cell.column}"], strict=True)}

    def done(self, run: Any, probe: Any = None) -> bool:
        return True

    def diverged(self, runs: Any) -> int:
        return 0


SAME = {"test": "equal", "of": "ls/small", "than": "hard/small", "within": 2.0, "margin": "ours"}


@pytest.mark.parametrize(
    ("spread", "test", "shift", "holds", "fails"),
    [
        ("paired", LESS, 0.0, 2.5, 2.5),
        ("independent", LESS, 0.0, 2.5, 2.5),
        ("pooled", LESS, 0.0, 2.0, 2.0),  # below 2.5: the cells that spread most are paired
        ("paired", SAME, 2.0, 5.0, 2.5),  # at the margin itself
        ("paired", LESS, "seen", 80.0, 0.0),
        ("paired", SAME, 0.0, "power", 0.0),
    ],
)
def test_verdicts_err_as_often_as_they_say(
    lab: Any, spread: str, test: Any, shift: Any, holds: Any, fails: Any
) -> None:
    """1,000 replicates of 5 seeds; bounds are three standard errors. scripts/simulate_verdicts.py has more."""
    error, replicates, rng = (2 / 5) ** 0.5, 1000, np.random.default_rng(0)
    if shift == "seen":
        shift = -statistics.smallest_difference(error, 4)
    if holds == "power":
        holds = 100 * statistics.power_of_equality(2.0, error, 4)
    planned = lab.table(seeds=range(5), spread=spread, claims=[claim(test)])
    values, counts = Simulated(lab.store), Counter[str]()
    for draw in rng.standard_normal((replicates, 4, 5)):
        values.numbers = dict(zip(("hard/small", "hard/large", "ls/small", "ls/large"), draw, strict=True))
        values.numbers["ls/small"] = values.numbers["ls/small"] + shift
        [finding] = evaluate(planned, values)
        counts[finding.outcome] += 1
    for outcome, expected in (("holds", holds), ("fails", fails)):
        within = 300 * (max(expected, 0.1) / 100 * (1 - expected / 100) / replicates) ** 0.5
        assert 100 * counts[outcome] / replicates == pytest.approx(expected, abs=within), outcome


@pytest.mark.parametrize("n", [2, 5])
def test_a_perfect_reproduction_is_outside_in_one_of_twenty(n: int) -> None:
    rng, outside = np.random.default_rng(0), 0
    for *ours, theirs in rng.standard_normal((4000, n + 1)):
        low, high = statistics.prediction(ours).interval()  # type: ignore[union-attr, misc]
        outside += not low <= theirs <= high
    assert outside / 4000 == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / 4000) ** 0.5)
