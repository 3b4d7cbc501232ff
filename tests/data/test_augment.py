"""Augmentation against torchvision, pixel by pixel, and normalisation against its definitions."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from lskd.data.augment import Augment, Normalize
from lskd.data.images import Normalizer, Resident, centre
from lskd.errors import InputError


def draw_images(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- views --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "augment", "count"),
    [
        ((3, 32, 32), Augment(pad=4, crop=32, flip=True), 162),
        ((3, 32, 32), Augment(pad=4, flip=True), 162),
        ((3, 32, 32), Augment(pad=4, padding="reflect", flip=True), 162),
        ((3, 32, 32), Augment(crop=24, flip=True), 162),
        ((1, 28, 28), Augment(pad=2), 25),
        ((1, 28, 28), Augment(pad=2, padding="reflect"), 25),
        ((3, 8, 8), Augment(flip=True), 2),
        ((3, 8, 8), Augment(), 1),
        ((3, 8, 8), Augment(pad=2, crop=12), 1),
        ((3, 8, 8), Augment(pad=2, crop=11, flip=True), 8),
        ((2, 7, 7), Augment(pad=1, crop=5, flip=True), 50),
        ((1, 3, 3), Augment(pad=5), 121),
        ((3, 6, 9), Augment(pad=2, flip=True), 50),
        ((3, 6, 9), Augment(pad=2, padding="reflect", crop=5, flip=True), 108),
        ((2, 9, 4), Augment(crop=3), 14),
    ],
)
def test_every_view_is_torchvisions(shape, augment, count):
    images = draw_images(2, *shape)
    views = Resident(images, augment)
    assert views.views == count
    mode = {"zero": "constant", "reflect": "reflect"}[augment.padding]
    padded = tv.pad(images, [augment.pad], padding_mode=mode)
    height, width = augment.crop or shape[1], augment.crop or shape[2]
    rows, columns = padded.shape[-2] - height + 1, padded.shape[-1] - width + 1

    expected = []  # in the order of the views' numbers
    for row, column in product(range(rows), range(columns)):
        window = tv.crop(padded, row, column, height, width)
        expected += [window, tv.hflip(window)] if augment.flip else [window]
    expected = torch.stack(expected, dim=1).flatten(0, 1)  # (2 · count, C, h, w)

    indices, numbers = torch.arange(2).repeat_interleave(count), torch.arange(count).repeat(2)
    seen = views.take(indices, numbers)
    assert seen.dtype == torch.uint8
    assert torch.equal(seen, expected)


def test_a_batch_may_mix_images_and_views():
    images, augment = draw_images(5, 3, 6, 6), Augment(pad=1, flip=True)
    views = Resident(images, augment)
    indices, numbers = torch.tensor([4, 0, 4, 2]), torch.tensor([17, 3, 0, 8])
    one_by_one = [views.take(indices[i : i + 1], numbers[i : i + 1]) for i in range(4)]
    assert torch.equal(views.take(indices, numbers), torch.cat(one_by_one))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_may_be_a_part_of_others(channels):
    """Whose memory they share."""
    images, augment = draw_images(7, channels, 6, 6), Augment(crop=4, flip=True)
    indices, numbers = torch.tensor([0, 2, 2, 1]), torch.tensor([0, 17, 8, 9])
    expected = Resident(images[3:6].clone(), augment).take(indices, numbers)
    assert torch.equal(Resident(images[3:6], augment).take(indices, numbers), expected)
    assert torch.equal(Resident(images, augment).take(indices + 3, numbers), expected)


def test_a_batch_is_taken_by_few_operators(operators):
    """Each of them costs a small network as much as its mathematics does."""
    views = Resident(draw_images(5, 3, 6, 6), Augment(pad=1, flip=True))
    indices = torch.arange(4)
    with operators() as ran:
        taken = views.take(indices, indices)
    assert taken.is_contiguous()
    assert sum(not func.is_view for func in ran.calls) <= 5


def test_images_are_left_as_they_are():
    images = draw_images(3, 3, 6, 6)
    before = images.clone()
    Resident(images, Augment(pad=2, padding="reflect", flip=True)).take(torch.arange(3), torch.arange(3))
    assert torch.equal(images, before)


def test_many_images_are_reflected_in_pieces():
    """More than one piece of 4,096 images."""
    images, augment = draw_images(5000, 1, 3, 3), Augment(pad=1, padding="reflect")
    assert torch.equal(Resident(images, augment).images, tv.pad(images, [1], padding_mode="reflect"))


def test_all_views_are_equally_likely_and_flips_independent_of_crops():
    """Read off the pixels: in an image of the values 1 2 / 3 4, each of the 18 views is another picture."""
    image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
    augment, draws = Augment(pad=1, flip=True), 18_000
    pictures = Resident(image, augment).take(torch.zeros(18, dtype=torch.int64), torch.arange(18)).flatten(1)
    assert len(pictures.unique(dim=0)) == 18

    views = Resident(image.expand(draws, -1, -1, -1), augment)
    seen = views.take(torch.arange(draws), views.draw(generator())).flatten(1)
    counts = (seen[:, None] == pictures).all(-1).sum(0)
    assert counts.sum() == draws
    assert chisquare(counts.numpy()).pvalue > 0.01
    assert chi2_contingency(counts.view(9, 2).numpy()).pvalue > 0.01


def test_views_of_the_usual_pipeline_are_equally_likely():
    views = Resident(torch.zeros(81_000, 1, 1, 1, dtype=torch.uint8), Augment(pad=4, flip=True))
    numbers = torch.cat([views.draw(generator(seed)) for seed in range(2)])
    counts = np.bincount(numbers.numpy(), minlength=162)
    assert len(counts) == 162
    assert chisquare(counts).pvalue > 0.01


def test_views_of_one_image_in_successive_epochs_are_independent():
    views = Resident(torch.zeros(20_000, 1, 1, 1, dtype=torch.uint8), Augment(pad=1))
    first, second = views.draw(generator(0)), views.draw(generator(1))
    table = np.bincount((9 * first + second).numpy(), minlength=81).reshape(9, 9)
    assert chi2_contingency(table).pvalue > 0.01


def test_views_are_drawn_from_the_generator_alone():
    views = Resident(draw_images(50, 1, 4, 4), Augment(pad=2, flip=True))
    torch.manual_seed(0)
    first = views.draw(generator(3))
    torch.manual_seed(1)
    assert torch.equal(first, views.draw(generator(3)))
    assert not torch.equal(first, views.draw(generator(4)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_views_are_the_same_on_cuda():
    images, augment = draw_images(50, 3, 6, 6), Augment(pad=2, padding="reflect", flip=True)
    here, there = Resident(images, augment), Resident(images.cuda(), augment)
    numbers = there.draw(generator())
    assert numbers.is_cuda
    assert torch.equal(here.draw(generator()), numbers.cpu())
    taken = there.take(torch.arange(50, device="cuda"), numbers)
    assert torch.equal(here.take(torch.arange(50), numbers.cpu()), taken.cpu())


# ---- evaluation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "augment"),
    [((3, 32, 32), Augment(crop=24)), ((1, 28, 28), Augment(pad=2, crop=20)), ((2, 10, 6), Augment(crop=4, flip=True))],
)
def test_evaluation_is_on_the_centre(shape, augment):
    images = draw_images(3, *shape)
    assert torch.equal(centre(images, augment), tv.center_crop(images, [augment.crop]))


def test_an_odd_margin_leaves_more_at_the_bottom_right():
    image = torch.arange(25, dtype=torch.uint8).view(1, 1, 5, 5)
    assert centre(image, Augment(crop=2)).flatten().tolist() == [6, 7, 11, 12]


@pytest.mark.parametrize("augment", [Augment(), Augment(pad=4, flip=True), Augment(pad=4, crop=9, flip=True)])
def test_evaluation_is_on_the_whole_image_unless_it_is_cropped(augment):
    images = draw_images(2, 3, 9, 9)
    assert torch.equal(centre(images, augment), images)


def test_evaluation_of_images_that_are_not_square():
    images = draw_images(2, 3, 6, 9)
    assert torch.equal(centre(images, Augment(pad=2)), images)


@pytest.mark.parametrize("padding", ["zero", "reflect"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 8, 10), (3, 7, 9)])
@pytest.mark.parametrize("crop", [8, 9, 10, 11, 12])
def test_what_is_evaluated_is_one_of_the_views(shape, crop, padding):
    """Also where the crop is larger than the image, and only padding makes it fit."""
    images = draw_images(2, *shape)
    augment = Augment(pad=3, crop=crop, padding=padding)
    views = Resident(images, augment)
    row, column = (views.rows - 1) // 2, (views.columns - 1) // 2
    middle = torch.full((2,), row * views.columns + column)
    assert torch.equal(centre(images, augment), views.take(torch.arange(2), middle))


# ---- normalisation ------------------------------------------------------------------------------------------------


def test_no_normalisation_is_a_scale_to_one():
    images = draw_images(4, 3, 5, 6)
    expected = v2.ToDtype(torch.float32, scale=True)(images)
    torch.testing.assert_close(Normalizer(Normalize(), images)(images), expected, rtol=1e-6, atol=1e-7)


def test_fixed_normalisation_is_torchvisions():
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    images = draw_images(4, 3, 5, 6)
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])(images)
    ours = Normalizer(Normalize("fixed", mean=mean, std=std), images[:1])(images)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalisation_by_the_training_set(channels):
    train, test = draw_images(20, channels, 5, 6), draw_images(4, channels, 5, 6, seed=1)
    pixels = train.numpy().astype(np.float64) / 255
    mean, std = (pixels.mean((0, 2, 3), keepdims=True), pixels.std((0, 2, 3), keepdims=True))
    normalizer = Normalizer(Normalize("dataset"), train)
    for images in (train, test):
        expected = torch.from_numpy((images.numpy() / 255 - mean) / std).float()
        torch.testing.assert_close(normalizer(images), expected, rtol=1e-5, atol=1e-5)


def test_a_constant_channel_normalised_by_the_training_set_is_zero():
    train = draw_images(20, 2, 4, 4)
    train[:, 1] = 77
    test = draw_images(2, 2, 4, 4, seed=1)
    normalizer = Normalizer(Normalize("dataset"), train)
    assert normalizer(train)[:, 1].abs().max() < 1e-6
    assert normalizer(test)[:, 1].abs().max() <= 1  # no more than the pixels differ by


def per_image_standardization(image: np.ndarray) -> np.ndarray:
    """tf.image.per_image_standardization: (x - mean) / max(stddev, 1/sqrt(N)), over all N values of the image."""
    values = [float(value) for value in image.flatten()]
    n = len(values)
    mean = sum(values) / n
    stddev = math.sqrt(sum((value - mean) ** 2 for value in values) / n)
    return np.array([(value - mean) / max(stddev, 1 / math.sqrt(n)) for value in values]).reshape(image.shape)


def test_per_image_normalisation_is_tensorflows():
    images = draw_images(5, 3, 6, 7)
    images[1] = 200  # no contrast: 0, not a division by 0
    images[2] = 0
    images[3] = 128
    images[3, 0, 0, 0] = 129  # less contrast than the least that is divided by
    ours = Normalizer(Normalize("per_image"), images[:1])(images)
    expected = np.stack([per_image_standardization(image) for image in images.numpy()])
    torch.testing.assert_close(ours, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-4)
    assert torch.equal(ours[1:3], torch.zeros_like(ours[1:3]))


# ---- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Augment(pad=-1), "pad = -1: must be >= 0"),
        (lambda: Augment(crop=-2), "crop = -2: must be >= 0"),
        (lambda: Augment(crop=9).check(8, 12), "crop = 9: must be at most 8"),
        (lambda: Augment(pad=2, crop=13).check(8, 12), "crop = 13: must be at most 12"),
        (lambda: Augment(pad=8, padding="reflect").check(8, 12), "pad = 8: must be < 8"),
        (lambda: Resident(draw_images(1, 1, 8, 8), Augment(crop=9)), "crop = 9: must be at most 8"),
        (lambda: Normalize("fixed"), r"mean = \[\], std = \[\]: kind=fixed needs one of each a channel"),
        (lambda: Normalize("fixed", mean=(0.5,), std=(0.1, 0.2)), "kind=fixed needs one of each a channel"),
        (lambda: Normalize("dataset", mean=(0.5,), std=(0.1,)), "only kind=fixed takes them"),
        (lambda: Normalize("fixed", mean=(0.5,), std=(0.0,)), r"std = \[0.0\]: must be > 0"),
        (
            lambda: Normalizer(Normalize("fixed", mean=(0.5,), std=(0.1,)), draw_images(1, 3, 4, 4)),
            r"mean = \[0.5\]: the images have 3 channels",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_largest_values_that_can_be_are_accepted():
    Augment(pad=2, crop=12).check(8, 12)
    Augment(pad=7, padding="reflect").check(8, 12)
