"""What a run came to, in numbers and in words; and several runs side by side.

`collect` reads a run's committed artefacts into a `RunSummary`, which the report and the
comparison share. The words are chosen by rules on the numbers, here, so that every page
says the same of the same run:

- *Matthew effect*: between the first iteration and the last, the head's share of successes
  grows and the tail's falls, each by more than `NOTABLE` and than twice the standard error of
  such a difference (successes taken as independent draws).
- *Accuracy rose*: the exact sign test on the queries whose answer changed (McNemar) is below
  `UNLIKELY`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import comb, sqrt
from typing import Any, NamedTuple

from si.artifacts import Artifact, Ref, Spec
from si.errors import DataError
from si.ports import Store
from si.records import HEAD, LEVELS, TAIL

NOTABLE = 0.01  # change of a share that is more than "hardly any"
SOURCES = ("own", "earlier", "reference", "plain")
UNLIKELY = 0.05  # chance below which a paired difference is called real


class Table(NamedTuple):
    """A table to print anywhere: cells are text, the first column names the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Iteration:
    """One iteration's figures. Iteration 0 is policy 0: it has scores and nothing else.

    Attributes:
        scores: what `evaluate` wrote, by split.
        right: split -> query id -> whether the greedy response is right.
        metrics: what `rebalance` wrote: `successes` and `examples`, each with the shares by
            level and the Matthew metrics; `accuracy_by_level`, `queries_by_level`.
        spent: samples, samples_2 (second round), tokens (sampled), examples, train_tokens,
            steps, dropped (examples too long to train on).
        losses: training loss, one a gradient step.
        identical: share (0 to 1) of the successes whose text another one of the same query has.
        sources: second-round samples by where their prefix came from: own, earlier, reference
            or plain (no prefix).
    """

    t: int
    scores: Mapping[str, Any]
    right: Mapping[str, Mapping[str, bool]]
    metrics: Mapping[str, Any] | None = None
    spent: Mapping[str, int] | None = None
    losses: Sequence[float] = ()
    identical: float | None = None
    sources: Mapping[str, int] = field(default_factory=dict)

    def share(self, what: str, levels: Sequence[str]) -> float | None:
        """Share (0 to 1) of these levels among `successes` or `examples`; None without any."""
        shares = self.metrics[what]["share_by_level"] if self.metrics else {}
        known = [shares[level] for level in levels if shares.get(level) is not None]
        return sum(known) if known else None

    def accuracy(self, split: str, level: str | None = None) -> float | None:
        """Accuracy (0 to 1) on a split, or on its queries of one level; None without any."""
        part = self.scores.get(split)
        if part is not None and level is not None:
            part = part["by_level"].get(level)
        return None if part is None else part["accuracy"]


@dataclass(frozen=True)
class RunSummary:
    """A run's iterations from 0 on, and the three that matter: best (chosen on dev), last, and
    oracle (best on test, which nobody could have known). None where the split was not scored."""

    strategy: str
    k: int
    data: str
    iterations: tuple[Iteration, ...]

    @property
    def last(self) -> int:
        return len(self.iterations) - 1

    @property
    def best(self) -> int | None:
        return best([it.scores for it in self.iterations], "dev")

    @property
    def oracle(self) -> int | None:
        return best([it.scores for it in self.iterations], "test")

    @property
    def trained(self) -> tuple[Iteration, ...]:
        """The iterations with exploration and training: all but policy 0's."""
        return tuple(it for it in self.iterations if it.metrics is not None)

    def to_json(self) -> dict[str, Any]:
        return {
            "strategy": self.strategy,
            "k": self.k,
            "data": self.data,
            "best": self.best,
            "last": self.last,
            "oracle": self.oracle,
            "matthew": matthew(self)._asdict(),
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
                for it in self.iterations
            ],
        }


def best(scores: Sequence[Mapping[str, Any]], split: str = "dev") -> int | None:
    """The iteration with the highest accuracy on `split`, the earliest of equals.

    Args:
        scores: the scores.json of every iteration from 0.
        split: dev to choose a policy; test only for what is then called the oracle.

    Returns:
        None if the split was not scored.
    """
    if not scores or any(split not in part for part in scores):
        return None
    return max(range(len(scores)), key=lambda t: (scores[t][split]["accuracy"], -t))


# --- reading a run -------------------------------------------------------------------------


def collect(store: Store, refs: Mapping[str, Ref]) -> RunSummary:
    """Read what a run has made.

    Args:
        refs: the report stage's inputs by role: `data`, `scores-0..`, and per iteration from 1
            `examples-t`, `policy-t`, `explore-t`, `verify-t`, perhaps `explore2-t`, `verify2-t`.

    Raises:
        DataError: if not even policy 0 has scores.
    """
    if "scores-0" not in refs:
        raise DataError("This run has no scores yet", "not even of policy 0", "Let it go on first.")
    iterations: list[Iteration] = []
    while f"scores-{len(iterations)}" in refs:
        iterations.append(_iteration(store, refs, len(iterations)))
    rules, k = set(), 0
    for role, ref in sorted(refs.items()):
        name = role.rsplit("-", 1)[0]
        if name == "examples":
            rules.add(Spec.load(store, ref.address).settings.get("strategy", "vanilla"))
        elif name == "explore":
            k = Spec.load(store, ref.address).params["k"]
        elif name == "explore2":
            draws = Spec.load(store, ref.address).inputs["draws"]
            rules.add(Spec.load(store, draws.address).settings["strategy"])
    rules -= {"vanilla"}
    strategy = "+".join(sorted(rules, key=lambda rule: rule not in ("ar", "gr"))) or "vanilla"
    return RunSummary(strategy, k, refs["data"].address, tuple(iterations))


def _iteration(store: Store, refs: Mapping[str, Ref], t: int) -> Iteration:
    scored = Artifact.open(store, refs[f"scores-{t}"])
    right: dict[str, dict[str, bool]] = {}
    for row in scored.table("scores.parquet", 0, ["query_id", "split", "correct"]).to_pylist():
        right.setdefault(row["split"], {})[row["query_id"]] = row["correct"]
    scores = scored.json("scores.json")
    if t == 0 or f"examples-{t}" not in refs:
        return Iteration(t, scores, right)
    facts = {
        name: Artifact.open(store, refs[f"{name}-{t}"]).manifest.facts
        if f"{name}-{t}" in refs
        else {}
        for name in ("explore", "explore2", "examples", "policy")
    }
    spent = {
        "samples": facts["explore"].get("samples", 0),
        "samples_2": facts["explore2"].get("samples", 0),
        "tokens": facts["explore"].get("tokens", 0) + facts["explore2"].get("tokens", 0),
        "examples": facts["examples"].get("examples", 0),
        "train_tokens": facts["policy"].get("tokens", 0),
        "steps": facts["policy"].get("steps", 0),
        "dropped": facts["policy"].get("dropped", 0),
    }
    sources = {}
    if f"explore2-{t}" in refs:
        draws = Spec.load(store, refs[f"explore2-{t}"].address).inputs["draws"]
        asked = Artifact.open(store, draws).manifest.facts
        sources = {name: asked.get(f"samples_{name}", 0) for name in SOURCES}
    metrics = Artifact.open(store, refs[f"examples-{t}"]).json("metrics.json")
    losses, identical = facts["policy"].get("losses", ()), facts["examples"].get("identical")
    return Iteration(t, scores, right, metrics, spent, losses, identical, sources)


# --- words ---------------------------------------------------------------------------------


class Change(NamedTuple):
    """A paired difference on the same queries: how many were won, how many lost."""

    n: int
    wins: int
    losses: int

    @property
    def difference(self) -> float:
        """Accuracy's difference (-1 to 1)."""
        return (self.wins - self.losses) / self.n if self.n else 0.0

    @property
    def p(self) -> float:
        """Two-sided exact sign test: how likely a split as uneven as this is by chance."""
        changed, few = self.wins + self.losses, min(self.wins, self.losses)
        tail = sum(comb(changed, i) for i in range(few + 1))
        return float(min(Fraction(1), Fraction(2 * tail, 2**changed)))

    @property
    def words(self) -> str:
        counts = f"{self.wins} queries won, {self.losses} lost, of {self.n}"
        chance = "more than" if self.p < UNLIKELY else "within what"
        sign = "" if self.p < 0.001 else "= "
        return f"{counts}: {chance} chance explains (sign test, p {sign}{_p(self.p)})"


def changed(old: Mapping[str, bool], new: Mapping[str, bool]) -> Change:
    """Wins and losses of `new` against `old`, on the queries that both have."""
    both = sorted(old.keys() & new.keys())
    return Change(
        len(both),
        sum(new[query] and not old[query] for query in both),
        sum(old[query] and not new[query] for query in both),
    )


class Matthew(NamedTuple):
    """Whether the rich got richer: shares of successes by iteration, and what to call it.

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
        words = "One iteration cannot show whether the Matthew effect is at work: run at least two."
        return Matthew("unknown", words, head, tail)
    first, last = run.trained[0], run.trained[-1]
    up, down = _moved(first, last, HEAD), -_moved(first, last, TAIL)
    if up > 0 and down > 0:
        seen, verdict = "yes", "The Matthew effect shows"
    elif up == down == 0:
        seen, verdict = "no", "No Matthew effect: the shares moved no more than chance moves them"
    elif up >= 0 and down >= 0:
        seen, verdict = "partly", "The Matthew effect shows in part"
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


def _moved(old: Iteration, new: Iteration, levels: Sequence[str]) -> float:
    """By how much the levels' share of successes differs; 0 if that is little or may be chance."""
    shares, error = [], 0.0
    for it in (old, new):
        share = it.share("successes", levels) or 0.0
        total = (it.metrics or {})["successes"]["total"]
        shares.append(share)
        error += share * (1 - share) / max(1, total)
    difference = shares[1] - shares[0]
    return difference if abs(difference) > max(NOTABLE, 2 * sqrt(error)) else 0.0


def _of_queries(run: RunSummary) -> str:
    """The imbalance that was there to begin with: the first iteration's queries by level."""
    counts = (run.trained[0].metrics or {}).get("queries_by_level") or {}
    total = sum(count or 0 for count in counts.values())
    if not total:
        return ""
    head, tail = (sum(counts.get(v) or 0 for v in levels) / total for levels in (HEAD, TAIL))
    return f"; of the queries, {percent(head)} are head and {percent(tail)} tail"


def rebalanced(run: RunSummary) -> str:
    """What re-balancing did between successes and training examples, over all iterations."""
    if not run.trained:
        return "Nothing was trained yet."
    moved = {}
    for name, levels in (("head", HEAD), ("tail", TAIL)):
        for what in ("successes", "examples"):
            shares = [it.share(what, levels) for it in run.trained]
            known = [share for share in shares if share is not None]
            moved[name, what] = sum(known) / len(known) if known else 0.0
    head, tail = (
        f"{percent(moved[name, 'successes'])} to {percent(moved[name, 'examples'])}"
        for name in ("head", "tail")
    )
    if all(abs(moved[n, "examples"] - moved[n, "successes"]) < 0.0005 for n in ("head", "tail")):
        return (
            "Training examples were the successes as they came: head "
            f"{percent(moved['head', 'examples'])}, tail {percent(moved['tail', 'examples'])} "
            "(mean over iterations)."
        )
    return (
        f"Between successes and training examples, {run.strategy} moved the head's share from "
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
        return f"Policy 0 has {percent(before)} on {split}; nothing was trained yet."
    if chosen == 0:
        return (
            f"Held-out accuracy did not rise: on dev, no iteration beat policy 0, which has "
            f"{percent(before)} on {split}."
        )
    change = changed(zero.right[split], then.right[split])
    real = change.p < UNLIKELY
    verb = "did not change measurably" if not real else "rose" if change.difference > 0 else "fell"
    return (
        f"Held-out accuracy {verb}: {percent(before)} to {percent(after)} on {split} "
        f"({points(change.difference)}; {which}). {change.words[0].upper()}{change.words[1:]}."
    )


def percent(value: float | None) -> str:
    """0.4131 -> `41.3 %`; None -> a dash."""
    return "–" if value is None else f"{_hundred(value):.1f} %"


def points(difference: float | None) -> str:
    """0.013 -> `+1.3 points`."""
    return "–" if difference is None else f"{_hundred(difference):+.1f} points".replace("-", "−")


def _hundred(share: float) -> float:
    """Times 100, so that 0.6 - 0.4625 and 11 / 80 are printed alike."""
    return round(100 * share, 9)


def number(value: float | None, digits: int = 2) -> str:
    """A number with thousands separators, whole ones without decimals; None -> a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if isinstance(value, int) else f"{value:,.{digits}f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


# --- side by side --------------------------------------------------------------------------


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
            "runs": {name: run.to_json() for name, run in self.runs},
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
        head, tail = (_moved(there, here, levels) for levels in (HEAD, TAIL))
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
    return f"{_hundred(abs(gap)):.1f} points {'higher' if gap > 0 else 'lower'}"


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
                        _p(change.p),
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


SPENT = {
    "samples": "samples",
    "samples_2": "of round 2",
    "tokens": "sampled tokens",
    "examples": "examples",
    "train_tokens": "trained tokens",
    "steps": "gradient steps",
    "dropped": "dropped",
}


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

    from si.plots import SERIES, Line, bars, lines
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

    plots = [
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
            plots.append(
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
        drawn=[Markup(plot) for plot in plots],  # noqa: S704 (our own SVG, escaped by matplotlib)
        legend=[(name, colours[name]) for name, _ in runs],
    )
