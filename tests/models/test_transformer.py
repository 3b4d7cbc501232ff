"""The Transformer against torch's own, and its decoding against its training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lskd.errors import InputError
from lskd.models import ARCHS
from lskd.models.archs import TransformerArch
from lskd.models.dropout import ShortDropout
from lskd.models.transformer import sinusoids

V, D = 13, 16
SETTINGS = {"encoder_layers": 2, "decoder_layers": 3, "width": D, "heads": 4, "feed_forward": 24, "positions": 20}


def make(seed: int = 0, **settings):
    torch.manual_seed(seed)
    network = TransformerArch(**{**SETTINGS, **settings}).build((), V)
    for name, parameter in network.named_parameters():
        if "norm" in name or "bias" in name or "coded" in name:  # none is at a value that hides it
            nn.init.normal_(parameter, 0.5, 0.3)
    return network


def sentences(*lengths: int, seed: int = 1, begin: int | None = None):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(4, V, (len(lengths), max(lengths)), generator=generator)
    if begin is not None:
        rows[:, 0] = begin
    return rows * (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])


def torchs_own(network, pre_norm: bool) -> nn.Transformer:
    """`nn.Transformer` with the weights of `network`. (It always has the norms at the end, which pre-norm has.)"""
    other = nn.Transformer(D, 4, 2, 3, 24, 0.1, norm_first=pre_norm, batch_first=True)
    if not pre_norm:
        other.encoder.norm = other.decoder.norm = None
    state = {}
    for side, layers in (("encoder", network.encoder), ("decoder", network.decoder)):
        for number, layer in enumerate(layers):
            at = f"{side}.layers.{number}"
            parts = [("self_attn", layer.attention)] + ([("multihead_attn", layer.cross)] if side == "decoder" else [])
            for name, part in parts:
                for kind in ("weight", "bias"):
                    both = [getattr(part.query, kind), getattr(part.keys_values, kind)]
                    state[f"{at}.{name}.in_proj_{kind}"] = torch.cat(both)
                    state[f"{at}.{name}.out_proj.{kind}"] = getattr(part.out, kind)
            for name, part in (("linear1", layer.wide), ("linear2", layer.narrow)):
                state |= {f"{at}.{name}.{kind}": getattr(part, kind) for kind in ("weight", "bias")}
            for place, norm in enumerate(layer.norms, 1):
                state |= {f"{at}.norm{place}.{kind}": getattr(norm, kind) for kind in ("weight", "bias")}
        if pre_norm:
            last = network.encoded if side == "encoder" else network.decoded
            state |= {f"{side}.norm.{kind}": getattr(last, kind) for kind in ("weight", "bias")}
    other.load_state_dict(state)
    return other.eval()


@pytest.mark.parametrize("pre_norm", [False, True])
def test_it_is_torchs_transformer(pre_norm):
    network = make(pre_norm=pre_norm).eval()
    source, target = sentences(5, 7, 2), sentences(4, 1, 6, seed=2, begin=1)

    def embed(tokens):
        return network.embedding(tokens) * math.sqrt(D) + sinusoids(20, D)[: tokens.shape[1]]

    seen = torchs_own(network, pre_norm)(
        embed(source), embed(target), src_key_padding_mask=source == 0, memory_key_padding_mask=source == 0,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(6),
    )  # fmt: skip
    ours = network(source, target)
    torch.testing.assert_close(ours, seen @ network.embedding.weight.T, rtol=1e-4, atol=1e-5)
    counted = torch.tensor([0, 3, 6, 12, 17])
    torch.testing.assert_close(network(source, target, counted), ours.flatten(0, 1)[counted])


def test_positions_are_those_of_the_paper():
    table = sinusoids(50, D)
    for place, dimension in ((0, 0), (7, 4), (49, 15)):
        angle = place / 10_000 ** (dimension // 2 * 2 / D)
        assert table[place, dimension] == pytest.approx((math.cos if dimension % 2 else math.sin)(angle), abs=1e-5)


def test_padding_and_later_tokens_change_nothing():
    network = make().eval()
    source, target = sentences(5), sentences(6, begin=1)
    logits = network(source, target)
    longer = F.pad(source, (0, 4)), F.pad(target, (0, 3))
    torch.testing.assert_close(network(*longer)[:, :6], logits)
    other = target.clone()
    other[0, 4:] = 5
    torch.testing.assert_close(network(source, other)[:, :4], logits[:, :4])
    assert not torch.allclose(network(source, other)[:, 4:], logits[:, 4:])


@pytest.mark.parametrize("pre_norm", [False, True])
def test_steps_of_decoding_are_the_whole_forward(pre_norm):
    network = make(pre_norm=pre_norm).eval()
    source, target = sentences(5, 7, 2), sentences(6, 6, 6, seed=2, begin=1)
    whole = network(source, target)
    state = network.begin(source)
    for place in range(6):
        logits, state = network.step(state, target[:, place])
        torch.testing.assert_close(logits, whole[:, place], rtol=1e-4, atol=1e-5)


def test_translations_of_one_source_share_what_they_look_at():
    """They change places, one goes on twice, and then a source is done."""
    network = make().eval()
    source, target = sentences(5, 7, 2), sentences(*[6] * 6, seed=2, begin=1)
    state = network.begin(source, 2)
    assert len(state.memory[0][0]) == 3
    for place, rows in enumerate(([0, 1, 2, 3, 4, 5], [1, 0, 2, 2, 4, 5], [0, 1, 5, 4], [0, 1, 3, 2], [2, 3])):
        state = state.take(torch.tensor(rows))
        parents = torch.arange(6) if place == 0 else parents[torch.tensor(rows)]  # noqa: F821
        target = target if place == 0 else target[torch.tensor(rows)]
        logits, state = network.step(state, target[:, place])
        whole = network(source[parents // 2], target)[:, place]
        torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-5)
    assert len(state.memory[0][0]) == len(state.memory_mask) == 1


def test_dropout_stands_where_it_should():
    """Each rate alone changes a training step; without any, training is evaluation."""
    source, target = sentences(5, 7), sentences(4, 6, begin=1)
    rates = ("dropout", "attention_dropout", "relu_dropout")
    none = dict.fromkeys(rates, 0.0)
    plain = make(**none).train()(source, target)
    torch.testing.assert_close(plain, make(**none).eval()(source, target), rtol=1e-4, atol=1e-5)
    for rate in rates:
        assert not torch.allclose(make(**{**none, rate: 0.5}).train()(source, target), plain, atol=1e-3)


def test_initial_weights():
    torch.manual_seed(0)
    network = TransformerArch(width=64, heads=4, feed_forward=128).build((), 500)
    bounds = {"query": 64 + 64, "keys_values": 64 + 64, "out": 64 + 64, "wide": 64 + 128, "narrow": 128 + 64}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and name != "head":
            assert module.weight.abs().max().item() == pytest.approx(
                math.sqrt(6 / bounds[name.split(".")[-1]]), rel=0.02
            )
            assert not module.bias.any()
    assert network.embedding.weight.std().item() == pytest.approx(64**-0.5, rel=0.02)


@pytest.mark.parametrize(
    ("name", "millions"),
    # Vaswani et al. print 65 million for base with 37,000 tokens.
    [("transformer_base", 63.1), ("transformer_iwslt", 13.16), ("transformer_tiny", 6.05)],
)
def test_sizes(name, millions):
    with torch.device("meta"):
        network = ARCHS[name].build((), 37_000)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_bad_settings():
    for wrong, message in (
        ({"width": 15}, "width = 15: must be a multiple of heads = 4, and even"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"decoder_layers": 0}, "decoder_layers = 0: must be >= 1"),
    ):
        with pytest.raises(InputError, match=message):
            TransformerArch(**{**SETTINGS, **wrong})
    with pytest.raises(InputError, match="positions = 20: must be >= 21"):
        make()(sentences(21), sentences(3))


@pytest.mark.parametrize("count", [1, 7, 40_000])
def test_short_dropout_keeps_the_mean(count):
    dropout = ShortDropout(0.3).train()
    dropout.generator = torch.Generator().manual_seed(5)
    x = torch.rand(count) + 1
    out = dropout(x)
    again = ShortDropout(0.3).train()
    again.generator = torch.Generator().manual_seed(5)
    assert torch.equal(again(x), out) and (count < 100 or not torch.equal(dropout(x), out))
    kept = out != 0
    torch.testing.assert_close(out[kept], x[kept] / (1 - round(0.3 * 65536) / 65536))
    assert count < 100 or abs(kept.double().mean().item() - 0.7) < 0.01
    assert dropout.eval()(x) is x
