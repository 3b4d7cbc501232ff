#!/usr/bin/env python3
"""What docs/performance.md leaves "not measured", on one GPU: python3 scripts/measure_gpu.py [PART ...]

Parts, or groups of them, in the order given; without any: the group "first", about four minutes.

    first    probe     what ends a capture that another thread's work falls into (capture_probe.py)
             tests     captured steps, one step against the CPU's, views: the engine is right
             wrn       WRN-40-2 -> WRN-16-2: fleets of 1, 4 and 16 in tf32 and bf16, beside the usual loop
    second   search    the same alone, with cuDNN's search and without
             layout    the same alone in fp32 and tf32, channels_last and contiguous
             fleet     tests of runs side by side, of streamed images and of the benchmark
    third    resnet56  its share of the floor, alone and in fleets
             resnet18  seconds an epoch
             resnet20, muller (AlexNet and the MLPs)

Each part has a time limit of its own, and all of them together --minutes: a part that does not fit any more is left
out, and named. A step that runs eagerly where it should be replayed makes its part fail. In the output folder are
record.json (everything, written after every turn of a benchmark, and gone on with by later calls), tables.txt and
log.txt. It runs from a source tree; nothing needs to be installed but torch and what else lskd imports.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from from_tree import LSKD_BENCH, ROOT, WHEELS_HELP, environment, exit_when_asked, read, run, write

WRN = ("--pairs=wrn_40_2-wrn_16_2", "--examples=49920")  # 780 batches of 64, none of them smaller
SINGLE = ("tests/engine/test_capture.py", "tests/engine/test_loop.py")  # of one run at a time
PYTEST = ("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-k", "cuda")


@dataclass(frozen=True)
class Part:
    """Programs, by the names that their records get, and the seconds that they may take together."""

    seconds: float
    programs: dict[str, tuple[str, ...]]


def bench(*words: str) -> tuple[str, ...]:
    return (*LSKD_BENCH[1:], "--device=cuda", "--strict", *words)


PARTS = {
    "probe": Part(60, {"probe": ("scripts/capture_probe.py",)}),
    "tests": Part(
        130,
        {"tests": (*PYTEST, *SINGLE, "tests/data/test_augment.py")},
    ),
    "wrn": Part(
        150, {"wrn": bench(*WRN, "--fleet=1,4,16", "--precisions=tf32,bf16", "--seconds=0.5", "--repeats=2")}
    ),
    "search": Part(
        150,
        {
            f"search {how}": bench(
                *WRN, "--precisions=tf32,bf16", "--seconds=0.7", "--repeats=3", "--no-usual", f"--search={how}"
            )
            for how in ("on", "off")
        },
    ),
    "layout": Part(
        150,
        {
            layout: bench(
                *WRN, "--precisions=fp32,tf32", "--seconds=0.7", "--repeats=3", "--no-usual", f"--layout={layout}"
            )
            for layout in ("channels_last", "contiguous")
        },
    ),
    "fleet": Part(
        200, {"fleet": (*PYTEST, "tests/engine", "tests/bench", *(f"--ignore={file}" for file in SINGLE))}
    ),
    "resnet56": Part(
        170,
        {
            "resnet56": bench(
                "--pairs=resnet56", "--fleet=1,4,16", "--precisions=tf32,bf16", "--seconds=0.7", "--repeats=2",
                "--no-usual", "--examples=49920",
            )
        },
    ),
    "resnet18": Part(
        120,
        {
            "resnet18": bench(
                "--pairs=resnet18", "--fleet=1,2,4", "--precisions=bf16", "--seconds=1", "--repeats=2", "--no-usual",
                "--examples=49920",
            )
        },
    ),
    "resnet20": Part(
        150,
        {
            "resnet20": bench(
                "--pairs=resnet56-resnet20", "--fleet=1,8", "--precisions=tf32,bf16", "--seconds=0.5", "--repeats=2",
                "--examples=49920",
            )
        },
    ),
    "muller": Part(
        200,
        {
            "muller": bench(
                "--pairs=resnet56_t2t-alexnet,mlp1200-mlp800", "--fleet=1,8", "--precisions=tf32,bf16",
                "--seconds=0.4", "--repeats=2", "--no-usual", "--examples=39936",
            )
        },
    ),
}  # fmt: skip
GROUPS = {
    "first": ("probe", "tests", "wrn"),
    "second": ("search", "layout", "fleet"),
    "third": ("resnet56", "resnet18", "resnet20", "muller"),
}
# On a CPU, in seconds: the same ways, with next to nothing to do.
REHEARSAL = {
    "probe": Part(60, {"probe": ("-c", "print('{\"meanwhile\": \"rehearsal\"}')")}),
    "wrn": Part(
        60,
        {
            "wrn": (
                *LSKD_BENCH[1:], "--device=cpu", "--threads=1", "--strict", "--pairs=mlp-mlp", "--examples=64",
                "--seconds=0.01", "--repeats=1", "--no-usual",
            )
        },
    ),
}  # fmt: skip


def main(words: list[str] | None = None) -> int:
    """The exit code: 1 if a part failed, was stopped or was left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["first"], metavar="PART", help="(default: first)")
    parser.add_argument("--out", type=Path, default=ROOT / "results/bench/gpu", help="(default: results/bench/gpu)")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all parts together (default: 9.5)")
    parser.add_argument("--wheels", type=Path, help=WHEELS_HELP)
    parser.add_argument(
        "--rehearse", action="store_true", help="on a CPU, in seconds: probe and wrn, as tiny as can be"
    )
    given = parser.parse_args(words)
    parts = REHEARSAL if given.rehearse else PARTS
    names = [name for word in given.parts for name in GROUPS.get(word, (word,)) if name in parts or word not in GROUPS]
    for name in names:
        if name not in parts:
            parser.error(f"no part {name}; there are {', '.join((*GROUPS, *parts))}")

    began = time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "record.json"
    record: dict[str, Any] = read(file) or {}
    env = environment(given.wheels)
    good = True
    for name in dict.fromkeys(names):
        part, left = parts[name], 60 * given.minutes - (time.monotonic() - began)
        if left < part.seconds / 2:
            record[name] = {"state": "left out", "why": f"{left:.0f} s are left, and it may take {part.seconds:.0f}"}
        else:
            measure(name, part, min(part.seconds, left), given.out, env, record)
        write(file, record)
        good = good and record[name]["state"] == "done"
        print(f"{name}: {summary(record[name])}", flush=True)
    print(f"wrote {file}")
    return 0 if good else 1


def measure(name: str, part: Part, seconds: float, out: Path, env: dict[str, str], record: dict[str, Any]) -> None:
    """Run the programs of `part`; its entry in `record` is written whenever there is something new."""
    until = time.monotonic() + seconds
    entry: dict[str, Any] = {"state": "running", "programs": {}}
    record[name] = entry
    for program, words in part.programs.items():
        found: dict[str, Any] = {}
        entry["programs"][program] = found
        if "pytest" in words and importlib.util.find_spec("pytest") is None and not has_wheel(env, "pytest"):
            found |= {"skipped": "there is no pytest here; its wheels can be carried (--wheels)"}
            entry["state"] = "failed"
            continue
        with tempfile.TemporaryDirectory() as folder:
            bench_json, printed = Path(folder) / "bench.json", Path(folder) / "printed"
            is_bench = words[: len(LSKD_BENCH) - 1] == tuple(LSKD_BENCH[1:])

            def look(found: dict[str, Any] = found, bench_json: Path = bench_json) -> None:
                content = read(bench_json)
                if content is not None and content != found.get("bench"):
                    found["bench"] = content
                    write(out / "record.json", record)

            # A capture that fails is an error in the tests; of a benchmark the record has what was not captured.
            strict = {} if is_bench else {"LSKD_STRICT_CAPTURE": "1"}
            began = time.monotonic()
            code = run(
                [sys.executable, *words, *([f"--json={bench_json}"] if is_bench else [])],
                out / "log.txt",
                max(1.0, until - began),
                {**env, **strict},
                output=printed,
                look=look,
            )
            found |= {"exit_code": code, "seconds": round(time.monotonic() - began, 1)}
            text = printed.read_text(encoding="utf-8", errors="replace") if printed.is_file() else ""
        with open(out / "tables.txt", "a", encoding="utf-8") as tables:
            tables.write(f"\n== {name}: {program} ==\n{text}")
        if not is_bench:
            found["said"] = text.strip().splitlines()[-40:]
        if code != 0:
            entry["state"] = "stopped" if code is None else "failed"
            if code is None:
                break
    if entry["state"] == "running":
        entry["state"] = "done"


def has_wheel(env: dict[str, str], package: str) -> bool:
    return any((Path(folder) / package).is_dir() for folder in env["PYTHONPATH"].split(os.pathsep))


def summary(entry: dict[str, Any]) -> str:
    """One line of a part's entry in the record."""
    lines = [entry.get("why", "")]
    for program, found in entry.get("programs", {}).items():
        last = (found.get("said") or [""])[-1]
        lines.append(f"{program}: {found.get('skipped') or last or 'exit code'} {found.get('exit_code', '')}".strip())
    return "; ".join([entry["state"], *filter(None, lines)])


if __name__ == "__main__":
    exit_when_asked()
    sys.exit(main())
