"""A diagnosis in words, tables and one page, from its figures alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from si.records import HEAD, LEVELS, TAIL
from si.report.tables import Table, number, percent

RESHAPE = ("vanilla", "tc", "rp")
RESAMPLE = ("ar", "gr")
LISTED = 100  # rows left out that are listed


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


def span(window: Mapping[str, Any]) -> str:
    first, last = window["first_step"], window["last_step"]
    return str(first) if first == last else f"{first}–{last}"


def spans(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    many = "steps" if one["first_step"] != one["last_step"] else "step"
    return f"{many} {span(one)} to {span(other)}"


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
        skipped = figures["source"]["skipped"]
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
        f"{_written(figures['source']['layout'])}. {columns['reward']} >= "
        f"{figures['reward']['threshold']:g} is right ({figures['reward']['why']}): "
        f"{percent(rate)} are. K = {figures['k']}{how}{uneven}."
    )


def _written(layout: str) -> str:
    known = layout != "columns by name"
    return f"written by {layout}" if known else "read by the names of the columns"


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
                ["what", "all", *LEVELS],
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
        found["lengths"] = [Table("Mean length of a right answer", ["in", "all", *LEVELS], rows)]
    return found


def _lengths(successes: Mapping[str, Any], unit: str) -> list[str]:
    return [number(successes[f"{unit}_by_level"][level], 1) for level in LEVELS]


def _steps_table(figures: Mapping[str, Any]) -> Table:
    return Table(
        "Right answers over steps",
        ["step", "samples", "right", *LEVELS, "head/tail", "Gini", "entropy"],
        [
            [
                span(window),
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

    from si.report.plots import Plot
    from si.report.templates import render

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
            "plots": [Plot(Markup(svg)) for svg in drawn.get(key, [])],  # noqa: S704 (our own)
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
    from si.report.plots import Line, bars, lines, stacked

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
            label = f"window, steps {span(windows[0])} to {span(windows[-1])}"
        by_level = [
            Line(v, [w["successes"]["share_by_level"][v] for w in windows], v) for v in LEVELS
        ]
        rates = [Line(v, [w["accuracy_by_level"][v] for w in windows], v) for v in LEVELS]
        drawn["steps"] = [
            stacked("over-steps", "Shares of right answers", xs, by_level, xlabel=label),
            lines("pass-rate", "Pass rate by level", xs, rates, xlabel=label),
        ]
    return drawn
