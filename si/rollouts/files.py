"""Rollouts in files: JSONL, JSON and Parquet of anybody's, or rows in memory.

Files are read in pieces. Columns are turned at once where they are plain; where they are nested,
or differ from row to row, row by row.
"""

import gzip
import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

from si.errors import DataError
from si.metrics import Array, step_counts
from si.rollouts.recognise import ALIASES, FIELDS, Layout, Row, recognise, root, walk
from si.rollouts.table import PICTURES, Bad

ROWS = 65_536  # rows in memory at a time
LOOK = 50  # rows that are looked at to tell a layout
BLOCK = 16 << 20  # bytes of JSON that are parsed at a time
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
_STEP = re.compile(r"(?:^|step[-_]?|completions_|iter(?:ation)?[-_]?)(\d+)$", re.IGNORECASE)
_TASK = re.compile(r"samples_(.+?)(?:_\d{4}-\d\d-\d\dT.*)?$")

Chunk = Any  # a piece of a file: an Arrow table, or a list of rows


class FileSource:
    """Rollouts in files, or in memory.

    Args:
        parts: (name, rows or table or path) in order.
        mapping: field -> column or path, as the user says; before what is recognised.
        found: parts that nobody named, but were found in a folder: those without the columns
            that matter are left out.

    Raises:
        DataError: if the columns do not tell what is what, with those there are.
    """

    def __init__(
        self,
        parts: Sequence[tuple[str, Any]],
        mapping: Mapping[str, str] | None = None,
        found: Collection[str] = (),
    ):
        self.notes: list[str] = []
        self.bad: list[Bad] = []
        self.parts = list(parts)
        if not self.parts:
            raise DataError("There is nothing to read", f"looked for {', '.join(SUFFIXES)}")
        self._recognise(mapping or {}, set(found))
        self._prefer_training()
        self.files = [name for name, _ in self.parts]
        self.by_name = len(self.parts) > 1 or "step" not in self.layout.columns

    @classmethod
    def of_paths(
        cls, paths: Sequence[Path], mapping: Mapping[str, str] | None = None
    ) -> "FileSource":
        """Files and folders; in a folder, every file with a suffix that can be read."""
        found: list[Path] = []
        inside: set[str] = set()
        for path in paths:
            if path.is_dir():
                more = sorted((p for p in path.rglob("*") if suffix(p)), key=_natural)
                found += more
                inside |= {str(p) for p in more}
            elif path.exists():
                found.append(path)
            else:
                raise DataError(f"There is no file {path}", f"looked in {path.absolute().parent}")
        if not found:
            raise DataError(
                f"No rollouts in {', '.join(map(str, paths))}",
                f"looked for {', '.join(SUFFIXES)}, also with .gz",
            )
        return cls([(str(path), path) for path in found], mapping, inside)

    def _recognise(self, mapping: Mapping[str, str], found: set[str]) -> None:
        """The layout of the first part that has one; of those found, the parts that share it."""
        refused: DataError | None = None
        known: Layout | None = None
        kept = []
        for name, part in self.parts:
            if known is not None and name not in found:
                kept.append((name, part))
                continue
            names, rows = look(name, part)
            if known is None and rows:
                try:
                    known, told = recognise(names, rows, mapping, name)
                    self.look = names, rows
                except DataError as error:
                    if name not in found:
                        raise
                    refused = refused or error
            if (
                known is not None and rows and _matters(known, names) <= set(names)
            ) or name not in found:
                kept.append((name, part))
        if known is None:
            names_ = ", ".join(name for name, _ in self.parts[:3])
            raise refused or DataError(f"No rollouts in {names_}", "there is no row")
        self.layout = known
        self.notes += told
        left = len(self.parts) - len(kept)
        if left:
            files = "files have" if left > 1 else "file has"
            self.notes.append(
                f"{left} other {files} no such columns and {'are' if left > 1 else 'is'} left out."
            )
        self.parts = kept

    def _prefer_training(self) -> None:
        """NeMo-RL writes training and validation into one folder: they are not one experiment."""
        stems = [(Path(name).name, name) for name, _ in self.parts]
        training = {name for stem, name in stems if stem.startswith("train_data")}
        if self.layout.name == "NeMo-RL" and training and len(training) < len(self.parts):
            left = len(self.parts) - len(training)
            self.notes.append(f"Files of validation beside those of training are left out: {left}.")
            self.parts = [part for part in self.parts if part[0] in training]

    def scan(self, fields: Iterable[str]) -> Iterator[pa.Table]:
        wanted, first = set(fields), not self.bad
        bad: list[Bad] = []
        for name, part in self.parts:
            stem = Path(name).name.removesuffix(".gz").rpartition(".")[0]
            step, task = _STEP.search(stem), _TASK.search(stem)
            reader = _Reader(
                self.layout,
                self.look[0],
                wanted,
                int(step[1]) if step and self.by_name else 0,
                f"{task[1]}/" if task and "query_id" in self.layout.columns else "",
            )
            at = 1
            for chunk in _chunks(name, part, reader.columns, self.look[1], bad):
                table = reader.table(name, chunk, at, bad)
                at += len(chunk)
                if len(table):
                    yield table
        if first:
            self.bad = bad


def _matters(layout: Layout, names: Sequence[str]) -> set[str]:
    """The columns without which a file is not of this layout."""
    needed = ("query_id",) if "query_id" in layout.columns else ("prompt", "messages")
    paths = [layout.columns[what] for what in ("reward", *needed) if what in layout.columns]
    return {root(path, names) for path in paths}


def suffix(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    if path.name.startswith((".", "_")):
        return ""
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def _natural(path: Path) -> list[Any]:
    """`2.jsonl` before `10.jsonl`."""
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", str(path))]


def look(name: str, part: Any) -> tuple[list[str], list[Row]]:
    if isinstance(part, Path) and suffix(part) == ".parquet":
        with parquet(part) as file:
            names = list(file.schema_arrow.names)
            batch = next(file.iter_batches(LOOK), None)
            return names, batch.to_pylist() if batch is not None else []
    if isinstance(part, pa.Table):
        return part.column_names, part.slice(0, LOOK).to_pylist()
    rows = list(islice(rows_of(name, part, []), LOOK))
    return list(dict.fromkeys(chain.from_iterable(rows))), rows


def parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is no Parquet file", str(error)) from error


def _chunks(
    name: str, part: Any, columns: Sequence[str], look: Sequence[Row], bad: list[Bad]
) -> Iterator[Chunk]:
    """A part's rows, in pieces that fit in memory; of Parquet only the columns wanted."""
    if isinstance(part, Path) and suffix(part) == ".parquet":
        with parquet(part) as file:
            have = [column for column in columns if column in file.schema_arrow.names]
            try:
                for batch in file.iter_batches(ROWS, columns=have):
                    yield pa.Table.from_batches([batch])
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(f"{name} is damaged", str(error)) from error
        return
    if isinstance(part, pa.Table):
        for start in range(0, len(part), ROWS):
            yield part.slice(start, ROWS)
        return
    done = 0
    schema = _flat(columns, look)
    if schema and isinstance(part, Path) and suffix(part) in (".jsonl", ".ndjson"):
        try:
            for batch in pj.open_json(
                str(part),
                read_options=pj.ReadOptions(block_size=BLOCK),
                parse_options=pj.ParseOptions(
                    explicit_schema=schema, unexpected_field_behavior="ignore"
                ),
            ):
                yield pa.Table.from_batches([batch])
                done += len(batch)
            return
        except pa.ArrowInvalid:
            pass  # some row is not like the first ones: go on row by row, which names it
    rows = islice(rows_of(name, part, bad), done, None)
    while chunk := list(islice(rows, ROWS // 8)):
        yield chunk


def _flat(columns: Sequence[str], look: Sequence[Row]) -> pa.Schema | None:
    """The types of JSON's columns if all are plain values, so that Arrow can parse them."""
    fields = []
    for column in columns:
        kinds = {type(row[column]) for row in look if row.get(column) is not None}
        if kinds <= {int, float} and kinds:
            kind = pa.int64() if kinds == {int} and column in _WHOLE else pa.float64()
        elif kinds in ({str}, {bool}):
            kind = pa.string() if kinds == {str} else pa.bool_()
        else:
            return None
        fields.append((column, kind))
    return pa.schema(fields)


_WHOLE = {*ALIASES["step"], *ALIASES["tokens"], *ALIASES["query_id"]}


def rows_of(name: str, part: Any, bad: list[Bad]) -> Iterator[Row]:
    """Rows of JSON as Python objects; a line that is none is noted and stands as an empty row."""
    if not isinstance(part, Path):
        yield from part
        return
    opened: Callable[..., Any] = gzip.open if part.name.endswith(".gz") else open
    try:
        with opened(part, "rt", encoding="utf-8") as file:
            if suffix(part) == ".json":
                yield from _whole(name, file.read())
                return
            for number, line in enumerate(filter(str.strip, file), 1):
                try:
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"a JSON object was expected, got {line.strip()[:40]!r}")
                except (ValueError, RecursionError) as error:
                    bad.append(Bad(name, number, "line", f"not JSON: {error}"))
                    row = BROKEN
                yield row
    except (UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise DataError(f"{name} is no text", str(error)) from error


BROKEN: Row = {}  # what stands for a line that is no row


def _whole(name: str, text: str) -> Iterable[Row]:
    """The rows of a .json file: a list of them, an object with one, or lines after all."""
    try:
        value = json.loads(text)
    except ValueError:
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise DataError(f"{name} is no JSON", str(error)) from error
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        value = lists[0] if len(lists) == 1 else [value]
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise DataError(f"{name} holds no rows", "expected a list of objects, one a rollout")
    return value


# --- rows to columns -----------------------------------------------------------------------


class _Reader:
    """Turns rows as a tool writes them into columns as we want them."""

    def __init__(
        self, layout: Layout, names: Sequence[str], wanted: set[str], step: int, scope: str
    ):
        self.layout, self.wanted, self.default, self.scope = layout, wanted, step, scope
        has = layout.columns
        texts = {"response", "length", "lines"} & wanted
        need = {"query_id", "reward", "step"} | ({"tokens"} if "length" in wanted else set())
        if "query_id" not in has or "prompt" in wanted:
            need |= {"prompt", "messages"}
        if texts - ({"length"} if "tokens" in has else set()):
            need |= {"response", "messages"}
        if "images" in wanted:
            need.add("images")
        paths = [has[what] for what in FIELDS if what in need and what in has]
        extra = (layout.only, layout.answer if "query_id" not in has else None)
        paths += [name for name in extra if name]
        self.paths = {what: has[what] for what in need if what in has}
        self.columns = list(dict.fromkeys(root(path, names) for path in paths))

    def table(self, file: str, chunk: Chunk, first: int, bad: list[Bad]) -> pa.Table:
        """A chunk as columns, its unusable rows noted and left out."""
        row = np.arange(first, first + len(chunk))
        value = partial(_values, chunk)
        only = self.layout.only
        keep: Array = np.ones(len(chunk), np.bool_)
        if only:
            keep = np.array([v == self.layout.value for v in _list(value(only))], np.bool_)
        if isinstance(chunk, list):
            keep &= np.array([one is not BROKEN for one in chunk], np.bool_)
        raw = value(self.paths["reward"])
        reward, parents = _numbers(raw)
        columns: dict[str, Any] = {}
        if "messages" in self.paths:
            said = [conversation(v) for v in _list(value(self.paths["messages"]))]
            columns["prompt"] = pa.array([p for p, _ in said], pa.string())
            columns["response"] = pa.array([r for _, r in said], pa.string())
        if "prompt" in self.paths:
            columns["prompt"] = _texts(value(self.paths["prompt"]))
        if "query_id" in self.paths:
            ids = _texts(value(self.paths["query_id"]))
            columns["query_id"] = _scoped(self.scope, ids)
        else:
            answer = self.layout.answer
            columns["query_id"] = _derived(
                columns["prompt"], _texts(value(answer)) if answer else None
            )
        columns["step"] = self._steps(value, len(chunk))
        if "images" in self.paths:
            columns["images"] = _pictures(value(self.paths["images"]))
        many = {"response", "tokens"} & self.paths.keys()
        for what in many:
            columns[what] = value(self.paths[what])
        if parents is not None:  # a row of several samples
            counts = np.bincount(parents, minlength=len(chunk))
            for what, values in columns.items():
                if what in many:
                    columns[what] = _exploded(values, counts)
                else:
                    columns[what] = values.take(pa.array(parents))
            row, keep = row[parents], keep[parents]
        if "response" in columns:
            columns["response"] = _responses(columns["response"])
        columns["reward"] = reward
        return self._good(file, columns, row, keep, raw, first, bad)

    def _steps(self, value: Callable[[str], Any], rows: int) -> pa.Array:
        if "step" not in self.paths:
            return pa.array(np.full(rows, self.default, np.int64))
        numbers, _ = _numbers(value(self.paths["step"]))
        whole = pc.equal(pc.floor(numbers), numbers)
        return pc.if_else(whole, numbers, None).cast(pa.int64())

    def _good(
        self,
        file: str,
        columns: dict[str, Any],
        row: Array,
        keep: Array,
        raw: Any,
        first: int,
        bad: list[Bad],
    ) -> pa.Table:
        for what in ("query_id", "reward", "step"):
            missing = columns[what].is_null(nan_is_null=True).to_numpy(zero_copy_only=False) & keep
            for place in np.flatnonzero(missing):
                path = self.paths.get(what, self.paths.get("prompt", "messages"))
                given = raw[int(row[place]) - first] if what == "reward" else None
                given = given.as_py() if isinstance(given, pa.Scalar) else given
                why = "is missing" if given is None else f"is no number: {json.dumps(given)[:60]}"
                bad.append(Bad(file, int(row[place]), path, why))
            keep &= ~missing
        made = {what: columns[what] for what in ("query_id", "step", "reward")}
        for what in ("prompt", "response", "images"):
            if what in self.wanted and what in columns:
                made[what] = columns[what]
        unit = "characters"
        if "tokens" in columns and "length" in self.wanted:
            unit, made["length"] = "tokens", _lengths(columns["tokens"])
        elif "response" in columns and "length" in self.wanted:
            made["length"] = pc.fill_null(pc.utf8_length(columns["response"]), 0).cast(pa.int64())
        if "lines" in self.wanted and "response" in columns:
            made["lines"] = pa.array(step_counts(pc.fill_null(columns["response"], ""), "\n"))
        table = pa.table(made).replace_schema_metadata({"unit": unit})
        return table if keep.all() else table.filter(pa.array(keep))


def _values(chunk: Chunk, path: str) -> Any:
    """One column of a chunk (an Arrow array), or what a path leads to in each row (a list)."""
    if isinstance(chunk, pa.Table):
        if path in chunk.column_names:
            column = chunk[path].combine_chunks()
            return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        head, *rest = path.split(".")
        if head not in chunk.column_names:
            return pa.nulls(len(chunk))
        return [walk(value, rest) for value in chunk[head].to_pylist()]
    if not chunk or path in chunk[0]:
        return [row.get(path) for row in chunk]
    return [row[path] if path in row else walk(row, path.split(".")) for row in chunk]


def _list(values: Any) -> list[Any]:
    return values if isinstance(values, list) else values.to_pylist()


def _numbers(values: Any) -> tuple[pa.Array, Array | None]:
    """Values as float64 (null where there is no number), and, where each is a list of numbers,
    which value each number belongs to."""
    if isinstance(values, pa.Array) and _is_list(values.type):
        inner, _ = _numbers(values.flatten())
        return inner, pc.list_parent_indices(values).to_numpy()
    if isinstance(values, pa.Array) and (
        pa.types.is_integer(values.type)
        or pa.types.is_floating(values.type)
        or pa.types.is_boolean(values.type)
    ):
        kind = pa.int8() if pa.types.is_boolean(values.type) else values.type
        return values.cast(kind).cast(pa.float64()), None
    plain = _list(values)
    if any(isinstance(v, list) for v in plain):
        parents = [i for i, v in enumerate(plain) for _ in (v if isinstance(v, list) else [v])]
        flat = [x for v in plain for x in (v if isinstance(v, list) else [v])]
        return pa.array([number(x) for x in flat], pa.float64()), np.array(parents, np.int64)
    return pa.array([number(v) for v in plain], pa.float64()), None


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def number(value: Any) -> float | None:
    if isinstance(value, str):
        value = {"true": 1.0, "false": 0.0}.get(value.strip().lower(), value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def _texts(values: Any) -> pa.Array:
    """Values as text; what is not text or a whole number as JSON."""
    if isinstance(values, pa.Array):
        if pa.types.is_string(values.type):
            return values
        if pa.types.is_large_string(values.type) or pa.types.is_integer(values.type):
            return values.cast(pa.string())
    return pa.array([text(v) for v in _list(values)], pa.string())


def text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _responses(values: Any) -> pa.Array:
    """Responses as text: of messages, the last one's content."""
    if isinstance(values, pa.Array) and not pa.types.is_nested(values.type):
        return _texts(values)
    return pa.array([content(v) for v in _list(values)], pa.string())


def content(value: Any) -> str | None:
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, Mapping) and "content" in value:
        value = value["content"]
    if isinstance(value, list):  # parts of a message
        value = "".join(part.get("text") or "" for part in value if isinstance(part, Mapping))
    return text(value)


def conversation(value: Any) -> tuple[str | None, str | None]:
    """Prompt and response of a conversation: messages, or texts that take turns."""
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]  # NeMo-RL: every value is a list of one
    if isinstance(value, str):
        return value, None
    if not isinstance(value, list) or not value:
        return None, None
    *before, last = value
    if all(isinstance(turn, str) for turn in value):
        return "".join(before), last
    return text([_plain(turn) for turn in before]), content(last)


def _plain(turn: Any) -> Any:
    """A message with what makes it one: NeMo-RL's carry token ids, others their logs."""
    if not isinstance(turn, Mapping):
        return turn
    role = {"human": "user", "gpt": "assistant"}.get(str(turn.get("from")), turn.get("from"))
    return {
        "role": turn.get("role", role),
        "content": turn.get("content", turn.get("value")),
    }


def _scoped(scope: str, ids: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(scope, ids, "") if scope else ids


def _derived(prompts: pa.Array, answers: pa.Array | None) -> pa.Array:
    """Ids from prompts: the first 16 hex digits of their SHA-256, with the answer's if known."""
    whole = prompts
    if answers is not None:
        whole = pc.binary_join_element_wise(prompts, pc.fill_null(answers, ""), "\0")
    found = whole.dictionary_encode()
    texts = found.dictionary.to_pylist()
    ids = [hashlib.sha256(t.encode("utf-8", "replace")).hexdigest()[:16] for t in texts]
    return pa.array(ids, pa.string()).take(found.indices)


def _exploded(values: Any, counts: Array) -> Any:
    """One entry a sample: a row's list where it has one of the right length, else its value."""
    flat: list[Any] = []
    for value, n in zip(_list(values), counts.tolist(), strict=True):
        same = isinstance(value, list) and len(value) == n
        flat += value if same else [value] * n
    return flat


def _lengths(values: Any) -> pa.Array:
    """Lengths in tokens: numbers as they are, lists of ids by how many there are."""
    if isinstance(values, pa.Array) and _is_list(values.type):
        return pc.fill_null(pc.list_value_length(values), 0).cast(pa.int64())
    if isinstance(values, pa.Array) and not pa.types.is_nested(values.type):
        return pc.fill_null(_numbers(values)[0], 0).cast(pa.int64(), safe=False)
    sizes = [len(v) if isinstance(v, list) else int(number(v) or 0) for v in _list(values)]
    return pa.array(sizes, pa.int64())


def _pictures(values: Any) -> pa.Array:
    """Images as lists of {bytes, path}, the way Hugging Face's datasets keep them."""

    def one(value: Any) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {"bytes": value.get("bytes"), "path": value.get("path") or value.get("image")}
        if isinstance(value, bytes):
            return {"bytes": value, "path": None}
        return {"bytes": None, "path": str(value)}

    made = []
    for value in _list(values):
        several = value if isinstance(value, list) else [] if value is None else [value]
        made.append([one(v) for v in several])
    return pa.array(made, PICTURES)
