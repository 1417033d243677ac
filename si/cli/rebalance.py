"""`si-ctl rebalance`: rollouts to training rows, or to draws."""

import json
from pathlib import Path
from typing import Annotated

import typer

from si.api import rebalance as rebalanced
from si.cli.console import say
from si.cli.options import (
    EncodingOption,
    FilesArgument,
    ForceOption,
    JsonOption,
    MapOption,
    SamplesOption,
    SkipBadOption,
    StoreOption,
    ThresholdOption,
    VerifyOption,
    mapping,
)
from si.rollouts.rebalance import Rebalanced
from si.rollouts.trainers import command


def rebalance(
    files: FilesArgument,
    out: Annotated[
        Path, typer.Option(help="File to write; its suffix selects JSON lines, JSON or Parquet.")
    ],
    strategy: Annotated[
        str, typer.Option(help="vanilla, tc or rp for examples; ar or gr for draws.")
    ] = "rp",
    layout: Annotated[
        str, typer.Option("--format", help="trl, sharegpt (LLaMA-Factory), verl, swift or jsonl.")
    ] = "trl",
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    columns: MapOption = None,
    threshold: ThresholdOption = None,
    k: SamplesOption = None,
    verify: VerifyOption = False,
    skip_bad: SkipBadOption = False,
    encoding: EncodingOption = "",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS|FILE",
            help="Data that the rollouts were sampled from, to take their images from.",
        ),
    ] = None,
    copy_images: Annotated[
        bool, typer.Option("--copy-images", help="Copy images into a folder beside FILE.")
    ] = False,
    force: ForceOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn rollouts into balanced training rows, or into draws.

    Writes rows for TRL, LLaMA-Factory or verl. The strategies ar and gr need more samples: for
    them the draws to sample are written.
    """
    made = rebalanced(
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
        data=data,
        encoding=encoding,
        copy_images=copy_images,
        store=store,
        verify=verify,
    )
    if as_json:
        typer.echo(json.dumps(made.to_json(), indent=2))
        return
    _show(made, layout, out)


def _show(made: Rebalanced, layout: str, out: Path) -> None:
    """Print what was written, notes, and the command that trains on it."""
    if made.kind == "draws":
        counts = f"{made.rows} draws for {made.samples} samples"
    else:
        counts = f"{made.rows} examples from {made.successes} correct responses"
    say(f"{made.path}: {counts}, {made.queries} queries ({made.strategy}, K = {made.k})")
    say(f"A response with a reward of {made.threshold:g} or more counts as correct.")
    for note in made.notes:
        say(note)
    if made.kind == "examples" and (line := command(layout, out)):
        say(f"Train on it: {line}")
