"""First pass of an import: parse every row, decode its images, and note what was found.

Notes are files of a few hundred rows each, in a folder beside the store. They are a cache: a
command that is repeated after a kill continues from them, and they may be deleted at any time.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from si.datasets.import_source import NOTED, Source
from si.datasets.row_fields import ParsedRow, row_id
from si.datasets.row_images import BadRow
from si.datasets.rows import File, file_stamp
from si.errors import DataError
from si.events import Event
from si.lookahead import ordered_map
from si.readers.reading import Row
from si.untrusted import one_line

WINDOW = 64  # rows in work at the same time
ENOUGH = 100  # bad rows, after which an import that will be refused stops checking

NOTES = pa.schema(
    [
        ("row", pa.int64()),
        ("label", pa.string()),  # the row's own id
        ("split", pa.string()),  # the source's; null where it names none
        ("query_id", pa.string()),
        ("group", pa.binary()),  # digest of its images: rows that share them stay in one split
        ("mark", pa.binary()),  # digest of all that is stored, to notice changes before the commit
        ("size", pa.int64()),  # bytes of its encoded images
        ("changed", pa.string()),  # how its images were converted, or null
        ("files", pa.list_(pa.list_(pa.string()))),  # (path, stamp) of each file that it names
        ("field", pa.string()),  # the field at fault, or null for a good row
        ("why", pa.string()),
    ]
)


def check(
    source: Source,
    folder: Path,
    pool: ThreadPoolExecutor,
    skip_bad: bool,
    on_event: Callable[[Event], None],
) -> pa.Table:
    """The notes of all rows, with a column `file`, the position of the row's file.

    Args:
        folder: where notes are kept. Those of an earlier attempt are used again, except for rows
            that were bad, and rows that name files which have changed since.
        skip_bad: go on after `ENOUGH` bad rows.
        on_event: receives `check` events: `done` rows of `total`, and how many of them are `bad`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables: list[pa.Table] = []
    done = bad = 0
    for number, file in enumerate(source.files):
        for table in _notes_of_file(source, number, file, folder, pool):
            tables.append(table.append_column("file", pa.array([number] * len(table), pa.int32())))
            done += len(table)
            bad += len(table) - table["field"].null_count
            on_event({"event": "check", "done": done, "total": source.rows, "bad": bad})
            if bad >= ENOUGH and not skip_bad:
                return pa.concat_tables(tables)
    return pa.concat_tables(tables)


def _notes_of_file(
    source: Source, number: int, file: File, folder: Path, pool: ThreadPoolExecutor
) -> Iterator[pa.Table]:
    """A file's notes: first those of an earlier attempt, brought up to date, then the others."""
    note = partial(_note, source, file)
    begin = known = 0
    for path in sorted(folder.glob(f"{number:05d}-*.parquet")):
        table = pq.read_table(path, schema=NOTES, partitioning=None)
        stale = _stale_rows(table)
        if stale:
            fresh = ordered_map(pool, note, source.read(file, stale), WINDOW)
            table = _replace_rows(table, {each["row"]: each for each in fresh})
            _write(folder, path.name, table)
        begin = table["row"][-1].as_py() + 1
        known += len(table)
        yield table
    if known == file.rows:
        return
    rows = source.read(file, range(begin, 1 << 50))
    for chunk in _chunks(ordered_map(pool, note, rows, WINDOW), NOTED):
        table = pa.Table.from_pylist(chunk, NOTES)
        _write(folder, f"{number:05d}-{chunk[0]['row']:010d}.parquet", table)
        yield table


def _write(folder: Path, name: str, table: pa.Table) -> None:
    """Write a file of notes, completely or not at all."""
    temporary = folder / f".{os.getpid()}.tmp"
    with temporary.open("wb") as file:
        pq.write_table(table, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / name)


def _stale_rows(table: pa.Table) -> list[int]:
    """Rows to check again: those that were bad, and those that name files which have changed."""
    return [
        note["row"]
        for note in table.select(["row", "field", "files"]).to_pylist()
        if note["field"] is not None
        or any(file_stamp(Path(path)) != stamp for path, stamp in note["files"] or ())
    ]


def _replace_rows(table: pa.Table, fresh: Mapping[int, Mapping[str, Any]]) -> pa.Table:
    notes = [fresh.get(note["row"], note) for note in table.to_pylist()]
    return pa.Table.from_pylist(notes, NOTES)


def _note(source: Source, file: File, item: tuple[int, Row | str]) -> dict[str, Any]:
    """The note of one row, given its number and the row."""
    from si.datasets.images import fit
    from si.embedded.families import content_id

    number, row = item
    label = one_line(row_id(row, source.columns[file.name], file))
    note: dict[str, Any] = {"row": number, "label": label}
    try:
        parsed = source.parse(file, row)
        try:
            images = [fit(image) for image in parsed.images]
        except DataError as error:
            raise BadRow("images", f"{error.headline}: {error.detail}") from error
    except BadRow as error:
        return note | {"field": error.field, "why": one_line(error.why, 300)}
    group = hashlib.sha256()
    for image in images:
        group.update(hashlib.sha256(image.data).digest())
    return note | {
        "split": parsed.split,
        "query_id": content_id([i.pixels for i in images], parsed.question, parsed.answer),
        "group": group.digest(),
        "mark": digest_of(parsed),
        "size": sum(len(image.data) for image in images),
        "changed": "; ".join(sorted({i.changed for i in images if i.changed})) or None,
        "files": parsed.files,
    }


def digest_of(row: ParsedRow) -> bytes:
    """SHA-256 over all that is stored of a row, its images as they were found."""
    images = [hashlib.sha256(image).hexdigest() for image in row.images]
    texts = [row.question, row.answer, row.kind, row.rationale, row.difficulty, row.family]
    choices = [list(row.choices)] if row.choices else []
    accepted = [{"accepted": row.accepted}] if row.accepted else []
    return hashlib.sha256(json.dumps([images, texts, *choices, *accepted]).encode()).digest()


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
