"""Where decoded data and downloaded files are, unless somebody says otherwise."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lskd.program import user_path


def default_cache_root() -> Path:
    """`LSKD_CACHE`, else `lskd` in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`); for a user without a
    home directory `makeshift_cache_root()`."""
    if os.environ.get("LSKD_CACHE"):
        return user_path(os.environ["LSKD_CACHE"])
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lskd"
    except RuntimeError:
        return makeshift_cache_root()


def makeshift_cache_root() -> Path:
    """A folder among the temporary ones, of this user's own."""
    return Path(tempfile.gettempdir()) / f"lskd-{os.getuid()}"


def default_data_root(cache: Path | None = None) -> Path:
    """`LSKD_DATA`, else `raw` in `cache` (default: `default_cache_root()`)."""
    if os.environ.get("LSKD_DATA"):
        return user_path(os.environ["LSKD_DATA"])
    return (cache or default_cache_root()) / "raw"
