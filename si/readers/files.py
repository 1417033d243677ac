"""Read rows from Parquet and Arrow files in batches, and recognise the kind of any file of rows.

Memory is bounded whatever the size of the file. Whatever a damaged file raises becomes one
`DataError` that names the file (`si.readers.reading`).
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from si.readers.json_files import holds_json_lines
from si.readers.reading import Row, any_wanted, open_bytes, reading

# Suffix -> kind of file; those of text may be followed by .gz.
KINDS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
}
_MAGIC = ((b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"\xff\xff\xff\xff", "arrow"))


def kind_by_name(path: Path) -> str:
    """The kind of a file by its name: parquet, arrow, jsonl, json or csv; empty for other ones."""
    name = path.name.removesuffix(".gz")
    kind = next((kind for suffix, kind in KINDS.items() if name.endswith(suffix)), "")
    return "" if kind in ("parquet", "arrow") and name != path.name else kind


def kind_of(path: Path) -> str:
    """The kind of a file by its name and its first bytes; empty if it is not a file of rows.

    A file of JSON lines is recognised under any name.
    """
    kind = kind_by_name(path)
    if kind in ("parquet", "arrow", "jsonl", "csv"):
        return kind
    if holds_json_lines(path):
        return "jsonl"
    if kind:
        return kind
    try:
        with open_bytes(path) as file:
            start = file.read(64)
    except (OSError, EOFError):
        return ""
    found = next((kind for magic, kind in _MAGIC if start.startswith(magic)), "")
    return found or ("json" if start.lstrip()[:1] in (b"{", b"[") else "")


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
