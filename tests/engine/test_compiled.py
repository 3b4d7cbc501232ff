"""recipe.compile: what is compiled, that it trains as the eager step does, and what is refused. Without a C++ compiler:
the backend here is torch's "aot_eager", which traces a network and its gradient as the real one does."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lskd.data import Dataset, Part, Spec
from lskd.engine import Interrupted, Outcome, Shared, compiled, run_bytes, train
from lskd.errors import InputError
from lskd.launch.preflight import check_buildable
from lskd.methods import METHODS
from lskd.models import CifarResNetArch, MLPArch
from lskd.recipe import Recipe
from lskd.run import Named, Run

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = Spec("noise", "Noise", 3, (1, 8, 8), 11, 5, tuple("abc"), digest="")
RESNET = CifarResNetArch(depth=8, stem=4, widths=(4, 4, 4))


def make_run(**fields) -> Run:
    recipe = Recipe(**{"lr": 0.1, "batch_size": 4, "epochs": 2, "momentum": 0.9, "compile": True, **fields})
    return Run(Dataset("noise"), Named("resnet8", RESNET), Named("ce", METHODS["ce"]), recipe)


def fit(run: Run, **options) -> Outcome:
    generator = torch.Generator().manual_seed(0)
    parts = {
        name: Part(
            torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8), torch.arange(count) % 3
        )
        for name, count in (("train", 11), ("test", 5))
    }
    return train(run, SPEC, parts, shared=Shared(torch.device("cpu")), **options)


@pytest.fixture
def traced(monkeypatch) -> list[int]:
    """The batch sizes for which a network was compiled."""
    sizes: list[int] = []

    def backend(graph, inputs):
        sizes.append(next(x for x in inputs if x.ndim == 4 and x.shape[-1] == 8).shape[0])
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    import torch._dynamo

    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "BACKEND", backend)
    return sizes


@pytest.mark.slow
def test_it_trains_as_the_eager_step_does_and_resumes_with_the_same_bits(traced, tmp_path: Path):
    run = make_run()
    whole = fit(run)
    assert sorted(traced) == [3, 4]  # a full batch and the last one; not the test images
    eager = fit(make_run(compile=False))
    assert sorted(traced) == [3, 4]
    for ours, others in zip(whole.network.state_dict().values(), eager.network.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, others, rtol=1e-4, atol=1e-5)

    steps = []
    with pytest.raises(Interrupted):
        fit(run, checkpoint=tmp_path / "state", on_step=lambda *step: steps.append(step), stop=lambda: len(steps) == 4)
    resumed = fit(run, checkpoint=tmp_path / "state")
    for ours, others in zip(resumed.network.state_dict().values(), whole.network.state_dict().values(), strict=True):
        assert torch.equal(ours, others)


@pytest.mark.slow
def test_parts_of_a_batch_and_averaged_weights(traced):
    fields = {"batch_size": 11, "accumulate": 11, "ema": 0.9, "epochs": 1}
    ours, others = (fit(make_run(**fields, compile=compile)).network.state_dict() for compile in (True, False))
    for name in ours:
        torch.testing.assert_close(ours[name], others[name], rtol=1e-4, atol=1e-5)
    assert traced == [1]


def test_what_cannot_be_compiled_whole_is_an_error(traced, monkeypatch):
    build = CifarResNetArch.build

    def broken(self, *shape):
        network = build(self, *shape)
        network.stem.append(Break())
        return network

    monkeypatch.setattr(CifarResNetArch, "build", broken)
    with pytest.raises(Exception, match="graph_break"):
        fit(make_run())


class Break(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return x


def test_a_prediction_of_memory_compiles_nothing(monkeypatch):
    monkeypatch.setattr(compiled, "compiled", lambda _: pytest.fail("compiled"))
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    run = make_run()
    assert run_bytes(run, SPEC, "cpu") == run_bytes(
        replace(run, recipe=replace(run.recipe, compile=False)), SPEC, "cpu"
    )


def test_it_is_part_of_the_identity_only_where_it_is_asked_for():
    assert "compile" not in make_run(compile=False).identity()["recipe"]
    assert make_run().identity()["recipe"]["compile"] is True
    assert make_run().id != make_run(compile=False).id
    assert str(make_run()).endswith(", compiled, seed 0")


def test_methods_that_read_features_are_refused():
    teacher = make_run(compile=False)
    with pytest.raises(InputError, match=r"recipe\.compile = true: must be false with method=at"):
        replace(make_run(), method=Named("at", METHODS["at"]), teacher=teacher)
    replace(make_run(), method=Named("kd", METHODS["kd"]), teacher=teacher)


def test_dropout_and_machines_without_a_compiler_are_refused(monkeypatch, tmp_path: Path):
    run = replace(make_run(), dataset=Dataset("digits"))
    dropping = replace(run, arch=Named("mlp", MLPArch(hidden=(4,), hidden_dropout=0.5)))
    with pytest.raises(InputError, match=r"recipe\.compile = true: must be false with arch=mlp, whose hidden_dropout"):
        check_buildable([dropping], tmp_path)
    plain = copy.deepcopy(dropping.recipe)
    check_buildable([replace(dropping, recipe=replace(plain, compile=False))], tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        InputError, match=r"needs a C\+\+ compiler and Python's headers: there is no 'no-such-compiler'"
    ):
        check_buildable([run], tmp_path)
    check_buildable([replace(run, recipe=replace(plain, compile=False))], tmp_path)
