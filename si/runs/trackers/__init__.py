"""The trackers that a place can name."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from si.machine import packages
from si.plugins import load
from si.runs.trackers.port import Tracker

TRACKERS = {
    "tensorboard": "si.runs.trackers.tensorboard:TensorBoard",
    "mlflow": "si.runs.trackers.mlflow:MLflow",
    "wandb": "si.runs.trackers.wandb:WandB",
}


def trackers(names: Sequence[str], folder: Path) -> dict[str, Callable[[], Tracker]]:
    """Functions that open these trackers; they import the libraries only when called.

    Args:
        folder: folder for a tracker's files.

    Raises:
        RecipeError: if a tracker's library is not installed.
    """
    for name in names:
        if name in ("mlflow", "wandb"):
            packages.check(
                f"The tracker {name} (place.trackers)", name, "Or remove it from place.trackers."
            )
    return {name: partial(_open, name, folder) for name in names}


def _open(name: str, folder: Path) -> Any:
    return load("tracker", name, TRACKERS)(folder)
