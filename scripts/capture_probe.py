#!/usr/bin/env python3
"""What ends a CUDA graph's capture on this machine? python3 scripts/capture_probe.py

One thread captures a graph (thread_local, as lskd does) while another one does something. For each such thing, a line
of JSON says what became of both, of the replay, and, afterwards, of `empty_cache()`, of a second capture and of a
generator that the graph had. Each is tried in a process of its own, for a capture that fails may spoil its process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

SECONDS = 20  # of one try at most


def companions() -> dict[str, Callable[[], Callable[[], object]]]:
    """What the other thread does meanwhile, as it gets ready for it before."""
    import torch
    from torch.nn import functional as F

    def replay() -> Callable[[], object]:
        stream, graph, x = torch.cuda.Stream(), torch.cuda.CUDAGraph(), torch.ones(1000, device="cuda")
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            x.add_(1)

        def act() -> None:
            with torch.cuda.stream(stream):
                graph.replay()

        act()
        torch.cuda.synchronize()
        return act

    def kernel() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.ones(1000, device="cuda").add_(1)

    def search() -> None:
        torch.backends.cudnn.benchmark = True
        with torch.cuda.stream(torch.cuda.Stream()):
            F.conv2d(torch.ones(8, 16, 32, 32, device="cuda"), torch.ones(16, 16, 3, 3, device="cuda"), padding=1)

    def give_back() -> None:
        torch.ones(2**24, device="cuda")
        torch.cuda.empty_cache()

    def waits_for_its_stream() -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.ones(1000, device="cuda").sum().item()
        stream.synchronize()

    return {
        "does nothing": lambda: lambda: None,
        "launches a kernel on a stream of its own": lambda: kernel,
        "replays a graph on a stream of its own": replay,
        "reads a value on a stream of its own": lambda: waits_for_its_stream,
        "synchronizes the device": lambda: torch.cuda.synchronize,
        "synchronizes the device, then launches a kernel": lambda: lambda: (torch.cuda.synchronize(), kernel()),
        "takes memory and gives it back": lambda: give_back,
        "has cuDNN search for an algorithm": lambda: search,
    }


def attempt(name: str) -> dict[str, Any]:
    import threading

    import torch

    found: dict[str, Any] = {"meanwhile": name, "torch": torch.__version__, "device": torch.cuda.get_device_name()}
    stream, x = torch.cuda.Stream(), torch.ones(256, 256, device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    act = companions()[name]()
    with torch.cuda.stream(stream):  # cuBLAS comes into being
        (x + 1) @ x
    torch.cuda.synchronize()
    begun, done = threading.Event(), threading.Event()

    def other() -> None:
        begun.wait(SECONDS)
        found["the other"] = outcome(act)
        done.set()

    def capture(middle: Callable[[], object]) -> None:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(generator)
        with torch.cuda.stream(stream):
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                y = x + 1
                middle()
                z = y @ x + torch.rand(x.shape, generator=generator, device="cuda").sign()
            graph.replay()
            stream.synchronize()
        assert bool((z >= 512).all()), "the replay gives something else"

    thread = threading.Thread(target=other)
    thread.start()
    found["the capture"] = outcome(lambda: capture(lambda: (begun.set(), done.wait(SECONDS))))
    begun.set()  # where it failed at its very beginning
    thread.join()
    found["then empty_cache()"] = outcome(torch.cuda.empty_cache)
    found["then the generator"] = outcome(lambda: torch.rand(3, generator=generator, device="cuda").sum().item())
    found["then a second capture"] = outcome(lambda: capture(lambda: None))
    return found


def outcome(act: Callable[[], object]) -> str:
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return "worked"


def in_a_process(act: Callable[[], int]) -> int | None:
    """`act()`, its exit code, in a copy of this process, which has no CUDA context: torch need not be imported anew.
    None if it hangs."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = act()
        finally:
            os._exit(code)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def say(line: dict[str, Any]) -> int:
    print(json.dumps(line), flush=True)
    return 0


def main() -> int:
    import torch

    if in_a_process(lambda: 0 if torch.cuda.is_available() else 2):
        print("capture_probe.py: torch sees no GPU", file=sys.stderr)
        return 2
    for name in companions():
        code = in_a_process(lambda name=name: say(attempt(name)))  # type: ignore[misc]
        if code != 0:
            say({"meanwhile": name, "failed": "it hangs" if code is None else f"its process ended with {code}"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
