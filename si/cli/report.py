"""`si-ctl report`: one page about a run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from si.cli.options import (
    JsonOption,
    NamespaceOption,
    OnOption,
    ReleaseOption,
    SetOption,
    StoreOption,
    resolve,
)

if TYPE_CHECKING:
    from si.config.place import Place
    from si.stages.report import Section
    from si.store.artifact import Artifact
    from si.store.port import Store


_OWN = ("report.", "place.")


def register(app: typer.Typer) -> None:
    app.command()(report)


def report(
    run: Annotated[str, typer.Argument(help="A run's name, or a strategy that one run has.")],
    store: StoreOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the page; reports/RUN.html by default.")
    ] = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
    on: OnOption = "local",
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
) -> None:
    """Write a run's report: HTML, with Markdown and JSON beside it.

    Of a run that is not at its end, the iterations that are done are shown. Of a run on a
    cluster the bucket is read from here, with credentials of your own.
    """
    from si.cli.iterate import local_cluster
    from si.clusters.local import exclusive, local_folder
    from si.config.loading import assignment
    from si.errors import RecipeError, RunMissing
    from si.loop import iterate
    from si.run import Run
    from si.runs.record import generations, load_recipe
    from si.runs.status import find_run, report_inputs
    from si.store.artifact import Artifact
    from si.store.open import open_store

    other = {name for name, _ in map(assignment, settings or ()) if not name.startswith(_OWN)}
    if other:
        raise RecipeError(
            f"A finished run cannot be reported with another {min(other)}",
            "of a recipe, the page depends on the section `report` alone",
            "Show what that is: si-ctl config schema",
        )
    given = resolve(None, settings, {"place.store": store})
    if on == "kubernetes":
        from si.cli.on_cluster import place_from_outside

        place = place_from_outside(namespace, release)
    else:
        place = given[1]
    where = open_store(place)
    name = find_run(where, run)
    done = [role for role in report_inputs(where, name) if role.startswith("scores-")]
    if len(done) < 2:
        raise RunMissing(
            f"The run {name} has no finished iteration yet",
            f"in {where.url}",
            "Go on with it: the same `si-ctl iterate` command resumes.",
        )
    generation = generations(where, name)[-1]
    recipe = load_recipe(where, name, generation)
    changed = given[0].report.model_dump(exclude_unset=True)
    layout = recipe.report.model_copy(update=changed)
    done_so_far = {"iterations": len(done) - 1, "patience": None}
    recipe = recipe.model_copy(update={**done_so_far, "report": layout})
    with exclusive(where.url, f"{name} report") as scratch:
        # All stages but the report are committed; walking the loop finds them so.
        cluster = local_cluster(where, place, recipe, name, scratch, light=True)
        made = iterate(Run(name, recipe, where, cluster, generation))
    artifact = Artifact.open(where, made.ref)
    if as_json:
        typer.echo(json.dumps(artifact.json("report.json"), indent=2))
        return
    page = out or local_folder(where) / "reports" / f"{name}.html"
    typer.echo(f"Report: {write(where, name, artifact, page, place)}")


def write(where: "Store", name: str, artifact: "Artifact", page: Path, place: "Place") -> Path:
    """Copy a report out of the store: the page, and Markdown and JSON beside it.

    The copy also shows what is no part of the run's content, and so in no artefact: times, costs,
    and why the run ended early.
    """
    from si.runs.status import status
    from si.stages.report import extended

    tree = status(where, name)
    page.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("md", "json"):
        page.with_suffix(f".{suffix}").write_bytes(artifact.read(f"report.{suffix}"))
    whole = artifact.read("report.html").decode()
    page.write_text(extended(whole, [times(tree), spending(where, tree, place)]))
    return page.resolve()


def spending(where: "Store", tree: "dict[str, Any]", place: "Place") -> "Section":
    """Estimate against actual, and why the run ended early if it did."""
    from si.costs.actual import costs
    from si.stages.report import Section

    found, stopped = costs(where, tree["run"], place, tree), tree["stopped"]
    said = f"{found.words} " + (f"The run ended early. {stopped['words']}." if stopped else "")
    return Section("costs", "What it cost", said.strip(), tables=[found.table])


def times(tree: "dict[str, Any]") -> "Section":
    """Seconds of work by iteration and stage, repeated attempts included, from provenance."""
    from si.report.tables import Table, number
    from si.stages.report import Section
    from si.store.keys import SCHEMA_VERSIONS

    iterations = tree["iterations"]
    took = {s["stage"] for it in iterations for s in it["stages"] if s["seconds"]}
    stages = [stage for stage in SCHEMA_VERSIONS if stage in took]
    rows = []
    for it in iterations:
        spent = dict.fromkeys(stages, 0.0)
        for stage in it["stages"]:
            if stage["stage"] in spent:
                spent[stage["stage"]] += stage["seconds"]
        cells = (number(spent[stage] or None, 1) for stage in stages)
        rows.append([str(it["iteration"]), *cells, number(sum(spent.values()), 1)])
    return Section(
        "times",
        "Times",
        "Seconds of work, summed over workers and attempts. A stage that this run shares with an "
        "earlier one was not done again; its time is the earlier one's.",
        tables=[Table("Seconds by iteration and stage", ["iteration", *stages, "all"], rows)],
    )
