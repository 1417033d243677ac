"""What to import: the files of a source, which column holds which field, and how rows are split."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from si import __version__
from si.datasets.columns import needed_columns, recognise
from si.datasets.row_fields import ParsedRow, parse_row
from si.datasets.rows import File, file_stamp, find_files
from si.datasets.splits import Splits
from si.errors import DataError
from si.readers.files import Row
from si.store.keys import digest

PARSED = 2  # rises when rows are read differently, so that older notes are not used
NOTED = 256  # rows in a file of notes: at most so many are checked again after a kill


@dataclass
class Source:
    """A source of rows, and how to read it.

    Attributes:
        origin: names the source in the data set's provenance.
        columns: file name -> field -> column.
        kind: the kind of all answers; inferred for each row if None.
    """

    origin: str
    files: list[File]
    columns: dict[str, dict[str, str]]
    splits: Splits
    kind: str | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        given: Mapping[str, str],
        splits: Splits,
        kind: str | None = None,
        origin: str = "",
    ) -> "Source":
        """A file or a folder as a source.

        Args:
            given: field -> column, which overrides what is recognised.

        Raises:
            DataError: if it holds no rows, or no column for a needed field is recognised.
        """
        files = [file for file in find_files(path, splits.names) if file.rows]
        if not files:
            raise DataError(f"{path} holds no rows")
        columns = {file.name: recognise(file, given) for file in files}
        return cls(origin or str(path), files, columns, splits, kind)

    @property
    def rows(self) -> int:
        """How many rows all its files have."""
        return sum(file.rows for file in self.files)

    def fingerprint(self) -> str:
        """A digest of the files' stamps and of how they are read; it names the folder of notes."""
        seen = []
        for file in self.files:
            seen.append([str(file.path.resolve()), file.split, file_stamp(file.path)])
        names = dict(self.splits.names)
        return digest([__version__, PARSED, NOTED, seen, self.columns, names, self.kind])[:24]

    def read(self, file: File, wanted: Sequence[int] | None) -> Iterator[tuple[int, Row | str]]:
        """The rows of a file, or those wanted, with their numbers; see `File.batches`."""
        return file.batches(needed_columns(file, self.columns[file.name]), wanted)

    def parse(self, file: File, row: Row | str) -> ParsedRow:
        """What a row of the file holds.

        Raises:
            BadRow: if it cannot be used.
        """
        return parse_row(row, file, self.columns[file.name], self.splits.names, self.kind)
