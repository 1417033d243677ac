"""Diagnose: what anybody's rollouts say of the Matthew effect, and what each strategy would do.

Figures are made here, words and tables of them in `diagnosis.py`. Everything is counted from one
entry a sample (`rollouts.py`); nothing is sampled again, so what a second round would bring is
never said.
"""

from collections.abc import Callable, Mapping
from math import comb
from random import Random
from typing import Any

import numpy as np

from si.metrics import Array, matthew, pass_rates
from si.randomness import keyed_rng
from si.records import LEVELS, Outcome
from si.report.findings import matthew as effect
from si.report.summary import Iteration, RunSummary
from si.report.tables import percent
from si.rollouts.diagnosis import LISTED, RESAMPLE, RESHAPE, Diagnosis, spans, tables, words
from si.rollouts.table import Groups, Rollouts, group, judge
from si.strategies import Strategy, by_name

WINDOWS = 20  # pieces that many steps are shown in
RECUR = 0.5  # share of queries to be seen again for changes over steps to mean something


def diagnose(
    rollouts: Rollouts,
    threshold: float | None = None,
    k: int | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Diagnosis:
    """Levels, shares, Matthew metrics, pass@k, and what every strategy would change.

    Args:
        threshold: lowest reward of a success; see `si.rollouts.table.judge`.
        k: K; by default the most common number of samples of a query in a step.
        settings: of the strategies, as `si.strategies.by_name` takes them.

    Raises:
        DataError: if it cannot be told which rewards are a success.
    """
    verdicts = judge(rollouts, threshold)
    groups = group(rollouts, verdicts.right)
    wanted = k or rollouts.k or groups.k
    levels = rollouts.level if rollouts.level is not None else first_levels(groups)
    source = rollouts.source
    windows = _windows(rollouts, groups, verdicts.right, levels)
    every = _Counted(rollouts, groups, verdicts.right, levels, np.ones(len(groups.n), np.bool_))
    figures: dict[str, Any] = {
        "source": {
            "layout": source.layout.name,
            "files": source.files,
            "columns": dict(source.layout.columns),
            "notes": list(source.notes),
            "skipped": len(source.bad),
            "skipped_rows": [bad._asdict() for bad in source.bad[:LISTED]],
        },
        "reward": {"threshold": verdicts.threshold, "why": verdicts.why},
        "k": wanted,
        "k_given": bool(k or rollouts.k),
        "samples_by_group": _sizes(groups),
        "samples": len(rollouts.query),
        "queries": len(rollouts.ids),
        "groups": len(groups.n),
        "steps": len(np.unique(groups.step)),
        "right": int(verdicts.right.sum()),
        "length_unit": rollouts.unit if rollouts.length is not None else None,
        "levels": {
            "measured": rollouts.level is not None,
            **pass_rates(levels, np.ones(len(levels)), np.zeros(len(levels))),
        },
        "successes": every.successes(),
        "windows": windows,
        "recurring": _recurring(groups, len(rollouts.ids)),
        "pass_at_k": pass_at_k(groups, wanted),
        "strategies": _strategies(groups, levels, wanted, settings or {}),
    }
    del figures["levels"]["accuracy_by_level"]
    figures["levels"]["accuracy_by_level"] = every.rates()["accuracy_by_level"]
    figures["matthew"] = _effect(figures)
    return Diagnosis(figures, words(figures), tables(figures))


def first_levels(groups: Groups) -> Array:
    """Each query's level from its own first samples, as a position in LEVELS."""
    _, first = np.unique(groups.query, return_index=True)  # groups are sorted by step
    n, right = groups.n[first], groups.right[first]
    return np.where(right == 0, len(LEVELS) - 1, 4 - np.minimum(4, 5 * right // n))


def _sizes(groups: Groups) -> dict[str, int]:
    return {
        "least": int(groups.n.min()),
        "most": int(groups.n.max()),
        "common": groups.k,
        "of_common_size": int((groups.n == groups.k).sum()),
    }


def _recurring(groups: Groups, queries: int) -> float:
    """Share of the queries that are seen in more than one step."""
    return float((np.bincount(groups.query, minlength=queries) > 1).mean())


class _Counted:
    """The samples of some groups, counted by query; queries without any are left out."""

    def __init__(
        self, rollouts: Rollouts, groups: Groups, right: Array, levels: Array, which: Array
    ):
        width = len(rollouts.ids)
        mine = which[groups.of] & right
        self.has_length, self.unit = rollouts.length is not None, rollouts.unit
        query = rollouts.query[mine]
        self.seen = np.bincount(groups.query[which], minlength=width) > 0
        self.level = levels[self.seen]
        sums = [np.bincount(query, minlength=width)]
        for values in (rollouts.length, rollouts.lines):
            weights = None if values is None else values[mine]
            sums.append(np.bincount(query, weights, minlength=width))
        self.sums = [each[self.seen].astype(np.int64) for each in sums]
        self.lines = rollouts.lines is not None
        self.n = np.bincount(groups.query[which], groups.n[which], width)[self.seen]

    def successes(self) -> dict[str, Any]:
        """`si.metrics.matthew` of the successes; lengths where they are known, in their unit."""
        found = matthew(self.level, *self.sums)
        length = {name: found.pop(f"tokens_{name}") for name in ("mean", "by_level")}
        steps = {name: found.pop(f"steps_{name}") for name in ("mean", "by_level")}
        if self.has_length:
            found |= {f"{self.unit}_{name}": value for name, value in length.items()}
        if self.lines:
            found |= {f"steps_{name}": value for name, value in steps.items()}
        return found

    def rates(self) -> dict[str, Any]:
        return pass_rates(self.level, self.n, self.sums[0])


def _windows(
    rollouts: Rollouts, groups: Groups, right: Array, levels: Array
) -> list[dict[str, Any]]:
    """Steps one by one, or in pieces of as many where there are more than `WINDOWS`."""
    steps = np.unique(groups.step)
    found = []
    for piece in np.array_split(steps, min(WINDOWS, len(steps))):
        which = (groups.step >= piece[0]) & (groups.step <= piece[-1])
        counted = _Counted(rollouts, groups, right, levels, which)
        found.append(
            {
                "first_step": int(piece[0]),
                "last_step": int(piece[-1]),
                "samples": int(counted.n.sum()),
                "queries": int(counted.seen.sum()),
                "successes": counted.successes(),
                **counted.rates(),
            }
        )
    return found


def pass_at_k(groups: Groups, k: int) -> list[dict[str, Any]]:
    """The unbiased pass@k for 1, 2, 4 ... K: the chance that k samples hold a right one.

    Of a query with n samples and c right ones 1 - C(n-c, k) / C(n, k), in exact whole numbers;
    the mean over all groups with n >= k (Chen et al. 2021, arXiv 2107.03374, equation 1).

    Returns:
        `k`, `value`, `groups` (how many had enough samples); no k that no group has.
    """
    pairs, times = np.unique(np.stack([groups.n, groups.right]), axis=1, return_counts=True)
    cases = list(zip(*pairs.tolist(), times.tolist(), strict=True))
    found = []
    for size in sorted({k, *(1 << i for i in range(k.bit_length()) if 1 << i <= k)}):
        enough = [(n, c, many) for n, c, many in cases if n >= size]
        total = sum(many for _, _, many in enough)
        if total:
            sure = sum(many * (1 - comb(n - c, size) / comb(n, size)) for n, c, many in enough)
            found.append({"k": size, "value": sure / total, "groups": total})
    return found


def _strategies(
    groups: Groups, levels: Array, k: int, settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What each strategy would make of these successes, or ask for, step by step."""
    level = levels[groups.query]
    found: dict[str, dict[str, Any]] = {}
    for name in RESHAPE:
        made = examples(by_name(name, **settings), groups.right, k)
        by_query = np.bincount(groups.query, made, len(levels)).astype(np.int64)
        nothing = np.zeros_like(by_query)
        figures = matthew(levels, by_query, nothing, nothing)
        found[name] = {
            "examples": figures["total"],
            "queries": int(np.count_nonzero(by_query)),
            **{n: figures[n] for n in ("share_by_level", "head_tail_ratio", "gini", "entropy")},
        }
    for name in RESAMPLE:
        asked = draws(by_name(name, **settings), groups, k)
        guided = asked * (groups.right > 0) if name == "gr" else np.zeros_like(asked)
        counts = np.bincount(level, asked, len(LEVELS))
        total = int(asked.sum())
        found[name] = {
            "draws": total,
            "queries": int(np.count_nonzero(np.bincount(groups.query, asked))),
            "with_own_success": int(guided.sum()) if name == "gr" else None,
            "share_by_level": {
                one: count / total if total else None
                for one, count in zip(LEVELS, counts.tolist(), strict=True)
            },
        }
    return found


def examples(strategy: Strategy, successes: Array, k: int) -> Array:
    """How many examples the strategy makes of so many successes; the rule itself is asked."""

    def any_rng() -> Random:
        return Random(0)  # which ones it draws does not change how many

    counts, place = np.unique(successes, return_inverse=True)
    made = [len(strategy.reshape(range(count), k, any_rng)) for count in counts.tolist()]
    return np.array(made, np.int64)[place]


def draws(
    strategy: Strategy, groups: Groups, k: int, rng: Callable[[str], Random] = keyed_rng
) -> Array:
    """How many samples the strategy asks for in each group; the rule itself is asked."""
    asked = np.zeros(len(groups.n), np.int64)
    for step in np.unique(groups.step):
        here = np.flatnonzero((groups.step == step) & (groups.right < k))
        outcomes = (
            Outcome(str(i), n, right)
            for i, n, right in zip(
                here.tolist(), groups.n[here].tolist(), groups.right[here].tolist(), strict=True
            )
        )
        for draw in strategy.resample(outcomes, lambda *_: (), k, rng):
            asked[int(draw.query_id)] += draw.n
    return asked


def _effect(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the rich got richer over the steps, by the rules of `si.report.findings`."""
    windows = figures["windows"]
    recurring, measured = figures["recurring"], figures["levels"]["measured"]
    if len(windows) < 2:
        why = "There is one step only, so that nothing can be told of a change."
    elif recurring < RECUR and not measured:
        why = (
            f"Of the queries {percent(recurring)} are seen in more than one step: a change over "
            "steps cannot be told from a change of queries."
        )
    elif not measured and len(windows) < 3:
        why = (
            "Levels are told from the first step's own samples, which makes its head look larger "
            "than it is: a change can be told from the second step on, with three or more."
        )
    else:
        # What decides the levels is no evidence: luck in it makes the head look large.
        told = windows if measured else windows[1:]
        blank: dict[str, Any] = {}
        run = RunSummary(
            "vanilla",
            figures["k"],
            "",
            tuple(Iteration(t, blank, blank, window) for t, window in enumerate(told, 1)),
        )
        seen = effect(run)
        said = f"From {spans(told[0], told[-1])}"
        words = seen.words.replace(f"From iteration 1 to {len(told)}", said)
        return {"seen": seen.seen, "words": words}
    return {"seen": "unknown", "words": why}
