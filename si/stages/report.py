"""Report: one page about a run, from everything that it committed.

report.html is one file that asks nobody for anything. It has one script, for looking through
responses; without it everything else is there. report.json has all numbers; report.md has the
words and tables. What a model or a data set wrote is text in it, whatever it says; images are
decoded and encoded again before they are let in.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from si.config.recipe import UNBOUND, Recipe, Report
from si.entry import BEGINNING, LOOP
from si.records import HEAD, LEVELS, TAIL
from si.report.findings import changed, counted, matthew, progress, rebalanced, to_json
from si.report.intervals import wilson
from si.report.lineage import Node, lineage
from si.report.samples import Responses, few, gather, pack
from si.report.summary import SOURCES, SPENT, RunSummary, collect
from si.report.tables import Table, number, percent, percents, point_range, points, probability
from si.report.templates import render, source
from si.stages import stage
from si.stages.job import Job, ShardFunction
from si.store.commit import Output
from si.store.keys import canonical

if TYPE_CHECKING:
    from si.report.plots import Plot

CONCENTRATION = {
    "gini": "Gini",
    "gini_solved": "of solved",
    "entropy": "entropy",
    "entropy_solved": "of solved",
}
STRATEGIES = {
    "vanilla": "Vanilla self-improvement",
    "tc": "Threshold clipping",
    "rp": "Repeat-based padding",
    "ar": "Adaptive-weighted resampling",
    "gr": "Guided resampling",
}
WITHOUT_BROWSER = 500  # responses among which a few are picked, if the browser shows none


class Settings(Recipe):
    """The whole recipe, less what only says how far a run goes and what it is called."""

    @classmethod
    def of(cls, recipe: Recipe) -> "Settings":
        return cls.model_validate(recipe.model_dump())

    def identity(self) -> dict[str, Any]:
        return {name: value for name, value in super().identity().items() if name not in UNBOUND}


class Params(stage.Params):
    """How many iterations the report is about."""

    iterations: int


class Facts(stage.Facts):
    """A report has no figures of its own."""


def report(job: Job[Settings, Params]) -> ShardFunction:
    """Stage function: everything of a run to report.html, report.md and report.json."""

    def shard(_: int) -> Output:
        # The page shows the settings as they were stored.
        refs, settings = job.spec.inputs, dict(job.spec.settings)
        run = collect(job.store, refs)
        room = Report.model_validate(settings.get("report", {}))
        shown = gather(
            job.store,
            refs,
            job.scratch,
            settings.get("seed", 0),
            room.samples or WITHOUT_BROWSER,
            room.text_mb,
            room.images_mb,
        )
        nodes = lineage(job.store, refs)
        head = {
            "strategy": settings.get("strategy", run.strategy),
            "words": dict(words(run)),
            "intervals": intervals(run),
        }
        return Output(
            files={
                "report.html": page(run, settings, room, shown, nodes).encode(),
                "report.md": markdown(run, settings).encode(),
                "report.json": canonical({**to_json(run), **head, "recipe": settings}),
            },
            rows=len(run.iterations),
        )

    return shard


# --- words and tables ----------------------------------------------------------------------


def words(run: RunSummary) -> list[tuple[str, str]]:
    """What happened: (heading, sentences)."""
    told = [
        ("Held-out accuracy", progress(run)),
        ("Matthew effect", f"{matthew(run).words} {_by_level(run)}".strip()),
        ("Re-balancing", rebalanced(run)),
    ]
    if run.best is not None and run.oracle is not None:
        told.append(("Which iteration", _which(run)))
    return told


def _by_level(run: RunSummary) -> str:
    """Held-out accuracy of head and tail, policy 0 against the last: the other evidence."""
    said = []
    for name, levels in (("head", HEAD), ("tail", TAIL)):
        counted = []
        for it in (run.iterations[0], run.iterations[-1]):
            groups = it.scores.get("test", {}).get("by_level", {})
            parts = [groups[level] for level in levels if level in groups]
            n, correct = (sum(part[key] for part in parts) for key in ("n", "correct"))
            counted.append((n, correct))
        if run.last and all(n for n, _ in counted):
            before, after = (percent(correct / n) for n, correct in counted)
            said.append(f"{name} queries ({counted[0][0]}) went from {before} to {after}")
    return f"On test, {', '.join(said)}." if said else ""


def _which(run: RunSummary) -> str:
    best, oracle = run.iterations[run.best or 0], run.iterations[run.oracle or 0]
    last = run.iterations[-1]
    return (
        f"Chosen on dev: iteration {best.t}, {percent(best.accuracy('test'))} on test. "
        f"Last: iteration {last.t}, {percent(last.accuracy('test'))}. "
        f"Oracle (best on test, for nobody to choose): iteration {oracle.t}, "
        f"{percent(oracle.accuracy('test'))}."
    )


def tables(run: RunSummary) -> dict[str, list[Table]]:
    """The tables by section: accuracy, shares, lengths, spent."""
    trained = run.trained
    accuracy = []
    for split in ("test", "dev"):
        groups = run.iterations[0].scores.get(split)
        if groups is None:
            continue
        counts = {level: part["n"] for level, part in groups["by_level"].items()}
        accuracy.append(
            Table(
                f"Accuracy on {split}",
                ["iteration", f"all ({groups['n']})", "95 % interval"]
                + [f"{level} ({n})" for level, n in counts.items()]
                + ["tokens"],
                [
                    [str(it.t), percent(it.accuracy(split)), percents(wilson(*counted(it, split)))]
                    + [percent(it.accuracy(split, level)) for level in counts]
                    + [number(it.scores[split]["tokens_mean"], 1)]
                    for it in run.iterations
                ],
                "Greedy responses; queries in brackets. Interval: Wilson's, over queries. tokens: "
                "mean length of a response.",
            )
        )
    accuracy += [
        _against_zero(run, split)
        for split in ("test", "dev")
        if split in run.iterations[0].scores and run.last
    ]
    shares = [
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
                for it in trained
            ],
            "Gini and normalised entropy over all queries, and over those that contribute at all: "
            "0 and 1 if all contribute alike.",
        )
        for what in ("successes", "examples")
    ]
    shares.append(
        Table(
            "Pass rate of the first round by level",
            ["iteration", *LEVELS],
            [[str(it.t), *(percent(it.pass_rate(v)) for v in LEVELS)] for it in trained],
            "Share of right samples among all samples of a level's training queries.",
        )
    )
    lengths = [
        Table(
            f"Mean length of {what} in {unit}, by level",
            ["iteration", *LEVELS],
            [
                [str(it.t)]
                + [number(it.figure(what, f"{unit}_by_level", level), 1) for level in LEVELS]
                for it in trained
            ],
        )
        for what in ("successes", "examples")
        for unit in ("tokens", "steps")
    ]
    spent = [
        Table(
            "Spent",
            ["iteration", *SPENT.values(), "identical", "first loss", "last loss"],
            [
                [
                    str(it.t),
                    *(number((it.spent or {}).get(key, 0)) for key in SPENT),
                    percent(it.identical),
                    number(it.losses[0] if it.losses else None, 3),
                    number(it.losses[-1] if it.losses else None, 3),
                ]
                for it in trained
            ],
            "Samples are those of round 1 here; sampled tokens those of both rounds. "
            "Levels and evaluations not counted. Dropped: examples too long to train on. "
            "Identical: successes whose text another success of the same query has.",
        )
    ]
    if any(it.sources for it in trained):
        spent.append(
            Table(
                "Second-round samples by where their prefix came from",
                ["iteration", *SOURCES],
                [[str(it.t), *(number(it.sources.get(s)) for s in SOURCES)] for it in trained],
                "A success of the same iteration, of an earlier one, the data's own rationale, "
                "or no prefix at all.",
            )
        )
    return {"accuracy": accuracy, "shares": shares, "lengths": lengths, "spent": spent}


def _against_zero(run: RunSummary, split: str) -> Table:
    zero = run.iterations[0].right[split]
    rows = []
    for it in run.iterations[1:]:
        change = changed(zero, it.right[split])
        cells = [points(change.difference), point_range(change.interval)]
        cells += [str(change.wins), str(change.losses), probability(change.p)]
        rows.append([str(it.t), *cells])
    return Table(
        f"Against policy 0, query by query, on {split}",
        ["iteration", "difference", "95 % interval", "won", "lost", "p"],
        rows,
        "Won: right here, wrong under policy 0. Interval: paired bootstrap over queries. p: exact "
        "two-sided sign test on won against lost.",
    )


def intervals(run: RunSummary) -> list[dict[str, Any]]:
    """95 % intervals by iteration and split: of the accuracy, and of its difference to policy 0's,
    in all and for head and tail."""
    groups = {"all": None, "head": HEAD, "tail": TAIL}
    return [
        {
            split: {
                "accuracy": {
                    name: wilson(*counted(it, split, levels)) for name, levels in groups.items()
                },
                "difference": changed(run.iterations[0].right[split], it.right[split]).interval,
            }
            for split in it.right
        }
        for it in run.iterations
    ]


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


_MORE = ("<!-- more links -->\n", "<!-- more sections -->\n")
_SECTIONS = {
    "accuracy": (
        "Held-out accuracy",
        "One greedy response to each held-out query, after every iteration; iteration 0 is the "
        "policy that the run began with.",
    ),
    "shares": (
        "Who feeds the training",
        "Successes are right answers, those of a second round included; examples are what "
        "re-balancing made of them for training.",
    ),
    "lengths": (
        "Length of responses",
        "Mean length of right answers by level. Steps end where the family of the query says so, "
        "by default at a new line.",
    ),
    "spent": (
        "What it took",
        "Compare runs by what they spent, too: padding repeats examples and so takes more "
        "gradient steps, unless train.match_steps holds them equal.",
    ),
}


def extended(html: str, sections: Sequence[Section]) -> str:
    """A committed page with more sections, behind its own ones about numbers.

    What is no part of a run's content (times, costs) cannot be in the artefact; a copy of the page
    outside of the store may show it.
    """
    for mark, template in zip(_MORE, ("link.html", "section.html"), strict=True):
        more = "".join(render(template, part=section) for section in sections)
        html = html.replace(mark, more + mark, 1)
    return html


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
        sections=[
            Section(name, *said, drawn[name], numbers[name]) for name, said in _SECTIONS.items()
        ],
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
    )


def _heading(strategy: str) -> str:
    return " + ".join(STRATEGIES.get(rule, rule) for rule in strategy.split("+"))


def _lead(run: RunSummary, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What kind of run it is: (name, value)."""
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
    """Test accuracy (dev's, where test was not scored) of the iterations that matter, with what
    head and tail gained."""
    split = "test" if run.oracle is not None else "dev"
    if split not in run.iterations[0].scores:
        return []
    zero = run.iterations[0]
    chosen = run.last if run.best is None else run.best

    def tile(label: str, t: int, levels: Sequence[str] | None = None, main: bool = False) -> Any:
        it = run.iterations[t]
        (correct, n), before = (counted(each, split, levels) for each in (it, zero))
        if not n:
            return None
        where, change = f"iteration {t}", changed(zero.right[split], it.right[split])
        if not t:
            where, moved = f"{n:,} queries", "where it began"
        elif levels is None:
            moved = f"{points(change.difference)} ({point_range(change.interval)})"
        else:
            where, moved = f"{where}, {n:,} queries", f"from {percent(before[0] / before[1])}"
        notes = [percents(wilson(correct, n)), moved, where]
        return {"label": label, "value": percent(correct / n), "notes": notes, "main": main}

    tiles = [tile(f"Policy 0, {split}", 0)]
    if run.best is not None and run.last:
        tiles.append(tile(f"Best by dev, {split}", chosen, main=True))
    if run.last and chosen != run.last:
        tiles.append(tile(f"Last, {split}", run.last))
    if run.last:
        tiles += [tile(f"Head, {split}", chosen, HEAD), tile(f"Tail, {split}", chosen, TAIL)]
    return [each for each in tiles if each]


def _choice(shown: Responses, room: Report) -> list[str]:
    """What of the run's responses is on the page, and what is not."""
    n, queries = len(shown.responses), len(shown.queries)
    if n == shown.total:
        said = [f"All {n:,} responses of the run are here, to {queries:,} queries."]
    else:
        said = [
            f"{n:,} of the run's {shown.total:,} responses are here: all to {queries:,} of "
            f"{shown.total_queries:,} queries, drawn at random and in turn from each level and "
            f"iteration, so that shares here are not the run's.",
            f"The page has room for {room.samples:,} responses, {room.text_mb:g} MB of text and "
            f"{room.images_mb:g} MB of images (report.samples, report.text_mb, report.images_mb).",
        ]
    left = sum(query.images_left_out for query in shown.queries)
    if left:
        said.append(f"{left:,} images are left out.")
    if any(response.more for response in shown.responses):
        said.append("Long responses are cut.")
    return said


def _flow(nodes: Sequence[Node]) -> dict[str, Any]:
    """The lineage as a diagram: what each iteration made, in the order of the loop."""
    steps = [step.name for step in LOOP if any(node.place == step.name for node in nodes)]
    return {
        "steps": steps,
        "beginning": [node for node in nodes if node.place in {step.name for step in BEGINNING}],
        "rows": [
            (t, [[n for n in nodes if (n.t, n.place) == (t, step)] for step in steps])
            for t in sorted({node.t for node in nodes})
        ],
    }
