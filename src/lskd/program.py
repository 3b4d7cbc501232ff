"""What the four programs share: how they begin and end, and paths as people type them."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from lskd import __version__
from lskd.errors import InputError

VERSION = f"lskd {__version__}"


def lskd_run() -> int:
    return _start("lskd-run", "lskd.cli")


def lskd_report() -> int:
    return _start("lskd-report", "lskd.report.cli")


def lskd_data() -> int:
    return _start("lskd-data", "lskd.data.cli")


def lskd_bench() -> int:
    return _start("lskd-bench", "lskd.bench.cli")


def _start(name: str, module: str) -> int:
    """A console script. What it imports takes a while, in which Ctrl-C counts, too."""
    return guarded(name, lambda: importlib.import_module(module).main())


def guarded(name: str, main: Callable[[], int | None]) -> int:
    """`main()`, the exit code of the program `name`. What comes from outside ends it without a traceback: input that
    cannot be used (2), Ctrl-C (130), a reader of its output that has gone, as in `| head -1` (141)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that has no α gets \u03b1
            stream.reconfigure(errors="backslashreplace")
    try:
        return main() or 0
    except InputError as error:
        return fail(name, str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141
    except FileNotFoundError:
        if _working_directory_exists():
            raise
        return fail(name, "the working directory has been deleted; go to another one")
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)


def fail(name: str, message: str) -> int:
    """Say on one line why the program `name` cannot do what it was asked to. The exit code."""
    print(f"{name}:", " ".join(message.split()), file=sys.stderr)
    return 2


def _working_directory_exists() -> bool:
    with contextlib.suppress(FileNotFoundError):
        return bool(os.getcwd())
    return False


def _flush(stream: object) -> None:
    """Write out what is buffered; where its reader has gone, it goes nowhere, and the interpreter, which flushes
    at its end, has nothing to complain about."""
    if isinstance(stream, io.TextIOWrapper):
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def terminal_columns() -> int | None:
    """The columns of the terminal that standard output is; None where it is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def user_path(given: str | Path) -> Path:
    """A path as it was typed, with ~ for the home directory; where there is none, an `InputError`."""
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise InputError(f"{str(given)!r}: {error} Write the whole path") from None


def shipped_conf() -> Path:
    """conf/ inside the installed package, or at the top of a checkout."""
    package = Path(__file__).parent
    for place in (package / "conf", package.parent.parent / "conf"):
        if (place / "config.yaml").is_file():
            return place
    raise InputError(f"conf/config.yaml: not found in {package} nor in the checkout around it; reinstall lskd")
