"""Options that several commands share, and what they resolve to."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from si import resources
from si.config.loading import Settings, assignment, load, load_settings
from si.config.place import Place
from si.config.recipe import Recipe, differences
from si.config.release import Release
from si.errors import RecipeError
from si.machine.files import check_folder, create_folder
from si.runs.record import generations, load_recipe
from si.runs.status import find_run, status
from si.store.folder import FolderStore
from si.store.open import open_store
from si.store.port import Store

CLUSTER = "Cluster"  # panels of --help
LIMITS = "Limits"
DEFAULT_RECIPE = "embedded"  # what a command without --recipe computes


def shown(text: str, key: str) -> str:
    """A help text with the default of a recipe's setting, in the notation of --help."""
    return f"{text}  \\[default: {Recipe.model_fields[key].default}]"


StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="STORE",
        help="Store of artefacts: a folder or s3://bucket/prefix.  \\[default: ./si-runs]",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", metavar="RECIPE", help="A YAML file or the name of a shipped recipe."),
]
StrategyOption = Annotated[
    str | None,
    typer.Option(
        help=shown(
            "vanilla, tc, rp, ar, gr, a composition such as gr+tc, or module:Class.", "strategy"
        )
    ),
]
KOption = Annotated[int | None, typer.Option(help=shown("Samples per query, first round.", "k"))]
IterationsOption = Annotated[
    int | None, typer.Option(help=shown("Iterations of self-improvement.", "iterations"))
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Set any recipe or place setting; repeatable."
    ),
]
OnOption = Annotated[
    Literal["local", "kubernetes"],
    typer.Option(
        "--on",
        rich_help_panel=CLUSTER,
        help="Where the run is: this machine, or the cluster that kubectl uses.",
    ),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        rich_help_panel=CLUSTER,
        help="Namespace.  \\[default: kubectl's]",
    ),
]
ReleaseOption = Annotated[
    str | None,
    typer.Option(
        "--release",
        rich_help_panel=CLUSTER,
        help="Release of the chart, if the namespace has several.",
    ),
]
DetachOption = Annotated[
    bool,
    typer.Option("--detach", rich_help_panel=CLUSTER, help="Start the run without waiting for it."),
]
ApplyOption = Annotated[
    bool,
    typer.Option(
        "--apply",
        rich_help_panel=CLUSTER,
        help="Restart a working controller with the place as it is now.",
    ),
]
OutputOption = Annotated[
    Literal["yaml"] | None,
    typer.Option(
        "--output", "-o", rich_help_panel=CLUSTER, help="With --dry-run: print the manifests."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name, or a strategy that only one run has.")
]
FilesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE",
        help="Rollouts as JSON lines, JSON, CSV, Parquet or Arrow, or folders, or a run's name.",
    ),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="FIELD=COLUMN",
        help="Map a field to a column: query_id=uid,reward=score; repeatable.",
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(help="Reward threshold: the lowest reward of a correct response."),
]
SamplesOption = Annotated[
    int | None,
    typer.Option(
        "--k", min=1, help="Samples per query.  \\[default: the most common number in FILE]"
    ),
]
EncodingOption = Annotated[
    str,
    typer.Option(
        metavar="NAME", show_default=False, help="Encoding of texts, if it is not UTF-8: latin-1."
    ),
]
VerifyOption = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Judge the responses against the reference answers first, instead of a reward.",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace existing files.")]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out unusable rows, and count them.")
]


@dataclass(frozen=True)
class Wanted:
    """What `iterate` was asked for, wherever it runs.

    Attributes:
        recipe, settings, flags: as `resolve` takes them.
        run: the run's name, if it was given.
        fresh: whether to start a new generation.
        dry_run: whether to show what would be computed instead.
        apply: whether to restart a controller that works with another place.
    """

    recipe: str | None
    settings: list[str] | None
    flags: dict[str, Any]
    run: str | None
    fresh: bool
    dry_run: bool
    apply: bool = False


def recipe_file(name: str | None) -> Path | None:
    """The path of a recipe, given as a path or as the name of a shipped recipe."""
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
            "Pass one of these names, or the path of a YAML file: --recipe ./FILE.yaml",
        )
    return shipped[name]


def settings_of(
    recipe: str | None,
    settings: list[str] | None,
    flags: dict[str, Any],
    release: Release | None = None,
) -> Settings:
    """What a command uses: defaults < release < file < environment < options.

    Args:
        recipe: as `recipe_file` takes it; None for the shipped `embedded`.
        settings: NAME=VALUE of --set; later ones win.
        flags: dotted settings that options of their own give; None where an option was left out.
        release: a release of the chart, which decides what a run may change.

    Raises:
        RecipeError: for an unknown setting or an invalid value.
    """
    given = dict(assignment(text) for text in settings or ())
    return load_settings(
        recipe_file(recipe or DEFAULT_RECIPE), flags, release=release, assignments=given
    )


def resolve(
    recipe: str | None, settings: list[str] | None, flags: dict[str, Any]
) -> tuple[Recipe, Place]:
    """The recipe and place that a command on this machine uses; see `settings_of`."""
    found = settings_of(recipe, settings, flags)
    return found.recipe, found.place


def as_begun(where: Store, name: str, wanted: Wanted, recipe: Recipe) -> Recipe:
    """The recipe to continue the run `name` with: `recipe`, or what the same command meant when
    the run began, if that was before the shipped `embedded` departed from the built-in defaults."""
    known = generations(where, name)
    if wanted.recipe is not None or wanted.fresh or not known:
        return recipe
    given = dict(assignment(text) for text in wanted.settings or ())
    former = load(None, wanted.flags, assignments=given)[0]
    begun = load_recipe(where, name, known[-1])
    return recipe if differences(begun, former) else former


def open_place(store: str | None) -> Store:
    """The store that a command reads from."""
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
    """The place of a run to read; that of a cluster as this machine reaches it."""
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
    """The name, checked to be a DNS label of at most 30 characters.

    Raises:
        RecipeError: if it is not.
    """
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?", name):
        raise RecipeError(
            f"Invalid run name {name!r}",
            "Use at most 30 lower-case letters, digits and dashes, without a dash at either end.",
            "Choose another name: --run NAME",
        )
    return name


def match_steps(where: Store, recipe: Recipe) -> Recipe:
    """The recipe with train.match_steps as numbers: the steps per iteration of the run it names."""
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
