"""Read files of rollouts, or rows in memory, in chunks that fit in memory.

Rows whose columns hold lists of equal length, a prompt for each entry, are taken apart: ms-swift
writes a line per step, others a table as one object.

A chunk is an Arrow table, or a list of rows where values are nested or differ from row to row. A
line that is not a JSON object is noted, and stands in its chunk as `BROKEN`, so that rows keep
their numbers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as pj

from si.errors import DataError
from si.readers.csv_files import csv_rows
from si.readers.files import (
    KINDS,
    arrow_batches,
    arrow_schema,
    kind_by_name,
    kind_of,
    open_parquet,
)
from si.readers.json_files import json_lines, json_rows
from si.readers.reading import marked_encoding, reading
from si.rollouts.known_tools import ALIASES, IDS
from si.rollouts.table import Bad

Row = Mapping[str, Any]
Chunk = Any  # an Arrow table, or a list of rows
Part = Any  # the path of a file, an Arrow table, or an iterable of rows

ROWS = 65_536  # rows in memory at a time
FIRST = 50  # rows by which a layout is recognised
BLOCK = 16 << 20  # bytes of JSON that are parsed at a time
BROKEN: Row = {}  # stands for a line that is not a row; compared by identity

_INTEGERS = {*ALIASES["step"], *ALIASES["tokens"], *ALIASES["query_id"]}


@dataclass(frozen=True)
class Text:
    """A file of text in an encoding that is not UTF-8."""

    path: Path
    encoding: str


def is_rollouts(path: Path) -> bool:
    """Whether a file in a folder may hold rollouts, by its name; hidden files do not."""
    return bool(kind_by_name(path)) and not path.name.startswith((".", "_")) and path.is_file()


def _kind(part: Part) -> str:
    """The kind of a file, in the words of `si.readers.files.kind_of`; empty for rows in memory."""
    if isinstance(part, Text):
        return kind_of(part.path)
    return kind_of(part) if isinstance(part, Path) else ""


def first_rows(name: str, part: Part) -> tuple[list[str], list[Row]]:
    """The names of a part's columns, and its first rows.

    Raises:
        DataError: if a file is damaged, is not a file of rows, or no row of it can be read.
    """
    kind = _kind(part)
    if kind == "parquet":
        with open_parquet(part) as file:
            names = list(file.schema_arrow.names)
            batch = next(file.iter_batches(FIRST), None)
            return names, _apart(name, batch.to_pylist() if batch is not None else [])
    if kind == "arrow":
        with reading(name):
            names = list(arrow_schema(part).names)
            table = next(arrow_batches(part, FIRST, None, None), None)
            return names, _apart(name, table[1].to_pylist() if table else [])
    if isinstance(part, pa.Table):
        return part.column_names, _apart(name, part.slice(0, FIRST).to_pylist())
    bad: list[Bad] = []
    rows = list(islice(json_objects(name, part, bad), FIRST))
    if bad and all(row is BROKEN for row in rows):
        raise DataError(f"No row of {name} can be read", bad[0].why)
    return list(dict.fromkeys(chain.from_iterable(rows))), rows


def _apart(name: str, rows: Sequence[Row]) -> list[Row]:
    return list(islice(chain.from_iterable(taken_apart(name, row) for row in rows), FIRST))


def chunks(
    name: str, part: Part, columns: Sequence[str], first: Sequence[Row], bad: list[Bad]
) -> Iterator[Chunk]:
    """The rows of a part, chunk by chunk.

    Args:
        name: names the part in errors.
        columns: the columns to read; of JSON parsed row by row, all are there.
        first: the first rows of some part of the same layout, for the types of JSON's columns.
        bad: is extended by the lines that are not JSON objects.

    Raises:
        DataError: if a file is damaged.
    """
    kind = _kind(part)
    if kind in ("parquet", "arrow") or isinstance(part, pa.Table):
        for table in _tables(name, part, kind, columns):
            head = table.slice(0, 1).to_pylist()
            if head and is_columnar(head[0]):
                yield [row for each in table.to_pylist() for row in taken_apart(name, each)]
            else:
                yield table
        return
    done = 0
    schema = _plain_schema(columns, first)
    if schema and isinstance(part, Path) and kind == "jsonl" and plain_text(part):
        try:
            for batch in _parsed_by_arrow(part, schema):
                yield batch
                done += len(batch)
            return
        except pa.ArrowInvalid:
            pass  # a row differs from the first ones: continue row by row, which names bad ones
    rows = islice(json_objects(name, part, bad), done, None)
    while chunk := list(islice(rows, ROWS // 8)):
        yield chunk


def _tables(name: str, part: Part, kind: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The tables of a Parquet or Arrow file, or of one in memory."""
    if kind == "parquet":
        with open_parquet(part) as file:
            have = [column for column in columns if column in file.schema_arrow.names]
            for batch in file.iter_batches(ROWS, columns=have):
                yield pa.Table.from_batches([batch])
    elif kind == "arrow":
        with reading(name):
            names = arrow_schema(part).names
            have = [column for column in columns if column in names]
            for _, batch in arrow_batches(part, ROWS, have, None):
                yield pa.Table.from_batches([batch])
    else:
        for start in range(0, len(part), ROWS):
            yield part.slice(start, ROWS)


def plain_text(path: Path) -> bool:
    """Whether Arrow can parse a file of JSON lines: it does not know UTF-16."""
    return not marked_encoding(path)


def _parsed_by_arrow(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of a JSON lines file whose columns have plain types; other columns are ignored."""
    parse = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    read = pj.ReadOptions(block_size=BLOCK)
    for batch in pj.open_json(str(path), read_options=read, parse_options=parse):
        yield pa.Table.from_batches([batch])


def _plain_schema(columns: Sequence[str], rows: Sequence[Row]) -> pa.Schema | None:
    """The types of JSON's columns if all hold plain values of one type; else None."""
    fields = []
    for column in columns:
        kinds = {type(row[column]) for row in rows if row.get(column) is not None}
        if kinds <= {int, float} and kinds:
            kind = pa.int64() if kinds == {int} and column in _INTEGERS else pa.float64()
        elif kinds in ({str}, {bool}):
            kind = pa.string() if kinds == {str} else pa.bool_()
        else:
            return None
        fields.append((column, kind))
    return pa.schema(fields)


def json_objects(name: str, part: Part, bad: list[Bad]) -> Iterator[Row]:
    """The rows of a JSON, JSON lines or CSV file, or those in memory.

    Args:
        name: names the file in `bad`.
        bad: is extended by the rows that are not JSON objects, counted from 1; blank lines are not
            rows. Each of them stands as `BROKEN`.

    Raises:
        DataError: if the file is damaged, or holds no rows.
    """
    if not isinstance(part, Path | Text):
        for row in part:
            yield from taken_apart(name, row)
        return
    path, encoding = (part.path, part.encoding) if isinstance(part, Text) else (part, "")
    with reading(name):
        rows: Iterable[Row | str]
        match kind_of(path):
            case "json":
                rows = json_rows(path, name, single=True, encoding=encoding)
            case "csv":
                rows = (row for _, row in csv_rows(path, None, encoding))
            case "jsonl":
                rows = (row for _, row in json_lines(path, None, encoding))
            case _:
                raise DataError(
                    f"{name} is not a file of rows", f"known: {', '.join(KINDS)}, also with .gz"
                )
        for number, row in enumerate(rows, 1):
            if isinstance(row, str):
                bad.append(Bad(name, number, "line", row))
                yield BROKEN
            else:
                yield from taken_apart(name, row)


# --- columns as lists ------------------------------------------------------------------------


def is_columnar(row: Row) -> bool:
    """Whether a row holds columns: its prompts, or its ids of queries, are a list."""
    return any(name in _PER_QUERY and _is_column(value) for name, value in row.items())


def _is_column(value: Any) -> bool:
    """Whether a value is a list of texts or of conversations, rather than one conversation."""
    return isinstance(value, list) and len(value) > 0 and not isinstance(value[0], Mapping)


def taken_apart(name: str, row: Row) -> Iterator[Row]:
    """The rows in a row whose columns are lists of equal length; else the row itself.

    Args:
        name: names the file in the error.

    Raises:
        DataError: if the lists' lengths differ.
    """
    if not is_columnar(row):
        yield row
        return
    lists = {key: value for key, value in row.items() if isinstance(value, list)}
    sizes = {key: len(value) for key, value in lists.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(
            f"{name} has columns that hold lists of different lengths",
            ", ".join(f"{key} {size}" for key, size in sizes.items()),
            "Write a row for each sample, or lists of equal length.",
        )
    for place in range(next(iter(sizes.values()))):
        yield {key: value[place] if key in lists else value for key, value in row.items()}


_PER_QUERY = {*ALIASES["query_id"], *ALIASES["prompt"], *ALIASES["messages"], *IDS}
