"""`si-ctl export`: a run's policy as a Hugging Face folder."""

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
    reading_place,
)
from si.runs.export import choose
from si.runs.export import export as write
from si.runs.status import find_run
from si.store.open import open_store


def export(
    run: Annotated[str, typer.Argument(help="A run's name, or a strategy that one run has.")],
    out: Annotated[Path, typer.Option(help="The folder to write: a new or an empty one.")],
    iteration: Annotated[
        str, typer.Option(help="best (on dev), last, or an iteration's number.")
    ] = "best",
    merge: Annotated[
        bool, typer.Option("--merge", help="Of an adapter, make one model with its base.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(help="What the base model is called: a name of the hub, or a folder."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a model that is in the folder.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
    on: OnOption = "local",
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
) -> None:
    """Write a run's policy as a Hugging Face folder (or PEFT adapter) with a model card.

    Every file is checked by its hash on the way. Of a run on a cluster the bucket is read from
    here, with credentials of your own.
    """
    where = open_store(reading_place(store, on, namespace, release))
    policy = choose(where, find_run(where, run), iteration)
    kind = write(where, policy, out, base, _merge if merge else None, force)
    scores = policy.summary.iterations[policy.iteration].scores
    if as_json:
        said = {
            "run": policy.run,
            "iteration": policy.iteration,
            "chosen": policy.why,
            "kind": kind,
            "folder": str(out.resolve()),
            "address": policy.made.spec.address,
            "content": policy.made.content,
            "scores": {
                split: {name: part[name] for name in ("n", "correct", "accuracy")}
                for split, part in scores.items()
            },
        }
        typer.echo(json.dumps(said, indent=2))
        return
    counts = ", ".join(f"{part['correct']} of {part['n']} on {s}" for s, part in scores.items())
    typer.echo(f"{policy.run}, iteration {policy.iteration}, {policy.why}: {counts} right")
    if policy.iteration == 0:
        typer.echo("That is policy 0, unchanged.")
    what = {"model": "a whole model", "adapter": "an adapter", "merged": "a merged model"}[kind]
    typer.echo(f"Written, {what}: {out.resolve()}")


def _merge(base: Path, adapter: Path, out: Path) -> None:
    from si.machine import packages

    packages.check("Merging an adapter", "local")
    # Loads torch and peft, which nothing else here needs.
    from si.engines.merging import merge

    merge(base, adapter, out)
