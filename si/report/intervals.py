"""95 % confidence intervals: how a number may vary with the choice of queries and seeds.

An accuracy has Wilson's interval. A difference on the same queries has the percentile interval of
the paired bootstrap: queries are resampled with replacement, both sides keep their answers to
them, and the middle 95 % of the differences form the interval.

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

OUTSIDE = 0.025  # probability outside the interval, at either end
Z = 1.959963984540054  # the normal distribution's quantile there
RESAMPLES = 10_000


class Interval(NamedTuple):
    """From `low` to `high`, as shares (0 to 1) or differences of shares (-1 to 1)."""

    low: float
    high: float


def wilson(correct: int, n: int) -> Interval | None:
    """Wilson's interval for `correct` of `n`; None if n is 0.

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
    """The paired bootstrap's interval for (wins - losses) / n; None if n is 0.

    A query adds 1 if it was won, -1 if it was lost, else 0. The sum of n queries drawn with
    replacement has the n-fold convolution of one query's distribution. It is computed exactly
    instead of sampled, as after infinitely many resamples (Efron and Tibshirani's ideal
    bootstrap), so it needs no seed.
    """
    if not n:
        return None
    one = np.array([losses, n - wins - losses, wins]) / n
    width = 2 * n + 1
    whole = np.fft.irfft(np.fft.rfft(one, width) ** n, width)
    below, above = np.cumsum(whole), np.cumsum(whole[::-1])
    # The first sum inside, from either end: swapping the sides mirrors the interval.
    low, high = (int(np.searchsorted(tail, OUTSIDE)) for tail in (below, above))
    return Interval((low - n) / n, (n - high) / n)


def crossed(
    new: Sequence[Sequence[bool]], old: Sequence[Sequence[bool]], matched: bool, *key: Key
) -> Interval | None:
    """The interval for mean(new) - mean(old), over seeds and queries; None if there are none.

    Every resample draws queries, the same for all seeds, and seeds, both with replacement and
    independently (Owen's pigeonhole bootstrap). All seeds answer the same queries, so drawing
    queries within each seed would average out luck that does not average out. With fewer than
    about five seeds the interval is too narrow. If queries and seeds matter little compared with
    pure chance, it is too wide, by a factor of up to the square root of 3.

    Args:
        new, old: for each seed, whether each query was answered correctly; same order of queries.
        matched: row i of both has the same seed, so they are drawn together.
        key: seeds the generator of the resamples.
    """
    ours, theirs = np.array(new, float), np.array(old, float)
    if not ours.size or not theirs.size:
        return None
    # Queries with equal answers under all seeds are drawn as one group.
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
