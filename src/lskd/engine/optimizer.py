"""SGD and Adam as a recipe describes them."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lskd.errors import InputError
from lskd.recipe import Recipe, WeightDecay

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Optimizer:
    """torch's SGD, Adam or AdamW, with weight decay and clipping as in `Recipe`; the learning rate is set at each step.

    All buffers start at zero. Those of SGD's momentum torch would start at the first gradient, undampened, which is
    another first step when dampening is not 0 (Müller's MNIST networks: ten times the learning rate).
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, *, beside: nn.Module | None = None, lr: float | None = None
    ) -> None:
        """For the parameters of `network` and of the module `beside` it that require a gradient. What a recipe says of
        parameters by name is about the network alone. `lr`: instead of the recipe's."""
        names, all_parameters = zip(*network.named_parameters(), strict=True)
        all_factors = lr_factors(names, recipe.lr_factors)
        if beside is not None:
            all_parameters += tuple(beside.parameters())
            all_factors += [1.0] * (len(all_parameters) - len(names))
        learnable = [(p, f) for p, f in zip(all_parameters, all_factors, strict=True) if p.requires_grad]
        self.lr, self.clip_norm = recipe.lr if lr is None else lr, recipe.clip_norm
        self.parameters = [p for p, _ in learnable]
        self.decay_rate, decay = recipe.weight_decay.rate, recipe.weight_decay
        self.decayed = decayed_parameters(network, decay) if self.decay_rate else []
        if self.decay_rate and beside is not None and decay.to != "named":
            self.decayed += decayed_parameters(beside, decay)
        # Adam's weight decay that is no part of the gradient is torch's, group by group.
        apart = {id(p) for p in self.decayed} if recipe.optimizer == "adamw" else set()
        self.decayed = [] if recipe.optimizer == "adamw" else self.decayed
        kinds = sorted({(f, id(p) in apart) for p, f in learnable})
        groups: list[dict[str, Any]] = [
            {"params": [p for p, f in learnable if (f, id(p) in apart) == kind], "factor": kind[0]} for kind in kinds
        ]
        self._device = self.parameters[0].device
        self.inner: torch.optim.Optimizer
        if recipe.optimizer == "sgd":
            momentum, dampening = recipe.momentum, recipe.dampening
            self.inner = torch.optim.SGD(groups, self.lr, momentum, dampening, nesterov=recipe.nesterov, fused=True)
        else:
            for group, (_, decays) in zip(groups, kinds, strict=True):
                group["weight_decay"] = self.decay_rate if decays else 0.0
            make = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
            captured = self._device.type == "cuda"  # torch asks for it, although a fused kernel needs nothing else
            betas = recipe.beta1, recipe.beta2
            self.inner = make(groups, self.lr, betas, recipe.epsilon, fused=True, capturable=captured)
        self._hold_lr_on_device()
        for parameter in self.parameters:
            if recipe.optimizer != "sgd":
                step = torch.zeros((), dtype=torch.float32, device=self._device)
                buffers = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.inner.state[parameter].update(step=step, **buffers)
            elif recipe.momentum:
                self.inner.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def _hold_lr_on_device(self) -> None:
        """A captured step reads it there; CUDA's fused kernel takes it in float32 only."""
        dtype = torch.float32 if self._device.type == "cuda" else torch.float64
        for group in self.inner.param_groups:
            group["lr"] = torch.zeros((), dtype=dtype, device=self._device)

    def step(self, loss: Tensor, schedule_factor: Tensor | float) -> None:
        """One update from `loss`, at `schedule_factor` times each group's learning rate."""
        self.inner.zero_grad(set_to_none=True)
        loss.backward()
        self.update(schedule_factor)

    def hold_gradients(self) -> None:
        """Have gradients stay at one place, so that `backward` adds to them until `update`."""
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)

    def clear(self) -> None:
        """Gradients that stay become zero."""
        torch._foreach_zero_([p.grad for p in self.parameters if p.grad is not None])

    def update(self, schedule_factor: Tensor | float) -> None:
        """One update from the gradients that there are."""
        # This weight decay is a part of the loss whose gradient is known; as such it takes part in the clipping.
        if self.decayed:
            decayed = [p for p in self.decayed if p.grad is not None]  # what the loss does not reach stays as it is
            gradients = [p.grad for p in decayed if p.grad is not None]
            if gradients:
                torch._foreach_add_(gradients, decayed, alpha=self.decay_rate)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        for group in self.inner.param_groups:
            group["lr"].fill_(self.lr * group["factor"] * schedule_factor)
        self.inner.step()

    def reset_momentum(self) -> None:
        """Momentum buffers become zero, where they are: a captured step reads them there."""
        torch._foreach_zero_([self.inner.state[parameter]["momentum_buffer"] for parameter in self.parameters])

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)
        self._hold_lr_on_device()


def lr_factors(names: Iterable[str], patterns: dict[str, float]) -> list[float]:
    """The learning-rate factor of each parameter: that of the pattern it matches, else 1."""
    names = list(names)
    unused = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    if unused:
        raise InputError(f"recipe.lr_factors.{unused[0]}: matches no parameter; there are {', '.join(names)}")
    factors = []
    for name in names:
        matching = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
        if len(matching) > 1:
            raise InputError(f"recipe.lr_factors: {name} matches {' and '.join(matching)}; must match one at most")
        factors.append(patterns[matching[0]] if matching else 1.0)
    return factors


def decayed_parameters(network: nn.Module, decay: WeightDecay) -> list[Tensor]:
    """The parameters that weight decay applies to."""
    named: dict[str, Tensor] = dict(network.named_parameters())
    if decay.to == "weights":
        return [p for p in named.values() if p.ndim > 1]
    if decay.to == "not_biases":
        norms = {f"{name}.bias" for name, module in network.named_modules() if isinstance(module, BATCH_NORMS)}
        return [p for name, p in named.items() if not name.endswith(".bias") or name in norms]
    if decay.to == "named":
        for pattern in decay.names:
            if not any(fnmatchcase(name, pattern) for name in named):
                raise InputError(
                    f"recipe.weight_decay.names = {pattern!r}: matches no parameter; there are {', '.join(named)}"
                )
        return [p for name, p in named.items() if any(fnmatchcase(name, pattern) for pattern in decay.names)]
    return list(named.values())
