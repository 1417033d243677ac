"""`si-ctl control`: the controller of a run, inside the cluster; its Job calls it."""

import json
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

from si import __version__
from si.cli.console import Screen, plural, say
from si.cli.options import match_steps
from si.clusters.kubernetes.client import Client, ClusterUnavailable
from si.clusters.kubernetes.jobs import ClusterHub, KubernetesCluster
from si.clusters.kubernetes.lease import Lease
from si.clusters.kubernetes.manifests import state_of
from si.clusters.kubernetes.runs import read_run, run_objects
from si.errors import RETRY, RecipeError, RunMissing, SiError, StageFailed
from si.loop import conclude
from si.run import WISHES, Run
from si.runs.journal import Journal
from si.runs.limits import Budget
from si.runs.record import begin
from si.store.open import open_store
from si.store.probe import ensure

JOURNAL_PATIENCE = 5.0  # seconds that the loop may wait for a write of its journal


def control(
    run: Annotated[str, typer.Argument(help="The run's name.")],
    release: Annotated[str, typer.Option(help="The release that the run belongs to.")],
) -> None:
    """Run the controller of a run, inside the cluster."""
    cluster = Client()
    owner = _run_of(cluster, run, release)
    pod = os.environ["POD_NAME"]
    save = _writer(cluster, owner["metadata"]["name"])
    try:
        wanted, place, unknown = read_run(owner)
    except RecipeError as error:
        Journal(state_of(owner), save).end(error, controller=pod)
        raise
    for setting in unknown:
        say(f"place.{setting} is ignored: si-ctl {__version__} does not know it", err=True)
    store = open_store(place)
    with Screen() as screen, Lease(cluster, owner, pod):
        state = state_of(owner)
        recipe = match_steps(store, wanted)
        fresh = owner["data"].get("fresh", "")
        if state.get("fresh", "") != fresh:
            state = {}
        journal = Journal(state, save)
        try:
            ensure(store)
            generation = state.get("generation") or begin(store, run, recipe, bool(fresh))
            begin(store, run, recipe)  # refuses a recipe that is not the generation's
            journal.start(generation=generation, fresh=fresh, controller=pod)

            def hear(event: dict[str, object]) -> None:
                screen.hear(event)
                journal.hear(event)

            with KubernetesCluster(cluster, place, run, generation, owner, store) as doing:
                hub = ClusterHub(doing, recipe.pick(*WISHES), hear)
                budget = Budget.of(place)
                at_work = Run(run, recipe, store, doing, generation, hear, budget=budget, hub=hub)
                report = conclude(at_work)
        except SiError as error:
            _record(journal, error, pod)
            raise
        stopped, address = at_work.stopped, report.spec.address if report else None
        journal.end(report=address, iterations=at_work.done, stopped=stopped and stopped.to_json())
    # Reaching a limit is not a failure of this Job; those who attach read it from the state.
    say(f"{run}: {stopped.words if stopped else 'done'}")
    say(f"{plural(at_work.done, 'iteration')}; the report is {address}/ in {store.url}")


def _run_of(cluster: Client, run: str, release: str) -> dict[str, Any]:
    found = run_objects(cluster, release, run)
    if not found:
        raise RunMissing(
            f"No run {run} of release {release} in namespace {cluster.namespace}",
            "",
            "It may have been cancelled.",
        )
    return found[0]


def _writer(cluster: Client, name: str) -> Callable[[dict[str, Any]], None]:
    """A function that writes the journal to the run's object. While the run works, a failed write
    is made good by the next one."""

    def save(state: dict[str, Any]) -> None:
        working = state.get("phase") == "running"
        try:
            patience = JOURNAL_PATIENCE if working else None
            cluster.patch_run(name, {"state": json.dumps(state)}, patience)
        except ClusterUnavailable as error:
            if not working:
                raise  # nothing would follow
            say(f"The journal is not written: {error}", err=True)

    return save


def _record(journal: Journal, error: SiError, pod: str) -> None:
    """Record why the controller ends, and set the error's exit code by whether it is restarted."""
    if isinstance(error, StageFailed) or error.exit_code != RETRY:
        journal.end(error, controller=pod)
    elif journal.interrupted(error, controller=pod):
        return
    if error.exit_code == RETRY:
        # Only the user can decide to start over: a stage's Job has used its retries, or this
        # controller its own.
        error.exit_code = 1
