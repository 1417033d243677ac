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

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

from si.metrics import Array
from si.randomness import Key, keyed_seed

OUTSIDE = 0.025  # probability outside the interval, at either end
Z = 1.959963984540054  # the normal distribution's quantile there
RESAMPLES = 10_000
TINY = 1e-300  # instead of a variance of zero


class Interval(NamedTuple):
    """From `low` to `high`, as shares (0 to 1) or differences of shares (-1 to 1)."""

    low: float
    high: float


def wilson(correct: float, n: float) -> Interval | None:
    """Wilson's interval for `correct` of `n` independent answers; None if n is 0.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), with p = correct / n.
    """
    if not n:
        return None
    p, square = correct / n, Z * Z / n
    middle, half = p + square / 2, Z * sqrt(p * (1 - p) / n + square / (4 * n))
    return Interval(
        max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))
    )


def clustered(n: int, samples: int, correct: int, squared: int) -> Interval | None:
    """Wilson's interval for the mean accuracy of `n` queries with several answers each; None if n
    is 0.

    Answers to one query are alike, so n x samples answers say less than as many queries would.
    Wilson's formula gets the number of independent answers with the same variance of the mean,
    p (1 - p) / (s^2 / n), where s^2 is the variance of the queries' means; it lies between n and
    n x samples (the effective sample size of survey statistics, with Wilson's interval as in
    N. Dean and M. Pagano 2015). One answer a query gives Wilson's interval itself.

    Args:
        samples: answers per query.
        correct, squared: sums over queries of their correct answers, and of the squares of these.
    """
    if not n:
        return None
    p = correct / (n * samples)
    variance = (squared - correct * correct / n) / max(1, n - 1) / (samples * samples * n)
    # All correct or all incorrect: nothing tells how alike a query's answers are.
    effective = n if p in (0, 1) else p * (1 - p) / max(variance, TINY)
    effective = min(max(effective, n), n * samples)
    return wilson(p * effective, effective)


class Paired(NamedTuple):
    """A paired bootstrap: the interval of a difference, and the two-sided p-value, twice the
    smaller share of resamples at or beyond zero. It is below 0.05 exactly if the interval excludes
    zero."""

    interval: Interval
    p: float


def paired(moves: Mapping[int, int], samples: int = 1) -> Paired | None:
    """The paired bootstrap of a difference in accuracy; None without queries.

    The sum of n queries drawn with replacement has the n-fold convolution of one query's
    distribution. It is computed exactly instead of sampled, as after infinitely many resamples
    (Efron and Tibshirani's ideal bootstrap), so it needs no seed. Answers vary within queries, too:
    the variance of the queries' differences contains that of their samples.

    Args:
        moves: difference in correct answers, of a query -> number of such queries.
        samples: answers per query.
    """
    n = sum(moves.values())
    if not n:
        return None
    most = max(map(abs, moves), default=0) or 1
    one = np.zeros(2 * most + 1)
    for move, count in moves.items():
        one[most + move] = count / n
    width, zero = 2 * most * n + 1, most * n
    whole = np.fft.irfft(np.fft.rfft(one, width) ** n, width)
    below, above = np.cumsum(whole), np.cumsum(whole[::-1])
    # The first sum inside, from either end: swapping the sides mirrors the interval.
    low, high = (int(np.searchsorted(tail, OUTSIDE)) for tail in (below, above))
    interval = Interval((low - zero) / (n * samples), (zero - high) / (n * samples))
    return Paired(interval, float(min(1.0, 2 * max(0.0, min(below[zero], above[zero])))))


def crossed(
    new: Sequence[Sequence[float]], old: Sequence[Sequence[float]], matched: bool, *key: Key
) -> Interval | None:
    """The interval for mean(new) - mean(old), over seeds and queries; None if there are none.

    Every resample draws queries, the same for all seeds, and seeds, both with replacement and
    independently (Owen's pigeonhole bootstrap). All seeds answer the same queries, so drawing
    queries within each seed would average out luck that does not average out. With fewer than
    about five seeds the interval is too narrow. If queries and seeds matter little compared with
    pure chance, it is too wide, by a factor of up to the square root of 3.

    Args:
        new, old: for each seed, each query's share of correct answers; same order of queries.
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
