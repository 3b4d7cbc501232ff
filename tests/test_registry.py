"""Registries: what may be registered, and how what is shipped is told from what a plug-in brings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import lskd
from lskd import data, methods, models, probes
from lskd.data import DATASETS
from lskd.errors import InputError
from lskd.methods import METHODS
from lskd.metrics import METRICS
from lskd.registry import Registry
from lskd.targets import TARGETS

PACKAGE = Path(lskd.__file__).parent


@dataclass(frozen=True)
class Part:
    size: int = 1


@pytest.fixture
def parts() -> Registry[Part]:
    return Registry("part", Part)


def test_a_decorator_registers_a_part_and_its_variants(parts):
    @parts.register("small")
    @parts.register("large", size=9)
    @dataclass(frozen=True)
    class Wheel(Part):
        size: int = 3

    assert (parts["small"], parts["large"], set(parts)) == (Wheel(3), Wheel(9), {"small", "large"})
    assert Wheel().size == 3 and dict(parts.shipped) == {}
    parts.ship()
    parts.register("mine", size=4)(Wheel)
    assert set(parts) - set(parts.shipped) == {"mine"} and parts["mine"] == Wheel(4)


@dataclass(frozen=True)
class Needy(Part):
    weight: float = field(kw_only=True)


class Bare(Part):
    """Derives from a dataclass, and is none."""


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("small", Part, r"part = 'small': is taken by tests?.*; register yours under another name"),
        ("new", dict, r"part = 'new': dict: must derive from .*\.Part"),
        ("new", Bare, r"part = 'new': Bare: must be a dataclass: @register\(…\), below it @dataclass\(frozen=True\)"),
        ("new", Needy, r"part = 'new': Needy\.weight: needs a default, as every setting of a part does"),
        (Part, Part, r"must be a name: @register\('name'\)"),
    ],
)
def test_what_cannot_be_registered(parts, name, part, message):
    parts.add("small", Part(), "tests.elsewhere")
    with pytest.raises(InputError, match=message):
        parts.register(name)(part)
    assert list(parts) == ["small"]


def test_a_setting_that_is_not_there_is_no_variant(parts):
    with pytest.raises(InputError, match=r"part = 'new': Part\.colour: unknown setting; allowed: size"):
        parts.register("new", colour=1)(Part)


def test_files_are_called_as_what_they_register():
    """So that who looks for a part finds it: methods/ft.py, probes/penultimate.py, data/sets/mnist.py."""
    registered: dict[str, Any] = {"methods": methods.METHODS, "probes": probes.PROBES}
    for folder, registry in registered.items():
        assert {f"lskd.{folder}.{name}" for name in registry.shipped} == {
            type(entry).__module__ for entry in registry.shipped.values()
        }
    assert set(data.DATASETS.shipped) == {path.stem for path in (PACKAGE / "data" / "sets").glob("[!_]*.py")}


@pytest.mark.parametrize("registry", [methods.METHODS, models.ARCHS, probes.PROBES, data.DATASETS])
def test_what_the_package_registers_is_shipped(registry):
    assert registry.shipped == registry.entries and len(registry) >= 4
    assert registry.shipped is not registry.entries


@pytest.mark.parametrize(
    ("registry", "words"),
    [
        (
            METHODS,
            '@register("mine") above @dataclass(frozen=True) and class …(Method), with from lskd.methods',
        ),
        (
            TARGETS,
            '@register("mine") above @dataclass(frozen=True) and class …(Target), with from lskd.targets',
        ),
        (METRICS, '@metric("NAME", "title") above its function, with from lskd.metrics import metric'),
        (DATASETS, "@register(Spec(…)) above its reader, with from lskd.data import Spec, register"),
    ],
)
def test_an_assignment_says_how_a_part_is_registered(registry, words):
    with pytest.raises(InputError) as caught:
        registry["mine"] = object()
    assert str(caught.value).startswith(f"{registry.kind} = 'mine': cannot be assigned; where it stands, say {words}")
    assert "mine" not in registry and "\n" not in str(caught.value)
