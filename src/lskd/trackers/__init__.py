"""Trackers: TensorBoard, Weights & Biases, MLflow, and what a plug-in adds, to follow trainings while they run.

They are sinks: each epoch's line of a run's log is sent to them, and nothing comes back. No number in the store depends
on them, and no run fails with them. None is used unless `tracker=NAME` asks for it. `tracker.Tracker` is the interface,
`tracking.Tracking` what a sweep sends through.
"""

from __future__ import annotations

from lskd.trackers.mlflow import MLflow
from lskd.trackers.tensorboard import TensorBoard
from lskd.trackers.tracker import TRACKERS, Tracker
from lskd.trackers.tracking import Tracking, check_trackers
from lskd.trackers.wandb import WeightsAndBiases

__all__ = ["TRACKERS", "Tracker", "Tracking", "check_trackers"]

TRACKERS |= {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}
