"""Scores of held-out queries, and which iteration is the best."""

from typing import Any

import pyarrow as pa
import pytest

from si.errors import DataError
from si.records import SCORES
from si.stages.evaluate import best, score, summarise

QUERIES = pa.Table.from_pylist(
    [
        {"query_id": q, "family": f, "difficulty": d, "split": s}
        for q, f, d, s in (
            ("a", "tiles", 1, "dev"),
            ("b", "cone", 2, "dev"),
            ("c", "tiles", 1, "test"),
            ("d", "cone", 5, "test"),
            ("e", "cone", 5, "train"),
        )
    ]
)
LEVELS = pa.Table.from_pylist(
    [
        {"query_id": q, "level": v}
        for q, v in zip("abcde", ("L1", "U", "L1", "U", "L3"), strict=True)
    ]
)


def _rows(right: str) -> list[dict[str, Any]]:
    rollouts = pa.Table.from_pylist([{"query_id": q, "token_ids": [1, 2, 3]} for q in "dcba"])
    verdicts = pa.Table.from_pylist([{"query_id": q, "correct": q in right} for q in "abcd"])
    return score(QUERIES, LEVELS, rollouts, verdicts)


def test_scores_by_split_level_and_grade() -> None:
    """Every query is counted once in its split, level, grade and family."""
    rows = _rows("ac")
    assert [row["query_id"] for row in rows] == ["a", "b", "c", "d"]
    pa.Table.from_pylist(rows, SCORES)
    summary = summarise(rows)
    assert list(summary) == ["dev", "test"]
    assert summary["dev"] == {
        "n": 2,
        "correct": 1,
        "accuracy": 0.5,
        "tokens_mean": 3.0,
        "by_level": {
            "L1": {"n": 1, "correct": 1, "accuracy": 1.0},
            "U": {"n": 1, "correct": 0, "accuracy": 0.0},
        },
        "by_difficulty": {
            "1": {"n": 1, "correct": 1, "accuracy": 1.0},
            "2": {"n": 1, "correct": 0, "accuracy": 0.0},
        },
        "by_family": {
            "cone": {"n": 1, "correct": 0, "accuracy": 0.0},
            "tiles": {"n": 1, "correct": 1, "accuracy": 1.0},
        },
    }


@pytest.mark.parametrize("rollouts", [["a"], ["a", "a"], ["a", "b"]])
def test_one_verdict_a_query(rollouts: list[str]) -> None:
    """A response without a verdict, or two of one query, are refused rather than scored."""
    table = pa.Table.from_pylist([{"query_id": q, "token_ids": [1]} for q in rollouts])
    verdicts = pa.Table.from_pylist([{"query_id": q, "correct": True} for q in ["a", "a"]])
    with pytest.raises(DataError):
        score(QUERIES, LEVELS, table, verdicts)


def test_a_query_without_a_level_is_named() -> None:
    """A query that policy 0 was never measured on cannot be scored by level."""
    table = pa.Table.from_pylist([{"query_id": "a", "token_ids": [1]}])
    verdicts = pa.Table.from_pylist([{"query_id": "a", "correct": True}])
    with pytest.raises(DataError, match="no level"):
        score(QUERIES, LEVELS.slice(1), table, verdicts)


def test_best_is_chosen_on_dev_and_earliest_of_equals() -> None:
    """Dev decides, the earliest of equals wins, and test would be the oracle."""
    scores = [summarise(_rows(right)) for right in ("", "ac", "bcd", "ad")]
    assert best(scores) == 1
    assert best(scores, "test") == 2
    assert best([{"test": {"accuracy": 1.0}}]) is None
    assert best([]) is None
