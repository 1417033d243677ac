"""`si-ctl compare`: runs side by side."""

from pathlib import Path
from typing import Annotated

import typer

from si.cli.options import JsonOption, StoreOption


def register(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    runs: Annotated[list[str], typer.Argument(help="Two or more runs, by name or by strategy.")],
    store: StoreOption = None,
    out: Annotated[Path | None, typer.Option(help="Also write an HTML page here.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show held-out accuracy and shares of successes by level, run beside run."""
    raise NotImplementedError
