"""`si-ctl replay`: another strategy on a run's stored verdicts."""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from si.cli.console import say, table
from si.cli.options import JsonOption, RunArgument, StoreOption, open_place
from si.runs.replay import replay as replayed
from si.runs.status import find_run


def replay(
    run: RunArgument,
    strategy: Annotated[
        str, typer.Option(help="The other strategy: vanilla, tc, rp, ar, gr, gr+tc, module:Class.")
    ],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what another strategy would do with a run's samples.

    Needs no GPU, samples nothing and commits nothing. For ar and gr it shows the draws that they
    would ask for.
    """
    where = open_place(store)
    with tempfile.TemporaryDirectory(prefix="si-replay-") as scratch:
        found = replayed(where, find_run(where, run), strategy, Path(scratch))
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    for each in found.tables:
        table(each.title, each.columns, each.rows)
        say(f"{each.note}\n")
    for words in found.words:
        say(words)
