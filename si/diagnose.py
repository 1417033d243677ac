"""Diagnose: what anybody's rollouts say of the Matthew effect, and what each strategy would do.

Figures first (`diagnose`, JSON-serialisable), then the words and tables that a terminal and the
page share. Everything is counted from one entry a sample (`si.rollouts`); nothing is sampled
again, so what a second round would bring is never said.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from random import Random
from typing import Any

import numpy as np

from si import Verb
from si.compare import Iteration, RunSummary, Table, number, percent
from si.compare import matthew as effect
from si.metrics import Array, matthew, pass_rates
from si.randomness import keyed_rng
from si.records import HEAD, LEVELS, TAIL, Outcome
from si.rollouts import Groups, Rollouts, group, judge
from si.strategies import Strategy, by_name

WINDOWS = 20  # pieces that many steps are shown in
RESHAPE = ("vanilla", "tc", "rp")
RESAMPLE = ("ar", "gr")
RECUR = 0.5  # share of queries to be seen again for changes over steps to mean something


@dataclass(frozen=True)
class Diagnosis:
    """What was found: `figures` (docs/diagnose.md), `words` (heading, sentences), `tables`."""

    figures: dict[str, Any]
    words: list[tuple[str, str]]
    tables: dict[str, list[Table]]

    def to_json(self) -> dict[str, Any]:
        """The figures with the words, JSON-serialisable."""
        return {**self.figures, "words": dict(self.words)}

    def page(self) -> str:
        """One self-contained HTML page."""
        return page(self)


def diagnose(
    rollouts: Rollouts,
    threshold: float | None = None,
    k: int | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Diagnosis:
    """Levels, shares, Matthew metrics, pass@k, and what every strategy would change.

    Args:
        threshold: lowest reward of a success; see `si.rollouts.judge`.
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
            "skipped": [bad._asdict() for bad in source.bad],
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
    """Whether the rich got richer over the steps, by the rules of `si.compare`."""
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
        said = _spans(told[0], told[-1])
        words = seen.words.replace(f"From iteration 1 to {len(told)}", said)
        return {"seen": seen.seen, "words": words}
    return {"seen": "unknown", "words": why}


def _span(window: Mapping[str, Any]) -> str:
    first, last = window["first_step"], window["last_step"]
    return str(first) if first == last else f"{first}–{last}"


def _spans(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    many = "steps" if one["first_step"] != one["last_step"] else "step"
    return f"From {many} {_span(one)} to {_span(other)}"


# --- words and tables ----------------------------------------------------------------------


def _sum(shares: Mapping[str, float | None], levels: Sequence[str]) -> float | None:
    known = [shares[level] for level in levels]
    return None if None in known else sum(share for share in known if share is not None)


def words(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was found: (heading, sentences)."""
    told = [
        ("What was read", _read(figures)),
        ("Who feeds the training", _imbalance(figures)),
        ("Matthew effect", figures["matthew"]["words"]),
        ("What K buys", _buys(figures)),
        ("What re-balancing would change", _changes(figures)),
        ("What a second round would ask for", _asks(figures)),
    ]
    if figures["source"]["notes"] or figures["source"]["skipped"]:
        skipped = len(figures["source"]["skipped"])
        notes = list(figures["source"]["notes"])
        notes += [f"{number(skipped)} rows could not be used and were left out."] * bool(skipped)
        told.append(("Note", " ".join(notes)))
    return told


def _read(figures: Mapping[str, Any]) -> str:
    sizes, columns = figures["samples_by_group"], figures["source"]["columns"]
    steps = f" in {number(figures['steps'])} steps" if figures["steps"] > 1 else ""
    rate = figures["right"] / figures["samples"]
    how = "" if figures["k_given"] else ", the most common number of samples of a query"
    uneven = ""
    if sizes["of_common_size"] < figures["groups"]:
        uneven = f" (they have {sizes['least']} to {sizes['most']})"
    return (
        f"{number(figures['samples'])} samples of {number(figures['queries'])} queries{steps}, "
        f"written by {figures['source']['layout']}. {columns['reward']} >= "
        f"{figures['reward']['threshold']:g} is right ({figures['reward']['why']}): "
        f"{percent(rate)} are. K = {figures['k']}{how}{uneven}."
    )


def _imbalance(figures: Mapping[str, Any]) -> str:
    counts = figures["levels"]["queries_by_level"]
    shares = figures["successes"]["share_by_level"]
    said = []
    for name, levels in (("head", HEAD), ("tail", TAIL)):
        queries = sum(counts[level] for level in levels) / max(1, figures["queries"])
        said.append(
            f"the {name}, {percent(queries)} of the queries, gives {percent(_sum(shares, levels))}"
        )
    own = ""
    if not figures["levels"]["measured"]:
        own = (
            " Levels are told from each query's first samples, the same that are counted: by luck "
            "alone that makes the head look larger and the tail smaller."
        )
    gini = number(figures["successes"]["gini"], 2)
    return f"Of the right answers, {said[0]}, and {said[1]}. Gini {gini}.{own}"


def _buys(figures: Mapping[str, Any]) -> str:
    curve = figures["pass_at_k"]
    if len(curve) < 2:
        return "One sample a query says nothing of what more would bring."
    last, before = curve[-1], curve[-2]
    return (
        f"One sample solves {percent(curve[0]['value'])} of the queries, {before['k']} solve "
        f"{percent(before['value'])}, {last['k']} solve {percent(last['value'])} (pass@k, "
        f"unbiased). More samples bring more right answers of each query in proportion, so they do "
        "not change the levels' shares."
    )


def _changes(figures: Mapping[str, Any]) -> str:
    base = figures["strategies"]["vanilla"]
    if not base["examples"]:
        return "No sample is right: there is nothing to train on."
    said = []
    for name in ("rp", "tc"):
        made = figures["strategies"][name]
        head, tail = (
            f"{percent(_sum(base['share_by_level'], ls))} to "
            f"{percent(_sum(made['share_by_level'], ls))}"
            for ls in (HEAD, TAIL)
        )
        said.append(
            f"{name} makes {number(made['examples'])} examples of {number(base['examples'])} "
            f"successes: head {head}, tail {tail}"
        )
    return ". ".join(said) + "."


def _asks(figures: Mapping[str, Any]) -> str:
    ar, gr = (figures["strategies"][name] for name in RESAMPLE)
    if not ar["draws"] and not gr["draws"]:
        return "Nothing: no sample failed."
    said = (
        f"ar would draw {number(ar['draws'])} more samples, "
        f"{percent(_sum(ar['share_by_level'], TAIL))} of them for the tail"
    )
    if gr["draws"]:
        said += (
            f"; gr {number(gr['draws'])}, of which {percent(gr['with_own_success'] / gr['draws'])} "
            "could begin with steps of a right answer of the same query"
        )
    return said + ". What they would bring is not known before it is sampled."


def tables(figures: Mapping[str, Any]) -> dict[str, list[Table]]:
    """The tables by section: shares, steps, curve, strategies, lengths."""
    counts, made = figures["levels"]["queries_by_level"], figures["strategies"]
    total = max(1, figures["queries"])
    successes = figures["successes"]
    shares = [
        ["queries", number(total), *(percent(counts[level] / total) for level in LEVELS)],
        [
            "right answers",
            number(successes["total"]),
            *(percent(successes["share_by_level"][level]) for level in LEVELS),
        ],
    ]
    rates = figures["levels"]["accuracy_by_level"]
    shares.append(
        [
            "pass rate",
            percent(figures["right"] / figures["samples"]),
            *(percent(rates[level]) for level in LEVELS),
        ]
    )
    found = {
        "shares": [
            Table(
                "Queries and right answers by level",
                ["", "all", *LEVELS],
                shares,
                f"Concentration over queries: Gini {number(successes['gini'], 3)}, of solved ones "
                f"{number(successes['gini_solved'], 3)}; entropy {number(successes['entropy'], 3)} "
                f"and {number(successes['entropy_solved'], 3)}.",
            )
        ],
        "steps": [_steps_table(figures)] if len(figures["windows"]) > 1 else [],
        "curve": [
            Table(
                "pass@k",
                ["k", "pass@k", "queries with enough samples"],
                [
                    [str(p["k"]), percent(p["value"]), number(p["groups"])]
                    for p in figures["pass_at_k"]
                ],
                "1 - C(n-c, k) / C(n, k) of a query with c of n right, mean over queries and steps "
                "(Chen et al. 2021).",
            )
        ],
        "strategies": [
            Table(
                "Training examples by strategy",
                ["strategy", "examples", "queries", "head", "tail", *LEVELS, "head/tail", "Gini"],
                [
                    [
                        name,
                        number(made[name]["examples"]),
                        number(made[name]["queries"]),
                        percent(_sum(made[name]["share_by_level"], HEAD)),
                        percent(_sum(made[name]["share_by_level"], TAIL)),
                        *(percent(made[name]["share_by_level"][level]) for level in LEVELS),
                        number(made[name]["head_tail_ratio"]),
                        number(made[name]["gini"], 3),
                    ]
                    for name in RESHAPE
                ],
                "Of the samples that are there, K at a time, step by step.",
            ),
            Table(
                "Draws of a second round",
                ["strategy", "draws", "queries", "guided by an own success", *LEVELS],
                [
                    [
                        name,
                        number(made[name]["draws"]),
                        number(made[name]["queries"]),
                        number(made[name]["with_own_success"]),
                        *(percent(made[name]["share_by_level"][level]) for level in LEVELS),
                    ]
                    for name in RESAMPLE
                ],
                "What is asked for; what it would bring is not predicted.",
            ),
        ],
        "lengths": [],
    }
    unit = figures["length_unit"]
    if unit:
        rows = [[unit, number(successes[f"{unit}_mean"], 1), *_lengths(successes, unit)]]
        if "steps_mean" in successes:
            mean = number(successes["steps_mean"], 1)
            rows.append(["steps (lines)", mean, *_lengths(successes, "steps")])
        found["lengths"] = [Table("Mean length of a right answer", ["", "all", *LEVELS], rows)]
    return found


def _lengths(successes: Mapping[str, Any], unit: str) -> list[str]:
    return [number(successes[f"{unit}_by_level"][level], 1) for level in LEVELS]


def _steps_table(figures: Mapping[str, Any]) -> Table:
    return Table(
        "Right answers over steps",
        ["step", "samples", "right", *LEVELS, "head/tail", "Gini", "entropy"],
        [
            [
                _span(window),
                number(window["samples"]),
                percent(window["successes"]["total"] / max(1, window["samples"])),
                *(percent(window["successes"]["share_by_level"][level]) for level in LEVELS),
                number(window["successes"]["head_tail_ratio"]),
                number(window["successes"]["gini"], 3),
                number(window["successes"]["entropy"], 3),
            ]
            for window in figures["windows"]
        ],
        "Gini and entropy over the queries that were sampled in these steps.",
    )


# --- the page ------------------------------------------------------------------------------


def page(found: Diagnosis) -> str:
    """The diagnosis as one self-contained HTML page."""
    from markupsafe import Markup

    from si.templates import render

    figures, numbers = found.figures, found.tables
    leads = {
        "shares": (
            "Who feeds the training",
            "Where a level's bar of right answers is taller than its bar of queries, training on "
            "all right answers sees more of it than there is.",
        ),
        "steps": ("Over steps", "The rich get richer where the head grows and the tail shrinks."),
        "curve": (
            "What K buys",
            "The chance that k samples of a query hold a right one. Where the curve is flat, more "
            "samples of the same kind solve few more queries.",
        ),
        "strategies": (
            "What each strategy would change",
            "tc clips, rp pads to K; both work with the samples that are there. ar and gr ask for "
            "more, and what they get is not known before it is sampled.",
        ),
        "lengths": ("Length of right answers", "Mean length by level."),
    }
    drawn = _plots(figures)
    sections = [
        {
            "title": title,
            "lead": lead,
            "plots": [Markup(svg) for svg in drawn.get(key, [])],  # noqa: S704 (our own SVG)
            "legend": _LEGENDS.get(key, ()),
            "tables": numbers[key],
        }
        for key, (title, lead) in leads.items()
        if numbers[key]
    ]
    source = figures["source"]
    columns = Table(
        "What is read from where",
        ["field", "column"],
        [[what, path] for what, path in sorted(source["columns"].items())],
    )
    skipped = Table(
        "Rows left out",
        ["file", "row", "field", "why"],
        [[b["file"], str(b["row"]), b["field"], b["why"]] for b in source["skipped"][:100]],
    )
    return render(
        "diagnose.html",
        title=_title(source["files"]),
        tiles=_tiles(figures),
        words=found.words,
        sections=sections,
        columns=columns,
        skipped=skipped if source["skipped"] else None,
        files=source["files"],
    )


def _title(files: Sequence[str]) -> str:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return files[0].rpartition("/")[2] + more


def _tiles(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    shares, made = figures["successes"]["share_by_level"], figures["strategies"]
    counts = figures["levels"]["queries_by_level"]
    tiles = [
        ("Right", percent(figures["right"] / figures["samples"]), f"pass@1, K = {figures['k']}")
    ]
    for name, levels in (("Head", HEAD), ("Tail", TAIL)):
        queries = sum(counts[level] for level in levels) / max(1, figures["queries"])
        note = f"of right answers; {percent(queries)} of queries"
        tiles.append((f"{name}'s share", percent(_sum(shares, levels)), note))
    rp = made["rp"]["share_by_level"]
    moved = f"head {percent(_sum(rp, HEAD))} under rp"
    tiles.append(("Tail under rp", percent(_sum(rp, TAIL)), moved))
    return [
        {"label": label, "value": value, "note": note, "main": label.startswith("Tail's")}
        for label, value, note in tiles
    ]


_LEGENDS = {
    "shares": (("queries", "s8"), ("right answers", "s1")),
    "strategies": (("vanilla", "s8"), ("tc", "s2"), ("rp", "s1"), ("ar", "s3"), ("gr", "s4")),
}


def _plots(figures: Mapping[str, Any]) -> dict[str, list[str]]:
    from si.plots import Line, bars, lines, stacked

    counts, successes = figures["levels"]["queries_by_level"], figures["successes"]
    total, made, windows = max(1, figures["queries"]), figures["strategies"], figures["windows"]
    colour = dict(_LEGENDS["strategies"])
    drawn = {
        "shares": [
            bars(
                "shares",
                "Queries and right answers",
                LEVELS,
                [
                    Line("queries", [counts[level] / total for level in LEVELS], "s8"),
                    Line("right", [successes["share_by_level"][v] for v in LEVELS], "s1"),
                ],
                share=True,
            )
        ],
        "curve": [
            lines(
                "curve",
                "pass@k",
                [point["k"] for point in figures["pass_at_k"]],
                [Line("", [point["value"] for point in figures["pass_at_k"]], "s1")],
                xlabel="k, samples a query",
            )
        ],
        "strategies": [
            bars(
                "examples",
                "Shares of training examples",
                LEVELS,
                [
                    Line(name, [made[name]["share_by_level"][v] for v in LEVELS], colour[name])
                    for name in RESHAPE
                ],
                share=True,
            ),
            bars(
                "draws",
                "Shares of a second round's draws",
                LEVELS,
                [
                    Line(name, [made[name]["share_by_level"][v] for v in LEVELS], colour[name])
                    for name in RESAMPLE
                ],
                share=True,
            ),
        ],
    }
    if len(windows) > 1:
        xs = list(range(1, len(windows) + 1))
        label = "step"
        if [w["first_step"] for w in windows] != xs or any(
            w["first_step"] != w["last_step"] for w in windows
        ):
            label = f"window, steps {_span(windows[0])} to {_span(windows[-1])}"
        by_level = [
            Line(v, [w["successes"]["share_by_level"][v] for w in windows], v) for v in LEVELS
        ]
        rates = [Line(v, [w["accuracy_by_level"][v] for w in windows], v) for v in LEVELS]
        drawn["steps"] = [
            stacked("over-steps", "Shares of right answers", xs, by_level, xlabel=label),
            lines("pass-rate", "Pass rate by level", xs, rates, xlabel=label),
        ]
    return drawn


sys.modules[__name__].__class__ = Verb
