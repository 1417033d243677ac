"""`si-ctl rm`: remove runs from the store."""

import json
from typing import Annotated

import typer

from si.cli.console import plural, say
from si.cli.options import JsonOption, StoreOption, open_place
from si.clusters.local import exclusive
from si.errors import RunMissing
from si.runs.remove import remove, unused_without
from si.runs.status import runs


def rm(
    names: Annotated[
        list[str], typer.Argument(metavar="RUN", help="Names of runs, as status lists them.")
    ],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove runs from the store; their artefacts stay.

    Prints which artefacts no other run uses. The same iterate command restores a run from its
    artefacts, without computing anything again.
    """
    where = open_place(store)
    known = runs(where)
    for name in names:
        if name not in known:
            raise RunMissing(
                f"No run is called {name!r}",
                f"runs in {where.url}: {', '.join(known) or 'none'}",
                "Nothing was removed. List the runs: si-ctl status",
            )
    removed = []
    for name in dict.fromkeys(names):
        with exclusive(where.url, name):
            unused = unused_without(where, name)
            removed.append((name, remove(where, name), unused))
    if as_json:
        found = [
            {
                "run": name,
                "records": count,
                "unused": [{"address": each.address, "bytes": each.size} for each in unused],
            }
            for name, count, unused in removed
        ]
        typer.echo(json.dumps(found, indent=2))
        return
    for name, count, unused in removed:
        size = sum(each.size for each in unused) / 1e6
        say(f"Removed the run {name} ({plural(count, 'record')}).")
        say(
            f"No other run uses {plural(len(unused), 'artefact')} of it, {size:,.1f} MB. "
            "They stay in the store until si-ctl gc deletes them:"
            if unused
            else "Other runs use all of its artefacts."
        )
        for each in unused:
            say(f"  {each.address}")
