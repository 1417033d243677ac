"""Runs in Weights & Biases; project, entity, key and mode come from its own variables."""

import os
import shutil
from collections.abc import Container
from pathlib import Path
from typing import Any

from si.errors import RecipeError
from si.runs.trackers.port import Batch, Tracked

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb

QUIET = {"silent": True, "console": "off", "x_disable_stats": True, "disable_git": True}


class WandB:
    """`ports.Tracker`: a run of W&B for each of ours, under our key as its id.

    W&B numbers a run's points; ours keep their numbers however often they are logged. Online,
    points that W&B has already counted are skipped. Offline it cannot be asked: every session
    writes all points to a new folder, and the run's older folders are removed.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def begin(self, run: Tracked) -> Container[str]:
        mode = wandb.setup(settings=wandb.Settings(**QUIET)).settings.mode
        # Without a key, W&B would prompt on the terminal.
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise RecipeError(
                "W&B has no key",
                "place.trackers names wandb",
                (
                    "Log in: wandb login, or set WANDB_API_KEY",
                    "Or write files here and sync them later: export WANDB_MODE=offline",
                ),
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "si-ctl",
            id=run.key,
            name=run.name,
            config=dict(run.about),
            dir=str(self.folder),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(**QUIET),
        )
        self.first = int(self.run.step)
        self.axes: set[str] = set()
        here = Path(self.run.settings.sync_dir)
        self.where = f"wandb sync {here}" if self.run.offline else self.run.url or ""
        if self.run.offline:
            for old in here.parent.glob(f"offline-run-*-{run.key}"):
                if old.name != here.name:
                    shutil.rmtree(old, ignore_errors=True)
        return ()

    def log(self, batch: Batch) -> None:
        for number, point in enumerate(batch.points, batch.first):
            if number < self.first or not point.values:
                continue
            axis = point.axis.replace(" ", "_")
            for group in {name.partition("/")[0] for name in point.values} - self.axes:
                self.run.define_metric(axis, hidden=True)
                self.run.define_metric(f"{group}/*", step_metric=axis)
                self.axes.add(group)
            self.run.log({**point.values, axis: point.step}, step=number)

    def end(self) -> None:
        self.run.finish()
