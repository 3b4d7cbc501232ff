"""Mappings (from YAML or the command line) to frozen dataclasses, strictly.

Unknown keys, wrong types, missing fields and out-of-range values are `InputError`s that name the key with its path, the
value, and what is allowed. An int is accepted where a float is asked for, and becomes one, so that lr=1 and lr=1.0 are
the same run; nothing else is converted. (OmegaConf's structured configs know no Literal, and accept "2" for 2.)
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from lskd.errors import InputError, choices

T = TypeVar("T")


def parse(kind: type[T], given: Mapping[str, Any], path: str = "", *, defaults: T | None = None) -> T:
    """An instance of the dataclass `kind` from `given`; fields not given come from `defaults` or the class."""
    if not isinstance(given, Mapping):
        raise InputError(f"{path or kind.__name__} = {given!r}: must be a mapping with keys {', '.join(fields(kind))}")
    hints = fields(kind)
    values = {}
    for key, value in given.items():
        if key not in hints:
            raise unknown_key(f"{path}.{key}".lstrip("."), value, key, hints)
        values[key] = convert(hints[key], value, f"{path}.{key}".lstrip("."))
    try:
        if defaults is not None:
            return dataclasses.replace(defaults, **values)  # type: ignore[type-var]
        missing = [f.name for f in dataclasses.fields(kind) if _required(f) and f.name not in values]  # type: ignore[arg-type]
        if missing:
            raise InputError(
                f"{missing[0]}: is required" + (f" (so are {', '.join(missing[1:])})" if missing[1:] else "")
            )
        return kind(**values)
    except InputError as error:  # raised by __post_init__, or above: it knows the field, we know where
        raise InputError(f"{path}.{error}" if path else str(error)) from None


def unknown_key(where: str, value: object, key: str, allowed: typing.Iterable[str]) -> InputError:
    return InputError(f"{where} = {value!r}: unknown key; {choices(key, allowed)}")


def convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as `hint`: int, float, bool, str, Literal, X | None, tuple[X, ...], X | tuple[X, ...], dict[str, X], a
    dataclass, or a class that reads such values itself (`of_setting`)."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        kinds = [option for option in options if option is not type(None)]
        lists = [option for option in kinds if typing.get_origin(option) is tuple]
        if lists and isinstance(value, (list, tuple)):
            return convert(lists[0], value, path)
        if lists and bool in kinds and not isinstance(value, bool):  # bool | tuple[X, ...]: one X is a list of it
            return convert(lists[0], [value], path)
        singles = [option for option in kinds if option not in lists]
        fits = (o for o in singles if isinstance(o, type) and isinstance(value, (int, o) if o is float else o))
        return convert(next(fits, singles[0]), value, path)
    if origin is Literal:
        options = typing.get_args(hint)
        if isinstance(value, bool) or value not in options:
            raise InputError(f"{path} = {show(value)}: must be one of {', '.join(map(str, options))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{path} = {show(value)}: must be a list")
        return tuple(convert(typing.get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{path} = {show(value)}: must be a mapping")
        return {str(key): convert(typing.get_args(hint)[1], item, f"{path}.{key}") for key, item in value.items()}
    if hasattr(hint, "of_setting"):
        return hint.of_setting(value, path)
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, path)  # type: ignore[arg-type]
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        raise InputError(f"{path} = {show(value)}: must be {names.get(hint, hint)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{path} = {value}: must be a finite number")
    return value


def show(value: object) -> str:
    """A value as a user would write it."""
    return json.dumps(value, default=repr, ensure_ascii=False)


def identity(instance: Any, defaults: Any = None, *, everything: bool = False) -> dict[str, Any]:
    """The fields that can change numbers (`everything`: and those that cannot) and differ from their defaults, as plain
    JSON values.

    Leaving defaults out is what lets a knob be added later, with a default that keeps the old behaviour, without
    changing the identity of old runs. A shipped default therefore never changes.
    """
    values = {}
    kind: Any = type(instance)
    for name, default in _counted(kind, everything):
        value = getattr(instance, name)
        usual = default if defaults is None else getattr(defaults, name)
        if usual is dataclasses.MISSING or value != usual:
            values[name] = _plain(value)
    return values


@functools.cache
def _counted(kind: Any, everything: bool = False) -> tuple[tuple[str, Any], ...]:
    """The fields of a dataclass that can change numbers (or all of them), with their defaults: MISSING where they are
    required."""
    found = []
    for f in dataclasses.fields(kind):
        if everything or f.metadata.get("identity", True):
            factory = f.default_factory
            found.append((f.name, f.default if factory is dataclasses.MISSING else factory()))
    return tuple(found)


def all_fields(instance: Any) -> dict[str, Any]:
    """Every field that can change numbers, as plain JSON values: for an identity of what has no defaults that stay.
    Functions and classes stand there by name."""
    kept = (f.name for f in dataclasses.fields(instance) if f.metadata.get("identity", True))
    return {name: _written(getattr(instance, name), f"{type(instance).__name__}.{name}") for name in kept}


def _written(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_written(item, where) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _written(item, where) for key, item in value.items()}
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        return value.__qualname__  # the module of a file depends on where the file is
    if dataclasses.is_dataclass(value):
        return all_fields(value)
    allowed = "a number, a string, true, false, a list, a mapping, a dataclass, a function or a class"
    raise InputError(f"{where} = {value!r}: must be {allowed}, to be part of a run's identity")


def flat(instance: Any) -> dict[str, Any]:
    """Every field that can change numbers, with its value, by dotted name: {"lr": 0.1, "schedule.kind": "step"}."""
    values: dict[str, Any] = {}
    for f in dataclasses.fields(instance):
        if f.metadata.get("identity", True):
            value = getattr(instance, f.name)
            nested = dataclasses.is_dataclass(value)
            if isinstance(value, tuple):
                value = tuple(item.as_setting() if hasattr(item, "as_setting") else item for item in value)
            values |= {f"{f.name}.{name}": item for name, item in flat(value).items()} if nested else {f.name: value}
    return values


def unfolded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings under dotted names: {"schedule": {"kind": "step"}} -> {"schedule.kind": "step"}."""
    found: dict[str, Any] = {}

    def unfold(values: Mapping[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                unfold(value, f"{prefix}{name}.")
            else:
                found[prefix + name] = value

    unfold(values, "")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "described"):  # it says itself what counts of it, as `of_setting` reads it
        return value.described()
    return identity(value) if hasattr(value, "__dataclass_fields__") else value


def fields(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass and their types."""
    return _fields(kind)


@functools.cache
def _fields(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def _required(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
