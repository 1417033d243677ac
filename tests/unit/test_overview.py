"""The overview's estimates, and sentences that follow from them in both directions."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from si.report.groups import Difference
from si.report.intervals import Interval
from si.report.overview import Estimate, Trace, in_words, ratio


def test_a_ratio_varies_with_its_queries() -> None:
    """The standard error is that of drawing queries anew, which repeats clusters of examples."""
    rng = np.random.default_rng(3)
    whole = rng.integers(0, 9, 400)
    part = whole * (rng.random(400) < 0.2)
    found = ratio(part.tolist(), whole.tolist())
    assert found is not None and found.value == pytest.approx(part.sum() / whole.sum())
    picks = rng.integers(0, 400, (4000, 400))
    drawn = part[picks].sum(1) / whole[picks].sum(1)
    assert found.error == pytest.approx(drawn.std(), rel=0.06)
    alone = (found.value * (1 - found.value) / whole.sum()) ** 0.5
    assert found.error > 1.5 * alone  # examples of one query are alike
    assert ratio([0, 0], [0, 0]) is None and ratio([1], [1]) is None


def test_intervals_stay_within_shares() -> None:
    """No share lies below 0 or above 1."""
    assert Estimate(0.01, 0.02).interval.low == 0.0
    assert Estimate(0.99, 0.02).interval.high == 1.0


def _difference(group: str, against: str, value: float, half: float) -> Difference:
    interval = Interval(value - half, value + half)
    return Difference(group, against, "last", "all", 600, 1, 1, True, value, interval, None)


def _trace(name: str, strategy: str, tail: tuple[float, float]) -> Trace:
    group = SimpleNamespace(name=name, runs=[(name, SimpleNamespace(strategy=strategy))])
    shares = [Estimate(share, 0.004) for share in tail]
    return Trace(group, [], shares, [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gain", "half", "words"),
    [
        (0.04, 0.02, "gained 4.0 points (+2.0 to +6.0)"),
        (-0.04, 0.02, "lost 4.0 points (−6.0 to −2.0)"),
        (0.01, 0.02, "did not change its accuracy by more than chance explains (+1.0 points"),
        (-0.01, 0.02, "did not change its accuracy by more than chance explains (−1.0 points"),
    ],
)
def test_a_gain_is_called_what_its_interval_says(gain: float, half: float, words: str) -> None:
    """Gained, lost, or neither: the word follows from the interval alone."""
    said = in_words(
        [_trace("v", "vanilla", (0.03, 0.01))], [_difference("v", "policy 0", gain, half)], []
    )
    assert said.startswith("Plain self-improvement ") and words in said
    found = re.search(r"\(.*?([+−][\d.]+) to ([+−][\d.]+)\)", said)
    assert found
    low, high = (float(end.replace("−", "-")) for end in found.groups())
    assert ("gained" in said) == (low > 0) and ("lost" in said) == (high < 0)


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        ((0.04, 0.01), "its tail fell from 4.0 % to 1.0 % of its training data"),
        ((0.01, 0.04), "its tail rose from 1.0 % to 4.0 % of its training data"),
        ((0.02, 0.021), "its tail stayed, within chance: 2.0 % to 2.1 % of its training data"),
    ],
)
def test_the_tail_moves_as_its_errors_allow(tail: tuple[float, float], words: str) -> None:
    """Fell, rose or stayed."""
    said = in_words([_trace("g", "gr", tail)], [_difference("g", "policy 0", 0.03, 0.01)], [])
    assert said.startswith("Guided resampling gained") and words in said


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (0.05, "guided resampling is 5.0 points ahead of plain self-improvement (+2.0 to +8.0)"),
        (-0.05, "guided resampling is 5.0 points behind plain self-improvement (−8.0 to −2.0)"),
        (0.01, "differ by no more than chance explains (+1.0 points, −2.0 to +4.0)"),
    ],
)
def test_the_last_policies_are_compared_with_each_other(gap: float, words: str) -> None:
    """Trained with trained, with what the queries can resolve."""
    said = in_words(
        [_trace("v", "vanilla", (0.03, 0.01)), _trace("g", "gr", (0.03, 0.04))],
        [_difference("v", "policy 0", 0.03, 0.02), _difference("g", "policy 0", 0.04, 0.02)],
        [_difference("g", "v", gap, 0.03)],
    )
    assert words in said
    assert (
        "On 600 queries a difference below about 3.0 points cannot be distinguished from chance."
        in said
    )


@pytest.mark.parametrize(
    ("tails", "words"),
    [
        (
            (0.01, 0.04),
            "The training data of guided resampling has a larger tail (4.0 % against 1.0 %).",
        ),
        (
            (0.04, 0.01),
            "The training data of guided resampling has a smaller tail (1.0 % against 4.0 %).",
        ),
        ((0.04, 0.041), "has as large a tail, within chance (4.1 % against 4.0 %)."),
    ],
)
def test_the_last_training_data_are_compared(tails: tuple[float, float], words: str) -> None:
    """What re-balancing did to the shares is said even where accuracy says nothing."""
    theirs, ours = (0.02, tails[0]), (0.02, tails[1])
    said = in_words(
        [_trace("v", "vanilla", theirs), _trace("g", "gr", ours)],
        [_difference("v", "policy 0", 0.03, 0.02), _difference("g", "policy 0", 0.04, 0.02)],
        [_difference("g", "v", 0.0, 0.03)],
    )
    assert words in said
