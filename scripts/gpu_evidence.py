#!/usr/bin/env python3
"""The runs that matter most, on one GPU, for as many minutes as there are: python3 scripts/gpu_evidence.py --minutes 9

In order: MNIST's second stage; CIFAR-100 with ResNet-56 (Müller's Tables 2 and 3), three seeds first, for a verdict
needs three; CIFAR-10's distillation (Figure 5) and WSL's pair WRN-40-2 -> WRN-16-2, seed by seed. What is finished is
collected after every run. Before the time is over what is in training is stopped, and writes a checkpoint; the same
command goes on with it where the store is still there. Where it is not, --resume takes what an earlier call left in its
output folder: with --state that has the weights of teachers and checkpoints, too, as far as there is room.

In the output folder, never more than 8 files of at most 16 MB: results.tar.gz (the JSON of all runs in the store),
state.tar.0, 1, ... (only with --state), record.json and log.txt. Unpack results.tar.gz in results/ to have its runs in
tables. Only a GPU is used, never silently a CPU; the data (cifar10, cifar100, mnist) must be there: lskd-data prepare,
or LSKD_DATA.
"""

from __future__ import annotations

import argparse
import gzip
import io
import shutil
import sys
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from from_tree import LSKD_RUN, ROOT, WHEELS_HELP, environment, exit_when_asked, read, run, write

WORK: tuple[tuple[str, ...], ...] = (
    ("experiment=muller_mnist_second",),
    ("experiment=muller_cifar100", "seeds=[0,1,2]"),
    ("experiment=muller_cifar100",),
    *(("experiment=muller_cifar10", f"seeds=[{seed}]") for seed in range(5)),
    *(("experiment=wsl_pair", f"seeds=[{seed}]") for seed in range(5)),
)
# On a CPU, in seconds: a run that ends, and one that does not end in time.
REHEARSAL: tuple[tuple[str, ...], ...] = (
    ("dataset=digits", "recipe=quickstart", "arch=mlp", "recipe.epochs=1"),
    ("dataset=digits", "recipe=quickstart", "arch=mlp", "recipe.epochs=100000", "recipe.evaluate_every=1000"),
)
# Seconds for what is in training to write its checkpoints, and for the last collection.
GRACE, GRACE_REHEARSED = 40.0, 6.0
# lskd-run ends with 130, unasked, where its process can capture no more steps (torch before 2.13, after a capture that
# failed): then it is given again, in the end for one run at a time, beside which nothing can break a capture.
CANNOT_GO_ON, TRIES = 130, ((), (), ("runtime.fleet=1",))
PIECE, PIECES = 15_000_000, 4  # bytes of a part of the state, and how many parts there may be


def main(words: list[str] | None = None) -> int:
    """The exit code: 0 when all work is done, 1 if something failed, 3 if the time was over before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="until everything is written (default: 9)")
    parser.add_argument("--out", type=Path, default=ROOT / "gpu_evidence", help="(default: gpu_evidence)")
    parser.add_argument("--store", type=Path, default=ROOT / "gpu_results", help="of the runs (default: gpu_results)")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="the output folder of an earlier call")
    parser.add_argument("--state", action="store_true", help="keep teachers' weights and checkpoints, too")
    parser.add_argument("--wheels", type=Path, help=WHEELS_HELP)
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with two tiny runs")
    parser.add_argument("--plan", action="store_true", help="only print the commands, in their order")
    parser.add_argument("settings", nargs="*", help="more words for lskd-run, such as runtime.fleet=4")
    given = parser.parse_args(words)
    work = REHEARSAL if given.rehearse else WORK
    how = (f"runtime.device={'cpu' if given.rehearse else 'cuda'}", f"runtime.results={given.store.resolve()}")
    if given.plan:
        for what in work:
            print("lskd-run", *what, *how, *given.settings)
        return 0
    began, grace = time.monotonic(), GRACE_REHEARSED if given.rehearse else GRACE
    given.out.mkdir(parents=True, exist_ok=True)
    given.store.mkdir(parents=True, exist_ok=True)
    if given.resume is not None:
        resume(given.resume, given.store)
    env = environment(given.wheels)
    record: dict[str, Any] = read(given.out / "record.json") or {"calls": []}
    call: dict[str, Any] = {"minutes": given.minutes, "work": []}
    record["calls"].append(call)
    collected = -1

    def collect() -> None:
        """When a run has ended since the last time."""
        nonlocal collected
        done = finished(given.store)
        if len(done) != collected:
            collected = len(done)
            pack(given.out / "results.tar.gz", given.store, json_of(given.store))
            record["finished"] = done
            write(given.out / "record.json", record)

    code = 0
    for what in work:
        entry: dict[str, Any] = {"command": " ".join(what), "exit_codes": []}
        call["work"].append(entry)
        started = time.monotonic()
        for more in TRIES:
            left = 60 * given.minutes - (time.monotonic() - began) - grace
            ended = None
            if left > 0:
                command = [*LSKD_RUN, *what, *how, *given.settings, *more]
                ended = run(command, given.out / "log.txt", left, env, grace=grace / 2, look=collect)
            entry["exit_codes"].append(ended)
            if ended != CANNOT_GO_ON:
                break
        entry |= {"seconds": round(time.monotonic() - started, 1)}
        entry["state"] = "done" if ended == 0 else "time is over" if ended is None else "failed"
        code = code or {0: 0, None: 3}.get(ended, 1)
        write(given.out / "record.json", record)
        print(f"{entry['command']}: {entry['state']}, {entry['seconds']:.0f} s, {collected} runs in all", flush=True)
    collect()
    if given.state:
        record["state_left_out"] = pack_state(given.out, given.store)
    write(given.out / "record.json", record)
    return code


def finished(store: Path) -> list[str]:
    """The ids of the runs that have a record of their end: a result, or why there is none."""
    return sorted({file.parent.name for name in ("result", "failed") for file in store.glob(f"runs/*/{name}.json")})


def json_of(store: Path) -> list[Path]:
    """What is to be kept of finished runs: all but weights and checkpoints."""
    folders = [store / "runs" / id for id in finished(store)]
    return sorted(file for folder in folders for file in folder.rglob("*") if file.suffix in (".json", ".jsonl"))


def state_of(store: Path) -> list[Path]:
    """What is needed to go on elsewhere, the most important first: the weights of the teachers of runs that are here,
    checkpoints, and the weights of what may be teachers of others (the small ones first)."""
    configs = {config.parent: read(config) for config in sorted(store.glob("runs/*/config.json"))}
    taught_by = [config.get("teacher") for config in configs.values()]
    teachers, others = list[Path](), list[Path]()
    for folder, config in configs.items():
        weights = folder / "model.safetensors"
        if weights.is_file() and config in taught_by:
            teachers.append(weights)
        elif weights.is_file() and "teacher" not in config:
            others.append(weights)
    checkpoints = [file for folder in configs if (file := folder / "checkpoint.pt").is_file()]
    return [*teachers, *checkpoints, *sorted(others, key=lambda file: file.stat().st_size)]


def pack(file: Path, store: Path, files: Iterable[Path]) -> None:
    """`files` of the store in a tar, at once."""
    temporary = file.with_name(f".{file.name}.tmp")
    with gzip.open(temporary, "wb") as packed, tarfile.TarFile(fileobj=packed, mode="w") as tar:
        for one in files:
            add(tar, one, store)
    temporary.replace(file)


def add(tar: tarfile.TarFile, file: Path, store: Path) -> None:
    """As it is now: a log may grow meanwhile."""
    content = file.read_bytes()
    entry = tarfile.TarInfo(file.relative_to(store).as_posix())
    entry.size, entry.mtime = len(content), int(file.stat().st_mtime)
    tar.addfile(entry, io.BytesIO(content))


def pack_state(out: Path, store: Path) -> list[str]:
    """The state in parts of one tar; the names of those files for which there was no room."""
    for old in out.glob("state.tar.*"):
        old.unlink()
    chosen, room, left_out = [], PIECE * PIECES - 100_000, []
    for file in state_of(store):
        size = file.stat().st_size + 1024
        if size <= room:
            chosen.append(file)
            room -= size
        else:
            left_out.append(file.relative_to(store).as_posix())
    whole = io.BytesIO()
    with tarfile.TarFile(fileobj=whole, mode="w") as tar:
        for file in chosen:
            add(tar, file, store)
    content = whole.getvalue()
    for number, start in enumerate(range(0, len(content), PIECE)):
        (out / f"state.tar.{number}").write_bytes(content[start : start + PIECE])
    return left_out


def resume(folder: Path, store: Path) -> None:
    """Unpack what an earlier call left in `folder` into the store."""
    results = folder / "results.tar.gz"
    streams = [gzip.decompress(results.read_bytes())] if results.is_file() else []
    if pieces := sorted(folder.glob("state.tar.*")):
        streams.append(b"".join(piece.read_bytes() for piece in pieces))
    if not streams:
        raise SystemExit(f"gpu_evidence.py: --resume {folder}: has no results.tar.gz and no state.tar.0")
    for content in streams:
        with tarfile.TarFile(fileobj=io.BytesIO(content)) as tar:
            for entry in tar:
                path = store / entry.name
                if not path.resolve().is_relative_to(store.resolve()):
                    raise SystemExit(f"gpu_evidence.py: {folder}: {entry.name} lies outside the store")
                source = tar.extractfile(entry)
                if source is not None and not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with open(path, "wb") as target:
                        shutil.copyfileobj(source, target)


if __name__ == "__main__":
    exit_when_asked()
    sys.exit(main())
