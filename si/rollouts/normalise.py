"""Turn chunks of rows, as a tool writes them, into tables with our columns.

Columns with plain values are converted at once by Arrow. Nested ones, and those whose values differ
from row to row, are converted row by row: their values are a list then, instead of an Arrow array.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from si.metrics import Array, step_counts
from si.readers.aliases import look_up, root, walk
from si.rollouts.chunks import BROKEN, Chunk
from si.rollouts.identity import derived_ids, image_digests
from si.rollouts.known_tools import FIELDS, Layout
from si.rollouts.messages import as_number, as_text, message_text, prompt_and_response
from si.rollouts.table import IMAGES, Bad

Values = Any  # a column of a chunk: an Arrow array, or a list
REQUIRED = ("query_id", "reward", "step")


class Normaliser:
    """Turns the chunks of one part into tables.

    Args:
        layout: where the fields are.
        names: the columns of the first part.
        wanted: fields that `si.rollouts.table.Source.scan` was asked for.
        step: of all rows, if the layout has no column for it.
        scope: goes before each query's id: the task in the name of the file, or nothing.

    Attributes:
        columns: the columns to read.
    """

    def __init__(
        self, layout: Layout, names: Sequence[str], wanted: set[str], step: int, scope: str
    ):
        self.layout, self.wanted, self.step, self.scope = layout, wanted, step, scope
        has = layout.columns
        texts = {"response", "length", "lines"} & wanted
        need = {*REQUIRED, *({"tokens"} if "length" in wanted else ())}
        if "query_id" not in has or "prompt" in wanted:
            need |= {"prompt", "messages"}
        if texts - ({"length"} if "tokens" in has else set()):
            need |= {"response", "messages"}
        if "images" in wanted or "query_id" not in has:
            need.add("images")
        self.paths = {field: has[field] for field in FIELDS if field in need and field in has}
        answers = "query_id" not in has or "answer" in wanted
        extra = (layout.only, layout.answer if answers else None)
        paths = [*self.paths.values(), *(name for name in extra if name)]
        self.columns = list(dict.fromkeys(root(path, names) for path in paths))

    def table(self, file: str, chunk: Chunk, first: int, bad: list[Bad]) -> pa.Table:
        """A chunk as a table of `query_id`, `step`, `reward` and the fields wanted.

        Args:
            file: names the part in `bad`.
            first: the number of the chunk's first row.
            bad: is extended by the rows that cannot be used; they are left out.
        """
        value = partial(_column, chunk)
        rewards = value(self.paths["reward"])
        reward, parents = _numbers(rewards)
        columns = self._columns(value, len(chunk))
        row, keep = np.arange(len(chunk)), self._counted(chunk, value)
        if parents is not None:  # rows that hold several samples
            listed = {"response", "tokens"} & self.paths.keys()
            columns = _one_per_sample(columns, listed, parents, len(chunk))
            row, keep = parents, keep[parents]
        if "response" in columns:
            columns["response"] = _responses(columns["response"])
        columns["reward"] = reward
        for field in REQUIRED:
            null = columns[field].is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
            for place in np.flatnonzero(null & keep):
                given = rewards[int(row[place])] if field == "reward" else None
                bad.append(Bad(file, first + int(row[place]), *self._fault(field, given)))
            keep &= ~null
        table = self._wanted(columns)
        return table if keep.all() else table.filter(pa.array(keep))

    def _counted(self, chunk: Chunk, value: Callable[[str], Values]) -> Array:
        """Which rows are rows, and have the value that the layout demands."""
        keep: Array = np.ones(len(chunk), np.bool_)
        if self.layout.only:
            values = _as_list(value(self.layout.only))
            keep = np.array([each == self.layout.value for each in values], np.bool_)
        if isinstance(chunk, list):
            keep &= np.array([row is not BROKEN for row in chunk], np.bool_)
        return keep

    def _columns(self, value: Callable[[str], Values], rows: int) -> dict[str, Values]:
        """All fields but the reward; responses and tokens as they are, the others as arrays."""
        columns: dict[str, Values] = {}
        if "messages" in self.paths:
            messages = _as_list(value(self.paths["messages"]))
            split = [prompt_and_response(each) for each in messages]
            columns["prompt"] = pa.array([prompt for prompt, _ in split], pa.string())
            columns["response"] = pa.array([response for _, response in split], pa.string())
        if "prompt" in self.paths:
            columns["prompt"] = _texts(value(self.paths["prompt"]))
        if "images" in self.paths:
            columns["images"] = _images(value(self.paths["images"]))
        if "query_id" in self.paths:
            ids = _texts(value(self.paths["query_id"]))
            if self.scope:
                ids = pc.binary_join_element_wise(self.scope, ids, "")
            columns["query_id"] = ids
        else:
            answer = self.layout.answer
            parts = [columns["prompt"], *([_texts(value(answer))] if answer else [])]
            if "images" in columns:
                parts.append(image_digests(columns["images"]))
            columns["query_id"] = derived_ids(parts)
        if "answer" in self.wanted and self.layout.answer:
            columns["answer"] = _texts(value(self.layout.answer))
        columns["step"] = self._steps(value, rows)
        for field in ("response", "tokens"):
            if field in self.paths:
                columns[field] = value(self.paths[field])
        return columns

    def _steps(self, value: Callable[[str], Values], rows: int) -> pa.Array:
        if "step" not in self.paths:
            return pa.array(np.full(rows, self.step, np.int64))
        numbers, _ = _numbers(value(self.paths["step"]))
        whole = pc.equal(pc.floor(numbers), numbers)
        return pc.if_else(whole, numbers, None).cast(pa.int64())

    def _fault(self, field: str, given: Any) -> tuple[str, str]:
        """The column at fault, and why, for a required field without a value."""
        path = self.paths.get(field, self.paths.get("prompt", "messages"))
        given = given.as_py() if isinstance(given, pa.Scalar) else given
        return path, (
            "is missing" if given is None else f"is not a number: {json.dumps(given)[:60]}"
        )

    def _wanted(self, columns: dict[str, Any]) -> pa.Table:
        table = {field: columns[field] for field in ("query_id", "step", "reward")}
        for field in ("prompt", "response", "images", "answer"):
            if field in self.wanted and field in columns:
                table[field] = columns[field]
        unit = "characters"
        if "tokens" in columns and "length" in self.wanted:
            unit, table["length"] = "tokens", _lengths(columns["tokens"])
        elif "response" in columns and "length" in self.wanted:
            length = pc.fill_null(pc.utf8_length(columns["response"]), 0)
            table["length"] = length.cast(pa.int64())
        if "lines" in self.wanted and "response" in columns:
            table["lines"] = pa.array(step_counts(pc.fill_null(columns["response"], ""), "\n"))
        return pa.table(table).replace_schema_metadata({"unit": unit})


# --- columns ---------------------------------------------------------------------------------


def _column(chunk: Chunk, path: str) -> Values:
    """A column of a chunk, or what a path leads to in each row."""
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
    return [look_up(row, path) for row in chunk]


def _as_list(values: Values) -> list[Any]:
    return values if isinstance(values, list) else values.to_pylist()


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _one_per_sample(
    columns: dict[str, Values], listed: set[str], parents: Array, rows: int
) -> dict[str, Values]:
    """Columns with a value per row as columns with a value per sample.

    Args:
        listed: columns in which a row's list is taken apart if it has one entry per sample; other
            values are repeated.
        parents: the row of each sample.
        rows: how many rows there are.
    """
    counts = np.bincount(parents, minlength=rows).tolist()
    made: dict[str, Values] = {}
    for field, values in columns.items():
        if field not in listed:
            made[field] = values.take(pa.array(parents))
            continue
        flat: list[Any] = []
        for value, n in zip(_as_list(values), counts, strict=True):
            flat += value if isinstance(value, list) and len(value) == n else [value] * n
        made[field] = flat
    return made


def _numbers(values: Values) -> tuple[pa.Array, Array | None]:
    """Values as float64, null where there is no number.

    Returns:
        The numbers; and, if values are lists of numbers, which value each number is from.
    """
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
    plain = _as_list(values)
    if any(isinstance(v, list) for v in plain):
        parents = [i for i, v in enumerate(plain) for _ in (v if isinstance(v, list) else [v])]
        flat = [x for v in plain for x in (v if isinstance(v, list) else [v])]
        return pa.array([as_number(x) for x in flat], pa.float64()), np.array(parents, np.int64)
    return pa.array([as_number(v) for v in plain], pa.float64()), None


def _texts(values: Values) -> pa.Array:
    """Values as text; what is neither a text nor a whole number as JSON."""
    if isinstance(values, pa.Array):
        if pa.types.is_string(values.type):
            return values
        if pa.types.is_large_string(values.type) or pa.types.is_integer(values.type):
            return values.cast(pa.string())
    return pa.array([as_text(v) for v in _as_list(values)], pa.string())


def _responses(values: Values) -> pa.Array:
    """Responses as text; of messages, the text of the last one."""
    if isinstance(values, pa.Array) and not pa.types.is_nested(values.type):
        return _texts(values)
    return pa.array([message_text(v) for v in _as_list(values)], pa.string())


def _lengths(values: Values) -> pa.Array:
    """Lengths in tokens: numbers as they are, and the sizes of lists of token ids."""
    if isinstance(values, pa.Array) and _is_list(values.type):
        return pc.fill_null(pc.list_value_length(values), 0).cast(pa.int64())
    if isinstance(values, pa.Array) and not pa.types.is_nested(values.type):
        return pc.fill_null(_numbers(values)[0], 0).cast(pa.int64(), safe=False)
    sizes = [len(v) if isinstance(v, list) else int(as_number(v) or 0) for v in _as_list(values)]
    return pa.array(sizes, pa.int64())


def _images(values: Values) -> pa.Array:
    """Images as lists of {bytes, path}, which is how Hugging Face's `datasets` stores them."""

    def struct(value: Any) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {"bytes": value.get("bytes"), "path": value.get("path") or value.get("image")}
        if isinstance(value, bytes):
            return {"bytes": value, "path": None}
        return {"bytes": None, "path": str(value)}

    found = []
    for value in _as_list(values):
        images = value if isinstance(value, list) else [] if value is None else [value]
        found.append([struct(image) for image in images])
    return pa.array(found, IMAGES)
