"""Runs side by side: each one's results, and their differences.

Runs that differ only in their seed form one group (`groups.py`). Each group is compared with the
first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from si.records import HEAD, LEVELS, TAIL
from si.report.compare_words import FEW_SEEDS, measure, said
from si.report.findings import to_json
from si.report.groups import Difference, Group, Named, Runs, differences, grouped, mean
from si.report.intervals import crossed
from si.report.overview import Trace, in_words, panels, trace
from si.report.summary import SPENT, Iteration
from si.report.tables import Table, number, percent, percents, point_range, points, probability
from si.store.port import Store

__all__ = ["Comparison", "Named", "compare", "page"]


@dataclass(frozen=True)
class Comparison:
    """A comparison of runs: the groups that they form, words (heading, sentences), and tables (for
    a terminal or a page). `traces` are what its overview shows, group by group."""

    groups: list[Group]
    traces: Sequence[Trace] = ()

    @property
    def runs(self) -> Runs:
        return [each for group in self.groups for each in group.runs]

    @cached_property
    def differences(self) -> list[Difference]:
        """Differences of every group's trained policies from the first's."""
        first, *others = self.groups
        return [
            found
            for which in ("best", "last")
            for group in others
            for found in differences(group, first, which, which)
        ]

    @cached_property
    def gains(self) -> list[Difference]:
        """Differences of every group's trained policies from its own policy 0."""
        return [
            found
            for which in ("best", "last")
            for group in self.groups
            for found in differences(group, group, which, "zero")
        ]

    @cached_property
    def same(self) -> list[Difference]:
        """Differences of every group from the first at the same iteration, on all queries."""
        first, *others = self.groups
        shared = min(run.last for _, run in self.runs)
        return [
            found
            for group in others
            for t in range(1, shared + 1)
            for found in differences(group, first, str(t), str(t))
            if found.queries == "all"
        ]

    @cached_property
    def plain(self) -> str:
        """What the overview shows: the last policies, on all queries of test."""
        gains, against = (
            [each for each in found if (each.which, each.queries) == ("last", "all")]
            for found in (self.gains, self.differences)
        )
        return in_words(self.traces, gains, against)

    @cached_property
    def words(self) -> list[tuple[str, str]]:
        return said(self.groups, self.differences, self.same, self.gains)

    @cached_property
    def tables(self) -> list[Table]:
        runs = self.runs
        return [
            _accuracy(runs, "best"),
            _accuracy(runs, "last"),
            *([_seeds(self)] if any(len(group.runs) > 1 for group in self.groups) else []),
            *([_paired(self), _same(self)] if len(self.groups) > 1 else []),
            *(_shares(runs, what) for what in ("successes", "examples")),
            _spent(runs),
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "plain": self.plain,
            "words": dict(self.words),
            "tables": [table._asdict() for table in self.tables],
            "groups": [
                {"name": g.name, "runs": [name for name, _ in g.runs], "seeds": list(g.seeds)}
                for g in self.groups
            ],
            "differences": [found.to_json() for found in self.differences],
            "same_iteration": [found.to_json() for found in self.same],
            "gains": [found.to_json() for found in self.gains],
            "runs": {name: to_json(run) for name, run in self.runs},
        }


def compare(store: Store, runs: Sequence[Named]) -> Comparison:
    """Compare runs, or groups of runs that differ only in their seeds, with the first of them."""
    groups = grouped(store, runs)
    refs = {run.name: run.refs for run in runs}
    return Comparison(groups, [trace(store, group, refs) for group in groups])


# --- tables --------------------------------------------------------------------------------


def _accuracy(runs: Runs, which: str) -> Table:
    title = {
        "best": "best trained iteration by dev",
        "last": "last iteration",
    }[which]
    rows = []
    for name, run in runs:
        t = run.best_trained if which == "best" else run.last
        it = None if t is None else run.iterations[t]
        cells = [it.accuracy("test", level) if it else None for level in (None, *LEVELS)]
        cells.insert(1, run.iterations[0].accuracy("test"))
        rows.append([name, "–" if t is None else str(t), *map(percent, cells)])
    return Table(
        f"Test {measure(runs)}, {title}",
        ["run", "iteration", "all", "policy 0", *LEVELS],
        rows,
        "Policy 0: before training, on all queries. Levels are pass rates under policy 0: L1 "
        "easiest (head), L5 and U hardest (tail).",
    )


def _seeds(found: Comparison) -> Table:
    rows = []
    for group in found.groups:
        for which, label in _WHICH.items():
            answers = group.answers(which)
            ids = sorted(set.intersection(*map(set, answers))) if answers else []
            if not ids:
                continue
            right = [[answer[q] for q in ids] for answer in answers]
            # Compared with all incorrect: the interval of the accuracy itself.
            interval = crossed(right, [[0.0] * len(ids)], False, "seeds", group.name, which)
            each = sorted(sum(row) / len(row) for row in right)
            spread = f"{percent(each[0])} to {percent(each[-1])}" if len(each) > 1 else "–"
            cells = [percent(mean(right)), percents(interval), spread]
            rows.append([group.name, label, str(len(each)), *cells])
    return Table(
        f"Test {measure(found.runs)} over seeds",
        ["group", "iteration", "seeds", "mean", "95 % interval", "lowest to highest seed"],
        rows,
        "Interval: bootstrap over seeds and queries, drawn independently; too narrow with fewer "
        f"than {FEW_SEEDS} seeds.",
    )


_WHICH = {"best": "best trained", "last": "last"}


def _same(found: Comparison) -> Table:
    return Table(
        f"At the same iteration against {found.groups[0].name}, on test",
        ["group", "iteration", "difference", "95 % interval", "more than chance"],
        [
            [
                each.group,
                each.which,
                points(each.value),
                point_range(each.interval),
                "yes" if each.real else "no",
            ]
            for each in found.same
        ],
        "All queries; trained policies with trained ones.",
    )


def _paired(found: Comparison) -> Table:
    rows = []
    for each in found.differences:
        change = each.change
        seeds = f"{each.seeds}" if each.seeds == each.against_seeds else "{} to {}"
        rows.append(
            [
                each.group,
                _WHICH[each.which],
                each.queries,
                str(each.n),
                seeds.format(each.seeds, each.against_seeds),
                points(each.value),
                point_range(each.interval),
                str(change.wins) if change else "–",
                str(change.losses) if change else "–",
                probability(change.p) if change else "–",
            ]
        )
    columns = ["group", "iteration", "queries", "number", "seeds", "difference", "95 % interval"]
    return Table(
        f"Query by query against {found.groups[0].name}, on test",
        [*columns, "won", "lost", "p"],
        rows,
        "Head = L1, tail = L5 and U. Interval: paired bootstrap over queries, and over seeds if "
        "there are several. Won: queries with more correct answers here than there. p: two-sided, "
        "of the same bootstrap.",
    )


def _shares(runs: Runs, what: str) -> Table:
    rows = []
    for name, run in runs:
        for it in run.trained:
            shares = [it.share(what, [level]) for level in LEVELS]
            figures = (it.metrics or {})[what]
            rows.append(
                [
                    name,
                    str(it.t),
                    *map(percent, shares),
                    number(figures.get("head_tail_ratio")),
                    number(figures.get("gini"), 3),
                ]
            )
    return Table(
        f"Shares of {what} by level",
        ["run", "iteration", *LEVELS, "head/tail", "Gini"],
        rows,
        "head/tail: L1 over L5 and U. Gini: 0 if all queries contribute equally, 1 if one query "
        "contributes everything.",
    )


def _spent(runs: Runs) -> Table:
    rows = []
    for name, run in runs:
        total = {key: sum((it.spent or {}).get(key, 0) for it in run.trained) for key in SPENT}
        total["samples"] += total["samples_2"]
        rows.append([name, str(len(run.trained)), *(number(total[key]) for key in SPENT)])
    return Table(
        "Spent, over all iterations",
        ["run", "iterations", *SPENT.values()],
        rows,
        "Samples include both rounds, but not those of levels and evaluation. Dropped: examples "
        "too long to train on.",
    )


# --- the page ------------------------------------------------------------------------------


def page(found: Comparison) -> str:
    """The comparison as one self-contained HTML page."""
    from si.report.palette import SERIES
    from si.report.templates import render

    names = [group.name for group in found.groups]
    colours = {name: SERIES[i % len(SERIES)] for i, name in enumerate(names)}
    legend = [
        (g.name + (f", {len(g.runs)} seeds" if len(g.runs) > 1 else ""), colours[g.name])
        for g in found.groups
    ]
    return render(
        "compare.html",
        title=" · ".join(names),
        plain=found.plain,
        words=found.words,
        tables=found.tables,
        drawn=_plots(found, colours),
        legend=legend,
    )


def _plots(found: Comparison, colours: Mapping[str, str]) -> dict[str, list[Any]]:
    from markupsafe import Markup

    from si.report.plots import Line, Plot, bars, lines, spans

    last = max(run.last for _, run in found.runs)

    def over(first: int, value: Any) -> list[Line]:
        series = []
        for group in found.groups:
            for _, run in group.runs:
                values = [value(it) for it in run.iterations[first:]]
                values += [None] * (last + 1 - first - len(values))
                series.append(Line("", values, colours[group.name]))
        return series

    score = measure(found.runs)
    title = f"Test {score}"
    by_level = [
        Line(g.name, [_on_level(g, level) for level in LEVELS], colours[g.name])
        for g in found.groups
    ]
    drawn = [
        (
            lines("accuracy", title, range(last + 1), over(0, _on_test), close=True),
            "Which line ends higher, by more than lines move between iterations?",
        ),
        (
            bars("levels", f"{title} by level, best trained", LEVELS, by_level, share=True),
            "Where is the gain: among the easy queries on the left, or the hard ones on the right?",
        ),
    ]
    best = [each for each in found.differences if each.which == "best"]
    if best:
        rows = [(each.queries, each.value, each.interval, colours[each.group]) for each in best]
        look = (
            f"Difference from {found.groups[0].name}, best trained iterations by dev. A bar is a "
            "95 % interval; one that crosses zero may be chance."
        )
        drawn.insert(1, (spans("differences", "Difference on test", rows), look))
    shares = []
    for (label, what), look in _LOOK.items():
        levels = HEAD if label == "Head" else TAIL
        series = over(1, lambda it, w=what, ls=levels: it.share(w, ls))
        name, title = f"{label}-{what}".lower(), f"{label}'s share of {what}"
        shares.append((lines(name, title, range(1, last + 1), series), look))
    # Our own SVG; matplotlib escapes the text in it.
    return {
        section: [Plot(Markup(svg), look) for svg, look in plots]  # noqa: S704
        for section, plots in (
            ("first", panels(found.traces, colours, score) if found.traces else []),
            ("accuracy", drawn),
            ("shares", shares),
        )
    }


def _on_test(it: Iteration) -> float | None:
    return it.accuracy("test")


def _on_level(group: Group, level: str) -> float | None:
    """Mean over runs of the best trained iteration's accuracy on a level's queries."""
    values = [it.accuracy("test", level) for it in group.picked("best")]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


_LOOK = {
    ("Head", "successes"): "A rising line is one half of the Matthew effect.",
    ("Tail", "successes"): "A falling line is the other half.",
    ("Head", "examples"): "How much of the head re-balancing leaves in training.",
    ("Tail", "examples"): "How much of the tail it adds.",
}
