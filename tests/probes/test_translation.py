"""BLEU of what a network translates, against sacrebleu's command line on the files that are written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lskd.data import Dataset, Part, Spec, Text
from lskd.data.text import BOS, EOS
from lskd.data.text.corpus import Corpus, Ragged
from lskd.data.text.lines import Lines
from lskd.engine import Shared, run_probes, train
from lskd.errors import InputError
from lskd.launch.execute import record_readings
from lskd.methods import METHODS
from lskd.models import ARCHS
from lskd.models.beam import search
from lskd.probes.translation import TranslationProbe
from lskd.recipe import Recipe
from lskd.run import Named, ProbeSpec, Run
from lskd.store import Store

pytest.importorskip("sacrebleu")

WORDS = ["A", "Hund,", "Mann", "läuft", "schläft", "am", "Strand.", "Frau", "rot", "und"]
FIRST = 4  # the token of the first word
CPU = torch.device("cpu")


class Words:
    """A vocabulary of whole words."""

    digest = ""

    def __len__(self) -> int:
        return FIRST + len(WORDS)

    def decode(self, ids: Any) -> str:
        return " ".join(WORDS[one - FIRST] for one in ids if one >= FIRST)


def corpus(count: int, seed: int) -> Corpus:
    """Sentences and, as their translations, their words backwards, with a white space that breaks lines elsewhere."""
    generator = np.random.default_rng(seed)
    rows = [generator.integers(FIRST, len(Words()), generator.integers(5, 8)).tolist() for _ in range(count)]
    back = [row[::-1] for row in rows]
    lines = [Lines.of(Words().decode(row) for row in of) for of in (rows, back)]
    lines[1] = Lines.of(line.replace(" ", "\r", 1).replace(" ", "\u2028", 1) for line in lines[1])
    return Corpus(Ragged.of([rows]), Ragged.of([back]), *lines, vocabulary=Words())


def sacrebleu(*arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "sacrebleu", *map(str, arguments), "-w", "10"], check=True, capture_output=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def trained() -> tuple[Run, Spec, dict[str, Part], Any]:
    """A network that knows some of its sentences."""
    test = corpus(12, 1)
    parts = {name: Part(test, torch.empty(0, dtype=torch.int64)) for name in ("train", "test")}
    text = Text("en", "de", vocab=len(Words()))
    spec = Spec("backwards", "Backwards", len(Words()), (), 12, 12, (), "", kind="translation", text=text)
    arch = replace(
        ARCHS["transformer_tiny"],
        encoder_layers=1,
        decoder_layers=1,
        width=32,
        feed_forward=32,
        positions=12,
        dropout=0.0,
    )  # type: ignore[call-arg]
    recipe = Recipe(0.01, 12, steps=20, optimizer="adam", evaluate_every=20)
    run = Run(Dataset("backwards", text=text), Named("transformer_tiny", arch), Named("ce", METHODS["ce"]), recipe)
    outcome = train(run, spec, parts, shared=Shared(CPU))
    return run, spec, parts, outcome.network


def test_bleu_is_that_of_sacrebleus_command_line(trained, tmp_path):
    run, spec, parts, network = trained
    store = Store(tmp_path)
    temperatures = (0.5, 1.0, 2.5)
    probe = ProbeSpec("translation", TranslationProbe(temperatures=temperatures, lowercase=True))
    store.begin(run, {})
    record_readings(run, store, [probe], run_probes(run, spec, parts, network, [probe], Shared(CPU)), "")
    [reading] = store.readings(run, probe)  # a record that is whole, and has no files
    assert list(reading) == ["step", "test"] and list(reading["test"]["bleu"]) == ["0.5", "1", "2.5"]
    assert 5 < reading["test"]["bleu"]["1"] < 99  # some are right
    for name in ("1", "2.5"):
        found = sacrebleu(
            store.beside(run, probe, "test.reference.txt"), "-lc", "-i", store.beside(run, probe, f"test.T{name}.txt")
        )
        assert found["score"] == pytest.approx(reading["test"]["bleu"][name], abs=1e-9)
        assert found["signature"] == reading["test"]["signature"] and "case:lc" in found["signature"]
    # "Hund," and "Strand." are two tokens each.
    texts = [store.beside(run, probe, f"test.{name}.txt").read_text(encoding="utf-8") for name in ("T1", "reference")]
    assert [len(text.split("\n")) for text in texts] == [13, 13]
    ours, theirs = (len(text.split()) + text.count(",") + text.count(".") for text in texts)
    assert reading["test"]["length_ratio"]["1"] == pytest.approx(ours / theirs)


def test_each_sentence_is_translated_as_alone(trained, tmp_path):
    """Whatever the order in which they are searched together."""
    _, _, parts, network = trained
    scene: Any = SimpleNamespace(network=network.eval(), device=CPU)
    of, probe = parts["test"].images, TranslationProbe(beam=3, longest=2, length_penalty=1.0)
    lines = probe.translate(scene, of, 12, 1.3)
    for row, line in enumerate(lines):
        source = torch.tensor([[*of.source[row].tolist(), EOS]])
        [found] = search(
            network, source, begin=BOS, end=EOS, beam=3, alpha=1.0, temperature=1.3, longest=[source.shape[1] + 2]
        )
        assert line == Words().decode(found.tokens)


def test_of_the_first_sentences_and_another_part(trained):
    _, _, parts, network = trained
    scene: Any = SimpleNamespace(
        network=network.eval(),
        device=CPU,
        evaluated="test",
        parts={"test": parts["test"].images, "validation": corpus(5, 3)},
    )
    seen = TranslationProbe(part="validation", sentences=3, beam=1).measure(scene)
    assert list(seen) == ["validation", "files"]
    assert sorted(seen["files"]) == ["validation.T1.txt", "validation.reference.txt"]
    assert [text.count("\n") for text in seen["files"].values()] == [3, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperatures": ()}, "temperatures"),
        ({"temperatures": (1.0, 0.0)}, "temperatures"),
        ({"temperatures": (1.0, 1.0000001)}, "temperatures = .*all different"),
        ({"beam": 0}, "beam = 0: must be >= 1"),
        ({"length_penalty": -0.1}, "length_penalty = -0.1: must be >= 0"),
        ({"longest": 0}, "longest = 0: must be >= 1"),
        ({"sentences": -1}, "sentences = -1: must be >= 0"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(InputError, match=message):
        TranslationProbe(**settings)


def test_a_part_that_is_not_there_is_refused(trained):
    with pytest.raises(InputError, match="part = 'validation': must be a part of backwards: train, test"):
        TranslationProbe(part="validation").check(trained[1])
