"""`si-ctl study`: several strategies, K and seeds in one command, and one page with answers."""

import csv
import io
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from si.cli.console import Screen, plural, say, span, table
from si.cli.iterate import local_cluster, resume_command
from si.cli.options import (
    ForceOption,
    IterationsOption,
    RecipeOption,
    SetOption,
    StoreOption,
    match_steps,
    resolve,
    writing_store,
)
from si.clusters.local import LocalCluster, exclusive, local_folder
from si.config.place import Place
from si.config.recipe import Recipe
from si.costs.actual import config_of, sizes_of
from si.costs.assumptions import published, width_of
from si.costs.estimate import Step, Total
from si.costs.estimate import estimate as steps_of
from si.datasets.hub import HuggingFace
from si.errors import OutputError, RecipeError
from si.loop import conclude
from si.machine.files import check_folder, create_folder, write_files
from si.report.study import VANILLA, Arm, Study, answered, page, results
from si.run import Run
from si.runs.limits import LIMITS, Budget, LimitReached
from si.runs.record import begin, generations
from si.runs.status import report_inputs
from si.runs.study import Plan, equal_tokens, numbers, read
from si.store.open import open_store
from si.store.port import Store

PAGE, ANSWERS, ROWS, COLUMNS = "study.html", "study.json", "results.csv", "results.parquet"


def study(
    strategies: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Strategies or compositions; vanilla is always one of them."
        ),
    ] = "vanilla,tc,rp,ar,gr",
    k: Annotated[str, typer.Option("--k", metavar="LIST", help="Samples per query: 8,16.")] = "8",
    seeds: Annotated[str, typer.Option(metavar="LIST", help="Random seeds: 0..4 or 0,3.")] = "0..4",
    match: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Controls: steps, tokens or both. steps: each strategy with vanilla's gradient "
            "steps. tokens: vanilla with the sampled tokens of each strategy that has a second "
            "round.",
        ),
    ] = "",
    iterations: IterationsOption = None,
    recipe: RecipeOption = None,
    store: StoreOption = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.")] = None,
    settings: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder for page and tables.  \\[default: reports/study]"
        ),
    ] = None,
    force: ForceOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs and how long they take; run nothing.")
    ] = False,
) -> None:
    """Run several strategies with several K and seeds, and answer what they show.

    Runs share what they have in common. Page and tables are written after every seed. The same
    command again resumes.
    """
    flags: dict[str, Any] = {"iterations": iterations}
    flags |= {"place.store": store, "place.workers": workers}
    base, place = resolve(recipe, settings, flags)
    plan = Plan.of(base, strategies, numbers("--k", k), numbers("--seeds", seeds), match)
    if dry_run:
        _show(plan, open_store(place), place)
        return
    where = writing_store(place)
    folder = _folder(out, where, base, force)
    try:
        found = _work(plan, where, place, folder)
    except KeyboardInterrupt:
        say(f"\nInterrupted. Resume with the same command:\n  {resume_command(False)}")
        raise typer.Exit(130) from None
    for each in answered(found):
        table(each.title, each.columns, each.rows)
        say()
    say(f"{found.reserve}\n\nPage: {(folder / PAGE).resolve()}")


# --- the runs --------------------------------------------------------------------------------


def _work(plan: Plan, where: Store, place: Place, folder: Path) -> Study:
    """All runs, seed by seed; what was done before is not repeated."""
    clock = Clock(expected(plan, where, place))
    twins: dict[Arm, Arm] = {}
    with ExitStack() as stack:
        scratch = stack.enter_context(exclusive(where.url, "study"))
        cluster = local_cluster(where, place, plan.base, "study", scratch)
        screen = stack.enter_context(Screen())
        for done, seed in enumerate(plan.seeds, 1):
            for arm in plan.arms:
                with clock.measures(arm, seed, screen):
                    _run(plan.recipe(arm, seed), where, place, cluster, screen)
            for arm in plan.resampling:
                # By the first seed's tokens, so that all seeds are one arm.
                twin = twins.setdefault(arm, plan.twin(where, arm, plan.seeds[0]))
                with clock.measures(twin, seed, screen):
                    _run(plan.recipe(twin, seed), where, place, cluster, screen)
            found = read(where, plan, plan.seeds[:done], twins)
            _write(folder, found, plan)
            screen.line(f"\n{done} of {plural(len(plan.seeds), 'seed')}: {folder / PAGE}")
    return found


def _run(recipe: Recipe, where: Store, place: Place, cluster: LocalCluster, screen: Screen) -> None:
    name, recipe = recipe.run_name, match_steps(where, recipe)
    with exclusive(where.url, name):
        generation = begin(where, name, recipe)
        hub = HuggingFace(local_folder(where) / "imports", screen.hear)
        budget = Budget.of(place)
        run = Run(name, recipe, where, cluster, generation, screen.hear, budget=budget, hub=hub)
        conclude(run)
    if run.stopped and run.stopped.rule in LIMITS:
        raise LimitReached(run.stopped)


# --- how long they take ------------------------------------------------------------------------

Walls = dict[tuple[Arm, int], float]


def expected(plan: Plan, where: Store, place: Place) -> Walls:
    """Seconds that each run adds to what the runs before it have done, by the estimate; empty if
    there are no figures for the recipe."""
    base = plan.base
    try:
        assumed = published(base, place, {}, config_of(where, base), sizes_of(where, base))
    except RecipeError:
        return {}
    width, seen = width_of(place, assumed.device, None), set[Any]()
    plain = base.model_copy(update={"train": base.train.model_copy(update={"match_steps": None})})

    def steps(arm: Arm) -> list[Step]:
        changed = {"strategy": arm.strategy, "k": arm.k}
        return steps_of(plain.model_copy(update=changed), assumed, width)

    found = {arm: steps(arm) for arm in plan.arms}
    for arm in plan.resampling:
        spent = (Total.of(found[each], place).tokens for each in (arm, Arm(VANILLA, arm.k)))
        twin = Arm(VANILLA, equal_tokens(arm.k, *spent))
        found.setdefault(twin, steps(twin))
    walls: dict[Arm, float] = {}
    for arm, made in found.items():
        new = {(*step.identity, arm.control): step.wall for step in made}
        walls[arm] = sum(wall for key, wall in new.items() if key not in seen)
        seen |= new.keys()
    return {(arm, seed): wall for seed in plan.seeds for arm, wall in walls.items()}


@dataclass
class Clock:
    """The time that is left, by the estimate and how right it has been so far."""

    todo: Walls
    guessed: float = 0.0
    spent: float = 0.0

    @contextmanager
    def measures(self, arm: Arm, seed: int, screen: Screen) -> Iterator[None]:
        """Announce a run, and learn from how long it takes."""
        pace = (self.spent + 60) / (self.guessed + 60)
        left = f"; about {span(sum(self.todo.values()) * pace)} left" if self.todo else ""
        screen.line(f"\n{arm.name}, seed {seed}{left}")
        begun = time.monotonic()
        yield
        self.guessed += self.todo.pop((arm, seed), 0.0)
        self.spent += time.monotonic() - begun


def _show(plan: Plan, where: Store, place: Place) -> None:
    """The runs, which of them are done, and the time that the others take."""
    walls, rows, left = expected(plan, where, place), [], 0.0
    for seed in plan.seeds:
        for arm in plan.arms:
            recipe = plan.recipe(arm, seed)
            begun = generations(where, recipe.run_name)
            refs = report_inputs(where, recipe.run_name) if begun else {}
            done = f"scores-{recipe.iterations}" in refs
            wall = walls.get((arm, seed), 0.0)
            left += 0.0 if done else wall
            rows.append([recipe.run_name, arm.name, str(seed), "done" if done else "to do"])
    twins = {arm for arm, _ in walls} - set(plan.arms)
    left += sum(wall for (arm, _), wall in walls.items() if arm in twins)
    table(f"Study in {where.url}", ["run", "arm", "seed", "state"], rows)
    for arm in plan.resampling:
        say(f"Also, for each seed: vanilla with the sampled tokens of {arm.name}.")
    said = f"about {span(left)}" if walls else "not known for this recipe"
    say(f"Time that is left, by the estimate: {said}")


# --- what it writes ----------------------------------------------------------------------------


def _folder(out: Path | None, where: Store, recipe: Recipe, force: bool) -> Path:
    """The folder to write to, checked before the first run. Files of a study of the same recipe
    may be replaced: more arms or seeds continue it.

    Raises:
        OutputError: if it has files of another study, or cannot be written to.
    """
    folder = out or local_folder(where) / "reports" / "study"
    there = [name for name in (PAGE, ANSWERS, ROWS, COLUMNS) if (folder / name).exists()]
    if there and not force and _recipe_of(folder / ANSWERS) != recipe.model_dump(mode="json"):
        raise OutputError(
            f"{folder} has files of another recipe's study",
            ", ".join(there),
            ("Replace them: --force", "Name another folder: --out FOLDER"),
        )
    create_folder(folder)
    check_folder(folder)
    return folder


def _recipe_of(path: Path) -> Any:
    """The recipe of a study's file; None if the file is another one."""
    try:
        return json.loads(path.read_text())["recipe"]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(folder: Path, found: Study, plan: Plan) -> None:
    rows = results(found)
    text, binary = io.StringIO(newline=""), io.BytesIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), binary)
    recipe = plan.base.model_dump(mode="json")
    said = json.dumps(found.to_json() | {"recipe": recipe}, indent=2)
    write_files(
        {
            folder / PAGE: page(found).encode(),
            folder / ANSWERS: f"{said}\n".encode(),
            folder / ROWS: text.getvalue().encode(),
            folder / COLUMNS: binary.getvalue(),
        },
        force=True,
    )
