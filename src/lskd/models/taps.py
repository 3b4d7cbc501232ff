"""Feature taps: read intermediate values of a network by name, without touching its `forward`.

    with capture(network, ["f2", "pool"]) as features:
        logits = network(x)
        features["f2"], features["pool"]  # with their autograd history

**Names.** The attribute `taps` of a network maps names to places in it. The networks of the CRD benchmark (Tian et al.
2020) have, in this order, what `forward(x, is_feat=True)` of HobbitLong/RepDistiller returns:

- `f0`: output of the stem;
- `f1`, `f2`, `f3` and, for VGG, MobileNetV2 and ResNets with four stages, `f4`: the feature maps, (B, C, H, W);
- `pool`: the penultimate activations, (B, width), which are what goes into the classifier;
- `f1_pre`, ...: the feature maps before their last ReLU, that repository's `preact=True`. Its choices are kept where
  they are particular: a Wide ResNet's maps are raw sums, and `_pre` is what the batch norm behind them makes of them;
  MobileNetV2's maps come out of linear bottlenecks, and `_pre` is the map itself; ShuffleNetV2's `_pre` has its
  channels in the order before the last shuffle.

Every network with an `nn.Linear` has `pool`, with or without the attribute.

**Places.** "stage1" is the output of the module of that name (`get_submodule`), "head:input" the first thing that goes
into it. A place may stand wherever a name may; a name goes first if it is both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lskd.errors import InputError, choices
from lskd.models.relu import keep as keep_as_it_is


def capture(network: nn.Module, names: Iterable[str]) -> Capture:
    """Keep the values at `names`, taps or places, whenever `network` runs; until `remove()` or the end of a `with`.

    `InputError` for a name that is neither, and for "pool" if the network has no `nn.Linear`.
    """
    return Capture(network, names)


def classifier(network: nn.Module) -> nn.Linear:
    """The dense layer that makes the logits: `network.head` if it is one, else the `nn.Linear` registered last.

    `InputError` if the network has none.
    """
    return _classifier(network)[1]


def taps_of(network: nn.Module) -> dict[str, str]:
    """Names and places of the network's taps: its attribute `taps`, and "pool" if it has an `nn.Linear`."""
    taps = dict(getattr(network, "taps", {}))
    if "pool" not in taps and any(isinstance(module, nn.Linear) for module in network.modules()):
        taps["pool"] = f"{_classifier(network)[0]}:input"
    return taps


def benchmark_taps(maps: Sequence[str], before_relu: Sequence[str]) -> dict[str, str]:
    """`taps` of a network with `stem` and `head`, from the places of f1, f2, ... and those of f1_pre, f2_pre, ..."""
    return {
        "f0": "stem",
        **{f"f{i}": place for i, place in enumerate(maps, start=1)},
        "pool": "head:input",
        **{f"f{i}_pre": place for i, place in enumerate(before_relu, start=1)},
    }


class Capture(Mapping[str, Tensor]):
    """The tensors of the last forward by name, as `capture` gives them.

    They are the network's own tensors, not copies, and keep their autograd history. The next forward lets go of them
    before it starts. Of a module that runs twice in a forward, the second run counts. The hooks wait for no value on
    the device, so a forward with them can be recorded as a CUDA graph. A deep copy of the network, made while they are
    on, has them too and would write here: copy first, or `remove` them.
    """

    def __init__(self, network: nn.Module, names: Iterable[str]) -> None:
        self._modules = {name: _locate(network, name) for name in names}
        self._seen: dict[str, tuple[Any, int]] = {}
        self._handles = [network.register_forward_pre_hook(lambda *_: self._seen.clear())]
        for name, (module, of_input) in self._modules.items():
            self._handles.append(self._register(name, module, of_input))

    def __getitem__(self, name: str) -> Tensor:
        """`InputError` if the last forward did not come by, or what it left is no longer what passed there."""
        self._modules[name]  # KeyError: it was not asked for
        if name not in self._seen:
            raise InputError(f"tap = {name!r}: the last forward did not pass there")
        value, version = self._seen[name]
        if _version(value) != version:
            raise InputError(f"tap = {name!r}: overwritten in place behind the tap (by nn.ReLU(inplace=True)?)")
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Take the hooks off the network. The tensors of the last forward stay."""
        for handle in self._handles:
            handle.remove()

    def _register(self, name: str, module: nn.Module, of_input: bool) -> Any:
        def keep(value: object) -> None:
            if not isinstance(value, Tensor):
                raise InputError(f"tap = {name!r}: {type(value).__name__} passes there: must be a tensor")
            self._seen[name] = keep_as_it_is(value), _version(value)

        if of_input:
            return module.register_forward_pre_hook(
                lambda _module, args, kwargs: keep(next(iter((*args, *kwargs.values())), None)), with_kwargs=True
            )
        return module.register_forward_hook(lambda _module, _args, output: keep(output))


def _classifier(network: nn.Module) -> tuple[str, nn.Linear]:
    linears = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    if not linears:
        raise InputError(f"network = {type(network).__name__}: has no nn.Linear, so neither a classifier nor 'pool'")
    name = "head" if "head" in linears else list(linears)[-1]
    return name, linears[name]


def _locate(network: nn.Module, name: str) -> tuple[nn.Module, bool]:
    """The module of a tap or place, and whether its input is meant."""
    taps = taps_of(network)
    path, colon, rest = taps.get(name, name).partition(":")
    modules = dict(network.named_modules(remove_duplicate=False))
    if path not in modules or (colon and rest != "input") or not name:
        places = "or the path of a module, with ':input' for what goes into it"
        raise InputError(f"tap = {name!r}: {choices(name, taps)}; {places}")
    return modules[path], bool(colon)


def _version(tensor: Tensor) -> int:
    """How often the tensor was written in place; tensors of `torch.inference_mode` do not count it."""
    return 0 if tensor.is_inference() else tensor._version
