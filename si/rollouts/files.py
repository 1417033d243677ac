"""Rollouts in JSON lines, JSON and Parquet files of any tool, or in memory."""

import re
import shutil
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pyarrow as pa

from si.errors import DataError
from si.metrics import Array
from si.readers.aliases import root
from si.readers.archives import unpack
from si.readers.files import KINDS
from si.rollouts.chunks import Part, Row, Text, chunks, first_rows, is_rollouts
from si.rollouts.identity import candidates, is_finer
from si.rollouts.judging import rollout_fields
from si.rollouts.known_tools import Layout
from si.rollouts.normalise import Normaliser
from si.rollouts.recognise import recognise
from si.rollouts.table import IMAGES, Bad
from si.rollouts.training_images import located

_STEP = re.compile(r"(?:^|step[-_]?|completions_|iter(?:ation)?[-_]?)(\d+)$", re.IGNORECASE)
_TASK = re.compile(r"samples_(.+?)(?:_\d{4}-\d\d-\d\dT.*)?$")


# Judges files, as `si.rollouts.judging.judge_files` does, given its first four arguments.
Judging = Callable[
    [Sequence[tuple[str, Path]], Collection[str], Mapping[str, str], Path],
    tuple[list[tuple[str, Path]], list[str]],
]


class FileSource:
    """Rollouts in files, or in memory, as a `si.rollouts.table.Source`.

    Args:
        parts: (name, file or rows) in the order in which they are read.
        mapping: field -> column or path; it overrides what is recognised.
        found: names of parts that were found in a folder. Those without the columns that matter are
            left out; every other part has to have them.
        folders: name of a part -> the folder that its paths of images start from, for parts that
            are not the files themselves.

    Raises:
        DataError: if there is nothing to read, or the columns are not recognised.
    """

    def __init__(
        self,
        parts: Sequence[tuple[str, Part]],
        mapping: Mapping[str, str] | None = None,
        found: Collection[str] = (),
        folders: Mapping[str, Path] | None = None,
    ):
        self.notes: list[str] = []
        self.folders = folders or {}
        self.bad: list[Bad] = []
        self.parts = list(parts)
        if not self.parts:
            raise DataError("There is nothing to read", f"looked for {', '.join(KINDS)}")
        self._recognise(mapping or {}, set(found))
        self._leave_out_validation()
        self._take_finer_id(mapping or {})
        self.files = [name for name, _ in self.parts]
        # The step is taken from the file's name if files differ in it, or no column has it.
        self.step_by_name = len(self.parts) > 1 or "step" not in self.layout.columns

    @classmethod
    def of_paths(
        cls,
        paths: Sequence[Path],
        mapping: Mapping[str, str] | None = None,
        encoding: str = "",
        judge: Judging | None = None,
    ) -> "FileSource":
        """Rollouts in files and folders; of a folder, every file with a suffix that can be read.

        Args:
            encoding: of texts; empty for UTF-8.
            judge: judges the files first, and takes its verdicts as rewards.

        Raises:
            DataError: if a path does not exist, or there is nothing to read.
        """
        zipped = any(map(is_zip, paths))
        scratch = Path(mkdtemp(prefix="si-rollouts-")) if zipped or judge else None
        try:
            files, found = files_of(paths, scratch)
            if judge and scratch:
                copies, notes = judge(files, found, mapping or {}, scratch / "judged")
                folders = {name: path.parent for name, path in files}
                made = cls(copies, rollout_fields(mapping or {}), found, folders)
                made.notes[:0] = notes
            else:
                parts = [(name, Text(path, encoding) if encoding else path) for name, path in files]
                made = cls(parts, mapping, found)
        except BaseException:
            if scratch:
                shutil.rmtree(scratch, ignore_errors=True)
            raise
        if scratch:
            weakref.finalize(made, shutil.rmtree, scratch, True)
        return made

    def _recognise(self, mapping: Mapping[str, str], found: set[str]) -> None:
        """Take the layout of the first part that has one; of those found, keep who share it."""
        refused: DataError | None = None
        known: Layout | None = None
        kept = []
        for name, part in self.parts:
            if known is not None and name not in found:
                kept.append((name, part))
                continue
            names, rows = first_rows(name, part)
            if known is None and rows:
                try:
                    known, notes = recognise(names, rows, mapping, name)
                    self.first: tuple[list[str], list[Row]] = names, rows
                except DataError as error:
                    if name not in found:
                        raise
                    refused = refused or error
            shares_it = known is not None and rows and _key_columns(known, names) <= set(names)
            if shares_it or name not in found:
                kept.append((name, part))
        if known is None:
            first = ", ".join(name for name, _ in self.parts[:3])
            raise refused or DataError(f"No rollouts in {first}", "there are no rows")
        self.layout = known
        self.notes += notes
        left = len(self.parts) - len(kept)
        if left:
            files, are = ("files have", "are") if left > 1 else ("file has", "is")
            self.notes.append(f"{left} other {files} no such columns and {are} left out.")
        self.parts = kept

    def _leave_out_validation(self) -> None:
        """Of NeMo-RL, which writes training and validation into one folder, keep training."""
        stems = [(Path(name).name, name) for name, _ in self.parts]
        training = {name for stem, name in stems if stem.startswith("train_data")}
        if self.layout.name == "NeMo-RL" and training and len(training) < len(self.parts):
            left = len(self.parts) - len(training)
            self.notes.append(f"Files of validation beside those of training are left out: {left}.")
            self.parts = [part for part in self.parts if part[0] in training]

    def _take_finer_id(self, mapping: Mapping[str, str]) -> None:
        """Identify queries by a column of ids if it separates queries with equal prompts."""
        columns = self.layout.columns
        prompt = columns.get("prompt", columns.get("messages"))
        if "query_id" in columns or prompt is None:
            return
        names, rows = self.first
        self.step_by_name = len(self.parts) > 1 or "step" not in columns
        for name in candidates(names, rows, prompt):
            other = replace(self.layout, columns={**columns, "query_id": name})
            if is_finer(self._pairs(other)):
                self.layout = other
                self.notes.append(
                    f"The column {name} separates queries with the same {prompt}. "
                    "If it does not identify queries, name another: --map query_id=COLUMN."
                )
                return
        answer = self.layout.answer
        parts = [prompt, *([answer] if answer else []), columns.get("images", "")]
        words = " and ".join(filter(None, parts))
        self.notes.append(f"Rows with the same {words} count as one query.")

    def _pairs(self, other: Layout) -> Iterator[tuple[Array, pa.Array, pa.Array]]:
        """Batches of steps, ids by this layout, and ids by another one; [samples] each."""
        _, rows = self.first
        for name, part in self.parts:
            here = self._normaliser(name, self.layout, set())
            there = self._normaliser(name, other, set())
            columns = list(dict.fromkeys((*here.columns, *there.columns)))
            number = 1
            for chunk in chunks(name, part, columns, rows, []):
                ours, theirs = (n.table(name, chunk, number, []) for n in (here, there))
                number += len(chunk)
                yield ours["step"].to_numpy(), ours["query_id"], theirs["query_id"]

    def _normaliser(self, name: str, layout: Layout, wanted: set[str]) -> Normaliser:
        """Reads a part: steps and tasks come from its name where no column has them."""
        stem = Path(name).name.removesuffix(".gz").rpartition(".")[0]
        step, task = _STEP.search(stem), _TASK.search(stem)
        return Normaliser(
            layout,
            self.first[0],
            wanted,
            int(step[1]) if step and self.step_by_name else 0,
            f"{task[1]}/" if task and "query_id" in layout.columns else "",
        )

    def scan(self, fields: Iterable[str]) -> Iterator[pa.Table]:
        """The rollouts in batches, as `si.rollouts.table.Source.scan` says.

        Bad rows are collected in `self.bad` during the first scan.
        """
        wanted, first_scan = set(fields), not self.bad
        bad: list[Bad] = []
        _, rows = self.first
        for name, part in self.parts:
            normaliser = self._normaliser(name, self.layout, wanted)
            number = 1
            for chunk in chunks(name, part, normaliser.columns, rows, bad):
                table = normaliser.table(name, chunk, number, bad)
                number += len(chunk)
                if "images" in wanted and "images" in table.column_names:
                    table = _located(table, self.folders.get(name) or _folder(part))
                if len(table):
                    yield table
        if first_scan:
            self.bad = bad


def _folder(part: Part) -> Path:
    """The folder of a file; the current one for rows in memory."""
    path = part.path if isinstance(part, Text) else part
    return path.parent if isinstance(path, Path) else Path()


def _located(table: pa.Table, folder: Path) -> pa.Table:
    """A table whose paths of images, which are relative to a folder, are absolute."""
    cells = [located(images or [], folder) for images in table["images"].to_pylist()]
    place = table.column_names.index("images")
    return table.set_column(place, "images", pa.array(cells, IMAGES))


def is_zip(path: Path) -> bool:
    """Whether a path is a zip archive, by its name."""
    return path.suffix == ".zip" and path.is_file()


def files_of(
    paths: Sequence[Path], scratch: Path | None = None
) -> tuple[list[tuple[str, Path]], set[str]]:
    """The files in files, folders and zip archives, as (name, path) in their order.

    Args:
        scratch: a folder to unpack zip archives in; needed if there are any.

    Returns:
        The files, and the names of those that were found in a folder or an archive.

    Raises:
        DataError: if a path does not exist, or there is nothing to read.
    """
    files: list[tuple[str, Path]] = []
    found: set[str] = set()
    for number, path in enumerate(paths):
        folder = unpack(path, scratch / str(number)) if scratch and is_zip(path) else path
        if folder.is_dir():
            inside = sorted(filter(is_rollouts, folder.rglob("*")), key=_natural)
            named = [(str(path / p.relative_to(folder)), p) for p in inside]
            files += named
            found |= {name for name, _ in named}
        elif path.exists():
            files.append((str(path), path))
        else:
            raise DataError(f"There is no file {path}", f"looked in {path.absolute().parent}")
    if not files:
        raise DataError(
            f"No rollouts in {', '.join(map(str, paths))}",
            f"looked for {', '.join(KINDS)}, also with .gz",
        )
    return files, found


def _key_columns(layout: Layout, names: Sequence[str]) -> set[str]:
    """The columns without which a file is not of this layout."""
    needed = ("query_id",) if "query_id" in layout.columns else ("prompt", "messages")
    paths = [layout.columns[field] for field in ("reward", *needed) if field in layout.columns]
    return {root(path, names) for path in paths}


def _natural(path: Path) -> list[Any]:
    """Sorts `2.jsonl` before `10.jsonl`."""
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", str(path))]
