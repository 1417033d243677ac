"""What `iterate` and `status` do with `--on kubernetes`."""

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
import yaml
from rich.console import Console

from si.cli.console import Screen, Shown, draw, of_journal, table, watch
from si.cli.options import resolve, run_name
from si.clusters.kubernetes.client import Cluster
from si.clusters.kubernetes.diagnosis import failure, finished, stage_failed, troubles
from si.clusters.kubernetes.manifests import (
    RUN,
    controller_job,
    fetch_job,
    run_object,
    stage_job,
    state_of,
)
from si.clusters.kubernetes.runs import begin, find_place, find_run, run_objects
from si.clusters.kubernetes.watch import Mirror
from si.config.place import Place
from si.config.recipe import Recipe
from si.datasets.sources import on_hub
from si.errors import RecipeError, StageFailed
from si.run import WISHES
from si.runs.limits import LIMITS, LimitReached, Stop
from si.stages import STAGES
from si.store.keys import Spec

# -- what other verbs do on a cluster ------------------------------------------------------------


def iterate(
    recipe: str | None,
    settings: list[str] | None,
    flags: dict[str, Any],
    run: str | None,
    namespace: str | None,
    release: str | None,
    fresh: bool,
    dry_run: bool,
    detach: bool,
    output: str | None,
) -> None:
    """`si-ctl iterate --on kubernetes`: have a controller do it, and watch it."""
    cluster = Cluster(namespace)
    computed, place = resolve(recipe, settings, flags, find_place(cluster, release))
    if not place.store.startswith("s3://"):
        raise RecipeError(
            f"Pods cannot share the store {place.store}",
            "place.store in the chart's values",
            "Name a bucket: s3://BUCKET/PREFIX",
        )
    if computed.model.source != "embedded" and Path(computed.model.source).is_dir():
        raise RecipeError(
            f"Pods have no folder {computed.model.source}",
            "model.source",
            "Bring it into the bucket, and name the address that this prints: "
            f"si-ctl fetch --on kubernetes --set model.source={computed.model.source}",
        )
    name = run_name(run or computed.run_name)
    if dry_run:
        _plan(place, computed, name, output)
        return
    owner, controller = begin(cluster, place, computed, name, fresh)
    here = "" if namespace is None else f" --namespace {namespace}"
    typer.echo(
        f"run {name}: strategy {computed.strategy}, K={computed.k}, store {place.store}, "
        f"namespace {cluster.namespace}"
    )
    status = f"si-ctl status --on kubernetes{here} {name}"
    if detach:
        typer.echo(f"Begun. How far it is: {status}")
        return
    started = time.monotonic()
    try:
        state = attach(cluster, owner, controller)
    except KeyboardInterrupt:
        typer.echo("\nYou have let go; the run goes on.")
        typer.echo(f"  how far it is:    {status}")
        typer.echo("  attach again:     the same command")
        typer.echo(f"  what it writes:   si-ctl logs -f{here} {name}")
        typer.echo(f"  stop it:          si-ctl cancel{here} {name}")
        raise typer.Exit(130) from None
    stopped = Stop(**state["stopped"]) if state.get("stopped") else None
    if stopped:
        typer.echo(stopped.words)
    rounds = state.get("iterations", computed.iterations)
    typer.echo(f"{name}: {rounds} iterations in {time.monotonic() - started:.0f} s")
    if state["report"]:
        typer.echo(f"Report: {state['report']}/ in {place.store}")
        typer.echo(f"Read it here: si-ctl report --on kubernetes{here} {name}")
    if stopped and stopped.rule in LIMITS:
        raise LimitReached(stopped)


def _plan(place: Place, recipe: Recipe, run: str, output: str | None) -> None:
    """Print the objects of one iteration. Addresses follow from what is not computed yet."""
    owner = run_object(place, run, recipe)
    owner["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
    jobs = [controller_job(place, run, 1, owner)]
    if on_hub(recipe):
        jobs.append(fetch_job(place, run, 1, recipe.pick(*WISHES), owner))
    shards = -(-recipe.data.slice_size // recipe.explore.shard_queries)
    for stage in STAGES:
        width = shards if STAGES[stage].sharded else 1
        spec = Spec(stage, "it01", {}, {}, {}, width)
        jobs.append(stage_job(place, run, 1, f"it01/{stage}", spec, owner))
    del owner["metadata"]["uid"]
    if output == "yaml":
        for each in jobs:
            # The run's object has no identity before it is made, and owns nothing.
            del each["metadata"]["ownerReferences"]
        typer.echo(yaml.safe_dump_all([owner, *jobs], sort_keys=False, width=100), nl=False)
        return
    rows = [
        [
            job["metadata"]["name"],
            job["spec"].get("completions", 1),
            job["spec"]["template"]["spec"]["containers"][0]["image"],
        ]
        for job in jobs
    ]
    table(f"Jobs of an iteration of {run}", ["job", "pods", "image"], rows)


def status(
    run: str | None, watch: bool, as_json: bool, namespace: str | None, release: str | None
) -> None:
    """`si-ctl status --on kubernetes`: what the runs' objects say."""
    cluster = Cluster(namespace)
    objects = [find_run(cluster, run, release)] if run else run_objects(cluster, release)
    trees = [_said(each) for each in objects]
    if as_json:
        typer.echo(json.dumps(trees[0] if run else trees, indent=2))
    elif run and watch:
        _watch(cluster, objects[0])
    elif run:
        tree = draw(*of_journal(trees[0], time.time()))
        Console(highlight=False).print(tree, soft_wrap=True)
    elif not trees:
        typer.echo(f"No runs in namespace {cluster.namespace}.")
        typer.echo("Begin one: si-ctl iterate --on kubernetes")
    else:
        rows = [
            [
                tree["run"],
                tree["recipe"]["strategy"],
                tree["recipe"]["k"],
                tree.get("phase", "not begun"),
                (tree.get("stages") or [{"entry": ""}])[-1]["entry"],
            ]
            for tree in trees
        ]
        columns = ["run", "strategy", "K", "state", "at"]
        table(f"runs in namespace {cluster.namespace}", columns, rows)


def _said(owner: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's object says: the run's name, its recipe, the journal."""
    recipe = json.loads(owner["data"]["recipe"])
    return {"run": owner["metadata"]["labels"][RUN], "recipe": recipe} | state_of(owner)


def _watch(cluster: Cluster, owner: Mapping[str, Any]) -> None:
    """Show a run until it has ended or its object is gone; the API server tells of changes."""
    name = owner["metadata"]["name"]
    changed = threading.Event()
    last = _said(owner)

    def wait() -> None:
        changed.wait(1)  # so that times go on
        changed.clear()

    with Mirror(
        cluster,
        cluster.core.list_namespaced_config_map,
        changed,
        field_selector=f"metadata.name={name}",
    ) as objects:
        begun = changed.wait(10)

        def look() -> tuple[Shown, bool]:
            nonlocal last
            found = objects.get(name)
            if found:
                last = _said(found)
            elif begun:
                last |= {"phase": "cancelled"}
            over = last.get("phase") in ("done", "stopped", "failed", "cancelled")
            return of_journal(last, time.time()), over

        try:
            watch(look, wait)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def attach(cluster: Cluster, owner: Mapping[str, Any], controller: str) -> dict[str, Any]:
    """Show a run's progress until its controller ends; the run's last state.

    Raises:
        StageFailed: with what the controller said, if the run failed.
    """
    changed = threading.Event()
    name = owner["metadata"]["name"]
    its_job = f"metadata.name={controller}"
    its_pods = f"batch.kubernetes.io/job-name={controller}"
    core, batch = cluster.core, cluster.batch
    told: set[str] = set()
    with (
        Mirror(
            cluster,
            core.list_namespaced_config_map,
            changed,
            field_selector=f"metadata.name={name}",
        ) as objects,
        Mirror(cluster, batch.list_namespaced_job, changed, field_selector=its_job) as jobs,
        Mirror(cluster, core.list_namespaced_pod, changed, label_selector=its_pods) as pods,
        Mirror(
            cluster, core.list_namespaced_event, changed, field_selector="type=Warning"
        ) as warnings,
        Screen() as screen,
    ):
        follower = Follower(screen)
        seen = False
        while True:
            changed.wait(300)
            changed.clear()
            found, job = objects.get(name), jobs.get(controller)
            state = state_of(found) if found else {}
            mine = str(state.get("controller", "")).startswith(f"{controller}-")
            if mine:
                follower.show(state)
                if state["phase"] in ("done", "stopped"):
                    return state
                if state["phase"] == "failed":
                    error = state["error"]
                    raise StageFailed(
                        error["headline"],
                        error["detail"],
                        tuple(error["ways_out"]),
                        exit_code=error["exit_code"],
                    )
            if job is None:
                if seen:
                    raise StageFailed(f"The run was cancelled: {name} is being removed")
                continue  # the watch of Jobs has not begun yet
            seen = True
            for trouble in troubles(job, pods.all(), warnings.all()):
                if trouble.headline not in told:
                    screen.hear({"event": "problem", "entry": "controller", **trouble._asdict()})
                told.add(trouble.headline)
            for pod in pods.all():
                why = failure(pod)
                if why and pod["metadata"]["name"] not in told:
                    told.add(pod["metadata"]["name"])
                    screen.hear(
                        {
                            "event": "failure",
                            "entry": "controller",
                            "pod": pod["metadata"]["name"],
                            "why": why,
                        }
                    )
            if finished(job) == "Failed":
                raise stage_failed("controller", job, pods.all())


class Follower:
    """Shows on a screen what changes between two states of a run."""

    def __init__(self, screen: Any):
        self.screen = screen
        self.shown: dict[str, dict[str, Any]] = {}

    def show(self, state: Mapping[str, Any]) -> None:
        for stage in state["stages"]:
            entry = stage["entry"]
            before = self.shown.get(entry)
            self.shown[entry] = stage
            if before is None or (before["state"] == "done" and stage["state"] != "done"):
                before = {"failed": 0, "problem": None, "state": ""}
                if stage["state"] != "done":
                    self.screen.hear({"event": "begin", "entry": entry, "shards": stage["shards"]})
            new = stage["failed"] - before["failed"]
            for failed in stage["failures"][-new:] if new else ():
                self.screen.hear({"event": "failure", "entry": entry, **failed})
            if stage["problem"] and stage["problem"] != before["problem"]:
                self.screen.hear({"event": "problem", "entry": entry, **stage["problem"]})
            if stage["state"] == "done" and before["state"] != "done":
                self.screen.done(entry, stage.get("seconds"), stage["words"])
            elif stage["state"] != "done":
                event = {"event": "shards", "entry": entry, "committed": stage["committed"]}
                self.screen.hear(event)
