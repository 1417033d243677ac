"""Read rows from CSV and TSV files: a header, then a row per record."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from si.readers.reading import Row, any_wanted, open_text

# Cells hold images in base64: the library's own limit is 128 KiB.
csv.field_size_limit(1 << 28)
DELIMITERS = (",", ";", "\t")


def csv_rows(
    path: Path, wanted: Sequence[int] | None = None, encoding: str = ""
) -> Iterator[tuple[int, Row | str]]:
    """The rows of a CSV or TSV file, each with the number of its last line, counted from 1.

    All values are texts. A row with more or fewer cells than the header is a text that says so.

    Args:
        wanted: ascending numbers of the rows to yield; all if None.
        encoding: as `si.readers.reading.open_text` takes it.
    """
    with open_text(path, encoding) as file:
        first = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=max(DELIMITERS, key=first.count))
        header = next(reader, [])
        for cells in reader:
            number = reader.line_num
            if cells and any_wanted(wanted, number, number + 1):
                if len(cells) == len(header):
                    yield number, dict(zip(header, cells, strict=True))
                else:
                    yield number, f"{len(cells)} cells instead of {len(header)}"


def count_csv_rows(path: Path, encoding: str = "") -> int:
    """How many rows a CSV or TSV file has below its header."""
    return sum(1 for _ in csv_rows(path, None, encoding))
