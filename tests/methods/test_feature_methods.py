"""The methods of the CRD benchmark: values by hand, and losses, gradients and whole trainings against plain loops.

The functions of `REFERENCES` are the papers' formulas written once more, over single examples, channels and positions.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lskd.data import Dataset, Part, Spec
from lskd.engine import Shared, train
from lskd.engine.member import build_network
from lskd.engine.seeds import generator_for, seed_for
from lskd.errors import InputError
from lskd.methods import METHODS, Batch, Pair
from lskd.methods.modules.regressor import regressor
from lskd.methods.ofd import margins
from lskd.models import CifarResNetArch
from lskd.recipe import Recipe, WeightDecay
from lskd.run import Named, Run

pytestmark = pytest.mark.usefixtures("one_thread")

B, K, N = 4, 3, 12
# Maps of one shape, of a larger and of a smaller one than the teacher's.
STUDENT = {"f0": (3, 8, 8), "f1": (3, 8, 8), "f2": (4, 8, 8), "f3": (5, 2, 2), "pool": (5,)}
TEACHER = {"f0": (3, 8, 8), "f1": (3, 8, 8), "f2": (6, 4, 4), "f3": (7, 4, 4), "pool": (7,)}
STUDENT |= {f"{name}_pre": STUDENT[name] for name in ("f1", "f2", "f3")}
TEACHER |= {f"{name}_pre": TEACHER[name] for name in ("f1", "f2", "f3")}
LABELS = torch.arange(N) % K


def small(name: str, **knobs: Any) -> Any:
    return dataclasses.replace(METHODS[name], **{**METHODS[name].small, **knobs})


Features = Sequence[tuple[Tensor, Tensor]]
Reference = Callable[[Any, Features, Any, Batch], Tensor]  # (method, pairs, its module, the batch) -> L_feature


def halved(feature: Tensor, like: Tensor) -> Tensor:
    """Means of windows, down to the size of `like`."""
    k = feature.shape[-1] // like.shape[-1]
    return F.avg_pool2d(feature, k) if k > 1 else feature


def fitnet(method: Any, pairs: Features, module: Any, batch: Batch) -> Tensor:
    return F.mse_loss(module(pairs[0][0]), pairs[0][1])


def attention(x: Tensor) -> Tensor:
    """(C, H, W) -> (H·W,)."""
    energy = torch.stack([x[:, i, j].pow(2).sum() / len(x) for i in range(x.shape[1]) for j in range(x.shape[2])])
    return energy / energy.pow(2).sum().sqrt()


def at(method: Any, pairs: Features, module: Any, batch: Batch) -> Tensor:
    terms = []
    for s, t in pairs:
        s, t = halved(s, t), halved(t, s)
        terms.append(sum((attention(s[i]) - attention(t[i])).pow(2).mean() for i in range(len(s))) / len(s))
    return sum(terms)


def sp(method: Any, pairs: Features, module: Any, batch: Batch) -> Tensor:
    [(s, t)] = pairs
    rows = []
    for f in (s, t):
        gram = [[(f[i] * f[j]).sum() for j in range(len(f))] for i in range(len(f))]
        rows.append([torch.stack(row) / torch.stack(row).norm() for row in gram])
    return sum((a - b).pow(2).sum() for a, b in zip(*rows, strict=True)) / len(s) ** 2


def cc(method: Any, pairs: Features, module: Any, batch: Batch) -> Tensor:
    [(s, t)] = pairs
    delta = [module[0](s[i]) - module[1](t[i]) for i in range(len(s))]
    return sum((a.abs() * b.abs()).sum() for a, b in itertools.pairwise(delta)) / (len(s) - 1)


def vid(method: Any, pairs: Features, module: Any, batch: Batch) -> Tensor:
    total = 0.0
    for regressor_, (s, t) in zip(module, pairs, strict=True):
        s, t = halved(s, t), halved(t, s)
        first, second, third = (layer.weight[:, :, 0, 0] for layer in regressor_.mean if isinstance(layer, nn.Conv2d))
        hidden = torch.relu(torch.einsum("oc,bchw->bohw", first, s))
        hidden = torch.relu(torch.einsum("oc,bchw->bohw", second, hidden))
        mean = torch.einsum("oc,bchw->bohw", third, hidden)
        variance = torch.log1p(regressor_.raw_variance.exp()) + 1e-5
        total = total - torch.distributions.Normal(mean, variance.sqrt()).log_prob(t).mean() - math.log(2 * math.pi) / 2
    return total


def rkd(method: Any, pairs: Features, module: Any, batch: Batch) -> Tensor:
    [(s, t)] = pairs
    n = len(s)
    every = range(n)

    def distances(x: Tensor) -> dict[tuple[int, int], Tensor]:
        d = {(i, j): (x[i] - x[j]).norm() for i in every for j in every if i != j}
        mean = sum(d.values()) / len(d)
        return {key: value / mean for key, value in d.items()}

    def angle(x: Tensor, i: int, j: int, k: int) -> Tensor:
        return F.cosine_similarity(x[j] - x[i], x[k] - x[i], dim=0)

    d_s, d_t = distances(s), distances(t)
    w = [1.0] * n
    if method.weighting != "none":
        p_s, p_t = batch.logits.softmax(1), batch.teacher_logits.softmax(1)
        w = [1 - math.exp(-(p_s[i, y].log() / p_t[i, y].log()).item()) for i, y in enumerate(batch.labels)]
    distance = sum((w[i] + w[j]) / 2 * F.smooth_l1_loss(d_s[i, j], d_t[i, j]) for i, j in d_s) / n**2
    triplets = [(i, j, k) for i in every for j in every for k in every if i != j and i != k]
    angles = sum(
        (w[i] + w[j] + w[k]) / 3 * F.smooth_l1_loss(angle(s, i, j, k), angle(t, i, j, k)) for i, j, k in triplets
    )
    return 25.0 * distance + 50.0 * angles / n**3


def pkt(method: Any, pairs: Features, module: Any, batch: Batch) -> Tensor:
    [(s, t)] = pairs

    def affinities(x: Tensor) -> list[Tensor]:
        x = torch.stack([row / (row.norm() + 1e-7) for row in x])
        return [(a @ x.T / 2 + 0.5) / (a @ x.T / 2 + 0.5).sum() for a in x]

    rows = zip(affinities(s), affinities(t), strict=True)
    return sum((p_t * ((p_t + 1e-7).log() - (p_s + 1e-7).log())).mean() for p_s, p_t in rows) / len(s)


def ft(method: Any, pairs: Features, module: Any, batch: Batch) -> Tensor:
    [(s, t)] = pairs
    s, t = module["translator"](s), module["paraphraser"].encoder(t).detach()
    s, t = halved(s, t), halved(t, s)
    return sum((attention(s[i]) - attention(t[i])).abs().mean() for i in range(len(s))) / len(s)


def nst(method: Any, pairs: Features, module: Any, batch: Batch) -> Tensor:
    total = 0.0
    for s, t in pairs:
        s, t = halved(s, t), halved(t, s)
        for x, y in zip(s, t, strict=True):
            x, y = (F.normalize(f.flatten(1), dim=1) for f in (x, y))
            kernels = [[(a @ b) ** 2 for b in right for a in left] for left, right in ((y, y), (x, x), (x, y))]
            teachers, students, both = (torch.stack(values).mean() for values in kernels)
            total = total + (teachers + students - 2 * both) / len(s)
    return total


def ofd(method: Any, pairs: Features, module: Any, batch: Batch) -> Tensor:
    total = 0.0
    for place, (connector, (s, t)) in enumerate(zip(module, pairs, strict=True)):
        s = connector(s)
        s, t = halved(s, t), halved(t, s)
        target = torch.where(t > connector.margin, t, connector.margin)
        error = torch.where((s <= target) & (target <= 0), torch.zeros_like(s), (s - target) ** 2)
        total = total + error.sum() / len(s) / 2 ** (2 - place)
    return total


def crd(method: Any, pairs: Features, module: Any, batch: Batch) -> Tensor:
    [(s, t)] = pairs
    negatives = module.draw(batch.indices, batch.generator)
    images, m = len(module.labels), method.negatives
    memory = {name: module.get_buffer(f"memory_{name}") for name in ("student", "teacher")}
    e = {
        "student": F.normalize(module.embed_student(s), dim=1),
        "teacher": F.normalize(module.embed_teacher(t), dim=1),
    }
    total = 0.0
    for name, other in (("student", "teacher"), ("teacher", "student")):
        scores = torch.stack([
            torch.stack([(e[name][i] @ memory[other][j] / 0.07).exp() for j in [index, *row]])
            for i, (index, row) in enumerate(zip(batch.indices.tolist(), negatives.tolist(), strict=True))
        ])  # fmt: skip
        z = module.get_buffer(f"z_{name}")
        if z < 0:
            z.fill_(scores.mean().item() * images)
        p = scores / z.item()
        total = total - (p[:, 0] / (p[:, 0] + m / images)).log().sum()
        total = total - (m / images / (p[:, 1:] + m / images)).log().sum()
    for name in memory:
        updated = memory[name].clone()
        for row, index in enumerate(batch.indices.tolist()):
            updated[index] = F.normalize(0.5 * memory[name][index] + 0.5 * e[name][row].detach(), dim=0)
        module.get_buffer(f"memory_{name}").data = updated
    return total / len(s)


REFERENCES: dict[str, Reference] = {
    "fitnet": fitnet, "at": at, "sp": sp, "cc": cc, "vid": vid, "rkd": rkd, "pkt": pkt, "ft": ft, "nst": nst,
    "ofd": ofd, "crd": crd,
}  # fmt: skip


# ---- the stages before --------------------------------------------------------------------------------------------


def boundaries(method: Any, pairs: Features, module: Any, batch: Batch) -> Tensor:
    total = 0.0
    for place, (connector, (s, t)) in enumerate(zip(module["connectors"], pairs, strict=True)):
        s = connector(s)
        wrong = torch.where(t > 0, F.relu(1 - s), F.relu(1 + s))
        total = total + wrong.pow(2).sum() / len(s) * 3 / 1000 / 2 ** (2 - place)
    return total


def paraphraser(method: Any, pairs: Features, module: Any, batch: Batch) -> Tensor:
    t = next(iter(batch.teacher_features.values()))
    return F.mse_loss(module["paraphraser"].decoder(module["paraphraser"].encoder(t)), t)


def flow(method: Any, pairs: Features, module: Any, batch: Batch) -> Tensor:
    total = 0.0
    for (s0, t0), (s1, t1) in itertools.pairwise(pairs):
        grams = [
            torch.einsum("bchw,bdhw->bdc", halved(first, second), second) / second[0, 0].numel()
            for first, second in ((s0, s1), (t0, t1))
        ]
        total = total + F.mse_loss(*grams)
    return total


STAGES: dict[str, Reference] = {"ab": boundaries, "ft": paraphraser, "fsp": flow}


# ---- losses and gradients -----------------------------------------------------------------------------------------


class Teacher(nn.Module):
    """One with a batch norm before the ReLU of each map."""

    def __init__(self) -> None:
        super().__init__()
        self.taps = {name: name for name in TEACHER}
        for name, shape in TEACHER.items():
            self.add_module(name, nn.BatchNorm2d(shape[0]))
            with torch.no_grad():
                self.get_submodule(name).weight.normal_()
                self.get_submodule(name).bias.normal_()


def make_case(name: str, method: Any, taps: Sequence[str]) -> tuple[Batch, list[Tensor]]:
    """A batch with features of noise, and what the loss is differentiated by."""
    torch.manual_seed(0)
    shapes = STUDENT if name == "fsp" else TEACHER  # which must be as wide
    pair = Pair({tap: STUDENT[tap] for tap in taps}, {tap: shapes[tap] for tap in taps}, LABELS, K, Teacher())
    module = method.build(pair)
    if module is not None:
        module = module.double()
    features = {tap: torch.randn(B, *STUDENT[tap], dtype=torch.float64, requires_grad=True) for tap in taps}
    teacher = {tap: torch.randn(B, *shapes[tap], dtype=torch.float64) for tap in taps}
    logits = torch.randn(B, K, dtype=torch.float64), torch.randn(B, K, dtype=torch.float64)
    indices = torch.tensor([7, 2, 11, 3])
    labels = LABELS[indices]
    targets = F.one_hot(labels, K).double()
    batch = Batch(
        logits[0], labels, targets, logits[1], indices=indices, features=features, teacher_features=teacher,
        module=module, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    parameters = list(module.parameters()) if module is not None else []
    return batch, [*features.values(), *parameters]


def assert_same(make: Callable[[bool], tuple[Tensor, list[Tensor]]]) -> None:
    """The loss and all gradients; `make(True)` is the reference."""
    (value, inputs), (expected, same_inputs) = make(False), make(True)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)
    gradients, expected_gradients = (
        torch.autograd.grad(loss, at, allow_unused=True) for loss, at in ((value, inputs), (expected, same_inputs))
    )
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert (gradient is None) == (other is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", [*REFERENCES, "rkd, weighted"])
def test_losses_and_gradients_are_those_of_the_formulas(name):
    knobs = {"weighting": "exp"} if name == "rkd, weighted" else {}
    name = name.partition(",")[0]
    method = small(name, **knobs)

    def make(reference: bool) -> tuple[Tensor, list[Tensor]]:
        batch, inputs = make_case(name, method, method.taps(list(STUDENT)))
        if reference:
            return REFERENCES[name](method, batch.pairs, batch.module, batch), inputs
        loss = method.feature_loss(batch)
        assert loss.shape == (B,)
        return loss.mean(), inputs

    assert_same(make)


@pytest.mark.parametrize("name", STAGES)
def test_losses_and_gradients_of_the_stages_before(name):
    method = small(name)
    stage = method.initial()

    def make(reference: bool) -> tuple[Tensor, list[Tensor]]:
        batch, inputs = make_case(name, method, stage.taps(list(STUDENT)))
        if reference:
            return STAGES[name](method, batch.pairs, batch.module, batch), inputs
        [loss] = stage.loss(batch).values()
        assert loss.shape == (B,)
        return loss.mean(), inputs

    assert_same(make)


# ---- by hand ------------------------------------------------------------------------------------------------------


def feature_loss(name: str, student: Any, teacher: Any, module: Any = None) -> list[float]:
    """L_feature of each example, where one feature of each network is given."""
    method = small(name)
    student, teacher = (torch.tensor(value, dtype=torch.float64) for value in (student, teacher))
    batch = Batch(student, LABELS, student, features={"f": student}, teacher_features={"f": teacher}, module=module)
    return method.feature_loss(batch).tolist()


def test_attention_by_hand():
    """(3² + 4²)/2 at one position and 0 at the other, of length 1: (1, 0). Against (0, 1): (1 + 1)/2."""
    student, teacher = [[[[3.0, 0.0]], [[4.0, 0.0]]]], [[[[0.0, 9.0]]]]
    assert feature_loss("at", student, teacher) == pytest.approx([1.0])


def test_similarities_by_hand():
    """Orthogonal examples against equal ones: rows (1, 0) and (1, 1)/√2."""
    row = (1 - 0.5**0.5) ** 2 + 0.5
    loss = feature_loss("sp", [[1.0, 0.0], [0.0, 7.0]], [[2.0], [2.0]])
    assert loss == pytest.approx([row / 2, row / 2])


def test_relations_by_hand():
    """Three points on a line (distances 1, 1, 2) against an equilateral triangle (1, 1, 1), over their means 4/3 and 1:
    differences -1/4, -1/4 and 1/2. Cosines: 1 at the ends, -1 in the middle, against 1/2 everywhere; 0 between a point
    and itself, for both."""
    student, teacher = [[0.0], [1.0], [2.0]], [[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]]
    quarter, half, angle = 0.5 / 16, 0.5 / 4, (0.5 * 0.25, 1.5 - 0.5)
    distances = [(quarter + half) / 3, 2 * quarter / 3, (quarter + half) / 3]
    angles = [2 * angle[0] / 9, 2 * angle[1] / 9, 2 * angle[0] / 9]
    expected = [25 * d + 50 * a for d, a in zip(distances, angles, strict=True)]
    assert feature_loss("rkd", student, teacher) == pytest.approx(expected)


def test_affinities_by_hand():
    """Examples at 60 degrees, cosines (1, 1/2), against examples at right angles: (1, 3/4)/1.75 and (1, 1/2)/1.5."""
    p_s, p_t = (4 / 7, 3 / 7), (2 / 3, 1 / 3)
    row = sum(t * math.log(t / s) for s, t in zip(p_s, p_t, strict=True)) / 2
    student, teacher = [[2.0, 0.0], [0.5, 0.75**0.5]], [[1.0, 0.0], [0.0, 3.0]]
    assert feature_loss("pkt", student, teacher) == pytest.approx([row, row], rel=1e-4)


def test_correlations_by_hand():
    module = nn.ModuleList([nn.Identity(), nn.Identity()])
    student, teacher = [[3.0, 1.0], [0.0, 2.0], [5.0, 5.0]], [[1.0, 1.0], [4.0, 0.0], [4.0, 6.0]]
    # |Δ| = (2, 0), (4, 2), (1, 1): neighbours give 8 and 6.
    assert feature_loss("cc", student, teacher, module) == pytest.approx([7.0] * 3)


def test_selectivity_by_hand():
    """One channel each, at right angles: K(s, s) = K(t, t) = 1 and K(s, t) = 0."""
    assert feature_loss("nst", [[[[2.0, 0.0]]]], [[[[0.0, 5.0]]]]) == pytest.approx([2.0])
    assert feature_loss("nst", [[[[2.0, 0.0]]]], [[[[9.0, 0.0]]]]) == pytest.approx([0.0])


def test_variance_of_a_perfect_regressor_by_hand():
    class Perfect(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, torch.tensor([[[2.0]]])

    feature = [[[[1.0, 2.0]]]]
    assert feature_loss("vid", feature, feature, [Perfect()]) == pytest.approx([0.5 * math.log(2)])


def test_variance_starts_as_given():
    module = small("vid", variance=3.0).build(Pair({"f1": (2, 4, 4)}, {"f1": (3, 4, 4)}, LABELS, K))
    _, variance = module[0](torch.zeros(1, 2, 4, 4))
    torch.testing.assert_close(variance, torch.full((3, 1, 1), 3.0))


def test_boundaries_by_hand():
    """With margin 1: an active neuron at 0.25 lacks 0.75, one at 2 nothing; an inactive one at -0.5 exceeds by 0.5."""
    batch, _ = make_case("ab", small("ab"), ["f1_pre"])
    batch.features = {"f1_pre": torch.tensor([[[[0.25, 2.0, -0.5, -3.0]]]])}
    batch.teacher_features = {"f1_pre": torch.tensor([[[[1.0, 1.0, -1.0, -1.0]]]])}
    assert small("ab").boundary_loss(batch)["boundaries"].tolist() == pytest.approx([0.003 * (0.75**2 + 0.5**2)])


def test_margins_are_the_means_of_negative_values():
    """Half of N(0, σ²) is negative, -σ·√(2/π) on average; of N(10, 1) less than a thousandth: three σ below 0."""
    found = margins(torch.tensor([0.0, 10.0, -30.0, 0.5]), torch.tensor([2.0, 1.0, -1.0, 1.0]))
    values = 0.5 + torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    mean = values[values < 0].mean().item()
    assert found.tolist() == pytest.approx([-2 * math.sqrt(2 / math.pi), -3.0, -30.0, mean], rel=0.01)


@pytest.mark.parametrize(
    ("student", "teacher", "kernel"), [(8, 4, (3, 3)), (4, 8, (4, 4)), (8, 8, (1, 1)), (8, 6, (3, 3)), (9, 4, (6, 6))]
)
def test_regressors_reach_the_teachers_shape(student, teacher, kernel):
    module = regressor((2, student, student), (5, teacher, teacher), relu=True)
    assert module(torch.randn(2, 2, student, student)).shape == (2, 5, teacher, teacher)
    assert module[0].kernel_size == kernel


# ---- whole trainings ----------------------------------------------------------------------------------------------

NARROW, WIDE = (CifarResNetArch(depth=8, stem=4, widths=widths) for widths in ((4, 6, 8), (4, 8, 10)))
SPEC = Spec("noise", "Noise", K, (3, 12, 12), N, 6, tuple("abc"), digest="")
PARTS = {
    name: Part(
        torch.randint(256, (n, 3, 12, 12), generator=torch.Generator().manual_seed(n)).byte(), torch.arange(n) % K
    )
    for name, n in (("train", N), ("test", 6))
}


def resnet_features(network: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Its logits and features, step by step."""
    features = {"f0": (x := network.stem(x))}
    for number in (1, 2, 3):
        [block] = network.get_submodule(f"stage{number}")
        residual = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
        features[f"f{number}_pre"] = before = residual + block.shortcut(x)
        features[f"f{number}"] = x = F.relu(before)
    features["pool"] = x = x.mean((2, 3))
    return network.head(x), features


@pytest.mark.parametrize("name", [*REFERENCES, "ab", "fsp"])
def test_a_training_is_that_of_a_plain_loop(name):
    """An epoch of the stage before, if there is one, and one of the training proper, of 3 steps each."""
    method = small(name, **({"initial_lr": 0.02} if name == "ft" else {}))
    recipe = Recipe(lr=0.05, batch_size=4, epochs=1, momentum=0.9, weight_decay=WeightDecay(1e-2))
    teacher_arch = Named("resnet8", NARROW if name == "fsp" else WIDE)
    teacher_run = Run(Dataset("noise"), teacher_arch, Named("ce", METHODS["ce"]), recipe)
    run = Run(Dataset("noise"), Named("resnet8", NARROW), Named(name, method), recipe, seed=1, teacher=teacher_run)
    teacher = build_network(teacher_run, SPEC).eval()
    generator = torch.Generator().manual_seed(seed_for(1, "dropout"))
    network = build_network(run, SPEC)
    stage = method.initial()

    shapes = []
    for each in (network, teacher):
        with torch.no_grad():
            _, features = resnet_features(each.eval(), torch.zeros(1, 3, 12, 12))
        shapes.append({tap: tuple(value.shape[1:]) for tap, value in features.items()})
    taps = (stage or method).taps(list(shapes[0]))
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(1, "method"))
        module = method.build(Pair(*({tap: shape[tap] for tap in taps} for shape in shapes), LABELS, K, teacher))
    own = [] if module is None else list(module.parameters())
    stem = [p for n, p in network.named_parameters() if not n.startswith("head")]

    for of in (["initial "] if stage else []) + [""]:
        reference = STAGES[name] if of else REFERENCES.get(name)
        network.train(not of or stage.student is not None)
        trained = [*network.parameters(), *own]
        if of:
            trained = list(module["paraphraser"].parameters()) if name == "ft" else [*stem, *own]
        lr = 0.02 if name == "ft" and of else 0.05
        sgd = torch.optim.SGD(trained, lr, momentum=0.9, weight_decay=1e-2)
        order = torch.randperm(N, generator=generator_for(1, f"{of}shuffle", 0))
        for chosen in order.split(4):
            x, y = PARTS["train"].images[chosen] / 255, PARTS["train"].labels[chosen]
            logits, features = resnet_features(network, x)
            with torch.no_grad():
                teacher_logits, teacher_features = resnet_features(teacher, x)
            batch = Batch(
                logits, y, F.one_hot(y, K).float(), teacher_logits, indices=chosen, module=module, generator=generator,
                features={tap: features[tap] for tap in taps},
                teacher_features={tap: teacher_features[tap] for tap in taps},
            )  # fmt: skip
            loss = 0.0 if of else F.cross_entropy(logits, y)
            if reference is not None:
                loss = loss + (1.0 if of else method.weight) * reference(method, batch.pairs, module, batch)
            sgd.zero_grad()
            loss.backward()
            sgd.step()

    outcome = train(run, SPEC, PARTS, build_network(teacher_run, SPEC), shared=Shared(torch.device("cpu")))
    for key, value in outcome.network.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[key], rtol=2e-3, atol=2e-4, msg=key)
    start = build_network(run, SPEC).state_dict()["head.weight"]
    assert (outcome.network.head.weight - start).abs().max() > 1e-2  # far more than the tolerance


# ---- knobs, and draws ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        *((name, {"initial_epochs": 0}) for name in ("ab", "ft", "fsp")),
        ("ft", {"rate": 0.0}), ("ft", {"initial_lr": 0.0}), ("cc", {"dimensions": 0}), ("vid", {"variance": 0.0}),
        ("crd", {"negatives": 0}), ("crd", {"dimensions": 0}), ("crd", {"nce_temperature": 0.0}),
        ("crd", {"momentum": 1.0}), ("ab", {"margin": -1.0}), ("ofd", {"weight": math.inf}), ("at", {"kd": -1.0}),
    ],
)  # fmt: skip
def test_knobs_out_of_range(name, knobs):
    [(knob, value)] = knobs.items()
    with pytest.raises(InputError, match=f"{knob} = {value}: must be"):
        dataclasses.replace(METHODS[name], **knobs)


def test_negatives_are_other_images_of_other_classes_all_equally_often():
    pair = Pair({"pool": (5,)}, {"pool": (7,)}, LABELS, K)
    contrast = small("crd", negatives=6).build(pair)
    generator = torch.Generator().manual_seed(0)
    indices = torch.tensor([0, 4])
    drawn = torch.stack([contrast.draw(indices, generator) for _ in range(400)])  # (400, 2, 6) of 8 candidates
    assert (LABELS[drawn] != LABELS[indices][:, None]).all()
    assert all(len(set(row)) == 6 for row in drawn.flatten(0, 1).tolist())
    counts = torch.stack([drawn[:, row].flatten().bincount(minlength=N) for row in (0, 1)])
    share = counts[LABELS[indices][:, None] != LABELS].double() / 400
    assert share.tolist() == pytest.approx([6 / 8] * 16, abs=0.08)


def test_more_negatives_than_there_are_are_refused():
    with pytest.raises(InputError, match="negatives = 9: must be <= 8, the images of other classes"):
        small("crd", negatives=9).build(Pair({"pool": (5,)}, {"pool": (7,)}, LABELS, K))
