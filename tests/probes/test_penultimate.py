"""The projection on the plane of three templates, and the measures of its clusters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lskd.data import DATASETS
from lskd.errors import InputError
from lskd.probes.penultimate import Penultimate, clusters, project


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_templates_on_the_axes_give_the_activations_themselves():
    templates = torch.tensor([[0.0, 0, 0, 0], [2, 0, 0, 0], [1, 3, 0, 0]], dtype=torch.float64)
    activations = torch.tensor([[5.0, -7, 11], [1, 2, 3]], dtype=torch.float64)
    points, corners = project(activations, templates)
    assert points.tolist() == [[pytest.approx(5), pytest.approx(-7)], [pytest.approx(1), pytest.approx(2)]]
    assert corners.flatten().tolist() == pytest.approx([0, 0, 2, 0, 1, 3])


def test_distances_of_templates_and_differences_of_logits_survive_the_projection():
    """Both lie in the plane: |w̃_i - w̃_j| is a length in it, and x̃ᵀ(w̃_i - w̃_j) the product with a vector of it."""
    activations, templates = random(20, 7), random(3, 8, seed=1)
    points, corners = project(activations, templates)
    torch.testing.assert_close(torch.pdist(corners), torch.pdist(templates))
    logits = torch.cat([activations, torch.ones(20, 1, dtype=torch.float64)], 1) @ templates.T
    for i, j in ((0, 1), (1, 2), (2, 0)):
        torch.testing.assert_close(points @ (corners[i] - corners[j]), logits[:, i] - logits[:, j])


def test_what_is_orthogonal_to_the_plane_does_not_show():
    activations, templates = random(20, 7), random(3, 8, seed=1)
    templates[:, -1] = 0.25  # one bias for all: the plane has no share of it
    sides = (templates[1:] - templates[0])[:, :-1]
    off = random(7, seed=2)
    off -= torch.linalg.lstsq(sides.T, off[:, None]).solution.squeeze(1) @ sides
    torch.testing.assert_close(project(activations + off, templates)[0], project(activations, templates)[0])


def test_an_arc_is_thin_and_an_even_scatter_is_not():
    """Points at one distance from the third class's mean have no radial spread; of an isotropic cloud far away from it
    the radial spread is the tangential one; twice as much of one of them doubles or halves the measure."""
    triangle = torch.eye(3, 2, dtype=torch.float64)
    third, angles = torch.tensor([[1.0, 1], [3, 1]], dtype=torch.float64), torch.linspace(-1, 1, 9, dtype=torch.float64)

    def thickness(points: torch.Tensor) -> float:
        return float(
            clusters([points[::2] + third.mean(0), points[1::2] + third.mean(0), third], triangle)["arc_thickness"]
        )

    assert thickness(5 * torch.stack([angles.sin(), angles.cos()], 1)) == pytest.approx(0, abs=1e-12)
    square = torch.cartesian_prod(angles, angles)
    for stretch in (0.5, 1.0, 2.0):
        away = square * torch.tensor([stretch, 1.0]) + torch.tensor([3000.0, 0])
        assert thickness(away) == pytest.approx(stretch, rel=1e-3)
        assert thickness(away @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]]).double()) == pytest.approx(stretch, rel=1e-3)


def test_measures_of_hand_made_clusters():
    """Each class is two points at distance 1 from its mean; means and templates are equilateral with sides 6 and 3."""
    triangle = torch.tensor([[0.0, 0], [1, 0], [0.5, math.sqrt(3) / 2]], dtype=torch.float64)
    points = [
        torch.stack([6 * corner - offset, 6 * corner + offset]) for corner in triangle for offset in [triangle[1]]
    ]
    measured = clusters(points, 3 * triangle)
    assert measured["cluster_spread"] == pytest.approx(1 / 3)
    assert measured["cluster_overlap"] == pytest.approx(1 / 6)
    # Around the common mean: 1 within classes, and 6/√3 from it to each class's mean.
    assert measured["projection_scale"] == pytest.approx(math.sqrt(1 + 36 / 3))
    assert measured["points"][1] == [[5, 0], [7, 0]]
    assert measured["templates"][1] == [3, 0]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("airplane", "automobil", "bird"), "classes = 'automobil': did you mean 'automobile'? allowed: airplane, "),
        (("airplane", "bird"), "must be three classes of cifar10"),
        (("airplane", "bird", "bird"), "must be different classes of cifar10"),
    ],
)
def test_a_triple_that_the_data_does_not_have_is_an_error(classes, message):
    with pytest.raises(InputError) as error:
        Penultimate(classes=classes).check(DATASETS["cifar10"].spec)
    assert message in str(error.value)


class Chain(nn.Module):
    """The next token's logits from the token before it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(tokens))


def test_of_a_translation_the_first_places_of_each_word_are_seen() -> None:
    """Words as they stand within a sentence; once all are there, nothing more is looked at."""
    words = {" der": [3], " die": [4], " das": [5], " Donaudampfschiff": [1, 2]}
    vocabulary = SimpleNamespace(encode=lambda lines: [words[line] for line in lines])
    network, labels = Chain().eval(), torch.tensor([[3, 4, 0, 3], [5, 5, 4, 3], [4, 3, 5, 4]])
    before, shown = torch.arange(12).remainder(6).view(3, 4), []

    def outputs(part: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for piece, told in zip(before, labels, strict=True):
            shown.append(part)
            yield network(piece), told

    scene: Any = SimpleNamespace(
        network=network, outputs=outputs, evaluated="test", class_names=(),
        parts=dict.fromkeys(("train", "test"), SimpleNamespace(vocabulary=vocabulary)),
    )  # fmt: skip
    with torch.no_grad():
        seen = Penultimate(classes=("der", "die", "das"), examples=2).measure(scene)
    assert shown == ["train", "train", "test", "test"]
    places = [before[labels == token][:2] for token in (3, 4, 5)]  # each twice in the first two pieces
    activations = network.body.weight.detach().double()[torch.cat(places)]
    templates = nn.functional.pad(network.head.weight.detach().double()[3:], (0, 1))
    points, _ = project(activations, templates)
    for part in ("train", "test"):
        assert torch.tensor(seen[part]["points"]).view(-1, 2).tolist() == [
            pytest.approx(point, rel=1e-4, abs=1e-6) for point in points.tolist()
        ]
    with pytest.raises(InputError, match=r"probe.classes = 'Donaudampfschiff': must be a word that is one token .* 2"):
        Penultimate(classes=("der", "die", "Donaudampfschiff"), examples=2).measure(scene)
