"""Parts by name: methods, networks, data sets and what looks at networks.

A part is registered where it stands, by a decorator; nothing else has to be edited. What a user's plug-in registers is
found in the same place as what lskd ships, and is told from it: see `Registry.shipped`.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Generic, NoReturn, TypeVar

from lskd.errors import InputError, choices

T = TypeVar("T")
P = TypeVar("P")


class Registry(Mapping[str, T], Generic[T]):
    """The parts of one kind, by name, in the order in which they were registered.

    kind: what they are, in words, for errors: "method".
    base: the class that parts derive from.
    how: how one is registered, in words, where that is not the decorator `register` beside `base`.
    shipped: those of the package itself, whatever plug-ins register: their defaults never change, so that identities
        leave them out.
    """

    def __init__(self, kind: str, base: type, how: str = "") -> None:
        self.kind, self.base, self.how = kind, base, how
        self.entries: dict[str, T] = {}
        self._owners: dict[str, str] = {}
        self.shipped: Mapping[str, T] = MappingProxyType({})

    def __getitem__(self, name: str) -> T:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __setitem__(self, name: str, entry: object) -> NoReturn:
        """`InputError`: what is put here by assignment would have no checks, and no owner."""
        module, part = self.base.__module__.rpartition(".")[0], self.base.__name__
        above = f'@register("{name}") above @dataclass(frozen=True) and class …({part})'
        how = self.how or f"{above}, with from {module} import register"
        raise InputError(f"{self.kind} = {name!r}: cannot be assigned; where it stands, say {how}")

    def add(self, name: str, entry: T, owner: str) -> None:
        """Register `entry`, which the module `owner` brings. `InputError` for a name that another one has."""
        if name in self.entries:
            first = self._owners.get(name, "another").removeprefix("plugin:")
            raise InputError(f"{self.kind} = {name!r}: is taken by {first}; register yours under another name")
        self.entries[name], self._owners[name] = entry, owner

    def register(self, name: str, **settings: Any) -> Callable[[type[P]], type[P]]:
        """A decorator for a frozen dataclass: it is `name` from now on, with `settings` in the place of its defaults.

        Several of them, above one another, register several variants.
        """
        if not isinstance(name, str):
            raise InputError(f"{self.kind} = {name!r}: must be a name: @register('name')")

        def enter(part: type[P]) -> type[P]:
            made: Any = part
            where = f"{self.kind} = {name!r}: {part.__name__}"
            if not issubclass(made, self.base):
                raise InputError(f"{where}: must derive from {self.base.__module__}.{self.base.__name__}")
            if "__dataclass_fields__" not in vars(part):  # its own, not those of a class that it derives from
                raise InputError(f"{where}: must be a dataclass: @register(…), below it @dataclass(frozen=True)")
            fields = {f.name: f for f in dataclasses.fields(made) if f.init}
            if strange := sorted(settings.keys() - fields):
                raise InputError(f"{where}.{strange[0]}: unknown setting; {choices(strange[0], fields)}")
            wanting = [name for name, f in fields.items() if name not in settings and _required(f)]
            if wanting:
                raise InputError(f"{where}.{wanting[0]}: needs a default, as every setting of a {self.kind} does")
            self.add(name, made(**settings), part.__module__)
            return part

        return enter

    def ship(self) -> None:
        """What is registered now is what the package ships."""
        self.shipped = MappingProxyType(dict(self.entries))


def _required(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def import_files(package: str) -> None:
    """Import all modules of `package`, but none of packages within it, so that what they register is there."""
    for module in pkgutil.iter_modules(sys.modules[package].__path__, f"{package}."):
        if not module.ispkg:
            importlib.import_module(module.name)
