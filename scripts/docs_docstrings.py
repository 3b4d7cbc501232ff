"""Docstrings as Markdown for the pages of modules: an extension of griffe, which reads them (mkdocs.yml names it)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.append(str(Path(__file__).parent))
from docs_site import as_markdown


class PlainWords(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
