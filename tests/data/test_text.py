"""Data sets of text: files, vocabularies, what a run sees, and bad input."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from lskd import data
from lskd.compose import check_vocabulary, parse_run
from lskd.config_groups import Conf
from lskd.data import DATASETS, Dataset, Text
from lskd.data.cli import main
from lskd.data.text.corpus import Corpus, Ragged
from lskd.data.text.lines import Lines, read_jsonl, read_lines
from lskd.data.text.settings import BOS, EOS, LEAST, PAD, SPECIAL, UNK
from lskd.data.text.vocabulary import Vocabulary
from lskd.data.text.wordpiece import WordPiece, read_folder
from lskd.describe import describe
from lskd.errors import InputError
from lskd.models import ARCHS, Arch
from lskd.schema import identity
from lskd.store import Store
from lskd.weights import metadata

WORDS = {
    "en": ["the", "dog", "runs", "over", "a", "green", "hill"],
    "de": ["der", "Hund", "läuft", "über", "grüne", "Hügel"],
}
ODD = ["  two  spaces ", "naïve — “quotes”", "日本語 🙂", "a\u2028b\x85c\rd", "<pad> </s> x", "\ttab", "é e\u0301", "x"]
SIZES = {"train": 60, "val": 6, "test_2016": 5, "test_2017": 4}


def sentences(language: str, count: int, seed: int) -> list[str]:
    rng = random.Random(f"{language} {seed}")
    return [" ".join(rng.choices(WORDS[language], k=rng.randint(1, 9))) + f" {number}." for number in range(count)]


def write(folder: Path, sizes: dict[str, int] = SIZES) -> dict[str, list[str]]:
    """A translation in the usual layout; its lines by the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for seed, (part, count) in enumerate(sizes.items()):
        for language in WORDS:
            lines = found[f"{part}.{language}"] = sentences(language, count, seed)
            (folder / f"{part}.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return found


@pytest.fixture
def talks(tmp_path: Path) -> tuple[Path, dict[str, list[str]]]:
    """The cache with an imported translation, and its lines."""
    found = write(tmp_path / "own")
    data.import_folder("talks", tmp_path / "own", cache=tmp_path, translation="en-de")
    return tmp_path, found


# ---- files --------------------------------------------------------------------------------------------------------


def test_lines_are_as_they_were_written(tmp_path):
    path = tmp_path / "x.en"
    path.write_text("".join(f"{line}\n" for line in ODD), encoding="utf-8", newline="")
    lines = read_lines(path)
    assert list(lines) == ODD and len(lines) == len(ODD), "no other character ends a line"
    assert list(lines[2:4]) == ODD[2:4] and list(lines.pick(np.array([3, 0]))) == [ODD[3], ODD[0]]
    assert list(Lines.of(["Ärger", "İ"]).in_lower_case()) == ["Ärger".lower(), "İ".lower()]
    assert lines.encoded() == path.read_bytes() and lines[1:3].encoded().decode() == f"{ODD[1]}\n{ODD[2]}\n"
    assert [len(piece) for piece in lines.pieces(3)] == [3, 3, 2]


@pytest.mark.parametrize("content", [b"a b\r\nc\r\n", b"a b\nc", b"a b\r\nc", b"\xef\xbb\xbfa b\nc\n"])
def test_windows_lines_and_a_missing_end(content, tmp_path):
    path = tmp_path / "x.en"
    path.write_bytes(content)
    assert list(read_lines(path)) == ["a b", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "x.en: not there"),
        (b"", "x.en: is empty: must have a sentence a line"),
        (b"a\n\nb\n \t\n", "x.en: line 2 is empty, and 1 more: must have a sentence; remove it from both files"),
        (b"a\nb\n\n", "x.en: line 3 is empty: must have"),
        ("a\nb grün\n".encode("latin-1"), "x.en: not UTF-8: byte 5 of line 2 is 0xfc; convert it"),
        ("a\n".encode("utf-16"), "x.en: not UTF-8: byte 1 of line 1 is 0xff"),
    ],
)
def test_files_that_are_no_text(content, message, tmp_path):
    path = tmp_path / "x.en"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_lines(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_empty_lines_where_they_may_be(tmp_path):
    (tmp_path / "x.en").write_bytes(b"a\n\nb\n")
    assert list(read_lines(tmp_path / "x.en", empty=True)) == ["a", "", "b"]


def nli(*pairs: tuple[str, str, str]) -> str:
    rows = [{"gold_label": label, "sentence1": a, "sentence2": b, "genre": "x"} for a, b, label in pairs]
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def test_multinli_leaves_out_what_has_no_label(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(nli(("A man.", "He\nis.", "neutral"), ("b", "c", "-"), ("d", "ü", "entailment")), encoding="utf-8")
    first, second, labels = read_jsonl(path, {"entailment": 0, "neutral": 1})
    assert (list(first), list(second), labels.tolist()) == (["A man.", "d"], ["He is.", "ü"], [1, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n", "line 1: must be json with the texts sentence1, sentence2 and gold_label"),
        ('{"sentence1": "a", "sentence2": 3, "gold_label": "neutral"}\n', "line 1: must be json with the texts"),
        (nli(("a", "b", "neutral")) + '{"sentence1": "a"}\n', "line 2: must be json with"),
        (nli(("a", "b", "maybe")), "line 1: gold_label = 'maybe': must be one of neutral, or - for none"),
        (nli(("a", " ", "neutral")), "line 1: an empty sentence"),
        (nli(("a", "b", "-")), "no pair has a label"),
    ],
)
def test_files_that_are_no_multinli(text, message, tmp_path):
    (tmp_path / "x.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_jsonl(tmp_path / "x.jsonl", {"neutral": 0})
    assert f"x.jsonl{': ' if message.startswith('no') else ', '}{message}" in str(caught.value)


# ---- a user's own -------------------------------------------------------------------------------------------------


def test_import_says_what_it_is(tmp_path, capsys):
    write(tmp_path / "own")
    words = [str(tmp_path / "own"), "--cache", str(tmp_path)]
    assert main(["import", "talks", *words, "--translation", "de-en"]) == 0
    summary = (
        "talks: de→en, vocabulary of 8,000, 60 train, 6 validation, 5 test sentence pairs (or as test 4 of test_2017)\n"
    )
    assert capsys.readouterr().out.startswith(f"{summary}use it: lskd-run dataset=talks\n")
    assert main(["verify", "talks", "--cache", str(tmp_path)]) == 0
    assert main(["list", "--cache", str(tmp_path)]) == 0
    assert summary in capsys.readouterr().out
    path = tmp_path / "data" / "talks" / "train.de"
    path.write_bytes(path.read_bytes()[:-3])
    assert main(["verify", "talks", "--cache", str(tmp_path)]) == 2
    assert "train.de: damaged" in capsys.readouterr().err


def test_the_digest_is_of_the_lines_alone(tmp_path):
    """Neither their ends count, nor which language is translated into which, nor how the validation part is called."""
    write(tmp_path / "one")
    write(tmp_path / "two")
    for path in (tmp_path / "two").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    for language in WORDS:
        (tmp_path / "two" / f"val.{language}").rename(tmp_path / "two" / f"dev.{language}")
    specs = [
        data.import_folder(name, tmp_path / name, cache=tmp_path, translation=way)
        for name, way in (("one", "en-de"), ("two", "de-en"))
    ]
    assert specs[0].digest == specs[1].digest
    (tmp_path / "two" / "train.en").write_bytes((tmp_path / "one" / "train.en").read_bytes().replace(b" 0.", b" 0!", 1))
    assert data.import_folder("three", tmp_path / "two", cache=tmp_path, translation="en-de").digest != specs[0].digest
    with pytest.raises(InputError, match="other data was imported under this name"):
        data.import_folder("two", tmp_path / "two", cache=tmp_path, translation="en-de")


def spoil(change: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        name, _, what = change.partition(" ")
        path = folder / name
        if what == "gone":
            path.unlink()
        elif what == "copied":
            path.with_name("dev.en").write_bytes(path.read_bytes())
        else:
            path.write_text(path.read_text(encoding="utf-8") + what.replace("\\n", "\n"), encoding="utf-8")

    return act


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("train.de more\\n", {}, "train.en has 60 lines, and train.de 61: must have as many"),
        ("val.de gone", {}, "val.de: not there"),
        ("train.en gone", {}, "train.en: not there"),
        ("val.en copied", {}, "val and dev could be one part: keep one of them"),
        ("val.en a@@ b\\n", {}, "val.en has 7 lines, and val.de 6"),
        (
            "",
            {"translation": "en"},
            "translation = 'en': must be two languages, the endings of the files, such as en-de",
        ),
        ("", {"translation": "en-en"}, "target = 'en': must be another language than source"),
        ("", {"translation": "en-fr"}, "train.fr: not there"),
        ("", {"translation": "fr-cs"}, "no train.fr: must hold train.fr and train.cs, a sentence a line"),
        ("", {"size": 8}, "size = 8: is for images: must be left out with --translation"),
        ("", {"stream": True}, "stream = True: is for images"),
    ],
)
def test_a_folder_that_is_no_translation(change, options, message, tmp_path):
    write(tmp_path / "own")
    if change:
        spoil(change)(tmp_path / "own")
    with pytest.raises(InputError) as caught:
        data.import_folder("talks", tmp_path / "own", cache=tmp_path, **{"translation": "en-de", **options})
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "data" / "talks").exists()


def test_subwords_of_other_programs_are_refused(tmp_path):
    write(tmp_path / "own")
    for language in WORDS:
        spoil(f"val.{language} a@@ b\\n")(tmp_path / "own")
    with pytest.raises(InputError, match=r"val\.en: is cut into subwords \(@@\)"):
        data.import_folder("talks", tmp_path / "own", cache=tmp_path, translation="en-de")


# ---- vocabulary ---------------------------------------------------------------------------------------------------


def merged(counts: dict[tuple[str, ...], int], merges: int) -> list[tuple[str, str]]:
    """Sennrich et al. 2016, algorithm 1: the most frequent pair of symbols becomes one, again and again."""
    found = []
    for _ in range(merges):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in counts.items():
            for pair in pairwise(word):
                pairs[pair] += count
        [(best, most), (_, second)] = pairs.most_common(2)
        assert most > second, "no tie, which could go either way"
        found.append(best)
        anew: dict[tuple[str, ...], int] = {}
        for word, count in counts.items():
            symbols, place = [], 0
            while place < len(word):
                both = word[place : place + 2] == best
                symbols.append("".join(best) if both else word[place])
                place += 2 if both else 1
            anew[tuple(symbols)] = count
        counts = anew
    return found


def test_merges_are_those_of_the_algorithm():
    pytest.importorskip("tokenizers")
    words = {"abcd": 50, "xbc": 11, "bc": 7, "abc": 5, "cd": 3, "zw": 2, "qr": 1}
    lines = [word for word, count in words.items() for _ in range(count)]
    vocabulary = Vocabulary.train([lines], LEAST + 6)
    expected = merged({tuple(word): count for word, count in words.items()}, 6)
    model = json.loads(vocabulary.content)["model"]
    assert [tuple(pair) for pair in model["merges"]] == expected
    assert [model["vocab"][token] for token in SPECIAL] == [PAD, BOS, EOS, UNK] == [0, 1, 2, 3]
    assert [vocabulary.decode([LEAST + place]) for place in range(6)] == ["".join(pair) for pair in expected]
    assert vocabulary.encode(["abcabcd"]) == [[LEAST + 1, LEAST + 2]]


@pytest.mark.parametrize("vocab", [LEAST + 1, LEAST + 60])
def test_any_text_comes_back_exactly(vocab):
    pytest.importorskip("tokenizers")
    lines = sentences("de", 50, 0)
    vocabulary = Vocabulary.train([lines[:20], lines[20:]], vocab)
    assert len(vocabulary) == vocab
    for line, ids in zip([*lines, *ODD], vocabulary.encode([*lines, *ODD]), strict=True):
        assert vocabulary.decode(ids) == line
        assert min(ids) >= len(SPECIAL) and max(ids) < vocab, "no special token stands for text"
        assert vocabulary.decode([BOS, *ids, EOS, *ids, PAD]) == line, "up to the end"
    assert Vocabulary(vocabulary.content).encode(ODD) == vocabulary.encode(ODD)


TRAIN = """
import sys
from lskd.data.text.vocabulary import Vocabulary
print(Vocabulary.train([sys.stdin.read().splitlines()], 400).digest)
"""


def test_training_is_deterministic():
    """In other processes, with other seeds of Python's hashes, and whatever the threads."""
    pytest.importorskip("tokenizers")
    lines = [*sentences("en", 300, 0), *sentences("de", 300, 0)]
    source = str(Path(data.__file__).parents[2])
    digests = {Vocabulary.train([lines[:7], lines[7:]], 400).digest}
    for threads in ("1", "4"):
        env = {**os.environ, "PYTHONPATH": source, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        text = "".join(f"{line}\n" for line in lines).encode()
        done = subprocess.run([sys.executable, "-c", TRAIN], env=env, input=text, capture_output=True)
        digests.add(done.stdout.decode().strip())
    assert len(digests) == 1


# ---- what a run sees ----------------------------------------------------------------------------------------------


def test_ragged_arrays():
    lists = [[5, 6], [], [7], [8, 9, 10]]
    ragged = Ragged.of([lists[:1], lists[1:]])
    assert (ragged.tokens.dtype, ragged.starts.dtype) == (np.int32, np.int64)
    assert (ragged.tokens.tolist(), ragged.starts.tolist()) == ([5, 6, 7, 8, 9, 10], [0, 2, 2, 3, 6])
    for rows in ([3, 0, 0], [1], []):
        picked = ragged.pick(np.array(rows, dtype=np.int64))
        assert [picked[row].tolist() for row in range(len(picked))] == [lists[row] for row in rows]
        assert picked.lengths.tolist() == [len(lists[row]) for row in rows]


def settings(**more) -> Text:
    return replace(Text("en", "de", vocab=320), **more)


def test_a_run_sees_tokens_and_lines(talks):
    pytest.importorskip("tokenizers")
    cache, lines = talks
    parts = data.load(Dataset("talks", text=settings()), data=cache, cache=cache)
    names = {"train": "train", "test": "test_2016", "validation": "val"}
    assert {name: len(part.images) for name, part in parts.items()} == {"train": 60, "test": 5, "validation": 6}
    for name, part in parts.items():
        corpus = part.images
        assert isinstance(corpus, Corpus) and corpus.kind == "translation" and part.labels.shape == (0,)
        assert list(corpus.source_lines) == lines[f"{names[name]}.en"]
        assert list(corpus.target_lines) == lines[f"{names[name]}.de"]
        for side, text in ((corpus.source, corpus.source_lines), (corpus.target, corpus.target_lines)):
            assert [corpus.vocabulary.decode(side[row]) for row in range(len(corpus))] == list(text)
        assert corpus.lengths.tolist() == [
            [len(corpus.source[row]) + 1, len(corpus.target[row]) + 1] for row in range(len(corpus))
        ]
    assert len(corpus.vocabulary) == 320 and corpus.left_out == 0
    assert data.spec_of(Dataset("talks", text=settings()), cache).num_classes == 320


def test_the_other_way_round_with_the_same_vocabulary(talks):
    pytest.importorskip("tokenizers")
    cache, _ = talks
    one, other = (
        data.load(Dataset("talks", text=text), data=cache, cache=cache)["test"].images
        for text in (settings(), settings(source="de", target="en"))
    )
    assert np.array_equal(one.source.tokens, other.target.tokens) and list(one.source_lines) == list(other.target_lines)
    assert one.vocabulary.digest == other.vocabulary.digest


def test_holdout_limit_and_another_test(talks):
    pytest.importorskip("tokenizers")
    cache, lines = talks
    (cache / "whole").mkdir()
    for language in WORDS:
        for name in ("train", "test_2016", "test_2017"):
            (cache / "whole" / f"{name}.{language}").write_bytes((cache / "own" / f"{name}.{language}").read_bytes())
    spec = data.import_folder("whole", cache / "whole", cache=cache, translation="en-de")
    assert spec.parts == ("train", "test") and spec.strata == 1
    asked = Dataset("whole", holdout=10, limit=20, holdout_seed=3, digest=spec.digest, text=settings(test="test_2017"))
    found = data.load(asked, data=cache, cache=cache)
    told = data.spec_of(asked, cache)
    assert {name: len(part.images) for name, part in found.items()} == {"train": 20, "validation": 10, "test": 4}
    assert (told.train, told.validation, told.test, told.sizes()) == (20, 10, 4, (20,))
    assert list(found["test"].images.source_lines) == lines["test_2017.en"]
    pairs = {
        name: set(zip(part.images.source_lines, part.images.target_lines, strict=True)) for name, part in found.items()
    }
    assert not pairs["train"] & pairs["validation"]
    assert pairs["train"] | pairs["validation"] <= set(zip(lines["train.en"], lines["train.de"], strict=True))
    whole = data.load(Dataset("whole", text=settings()), data=cache, cache=cache)["train"].images
    assert whole.vocabulary.digest == found["train"].images.vocabulary.digest, "whatever a run leaves out"


def test_lower_case_and_long_pairs(talks):
    pytest.importorskip("tokenizers")
    cache, lines = talks
    longest = 10
    parts = data.load(Dataset("talks", text=settings(lowercase=True, longest=longest)), data=cache, cache=cache)
    train, test = parts["train"].images, parts["test"].images
    assert list(test.target_lines) == [line.lower() for line in lines["test_2016.de"]]
    whole = data.load(Dataset("talks", text=settings(lowercase=True)), data=cache, cache=cache)["train"].images
    short = [row for row in range(60) if whole.lengths[row].max() <= longest]
    assert list(train.source_lines) == [whole.source_lines[row] for row in short]
    assert 0 < len(train) < 60 and train.left_out == 60 - len(train)
    assert test.lengths.max() > longest, "evaluation parts are whole"
    with pytest.raises(InputError, match=r"text\.longest = 2: leaves no training pair of talks"):
        data.load(Dataset("talks", text=settings(longest=2)), data=cache, cache=cache)


def test_pairs_without_a_sentence_are_not_trained_on():
    source, target = Ragged.of([[[5, 6], [], [7], [8]]]), Ragged.of([[[5], [6], [], [9, 9, 9]]])
    lines = Lines.of(["ab", "", "c", "d"])
    corpus = Corpus(source, target, lines, lines, Vocabulary(""))
    kept = corpus.to_train_on(0)
    assert (list(kept.source_lines), kept.left_out) == (["ab", "d"], 2)
    assert (len(corpus.to_train_on(4)), len(corpus.to_train_on(3)), len(corpus.to_train_on(2))) == (2, 1, 0)


def test_tokens_are_kept(talks, monkeypatch, caplog):
    pytest.importorskip("tokenizers")
    cache, _ = talks
    dataset = Dataset("talks", text=settings())
    data.tokenize(dataset, data=cache, cache=cache)
    first = data.load(dataset, data=cache, cache=cache)["train"].images

    def never(*_):
        raise AssertionError("it is in the cache")

    with monkeypatch.context() as patch:
        patch.setattr(Vocabulary, "train", never)
        patch.setattr(Vocabulary, "encode", never)
        again = data.load(dataset, data=cache, cache=cache)["train"].images
    assert np.array_equal(first.source.tokens, again.source.tokens)
    [folder] = (cache / "text").iterdir()
    (folder / "train.en.npy").write_bytes(b"x")
    mended = data.load(dataset, data=cache, cache=cache)["train"].images
    assert np.array_equal(first.source.tokens, mended.source.tokens) and "damaged, and made again" in caplog.text
    assert [path.name for path in (cache / "text").iterdir()] == [folder.name]


def test_a_vocabulary_that_the_text_cannot_give(talks):
    pytest.importorskip("tokenizers")
    cache, _ = talks
    with pytest.raises(InputError, match=r"text\.vocab = 5000: must be at most (\d+): ") as caught:
        data.tokenize(Dataset("talks", text=settings(vocab=5000)), data=cache, cache=cache)
    most = int(str(caught.value).split("at most ")[1].split(":")[0])
    data.tokenize(Dataset("talks", text=settings(vocab=most)), data=cache, cache=cache)


# ---- pairs of sentences -------------------------------------------------------------------------------------------

TOKENS = [
    "[PAD]",
    "[unused0]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "man",
    "##s",
    "runs",
    ".",
    "he",
    "u",
    "é",
    "A",
]


def bert(folder: Path, tokens: list[str] = TOKENS, **config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_pairs_are_as_bert_has_them(tmp_path):
    pytest.importorskip("tokenizers")
    tokenizer = read_folder(bert(tmp_path / "bert"))
    ids = {token: number for number, token in enumerate(TOKENS)}
    [(tokens, segments), (cut, its)] = tokenizer.encode(["A mans runs. Zz", "a a a a a"], ["hé", "he runs ."], 8)
    words = ["[CLS]", "a", "man", "##s", "runs", ".", "[UNK]", "[SEP]", "[UNK]", "[SEP]"]
    whole = tokenizer.encode(["A mans runs. Zz"], ["Hé"], 0)
    assert whole[0] == ([ids[word] for word in [*words[:8], "he", "[SEP]"]], [0] * 8 + [1] * 2), "accents are taken off"
    assert tokens == [ids[word] for word in ["[CLS]", "a", "man", "##s", "runs", "[SEP]", "he", "[SEP]"]]
    assert segments == [0] * 6 + [1] * 2
    assert cut == [ids[word] for word in ["[CLS]", "a", "a", "a", "[SEP]", "he", "runs", "[SEP]"]], (
        "the longer one first"
    )
    assert len(its) == 8


def test_the_digest_of_a_tokenizer_is_that_of_its_vocabulary(tmp_path):
    pytest.importorskip("tokenizers")
    from tokenizers.implementations import BertWordPieceTokenizer

    plain = bert(tmp_path / "bert")
    sha256 = hashlib.sha256((plain / "vocab.txt").read_bytes()).hexdigest()
    assert read_folder(plain).digest == sha256 == read_folder(bert(tmp_path / "same", do_lower_case=True)).digest
    cased = read_folder(bert(tmp_path / "cased", do_lower_case=False))
    assert cased.digest != sha256 and not cased.lowercase
    fast = tmp_path / "fast"
    fast.mkdir()
    BertWordPieceTokenizer(str(plain / "vocab.txt")).save(str(fast / "tokenizer.json"))
    assert read_folder(fast) == read_folder(plain)
    bert(fast, [*TOKENS, "more"])
    with pytest.raises(InputError, match=r"tokenizer\.json and vocab\.txt have different tokens"):
        read_folder(fast)


def test_pairs_are_as_transformers_has_them(tmp_path):
    pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    for config in ({"do_lower_case": True}, {"do_lower_case": False}):
        folder = bert(tmp_path / str(config["do_lower_case"]), **config)
        theirs = transformers.BertTokenizerFast.from_pretrained(str(folder))
        pairs = [("A mans runs. 日本", "hé"), ("a a a a a a a", "he runs . A man"), ("[SEP] man", "u\u0301")]
        found = theirs([a for a, _ in pairs], [b for _, b in pairs], truncation="longest_first", max_length=9)
        ours = read_folder(folder).encode([a for a, _ in pairs], [b for _, b in pairs], 9)
        assert [ids for ids, _ in ours] == found["input_ids"]
        assert [segments for _, segments in ours] == found["token_type_ids"]


@pytest.mark.parametrize(
    ("write_it", "message"),
    [
        (lambda folder: None, "not there: must be a folder in the hub's format"),
        (lambda folder: folder.mkdir(), "has neither tokenizer.json nor vocab.txt"),
        (lambda folder: bert(folder, ["[PAD]", "[UNK]", "[CLS]", "x"]), "has no token [SEP]: must be the WordPiece"),
        (lambda folder: bert(folder, [*TOKENS[1:], "[PAD]"]), "its token 0 is '[unused0]': must be [PAD]"),
        (lambda folder: bert(folder, [*TOKENS, "a"]), "vocab.txt: a token is there twice"),
        (
            lambda folder: (bert(folder) / "tokenizer.json").write_text('{"model": {"type": "BPE"}}', encoding="utf-8"),
            "tokenizer.json is of BPE after nothing: must be WordPiece after BertNormalizer",
        ),
        (lambda folder: (bert(folder) / "tokenizer.json").write_bytes(b"{"), "tokenizer.json: not json ("),
    ],
)
def test_folders_without_a_berts_tokenizer(write_it, message, tmp_path):
    write_it(tmp_path / "bert")
    with pytest.raises(InputError) as caught:
        Text.of_setting({"tokenizer": str(tmp_path / "bert")}, "dataset.text")
    said = f'dataset.text.tokenizer = "{tmp_path / "bert"}": {message}'
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


@pytest.fixture
def small_mnli(monkeypatch, tmp_path) -> Path:
    """MultiNLI with 12 pairs to train on; the cache and the data."""
    known = DATASETS["mnli"]
    spec = replace(known.spec, train=12, test=4, validation=2)
    monkeypatch.setitem(DATASETS.entries, "mnli", replace(known, spec=spec))
    (tmp_path / "mnli" / "multinli_1.0").mkdir(parents=True)
    for name, count in (("train", 12), ("dev_matched", 4), ("dev_mismatched", 2)):
        pairs = [("A man runs.", f"he {'a ' * number}", spec.class_names[number % 3]) for number in range(count)]
        path = tmp_path / "mnli" / "multinli_1.0" / f"multinli_1.0_{name}.jsonl"
        path.write_text(nli(*pairs, ("x", "y", "-")), encoding="utf-8")
    return tmp_path


def test_multinli(small_mnli):
    pytest.importorskip("tokenizers")
    cache, folder = small_mnli, bert(small_mnli / "bert")
    spec = data.prepare("mnli", data=cache, cache=cache)
    assert data.summary(spec).startswith("mnli: 3 classes, 12 train, 2 validation, 4 test sentence pairs")
    assert spec.class_sizes == ((4, 4, 4), (2, 1, 1), (1, 1, 0))
    assert data.verify("mnli", data=cache, cache=cache) == spec
    text = Text.of_setting({"tokenizer": str(folder), "longest": 10}, "dataset.text")
    dataset = Dataset("mnli", limit=6, text=text)
    parts = data.load(dataset, data=cache, cache=cache)
    assert {name: part.labels.bincount(minlength=3).tolist() for name, part in parts.items()} == {
        "train": [2, 2, 2],
        "test": [2, 1, 1],
        "validation": [1, 1, 0],
    }
    corpus = parts["train"].images
    assert corpus.kind == "pairs" and corpus.target is None and corpus.lengths.shape == (6, 1)
    vocabulary = read_folder(folder)
    for row in range(len(corpus)):
        [(ids, segments)] = vocabulary.encode([corpus.source_lines[row]], [corpus.target_lines[row]], 10)
        assert (corpus.source[row].tolist(), corpus.segments[row].tolist()) == (ids, segments)
    assert corpus.lengths.max() == 10 and corpus.vocabulary.digest == vocabulary.digest
    forgotten = replace(dataset, text=replace(text, folder=""))  # of a recorded run: the cache has kept it
    assert len(data.load(forgotten, data=cache, cache=cache)["train"].images) == 6
    bert(folder, [*TOKENS, "more"])
    with pytest.raises(InputError, match="has other tokens by now: SHA-256 "):
        data.load(dataset, data=cache, cache=cache)
    unknown = replace(text, folder="", tokenizer=f"sha256:{'0' * 64}")
    with pytest.raises(InputError, match=r"is not here; give the folder that has it: dataset\.text\.tokenizer=FOLDER"):
        data.load(replace(dataset, text=unknown), data=cache, cache=cache)


def test_a_tokenizer_is_saved_as_it_is_read(tmp_path):
    tokenizer = WordPiece(tuple(TOKENS), lowercase=False, strip_accents=True, chinese=False)
    tokenizer.save(tmp_path)
    assert read_folder(tmp_path) == tokenizer and read_folder(tmp_path).digest == tokenizer.digest


# ---- settings -----------------------------------------------------------------------------------------------------

MULTI30K = DATASETS["multi30k"].spec


@pytest.mark.parametrize(
    ("name", "text", "more", "message"),
    [
        ("multi30k", {"vocab": 260}, {}, "text.vocab = 260: must be > 260"),
        ("multi30k", {"source": "fr"}, {}, "text.source = 'fr': allowed: de, en"),
        ("multi30k", {"test": "test_2015"}, {}, "text.test = 'test_2015': did you mean 'test_201"),
        ("multi30k", {"tokenizer": f"sha256:{'0' * 64}"}, {}, "text.tokenizer = 'sha256:"),
        ("multi30k", {"longest": 1}, {}, "text.longest = 1: must be 0, or >= 2"),
        (
            "multi30k",
            {},
            {"steps": ({"classes": {"first": 2}},)},
            "steps[0] = classes: is for images: multi30k is a transl",
        ),
        ("multi30k", {}, {"holdout": 10}, "holdout = 10: must be 0: multi30k has a validation part of its own"),
        ("multi30k", {}, {"limit": 29_001}, "limit = 29001: must be <= 29000, the training sentence pairs of multi30k"),
        ("mnli", {"vocab": 300}, {}, "text.vocab = 300: is for a translation: mnli is of pairs of sentences"),
        ("mnli", {}, {}, "text.tokenizer: is required: the folder of the pretrained network's tokenizer"),
        ("mnli", {"tokenizer": f"sha256:{'0' * 64}", "longest": 4}, {}, "text.longest = 4: must be 0, or >= 5"),
        ("mnist", {"vocab": 300}, {}, "text: is for data sets of text: mnist is of images"),
        ("multi30k", None, {}, "text: is required: multi30k is a translation"),
    ],
)
def test_settings_that_the_data_have_no_use_for(name, text, more, message):
    spec = DATASETS[name].spec
    steps = tuple(data.Step.of_setting(one, "steps") for one in more.pop("steps", ()))
    own = None if text is None else replace(spec.text or Text(), **text)
    with pytest.raises(InputError) as caught:
        data.check(Dataset(name, text=own, steps=steps, **more), spec)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"vocab": -1}, "text.vocab = -1: must be >= 0"),
        ({"source": "de", "target": "de"}, "text.target = 'de': must be another language than source"),
        ({"source": "D E"}, "text.source = 'D E': must be the ending of the files of a language, such as en or de"),
        (
            {"tokenizer": "sha256:xyz"},
            "text.tokenizer = 'sha256:xyz': must be the folder of a tokenizer, or sha256: and 64",
        ),
        ({"folder": "/x"}, 'text.folder = "/x": is no setting: dataset.text.tokenizer=FOLDER names the folder'),
        (3, "text = 3: must be a mapping with keys source, target, vocab"),
    ],
)
def test_settings_that_mean_nothing(value, message):
    with pytest.raises(InputError) as caught:
        Text.of_setting(value, "text")
    assert str(caught.value).startswith(message)


def vocabulary_of(**more) -> Dataset:
    return Dataset("multi30k", text=replace(MULTI30K.text, **more))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (vocabulary_of(vocab=4000), "teacher.dataset.text.vocab = 4000: must be 8000, as of its student"),
        (vocabulary_of(lowercase=True), "teacher.dataset.text.lowercase = true: must be false, as of its student"),
        (
            vocabulary_of(source="de", target="en"),
            'teacher.dataset.text.source = "de": must be "en", as of its student',
        ),
        (
            Dataset("wmt18_ende", text=MULTI30K.text),
            "teacher.dataset = wmt18_ende: its vocabulary is that of wmt18_ende, and not that of multi30k",
        ),
        (Dataset("mnist"), "teacher.dataset = mnist: is of images, and multi30k of sentence pairs"),
    ],
)
def test_networks_that_teach_one_another_have_one_vocabulary(other, message, tmp_path):
    conf = Conf(cache=tmp_path)
    with pytest.raises(InputError) as caught:
        check_vocabulary(other, vocabulary_of(), conf, "teacher")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    for same in (
        vocabulary_of(longest=50),
        vocabulary_of(test="test_2017_mscoco"),
        replace(vocabulary_of(), limit=500),
    ):
        check_vocabulary(same, vocabulary_of(), conf, "teacher")
    one, two = (Dataset("mnli", text=Text(tokenizer=f"sha256:{digit * 64}")) for digit in "01")
    with pytest.raises(InputError, match=r"start\.dataset\.text\.tokenizer = \"sha256:0+\": must be"):
        check_vocabulary(one, two, conf, "start")


@dataclass(frozen=True)
class Words(Arch):
    """Which word comes next, whatever the source says."""

    kind: ClassVar[str] = "translation"

    def build(self, input_shape, num_classes):
        raise NotImplementedError


WORDS_RECIPE = {"lr": 0.1, "batch_size": 8, "steps": 10}


@pytest.fixture
def run_of(monkeypatch, tmp_path):
    monkeypatch.setitem(ARCHS.entries, "words", Words())
    conf = Conf(cache=tmp_path)
    return lambda **form: parse_run(
        {"dataset": "multi30k", "arch": "words", "recipe": {"name": "x", **WORDS_RECIPE}, **form}, conf
    )


def test_text_is_a_part_of_the_identity(run_of, tmp_path):
    run = run_of()
    assert run.identity()["dataset"] == {"name": "multi30k", "text": {"source": "en", "target": "de", "vocab": 8000}}
    assert run_of(**{"dataset.text.vocab": 8000}).id == run.id != run_of(**{"dataset.text.vocab": 4000}).id
    assert "text" not in identity(Dataset("mnist"))
    with pytest.raises(InputError, match=r"^teacher\.dataset\.text\.vocab = 300: must be 8000"):
        run_of(teacher="words", method="kd", **{"teacher.dataset.text.vocab": 300})
    taught = run_of(teacher="words", method="kd", **{"dataset.text.vocab": 300})
    assert taught.teacher.dataset == taught.dataset, "the student's, where it says nothing of its own"


def test_a_plan_says_what_the_text_is(run_of, tmp_path):
    said = "multi30k: de→en, vocabulary of 500, 29,000 train, 1,014 validation, 461 test sentence pairs"
    text = {"source": "de", "target": "en", "vocab": 500, "test": "test_2017_mscoco"}
    run = run_of(dataset={"": "multi30k", "text": text})
    plan = describe(None, (run,), Store(tmp_path), Conf(cache=tmp_path), "cpu", details=True)
    assert f"\n  {said} (test: test_2017_mscoco)\n" in plan and "1 run: 0 done, 1 to train" in plan
    lines = metadata(run, Conf(cache=tmp_path).spec_of(run.dataset), [], [])
    assert json.loads(lines["preprocessing"]) == {"text": text}


def test_without_the_library_one_line_says_what_to_install(talks, monkeypatch):
    cache, _ = talks
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"^text needs the package tokenizers: pip install 'lskd\[text\]'$"):
        data.load(Dataset("talks", text=settings()), data=cache, cache=cache)


# ---- what is built in ---------------------------------------------------------------------------------------------


def test_the_numbers_of_the_built_in_ones():
    """Multi30k: Elliott et al. 2016, 2017; IWSLT'14: fairseq's script; WMT: its campaigns; MultiNLI: Williams et al."""
    specs = {name: known.spec for name, known in DATASETS.items() if known.spec.kind != "images"}
    assert {name: (one.train, one.validation, one.test) for name, one in specs.items() if name in DATASETS.shipped} == {
        "multi30k": (29_000, 1_014, 1_000),
        "iwslt14": (160_239, 7_283, 6_750),
        "wmt14_ende": (1_920_209 + 2_399_123 + 201_288, 3_000, 3_003),
        "wmt18_ende": (1_920_209 + 2_399_123 + 284_246, 0, 3_000),
        "mnli": (392_702, 9_832, 9_815),
    }
    assert {one.name: one.size for one in specs["multi30k"].tests}["test_2017_mscoco"] == 461


LAYOUTS = {
    "multi30k": {"train": 30, "val": 3, "test_2016_flickr": 4, **{one.name: 2 for one in MULTI30K.tests}},
    "iwslt14": {"tmp/train": 30, "tmp/valid": 3, "tmp/test": 4},
    "wmt14_ende": {
        "training/europarl-v7.de-en": 20, "commoncrawl.de-en": 0, "training/commoncrawl.de-en": 5,
        "training/news-commentary-v9.de-en": 5, "training/newstest2013": 3, "training/newstest2014": 4,
    },
    "wmt18_ende": {"news-commentary-v13.de-en": 5, "commoncrawl.de-en": 5, "europarl-v7.de-en": 20, "newstest2013": 4},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_built_in_ones_in_their_usual_layouts(name, monkeypatch, tmp_path):
    known = DATASETS[name]
    tests = tuple(replace(one, size=2) for one in known.spec.tests)
    validation = 3 if known.spec.validation else 0
    spec = replace(known.spec, train=30, test=4, validation=validation, digest="", tests=tests)
    monkeypatch.setitem(DATASETS.entries, name, replace(known, spec=spec))
    with pytest.raises(InputError, match=f"{name}: no data: "):
        data.prepare(name, data=tmp_path, cache=tmp_path)
    sizes = {file: count for file, count in LAYOUTS[name].items() if count}
    for folder in {Path(file).parent for file in sizes}:
        here = {Path(file).name: count for file, count in sizes.items() if Path(file).parent == folder}
        write(tmp_path / name / folder, here)
    if name.startswith("wmt"):  # as Europarl has them
        [path] = (tmp_path / name).rglob("europarl-v7.de-en.de")
        path.write_text("\n" + path.read_text(encoding="utf-8").partition("\n")[2], encoding="utf-8")
    found = data.prepare(name, data=tmp_path, cache=tmp_path)
    assert (found.train, found.test, found.validation) == (30, 4, validation)
    assert data.verify(name, data=tmp_path, cache=tmp_path) == found
    pytest.importorskip("tokenizers")
    assert spec.text is not None
    parts = data.load(Dataset(name, text=replace(spec.text, vocab=300)), data=tmp_path, cache=tmp_path)
    train = parts["train"].images
    assert len(train) + train.left_out == 30 and train.left_out == (1 if name.startswith("wmt") else 0)
    monkeypatch.setitem(DATASETS.entries, name, replace(known, spec=replace(spec, train=31)))
    with pytest.raises(InputError, match=f"number of train sentence pairs = 30: {name} has 31"):
        data.prepare(name, data=tmp_path, cache=tmp_path, force=True)


@pytest.mark.slow
def test_multi30k(tmp_path):
    pytest.importorskip("tokenizers")
    root = Path(os.environ.get("LSKD_DATA") or "does-not-exist")
    if not (root / "multi30k").is_dir():
        pytest.skip("LSKD_DATA does not hold multi30k")
    assert data.prepare("multi30k", data=root, cache=tmp_path) == MULTI30K  # which compares the digest
    parts = data.load(Dataset("multi30k", text=MULTI30K.text), data=root, cache=tmp_path)
    assert {name: len(part.images) for name, part in parts.items()} == {
        "train": 29_000,
        "validation": 1_014,
        "test": 1_000,
    }
    for name, part in parts.items():
        corpus = part.images
        for side, lines in ((corpus.source, corpus.source_lines), (corpus.target, corpus.target_lines)):
            assert all(corpus.vocabulary.decode(side[row]) == lines[row] for row in range(len(corpus))), name
    assert parts["test"].images.target_lines[0] == "Ein Mann mit einem orangefarbenen Hut, der etwas anstarrt."
