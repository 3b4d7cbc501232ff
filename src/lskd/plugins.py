"""Methods, networks, probes and data sets from outside the package, and what their code is."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from lskd.errors import InputError
from lskd.program import user_path

FILE = "plugin:"  # begins the name of the module that a file becomes


def load_plugins(given: str | Iterable[str]) -> None:
    """Import the user's module `given`, or each of several (see `load_plugin`)."""
    for name in [given] if isinstance(given, str) else given:
        load_plugin(str(name))


def load_plugin(name: str) -> None:
    """Import a user's module (a dotted name, or a path to a .py file), which registers parts of its own. A file may
    import what lies beside it."""
    path = user_path(name)
    module = f"{FILE}{path.resolve()}"  # a file may be called anything, even random.py
    try:
        if name.endswith(".py"):
            if module in sys.modules:
                return
            spec = importlib.util.spec_from_file_location(module, path)
            assert spec is not None and spec.loader is not None
            sys.modules[module] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
            folder = str(path.resolve().parent)
            if folder not in sys.path:
                sys.path.append(folder)  # behind all others: what lies beside it takes the place of nothing
            spec.loader.exec_module(sys.modules[module])
        else:
            importlib.import_module(name)
    except InputError as error:  # what it registers cannot be used
        sys.modules.pop(module, None)
        raise InputError(f"plugin = {name!r}: {error}") from None
    except Exception as error:
        sys.modules.pop(module, None)
        raise InputError(f"plugin = {name!r}: cannot be imported: {type(error).__name__}: {error}") from None


def load_installed_plugins() -> None:
    """Import what installed packages name in the entry point group lskd.plugins."""
    for entry in entry_points(group="lskd.plugins"):
        load_plugin(entry.value)


# ---- which code a class is ----------------------------------------------------------------------------------------


def version_of(kind: type) -> int:
    """The version of a class's code: 1, and 1 more for every change that it, or a class that it derives from, has
    declared by raising its `version`."""
    if clash := {"name", "version", "code"} & {f.name for f in dataclasses.fields(kind)}:
        raise InputError(f"{kind.__name__}.{min(clash)}: is what an identity is made of; give the setting another name")
    return 1 + sum(vars(one).get("version", 1) - 1 for one in kind.__mro__)


@functools.cache
def code_of(kind: type) -> str | None:
    """12 hexadecimal digits of the SHA-256 of the code that a class from outside the package is; None for one of lskd.

    That is the file that defines the class, those of the classes of that kind that it derives from, and all that they
    import, directly or not, from beside them: from their folder, or from their package. Comments, docstrings and layout
    do not count. Nor do installed packages, and what is read or imported by other means than an import statement.
    """
    if _is_ours(kind):
        return None
    bases = [one for one in kind.__mro__[1:] if not _is_ours(one) and any(map(_is_ours, one.__mro__))]
    meanings = {path: _meaning(path) for one in (kind, *bases) for path in _sources(one)}
    return hashlib.sha256("\n".join(sorted(meanings.values())).encode()).hexdigest()[:12]


STANDARD = Path(sysconfig.get_path("stdlib")).resolve()  # what `make_dataclass` makes calls itself a part of it
INSTALLED = {"site-packages", "dist-packages"}


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "lskd"


def _sources(kind: type) -> set[Path]:
    """The files that `code_of` counts for one class."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if file is None or (STANDARD in Path(file).resolve().parents and not INSTALLED & set(Path(file).parts)):
        raise InputError(
            f"{kind.__name__}: is defined in no file, so its code has no identity; put it in one: plugin=FILE.py"
        )
    first = Path(file).resolve()
    roots = [first.parent]  # where absolute imports may find what is its own
    while (roots[-1] / "__init__.py").is_file():
        roots.append(roots[-1].parent)
    name = kind.__module__.partition(".")[0]
    if not kind.__module__.startswith(FILE):  # a package may have no __init__.py
        roots.append(first.parents[kind.__module__.count(".") + (first.name == "__init__.py")])
    installed = any(root.name in INSTALLED for root in roots)
    found = {first, *(path for root in roots if (path := root / "__init__.py").is_file())}  # of its packages, which ran
    left = list(found)
    while left:
        for path in _imported(left.pop(), roots, name if installed else None):
            if path not in found:
                found.add(path)
                left.append(path)
    return found


def _imported(file: Path, roots: list[Path], only: str | None) -> Iterator[Path]:
    """The files below `roots` that `file` imports, wherever in it; of absolute names only those of package `only`."""
    if file.suffix != ".py":
        return
    for node in ast.walk(_parsed(file)):
        names: list[list[str]] = []
        places = roots
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            names = [[*base, alias.name] for alias in node.names]
            if node.level:
                places = [file.parents[node.level - 1]]
        for name in names:
            if places is roots and (name[0] == "lskd" or name[0] != (only or name[0])):
                continue
            for place in places:
                for end in range(1, len(name) + 1):  # a package's __init__.py runs, too
                    path = place.joinpath(*name[:end])
                    for candidate in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
                        if candidate.is_file():
                            yield candidate.resolve()


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{file}: cannot be read, to say which code it is: {error}") from None


def _meaning(file: Path) -> str:
    """What a file says to Python: the same on every version of Python, which `ast.dump` is not."""

    def dump(node: Any) -> str:
        if isinstance(node, list):
            return f"[{','.join(map(dump, node))}]"
        if not isinstance(node, ast.AST):
            return repr(node)
        values = dict(ast.iter_fields(node))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            values["body"] = node.body[ast.get_docstring(node, clean=False) is not None :]
        given = {name: value for name, value in values.items() if name not in SILENT and value not in (None, [])}
        return f"{type(node).__name__}({','.join(f'{name}={dump(value)}' for name, value in given.items())})"

    return dump(_parsed(file)) if file.suffix == ".py" else hashlib.sha256(file.read_bytes()).hexdigest()


SILENT = ("ctx", "kind", "type_comment", "type_ignores")  # fields of a syntax tree that change nothing
