"""What an identity says of an entry of a registry: of a method, a network, a probe, a step of a data set."""

from __future__ import annotations

from typing import Any

from lskd.plugins import code_of, version_of
from lskd.registry import Registry
from lskd.schema import all_fields, identity


def described(name: str, entry: Any, registry: Registry[Any]) -> dict[str, Any]:
    """The settings of `entry` that are not those of the shipped one of that name, and its code. Of what is registered
    from outside the package all settings count: its defaults may change."""
    prototype = registry.shipped.get(name)
    settings = identity(entry, prototype) if type(prototype) is type(entry) else all_fields(entry)
    return {**settings, **code(type(entry))}


def code(kind: type) -> dict[str, Any]:
    """Which code a class is, as far as it is not the one that came first."""
    version, digest = version_of(kind), code_of(kind)
    return ({"version": version} if version != 1 else {}) | ({"code": digest} if digest is not None else {})
