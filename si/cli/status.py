"""`si-ctl status`: how far a run is."""

import json
from typing import Annotated, Any

import typer

from si.cli.options import (
    JsonOption,
    NamespaceOption,
    OnOption,
    ReleaseOption,
    StoreOption,
    open_place,
)


def register(app: typer.Typer) -> None:
    app.command()(status)


def status(
    run: Annotated[
        str | None, typer.Argument(help="A run's name, or a strategy that one run has.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
    on: OnOption = "local",
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
) -> None:
    """Show a run as a tree of iterations and stages, or list all runs."""
    if on == "kubernetes":
        from si.cli.cluster import status as status_there

        status_there(run, as_json, namespace, release)
        return
    from si.status import find_run, runs
    from si.status import status as read

    where = open_place(store)
    names = [find_run(where, run)] if run else runs(where)
    trees = [read(where, name) for name in names]
    if as_json:
        typer.echo(json.dumps(trees[0] if run else trees, indent=2))
    elif run:
        _show(trees[0])
    elif not trees:
        typer.echo(f"No runs in {where.url}. Begin one: si-ctl iterate")
    else:
        from si.cli.screen import table

        rows = [[t["run"], t["strategy"], t["k"], t["generation"], _progress(t)] for t in trees]
        table(f"runs in {where.url}", ["run", "strategy", "K", "generation", "state"], rows)


def _progress(tree: dict[str, Any]) -> str:
    stages = [stage for iteration in tree["iterations"] for stage in iteration["stages"]]
    if tree["stopped"]:
        return f"{tree['stopped']['iterations']} iterations done; {tree['stopped']['words']}"
    at = [stage for stage in stages if stage["state"] == "open"]
    if at:
        return f"at {at[-1]['entry']}, {at[-1]['committed']} of {at[-1]['shards']} shards"
    done = [stage["entry"] for stage in stages if stage["stage"] == "evaluate"]
    return f"{max(0, len(done) - 1)} iterations done"


def _show(tree: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    from si.progress import describe

    head = f"{tree['run']}: {tree['strategy']}, K={tree['k']}, seed {tree['seed']}"
    if tree["generation"] > 1:
        head += f", generation {tree['generation']}"
    root = Tree(Text(head))
    for iteration in tree["iterations"]:
        label = f"iteration {iteration['iteration']}" if iteration["iteration"] else "policy 0"
        branch = root.add(Text(label))
        for stage in iteration["stages"]:
            name = stage["entry"].split("/")[1]
            if stage["state"] == "done":
                words = describe(name, stage["facts"])
                retries = stage["attempts"] - stage["shards"]
            else:
                words = f"open: {stage['committed']} of {stage['shards']} shards committed"
                retries = stage["attempts"] - stage["committed"]
            again = f", {retries} repeated" if retries > 0 else ""
            spent = f"{stage['seconds']:.1f} s"
            branch.add(Text(f"{name:<17} {spent:>8}{again}  {words}"))
    if tree["stopped"]:
        root.add(Text(tree["stopped"]["words"]))
    Console(highlight=False).print(root, soft_wrap=True)
