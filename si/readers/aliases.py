"""Recognise columns by the names that people give them."""

from collections.abc import Mapping, Sequence
from typing import Any


def match_aliases(
    columns: Sequence[str],
    aliases: Mapping[str, Sequence[str]],
    taken: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Field -> column, for each field that has a column with one of its aliases as its name.

    Case does not matter, and of columns that differ in case only the first one counts. A column
    serves one field: fields are matched in the order of `aliases`, each with its first alias that
    names a free column. An alias may be a path into a column, `reward_model.ground_truth`: it
    matches if its first part does.

    Args:
        columns: the names of a file's columns.
        aliases: field -> likely names, the likeliest first.
        taken: fields that have a column already; neither they nor their columns are matched.

    Returns:
        `taken`, and the fields that were matched.
    """
    by_name = {name.lower(): name for name in reversed(columns)}
    found = dict(taken or {})
    for field, names in aliases.items():
        if field in found:
            continue
        for alias in names:
            head, *path = alias.split(".")
            column = by_name.get(head)
            if column is not None and column not in found.values():
                found[field] = ".".join([column, *path])
                break
    return found


def root(path: str, columns: Sequence[str]) -> str:
    """The column that a path leads into. A column's own name may have dots in it."""
    return path if path in columns else path.split(".")[0]


def walk(value: Any, path: Sequence[str]) -> Any:
    """What a path leads to: keys of objects, positions in lists (`"0"`); None if it leads nowhere.

    Args:
        value: a row, or a value of it.
        path: the parts of a path, `["filtered_resps", "0"]`.
    """
    for key in path:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def dead_end(rows: Sequence[Mapping[str, Any]], path: str, columns: Sequence[str]) -> str:
    """Why a path into a column leads nowhere in any of some rows; empty if it leads somewhere.

    Args:
        rows: the first rows of a file; rows without the column are not asked.
        path: `messages.0.content`; a column is always somewhere.
        columns: the names of the file's columns.
    """
    if path in columns:
        return ""
    first, *rest = path.split(".")
    values = [row[first] for row in rows if row.get(first) is not None]
    if not rest or not values or any(walk(value, rest) is not None for value in values):
        return ""
    reached, value = first, values[0]
    for key in rest:
        inner = walk(value, [key])
        if inner is None:
            break
        reached, value = f"{reached}.{key}", inner
    if isinstance(value, Mapping):
        return f"{reached} has {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, list):
        return f"{reached} is a list of {len(value)}: 0 to {len(value) - 1}"
    return f"{reached} is a {type(value).__name__}, not an object or a list"


def look_up(row: Mapping[str, Any], path: str) -> Any:
    """What a row holds in a column, or at a path into one; None if it has no such column."""
    return row[path] if path in row else walk(row, path.split("."))
