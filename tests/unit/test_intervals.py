"""Confidence intervals: against formulas by hand, against resampling, and how often they hold."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from si.report.intervals import Interval, clustered, crossed, wilson
from si.report.intervals import paired as bootstrap


def paired(wins: int, losses: int, n: int) -> Interval | None:
    """The paired interval where every query has one answer."""
    found = bootstrap({1: wins, -1: losses, 0: n - wins - losses})
    return found and found.interval


def test_wilson_by_hand() -> None:
    """81 of 263 is the example that Newcombe (1998) computes: 0.2553 to 0.3662."""
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 0) is None
    assert wilson(0, 20).low == 0 and wilson(20, 20).high == 1
    assert wilson(20, 20).low > 0.8


@pytest.mark.parametrize("wins,losses,n", [(35, 26, 500), (3, 0, 20), (80, 10, 200), (1, 1, 4)])
def test_paired_is_what_resampling_comes_to(wins: int, losses: int, n: int) -> None:
    """The computed distribution has the percentiles of very many real resamples."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(n, [wins / n, losses / n, 1 - (wins + losses) / n], 400_000)
    low, high = np.quantile(counts[:, 0] - counts[:, 1], [0.025, 0.975]) / n
    found = paired(wins, losses, n)
    assert abs(found.low - low) <= 1 / n + 1e-9
    assert abs(found.high - high) <= 1 / n + 1e-9


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_paired_is_mirrored_and_holds_the_difference(wins: int, losses: int, ties: int) -> None:
    """Swapped sides give the mirrored interval; the difference lies within; no luck, no width."""
    n = wins + losses + ties
    found = paired(wins, losses, n)
    if n == 0:
        assert found is None
        return
    other = paired(losses, wins, n)
    assert found == (-other.high, -other.low)
    assert found.low <= (wins - losses) / n <= found.high
    if wins == losses == 0:
        assert found == (0, 0)


def test_paired_of_very_many_queries() -> None:
    """A million queries take no table of a million resamples; the interval is the normal one."""
    n = 1_000_000
    found = paired(60_000, 50_000, n)
    assert found.low == pytest.approx(0.01 - 1.96 * (0.11 - 0.0001) ** 0.5 / n**0.5, abs=2e-6)
    assert found.high == pytest.approx(0.01 + 1.96 * (0.11 - 0.0001) ** 0.5 / n**0.5, abs=2e-6)


def _answers(seed: int, rows: int, n: int, lift: float) -> list[list[bool]]:
    rng = random.Random(seed)
    hard = [rng.random() for _ in range(n)]
    luck = random.Random(seed * 31 + int(lift * 1000))
    return [[luck.random() < h + lift + shift for h in hard] for shift in [0.0] * rows]


def test_crossed_with_one_seed_is_paired() -> None:
    """One seed on each side leaves the queries' luck alone: the paired interval."""
    old, new = _answers(3, 1, 400, 0.0), _answers(3, 1, 400, 0.05)
    wins = sum(b and not a for a, b in zip(old[0], new[0], strict=True))
    losses = sum(a and not b for a, b in zip(old[0], new[0], strict=True))
    assert crossed(new, old, True, "x") == pytest.approx(paired(wins, losses, 400), abs=0.004)


def test_crossed_sees_the_luck_of_seeds() -> None:
    """Seeds that disagree widen the interval far beyond what queries alone would."""
    n = 400
    level = [[True] * int(share * n) + [False] * (n - int(share * n)) for share in (0.3, 0.5, 0.7)]
    same = [[True] * (n // 2) + [False] * (n // 2)] * 3
    apart = crossed(level, same, True, 1)
    assert apart.high - apart.low > 0.2
    assert crossed(same, same, True, 1) == (0, 0)


def test_crossed_depends_on_its_key_alone() -> None:
    """The same seeds and queries give the same interval to the bit, another key nearly the same."""
    new, old = _answers(5, 3, 300, 0.05), _answers(5, 3, 300, 0.0)
    assert crossed(new, old, True, "a") == crossed(new, old, True, "a")
    assert crossed(new, old, True, "b") == pytest.approx(crossed(new, old, True, "a"), abs=0.01)
    assert crossed([], old, True, "a") is None


def test_unmatched_seeds_are_drawn_apart() -> None:
    """Seeds that share nothing add their luck; matched ones may cancel it."""
    n = 400
    level = [[True] * int(share * n) + [False] * (n - int(share * n)) for share in (0.3, 0.5, 0.7)]
    together, apart = crossed(level, level, True, 0), crossed(level, level, False, 0)
    assert together == (0, 0)
    assert apart.high - apart.low > 0.3


def test_about_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    """Over many made-up test sets the intervals hold the true value as often as they promise."""
    rng = np.random.default_rng(1)
    n, rounds, up, down, rate = 150, 600, 0.15, 0.10, 0.4
    held = {"paired": 0, "wilson": 0}
    for _ in range(rounds):
        wins, losses, _ = rng.multinomial(n, [up, down, 1 - up - down])
        low, high = paired(int(wins), int(losses), n)
        held["paired"] += low <= up - down <= high
        low, high = wilson(int(rng.binomial(n, rate)), n)
        held["wilson"] += low <= rate <= high
    assert all(0.925 <= count / rounds <= 0.975 for count in held.values()), held


MOVES = st.dictionaries(st.integers(-4, 4), st.integers(1, 40), min_size=1, max_size=9)


@given(MOVES)
def test_p_and_interval_are_one_test(moves: dict[int, int]) -> None:
    """The p-value is below 0.05 exactly where the interval excludes zero."""
    found = bootstrap(moves, 4)
    assert (found.p < 0.05) == (not found.interval.low <= 0 <= found.interval.high)


@pytest.mark.parametrize("moves", [{1: 30, -1: 12, 0: 58}, {3: 9, 1: 20, 0: 60, -2: 11}])
def test_p_is_the_share_of_resamples_beyond_zero(moves: dict[int, int]) -> None:
    """p and the interval of several answers a query are what very many real resamples give."""
    rng = np.random.default_rng(0)
    sizes, counts = np.array(list(moves)), np.array(list(moves.values()))
    n = counts.sum()
    sums = rng.multinomial(n, counts / n, 400_000) @ sizes
    found = bootstrap(moves, 4)
    assert found.p == pytest.approx(2 * min((sums <= 0).mean(), (sums >= 0).mean()), abs=0.002)
    assert found.interval == pytest.approx(np.quantile(sums / (4 * n), [0.025, 0.975]), abs=0.005)


def test_one_answer_a_query_has_wilsons_interval() -> None:
    """A single answer's count is its own square, so nothing changes for greedy answers; alike
    answers say no more than one, and independent ones as much as queries of their own."""
    assert clustered(263, 1, 81, 81) == wilson(81, 263)
    assert clustered(0, 4, 0, 0) is None
    alike = clustered(100, 4, 4 * 30, 16 * 30)
    assert alike == pytest.approx(wilson(30, 100), abs=0.001)
    assert clustered(100, 4, 200, 400) == wilson(200, 400)
    assert clustered(5, 4, 0, 0) == wilson(0, 5)


@pytest.mark.parametrize("spread", [(0.3, 0.3), (2.0, 3.0), (60.0, 40.0)])
def test_intervals_of_several_answers_hold_the_truth(spread: tuple[float, float]) -> None:
    """Queries that are all or nothing, mixed, or nearly alike: 19 of 20 intervals of avg@4 hold the
    true mean pass rate."""
    rng = np.random.default_rng(2)
    n, samples, rounds, held = 150, 4, 800, 0
    truth = spread[0] / sum(spread)
    for _ in range(rounds):
        correct = rng.binomial(samples, rng.beta(*spread, n))
        low, high = clustered(n, samples, int(correct.sum()), int((correct**2).sum()))
        held += low <= truth <= high
    assert 0.925 <= held / rounds <= 0.975
