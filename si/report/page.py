"""The report of a run as one page, and as Markdown.

The page is one file that loads nothing from the network. Text from models and data is shown as
plain text, and images are decoded and re-encoded.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup, escape

from si.config.recipe import Report
from si.entry import BEGINNING, LOOP
from si.records import HEAD, LEVELS, TAIL
from si.report.counts import between, counted
from si.report.lineage import Node
from si.report.run_tables import answers, tables, words
from si.report.sample_block import few, pack
from si.report.samples import Responses
from si.report.summary import STRATEGIES, RunSummary, score_name
from si.report.tables import Table, percent, percents, point_range, points
from si.report.templates import render, source
from si.store.keys import canonical

if TYPE_CHECKING:
    from si.report.plots import Plot

PAPER = "https://arxiv.org/abs/2510.26474"


def markdown(run: RunSummary, settings: Mapping[str, Any]) -> str:
    """Words and tables, as Markdown."""
    parts = [f"# {_title(run, settings)}", *(f"**{name}.** {said}" for name, said in words(run))]
    for section in tables(run).values():
        parts += [_markdown_table(table) for table in section]
    parts += ["## Recipe", _markdown_table(_recipe(settings))]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    def line(cells: Iterable[str]) -> str:
        safe = (cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells)
        return "| " + " | ".join(" ".join(cell.split()) for cell in safe) + " |"

    rule = "| " + " | ".join(["---", *["---:"] * (len(table.columns) - 1)]) + " |"
    lines = [f"**{table.title}**", "", line(table.columns), rule, *map(line, table.rows)]
    return "\n".join(lines + (["", table.note] if table.note else []))


def _title(run: RunSummary, settings: Mapping[str, Any]) -> str:
    rounds = f"{run.last} iteration{'s' if run.last != 1 else ''}"
    return f"{settings.get('strategy', run.strategy)}, K = {settings.get('k', run.k)}, {rounds}"


def _recipe(settings: Mapping[str, Any]) -> Table:
    rows: list[list[str]] = []

    def add(tree: Mapping[str, Any], at: str) -> None:
        for name, value in sorted(tree.items()):
            if isinstance(value, Mapping):
                add(value, f"{at}{name}.")
            else:
                rows.append([f"{at}{name}", canonical(value).decode()])

    add(settings, "")
    return Table("Everything that decides what is computed", ["setting", "value"], rows)


# --- the page ------------------------------------------------------------------------------


class Section(NamedTuple):
    """A part of the page, under a heading.

    Attributes:
        name: its address within the page (`#name`), unlike all others.
        lead: what it is about, in a sentence or two.
        plots: as `si.report.figures` makes them.
        tables: the same as numbers; folded away where there are plots.
    """

    name: str
    title: str
    lead: str
    plots: Sequence["Plot"] = ()
    tables: Sequence[Table] = ()


_COSTS = "<!-- more about cost -->\n"
_ABOUT = "<!-- more about the run -->\n"
_SECTIONS_BEFORE = "<!-- more sections -->\n"  # in pages that were stored before _COSTS
_SECTIONS = {
    "accuracy": (
        "Held-out accuracy",
        "Every held-out query is answered after every iteration. Iteration 0 is policy 0, which "
        "the run starts from.",
    ),
    "shares": (
        "Training data by level",
        "Successes are the correct responses of both rounds. Examples are the training rows that "
        "re-balancing selects from them.",
    ),
    "lengths": (
        "Length of responses",
        "Mean length of correct responses by level. A step ends at a new line unless the query's "
        "family defines another separator.",
    ),
    "spent": (
        "Cost",
        "Compare the cost of runs, too: padding repeats examples and therefore takes more gradient "
        "steps, unless train.match_steps keeps them equal.",
    ),
}


def extended(
    html: str,
    sections: Sequence[Section],
    run: str = "",
    about: Sequence[tuple[str, str]] = (),
) -> str:
    """A committed page with what is not part of a run's content, and so in no artefact; only a copy
    of the page outside the store may show it.

    Args:
        sections: more about the cost, after the page's own figures on it.
        run: the run's name, which goes before title and heading.
        about: (name, value) of what a reader may want to know about the run, such as the date.
    """
    if run:
        name = str(escape(run))
        html = html.replace("<title>", f"<title>{name}: ", 1).replace("<h1>", f"<h1>{name}: ", 1)
    more = "".join(render("section.html", part=section) for section in sections)
    said = "".join(render("about.html", name=name, value=value) for name, value in about)
    mark = _COSTS if _COSTS in html else _SECTIONS_BEFORE
    return html.replace(mark, more, 1).replace(_ABOUT, said, 1)


def page(
    run: RunSummary,
    settings: Mapping[str, Any],
    room: Report,
    shown: Responses,
    nodes: Sequence[Node],
) -> str:
    """The report as one self-contained HTML page."""
    from si.report.figures import draw

    numbers, drawn = tables(run), draw(run)
    script = source("browser.js")
    fingerprint = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render(
        "report.html",
        title=_title(run, settings),
        heading=_heading(str(settings.get("strategy", run.strategy))),
        lead=_lead(run, settings),
        tiles=_tiles(run),
        words=words(run),
        sections=_sections(run, drawn, numbers),
        few=few(shown, run.last, settings.get("seed", 0)),
        shown=shown,
        browser=bool(room.samples and shown.responses),
        choice=_choice(shown, room),
        block=pack(shown) if room.samples else "",
        levels=LEVELS,
        # Our own file, whose hash the page's policy names.
        script=Markup(script),  # noqa: S704
        script_hash=fingerprint,
        flow=_flow(nodes),
        nodes=nodes,
        anchors={node.address: node.anchor for node in nodes},
        recipe=_recipe(settings),
        data=run.data,
        paper=PAPER,
    )


def _sections(
    run: RunSummary, drawn: Mapping[str, Sequence["Plot"]], numbers: Mapping[str, Sequence[Table]]
) -> list[Section]:
    """The page's sections; that on accuracy says how queries are answered."""
    how = [f"{answers(part)}." for part in run.iterations[0].scores.values()]
    leads = {name: lead for name, (_, lead) in _SECTIONS.items()}
    leads["accuracy"] = " ".join((leads["accuracy"], *how[:1]))
    return [
        Section(name, title, leads[name], drawn[name], numbers[name])
        for name, (title, _) in _SECTIONS.items()
    ]


def _heading(strategy: str) -> str:
    return " + ".join(STRATEGIES.get(rule, rule) for rule in strategy.split("+"))


def _lead(run: RunSummary, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The run's settings at a glance: (name, value)."""
    splits = run.iterations[0].scores.items()
    model, data = (settings.get(part, {}).get("source", "–") for part in ("model", "data"))
    return [
        ("Strategy", str(settings.get("strategy", run.strategy))),
        ("Samples a query", f"K = {settings.get('k', run.k)}"),
        ("Iterations", str(run.last)),
        ("Seed", str(settings.get("seed", "–"))),
        ("Policy 0", str(model)),
        ("Data", str(data)),
        ("Held out", " + ".join(f"{part['n']:,} {split}" for split, part in splits)),
    ]


def _tiles(run: RunSummary) -> list[dict[str, Any]]:
    """Test accuracy of the iterations that matter (dev accuracy where test was not scored), and the
    change of head and tail."""
    split = "test" if run.oracle is not None else "dev"
    if split not in run.iterations[0].scores:
        return []
    zero = run.iterations[0]
    chosen = run.last if run.best is None else run.best

    def tile(label: str, t: int, levels: Sequence[str] | None = None, main: bool = False) -> Any:
        it = run.iterations[t]
        count, before = (counted(each, split, levels) for each in (it, zero))
        if not count.n:
            return None
        n, where, change = count.n, f"iteration {t}", between(zero, it, split)
        if not t:
            where, moved = f"{n:,} queries", "before training"
        elif levels is None:
            moved = f"{points(change.difference)} ({point_range(change.interval)})"
        else:
            where, moved = f"{where}, {n:,} queries", f"from {percent(before.accuracy)}"
        notes = [percents(count.interval), moved, where]
        return {"label": label, "value": percent(count.accuracy), "notes": notes, "main": main}

    samples = zero.samples(split)
    what = f"{split} {score_name(samples)}" if samples else split
    tiles = [tile(f"Policy 0, {what}", 0)]
    if run.best is not None and run.last:
        tiles.append(tile(f"Best by dev, {what}", chosen, main=True))
    if run.last and chosen != run.last:
        tiles.append(tile(f"Last, {what}", run.last))
    if run.last:
        tiles += [tile(f"Head, {what}", chosen, HEAD), tile(f"Tail, {what}", chosen, TAIL)]
    return [each for each in tiles if each]


def _choice(shown: Responses, room: Report) -> list[str]:
    """Which of the run's responses the page holds, and which it leaves out."""
    n, queries = len(shown.responses), len(shown.queries)
    if n == shown.total:
        notes = [f"The page holds all {n:,} responses of the run, to {queries:,} queries."]
    else:
        notes = [
            f"The page holds {n:,} of the run's {shown.total:,} responses: every response to "
            f"{queries:,} of {shown.total_queries:,} queries. The queries are drawn at random, in "
            f"turn from each level and iteration, so shares on this page differ from the run's.",
            f"The page has room for {room.samples:,} responses, {room.text_mb:g} MB of text and "
            f"{room.images_mb:g} MB of images (report.samples, report.text_mb, report.images_mb).",
        ]
    left = sum(query.images_left_out for query in shown.queries)
    if left:
        notes.append(f"{left:,} images are left out.")
    if any(response.more for response in shown.responses):
        notes.append("Long responses are cut.")
    return notes


def _flow(nodes: Sequence[Node]) -> dict[str, Any]:
    """The lineage as a diagram: the artefacts of each iteration, in the order of the loop."""
    steps = [step.name for step in LOOP if any(node.place == step.name for node in nodes)]
    return {
        "steps": steps,
        "beginning": [node for node in nodes if node.place in {step.name for step in BEGINNING}],
        "rows": [
            (t, [[n for n in nodes if (n.t, n.place) == (t, step)] for step in steps])
            for t in sorted({node.t for node in nodes})
        ],
    }
