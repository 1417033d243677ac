"""What all scores have in common: what a held-out query is, and figures by split and group."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from si.errors import DataError
from si.records import LEVELS, SPLITS

Row = Mapping[str, Any]
Figures = Callable[[Sequence[Row]], dict[str, Any]]


def described(queries: pa.Table, levels: pa.Table, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """query_id, split, family, difficulty and level of these queries, by their ids.

    Raises:
        DataError: if one is not in the data set, or has no level.
    """
    known = {row["query_id"]: row for row in queries.to_pylist()}
    level = dict(zip(*(levels[name].to_pylist() for name in ("query_id", "level")), strict=True))
    wanted = set(ids)
    for name, found in (("place in the data set", known), ("level under policy 0", level)):
        lost = wanted - found.keys()
        if lost:
            raise DataError(
                f"{len(lost)} evaluation queries have no {name}", f"the first is {min(lost)}"
            )
    columns = ("query_id", "split", "family", "difficulty")
    return {
        query: {name: known[query][name] for name in columns} | {"level": level[query]}
        for query in wanted
    }


def place(row: Row) -> tuple[int, str]:
    """The order of scores: by split, then by query id."""
    return SPLITS.index(row["split"]), row["query_id"]


def by_split(rows: Iterable[Row], counted: Figures, more: Figures) -> dict[str, Any]:
    """Figures of each split: `counted`, `more`, and by_level, by_difficulty and by_family what
    `counted` gives for each. Groups without a query are left out."""
    splits = _grouped(rows, "split")
    return {
        split: {
            **counted(splits[split]),
            **more(splits[split]),
            "by_level": _by(splits[split], "level", counted, LEVELS),
            "by_difficulty": _by(splits[split], "difficulty", counted),
            "by_family": _by(splits[split], "family", counted),
        }
        for split in SPLITS
        if split in splits
    }


def _grouped(rows: Iterable[Row], name: str) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[name]].append(row)
    return groups


def _by(
    rows: Iterable[Row], name: str, counted: Figures, order: Sequence[str] | None = None
) -> dict[str, Any]:
    groups = _grouped(rows, name)
    return {str(key): counted(groups[key]) for key in order or sorted(groups) if key in groups}
