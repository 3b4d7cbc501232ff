"""Methods, networks and data sets from outside the package."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path

from lskd.errors import InputError


def load_plugin(name: str) -> None:
    """Import a user's module (a dotted name, or a path to a .py file), which adds to METHODS, ARCHS or DATASETS."""
    module = f"plugin:{Path(name).resolve()}"  # a file may be called anything, even random.py
    try:
        if name.endswith(".py"):
            if module in sys.modules:
                return
            spec = importlib.util.spec_from_file_location(module, name)
            assert spec is not None and spec.loader is not None
            sys.modules[module] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
            spec.loader.exec_module(sys.modules[module])
        else:
            importlib.import_module(name)
    except Exception as error:
        sys.modules.pop(module, None)
        raise InputError(f"plugin = {name!r}: cannot be imported: {type(error).__name__}: {error}") from None


def load_installed_plugins() -> None:
    """Import what installed packages name in the entry point group lskd.plugins."""
    for entry in entry_points(group="lskd.plugins"):
        load_plugin(entry.value)
