"""Evaluate: score a policy's greedy responses to the held-out queries.

One response a query. A query's level is the one it has under policy 0, so that "accuracy on
L5" asks about the same queries in every iteration and every run.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from si.datasets.dataset import Dataset
from si.errors import DataError
from si.records import LEVELS, SCORES, SPLITS
from si.report.summary import best
from si.stages import stage
from si.stages.job import Job, ShardFunction
from si.store.commit import Output
from si.store.keys import canonical

__all__ = ["best", "evaluate", "score", "summarise"]

Row = Mapping[str, Any]


class Settings(stage.Settings):
    """Scores depend on verdicts alone."""


class Params(stage.Params):
    """The iteration whose policy is scored, and the splits that it is scored on."""

    iteration: int
    splits: list[str]


class Facts(stage.Facts):
    """`accuracy_SPLIT` for each split, 0 to 1."""

    def describe(self) -> str:
        return ", ".join(
            f"{name.removeprefix('accuracy_')} {100 * value:.1f} %"
            for name, value in (self.model_extra or {}).items()
            if name.startswith("accuracy_")
        )


def evaluate(job: Job[Settings, Params]) -> ShardFunction:
    """Stage function: greedy rollouts and their verdicts to scores.parquet and scores.json.

    Raises:
        DataError: if a query has no verdict or more than one, no level, or no place in the data.
    """

    def shard(_: int) -> Output:
        rows = score(
            Dataset(job.input("data")).table(columns=["query_id", "family", "difficulty"]),
            job.input("levels").tables("levels.parquet", ["query_id", "level"]),
            job.input("rollouts").tables("rollouts.parquet", ["query_id", "token_ids"]),
            job.input("verdicts").tables("verdicts.parquet", ["query_id", "correct"]),
        )
        summary = summarise(rows)
        return Output(
            files={
                "scores.parquet": pa.Table.from_pylist(rows, SCORES),
                "scores.json": canonical(summary),
            },
            rows=len(rows),
            facts={f"accuracy_{split}": part["accuracy"] for split, part in summary.items()},
        )

    return shard


def score(
    queries: pa.Table, levels: pa.Table, rollouts: pa.Table, verdicts: pa.Table
) -> list[dict[str, Any]]:
    """Rows of SCORES, one per rollout, by split and query id.

    Args:
        queries: query_id, family, difficulty and split of the whole data set.
        levels: query_id and level under policy 0, at least of the queries in `rollouts`.
        rollouts: query_id and token_ids, one row a query.
        verdicts: query_id and correct, of the same queries.
    """
    known = {row["query_id"]: row for row in queries.to_pylist()}
    level = dict(zip(*(levels[name].to_pylist() for name in ("query_id", "level")), strict=True))
    ids = rollouts["query_id"].to_pylist()
    judged = verdicts["query_id"].to_pylist()
    correct = dict(zip(judged, verdicts["correct"].to_pylist(), strict=True))
    if sorted(ids) != sorted(judged) or len(correct) != len(judged):
        raise DataError(
            "Evaluation wants one response and one verdict a query",
            f"got {len(ids)} responses and {len(judged)} verdicts of {len(set(ids))} queries",
        )
    for name, found in (("place in the data set", known), ("level under policy 0", level)):
        lost = set(ids) - found.keys()
        if lost:
            raise DataError(
                f"{len(lost)} evaluation queries have no {name}", f"the first is {min(lost)}"
            )
    rows = [
        {
            "query_id": query,
            "split": known[query]["split"],
            "family": known[query]["family"],
            "difficulty": known[query]["difficulty"],
            "level": level[query],
            "correct": correct[query],
            "tokens": len(tokens),
        }
        for query, tokens in zip(ids, rollouts["token_ids"].to_pylist(), strict=True)
    ]
    return sorted(rows, key=lambda row: (SPLITS.index(row["split"]), row["query_id"]))


def summarise(rows: Iterable[Row]) -> dict[str, Any]:
    """Scores by split: n, correct, accuracy (0 to 1), tokens_mean, and by_level, by_difficulty
    and by_family with n, correct and accuracy each. Groups without a query are left out."""
    splits = _grouped(rows, "split")
    return {
        split: {
            **_counted(splits[split]),
            "tokens_mean": sum(row["tokens"] for row in splits[split]) / len(splits[split]),
            "by_level": _by(splits[split], "level", LEVELS),
            "by_difficulty": _by(splits[split], "difficulty"),
            "by_family": _by(splits[split], "family"),
        }
        for split in SPLITS
        if split in splits
    }


def _grouped(rows: Iterable[Row], name: str) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[name]].append(row)
    return groups


def _by(rows: Iterable[Row], name: str, order: Sequence[str] | None = None) -> dict[str, Any]:
    groups = _grouped(rows, name)
    return {str(key): _counted(groups[key]) for key in order or sorted(groups) if key in groups}


def _counted(rows: Sequence[Row]) -> dict[str, Any]:
    correct = sum(row["correct"] for row in rows)
    return {"n": len(rows), "correct": correct, "accuracy": correct / len(rows)}
