"""`si-ctl report`: one page about a run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from si.cli.options import (
    JsonOption,
    NamespaceOption,
    OnOption,
    ReleaseOption,
    StoreOption,
    resolve,
)


def register(app: typer.Typer) -> None:
    app.command()(report)


def report(
    run: Annotated[str, typer.Argument(help="A run's name, or a strategy that one run has.")],
    store: StoreOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the page; reports/RUN.html by default.")
    ] = None,
    as_json: JsonOption = False,
    on: OnOption = "local",
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
) -> None:
    """Write a run's report: HTML, with Markdown and JSON beside it.

    Of a run that is not at its end, the iterations that are done are shown. Of a run on a
    cluster the bucket is read from here, with credentials of your own.
    """
    from si.adapters.local import exclusive, local_folder
    from si.adapters.stores import open_store
    from si.artifacts import Artifact
    from si.cli.iterate import local_cluster
    from si.errors import RunMissing
    from si.loop import Run, generations, iterate, load_recipe
    from si.status import find_run, report_inputs

    if on == "kubernetes":
        from si.cli.cluster import place_from_outside

        place = place_from_outside(namespace, release)
    else:
        place = resolve(None, None, {"place.store": store})[1]
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
    recipe = recipe.model_copy(update={"iterations": len(done) - 1})
    with exclusive(where.url, f"{name} report") as scratch:
        # All stages but the report are committed; walking the loop finds them so.
        cluster = local_cluster(where, place, recipe, name, scratch, light=True)
        made = iterate(Run(name, recipe, where, cluster, generation))
    artifact = Artifact.open(where, made.ref)
    if as_json:
        typer.echo(json.dumps(artifact.json("report.json"), indent=2))
        return
    page = out or local_folder(where) / "reports" / f"{name}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("html", "md", "json"):
        page.with_suffix(f".{suffix}").write_bytes(artifact.read(f"report.{suffix}"))
    typer.echo(f"Report: {page.resolve()}")
