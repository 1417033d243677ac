"""`si-ctl track`: a run's metrics to TensorBoard, MLflow or W&B, at any time."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from si.cli.options import (
    JsonOption,
    NamespaceOption,
    OnOption,
    ReleaseOption,
    StoreOption,
    reading_place,
)
from si.clusters.local import local_folder
from si.errors import SiError, TrackerFailed
from si.runs.record import generations, load_recipe
from si.runs.status import Known, ended, find_run, status
from si.runs.trackers import trackers
from si.runs.tracking import Backlog, Tracked, why
from si.runs.usage import Ledger
from si.store.open import open_store

PAUSE = 15.0  # seconds between two looks at the store


def track(
    run: Annotated[str, typer.Argument(help="A run's name, or a strategy that one run has.")],
    to: Annotated[
        list[str] | None,
        typer.Option(help="tensorboard, mlflow, wandb; repeatable. By default place.trackers."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run is at its end.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
    on: OnOption = "local",
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
) -> None:
    """Tell trackers what a run has done: losses, accuracies, shares by level.

    What a tracker has already is not told twice. Of a run on a cluster the bucket is read from
    here, with credentials of your own.
    """
    place = reading_place(store, on, namespace, release)
    where = open_store(place)
    name = find_run(where, run)
    generation = generations(where, name)[-1]
    tracked = Tracked.of(where, name, generation, load_recipe(where, name, generation))
    backlogs: dict[str, Backlog] = {}
    for tracker, opened in trackers(to or place.trackers, local_folder(where)).items():
        with _speaking(tracker):
            backlogs[tracker] = Backlog(where, name, tracked, opened())
    told, known = dict.fromkeys(backlogs, 0), Known(Ledger(where))
    try:
        while True:
            # Asked first: what is done after that is told, too.
            over = ended(status(where, name, known))
            for tracker, backlog in backlogs.items():
                with _speaking(tracker):
                    told[tracker] += backlog.go_on()
            if over or not follow:
                break
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        typer.echo("", err=True)
    for tracker, backlog in backlogs.items():
        with _speaking(tracker):
            backlog.tracker.end()
    said = {
        tracker: {"stages": backlog.stages, "new": told[tracker], "where": backlog.tracker.where}
        for tracker, backlog in backlogs.items()
    }
    if as_json:
        typer.echo(json.dumps({"run": tracked.name, "trackers": said}, indent=2))
        return
    for tracker, of in said.items():
        typer.echo(f"{tracker}: {of['new']} of {of['stages']} stages are new. {of['where']}")


@contextmanager
def _speaking(tracker: str) -> Iterator[None]:
    """A foreign library's errors, in words."""
    try:
        yield
    except SiError:
        raise
    except Exception as error:
        raise TrackerFailed(
            f"{tracker} failed",
            why(error),
            "Run the same command again: what it has already is not told twice.",
        ) from error
