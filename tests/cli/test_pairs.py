"""WSL's experiment on sentence pairs, as it ships, on a small generated MultiNLI and a tiny random BERT."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from lskd.data import DATASETS

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

WORDS = ["yes", "no", "maybe", "it", "rains", "in", "spain", "today", "."]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
LABELS = ("entailment", "neutral", "contradiction")
SIZES = {"train": 48, "dev_matched": 15, "dev_mismatched": 9}
SMALL = {"width": 16, "heads": 2, "feed_forward": 32, "vocabulary": len(TOKENS), "positions": 20}
TRAINING = {"recipe.epochs": 3, "recipe.batch_size": 8, "recipe.lr": 0.004, "recipe.precision": "fp32"}
TEACHER = {"arch.layers": 5, "recipe.epochs": 15, "recipe.evaluate_every": 15, "recipe.lr": 0.008}
SETTINGS = {**{f"arch.{knob}": value for knob, value in SMALL.items()}, **TRAINING}
WORDS_OF_IT = (
    "experiment=wsl_mnli", "seeds=[0]", "runtime.progress=false", "runtime.threads=1", "runtime.device=cpu",
    *(f"experiment.settings.{key}={value}" for key, value in SETTINGS.items()),
    *(f"experiment.settings.teacher.{key}={value}" for key, value in {**SETTINGS, **TEACHER}.items()),
    "experiment.settings.dataset.text.longest=16",
)  # fmt: skip


def sentences(name: str) -> list[tuple[str, str, str]]:
    """Pairs of many lengths, whose second sentence says the label in one of its words."""
    said = dict(zip(LABELS, ("yes", "maybe", "no"), strict=True))
    generator = torch.Generator().manual_seed(len(name))

    def drawn(count: int) -> list[str]:
        return [WORDS[3 + n] for n in torch.randint(len(WORDS) - 3, (count,), generator=generator).tolist()]

    pairs = []
    for number in range(SIZES[name]):
        label = LABELS[number % 3]
        second = [*drawn(number % 4), said[label], *drawn(number % 3)]
        pairs.append((" ".join(drawn(1 + number % 14)), " ".join(second), label))
    return pairs


@pytest.fixture
def here(lskd_run, monkeypatch, tmp_path) -> Path:
    """MultiNLI, and a BERT with five layers as the hub has it; the data, and a cache of its own."""
    known = DATASETS["mnli"]
    spec = replace(known.spec, train=SIZES["train"], test=SIZES["dev_matched"], validation=SIZES["dev_mismatched"])
    monkeypatch.setitem(DATASETS.entries, "mnli", replace(known, spec=spec))
    data = tmp_path / "data"
    monkeypatch.setenv("LSKD_DATA", str(data))
    monkeypatch.setenv("LSKD_CACHE", str(tmp_path / "cache"))
    (data / "mnli").mkdir(parents=True)
    for name in SIZES:
        rows = [{"gold_label": label, "sentence1": a, "sentence2": b} for a, b, label in sentences(name)]
        lines = "".join(f"{json.dumps(row)}\n" for row in [*rows, {**rows[0], "gold_label": "-"}])
        (data / "mnli" / f"multinli_1.0_{name}.jsonl").write_text(lines, encoding="utf-8")
    config = transformers.BertConfig(
        hidden_size=16, num_attention_heads=2, intermediate_size=32, vocab_size=len(TOKENS), num_hidden_layers=5,
        max_position_embeddings=20,
    )  # fmt: skip
    torch.manual_seed(0)
    body = transformers.BertModel(config)
    for name, parameter in body.named_parameters():
        if name.endswith(".weight") and "LayerNorm" not in name:
            torch.nn.init.normal_(parameter, std=0.25)
    body.save_pretrained(data / "bert-base-cased")
    (data / "bert-base-cased" / "vocab.txt").write_text("".join(f"{token}\n" for token in TOKENS), encoding="utf-8")
    return data


def records(results: Path) -> dict[str, tuple[dict, dict, Path]]:
    """Identity, result and weights, by the method, or (without a teacher) the network."""
    found = {}
    for path in results.glob("runs/*/result.json"):
        config = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
        name = config["method"]["name"] if "teacher" in config else config["arch"]["name"]
        found[name] = config, json.loads(path.read_text(encoding="utf-8")), path.parent / "model.safetensors"
    return found


@torch.no_grad()
def test_teacher_and_students_are_trained_and_evaluated_as_the_library_does(lskd_run, here, tmp_path):
    done = lskd_run(*WORDS_OF_IT)
    assert done.code == 0, done.err
    found = records(tmp_path / "results")
    assert set(found) == {"bert_base", "bert_t3", "kd", "wsl"}
    config, teacher, _ = found["bert_base"]
    assert config["start"] == {"digest": "hub:bert-base-cased", "head": "new"}
    assert teacher["start"]["source"] == "hub:bert-base-cased" and len(teacher["start"]["digest"]) == 64
    vocabulary = hashlib.sha256((here / "bert-base-cased" / "vocab.txt").read_bytes()).hexdigest()
    assert teacher["vocabulary"] == {"tokens": len(TOKENS), "sha256": vocabulary}
    assert teacher["last"]["test"]["top1"] > 80  # of 33 by chance
    for method in ("kd", "wsl"):
        config, student, _ = found[method]
        assert config["start"] == {"digest": "hub:bert-base-cased", "head": "new", "layers": "first"}
        assert student["teacher"]["id"] == teacher["id"]
    assert 0 < found["wsl"][1]["train"]["weight"] < 1 and found["wsl"][1]["last"] != found["kd"][1]["last"]

    # What is recorded is what the library's own network and tokenizer say of the same weights and files.
    tokenizer = transformers.BertTokenizerFast(str(here / "bert-base-cased" / "vocab.txt"))
    for config, result, weights in found.values():
        layers = config["arch"].get("layers", 3)
        of = transformers.BertConfig.from_pretrained(here / "bert-base-cased", num_labels=3, num_hidden_layers=layers)
        theirs = transformers.BertForSequenceClassification(of).eval()
        state = safetensors.torch.load_file(weights)
        theirs.load_state_dict({name.replace("head.", "classifier."): value for name, value in state.items()})
        for part, name in (("test", "dev_matched"), ("validation", "dev_mismatched")):
            first, second, labels = zip(*sentences(name), strict=True)
            batch = tokenizer(
                list(first), list(second), truncation="longest_first", max_length=16, padding=True, return_tensors="pt"
            )
            logits = theirs(**batch).logits
            target = torch.tensor([LABELS.index(label) for label in labels])
            nll = F.cross_entropy(logits, target).item()
            assert result["last"][part]["nll"] == pytest.approx(nll, rel=1e-5)
            top1 = 100 * (logits.argmax(1) == target).double().mean().item()
            assert result["last"][part]["top1"] == pytest.approx(top1)
    assert lskd_run(*WORDS_OF_IT, "plan=true").out.count("1/1 done") == 4


def test_a_student_starts_from_the_first_layers(lskd_run, here, tmp_path):
    student = ("dataset=mnli", "dataset.text.tokenizer=hub:bert-base-cased", "dataset.text.longest=16", "arch=bert_t3",
               "recipe=wsl_mnli", "start=hub:bert-base-cased", "start.head=new", "runtime.progress=false",
               *(f"{key}={value}" for key, value in SETTINGS.items()))  # fmt: skip
    deeper = lskd_run(*student)
    assert (deeper.code, deeper.err.count("\n")) == (2, 1)
    assert "has 5 layers, not 3: start.layers=first takes the first of them" in deeper.err
    done = lskd_run(*student, "start.layers=first", "recipe.epochs=1", "recipe.lr=1e-12")  # it stays as it began
    assert done.code == 0, done.err
    [(_, _, weights)] = records(tmp_path / "results").values()
    ours = safetensors.torch.load_file(weights)
    given = safetensors.torch.load_file(here / "bert-base-cased" / "model.safetensors")
    kept = {name for name in given if not name.startswith(("encoder.layer.3.", "encoder.layer.4."))}
    assert {f"bert.{name}" for name in kept} | {"head.weight", "head.bias"} == ours.keys()
    for name in kept:
        torch.testing.assert_close(ours[f"bert.{name}"], given[name], rtol=0, atol=1e-8)


def test_it_is_planned_without_data_and_without_a_network(lskd_run):
    planned = lskd_run("experiment=wsl_mnli", "plan=true")
    assert planned.code == 0, planned.err
    assert (
        "bert_t3 on mnli, started from weights bert-base-cased, wsl T=4 from bert_base (bert-base-cased)" in planned.out
    )
    assert "[49,088 steps, seeds 0-4]" in planned.out and "20 runs: 0 done, 20 to train" in planned.out
    assert "image" not in planned.out
    refused = lskd_run("experiment=wsl_mnli")
    assert (refused.code, refused.err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "settings, message",
    [
        (["arch.width=32"], "its config.json says hidden_size = 16: must be that of the network, arch.width = 32"),
        (["arch.heads=4"], "its config.json says num_attention_heads = 2: must be that of the network, arch.heads = 4"),
        (["start=hub:bert-large"], "start = 'hub:bert-large': is not here: put this folder of the hub"),
        (["dataset.text.tokenizer=hub:other"], "text.tokenizer = 'hub:other': is not here: put this folder of the hub"),
        (["arch=resnet20"], "is for images, and mnli has sentences to classify; allowed: bert_t3, bert_base"),
        (["dataset.text.longest=0"], "arch.positions = 20: must be >= 2"),
        (["more tokens"], "has 15 tokens, more than arch.vocabulary = 14"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(lskd_run, here, settings, message):
    words = {"dataset": "mnli", "dataset.text.tokenizer": "hub:bert-base-cased", "dataset.text.longest": 16,
             "arch": "bert_t3", "recipe": "wsl_mnli", "start": "hub:bert-base-cased", "start.head": "new",
             "start.layers": "first", "runtime.progress": "false", **SETTINGS}  # fmt: skip
    if settings == ["more tokens"]:
        with open(here / "bert-base-cased" / "vocab.txt", "a", encoding="utf-8") as file:
            file.write("more\n")
    else:
        words.update(word.split("=", 1) for word in settings)
    if words["arch"] == "resnet20":
        words = {key: value for key, value in words.items() if not key.startswith("arch.")}
    done = lskd_run(*(f"{key}={value}" for key, value in words.items()))
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert message in done.err
