"""Find the files of a data set to import, and read their rows in batches.

- Parquet, as the Hugging Face hub stores it (images as structs of `bytes` and `path`) or plain;
- Arrow files as `datasets` saves them: folders of `save_to_disk`, with or without
  `dataset_dict.json`, and its cache files;
- JSON lines, and JSON with a list of objects.

Names in files are untrusted: a file that a row names is read only if it lies in the source's
folder.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from si.errors import DataError
from si.readers.files import (
    Row,
    any_wanted,
    arrow_batches,
    arrow_schema,
    count_arrow_rows,
    count_json_lines,
    count_parquet_rows,
    json_lines,
    json_rows,
    parquet_batches,
    parquet_schema,
    reading,
    rows_of_batch,
)
from si.untrusted import one_line

BATCH = 32  # rows in memory at a time
KINDS = {".parquet": "parquet", ".arrow": "arrow", ".jsonl": "jsonl", ".json": "json"}
# Files that describe a data set rather than hold it, and files that `datasets` caches beside one.
NOT_ROWS = re.compile(r"(dataset_infos?|dataset_dict|state|config|metadata_schema)\.json|cache-.*")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("dev", "development", "val", "valid", "validation", "eval"), "dev"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}


@dataclass(frozen=True)
class File:
    """A file of rows.

    Attributes:
        root: the source's folder; nothing outside it is read.
        name: path below the root, `/`-separated.
        kind: parquet, arrow, jsonl or json.
        split: the split that the file's name or folder stands for, or None.
        rows: how many there are.
    """

    root: Path
    name: str
    kind: str
    split: str | None
    rows: int = field(compare=False)

    @property
    def path(self) -> Path:
        return self.root / self.name

    def location(self, row: int) -> str:
        """Where a row is, in words: lines count from 1, rows of a table from 0."""
        return f"{self.name} line {row}" if self.kind == "jsonl" else f"{self.name} row {row}"

    @cached_property
    def columns(self) -> list[str]:
        """The names of its columns; for JSON, those of its first hundred rows."""
        if self.kind in ("parquet", "arrow"):
            return list(self._schema().names)
        names: dict[str, None] = {}
        for _, row in self.batches(None, range(101)):
            names |= dict.fromkeys(row if isinstance(row, dict) else ())
        return list(names)

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
            columns: names of the columns to read; all if None. JSON is always read whole.
            wanted: ascending numbers of the rows to read; all if None.

        Raises:
            DataError: if the file is damaged.
        """
        with reading(self.name):
            if self.kind == "jsonl":
                yield from json_lines(self.path, wanted)
            elif self.kind == "json":
                for number, row in enumerate(json_rows(self.path, self.name)):
                    if any_wanted(wanted, number, number + 1):
                        yield number, row
            else:
                read = parquet_batches if self.kind == "parquet" else arrow_batches
                for first, batch in read(self.path, BATCH, columns, wanted):
                    yield from rows_of_batch(first, batch, wanted)

    def _schema(self) -> pa.Schema:
        with reading(self.name):
            return (parquet_schema if self.kind == "parquet" else arrow_schema)(self.path)


def find_files(source: Path, splits: Mapping[str, str]) -> list[File]:
    """The files of a source, in a fixed order: the one file, or those that a folder holds.

    From a folder with files of several kinds only those of the first kind are read, in the order
    Arrow, Parquet, JSON lines, JSON: the others are usually the same rows, or annotations.

    Args:
        source: a file or a folder.
        splits: name -> split, in addition to `SPLIT_NAMES`, for names of files and folders.

    Raises:
        DataError: if there is nothing to read, or a file is damaged.
    """
    if source.is_file():
        if source.suffix not in KINDS:
            raise DataError(
                f"{source.name} has a suffix that cannot be imported",
                f"known suffixes: {', '.join(KINDS)}",
            )
        paths = [source]
    elif source.is_dir():
        paths = _of_first_kind(source)
    else:
        raise DataError(
            f"There is no file or folder {source}",
            "",
            "To import from the Hugging Face hub, name the data set as owner/name.",
        )
    if not paths:
        raise DataError(
            f"{source} holds no files that can be imported",
            f"looked for {', '.join('*' + suffix for suffix in KINDS)}",
        )
    root = source if source.is_dir() else source.parent
    names = SPLIT_NAMES | {name.lower(): split for name, split in splits.items()}
    return [_file(root, path, names) for path in paths]


def _of_first_kind(folder: Path) -> list[Path]:
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in KINDS
        and path.is_file()
        and not NOT_ROWS.fullmatch(path.name)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    suffixes = sorted({path.suffix for path in found}, key=[".arrow", *KINDS].index)
    paths = [path for path in found if path.suffix == suffixes[0]]
    return _saved_files(paths) if suffixes[:1] == [".arrow"] else paths


def _file(root: Path, path: Path, names: Mapping[str, str]) -> File:
    name = path.relative_to(root).as_posix()
    kind = KINDS[path.suffix]
    with reading(name):
        if kind == "json":
            rows = len(json_rows(path, name))
        else:
            count = {"parquet": count_parquet_rows, "arrow": count_arrow_rows}
            rows = count.get(kind, count_json_lines)(path)
        return File(root, name, kind, _split_of(root, path, names), rows)


def _split_of(root: Path, path: Path, names: Mapping[str, str]) -> str | None:
    """The split named by the file, else by the nearest folder, else by the notes of `datasets`."""
    relative = path.relative_to(root)
    for part in (relative.stem, *reversed(relative.parent.parts)):
        whole = part.lower()
        for word in (whole, *re.split(r"[^a-z]+", whole)):
            if word in names:
                return names[word]
    saved = _saved_state(path.parent).get("_split")
    return names.get(saved.lower()) if isinstance(saved, str) else None


def _saved_state(folder: Path) -> dict[str, Any]:
    """The `state.json` that `datasets` writes into a folder it saves; empty where there is none."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _saved_files(paths: list[Path]) -> list[Path]:
    """Arrow files, in the order of their folder's `state.json`; those it does not list are left
    out."""
    kept = []
    for folder in dict.fromkeys(path.parent for path in paths):
        here = {path.name: path for path in paths if path.parent == folder}
        listed = _saved_state(folder).get("_data_files")
        if isinstance(listed, list):
            names = [str(entry["filename"]) for entry in listed if "filename" in entry]
            missing = [name for name in names if name not in here]
            if missing:
                raise DataError(
                    f"The data set saved in {one_line(folder.name)} is incomplete",
                    f"its state.json lists {missing[0]!r}, which is missing",
                    "Save or copy the data set again.",
                )
            kept += [here[name] for name in names]
        else:
            kept += here.values()
    return kept


def file_inside(root: Path, folder: Path, name: str) -> Path:
    """The file that a row names, relative to `folder`, if it lies below `root`.

    Raises:
        DataError: if the path leaves `root`, also through a link, or there is no file.
    """
    try:
        target = (folder / name).resolve()
        if Path(name).is_absolute() or not target.is_relative_to(root.resolve()):
            raise DataError("path leaves the folder", repr(name))
        if not target.is_file():
            raise DataError("missing image", f"no file {name!r}")
    except (OSError, ValueError) as error:  # the name is too long, or holds a zero byte
        raise DataError("missing image", f"no file {name[:80]!r}") from error
    return target


def file_stamp(path: Path) -> str:
    """A text that changes when the file does (size and modification time); empty for no file."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"
