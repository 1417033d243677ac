"""`si-ctl estimate`: the cost of a run before it starts."""

import json
from typing import Annotated, Any

import typer

from si.cli.console import say, table
from si.cli.options import (
    IterationsOption,
    JsonOption,
    KOption,
    RecipeOption,
    SetOption,
    StoreOption,
    StrategyOption,
    match_steps,
    settings_of,
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

CompareOption = Annotated[
    str | None,
    typer.Option(help="Compare several runs: vanilla:k=16,rp:k=8,gr:k=8:iterations=3."),
]
GpuOption = Annotated[
    str | None,
    typer.Option(help="Kind of GPU: A100, H100, L40S ...  \\[default: place.gpu_type]"),
]
GpusOption = Annotated[
    int | None,
    typer.Option(min=1, help="Number of GPUs at once.  \\[default: as the place has]"),
]
PriceOption = Annotated[
    float | None,
    typer.Option(min=0, help="Price per GPU-hour.  \\[default: place.price_per_gpu_hour]"),
]
CalibrateOption = Annotated[
    str | None, typer.Option(help="A finished run whose figures replace the public ones.")
]
AssumeOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Replace assumptions: pass_rate=0.4,response=300; repeatable.",
    ),
]


def estimate(
    strategy: StrategyOption = None,
    k: KOption = None,
    iterations: IterationsOption = None,
    recipe: RecipeOption = None,
    compare: CompareOption = None,
    gpu: GpuOption = None,
    gpus: GpusOption = None,
    price: PriceOption = None,
    calibrate: CalibrateOption = None,
    assume: AssumeOption = None,
    store: StoreOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate what a run will cost before it starts.

    Prints samples, tokens, GPU hours, wall time, storage and cost, and every assumption with its
    source. Computes and samples nothing.
    """
    flags: dict[str, Any] = {"strategy": strategy, "k": k, "iterations": iterations}
    flags |= {"place.store": store, "place.gpu_type": gpu, "place.price_per_gpu_hour": price}
    found = settings_of(recipe, settings, flags)
    computed, place = found.recipe, found.place
    assumed = assumptions(computed, place, calibrate, given(assume), bool(gpu))
    width = width_of(place, assumed.device, gpus, found.requires)
    computed = matched(computed, place)
    recipes = variants(computed, compare) if compare else [computed]
    runs = [run_of(each, assumed, width) for each in recipes]
    together = Total.of(shared(runs), place)
    if as_json:
        figures = {
            "runs": [_run(*each, place) for each in zip(recipes, runs, strict=True)],
            "together": together.to_json(),
            "width": {name: getattr(width, name) for name in ("explore", "train", "verify", "why")},
            "assumptions": assumed.to_json(),
        }
        typer.echo(json.dumps(figures, indent=2))
        return
    if compare:
        totals = [Total.of(steps, place) for steps in runs]
        _show(side_by_side(recipes, totals, together, place, assumed))
    else:
        _show(by_stage(computed, runs[0], place, assumed))
    _show(assumptions_table(assumed, width, place))


def _show(found: Table) -> None:
    table(found.title, found.columns, found.rows)
    if found.note:
        say(found.note)
    say()


def _run(recipe: Recipe, steps: list[Step], place: Place) -> dict[str, Any]:
    """One run of `estimate --json`."""
    return {
        "recipe": recipe.name,
        "strategy": recipe.strategy,
        "k": recipe.k,
        "iterations": recipe.iterations,
        "total": Total.of(steps, place).to_json(),
        "stages": [step.to_json(place) for step in steps],
    }


def given(texts: list[str] | None) -> dict[str, Any]:
    """Parse `["pass_rate=0.4,response=300"]` into a dictionary."""
    parts = [part for text in texts or () for part in text.split(",") if part.strip()]
    return dict(assignment(part, "--assume") for part in parts)


def variants(recipe: Recipe, text: str) -> list[Recipe]:
    """The recipe with each strategy of `vanilla:k=16,rp:k=8`.

    Raises:
        RecipeError: for an unknown strategy, or an option other than k and iterations.
    """
    found = []
    for part in text.split(","):
        # A custom strategy, `module:Class`, contains a colon.
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
                f"--compare {part!r} cannot be estimated",
                str(error).splitlines()[2].strip() if str(error).count("\n") > 1 else str(error),
                "For example: --compare vanilla:k=16,rp:k=8,gr:k=8",
            ) from error
    return found


def matched(recipe: Recipe, place: Place) -> Recipe:
    """The recipe with train.match_steps as numbers, if it names a run."""
    if not isinstance(recipe.train.match_steps, str):
        return recipe

    return match_steps(open_store(place), recipe)


def assumptions(
    recipe: Recipe, place: Place, run: str | None, own: dict[str, Any], named: bool
) -> Assumptions:
    """The estimate's assumptions: a run's figures, or public ones.

    Args:
        run: a run to calibrate by, if any.
        own: assumptions from --assume.
        named: whether the user named a GPU.

    Raises:
        RecipeError: if the run's figures do not apply to this recipe or GPU.
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
                    f"The run {name} has no figures for another {what}",
                    f"run: {there}\nrecipe: {here}",
                    "Calibrate with a run of the same model and engines, or omit --calibrate.",
                )
        if named:
            raise RecipeError(
                f"The run {name} has no figures for another kind of GPU",
                f"run: {found.device}",
                "Omit --gpu or --calibrate.",
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
    """The estimate by stage; consecutive equal iterations share their rows."""
    rows: list[list[str]] = []
    iterations: dict[int, list[Step]] = {}
    for step in steps:
        iterations.setdefault(Entry.parse(step.entry).t, []).append(step)
    last = iterations[recipe.iterations].pop()  # the report, which only the last iteration has
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
        "Samples and tokens count in the stage that samples them; stages run one after another.",
    )


def runs_of(iterations: dict[int, list[Step]]) -> list[tuple[int, int, list[Step]]]:
    """(first, last, stages) of consecutive iterations with equal figures."""
    found: list[tuple[int, int, list[Step]]] = []
    for t, steps in sorted(iterations.items()):
        if found and list(map(alike, steps)) == list(map(alike, found[-1][2])):
            found[-1] = (found[-1][0], t, found[-1][2])
        else:
            found.append((t, t, steps))
    return found


def alike(step: Step) -> tuple[Any, ...]:
    """The figures by which stages of different iterations are equal."""
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
    """A row for each run, and one for all of them in one store."""
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
        f"In one store, stages that runs share are computed once (policy 0's scores and levels; "
        f"the first round of iteration 1 if K is equal): {saved:.2f} {unit(assumed)} less than in "
        "separate stores.",
    )


def assumptions_table(assumed: Assumptions, width: Width, place: Place) -> Table:
    """Every assumption with its value and source."""
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
    note = "Change a value: --assume NAME=VALUE. The names are explained in docs/how-to/costs.md."
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
    """`1500` -> `1.5 kB`."""
    for name in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {name}" if name == "B" else f"{count:.1f} {name}"
        count /= 1000
    return f"{count:.2f} TB"
