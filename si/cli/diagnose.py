"""`si-ctl diagnose`: how imbalanced rollouts are, and what each strategy would change."""

import json
from pathlib import Path
from typing import Annotated

import typer

from si.api import diagnose as diagnosed
from si.cli.console import say, table
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
    mapping,
)
from si.machine.files import check, write_files

SHOWN = ("shares", "steps", "strategies")
PAGE = Path("diagnosis.html")


def diagnose(
    files: FilesArgument,
    columns: MapOption = None,
    threshold: ThresholdOption = None,
    k: SamplesOption = None,
    skip_bad: SkipBadOption = False,
    encoding: EncodingOption = "",
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML page to write.  \\[default: ./diagnosis.html, or none with --json]"
        ),
    ] = None,
    force: ForceOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how imbalanced a set of rollouts is.

    The page has levels, shares of correct answers, pass@k, and what each strategy would change.
    Columns of verl, TRL, NeMo-RL, OpenRLHF, lm-eval, lmms-eval and si-ctl are recognised; name
    other columns with --map.
    """
    page = out if as_json else out or PAGE
    if page is not None:
        check(page, force)
    found = diagnosed(
        files,
        map=mapping(columns),
        threshold=threshold,
        k=k,
        skip_bad=skip_bad,
        encoding=encoding,
        store=store,
    )
    if page is not None:
        write_files({page: found.page().encode()}, force)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    for heading, words in found.words:
        typer.secho(heading, bold=True)
        say(f"  {words}")
    say()
    for section in SHOWN:
        for each in found.tables[section]:
            table(each.title, each.columns, each.rows)
    say(f"\nPage: {page.resolve() if page else ''}")
