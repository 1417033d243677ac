"""`si-ctl track`: send a run's metrics to TensorBoard, MLflow or W&B, at any time."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from si.cli.console import say
from si.cli.options import (
    JsonOption,
    NamespaceOption,
    OnOption,
    ReleaseOption,
    RunArgument,
    StoreOption,
    reading_place,
)
from si.clusters.local import local_folder
from si.errors import SiError, TrackerFailed
from si.runs.record import generations, load_recipe
from si.runs.status import Known, ended, find_run, status
from si.runs.trackers import trackers
from si.runs.trackers.port import Tracked
from si.runs.tracking import Backlog, why
from si.runs.usage import Ledger
from si.store.open import open_store

PAUSE = 15.0  # seconds between two reads of the store


def track(
    run: RunArgument,
    to: Annotated[
        list[str] | None,
        typer.Option(
            help="tensorboard, mlflow, wandb or module:Class; repeatable.  "
            "\\[default: place.trackers]"
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep following until the run finishes.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
    on: OnOption = "local",
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
) -> None:
    """Send a run's metrics to TensorBoard, MLflow or W&B.

    Sends losses, accuracies and shares by level, and no point twice. For a cluster run, reads the
    bucket directly with your credentials.
    """
    place = reading_place(store, on, namespace, release)
    where = open_store(place)
    name = find_run(where, run)
    generation = generations(where, name)[-1]
    tracked = Tracked.of(where, name, generation, load_recipe(where, name, generation))
    backlogs: dict[str, Backlog] = {}
    for tracker, opened in trackers(to or place.trackers, local_folder(where)).items():
        with _errors_of(tracker):
            backlogs[tracker] = Backlog(where, name, tracked, opened())
    told, known = dict.fromkeys(backlogs, 0), Known(Ledger(where))
    try:
        while True:
            # Asked first, so that what finishes meanwhile is still sent.
            over = ended(status(where, name, known))
            for tracker, backlog in backlogs.items():
                with _errors_of(tracker):
                    told[tracker] += backlog.go_on()
            if over or not follow:
                break
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        typer.echo("", err=True)
    for tracker, backlog in backlogs.items():
        with _errors_of(tracker):
            backlog.tracker.end()
    sent = {
        tracker: {"stages": backlog.stages, "new": told[tracker], "where": backlog.tracker.where}
        for tracker, backlog in backlogs.items()
    }
    if as_json:
        typer.echo(json.dumps({"run": tracked.name, "trackers": sent}, indent=2))
        return
    for tracker, of in sent.items():
        say(f"{tracker}: {of['new']} of {of['stages']} stages are new. {of['where']}")


@contextmanager
def _errors_of(tracker: str) -> Iterator[None]:
    """Translate the errors of a tracker's library into `TrackerFailed`."""
    try:
        yield
    except SiError:
        raise
    except Exception as error:
        raise TrackerFailed(
            f"{tracker} failed",
            why(error),
            "Run the same command again: no point is sent twice.",
        ) from error
