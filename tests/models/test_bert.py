"""BERT against the transformers library's own, and what is read of a folder in the hub's format."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from lskd import start
from lskd.errors import InputError
from lskd.models import ARCHS
from lskd.models.dropout import ShortDropout
from lskd.start import Start

transformers = pytest.importorskip("transformers")

TINY = replace(ARCHS["bert_base"], **{**ARCHS["bert_base"].small, "layers": 4})
SHORT = replace(TINY, layers=2)


def library(kind: str = "BertForSequenceClassification", **settings):
    """A network of the library, of the same size, all of whose parameters are random."""
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=3, **settings,
    )  # fmt: skip
    torch.manual_seed(1)
    network = getattr(transformers, kind)(config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def pairs(batch: int = 6, longest: int = 13):
    """Tokens and segments of pairs of several lengths."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(1, 64, (batch, longest), generator=generator)
    for row in range(batch):
        tokens[row, longest - row :] = 0
    return tokens, (torch.arange(longest) >= 5).long().expand(batch, longest)


def loaded(source, arch=TINY, **settings):
    """A network that starts from `source`, in eval mode."""
    begins = replace(start.of(str(source)), **settings)
    network = arch.build((), 3)
    found = start.fitted(start.entries(begins), network.state_dict(), begins, f"start = {begins.source!r}")
    network.load_state_dict({**network.state_dict(), **found})
    return network.eval()


@torch.no_grad()
def test_logits_are_those_of_the_library(tmp_path):
    theirs = library()
    theirs.save_pretrained(tmp_path)
    tokens, segments = pairs()
    expected = theirs(input_ids=tokens, token_type_ids=segments, attention_mask=(tokens != 0).long()).logits
    ours = loaded(tmp_path)(tokens, segments)
    assert expected.std() > 0.05
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    alone = loaded(tmp_path)(tokens[3:4, :10], segments[3:4, :10])  # without its padding
    torch.testing.assert_close(alone, expected[3:4], rtol=0, atol=1e-5)


def test_in_training_all_that_is_random_draws_from_the_generator_of_the_run():
    network = TINY.build((), 3)
    dropouts = [module for module in network.modules() if isinstance(module, ShortDropout)]
    assert len(dropouts) == 2 + 3 * 4  # embeddings and head; attention and both halves of each layer
    assert not [module for module in network.modules() if isinstance(module, torch.nn.Dropout)]

    def seen(seed: int) -> torch.Tensor:
        for module in dropouts:
            module.generator = torch.Generator().manual_seed(seed)
        return network(*pairs())

    before = torch.get_rng_state()
    assert torch.equal(seen(0), seen(0)) and not torch.equal(seen(0), seen(1))
    assert torch.equal(torch.get_rng_state(), before)
    seen(0).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@torch.no_grad()
def test_attention_with_dropout_computes_what_attention_without_it_does():
    network = replace(TINY, dropout=0.0).build((), 3).eval()
    expected = network(*pairs())
    for layer in network.bert.encoder.layer:
        layer.attention.self.train()
        layer.attention.self.dropout.eval()  # the same path, with nothing left out
    torch.testing.assert_close(network(*pairs()), expected, rtol=0, atol=1e-5)


def test_initial_weights_follow_from_the_seed_and_are_as_the_paper_draws_them():
    arch = replace(TINY, width=64, vocabulary=2000)

    def drawn(seed: int):
        torch.manual_seed(seed)
        return arch.build((), 3).state_dict()

    one, same, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    for name in ("head.weight", "bert.pooler.dense.weight", "bert.embeddings.word_embeddings.weight"):
        assert not torch.equal(one[name], other[name])
        assert one[name].std().item() == pytest.approx(0.02, rel=0.2)
    assert not one["head.bias"].any()


# ---- a folder in the hub's format ---------------------------------------------------------------------------------


def old_names(state):
    """As the first files of the hub have them, which were made of TensorFlow's."""
    return {
        re.sub(r"(LayerNorm\.)bias", r"\1beta", re.sub(r"(LayerNorm\.)weight", r"\1gamma", name)): value
        for name, value in state.items()
    } | {"bert.embeddings.position_ids": torch.arange(32)[None]}


@pytest.mark.parametrize("kind", ["BertModel", "BertForPreTraining", "BertForMaskedLM"])
@pytest.mark.parametrize("form", ["safetensors", "bin", "old"])
def test_the_first_layers_of_a_pretrained_network_with_a_new_head(tmp_path, kind, form):
    if (kind, form) in {("BertModel", "old"), ("BertForMaskedLM", "bin")}:
        pytest.skip("another case has it")
    theirs = library(kind, **({"tie_word_embeddings": False} if form == "safetensors" else {}))
    theirs.save_pretrained(tmp_path)
    if form != "safetensors":
        (tmp_path / "model.safetensors").unlink()
        state = theirs.state_dict()
        torch.save(old_names(state) if form == "old" else state, tmp_path / "pytorch_model.bin")
    if kind == "BertForMaskedLM":  # which has no pooler
        with pytest.raises(InputError, match=r"does not fit: bert\.pooler\.dense\.weight \(16×16\) is not in it"):
            loaded(tmp_path, head="new")
        return
    body = theirs if kind == "BertModel" else theirs.bert
    torch.manual_seed(5)
    drawn = SHORT.build((), 3).head.weight.clone()
    torch.manual_seed(5)
    network = loaded(tmp_path, SHORT, head="new", layers="first")
    assert torch.equal(network.head.weight, drawn)
    for name, value in network.bert.state_dict().items():
        assert torch.equal(value, body.state_dict()[name]), name
    assert len(network.bert.encoder.layer) == 2


def test_what_does_not_fit_is_told_in_a_line(tmp_path):
    library("BertForPreTraining").save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"start = '.*': has no head: start\.head=new starts it from the seed$"):
        loaded(tmp_path)
    with pytest.raises(InputError, match=r"has 4 layers, not 2: start\.layers=first takes the first of them$"):
        loaded(tmp_path, SHORT, head="new")
    with pytest.raises(InputError, match=r"has 4 layers, not 6$"):
        loaded(tmp_path, replace(TINY, layers=6), head="new", layers="first")
    with pytest.raises(InputError, match=r"word_embeddings\.weight is 64×16 in it, and 65×16 here"):
        loaded(tmp_path, replace(TINY, vocabulary=65), head="new")
    with pytest.raises(InputError, match=r"is a folder without model\.safetensors or pytorch_model\.bin"):
        start.of(str(tmp_path.parent))


@pytest.mark.parametrize(
    "said, reason",
    [
        ({}, None),
        ({"model_type": "roberta"}, "its config.json says model_type = 'roberta': must be 'bert'"),
        ({"num_attention_heads": 4},
         "its config.json says num_attention_heads = 4: must be that of the network, arch.heads = 2"),
        ({"vocab_size": 30522},
         "its config.json says vocab_size = 30522: must be that of the network, arch.vocabulary = 64"),
        ({"hidden_act": "relu"}, "its config.json says hidden_act = 'relu': must be 'gelu'"),
        ({"layer_norm_eps": 1e-5}, "its config.json says layer_norm_eps = 1e-05: must be 1e-12"),
    ],
)  # fmt: skip
def test_a_config_of_another_network_is_refused_where_no_shape_tells(tmp_path, said, reason):
    library().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **said}))
    assert TINY.unlike(start.config(start.of(str(tmp_path)))) == reason
    assert TINY.unlike({}) == "its config.json says model_type = None: must be 'bert'"


def test_a_config_that_cannot_be_read(tmp_path):
    library().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"its config\.json cannot be read"):
        start.config(start.of(str(tmp_path)))
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"its config\.json cannot be read: No such file"):
        start.config(start.of(str(tmp_path)))


# ---- published weights, by their name -----------------------------------------------------------------------------


def test_a_published_network_is_found_by_its_name_and_its_digest_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("LSKD_DATA", str(tmp_path))
    named = start.of("hub:tiny-bert")
    assert (named.digest, named.word, named.short) == ("hub:tiny-bert", "hub:tiny-bert", "tiny-bert")
    assert named == Start("hub:tiny-bert")  # as a record has it
    with pytest.raises(
        InputError, match=rf"start = 'hub:tiny-bert': is not here: put this folder .* at {tmp_path}/tiny"
    ):
        start.entries(named)
    theirs = library()
    theirs.save_pretrained(tmp_path / "tiny-bert")
    path = start.of(str(tmp_path / "tiny-bert"))
    assert start.record(named) == {"digest": path.digest, "source": "hub:tiny-bert"}
    assert start.record(path) == {"digest": path.digest, "source": str(tmp_path / "tiny-bert")}
    file = tmp_path / "tiny-bert" / "model.safetensors"
    assert start.of(str(file)).digest == path.digest
    assert start.entries(named).keys() == safetensors.torch.load_file(file).keys()
    assert start.config(Start("hub:tiny-bert"))["hidden_size"] == 16
    for word in ("hub:", "hub:a/../b", "hub:../b"):
        with pytest.raises(InputError, match="must have the name of a folder after hub:"):
            start.of(word)
