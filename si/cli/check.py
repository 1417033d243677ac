"""`si-ctl check`: verify every byte of a run."""

import json
import tempfile
from pathlib import Path

import typer

from si.cli.console import plural, say
from si.cli.options import JsonOption, RunArgument, StoreOption, open_place
from si.errors import ArtifactDamaged
from si.runs.check import check as checked
from si.runs.status import find_run


def check(run: RunArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Read everything that a run refers to, and compare it with what was committed.

    Reads every file of its artefacts and of what these were computed from, data set and policy 0
    included. Exit code 3 if anything is damaged or missing.
    """
    where = open_place(store)
    name = find_run(where, run)
    with tempfile.TemporaryDirectory() as scratch:
        found = []
        for each in checked(where, name, Path(scratch)):
            found.append(each)
            if each.problem and not as_json:
                say(f"{each.address}: {each.problem}")
    damaged = [each for each in found if each.problem not in ("", "incomplete")]
    files, size = sum(each.files for each in found), sum(each.size for each in found)
    if as_json:
        typer.echo(json.dumps([each._asdict() for each in found], indent=2))
    else:
        count = plural(len(found), "artefact")
        say(f"{name}: {count}, {plural(files, 'file')}, {size / 1e6:,.1f} MB read and compared.")
    if damaged:
        raise ArtifactDamaged(
            f"{plural(len(damaged), 'artefact')} of {name} cannot be used",
            "\n".join(each.address for each in damaged),
            "Restore them from a backup, or compute the run again beside the old one: --fresh",
        )
