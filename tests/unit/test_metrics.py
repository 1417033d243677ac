"""Matthew metrics: hand-computed figures, and what holds for any numbers."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from si.metrics import entropy, gini, matthew, pass_rates, step_counts
from si.records import LEVELS, outcomes
from si.strategies import step_ends

COUNTS = st.lists(st.integers(0, 10_000), max_size=60).map(lambda x: np.array(x, np.int64))
NOTHING = np.zeros(0, np.int64)


@pytest.mark.parametrize(
    ("counts", "value"),
    [
        ([1, 1, 1, 1], 0),
        ([0, 0, 0, 4], 3 / 4),
        ([1, 3], 1 / 4),
        ([0, 1, 2, 3], 5 / 12),
        ([8, 8, 0], 1 / 3),
        ([5], 0),
    ],
)
def test_gini_by_hand(counts: list[int], value: float) -> None:
    """Mean absolute difference over twice the mean, worked out on paper."""
    assert gini(np.array(counts)) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(
    ("counts", "value"),
    [
        ([1, 1, 1, 1], 1),
        ([0, 0, 0, 4], 0),
        ([1, 1, 0, 0], 1 / 2),
        ([1, 3], (math.log(4) - 3 / 4 * math.log(3)) / math.log(2)),
        ([5], 1),
    ],
)
def test_entropy_by_hand(counts: list[int], value: float) -> None:
    """Entropy of the shares over its maximum, worked out on paper."""
    assert entropy(np.array(counts)) == round(value, 12)


def test_nothing_has_no_concentration() -> None:
    """Where there is nothing to share out, there is no figure."""
    for counts in (NOTHING, np.zeros(5, np.int64)):
        assert gini(counts) is None and entropy(counts) is None


@given(COUNTS, st.integers(1, 1000), st.randoms(use_true_random=False))
def test_concentration_has_its_bounds_and_symmetries(counts, factor, shuffler) -> None:  # type: ignore[no-untyped-def]
    """Gini lies in [0, 1), entropy in [0, 1]; order changes neither, nor does scale."""
    assume(counts.sum())
    shuffled = counts.tolist()
    shuffler.shuffle(shuffled)
    for figure in (gini, entropy):
        value = figure(counts)
        assert value is not None and 0 <= value <= 1
        assert figure(np.array(shuffled)) == value
        assert figure(counts * factor) == pytest.approx(value, abs=1e-12)
    assert gini(counts) < 1  # type: ignore[operator]


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_equal_numbers_are_not_concentrated(n: int, each: int) -> None:
    """All equal: Gini exactly 0, entropy 1."""
    counts = np.full(n, each)
    assert gini(counts) == 0
    assert entropy(counts) == pytest.approx(1)


@given(COUNTS.filter(lambda counts: len(counts) > 1 and counts.sum() > 0))
def test_gini_is_the_mean_difference(counts) -> None:  # type: ignore[no-untyped-def]
    """The sorted formula agrees with the definition over all pairs."""
    pairs = np.abs(counts[:, None] - counts[None, :]).sum()
    assert gini(counts) == pytest.approx(pairs / (2 * len(counts) * counts.sum()))


def test_matthew_by_hand() -> None:
    """Shares, ratio and lengths of five queries, one of them without any success."""
    level = np.array([LEVELS.index(name) for name in ("L1", "L1", "L3", "L5", "U")])
    figures = matthew(
        level,
        np.array([4, 2, 1, 1, 0]),
        np.array([40, 20, 15, 30, 0]),
        np.array([8, 4, 3, 5, 0]),
    )
    assert figures["total"] == 8
    assert figures["count_by_level"] == {"L1": 6, "L2": 0, "L3": 1, "L4": 0, "L5": 1, "U": 0}
    assert figures["share_by_level"]["L1"] == 0.75
    assert figures["share_by_level"]["L2"] == figures["share_by_level"]["U"] == 0
    assert figures["head_tail_ratio"] == 6
    assert figures["gini"] == pytest.approx(0.45)
    assert figures["gini_solved"] == pytest.approx(5 / 16)
    assert figures["entropy"] == pytest.approx(1.75 * math.log(2) / math.log(5))
    assert figures["entropy_solved"] == pytest.approx(1.75 / 2)
    assert figures["tokens_mean"] == 105 / 8 and figures["steps_mean"] == 20 / 8
    assert figures["tokens_by_level"] == {
        **dict.fromkeys(LEVELS),
        "L1": 10.0,
        "L3": 15.0,
        "L5": 30.0,
    }
    assert figures["steps_by_level"]["L1"] == 2.0
    json.dumps(figures, allow_nan=False)


@pytest.mark.parametrize("queries", [0, 3])
def test_nothing_is_well_defined(queries: int) -> None:
    """No query, or none that is solved: counts are 0, and what does not exist is null."""
    level, none = np.full(queries, LEVELS.index("U")), np.zeros(queries, np.int64)
    figures = matthew(level, none, none, none)
    assert figures["total"] == 0 and set(figures["count_by_level"].values()) == {0}
    for name in ("head_tail_ratio", "gini", "gini_solved", "entropy", "tokens_mean"):
        assert figures[name] is None
    assert set(figures["share_by_level"].values()) == {None}
    rates = pass_rates(level, none, none)
    assert rates["queries_by_level"]["U"] == queries and rates["accuracy_by_level"]["U"] is None
    json.dumps(figures | rates, allow_nan=False)


def test_no_tail_no_ratio() -> None:
    """The head/tail ratio is null where the tail contributes nothing."""
    level, count = np.array([0, 1, 5]), np.array([3, 1, 0])
    assert matthew(level, count, count, count)["head_tail_ratio"] is None


def test_pass_rates_by_hand() -> None:
    """Accuracy by level pools the samples of a level's queries."""
    rates = pass_rates(np.array([0, 0, 4]), np.array([8, 8, 8]), np.array([8, 6, 1]))
    assert rates["queries_by_level"] == {"L1": 2, "L2": 0, "L3": 0, "L4": 0, "L5": 1, "U": 0}
    assert rates["accuracy_by_level"]["L1"] == 14 / 16
    assert rates["accuracy_by_level"]["L5"] == 1 / 8
    assert rates["accuracy_by_level"]["L2"] is None


TEXT = st.text(st.sampled_from("ab \n\t;\u3000é") | st.characters(codec="utf-8"), max_size=30)


@given(st.lists(TEXT, max_size=12), st.sampled_from(["\n", "; ", "aa"]))
def test_steps_are_counted_as_they_are_cut(texts: list[str], separator: str) -> None:
    """A column's step counts are the numbers of ends that guided resampling sees, also in a
    slice of a longer column."""
    expected = [len(step_ends(text, separator)) for text in texts]
    column = pa.array(["before\nit", *texts], pa.string())
    assert step_counts(column[1:], separator).tolist() == expected
    assert step_counts(pa.array(texts, pa.string()), separator).tolist() == expected


def test_outcomes_are_counted_and_sorted() -> None:
    """n counts every verdict, k the right ones; queries come sorted."""
    table = pa.table({"query_id": ["b", "a", "b"], "correct": [True, False, False]})
    assert outcomes(table).to_pylist() == [
        {"query_id": "a", "n": 1, "k": 0},
        {"query_id": "b", "n": 2, "k": 1},
    ]
    assert len(outcomes(table.slice(0, 0))) == 0
