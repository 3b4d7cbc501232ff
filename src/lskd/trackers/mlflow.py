"""MLflow. MLFLOW_TRACKING_URI says where to (default: a database in the store), MLFLOW_EXPERIMENT_NAME which one there.

`mlflow ui --backend-store-uri sqlite:///results/trackers/mlflow/mlflow.db` shows the one in the store.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from lskd.run import Run
from lskd.trackers.tracker import Tracker, Value, register

AT_ONCE = 100  # parameters that MLflow takes in one call


@register("mlflow")
class MLflow(Tracker):
    """A run there has the run's id in its tag lskd.id. What it has of a run is replaced."""

    packages: ClassVar[tuple[str, ...]] = ("mlflow",)

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        super().__init__(folder)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            folder.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{folder.absolute() / 'mlflow.db'}"
        self.client = MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "lskd"
        there = self.client.get_experiment_by_name(name)
        self.experiment = there.experiment_id if there is not None else self.client.create_experiment(name)
        self.runs: dict[str, str] = {}  # their ids there

    def begin(self, run: Run, settings: Mapping[str, Value]) -> None:
        from mlflow.entities import Param

        for old in self.client.search_runs([self.experiment], f"tags.`lskd.id` = '{run.id}'"):
            self.client.delete_run(old.info.run_id)
        made = self.client.create_run(self.experiment, tags={"lskd.id": run.id}, run_name=str(run))
        self.runs[run.id] = made.info.run_id
        params = [Param(name, str(value)) for name, value in settings.items()]
        for first in range(0, len(params), AT_ONCE):
            self.client.log_batch(made.info.run_id, params=params[first : first + AT_ONCE])

    def log(self, run: Run, line: int, step: int, values: Mapping[str, float]) -> None:
        self._send(run, step, values)

    def end(self, run: Run, final: Mapping[str, float] | None) -> None:
        if final is not None:
            self._send(run, 0, final)
        self.client.set_terminated(self.runs.pop(run.id), "FINISHED" if final is not None else "FAILED")

    def _send(self, run: Run, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self.client.log_batch(self.runs[run.id], metrics=metrics)
