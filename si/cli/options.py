"""Options that several verbs share, and what they resolve to."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from si import resources
from si.config.loading import assignment, load
from si.config.place import Place
from si.config.recipe import Recipe
from si.errors import RecipeError
from si.machine.files import check_folder, create_folder
from si.runs.status import find_run, status
from si.store.folder import FolderStore
from si.store.open import open_store
from si.store.port import Store

StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="Where artefacts lie: a folder, or s3://bucket/prefix."),
]
RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", help="A YAML file, or the name of a shipped recipe."),
]
StrategyOption = Annotated[
    str | None,
    typer.Option(help="vanilla, tc, rp, ar, gr, or a composition such as gr+tc."),
]
KOption = Annotated[int | None, typer.Option(help="Samples per query in the first round.")]
IterationsOption = Annotated[int | None, typer.Option(help="Rounds of self-improvement.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any recipe or place setting, as NAME=VALUE; repeatable."),
]
OnOption = Annotated[
    Literal["local", "kubernetes"],
    typer.Option("--on", help="This machine, or the cluster that kubectl talks to."),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="The cluster's namespace; kubectl's by default."),
]
ReleaseOption = Annotated[
    str | None,
    typer.Option("--release", help="The chart's release, where a namespace has several."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunArgument = Annotated[str, typer.Argument(help="The run's name.")]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", help="What a field is called: query_id=uid,reward=score; repeatable."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out rows that cannot be used, and count them.")
]


def recipe_file(name: str | None) -> Path | None:
    """A recipe by path or by the name of a shipped one."""
    if name is None:
        return None
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)

    recipes = resources.folder("jobs") / "recipes"
    shipped = {path.stem: path for path in recipes.glob("*.yaml")}
    if name not in shipped:
        raise RecipeError(
            f"No recipe is called {name!r}",
            "shipped: " + ", ".join(sorted(shipped)),
            "Give one of these names, or the path of a YAML file (with a / or .yaml in it).",
        )
    return shipped[name]


def resolve(
    recipe: str | None,
    settings: list[str] | None,
    flags: dict[str, Any],
    release: dict[str, Any] | None = None,
) -> tuple[Recipe, Place]:
    """Recipe and place from defaults, release, file, environment and flags, in rising order."""
    given = dict(assignment(text) for text in settings or ())
    given |= {name: value for name, value in flags.items() if value is not None}
    return load(recipe_file(recipe), given, release=release)


def open_place(store: str | None) -> Store:
    """The store that a reading verb looks into."""
    return open_store(resolve(None, None, {"place.store": store})[1])


def writing_store(place: Place) -> Store:
    """The store of `place`; its folder is created, and checked for the permission to write.

    Raises:
        OutputError: if the store cannot be a folder with files of this user.
    """
    where = open_store(place)
    if isinstance(where, FolderStore):
        create_folder(where.root)
        check_folder(where.root, "--store")
    return where


def reading_place(
    store: str | None, on: str, namespace: str | None = None, release: str | None = None
) -> Place:
    """The place that a run lies in; one on a cluster as it is reached from here."""
    if on == "local":
        return resolve(None, None, {"place.store": store})[1]
    from si.clusters.kubernetes.runs import place_from_outside

    return place_from_outside(namespace, release)


def mapping(texts: list[str] | None) -> dict[str, str]:
    """`["query_id=uid,reward=score"]` as a dictionary."""
    found = {}
    for part in ",".join(texts or ()).split(","):
        name, equals, column = part.partition("=")
        if part and not (name and equals and column):
            raise RecipeError(
                f"--map {part!r} is not FIELD=COLUMN", "", "For example: --map query_id=uid"
            )
        if part:
            found[name.strip()] = column.strip()
    return found


def run_name(name: str) -> str:
    """The name, if it is a DNS label of at most 30 characters."""
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?", name):
        raise RecipeError(
            f"{name!r} is no run name",
            "lower-case letters, digits and dashes, at most 30, no dash at either end",
            "Give another name: --run NAME",
        )
    return name


def match_steps(where: Store, recipe: Recipe) -> Recipe:
    """Replace a run's name in train.match_steps by that run's steps per iteration."""
    named = recipe.train.match_steps
    if not isinstance(named, str):
        return recipe

    tree = status(where, find_run(where, named))
    steps = [
        stage["facts"]["steps"]
        for iteration in tree["iterations"]
        for stage in iteration["stages"]
        if stage["stage"] == "train" and stage["state"] == "done"
    ]
    train = recipe.train.model_copy(update={"match_steps": steps})
    return recipe.model_copy(update={"train": train})
