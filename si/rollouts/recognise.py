"""Recognise which tool wrote a file of rollouts, and which column holds what."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from si.errors import DataError
from si.readers.aliases import look_up, match_aliases, root
from si.rollouts.known_tools import ALIASES, ANSWERS, FIELDS, LAYOUTS, Layout, Row

# Columns that are called like this say how good a response is.
_METRIC_NAME = re.compile(r"acc|correct|exact|match|pass|solve|verif", re.IGNORECASE)
# Where a metric is an object, one of these keys holds its value.
_METRIC_KEYS = ("score", "correct", "acc", "accuracy", "hit", "true_false")
# Columns of numbers that are not metrics.
_NOT_METRICS = frozenset(
    [
        "doc_id",
        "doc",
        "target",
        "arguments",
        "resps",
        "filtered_resps",
        "filter",
        "metrics",
        "submission",
        "doc_hash",
        "prompt_hash",
        "target_hash",
        "input",
        "step",
        "mode",
        "idx",
        "advantage",
        "advantages",
    ]
)


def recognise(
    names: Sequence[str], rows: Sequence[Row], mapping: Mapping[str, str], file: str
) -> tuple[Layout, list[str]]:
    """The layout of a file, with the columns that it has, and notes for the user.

    Args:
        names: the file's columns.
        rows: its first rows, at least one, by which metrics and versions of tools are recognised.
        mapping: field -> column or path; it overrides what is recognised.
        file: names the file in errors.

    Raises:
        DataError: if a mapped column does not exist, or no column is recognised as the reward, or
            none that identifies the query.
    """
    check_mapping(mapping, FIELDS, names, file)
    known = known_layout(names)
    layout = known or _by_aliases(names)
    columns, notes = _columns(layout, names, rows[0], mapping)
    if "reward" not in columns:
        metric = _metric(names, rows, file, certain=known is None)
        columns |= {"reward": metric} if metric else {}
    missing = []
    if "reward" not in columns:
        missing.append("the reward (reward), a number or a truth value")
    if not {"query_id", "prompt", "messages"} & columns.keys():
        missing.append("the query's id (query_id), or its prompt (prompt) to identify it by")
    if missing:
        judged = "reward" not in columns and "response" in columns and _has_answers(names)
        raise _not_recognised(file, names, "; ".join(missing), judged)
    only, value, note = _counted_rows(layout, names, rows)
    notes += note
    answer = layout.answer if layout.answer in names else None
    if not known:
        answer = next((n for n in ANSWERS if n in names and n not in columns.values()), None)
    return replace(layout, columns=columns, answer=answer, only=only, value=value), notes


def check_mapping(
    mapping: Mapping[str, str], fields: Sequence[str], names: Sequence[str], file: str
) -> None:
    """Check that the fields and columns of a `--map` exist.

    Args:
        mapping: field -> column, or path into one.
        names: the file's columns.

    Raises:
        DataError: if one does not.
    """
    for field, path in mapping.items():
        if field not in fields:
            raise DataError(f"There is no field {field!r} to map", "fields: " + ", ".join(fields))
        if root(path, names) not in names:
            raise DataError(
                f"{file} has no column {path!r}, which {field} is mapped to",
                f"columns: {', '.join(names)}",
                f"Name one of them: --map {field}=COLUMN",
            )


def known_layout(names: Sequence[str]) -> Layout | None:
    """The layout of the known tool that writes these columns; None if no known tool does."""
    return next((layout for layout in LAYOUTS if layout.needs <= set(names)), None)


def _columns(
    layout: Layout, names: Sequence[str], row: Row, mapping: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Field -> column or path, for this version of the tool; and notes."""
    columns = {field: path for field, path in layout.columns.items() if root(path, names) in names}
    notes = []
    for variant in layout.variants:
        if variant.field not in mapping and variant.applies(names, row):
            columns[variant.field] = variant.path
            notes += [variant.note] if variant.note else []
    columns |= mapping
    response = columns.get("response")
    if layout.only_texts and response and not isinstance(look_up(row, response), str):
        del columns["response"]
    return columns, notes


def _counted_rows(
    layout: Layout, names: Sequence[str], rows: Sequence[Row]
) -> tuple[str | None, Any, list[str]]:
    """Which rows count: a column and the value it has to have (None: all rows); and notes."""
    only = layout.only
    if only is None or only not in names:
        return None, None, []
    value = next((row[only] for row in rows if row.get(only)), None)
    if value is None:
        return None, None, []
    if len({str(row.get(only)) for row in rows}) == 1:
        return only, value, []
    note = f"Only rows of the filter {value!r} are read: the others score the same responses again."
    return only, value, [note]


def _by_aliases(names: Sequence[str]) -> Layout:
    """A layout for a file of an unknown tool, by the usual names of columns."""
    columns = match_aliases(names, ALIASES)
    if "prompt" in columns or "response" in columns:
        columns.pop("messages", None)
    if not {"query_id", "prompt", "messages"} & columns.keys():
        columns = match_aliases(names, {"query_id": ("id",)}, columns)
    return Layout("columns by name", columns=columns)


def _metric(names: Sequence[str], rows: Sequence[Row], file: str, certain: bool) -> str | None:
    """The column that says how good a response is, where every task or reward has its own name.

    Args:
        certain: take a column only if its name says that it is a metric.

    Returns:
        A column, or a path into one; None if there is none.

    Raises:
        DataError: if several columns could be meant.
    """
    declared: list[str] = next(
        (row["metrics"] for row in rows if isinstance(row.get("metrics"), list)), []
    )
    candidates = declared or [name for name in names if name not in _NOT_METRICS]
    numeric = [path for name in candidates if (path := _numeric_path(name, rows))]
    exact: list[str] = [name for name in ("exact_match", "acc", "reward") if name in numeric]
    named = exact[:1] or [name for name in numeric if _METRIC_NAME.search(name)]
    chosen = numeric if len(numeric) == 1 and not certain else named
    if len(chosen) == 1:
        return chosen[0]
    possible = named if certain else numeric
    if not possible:
        return None
    raise DataError(
        f"{file} has several columns that could be the reward",
        ", ".join(possible),
        f"Name one of them: --map reward={(named or numeric)[0]}",
    )


def _numeric_path(name: str, rows: Sequence[Row]) -> str | None:
    """A column, or the path into it, whose values are all numbers; None if there is none."""
    values = [row.get(name) for row in rows if row.get(name) is not None]
    if values and all(isinstance(value, int | float) for value in values):
        return name
    if values and all(isinstance(value, dict) for value in values):
        for key in _METRIC_KEYS:
            if all(isinstance((value or {}).get(key), int | float) for value in values):
                return f"{name}.{key}"
    return None


def _has_answers(names: Sequence[str]) -> bool:
    return bool({name.lower() for name in names} & {*ANSWERS, "answers"})


def _not_recognised(file: str, names: Sequence[str], missing: str, judged: bool) -> DataError:
    """The error for a file that is not understood.

    Args:
        judged: it has responses and reference answers, so that `verify` can make the reward.
    """
    path = shlex.quote(file)
    out = "judged.parquet" if file.endswith((".parquet", ".arrow")) else "judged.jsonl"
    verify = (
        "Judge the responses against the reference answers first: add --verify",
        f"Or keep the verdicts: si-ctl verify {path} --out {out} && si-ctl diagnose {out}",
    )
    tools = ", ".join(layout.name for layout in LAYOUTS)
    return DataError(
        f"{file} cannot be understood",
        f"columns found: {', '.join(names) or 'none'}\nmissing: {missing}",
        (
            *(verify if judged else ()),
            "Name the columns: --map query_id=COLUMN,reward=COLUMN",
            f"Files of {tools} and si-ctl are recognised, and columns with names such as query_id, "
            "prompt, response, reward and step.",
        ),
    )
