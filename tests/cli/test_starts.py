"""Networks that start from given weights, from the command line: as teachers without training, and to be trained on."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

import lskd
from lskd import data
from lskd.config_groups import Conf, shipped_conf
from lskd.data import Dataset
from lskd.plan import plan_table
from lskd.report.show import show
from lskd.snapshot import Snapshot
from lskd.store import Store
from lskd.tables.table import load_table

MEAN, STD = 0.4, 0.3
SEEN = f"teacher.start.normalize={{mean: [{MEAN}], std: [{STD}]}}"
SMALL = ("dataset=digits", "dataset.limit=64", "runtime.progress=false", "runtime.threads=1", "runtime.device=cpu")
NETWORK = ("arch=resnet8", "arch.stem=4", "arch.widths=[4,4,8]")
TEACHER = "teacher={arch: resnet8, arch.stem: 4, arch.widths: [4, 4, 8]}"
STUDENT = ("arch=mlp", "arch.hidden=[8]", "method=kd", "recipe.epochs=1")


class Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.downsample = nn.Sequential()
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x):
        return (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + self.downsample(x)).relu()


class Theirs(nn.Module):
    """A small ResNet for CIFAR by the names and the forward of a user's own code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        self.layer1, self.layer2 = nn.Sequential(Block(4, 4, 1)), nn.Sequential(Block(4, 4, 2))
        self.layer3, self.fc = nn.Sequential(Block(4, 8, 2)), nn.Linear(8, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def theirs(tmp_path: Path) -> Theirs:
    """Trained a little, and saved as DataParallel's checkpoint in net.pt."""
    torch.manual_seed(0)
    network = Theirs()
    images, labels, _ = data.load(Dataset("digits"), data=tmp_path, cache=tmp_path / "cache")["train"]
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9)
    for begin in range(0, 1280, 64):
        optimizer.zero_grad()
        F.cross_entropy(network(seen(images[begin : begin + 64])), labels[begin : begin + 64]).backward()
        optimizer.step()
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "net.pt")
    return network.eval()


def seen(images):
    return (images.float() / 255 - MEAN) / STD


def results(tmp_path: Path) -> dict[str, dict]:
    """The records by network."""
    found = {}
    for path in (tmp_path / "results" / "runs").glob("*/result.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        config = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
        found[config["arch"]["name"]] = {**record, "config": config}
    return found


@torch.no_grad()
def test_a_users_own_checkpoint_teaches_without_training_in_one_command(lskd_run, theirs, tmp_path):
    words = (*SMALL, *STUDENT, TEACHER, f"teacher_start={tmp_path}/net.pt", SEEN)
    done = lskd_run(*words)
    assert done.code == 0, done.err
    images, labels, _ = data.load(Dataset("digits"), data=tmp_path, cache=tmp_path / "cache")["test"]
    top1 = 100 * (theirs(seen(images)).argmax(1) == labels).double().mean().item()
    assert top1 > 30  # it has learned something
    teacher, student = results(tmp_path)["resnet8"], results(tmp_path)["mlp"]
    assert teacher["last"]["test"]["top1"] == pytest.approx(top1) and teacher["calibration"]["test"]
    assert (teacher["steps"], teacher["epochs"], teacher["train"]) == (0, 0, {})
    assert teacher["start"]["source"] == f"{tmp_path}/net.pt"
    assert student["teacher"] == {"id": teacher["id"], "weights_sha256": teacher["weights_sha256"]}
    # It is said how good the teacher is, before what came of its student.
    assert f"weights {teacher['start']['digest'][:12]} as they are, seed 0 ({tmp_path}/net.pt)" in done.out
    assert f"test top1 {top1:.2f} %" in done.out and done.out.index("test top1") < done.out.index("γ")

    # What the student is taught: the teacher's logits of the student's views, normalised as the teacher is.
    model = lskd.load(teacher["id"], tmp_path / "results")
    torch.testing.assert_close(model.logits(images[:8]), theirs(seen(images[:8])), rtol=1e-4, atol=1e-4)

    # Done is done; and where the file is gone, its digest still names it for another seed of the student.
    assert "2 done, 0 to train" in lskd_run(*words).out
    (tmp_path / "net.pt").unlink()
    named = [word.replace(f"{tmp_path}/net.pt", f"sha256:{teacher['start']['digest']}") for word in words]
    again = lskd_run(*named, "seed=1")
    assert again.code == 0, again.err
    assert again.out.startswith("2 runs: 1 done, 1 to train") and f"test top1 {top1:.2f} %" in again.out
    gone = lskd_run(*words)
    assert (gone.code, gone.err.count("\n")) == (2, 1) and "net.pt': cannot be read: No such file" in gone.err

    store = Snapshot.of(Store(tmp_path / "results"))
    page = show(teacher["id"], store, Conf())
    assert f"start='{tmp_path}/net.pt'" in page and "2 finished students" in page and "top1 (█" not in page
    assert f"start:'{tmp_path}/net.pt'" in show(student["id"], store, Conf())


def test_commands_of_such_runs_are_these_runs(lskd_run, theirs, tmp_path):
    words = (*SMALL, *STUDENT, TEACHER, f"teacher_start={tmp_path}/net.pt", SEEN, "plan=commands")
    [*_, first, last] = [line for line in lskd_run(*words).out.splitlines() if "  lskd-run" in line]
    for line in (first, last):
        id, command = line.split("  lskd-run ")
        assert f"{id}  lskd-run" in lskd_run(*shlex.split(command), "plan=commands").out
    origins = lskd_run(*words[:-1], "plan=settings").out
    assert "teacher.recipe.lr" in origins and "nothing is trained" in origins


@torch.no_grad()
def test_a_teacher_at_another_resolution_sees_the_students_pixels_resized(lskd_run, theirs, tmp_path):
    done = lskd_run(*SMALL, *STUDENT, TEACHER, f"teacher_start={tmp_path}/net.pt", SEEN, "teacher.start.resolution=12")
    assert done.code == 0, done.err
    images, labels, _ = data.load(Dataset("digits"), data=tmp_path, cache=tmp_path / "cache")["test"]
    resized = F.interpolate(images.float(), (12, 12), mode="bilinear", align_corners=False, antialias=True)
    logits = theirs(seen(resized))
    teacher = results(tmp_path)["resnet8"]
    assert teacher["last"]["test"]["top1"] == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
    assert teacher["config"]["recipe"]["normalize"]["resize"] == 12
    model = lskd.load(teacher["id"], tmp_path / "results")
    torch.testing.assert_close(model.logits(images[:8]), logits[:8], rtol=1e-4, atol=1e-4)
    assert results(tmp_path)["mlp"]["teacher_evaluated"] == "once a view"


def test_features_of_a_teacher_at_another_resolution(lskd_run, theirs, tmp_path):
    words = (f"teacher_start={tmp_path}/net.pt", SEEN, "teacher.start.resolution=16", "recipe.epochs=1", "method=at")
    done = lskd_run(*SMALL, "arch=resnet8", "arch.stem=4", "arch.widths=[4,4,4]", TEACHER, *words)
    assert done.code == 0, done.err
    assert "at from resnet8(stem=4, widths=4-4-8)" in done.out


def test_fixres_trains_head_and_last_batch_norm_at_the_resolution_of_the_test(lskd_run, tmp_path):
    base = "started_from={recipe: quickstart, recipe.epochs: 1, recipe.augment.crop: 6}"
    sizes = ("recipe=quickstart", "recipe.epochs=1", "recipe.augment.crop=6", "recipe.augment.evaluate=8")
    done = lskd_run(*SMALL, *NETWORK, base, *sizes, "recipe.trainable=[head,stage3.0.bn2]")
    assert done.code == 0, done.err
    paths = {}
    for path in (tmp_path / "results" / "runs").glob("*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        paths["tuned" if "started_from" in config else "base"] = path.parent
    before, after = (safetensors.torch.load_file(paths[name] / "model.safetensors") for name in ("base", "tuned"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    norm = {f"stage3.0.bn2.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert changed == {"head.weight", "head.bias", *norm}
    tuned = json.loads((paths["tuned"] / "result.json").read_text(encoding="utf-8"))
    assert tuned["started_from"]["id"] == paths["base"].name
    # Its own evaluation is of whole images of 8×8: as an independent one finds.
    model = lskd.load(paths["tuned"].name, tmp_path / "results")
    images, labels, _ = data.load(Dataset("digits"), data=tmp_path, cache=tmp_path / "cache")["test"]
    assert model.pixels(images[:2]).shape[-2:] == (8, 8)
    top1 = 100 * (model.logits(images).argmax(1) == labels).double().mean().item()
    assert tuned["last"]["test"]["top1"] == pytest.approx(top1, abs=0.3)

    # The same run by the id of the one that it starts from, and a test at another size without any training.
    by_id = lskd_run(
        *SMALL, *NETWORK, *sizes, "recipe.trainable=[head,stage3.0.bn2]", f"start=run:{paths['base'].name[:6]}"
    )
    assert "2 done, 0 to train" in by_id.out, by_id.err
    as_is = lskd_run(*SMALL, *NETWORK, *sizes, "recipe.epochs=0", f"start=run:{paths['base'].name}")
    assert as_is.code == 0 and "2 runs: 1 done, 1 to train" in as_is.out, as_is.err
    page = show(paths["tuned"].name, Snapshot.of(Store(tmp_path / "results")), Conf())
    assert f"started from  {paths['base'].name}" in page and "again:\n  lskd-run" in page


PAGE = (Path(__file__).parents[2] / "docs" / "starts.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", re.findall(r"^lskd-run (.*)$", PAGE, flags=re.MULTILINE))
def test_every_command_of_the_page_is_planned(lskd_run, line):
    for name in ("net.pt", "big.pt"):
        torch.save({name: torch.ones(2)}, name)
    done = lskd_run(*shlex.split(line), "plan=true")
    assert done.code == 0, done.err
    taught = "teacher" in line or "started_from" in line
    assert f"{1 + taught} run{'s' * taught}: 0 done" in done.out


def test_the_table_of_the_page_is_planned(tmp_path):
    [content] = re.findall(r"^```yaml\n# table/tuned.yaml\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "tuned.yaml").write_text(content, encoding="utf-8")
    conf = Conf((tmp_path, shipped_conf()))
    planned = plan_table(load_table("tuned", conf), conf)
    tuned, source = planned.cell("tuned", "top1").runs, planned.cell("source", "top1").runs
    assert [run.started_from.id for run in tuned] == [run.id for run in source]


TABLE = """
title: "Starts"
seeds: [0, 1]
base:
  dataset: digits
  dataset.limit: 64
  recipe: quickstart
  recipe.epochs: 1
  arch: resnet8
  arch.stem: 4
  arch.widths: [4, 4, 8]
rows:
  base: {{label: "trained", run: {{recipe.augment.crop: 6}}}}
  tuned: {{label: "fine-tuned", started_from: base, run: {{recipe.trainable: [head]}}}}
  given: {{label: "given", run: {{recipe.epochs: 0, start: {path}}}}}
  student: {{label: "its student", taught_by: given, run: {{method: kd}}}}
columns:
  top1: {{label: "accuracy"}}
"""


def test_rows_that_start_from_others(lskd_run, theirs, tmp_path):
    for kind, name, text in [
        ("table", "starts", TABLE.format(path=tmp_path / "net.pt")),
        ("experiment", "starts", 'title: "Starts"\ntables: [starts]\nprotocol: own\n'),
    ]:
        path = tmp_path / "my" / kind / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    done = lskd_run("--config-dir", str(tmp_path / "my"), "experiment=starts", "plan=true")
    assert done.code == 0, done.err
    # The given network is one run under both seeds.
    assert "7 runs: 0 done, 7 to train" in done.out
    assert "started from resnet8(stem=4, widths=4-4-8) on digits" in done.out
    commands = lskd_run("--config-dir", str(tmp_path / "my"), "experiment=starts", "plan=commands").out
    ids = [line.split()[0] for line in commands.splitlines() if "  lskd-run" in line]
    assert len(ids) == 7
    bad = TABLE.replace("started_from: base", "started_from: tuned").format(path=tmp_path / "net.pt")
    (tmp_path / "my" / "table" / "starts.yaml").write_text(bad, encoding="utf-8")
    done = lskd_run("--config-dir", str(tmp_path / "my"), "experiment=starts", "plan=true")
    assert (
        done.code == 2 and "rows.tuned.started_from = 'tuned': must be another: it is started from itself" in done.err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("arch.widths=[4,4,6]",), "widths=4-4-6) on digits: does not fit: stage3.0.conv1.weight is 8×4×3×3 in it"),
        (("start.resolution=2",), "resnet needs (channels, height, width) with at least 1 channel and 4 x 4 pixels"),
        (("recipe.epochs=1", "recipe.trainable=[haed]"), "recipe.trainable = 'haed': matches no module; there are st"),
        (("recipe=as_is", "recipe.epochs=1"), "recipe.epochs = 1: recipe=as_is trains nothing"),
        (("recipe.epochs=1", "recipe.trainable=[stem.2]"), "these modules of resnet8 have no parameters"),
        (("recipe.augment.evaluate=6", "arch=mlp", "recipe.epochs=1", "start=seed"), "weights depend on the size"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_anything_trains(lskd_run, theirs, tmp_path, words, message):
    network = () if "arch=mlp" in words else NETWORK
    given = () if "start=seed" in words else (f"start={tmp_path}/net.pt",)
    as_is = () if "recipe.epochs=1" in words else ("recipe.epochs=0",)
    said = {word.partition("=")[0] for word in words}
    network = tuple(word for word in network if word.partition("=")[0] not in said)
    done = lskd_run(*SMALL, *network, *given, *as_is, *words)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done.err
    assert not list((tmp_path / "results").rglob("config.json"))
