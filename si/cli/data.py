"""`si-ctl data`: make and inspect data sets."""

import json
from typing import Annotated

import typer

from si.cli.options import JsonOption, StoreOption, open_place

group = typer.Typer(no_args_is_help=True, help="Make and inspect data sets.")


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="data")


@group.command()
def synth(
    source: Annotated[
        str, typer.Argument(help="The generator; `synth:embedded` is the only one.")
    ] = "synth:embedded",
    store: StoreOption = None,
) -> None:
    """Make a synthetic data set in the store, and print its address."""
    from si.data import synth as make

    typer.echo(make(open_place(store), source).spec.address)


@group.command()
def inspect(
    address: Annotated[
        str | None, typer.Argument(help="A data set's address; the embedded one by default.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count a data set's queries, and prove that its splits are disjoint by content."""
    from si.cli.screen import table
    from si.data import inspect as look
    from si.data import synth_spec

    facts = look(open_place(store), (address or synth_spec("synth:embedded").address).strip("/"))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        splits = facts["splits"]
        grades = sorted({g for split in splits.values() for g in split["by_family_and_difficulty"]})
        rows = [
            [name, split["queries"], *(split["by_family_and_difficulty"].get(g) for g in grades)]
            for name, split in splits.items()
        ]
        table(facts["address"], ["split", "queries", *grades], rows)
        for pair, count in facts["overlaps"].items():
            typer.echo(f"{pair}: {count} queries in both")
        typer.echo(f"queries that repeat another of their split: {facts['duplicates']}")
        typer.echo(f"queries whose id is not their content's: {facts['wrong_ids']}")
    if any(facts["overlaps"].values()) or facts["wrong_ids"]:
        raise typer.Exit(3)
