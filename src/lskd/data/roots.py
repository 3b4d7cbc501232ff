"""Where decoded data and downloaded files are, unless somebody says otherwise."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from lskd.errors import InputError
from lskd.program import user_path

HUB = "hub:"  # what was published under a name: the folder of that name, in the hub's format, beside the data


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


def hub_folder(word: str, named: str) -> Path:
    """Where the folder that hub:NAME stands for has to be, whether it is there or not; `named`: the setting, for an
    `InputError` about what is no such name."""
    name = word.removeprefix(HUB)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"{named}: must have the name of a folder after {HUB}, as hub:bert-base-cased has")
    return default_data_root() / name


def not_here(named: str, folder: Path, files: str) -> InputError:
    """For a folder that hub:NAME stands for, of which the `files` are needed."""
    return InputError(
        f"{named}: is not here: put this folder of the hub, or a link to it, at {folder}: {files} (LSKD_DATA names the "
        "folder that holds it)"
    )
