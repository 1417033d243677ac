"""Read files of rollouts, or rows in memory, in chunks that fit in memory.

A chunk is an Arrow table, or a list of rows where values are nested or differ from row to row. A
line that is not a JSON object is noted, and stands in its chunk as `BROKEN`, so that rows keep
their numbers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as pj

from si.readers.files import json_lines, json_rows, open_parquet, reading
from si.rollouts.known_tools import ALIASES
from si.rollouts.table import Bad

Row = Mapping[str, Any]
Chunk = Any  # an Arrow table, or a list of rows
Part = Any  # the path of a file, an Arrow table, or an iterable of rows

ROWS = 65_536  # rows in memory at a time
FIRST = 50  # rows by which a layout is recognised
BLOCK = 16 << 20  # bytes of JSON that are parsed at a time
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
LINES = (".jsonl", ".ndjson")
BROKEN: Row = {}  # stands for a line that is not a row; compared by identity

_INTEGERS = {*ALIASES["step"], *ALIASES["tokens"], *ALIASES["query_id"]}


def file_suffix(path: Path) -> str:
    """The suffix of a file that can be read, without `.gz`; empty for other and hidden files."""
    name = path.name.removesuffix(".gz")
    if path.name.startswith((".", "_")):
        return ""
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def first_rows(name: str, part: Part) -> tuple[list[str], list[Row]]:
    """The names of a part's columns, and its first rows.

    Raises:
        DataError: if a file is damaged.
    """
    if isinstance(part, Path) and file_suffix(part) == ".parquet":
        with open_parquet(part) as file:
            names = list(file.schema_arrow.names)
            batch = next(file.iter_batches(FIRST), None)
            return names, batch.to_pylist() if batch is not None else []
    if isinstance(part, pa.Table):
        return part.column_names, part.slice(0, FIRST).to_pylist()
    rows = list(islice(json_objects(name, part, []), FIRST))
    return list(dict.fromkeys(chain.from_iterable(rows))), rows


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
    if isinstance(part, Path) and file_suffix(part) == ".parquet":
        with open_parquet(part) as file:
            have = [column for column in columns if column in file.schema_arrow.names]
            for batch in file.iter_batches(ROWS, columns=have):
                yield pa.Table.from_batches([batch])
        return
    if isinstance(part, pa.Table):
        for start in range(0, len(part), ROWS):
            yield part.slice(start, ROWS)
        return
    done = 0
    schema = _plain_schema(columns, first)
    if schema and isinstance(part, Path) and file_suffix(part) in LINES:
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


def json_objects(name: str, part: Path | Iterable[Row], bad: list[Bad]) -> Iterator[Row]:
    """The rows of a JSON or JSON lines file, or those in memory.

    Args:
        name: names the file in `bad`.
        bad: is extended by the rows that are not JSON objects, counted from 1; blank lines are not
            rows. Each of them stands as `BROKEN`.

    Raises:
        DataError: if the file is damaged, or a .json file holds no rows.
    """
    if not isinstance(part, Path):
        yield from part
        return
    with reading(name):
        rows: Iterable[Row | str]
        if file_suffix(part) == ".json":
            rows = json_rows(part, name, single=True)
        else:
            rows = (row for _, row in json_lines(part))
        for number, row in enumerate(rows, 1):
            if isinstance(row, str):
                bad.append(Bad(name, number, "line", row))
                yield BROKEN
            else:
                yield row
