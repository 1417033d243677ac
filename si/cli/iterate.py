"""`si-ctl iterate`: run the loop, or resume it."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

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
    resolve,
)

if TYPE_CHECKING:
    from si.clusters.local import LocalCluster
    from si.config.place import Place
    from si.config.recipe import Recipe
    from si.run import Run
    from si.store.port import Store


def register(app: typer.Typer) -> None:
    app.command()(iterate)


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
    from si.store.open import open_store

    where = open_store(place)
    computed = match_steps(where, computed)
    name = run_name(run or computed.run_name)
    if dry_run:
        _plan(where, computed, name, fresh)
        return
    from si.clusters.local import exclusive

    with exclusive(where.url, name) as scratch:
        from si.runs.record import begin

        generation = begin(where, name, computed, fresh)
        _work(where, place, computed, name, generation, scratch)


def _work(
    where: "Store", place: "Place", recipe: "Recipe", name: str, generation: int, scratch: Path
) -> None:
    from si.cli.screen import Screen
    from si.clusters.local import local_folder
    from si.datasets.hub import HuggingFace
    from si.loop import conclude
    from si.run import Run
    from si.runs.limits import LIMITS, Budget, LimitReached
    from si.runs.trackers import trackers
    from si.runs.tracking import Tracked, Tracking

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
        typer.echo(f"Report: {write_report(run, report.ref.address, place)}")
    if run.stopped and run.stopped.rule in LIMITS:
        raise LimitReached(run.stopped)


def local_cluster(
    where: "Store",
    place: "Place",
    recipe: "Recipe",
    name: str,
    scratch: Path,
    light: bool = False,
) -> "LocalCluster":
    """Processes on this machine, with the engine's libraries loaded once (unless `light`)."""
    from si.clusters.local import LocalCluster, local_folder

    engines = {recipe.sampling.engine, recipe.train.trainer}
    torch = "transformers" in engines and not light
    preload = ["si.clusters.preload", *(["si.engines.preload"] if torch else [])]
    cluster = LocalCluster(place, local_folder(where) / "logs" / name, scratch, preload)
    cluster.warm_up()
    return cluster


def write_report(run: "Run", address: str, place: "Place") -> Path:
    """Copy the report out of the store, to a path that a browser can open."""
    from si.cli.report import write
    from si.clusters.local import local_folder
    from si.store.artifact import Artifact

    page = local_folder(run.store) / "reports" / f"{run.name}.html"
    return write(run.store, run.name, Artifact.open(run.store, address), page, place)


def resume_command(fresh: bool) -> str:
    """The command that resumes what was just begun: the same, less `--fresh`."""
    import shlex

    words = ["si-ctl", *sys.argv[1:]]
    return shlex.join(word for word in words if not (fresh and word == "--fresh"))


def run_name(name: str) -> str:
    """The name, if it is a DNS label of at most 30 characters."""
    import re

    from si.errors import RecipeError

    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?", name):
        raise RecipeError(
            f"{name!r} is no run name",
            "lower-case letters, digits and dashes, at most 30, no dash at either end",
            "Give another name: --run NAME",
        )
    return name


def match_steps(where: "Store", recipe: "Recipe") -> "Recipe":
    """Replace a run's name in train.match_steps by that run's steps per iteration."""
    named = recipe.train.match_steps
    if not isinstance(named, str):
        return recipe
    from si.runs.status import find_run, status

    tree = status(where, find_run(where, named))
    steps = [
        stage["facts"]["steps"]
        for iteration in tree["iterations"]
        for stage in iteration["stages"]
        if stage["stage"] == "train" and stage["state"] == "done"
    ]
    train = recipe.train.model_copy(update={"match_steps": steps})
    return recipe.model_copy(update={"train": train})


def _plan(where: "Store", recipe: "Recipe", name: str, fresh: bool) -> None:
    from si.cli.screen import table
    from si.loop import iterate as loop
    from si.runs.dry_run import Overlay, Plan
    from si.runs.record import begin

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
