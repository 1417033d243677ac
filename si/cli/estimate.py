"""`si-ctl estimate`: what a run will cost, before it starts."""

import json
from typing import Annotated, Any

import typer

from si.cli.console import table
from si.cli.options import (
    IterationsOption,
    JsonOption,
    KOption,
    RecipeOption,
    SetOption,
    StoreOption,
    StrategyOption,
    match_steps,
    resolve,
)
from si.config.loading import assignment
from si.config.place import Place
from si.config.recipe import Recipe
from si.costs.actual import config_of, sizes_of
from si.costs.assumptions import CPU, Assumptions, Width, published, width_of
from si.costs.calibration import calibrate
from si.costs.estimate import Step, Total, shared
from si.costs.estimate import estimate as run_of
from si.entry import Entry
from si.errors import RecipeError
from si.report.tables import Table, number
from si.runs.status import find_run
from si.store.open import open_store


def estimate(
    strategy: StrategyOption = None,
    k: KOption = None,
    iterations: IterationsOption = None,
    recipe: RecipeOption = None,
    compare: Annotated[
        str | None,
        typer.Option(help="Several runs side by side: vanilla:k=16,rp:k=8,gr:k=8:iterations=3"),
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="Kind of GPU: A100, H100, L40S ...")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="How many compute at once.")] = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="Money for one GPU for one hour.")
    ] = None,
    calibrate: Annotated[
        str | None, typer.Option(help="A finished run, whose own figures take the place of ours.")
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(help="Any assumption as NAME=VALUE: pass_rate=0.4,response=300; repeatable."),
    ] = None,
    store: StoreOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run will cost: draws, tokens, GPU hours, wall time, storage and money.

    Every assumption is printed with where it is from. Nothing is made or sampled.
    """
    flags = {
        "strategy": strategy,
        "k": k,
        "iterations": iterations,
        "place.store": store,
        "place.gpu_type": gpu,
        "place.price_per_gpu_hour": price,
    }
    computed, place = resolve(recipe, settings, flags)
    assumed = assumptions(computed, place, calibrate, given(assume), bool(gpu))

    width = width_of(place, assumed.device, gpus)
    computed = matched(computed, place)
    recipes = variants(computed, compare) if compare else [computed]
    runs = [run_of(each, assumed, width) for each in recipes]
    together = Total.of(shared(runs), place)
    if as_json:
        found = [
            {
                "recipe": each.name,
                "strategy": each.strategy,
                "k": each.k,
                "iterations": each.iterations,
                "total": Total.of(steps, place).to_json(),
                "stages": [step.to_json(place) for step in steps],
            }
            for each, steps in zip(recipes, runs, strict=True)
        ]
        wide = {"explore": width.explore, "train": width.train, "verify": width.verify}
        whole = {
            "runs": found,
            "together": together.to_json(),
            "width": {**wide, "why": width.why},
            "assumptions": assumed.to_json(),
        }
        typer.echo(json.dumps(whole, indent=2))
        return

    if compare:
        totals = [Total.of(steps, place) for steps in runs]
        tables = [side_by_side(recipes, totals, together, place, assumed)]
    else:
        tables = [by_stage(computed, runs[0], place, assumed)]
    for shown in (*tables, assumptions_table(assumed, width, place)):
        table(shown.title, shown.columns, shown.rows)
        if shown.note:
            typer.echo(shown.note)
        typer.echo()


def given(texts: list[str] | None) -> dict[str, Any]:
    """`["pass_rate=0.4,response=300"]` as a dictionary."""
    parts = [part for text in texts or () for part in text.split(",") if part.strip()]
    return dict(assignment(part) for part in parts)


def variants(recipe: Recipe, text: str) -> list[Recipe]:
    """The recipe with each strategy of `vanilla:k=16,rp:k=8`.

    Raises:
        RecipeError: for what is no strategy, or an option other than k and iterations.
    """
    found = []
    for part in text.split(","):
        # An own strategy, `module:Class`, has a colon of its own.
        pieces = part.strip().split(":")
        options = [piece for piece in pieces if "=" in piece]
        changed: dict[str, Any] = {"strategy": ":".join(p for p in pieces if "=" not in p)}
        for option in options:
            name, _, value = option.partition("=")
            if name not in ("k", "iterations") or not value.isdecimal():
                raise RecipeError(
                    f"--compare {option!r} is neither k=NUMBER nor iterations=NUMBER",
                    f"in {text!r}",
                    "For example: --compare vanilla:k=16,rp:k=8,gr:k=8",
                )
            changed[name] = int(value)
        try:
            found.append(Recipe.model_validate(recipe.model_dump() | changed))
        except ValueError as error:
            raise RecipeError(
                f"--compare {part!r} is no strategy to estimate",
                str(error).splitlines()[2].strip() if str(error).count("\n") > 1 else str(error),
                "For example: --compare vanilla:k=16,rp:k=8,gr:k=8",
            ) from error
    return found


def matched(recipe: Recipe, place: Place) -> Recipe:
    """With the steps of the run that train.match_steps names, if it names one."""
    if not isinstance(recipe.train.match_steps, str):
        return recipe

    return match_steps(open_store(place), recipe)


def assumptions(
    recipe: Recipe, place: Place, run: str | None, own: dict[str, Any], named: bool
) -> Assumptions:
    """What the estimate takes for granted: a run's figures, or public ones.

    Args:
        named: whether the user has named a GPU.
    """
    if run is not None:
        where = open_store(place)
        name = find_run(where, run)
        found, theirs = calibrate(where, name)
        for what, here, there in (
            ("model.source", recipe.model.source, theirs.model.source),
            ("sampling.engine", recipe.sampling.engine, theirs.sampling.engine),
            ("train.trainer", recipe.train.trainer, theirs.train.trainer),
        ):
            if here != there:
                raise RecipeError(
                    f"The run {name} says nothing of another {what}",
                    f"its own is {there}, the recipe's {here}",
                    "Calibrate by a run of the same model and engines, or leave out --calibrate.",
                )
        if named:
            raise RecipeError(
                f"The run {name} says nothing of another kind of GPU",
                f"its own was {found.device}",
                "Leave out --gpu, or --calibrate.",
            )
        if size := sizes_of(where, recipe):
            found = found.but(size, f"the data set {recipe.data.source}")
        if recipe.data.schedule == "fresh":
            found = found.but({"queries": recipe.data.slice_size}, "data.slice_size")
        return found.but(own, "--assume")
    where = open_store(place)
    return published(recipe, place, own, config_of(where, recipe), sizes_of(where, recipe))


# --- tables --------------------------------------------------------------------------------


def by_stage(recipe: Recipe, steps: list[Step], place: Place, assumed: Assumptions) -> Table:
    """Stage by stage; iterations that take the same are one row a stage."""
    rows: list[list[str]] = []
    iterations: dict[int, list[Step]] = {}
    for step in steps:
        iterations.setdefault(Entry.parse(step.entry).t, []).append(step)
    last = iterations[recipe.iterations].pop()  # the report, which no other iteration has
    for first, until, same in runs_of(iterations):
        label = f"{first} to {until}, each" if until > first else str(first)
        for step in same:
            rows.append([label, Entry.parse(step.entry).step, *cells(step, place, assumed)])
            label = ""
    rows.append(["end", Entry.parse(last.entry).step, *cells(last, place, assumed)])
    total = Total.of(steps, place)
    rows.append(
        [
            "all",
            "",
            number(round(total.samples)),
            number(round(total.tokens)),
            number(round(total.examples)),
            number(total.steps),
            hours(total.device_hours * 3600),
            clock(total.wall),
            size(total.bytes),
            number(total.cost) if total.cost else "",
        ]
    )
    title = f"{recipe.name}: {recipe.strategy}, K={recipe.k}, {recipe.iterations} iterations"
    columns = ["it.", "stage", "samples", "sampled tokens", "examples", "steps"]
    return Table(
        f"{title}, on {assumed.device}",
        [*columns, unit(assumed), "wall time", "storage", "cost"],
        rows,
        "Samples and tokens are counted where they are sampled; wall time is from stage to stage.",
    )


def runs_of(iterations: dict[int, list[Step]]) -> list[tuple[int, int, list[Step]]]:
    """(first, last, stages) of neighbours that take the same."""
    found: list[tuple[int, int, list[Step]]] = []
    for t, steps in sorted(iterations.items()):
        if found and list(map(alike, steps)) == list(map(alike, found[-1][2])):
            found[-1] = (found[-1][0], t, found[-1][2])
        else:
            found.append((t, t, steps))
    return found


def alike(step: Step) -> tuple[Any, ...]:
    """What two steps of different iterations are compared by."""
    return Entry.parse(step.entry).step, step.samples, step.examples, step.wall, step.bytes


def cells(step: Step, place: Place, assumed: Assumptions) -> list[str]:

    sampled = step.stage == "explore"
    trained = step.stage == "train"
    return [
        number(round(step.samples)) if sampled else "",
        number(round(step.tokens)) if sampled else "",
        number(round(step.examples)) if trained else "",
        number(step.steps) if trained else "",
        hours(step.device_seconds) if step.on_gpu or assumed.device == CPU else "",
        clock(step.wall),
        size(step.bytes),
        number(step.money(place)) if step.money(place) else "",
    ]


def side_by_side(
    recipes: list[Recipe],
    totals: list[Total],
    together: Total,
    place: Place,
    assumed: Assumptions,
) -> Table:
    """A row a run, and one for all of them in one store."""
    first = totals[0]

    def row(name: list[str], total: Total) -> list[str]:
        of = total.device_hours / first.device_hours if first.device_hours else 0
        return [
            *name,
            number(round(total.samples)),
            number(round(total.tokens)),
            number(round(total.examples)),
            number(total.steps),
            f"{total.explore_hours:.2f} + {total.train_hours:.2f}",
            hours(total.device_hours * 3600),
            f"{of:.2f} x",
            clock(total.wall),
            size(total.bytes),
            number(total.cost),
        ]

    rows = [
        row([r.strategy, str(r.k), str(r.iterations)], total)
        for r, total in zip(recipes, totals, strict=True)
    ]
    rows.append(row(["all, in one store", "", ""], together))
    saved = sum(total.device_hours for total in totals) - together.device_hours
    columns = ["strategy", "K", "it.", "samples", "sampled tokens", "examples", "steps"]
    columns += [
        "sampling + training",
        unit(assumed),
        "of the first",
        "wall time",
        "storage",
        "cost",
    ]
    return Table(
        f"{recipes[0].name} on {assumed.device}, side by side",
        columns,
        rows,
        f"In one store, stages that runs have in common are computed once (policy 0's scores and "
        f"levels; the first round of iteration 1 where K is the same): {saved:.2f} "
        f"{unit(assumed)} less than apart.",
    )


def assumptions_table(assumed: Assumptions, width: Width, place: Place) -> Table:
    """Everything that the estimate takes for granted."""
    rows = [
        [row["name"], figure(row["value"]), row["source"]]
        for row in assumed.to_json()
        if row["value"] or row["name"] not in ("prefill", "mfu")
    ]
    wide = f"{width.explore} explore, {width.train} train, {width.verify} verify"
    rows.append(["width", wide, width.why])
    rows.append(["price_per_gpu_hour", figure(place.price_per_gpu_hour), "place, or --price"])
    if place.price_per_cpu_hour:
        rows.append(["price_per_cpu_hour", figure(place.price_per_cpu_hour), "place"])
    note = "Another value: --assume NAME=VALUE. What the names mean: docs/how-to/costs.md"
    return Table("Assumed", ["assumption", "value", "from"], rows, note)


def unit(assumed: Assumptions) -> str:

    return "worker hours" if assumed.device == CPU else "GPU hours"


def figure(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.4g}" if isinstance(value, int | float) and value < 1e6 else str(value)


def hours(seconds: float) -> str:
    value = seconds / 3600
    return f"{value:,.1f}" if value >= 10 else f"{value:.3f}"


def clock(seconds: float) -> str:
    """90 -> `1 min 30 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Bytes for people."""
    for name in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {name}" if name == "B" else f"{count:.1f} {name}"
        count /= 1000
    return f"{count:.2f} TB"
