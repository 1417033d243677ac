"""`si-ctl replay`: another strategy on a run's stored verdicts."""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from si.cli.console import table
from si.cli.options import JsonOption, StoreOption, open_place
from si.runs.replay import replay as again
from si.runs.status import find_run


def replay(
    run: Annotated[str, typer.Argument(help="A run's name, or a strategy that one run has.")],
    strategy: Annotated[
        str, typer.Option(help="The other strategy: vanilla, tc, rp, ar, gr, gr+tc ...")
    ],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what another strategy would make of a run's samples, beside what it trained on.

    No GPU, nothing is sampled or committed: for ar and gr the draws they would ask for are shown.
    """
    where = open_place(store)
    with tempfile.TemporaryDirectory(prefix="si-replay-") as scratch:
        found = again(where, find_run(where, run), strategy, Path(scratch))
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return

    for shown in found.tables:
        table(shown.title, shown.columns, shown.rows)
        typer.echo(shown.note)
        typer.echo()
    for words in found.words:
        typer.echo(words)
