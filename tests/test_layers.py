"""Who may import whom (DESIGN.md, section 3): imports point down only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lskd

PACKAGE = Path(lskd.__file__).parent

# From the bottom up; modules on one line know nothing of one another, except within a package.
LAYERS = [
    {"errors"},
    {"program"},
    {"strict", "plugins", "losses", "targets"},
    {"metrics"},
    {"methods", "models", "data"},
    {"observers"},
    {"recipe", "data_cli"},
    {"config"},
    {"settings"},
    {"store"},
    {"engine"},
    {"run", "plan"},
    {"launch", "report", "bench"},
    {"cli"},
]
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}
FILES = sorted(PACKAGE.rglob("*.py"))


def part(file: Path) -> str:
    """The module of lskd, or its package, that a file belongs to."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(file: Path) -> Iterator[str]:
    """The absolute names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield node.module or ""
            if node.module == "lskd":
                yield from (f"lskd.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file):
    here = part(file)
    if here == "__init__":
        assert list(imports(file)) == []
        return
    for name in imports(file):
        top, _, rest = name.partition(".")
        there = rest.partition(".")[0]
        if top == "lskd" and there and there in LEVEL and there != here:
            assert LEVEL[there] < LEVEL[here], f"{here} must not import {there}"


def test_every_module_has_its_layer():
    assert {part(file) for file in FILES} == {*LEVEL, "__init__"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_only_the_command_line_imports_hydra(file):
    if file.name != "cli.py" or file.parent != PACKAGE:
        assert not any(name.partition(".")[0] == "hydra" for name in imports(file))


@pytest.mark.parametrize("module", ["lskd.plan", "lskd.cli", "lskd.store", "lskd.data", "lskd.models", "lskd.methods"])
def test_planning_imports_no_torch(module):
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
