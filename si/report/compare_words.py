"""A comparison of runs in sentences, chosen by rules on the figures.

Trained policies are compared with trained ones: the best of each on dev, those of the same
iteration, and the last. Policy 0 stands beside them.
"""

from collections.abc import Sequence

from si.records import HEAD, TAIL
from si.report.findings import matthew, moved, progress, sentence
from si.report.groups import Difference, Group, Runs
from si.report.summary import Iteration, RunSummary, score_name
from si.report.tables import percent, point_range, points

FEW_SEEDS = 5  # with fewer, an interval over seeds is too narrow, and the text says so


def measure(runs: Runs) -> str:
    """What the runs' scores are called: `accuracy`, `avg@4`, or both where they differ."""
    names = {score_name(run.iterations[0].samples("test")) for _, run in runs}
    return " or ".join(sorted(names))


def said(
    groups: Sequence[Group],
    differences: Sequence[Difference],
    same: Sequence[Difference],
    gains: Sequence[Difference],
) -> list[tuple[str, str]]:
    """(heading, sentences) about every run, every group, and every group against the first.

    Args:
        differences: of trained policies, every group's from the first's.
        same: the same at the same iteration.
        gains: of every group's trained policies from its policy 0.
    """
    runs = [run for group in groups for run in group.runs]
    words = [(name, f"{progress(run)} {matthew(run).words}") for name, run in runs]
    for group in groups:
        if len(group.runs) > 1:
            words.append((group.name, _over_seeds(group, gains)))
    first = groups[0]
    for group in groups[1:]:
        parts = [
            _measured_alike(group, first),
            _gain(group, differences),
            _at_same(group, same),
            _beside_zero(group, first),
            _apart(group, first),
        ]
        words.append((f"{group.name} against {first.name}", " ".join(filter(None, parts))))
    return words


def _measured_alike(group: Group, first: Group) -> str:
    """A warning where two groups' scores are different measures."""
    if group.samples == first.samples:
        return ""
    ours, theirs = (
        "greedy answers" if not side.samples else f"{side.samples} sampled answers a query"
        for side in (group, first)
    )
    return (
        f"The two are measured differently ({ours} against {theirs}), so their scores cannot be "
        "compared: evaluate both alike."
    )


def _at_same(group: Group, same: Sequence[Difference]) -> str:
    """How often the group is ahead of the first at the same iteration."""
    mine = [each for each in same if each.group == group.name]
    if not mine:
        return ""
    ahead = [each.real for each in mine if each.value > 0]
    behind = [each.real for each in mine if each.value < 0]
    return (
        f"At the same iteration it is ahead in {len(ahead)} of {len(mine)} "
        f"({sum(ahead)} by more than chance explains) and behind in {len(behind)} "
        f"({sum(behind)} by more than chance explains)."
    )


def _beside_zero(group: Group, first: Group) -> str:
    """Policy 0's score, and whose trained policies never beat it on dev."""
    zero = first.runs[0][1].iterations[0].accuracy("test")
    if zero is None:
        return ""
    never = [name for side in (group, first) for name, run in side.runs if run.best == 0]
    words = f"Policy 0 has {percent(zero)}"
    if never:
        words += f"; on dev, no trained iteration of {' and '.join(never)} beat it"
    return f"{words}."


def _over_seeds(group: Group, gains: Sequence[Difference]) -> str:
    seen = [matthew(run).seen for _, run in group.runs]
    verdicts = ", ".join(
        f"{seen.count(kind)} {kind}" for kind in ("yes", "partly", "no", "unknown") if kind in seen
    )
    return (
        f"{len(group.runs)} runs that differ in their seeds: "
        f"{', '.join(map(str, group.seeds))}. {_gain(group, gains)} "
        f"The Matthew effect is visible: {verdicts}."
    )


def _apart(group: Group, first: Group) -> str:
    """How the shares of successes differ, at the last iteration that all runs have."""
    runs = [run for _, run in (*group.runs, *first.runs)]
    shared = min(len(run.trained) for run in runs)
    if shared < 2 or len({run.data for run in runs}) > 1:
        why = "the data differ" if shared >= 2 else "they share too few iterations"
        return f"The effect of re-balancing cannot be compared: {why}."
    here, there = ([run.trained[shared - 1] for _, run in side.runs] for side in (group, first))
    gaps = [_share(here, levels) - _share(there, levels) for levels in (HEAD, TAIL)]
    gap = (
        f"at iteration {shared} the head's share of successes is {_gap(gaps[0])}, the tail's "
        f"{_gap(gaps[1])}"
    )
    if len(runs) > 2:
        return f"Over seeds, {gap}."
    head, tail = (moved(there[0], here[0], levels) for levels in (HEAD, TAIL))
    if head < 0 < tail:
        verdict = "Fewer of its successes are head, and more are tail"
    elif tail < 0 < head:
        verdict = "More of its successes are head, and fewer are tail"
    elif head == tail == 0:
        verdict = "The shares of its successes differ no more than chance explains"
    else:
        verdict = "The shares of its successes differ, but not clearly for both head and tail"
    return f"{verdict}: {gap}. {_effects(*first.runs[0], *group.runs[0])}".strip()


def _share(iterations: Sequence[Iteration], levels: Sequence[str]) -> float:
    """Mean share of these levels among the successes."""
    shares = [it.share("successes", levels) or 0.0 for it in iterations]
    return sum(shares) / len(shares)


def _effects(first_name: str, first: RunSummary, name: str, run: RunSummary) -> str:
    """What the two verdicts on the Matthew effect mean side by side."""
    theirs, ours = matthew(first).seen, matthew(run).seen
    if theirs in ("yes", "partly") and ours == "no":
        return f"{first_name} shows the Matthew effect, {name} does not: it was counteracted."
    if theirs == "no" and ours in ("yes", "partly"):
        return f"{name} shows the Matthew effect, {first_name} does not."
    if theirs == ours == "no":
        return "Neither shows the Matthew effect, so there is nothing to counteract."
    if "unknown" in (theirs, ours):
        return ""
    return "Both show the Matthew effect, at least in part."


def _gain(group: Group, differences: Sequence[Difference]) -> str:
    """The group's difference on test, best trained iterations by dev, and that of the tail."""
    mine = {d.queries: d for d in differences if (d.group, d.which) == (group.name, "best")}
    if "all" not in mine:
        return ""
    whole = mine["all"]
    seeds = max(whole.seeds, whole.against_seeds)
    over = "queries" if seeds == 1 else "seeds and queries"
    against = "against policy 0" if whole.against == "policy 0" else f"against {whole.against}"
    gains = [
        f"On test, best trained by dev, {against}: {points(whole.value)} "
        f"(95 % interval {point_range(whole.interval)}, bootstrap over {over})"
    ]
    if "tail" in mine:
        tail = mine["tail"]
        gains.append(f"on the tail {points(tail.value)} ({point_range(tail.interval)})")
    ends = [sentence(whole.words)]
    if 1 < seeds < FEW_SEEDS or (seeds > 1 and 1 in (whole.seeds, whole.against_seeds)):
        ends.append("With so few seeds the interval is too narrow.")
    return " ".join([f"{'; '.join(gains)}.", *ends])


def _gap(gap: float) -> str:
    """-0.07 -> `7.0 points lower`."""
    return f"{abs(round(100 * gap, 9)):.1f} points {'higher' if gap > 0 else 'lower'}"
