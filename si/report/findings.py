"""A run's results in words, chosen by rules on the numbers, so that every page agrees.

- *Matthew effect*: between the first iteration and the last, the head's share of successes
  grows and the tail's falls, each by more than `NOTABLE` and by more than twice the standard
  error of such a difference (successes treated as independent draws).
- *Accuracy rose*: the exact sign test on the queries whose answer changed (McNemar) is below
  `UNLIKELY`.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import comb, sqrt
from typing import Any, NamedTuple

from si.records import HEAD, TAIL
from si.report.intervals import Interval, paired
from si.report.summary import Iteration, RunSummary
from si.report.tables import percent, point_range, points, probability

NOTABLE = 0.01  # smallest change of a share that is mentioned
UNLIKELY = 0.05  # p-value below which a paired difference counts as real


class Change(NamedTuple):
    """A paired difference on the same queries: how many were won and how many lost."""

    n: int
    wins: int
    losses: int

    @property
    def difference(self) -> float:
        """Difference in accuracy (-1 to 1)."""
        return (self.wins - self.losses) / self.n if self.n else 0.0

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the difference, by the paired bootstrap over queries."""
        return paired(self.wins, self.losses, self.n)

    @property
    def p(self) -> float:
        """Two-sided exact sign test: how likely a split as uneven as this is by chance."""
        changed, few = self.wins + self.losses, min(self.wins, self.losses)
        tail = sum(comb(changed, i) for i in range(few + 1))
        return float(min(Fraction(1), Fraction(2 * tail, 2**changed)))

    @property
    def words(self) -> str:
        counts = f"{self.wins} queries won, {self.losses} lost, of {self.n}"
        chance = (
            "more than chance explains" if self.p < UNLIKELY else "no more than chance explains"
        )
        sign = "" if self.p < 0.001 else "= "
        return f"{counts}: {chance} (sign test, p {sign}{probability(self.p)})"


def counted(it: Iteration, split: str, levels: Sequence[str] | None = None) -> tuple[int, int]:
    """Numbers of correct answers and of queries in a split, or in its queries of these levels."""
    part = it.scores.get(split)
    if part is None:
        return 0, 0
    groups = [part]
    if levels is not None:
        groups = [part["by_level"][level] for level in levels if level in part["by_level"]]
    return sum(group["correct"] for group in groups), sum(group["n"] for group in groups)


def changed(old: Mapping[str, bool], new: Mapping[str, bool]) -> Change:
    """Wins and losses of `new` against `old`, on the queries that both answered."""
    both = sorted(old.keys() & new.keys())
    return Change(
        len(both),
        sum(new[query] and not old[query] for query in both),
        sum(old[query] and not new[query] for query in both),
    )


class Matthew(NamedTuple):
    """Whether the rich got richer: shares of successes by iteration, and a verdict in words.

    `seen` is yes, partly, no or unknown (fewer than two iterations).
    """

    seen: str
    words: str
    head: list[float | None]
    tail: list[float | None]


def matthew(run: RunSummary) -> Matthew:
    """The Matthew effect in a run's successes, between its first and last iterations."""
    head = [it.share("successes", HEAD) for it in run.trained]
    tail = [it.share("successes", TAIL) for it in run.trained]
    if len(head) < 2 or None in (head[0], head[-1], tail[0], tail[-1]):
        words = "One iteration cannot show the Matthew effect. Run at least two."
        return Matthew("unknown", words, head, tail)
    first, last = run.trained[0], run.trained[-1]
    up, down = moved(first, last, HEAD), -moved(first, last, TAIL)
    if up > 0 and down > 0:
        seen, verdict = "yes", "The Matthew effect is visible"
    elif up == down == 0:
        seen, verdict = "no", "No Matthew effect: the shares moved no more than chance explains"
    elif up >= 0 and down >= 0:
        seen, verdict = "partly", "The Matthew effect is partly visible"
    elif up <= 0 and down <= 0:
        seen, verdict = "no", "No Matthew effect: the shares moved the other way"
    else:
        seen, verdict = "no", "No Matthew effect: head and tail moved together"
    words = (
        f"{verdict}. From iteration 1 to {len(head)} the head's share of successes went from "
        f"{percent(head[0])} to {percent(head[-1])}, the tail's from {percent(tail[0])} to "
        f"{percent(tail[-1])}{_of_queries(run)}."
    )
    return Matthew(seen, words, head, tail)


def moved(old: Iteration, new: Iteration, levels: Sequence[str]) -> float:
    """Change of the levels' share of successes; 0 if it is small or may be chance."""
    shares, error = [], 0.0
    for it in (old, new):
        share = it.share("successes", levels) or 0.0
        total = (it.metrics or {})["successes"]["total"]
        shares.append(share)
        error += share * (1 - share) / max(1, total)
    difference = shares[1] - shares[0]
    return difference if abs(difference) > max(NOTABLE, 2 * sqrt(error)) else 0.0


def _of_queries(run: RunSummary) -> str:
    """The initial imbalance: the first iteration's queries by level."""
    counts = (run.trained[0].metrics or {}).get("queries_by_level") or {}
    total = sum(count or 0 for count in counts.values())
    if not total:
        return ""
    head, tail = (sum(counts.get(v) or 0 for v in levels) / total for levels in (HEAD, TAIL))
    return f"; of the queries, {percent(head)} are head and {percent(tail)} tail"


def rebalanced(run: RunSummary) -> str:
    """How re-balancing moved shares from successes to training examples, over all iterations."""
    if not run.trained:
        return "Nothing has been trained yet."
    means = {}
    for name, levels in (("head", HEAD), ("tail", TAIL)):
        for what in ("successes", "examples"):
            shares = [it.share(what, levels) for it in run.trained]
            known = [share for share in shares if share is not None]
            means[name, what] = sum(known) / len(known) if known else 0.0
    head, tail = (
        f"{percent(means[name, 'successes'])} to {percent(means[name, 'examples'])}"
        for name in ("head", "tail")
    )
    if all(abs(means[n, "examples"] - means[n, "successes"]) < 0.0005 for n in ("head", "tail")):
        return (
            "The training examples are the unchanged successes: head "
            f"{percent(means['head', 'examples'])}, tail {percent(means['tail', 'examples'])} "
            "(mean over iterations)."
        )
    return (
        f"From successes to training examples, {run.strategy} moved the head's share from "
        f"{head} and the tail's from {tail} (mean over iterations)."
    )


def progress(run: RunSummary) -> str:
    """Whether held-out accuracy rose: policy 0 against the best iteration by dev, on test."""
    chosen, split = run.best, "test"
    if chosen is None or run.oracle is None:
        split = "dev" if run.oracle is None else "test"
        chosen = run.last
    zero, then = run.iterations[0], run.iterations[chosen]
    if split not in zero.right:
        return "No held-out split was scored."
    before, after = zero.accuracy(split), then.accuracy(split)
    which = f"iteration {chosen}" + (", the best on dev" if chosen == run.best else ", the last")
    if run.last == 0:
        return f"Policy 0 has {percent(before)} on {split}; nothing has been trained yet."
    if chosen == 0:
        return (
            f"Held-out accuracy did not rise: no iteration beat policy 0 on dev. Policy 0 has "
            f"{percent(before)} on {split}."
        )
    change = changed(zero.right[split], then.right[split])
    real = change.p < UNLIKELY
    verb = "did not change measurably" if not real else "rose" if change.difference > 0 else "fell"
    return (
        f"Held-out accuracy {verb}: {percent(before)} to {percent(after)} on {split} "
        f"({points(change.difference)}, 95 % interval {point_range(change.interval)}; {which}). "
        f"{change.words[0].upper()}{change.words[1:]}."
    )


def to_json(run: RunSummary) -> dict[str, Any]:
    """All figures of a run as JSON, with the verdict on the Matthew effect."""
    return {
        "strategy": run.strategy,
        "k": run.k,
        "data": run.data,
        "best": run.best,
        "last": run.last,
        "oracle": run.oracle,
        "matthew": matthew(run)._asdict(),
        "iterations": [
            {
                "iteration": it.t,
                "scores": it.scores,
                "metrics": it.metrics,
                "spent": it.spent,
                "losses": list(it.losses),
                "identical": it.identical,
                "sources": it.sources,
            }
            for it in run.iterations
        ],
    }
