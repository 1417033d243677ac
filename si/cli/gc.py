"""`si-ctl gc`: delete from the store what nothing refers to."""

import json
import time
from typing import Annotated

import typer

from si.cli.console import plural, say, table
from si.cli.options import JsonOption, StoreOption, open_place
from si.runs.garbage import ARTEFACT, ATTEMPTS, CHECKPOINTS, DAY, delete_garbage, find_garbage

KINDS = {
    ATTEMPTS: "files of attempts that lost or died",
    CHECKPOINTS: "checkpoints of finished trainings",
    ARTEFACT: "artefacts that no run refers to",
}


def gc(
    store: StoreOption = None,
    days: Annotated[
        float,
        typer.Option(min=0, help="Keep artefacts without a run, and uploads, that are younger."),
    ] = 7.0,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete it; without this, only show it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show or delete what the store holds for no run.

    Nothing that a run refers to is ever deleted, nor are data sets and policies that were imported.
    """
    where = open_place(store)
    before = time.time() - days * DAY
    found = find_garbage(where, before)
    uploads = where.abandoned(before, delete)
    if delete:
        found = delete_garbage(where, found)
    if as_json:
        garbage = [each._asdict() | {"files": len(each.files)} for each in found]
        said = {"deleted": delete, "garbage": garbage, "uploads": uploads}
        typer.echo(json.dumps(said, indent=2))
        return
    rows = []
    for kind, words in KINDS.items():
        same = [each for each in found if each.kind == kind]
        files, size = sum(len(each.files) for each in same), sum(each.size for each in same)
        rows.append([words, f"{len(same):,}", f"{files:,}", f"{size / 1e6:,.1f}"])
    table(f"Garbage in {where.url}", ["what", "artefacts", "files", "MB"], rows)
    if uploads:
        say(f"Also {plural(uploads, 'upload')} that began but never ended.")
    if delete:
        say("Deleted." if found or uploads else "There was nothing to delete.")
    elif found or uploads:
        say("Nothing was deleted. Delete it: repeat the command with --delete")
