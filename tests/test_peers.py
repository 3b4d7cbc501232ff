"""Runs with peers from words to records: identity, seeds, command lines, tables, files, reports."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

import lskd
from lskd import data
from lskd.commands import Commands, override_words
from lskd.compose import build_run, normal_form, parse_run
from lskd.config_groups import Conf, labelled
from lskd.describe import by_seed, summary
from lskd.engine import Shared, train
from lskd.errors import InputError
from lskd.launch.preflight import check_buildable
from lskd.launch.sweep import carry_out
from lskd.launch.workers import is_small
from lskd.origins import origins
from lskd.plan import in_order, plan_table
from lskd.plugins import load_plugin
from lskd.report.layout import describe as described
from lskd.report.runs import Settings, column_of, frame, varying
from lskd.report.site import runs as pages
from lskd.run import Run
from lskd.runtime import Runtime
from lskd.schema import parse
from lskd.snapshot import Snapshot
from lskd.store import Store
from lskd.tables.experiment import Experiment
from lskd.tables.metric import Metric
from lskd.tables.recorded import check_recorded
from lskd.tables.table import load_table
from lskd.trackers.tracking import values
from lskd.weights import file_sha256, read_metadata

CONF = Conf()
BASE = {"dataset": "digits", "arch": "mlp", "recipe.epochs": 2}


def make(**settings: Any) -> Run:
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    return parse_run({**BASE, "method": "dml", **dotted}, CONF)


# ---- words and identity -------------------------------------------------------------------------------------------


def test_a_peer_is_a_run_with_what_it_is_not_told_of_the_runs():
    run = make(peer="mlp1200", peer__alpha=0.1, peer__recipe__lr=0.05, alpha=0.2, seed=4)
    [peer] = run.peers
    assert (peer.network, peer.target.settings.alpha, peer.recipe.lr) == ("mlp1200", 0.1, 0.05)
    assert (peer.dataset, peer.method.name, peer.recipe.epochs) == (run.dataset, "ce", 2)
    assert (peer.seed, peer.data_seed) == (4 + 1_000_003, 4) and peer.data_stream == run.data_stream
    same = make(peer="same", alpha=0.2, arch__hidden=[32])
    assert same.peers[0].arch == same.arch and same.peers[0].target == same.target
    own = make(alpha=0.2, peer={"target": "label_smoothing"})  # a choice of its own starts afresh
    assert own.peers[0].arch == own.arch and own.peers[0].taught == ""


def test_how_many_peers_there_are():
    assert [len(make(**given).peers) for given in ({"peer": "same"}, {"peer": "same", "peers": 3})] == [1, 3]
    run = make(peer="same", peer2="mlp1200", peers=3)
    assert [peer.network for peer in run.peers] == ["mlp", "mlp1200", "mlp"]
    assert len({one.stream_seed for one in (run, *run.peers)}) == 4
    assert parse_run({**BASE, "peer": None, "peers": 2}, CONF).peers == ()


def test_seeds_of_peers_follow_from_the_runs():
    """Whether it is made with a seed or given another one, and in its identity, which leaves them out."""
    first, third = make(peer="same", peers=2, seed=1), make(peer="same", peers=2, seed=3)
    assert first.reseeded(3).identity() == third.identity() and first.reseeded(3).peers == third.peers
    assert "seed" not in first.identity()["peer2"] and "data_seed" not in first.identity()["peer"]
    assert len({json.dumps(run.identity()["peer"]) for run in (first, third)}) == 1
    assert [len(group) for _, group in by_seed([first, third, make(peer="mlp1200")])] == [2, 1]


def test_a_seed_for_the_data_is_left_out_where_it_is_the_seed():
    plain, same, other = make(peer="same"), make(peer="same", data_seed=0), make(peer="same", data_seed=5)
    assert plain.id == same.id != other.id and other.identity()["data_seed"] == 5
    assert [run.peers[0].order_seed for run in (plain, same, other)] == [0, 0, 5]
    assert other.reseeded(2).data_seed == 5 and other.reseeded(2).peers[0].order_seed == 5
    assert other.reseeded(2).id == make(peer="same", data_seed=5, seed=2).id
    assert (
        parse_run({**BASE, "data_seed": 5}, CONF).reseeded(2).id
        == parse_run({**BASE, "data_seed": 5, "seed": 2}, CONF).id
    )


RUNS: list[dict[str, Any]] = [
    {"peer": "same"},
    {"peer": "same", "peers": 3, "method": "cmd", "method.chi": 0.3, "method.progressive": "rising"},
    {"peer": "mlp1200", "peer.alpha": 0.1, "peer_views": "own", "seed": 2},
    {"peer": "same", "peer2": {"arch": "mlp1200", "recipe.lr": 0.01}, "alpha": 0.1, "peer2.target": "proselflc"},
    {"peer": {"target": "label_smoothing"}, "target": "proselflc", "data_seed": 7},
    {"peer": {"seed": 17, "arch": "mlp", "arch.hidden": [8]}, "start": f"sha256:{64 * '1'}", "arch": "mlp1200"},
    {"method": "kd", "teacher": {"arch": "mlp", "method": "dml", "peer": "mlp1200"}},
]


@pytest.mark.parametrize("settings", RUNS, ids=str)
def test_a_run_is_made_again_of_its_words_and_of_its_identity(settings):
    run = parse_run({**BASE, "method": "dml", **settings}, CONF)
    assert Run.of(json.loads(json.dumps(run.identity()))).id == run.id
    form = Commands(CONF).form(run)
    assert build_run(form, CONF).id == run.id
    words = OverridesParser.create().parse_overrides(override_words(form))
    assert parse_run({word.key_or_group: word.value() for word in words}, CONF).id == run.id
    known, ours = Settings().of(run.identity())
    assert ours and known.keys() - {key for key in known if key.endswith(".id")} == run.settings.keys()
    plain = {key: value for key, value in run.settings.items() if not isinstance(value, (list, tuple, dict))}
    assert {key: known[key] for key in plain} == plain


def test_the_short_words_of_a_command():
    line = Commands(CONF).line
    assert " peer=same " in line(make(peer="same")) and " peer=mlp1200 peers=2 " in line(make(peer="mlp1200", peers=2))


def test_where_each_setting_of_a_peer_comes_from():
    given = {**BASE, "method": "dml", "peer": "mlp1200", "peer.alpha": 0.1, "recipe.lr": 0.2}
    form = normal_form(given)
    found = {key: origin for key, _, origin in origins(build_run(form, CONF), form, labelled(form, "said"), CONF)}
    assert found["peer.arch.name"] == found["peer.target.alpha"] == "said"
    assert found["peer.seed"] == found["peer.recipe.lr"] == found["peer.dataset.name"] == "the run's"
    assert found["peer.recipe.momentum"].startswith("conf/recipe/")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "method = dml: needs a peer; give peer=ARCH, or peer=same for one of its own kind"),
        ({"method": "ce", "peer": "same"}, "peer = mlp: method=ce uses no peer; methods that do: cmd, dml"),
        ({"method": "cmd", "method.chi": -1, "peer": "same"}, r"method.chi = -1.0: must be a share of log K, >= 0 .*"),
        ({"peer": "same", "peer.dataset": "mnist"}, "peer.dataset = mnist: must be that of the run, digits"),
        ({"peer": "same", "peer.recipe.batch_size": 8},
         "peer.recipe.batch_size = 8: must be that of the run, 64: all are trained in one step"),
        ({"peer": "same", "peer.method": "kd"}, "peer.method = kd: needs a teacher.*"),
        ({"peer": "same", "peer.peer": "same"}, "peer.peer = mlp: method=ce uses no peer.*"),
        ({"peer": "nonesuch"}, "peer.arch = 'nonesuch': .*allowed: .*"),
        ({"peers": 2}, "peers = 2: there is no first peer; give peer=ARCH, or peer=same for one of its own kind"),
        ({"peer2": "mlp"}, "peer2: there is no first peer; give peer=ARCH, or peer=same for one of its own kind"),
        ({"peer": "same", "peers": 0}, "peers = 0: must be at least 1 and at most 8"),
        ({"peer": "same", "peer3": "mlp", "peers": 2},
         "peers = 2: must be at least 3, of which settings are given, and at most 8"),
        ({"peer": "same", "peer_views": "other"}, 'peer_views = "other": must be one of same, own'),
        ({"peer": "same", "peer_views": "own", "recipe.augment.mix.kind": "mixup"},
         "peer_views = own: must be same .*"),
        ({"peer": "same", "teacher": "mlp"}, "teacher = mlp: must be left out with a peer, which teaches instead"),
        ({"peer": "same", "data_seed": -1}, r"data_seed = -1: must be in \[0, 2\^31\)"),
        ({"peer": 3}, "peer = 3: must be the name of a network, or a mapping of the run's settings"),
    ],
)  # fmt: skip
def test_bad_words(settings, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        parse_run({**BASE, "method": "dml", **settings}, CONF)


def test_what_a_step_costs_depends_on_the_peers():
    run = make(peer="same")
    assert run.cost_key == make(peer="same", seed=3, alpha=0.1, peer__recipe__lr=0.3).cost_key
    others = (make(peer="mlp1200"), make(peer="same", peers=2), make(peer="same", peer_views="own"),
              make(peer="same", peer__target="beta_smoothing"))  # fmt: skip
    assert len({one.cost_key for one in (run, *others)}) == 5
    assert is_small(run, CONF.spec_of(run.dataset)) and not is_small(make(peer="mlp1200"), CONF.spec_of(run.dataset))


# ---- tables -------------------------------------------------------------------------------------------------------

TABLE = {
    "title": "Peers",
    "seeds": [0, 1],
    "base": {**BASE, "peer": "same", "method": "cmd"},
    "rows": {
        "alone": {"label": "alone", "run": {"peer": None, "method": "ce"}},
        "zero": {"label": "zero knowledge", "run": {"method.chi": 0}},
        "others": {"label": "another kind", "run": {"peer": "mlp1200", "peers": 2}},
    },
    "columns": {"own": {"label": ""}},
}


def planned(table: dict[str, Any], name: str, tmp_path: Path, over: dict[str, Any] | None = None) -> Any:
    import yaml

    (tmp_path / "table").mkdir(exist_ok=True)
    (tmp_path / "table" / f"{name}.yaml").write_text(yaml.safe_dump(table))
    conf = Conf((tmp_path, *CONF.directories))
    settings = parse(Experiment, {"name": "x", "title": "x", "tables": [name], "settings": over or {}})
    return plan_table(load_table(name, conf), conf, settings)


def test_rows_say_which_peers_they_have(tmp_path):
    found = planned(TABLE, "peers", tmp_path, {"peer.recipe.lr": 0.3})
    runs = {cell.row: cell.runs for cell in found.cells}
    assert [len(runs[row][0].peers) for row in ("alone", "zero", "others")] == [0, 1, 2]
    assert runs["zero"][0].peers[0].recipe.lr == 0.3  # laid over the peers there are
    assert [run.peers[1].seed for run in runs["others"]] == [2_000_006, 2_000_007]
    assert len(in_order(run for row in runs.values() for run in row)) == 6  # a peer is no run of the plan


@pytest.mark.parametrize(
    ("metric", "row", "message"),
    [
        ({"network": "peer"}, "alone", "metric.network = peer: must be left out: the run has no peers"),
        ({"network": "peer2"}, "zero", "metric.network = peer2: must be one of own, peer, ensemble"),
        ({"network": "all"}, "zero", ".*network = 'all': must be one of own, peer, peer2, .*, ensemble"),
        ({"network": "ensemble", "name": "loss"}, "zero", ".*network = 'ensemble': must be own, or a peer, .*"),
        ({"network": "peer", "name": "penultimate"}, "zero", ".*penultimate.*"),
    ],
)  # fmt: skip
def test_networks_that_are_not_there(metric, row, message):
    run = parse_run({**BASE, **({"method": "cmd", "peer": "same"} if row == "zero" else {})}, CONF)
    with pytest.raises(InputError, match=f"^{message}$"):
        check_recorded(parse(Metric, metric, "metric"), run, CONF)


# ---- from a sweep to its reports ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Run, Run, Path]:
    """Two networks of different kinds that were trained together, and a student of the first."""
    folder, cache = tmp_path_factory.mktemp("peers"), tmp_path_factory.getbasetemp() / "cache"
    conf = Conf(cache=cache)
    small = {"dataset": "digits", "dataset.limit": 200, "dataset.holdout": 50, "arch": "mlp", "seed": 1}
    small |= {"recipe.epochs": 2, "recipe.evaluate_every": 1}
    peer = {"arch": "mlp", "arch.hidden": [32, 16]}
    taught = {"arch": "mlp", "method": "cmd", "method.chi": 0.9, "peer": peer, "target": "boot_soft"}
    student = parse_run({**small, "method": "kd", "teacher": taught}, conf)
    run = student.teacher
    assert run is not None
    runtime = Runtime(device="cpu", threads=1, cache=str(cache), progress=False)
    store = Store(folder / "results")
    assert len(carry_out([student], store, runtime, conf).trained) == 2
    return store, run, student, cache


def test_the_files_of_a_run(done):
    store, run, _, _ = done
    paths = store.all_weights(run)
    assert [path.name for path in paths] == ["model.safetensors", "peer.safetensors"]
    result, line = store.result(run), store.epochs(run)[-1]
    assert [file_sha256(path) for path in paths] == [result["weights_sha256"], result["peers"][0]["weights_sha256"]]
    assert [read_metadata(path).get("network") for path in paths] == [None, "peer"]
    assert json.loads((store.directory(run) / "config.json").read_text()) == run.identity()
    for part in ("validation", "test"):
        assert line["peers"][0][part] == result["peers"][0]["last"][part]
        assert line["ensemble"][part] == result["ensemble"]["last"][part]
    told = values(line)
    assert told["peer/test/top1"] == line["peers"][0]["test"]["top1"] and "ensemble/test/nll" in told
    assert "ensemble: test, last epoch" in summary(run, store) and "peer (mlp(hidden=32-16))" in summary(run, store)


def test_the_first_network_teaches(done):
    store, run, student, _ = done
    assert store.result(student)["teacher"] == {"id": run.id, "weights_sha256": store.result(run)["weights_sha256"]}


def test_networks_are_loaded_by_name(done, monkeypatch):
    store, run, student, cache = done
    monkeypatch.setenv("LSKD_CACHE", str(cache))
    own, peer = (lskd.load(run, store.root, network=name) for name in ("own", "peer"))
    assert [sum(p.numel() for p in model.network.parameters()) for model in (own, peer)] == [
        store.result(run)["parameters"], store.result(run)["peers"][0]["parameters"]
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"^network = 'peer2': did you mean 'peer'\? allowed: own, peer$"):
        lskd.load(run, store.root, network="peer2")
    with pytest.raises(InputError, match=r"^network = 'peer': allowed: own$"):
        lskd.load(student, store.root, network="peer")


def test_every_number_of_every_network_is_a_metric(done):
    store, run, _, _ = done
    result, log = store.result(run), store.epochs(run)
    peer, ensemble = result["peers"][0], result["ensemble"]

    def of(**metric: Any) -> float | None:
        return Metric(**metric).of(run, result)

    assert of(network="peer") == peer["last"]["test"]["top1"] != of()
    assert of(network="ensemble", name="nll", part="validation") == ensemble["last"]["validation"]["nll"]
    best = ensemble["best"]["validation"]["test"]["ece15"]
    assert of(network="ensemble", name="ece15", epoch="best_on_validation") == best
    scaled = peer["calibration"]["test"]["scaled"]["validation"]
    assert of(network="peer", name="ece15", scaled_on="validation") == scaled["ece15"]
    assert of(network="ensemble", name="gap") is not None
    trained = peer["train"]
    assert of(network="peer", name="loss") == pytest.approx(trained["own"] + trained["peers"])
    assert of(network="peer", name="taken_over", total=True) == pytest.approx(150 * trained["taken_over"])
    assert of(network="peer", name="gamma") == peer["gamma"] == trained["target_gamma"]
    assert of(network="peer", part="train") == trained["top1"]
    first = Metric(network="peer", at_epoch=1)
    assert first.logged(run, result, log) == log[0]["peers"][0]["test"]["top1"]
    assert Metric(network="ensemble", at_epoch=2).logged(run, result, log) == ensemble["last"]["test"]["top1"]
    for metric in (first, Metric(network="ensemble")):
        check_recorded(metric, run, CONF)
    assert described(Metric(network="ensemble"), run).startswith("top-1 accuracy (%) of all 2 networks together (mean")
    assert "of the run's peer (mlp(hidden=32-16))" in described(Metric(network="peer"), run)


def test_a_frame_has_a_column_for_each(done):
    store, run, student, _ = done
    found, damaged = frame(Snapshot.of(store))
    assert damaged == []
    row = found.set_index("id").loc[run.id]
    result = store.result(run)
    assert (row["peer.top1"], row["ensemble.top1"]) == (
        result["peers"][0]["last"]["test"]["top1"], result["ensemble"]["last"]["test"]["top1"]
    )  # fmt: skip
    assert row["peer.best.validation.epoch"] == result["peers"][0]["best"]["validation"]["epoch"]
    assert (row["peer.arch.hidden"], row["peer.seed"], row["peer.id"]) == ((32, 16), 1_000_004, run.peers[0].id)
    assert found.set_index("id").loc[student.id]["teacher.peer.arch.hidden"] == (32, 16)
    assert column_of("peer", found) == "peer.arch.name"
    assert column_of("teacher.peer.alpha", found.assign(**{"teacher.peer.target.alpha": 0})).endswith("target.alpha")
    assert {"method.name", "arch.hidden"} & set(varying(found)) == {"method.name"}


def test_the_page_of_a_run_shows_all_networks(done):
    store, run, _, _ = done
    lines = dict(pages.measured(store.result(run)).lines)
    assert {"test part, last epoch", "peer: test part, last epoch", "ensemble: test part, last epoch"} <= set(lines)
    assert lines["peer: test part, last epoch"] != lines["test part, last epoch"]
    drawn = dict(pages.learning(store.epochs(run)))
    assert "peer: test" in drawn["Accuracy"] and "ensemble: test" in drawn["Loss on held-out parts"]
    shown = {setting.name: setting.value for setting in pages.settings(run)["peer"]}
    assert shown["arch.hidden"] == "[32, 16]" and "recipe.lr" not in shown and "seed" in shown


def test_a_damaged_record_of_a_peer_is_named(done, tmp_path):
    store, run, _, _ = done
    here = Store(tmp_path)
    here.directory(run).mkdir(parents=True)
    for name in ("config.json", "result.json"):
        (here.directory(run) / name).write_text((store.directory(run) / name).read_text())
    assert here.damage(run) is None
    result = json.loads((here.directory(run) / "result.json").read_text())
    result["peers"][0]["last"]["test"]["top1"] = 1234
    (here.directory(run) / "result.json").write_text(json.dumps(result))
    assert "peer.last.test.top1 = 1234: must be a finite number in [0, 100]" in (here.damage(run) or "")


def test_weights_that_are_gone_are_made_again_with_the_same_bits(done):
    store, run, _, cache = done
    before = [path.read_bytes() for path in store.all_weights(run)]
    store.weights(run).unlink()
    conf = Conf(cache=cache)
    student = replace(Run.of(json.loads(json.dumps(done[2].identity()))), seed=9)
    runtime = Runtime(device="cpu", threads=1, cache=str(cache), progress=False)
    assert len(carry_out([student], store, runtime, conf).trained) == 2
    assert [path.read_bytes() for path in store.all_weights(run)] == before


# ---- the documentation --------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[1] / "docs" / "peers.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("forget")
def test_the_method_that_the_page_shows_trains(tmp_path):
    [code] = [block.partition("```")[0] for block in PAGE.split("```python\n")[1:]]
    assert code.count("\n") < 30
    (tmp_path / "consensus.py").write_text(code)
    load_plugin(str(tmp_path / "consensus.py"))
    cache = tmp_path / "cache"
    settings = {"dataset": "digits", "dataset.limit": 100, "arch": "mlp", "recipe.epochs": 1}
    run = parse_run({**settings, "method": "consensus", "peer": "same", "peers": 2}, CONF)
    check_buildable([run], cache)
    parts = data.load(run.dataset, data=tmp_path, cache=cache)
    outcome = train(run, CONF.spec_of(run.dataset), parts, shared=Shared(torch.device("cpu")))
    assert all(one["train"]["consensus"] > 0 for one in (outcome.result, *outcome.result["peers"]))


def test_the_commands_of_the_page():
    lines = [line.partition("#")[0].strip() for line in PAGE.splitlines() if line.startswith("lskd-run")]
    assert len(lines) == 5
    for line in lines:
        words = OverridesParser.create().parse_overrides(shlex.split(line)[1:])
        run = parse_run({word.key_or_group: word.value() for word in words}, CONF)
        assert run.peers
