"""Scores of several answers a query: avg@n, pass@k and maj@n."""

from itertools import combinations
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from si.config.recipe import Recipe
from si.errors import DataError
from si.metrics import pass_at, up_to
from si.records import SAMPLED_SCORES
from si.stages.evaluate import Facts
from si.stages.sampled_scores import majority, score, summarise
from tests.unit.test_evaluate import LEVELS, QUERIES

# query -> its answers; * marks a correct one, - a response without an answer
ANSWERS = {"a": "7* 7* 8 9", "b": "1 1 - 2*", "c": "- - - -", "d": "3* 4 4 3*"}


def tables(answers: dict[str, str] = ANSWERS) -> tuple[pa.Table, pa.Table]:
    rollouts, verdicts = [], []
    for query, said in answers.items():
        for number, word in enumerate(said.split()):
            key = {"query_id": query, "round": 3, "prefix_id": "", "sample": number}
            rollouts.append(key | {"token_ids": list(range(number + 1))})
            extracted = None if word == "-" else word.rstrip("*")
            verdicts.append(key | {"correct": word.endswith("*"), "extracted": extracted})
    return pa.Table.from_pylist(rollouts), pa.Table.from_pylist(verdicts)


def rows() -> list[dict[str, Any]]:
    return score(QUERIES, LEVELS, *tables(), 4)


def test_scores_of_four_answers_by_hand() -> None:
    """Every query counts its correct answers; a split has their mean, pass@k and maj@n."""
    found = rows()
    pa.Table.from_pylist(found, SAMPLED_SCORES)
    assert [(row["query_id"], row["correct"], row["majority"]) for row in found] == [
        ("a", 2, 1.0),
        ("b", 1, 0.0),
        ("c", 0, 0.0),
        ("d", 2, 0.5),
    ]
    summary = summarise(found, 4, 0.7)
    assert list(summary) == ["dev", "test"]
    dev = summary["dev"]
    assert (dev["n"], dev["samples"], dev["correct"], dev["correct_squared"]) == (2, 4, 3, 5)
    assert (dev["accuracy"], dev["majority"], dev["temperature"]) == (3 / 8, 0.5, 0.7)
    assert dev["pass_at"] == pytest.approx({"1": 3 / 8, "2": (5 / 6 + 1 / 2) / 2, "4": 1.0})
    assert dev["tokens_mean"] == 2.5
    assert dev["by_level"]["L1"]["accuracy"] == 0.5
    assert summary["test"]["by_difficulty"]["5"]["majority"] == 0.5


@pytest.mark.parametrize("n", [1, 4, 7])
def test_pass_at_k_is_the_mean_over_all_choices_of_k(n: int) -> None:
    """The estimator equals counting every way to choose k of the n answers."""
    for correct in range(n + 1):
        answers = [True] * correct + [False] * (n - correct)
        for k in range(1, n + 1):
            chosen = [any(some) for some in combinations(answers, k)]
            assert pass_at(k, n, correct) == pytest.approx(sum(chosen) / len(chosen))
    assert pass_at(1, n, 1) == pytest.approx(1 / n)


def test_k_are_powers_of_two_and_all_answers() -> None:
    """pass@k is reported for k = 1, 2, 4 ... up to n, and for n."""
    assert [up_to(n) for n in (1, 4, 6)] == [[1], [1, 2, 4], [1, 2, 4, 6]]


@pytest.mark.parametrize(
    ("answers", "vote"),
    [
        (
            [(True, "1/2"), (True, "0.5"), (False, "2")],
            1.0,
        ),  # equal to the reference, so one answer
        ([(False, "X"), (False, " x "), (True, "y")], 0.0),
        ([(True, "1"), (False, "2"), (False, "3")], 1 / 3),
        ([(True, "1"), (False, None), (False, None)], 1.0),
        ([(False, None)], 0.0),
        ([(True, None), (False, "2")], None),
    ],
)
def test_the_most_frequent_answer_decides(answers: Any, vote: float | None) -> None:
    """Correct answers are one answer, ties count in part, no answer does not vote; unknown where a
    verifier names no answers."""
    assert majority(answers) == (None if vote is None else pytest.approx(vote))


def test_an_unknown_vote_makes_the_whole_unknown() -> None:
    """maj@n over the queries that happen to be known would be biased."""
    found = rows()
    found[0]["majority"] = None
    assert summarise(found, 4)["dev"]["majority"] is None
    assert summarise(found, 4)["test"]["majority"] == 0.25


def test_other_numbers_of_answers_are_refused() -> None:
    """A query with an answer too few, or verdicts about other samples, are not scored."""
    with pytest.raises(DataError, match="4 responses a query"):
        score(QUERIES, LEVELS, *tables({"a": "1 2 3"}), 4)
    rollouts, _ = tables()
    with pytest.raises(DataError, match="different samples"):
        score(QUERIES, LEVELS, rollouts, tables({"a": "1 2 3 4"})[1], 4)


def test_status_names_the_measure() -> None:
    """The line about a finished evaluation says avg@4; greedy accuracy stays as it was."""
    assert Facts(accuracy_dev=0.5, samples=4).describe() == "dev avg@4 50.0 %"
    assert Facts(accuracy_dev=0.5).describe() == "dev 50.0 %"


def test_several_answers_need_a_temperature() -> None:
    """Greedy answers are all alike: the recipe is refused, unless evaluation has its own
    temperature."""
    greedy = {"sampling": {"temperature": 0}, "evaluate": {"samples": 4}}
    with pytest.raises(ValidationError, match="temperature above 0"):
        Recipe.model_validate(greedy)
    with pytest.raises(ValidationError, match="temperature above 0"):
        Recipe.model_validate({"evaluate": {"samples": 4, "temperature": 0}})
    greedy["evaluate"]["temperature"] = 0.5
    assert Recipe.model_validate(greedy).evaluation_temperature == 0.5
    assert Recipe.model_validate({"evaluate": {"samples": 2}}).evaluation_temperature == 1.0
    assert Recipe().evaluation_temperature == 0.0
