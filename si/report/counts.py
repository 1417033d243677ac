"""How many held-out answers are correct, and how the answers of two policies differ.

Whether a difference is called real is decided in one place, `Change.real`, from the interval that
is printed beside it, so no word contradicts its interval.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import lcm
from typing import NamedTuple

from si.report.intervals import Interval, Paired, clustered, paired
from si.report.summary import Iteration
from si.report.tables import probability

# With fewer changed queries the bootstrap's interval is too narrow: the sign test of five
# changes that all point one way has p = 0.06.
FEWEST = 6


class Count(NamedTuple):
    """Correct answers of `n` queries with `samples` answers each; `squared` is the sum over queries
    of the square of their correct answers."""

    n: int
    samples: int
    correct: int
    squared: int

    @property
    def accuracy(self) -> float | None:
        """Mean over queries of the share of correct answers (0 to 1); None without queries."""
        return self.correct / (self.n * self.samples) if self.n else None

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the accuracy, over queries; None without queries."""
        return clustered(self.n, self.samples, self.correct, self.squared)


def counted(it: Iteration, split: str, levels: Sequence[str] | None = None) -> Count:
    """Correct answers on a split, or on its queries of these levels."""
    part = it.scores.get(split, {"by_level": {}, "n": 0, "correct": 0})
    groups = [part]
    if levels is not None:
        groups = [part["by_level"][level] for level in levels if level in part["by_level"]]
    correct = sum(group["correct"] for group in groups)
    # A single answer's count is its own square.
    squared = sum(group.get("correct_squared", group["correct"]) for group in groups)
    return Count(sum(group["n"] for group in groups), it.samples(split) or 1, correct, squared)


@dataclass(frozen=True)
class Change:
    """A paired difference on the same queries.

    Attributes:
        moves: by how many correct answers a query's count rose (negative: fell) -> number of such
            queries, those that did not change (0) included.
        samples: answers per query.
    """

    moves: Mapping[int, int]
    samples: int = 1

    @property
    def n(self) -> int:
        """Number of queries."""
        return sum(self.moves.values())

    @property
    def wins(self) -> int:
        """Number of queries with more correct answers than before."""
        return sum(count for move, count in self.moves.items() if move > 0)

    @property
    def losses(self) -> int:
        """Number of queries with fewer correct answers than before."""
        return sum(count for move, count in self.moves.items() if move < 0)

    @property
    def difference(self) -> float:
        """Difference in accuracy (-1 to 1)."""
        total = sum(move * count for move, count in self.moves.items())
        return total / (self.n * self.samples) if self.n else 0.0

    @cached_property
    def _paired(self) -> Paired | None:
        return paired(self.moves, self.samples)

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the difference, by the paired bootstrap over queries."""
        return self._paired and self._paired.interval

    @property
    def p(self) -> float:
        """Two-sided p-value of the same bootstrap: below 0.05 where the interval excludes zero."""
        return self._paired.p if self._paired else 1.0

    @property
    def real(self) -> bool:
        """Whether it is more than chance explains: the interval excludes zero, and at least
        `FEWEST` queries changed."""
        return self.wins + self.losses >= FEWEST and excludes_zero(self.interval)

    @property
    def words(self) -> str:
        counts = f"{self.wins} queries won, {self.losses} lost, of {self.n}"
        changed = self.wins + self.losses
        if not changed:
            return (
                f"no answer changed on any of {self.n} queries, so the interval has no width; that "
                "does not show that the policies are equal"
            )
        if changed < FEWEST:
            return f"{counts}: too few changed to tell from chance, and the interval is too narrow"
        chance = "more" if self.real else "no more"
        sign = "" if self.p < 0.001 else "= "
        return f"{counts}: {chance} than chance explains (p {sign}{probability(self.p)})"


def excludes_zero(interval: Interval | None) -> bool:
    """Whether a difference is more than chance explains by its interval."""
    return interval is not None and not interval.low <= 0 <= interval.high


def changed(old: Mapping[str, float], new: Mapping[str, float], samples: int = 1) -> Change:
    """Differences of `new` from `old`, on the queries that both answered.

    Args:
        old, new: query id -> share of correct answers (0 to 1).
        samples: answers per query, of which both are shares.
    """
    both = sorted(old.keys() & new.keys())
    return Change(Counter(round((new[q] - old[q]) * samples) for q in both), samples)


def between(old: Iteration, new: Iteration, split: str) -> Change:
    """How an iteration's answers on a split differ from another's."""
    samples = lcm(*(it.samples(split) or 1 for it in (old, new)))
    return changed(old.right[split], new.right[split], samples)
