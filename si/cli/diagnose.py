"""`si-ctl diagnose`: how imbalanced rollouts are, and what each strategy would change."""

import json
from itertools import chain, count
from pathlib import Path
from typing import Annotated

import typer

from si.api import diagnose as diagnosed
from si.cli.console import Counting, say, table
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
from si.machine.files import check, write_files

SHOWN = ("shares", "steps", "strategies")
PAGE = Path("diagnosis.html")
OURS = b'<p class="kicker">si-ctl diagnose</p>'  # stands in every page of this command
HEAD = 100_000  # bytes of a page in which it stands


def diagnose(
    files: FilesArgument,
    columns: MapOption = None,
    threshold: ThresholdOption = None,
    k: SamplesOption = None,
    verify: VerifyOption = False,
    skip_bad: SkipBadOption = False,
    encoding: EncodingOption = "",
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML page to write.  \\[default: ./diagnosis.html, or none with --json; "
            "an older page of this command is replaced]"
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
    page, replace = (out, force) if out or as_json else (_free_page(), True)
    if page is not None:
        check(page, replace)
    with Counting() as counting:
        found = diagnosed(
            files,
            map=mapping(columns),
            threshold=threshold,
            k=k,
            skip_bad=skip_bad,
            encoding=encoding,
            store=store,
            verify=verify,
            on_event=counting.hear,
        )
    if page is not None:
        write_files({page: found.page().encode()}, replace)
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


def _free_page() -> Path:
    """The page to write by default: `diagnosis.html`, or `diagnosis-2.html` and so on where a file
    of that name is not a page of this command."""
    numbered = (PAGE.with_stem(f"{PAGE.stem}-{number}") for number in count(2))
    return next(path for path in chain([PAGE], numbered) if not path.exists() or _is_ours(path))


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return OURS in file.read(HEAD)
