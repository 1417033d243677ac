"""A diagnosis as one self-contained HTML page, with plots."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from si.records import HEAD, LEVELS, TAIL
from si.report.plots import Line, Plot, bars, lines, stacked
from si.report.tables import Table, percent
from si.report.templates import render
from si.rollouts.diagnosis import (
    RESAMPLE,
    RESHAPE,
    Diagnosis,
    queries_in,
    share_of,
    step_range,
)

Figures = Mapping[str, Any]

# Section -> title and lead.
_SECTIONS = {
    "shares": (
        "Who feeds the training",
        "Where a level's bar of correct answers is taller than its bar of queries, training on all "
        "correct answers sees more of that level than the data hold.",
    ),
    "steps": ("Over steps", "The rich get richer where the head grows and the tail shrinks."),
    "curve": (
        "What K buys",
        "The probability that k samples of a query contain a correct one. Where the curve is flat, "
        "more samples of the same kind solve few more queries.",
    ),
    "strategies": (
        "What each strategy would change",
        "tc clips and rp pads to K; both use the samples in the files. ar and gr request more "
        "samples, whose results are unknown until they are drawn.",
    ),
    "lengths": ("Length of correct answers", "Mean length by level."),
}
# Section -> (label, colour).
_LEGENDS = {
    "shares": (("queries", "s8"), ("correct answers", "s1")),
    "strategies": (("vanilla", "s8"), ("tc", "s2"), ("rp", "s1"), ("ar", "s3"), ("gr", "s4")),
}


def page(found: Diagnosis) -> str:
    """The diagnosis as one self-contained HTML page."""
    figures, source = found.figures, found.figures["source"]
    plots = {
        "shares": [_shares_plot(figures)],
        "steps": _steps_plots(figures),
        "curve": [_curve_plot(figures)],
        "strategies": _strategies_plots(figures),
    }
    sections = [
        {
            "title": title,
            "lead": lead,
            "plots": [Plot(Markup(svg)) for svg in plots.get(key, [])],  # noqa: S704 (our own)
            "legend": _LEGENDS.get(key, ()),
            "tables": found.tables[key],
        }
        for key, (title, lead) in _SECTIONS.items()
        if found.tables[key]
    ]
    columns = Table(
        "Columns by field",
        ["field", "column"],
        [[field, path] for field, path in sorted(source["columns"].items())],
    )
    skipped = Table(
        "Rows left out",
        ["file", "row", "field", "why"],
        [[b["file"], str(b["row"]), b["field"], b["why"]] for b in source["skipped_rows"]],
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


def _tiles(figures: Figures) -> list[dict[str, Any]]:
    shares, padded = (
        figures["successes"]["share_by_level"],
        figures["strategies"]["rp"]["share_by_level"],
    )
    tiles = [
        ("Correct", percent(figures["right"] / figures["samples"]), f"pass@1, K = {figures['k']}")
    ]
    by_level = () if figures["levels"]["of_one_sample"] else (("Head", HEAD), ("Tail", TAIL))
    for name, levels in by_level:
        note = f"of correct answers; {percent(queries_in(figures, levels))} of queries"
        tiles.append((f"{name}'s share", percent(share_of(shares, levels)), note))
    head = f"head {percent(share_of(padded, HEAD))} under rp"
    if by_level:
        tiles.append(("Tail under rp", percent(share_of(padded, TAIL)), head))
    return [
        {"label": label, "value": value, "note": note, "main": label.startswith("Tail's")}
        for label, value, note in tiles
    ]


def _shares_plot(figures: Figures) -> str:
    counts, total = figures["levels"]["queries_by_level"], max(1, figures["queries"])
    shares = figures["successes"]["share_by_level"]
    series = [
        Line("queries", [counts[level] / total for level in LEVELS], "s8"),
        Line("correct", [shares[level] for level in LEVELS], "s1"),
    ]
    return bars("shares", "Queries and correct answers", LEVELS, series, share=True)


def _curve_plot(figures: Figures) -> str:
    points = figures["pass_at_k"]
    series = [Line("", [point["value"] for point in points], "s1")]
    ks = [point["k"] for point in points]
    return lines("curve", "pass@k", ks, series, xlabel="k, samples per query")


def _strategies_plots(figures: Figures) -> list[str]:
    colour = dict(_LEGENDS["strategies"])

    def series(names: Sequence[str]) -> list[Line]:
        by_name = {name: figures["strategies"][name]["share_by_level"] for name in names}
        return [
            Line(name, [shares[level] for level in LEVELS], colour[name])
            for name, shares in by_name.items()
        ]

    examples, draws = series(RESHAPE), series(RESAMPLE)
    return [
        bars("examples", "Shares of training examples", LEVELS, examples, share=True),
        bars("draws", "Shares of the draws of a second round", LEVELS, draws, share=True),
    ]


def _steps_plots(figures: Figures) -> list[str]:
    """Shares and pass rates over the windows; none if there is only one."""
    windows = figures["windows"]
    if len(windows) < 2:
        return []
    xs = list(range(1, len(windows) + 1))
    label = "step"
    if [w["first_step"] for w in windows] != xs or any(
        w["first_step"] != w["last_step"] for w in windows
    ):
        label = f"window, steps {step_range(windows[0])} to {step_range(windows[-1])}"
    shares = [Line(v, [w["successes"]["share_by_level"][v] for w in windows], v) for v in LEVELS]
    rates = [Line(v, [w["accuracy_by_level"][v] for w in windows], v) for v in LEVELS]
    return [
        stacked("over-steps", "Shares of correct answers", xs, shares, xlabel=label),
        lines("pass-rate", "Pass rate by level", xs, rates, xlabel=label),
    ]
