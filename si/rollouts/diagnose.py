"""Diagnose rollouts: the Matthew effect in them, and what each strategy would change.

This module computes the figures; `diagnosis` turns them into sentences, `diagnosis_tables` into
tables and `diagnosis_page` into a page. All is counted from one entry per sample
(`si.rollouts.table`). Nothing is sampled, so the results of a second round are not predicted.
"""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import numpy as np

from si.metrics import Array, matthew, pass_at, pass_rates, up_to
from si.randomness import keyed_rng
from si.records import LEVELS, Outcome
from si.report.findings import matthew as matthew_effect
from si.report.summary import Iteration, RunSummary
from si.report.tables import percent
from si.rollouts.diagnosis import LISTED, ONE_SAMPLE, RESAMPLE, RESHAPE, Diagnosis, from_to, words
from si.rollouts.diagnosis_tables import tables
from si.rollouts.identity import merged_queries
from si.rollouts.table import Groups, Rollouts, Source, group, judge
from si.strategies import Strategy, by_name

WINDOWS = 20  # at most so many windows over the steps
RECUR = 0.5  # lowest share of recurring queries with which a change over steps means something


def diagnose(
    rollouts: Rollouts,
    threshold: float | None = None,
    k: int | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Diagnosis:
    """Levels, shares, Matthew metrics, pass@k, and the effect of every strategy.

    Args:
        threshold: lowest reward of a success; see `si.rollouts.table.judge`.
        k: K; by default the most common number of samples per query and step.
        settings: of the strategies, as `si.strategies.by_name` takes them.

    Raises:
        DataError: if it is unclear which rewards are a success.
    """
    verdicts = judge(rollouts, threshold)
    groups = group(rollouts, verdicts.right)
    wanted = k or rollouts.k or groups.k
    one = _one_sample(rollouts, groups)
    levels = rollouts.level if rollouts.level is not None else first_levels(groups)
    every = _Counted(rollouts, groups, verdicts.right, levels, np.ones(len(groups.n), np.bool_))
    queries = pass_rates(levels, np.ones(len(levels)), np.zeros(len(levels)))["queries_by_level"]
    figures: dict[str, Any] = {
        "source": _source(rollouts.source),
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
            "of_one_sample": one,
            "queries_by_level": queries,
            "accuracy_by_level": every.rates()["accuracy_by_level"],
        },
        "successes": every.successes(),
        "windows": _windows(rollouts, groups, verdicts.right, levels),
        "recurring": _recurring(groups, len(rollouts.ids)),
        "pass_at_k": pass_at_k(groups, wanted),
        "warnings": [w for w in (merged_queries(rollouts, groups),) if w],
        "strategies": _strategies(groups, levels, wanted, settings or {}),
    }
    figures["matthew"] = _matthew_effect(figures)
    return Diagnosis(figures, words(figures), tables(figures))


def _source(source: Source) -> dict[str, Any]:
    """What was read, and how."""
    return {
        "layout": source.layout.name,
        "files": source.files,
        "columns": dict(source.layout.columns),
        "notes": list(source.notes),
        "skipped": len(source.bad),
        "skipped_rows": [bad._asdict() for bad in source.bad[:LISTED]],
    }


def _one_sample(rollouts: Rollouts, groups: Groups) -> bool:
    """Whether levels would be estimated from one sample per query, so that they are its outcome."""
    return rollouts.level is None and 2 * int((groups.n == 1).sum()) > len(groups.n)


def first_levels(groups: Groups) -> Array:
    """[queries], each query's level by its samples in its first step, as a position in LEVELS."""
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
    """The share of the queries that occur in more than one step."""
    return float((np.bincount(groups.query, minlength=queries) > 1).mean())


class _Counted:
    """The samples of some groups, summed by query; queries without samples are left out.

    Args:
        right: [samples], whether each is correct.
        levels: [all queries], positions in LEVELS.
        which: [groups], whether each is counted.
    """

    def __init__(
        self, rollouts: Rollouts, groups: Groups, right: Array, levels: Array, which: Array
    ):
        width = len(rollouts.ids)
        mine = which[groups.group_of] & right
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
        """`si.metrics.matthew` of the successes; lengths, if known, are named by their unit."""
        found = matthew(self.level, *self.sums)
        length = {name: found.pop(f"tokens_{name}") for name in ("mean", "by_level")}
        steps = {name: found.pop(f"steps_{name}") for name in ("mean", "by_level")}
        if self.has_length:
            found |= {f"{self.unit}_{name}": value for name, value in length.items()}
        if self.lines:
            found |= {f"steps_{name}": value for name, value in steps.items()}
        return found

    def rates(self) -> dict[str, Any]:
        """`si.metrics.pass_rates` of the samples."""
        return pass_rates(self.level, self.n, self.sums[0])


def _windows(
    rollouts: Rollouts, groups: Groups, right: Array, levels: Array
) -> list[dict[str, Any]]:
    """Figures for each step, or for each of `WINDOWS` ranges of steps if there are more steps."""
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
    """The unbiased pass@k for k = 1, 2, 4 ... K: the probability that k samples have a correct one.

    For a group of n samples, c of them correct, it is 1 - C(n-c, k) / C(n, k), computed exactly in
    integers; the mean is over all groups with n >= k (Chen et al. 2021, arXiv 2107.03374,
    equation 1).

    Returns:
        `k`, `value` (0 to 1) and `groups` (how many have enough samples), for every k that some
        group has enough samples for.
    """
    pairs, times = np.unique(np.stack([groups.n, groups.right]), axis=1, return_counts=True)
    cases = list(zip(*pairs.tolist(), times.tolist(), strict=True))
    found = []
    for size in up_to(k):
        enough = [(n, c, many) for n, c, many in cases if n >= size]
        total = sum(many for _, _, many in enough)
        if total:
            sure = sum(many * pass_at(size, n, c) for n, c, many in enough)
            found.append({"k": size, "value": sure / total, "groups": total})
    return found


def _strategies(
    groups: Groups, levels: Array, k: int, settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The examples that each strategy would make of these successes, or the draws it requests."""
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
    """[queries], how many examples a strategy makes, by calling its rule.

    Args:
        successes: [queries], how many each query has.
        k: K, samples per query.
    """

    def any_rng() -> Random:
        return Random(0)  # which examples it draws does not change their number

    counts, place = np.unique(successes, return_inverse=True)
    made = [len(strategy.reshape(range(count), k, any_rng)) for count in counts.tolist()]
    return np.array(made, np.int64)[place]


def draws(
    strategy: Strategy, groups: Groups, k: int, rng: Callable[[str], Random] = keyed_rng
) -> Array:
    """[groups], how many samples a strategy requests, by calling its rule."""
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


def _matthew_effect(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the Matthew effect is visible over the steps, by the rules of `si.report.findings`.

    Returns:
        `seen` (yes, no, ... or unknown) and `words`.
    """
    windows = figures["windows"]
    if figures["levels"]["of_one_sample"]:
        return {"seen": "unknown", "words": ONE_SAMPLE}
    recurring, measured = figures["recurring"], figures["levels"]["measured"]
    if len(windows) < 2:
        why = "There is only one step, so no change over steps can be measured."
    elif recurring < RECUR and not measured:
        why = (
            f"Only {percent(recurring)} of the queries occur in more than one step: a change over "
            "steps cannot be distinguished from a change of queries."
        )
    elif not measured and len(windows) < 3:
        why = (
            "Levels are estimated from the samples of the first step, which makes its head look "
            "larger than it is. A change can be measured from the second step on, with at least "
            "three steps."
        )
    else:
        # The samples that decide the levels are not evidence: luck in them enlarges the head.
        counted = windows if measured else windows[1:]
        blank: dict[str, Any] = {}
        run = RunSummary(
            "vanilla",
            figures["k"],
            "",
            tuple(Iteration(t, blank, blank, window) for t, window in enumerate(counted, 1)),
        )
        effect = matthew_effect(run)
        steps = f"From {from_to(counted[0], counted[-1])}"
        text = effect.words.replace(f"From iteration 1 to {len(counted)}", steps)
        return {"seen": effect.seen, "words": text}
    return {"seen": "unknown", "words": why}
