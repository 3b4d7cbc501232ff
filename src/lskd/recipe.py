"""A recipe: a paper's training protocol as data. Every convention on which papers and codes disagree is a field."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from lskd.data.augment import Augment, Normalize, ResizedCrop
from lskd.errors import InputError, require

# A field with this metadata says something about the run and cannot change its numbers: it is not part of the identity.
NOT_IDENTITY = {"identity": False}


AS_IS = "as_is"  # the recipe of a network that is not trained


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the training, as a factor of `lr`.

    constant: 1. step: `factor`^(milestones passed). exponential: `factor`^(times that `every` has passed), TensorFlow's
    staircase. linear: 1 - progress (0 at the end). cosine: ½(1 + cos(π·progress)). A warm-up multiplies the first
    `warmup` steps by (step+1)/warmup. inverse_sqrt (Vaswani et al. 2017): after the warm-up √(warmup/(step+1)), so that
    `lr` is reached at its end, and is the highest. `milestones`, `every` and `warmup` are counted in `unit`; linear,
    cosine and inverse_sqrt change at every step.

    reset_momentum: (step) momentum buffers are zero again from each milestone on, as where a code makes a new optimizer
    for each learning rate (the Overhaul repository does).
    """

    kind: Literal["constant", "step", "linear", "cosine", "exponential", "inverse_sqrt"] = "constant"
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    unit: Literal["epochs", "steps"] = "epochs"
    warmup: float = 0.0
    every: float = 0.0
    reset_momentum: bool = False

    def __post_init__(self) -> None:
        require(self.factor > 0, "factor", self.factor, "> 0")
        require(self.warmup >= 0, "warmup", self.warmup, ">= 0")
        require(self.kind != "inverse_sqrt" or self.warmup > 0, "warmup", self.warmup, "> 0 with kind=inverse_sqrt")
        given = self.every > 0 if self.kind == "exponential" else self.every == 0
        require(given, "every", self.every, "> 0 with kind=exponential, and given only then")
        ordered = list(self.milestones) == sorted(set(self.milestones)) and all(m > 0 for m in self.milestones)
        require(ordered, "milestones", list(self.milestones), "positive and rising")
        if self.kind == "step":
            require(bool(self.milestones), "milestones", list(self.milestones), "given with kind=step")
        else:
            require(not self.milestones, "milestones", list(self.milestones), f"empty with kind={self.kind}")
            require(not self.reset_momentum, "reset_momentum", True, "given with kind=step only")

    def passed(self, step: int, *, steps_per_epoch: int) -> int:
        """How many milestones lie at or before step `step`, counted from 0."""
        per_unit = steps_per_epoch if self.unit == "epochs" else 1
        return sum(step >= milestone * per_unit for milestone in self.milestones)

    def at(self, step: int, *, total_steps: int, steps_per_epoch: int) -> float:
        """The factor for step `step`, counted from 0, of `total_steps`."""
        per_unit = steps_per_epoch if self.unit == "epochs" else 1
        progress = step / total_steps
        value = 1.0
        if self.kind == "step":
            value = self.factor ** self.passed(step, steps_per_epoch=steps_per_epoch)
        elif self.kind == "exponential":
            value = self.factor ** (step // (self.every * per_unit))
        elif self.kind == "linear":
            value = 1.0 - progress
        elif self.kind == "cosine":
            value = 0.5 * (1.0 + math.cos(math.pi * progress))
        warmup_steps = self.warmup * per_unit
        if self.kind == "inverse_sqrt":
            value = math.sqrt(warmup_steps / max(step + 1, warmup_steps))
        return value * min(1.0, (step + 1) / warmup_steps) if warmup_steps else value


@dataclass(frozen=True)
class WeightDecay:
    """½ · rate · Σ‖w‖² over the chosen parameters, added to the loss after `loss_scale`, before gradient clipping.
    (With optimizer=adamw it is no part of the loss: see `Recipe`.)

    `to`: "all" parameters; "weights" (tensors of two or more dimensions: no biases, no batch norm); "not_biases" (all
    but names ending in .bias of layers that are no batch norm: tensor2tensor's rule, which decays batch norm's γ and
    β); or "named": those whose name matches one of `names` (shell patterns, such as head.weight).
    """

    rate: float = 0.0
    to: Literal["all", "weights", "not_biases", "named"] = "all"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self.rate >= 0, "rate", self.rate, ">= 0")
        named = self.to == "named"
        require(bool(self.names) == named, "names", list(self.names), "given with to=named, and only then")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Exactly one of `epochs` and `steps` says for how long.

    The loss is loss_scale · mean over the batch of the method's terms, plus weight decay.

    optimizer: from the gradient g of update t = 1, 2, …, with all buffers zero at the start:

    - sgd: v ← momentum·v + (1-dampening)·g; w ← w - lr·v (or, with nesterov, lr·(g + momentum·v));
    - adam (Kingma & Ba 2015): m ← beta1·m + (1-beta1)·g; v ← beta2·v + (1-beta2)·g²;
      w ← w - lr · m/(1-beta1^t) / (√(v/(1-beta2^t)) + epsilon). Weight decay is in g, as in torch's Adam;
    - adamw (Loshchilov & Hutter 2019): the same, but weight decay is not in g: w ← (1 - lr·rate)·w before the update.

    batch_by: what `batch_size` counts. examples; or (of translations) tokens: a batch has as many sentences of like
    lengths as fit, with the longer of its padded source and target. How many batches an epoch has then depends on the
    data, so that `steps` must be given.
    accumulate: a batch goes through the network in so many parts of equal size, each with batch-norm statistics of its
    own (every part updates the running ones); the gradient is that of the mean over the whole batch.
    batch_norm_group: batch norm takes its statistics over so many images of what goes through the network at once, in
    the order of the batch; 0: over all of them. A batch of 256 in groups of 32 is "8 × 32", the batch of 8 devices
    (Goyal et al. 2017), on any number of them. In the last, smaller batch of an epoch the last group is what remains.
    Running statistics are those of the first group, as torch's DistributedDataParallel keeps those of rank 0. It holds
    for a teacher with batch statistics, too.
    ema: decay of a moving average of the weights, which is what is evaluated and kept (see `lskd.engine.average`); 0:
    there is none.
    trainable: shell patterns of the network's modules, such as head or stage3.*.bn2, that are trained, with all that is
    in them; all else stays as it is, its batch norms with their running statistics. Empty: everything is trained.
    epochs = 0: nothing is trained: a network that starts from trained weights (`lskd.start`) is evaluated. Then only
    `normalize`, `precision` and the window of an evaluation count (`as_is`).
    """

    lr: float
    batch_size: int
    name: str = field(default="", metadata=NOT_IDENTITY)
    epochs: int | None = None
    steps: int | None = None
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    # Factors of lr by parameter name (shell patterns), e.g. {"head.*": 0.1}. The first match counts.
    lr_factors: dict[str, float] = field(default_factory=dict)
    schedule: Schedule = Schedule()
    weight_decay: WeightDecay = WeightDecay()
    clip_norm: float | None = None  # global norm of the whole gradient, weight decay's included where it is in it
    loss_scale: float = 1.0
    augment: Augment = Augment()
    normalize: Normalize = Normalize()
    # Numerics. fp32: IEEE single precision throughout (no TF32). tf32: matrix products and convolutions in TF32, of
    # fp32 tensors; refused on a device without it, which would compute in fp32. bf16: autocast, with fp32 master
    # weights, batch norm and losses. It is that of all that the run computes, of its teacher's logits too, however the
    # teacher was trained.
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    # Have the network's forward and backward of a training step compiled (torch.compile), which fuses what lies between
    # its convolutions: other last bits. Evaluation and the teacher are not compiled. Not for networks with dropout, nor
    # with methods that read features. It takes up to minutes a network and batch size, and a C++ compiler.
    compile: bool = False
    batch_by: Literal["examples", "tokens"] = "examples"
    accumulate: int = 1
    batch_norm_group: int = 0
    ema: float = 0.0
    trainable: tuple[str, ...] = ()
    evaluate_every: int = 1  # epochs; the last epoch is always evaluated
    provenance: tuple[str, ...] = field(default=(), metadata=NOT_IDENTITY)
    deviations: tuple[str, ...] = field(default=(), metadata=NOT_IDENTITY)

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", self.lr, "> 0")
        require(self.batch_size >= 1, "batch_size", self.batch_size, ">= 1")
        if (self.epochs is None) == (self.steps is None):
            raise InputError(f"epochs = {self.epochs}, steps = {self.steps}: exactly one must be given")
        for name in ("epochs", "steps"):
            value = getattr(self, name)
            least = 0 if name == "epochs" else 1
            require(value is None or value >= least, name, value, f">= {least}")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        require(0 <= self.dampening < 1, "dampening", self.dampening, "in [0, 1)")
        if self.nesterov:
            require(
                self.momentum > 0 and self.dampening == 0, "nesterov", True, "used with momentum > 0, dampening = 0"
            )
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        require(self.epsilon > 0, "epsilon", self.epsilon, "> 0")
        for name in ("momentum", "dampening") if self.optimizer != "sgd" else ("beta1", "beta2", "epsilon"):
            usual = type(self).__dataclass_fields__[name].default
            others = "sgd" if self.optimizer != "sgd" else "adam or adamw"
            value, allowed = getattr(self, name), f"{usual:g} with optimizer={self.optimizer}; it goes with {others}"
            require(value == usual, name, value, allowed)
        if self.batch_by == "tokens":
            require(self.steps is not None, "steps", None, "given with batch_by=tokens, instead of epochs")
            require(self.accumulate == 1, "accumulate", self.accumulate, "1 with batch_by=tokens")
            in_steps = self.schedule.unit == "steps" or not (self.schedule.milestones or self.schedule.warmup)
            require(in_steps and not self.schedule.every, "schedule.unit", "epochs", "steps with batch_by=tokens")
        resets = self.schedule.reset_momentum
        require(self.momentum > 0 or not resets, "schedule.reset_momentum", True, "used with momentum > 0")
        for pattern, factor in self.lr_factors.items():
            require(factor >= 0, f"lr_factors.{pattern}", factor, ">= 0")
        require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", self.clip_norm, "> 0, or null")
        require(self.loss_scale > 0, "loss_scale", self.loss_scale, "> 0")
        divides = self.accumulate >= 1 and self.batch_size % self.accumulate == 0
        require(divides, "accumulate", self.accumulate, f"a divisor of batch_size = {self.batch_size}")
        group = self.batch_norm_group
        parts = f" / accumulate = {self.accumulate}" if self.accumulate > 1 else ""
        rule = f"0, or a divisor >= 2 of batch_size = {self.batch_size}{parts}"
        require(group == 0 or (group >= 2 and self.micro_batch % group == 0), "batch_norm_group", group, rule)
        require(0 <= self.ema < 1, "ema", self.ema, "in [0, 1)")
        require(self.evaluate_every >= 1, "evaluate_every", self.evaluate_every, ">= 1")

    @property
    def micro_batch(self) -> int:
        """Images that go through the network at once."""
        return self.batch_size // self.accumulate

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return self.epochs != 0

    def as_is(self) -> Recipe:
        """What of the recipe counts where nothing is trained: the same for all that evaluate alike."""
        augment, size = self.augment, self.augment.evaluated
        seen = Augment(crop=size)
        if augment.resized is not None:
            seen = replace(seen, resized=ResizedCrop(central=augment.resized.central, square=augment.resized.square))
        elif size:  # may be larger than the image
            seen = replace(seen, pad=augment.pad, padding=augment.padding)
        return Recipe(
            1.0, 128, AS_IS, epochs=0, augment=seen, normalize=self.normalize, precision=self.precision,
            provenance=self.provenance, deviations=self.deviations,
        )  # fmt: skip

    def view_shape(self, images: tuple[int, ...], *, evaluated: bool = False) -> tuple[int, int, int]:
        """(C, H, W) of a view of `images` of that shape: as they are trained on, or as they are evaluated."""
        channels, height, width = images or (0, 0, 0)
        size = self.augment.evaluated if evaluated else self.augment.crop
        return channels, size or height, size or width

    def input_shape(self, images: tuple[int, ...], *, evaluated: bool = False) -> tuple[int, int, int]:
        """(C, H, W) of what the network sees of `images` of that shape."""
        channels, height, width = self.view_shape(images, evaluated=evaluated)
        size = self.normalize.resize
        return channels, size or height, size or width

    def steps_per_epoch(self, examples: int) -> int:
        """Steps of one pass over `examples`; the last batch may be smaller. (With batch_by=tokens the data say: see
        `lskd.engine.tasks`.)"""
        if self.batch_by != "examples":
            raise ValueError(f"batch_by = {self.batch_by}: only the data say how many steps an epoch has")
        return math.ceil(examples / self.batch_size)

    def total_steps(self, examples: int) -> int:
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * self.steps_per_epoch(examples)
