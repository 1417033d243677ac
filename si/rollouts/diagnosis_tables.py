"""The tables of a diagnosis, from its figures alone."""

from collections.abc import Mapping
from typing import Any

from si.records import HEAD, LEVELS, TAIL
from si.report.tables import Table, number, percent
from si.rollouts.diagnosis import RESAMPLE, RESHAPE, share_of, step_range

Figures = Mapping[str, Any]


def tables(figures: Figures) -> dict[str, list[Table]]:
    """The tables by section: shares, steps, curve, strategies, lengths."""
    if figures["levels"]["of_one_sample"]:  # shares by level would be those of the outcomes
        return {"shares": [], "steps": [], "curve": [_curve(figures)], **_NONE}
    return {
        "shares": [_shares(figures)],
        "steps": [_steps(figures)] if len(figures["windows"]) > 1 else [],
        "curve": [_curve(figures)],
        "strategies": [_examples(figures), _draws(figures)],
        "lengths": [_lengths(figures)] if figures["length_unit"] else [],
    }


_NONE: dict[str, list[Table]] = {"strategies": [], "lengths": []}


def _percents(shares: Mapping[str, float | None]) -> list[str]:
    """A cell for each level."""
    return [percent(shares[level]) for level in LEVELS]


def _shares(figures: Figures) -> Table:
    counts, successes = figures["levels"]["queries_by_level"], figures["successes"]
    total = max(1, figures["queries"])
    rate = percent(figures["right"] / figures["samples"])
    return Table(
        "Queries and correct answers by level",
        ["what", "all", *LEVELS],
        [
            ["queries", number(total), *(percent(counts[level] / total) for level in LEVELS)],
            [
                "correct answers",
                number(successes["total"]),
                *_percents(successes["share_by_level"]),
            ],
            ["pass rate", rate, *_percents(figures["levels"]["accuracy_by_level"])],
        ],
        f"Concentration over queries: Gini {number(successes['gini'], 3)}, over solved ones "
        f"{number(successes['gini_solved'], 3)}; entropy {number(successes['entropy'], 3)} and "
        f"{number(successes['entropy_solved'], 3)}.",
    )


def _steps(figures: Figures) -> Table:
    return Table(
        "Correct answers over steps",
        ["step", "samples", "correct", *LEVELS, "head/tail", "Gini", "entropy"],
        [
            [
                step_range(window),
                number(window["samples"]),
                percent(window["successes"]["total"] / max(1, window["samples"])),
                *_percents(window["successes"]["share_by_level"]),
                number(window["successes"]["head_tail_ratio"]),
                number(window["successes"]["gini"], 3),
                number(window["successes"]["entropy"], 3),
            ]
            for window in figures["windows"]
        ],
        "Gini and entropy are over the queries that were sampled in these steps.",
    )


def _curve(figures: Figures) -> Table:
    return Table(
        "pass@k",
        ["k", "pass@k", "queries with enough samples"],
        [
            [str(point["k"]), percent(point["value"]), number(point["groups"])]
            for point in figures["pass_at_k"]
        ],
        "1 - C(n-c, k) / C(n, k) for a query with c of n samples correct, averaged over queries "
        "and steps (Chen et al. 2021).",
    )


def _examples(figures: Figures) -> Table:
    rows = []
    for name in RESHAPE:
        made = figures["strategies"][name]
        shares = made["share_by_level"]
        rows.append(
            [
                name,
                number(made["examples"]),
                number(made["queries"]),
                percent(share_of(shares, HEAD)),
                percent(share_of(shares, TAIL)),
                *_percents(shares),
                number(made["head_tail_ratio"]),
                number(made["gini"], 3),
            ]
        )
    return Table(
        "Training examples by strategy",
        ["strategy", "examples", "queries", "head", "tail", *LEVELS, "head/tail", "Gini"],
        rows,
        "From the samples in the files, K at a time, step by step.",
    )


def _draws(figures: Figures) -> Table:
    rows = []
    for name in RESAMPLE:
        asked = figures["strategies"][name]
        rows.append(
            [
                name,
                number(asked["draws"]),
                number(asked["queries"]),
                number(asked["with_own_success"]),
                *_percents(asked["share_by_level"]),
            ]
        )
    return Table(
        "Draws of a second round",
        ["strategy", "draws", "queries", "guided by a success of the query", *LEVELS],
        rows,
        "These are requests; their results are not predicted.",
    )


def _lengths(figures: Figures) -> Table:
    successes, unit = figures["successes"], figures["length_unit"]
    kinds = [(unit, unit)]
    if "steps_mean" in successes:
        kinds.append(("steps (lines)", "steps"))
    return Table(
        "Mean length of a correct answer",
        ["in", "all", *LEVELS],
        [
            [
                label,
                number(successes[f"{key}_mean"], 1),
                *(number(successes[f"{key}_by_level"][level], 1) for level in LEVELS),
            ]
            for label, key in kinds
        ],
    )
