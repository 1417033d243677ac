"""`si-ctl diagnose`: whom anybody's rollouts favour, and what each strategy would change."""

import json
from pathlib import Path
from typing import Annotated

import typer

from si.api import diagnose as look
from si.cli.console import table
from si.cli.options import ForceOption, JsonOption, MapOption, SkipBadOption, StoreOption, mapping
from si.machine.files import check, write_files

SHOWN = ("shares", "steps", "strategies")


def diagnose(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Rollouts (JSONL, JSON, Parquet), a folder of them, or a run of ours.",
        ),
    ],
    columns: MapOption = None,
    threshold: Annotated[
        float | None, typer.Option(help="The lowest reward of a right answer.")
    ] = None,
    k: Annotated[int | None, typer.Option(min=1, help="K, samples of a query.")] = None,
    skip_bad: SkipBadOption = False,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the page; ./diagnosis.html by default.")
    ] = None,
    force: ForceOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show whom anybody's rollouts favour: levels, shares, pass@k, and what strategies change.

    Rollouts of verl, TRL, NeMo-RL, OpenRLHF, lm-eval, lmms-eval and si-ctl are recognised by their
    columns; of others, name the columns with --map.
    """
    page = out if as_json else out or Path("diagnosis.html")
    if page is not None:
        check(page, force)
    found = look(
        files, map=mapping(columns), threshold=threshold, k=k, skip_bad=skip_bad, store=store
    )
    if page is not None:
        write_files({page: found.page().encode()}, force)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return

    for heading, words in found.words:
        typer.secho(heading, bold=True)
        typer.echo(f"  {words}")
    typer.echo()
    for section in SHOWN:
        for shown in found.tables[section]:
            table(shown.title, shown.columns, shown.rows)
    typer.echo(f"\nPage: {page.resolve() if page else ''}")
