"""What a method taps of its networks, and the modules that it builds for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from lskd.engine.seeds import initial_weights
from lskd.errors import InputError
from lskd.methods import Method, Pair, Stage
from lskd.models.taps import capture, taps_of

Taps = Callable[[Sequence[str]], Sequence[str]]


def tapped(network: nn.Module, taps: Taps) -> list[str]:
    """What `taps`, as a method declares them, are of `network`."""
    return list(taps(list(taps_of(network))))


def module_at(network: nn.Module, tap: str) -> nn.Module:
    """The module whose output is the feature `tap` of `network`."""
    path, of_input, _ = taps_of(network).get(tap, tap).partition(":")
    if of_input:
        raise InputError(f"tap = {tap!r}: is what goes into {path!r}: must be what comes out of a module, to train it")
    return network.get_submodule(path)


def run_tapped(
    network: nn.Module, names: Sequence[str], forward: Callable[[], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """What `forward`, which runs `network`, gives, and the fp32 features that pass at `names`."""
    if not names:
        return forward(), {}
    with capture(network, names) as seen:
        logits = forward()
    return logits, {name: value.float() for name, value in seen.items()}


@contextlib.contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Inside, `network` is in eval mode; afterwards each of its modules is in the mode that it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Shapes:
    """The shapes of the features of a network, without the batch: those of images like `pixels` (1, C, H, W), which it
    is shown when they are first asked for."""

    def __init__(self, network: nn.Module, pixels: Tensor) -> None:
        self.network, self._pixels = network, pixels
        self._known: dict[str, tuple[int, ...]] = {}

    @torch.no_grad()
    def at(self, taps: Iterable[Taps], who: str) -> dict[str, tuple[int, ...]]:
        """Those that `taps` name. `InputError`, which begins with `who`, for a tap that the network does not have."""
        network = self.network
        try:
            names = list(dict.fromkeys(name for one in taps for name in tapped(network, one)))
            if not self._known.keys() >= set(names):
                everything = list(dict.fromkeys([*taps_of(network), *names]))
                with eval_mode(network):
                    _, features = run_tapped(network, everything, lambda: network(self._pixels))
                self._known.update((name, tuple(feature.shape[1:])) for name, feature in features.items())
        except InputError as error:
            raise InputError(f"{who}: {error}") from None
        return {name: self._known[name] for name in names}


def make_pair(method: Method, student: Shapes, teacher: Shapes | None, labels: Tensor, classes: int) -> Pair:
    """The two networks as `Method.build` is told of them, with the features of all stages."""
    initial = method.initial()
    stages: list[Method | Stage] = [method] if initial is None else [method, initial]
    of_student = student.at([one.taps for one in stages], "student")
    if teacher is None:
        return Pair(of_student, {}, labels, classes)
    of_teacher = teacher.at([one.teacher_taps for one in stages], "teacher")
    return Pair(of_student, of_teacher, labels, classes, teacher.network)


def build_module(method: Method, pair: Pair, seed: int | str) -> nn.Module | None:
    """The method's own modules with their initial weights, which depend on the seed alone (not on the device)."""
    with initial_weights(seed, "method"):
        return method.build(pair)
