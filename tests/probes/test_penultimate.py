"""The projection on the plane of three templates, and the measures of its clusters."""

from __future__ import annotations

import math

import pytest
import torch

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
