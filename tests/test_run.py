"""A run before its training starts, and its files: what can be known ahead, cores, data, log, weights."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lskd.launch.execute
import lskd.launch.sweep
from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.data import Dataset
from lskd.environment import available_cores, check_precision
from lskd.errors import InputError, one_line
from lskd.launch.execute import load_network, load_parts, write_log
from lskd.launch.preflight import check_buildable
from lskd.launch.sweep import carry_out
from lskd.methods import METHODS
from lskd.methods.method import Batch
from lskd.models import ARCHS
from lskd.run import Named, Run
from lskd.runtime import Runtime
from lskd.store import Store

CONF = Conf()
SETTINGS = {"dataset": "digits", "dataset.limit": 17, "arch": "mlp", "arch.hidden": [4], "recipe.epochs": 1}


@dataclass(frozen=True)
class Own:
    """A network of `kind` whose last layer is called head."""

    kind: str

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        kinds: list[type[nn.Module]] = [Normalised, Alias, OneDimensional, Nothing]
        return next(kind for kind in kinds if kind.__name__ == self.kind)()


class Normalised(nn.Module):
    """Batch norm over nothing but the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x.flatten(1)))


class Alias(nn.Module):
    """The last layer has two names, and another one's weights are tied to a third's."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"first": nn.Linear(64, 64), "tied": nn.Linear(64, 64), "linear": nn.Linear(64, 10)})
        self.net["tied"].weight = self.net["first"].weight
        self.head = self.net["linear"]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net["tied"](self.net["first"](x.flatten(1)).relu()).relu())


class OneDimensional(nn.Module):
    """No tensor of two dimensions, and so nothing that `weights` decays."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(10))
        self.head = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1)[:, :10] + self.bias)


class Nothing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


@pytest.fixture
def make_run(monkeypatch):
    def make(kind: type[nn.Module] | None = None, **settings: Any) -> Run:
        run = parse_run({**SETTINGS, **settings}, CONF)
        if kind is None:
            return run
        monkeypatch.setitem(ARCHS.entries, "own", Own(kind.__name__))
        return replace(run, arch=Named("own", Own(kind.__name__)))

    return make


def carry(run: Run, root: Path) -> Store:
    store = Store(root)
    assert carry_out([run], store, Runtime(progress=False, cache=str(CONF.cache)), CONF).exit_code == 0
    return store


@pytest.mark.parametrize(
    ("settings", "instead"),
    [
        ({"recipe.batch_size": 8}, 9),
        ({"recipe.batch_size": 16}, 17),
        ({"recipe.batch_size": 4}, 5),
        ({"recipe.batch_size": 1}, 3),  # 17 is one more than a multiple of 2
        ({"recipe.batch_size": 8, "recipe.accumulate": 2}, 10),
        ({"recipe.batch_size": 3, "recipe.accumulate": 3}, 9),
        ({"recipe.batch_size": 5}, None),
        ({"recipe.batch_size": 17}, None),
        ({"recipe.batch_size": 64}, None),
        ({"recipe.batch_size": 8, "dataset.limit": 18}, None),
        ({"recipe.batch_size": 8, "recipe.epochs": None, "recipe.steps": 2}, None),  # the end is not reached
        ({"recipe.batch_size": 8, "recipe.epochs": None, "recipe.steps": 3}, 9),
    ],
)
def test_a_lone_image_and_batch_norm_are_refused_before_the_training(make_run, settings, instead):
    run = make_run(Normalised, **settings)
    if instead is None:
        check_buildable([run], CONF.cache)
        return
    with pytest.raises(InputError) as refused:
        check_buildable([run], CONF.cache)
    message = str(refused.value)
    assert message.startswith(f"recipe.batch_size = {run.recipe.batch_size}")
    assert ("recipe.accumulate = " in message) == (run.recipe.accumulate > 1)
    assert "leaves one of the 17 images alone" in message and "Expected more than 1 value per channel" in message
    assert message.endswith(f"batch_size={instead} leaves more") and "\n" not in message
    check_buildable([make_run(Normalised, **{**settings, "recipe.batch_size": instead})], CONF.cache)


def test_a_lone_image_without_batch_norm_may_be_trained_on(make_run):
    check_buildable([make_run(**{"recipe.batch_size": 8})], CONF.cache)


@pytest.mark.parametrize(("batch", "group", "alone"), [(12, 4, True), (16, 8, True), (12, 3, False), (12, 6, False)])
def test_a_lone_image_in_the_last_group_is_refused(make_run, batch, group, alone):
    """Of 17 images, the last batch has 5 or 1."""
    run = make_run(Normalised, **{"recipe.batch_size": batch, "recipe.batch_norm_group": group})
    if not alone:
        check_buildable([run], CONF.cache)
        return
    with pytest.raises(InputError, match=rf"^recipe\.batch_norm_group = {group}: leaves one of the 17 images alone"):
        check_buildable([run], CONF.cache)


def test_methods_whose_loss_is_of_the_whole_batch_are_refused_in_parts(make_run):
    whole = {name for name, method in METHODS.items() if method.whole_batch}
    assert whole == {"sp", "pkt", "rkd", "cc", "crd"}
    for name in METHODS:
        settings = {"method": name}
        settings |= {"teacher": "mlp"} if METHODS[name].needs_teacher else {}
        settings |= {"peer": "same"} if METHODS[name].needs_peers else {}
        run = make_run(**settings, **{"recipe.batch_size": 4})
        assert run.recipe.accumulate == 1
        if name in whole:
            with pytest.raises(InputError, match=rf"^recipe.accumulate = 2: must be 1 with method={name}, "):
                make_run(**settings, **{"recipe.batch_size": 4, "recipe.accumulate": 2})
        else:
            make_run(**settings, **{"recipe.batch_size": 4, "recipe.accumulate": 2})


@pytest.mark.parametrize("name", ["sp", "pkt", "rkd", "cc"])
def test_they_are_those_whose_loss_changes_with_the_batch(name):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.rand(4, 6, generator=generator), torch.rand(4, 6, generator=generator)
    method, module = METHODS[name], nn.ModuleList([nn.Identity(), nn.Identity()])

    def loss(rows: slice) -> Tensor:
        blank = torch.zeros(len(student[rows]), 3)
        features = {"features": {"pool": student[rows]}, "teacher_features": {"pool": teacher[rows]}}
        return method.feature_loss(Batch(blank, blank[:, 0].long(), blank, **features, module=module))

    assert not torch.allclose(torch.cat([loss(slice(0, 2)), loss(slice(2, 4))]).mean(), loss(slice(0, 4)).mean())


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_layer_of_two_names_is_trained_once_saved_and_loaded(make_run, tmp_path, ema):
    run = make_run(Alias, **{"recipe.batch_size": 4, "recipe.ema": ema, "recipe.lr": 0.1})
    store = carry(run, tmp_path)
    loaded = load_network(run, store, Runtime(cache=str(CONF.cache)))
    assert loaded.head.weight.data_ptr() == loaded.net["linear"].weight.data_ptr()  # type: ignore[union-attr, index]
    assert loaded.net["first"].weight is loaded.net["tied"].weight  # type: ignore[union-attr, index]
    result = store.result(run)
    assert result is not None and result["parameters"] == 64 * 64 + 64 + 64 + 64 * 10 + 10


def test_the_average_of_a_layer_of_two_names_is_that_of_one():
    from lskd.engine.average import Average

    network = Alias()
    average = Average(network, 0.9)
    before = average.network.head.weight.clone()  # type: ignore[union-attr, operator]
    with torch.no_grad():
        network.head.weight.add_(1.0)
    average.update(torch.tensor([1000]))
    torch.testing.assert_close(average.network.head.weight, before + 0.1)  # type: ignore[union-attr]


def test_a_network_without_what_weight_decay_is_for_is_trained(make_run, tmp_path):
    carry(make_run(OneDimensional, **{"recipe.weight_decay": {"rate": 0.1, "to": "weights"}}), tmp_path)


def test_a_network_without_anything_to_train_is_refused(make_run, tmp_path):
    with pytest.raises(InputError, match=r"^arch = own: has no parameter to train$"):
        carry(make_run(Nothing), tmp_path)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("\n  Some tensors share memory: {'a'}\n more"), "RuntimeError: Some tensors share memory: {'a'}"),
        (ValueError(), "ValueError"),
        (KeyError("step"), "KeyError: 'step'"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
    ],
)
def test_an_error_in_one_line(error, line):
    assert one_line(error) == line


# ---- cores --------------------------------------------------------------------------------------------------------


def quota(folder: str, quota: int, period: int) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),  # rounded up
        ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 8),
        ("0::/jobs/7\n", {"jobs/7/cpu.max": "max 100000", "jobs/cpu.max": "300000 100000"}, 3),  # of one around it
        ("0::/jobs/7\n", {"jobs/7/cpu.max": "100000 100000", "jobs/cpu.max": "300000 100000"}, 1),
        ("0::/kubepods/pod1\n", {"cpu.max": "400000 100000"}, 4),  # the name is the host's, the mount the container's
        ("0::/\n", {"cpu.max": "damaged"}, 8),
        ("0::/\n", {}, 8),
        (None, {}, 8),
        ("4:cpu,cpuacct:/\n1:name=systemd:/x\n", quota("cpu,cpuacct", 250_000, 100_000), 3),
        ("4:cpu,cpuacct:/docker/ab\n", quota("cpu", 100_000, 50_000), 2),
        ("4:cpu,cpuacct:/\n", quota("cpu", -1, 100_000), 8),
        ("4:memory:/\n0::/\n", quota("memory", 1, 1), 8),
    ],
)  # fmt: skip
def test_control_groups_limit_the_cores(monkeypatch, tmp_path, own, files, cores):
    monkeypatch.setattr("os.process_cpu_count", lambda: 8, raising=False)
    for name, content in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(content)
    if own is not None:
        (tmp_path / "own").write_text(own)
    assert available_cores(tmp_path / "fs", tmp_path / "own") == cores


# ---- data and files -----------------------------------------------------------------------------------------------


def test_lanes_that_start_together_load_their_data_once(monkeypatch):
    loaded = []

    def load(dataset: Dataset, **places: Path) -> dict[str, Any]:
        loaded.append(dataset.name)
        time.sleep(0.05)
        return {"train": dataset.name}

    monkeypatch.setattr(lskd.launch.execute.data, "load", load)
    parts: list[Any] = []
    place = Path("nowhere"), Path("here")
    names = ["one", "one", "two", "one", "two", "one"]
    lanes = [threading.Thread(target=lambda n=n: parts.append(load_parts(Dataset(n), *place))) for n in names]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    assert sorted(loaded) == ["one", "two"]
    assert sorted(part["train"] for part in parts) == sorted(names)


EPOCHS = [{"epoch": epoch, "train": {"α": 0.5}} for epoch in range(4)]


@pytest.mark.parametrize(
    "there", ["", "cut", '{"epoch": 0}\n', '{"epoch": 0}\n{"epo', '{"epoch": 0}\n{"epoch": 1}\n{"epoch": 2}', "\xff"]
)
def test_a_log_that_was_cut_is_mended(tmp_path, there):
    path = tmp_path / "log.jsonl"
    path.write_text(there, encoding="latin-1")
    for count in (3, 4):
        write_log(path, EPOCHS[:count])
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == EPOCHS


def test_a_line_is_appended_where_nothing_is_wrong(tmp_path):
    path = tmp_path / "log.jsonl"
    write_log(path, EPOCHS[:1])
    node = path.stat().st_ino
    for count in (2, 3):
        write_log(path, EPOCHS[:count])
    write_log(path, EPOCHS[:3], whole=True)
    assert (path.stat().st_ino, len(path.read_bytes().splitlines())) == (node, 3)


def test_tf32_is_for_devices_that_have_it(monkeypatch):
    """Elsewhere torch computes in fp32: those numbers would stand in the store as a run of another precision."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    for device, name in ((cpu, "a CPU"), (gpu, "Tesla V100")):
        check_precision(["fp32", "bf16"], device)
        with pytest.raises(
            InputError, match=f"recipe.precision = 'tf32': {name} has no TF32 and would compute in fp32"
        ):
            check_precision(["fp32", "tf32"], device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    check_precision(["fp32", "tf32"], gpu)
