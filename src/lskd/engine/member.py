"""A network in training, with all that trains with it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lskd.data import Spec
from lskd.engine.average import Average
from lskd.engine.casts import Casts
from lskd.engine.compiled import compiled
from lskd.engine.counters import Counters
from lskd.engine.features import Shapes, build_module, make_pair, module_at, run_tapped, tapped
from lskd.engine.grouped import group_batch_norms
from lskd.engine.optimizer import Optimizer
from lskd.engine.seeds import initial_weights, seed_for
from lskd.engine.sums import Sums
from lskd.engine.targets import Targets
from lskd.engine.tasks import Forward, Task, forward, forward_of
from lskd.engine.teacher import Teacher, placed
from lskd.errors import InputError
from lskd.methods import Method, Stage
from lskd.models.dropout import Random
from lskd.run import Run


class Member:
    """A network, the method's own modules beside it, the optimizer of both, the average of the network's weights where
    the recipe asks for one, and what it is taught (`targets`). `enter` says what is trained, and comes before all else.

    One training usually has one, and peers are more: what networks that train together share is in `Step`.

    run: the one that has the network; of a peer, its own. method: of the training, for all of its networks.
    """

    def __init__(
        self,
        run: Run,
        method: Method,
        spec: Spec,
        task: Task,
        teacher: Teacher | None,
        begins: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.run, self.recipe, self.method, self.presenter = run, run.recipe, method, task.presenter
        device, classes = task.device, spec.num_classes
        generator = torch.Generator(device).manual_seed(seed_for(run.stream_seed, "dropout"))

        def built(purpose: str) -> nn.Module:
            network = build_network(run, spec, purpose)
            if begins is not None:
                network.load_state_dict({**network.state_dict(), **begins})
            for part in network.modules():
                if isinstance(part, Random):
                    part.generator = generator
            group_batch_norms(network, run.recipe.batch_norm_group)
            return placed(network, device)

        self.generator, self.network = generator, built("init")
        seen_by = functools.partial(forward, presenter=task.presenter, precision=run.recipe.precision)
        self.targets = Targets(run.target.settings, classes, generator, seen_by, lambda: built("average"))

        shapes = None if teacher is None else Shapes(teacher.network, task.example(teacher.presenter))
        own = Shapes(self.network, task.example(self.presenter))
        pair = make_pair(self.method, own, shapes, task.labels.cpu(), classes)
        module = build_module(self.method, pair, run.stream_seed)
        self.module = None if module is None else placed(module, device)
        self._parts = [part for part in (self.network, self.module) if part is not None]
        if self.module is not None:
            group_batch_norms(self.module, self.recipe.batch_norm_group)
        self._learnable = [p for part in self._parts for p in part.parameters() if p.requires_grad]

        # Compiled code brings kernels together by itself.
        self._run: Callable[..., Tensor] = compiled(self.network) if self.recipe.compile else self.network

    def enter(self, stage: Stage | None, total: int, steps_per_epoch: int) -> None:
        """Train for `total` steps what `stage` trains, or (None) everything, with an optimizer that starts afresh."""
        self._total, self._steps_per_epoch = total, steps_per_epoch
        recipe, own = self.recipe, [] if self.module is None else [self.module]
        self.stage, self._taps = stage, tapped(self.network, (stage or self.method).taps)
        self._trained = self._parts
        if stage is None and recipe.trainable:
            self._trained = [*trainable(self.network, recipe.trainable), *own]
        if stage is not None:
            self._trained = [module.get_submodule(name) for module in own for name in stage.modules]
            if stage.student is not None:
                self._trained += [module_at(self.network, name) for name in tapped(self.network, stage.student)]
        trained = {id(parameter) for module in self._trained for parameter in module.parameters()}
        for parameter in self._learnable:
            parameter.requires_grad_(id(parameter) in trained)
        self._casts = Casts(self.network) if recipe.precision == "bf16" and not recipe.compile else None
        self.optimizer = Optimizer(self.network, recipe, beside=self.module, lr=stage.lr if stage else None)
        if recipe.accumulate > 1:
            self.optimizer.hold_gradients()
        self.average = Average(self.network, recipe.ema) if recipe.ema and stage is None else None
        self.targets.enter(self.network if stage is None else None)
        self._counters = Counters(*(() if recipe.compile else self._parts), self.targets.network)
        device, factors = self.generator.device, [self._factor(step) for step in range(total)]
        self._factors = torch.tensor(factors, dtype=torch.float64, device=device)  # of the learning rate
        self.sums = Sums(device)

    @property
    def trained(self) -> nn.Module:
        """The network that is evaluated and kept: the average of its weights, where the recipe asks for that."""
        return self.network if self.average is None else self.average.network

    def lr(self, step: int) -> float:
        """The learning rate at `step` of this stage."""
        return self.optimizer.lr * self._factor(step)

    def _factor(self, step: int) -> float:
        at = self.recipe.schedule.at
        return 1.0 if self.stage else at(step, total_steps=self._total, steps_per_epoch=self._steps_per_epoch)

    def resets_momentum(self, step: int) -> bool:
        """Whether `step` is the first one after a milestone at which momentum starts afresh."""
        schedule = self.recipe.schedule
        if not schedule.reset_momentum or self.stage is not None or step == 0:
            return False
        now, before = (schedule.passed(at, steps_per_epoch=self._steps_per_epoch) for at in (step, step - 1))
        return now > before

    # ---- in a step ------------------------------------------------------------------------------------------------

    def train_mode(self) -> None:
        """What is trained is put into train mode, and all else into eval mode."""
        for part in self._parts:
            part.eval()
        for module in self._trained:
            module.train()

    def counting(self) -> AbstractContextManager[None]:
        """Inside, batch norms count their batches together."""
        return self._counters.together()

    def see(self, inputs: Any, outputs: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The network's logits (B, K) and tapped features, for so many `outputs`."""
        if self.stage is not None and self.stage.student is None:
            return torch.empty(outputs, 0, device=self.generator.device), {}
        with contextlib.nullcontext() if self._casts is None else self._casts.together():
            return run_tapped(self.network, self._taps, lambda: self.forward(self._run, inputs))

    def update(self, loss: Tensor | None, step: Tensor) -> None:
        """Update number `step` (1,) from `loss`, or (None) from the gradient that the parts of a batch have left."""
        factor = self._factors[step].squeeze(0)
        if loss is not None:
            self.optimizer.step(loss, factor)
        else:
            self.optimizer.update(factor)
            self.optimizer.clear()
        for average in (self.average, self.targets.average):
            if average is not None:
                average.update(step)

    # ---- as it is -------------------------------------------------------------------------------------------------

    def forward(self, network: Callable[..., Tensor], inputs: Any) -> Tensor:
        """Inputs, such as uint8 pixels (B, C, H, W) -> fp32 logits (B, K), shown and computed as the recipe says."""
        return forward(network, inputs, self.presenter, self.recipe.precision)

    def evaluated(self) -> Forward:
        """The network that is evaluated, in eval mode."""
        return forward_of(self.trained, self.presenter, self.recipe.precision)

    def evaluate(self, batches: Iterable[Any]) -> Tensor:
        """fp32 logits (N, K) of all that is in `batches`, in eval mode."""
        return torch.cat([*map(self.evaluated(), batches)])

    def state(self) -> dict[str, Any]:
        return ({} if self.module is None else {"module": self.module.state_dict()}) | {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "sums": self.sums.totals,
            "average": None if self.average is None else self.average.network.state_dict(),
            "target": None if self.targets.network is None else self.targets.network.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if self.module is not None:
            self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.sums.restore(state["sums"])
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])
        if self.targets.network is not None:
            self.targets.network.load_state_dict(state["target"])


def trainable(network: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """The modules of `network` that `Recipe.trainable` names. `InputError` for a pattern that is of none."""
    modules = {name: module for name, module in network.named_modules() if name}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in modules):
            parts, last = ", ".join(name for name, _ in network.named_children()), list(modules)[-2:][0]
            raise InputError(
                f"recipe.trainable = {pattern!r}: matches no module; there are {parts}, and what is in them, as {last}"
            )
    return [module for name, module in modules.items() if any(fnmatchcase(name, one) for one in patterns)]


def build_network(run: Run, spec: Spec, purpose: str = "init") -> nn.Module:
    """The run's network with its initial weights, which depend on the seed alone (not on the device)."""
    with initial_weights(run.stream_seed, purpose):
        return run.arch.settings.build(run.recipe.input_shape(spec.shape), spec.num_classes)
