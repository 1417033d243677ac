"""Scores of held-out queries that are answered several times: avg@n, pass@k and maj@n.

- avg@n: mean over queries of the share of correct answers.
- pass@k: the probability that at least one of k answers is correct, estimated without bias from
  n >= k answers (M. Chen et al. 2021, Evaluating Large Language Models Trained on Code).
- maj@n: the share of queries whose most frequent answer is the reference.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import fsum
from typing import Any

import pyarrow as pa

from si.errors import DataError
from si.metrics import pass_at, up_to
from si.records import KEY
from si.stages.score_rows import Row, by_split, described, place


def score(
    queries: pa.Table, levels: pa.Table, rollouts: pa.Table, verdicts: pa.Table, samples: int
) -> list[dict[str, Any]]:
    """Rows of SAMPLED_SCORES, one per query, by split and query id.

    Args:
        queries: query_id, family, difficulty and split of the whole data set.
        levels: query_id and level under policy 0, at least of the queries in `rollouts`.
        rollouts: the key of a sample, and token_ids.
        verdicts: the same keys in the same order, and correct and extracted.
        samples: responses per query.

    Raises:
        DataError: if the verdicts are not about these rollouts, a query has another number of
            responses, no level, or no place in the data set.
    """
    if not rollouts.select(KEY).equals(verdicts.select(KEY)):
        raise DataError(
            "Rollouts and verdicts of the evaluation are about different samples",
            f"{len(rollouts)} rollouts, {len(verdicts)} verdicts",
        )
    answers: dict[str, list[tuple[bool, str | None]]] = {}
    tokens: Counter[str] = Counter()
    columns = (verdicts[name].to_pylist() for name in ("query_id", "correct", "extracted"))
    lengths = map(len, rollouts["token_ids"].to_pylist())
    for query, correct, extracted, length in zip(*columns, lengths, strict=True):
        answers.setdefault(query, []).append((correct, extracted))
        tokens[query] += length
    for query, given in answers.items():
        if len(given) != samples:
            raise DataError(
                f"Evaluation wants {samples} responses a query",
                f"query {query} has {len(given)}",
            )
    about = described(queries, levels, answers)
    rows = [
        {
            **about[query],
            "samples": samples,
            "correct": sum(correct for correct, _ in given),
            "majority": majority(given),
            "tokens": tokens[query],
        }
        for query, given in answers.items()
    ]
    return sorted(rows, key=place)


def majority(answers: Iterable[tuple[bool, str | None]]) -> float | None:
    """Whether the most frequent of a query's answers is correct: 1, 0, or in a tie the share of the
    tied answers that are.

    Correct answers count as the same one, since each equals the reference. Incorrect ones are
    compared as text, without case. A response without an answer does not vote.

    Args:
        answers: (correct, final answer or None) of each response.

    Returns:
        None if a custom verifier does not name the answers that it accepts.
    """
    votes: Counter[tuple[bool, str]] = Counter()
    for correct, extracted in answers:
        if extracted is not None:
            votes[correct, "" if correct else extracted.strip().casefold()] += 1
        elif correct:
            return None
    most = max(votes.values(), default=0)
    leading = [correct for (correct, _), n in votes.items() if n == most]
    return sum(leading) / len(leading) if leading else 0.0


def summarise(
    rows: Iterable[Row], samples: int, temperature: float | None = None
) -> dict[str, Any]:
    """Scores by split: `n` queries, `samples` per query and their `temperature`, and `tokens_mean`
    of a response.

    For a split, and in it by_level, by_difficulty and by_family: `n`, `samples`, `correct`
    (answers), `correct_squared` (sum over queries of the square of their correct answers, which an
    interval needs),
    `accuracy` (avg@n), `pass_at` (k -> pass@k) and `majority` (maj@n, None if unknown).
    """

    def counted(group: Sequence[Row]) -> dict[str, Any]:
        correct = [row["correct"] for row in group]
        votes = [row["majority"] for row in group]
        n = len(group)
        return {
            "n": n,
            "samples": samples,
            "correct": sum(correct),
            "correct_squared": sum(c * c for c in correct),
            "accuracy": sum(correct) / (n * samples),
            "pass_at": {
                str(k): fsum(pass_at(k, samples, c) for c in correct) / n for k in up_to(samples)
            },
            "majority": None if None in votes else fsum(votes) / n,
        }

    def more(group: Sequence[Row]) -> dict[str, Any]:
        tokens = sum(row["tokens"] for row in group)
        return {"temperature": temperature, "tokens_mean": tokens / (len(group) * samples)}

    return by_split(rows, counted, more)
