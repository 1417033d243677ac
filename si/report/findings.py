"""A run's results in words, chosen by rules on the numbers, so that every page agrees.

- *Matthew effect*: between the first iteration and the last, the head's share of successes
  grows and the tail's falls, each by more than `NOTABLE` and by more than twice the standard
  error of such a difference (successes treated as independent draws).
- *Accuracy rose*: the interval of the paired difference excludes zero (`si.report.counts`).
"""

from collections.abc import Sequence
from math import sqrt
from typing import Any, NamedTuple

from si.answers.unread import LARGEST
from si.records import HEAD, TAIL
from si.report.counts import Change, between
from si.report.summary import Iteration, RunSummary, score_name
from si.report.tables import percent, point_range, points

NOTABLE = 0.01  # smallest change of a share that is mentioned


class Matthew(NamedTuple):
    """Whether the rich got richer: shares of successes by iteration, and a verdict in words.

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
        words = "One iteration cannot show the Matthew effect. Run at least two."
        return Matthew("unknown", words, head, tail)
    first, last = run.trained[0], run.trained[-1]
    up, down = moved(first, last, HEAD), -moved(first, last, TAIL)
    if up > 0 and down > 0:
        seen, verdict = "yes", "The Matthew effect is visible"
    elif up == down == 0:
        seen, verdict = "no", "No Matthew effect: the shares moved no more than chance explains"
    elif up >= 0 and down >= 0:
        seen, verdict = "partly", "The Matthew effect is partly visible"
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


def moved(old: Iteration, new: Iteration, levels: Sequence[str]) -> float:
    """Change of the levels' share of successes; 0 if it is small or may be chance."""
    shares, error = [], 0.0
    for it in (old, new):
        share = it.share("successes", levels) or 0.0
        total = (it.metrics or {})["successes"]["total"]
        shares.append(share)
        error += share * (1 - share) / max(1, total)
    difference = shares[1] - shares[0]
    return difference if abs(difference) > max(NOTABLE, 2 * sqrt(error)) else 0.0


def _of_queries(run: RunSummary) -> str:
    """The initial imbalance: the first iteration's queries by level."""
    counts = (run.trained[0].metrics or {}).get("queries_by_level") or {}
    total = sum(count or 0 for count in counts.values())
    if not total:
        return ""
    head, tail = (sum(counts.get(v) or 0 for v in levels) / total for levels in (HEAD, TAIL))
    return f"; of the queries, {percent(head)} are head and {percent(tail)} tail"


def rebalanced(run: RunSummary) -> str:
    """What re-balancing did to the shares: the second round against the first alone, and the
    reshaping of all successes to training examples; means over iterations."""
    if not run.trained:
        return "Nothing has been trained yet."
    second = any((it.spent or {}).get("samples_2") for it in run.trained)
    first, successes, examples = (
        [_mean_share(run, what, levels) for levels in (HEAD, TAIL)]
        for what in ("first round", "successes", "examples")
    )
    said = []
    if second and None not in first:
        without, given = ([percent(share) for share in shares] for shares in (first, successes))
        said.append(
            f"Without the second round the head would have been {without[0]}, the tail "
            f"{without[1]} of the training data; with it {given[0]} and {given[1]}."
        )
    reshaped = any(
        abs((new or 0.0) - (old or 0.0)) >= 0.0005
        for old, new in zip(successes, examples, strict=True)
    )
    head, tail = (
        f"{percent(old)} to {percent(new)}" for old, new in zip(successes, examples, strict=True)
    )
    if reshaped:
        said.append(
            f"From successes to training examples, {run.strategy} moved the head's share from "
            f"{head} and the tail's from {tail}."
        )
    elif not said:
        said.append(
            "The training examples are the unchanged successes: head "
            f"{percent(examples[0])}, tail {percent(examples[1])}."
        )
    return f"{' '.join(said)} Shares are means over iterations."


def _mean_share(run: RunSummary, what: str, levels: Sequence[str]) -> float | None:
    """Mean over iterations of the levels' share of `successes`, `examples` or the successes of the
    `first round`; None without any."""
    shares = [
        it.first_round_share(levels) if what == "first round" else it.share(what, levels)
        for it in run.trained
    ]
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def unread(run: RunSummary) -> str:
    """A warning if in some iteration too many responses have no answer to compare; else empty."""
    many = [it for it in run.trained if (it.unread or 0.0) > LARGEST]
    if not many:
        return ""
    worst = max(many, key=lambda it: it.unread or 0.0)
    return (
        f"In {len(many)} of {len(run.trained)} iterations, more than a third of the first round's "
        f"responses have no answer to compare (up to {percent(worst.unread)}, iteration "
        f"{worst.t}). Accuracies and shares then measure the form of the answers more than their "
        "content. Let the prompt ask for a form that is read (`Answer: X` or \\boxed{X}), or judge "
        "with --set verify.profile=lenient."
    )


def one_sample_levels(run: RunSummary) -> str:
    """A warning if levels are measured with one sample a query; else empty."""
    if run.level_samples != 1:
        return ""
    return (
        "Levels are measured with one sample a query (K = 1), so they mean nothing: a query is "
        "head or tail by the luck of that sample. Read nothing by level on this page. Measure them "
        "with more samples: --set levels.k=16."
    )


def progress(run: RunSummary) -> str:
    """Whether held-out accuracy rose or fell: policy 0 against the best iteration by dev, on test;
    against the last one if no iteration beat policy 0 on dev, or dev was not scored."""
    split = "test" if run.oracle is not None else "dev"
    zero = run.iterations[0]
    if split not in zero.right:
        return "No held-out split was scored."
    name, before = score_name(zero.samples(split)), percent(zero.accuracy(split))
    if run.last == 0:
        return f"Policy 0 has {before} on {split} ({name}); nothing has been trained yet."
    best = run.best if split == "test" else None
    chosen = best or run.last
    which = f"iteration {chosen}, {'the best on dev' if best else 'the last'}"
    if best == 0:
        which += ", since none beat policy 0 on dev"
    then = run.iterations[chosen]
    said = [
        f"Held-out {name} {verb(between(zero, then, split))}: {before} to "
        f"{percent(then.accuracy(split))} on {split} ({_measured(zero, then, split)}; {which})."
    ]
    said.append(sentence(between(zero, then, split).words))
    last = run.iterations[-1]
    if chosen != run.last and between(then, last, split).real:
        said.append(
            f"From there it {verb(between(then, last, split))} to {percent(last.accuracy(split))} "
            f"at the last iteration ({_measured(then, last, split)})."
        )
    return " ".join(said)


def verb(change: Change) -> str:
    """What a measure did, by the test that its interval makes: rose, fell or did neither."""
    if not change.real:
        return "did not change measurably"
    return "rose" if change.difference > 0 else "fell"


def sentence(words: str) -> str:
    """Words with a capital letter and a full stop."""
    return f"{words[0].upper()}{words[1:]}."


def _measured(old: Iteration, new: Iteration, split: str) -> str:
    change = between(old, new, split)
    return f"{points(change.difference)}, 95 % interval {point_range(change.interval)}"


def to_json(run: RunSummary) -> dict[str, Any]:
    """All figures of a run as JSON, with the verdict on the Matthew effect."""
    return {
        "strategy": run.strategy,
        "k": run.k,
        "data": run.data,
        "best": run.best,
        "last": run.last,
        "oracle": run.oracle,
        "matthew": matthew(run)._asdict(),
        "iterations": [
            {
                "iteration": it.t,
                "scores": it.scores,
                "metrics": it.metrics,
                "spent": it.spent,
                "losses": list(it.losses),
                "identical": it.identical,
                "sources": it.sources,
                "spurious": it.spurious,
            }
            for it in run.iterations
        ],
    }
