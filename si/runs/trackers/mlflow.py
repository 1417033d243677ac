"""Runs in MLflow at MLFLOW_TRACKING_URI, with credentials from its own variables."""

import json
import os
from collections.abc import Container
from pathlib import Path
from typing import Any

from si.errors import RecipeError
from si.runs.trackers.port import Batch, Tracked
from si.runs.tracking import without_user

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

MOST = 1000  # maximum metrics per request
PARAMS = 100
LONGEST = 500  # maximum characters of a setting
LOGGED = "si.logged."  # tag of a complete batch


class MLflow:
    """`ports.Tracker`: an MLflow run for each of ours, found again by its tag `si.key`.

    The experiment is that of MLFLOW_EXPERIMENT_ID or MLFLOW_EXPERIMENT_NAME, `si-ctl` by default.
    """

    def __init__(self, folder: Path):
        address = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not address:
            raise RecipeError(
                "MLFLOW_TRACKING_URI is not set, so MLflow cannot be found",
                "place.trackers names mlflow",
                "For example: export MLFLOW_TRACKING_URI=http://127.0.0.1:5000",
            )
        self.client: Any = MlflowClient(tracking_uri=address)
        self.where = without_user(address)

    def begin(self, run: Tracked) -> Container[str]:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_ID") or self._experiment()
        found = self.client.search_runs([experiment], f"tags.`si.key` = '{run.key}'")
        self.old = bool(found)
        if found:
            self.id: str = found[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
            tags = found[0].data.tags
            return {tag.removeprefix(LOGGED) for tag in tags if tag.startswith(LOGGED)}
        made = self.client.create_run(experiment, run_name=run.name, tags={"si.key": run.key})
        self.id = made.info.run_id
        about = [
            Param(name, (text if isinstance(text, str) else json.dumps(text))[:LONGEST])
            for name, text in run.about.items()
        ]
        for first in range(0, len(about), PARAMS):
            self.client.log_batch(self.id, params=about[first : first + PARAMS])
        return ()

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "si-ctl"
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name))
            except MlflowException:  # another run created it first
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def log(self, batch: Batch) -> None:
        points = [
            Metric(name, value, int(1000 * point.time), point.step)
            for point in batch.points
            for name, value in point.values.items()
        ]
        if self.old:  # a process that died may have logged a part of it
            names = {metric.key for metric in points}
            kept = {(name, m.step) for name in names for m in self._history(name)}
            points = [metric for metric in points if (metric.key, metric.step) not in kept]
        for first in range(0, len(points), MOST):
            self.client.log_batch(self.id, metrics=points[first : first + MOST])
        self.client.log_batch(self.id, tags=[RunTag(LOGGED + batch.name, "yes")])

    def _history(self, name: str) -> list[Any]:
        return list(self.client.get_metric_history(self.id, name))

    def end(self) -> None:
        self.client.set_terminated(self.id, "FINISHED")
