"""What to import: the files of a source, which column holds which field, and how rows are split."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from si import __version__, plugins
from si.datasets.columns import needed_columns, recognise
from si.datasets.find import SPLIT_NAMES, find_files
from si.datasets.row_fields import ParsedRow, parse_row
from si.datasets.rows import Access, File, file_stamp
from si.datasets.splits import Splits
from si.errors import DataError, RecipeError
from si.readers.archives import unpack
from si.readers.reading import Row
from si.store.keys import digest

PARSED = 4  # rises when rows are read differently, so that older notes are not used
NOTED = 256  # rows in a file of notes: at most so many are checked again after a kill

Input = tuple[str | None, Path]  # the split of all its rows, or None; and a file or folder


@dataclass(frozen=True)
class Reading:
    """How a source is read, beyond its columns and splits.

    Attributes:
        kind: the kind of all answers; inferred for each row if None.
        confined: rows may name only files in the source's folder.
        images: further folders, or zip archives, that paths of images may start from.
        encoding: of texts; empty for UTF-8.
        rows: `module:function`, which is called with a path and yields rows; empty for none.
        scratch: a folder to unpack zip archives in; without one they are refused.
    """

    kind: str | None = None
    confined: bool = True
    images: tuple[Path, ...] = ()
    encoding: str = ""
    rows: str = ""
    scratch: Path | None = None


@dataclass
class Source:
    """A source of rows, and how to read it.

    Attributes:
        origin: names the source in the data set's provenance.
        columns: file name -> field -> column.
        notes: for the user, on what is read.
    """

    origin: str
    files: list[File]
    columns: dict[str, dict[str, str]]
    splits: Splits
    how: Reading = Reading()
    notes: list[str] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        path: Path | Sequence[Input],
        given: Mapping[str, str],
        splits: Splits,
        kind: str | None = None,
        origin: str = "",
        how: Reading | None = None,
    ) -> "Source":
        """A file, a folder or several of them as a source.

        Args:
            given: field -> column, which overrides what is recognised.
            kind: as in `Reading`, which overrides it.

        Raises:
            DataError: if it holds no rows, or no column for a needed field is recognised.
            RecipeError: if `splits` maps a name that no file, folder or list has.
        """
        how = how or Reading(kind)
        inputs = [(None, path)] if isinstance(path, Path) else list(path)
        notes: list[str] = []
        files: list[File] = []
        for split, each in inputs:
            found = _files_of(each, splits, how, notes)
            if len(inputs) > 1:
                found = [replace(file, name=f"{each.name}: {file.name}") for file in found]
            files += [replace(file, split=split or file.split) for file in found if file.rows]
        shown = ", ".join(str(each) for _, each in inputs)
        if not files:
            raise DataError(f"{shown} holds no rows")
        files = _unique(files)
        columns = {file.name: recognise(file, given) for file in files}
        if not any("split" in each for each in columns.values()):
            _check_names(splits, files)
        return cls(origin or shown, files, columns, splits, how, notes)

    @property
    def rows(self) -> int:
        """How many rows all its files have."""
        return sum(file.rows for file in self.files)

    def fingerprint(self) -> str:
        """A digest of the files' stamps and of how they are read; it names the folder of notes."""
        seen = []
        for file in self.files:
            path = str(file.path.resolve())
            seen.append([path, file.key, file.split, file.rows, file_stamp(file.path)])
        how = self.how
        folders = [str(folder.resolve()) for folder in how.images]
        code = plugins.fingerprint(how.rows) if how.rows else ""
        read = [how.kind, how.confined, folders, how.encoding, code]
        names = dict(self.splits.names)
        return digest([__version__, PARSED, NOTED, seen, self.columns, names, read])[:24]

    def read(self, file: File, wanted: Sequence[int] | None) -> Iterator[tuple[int, Row | str]]:
        """The rows of a file, or those wanted, with their numbers; see `File.batches`."""
        return file.batches(needed_columns(file, self.columns[file.name]), wanted)

    def parse(self, file: File, row: Row | str) -> ParsedRow:
        """What a row of the file holds.

        Raises:
            BadRow: if it cannot be used.
        """
        return parse_row(row, file, self.columns[file.name], self.splits.names, self.how.kind)


def _check_names(splits: Splits, files: Sequence[File]) -> None:
    """Refuse a name in `--split` that no file, folder or list of the source has."""
    words = {
        word
        for file in files
        for part in re.split(r"[/ ()]", file.name.lower())
        for word in (part, part.partition(".")[0], *re.split(r"[^a-z]+", part))
    }
    words |= {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    saved = any(file.kind in ("arrow", "custom") for file in files)  # may name splits within
    unknown = [name for name in splits.names if name.lower() not in words]
    if unknown and not saved:
        raise RecipeError(
            f"--split maps {unknown[0]!r}, but no file, folder or column of splits is called so",
            "files: " + ", ".join(file.name for file in files[:5]),
            "Map a name that is there, or divide rows by content: --split train=80,dev=10,test=10",
        )


def _files_of(path: Path, splits: Splits, how: Reading, notes: list[str]) -> list[File]:
    """The files of one input; of a zip archive those inside, whose rows are confined to it."""
    images = tuple(_unpacked(each, how) for each in how.images)
    access = Access(how.confined, images)
    if how.rows:
        name = f"{path.name}, rows of {how.rows}"
        made = File(path.parent, name, "custom", None, path, how.rows, "", access)
        return [replace(made, rows=made.count())]
    inner = _unpacked(path, how)
    if inner != path:
        access = replace(access, confined=True)
    return find_files(inner, splits.names, access, how.encoding, notes)


def _unpacked(path: Path, how: Reading) -> Path:
    """A path; of a zip archive, the folder of its files, unpacked once."""
    if path.suffix != ".zip" or not path.is_file():
        return path
    if how.scratch is None:
        raise DataError(f"{path} is a zip archive", "", "Unpack it, and import the folder.")
    stamp = f"{path.resolve()} {file_stamp(path)}"
    name = hashlib.sha256(stamp.encode()).hexdigest()[:16]
    return unpack(path, how.scratch / f"unpacked-{name}")


def _unique(files: Sequence[File]) -> list[File]:
    """Files with names that differ: those of one name get a number."""
    counts: dict[str, int] = {}
    made = []
    for file in files:
        counts[file.name] = counts.get(file.name, 0) + 1
        number = counts[file.name]
        made.append(file if number == 1 else replace(file, name=f"{file.name} ({number})"))
    return made
