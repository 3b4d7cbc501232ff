"""Files that are absent, old or whole, never half there."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lskd.errors import InputError

RESTORE = "restore it, or delete its directory to train again"


def read_json(path: Path | str) -> dict[str, Any] | None:
    """The JSON object in `path`; None where there is no such file."""
    try:
        with open(path, "rb", buffering=0) as file:  # half the time of a text file, and reports read thousands
            content = json.loads(file.read().decode())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # JSON's and UTF-8's errors are ValueErrors
        raise InputError(f"{path}: is not valid JSON ({error}); {RESTORE}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a JSON object; {RESTORE}")
    return content


def write_json(path: Path, content: dict[str, Any], *, new: bool = False) -> None:
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"), new=new)


def write_atomically(path: Path, write: Callable[[Path], object], *, new: bool = False) -> None:
    """`write(temporary path)`, flushed to the disk, then renamed: `path` is absent, old or whole, never half there.
    With `new`, a `FileExistsError` where there is one already."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask makes of a file, which safetensors hides from the group
        write(temporary)
        temporary.chmod(mode)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        if new and not _linked(temporary, path):
            if path.exists():
                raise FileExistsError(path)
            os.replace(temporary, path)
        elif not new:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _linked(file: Path, path: Path) -> bool:
    """Whether `file` is now at `path`, too; False on file systems without links. `FileExistsError` if one is there."""
    try:
        os.link(file, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        return False
    return True
