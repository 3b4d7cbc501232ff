"""The runs that train side by side on one device, and how many there may be."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lskd.config_groups import Conf
from lskd.errors import InputError, one_line
from lskd.launch.cost import logit_cache
from lskd.plan import Probes
from lskd.run import Run, logit_cache_bytes
from lskd.runtime import Runtime
from lskd.store import Store

if TYPE_CHECKING:
    import torch

    from lskd.launch.workers import Workers


GPU_FLEET = 8  # runs side by side on one GPU, where memory allows; not measured yet


class Fleet:
    """The runs that train side by side on one device, and how many there may be. Each has a thread of its own; on a CPU
    those of small networks have a process of their own (see `lskd.launch.workers`).

    `runtime.fleet` is that number; 0 leaves it to us: one for each core of a CPU, `GPU_FLEET` on a GPU. There are never
    more than can be ready at once. The plan decides that, not what is done already: an interrupted sweep goes on with
    as many CPU threads for each run, hence with the same bits. Where memory does not allow them all, fewer train.
    """

    def __init__(self, runs: Sequence[Run], runtime: Runtime, device: torch.device, conf: Conf) -> None:
        import torch

        from lskd.engine import STREAMS, Shared, device_bytes
        from lskd.environment import available_cores

        self.conf, self.asked = conf, runtime.fleet
        if device.type == "cuda" and runtime.fleet > STREAMS:
            raise InputError(
                f"runtime.fleet = {runtime.fleet}: must be <= {STREAMS} on a GPU: torch has no more streams, and runs "
                "that shared one would overwrite each other"
            )
        cores = available_cores()
        usual = GPU_FLEET if device.type == "cuda" else max(1, cores // (runtime.threads or 1))
        self.size = min(runtime.fleet or usual, max(Counter(run.generation for run in runs).values()))
        self.threads = runtime.threads or max(1, cores // self.size)
        if device.type == "cpu":
            torch.set_num_threads(self.threads)
        free, total = device_bytes(device)
        caches = min(free / 2, total / 4 if runtime.teacher_cache_gb is None else runtime.teacher_cache_gb * 1e9)
        self.shared = Shared(device, caches, runtime.workers, search=self.size == 1)
        largest = max((logit_cache_bytes(*cache) for run in runs if (cache := logit_cache(run, conf))), default=0)
        if largest > caches:
            print(
                f"lskd-run: runtime.teacher_cache_gb: {caches / 1e9:.3g} GB are for teachers' logits, and all views of "
                f"one take {largest / 1e9:.3g} GB: they are evaluated once an epoch instead, with the same numbers",
                file=sys.stderr,
            )
        self.memory = 0.9 * free - (caches if any(run.teacher for run in runs) else 0.0)
        self.training: dict[str, Run] = {}
        self._bytes: dict[str, int] = {}
        self._told = False

    def describe(self, runs: Iterable[Run]) -> str:
        """Its size, and the predicted memory of each kind of run."""
        threads = f", {self.threads} thread{'s' * (self.threads > 1)} each" if self.shared.device.type == "cpu" else ""
        lines = [
            f"{self.shared.device}: {self.size} run{'s' * (self.size > 1)} side by side{threads}; "
            f"{self.memory / 1e9:.1f} GB for them, {self.shared.teacher_memory / 1e9:.1f} GB for teachers' logits"
        ]
        for run in {run.cost_key: run for run in runs}.values():
            label = run.label
            lines.append(f"  {self.bytes(run) / 1e9:6.3f} GB a run  {label}")
        return "\n".join(lines)

    def room(self, run: Run) -> bool:
        """Whether `run` may begin beside those in training. One run alone always may."""
        others = list(self.training.values())
        if not others:
            return True
        # Numerics are switches of the whole process: see `lskd.engine.training.set_precision`.
        if len(others) >= self.size or others[0].recipe.precision != run.recipe.precision:
            return False
        needed = sum(self.bytes(one) for one in (*others, run))
        if needed > self.memory:
            self._tell(
                f"{len(others)} runs side by side: one more would make it {needed / 1e9:.2f} GB, "
                f"and {self.memory / 1e9:.2f} GB are free for them"
            )
        return needed <= self.memory

    def bytes(self, run: Run) -> int:
        """Predicted memory of one run; 0 for one that cannot take a step."""
        if run.cost_key not in self._bytes:
            from lskd.engine import run_bytes

            spec = self.conf.spec_of(run.dataset)
            try:
                self._bytes[run.cost_key] = run_bytes(run, spec, self.shared.device.type)
            except Exception as error:  # of a method or network that does not work, as its run will say; or of ours
                self._bytes[run.cost_key] = 0
                why = f"{one_line(error)}): it is taken for 0"
                print(f"lskd-run: the memory of {run} cannot be predicted ({why}", file=sys.stderr, flush=True)
        return self._bytes[run.cost_key]

    def learn(self, run: Run, result: Mapping[str, Any] | None) -> None:
        """What `run` held of a GPU, as its `result` says, is what others of its kind will need."""
        if result and "held_memory_mb" in result:
            self._bytes[run.cost_key] = round(1e6 * result["held_memory_mb"])

    def workers(self, runs: Iterable[Run], store: Store, runtime: Runtime, probes: Probes) -> Workers:
        """Processes for the small ones of `runs`, if several train side by side on a CPU. To be called before threads
        begin."""
        from lskd.launch.workers import CAN_FORK, Workers, is_small

        small = {}
        if CAN_FORK and self.size > 1 and self.threads == 1 and self.shared.device.type == "cpu":
            small = {
                run.id: (run, probes.get(run.id, ()))
                for run in runs if is_small(run, self.conf.spec_of(run.dataset))
            }  # fmt: skip
        return Workers(min(self.size, len(small)), small, store, runtime, self.shared)

    def shrink(self, begun: int) -> bool:
        """A run found no memory though it was predicted to. There are to be fewer now than when it was `begun`; False
        if it was to be alone then."""
        if begun == 1:
            return False
        self.size = min(self.size, begun - 1)
        self._tell(f"{self.size} runs side by side from now on: one found no memory, and goes on when there is room")
        return True

    def _tell(self, what: str) -> None:
        if not self._told:
            self._told = True
            asked = f"runtime.fleet = {self.asked}: " if self.asked else ""
            print(f"lskd-run: {asked}{what}", file=sys.stderr, flush=True)
