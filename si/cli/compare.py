"""`si-ctl compare`: runs side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer

from si.cli.console import table
from si.cli.options import ForceOption, JsonOption, StoreOption, open_place
from si.config.recipe import Recipe, differences
from si.machine.files import check, write_files
from si.report.compare import Named, page
from si.report.compare import compare as read
from si.runs.record import generations, load_recipe
from si.runs.status import find_run, report_inputs, runs
from si.store.port import Store


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="Two or more runs, by name or by strategy; of a strategy all seeds."),
    ],
    store: StoreOption = None,
    out: Annotated[Path | None, typer.Option(help="Also write an HTML page here.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show held-out accuracy and shares of successes by level, run beside run.

    Runs that differ in nothing but the seed are compared as a group.
    """
    if out is not None:
        check(out, force)
    where = open_place(store)
    recipes = {name: _recipe(where, name) for wanted in runs for name in _named(where, wanted)}
    found = read(
        where,
        [
            Named(name, report_inputs(where, name), recipe.model_dump(mode="json"))
            for name, recipe in recipes.items()
        ],
    )
    if out is not None:
        write_files({out: page(found).encode()}, force)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return

    for shown in found.tables:
        table(shown.title, shown.columns, shown.rows)
        if shown.note:
            typer.echo(shown.note)
        typer.echo()
    for name, words in found.words:
        typer.echo(f"{name}: {words}")
    if out is not None:
        typer.echo(f"\nPage: {out.resolve()}")


def _recipe(where: Store, name: str) -> Recipe:

    return load_recipe(where, name, generations(where, name)[-1])


def _named(where: Store, wanted: str) -> list[str]:
    """A run by its name; or those of a strategy, if they differ in their seeds alone."""
    names = runs(where)
    recipes = {name: _recipe(where, name) for name in names} if wanted not in names else {}
    same = [name for name, recipe in recipes.items() if recipe.strategy == wanted]
    changes = [each for name in same for each in differences(recipes[same[0]], recipes[name])]
    if len(same) > 1 and all(change.startswith("seed:") for change in changes):
        return same
    return [find_run(where, wanted)]
