"""What a method taps of its networks, and the modules that it builds for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from weakref import WeakKeyDictionary

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


SHAPES: WeakKeyDictionary[nn.Module, dict[str, tuple[int, ...]]] = WeakKeyDictionary()  # of features seen, by tap


@torch.no_grad()
def shapes(network: nn.Module, taps: Iterable[Taps], pixels: Tensor, who: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the features that `taps` name, without the batch, for images like `pixels` (1, C, H, W), which are
    always of one size for one network: what it has shown once is known.

    `InputError`, which begins with `who`, for a tap that the network does not have. It is in eval mode afterwards.
    """
    try:
        names = list(dict.fromkeys(name for one in taps for name in tapped(network, one)))
        known = SHAPES.setdefault(network, {})
        network.eval()
        if not known.keys() >= set(names):
            everything = list(dict.fromkeys([*taps_of(network), *names]))
            _, features = run_tapped(network, everything, lambda: network(pixels))
            known.update((name, tuple(feature.shape[1:])) for name, feature in features.items())
    except InputError as error:
        raise InputError(f"{who}: {error}") from None
    return {name: known[name] for name in names}


def make_pair(
    method: Method, student: nn.Module, teacher: nn.Module | None, pixels: Tensor, labels: Tensor, classes: int
) -> Pair:
    """The two networks as `Method.build` is told of them, with the features of all stages."""
    initial = method.initial()
    stages: list[Method | Stage] = [method] if initial is None else [method, initial]
    of_student = shapes(student, [one.taps for one in stages], pixels, "student")
    of_teacher = {}
    if teacher is not None:
        of_teacher = shapes(teacher, [one.teacher_taps for one in stages], pixels, "teacher")
    return Pair(of_student, of_teacher, labels, classes, teacher)


def build_module(method: Method, pair: Pair, seed: int | str) -> nn.Module | None:
    """The method's own modules with their initial weights, which depend on the seed alone (not on the device)."""
    with initial_weights(seed, "method"):
        return method.build(pair)
