"""Trackers: TensorBoard, Weights & Biases, MLflow, and what a plug-in adds, to follow trainings while they run.

They are sinks: each epoch's line of a run's log is sent to them, and nothing comes back. No number in the store depends
on them, and no run fails with them. None is used unless `tracker=NAME` asks for it. `tracker.Tracker` is the interface,
`tracking.Tracking` what a sweep sends through.
"""

from __future__ import annotations

from lskd.registry import import_files
from lskd.trackers.tracker import TRACKERS, Tracker, register
from lskd.trackers.tracking import Tracking, check_trackers

__all__ = ["TRACKERS", "Tracker", "Tracking", "check_trackers", "register"]

import_files(__name__)
TRACKERS.ship()
