"""`si-ctl export`: a run's policy as a Hugging Face folder."""

import json
from pathlib import Path
from typing import Annotated

import typer

from si.cli.console import say
from si.cli.options import (
    JsonOption,
    NamespaceOption,
    OnOption,
    ReleaseOption,
    RunArgument,
    StoreOption,
    reading_place,
)
from si.machine import packages
from si.runs.export import choose
from si.runs.export import export as write
from si.runs.status import find_run
from si.store.open import open_store


def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder to write, new or empty.")],
    iteration: Annotated[
        str, typer.Option(help="best (on dev), last, or an iteration's number.")
    ] = "best",
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the adapter into its base model.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option(help="Name of the base model for the model card: on the hub, or a folder."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the model in the folder.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
    on: OnOption = "local",
    namespace: NamespaceOption = None,
    release: ReleaseOption = None,
) -> None:
    """Export a run's policy as a Hugging Face folder with a model card.

    A policy that was trained as an adapter becomes a PEFT adapter. Every file's hash is checked.
    For a cluster run, reads the bucket directly with your credentials.
    """
    where = open_store(reading_place(store, on, namespace, release))
    policy = choose(where, find_run(where, run), iteration)
    kind = write(where, policy, out, base, _merge if merge else None, force)
    scores = policy.summary.iterations[policy.iteration].scores
    if as_json:
        facts = {
            "run": policy.run,
            "iteration": policy.iteration,
            "chosen": policy.why,
            "kind": kind,
            "folder": str(out.resolve()),
            "address": policy.made.spec.address,
            "content": policy.made.content,
            "scores": {
                split: {
                    name: part[name]
                    for name in ("n", "samples", "correct", "accuracy", "pass_at", "majority")
                    if name in part
                }
                for split, part in scores.items()
            },
        }
        typer.echo(json.dumps(facts, indent=2))
        return
    counts = ", ".join(
        f"{part['correct']} of {part['n'] * part.get('samples', 1)} on {split}"
        for split, part in scores.items()
    )
    say(f"{policy.run}, iteration {policy.iteration}, {policy.why}: {counts} correct")
    if policy.iteration == 0:
        say("This is policy 0, unchanged.")
    what = {"model": "a model", "adapter": "an adapter", "merged": "a merged model"}[kind]
    say(f"Wrote {what}: {out.resolve()}")


def _merge(base: Path, adapter: Path, out: Path) -> None:
    packages.check("Merging an adapter", "local")
    # Loads torch and peft, which no other export needs.
    from si.engines.merging import merge

    merge(base, adapter, out)
