"""What was declared stays the measure: seeds or settings asked for on the command line give no verdict on a paper."""

from __future__ import annotations

from typing import Any

import pytest

from lskd import cli


@pytest.fixture
def planned(lskd_run: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plan that a command line asks for."""

    def plan(*words: str) -> Any:
        seen: list[Any] = []
        monkeypatch.setattr(cli, "execute", lambda jobs: seen.append(jobs[0].plan) or 0)
        assert lskd_run(*words).code == 0
        return seen[0]

    return plan


def test_seeds_that_are_asked_for_are_not_the_declared_ones(planned: Any) -> None:
    whole, some = planned("experiment=muller_mnist"), planned("experiment=muller_mnist", "seeds=[0,1,2]")
    assert [(table.as_declared, len(table.seeds)) for table in (*whole.tables, *some.tables)] == [(True, 5), (False, 3)]
    assert len(some.tables[0].declared_seeds) == 5


def test_settings_that_are_asked_for_are_no_papers_protocol(planned: Any) -> None:
    assert not planned("experiment=muller_mnist").experiment.own
    assert planned("experiment=muller_mnist", "experiment.settings.recipe.epochs=3").experiment.own
    assert not planned("experiment=wsl_rkd_overhaul").experiment.own  # its file has settings: they are the authors'


def test_a_plan_says_what_its_claims_can_decide(lskd_run: Any) -> None:
    finished = lskd_run("experiment=muller_cifar10", "plan=true")
    assert "claim C1: n = 20" in finished.out and "(sd top1 0.3 declared)" in finished.out
    assert "with 80%" in finished.out
