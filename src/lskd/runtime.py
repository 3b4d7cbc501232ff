"""Where and how runs are carried out: nothing here changes what they compute."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lskd import data
from lskd.errors import require
from lskd.program import user_path


@dataclass(frozen=True)
class Runtime:
    """Where and how a run is carried out: nothing here changes what it computes."""

    device: str = "auto"  # auto (cuda where there is one, else cpu), cpu, cuda, cuda:N
    data: str = ""  # raw data: parquet folders, torchvision's files. "" = $LSKD_DATA, else <cache>/raw
    cache: str = ""  # decoded data. "" = $LSKD_CACHE, else the user's cache directory
    results: str = ""  # "" = $LSKD_RESULTS, else ./results
    threads: int = 0  # CPU threads; 0 = PyTorch's default
    checkpoint_seconds: float = 60.0
    fleet: int = 0  # runs that train side by side on a device; 0 = as many as suit it and its memory
    # Memory for teachers' logits for all views; null = a quarter of the device's, 0 = none: evaluated every epoch.
    teacher_cache_gb: float | None = None
    workers: int = 0  # threads that decode streamed images, for all runs together; 0 = one a core
    retry: bool = False  # train diverged runs again
    # Train finished runs again: all of the plan (true), or those of these ids. See `lskd.launch.retrain`.
    retrain: bool | tuple[str, ...] = False
    progress: bool = True
    # Where epochs are sent besides the store: see `lskd.trackers`. The word tracker=NAME is short for it.
    tracker: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        kind, _, index = self.device.partition(":")
        valid = self.device in ("auto", "cpu", "cuda") or (kind == "cuda" and index.isdigit())
        require(valid, "device", self.device, "auto, cpu, cuda or cuda:N")
        require(self.threads >= 0, "threads", self.threads, ">= 0")
        require(self.checkpoint_seconds >= 0, "checkpoint_seconds", self.checkpoint_seconds, ">= 0")
        require(self.fleet >= 0, "fleet", self.fleet, ">= 0")
        require(self.workers >= 0, "workers", self.workers, ">= 0")
        cache = self.teacher_cache_gb
        require(cache is None or cache >= 0, "teacher_cache_gb", cache, ">= 0, or null for a quarter of the memory")

    @property
    def device_type(self) -> str:
        """What `device` means here, "cpu" or "cuda", as far as that shows without torch, which is slow to import."""
        if self.device != "auto":
            return self.device.partition(":")[0]
        driver = any(os.path.exists(path) for path in ("/dev/nvidiactl", "/dev/dxg"))  # the latter in WSL
        return "cuda" if driver and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") else "cpu"

    @property
    def data_root(self) -> Path:
        return user_path(self.data) if self.data else data.default_data_root()

    @property
    def cache_root(self) -> Path:
        return user_path(self.cache) if self.cache else data.default_cache_root()
