"""`si-ctl config`: the settings that a command would use."""

import json
from typing import Annotated

import typer
import yaml

from si.answers.prompts import ADVICE, asks_for_form
from si.cli.console import say
from si.cli.options import (
    DEFAULT_RECIPE,
    JsonOption,
    RecipeOption,
    SetOption,
    recipe_file,
    resolve,
)
from si.config.loading import schema as recipe_schema
from si.config.recipe import Recipe
from si.embedded import EMBEDDED_LEVELS

group = typer.Typer(no_args_is_help=True, help="Show and check recipes and settings.")


@group.command()
def show(
    name: Annotated[str | None, typer.Argument(metavar="RECIPE", help="As --recipe.")] = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the settings that defaults, recipe, environment and options resolve to."""
    if name and recipe:
        raise typer.BadParameter("give the recipe once: --recipe RECIPE")
    computed, place = resolve(recipe or name, settings, {})
    tree = computed.model_dump(mode="json") | {"place": place.model_dump(mode="json")}
    typer.echo(json.dumps(tree, indent=2) if as_json else yaml.safe_dump(tree, sort_keys=False))


@group.command()
def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="RECIPE", help="As --recipe, one or several.")
    ] = None,
    recipe: RecipeOption = None,
    settings: SetOption = None,
) -> None:
    """Check that recipes can be used; exit with 3 if one cannot."""
    for each in [*(names or ()), *([recipe] if recipe else ())] or [None]:
        computed, _ = resolve(each, settings, {})
        say(f"{recipe_file(each or DEFAULT_RECIPE)}: OK; run name {computed.run_name}")
        if _asks_for_nothing(computed):
            say(f"  {ADVICE}")


def _asks_for_nothing(recipe: Recipe) -> bool:
    """Whether the responses may be unreadable: the embedded model learned its form in training."""
    rules = recipe.verify.judge == "answers" and recipe.verify.profile == "strict"
    own = recipe.data.source not in EMBEDDED_LEVELS
    return own and rules and not asks_for_form(recipe.sampling.prompt_template)


@group.command()
def schema() -> None:
    """Print the JSON Schema of a recipe file, with the meaning of every key."""
    typer.echo(json.dumps(recipe_schema(), indent=2))
