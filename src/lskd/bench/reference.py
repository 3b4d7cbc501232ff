"""The loop that is usual in public code for distillation (RepDistiller, mdistiller), to compare lskd's with.

It is written here in their manner, and as well as they are: DataLoader workers that crop and flip one PIL image at a
time, NCHW in fp32 (in bf16 by autocast), the teacher's forward in every step, torch's SGD, and meters that wait for the
device in every step.

With `draws` it shows the student the very images that lskd's own loop shows it: then the two must train alike, and that
they do is a check of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms
from torchvision.transforms import functional as TF

from lskd.data.augment import Augment
from lskd.data.images import ImageSource, Normalizer
from lskd.engine.seeds import generator_for
from lskd.errors import require
from lskd.methods.ce import CE
from lskd.methods.kd import KD
from lskd.run import Run
from lskd.targets.label_smoothing import LabelSmoothing

# epoch -> the order of the examples (N,), and the number of the view through which each image (N,) is seen
Draws = Callable[[int], tuple[Tensor, Tensor]]
Transform = Callable[[Image.Image], Tensor]


def check(run: Run) -> None:
    """`InputError` unless this loop can express `run`."""
    recipe, method, target = run.recipe, run.method.settings, run.target.settings
    require(type(method) in (CE, KD), "method", run.method.name, "ce or kd for the usual loop")
    require(type(target) is LabelSmoothing, "target", run.target.name, "label_smoothing for the usual loop")
    for name, value, plain in (
        ("recipe.dampening", recipe.dampening, 0.0),
        ("recipe.lr_factors", recipe.lr_factors, {}),
        ("recipe.clip_norm", recipe.clip_norm, None),
        ("recipe.weight_decay.to", recipe.weight_decay.to, "all"),
        ("target.mass", getattr(target, "mass", "all"), "all"),
        ("teacher_mode", run.teacher_mode, "eval"),
    ):
        require(value == plain, name, value, f"{plain} for the usual loop")
    require(recipe.normalize.kind != "per_image", "recipe.normalize.kind", "per_image", "another for the usual loop")


class UsualLoop:
    """The training of `student` as `run` says. `step` makes one update. TF32 is a switch of the process, which is not
    set here; bf16 is `autocast`, at first as the run's precision has it.

    `images` (N, C, H, W) uint8 and `labels` (N,) are on the CPU. Without `draws`, examples are shuffled, cropped and
    flipped by torchvision's random transforms.
    """

    def __init__(
        self,
        run: Run,
        student: nn.Module,
        teacher: nn.Module | None,
        images: Tensor,
        labels: Tensor,
        device: torch.device,
        *,
        workers: int,
        draws: Draws | None = None,
    ) -> None:
        check(run)
        recipe = run.recipe
        self.run, self.device = run, device
        self.student = student.to(device)
        self.teacher = None if teacher is None else teacher.to(device).requires_grad_(False).eval()
        self.steps_per_epoch, self.total_steps = recipe.steps_per_epoch(len(images)), recipe.total_steps(len(images))
        self.step_number = 0
        self.autocast = recipe.precision == "bf16"
        self.order = None if draws is None else Order(draws)
        self.loader = make_loader(run, images, labels, self.order, workers=workers, pinned=device.type == "cuda")
        self.optimizer = torch.optim.SGD(
            self.student.parameters(),
            recipe.lr,
            recipe.momentum,
            weight_decay=recipe.weight_decay.rate,
            nesterov=recipe.nesterov,
        )
        self.meters = {"loss": 0.0, "top1": 0.0, "top5": 0.0}  # of the last step
        self._batches: Iterator[tuple[Tensor, Tensor]] = iter(())

    def step(self) -> int:
        """One update; the number of its images."""
        recipe = self.run.recipe
        if self.step_number % self.steps_per_epoch == 0:
            if self.order is not None:
                self.order.epoch = self.step_number // self.steps_per_epoch
            self._batches = iter(self.loader)
            self.student.train()
        factor = recipe.schedule.at(
            self.step_number, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch
        )
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr * factor

        pixels, labels = next(self._batches)
        pixels, labels = pixels.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            logits = self.student(pixels)
            taught = None
            if self.teacher is not None:
                with torch.no_grad():
                    taught = self.teacher(pixels)
            loss = recipe.loss_scale * self.loss(logits, labels, taught)
        top1, top5 = accuracies(logits, labels)
        self.meters = {"loss": loss.item(), "top1": top1.item(), "top5": top5.item()}
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step_number += 1
        return len(labels)

    def loss(self, logits: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
        """The run's loss, as such codes write it: see `KD` for its conventions."""
        target = self.run.target.settings
        assert isinstance(target, LabelSmoothing)
        hard = F.cross_entropy(logits, labels, label_smoothing=target.alpha)
        if taught is None:
            return hard
        kd = self.run.method.settings
        assert isinstance(kd, KD)
        p_t = F.softmax(taught / kd.temperature, dim=1)
        logits = logits / (kd.temperature if kd.student_t == "same" else 1.0)
        if kd.divergence == "kl":
            soft = F.kl_div(F.log_softmax(logits, dim=1), p_t, reduction="batchmean")
        else:
            soft = F.cross_entropy(logits, p_t)
        if kd.t_squared:
            soft = soft * kd.temperature**2
        return (1.0 - kd.beta if kd.weights == "complement" else 1.0) * hard + kd.beta * soft


def accuracies(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Top-1 and top-5 accuracy in %."""
    _, best = logits.topk(min(5, logits.shape[1]), dim=1)  # (B, 5)
    correct = best.t().eq(labels.view(1, -1).expand_as(best.t()))  # (5, B)
    top1, top5 = (correct[:k].reshape(-1).float().sum() * (100.0 / len(labels)) for k in (1, 5))
    return top1, top5


# ---- data ---------------------------------------------------------------------------------------------------------


def draws_of(run: Run, source: ImageSource) -> Draws:
    """What lskd's own loop draws for `run` on the images of `source`."""

    def draw(epoch: int) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(source), generator=generator_for(run.data_stream, "shuffle", epoch))
        return order, source.draw(generator_for(run.data_stream, "augment", epoch))

    return draw


def make_loader(
    run: Run,
    images: Tensor,
    labels: Tensor,
    order: Iterable[tuple[int, int]] | None,
    *,
    workers: int,
    pinned: bool = False,
) -> DataLoader[tuple[Tensor, int]]:
    """Batches of fp32 images (B, C, h, w) and labels (B,): random ones, or those of `order`: (index, view) of each."""
    augment = run.recipe.augment
    augment.check(*images.shape[-2:])
    last = [transforms.ToTensor(), *normalization(run, images)]
    dataset: Dataset[tuple[Tensor, int]]
    if order is None:
        dataset = Pictures(images, labels, transforms.Compose([*random_view(augment, images), *last]))
    else:
        dataset = ChosenViews(images, labels, transforms.Compose(last), augment)
    return DataLoader(
        dataset, run.recipe.batch_size, shuffle=True if order is None else None, sampler=order, num_workers=workers,
        pin_memory=pinned, persistent_workers=workers > 0,
    )  # fmt: skip


def random_view(augment: Augment, images: Tensor) -> list[Any]:
    """torchvision's transforms that `augment` stands for."""
    size = (augment.crop or images.shape[2], augment.crop or images.shape[3])
    steps: list[Any] = []
    if augment.pad or augment.crop:
        steps.append(transforms.RandomCrop(size, augment.pad or None, padding_mode=padding_mode(augment)))
    if augment.flip:
        steps.append(transforms.RandomHorizontalFlip())
    return steps


def chosen_view(image: Image.Image, augment: Augment, number: int) -> Image.Image:
    """`image` through the view `number`, as `lskd.data.images.Resident` numbers them."""
    width, height = image.size
    corner, flipped = divmod(number, 2 if augment.flip else 1)
    crop_width = augment.crop or width
    row, column = divmod(corner, width + 2 * augment.pad - crop_width + 1)
    if augment.pad:
        image = TF.pad(image, augment.pad, padding_mode=padding_mode(augment))
    image = TF.crop(image, row, column, augment.crop or height, crop_width)
    return TF.hflip(image) if flipped else image


def padding_mode(augment: Augment) -> str:
    return "constant" if augment.padding == "zero" else augment.padding


def normalization(run: Run, images: Tensor) -> list[transforms.Normalize]:
    """What follows ToTensor, which divides by 255."""
    normalize = run.recipe.normalize
    if normalize.kind == "none":
        return []
    if normalize.kind == "fixed":
        return [transforms.Normalize(normalize.mean, normalize.std)]
    constants = Normalizer(normalize, images)
    std = 1 / (255 * constants.scale.flatten())
    return [transforms.Normalize((-constants.shift.flatten() * std).tolist(), std.tolist())]


class Pictures(Dataset[tuple[Tensor, int]]):
    """As torchvision's CIFAR and MNIST classes: arrays in memory, of which each example becomes a PIL image."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Transform) -> None:
        rows = images.permute(0, 2, 3, 1).contiguous().numpy()  # (N, H, W, C)
        self.images = rows[..., 0] if rows.shape[-1] == 1 else rows
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class ChosenViews(Dataset[tuple[Tensor, int]]):
    """The same, of examples named by their index and the number of a view."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Transform, augment: Augment) -> None:
        self.pictures = Pictures(images, labels, transform)
        self.augment = augment

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        index, number = key
        image = Image.fromarray(self.pictures.images[index])
        return self.pictures.transform(chosen_view(image, self.augment, number)), self.pictures.labels[index]


class Order(Sampler[tuple[int, int]]):
    """The (index, view) of each example, in the order drawn for `epoch`."""

    def __init__(self, draws: Draws) -> None:
        self.draws, self.epoch = draws, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order, views = self.draws(self.epoch)
        return iter(zip(order.tolist(), views[order].tolist(), strict=True))
