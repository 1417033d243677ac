"""Read rows from JSON lines, JSON, Parquet and Arrow files.

A line or an element that is not a JSON object does not end the reading: it is yielded as a text
that says why, so that callers can name the row. Whatever else a damaged file raises becomes one
`DataError` that names the file (`reading`).

JSON lines, Parquet and Arrow are read in batches, so that memory is bounded whatever the size of
the file. JSON may be compressed with gzip.
"""

import gzip
import json
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from si.errors import DataError
from si.untrusted import one_line

Row = dict[str, Any]
LONGEST = 300  # characters of a name or a library's message in an error


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise what readers raise over a damaged file as a `DataError` that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise DataError(
            f"The file {one_line(name, LONGEST)} cannot be read", one_line(lines[0], LONGEST)
        ) from error


def any_wanted(wanted: Sequence[int] | None, start: int, stop: int) -> bool:
    """Whether a row number from `start` to `stop` (exclusive) is among those wanted.

    Args:
        wanted: ascending row numbers; all if None.
    """
    if wanted is None:
        return True
    at = bisect_left(wanted, start)
    return at < len(wanted) and wanted[at] < stop


# --- JSON ------------------------------------------------------------------------------------


def json_lines(path: Path, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, Row | str]]:
    """The rows of a JSON lines file with their line numbers, counted from 1.

    Blank lines are skipped. A line that is not a JSON object is a text that says why.

    Args:
        wanted: ascending numbers of the lines to parse; all if None.
    """
    for number, line in _stored_lines(path):
        if any_wanted(wanted, number, number + 1):
            yield number, _parsed(line)
        elif wanted is not None and number > wanted[-1]:
            return


def count_json_lines(path: Path) -> int:
    """How many lines of a file are not blank."""
    return sum(1 for _ in _stored_lines(path))


def json_rows(path: Path, name: str, single: bool = False) -> list[Row | str]:
    """The rows of a JSON file: a list of objects, an object with one such list, or JSON lines.

    An element that is not an object is a text that says why.

    Args:
        name: how errors name the file.
        single: an object without such a list is a row.

    Raises:
        DataError: if the file is not JSON, or holds no list of rows.
    """
    with reading(name), _open(path) as file:
        text = file.read()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        rows = [_parsed(line) for line in text.splitlines() if line and not line.isspace()]
        if not rows or any(isinstance(row, str) for row in rows):
            raise DataError(
                f"The file {one_line(name, LONGEST)} is not JSON", one_line(error, LONGEST)
            ) from error
        return rows
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        value = lists[0] if len(lists) == 1 else [value] if single else value
    if not isinstance(value, list):
        raise DataError(
            f"The file {one_line(name, LONGEST)} does not hold a list of rows",
            f"a list of objects was expected, not {_kind(value)}",
        )
    return [_object(row) for row in value]


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _stored_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1."""
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.isspace():
                yield number, line


def _parsed(line: bytes) -> Row | str:
    try:
        return _object(json.loads(line))
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"


def _object(row: Any) -> Row | str:
    return row if isinstance(row, dict) else f"{_kind(row)} instead of a JSON object"


def _kind(value: Any) -> str:
    """A JSON value's kind in JSON's own words."""
    for types, words in (
        ((bool,), "a truth value"),
        ((str,), "a string"),
        ((int, float), "a number"),
        ((list,), "a list"),
        ((dict,), "an object"),
    ):
        if isinstance(value, types):
            return words
    return "null"


# --- Parquet and Arrow -----------------------------------------------------------------------


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """An open Parquet file; what its reader raises becomes a `DataError` that names it."""
    with reading(str(path)), pq.ParquetFile(path) as file:
        yield file


def parquet_batches(
    path: Path, size: int, columns: Sequence[str] | None, wanted: Sequence[int] | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches that hold rows wanted, each with the number of its first row, counted from 0.

    Args:
        size: most rows of a batch.
        columns: names of the columns to read; all if None.
        wanted: ascending row numbers; all if None.
    """
    # Mapped and not read ahead: memory is bounded by a batch even if a row group is huge.
    with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if any_wanted(wanted, first, first + rows):
                start = first
                for batch in file.iter_batches(size, [group], columns):
                    if any_wanted(wanted, start, start + len(batch)):
                        yield start, batch
                    start += len(batch)
            first += rows


def arrow_batches(
    path: Path, size: int, columns: Sequence[str] | None, wanted: Sequence[int] | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """As `parquet_batches`, of a file in Arrow's stream or file format."""
    first = 0
    with pa.memory_map(str(path)) as source:
        for batch in _record_batches(source):
            if any_wanted(wanted, first, first + len(batch)):
                chosen = batch if columns is None else batch.select(list(columns))
                for start in range(0, len(chosen), size):
                    if any_wanted(wanted, first + start, first + start + size):
                        yield first + start, chosen.slice(start, size)
            first += len(batch)


def rows_of_batch(
    first: int, batch: pa.RecordBatch, wanted: Sequence[int] | None
) -> Iterator[tuple[int, Row]]:
    """The rows of a batch that are wanted, with their numbers; `first` is that of its first row."""
    if wanted is None:
        yield from enumerate(batch.to_pylist(), first)
        return
    start, stop = (bisect_left(wanted, at) for at in (first, first + len(batch)))
    for number in wanted[start:stop]:
        yield number, batch.slice(number - first, 1).to_pylist()[0]


def parquet_schema(path: Path) -> pa.Schema:
    """The schema of a Parquet file, Hugging Face's metadata included."""
    return pq.read_schema(path, memory_map=True)


def arrow_schema(path: Path) -> pa.Schema:
    """The schema of an Arrow file, Hugging Face's metadata included."""
    with pa.memory_map(str(path)) as source:
        return _open_arrow(source).schema


def count_parquet_rows(path: Path) -> int:
    """How many rows a Parquet file has, by its metadata."""
    return int(pq.read_metadata(path, memory_map=True).num_rows)


def count_arrow_rows(path: Path) -> int:
    """How many rows an Arrow file has."""
    with pa.memory_map(str(path)) as source:
        return sum(len(batch) for batch in _record_batches(source))


def _open_arrow(source: Any) -> Any:
    """A reader of Arrow's file format or of its stream format, which `datasets` writes."""
    magic = source.read(6)
    source.seek(0)
    return pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source)


def _record_batches(source: Any) -> Iterator[pa.RecordBatch]:
    reader = _open_arrow(source)
    if isinstance(reader, pa.RecordBatchFileReader):
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from reader
