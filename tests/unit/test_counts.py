"""Counts of correct answers and paired differences: one test decides every word about them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from si.report.counts import FEWEST, Change, between, changed, counted, excludes_zero
from si.report.summary import Iteration


def one_answer(wins: int, losses: int, n: int) -> Change:
    """A difference where every query has one answer."""
    return Change({1: wins, -1: losses, 0: n - wins - losses})


def test_changes_are_counted_by_query() -> None:
    """Only queries that both policies answered count, each by how many answers it gained."""
    one = changed({"a": 1.0, "b": 0.0, "c": 1.0}, {"a": 0.0, "b": 1.0})
    assert (one.n, one.wins, one.losses, one.difference) == (2, 1, 1, 0)
    four = changed({"a": 0.25, "b": 1.0, "c": 0.5}, {"a": 1.0, "b": 0.5, "c": 0.5}, 4)
    assert four.moves == {3: 1, -2: 1, 0: 1}
    assert (four.wins, four.losses) == (1, 1)
    assert four.difference == pytest.approx(1 / 12)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 60))
def test_no_word_contradicts_its_interval(wins: int, losses: int, ties: int) -> None:
    """Beside an interval that excludes zero stands "more than chance explains", beside others "no
    more"; if too few queries changed, that is said instead."""
    change = one_answer(wins, losses, wins + losses + ties)
    outside = excludes_zero(change.interval)
    assert (": more than chance explains" in change.words) == change.real
    if wins + losses >= FEWEST:
        assert change.real == outside == (change.p < 0.05)
        assert ("no more than chance" in change.words) == (not outside)
    else:
        assert not change.real
        assert "too few changed" in change.words or "no answer changed" in change.words


def test_the_interval_of_a_borderline_difference_agrees_with_its_word() -> None:
    """70 won and 98 lost of 820: the interval lies below zero, so the word is not "chance"."""
    change = one_answer(70, 98, 820)
    assert change.interval.high < 0
    assert ": more than chance explains" in change.words


def test_an_interval_without_width_says_why() -> None:
    """If no answer changed, the reader learns that this does not show equality."""
    words = one_answer(0, 0, 5).words
    assert "no width" in words and "does not show that the policies are equal" in words


def test_counts_add_up_over_levels() -> None:
    """A group's counts are sums over its levels; greedy scores have one answer a query."""
    level = {"n": 10, "correct": 12, "correct_squared": 30}
    part = {"n": 20, "correct": 24, "correct_squared": 60, "samples": 4, "by_level": {"L5": level}}
    part["by_level"]["U"] = {"n": 5, "correct": 1, "correct_squared": 1}
    greedy = {"n": 9, "correct": 3, "by_level": {}}
    it = Iteration(0, {"test": part, "dev": greedy}, {})
    assert counted(it, "test") == (20, 4, 24, 60)
    assert counted(it, "test", ["L5", "U"]) == (15, 4, 13, 31)
    assert counted(it, "dev") == (9, 1, 3, 3)
    assert counted(it, "dev", ["L1"]).accuracy is None
    assert counted(it, "test").accuracy == 24 / 80


def test_greedy_and_sampled_answers_have_a_common_measure() -> None:
    """One greedy answer against four sampled ones is compared in quarters."""
    greedy = Iteration(0, {"test": {}}, {"test": {"a": 1.0, "b": 0.0}})
    sampled = Iteration(1, {"test": {"samples": 4}}, {"test": {"a": 0.75, "b": 0.5}})
    change = between(greedy, sampled, "test")
    assert (change.samples, change.moves) == (4, {-1: 1, 2: 1})
