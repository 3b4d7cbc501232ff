"""Weights from elsewhere: how files are read, and how their entries become a network's."""

from __future__ import annotations

import argparse
import logging

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from lskd import start
from lskd.commands import Commands
from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.errors import InputError
from lskd.models import ARCHS
from lskd.start import Start

CONF = Conf()
ARCH = ARCHS["resnet20"]


class Block(nn.Module):
    """A basic block as public codes for CIFAR write it; `shortcut` is what they call theirs."""

    def __init__(self, inner: int, outer: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        around = [nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)]
        setattr(self, shortcut, nn.Sequential(*(around if stride != 1 or inner != outer else [])))
        self.around = shortcut

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + getattr(self, self.around)(x)).relu()


class PublicResNet(nn.Module):
    """ResNet for CIFAR with the names of public codes, and a forward of its own."""

    def __init__(self, classes=10, depth=20, head="linear", shortcut="shortcut", channels=3, widths=(16, 32, 64)):
        super().__init__()
        self.head = head
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inner = widths[0]
        for number, outer in enumerate(widths, 1):
            blocks = []
            for place in range((depth - 2) // 6):
                blocks.append(Block(inner, outer, 2 if number > 1 and place == 0 else 1, shortcut))
                inner = outer
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        setattr(self, head, nn.Linear(inner, classes))

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        for number in (1, 2, 3):
            x = getattr(self, f"layer{number}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


def public(**knobs) -> PublicResNet:
    """One whose batch norms are not at their defaults."""
    torch.manual_seed(1)
    network = PublicResNet(**knobs)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


def ours(classes: int = 10) -> nn.Module:
    return ARCH.build((3, 32, 32), classes).eval()


def loaded(path, network: nn.Module, **settings) -> nn.Module:
    begins = start.of(str(path), settings.pop("prefix", ""))
    begins = Start(begins.digest, source=begins.source, prefix=begins.prefix, **settings)
    state = start.fitted(start.entries(begins), network.state_dict(), begins, f"start = {begins.source!r} for resnet20")
    network.load_state_dict({**network.state_dict(), **state})
    return network


@pytest.mark.parametrize("head", ["linear", "fc", "classifier"])
@pytest.mark.parametrize("shortcut", ["shortcut", "downsample"])
@pytest.mark.parametrize("wrapped", ["", "module.", "module._orig_mod."])
@torch.no_grad()
def test_a_public_resnet_for_cifar_gives_the_same_logits(tmp_path, head, shortcut, wrapped):
    network = public(head=head, shortcut=shortcut)
    state = {f"{wrapped}{name}": value for name, value in network.state_dict().items()}
    beside = {"epoch": 3, "best": np.float64(0.7), "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {}}}
    torch.save({**beside, "state_dict": state}, tmp_path / "net.pth")
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(loaded(tmp_path / "net.pth", ours())(images), network(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("entry", ["", *start.ENTRIES])
def test_what_counts_is_the_weights_wherever_they_lie(tmp_path, entry):
    state = public().state_dict()
    torch.save({entry: state, "step": 1} if entry else state, tmp_path / "a.pt")
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "b.pt")
    torch.save(
        {f"teacher.{name}": value for name, value in state.items()} | {"other": torch.ones(1)}, tmp_path / "c.pt"
    )
    digest = start.of(str(tmp_path / "a.pt")).digest
    assert start.of(str(tmp_path / "b.pt")).digest == digest == start.of(str(tmp_path / "c.pt"), "teacher.").digest
    torch.save({**state, "bn1.bias": state["bn1.bias"] + 1}, tmp_path / "d.pt")
    assert start.of(str(tmp_path / "d.pt")).digest != digest
    torch.save({name: value for name, value in state.items() if name != "bn1.bias"}, tmp_path / "e.pt")
    assert start.of(str(tmp_path / "e.pt")).digest != digest


@torch.no_grad()
def test_safetensors_and_half_precision(tmp_path):
    state = {
        name: value.half() if value.is_floating_point() else value for name, value in public().state_dict().items()
    }
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    network = loaded(tmp_path / "net.safetensors", ours())
    assert torch.equal(network.state_dict()["head.weight"], state["linear.weight"].float())


def test_names_that_nobody_knows_go_by_order_and_that_is_said(tmp_path, caplog):
    own = ours()
    state = {f"part{i}.value": value for i, (name, value) in enumerate(own.state_dict().items()) if "num_b" not in name}
    torch.save(state, tmp_path / "net.pt")
    with caplog.at_level(logging.WARNING):
        network = loaded(tmp_path / "net.pt", ours())
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in network.named_parameters())
    assert "taken in order, part0.value" in caplog.text
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")  # which sorts its entries
    with pytest.raises(InputError, match="does not fit"):
        loaded(tmp_path / "net.safetensors", ours())


def test_a_head_of_other_classes_is_refused_and_new_only_where_that_is_asked_for(tmp_path):
    torch.save(public(classes=10).state_dict(), tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"has a head of 10 classes, not of 100: start.head=new starts it"):
        loaded(tmp_path / "net.pt", ours(100))
    network = ours(100)
    before = network.head.weight.clone()
    loaded(tmp_path / "net.pt", network, head="new")
    assert torch.equal(network.head.weight, before)
    assert torch.equal(network.stem[0].weight, public().conv1.weight)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: public(depth=14).state_dict(), r"stage1.2.conv1.weight \(16×16×3×3\) is not in it; .*; and \d+ more$"),
        (
            lambda: public(widths=(16, 32, 128)).state_dict(),
            "stage3.0.conv1.weight is 128×32×3×3 in it, and 64×32",
        ),
        (lambda: {**public().state_dict(), "extra": torch.ones(2, 3)}, r"does not fit: extra \(2×3\) is not here$"),
        (lambda: nn.Linear(2, 2), r"holds more than tensors \(torch.nn.modules.linear.Linear\), .* torch.save"),
        (lambda: [torch.ones(2)], "is no state dict but a list: .* torch.save"),
        (lambda: {"epoch": 3}, "is no state dict but a dict"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, made, message):
    torch.save(made(), tmp_path / "net.pt")
    with pytest.raises(InputError, match=message) as error:
        loaded(tmp_path / "net.pt", ours())
    assert str(error.value).startswith(f"start = '{tmp_path}/net.pt'") and "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "said"), [("net.pt", "torch.load"), ("net.safetensors", "as safetensors")])
def test_what_is_no_file_of_weights_is_one_line(tmp_path, name, said):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        start.of(str(tmp_path / name))
    (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot be read") as error:
        start.of(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_file_that_has_changed_since_is_refused(tmp_path):
    torch.save(public().state_dict(), tmp_path / "net.pt")
    begins = start.of(str(tmp_path / "net.pt"))
    torch.save(ours().state_dict(), tmp_path / "net.pt")
    with pytest.raises(InputError, match="has other weights by now"):
        start.entries(begins)


def test_pretrained_tags_are_timms_and_torchvisions_and_never_taken_for_others(monkeypatch):
    import timm
    import torchvision

    state = {"fc.weight": torch.ones(2, 2)}

    def create(tag, pretrained):
        assert (tag, pretrained) == ("resnet18.a1_in1k", True)
        return nn.Linear(2, 2)

    monkeypatch.setattr(timm, "create_model", create)
    assert set(start.entries(start.of("timm:resnet18.a1_in1k"))) == {"weight", "bias"}
    weights = torchvision.models.get_weight("ResNet18_Weights.IMAGENET1K_V1")
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **given: state)
    assert start.of("torchvision:ResNet18_Weights.IMAGENET1K_V1").digest

    def offline(*given, **more):
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm, "create_model", offline)
    for word, said in [
        ("timm:resnet34.a1_in1k", "cannot be had: OSError: Name or service not known; is there a network?"),
        ("timm:nothing", "has no such tag"),
        ("torchvision:Nothing.AT_ALL", "such as ResNet18_Weights"),
    ]:
        with pytest.raises(InputError, match="start = ") as error:
            start.of(word)
        assert said in str(error.value) and "\n" not in str(error.value)


@torch.no_grad()
def test_a_network_of_timm_takes_timms_names():
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=10, in_chans=3).eval()
    own = ARCHS["timm"].__class__(model="test_resnet").build((3, 32, 32), 10).eval()
    own.load_state_dict(start.fitted(theirs.state_dict(), own.state_dict(), Start(), "test"))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(own(images), theirs(images))


# ---- what a run is ------------------------------------------------------------------------------------------------

HEX = f"sha256:{64 * 'a'}"
PLAIN = {"dataset": "cifar10", "arch": "resnet20", "recipe": "crd"}


def test_the_identity_has_the_digest_and_not_the_path(tmp_path):
    torch.save(public().state_dict(), tmp_path / "a.pt")
    torch.save(public().state_dict(), tmp_path / "b.pt")
    one, two = (parse_run({**PLAIN, "start": str(tmp_path / name)}, CONF) for name in ("a.pt", "b.pt"))
    assert one.id == two.id != parse_run(PLAIN, CONF).id
    assert one.identity()["start"] == {"digest": one.start.digest}
    assert parse_run({**PLAIN, "start": "seed"}, CONF).id == parse_run(PLAIN, CONF).id
    assert parse_run({**PLAIN, "start": f"sha256:{one.start.digest}"}, CONF).id == one.id


def test_of_published_weights_the_name_is_the_identity():
    run = parse_run({**PLAIN, "start": "hub:bert-base-cased", "start.layers": "first", "start.head": "new"}, CONF)
    assert run.identity()["start"] == {"digest": "hub:bert-base-cased", "head": "new", "layers": "first"}
    assert type(run).of(run.identity()).id == run.id
    assert "started from weights bert-base-cased" in str(run)
    line = Commands(CONF).line(run)
    assert all(word in line for word in ("hub:bert-base-cased", " start.head=new", " start.layers=first"))


def test_without_training_only_what_is_seen_counts():
    one = parse_run({**PLAIN, "start": HEX, "recipe.epochs": 0, "seed": 3, "recipe.lr": 9}, CONF)
    two = parse_run({**PLAIN, "recipe": "as_is", "start": HEX, "recipe.normalize": dict_of(one)}, CONF)
    assert one.id == two.id and one.seed == 0 and one.reseeded(5) is one
    assert one.recipe.as_is() == one.recipe
    other = parse_run({**PLAIN, "recipe": "as_is", "start": HEX}, CONF)
    assert other.id != one.id


def dict_of(run):
    normalize = run.recipe.normalize
    return {"kind": normalize.kind, "mean": list(normalize.mean), "std": list(normalize.std)}


def test_a_teacher_of_given_weights_alone_is_not_trained_and_sees_what_its_student_does():
    run = parse_run({**PLAIN, "arch": "resnet8", "method": "kd", "teacher": "resnet20", "teacher_start": HEX}, CONF)
    assert run.teacher is not None and not run.teacher.recipe.trains
    assert run.teacher.recipe.normalize == run.recipe.normalize and run.teacher.generation == 0
    trained = parse_run(
        {**PLAIN, "method": "kd", "teacher": "resnet20", "teacher_start": HEX, "teacher.recipe.epochs": 3}, CONF
    )
    assert trained.teacher is not None and trained.teacher.recipe.epochs == 3
    seeds = [
        parse_run({**PLAIN, "method": "kd", "teacher": "resnet20", "teacher_start": HEX, "seed": s}, CONF)
        for s in (0, 4)
    ]
    assert seeds[0].teacher.id == seeds[1].teacher.id and seeds[0].id != seeds[1].id
    assert seeds[0].reseeded(4).id == seeds[1].id


def test_a_run_that_starts_from_another_is_of_the_next_generation():
    base = {"dataset": "cifar100", "recipe": "crd"}
    run = parse_run({**PLAIN, "started_from": base, "start.head": "new", "seed": 2}, CONF)
    assert run.started_from.arch == run.arch and run.started_from.seed == 2 and run.generation == 1
    assert run.stream_seed == "2/1" and run.identity()["started_from"] == run.started_from.identity()
    assert run.reseeded(7).started_from.seed == 7
    assert type(run).of(run.identity()).id == run.id
    with pytest.raises(InputError, match=r"head of 100 classes, not of 10, as cifar10 has: start.head=new"):
        parse_run({**PLAIN, "started_from": base}, CONF)
    with pytest.raises(InputError, match="must be the network of the run, resnet20"):
        parse_run({**PLAIN, "started_from": {"arch": "resnet56", "recipe": "crd"}}, CONF)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe.epochs": 0}, "recipe.epochs = 0: without training, weights must come from elsewhere; give start"),
        ({"recipe.epochs": 0, "start": HEX, "start.head": "new"}, "the head would be random"),
        ({"recipe.epochs": 0, "start": HEX, "method": "kd", "teacher": "resnet8"}, "nothing is trained, and so noth"),
        ({"start.head": "new"}, "start.head = new: all weights come from the seed; give start or started_from"),
        ({"start": HEX, "started_from": {"recipe": "crd"}}, "start says otherwise; give one of them"),
        ({"start": "sha256:12"}, "must have 64 hexadecimal digits"),
        ({"start": "run:abc"}, r"start = 'run:abc': there are no results here"),
        ({"start": {"": HEX, "haed": "new"}}, "start.haed = 'new': unknown key; did you mean 'head'"),
        ({"start": HEX, "start.layers": "last"}, 'start.layers = "last": must be one of all, first'),
        ({"start.layers": "first"}, "start.layers = first: is for start=PATH"),
        ({"started_from": {"recipe": "crd"}, "start.layers": "first"}, "start.layers = first: is for start=PATH"),
        ({"start": "hub:a b"}, "start = 'hub:a b': must have the name of a folder after hub:"),
        ({"start": "hub:bert", "start.prefix": "x."}, r"start.prefix = 'x\.': is for start=PATH"),
        ({"start": HEX, "start.head": "old"}, 'start.head = "old": must be one of same, new'),
        ({"start.prefix": "x."}, "start.prefix = \"x.\": is for start=PATH"),
        ({"method": "kd", "teacher_start": HEX}, "teacher_start = \"sha256:a+\": the teacher has no network"),
        ({"recipe.normalize.resize": -1}, "recipe.normalize.resize = -1: must be >= 0"),
        ({"recipe.augment.evaluate": 41}, "evaluate = 41: must be at most 40"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(settings, message):
    with pytest.raises(InputError, match=message) as error:
        parse_run({**PLAIN, **settings}, CONF)
    assert "\n" not in str(error.value)
