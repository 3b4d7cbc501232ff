"""Who may import whom (DESIGN.md, section 3): imports point down only."""

from __future__ import annotations

import ast
import re
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
    {"program", "registry", "collector", "networks"},
    {"schema", "plugins", "quantity", "losses"},
    {"targets"},
    {"metrics", "entries"},
    {"methods", "models", "data"},
    {"probes"},
    {"recipe"},
    {"start"},
    {"run", "runtime"},
    {"config_groups"},
    {"compose"},
    {"commands", "origins"},
    {"tables"},
    {"files", "records", "claims"},
    {"store"},
    {"snapshot", "weights"},
    {"engine", "plan"},
    {"environment", "trackers"},
    {"launch"},
    {"report", "bench"},
    {"describe", "api"},
    {"perform"},
    {"cli"},
]
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}
FILES = sorted(PACKAGE.rglob("*.py"))


def part(file: Path) -> str:
    """The module of lskd, or its package, that a file belongs to."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(file: Path) -> Iterator[str]:
    """The absolute names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
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
    if here == "__init__":  # lazily, and for type checkers
        assert {name.split(".")[1] for name in imports(file) if name.startswith("lskd.")} <= {"api", "errors", "run"}
        return
    for name in imports(file):
        top, _, rest = name.partition(".")
        there = rest.partition(".")[0]
        if top == "lskd" and there and there in LEVEL and there != here:
            assert LEVEL[there] < LEVEL[here], f"{here} must not import {there}"


def test_every_module_has_its_layer():
    assert {part(file) for file in FILES} == {*LEVEL, "__init__"}


SOURCES = [*FILES, *sorted((Path(__file__).parents[1] / "scripts").glob("*.py"))]


def says_its_encoding(call: ast.Call) -> bool:
    """Whether `call`, if it reads or writes text, says which encoding that has."""
    called = ast.unparse(call.func)
    name = called.rpartition(".")[2]
    words = {word.arg: word.value for word in call.keywords}
    if "encoding" in words or called in ("Image.open", "os.open"):
        return True
    if name in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile"):
        return any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in [*call.args, *words.values()])
    if name in ("run", "Popen", "call", "check_call", "check_output"):  # of subprocess
        return not words.keys() & {"text", "universal_newlines"}
    return name not in ("read_text", "write_text")


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_text_is_utf_8_whatever_the_locale(file):
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    wrong = [f"{file}:{call.lineno}: {ast.unparse(call)}" for call in calls if not says_its_encoding(call)]
    assert wrong == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_asserts_check_nothing_that_a_user_gives(file):
    """`python -O` drops them: they tell the type checker what something is, and do nothing else."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assert):
            parts = node.test.values if isinstance(node.test, ast.BoolOp) else [node.test]
            text = f"{file}:{node.lineno}: {ast.unparse(node)}"
            assert all(re.search(r" is not None$|^isinstance\(", ast.unparse(part)) for part in parts), text


@pytest.mark.parametrize("file", sorted(Path(__file__).parent.rglob("*.py")), ids=lambda file: file.name)
def test_tests_can_fail(file):
    """`assert a == b if c else d` is `assert (a == b) if c else d`, which holds for any d but an empty one."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assert):
            sure = (ast.IfExp, ast.Tuple, ast.Constant, ast.JoinedStr, ast.GeneratorExp, ast.Lambda)
            assert not isinstance(node.test, sure), f"{file}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_only_the_command_line_imports_hydra(file):
    if file.name != "cli.py" or file.parent != PACKAGE:
        assert not any(name.partition(".")[0] == "hydra" for name in imports(file))


@pytest.mark.parametrize(
    "module",
    ["lskd.plan", "lskd.cli", "lskd.store", "lskd.data", "lskd.models", "lskd.methods", "lskd.probes", "lskd.targets"],
)
def test_planning_imports_no_torch(module):
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
