"""`si-ctl report`: one page about a run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from si.cli.console import say
from si.cli.iterate import local_cluster
from si.cli.options import (
    ForceOption,
    JsonOption,
    NamespaceOption,
    OnOption,
    ReleaseOption,
    RunArgument,
    SetOption,
    StoreOption,
    reading_place,
    resolve,
)
from si.cli.pages import report_files, write
from si.clusters.local import exclusive
from si.config.loading import assignment
from si.errors import RecipeError, RunMissing
from si.machine.files import check
from si.run import Run
from si.runs.record import generations, load_recipe
from si.runs.status import find_run, report_inputs
from si.store.artifact import Artifact
from si.store.open import open_store

_OWN = ("report.", "place.")


def report(
    run: RunArgument,
    store: StoreOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="HTML page to write.  \\[default: reports/RUN.html in the store]"),
    ] = None,
    force: ForceOption = False,
    settings: SetOption = None,
    as_json: JsonOption = False,
    on: OnOption = "local",
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
) -> None:
    """Write a run's report as HTML, with Markdown and JSON beside it.

    For an unfinished run, shows the completed iterations. For a cluster run, reads the bucket
    directly with your credentials.
    """
    other = {name for name, _ in map(assignment, settings or ()) if not name.startswith(_OWN)}
    if other:
        raise RecipeError(
            f"{min(other)} cannot be changed for a report",
            "the page depends only on the section `report` of the recipe",
            "List its settings: si-ctl config schema",
        )
    given, place = resolve(None, settings, {"place.store": store})
    if on == "kubernetes":
        place = reading_place(store, on, namespace, release)
    if out is not None:
        for path in report_files(out):
            check(path, force)
    where = open_store(place)
    name = find_run(where, run)
    inputs = report_inputs(where, name)
    done = [role for role in inputs if role.startswith("scores-")]
    if len(done) < 2:
        raise RunMissing(
            f"The run {name} has no finished iteration yet",
            f"in {where.url}",
            "Continue it: the same `si-ctl iterate` command resumes.",
        )
    generation = generations(where, name)[-1]
    recipe = load_recipe(where, name, generation)
    changed = given.report.model_dump(exclude_unset=True)
    layout = recipe.report.model_copy(update=changed)
    done_so_far = {"iterations": len(done) - 1, "patience": None}
    recipe = recipe.model_copy(update={**done_so_far, "report": layout})
    with exclusive(where.url, f"{name} report") as scratch:
        last = len(done) - 1
        inputs = {role: ref for role, ref in inputs.items() if _iteration(role) <= last}
        cluster = local_cluster(where, place, recipe, name, scratch, light=True)
        made = Run(name, recipe, where, cluster, generation).report_on(inputs, last)
    artifact = Artifact.open(where, made.ref)
    page = None if as_json and out is None else write(where, name, artifact, place, out, force)
    if as_json:
        typer.echo(json.dumps(artifact.json("report.json"), indent=2))
    else:
        say(f"Report: {page}")


def _iteration(role: str) -> int:
    """The iteration of a role among a report's inputs: `scores-3` -> 3; 0 for `data`."""
    name, _, number = role.rpartition("-")
    return int(number) if name else 0
