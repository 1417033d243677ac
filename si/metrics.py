"""Matthew metrics: how concentrated successes or examples are, and on which levels.

All metrics are computed from arrays with one entry per query, so that queries which contribute
nothing count, too. A metric that has no value (a ratio over nothing) becomes None. The metrics are
those of docs/method.md, "Matthew metrics".
"""

from collections.abc import Sequence
from math import comb, fsum, log
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from si.records import HEAD, LEVELS, TAIL

Array = npt.NDArray[Any]


def matthew(level: Array, count: Array, tokens: Array, steps: Array) -> dict[str, Any]:
    """Shares by level, concentration over queries, and lengths by level, ready for JSON.

    Args:
        level: [queries], each query's level as a position in LEVELS.
        count: [queries], its successes, or its examples.
        tokens: [queries], the sum of their response lengths in tokens.
        steps: [queries], the sum of their response lengths in reasoning steps.

    Returns:
        `total`; `count_by_level` and `share_by_level` (0 to 1); `head_tail_ratio` (None where the
        tail, L5 and U, contributes nothing); `gini` and `entropy` over all queries, `gini_solved`
        and `entropy_solved` over those that contribute; `tokens_mean`, `steps_mean`,
        `tokens_by_level` and `steps_by_level` (mean lengths of the successes or examples).
    """
    counts, token_sums, step_sums = (_by_level(level, sums) for sums in (count, tokens, steps))
    total = sum(counts.values())
    solved = count[count > 0]
    return {
        "total": total,
        "count_by_level": counts,
        "share_by_level": {name: _ratio(n, total) for name, n in counts.items()},
        "head_tail_ratio": _ratio(
            sum(counts[name] for name in HEAD), sum(counts[name] for name in TAIL)
        ),
        "gini": gini(count),
        "gini_solved": gini(solved),
        "entropy": entropy(count),
        "entropy_solved": entropy(solved),
        "tokens_mean": _ratio(sum(token_sums.values()), total),
        "steps_mean": _ratio(sum(step_sums.values()), total),
        "tokens_by_level": {name: _ratio(token_sums[name], n) for name, n in counts.items()},
        "steps_by_level": {name: _ratio(step_sums[name], n) for name, n in counts.items()},
    }


def pass_rates(level: Array, n: Array, k: Array) -> dict[str, Any]:
    """The number of queries, and the share of correct samples, in each level.

    Args:
        level: [queries], each query's level as a position in LEVELS.
        n, k: [queries], its samples and its correct samples.

    Returns:
        `queries_by_level` (counts) and `accuracy_by_level` (0 to 1; None in a level without any).
    """
    samples, correct = _by_level(level, n), _by_level(level, k)
    return {
        "queries_by_level": _by_level(level, np.ones_like(n)),
        "accuracy_by_level": {name: _ratio(correct[name], samples[name]) for name in LEVELS},
    }


def gini(count: Array) -> float | None:
    """The Gini coefficient of non-negative integers; None if their sum is 0.

    sum over i of (2i - n - 1) x_i / (n sum x), for x_1 <= ... <= x_n; exact until the division.
    It is 0 if all are equal, and approaches 1 if one of many has everything.
    """
    x = np.sort(count).astype(np.int64)
    ranks = 2 * np.arange(1, len(x) + 1) - len(x) - 1
    return _ratio(int(ranks @ x), len(x) * int(x.sum()))


def entropy(count: Array) -> float | None:
    """The entropy of the shares x_i / sum x, divided by its maximum log n; None if the sum is 0.

    It is 1 if all are equal, 0 if one has everything, and 1 for a single number.
    """
    total = int(count.sum())
    if not total or len(count) == 1:
        return 1.0 if total else None
    value, times = np.unique(count[count > 0], return_counts=True)
    # BLAS adds in an order of its own on every kind of processor, and their logarithms differ in
    # the last bit: an exact sum, rounded, is the same everywhere.
    pairs = zip(times.tolist(), (value / total).tolist(), strict=True)
    found = -fsum(n * share * log(share) for n, share in pairs) / log(len(count))
    return round(min(1.0, abs(found)), 12)


def pass_at(k: int, n: int, correct: int) -> float:
    """The unbiased pass@k of a query: the probability that one of k of its n samples, drawn without
    replacement, is correct: 1 - C(n - c, k) / C(n, k), in exact integers until the division.

    M. Chen et al. 2021, Evaluating Large Language Models Trained on Code (arXiv 2107.03374),
    equation 1.
    """
    return 1 - comb(n - correct, k) / comb(n, k)


def up_to(n: int) -> list[int]:
    """The k for which pass@k of n samples is shown: 1, 2, 4 ... and n."""
    return sorted({n, *(1 << i for i in range(n.bit_length()) if 1 << i <= n)})


def ends(losses: Sequence[float]) -> tuple[float, float] | None:
    """Mean loss of the first and of the last quarter of the gradient steps; None without steps.
    Single steps are too noisy to compare."""
    if not losses:
        return None
    quarter = max(1, len(losses) // 4)
    return sum(losses[:quarter]) / quarter, sum(losses[-quarter:]) / quarter


def step_counts(texts: pa.Array, separator: str) -> Array:
    """How many steps each text of a column has: `len(si.strategies.step_ends(text, separator))`.

    Args:
        texts: [texts], without nulls.
        separator: ends a step.
    """
    pieces = pc.split_pattern(texts, separator)
    flat = pieces.values
    blank = pc.or_(pc.equal(flat, ""), pc.utf8_is_space(flat))
    steps_before = np.concatenate([[0], np.cumsum(~blank.to_numpy(zero_copy_only=False))])
    ends = steps_before[pieces.offsets.to_numpy()]
    counts: Array = ends[1:] - ends[:-1]
    return counts


def _by_level(level: Array, values: Array) -> dict[str, int]:
    """Level -> sum of the values of its queries."""
    sums = np.bincount(level, weights=values, minlength=len(LEVELS))
    return {name: round(total) for name, total in zip(LEVELS, sums.tolist(), strict=True)}


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
