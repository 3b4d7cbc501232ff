"""Running lskd's programs from a source tree, with a time limit: what `measure_gpu.py` and `gpu_evidence.py` share.

Only Python's own library is imported here: everything else is found by the programs that are started.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "import sys; sys.argv[0] = 'lskd-run'; from lskd.program import lskd_run; sys.exit(lskd_run())"
LSKD_RUN = [sys.executable, "-c", PROGRAM]
LSKD_BENCH = [sys.executable, "-m", "lskd.bench.cli"]
POLL = 1.0  # seconds between two looks at a running program
WHEELS_HELP = (
    "folder of wheels of pure Python that are missing here, such as hydra_core, omegaconf and antlr4_python3_runtime "
    "(and pytest, pluggy and iniconfig for the tests); they are unpacked into a folder beside them, not installed "
    "(default: wheels/ of this checkout, if it is there)"
)


def environment(wheels: Path | None, **variables: str) -> dict[str, str]:
    """The environment of programs that find lskd in this tree, and the content of `wheels` beside it. (Python can
    import from a wheel as it is, but omegaconf does not find its grammar there.)"""
    paths = [str(ROOT / "src")]
    wheels = wheels or ROOT / "wheels"
    if wheels.is_dir():
        unpacked = wheels / "unpacked"
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as content:
                content.extractall(unpacked)
        paths += [str(unpacked)]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **variables}


def run(
    command: Sequence[str],
    log: Path,
    seconds: float,
    env: Mapping[str, str],
    *,
    grace: float = 10.0,
    output: Path | None = None,
    look: Callable[[], object] = lambda: None,
) -> int | None:
    """Run `command` with its output at the end of `log` (what it prints proper in `output`, if given); `look` is called
    every `POLL` seconds and at the end. The exit code; None if it was stopped after `seconds`: by SIGTERM, and after
    `grace` seconds more with all that it has started.
    """
    began = time.monotonic()
    with open(log, "ab") as lines, open(output or os.devnull, "ab") as printed:
        lines.write(f"\n$ {shlex.join(command)}\n".encode())
        lines.flush()
        program = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=printed if output else lines, stderr=lines, env=dict(env),
            cwd=ROOT, preexec_fn=os.setpgrp,
        )  # fmt: skip
        stopped = False
        try:
            while program.poll() is None:
                left = seconds - (time.monotonic() - began)
                if left <= 0 and not stopped:
                    stopped = True
                    program.terminate()
                if left <= -grace:
                    break
                try:
                    program.wait(max(0.01, min(POLL, left if left > 0 else left + grace)))
                except subprocess.TimeoutExpired:
                    look()
        finally:
            end_group(program)
            look()
        return None if stopped else program.returncode


def exit_when_asked() -> None:
    """SIGTERM ends this script as an error does: so that nothing that it has started goes on without it."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def end_group(program: subprocess.Popen[bytes]) -> None:
    """End what is left of `program` and of what it has started (loader workers)."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)
    program.wait()


def write(path: Path, content: Any) -> None:
    """`content` as JSON, at once: whoever reads or stops meanwhile finds the old file, or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def read(path: Path) -> Any:
    """The JSON in `path`; None if there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
