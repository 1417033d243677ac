"""Groups of runs that differ only in their seed, and differences between groups.

A difference on test has a 95 % interval by the paired bootstrap over queries (Koehn 2004), and over
seeds and queries if a group has several seeds (`si.report.intervals`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any, NamedTuple

from si.records import HEAD, LEVELS, TAIL
from si.report.counts import Change, changed, excludes_zero
from si.report.intervals import Interval, crossed
from si.report.summary import Iteration, RunSummary, collect
from si.store.keys import Ref, digest
from si.store.port import Store

QUERIES = {"all": LEVELS, "head": HEAD, "tail": TAIL}
Runs = Sequence[tuple[str, RunSummary]]


class Named(NamedTuple):
    """A run to compare: its name, the report stage's inputs by role as `collect` takes them, and
    its recipe, if it may share a group with runs of other seeds."""

    name: str
    refs: Mapping[str, Ref]
    recipe: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed. A single run is a group, too."""

    name: str
    runs: Runs
    seeds: tuple[int, ...]

    @property
    def samples(self) -> int:
        """Sampled answers per query of test; 0 if they are greedy."""
        return self.runs[0][1].iterations[0].samples("test")

    def answers(self, which: str) -> list[Mapping[str, float]]:
        """Query id -> share of its answers on test that are correct, per seed that has the
        iteration."""
        return [it.right["test"] for it in self.picked(which) if "test" in it.right]

    def picked(self, which: str) -> list[Iteration]:
        """One iteration of each run: of the trained ones the `best` on dev or the `last`, `zero`
        (policy 0), or the one with this number. Runs without it are left out."""
        found = []
        for _, run in self.runs:
            named = {"best": run.best_trained, "last": run.last or None, "zero": 0}
            t = named[which] if which in named else int(which)
            if t is not None and t <= run.last:
                found.append(run.iterations[t])
        return found


class Difference(NamedTuple):
    """A group's test accuracy minus another's.

    Attributes:
        which: each run's `best` trained iteration on dev, its `last`, or an iteration's number.
        queries: all, or those of head or tail levels.
        n: how many queries.
        value: mean over seeds (-1 to 1).
        matched: both groups have the same seeds, which are compared pairwise.
        change: wins and losses, if both groups have one seed.
    """

    group: str
    against: str
    which: str
    queries: str
    n: int
    seeds: int
    against_seeds: int
    matched: bool
    value: float
    interval: Interval
    change: Change | None

    @property
    def real(self) -> bool:
        """Whether it is more than chance explains, by its interval."""
        return self.change.real if self.change else excludes_zero(self.interval)

    @property
    def words(self) -> str:
        """What its interval says, as a sentence's beginning."""
        if self.change:
            return self.change.words
        if self.interval.low == self.interval.high:
            return "no answer differs, so the interval has no width"
        return f"{'more' if self.real else 'no more'} than chance explains"

    def to_json(self) -> dict[str, Any]:
        change = self.change and {
            "won": self.change.wins,
            "lost": self.change.losses,
            "p": self.change.p,
        }
        return self._asdict() | {"change": change}


def grouped(store: Store, runs: Sequence[Named]) -> list[Group]:
    """Read runs and group those that differ only in their seed."""
    read = {run.name: collect(store, run.refs) for run in runs}
    groups: dict[str, list[Named]] = {}
    for run in runs:
        kind = run.name
        if run.recipe is not None:
            rest = {k: v for k, v in run.recipe.items() if k not in _OF_ITS_OWN}
            kind = digest([rest, run.refs["data"].content])
        groups.setdefault(kind, []).append(run)
    return [_group(members, read) for members in groups.values()]


# What may differ within a group: the seed, and what changes no iteration.
_OF_ITS_OWN = ("seed", "name", "iterations", "patience", "report")


def _group(members: Sequence[Named], read: Mapping[str, RunSummary]) -> Group:
    name, *others = [run.name for run in members]
    stem = re.sub(r"-s\d+$", "", name)
    if all(re.sub(r"-s\d+$", "", other) == stem for other in others):
        name = stem if others else name
    elif others:
        name = f"{name} and {len(others)} more"
    members = sorted(members, key=lambda run: (run.recipe or {}).get("seed", 0))
    seeds = tuple((run.recipe or {}).get("seed", 0) for run in members)
    return Group(name, [(run.name, read[run.name]) for run in members], seeds)


def differences(group: Group, other: Group, which: str, theirs: str) -> Iterator[Difference]:
    """Differences on all, head and tail queries that all runs have answered."""
    new, old = group.answers(which), other.answers(theirs)
    if len(new) < len(group.runs) or len(old) < len(other.runs):
        return
    shared = sorted(set.intersection(*(set(answers) for answers in (*new, *old))))
    level = other.runs[0][1].levels
    # Repeated seeds cannot be matched.
    matched = group.seeds == other.seeds and len(set(group.seeds)) == len(group.seeds)
    single = len(new) == len(old) == 1
    for queries, levels in QUERIES.items():
        ids = [q for q in shared if queries == "all" or level.get(q) in levels]
        if not ids:
            continue
        ours, others = ([[answers[q] for q in ids] for answers in side] for side in (new, old))
        samples = lcm(*(side.samples or 1 for side in (group, other)))
        change = changed({q: old[0][q] for q in ids}, {q: new[0][q] for q in ids}, samples)
        key = ("compare", group.name, other.name, which, theirs, queries)
        interval = change.interval if single else crossed(ours, others, matched, *key)
        assert interval is not None
        value = mean(ours) - mean(others)
        yield Difference(
            group.name,
            "policy 0" if theirs == "zero" else other.name,
            which,
            queries,
            len(ids),
            len(new),
            len(old),
            matched,
            value,
            interval,
            change if single else None,
        )


def mean(rows: Sequence[Sequence[float]]) -> float:
    """Mean share of correct answers over all seeds and queries."""
    return sum(map(sum, rows)) / (len(rows) * len(rows[0]))
