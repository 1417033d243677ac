"""Report: one page about a run, from everything that it committed.

report.html is one file without scripts and asks nobody for anything; report.json has all
numbers; report.md has the words and tables. What a model or a data set wrote is text in
it, whatever it says; images are decoded and encoded again before they are let in.
"""

import base64
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from si.artifacts import Artifact, Output, Ref, Spec, canonical
from si.dataset import Dataset
from si.errors import SiError
from si.findings import matthew, progress, rebalanced, to_json
from si.job import Job, ShardFunction
from si.randomness import keyed_rng
from si.records import HEAD, LEVELS, TAIL
from si.summary import SOURCES, SPENT, Iteration, RunSummary, collect
from si.tables import Table, number, percent, points
from si.templates import render

LONGEST = 3000  # characters of a response that are shown
PIXELS = 384  # longest side of a shown image
HEAVY = 60_000  # bytes of a shown PNG; heavier pictures are shown as JPEG
LOSSES = 150  # points of a loss curve that are drawn
IMAGES = 3  # images shown of one query
CONCENTRATION = {
    "gini": "Gini",
    "gini_solved": "of solved",
    "entropy": "entropy",
    "entropy_solved": "of solved",
}


def report(job: Job) -> ShardFunction:
    """Stage function: everything of a run to report.html, report.md and report.json."""

    def shard(_: int) -> Output:
        refs = job.spec.inputs
        run = collect(job.store, refs)
        shown = samples(job, run)
        head = {
            "strategy": job.settings.get("strategy", run.strategy),
            "words": dict(words(run)),
        }
        return Output(
            files={
                "report.html": page(run, job.settings, refs, shown).encode(),
                "report.md": markdown(run, job.settings).encode(),
                "report.json": canonical({**to_json(run), **head, "recipe": job.settings}),
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
                ["iteration", f"all ({groups['n']})"]
                + [f"{level} ({n})" for level, n in counts.items()]
                + ["tokens"],
                [
                    [str(it.t), percent(it.accuracy(split))]
                    + [percent(it.accuracy(split, level)) for level in counts]
                    + [number(it.scores[split]["tokens_mean"], 1)]
                    for it in run.iterations
                ],
                "Greedy responses; queries in brackets. tokens: mean length of a response.",
            )
        )
    shares = [
        Table(
            f"Shares of {what} by level",
            ["iteration", *LEVELS, "head/tail", *CONCENTRATION.values()],
            [
                [
                    str(it.t),
                    *(percent(it.share(what, [level])) for level in LEVELS),
                    number(_figure(it, what, "head_tail_ratio")),
                    *(number(_figure(it, what, name), 3) for name in CONCENTRATION),
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
            [
                [str(it.t), *(percent(_level(it, "accuracy_by_level", v)) for v in LEVELS)]
                for it in trained
            ],
            "Share of right samples among all samples of a level's training queries.",
        )
    )
    lengths = [
        Table(
            f"Mean length of {what} in {unit}, by level",
            ["iteration", *LEVELS],
            [
                [str(it.t)]
                + [number(_figure(it, what, f"{unit}_by_level", level), 1) for level in LEVELS]
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


def _figure(it: Iteration, what: str, name: str, level: str | None = None) -> Any:
    value = (it.metrics or {}).get(what, {}).get(name)
    return value.get(level) if level is not None and value is not None else value


def _level(it: Iteration, name: str, level: str) -> float | None:
    value: float | None = (it.metrics or {}).get(name, {}).get(level)
    return value


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
        plots: SVG elements, as `si.plots` draws them.
        tables: the same as numbers; folded away where there are plots.
    """

    name: str
    title: str
    lead: str
    plots: Sequence[Markup] = ()
    tables: Sequence[Table] = ()


_MORE = "<!-- more sections -->\n"
_SECTIONS = {
    "accuracy": (
        "Held-out accuracy",
        "One greedy response to each held-out query, after every iteration; iteration 0 is the "
        "policy that the run began with. The ring marks the best iteration on dev.",
    ),
    "shares": (
        "Who feeds the training",
        "Successes are right answers, those of a second round included; examples are what "
        "re-balancing made of them for training. The further head and tail drift apart from bar "
        "to bar, the more the rich get richer.",
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
    more = "".join(render("section.html", part=section) for section in sections)
    return html.replace(_MORE, more + _MORE, 1)


def page(
    run: RunSummary,
    settings: Mapping[str, Any],
    refs: Mapping[str, Ref],
    shown: Sequence[Mapping[str, Any]],
) -> str:
    """The report as one self-contained HTML page."""
    numbers, drawn = tables(run), _plots(run)
    sections = [
        Section(name, *said, drawn[name], numbers[name]) for name, said in _SECTIONS.items()
    ]
    addresses = [[role, ref.address, ref.content[:12]] for role, ref in sorted(refs.items())]
    splits = run.iterations[0].scores.items()
    queries = " and ".join(f"{part['n']} {split}" for split, part in splits)
    return render(
        "report.html",
        title=_title(run, settings),
        lead=f"Self-improvement from policy 0 on, evaluated on {queries} queries.",
        tiles=_tiles(run),
        words=words(run),
        sections=sections,
        samples=shown,
        recipe=_recipe(settings),
        artefacts=Table("Inputs of this report", ["role", "address", "content"], addresses),
        data=run.data,
    )


def _tiles(run: RunSummary) -> list[dict[str, Any]]:
    """Test accuracy (dev's, where test was not scored) of the iterations that matter."""
    split = "test" if run.oracle is not None else "dev"
    zero = run.iterations[0].accuracy(split)
    tiles = [(f"Policy 0, {split}", percent(zero), "where it began")]
    for label, t in (("Best by dev", run.best), ("Last", run.last), ("Oracle", run.oracle)):
        if t is not None:
            value = run.iterations[t].accuracy(split)
            gain = "" if value is None or zero is None else f", {points(value - zero)}"
            tiles.append((f"{label}, {split}", percent(value), f"iteration {t}{gain}"))
    return [
        {"label": label, "value": value, "note": note, "main": label.startswith("Best")}
        for label, value, note in tiles
    ]


def _plots(run: RunSummary) -> dict[str, list[Any]]:
    from si.plots import SERIES, Line, lines, stacked

    every, trained = [it.t for it in run.iterations], run.trained
    xs = [it.t for it in trained]
    splits = [s for s in ("test", "dev") if s in run.iterations[0].scores]
    best = {} if run.best is None else {"test": run.best, "dev": run.best}
    accuracy = [
        lines(
            "accuracy",
            "Accuracy",
            every,
            [
                Line(s, [it.accuracy(s) for it in run.iterations], c)
                for s, c in zip(splits, SERIES, strict=False)
            ],
            marks=best,
        )
    ]
    accuracy += [
        lines(
            f"accuracy-{split}",
            f"Accuracy on {split} by level",
            every,
            [Line(v, [it.accuracy(split, v) for it in run.iterations], v) for v in LEVELS],
        )
        for split in splits
    ]
    if not trained:
        return {"accuracy": [Markup(p) for p in accuracy], "shares": [], "lengths": [], "spent": []}  # noqa: S704
    shares = [
        stacked(
            what,
            f"Shares of {what}",
            xs,
            [Line(v, [it.share(what, [v]) for it in trained], v) for v in LEVELS],
        )
        for what in ("successes", "examples")
    ]
    shares.append(
        lines(
            "pass",
            "First-round pass rate by level",
            xs,
            [Line(v, [_level(it, "accuracy_by_level", v) for it in trained], v) for v in LEVELS],
        )
    )
    lengths = [
        lines(
            f"length-{unit}",
            f"Length of successes in {unit}",
            xs,
            [
                Line(v, [_figure(it, "successes", f"{unit}_by_level", v) for it in trained], v)
                for v in LEVELS
            ],
            share=False,
        )
        for unit in ("tokens", "steps")
    ]
    spent = [
        stacked(
            "samples",
            "Samples: round 1, and round 2 above",
            xs,
            [
                Line("round 1", [(it.spent or {})["samples"] for it in trained], "s1"),
                Line("round 2", [(it.spent or {})["samples_2"] for it in trained], "s2"),
            ],
            share=False,
        ),
        *(
            stacked(
                key,
                title,
                xs,
                [Line(title, [(it.spent or {})[key] for it in trained], "s1")],
                False,
            )
            for key, title in (("tokens", "Tokens sampled"), ("steps", "Gradient steps"))
        ),
        _loss_plot(trained),
    ]
    drawn = {"accuracy": accuracy, "shares": shares, "lengths": lengths, "spent": spent}
    # Our own SVG; matplotlib escapes the text in it.
    return {key: [Markup(svg) for svg in svgs] for key, svgs in drawn.items()}  # noqa: S704


def _loss_plot(trained: Sequence[Iteration]) -> str:
    from si.plots import SERIES, Line, lines

    longest = max((len(it.losses) for it in trained), default=0)
    width = max(1, -(-longest // LOSSES))
    points_ = range(0, longest, width)
    series = []
    for it in trained:
        means = [it.losses[i : i + width] for i in points_]
        values = [sum(part) / len(part) if part else None for part in means]
        series.append(Line(f"it. {it.t}", values, SERIES[(it.t - 1) % len(SERIES)]))
    return lines(
        "losses",
        "Training loss",
        [i + 1 for i in points_],
        series,
        False,
        "gradient step",
        points=False,
    )


# --- a few responses -----------------------------------------------------------------------


def samples(job: Job, run: RunSummary) -> list[dict[str, Any]]:
    """A right and a wrong response for each level of the last iteration, and two guided ones."""
    t = run.last
    if not job.has(f"explore-{t}") or not job.has(f"examples-{t}"):
        return []
    levels_ref = Spec.load(job.store, job.spec.inputs[f"examples-{t}"].address).inputs["levels"]
    table = Artifact.open(job.store, levels_ref).tables("levels.parquet", ["query_id", "level"])
    level = dict(zip(*(table[name].to_pylist() for name in ("query_id", "level")), strict=True))
    seed = job.settings.get("seed", 0)
    picked: list[tuple[str, dict[str, Any]]] = []
    for role in ("", "2"):
        if not job.has(f"explore{role}-{t}"):
            continue
        verdicts = _verdicts(job.input(f"verify{role}-{t}"))
        groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
        for row in verdicts:
            if role and not row["prefix_id"]:
                continue
            group = "guided" if role else level.get(row["query_id"], "?")
            groups.setdefault((group, row["correct"]), []).append(row)
        for group in ("guided",) if role else LEVELS:
            for correct in (True, False):
                rows = groups.get((group, correct), [])
                if rows:
                    rng = keyed_rng("report", seed, t, group, int(correct))
                    picked.append((role, rows[int(rng.random() * len(rows))]))
    data = Dataset(job.input("data"))
    ids = {row["query_id"] for _, row in picked}
    queries = {row["query_id"]: row for row in data.table().to_pylist() if row["query_id"] in ids}
    images = data.images(ids)
    return [
        _sample(
            _rollout(job.input(f"explore{role}-{t}"), row)
            | row
            | {name: queries[row["query_id"]][name] for name in _QUERY}
            | {"level": level.get(row["query_id"], "?"), "iteration": t},
            images.get(row["query_id"], ()),
        )
        for role, row in picked
    ]


_QUERY = ("question", "answer", "family", "difficulty")
_WHICH = ("query_id", "round", "prefix_id", "sample")


def _verdicts(verdicts: Artifact) -> list[dict[str, Any]]:
    """All verdicts with their shard's number, which is their rollout's, too."""
    return [
        {**row, "shard": record.shard}
        for record in verdicts.manifest.shards
        for row in verdicts.table("verdicts.parquet", record.shard).to_pylist()
    ]


def _rollout(rollouts: Artifact, which: Mapping[str, Any]) -> dict[str, Any]:
    columns = [*_WHICH, "text", "token_ends", "prefix_len", "finish_reason"]
    for row in rollouts.table("rollouts.parquet", which["shard"], columns).to_pylist():
        if all(row[name] == which[name] for name in _WHICH):
            found: dict[str, Any] = row
            return found
    raise SiError(f"{rollouts.address} has no rollout for a verdict of {which['query_id']}")


def _sample(row: dict[str, Any], images: Sequence[bytes]) -> dict[str, Any]:
    """What the page shows of a response: its guided prefix and the rest, and its images."""
    text, given = row["text"], row["prefix_len"]
    cut = row["token_ends"][given - 1] if given else 0
    more = len(text) - LONGEST
    rest = text[cut:LONGEST] + (f"\n[... {more:,} more characters]" if more > 0 else "")
    embedded = [embed(image) for image in images[:IMAGES]]
    return {
        **{name: value for name, value in row.items() if name not in ("token_ends", "shard")},
        "prefix": text[:cut],
        "rest": rest,
        "images": [image for image in embedded if image],
    }


class Picture(NamedTuple):
    """An image as a page holds it: a data URI, and its width in pixels."""

    uri: str
    width: int


def embed(image: bytes) -> Picture | None:
    """An image as a data URI, decoded and encoded anew; None if it is no PNG or JPEG.

    The bytes come from a data set that anybody may have made: only pixels pass.
    """
    from PIL import Image

    broken = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(image), formats=("PNG", "JPEG"))
            opened.thumbnail((PIXELS, PIXELS))
            picture = opened.convert("RGB")
    except broken:
        return None
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    kind = "png"
    if file.tell() > HEAVY:
        file, kind = io.BytesIO(), "jpeg"
        picture.save(file, "JPEG", quality=82)
    uri = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
    return Picture(uri, picture.width)
