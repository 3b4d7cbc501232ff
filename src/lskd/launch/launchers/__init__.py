"""Who carries out a plan: this process, a cluster, and what a plug-in adds. `launcher.Launcher` is the interface."""

from __future__ import annotations

from lskd.launch.launchers.launcher import LAUNCHERS, Elsewhere, Launcher, Work, handed_over, register
from lskd.registry import import_files

__all__ = ["LAUNCHERS", "Elsewhere", "Launcher", "Work", "handed_over", "register"]

import_files(__name__)
LAUNCHERS.ship()
