"""`--on kubernetes`: what iterate, status and logs do on a cluster."""

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
import yaml
from rich.console import Console

from si import __version__
from si.cli.console import Screen, Shown, draw, of_journal, plural, say, table, watch
from si.cli.options import Wanted, run_name, settings_of
from si.clusters.kubernetes.client import Client
from si.clusters.kubernetes.diagnosis import failure, finished, problems, stage_failed
from si.clusters.kubernetes.manifests import (
    INSTANCE,
    ITERATION,
    RUN,
    STAGE,
    controller_job,
    fetch_job,
    run_object,
    stage_job,
    state_of,
)
from si.clusters.kubernetes.runs import begin, find_release, find_run, run_objects
from si.clusters.kubernetes.watch import Mirror
from si.config.loading import Settings
from si.config.place import Place
from si.config.recipe import Recipe
from si.config.release import Release
from si.config.requires import check as check_requirements
from si.datasets.sources import on_hub
from si.entry import Entry
from si.errors import RecipeError, RunMissing, StageFailed
from si.run import WISHES
from si.runs.limits import LIMITS, LimitReached, Stop
from si.stages import STAGES
from si.store.keys import Spec


def iterate(
    wanted: Wanted, namespace: str | None, release: str | None, detach: bool, output: str | None
) -> None:
    """`si-ctl iterate --on kubernetes`: start a controller, and follow it unless detached."""
    cluster = Client(namespace)
    installed = find_release(cluster, release)
    found = settings_of(wanted.recipe, wanted.settings, wanted.flags, installed)
    recipe, place = found.recipe, found.place
    _show_changes(installed, found)
    _check_reachable(recipe, place)
    check_requirements(found.requires, place)
    name = run_name(wanted.run or recipe.run_name)
    plan = _plan(place, recipe, name)
    if wanted.dry_run:
        _show_plan(plan, name, output)
        return
    begun = begin(cluster, place, recipe, name, wanted.fresh, wanted.apply)
    for note in begun.notes:
        say(note, err=True)
    owner, controller = begun.owner, begun.controller
    here = "" if namespace is None else f" --namespace {namespace}"
    say(
        f"run {name}: strategy {recipe.strategy}, K={recipe.k}, store {place.store}, "
        f"namespace {cluster.namespace}"
    )
    if detach:
        say(f"Started. Show its progress: si-ctl status --on kubernetes{here} {name}")
        return
    started = time.monotonic()
    try:
        state = attach(cluster, owner, controller)
    except KeyboardInterrupt:
        say("\nDetached. The run continues.")
        say(f"  show its progress:  si-ctl status --on kubernetes{here} {name}")
        say("  attach again:       the same command")
        say(f"  follow its log:     si-ctl logs --on kubernetes -f{here} {name}")
        say(f"  stop it:            si-ctl cancel{here} {name}")
        raise typer.Exit(130) from None
    stopped = Stop(**state["stopped"]) if state.get("stopped") else None
    if stopped:
        say(stopped.words)
    count = plural(state.get("iterations", recipe.iterations), "iteration")
    say(f"{name}: {count} in {time.monotonic() - started:.0f} s")
    if state["report"]:
        say(f"Report: {state['report']}/ in {place.store}")
        say(f"Read it here: si-ctl report --on kubernetes{here} {name}")
    if stopped and stopped.rule in LIMITS:
        raise LimitReached(stopped)


def _show_changes(installed: Release, found: Settings) -> None:
    """Print what the command changes of the release, what it may not, and what is unknown here."""
    for change in found.changes:
        say(str(change), err=True)
    for name in found.unknown:
        say(
            f"place.{name} is ignored: si-ctl {__version__} does not know it; release "
            f"{installed.name} has version {installed.version or 'unknown'}",
            err=True,
        )


def _check_reachable(recipe: Recipe, place: Place) -> None:
    """Check that pods can reach the store and the model."""
    if not place.store.startswith("s3://"):
        raise RecipeError(
            f"Pods cannot share the store {place.store}",
            "place.store in the chart's values",
            "Use a bucket: s3://BUCKET/PREFIX",
        )
    if recipe.model.source != "embedded" and Path(recipe.model.source).is_dir():
        raise RecipeError(
            f"Pods have no folder {recipe.model.source}",
            "model.source",
            "Copy it into the bucket, and use the address that this prints: "
            f"si-ctl fetch --on kubernetes --set model.source={recipe.model.source}",
        )


def _plan(place: Place, recipe: Recipe, run: str) -> list[dict[str, Any]]:
    """The run's object and the Jobs of one iteration, without addresses, which depend on earlier
    stages.

    Raises:
        RecipeError: if the place patches pods in a way that is not allowed.
    """
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
    return [owner, *jobs]


def _show_plan(plan: list[dict[str, Any]], run: str, output: str | None) -> None:
    """Print what would be created."""
    owner, *jobs = plan
    del owner["metadata"]["uid"]
    if output == "yaml":
        for each in jobs:
            # The run's object has no uid before it is created, so it cannot own anything.
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
    """`si-ctl status --on kubernetes`: the state of runs, from their objects."""
    cluster = Client(namespace)
    objects = [find_run(cluster, run, release)] if run else run_objects(cluster, release)
    trees = [_state_of_run(each) for each in objects]
    if as_json:
        typer.echo(json.dumps(trees[0] if run else trees, indent=2))
    elif run and watch:
        _watch(cluster, objects[0])
    elif run:
        tree = draw(*of_journal(trees[0], time.time()))
        Console(highlight=False).print(tree, soft_wrap=True)
    elif not trees:
        say(f"No runs in namespace {cluster.namespace}.")
        say("Start one: si-ctl iterate --on kubernetes")
    else:
        rows = [
            [
                tree["run"],
                tree["recipe"]["strategy"],
                tree["recipe"]["k"],
                tree.get("phase", "not started"),
                (tree.get("stages") or [{"entry": ""}])[-1]["entry"],
            ]
            for tree in trees
        ]
        columns = ["run", "strategy", "K", "state", "at"]
        table(f"runs in namespace {cluster.namespace}", columns, rows)


def _state_of_run(owner: Mapping[str, Any]) -> dict[str, Any]:
    """A run's name, recipe and journal, from its object."""
    recipe = json.loads(owner["data"]["recipe"])
    return {"run": owner["metadata"]["labels"][RUN], "recipe": recipe} | state_of(owner)


def _watch(cluster: Client, owner: Mapping[str, Any]) -> None:
    """Show a run until it ends or its object is deleted, by watching the API server."""
    name = owner["metadata"]["name"]
    changed = threading.Event()
    last = _state_of_run(owner)

    def wait() -> None:
        changed.wait(1)  # elapsed times are updated
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
                last = _state_of_run(found)
            elif begun:
                last |= {"phase": "cancelled"}
            over = last.get("phase") in ("done", "stopped", "failed", "cancelled")
            return of_journal(last, time.time()), over

        try:
            watch(look, wait)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def attach(cluster: Client, owner: Mapping[str, Any], controller: str) -> dict[str, Any]:
    """Show a run's progress until its controller ends, and return the run's last state.

    Raises:
        StageFailed: with the controller's error, if the run failed or was cancelled.
    """
    changed = threading.Event()
    name = owner["metadata"]["name"]
    its_job = f"metadata.name={controller}"
    its_pods = f"batch.kubernetes.io/job-name={controller}"
    core, batch = cluster.core, cluster.batch
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
                    ways, code = tuple(error["ways_out"]), error["exit_code"]
                    raise StageFailed(error["headline"], error["detail"], ways, exit_code=code)
            if job is None:
                if seen and found:
                    raise StageFailed(
                        f"The controller {controller} is gone, and the run {name} is not",
                        "Another command may have restarted it with other settings.",
                        "Attach to the new one: the same command again.",
                    )
                if seen:
                    raise StageFailed(f"The run was cancelled: {name} is being removed")
                continue  # the watch of Jobs has not started yet
            seen = True
            follower.show_controller(job, pods.all(), warnings.all())
            if finished(job) == "Failed":
                raise stage_failed("controller", job, pods.all())


class Follower:
    """Shows the changes between successive states of a run."""

    def __init__(self, screen: Any):
        self.screen = screen
        self.shown: dict[str, dict[str, Any]] = {}
        self.reported: set[str] = set()

    def show_controller(
        self,
        job: Mapping[str, Any],
        pods: list[dict[str, Any]],
        warnings: list[dict[str, Any]],
    ) -> None:
        """Show each problem of the controller's Job, and each failed pod, once."""
        for trouble in problems(job, pods, warnings):
            if trouble.headline not in self.reported:
                event = {"event": "problem", "entry": "controller", **trouble._asdict()}
                self.screen.hear(event)
            self.reported.add(trouble.headline)
        for pod in pods:
            name, why = pod["metadata"]["name"], failure(pod)
            if why and name not in self.reported:
                self.reported.add(name)
                event = {"event": "failure", "entry": "controller", "pod": name, "why": why}
                self.screen.hear(event)

    def show(self, state: Mapping[str, Any]) -> None:
        """Show what has changed since the last state."""
        error = state.get("error") if state["phase"] == "retrying" else None
        if error and error["headline"] not in self.reported:
            self.reported.add(error["headline"])
            event = {"event": "problem", "entry": "controller", "detail": error["detail"]}
            headline = f"{error['headline']}; the controller is started again"
            self.screen.hear({**event, "headline": headline, "ways_out": ()})
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


def logs(
    run: str, stage: str | None, follow: bool, namespace: str | None, release: str | None
) -> None:
    """`si-ctl logs --on kubernetes`: the log of a run's controller, or of a stage's pods."""
    cluster = Client(namespace)
    owner = find_run(cluster, run, release)
    labels = owner["metadata"]["labels"]
    mine = f"{RUN}={labels[RUN]},{INSTANCE}={labels[INSTANCE]}"
    if stage is None:
        select = f"{mine},app.kubernetes.io/component=controller"
    else:
        try:
            entry = Entry.parse(stage)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--stage") from error
        select = f"{mine},{ITERATION}={entry.t:02d},{STAGE}={entry.step}"
    found = cluster.call(cluster.core.list_namespaced_pod, label_selector=select)["items"]
    if not found:
        raise RunMissing(
            f"No pods of {stage or 'the controller'} exist",
            f"run {run}, namespace {cluster.namespace}",
            ("Show the run's progress: si-ctl status --on kubernetes " + run,),
        )
    found.sort(key=lambda pod: pod["metadata"]["creationTimestamp"])
    readers = [
        threading.Thread(target=_read, args=(cluster, pod, follow, len(found) > 1), daemon=True)
        for pod in found
    ]
    for reader in readers:
        reader.start()
        if not follow:
            reader.join()  # one pod after the other
    for reader in readers:
        reader.join()


def _read(cluster: Client, pod: Mapping[str, Any], follow: bool, several: bool) -> None:
    head = f"{pod['metadata']['name']} | " if several else ""
    for line in cluster.log(pod["metadata"]["name"], follow):
        say(head + line)
