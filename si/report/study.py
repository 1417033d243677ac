"""A study: strategies, K and seeds side by side, and what they answer.

An *arm* is a strategy with one K, and perhaps a control; its runs differ only in their seed. Each
question is answered `yes`, `no` or `not shown`, by the 95 % interval that is printed beside the
answer: an interval that contains zero shows nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from si.records import HEAD, LEVELS, TAIL
from si.report.compare_words import FEW_SEEDS, measure
from si.report.groups import QUERIES, Difference, Group, Runs, differences
from si.report.intervals import Interval, crossed
from si.report.overview import Estimate, Trace, moved
from si.report.tables import Table, number, percent, point_range, points

VANILLA = "vanilla"
STEPS = "equal steps"
YES, NO, OPEN = "yes", "no", "not shown"
LITTLE = 0.02  # a difference in accuracy below this is little
QUESTIONS = {
    "a": "Under plain self-improvement, does the head's share of the training data grow, and the "
    "tail's fall?",
    "b": "Does doubling K buy little (less than 2 points), and less in later iterations?",
    "c": "Does re-balancing make the tail's share larger and the head's smaller?",
    "d": "Is the strategy ahead of plain self-improvement after the last iteration?",
    "e": "What does a point of accuracy cost?",
    "f": "How many correct answers are reached by wrong steps?",
}


class Arm(NamedTuple):
    """What the runs of a group have in common. `control` is empty, or STEPS: as many gradient
    steps in every iteration as vanilla with the same K and seed."""

    strategy: str
    k: int
    control: str = ""

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.strategy, f"K = {self.k}", self.control)))


class Answer(NamedTuple):
    """An answer to a question about one arm: its verdict (empty where the question asks for a
    number), and the figures behind it."""

    question: str
    about: str
    verdict: str
    figures: str


@dataclass(frozen=True)
class Study:
    """The runs of a study.

    Attributes:
        groups, traces: by arm; every arm has the same seeds.
        tokens: an arm whose strategy samples a second round -> vanilla with about as many sampled
            tokens.
    """

    groups: Mapping[Arm, Group]
    traces: Mapping[Arm, Trace]
    tokens: Mapping[Arm, Arm]

    @property
    def runs(self) -> Runs:
        return [each for group in self.groups.values() for each in group.runs]

    @property
    def seeds(self) -> tuple[int, ...]:
        return next(iter(self.groups.values())).seeds

    @property
    def queries(self) -> int:
        """Number of test queries."""
        return len(self.runs[0][1].iterations[0].right.get("test", {}))

    @property
    def ks(self) -> list[int]:
        """The K that strategies were compared with, ascending."""
        others = set(self.tokens.values())
        return sorted({arm.k for arm in self.groups if arm not in others})

    @cached_property
    def pairs(self) -> list[tuple[Arm, Arm]]:
        """(arm, what it is compared with): vanilla with its K, and with its tokens."""
        found = []
        for arm in self.groups:
            plain = Arm(VANILLA, arm.k)
            if arm.strategy != VANILLA and plain in self.groups:
                found.append((arm, plain))
                if (twin := self.tokens.get(arm, plain)) != plain:
                    found.append((arm, twin))
        return found

    @cached_property
    def against(self) -> list[tuple[Arm, Arm, Difference]]:
        """Differences of the last policies, on all, head and tail queries of test."""
        return [
            (arm, other, each)
            for arm, other in self.pairs
            for each in differences(self.groups[arm], self.groups[other], "last", "last")
        ]

    @cached_property
    def answers(self) -> list[Answer]:
        return [
            *_imbalance(self),
            *_doubled(self),
            *_rebalanced(self),
            *_ahead(self),
            *_price(self),
            *_lucky(self),
        ]

    @property
    def reserve(self) -> str:
        """What keeps the answers from saying more."""
        tests = len([each for each in self.answers if each.verdict])
        said = (
            f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}, {self.queries:,} test "
            f"queries, {tests} answers. With 95 % intervals about one in twenty answers is yes or "
            "no by chance."
        )
        if 1 < len(self.seeds) < FEW_SEEDS:
            said += f" Intervals over fewer than {FEW_SEEDS} seeds are too narrow."
        return said

    def to_json(self) -> dict[str, Any]:
        return {
            "arms": [arm.name for arm in self.groups],
            "seeds": list(self.seeds),
            "queries": self.queries,
            "reserve": self.reserve,
            "questions": QUESTIONS,
            "answers": [each._asdict() for each in self.answers],
            "differences": [
                {"arm": arm.name, "against_arm": other.name} | each.to_json()
                for arm, other, each in self.against
            ],
        }


# --- answers -------------------------------------------------------------------------------


def _imbalance(study: Study) -> Iterator[Answer]:
    """(a): the first iteration's shares against the last's."""
    for arm in study.groups:
        if arm.strategy != VANILLA or arm.k not in study.ks:
            continue
        trace = study.traces[arm]
        ends = [(found[0], found[-1]) for found in (trace.head, trace.tail) if len(found) > 1]
        if len(ends) < 2 or any(share is None for pair in ends for share in pair):
            continue
        head, tail = ((then, now) for then, now in ends if then and now)
        verdict = _verdict([now.change(then) for then, now in (head, tail)], ["rose", "fell"])
        figures = f"head {moved(*head)}; tail {moved(*tail)}"
        yield Answer("a", arm.name, verdict, f"{figures} ({len(trace.tail)} iterations)")


def _verdict(moves: Sequence[str], wanted: Sequence[str]) -> str:
    """YES if everything moved as wanted, NO if anything moved the other way, else OPEN."""
    if moves == wanted:
        return YES
    other = {"rose": "fell", "fell": "rose"}
    return (
        NO
        if any(other.get(move) == want for move, want in zip(moves, wanted, strict=True))
        else OPEN
    )


def _doubled(study: Study) -> Iterator[Answer]:
    """(b): vanilla with twice the K, at the first iteration and at the last."""
    for k in study.ks:
        small, large = Arm(VANILLA, k), Arm(VANILLA, 2 * k)
        if small not in study.groups or large not in study.groups:
            continue
        less, more = study.groups[small], study.groups[large]
        last = min(run.last for _, run in (*less.runs, *more.runs))
        first, final = (_overall(more, less, str(t), str(t)) for t in (1, last))
        if first is None or final is None:
            continue
        later = _later(more, less, last)
        little = final.interval.high < LITTLE
        verdict = YES if little and later and later.high < 0 else OPEN
        if final.interval.low > LITTLE or (later and later.low > 0):
            verdict = NO
        figures = (
            f"{_span(first)} at iteration 1, {_span(final)} at iteration {last}; between them the "
            f"difference changed by {point_range(later)}"
        )
        yield Answer("b", f"vanilla, K = {2 * k} against K = {k}", verdict, figures)


def _overall(group: Group, other: Group, which: str, theirs: str) -> Difference | None:
    found = differences(group, other, which, theirs)
    return next((each for each in found if each.queries == "all"), None)


def _later(group: Group, other: Group, last: int) -> Interval | None:
    """The interval of the difference between two groups at `last`, minus that at iteration 1."""
    answers = [each.answers(str(t)) for each in (group, other) for t in (1, last)]
    ids = sorted(set.intersection(*(set(seed) for side in answers for seed in side)))

    def moved(then: Sequence[Mapping[str, float]], now: Sequence[Mapping[str, float]]) -> Any:
        return [[b[q] - a[q] for q in ids] for a, b in zip(then, now, strict=True)]

    matched = group.seeds == other.seeds
    key = ("study", group.name, other.name, last)
    return crossed(moved(*answers[:2]), moved(*answers[2:]), matched, *key)


def _rebalanced(study: Study) -> Iterator[Answer]:
    """(c): shares of the last training data, against vanilla's with the same K."""
    for arm, other in study.pairs:
        if arm.control or other.k != arm.k:
            continue
        parts, moves = [], []
        for name in ("tail", "head"):
            here, there = (getattr(study.traces[each], name) for each in (arm, other))
            if not (here and there and here[-1] and there[-1]):
                break
            moves.append(here[-1].change(there[-1]))
            shares = f"{percent(here[-1].value)} against {percent(there[-1].value)}"
            parts.append(f"{name} {shares}{', within chance' if moves[-1] == 'stayed' else ''}")
        else:
            yield Answer("c", arm.name, _verdict(moves, ["rose", "fell"]), "; ".join(parts))


def _ahead(study: Study) -> Iterator[Answer]:
    """(d): overall and in the tail, at equal steps and equal tokens where it has such arms."""
    for arm, other, found in study.against:
        if found.queries == "head":
            continue
        how = f" against vanilla with its sampled tokens (K = {other.k})"
        where = "" if found.queries == "all" else ", on tail queries"
        verdict = (YES if found.value > 0 else NO) if found.real else OPEN
        about = f"{arm.name}{how if other.k != arm.k else ''}{where}"
        yield Answer("d", about, verdict, f"{_span(found)}, {found.n:,} queries")


def _price(study: Study) -> Iterator[Answer]:
    """(e): sampled tokens and gradient steps for each point that was gained over policy 0."""
    for arm, group in study.groups.items():
        gain = _overall(group, group, "last", "zero")
        if gain is None:
            continue
        spent = {what: _spent(group, what) for what in ("tokens", "steps")}
        paid = f"{spent['tokens'] / 1e6:,.2f} M sampled tokens and {spent['steps']:,.0f} steps"
        figures = f"{_span(gain)} for {paid}"
        if gain.real and gain.value > 0:
            each = (total / (100 * gain.value) for total in spent.values())
            tokens, steps = each
            figures += f": {tokens / 1e6:,.3f} M tokens and {steps:,.1f} steps a point"
        else:
            figures += ": no gain that chance does not explain"
        yield Answer("e", arm.name, "", figures)


def _lucky(study: Study) -> Iterator[Answer]:
    """(f): shares over all iterations and seeds, of the tail and of all, before and after
    re-balancing. Only for queries whose steps can be checked."""
    for arm, group in study.groups.items():
        known = [it.spurious for _, run in group.runs for it in run.trained if it.spurious]
        parts = []
        for name, levels in (("tail", TAIL), ("all", LEVELS)):
            shares = (
                _pooled([each[what] for each in known], levels)
                for what in ("first_round", "examples")
            )
            parts.append(f"{name}: " + ", ".join(map(percent, shares)))
        if known:
            figures = f"{'; '.join(parts)} (first round, training data)"
            yield Answer("f", arm.name, "", figures)


def _pooled(counted: Sequence[Mapping[str, Any]], levels: Sequence[str]) -> float | None:
    """Share (0 to 1) of answers with wrong steps, of some levels; None without any answer."""
    n = sum(each["n_by_level"][level] for each in counted for level in levels)
    wrong = sum(
        each["n_by_level"][level] * (each["share_by_level"][level] or 0.0)
        for each in counted
        for level in levels
    )
    return wrong / n if n else None


def _spent(group: Group, what: str) -> float:
    """Mean over seeds of what all iterations of a run took."""
    sums = [sum((it.spent or {}).get(what, 0) for it in run.trained) for _, run in group.runs]
    return sum(sums) / len(sums)


def _span(found: Difference) -> str:
    return f"{points(found.value)} ({point_range(found.interval)})"


# --- results as rows -----------------------------------------------------------------------


def results(study: Study) -> list[dict[str, Any]]:
    """A row for each policy of each run: run, strategy, k, control, seed, iteration; accuracy on
    test (0 to 1) on all, head and tail queries; shares (0 to 1) of head and tail among successes
    and examples; samples, tokens, examples and steps of the iteration. None where there is none."""
    rows = []
    for arm, group in study.groups.items():
        for seed, (name, run) in zip(group.seeds, group.runs, strict=True):
            for it in run.iterations:
                row = {"run": name, **arm._asdict(), "seed": seed, "iteration": it.t}
                for queries, levels in QUERIES.items():
                    right = it.right.get("test", {})
                    ids = [q for q in right if queries == "all" or run.levels.get(q) in levels]
                    mean = sum(right[q] for q in ids) / len(ids) if ids else None
                    row[f"accuracy_{queries}"] = mean
                for what in ("successes", "examples"):
                    row[f"head_of_{what}"] = it.share(what, HEAD)
                    row[f"tail_of_{what}"] = it.share(what, TAIL)
                spent = it.spent or {}
                row["samples"] = spent.get("samples", 0) + spent.get("samples_2", 0)
                row |= {what: spent.get(what, 0) for what in ("tokens", "examples", "steps")}
                rows.append(row)
    return rows


# --- tables and page -----------------------------------------------------------------------


def answered(study: Study) -> list[Table]:
    """A table for each question that the study's arms can answer."""
    found = []
    for letter, question in QUESTIONS.items():
        rows = [
            [each.about, *([each.verdict] if each.verdict else []), each.figures]
            for each in study.answers
            if each.question == letter
        ]
        if rows:
            columns = ["arm", "answer", "figures"] if len(rows[0]) == 3 else ["arm", "figures"]
            found.append(Table(f"({letter}) {question}", columns, rows))
    return found


def _shares(study: Study) -> Table:
    """Accuracy and shares at the last iteration, arm by arm."""
    rows = []
    for arm, group in study.groups.items():
        trace = study.traces[arm]
        cells = [percent(part[-1].value if part and part[-1] else None) for part in _parts(trace)]
        tokens, steps = (_spent(group, what) for what in ("tokens", "steps"))
        rows.append([arm.name, *cells, number(round(tokens)), number(round(steps))])
    return Table(
        "After the last iteration, means over seeds",
        ["arm", f"test {measure(study.runs)}", "head of its data", "tail", "tokens", "steps"],
        rows,
        "Tokens are sampled ones; tokens and steps are sums over a run's iterations.",
    )


def _parts(trace: Trace) -> tuple[list[Estimate | None], ...]:
    return trace.accuracy, trace.head, trace.tail


def page(study: Study) -> str:
    """The study as one self-contained HTML page."""
    from markupsafe import Markup

    from si.report.overview import panels
    from si.report.palette import SERIES
    from si.report.plots import Plot, spans
    from si.report.templates import render

    strategies = list(dict.fromkeys(arm.strategy for arm in study.groups))
    colours = {name: SERIES[i % len(SERIES)] for i, name in enumerate(strategies)}
    parts = []
    for k in study.ks:
        arms = [arm for arm in study.groups if (arm.k, arm.control) == (k, "")]
        traces = [study.traces[arm] for arm in arms]
        of = {study.groups[arm].name: colours[arm.strategy] for arm in arms}
        drawn = panels(traces, of, measure(study.runs), f"-k{k}")
        rows = [
            (f"{arm.strategy}, {each.queries}", each.value, each.interval, colours[arm.strategy])
            for arm, other, each in study.against
            if arm in arms and other == Arm(VANILLA, k)
        ]
        if rows:
            look = "Difference from vanilla. An interval that crosses zero may be chance."
            drawn.append((spans(f"against-k{k}", "Last policies on test", rows), look))
        # Our own SVG; matplotlib escapes the text in it.
        parts.append((k, [Plot(Markup(svg), look) for svg, look in drawn]))  # noqa: S704
    return render(
        "study.html",
        title="Study: " + ", ".join(strategies),
        reserve=study.reserve,
        legend=list(colours.items()),
        parts=parts,
        answers=answered(study),
        tables=[_shares(study)],
    )
