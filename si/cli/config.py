"""`si-ctl config`: what a command would compute with."""

import json
from typing import Annotated

import typer
import yaml

from si.cli.options import JsonOption, SetOption, recipe_file, resolve
from si.config.loading import schema as make

group = typer.Typer(no_args_is_help=True, help="Show and check recipes and places.")
RecipeArgument = Annotated[
    str | None, typer.Argument(help="A YAML file, or the name of a shipped recipe.")
]


@group.command()
def show(
    recipe: RecipeArgument = None, settings: SetOption = None, as_json: JsonOption = False
) -> None:
    """Print the recipe and place that defaults, file, environment and flags resolve to."""
    computed, place = resolve(recipe, settings, {})
    tree = computed.model_dump(mode="json") | {"place": place.model_dump(mode="json")}
    typer.echo(json.dumps(tree, indent=2) if as_json else yaml.safe_dump(tree, sort_keys=False))


@group.command()
def check(recipe: RecipeArgument = None, settings: SetOption = None) -> None:
    """Say whether a recipe can be used; exit 3 if not."""
    computed, _ = resolve(recipe, settings, {})
    typer.echo(f"{recipe_file(recipe) or 'the defaults'}: good; run name {computed.run_name}")


@group.command()
def schema() -> None:
    """Print the JSON Schema of a recipe file, with every key's meaning."""
    typer.echo(json.dumps(make(), indent=2))
