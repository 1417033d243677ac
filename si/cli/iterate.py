"""`si-ctl iterate`: run the loop, or resume it."""

import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from si.cli.console import Screen, plural, say, table
from si.cli.options import (
    LIMITS,
    ApplyOption,
    DetachOption,
    IterationsOption,
    KOption,
    NamespaceOption,
    OnOption,
    OutputOption,
    RecipeOption,
    ReleaseOption,
    SetOption,
    StoreOption,
    StrategyOption,
    Wanted,
    as_begun,
    match_steps,
    resolve,
    run_name,
    shown,
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
from si.runs.limits import LIMITS as LIMITS_OF_RUNS
from si.runs.limits import Budget, LimitReached
from si.runs.record import begin
from si.runs.trackers import trackers
from si.runs.trackers.port import Tracked
from si.runs.tracking import Tracking
from si.store.artifact import Artifact
from si.store.open import open_store
from si.store.port import Store


def iterate(
    strategy: StrategyOption = None,
    k: KOption = None,
    iterations: IterationsOption = None,
    seed: Annotated[int | None, typer.Option(help=shown("Random seed.", "seed"))] = None,
    recipe: RecipeOption = None,
    run: Annotated[
        str | None,
        typer.Option(help="The run's name.  \\[default: RECIPE-STRATEGY-kK-sSEED]"),
    ] = None,
    store: StoreOption = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Worker processes.  \\[default: one per core, at most 8, or per GPU]"),
    ] = None,
    settings: SetOption = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start a new generation of the run; deletes nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be computed; compute nothing.")
    ] = False,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after this many iterations without a gain on dev.", rich_help_panel=LIMITS
        ),
    ] = None,
    max_gpu_hours: Annotated[
        float | None, typer.Option(help="Stop after this many GPU hours.", rich_help_panel=LIMITS)
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(help="Stop at this cost, by the place's prices.", rich_help_panel=LIMITS),
    ] = None,
    on: OnOption = "local",
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
    detach: DetachOption = False,
    apply: ApplyOption = False,
    output: OutputOption = None,
) -> None:
    """Improve a policy on its own correct answers, iteration by iteration.

    The same command again resumes: committed work is not repeated.
    """
    flags: dict[str, Any] = {"strategy": strategy, "k": k, "iterations": iterations, "seed": seed}
    flags |= {"patience": patience, "place.max_gpu_hours": max_gpu_hours}
    flags |= {"place.max_cost": max_cost, "place.store": store, "place.workers": workers}
    wanted = Wanted(recipe, settings, flags, run, fresh, dry_run, apply)
    if on == "kubernetes":
        from si.cli.on_cluster import iterate as iterate_there

        iterate_there(wanted, namespace, release, detach, output)
    else:
        _iterate(wanted)


def _iterate(wanted: Wanted) -> None:
    recipe, place = resolve(wanted.recipe, wanted.settings, wanted.flags)
    where = open_store(place) if wanted.dry_run else writing_store(place)
    name = run_name(wanted.run or recipe.run_name)
    recipe = match_steps(where, as_begun(where, name, wanted, recipe))
    if wanted.dry_run:
        _show_plan(where, recipe, name, wanted.fresh)
        return
    with exclusive(where.url, name) as scratch:
        generation = begin(where, name, recipe, wanted.fresh)
        _work(where, place, recipe, name, generation, scratch)


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
            screen.line("\nInterrupted. Committed work is kept. Resume with the same command:")
            screen.line(f"  {resume_command(fresh='--fresh' in sys.argv)}")
            raise typer.Exit(130) from None
        except BaseException:
            command = resume_command(fresh="--fresh" in sys.argv)
            screen.line(f"\nFix the problem, then resume with: {command}")
            raise
    if run.stopped:
        say(run.stopped.words)
    say(f"{name}: {plural(run.done, 'iteration')} in {time.monotonic() - started:.0f} s")
    if report:
        say(f"Report: {write(where, name, Artifact.open(where, report.ref), place)}")
    if run.stopped and run.stopped.rule in LIMITS_OF_RUNS:
        raise LimitReached(run.stopped)


def local_cluster(
    where: Store,
    place: Place,
    recipe: Recipe,
    name: str,
    scratch: Path,
    light: bool = False,
) -> LocalCluster:
    """Workers on this machine; unless `light`, they share the engine's preloaded libraries."""
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
    """The command that resumes the run: the one that was typed, without `--fresh`."""
    words = ["si-ctl" if shutil.which("si-ctl") else sys.argv[0], *sys.argv[1:]]
    return shlex.join(word for word in words if not (fresh and word == "--fresh"))


def _show_plan(where: Store, recipe: Recipe, name: str, fresh: bool) -> None:
    overlay = Overlay(where)
    generation = begin(overlay, name, recipe, fresh)
    plan = Plan(name, recipe, overlay, None, generation)  # type: ignore[arg-type]
    loop(plan)
    rows: list[list[Any]] = [
        [
            step.entry,
            step.address or "depends on earlier stages",
            step.shards or "?",
            "committed" if step.committed else "to do",
        ]
        for step in plan.steps
    ]
    table(f"{name} in {where.url}", ["stage", "address", "shards", "state"], rows)
    for missing in plan.missing:
        say(f"Missing: {missing}")
