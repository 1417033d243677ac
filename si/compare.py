"""Runs side by side: what each came to, and what is different."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from si.artifacts import Ref
from si.findings import changed, matthew, moved, progress, to_json
from si.ports import Store
from si.records import HEAD, LEVELS, TAIL
from si.summary import SPENT, RunSummary, collect
from si.tables import Table, number, percent, points, probability


@dataclass(frozen=True)
class Comparison:
    """Runs side by side: words (heading, sentences), tables (for a terminal or a page), and the
    summaries."""

    words: list[tuple[str, str]]
    tables: list[Table]
    runs: list[tuple[str, RunSummary]]

    def to_json(self) -> dict[str, Any]:
        return {
            "words": dict(self.words),
            "tables": [table._asdict() for table in self.tables],
            "runs": {name: to_json(run) for name, run in self.runs},
        }


def compare(store: Store, runs: Sequence[tuple[str, Mapping[str, Ref]]]) -> Comparison:
    """Compare runs with the first of them.

    Args:
        runs: (name, the report stage's inputs by role), as `collect` takes them.
    """
    read = [(name, collect(store, refs)) for name, refs in runs]
    tables = [
        _accuracy(read, "best"),
        _accuracy(read, "last"),
        _paired(read),
        *(_shares(read, what) for what in ("successes", "examples")),
        _spent(read),
    ]
    return Comparison(_words(read), tables, read)


Runs = Sequence[tuple[str, RunSummary]]


def _words(runs: Runs) -> list[tuple[str, str]]:
    words = [(name, f"{progress(run)} {matthew(run).words}") for name, run in runs]
    first_name, first = runs[0]
    for name, run in runs[1:]:
        shared = min(len(first.trained), len(run.trained))
        heading = f"{name} against {first_name}"
        if shared < 2 or run.data != first.data:
            why = "They used different data" if shared >= 2 else "They share too few iterations"
            words.append((heading, f"{why}: what re-balancing changed cannot be told."))
            continue
        here, there = run.trained[shared - 1], first.trained[shared - 1]
        head, tail = (moved(there, here, levels) for levels in (HEAD, TAIL))
        if head < 0 < tail:
            verdict = "Less of its successes are head, more are tail"
        elif tail < 0 < head:
            verdict = "More of its successes are head, less are tail"
        elif head == tail == 0:
            verdict = "The shares of its successes differ no more than by chance"
        else:
            verdict = "The shares of its successes differ, head and tail not both clearly"
        gaps = (
            (here.share("successes", levels) or 0.0) - (there.share("successes", levels) or 0.0)
            for levels in (HEAD, TAIL)
        )
        told = (
            f"{verdict}: at iteration {shared} the head's share is {_apart(next(gaps))}, the "
            f"tail's {_apart(next(gaps))}. {_effects(first_name, first, name, run)} "
            f"{_gain(first, run)}"
        )
        words.append((heading, told.strip()))
    return words


def _effects(first_name: str, first: RunSummary, name: str, run: RunSummary) -> str:
    """What the two verdicts on the Matthew effect, side by side, come to."""
    theirs, ours = matthew(first).seen, matthew(run).seen
    if theirs in ("yes", "partly") and ours == "no":
        return f"{first_name} shows the Matthew effect, {name} does not: it was counteracted."
    if theirs == "no" and ours in ("yes", "partly"):
        return f"{name} shows the Matthew effect, {first_name} does not."
    if theirs == ours == "no":
        return "Neither shows the Matthew effect, so there was none to counteract."
    if "unknown" in (theirs, ours):
        return ""
    return "Both show the Matthew effect, at least in part."


def _gain(first: RunSummary, run: RunSummary) -> str:
    """Test accuracy against the first run, best iterations by dev."""
    if first.best is None or run.best is None:
        return ""
    change = changed(
        first.iterations[first.best].right.get("test", {}),
        run.iterations[run.best].right.get("test", {}),
    )
    if not change.n:
        return ""
    return f"On test, best by dev: {points(change.difference)}; {change.words}."


def _apart(gap: float) -> str:
    """-0.07 -> `7.0 points lower`."""
    return f"{abs(round(100 * gap, 9)):.1f} points {'higher' if gap > 0 else 'lower'}"


def _accuracy(runs: Runs, which: str) -> Table:
    title = {
        "best": "Test accuracy, best iteration by dev",
        "last": "Test accuracy, last iteration",
    }[which]
    rows = []
    for name, run in runs:
        t = run.best if which == "best" else run.last
        it = None if t is None else run.iterations[t]
        cells = [it.accuracy("test", level) if it else None for level in (None, *LEVELS)]
        rows.append([name, "–" if t is None else str(t), *map(percent, cells)])
    return Table(
        title,
        ["run", "iteration", "all", *LEVELS],
        rows,
        "Levels are pass rates under policy 0: L1 easiest (head), L5 and U hardest (tail).",
    )


def _paired(runs: Runs) -> Table:
    _, first = runs[0]
    rows = []
    for name, run in runs[1:]:
        for label, ours, theirs in (
            ("best by dev", run.best, first.best),
            ("last", run.last, first.last),
        ):
            if ours is None or theirs is None:
                continue
            change = changed(
                first.iterations[theirs].right.get("test", {}),
                run.iterations[ours].right.get("test", {}),
            )
            if change.n:
                rows.append(
                    [
                        name,
                        label,
                        points(change.difference),
                        str(change.wins),
                        str(change.losses),
                        str(change.n),
                        probability(change.p),
                    ]
                )
    return Table(
        f"Query by query against {runs[0][0]}, on test",
        ["run", "iteration", "difference", "won", "lost", "queries", "p"],
        rows,
        "Won: right here, wrong there. p: exact two-sided sign test on won against lost.",
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
        "head/tail: L1 over L5 and U. Gini: 0 if all queries contribute alike, 1 if one does all.",
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
        "Samples count both rounds; without the levels' and the evaluations'. Dropped: examples "
        "too long to train on.",
    )


def page(comparison: Comparison) -> str:
    """The comparison as one self-contained HTML page."""
    from markupsafe import Markup

    from si.plots import SERIES, Line, Plot, bars, lines
    from si.templates import render

    runs = comparison.runs
    colours = {name: SERIES[i % len(SERIES)] for i, (name, _) in enumerate(runs)}
    last = max(run.last for _, run in runs)

    def over(first: int, value: Any) -> list[Line]:
        series = []
        for name, run in runs:
            values = [value(it) for it in run.iterations[first:]]
            values += [None] * (last + 1 - first - len(values))
            series.append(Line("", values, colours[name]))
        return series

    drawn = [
        lines(
            "accuracy",
            "Test accuracy",
            range(last + 1),
            over(0, lambda it: it.accuracy("test")),
        ),
        bars(
            "levels",
            "Test accuracy by level, best by dev",
            LEVELS,
            [
                Line(
                    name,
                    [run.iterations[run.best or 0].accuracy("test", level) for level in LEVELS],
                    colours[name],
                )
                for name, run in runs
            ],
            share=True,
        ),
    ]
    for what in ("successes", "examples"):
        for label, levels in (("Head", HEAD), ("Tail", TAIL)):
            drawn.append(
                lines(
                    f"{label}-{what}".lower(),
                    f"{label}'s share of {what}",
                    range(1, last + 1),
                    over(1, lambda it, w=what, ls=levels: it.share(w, ls)),
                )
            )
    return render(
        "compare.html",
        title=" · ".join(name for name, _ in runs),
        words=comparison.words,
        tables=comparison.tables,
        drawn=[Plot(Markup(svg)) for svg in drawn],  # noqa: S704 (our own SVG)
        legend=[(name, colours[name]) for name, _ in runs],
    )
