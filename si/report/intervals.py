"""Confidence intervals: what a number may be by the luck of which queries, and seeds, were used.

All are 95 % intervals. An accuracy has Wilson's interval, a difference on the same queries the
percentile interval of the paired bootstrap: queries are drawn anew, with replacement, both sides
keep their answers to them, and the middle 95 % of the differences are the interval.

- E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference.
- B. Efron and R. J. Tibshirani (1993), An Introduction to the Bootstrap, chapter 13 (percentiles).
- P. Koehn (2004), Statistical significance tests for machine translation evaluation: the paired
  bootstrap over test items.
- A. B. Owen (2007), The pigeonhole bootstrap: rows and columns of a table, here seeds and queries,
  drawn independently.
"""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

from si.metrics import Array
from si.randomness import Key, keyed_seed

OUTSIDE = 0.025  # probability that is left out at either end
Z = 1.959963984540054  # the normal distribution's quantile there
RESAMPLES = 10_000


class Interval(NamedTuple):
    """From `low` to `high`, as shares (0 to 1) or differences of shares (-1 to 1)."""

    low: float
    high: float


def wilson(correct: int, n: int) -> Interval | None:
    """Wilson's interval of `correct` of `n`; None of nothing.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), with p = correct / n.
    """
    if not n:
        return None
    p, square = correct / n, Z * Z / n
    middle, half = p + square / 2, Z * sqrt(p * (1 - p) / n + square / (4 * n))
    return Interval(
        max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))
    )


def paired(wins: int, losses: int, n: int) -> Interval | None:
    """The paired bootstrap's interval of (wins - losses) / n; None of nothing.

    A query adds 1 if it was won, -1 if it was lost, else 0. Of n such, drawn with replacement, the
    sum's distribution is the n-fold convolution of that of one: computed whole instead of sampled,
    as after infinitely many resamples (Efron and Tibshirani's ideal bootstrap), so no seed is
    needed.
    """
    if not n:
        return None
    one = np.array([losses, n - wins - losses, wins]) / n
    width = 2 * n + 1
    whole = np.fft.irfft(np.fft.rfft(one, width) ** n, width)
    below, above = np.cumsum(whole), np.cumsum(whole[::-1])
    # The first sum that is not left out, from either end: swapped sides give the mirrored interval.
    low, high = (int(np.searchsorted(tail, OUTSIDE)) for tail in (below, above))
    return Interval((low - n) / n, (n - high) / n)


def crossed(
    new: Sequence[Sequence[bool]], old: Sequence[Sequence[bool]], matched: bool, *key: Key
) -> Interval | None:
    """The interval of mean(new) - mean(old), over seeds and queries; None of nothing.

    Every resample draws queries, the same for all, and seeds, both with replacement and apart from
    one another (Owen's pigeonhole bootstrap): seeds answer the same queries, so that drawing
    queries within each seed would let their luck average out as it does not. With few seeds, say
    less than five, such an interval is too narrow; where queries and seeds matter little beside
    pure chance, it is too wide, by a factor of up to the root of 3.

    Args:
        new, old: for each seed, whether each query was answered rightly; queries in one order.
        matched: row i of both is the same seed, so they are drawn together.
        key: of the resamples' generator.
    """
    ours, theirs = np.array(new, float), np.array(old, float)
    if not ours.size or not theirs.size:
        return None
    # Queries whose answers are alike under all seeds are drawn as one, in their number.
    kinds, counts = np.unique(np.vstack([ours, theirs]), axis=1, return_counts=True)
    rng = np.random.Generator(np.random.PCG64(keyed_seed(*key)))
    queries = rng.multinomial(counts.sum(), counts / counts.sum(), RESAMPLES) / counts.sum()
    by_seed: Array = queries @ kinds.T

    def drawn(seeds: int) -> Array:
        weights: Array = rng.multinomial(seeds, [1 / seeds] * seeds, RESAMPLES) / seeds
        return weights

    draws = drawn(len(ours))
    others = draws if matched else drawn(len(theirs))
    means = (by_seed[:, : len(ours)] * draws).sum(1) - (by_seed[:, len(ours) :] * others).sum(1)
    low, high = np.quantile(means, [OUTSIDE, 1 - OUTSIDE])
    return Interval(float(low), float(high))
