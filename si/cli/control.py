"""`si-ctl control`: the controller of a run, inside the cluster; its Job calls it."""

import json
import os
from typing import Annotated

import typer

from si import __version__
from si.cli.console import Screen, plural, say
from si.cli.options import match_steps
from si.clusters.kubernetes.client import Client
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


def control(
    run: Annotated[str, typer.Argument(help="The run's name.")],
    release: Annotated[str, typer.Option(help="The release that the run belongs to.")],
) -> None:
    """Run the controller of a run, inside the cluster."""
    cluster = Client()
    found = run_objects(cluster, release, run)
    if not found:
        raise RunMissing(
            f"No run {run} of release {release} in namespace {cluster.namespace}",
            "",
            "It may have been cancelled.",
        )
    owner = found[0]
    name, pod = owner["metadata"]["name"], os.environ["POD_NAME"]

    def save(state: dict[str, object]) -> None:
        cluster.patch_run(name, {"state": json.dumps(state)})

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
            journal.end(error, controller=pod)
            if isinstance(error, StageFailed) and error.exit_code == RETRY:
                # The stage's Job has used its retries; only the user can decide to start over.
                error.exit_code = 1
            raise
        stopped, address = at_work.stopped, report.spec.address if report else None
        journal.end(report=address, iterations=at_work.done, stopped=stopped and stopped.to_json())
    # Reaching a limit is not a failure of this Job; those who attach read it from the state.
    say(f"{run}: {stopped.words if stopped else 'done'}")
    say(f"{plural(at_work.done, 'iteration')}; the report is {address}/ in {store.url}")
