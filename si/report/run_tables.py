"""What a report says about a run, in sentences and tables."""

from collections.abc import Mapping
from typing import Any

from si.metrics import ends
from si.records import HEAD, LEVELS, TAIL
from si.report.counts import between, counted
from si.report.findings import matthew, one_sample_levels, progress, rebalanced, unread
from si.report.summary import SOURCES, SPENT, RunSummary, score_name
from si.report.tables import Table, number, percent, percents, point_range, points, probability

CONCENTRATION = {
    "gini": "Gini",
    "gini_solved": "of solved",
    "entropy": "entropy",
    "entropy_solved": "of solved",
}


# --- words and tables ----------------------------------------------------------------------


def words(run: RunSummary) -> list[tuple[str, str]]:
    """What happened: (heading, sentences)."""
    warnings = " ".join(filter(None, (unread(run), one_sample_levels(run))))
    found = [
        *([("Warning", warnings)] if warnings else []),
        ("Held-out accuracy", progress(run)),
        ("Matthew effect", f"{matthew(run).words} {_by_level(run)}".strip()),
        ("Re-balancing", rebalanced(run)),
    ]
    if run.best is not None and run.oracle is not None:
        found.append(("Which iteration", _which(run)))
    return found


def _by_level(run: RunSummary) -> str:
    """Held-out accuracy of head and tail under policy 0 and the last policy."""
    said = []
    for name, levels in (("head", HEAD), ("tail", TAIL)):
        ends = [counted(it, "test", levels) for it in (run.iterations[0], run.iterations[-1])]
        if run.last and all(count.n for count in ends):
            before, after = (percent(count.accuracy) for count in ends)
            said.append(f"{name} queries ({ends[0].n}) went from {before} to {after}")
    return f"On test, {', '.join(said)}." if said else ""


def _which(run: RunSummary) -> str:
    best, oracle = run.iterations[run.best or 0], run.iterations[run.oracle or 0]
    last = run.iterations[-1]
    return (
        f"Chosen on dev: iteration {best.t}, {percent(best.accuracy('test'))} on test. "
        f"Last: iteration {last.t}, {percent(last.accuracy('test'))}. "
        f"Oracle (best on test, not a choice that anyone could make): iteration {oracle.t}, "
        f"{percent(oracle.accuracy('test'))}."
    )


def tables(run: RunSummary) -> dict[str, list[Table]]:
    """The tables by section: accuracy, shares, lengths, spent."""
    return {
        "accuracy": _accuracy(run),
        "shares": _shares(run),
        "lengths": _lengths(run),
        "spent": _spent(run),
    }


def _accuracy(run: RunSummary) -> list[Table]:
    first = run.iterations[0].scores
    splits = [split for split in ("test", "dev") if split in first]
    found = []
    for split in splits:
        groups = first[split]
        counts = {level: part["n"] for level, part in groups["by_level"].items()}
        columns = ["iteration", f"all ({groups['n']})", "95 % interval"]
        columns += [f"{level} ({n})" for level, n in counts.items()]
        rows = [
            [str(it.t), percent(it.accuracy(split)), percents(counted(it, split).interval)]
            + [percent(it.accuracy(split, level)) for level in counts]
            + [number(it.scores[split]["tokens_mean"], 1)]
            for it in run.iterations
        ]
        title = "Accuracy" if not groups.get("samples") else score_name(groups["samples"])
        note = (
            f"{answers(groups)}; numbers of queries in brackets. Interval: Wilson, over queries. "
            "tokens: mean length of a response."
        )
        found.append(Table(f"{title} on {split}", [*columns, "tokens"], rows, note))
        if groups.get("samples"):
            found.append(_of_samples(run, split))
    return found + [_against_zero(run, split) for split in splits if run.last]


def answers(part: Mapping[str, Any]) -> str:
    """How a split's queries were answered, given its scores."""
    if not part.get("samples"):
        return "One greedy response per query"
    n = part["samples"]
    return f"{n} sampled response{'s' * (n > 1)} per query at temperature {part['temperature']:g}"


def _of_samples(run: RunSummary, split: str) -> Table:
    """What several answers a query are worth: avg@n, pass@k and maj@n."""
    parts = [it.scores[split] for it in run.iterations]
    samples, ks = parts[0]["samples"], list(parts[0]["pass_at"])
    names = [score_name(samples), *(f"pass@{k}" for k in ks[1:]), f"maj@{samples}"]
    rows = [
        [str(it.t)]
        + [percent(part["accuracy"])]
        + [percent(part["pass_at"][k]) for k in ks[1:]]
        + [percent(part["majority"])]
        for it, part in zip(run.iterations, parts, strict=True)
    ]
    return Table(
        f"Several answers a query, on {split}",
        ["iteration", *names],
        rows,
        "avg: mean accuracy of an answer. pass@k: at least one of k answers is correct (unbiased "
        "estimate). maj: the most frequent answer is correct.",
    )


def _shares(run: RunSummary) -> list[Table]:
    note = (
        "Gini and normalised entropy over all queries, and over the queries that contribute: 0 and "
        "1 if all contribute alike."
    )
    found = [
        Table(
            f"Shares of {what} by level",
            ["iteration", *LEVELS, "head/tail", *CONCENTRATION.values()],
            [
                [
                    str(it.t),
                    *(percent(it.share(what, [level])) for level in LEVELS),
                    number(it.figure(what, "head_tail_ratio")),
                    *(number(it.figure(what, name), 3) for name in CONCENTRATION),
                ]
                for it in run.trained
            ],
            note,
        )
        for what in ("successes", "examples")
    ]
    passed = Table(
        "Pass rate of the first round by level",
        ["iteration", *LEVELS],
        [[str(it.t), *(percent(it.pass_rate(v)) for v in LEVELS)] for it in run.trained],
        "Share of correct samples among all samples of a level's training queries.",
    )
    return [*found, passed, *_spurious(run)]


def _spurious(run: RunSummary) -> list[Table]:
    rows = [
        [str(it.t), what.replace("_", " "), number(part["n"]), percent(part["share"])]
        + [percent(part["share_by_level"][level]) for level in LEVELS]
        for it in run.trained
        for what, part in (it.spurious or {}).items()
    ]
    title = "Correct answers reached by wrong steps"
    note = (
        "Share of the correct answers in which a step is wrong, missing or superfluous, before "
        "re-balancing (first round) and after it (examples). Only synthetic queries, whose steps "
        "can be checked."
    )
    return (
        [Table(title, ["iteration", "of", "checked", "all", *LEVELS], rows, note)] if rows else []
    )


def _lengths(run: RunSummary) -> list[Table]:
    return [
        Table(
            f"Mean length of {what} in {unit}, by level",
            ["iteration", *LEVELS],
            [
                [str(it.t)]
                + [number(it.figure(what, f"{unit}_by_level", level), 1) for level in LEVELS]
                for it in run.trained
            ],
        )
        for what in ("successes", "examples")
        for unit in ("tokens", "steps")
    ]


def _spent(run: RunSummary) -> list[Table]:
    found = [
        Table(
            "Cost",
            ["iteration", *SPENT.values(), "identical", "loss, first quarter", "last"],
            [
                [
                    str(it.t),
                    *(number((it.spent or {}).get(key, 0)) for key in SPENT),
                    percent(it.identical),
                    *(number(value, 3) for value in ends(it.losses) or (None, None)),
                ]
                for it in run.trained
            ],
            "Samples are those of the first round; sampled tokens those of both rounds. Levels and "
            "evaluations are not counted. Dropped: examples too long to train on. Identical: "
            "successes with the same text as another success of their query.",
        )
    ]
    if any(it.sources for it in run.trained):
        found.append(
            Table(
                "Second-round samples by the source of their prefix",
                ["iteration", *SOURCES],
                [[str(it.t), *(number(it.sources.get(s)) for s in SOURCES)] for it in run.trained],
                "own: a success of the same iteration; earlier: of an earlier one; reference: the "
                "data's rationale; plain: no prefix.",
            )
        )
    return found


def _against_zero(run: RunSummary, split: str) -> Table:
    rows = []
    for it in run.iterations[1:]:
        change = between(run.iterations[0], it, split)
        cells = [points(change.difference), point_range(change.interval)]
        cells += [str(change.wins), str(change.losses), probability(change.p)]
        rows.append([str(it.t), *cells])
    return Table(
        f"Against policy 0, query by query, on {split}",
        ["iteration", "difference", "95 % interval", "won", "lost", "p"],
        rows,
        "Won: queries with more correct answers here than under policy 0. Interval: paired "
        "bootstrap over queries. p: two-sided, of the same bootstrap.",
    )


def intervals(run: RunSummary) -> list[dict[str, Any]]:
    """95 % intervals by iteration and split: of the accuracy, and of its difference to policy 0's,
    in all and for head and tail."""
    groups = {"all": None, "head": HEAD, "tail": TAIL}
    return [
        {
            split: {
                "accuracy": {
                    name: counted(it, split, levels).interval for name, levels in groups.items()
                },
                "difference": between(run.iterations[0], it, split).interval,
            }
            for split in it.right
        }
        for it in run.iterations
    ]
