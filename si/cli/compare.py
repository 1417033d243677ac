"""`si-ctl compare`: runs side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer

from si.cli.options import JsonOption, StoreOption, open_place


def register(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    runs: Annotated[list[str], typer.Argument(help="Two or more runs, by name or by strategy.")],
    store: StoreOption = None,
    out: Annotated[Path | None, typer.Option(help="Also write an HTML page here.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show held-out accuracy and shares of successes by level, run beside run."""
    from si.compare import compare as read
    from si.compare import page
    from si.status import find_run, report_inputs

    where = open_place(store)
    names = [find_run(where, run) for run in runs]
    found = read(where, [(name, report_inputs(where, name)) for name in names])
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page(found))
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    from si.cli.screen import table

    for shown in found.tables:
        table(shown.title, shown.columns, shown.rows)
        if shown.note:
            typer.echo(shown.note)
        typer.echo()
    for name, words in found.words:
        typer.echo(f"{name}: {words}")
    if out is not None:
        typer.echo(f"\nPage: {out.resolve()}")
