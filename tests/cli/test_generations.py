"""A chain of generations on the command line: trained, shown in a line, and refused where it is none."""

from __future__ import annotations

import json
import shlex

import pytest

CHAIN = ("dataset=digits", "arch=mlp", "arch.hidden=[8]", "method=kd", "teacher={arch: mlp, arch.hidden: [8]}")
SMALL = (*CHAIN, "recipe.epochs=1", "recipe.evaluate_every=1", "runtime.threads=1", "runtime.fleet=1")


def test_a_chain_is_trained_each_network_by_the_one_before(lskd_run, tmp_path):
    done = lskd_run(*SMALL, "generations=2")
    assert done.code == 0, done.err
    assert "mlp(hidden=8) on digits, kd T=4 from mlp(hidden=8), generation 2, seed 0" in done.out
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "runs").glob("*/result.json")]
    assert len({record["weights_sha256"] for record in records}) == 3
    taught_by = {record["id"]: record["teacher"]["weights_sha256"] for record in records if record.get("teacher")}
    weights = {record["id"]: record["weights_sha256"] for record in records}
    assert len(taught_by) == 2 and set(taught_by.values()) < set(weights.values())
    plan = lskd_run(*SMALL, "generations=2", "plan=true").out
    assert (
        "2/2 done  mlp(hidden=8) on digits, kd T=4 from mlp(hidden=8), generations 1-2  [23 steps each, seeds 0]"
        in plan
    )
    commands = lskd_run(*SMALL, "generations=2", "plan=commands").out
    last = next(line for line in commands.splitlines() if "generations=2" in line)
    again = lskd_run(*shlex.split(last)[2:], "runtime.threads=1", "plan=true")
    assert "3 runs: 3 done, 0 to train" in again.out, "the printed command is the same run"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((*CHAIN, "generations=0"), "lskd-run: generations = 0: must be from 1 to 100\n"),
        ((*CHAIN, "generations=two"), 'lskd-run: generations = "two": must be a whole number\n'),
        (("arch=mlp", "generations=2"), "lskd-run: generations = 2: method=ce uses no teacher; methods that do: "),
        (("arch=mlp", "method=kd", "generations=2"), "lskd-run: method = kd: needs a teacher; give teacher=ARCH"),
        (("experiment=quickstart", "generations=2"), "lskd-run: generations=2: has no effect on an experiment"),
    ],
)
def test_what_is_no_chain_is_one_line(lskd_run, tmp_path, words, error):
    done = lskd_run(*words)
    assert done.code == 2 and done.err.startswith(error) and done.err.count("\n") == 1
    assert not (tmp_path / "results").exists()
