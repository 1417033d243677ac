"""Read rows from JSON lines, and from JSON that holds rows.

A line or an element that is not a JSON object does not end the reading: it is yielded as a text
that says why, so that callers can name the row. JSON lines are read one by one, so that memory is
bounded whatever the size of the file; JSON is read whole.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from si.errors import DataError
from si.readers.reading import (
    LONGEST,
    Row,
    any_wanted,
    marked_encoding,
    open_bytes,
    open_text,
    reading,
)
from si.untrusted import one_line


def json_lines(
    path: Path, wanted: Sequence[int] | None = None, encoding: str = ""
) -> Iterator[tuple[int, Row | str]]:
    """The rows of a JSON lines file with their line numbers, counted from 1.

    Blank lines are skipped. A line that is not a JSON object is a text that says why.

    Args:
        wanted: ascending numbers of the lines to parse; all if None.
        encoding: as `si.readers.reading.open_text` takes it.
    """
    for number, line in _stored_lines(path, encoding):
        if any_wanted(wanted, number, number + 1):
            yield number, _parsed(line)
        elif wanted is not None and number > wanted[-1]:
            return


def count_json_lines(path: Path, encoding: str = "") -> int:
    """How many lines of a file are not blank."""
    return sum(1 for _ in _stored_lines(path, encoding))


def holds_json_lines(path: Path) -> bool:
    """Whether a file of JSON holds several objects, each in a line of its own."""
    try:
        lines = list(islice(_stored_lines(path, ""), 2))
        return len(lines) == 2 and all(isinstance(_parsed(line), dict) for _, line in lines)
    except (OSError, EOFError, UnicodeDecodeError):
        return False


def json_value(path: Path, name: str, encoding: str = "") -> Any:
    """What a JSON file holds; of JSON lines, the list of rows.

    Args:
        name: how errors name the file.
        encoding: as `si.readers.reading.open_text` takes it.

    Raises:
        DataError: if the file is neither.
    """
    encoding = encoding or marked_encoding(path)
    with reading(name):
        text: str | bytes
        with open_text(path, encoding) if encoding else open_bytes(path) as file:
            text = file.read()
        try:
            return json.loads(text)
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            rows = [_parsed(line) for line in text.splitlines() if line and not line.isspace()]
            if not rows or any(isinstance(row, str) for row in rows):
                raise DataError(
                    f"The file {one_line(name, LONGEST)} is not JSON", one_line(error, LONGEST)
                ) from error
            return rows


def json_tables(value: Any) -> dict[str, list[Row | str]]:
    """The lists of rows in the value of a JSON file, by their keys; a single list has the key "".

    Rows are a list of objects; an object with such lists, one for each split; an object with an
    object for each id, which becomes the row's `id`; or an object with a list for each column. An
    element that is not an object is a text that says why. Any other value holds no list.
    """
    if isinstance(value, list):
        return {"": [_object(row) for row in value]}
    return _tables_of(value) if isinstance(value, dict) else {}


def json_rows(
    path: Path, name: str, single: bool = False, key: str = "", encoding: str = ""
) -> list[Row | str]:
    """The rows of a JSON file, of all its lists or of the one with this key; see `json_tables`.

    Args:
        single: an object that holds no rows is a row.

    Raises:
        DataError: if the file is not JSON, or holds no rows.
    """
    value = json_value(path, name, encoding)
    tables = json_tables(value)
    if tables:
        chosen = [tables[key]] if key in tables else tables.values()
        return [row for rows in chosen for row in rows]
    if single and isinstance(value, dict):
        return [value]
    raise DataError(
        f"The file {one_line(name, LONGEST)} does not hold a list of rows",
        f"a list of objects was expected, not {_kind(value)}",
    )


def _tables_of(value: Row) -> dict[str, list[Row | str]]:
    """The lists of rows in an object."""
    lists = {
        str(key): [_object(row) for row in rows]
        for key, rows in value.items()
        if isinstance(rows, list) and rows and isinstance(rows[0], dict)
    }
    if len(lists) == 1:
        return {"": next(iter(lists.values()))}
    if lists:
        return lists
    values = list(value.values())
    if len(values) > 1 and all(isinstance(each, dict) for each in values):
        return {"": [{"id": key, **row} for key, row in value.items()]}
    sizes = {len(each) if isinstance(each, list) else -1 for each in values}
    if len(values) > 1 and len(sizes) == 1 and sizes != {-1} and sizes != {0}:
        return {"": [dict(zip(value, row, strict=True)) for row in zip(*values, strict=True)]}
    return {}


def _stored_lines(path: Path, encoding: str) -> Iterator[tuple[int, bytes | str]]:
    """The lines that are not blank, with their numbers from 1."""
    encoding = encoding or marked_encoding(path)
    file: Any = open_text(path, encoding) if encoding else open_bytes(path)
    lines: Iterable[bytes | str]
    with file as lines:
        for number, line in enumerate(lines, 1):
            if not line.isspace():
                yield number, line


def _parsed(line: bytes | str) -> Row | str:
    try:
        return _object(json.loads(line))
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        return f"not UTF-8: byte 0x{byte:02x}; give the file's encoding: --encoding latin-1"
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"


def _object(row: Any) -> Row | str:
    return row if isinstance(row, dict) else f"{_kind(row)} instead of a JSON object"


def _kind(value: Any) -> str:
    """A JSON value's kind in JSON's own words."""
    for types, words in (
        ((bool,), "a truth value"),
        ((str,), "a string"),
        ((int, float), "a number"),
        ((list,), "a list"),
        ((dict,), "an object"),
    ):
        if isinstance(value, types):
            return words
    return "null"
