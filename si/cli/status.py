"""`si-ctl status`: the progress of a run."""

import json
import time
from typing import Annotated, Any

import typer
from rich.console import Console

from si.cli.console import Shown, draw, of_store, plural, say, table, watch
from si.cli.options import (
    JsonOption,
    NamespaceOption,
    OnOption,
    ReleaseOption,
    StoreOption,
    open_place,
)
from si.clusters.local import at_work
from si.runs.status import Known, ended, find_run, runs
from si.runs.status import status as read
from si.runs.usage import Ledger
from si.store.port import Store


def status(
    run: Annotated[
        str | None, typer.Argument(help="A run's name, or a strategy that only one run has.")
    ] = None,
    store: StoreOption = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Keep showing the run until it ends, or until Ctrl-C."),
    ] = False,
    as_json: JsonOption = False,
    on: OnOption = "local",
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
) -> None:
    """Show a run as a tree of iterations and stages, or list all runs."""
    if watch and (run is None or as_json):
        raise typer.BadParameter("--watch needs a run, and excludes --json")
    if on == "kubernetes":
        from si.cli.on_cluster import status as status_there

        status_there(run, watch, as_json, namespace, release)
        return

    where = open_place(store)
    names = [find_run(where, run)] if run else runs(where)
    trees = [read(where, name) for name in names]
    if as_json:
        typer.echo(json.dumps(trees[0] if run else trees, indent=2))
    elif run and watch:
        _watch(where, names[0])
    elif run:
        shown = of_store(trees[0], at_work(where.url, names[0]))
        Console(highlight=False).print(draw(*shown), soft_wrap=True)
    elif not trees:
        say(f"No runs in {where.url}. Start one: si-ctl iterate")
    else:
        rows = [[t["run"], t["strategy"], t["k"], t["generation"], _progress(t)] for t in trees]
        table(f"runs in {where.url}", ["run", "strategy", "K", "generation", "state"], rows)


def _progress(tree: dict[str, Any]) -> str:
    """A run's progress in a few words."""
    stages = [stage for iteration in tree["iterations"] for stage in iteration["stages"]]
    if tree["stopped"]:
        count = plural(tree["stopped"]["iterations"], "iteration")
        return f"{count} done; {tree['stopped']['words']}"
    at = [stage for stage in stages if stage["state"] == "open"]
    if at:
        return f"at {at[-1]['entry']}, {at[-1]['committed']} of {at[-1]['shards']} shards"
    scored = [stage["entry"] for stage in stages if stage["stage"] == "evaluate"]
    return f"{plural(max(0, len(scored) - 1), 'iteration')} done"


PAUSE = 2.0  # seconds between two reads of the store


def _watch(where: Store, name: str) -> None:
    known = Known(Ledger(where))
    seen = False

    def look() -> tuple[Shown, bool]:
        nonlocal seen
        process = at_work(where.url, name)  # asked first: its last results are read below
        tree = read(where, name, known)
        gone = seen and process is None
        seen = seen or process is not None
        return of_store(tree, process), gone or (process is None and ended(tree))

    try:
        watch(look, lambda: time.sleep(PAUSE))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
