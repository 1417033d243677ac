"""Where foreign rows lie: files of a folder, in the layouts that people have, read in batches.

- Parquet, as the Hugging Face hub keeps it (images as structs of `bytes` and `path`) or plain;
- Arrow files as `datasets` saves them: `save_to_disk` folders, with or without
  `dataset_dict.json`, and its cache files;
- JSON lines, and JSON with a list of objects.

Memory is bounded by a batch, whatever the size of a row group: files are mapped, not read.
Names in files are untrusted: what they lead to has to lie in the source's folder.
"""

import json
import mmap
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from si.errors import DataError

BATCH = 32  # rows held at once
KINDS = {".parquet": "parquet", ".arrow": "arrow", ".jsonl": "jsonl", ".json": "json"}
# Files that describe a data set, and what `datasets` caches beside one.
ABOUT = re.compile(r"(dataset_infos?|dataset_dict|state|config|metadata_schema)\.json|cache-.*")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("dev", "development", "val", "valid", "validation", "eval"), "dev"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}

Row = dict[str, Any]


@dataclass(frozen=True)
class File:
    """One file of rows.

    Attributes:
        root: the source's folder; nothing outside it is read.
        name: path below the root, `/`-separated.
        split: the split that its name or folder says, or None.
    """

    root: Path
    name: str
    kind: str
    split: str | None
    rows: int = field(compare=False)

    @property
    def path(self) -> Path:
        return self.root / self.name

    def place(self, row: int) -> str:
        """A row as people find it: lines count from 1, rows of a table from 0."""
        return f"{self.name} line {row}" if self.kind == "jsonl" else f"{self.name} row {row}"

    @cached_property
    def columns(self) -> list[str]:
        """Names of its columns; of JSON, those of the first hundred rows."""
        if self.kind in ("parquet", "arrow"):
            with speaking(self.name):
                schema = _schema(self.path, self.kind)
            return list(schema.names)
        names: dict[str, None] = {}
        for _, row in self.batches(None, range(101)):
            names |= dict.fromkeys(row if isinstance(row, dict) else ())
        return list(names)

    @cached_property
    def classes(self) -> Mapping[str, Sequence[str]]:
        """Names of the classes of `ClassLabel` columns, which are stored as numbers."""
        if self.kind not in ("parquet", "arrow"):
            return {}
        with speaking(self.name):
            about = _schema(self.path, self.kind).metadata or {}
        try:
            features = json.loads(about.get(b"huggingface", b"{}"))["info"]["features"]
            found = {name: feature.get("names") for name, feature in features.items()}
            return {name: list(map(str, names)) for name, names in found.items() if names}
        except (AttributeError, KeyError, TypeError, ValueError):
            return {}

    def batches(
        self, columns: Sequence[str] | None, wanted: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Row | str]]:
        """Rows with their numbers; a line that is no JSON object as a string that says why.

        Args:
            columns: the columns to read; all if None.
            wanted: ascending numbers of the rows to read; all if None.
        """
        read = {"parquet": self._parquet, "arrow": self._arrow}.get(self.kind)
        with speaking(self.name):
            if read is not None:
                for start, batch in read(columns, wanted):
                    yield from _chosen(start, batch, wanted)
            elif self.kind == "jsonl":
                yield from _lines(self.path, wanted)
            else:
                rows = _json_rows(self.path, self.name)
                for number, row in enumerate(rows):
                    if _any(wanted, number, number + 1):
                        yield number, _object(row)

    def _parquet(
        self, columns: Sequence[str] | None, wanted: Sequence[int] | None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        # Without pre-buffering, a mapped column chunk is not copied: row groups may be huge.
        with pq.ParquetFile(self.path, memory_map=True, pre_buffer=False) as file:
            start = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if _any(wanted, start, start + rows):
                    at = start
                    for batch in file.iter_batches(BATCH, [group], columns):
                        if _any(wanted, at, at + len(batch)):
                            yield at, batch
                        at += len(batch)
                start += rows

    def _arrow(
        self, columns: Sequence[str] | None, wanted: Sequence[int] | None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        start = 0
        with pa.memory_map(str(self.path)) as source:
            for batch in _arrow_batches(source):
                if _any(wanted, start, start + len(batch)):
                    batch = batch if columns is None else batch.select(list(columns))
                    for at in range(0, len(batch), BATCH):
                        if _any(wanted, start + at, start + at + BATCH):
                            yield start + at, batch.slice(at, BATCH)
                start += len(batch)


def find(source: Path, splits: Mapping[str, str]) -> list[File]:
    """The files of a source, in a fixed order: one file, or what a folder holds.

    A folder with files of several kinds is read as the first of Arrow, Parquet, JSON lines,
    JSON: the others are the same rows again, or annotations.

    Args:
        source: a file or a folder.
        splits: further names of splits, as they occur in names of files and folders.

    Raises:
        DataError: if there is nothing to read, or a file cannot be read.
    """
    if source.is_file():
        if source.suffix not in KINDS:
            raise DataError(
                f"{source.name} is of no kind that can be imported",
                f"known: {', '.join(KINDS)}",
            )
        paths = [source]
    elif source.is_dir():
        found = sorted(
            path
            for path in source.rglob("*")
            if path.suffix in KINDS
            and path.is_file()
            and not ABOUT.fullmatch(path.name)
            and not any(part.startswith(".") for part in path.relative_to(source).parts)
        )
        kinds = sorted({path.suffix for path in found}, key=[".arrow", *KINDS].index)
        paths = [path for path in found if path.suffix == kinds[0]]
        if kinds and kinds[0] == ".arrow":
            paths = _saved(paths)
    else:
        raise DataError(
            f"There is no file or folder {source}",
            "",
            "A data set of the Hugging Face hub is named owner/name.",
        )
    if not paths:
        raise DataError(
            f"{source} holds no data that can be imported",
            f"files looked for: {', '.join('*' + suffix for suffix in KINDS)}",
        )
    root = source if source.is_dir() else source.parent
    names = SPLIT_NAMES | {name.lower(): split for name, split in splits.items()}
    return [_file(root, path, names) for path in paths]


def _file(root: Path, path: Path, names: Mapping[str, str]) -> File:
    name = path.relative_to(root).as_posix()
    kind = KINDS[path.suffix]
    with speaking(name):
        return File(root, name, kind, _split(root, path, names), _count(path, kind, name))


def _split(root: Path, path: Path, names: Mapping[str, str]) -> str | None:
    """The split in the file's name, else in the nearest folder's, else what `datasets` noted."""
    inner = path.relative_to(root)
    for part in (inner.stem, *reversed(inner.parent.parts)):
        whole = part.lower()
        for word in (whole, *re.split(r"[^a-z]+", whole)):
            if word in names:
                return names[word]
    noted = _state(path.parent).get("_split")
    return names.get(noted.lower()) if isinstance(noted, str) else None


def _state(folder: Path) -> dict[str, Any]:
    """What `datasets` noted of a folder that it saved; empty where it saved none."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _saved(paths: list[Path]) -> list[Path]:
    """Arrow files, without those that their folder's `state.json` does not name."""
    kept = []
    for folder in dict.fromkeys(path.parent for path in paths):
        here = {path.name: path for path in paths if path.parent == folder}
        listed = _state(folder).get("_data_files")
        if isinstance(listed, list):
            names = [str(entry["filename"]) for entry in listed if "filename" in entry]
            missing = [name for name in names if name not in here]
            if missing:
                raise DataError(
                    f"The data set saved in {shown(folder.name)} is not whole",
                    f"its state.json names {missing[0]!r}, which is not there",
                )
            kept += [here[name] for name in names]
        else:
            kept += here.values()
    return kept


@contextmanager
def speaking(name: str) -> Iterator[None]:
    """Say what readers raise over damaged files, as `DataError`."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        said = str(error).splitlines() or [type(error).__name__]
        raise DataError(f"The file {shown(name)} cannot be read", shown(said[0])) from error


def shown(text: str) -> str:
    """Text from outside on one line of a screen: nothing that a terminal would obey."""
    return "".join(char if char.isprintable() else "�" for char in text)[:300]


def inside(root: Path, folder: Path, name: str) -> Path:
    """The file that a row names, relative to `folder`, if it lies below `root`.

    Raises:
        DataError: if it leads elsewhere, or nothing is there.
    """
    try:
        target = (folder / name).resolve()
        if Path(name).is_absolute() or not target.is_relative_to(root.resolve()):
            raise DataError("path leaves the folder", repr(name))
        if not target.is_file():
            raise DataError("missing image", f"no file {name!r}")
    except (OSError, ValueError) as error:  # too long, or with a zero in it
        raise DataError("missing image", f"no file {name[:80]!r}") from error
    return target


def stamp(path: Path) -> str:
    """What changes when a file does; empty where there is none."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"


# -- the formats ------------------------------------------------------------------------------


def _schema(path: Path, kind: str) -> pa.Schema:
    if kind == "parquet":
        return pq.read_schema(path, memory_map=True)
    with pa.memory_map(str(path)) as source:
        return _opened(source).schema


def _opened(source: Any) -> Any:
    """A reader of Arrow's stream format, which `datasets` writes, or of its file format."""
    magic = source.read(6)
    source.seek(0)
    return pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source)


def _arrow_batches(source: Any) -> Iterator[pa.RecordBatch]:
    reader = _opened(source)
    if isinstance(reader, pa.RecordBatchFileReader):
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from reader


def _count(path: Path, kind: str, name: str) -> int:
    if kind == "parquet":
        return int(pq.read_metadata(path, memory_map=True).num_rows)
    if kind == "arrow":
        with pa.memory_map(str(path)) as source:
            return sum(len(batch) for batch in _arrow_batches(source))
    if kind == "json":
        return len(_json_rows(path, name))
    return sum(1 for _ in _stored_lines(path))


def _stored_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1."""
    if path.stat().st_size == 0:  # cannot be mapped
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for number, line in enumerate(iter(mapped.readline, b""), 1):
            if not line.isspace():
                yield number, line


def _lines(path: Path, wanted: Sequence[int] | None) -> Iterator[tuple[int, Row | str]]:
    for number, line in _stored_lines(path):
        if _any(wanted, number, number + 1):
            try:
                yield number, _object(json.loads(line))
            except (ValueError, RecursionError) as error:
                yield number, f"no JSON: {error}"
        elif wanted is not None and number > wanted[-1]:
            return


def _json_rows(path: Path, name: str) -> list[Any]:
    """The list of objects in a JSON file, or the one list in its object."""
    try:
        whole = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"The file {shown(name)} is no JSON", str(error)) from error
    if isinstance(whole, dict):
        lists = [value for value in whole.values() if isinstance(value, list)]
        whole = lists[0] if len(lists) == 1 else whole
    if not isinstance(whole, list):
        raise DataError(
            f"The file {shown(name)} holds no list of rows", f"it holds a {_type(whole)}"
        )
    return whole


def _object(row: Any) -> Row | str:
    return row if isinstance(row, dict) else f"a {_type(row)} instead of an object"


def _type(value: Any) -> str:
    return type(value).__name__


def _chosen(
    start: int, batch: pa.RecordBatch, wanted: Sequence[int] | None
) -> Iterator[tuple[int, Row]]:
    if wanted is None:
        yield from enumerate(batch.to_pylist(), start)
        return
    first, last = (bisect_left(wanted, at) for at in (start, start + len(batch)))
    for number in wanted[first:last]:
        yield number, batch.slice(number - start, 1).to_pylist()[0]


def _any(wanted: Sequence[int] | None, start: int, stop: int) -> bool:
    """Whether a row from `start` to `stop` is wanted."""
    if wanted is None:
        return True
    at = bisect_left(wanted, start)
    return at < len(wanted) and wanted[at] < stop
