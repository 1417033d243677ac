"""`si-ctl compare`: runs side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer

from si.cli.console import say, table
from si.cli.options import ForceOption, JsonOption, StoreOption, open_place
from si.config.recipe import Recipe, differences
from si.machine.files import check, write_files
from si.report.compare import Comparison, Named, page
from si.report.compare import compare as compared
from si.runs.record import generations, load_recipe
from si.runs.status import find_run, of_strategy, report_inputs
from si.runs.status import runs as run_names
from si.store.port import Store


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Two or more runs, by name or by strategy; a strategy stands for all its seeds.",
        ),
    ],
    store: StoreOption = None,
    out: Annotated[Path | None, typer.Option(help="HTML page to write, if any.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare held-out accuracy and shares by level between runs.

    Runs that differ only in their seed are compared as a group.
    """
    if out is not None:
        check(out, force)
    where = open_place(store)
    found = compared_runs(where, [name for wanted in runs for name in _named(where, wanted)])
    if out is not None:
        write_files({out: page(found).encode()}, force)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    for each in found.tables:
        table(each.title, each.columns, each.rows)
        if each.note:
            say(each.note)
        say()
    for name, words in found.words:
        say(f"{name}: {words}")
    say(f"\n{found.plain}")
    if out is not None:
        say(f"\nPage: {out.resolve()}")


def compared_runs(where: Store, names: list[str]) -> Comparison:
    """The comparison of these runs with the first of them."""
    recipes = {name: _recipe(where, name) for name in names}
    return compared(
        where,
        [
            Named(name, report_inputs(where, name), recipe.model_dump(mode="json"))
            for name, recipe in recipes.items()
        ],
    )


def _recipe(where: Store, name: str) -> Recipe:
    return load_recipe(where, name, generations(where, name)[-1])


def _named(where: Store, wanted: str) -> list[str]:
    """The run of that name, or the runs of a strategy if they differ only in their seeds."""
    same = [] if wanted in run_names(where) else of_strategy(where, wanted)
    recipes = [_recipe(where, name) for name in same]
    changes = [each for recipe in recipes for each in differences(recipes[0], recipe)]
    if len(same) > 1 and all(change.startswith("seed:") for change in changes):
        return same
    return [find_run(where, wanted)]
