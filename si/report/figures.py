"""A run's plots, each with a sentence on what to look for and one on what this run shows."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from si.metrics import ends
from si.records import HEAD, LEVELS, TAIL
from si.report.counts import counted
from si.report.palette import SERIES
from si.report.plots import Line, Plot, lines, stacked
from si.report.summary import Iteration, RunSummary, score_name
from si.report.tables import number, percent, points

LOSSES = 40  # maximum points of a loss curve; more would show noise


def draw(run: RunSummary) -> dict[str, list[Plot]]:
    """The plots by section: accuracy, shares, lengths, spent."""
    trained = run.trained
    return {
        "accuracy": _accuracy(run),
        "shares": _shares(trained) if trained else [],
        "lengths": _lengths(trained) if trained else [],
        "spent": _spent(trained) if trained else [],
    }


def _plot(svg: str, look: str, here: str) -> Plot:
    # Our own SVG; matplotlib escapes the text in it.
    return Plot(Markup(svg), look, here)  # noqa: S704


def _accuracy(run: RunSummary) -> list[Plot]:
    every = [it.t for it in run.iterations]
    splits = [s for s in ("test", "dev") if s in run.iterations[0].scores]
    name = score_name(next((run.iterations[0].samples(split) for split in splits), 0))
    name = name[0].upper() + name[1:]
    best = {} if run.best is None else dict.fromkeys(splits, run.best)
    series = []
    for split, colour in zip(splits, SERIES, strict=False):
        values = [it.accuracy(split) for it in run.iterations]
        # One band only: two would hide each other.
        counts = [counted(it, split) for it in run.iterations] if split == splits[0] else []
        band = [count.interval for count in counts]
        series.append(Line(split, values, colour, band))
    ring = "" if run.best is None else "; the ring marks the best iteration on dev"
    drawn = [
        _plot(
            lines("accuracy", name, every, series, marks=best, close=True),
            "Do both lines rise? " + f"The band is the 95 % interval of {splits[0]}{ring}."
            if splits
            else "",
            "; ".join(f"{s.label} {_from_to(s.values, percent)}" for s in series) + ".",
        )
    ]
    for split in splits:
        by_level = [Line(v, [it.accuracy(split, v) for it in run.iterations], v) for v in LEVELS]
        drawn.append(
            _plot(
                lines(f"accuracy-{split}", f"{name} on {split} by level", every, by_level),
                "Do the lower lines (tail) rise without the upper ones (head) falling?",
                _head_and_tail(run, split),
            )
        )
    return drawn


def _head_and_tail(run: RunSummary, split: str) -> str:
    said = []
    for name, levels in (("tail", TAIL), ("head", HEAD)):
        ends = [counted(it, split, levels) for it in (run.iterations[0], run.iterations[-1])]
        if all(count.n for count in ends):
            shares = [count.accuracy for count in ends]
            said.append(f"{name} ({ends[0].n} queries) {_from_to(shares, percent)}")
    return f"{'; '.join(said)}." if said else "There are no head or tail queries."


def _shares(trained: Sequence[Iteration]) -> list[Plot]:
    xs = [it.t for it in trained]
    rates = [Line(v, [it.pass_rate(v) for it in trained], v) for v in LEVELS]
    return [
        *_stages_of_shares(trained),
        _plot(
            lines("pass", "First-round pass rate by level", xs, rates),
            "How often samples are correct before any re-balancing. Do the lower lines rise?",
            "; ".join(
                f"{line.label} {_from_to(line.values, percent)}"
                for line in (rates[0], rates[-2])
                if any(value is not None for value in line.values)
            )
            + ".",
        ),
    ]


def _stages_of_shares(trained: Sequence[Iteration]) -> list[Plot]:
    """Shares by level of the first round's successes, of all successes where there is a second
    round, and of the examples where they are not simply the successes."""
    look = (
        "Does the bottom layer (head) grow from bar to bar while the top layers (tail) shrink? "
        "That is the Matthew effect."
    )
    if any((it.spent or {}).get("samples_2") for it in trained):
        first = _stack(trained, "first", "Shares of the first round's successes", look)
        change = _gaps(trained, "first", "successes")
        look = (
            "Compared with the first round alone: are fewer successes head, and more of them tail?"
        )
        here = (
            f"the second round moved the head's share by {change[0]} and the tail's by {change[1]}"
        )
        rounds = "Shares of both rounds' successes"
        drawn = [first, _stack(trained, "successes", rounds, look, f"{here} (means).")]
    else:
        drawn = [_stack(trained, "successes", "Shares of successes", look)]
    change = _gaps(trained, "successes", "examples")
    if change != (points(0.0), points(0.0)):
        look = "Compared with the successes: are fewer examples head, and more of them tail?"
        here = f"re-balancing moved the head's share by {change[0]} and the tail's by {change[1]}"
        title = "Shares of examples"
        drawn.append(_stack(trained, "examples", title, look, f"{here} (means over iterations)."))
    return drawn


def _stack(trained: Sequence[Iteration], what: str, title: str, look: str, here: str = "") -> Plot:
    layers = [Line(v, [_share(it, what, [v]) for it in trained], v) for v in LEVELS]
    moved = "; ".join(
        f"{name} {_from_to([_share(it, what, levels) for it in trained], percent)}"
        for name, levels in (("head", HEAD), ("tail", TAIL))
    )
    return _plot(stacked(what, title, [it.t for it in trained], layers), look, here or f"{moved}.")


def _share(it: Iteration, what: str, levels: Sequence[str]) -> float | None:
    return it.first_round_share(levels) if what == "first" else it.share(what, levels)


def _gaps(trained: Sequence[Iteration], before: str, after: str) -> tuple[str, str]:
    """By how many points the shares of head and tail differ, on the mean over iterations."""
    found = []
    for levels in (HEAD, TAIL):
        pairs = [(_share(it, after, levels), _share(it, before, levels)) for it in trained]
        known = [new - old for new, old in pairs if new is not None and old is not None]
        found.append(points(sum(known) / len(known) if known else None))
    return found[0], found[1]


def _lengths(trained: Sequence[Iteration]) -> list[Plot]:
    xs = [it.t for it in trained]
    drawn = []
    for unit, look in (
        ("tokens", "Do answers to hard queries stay long? If they shrink, reasoning is lost."),
        ("steps", "The same in steps: if the steps of a family vanish, so does its reasoning."),
    ):
        by_level = [
            Line(v, [it.figure("successes", f"{unit}_by_level", v) for it in trained], v)
            for v in LEVELS
        ]
        title = f"Length of correct answers in {unit}"
        means = [it.figure("successes", f"{unit}_mean") for it in trained]
        drawn.append(
            _plot(
                lines(f"length-{unit}", title, xs, by_level, share=False),
                look,
                f"the mean over all levels {_from_to(means, lambda v: number(v, 1))} {unit}.",
            )
        )
    return drawn


def _spent(trained: Sequence[Iteration]) -> list[Plot]:
    xs = [it.t for it in trained]
    spent = [it.spent or {} for it in trained]
    total = {key: sum(part.get(key, 0) for part in spent) for key in spent[0]}
    rounds = [
        Line("round 1", [part["samples"] for part in spent], "s1"),
        Line("round 2", [part["samples_2"] for part in spent], "s2"),
    ]
    first, second = (number(total[key]) for key in ("samples", "samples_2"))

    def bar(key: str, title: str) -> str:
        return stacked(key, title, xs, [Line(title, [part[key] for part in spent], "s1")], False)

    return [
        _plot(
            stacked("samples", "Samples: round 1, and round 2 above", xs, rounds, share=False),
            "Round 2 is what resampling adds to the K samples of each query. It shrinks as the "
            "policy improves.",
            f"{first} in the first round, {second} in the second.",
        ),
        _plot(
            bar("tokens", "Tokens sampled"),
            "The cost of exploration, both rounds.",
            f"{number(total['tokens'])} tokens in all.",
        ),
        _plot(
            bar("steps", "Gradient steps"),
            "Strategies with more examples also train more steps. Does that explain the gain?",
            f"{number(total['steps'])} steps in all.",
        ),
        _losses(trained),
    ]


def _losses(trained: Sequence[Iteration]) -> Plot:
    longest = max((len(it.losses) for it in trained), default=0)
    width = max(1, -(-longest // LOSSES))
    starts = range(0, longest, width)
    series = []
    for it in trained:
        means = [it.losses[i : i + width] for i in starts]
        values = [sum(part) / len(part) if part else None for part in means]
        series.append(Line(f"it. {it.t}", values, SERIES[(it.t - 1) % len(SERIES)]))
    pairs = [found for it in trained if (found := ends(it.losses))]
    firsts, lasts = ([pair[i] for pair in pairs] for i in (0, 1))
    return _plot(
        lines(
            "losses",
            "Training loss",
            [i + 1 for i in starts],
            series,
            False,
            "gradient step",
            points=False,
        ),
        "The loss should fall. If it starts low, the policy already gives such answers.",
        f"from iteration to iteration the mean of the first quarter is {_from_to(firsts, _loss)}, "
        f"of the last {_from_to(lasts, _loss)}."
        if firsts
        else "no losses were recorded.",
    )


def _loss(value: float) -> str:
    return number(value, 3)


def _from_to(values: Sequence[float | None], show: Any) -> str:
    """`41.0 % to 43.5 %`: the first and the last known value."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return show(known[0]) if len(known) == 1 else f"{show(known[0])} to {show(known[-1])}"
