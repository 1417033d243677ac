"""Read the rows of a data set's files in batches.

- Parquet, as the Hugging Face hub stores it (images as structs of `bytes` and `path`) or plain;
- Arrow files as `datasets` saves them: folders of `save_to_disk`, with or without
  `dataset_dict.json`, and its cache files;
- JSON lines under any name, and JSON with lists of objects;
- CSV and TSV;
- a folder for each problem, with a JSON object and its images.

`si.datasets.find` finds the files. Names in files are untrusted: of a source that is not the user's
own, a file that a row names is read only if it lies in the source's folder.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from si.errors import DataError
from si.plugins import load
from si.readers.csv_files import count_csv_rows, csv_rows
from si.readers.files import (
    arrow_batches,
    arrow_schema,
    count_arrow_rows,
    count_parquet_rows,
    parquet_batches,
    parquet_schema,
    rows_of_batch,
)
from si.readers.json_files import count_json_lines, json_lines, json_rows
from si.readers.reading import Row, any_wanted, reading

BATCH = 32  # rows in memory at a time
FIRST = 101  # rows by which the columns of texts are recognised
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class Access:
    """Which files a row may name.

    Attributes:
        confined: only files in the source's folder, not through links; for sources of strangers.
        folders: further folders that relative paths may start from.
    """

    confined: bool = True
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True)
class File:
    """A file of rows.

    Attributes:
        root: the source's folder.
        name: names the file in messages: its path below the root, `/`-separated.
        kind: parquet, arrow, jsonl, json, csv, folders (a folder per row), or custom.
        split: the split that the file's name or folder stands for, or None.
        rows: how many there are.
        path: the file; of folders, the folder that holds them.
        key: of JSON with several lists, the key of this one; of folders, the name of their files;
            of custom rows, the function that yields them.
        encoding: of text; empty for UTF-8.
        access: which files its rows may name.
    """

    root: Path
    name: str
    kind: str
    split: str | None
    path: Path
    key: str = ""
    encoding: str = ""
    access: Access = Access()
    rows: int = field(compare=False, default=0)

    def location(self, row: int) -> str:
        """Where a row is, in words: lines count from 1, rows of a table from 0."""
        lines = self.kind in ("jsonl", "csv")
        return f"{self.name} line {row}" if lines else f"{self.name} row {row}"

    @property
    def folder(self) -> Path:
        """The folder that relative paths in its rows start from."""
        return self.path if self.path.is_dir() else self.path.parent

    def count(self) -> int:
        """How many rows there are; reads texts once.

        Raises:
            DataError: if the file is damaged.
        """
        with reading(self.name):
            match self.kind:
                case "parquet":
                    return count_parquet_rows(self.path)
                case "arrow":
                    return count_arrow_rows(self.path)
                case "jsonl":
                    return count_json_lines(self.path, self.encoding)
                case "csv":
                    return count_csv_rows(self.path, self.encoding)
            return sum(1 for _ in self.batches(None))

    @cached_property
    def columns(self) -> list[str]:
        """The names of its columns; of texts, those of the first hundred rows.

        Raises:
            DataError: if none of these rows can be read.
        """
        if self.kind in ("parquet", "arrow"):
            return list(self._schema().names)
        names: dict[str, None] = {}
        why = ""
        for _, row in self._first_rows():
            names |= dict.fromkeys(row if isinstance(row, dict) else ())
            why = why or (row if isinstance(row, str) else "")
        if why and not names:
            raise DataError(f"No row of {self.name} can be read", why)
        return list(names)

    @cached_property
    def first(self) -> list[Row]:
        """Its first rows that can be read, at most a hundred; of tables without their images."""
        return [row for _, row in self._first_rows() if isinstance(row, dict)]

    def _first_rows(self) -> Iterator[tuple[int, Row | str]]:
        """The first rows; of a table, the columns without binary values."""
        columns = None
        if self.kind in ("parquet", "arrow"):
            columns = [f.name for f in self._schema() if "binary" not in str(f.type)]
        for place, item in enumerate(self.batches(columns)):
            if place == FIRST:
                return
            yield item

    @cached_property
    def classes(self) -> Mapping[str, Sequence[str]]:
        """Column -> names of its classes, for `ClassLabel` columns, which hold class numbers."""
        if self.kind not in ("parquet", "arrow"):
            return {}
        metadata = self._schema().metadata or {}
        try:
            features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
            found = {name: feature.get("names") for name, feature in features.items()}
            return {name: list(map(str, names)) for name, names in found.items() if names}
        except (AttributeError, KeyError, TypeError, ValueError):
            return {}

    def batches(
        self, columns: Sequence[str] | None, wanted: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Row | str]]:
        """The rows with their numbers; a row that is not a JSON object is a text that says why.

        Args:
            columns: names of the columns to read; all if None. Texts are always read whole.
            wanted: ascending numbers of the rows to read; all if None.

        Raises:
            DataError: if the file is damaged.
        """
        with reading(self.name):
            if self.kind == "jsonl":
                yield from json_lines(self.path, wanted, self.encoding)
            elif self.kind == "csv":
                yield from csv_rows(self.path, wanted, self.encoding)
            elif self.kind in ("json", "folders", "custom"):
                for number, row in enumerate(self._objects()):
                    if any_wanted(wanted, number, number + 1):
                        yield number, row
            else:
                read = parquet_batches if self.kind == "parquet" else arrow_batches
                for first, batch in read(self.path, BATCH, columns, wanted):
                    yield from rows_of_batch(first, batch, wanted)

    def _objects(self) -> Iterator[Row | str]:
        """The rows of JSON, those of folders, and those that custom code yields."""
        if self.kind == "custom":
            for row in load("rows", self.key, {})(self.path):
                yield (
                    dict(row) if isinstance(row, Mapping) else f"a {type(row).__name__}, not a row"
                )
            return
        if self.kind == "json":
            yield from json_rows(self.path, self.name, True, self.key, self.encoding)
            return
        for path in folder_files(self.path, self.key):
            for row in json_rows(path, self.name, True, "", self.encoding):
                given = dict(row) if isinstance(row, dict) else {}
                yield {"images": _images_beside(path, self.path)} | given if given else row

    def _schema(self) -> pa.Schema:
        with reading(self.name):
            return (parquet_schema if self.kind == "parquet" else arrow_schema)(self.path)


def folder_files(parent: Path, name: str) -> list[Path]:
    """The files of one name in the folders of a parent; folders named by numbers in their order."""
    found = [path for path in parent.glob(f"*/{name}") if path.is_file()]
    return sorted(found, key=lambda p: (len(p.parent.name), p.parent.name))


def _images_beside(path: Path, parent: Path) -> list[str]:
    """The images in a problem's folder, relative to `parent`.

    Of `figure.png` and `figure_point.png`, a version of it with marks, the first is taken.
    """
    found = sorted(p for p in path.parent.iterdir() if p.suffix.lower() in IMAGE_FILES)
    stems = [p.stem for p in found]
    plain = [p for p in found if not any(p.stem.startswith(f"{stem}_") for stem in stems)]
    return [p.relative_to(parent).as_posix() for p in plain]


def file_stamp(path: Path) -> str:
    """A text that changes when the file does (size and modification time); empty for no file."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"
