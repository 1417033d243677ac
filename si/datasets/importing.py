"""Import rows from files as a data set in the store.

Two passes over the source, so that nothing is committed if a row is bad:

1. *Check* (`import_check`) parses every row, decodes its images and computes its content id.
2. *Plan* (`import_plan`) decides, from the notes alone, each row's split, which repetitions are
   left out, and the shards. The artefact's key follows from what the data set holds, not from how
   its source was stored.
3. *Commit* (`import_commit`) reads the source again, and commits each shard once, as described in
   docs/operations.md under "Commit".

Both passes hold a few dozen rows and at most one open shard for each split, however large the
source is.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from si.datasets.import_check import ENOUGH, check
from si.datasets.import_commit import SourceChanged, commit_import
from si.datasets.import_plan import Bad, plan_import
from si.datasets.import_source import Source
from si.errors import DataError
from si.events import Event
from si.store.commit import Manifest
from si.store.commit import load_manifest as load
from si.store.keys import Spec
from si.store.port import Store

__all__ = ["SHOWN", "Bad", "Imported", "Source", "import_data"]

SHOWN = 20  # most entries of a list on screen


@dataclass
class Imported:
    """The result of an import.

    Attributes:
        rows: rows in the source.
        kept: the data set was in the store already.
        dealt, filled, bad, repeats, overlaps, changed: as in `si.datasets.import_plan.Plan`.
    """

    manifest: Manifest
    rows: int
    dealt: int
    filled: list[str]
    bad: list[Bad]
    repeats: int
    overlaps: list[tuple[str, str, str]]
    changed: Counter[str]
    kept: bool


def import_data(
    store: Store,
    source: Source,
    name: str,
    folder: Path,
    skip_bad: bool = False,
    on_event: Callable[[Event], None] = lambda _: None,
) -> Imported:
    """Commit the rows of a source as a data set, unless the store has it already.

    Args:
        name: the data set's name, and the family of rows that name none.
        folder: where notes are kept, from which a repeated command continues.
        skip_bad: leave bad rows out instead of refusing the source.
        on_event: receives `check` and `commit` events: `done` rows of `total`.

    Raises:
        DataError: for bad rows, unless `skip_bad`; if no row is left; if the source changes
            during the import.
    """
    notes = folder / source.fingerprint()
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, "import") as pool:
        plan = plan_import(source, check(source, notes, pool, skip_bad, on_event))
        if plan.bad and not skip_bad:
            raise _bad_rows(source, plan.bad, notes)
        if not plan.shards:
            raise DataError(
                f"{source.origin} has no usable rows",
                f"{len(plan.bad)} rows are bad",
                "See why: run the same command without --skip-bad.",
            )
        params = {"rows": plan.digest, "family": name}
        spec = Spec("import", name, {}, params, inputs={}, shards=len(plan.shards))
        manifest = load(store, spec)
        kept = manifest is not None
        if manifest is None:
            try:
                manifest = commit_import(store, spec, source, plan, pool, on_event)
            except SourceChanged as error:
                shutil.rmtree(notes, ignore_errors=True)
                raise DataError(
                    f"The source changed while it was imported: {error}",
                    source.origin,
                    "Run the same command again: it starts over.",
                ) from error
    return Imported(
        manifest,
        rows=source.rows,
        dealt=plan.dealt,
        filled=plan.filled,
        bad=plan.bad,
        repeats=plan.repeats,
        overlaps=plan.overlaps,
        changed=plan.changed,
        kept=kept,
    )


def _bad_rows(source: Source, bad: list[Bad], notes: Path) -> DataError:
    """The error that refuses a source with bad rows; all of them are listed in a file."""
    listing = notes / "bad-rows.txt"
    listing.write_text("".join(f"{row}\n" for row in bad))
    lines = [str(row) for row in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"... all of them: {listing}")
    missing = sum("no file" in row.why or "leaves the folder" in row.why for row in bad)
    images = "Say which folder paths of images start from: --images FOLDER"
    empty = sum(row.why == "empty answer" for row in bad)
    held = "Answers of a benchmark's test part are often withheld: import its other files, by name."
    count = f"at least {len(bad)}" if len(bad) >= ENOUGH else str(len(bad))
    return DataError(
        f"{count} of {source.rows:,} rows cannot be used; nothing was imported",
        "\n".join(lines),
        (
            *([images] if 2 * missing > len(bad) else []),
            *([held] if 2 * empty > len(bad) else []),
            "Fix the rows and run the same command again.",
            "Leave them out, counted and listed: --skip-bad",
            "If a column was taken for the wrong field, name the correct one: --map FIELD=COLUMN",
        ),
    )
