"""The overview of a comparison: head and tail of the training data, and accuracy, each with
its 95 % interval; and the sentences that describe it.

Everything here is a ratio of two sums over queries (examples of some levels over all examples,
correct answers over all answers). Its standard error is that of the ratio estimator, with the query
as the sampling unit: W. G. Cochran (1977), Sampling Techniques, section 6.4. With several seeds the
sums of a query run over them as well.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import numpy as np

from si.records import HEAD, TAIL
from si.report.findings import sentence
from si.report.groups import Difference, Group
from si.report.intervals import Interval, Z
from si.report.summary import STRATEGIES
from si.report.tables import percent, point_range, points
from si.store.artifact import Artifact
from si.store.keys import Ref
from si.store.port import Store

NAMES = {rule: f"{title[0].lower()}{title[1:]}" for rule, title in STRATEGIES.items()}
NAMES["vanilla"] = "plain self-improvement"


class Estimate(NamedTuple):
    """A share (0 to 1) and its standard error."""

    value: float
    error: float

    @property
    def interval(self) -> Interval:
        """95 %, by the normal approximation, within 0 to 1."""
        half = Z * self.error
        return Interval(max(0.0, self.value - half), min(1.0, self.value + half))

    def change(self, before: "Estimate") -> str:
        """`rose`, `fell` or `stayed` since an estimate on other queries."""
        gap, error = self.value - before.value, sqrt(self.error**2 + before.error**2)
        return "stayed" if abs(gap) <= Z * error else "rose" if gap > 0 else "fell"


def ratio(part: Sequence[float], whole: Sequence[float]) -> Estimate | None:
    """sum(part) / sum(whole) over queries; None if there is nothing to divide by.

    Args:
        part, whole: [queries], what each query adds to either sum.
    """
    above, below = np.asarray(part, float), np.asarray(whole, float)
    total, n = below.sum(), len(below)
    if not total or n < 2:
        return None
    value = float(above.sum() / total)
    spread = float(((above - value * below) ** 2).sum()) * n / (n - 1)
    return Estimate(value, sqrt(spread) / float(total))


@dataclass(frozen=True)
class Trace:
    """A group's estimates by iteration: `head` and `tail` of its training data from iteration 1 on,
    `accuracy` on test from 0 on."""

    group: Group
    head: list[Estimate | None]
    tail: list[Estimate | None]
    accuracy: list[Estimate | None]

    @property
    def name(self) -> str:
        """The strategy in plain words, unless it is a composition or a user's own."""
        strategy = self.group.runs[0][1].strategy
        return NAMES.get(strategy, self.group.name)


def trace(store: Store, group: Group, refs: Mapping[str, Mapping[str, Ref]]) -> Trace:
    """Read a group's examples and scores.

    Args:
        refs: by run, the report stage's inputs by role.
    """
    last = min(run.last for _, run in group.runs)
    head: list[Estimate | None] = []
    tail: list[Estimate | None] = []
    for t in range(1, last + 1):
        counts: Counter[str] = Counter()
        level: dict[str, str] = {}
        if any(f"examples-{t}" not in refs[name] for name, _ in group.runs):
            head.append(None)
            tail.append(None)
            continue
        for name, _ in group.runs:
            made = Artifact.open(store, refs[name][f"examples-{t}"])
            counts.update(made.tables("examples.parquet", ["query_id"])["query_id"].to_pylist())
            known = Artifact.open(store, made.manifest.spec.inputs["levels"])
            table = known.tables("levels.parquet", ["query_id", "level"])
            level |= dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
        whole = list(counts.values())
        for levels, shares in ((HEAD, head), (TAIL, tail)):
            part = [n * (level[query] in levels) for query, n in counts.items()]
            shares.append(ratio(part, whole))
    return Trace(group, head, tail, [_accuracy(group, t) for t in range(last + 1)])


def _accuracy(group: Group, t: int) -> Estimate | None:
    right = [run.iterations[t].right.get("test", {}) for _, run in group.runs]
    shared = sorted(set.intersection(*map(set, right)))
    return ratio([sum(each[q] for each in right) for q in shared], [len(right)] * len(shared))


# --- words ---------------------------------------------------------------------------------


def in_words(
    traces: Sequence[Trace], gains: Sequence[Difference], against: Sequence[Difference]
) -> str:
    """What the overview shows, in plain words.

    Args:
        gains: each group's last policy against its policy 0, on all test queries.
        against: each other group's last policy against the first group's.
    """
    gained = {each.group: each for each in gains}
    parts = [
        f"{each.name} {_gain(gained[each.group.name])}{_tail(each)}"
        for each in traces
        if each.group.name in gained
    ]
    if not parts:
        return "No group has scores on test."
    sentences = [sentence("; ".join(parts))]
    by_name = {each.group.name: each for each in traces}
    for each in against:
        ours, theirs = by_name[each.group], by_name[each.against]
        sentences += [_between(each, ours.name, theirs.name), _shares(ours, theirs)]
    if gains:
        width = max((each.interval.high - each.interval.low) / 2 for each in (*gains, *against))
        sentences.append(
            f"On {gains[0].n:,} queries a difference below about {points(width).lstrip('+')} "
            "cannot be distinguished from chance."
        )
    return " ".join(filter(None, sentences))


def _phrase(found: Difference, more: str, less: str, neither: str) -> str:
    """One of three phrases, by the test that the printed interval makes.

    Args:
        more, less: with `{}` for the size of the difference.
    """
    span = point_range(found.interval)
    if not found.real:
        return f"{neither} ({points(found.value)}, {span})"
    size = points(abs(found.value)).lstrip("+")
    return f"{(more if found.value > 0 else less).format(size)} ({span})"


def _gain(found: Difference) -> str:
    neither = "did not change its accuracy by more than chance explains"
    return _phrase(found, "gained {}", "lost {}", neither)


def _tail(found: Trace) -> str:
    known = [share for share in found.tail if share]
    if len(known) < 2 or len(known) < len(found.tail):
        return ""
    return f", and its tail {moved(known[0], known[-1])} of its training data"


def moved(then: Estimate, now: Estimate) -> str:
    """`rose from 5.7 % to 12.0 %`; whether it did, by both intervals."""
    verb = {"rose": "rose from", "fell": "fell from", "stayed": "stayed, within chance:"}
    return f"{verb[now.change(then)]} {percent(then.value)} to {percent(now.value)}"


def _between(found: Difference, ours: str, theirs: str) -> str:
    words = _phrase(
        found,
        f"is {{}} ahead of {theirs}",
        f"is {{}} behind {theirs}",
        f"and {theirs} differ by no more than chance explains",
    )
    return f"After the last iteration, {ours} {words}."


def _shares(ours: Trace, theirs: Trace) -> str:
    """How the last training data of two groups differ."""
    sizes = {
        "rose": "a larger {}",
        "fell": "a smaller {}",
        "stayed": "as large a {}, within chance",
    }
    parts = []
    for name in ("tail", "head"):
        here, there = (getattr(each, name) for each in (ours, theirs))
        if here and there and here[-1] and there[-1]:
            size = sizes[here[-1].change(there[-1])].format(name)
            shares = f"{percent(here[-1].value)} against {percent(there[-1].value)}"
            parts.append(f"{size} ({shares})")
    return f"The training data of {ours.name} has {' and '.join(parts)}." if parts else ""


# --- the plots ---------------------------------------------------------------------------


def panels(
    traces: Sequence[Trace], colours: Mapping[str, str], score: str, suffix: str = "-first"
) -> list[tuple[str, str]]:
    """(SVG, what to look for) of its three panels.

    Args:
        colours: of each group, by name.
        score: what the accuracy is called, such as `avg@4`.
        suffix: of the ids of the plots' elements; unique on the page.
    """
    from si.report.plots import Line, lines

    def series(pick: str) -> list[Line]:
        found = []
        for each in traces:
            known: list[Estimate | None] = getattr(each, pick)
            values = [share and share.value for share in known]
            band = [share and share.interval for share in known]
            values += [None] * (longest + (pick == "accuracy") - len(values))
            found.append(Line("", values, colours[each.group.name], band))
        return found

    longest = max(len(each.tail) for each in traces)
    steps = range(1, longest + 1)
    return [
        (
            lines(f"tail{suffix}", "Tail of the training data", steps, series("tail")),
            "Hard queries (L5 and U): does their share vanish?",
        ),
        (
            lines(f"head{suffix}", "Head of the training data", steps, series("head"), close=True),
            "Easy queries (L1): does their share grow?",
        ),
        (
            lines(
                f"score{suffix}",
                f"Accuracy on test ({score})" if score != "accuracy" else "Accuracy on test",
                range(longest + 1),
                series("accuracy"),
                close=True,
            ),
            "Which policy ends higher? Bands are 95 % intervals.",
        ),
    ]
