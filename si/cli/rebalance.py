"""`si-ctl rebalance`: anybody's rollouts to training rows, or to draws."""

import json
from pathlib import Path
from typing import Annotated

import typer

from si.api import rebalance as make
from si.cli.options import ForceOption, JsonOption, MapOption, SkipBadOption, StoreOption, mapping


def rebalance(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Rollouts (JSONL, JSON, Parquet), a folder of them, or a run of ours.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    strategy: Annotated[
        str, typer.Option(help="vanilla, tc or rp for examples; ar or gr for draws.")
    ] = "rp",
    layout: Annotated[
        str, typer.Option("--format", help="trl, sharegpt (LLaMA-Factory), verl or jsonl.")
    ] = "trl",
    seed: Annotated[int, typer.Option(help="Key of the random choices.")] = 0,
    columns: MapOption = None,
    threshold: Annotated[
        float | None, typer.Option(help="The lowest reward of a right answer.")
    ] = None,
    k: Annotated[int | None, typer.Option(min=1, help="K, samples of a query.")] = None,
    skip_bad: SkipBadOption = False,
    force: ForceOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write training rows of what a strategy makes of anybody's rollouts, or the draws it asks for.

    Rows are for TRL, LLaMA-Factory or verl. ar and gr ask for samples: their draws are written.
    """
    made = make(
        files,
        strategy,
        out,
        format=layout,
        seed=seed,
        map=mapping(columns),
        threshold=threshold,
        k=k,
        skip_bad=skip_bad,
        force=force,
        store=store,
    )
    if as_json:
        typer.echo(json.dumps(made.to_json(), indent=2))
        return
    if made.kind == "draws":
        said = f"{made.rows} draws for {made.samples} samples"
    else:
        said = f"{made.rows} examples of {made.successes} right answers"
    typer.echo(f"{made.path}: {said} of {made.queries} queries ({made.strategy}, K = {made.k})")
    typer.echo(f"A reward of {made.threshold:g} or more is right.")
    for note in made.notes:
        typer.echo(note)
