"""Import: anybody's rows to a data set in the store.

Two passes, so that nothing is committed of a source that has a bad row:

1. *Check*. Every row is read and understood, its images are decoded, its content id is taken.
   What was found is noted, a few hundred rows a file, in a folder beside the store. Notes are
   no data: they let the same command go on where it was killed, and can be deleted.
2. *Commit*. From the notes follow each row's split, who is left out as a repetition, the shards
   and the artefact's key: what is in the data set, not how its source was stored. The source is
   read again, and each shard committed once, as docs/operations.md says under "Commit".

Both hold a few dozen rows and at most one open shard a split, however large the source.
"""

import hashlib
import json
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from si import __version__
from si.datasets.columns import BadRow, Told, label, needed, recognise, understand
from si.datasets.rows import File, Row, find, shown, stamp
from si.datasets.sources import parts
from si.datasets.splits import Splits
from si.errors import DataError, StageFailed
from si.events import Event
from si.records import SPLITS
from si.store.commit import Manifest, announce, commit_shard, committed, finish
from si.store.commit import load_manifest as load
from si.store.keys import Spec, digest
from si.store.port import Store

SHARD_ROWS = 4000
SHARD_BYTES = 64 << 20  # of encoded images
NOTED = 256  # rows in a file of notes: what a kill costs at most
WINDOW = 64  # rows at work at once
ENOUGH = 100  # bad rows, after which an import that will fail looks no further
SHOWN = 20  # of anything that is listed on screen

NOTES = pa.schema(
    [
        ("row", pa.int64()),
        ("label", pa.string()),  # the row's own id
        ("split", pa.string()),  # as the source says; null where it says nothing
        ("query_id", pa.string()),
        ("group", pa.binary()),  # of its images: rows that share them stay in one split
        ("mark", pa.binary()),  # of all that is stored: the source may change between passes
        ("size", pa.int64()),
        ("changed", pa.string()),  # what was done to its images
        ("files", pa.list_(pa.list_(pa.string()))),  # those that it names, with their stamps
        ("field", pa.string()),  # what is bad, and why; null where the row is good
        ("why", pa.string()),
    ]
)


class Bad(NamedTuple):
    """A row that cannot be used: where it is, which field is at fault, why."""

    place: str
    label: str
    field: str
    why: str

    def __str__(self) -> str:
        which = f" (id {self.label})" if self.label else ""
        return f"{self.place}{which}, {self.field}: {self.why}"


@dataclass
class Imported:
    """What an import came to.

    Attributes:
        rows: rows in the source.
        dealt: splits came from the rows' content, by `shares`, for so many rows.
        bad: rows left out, each named.
        repeats: rows that repeat one of their own split, and are left out.
        overlaps: (earlier split, later split, place) of rows that an earlier split has too; the
            later one loses them.
        changed: what was done to images -> how many rows.
        kept: the data set was there already.
    """

    manifest: Manifest
    rows: int
    dealt: int
    bad: list[Bad]
    repeats: int
    overlaps: list[tuple[str, str, str]]
    changed: Counter[str]
    kept: bool


@dataclass
class Source:
    """What to import, and how to read it.

    Attributes:
        origin: the source in words, for the provenance.
        columns: file name -> field -> column.
        kind: the answers' kind; inferred row by row if None.
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
        """Look at a file or a folder: which files, which columns.

        Raises:
            DataError: if it holds no rows, or a column that is needed is not found.
        """
        files = [file for file in find(path, splits.names) if file.rows]
        if not files:
            raise DataError(f"{path} holds no rows")
        columns = {file.name: recognise(file, given) for file in files}
        return cls(origin or str(path), files, columns, splits, kind)

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def fingerprint(self) -> str:
        """What the notes hang on: the files as they are, and how they are read."""
        seen = []
        for file in self.files:
            seen.append([str(file.path.resolve()), file.split, stamp(file.path)])
        names = dict(self.splits.names)
        return digest([__version__, NOTED, seen, self.columns, names, self.kind])[:24]

    def read(self, file: File, wanted: Sequence[int] | None) -> Iterator[tuple[int, Row | str]]:
        return file.batches(needed(file, self.columns[file.name]), wanted)

    def tell(self, file: File, row: Row | str) -> Told:
        return understand(row, file, self.columns[file.name], self.splits.names, self.kind)


def import_data(
    store: Store,
    source: Source,
    name: str,
    folder: Path,
    skip_bad: bool = False,
    on_event: Callable[[Event], None] = lambda _: None,
) -> Imported:
    """Commit a source's rows as a data set, or find them committed.

    Args:
        name: the data set's name, and the family of rows that name none.
        folder: where notes lie; the same command goes on from them.
        skip_bad: leave bad rows out instead of refusing the source.
        on_event: hears of `check` and `commit`: `done` rows of `total`.

    Raises:
        DataError: for bad rows, unless `skip_bad`; if no row is left; if the source changes
            while it is read.
    """
    notes = folder / source.fingerprint()
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, "import") as pool:
        table = _check(source, notes, pool, skip_bad, on_event)
        plan = _plan(source, table)
        if plan.bad and not skip_bad:
            raise _refusal(source, plan.bad, notes)
        if not plan.shards:
            raise DataError(f"Of {source.origin} no row is left", f"{len(plan.bad)} are bad")
        spec = Spec(
            "import",
            name,
            settings={},
            params={"rows": plan.digest, "family": name},
            inputs={},
            shards=len(plan.shards),
        )
        manifest = load(store, spec)
        kept = manifest is not None
        if manifest is None:
            try:
                manifest = _commit(store, spec, source, plan, pool, on_event)
            except _SourceChanged as error:
                shutil.rmtree(notes, ignore_errors=True)
                raise DataError(
                    f"The source changed while it was imported: {error}",
                    source.origin,
                    "Run the same command again; it begins anew.",
                ) from error
    return Imported(
        manifest,
        rows=source.rows,
        dealt=plan.dealt,
        bad=plan.bad,
        repeats=plan.repeats,
        overlaps=plan.overlaps,
        changed=plan.changed,
        kept=kept,
    )


def _refusal(source: Source, bad: list[Bad], notes: Path) -> DataError:
    listing = notes / "bad-rows.txt"
    listing.write_text("".join(f"{row}\n" for row in bad))
    first = [str(row) for row in bad[:SHOWN]]
    more = f"... all of them: {listing}" if len(bad) > SHOWN else ""
    count = f"at least {len(bad)}" if len(bad) >= ENOUGH else str(len(bad))
    return DataError(
        f"{count} of {source.rows:,} rows cannot be used; nothing was imported",
        "\n".join([*first, *filter(None, [more])]),
        (
            "Mend the rows and run the same command again.",
            "Leave them out, counted and listed: --skip-bad",
            "If a column was taken for the wrong field, say which one it is: --map FIELD=COLUMN",
        ),
    )


# -- check ------------------------------------------------------------------------------------


def _check(
    source: Source,
    notes: Path,
    pool: ThreadPoolExecutor,
    skip_bad: bool,
    on_event: Callable[[Event], None],
) -> pa.Table:
    """Notes of all rows, with their file's number; those that were made before are kept."""
    notes.mkdir(parents=True, exist_ok=True)
    tables = []
    done = bad = 0

    def add(number: int, table: pa.Table) -> None:
        nonlocal done, bad
        tables.append(table.append_column("file", pa.array([number] * len(table), pa.int32())))
        done += len(table)
        bad += len(table) - table["field"].null_count
        on_event({"event": "check", "done": done, "total": source.rows, "bad": bad})

    def write(name: str, table: pa.Table) -> None:
        temporary = notes / f".{os.getpid()}.tmp"
        with temporary.open("wb") as file:
            pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(notes / name)

    for number, file in enumerate(source.files):
        look = partial(_note, source, file)
        begin = there = 0
        for path in sorted(notes.glob(f"{number:05d}-*.parquet")):
            table = pq.read_table(path, schema=NOTES, partitioning=None)
            stale = _stale(table)
            if stale:
                again = _ordered(pool, look, source.read(file, stale))
                table = _replaced(table, {note["row"]: note for note in again})
                write(path.name, table)
            begin = table["row"][-1].as_py() + 1
            there += len(table)
            add(number, table)
        if there == file.rows or (bad >= ENOUGH and not skip_bad):
            continue
        rows = source.read(file, range(begin, 1 << 50))
        for chunk in _chunks(_ordered(pool, look, rows), NOTED):
            table = pa.Table.from_pylist(chunk, NOTES)
            write(f"{number:05d}-{chunk[0]['row']:010d}.parquet", table)
            add(number, table)
            if bad >= ENOUGH and not skip_bad:
                break
    return pa.concat_tables(tables)


def _stale(table: pa.Table) -> list[int]:
    """Rows to look at again: bad ones may have been mended, and files that rows name changed."""
    return [
        note["row"]
        for note in table.select(["row", "field", "files"]).to_pylist()
        if note["field"] is not None
        or any(stamp(Path(path)) != before for path, before in note["files"] or ())
    ]


def _replaced(table: pa.Table, anew: Mapping[int, Mapping[str, Any]]) -> pa.Table:
    notes = [anew.get(note["row"], note) for note in table.to_pylist()]
    return pa.Table.from_pylist(notes, NOTES)


def _note(source: Source, file: File, item: tuple[int, Row | str]) -> dict[str, Any]:
    """What looking at one row finds."""
    from si.datasets.images import fit
    from si.embedded.families import content_id

    number, row = item
    columns = source.columns[file.name]
    note: dict[str, Any] = {"row": number, "label": shown(label(row, columns, file))}
    try:
        told = source.tell(file, row)
        try:
            pictures = [fit(image) for image in told.images]
        except DataError as error:
            raise BadRow("images", f"{error.headline}: {error.detail}") from error
    except BadRow as error:
        return note | {"field": error.field, "why": shown(error.why)}
    group = hashlib.sha256()
    for picture in pictures:
        group.update(hashlib.sha256(picture.data).digest())
    return note | {
        "split": told.split,
        "query_id": content_id([p.pixels for p in pictures], told.question, told.answer),
        "group": group.digest(),
        "mark": _mark(told),
        "size": sum(len(picture.data) for picture in pictures),
        "changed": "; ".join(sorted({p.changed for p in pictures if p.changed})) or None,
        "files": told.files,
    }


def _mark(told: Told) -> bytes:
    """SHA-256 over all that is stored of a row, its images as they were found."""
    images = [hashlib.sha256(image).hexdigest() for image in told.images]
    texts = [told.question, told.answer, told.kind, told.rationale, told.difficulty, told.family]
    return hashlib.sha256(json.dumps([images, texts]).encode()).digest()


def _ordered(
    pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Iterable[Any]
) -> Iterator[Any]:
    """`work` of each item, in order, with `WINDOW` of them under way."""
    waiting: deque[Future[Any]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= WINDOW:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


# -- plan -------------------------------------------------------------------------------------


class _Planned(NamedTuple):
    """One row to store: its shard, id, mark, and whether its images are encoded anew."""

    shard: int
    query_id: str
    mark: bytes
    changed: bool


@dataclass
class _Plan:
    shards: list[str] = field(default_factory=list)  # their splits
    sizes: list[int] = field(default_factory=list)  # their rows
    rows: list[dict[int, _Planned]] = field(default_factory=list)  # by file, by row
    bad: list[Bad] = field(default_factory=list)
    dealt: int = 0
    repeats: int = 0
    overlaps: list[tuple[str, str, str]] = field(default_factory=list)
    changed: Counter[str] = field(default_factory=Counter)
    digest: str = ""


def _plan(source: Source, notes: pa.Table) -> _Plan:
    """What goes where: a pure function of the notes and of how rows are split."""
    plan = _Plan(rows=[{} for _ in source.files])
    by_split: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for batch in notes.to_batches(max_chunksize=10_000):
        for note in batch.to_pylist():
            if note["field"] is not None:
                place = _place(source, note)
                plan.bad.append(Bad(place, note["label"], note["field"], note["why"]))
            else:
                plan.dealt += source.splits.deals(note["split"])
                by_split[source.splits.deal(note["split"], note["group"])].append(note)
    seen: dict[str, str] = {}
    everything = hashlib.sha256()
    for split, chosen in by_split.items():
        size = SHARD_BYTES
        for note in chosen:
            query_id = note["query_id"]
            first = seen.setdefault(query_id, "")
            if first == split:
                plan.repeats += 1
            elif first:
                plan.overlaps.append((first, split, _place(source, note)))
            else:
                seen[query_id] = split
                if size >= SHARD_BYTES or plan.sizes[-1] >= SHARD_ROWS:
                    plan.shards.append(split)
                    plan.sizes.append(0)
                    size = 0
                size += note["size"]
                plan.sizes[-1] += 1
                shard, changed = len(plan.shards) - 1, note["changed"]
                row = _Planned(shard, query_id, note["mark"], changed is not None)
                plan.rows[note["file"]][note["row"]] = row
                if changed:
                    plan.changed[changed] += 1
                everything.update(f"{split} {query_id} {note['mark'].hex()}\n".encode())
    plan.digest = everything.hexdigest()
    return plan


def _place(source: Source, note: Mapping[str, Any]) -> str:
    return shown(source.files[note["file"]].place(note["row"]))


# -- commit -----------------------------------------------------------------------------------


class _SourceChanged(Exception):
    """A row is not the one that was checked."""


def _commit(
    store: Store,
    spec: Spec,
    source: Source,
    plan: _Plan,
    pool: ThreadPoolExecutor,
    on_event: Callable[[Event], None],
) -> Manifest:
    """Read the source again, and commit every shard that is not there yet."""
    announce(store, spec)
    there = committed(store, spec.address)
    done = sum(size for shard, size in enumerate(plan.sizes) if shard in there)
    total = sum(plan.sizes)
    on_event({"event": "commit", "done": done, "total": total})
    provenance = {"source": source.origin, "columns": source.columns, "version": __version__}
    waiting: dict[int, list[dict[str, Any]]] = {}
    for file, planned in zip(source.files, plan.rows, strict=True):
        wanted = sorted(row for row, where in planned.items() if where.shard not in there)
        if not wanted:
            continue

        def make(
            item: tuple[int, Row | str],
            file: File = file,
            planned: dict[int, _Planned] = planned,
        ) -> tuple[int, dict[str, Any]]:
            row = planned[item[0]]
            return row.shard, _query(source, file, item[1], row, spec.name)

        for shard, query in _ordered(pool, make, source.read(file, wanted)):
            waiting.setdefault(shard, []).append(query)
            if len(waiting[shard]) == plan.sizes[shard]:
                output = parts(waiting.pop(shard), plan.shards[shard])
                output.provenance = provenance | {"time": time.time()}
                commit_shard(store, spec, shard, output)
                done += output.rows
                on_event({"event": "commit", "done": done, "total": total})
    if waiting:
        raise _SourceChanged("rows that were there are gone")
    manifest = finish(store, spec)
    if manifest is None:
        raise StageFailed(f"The data set {spec.address} did not become whole")
    return manifest


def _query(
    source: Source, file: File, row: Row | str, planned: _Planned, name: str
) -> dict[str, Any]:
    """A row as it is stored, if it is still what was checked."""
    from si.datasets.images import fit

    try:
        told = source.tell(file, row)
    except BadRow as error:
        raise _SourceChanged(str(error)) from error
    if _mark(told) != planned.mark:
        raise _SourceChanged(f"query {planned.query_id} is another one now")
    return {
        "query_id": planned.query_id,
        "family": told.family or name,
        "question": told.question,
        "answer": told.answer,
        "answer_kind": told.kind,
        "difficulty": told.difficulty,
        "rationale": told.rationale,
        "images": [fit(i).data if planned.changed else i for i in told.images],
    }
