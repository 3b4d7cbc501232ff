"""Weights in bf16: `torch.autocast` casts each of them, and its gradient back, by kernels of their own; here one kernel
casts all weights, and one all gradients. The numbers are the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

FORWARDS = (nn.Conv2d.forward, nn.Linear.forward)  # to which autocast gives weight and bias in bf16, whatever they are


class CastAll(torch.autograd.Function):
    """fp32 weights -> `copies` in bf16; of what the loss does not reach there is no gradient."""

    @staticmethod
    def forward(ctx: Any, copies: list[Tensor], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        torch._foreach_copy_(copies, list(weights))
        return tuple(copy.detach() for copy in copies)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        reached = [gradient for gradient in gradients if gradient is not None]
        cast = [torch.empty_like(gradient, dtype=torch.float32) for gradient in reached]
        if reached:
            torch._foreach_copy_(cast, reached)
        each = iter(cast)
        return None, *(None if gradient is None else next(each) for gradient in gradients)


class Casts:
    """The trained weights of a network's convolutions and dense layers.

    The first forward shows which of these layers run under autocast, and nowhere else; the others keep their weights as
    they are.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers = [module for module in network.modules() if type(module).forward in FORWARDS]
        self._places: list[list[tuple[nn.Module, str]]] | None = None  # of each weight: the layers that share it
        self._weights: list[Tensor] = []
        self._copies: list[Tensor] = []

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A forward of the network, with its weights cast before."""
        if self._places is None:
            with self._watching():
                yield
            return
        if not self._weights:
            yield
            return
        for cast, places in zip(CastAll.apply(self._copies, *self._weights), self._places, strict=True):
            for layer, name in places:
                layer._parameters[name] = cast
        try:
            yield
        finally:
            for weight, places in zip(self._weights, self._places, strict=True):
                for layer, name in places:
                    layer._parameters[name] = weight  # type: ignore[assignment]

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        inside, outside = set[nn.Module](), set[nn.Module]()

        def note(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            under = bool(given) and torch.is_autocast_enabled(given[0].device.type)
            (inside if under else outside).add(layer)

        handles = [layer.register_forward_pre_hook(note) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        found: dict[Tensor, list[tuple[nn.Module, str]]] = {}
        for layer in self._layers:
            for name in ("weight", "bias"):
                weight = layer._parameters.get(name)
                if weight is not None and weight.requires_grad and weight.dtype == torch.float32:
                    found.setdefault(weight, []).append((layer, name))
        found = {
            weight: places for weight, places in found.items()
            if all(layer in inside and layer not in outside for layer, _ in places)
        }  # fmt: skip
        self._weights, self._places = list(found), list(found.values())
        self._copies = [torch.empty_like(weight, dtype=torch.bfloat16) for weight in self._weights]
