"""A diagnosis in sentences, from its figures alone; its tables and its page are made elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from si.records import HEAD, TAIL
from si.report.tables import Table, number, percent

RESHAPE = ("vanilla", "tc", "rp")
RESAMPLE = ("ar", "gr")
LISTED = 100  # rows left out that are listed
ONE_SAMPLE = (
    "Most queries have one sample, so levels cannot be estimated: a query would be head or tail by "
    "that sample alone. Sample each query several times, 8 or 16, and pass all files together."
)


@dataclass(frozen=True)
class Diagnosis:
    """What rollouts show.

    Attributes:
        figures: ready for JSON, described in docs/diagnose.md.
        words: (heading, sentences).
        tables: section -> tables.
    """

    figures: dict[str, Any]
    words: list[tuple[str, str]]
    tables: dict[str, list[Table]]

    def to_json(self) -> dict[str, Any]:
        """The figures, and the sentences under `words`, ready for JSON."""
        return {**self.figures, "words": dict(self.words)}

    def page(self) -> str:
        """The diagnosis as a self-contained HTML page."""
        from si.rollouts.diagnosis_page import page

        return page(self)


def step_range(window: Mapping[str, Any]) -> str:
    """The steps of a window: `3`, or `3–5`."""
    first, last = window["first_step"], window["last_step"]
    return str(first) if first == last else f"{first}–{last}"


def from_to(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Two windows in words: `step 1 to 4`, or `steps 1–3 to 10–12`."""
    steps = "steps" if one["first_step"] != one["last_step"] else "step"
    return f"{steps} {step_range(one)} to {step_range(other)}"


def share_of(shares: Mapping[str, float | None], levels: Sequence[str]) -> float | None:
    """The sum of some levels' shares; None if a share is undefined."""
    known = [shares[level] for level in levels]
    return None if None in known else sum(share for share in known if share is not None)


def queries_in(figures: Mapping[str, Any], levels: Sequence[str]) -> float:
    """The share of the queries that are in some levels."""
    counts = figures["levels"]["queries_by_level"]
    return float(sum(counts[level] for level in levels) / max(1, figures["queries"]))


def words(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The diagnosis as (heading, sentences)."""
    warnings = " ".join(figures["warnings"])
    sections = [
        *([("Warning", warnings)] if warnings else []),
        ("What was read", _read(figures)),
        ("Who feeds the training", _imbalance(figures)),
        ("Matthew effect", figures["matthew"]["words"]),
        ("What K buys", _pass_at_k(figures)),
        ("What re-balancing would change", _examples(figures)),
        ("What a second round would ask for", _draws(figures)),
    ]
    notes, skipped = list(figures["source"]["notes"]), figures["source"]["skipped"]
    if skipped:
        notes.append(f"{number(skipped)} rows could not be used and were left out.")
    return [*sections, ("Note", " ".join(notes))] if notes else sections


def _read(figures: Mapping[str, Any]) -> str:
    sizes, columns = figures["samples_by_group"], figures["source"]["columns"]
    steps = f" in {number(figures['steps'])} steps" if figures["steps"] > 1 else ""
    rate = figures["right"] / figures["samples"]
    how = "" if figures["k_given"] else ", the most common number of samples per query"
    uneven = ""
    if sizes["of_common_size"] < figures["groups"]:
        uneven = f" (queries have {sizes['least']} to {sizes['most']})"
    layout = figures["source"]["layout"]
    written = f"written by {layout}"
    if layout == "columns by name":
        written = "with columns recognised by their names"
    return (
        f"{number(figures['samples'])} samples of {number(figures['queries'])} queries{steps}, "
        f"{written}. A sample is correct if {columns['reward']} >= "
        f"{figures['reward']['threshold']:g} ({figures['reward']['why']}): "
        f"{percent(rate)} are. K = {figures['k']}{how}{uneven}."
    )


def _imbalance(figures: Mapping[str, Any]) -> str:
    if figures["levels"]["of_one_sample"]:
        return ONE_SAMPLE
    shares = figures["successes"]["share_by_level"]
    head, tail = (
        f"The {name}, {percent(queries_in(figures, levels))} of the queries, gives "
        f"{percent(share_of(shares, levels))} of the correct answers"
        for name, levels in (("head", HEAD), ("tail", TAIL))
    )
    caution = ""
    if not figures["levels"]["measured"]:
        caution = (
            " Levels are estimated from each query's first samples, which are also the samples "
            "counted here: chance alone makes the head look larger and the tail smaller."
        )
    gini = number(figures["successes"]["gini"], 2)
    return f"{head}. {tail}. The Gini coefficient is {gini}.{caution}"


def _pass_at_k(figures: Mapping[str, Any]) -> str:
    curve = figures["pass_at_k"]
    if len(curve) < 2:
        return "One sample per query does not show what more samples would bring."
    last, before = curve[-1], curve[-2]
    return (
        f"One sample solves {percent(curve[0]['value'])} of the queries, {before['k']} solve "
        f"{percent(before['value'])}, and {last['k']} solve {percent(last['value'])} (pass@k, "
        "unbiased). More samples bring correct answers in proportion for every query, so they do "
        "not change the levels' shares."
    )


def _examples(figures: Mapping[str, Any]) -> str:
    base = figures["strategies"]["vanilla"]
    if not base["examples"]:
        return "No sample is correct: there is nothing to train on."
    if figures["levels"]["of_one_sample"]:
        return (
            f"With one sample per query, rp and tc make {number(base['examples'])} examples of "
            f"{number(base['examples'])} successes: nothing changes."
        )
    sentences = []
    for name in ("rp", "tc"):
        made = figures["strategies"][name]
        head, tail = (
            f"{percent(share_of(base['share_by_level'], levels))} to "
            f"{percent(share_of(made['share_by_level'], levels))}"
            for levels in (HEAD, TAIL)
        )
        sentences.append(
            f"{name} makes {number(made['examples'])} examples of {number(base['examples'])} "
            f"successes: head {head}, tail {tail}"
        )
    return ". ".join(sentences) + "."


def _draws(figures: Mapping[str, Any]) -> str:
    ar, gr = (figures["strategies"][name] for name in RESAMPLE)
    if not ar["draws"] and not gr["draws"]:
        return "Nothing: no sample failed."
    sentence = f"ar would draw {number(ar['draws'])} more samples"
    if not figures["levels"]["of_one_sample"]:
        tail = percent(share_of(ar["share_by_level"], TAIL))
        sentence += f", {tail} of them for the tail"
    if gr["draws"]:
        guided = percent(gr["with_own_success"] / gr["draws"])
        sentence += (
            f"; gr would draw {number(gr['draws'])}, of which {guided} could continue steps of a "
            "correct answer to the same query"
        )
    return sentence + ". What they bring is unknown until they are sampled."
