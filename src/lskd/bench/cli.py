"""The command `lskd-bench`: how fast this machine trains, beside the usual loop and beside the machine's floor."""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lskd.compose import parse_run
from lskd.config_groups import Conf
from lskd.errors import InputError, one_line, require, unknown
from lskd.files import write_atomically
from lskd.program import VERSION, guarded, user_path
from lskd.runtime import Runtime

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
    "mlp-mlp": {"dataset": "digits", "recipe": "quickstart", "arch": "mlp", "teacher": "mlp", "method": "kd"},
    "resnet56": {"dataset": "cifar100", "recipe": "crd", "arch": "resnet56"},
    "resnet18": {"dataset": "cifar100", "recipe": "standard", "arch": "resnet18"},
}  # fmt: skip
DEFAULT_PAIRS = "wrn_40_2-wrn_16_2,mlp1200-mlp800"
PRECISIONS = ("fp32", "tf32", "bf16")
DEFAULT_PRECISIONS = {"cpu": "fp32", "cuda": "fp32,tf32,bf16"}
DEFAULT_SECONDS = {"cpu": 5.0, "cuda": 3.0}

_EPILOG = f"""\
pairs (teacher-student): {", ".join(PAIRS)}

examples:
  lskd-bench                                        some minutes on a CPU
  lskd-bench --pairs all --fleet 1,4,16 --json h200.json
  lskd-bench --pairs resnet18 --precisions bf16 --fleet 1,2,4,8 --no-usual
  lskd-bench --precisions tf32,bf16 --examples 49920 --strict     a GPU; no batch of an epoch is smaller than the others

The images are noise, so no data are needed. "usual" is the loop of public code: PIL workers, the teacher in every step,
.item() in every step. "× usual" compares with that loop at the same precision (bf16: by autocast), "× public" with it
as public codes leave it: fp32, but for the convolutions of a GPU, which are TF32. "KD, filling" is an epoch in which
the teacher has to look at every image, "KD, cached" one in which it has seen all the views before. Of a fleet, images/s
are those of all its runs together, and ms/step and s/epoch are for one run the share of the fleet's time. The floor is
the time in which this machine could move the bytes of a step's operators, or compute its products, at the rate of the
fastest kernel that was found; "in turn" has one operator after the other, as in a run alone.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, 1 where a pair failed (or, strictly, a step was not captured), or 2 after an
    error that the user can mend."""
    return guarded("lskd-bench", lambda: run(_parser().parse_args(argv)))


def run(args: argparse.Namespace) -> int:
    # All that may be wrong is found before anything is measured; what needs no torch first.
    pairs = choice("--pairs", ",".join(PAIRS) if args.pairs == "all" else args.pairs, PAIRS)
    fleets = tuple(sorted({whole("--fleet", word) for word in words(args.fleet)}))
    require(bool(fleets), "--fleet", args.fleet, "whole numbers >= 1")
    chosen = choice("--precisions", args.precisions, PRECISIONS) if args.precisions is not None else None
    require(args.seconds is None or 0 < args.seconds < math.inf, "--seconds", args.seconds, "> 0")
    require(args.examples is None or args.examples >= 1, "--examples", args.examples, ">= 1")
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

    from lskd.bench.cases import Options
    from lskd.bench.machine import Machine
    from lskd.bench.measure import measure
    from lskd.engine.capture import STREAMS
    from lskd.environment import check_precision, resolve_device

    try:
        device = resolve_device(args.device)
    except InputError as error:
        raise InputError(str(error).replace("runtime.device", "--device")) from None
    precisions = chosen or tuple(DEFAULT_PRECISIONS[device.type].split(","))
    check_precision(precisions, device, "--precisions")
    if device.type == "cuda":
        require(fleets[-1] <= STREAMS, "--fleet", fleets[-1], f"at most {STREAMS} on a GPU, which has no more streams")
    if args.threads:
        torch.set_num_threads(args.threads)
    options = Options(
        seconds=args.seconds or DEFAULT_SECONDS[device.type],
        repeats=args.repeats,
        precisions=precisions,
        fleets=fleets,
        usual=args.usual,
        examples=args.examples,
        search={"engine": None, "on": True, "off": False}[args.search],
        layout=args.layout,
    )
    say("the machine's fastest kernels and copies")
    needed = ["fp32", *(["tf32"] if device.type == "cuda" and options.usual else []), *precisions]
    machine = Machine(device, list(dict.fromkeys(needed)), fleets)
    report: dict[str, Any] = {
        "machine": describe(device) | machine.describe(),
        "versions": versions(),
        "arguments": vars(options),
        "pairs": {},
        "failed": {},
    }

    def keep(pair: str, record: Mapping[str, Any]) -> None:
        """At every turn: what is interrupted, or fails, costs no more."""
        report["machine"] |= machine.describe()
        report["pairs"][pair] = record
        write(report, args.json)

    for pair in pairs:
        about = conf.spec_of(runs[pair].dataset)
        try:
            measure(
                runs[pair],
                about,
                device,
                options,
                machine,
                functools.partial(say, f"{pair}:"),
                functools.partial(keep, pair),
            )
        except Exception as error:  # the other pairs are measured nevertheless
            traceback.print_exc()
            report["failed"][pair] = one_line(error)
            write(report, args.json)
    print(text(report))
    if args.json is not None:
        print(f"wrote {args.json}")
    return 1 if report["failed"] or (args.strict and not_captured(report)) else 0


def write(report: Mapping[str, Any], file: Path | None) -> None:
    if file is not None:
        content = json.dumps(report, indent=1) + "\n"
        write_atomically(file, functools.partial(Path.write_text, data=content, encoding="utf-8"))


def not_captured(report: Mapping[str, Any]) -> list[str]:
    """The cases whose steps ran eagerly though they should have been replayed."""
    return [
        f"{pair}: {label(case)}"
        for pair, its in report["pairs"].items()
        for case in its["cases"]
        if case["captured"] is False
    ]


def label(case: Mapping[str, Any]) -> str:
    return f"{case['case']}, {case['precision']}, fleet {case['fleet']}"


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
        "--precisions", metavar="A,B", help="fp32, tf32, bf16 (default: all of them on a GPU, fp32 on a CPU)"
    )
    parser.add_argument("--fleet", default="1", metavar="N,M", help="runs side by side (default: 1)")
    parser.add_argument("--seconds", type=float, metavar="S", help="of a window (default: 3 on a GPU, 5 on a CPU)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="windows of each case (default: 3)")
    parser.add_argument(
        "--usual", action=argparse.BooleanOptionalAction, default=True, help="the usual loop, too (default)"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--json", type=user_path, metavar="FILE", help="all numbers, written after every turn")
    parser.add_argument(
        "--examples", type=int, metavar="N", help="images of an epoch (default: those of the data set; 2048 on a CPU)"
    )
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a GPU's step is not captured")
    parser.add_argument("--version", action="version", version=VERSION)
    # To find out what the engine should do: whether cuDNN tries its algorithms, and how images lie in memory.
    parser.add_argument("--search", choices=("engine", "on", "off"), default="engine", help=argparse.SUPPRESS)
    parser.add_argument(
        "--layout", choices=("channels_last", "contiguous"), default="channels_last", help=argparse.SUPPRESS
    )
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
            f"{label(case)}: {ranged(case['time_over_ce'], 3)} × the time of CE"
            for case in its["cases"]
            if case["time_over_ce"]
        ]
        lines += [above(case, its) for case in its["cases"] if max(shares(case)) > 1]
        if "phases_ms" in its:
            phases = ", ".join(f"{name} {number(ms)}" for name, ms in its["phases_ms"].items())
            lines.append(f"ms of a step in fp32: {phases}")
        for precision, operators in its.get("operators", {}).items():
            times_of = [f"{name} {number(of['ms'])} ({number(of['floor_ms'])})" for name, of in operators.items()]
            lines.append(f"ms of a step's operators in {precision}, CE (and of their floor): {', '.join(times_of)}")
        for precision, kernels in its.get("kernels", {}).items():
            count, first = sum(kernel["count"] for kernel in kernels.values()), list(kernels.items())[:8]
            times_of = [f"{name[:60]} {number(of['ms'])} ({of['count']:.3g} ×)" for name, of in first]
            lines.append(f"ms of a step's {count:.0f} kernels in {precision}, CE: {', '.join(times_of)}")
        blocks.append("\n".join(f"{pair}: {line}" for line in [*lines, *its["notes"]]))
    blocks += [f"{pair}: FAILED: {why}" for pair, why in report["failed"].items()]
    if eager := not_captured(report):
        blocks.append("\n".join(f"NOT CAPTURED, so slower than it should be: {case}" for case in eager))
    machine = report["machine"]
    lines = []
    for lanes, copied in machine["copy_bytes_per_second"].items():
        memory = copied[max(copied, key=int)]
        at_once = f"{lanes} at a time: " if len(machine["copy_bytes_per_second"]) > 1 else ""
        line = f"{machine['device']}: {at_once}copies {memory / 1e9:.4g} GB/s in memory, at most "
        lines.append(line + f"{max(copied.values()) / 1e9:.4g} GB/s in a cache")
        for precision, its in machine["rates"].items():
            rate, kernel = its[lanes]["operations_per_second"], its[lanes]["kernel"]
            lines.append(f"{machine['device']}: {at_once}computes {rate / 1e12:.3g} TFLOP/s in {precision} ({kernel})")
    return "\n\n".join([*blocks, "\n".join(lines)])


def shares(case: Mapping[str, Any]) -> tuple[float, float]:
    """Of the floor: as it is, and in turn (which of several runs side by side is none)."""
    share = case["share_of_floor"]
    return share, case["share_of_floor_in_turn"] if case["fleet"] == 1 else share


def above(case: Mapping[str, Any], its: Mapping[str, Any]) -> str:
    """Why a share above 100 % cannot be right as it stands."""
    share = max(shares(case))
    why = (
        "no kernel that was measured computes as fast as this training does"
        if case["bound_by"] == "operations"
        else "some of its bytes are not moved (operators fuse, or leave them in a cache that the copies did not show)"
    )
    return (
        f"{label(case)}: {share:.0%} of the floor, which is therefore none: {why}, or the machine had other work then"
    )


def row(pair: str, case: Mapping[str, Any]) -> dict[str, str]:
    share, in_turn = shares(case)
    return {
        "pair": pair,
        "case": case["case"],
        "precision": case["precision"],
        "fleet": str(case["fleet"]),
        "images/s": ranged(case["images_per_second"], 0),
        "ms/step": number(case["ms_per_step"]),
        "s/epoch": number(case["seconds_per_epoch"]),
        "× usual": times(case["times_usual"]),
        "× public": times(case["times_public"]),
        "of floor": f"{share:.0%}",
        "in turn": f"{in_turn:.0%}" if case["fleet"] == 1 else "–",
    }


def times(ratio: Mapping[str, float] | None) -> str:
    return f"{ratio['median']:.2f}" if ratio else "–"


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
    from lskd.environment import available_cores, cpu_name, environment

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
    from lskd.environment import commit

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
