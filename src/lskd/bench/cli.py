"""The command `lskd-bench`: how fast this machine trains, beside the usual loop and beside the machine's floor."""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lskd.config import Runtime
from lskd.data import spec
from lskd.errors import InputError, unknown
from lskd.methods.method import require
from lskd.program import VERSION, guarded, user_path
from lskd.settings import Conf, parse_run
from lskd.store import write_atomically

# What is measured, as settings of a run: the student, and the teacher where there is one.
PAIRS: dict[str, dict[str, Any]] = {
    "wrn_40_2-wrn_16_2": {
        "dataset": "cifar100", "recipe": "crd", "arch": "wrn_16_2", "teacher": "wrn_40_2", "method": "kd",
    },
    "resnet56-resnet20": {
        "dataset": "cifar100", "recipe": "crd", "arch": "resnet20", "teacher": "resnet56", "method": "kd",
    },
    "resnet56_t2t-alexnet": {
        "dataset": "cifar10", "recipe": "muller_alexnet", "arch": "alexnet", "teacher": "resnet56_t2t",
        "method": "kd_muller",
    },
    "mlp1200-mlp800": {
        "dataset": "mnist", "recipe": "muller_mnist_student", "arch": "mlp800", "teacher": "mlp1200",
        "method": "logit_matching",
    },
    "resnet56": {"dataset": "cifar100", "recipe": "crd", "arch": "resnet56"},
    "resnet18": {"dataset": "cifar100", "recipe": "standard", "arch": "resnet18"},
}  # fmt: skip
DEFAULT_PAIRS = "wrn_40_2-wrn_16_2,mlp1200-mlp800"
PRECISIONS = ("fp32", "tf32", "bf16")
DEFAULT_PRECISIONS = {"cpu": "fp32", "cuda": "fp32,bf16"}
DEFAULT_SECONDS = {"cpu": 5.0, "cuda": 3.0}

_EPILOG = f"""\
pairs (teacher-student): {", ".join(PAIRS)}

examples:
  lskd-bench                                        some minutes on a CPU
  lskd-bench --pairs all --fleet 1,4,16 --json h200.json
  lskd-bench --pairs resnet18 --precisions bf16 --fleet 1,2,4,8 --no-usual

The images are noise, so no data are needed. "usual" is the loop of public code: PIL workers, the teacher in every step,
.item() in every step. "KD, filling" is an epoch in which the teacher has to look at every image, "KD, cached" one in
which it has seen all the views before. Of a fleet, images/s are those of all its runs together, and ms/step and s/epoch
are for one run the share of the fleet's time. The floor is what moving the bytes of a step, operator by operator, and
computing its products would take this machine.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 2 after an error that the user can mend."""
    return guarded("lskd-bench", lambda: run(_parser().parse_args(argv)))


def run(args: argparse.Namespace) -> int:
    # All that may be wrong is found before anything is measured; what needs no torch first.
    pairs = choice("--pairs", ",".join(PAIRS) if args.pairs == "all" else args.pairs, PAIRS)
    fleets = tuple(sorted({whole("--fleet", word) for word in words(args.fleet)}))
    require(bool(fleets), "--fleet", args.fleet, "whole numbers >= 1")
    chosen = choice("--precisions", args.precisions, PRECISIONS) if args.precisions is not None else None
    require(args.seconds is None or 0 < args.seconds < math.inf, "--seconds", args.seconds, "> 0")
    require(args.repeats >= 1, "--repeats", args.repeats, ">= 1")
    require(args.threads >= 0, "--threads", args.threads, ">= 0")
    if args.json is not None:
        require(not args.json.is_dir(), "--json", str(args.json), "a file, not a directory")
        writable = os.access(args.json.absolute().parent, os.W_OK)
        require(writable, "--json", str(args.json), "a file in a directory that is there and can be written to")
    conf = Conf()
    runs = {pair: parse_run(PAIRS[pair], conf) for pair in pairs}
    try:
        Runtime(device=args.device)
    except InputError as error:
        raise InputError(f"--{error}") from None

    import torch

    from lskd.bench.measure import Machine, Options, measure
    from lskd.run import resolve_device

    try:
        device = resolve_device(args.device)
    except InputError as error:
        raise InputError(str(error).replace("runtime.device", "--device")) from None
    if args.threads:
        torch.set_num_threads(args.threads)
    options = Options(
        seconds=args.seconds or DEFAULT_SECONDS[device.type],
        repeats=args.repeats,
        precisions=chosen or tuple(DEFAULT_PRECISIONS[device.type].split(",")),
        fleets=fleets,
        usual=args.usual,
        examples=args.examples,
    )
    say("the machine's copy bandwidth and matrix rate")
    machine = Machine.measured(device, options.precisions)
    report: dict[str, Any] = {
        "machine": describe(device)
        | {"copy_bytes_per_second": machine.bandwidth, "operations_per_second": machine.rates},
        "versions": versions(),
        "arguments": vars(options),
        "pairs": {},
    }  # fmt: skip
    for pair in pairs:
        about = spec(runs[pair].dataset.name, conf.cache)
        tell = functools.partial(say, f"{pair}:")
        report["pairs"][pair] = measure(runs[pair], about, device, options, machine, tell)
        if args.json is not None:  # at every pair: an interruption costs one
            content = json.dumps(report, indent=1) + "\n"
            write_atomically(args.json, functools.partial(Path.write_text, data=content, encoding="utf-8"))
    print(text(report))
    if args.json is not None:
        print(f"wrote {args.json}")
    return 0


# ---- the command line ---------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """The words of a list with commas, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def choice(option: str, text: str, allowed: Sequence[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """The words of a list with commas, all of them `allowed`."""
    names = words(text)
    require(bool(names), option, text, f"some of {', '.join(allowed)}")
    for name in names:
        if name not in allowed:
            raise unknown(option, name, allowed)
    return tuple(names)


def whole(option: str, word: str) -> int:
    require(word.isdecimal() and int(word) >= 1, option, word, "a whole number >= 1")
    return int(word)


def say(*words: str) -> None:
    print(*words, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lskd-bench",
        description="Training speed on this machine: lskd, the loop that is usual in public code, the machine's floor.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", default=DEFAULT_PAIRS, metavar="A,B", help=f"or all (default: {DEFAULT_PAIRS})")
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda, cuda:N")
    parser.add_argument(
        "--precisions", metavar="A,B", help="fp32, tf32, bf16 (default: fp32,bf16 on a GPU, fp32 on a CPU)"
    )
    parser.add_argument("--fleet", default="1", metavar="N,M", help="runs side by side (default: 1)")
    parser.add_argument("--seconds", type=float, metavar="S", help="of a window (default: 3 on a GPU, 5 on a CPU)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="windows of each case (default: 3)")
    parser.add_argument(
        "--usual", action=argparse.BooleanOptionalAction, default=True, help="the usual loop, too (default)"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--json", type=user_path, metavar="FILE", help="all numbers, written after every pair")
    parser.add_argument("--version", action="version", version=VERSION)
    # Images to train on; for tests.
    parser.add_argument("--examples", type=int, help=argparse.SUPPRESS)
    return parser


# ---- what is shown ------------------------------------------------------------------------------------------------


def text(report: Mapping[str, Any]) -> str:
    """The table, and below it what does not fit in its rows."""
    import pandas
    from tabulate import tabulate

    frame = pandas.DataFrame([row(pair, case) for pair, its in report["pairs"].items() for case in its["cases"]])
    blocks = [tabulate(frame.to_dict("list"), headers="keys", stralign="right", disable_numparse=True)]
    for pair, its in report["pairs"].items():
        lines = [
            f"{case['case']}, {case['precision']}, fleet {case['fleet']}: "
            f"{ranged(case['time_over_ce'], 3)} × the time of CE"
            for case in its["cases"]
            if case["time_over_ce"]
        ]
        lines.append(
            "ms of a step in fp32: " + ", ".join(f"{name} {number(ms)}" for name, ms in its["phases_ms"].items())
        )
        blocks.append("\n".join(f"{pair}: {line}" for line in [*lines, *its["notes"]]))
    machine = report["machine"]
    rates = ", ".join(f"{rate / 1e12:.3g} TFLOP/s {name}" for name, rate in machine["operations_per_second"].items())
    blocks.append(f"{machine['device']}: copies {machine['copy_bytes_per_second'] / 1e9:.4g} GB/s, multiplies {rates}")
    return "\n\n".join(blocks)


def row(pair: str, case: Mapping[str, Any]) -> dict[str, str]:
    return {
        "pair": pair,
        "case": case["case"],
        "precision": case["precision"],
        "fleet": str(case["fleet"]),
        "images/s": ranged(case["images_per_second"], 0),
        "ms/step": number(case["ms_per_step"]),
        "s/epoch": number(case["seconds_per_epoch"]),
        "× usual": f"{case['times_usual']['median']:.2f}" if case["times_usual"] else "–",
        "of floor": f"{case['share_of_floor']:.0%}",
    }


def number(value: float) -> str:
    """Three digits, or the whole number if that has more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ranged(values: Mapping[str, float], digits: int) -> str:
    """median [min–max]"""
    median, low, high = (f"{values[name]:,.{digits}f}" for name in ("median", "min", "max"))
    return f"{median} [{low}–{high}]"


def describe(device: Any) -> dict[str, Any]:
    """The machine, without names of hosts."""
    import torch

    from lskd.engine import device_bytes
    from lskd.run import available_cores, cpu_name, environment

    return {
        "device": environment(device)["device"],
        "device_memory_gb": round(device_bytes(device)[1] / 1e9, 1),
        "cpu": cpu_name(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
    }


def versions() -> dict[str, Any]:
    import platform

    import torch
    import torchvision

    import lskd
    from lskd.run import commit

    return {
        "lskd": lskd.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
    }


if __name__ == "__main__":
    sys.exit(main())
