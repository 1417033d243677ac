"""Evaluate: score a policy's responses to the held-out queries.

One greedy response a query, or several samples (`si.stages.sampled_scores`). A query's level is the
one it has under policy 0, so that "accuracy on L5" asks about the same queries in every iteration
and every run.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import pyarrow as pa

from si.config.section import LATER
from si.datasets.dataset import Dataset
from si.errors import DataError
from si.records import KEY, SAMPLED_SCORES, SCORES
from si.report.summary import best, score_name
from si.stages import sampled_scores, stage
from si.stages.job import Job, ShardFunction
from si.stages.score_rows import Row, by_split, described, place
from si.store.commit import Output
from si.store.keys import canonical

__all__ = ["best", "evaluate", "score", "summarise"]


class Settings(stage.Settings):
    """Scores depend on verdicts alone."""


class Params(stage.Params):
    """What is scored.

    Attributes:
        iteration: the iteration of the policy.
        splits: the splits that it is scored on.
        samples: responses per query, at `temperature`; 0 for one greedy response.
    """

    iteration: int
    splits: list[str]
    samples: Annotated[int, LATER] = 0
    temperature: Annotated[float | None, LATER] = None


class Facts(stage.Facts):
    """`accuracy_SPLIT` for each split, 0 to 1; `samples`, responses per query, if sampled."""

    def describe(self) -> str:
        facts = self.model_extra or {}
        measure = f" {score_name(facts['samples'])}" if facts.get("samples") else ""
        return ", ".join(
            f"{name.removeprefix('accuracy_')}{measure} {100 * value:.1f} %"
            for name, value in facts.items()
            if name.startswith("accuracy_")
        )


def evaluate(job: Job[Settings, Params]) -> ShardFunction:
    """Stage function: rollouts and their verdicts to scores.parquet and scores.json.

    Raises:
        DataError: if a query has another number of verdicts than asked for, no level, or no place
            in the data.
    """

    def shard(_: int) -> Output:
        rows, schema, summary = (_sampled if job.params.samples else _greedy)(job)
        facts = {f"accuracy_{split}": part["accuracy"] for split, part in summary.items()}
        if job.params.samples:
            facts["samples"] = job.params.samples
        return Output(
            files={
                "scores.parquet": pa.Table.from_pylist(rows, schema),
                "scores.json": canonical(summary),
            },
            rows=len(rows),
            facts=facts,
        )

    return shard


Scored = tuple[list[dict[str, Any]], pa.Schema, dict[str, Any]]  # rows, their schema, a summary


def _greedy(job: Job[Settings, Params]) -> Scored:
    rows = score(
        *_queries(job),
        job.input("rollouts").tables("rollouts.parquet", ["query_id", "token_ids"]),
        job.input("verdicts").tables("verdicts.parquet", ["query_id", "correct"]),
    )
    return rows, SCORES, summarise(rows)


def _sampled(job: Job[Settings, Params]) -> Scored:
    samples = job.params.samples
    rows = sampled_scores.score(
        *_queries(job),
        job.input("rollouts").tables("rollouts.parquet", [*KEY, "token_ids"]),
        job.input("verdicts").tables("verdicts.parquet", [*KEY, "correct", "extracted"]),
        samples,
    )
    summary = sampled_scores.summarise(rows, samples, job.params.temperature)
    return rows, SAMPLED_SCORES, summary


def _queries(job: Job[Settings, Params]) -> tuple[pa.Table, pa.Table]:
    """What the data set and the levels hold about its queries."""
    return (
        Dataset(job.input("data")).table(columns=["query_id", "family", "difficulty"]),
        job.input("levels").tables("levels.parquet", ["query_id", "level"]),
    )


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
    ids = rollouts["query_id"].to_pylist()
    judged = verdicts["query_id"].to_pylist()
    correct = dict(zip(judged, verdicts["correct"].to_pylist(), strict=True))
    if sorted(ids) != sorted(judged) or len(correct) != len(judged):
        raise DataError(
            "Evaluation wants one response and one verdict a query",
            f"got {len(ids)} responses and {len(judged)} verdicts of {len(set(ids))} queries",
        )
    about = described(queries, levels, ids)
    rows = [
        {**about[query], "correct": correct[query], "tokens": len(tokens)}
        for query, tokens in zip(ids, rollouts["token_ids"].to_pylist(), strict=True)
    ]
    return sorted(rows, key=place)


def summarise(rows: Iterable[Row]) -> dict[str, Any]:
    """Scores by split: n, correct, accuracy (0 to 1), tokens_mean, and by_level, by_difficulty
    and by_family with n, correct and accuracy each. Groups without a query are left out."""
    return by_split(rows, _counted, _tokens)


def _counted(rows: Sequence[Row]) -> dict[str, Any]:
    correct = sum(row["correct"] for row in rows)
    return {"n": len(rows), "correct": correct, "accuracy": correct / len(rows)}


def _tokens(rows: Sequence[Row]) -> dict[str, Any]:
    return {"tokens_mean": sum(row["tokens"] for row in rows) / len(rows)}
