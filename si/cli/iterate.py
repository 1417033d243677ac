"""`si-ctl iterate`: run the loop, or resume it."""

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from si.cli.console import Screen, table
from si.cli.options import (
    IterationsOption,
    KOption,
    NamespaceOption,
    OnOption,
    RecipeOption,
    ReleaseOption,
    SetOption,
    StoreOption,
    StrategyOption,
    match_steps,
    resolve,
    run_name,
    writing_store,
)
from si.cli.pages import write
from si.clusters.local import LocalCluster, exclusive, local_folder
from si.config.place import Place
from si.config.recipe import Recipe
from si.datasets.hub import HuggingFace
from si.loop import conclude
from si.loop import iterate as loop
from si.machine import packages
from si.run import Run
from si.runs.dry_run import Overlay, Plan
from si.runs.limits import LIMITS, Budget, LimitReached
from si.runs.record import begin
from si.runs.trackers import trackers
from si.runs.tracking import Tracked, Tracking
from si.store.artifact import Artifact
from si.store.open import open_store
from si.store.port import Store


def iterate(
    strategy: StrategyOption = None,
    k: KOption = None,
    iterations: IterationsOption = None,
    patience: Annotated[
        int | None,
        typer.Option(help="End after so many iterations without a gain on dev."),
    ] = None,
    max_gpu_hours: Annotated[
        float | None, typer.Option(help="Stop when so many GPU hours are spent.")
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(help="Stop when so much is spent, by the place's prices."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Key of all randomness.")] = None,
    recipe: RecipeOption = None,
    run: Annotated[
        str | None, typer.Option(help="The run's name; by default recipe-strategy-kK-sSEED.")
    ] = None,
    store: StoreOption = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes; one per core or GPU by default.")
    ] = None,
    settings: SetOption = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin a new generation of the run; deletes nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be made; make nothing.")
    ] = False,
    on: OnOption = "local",
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="On a cluster: begin, and do not wait.")
    ] = False,
    output: Annotated[
        Literal["yaml"] | None,
        typer.Option("--output", "-o", help="With --dry-run on a cluster: the manifests."),
    ] = None,
) -> None:
    """Improve a policy on its own correct answers, round after round.

    The same command again resumes: what is committed is not done again.
    """
    flags = {
        "strategy": strategy,
        "k": k,
        "iterations": iterations,
        "patience": patience,
        "place.max_gpu_hours": max_gpu_hours,
        "place.max_cost": max_cost,
        "seed": seed,
        "place.store": store,
        "place.workers": workers,
    }
    if on == "kubernetes":
        from si.cli.on_cluster import iterate as iterate_there

        iterate_there(
            recipe, settings, flags, run, namespace, release, fresh, dry_run, detach, output
        )
        return
    computed, place = resolve(recipe, settings, flags)

    where = open_store(place) if dry_run else writing_store(place)
    computed = match_steps(where, computed)
    name = run_name(run or computed.run_name)
    if dry_run:
        _plan(where, computed, name, fresh)
        return

    with exclusive(where.url, name) as scratch:
        generation = begin(where, name, computed, fresh)
        _work(where, place, computed, name, generation, scratch)


def _work(
    where: Store, place: Place, recipe: Recipe, name: str, generation: int, scratch: Path
) -> None:

    started = time.monotonic()
    showing = trackers(place.trackers, local_folder(where))
    cluster = local_cluster(where, place, recipe, name, scratch)
    devices = cluster.describe(recipe.sampling.engine)
    tracked = Tracked.of(where, name, generation, recipe)
    with Screen() as screen, Tracking(tracked, where, showing, screen.line) as tracking:
        screen.line(f"run {name}: strategy {recipe.strategy}, K={recipe.k}, store {where.url}")
        if devices:
            screen.line(devices)
        hub = HuggingFace(local_folder(where) / "imports", screen.hear)
        budget = Budget.of(place)

        def hear(event: dict[str, Any]) -> None:
            screen.hear(event)
            tracking.hear(event, run.stages)

        run = Run(name, recipe, where, cluster, generation, hear, budget=budget, hub=hub)
        try:
            report = conclude(run)
        except KeyboardInterrupt:
            screen.line("\nInterrupted. What is committed stays; resume with the same command:")
            screen.line(f"  {resume_command(fresh='--fresh' in sys.argv)}")
            raise typer.Exit(130) from None
        except BaseException:
            screen.line(f"\nTo resume after mending: {resume_command('--fresh' in sys.argv)}")
            raise
    if run.stopped:
        typer.echo(run.stopped.words)
    typer.echo(f"{name}: {run.done} iterations in {time.monotonic() - started:.0f} s")
    if report:
        typer.echo(f"Report: {write(where, name, Artifact.open(where, report.ref), place)}")
    if run.stopped and run.stopped.rule in LIMITS:
        raise LimitReached(run.stopped)


def local_cluster(
    where: Store,
    place: Place,
    recipe: Recipe,
    name: str,
    scratch: Path,
    light: bool = False,
) -> LocalCluster:
    """Processes on this machine, with the engine's libraries loaded once (unless `light`)."""
    engines = {recipe.sampling.engine, recipe.train.trainer}
    for engine in sorted(engines & packages.ENGINES.keys()):
        if not light:
            packages.check(f"The engine {engine}", packages.ENGINES[engine])
    torch = "transformers" in engines and not light
    preload = ["si.clusters.preload", *(["si.engines.preload"] if torch else [])]
    cluster = LocalCluster(place, local_folder(where) / "logs" / name, scratch, preload)
    cluster.warm_up()
    return cluster


def resume_command(fresh: bool) -> str:
    """The command that resumes what was just begun: the same, less `--fresh`."""
    words = ["si-ctl", *sys.argv[1:]]
    return shlex.join(word for word in words if not (fresh and word == "--fresh"))


def _plan(where: Store, recipe: Recipe, name: str, fresh: bool) -> None:

    overlay = Overlay(where)
    generation = begin(overlay, name, recipe, fresh)
    plan = Plan(name, recipe, overlay, None, generation)  # type: ignore[arg-type]
    loop(plan)
    rows: list[list[Any]] = [
        [
            step.entry,
            step.address or "follows from the stages before",
            step.shards or "?",
            "committed" if step.committed else "to do",
        ]
        for step in plan.steps
    ]
    table(f"{name} in {where.url}", ["stage", "address", "shards", "state"], rows)
    for missing in plan.missing:
        typer.echo(f"Not there yet: {missing}")
