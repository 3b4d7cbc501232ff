"""The library that tokenizes, which is an extra of lskd."""

from __future__ import annotations

from typing import Any

from lskd.errors import InputError


def tokenizers() -> Any:
    """`tokenizers`. `InputError` where it is not installed."""
    try:
        import tokenizers as found
    except ImportError:
        raise InputError("text needs the package tokenizers: pip install 'lskd[text]'") from None
    return found
