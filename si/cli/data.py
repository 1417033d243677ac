"""`si-ctl data`: import, make and inspect data sets."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from si.cli.console import Counting, table
from si.cli.options import ForceOption, JsonOption, StoreOption, open_place, resolve, writing_store
from si.clusters.local import local_folder
from si.datasets.columns import parse_map
from si.datasets.hub import NAME, download
from si.datasets.importing import SHOWN, Source, import_data
from si.datasets.sources import synth as make
from si.datasets.sources import synth_spec
from si.datasets.splits import SHARES, Splits
from si.errors import RecipeError
from si.machine.files import errors
from si.records import SPLITS
from si.report.dataset import inspect as look
from si.untrusted import one_line

group = typer.Typer(no_args_is_help=True, help="Import, make and inspect data sets.")


@group.command()
def synth(
    source: Annotated[
        str, typer.Argument(help="The generator; `synth:embedded` is the only one.")
    ] = "synth:embedded",
    store: StoreOption = None,
) -> None:
    """Make a synthetic data set in the store, and print its address."""
    where = writing_store(resolve(None, None, {"place.store": store})[1])
    typer.echo(make(where, source).spec.address)


@group.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(help="A file, a folder, or a data set of the hub (owner/name)."),
    ],
    name: Annotated[
        str | None, typer.Option(help="The data set's name; by default that of the source.")
    ] = None,
    columns: Annotated[
        str,
        typer.Option("--map", help="Which column holds what: question=problem,answer=solution."),
    ] = "",
    split: Annotated[
        str,
        typer.Option(help="train=80,dev=10,test=10 deals rows; testmini=test names; test is all."),
    ] = "",
    answer_kind: Annotated[
        str | None, typer.Option(help="number, choice or text; by default inferred for each row.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out, counted and listed.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring one's own data into the store, and print the data set's address.

    The same command again resumes: what is checked or committed is not done again.
    """
    where = writing_store(resolve(None, None, {"place.store": store})[1])
    mapped, splits = parse_map(columns), Splits.parse(split)
    kind, path, origin = _kind(answer_kind), Path(source), source
    if not path.exists() and NAME.fullmatch(source):
        path, origin = download(source)
    opened = Source.open(path, mapped, splits, kind, origin)
    # All words go to the error stream: the output is the address alone.
    with Counting() as screen:
        files = "1 file" if len(opened.files) == 1 else f"{len(opened.files):,} files"
        screen.line(f"{files}, {opened.rows:,} rows: {one_line(origin)}")
        for taken in dict.fromkeys(tuple(each.items()) for each in opened.columns.values()):
            screen.line("  " + ", ".join(f"{field} <- {one_line(name)}" for field, name in taken))
        own = path.resolve().name if path.is_dir() else path.stem
        slug = _slug(name or (own if origin == source else origin.split("@")[0]))
        notes = local_folder(where) / "imports"
        try:
            with errors(notes):
                made = import_data(where, opened, slug, notes, skip_bad, screen.hear)
        except KeyboardInterrupt:
            screen.line("\nInterrupted. Go on with the same command.")
            raise typer.Exit(130) from None
    facts = {
        "address": made.manifest.spec.address,
        "content": made.manifest.content,
        "splits": {
            split: sum(s.rows for s in made.manifest.shards if s.facts["split"] == split)
            for split in dict.fromkeys(s.facts["split"] for s in made.manifest.shards)
        },
        "rows": made.rows,
        "dealt": made.dealt,
        "bad": [row._asdict() for row in made.bad],
        "repeats": made.repeats,
        "overlaps": [list(lost) for lost in made.overlaps],
        "changed": dict(made.changed),
    }
    for line in _words(facts, splits, made.kept):
        screen.line(line)
    for title, listed in (
        ("bad rows left out", list(map(str, made.bad))),
        (
            "rows left out that an earlier split has too",
            [f"{place}: in {first}, so not in {later}" for first, later, place in made.overlaps],
        ),
    ):
        if listed:
            screen.line(f"{len(listed):,} {title}:")
            for line in listed[:SHOWN]:
                screen.line(f"  {line}")
            if len(listed) > SHOWN:
                screen.line(f"  ... and {len(listed) - SHOWN:,} more (--json lists all)")
    use = f"--set data.schedule=fixed --set data.source={facts['address']}"
    screen.line(f"Use it: si-ctl iterate {use}")
    typer.echo(json.dumps(facts, indent=2) if as_json else facts["address"])


def _kind(kind: str | None) -> str | None:

    if kind not in (None, "number", "choice", "text"):
        raise RecipeError(f"No answer is of kind {kind!r}", "kinds: number, choice, text")
    return kind


def _slug(name: str) -> str:
    """A name as it can stand in an address."""
    return re.sub(r"[^a-z0-9]+", "-", name.rpartition("/")[2].lower())[:30].strip("-") or "data"


def _words(facts: dict[str, Any], splits: Splits, kept: bool) -> Iterator[str]:
    """What an import came to, in a few lines."""
    counts = facts["splits"]
    words = ", ".join(f"{split} {counts.get(split, 0):,}" for split in SPLITS)
    yield f"{sum(counts.values()):,} queries: {words}" + (" (was there already)" if kept else "")
    if facts["dealt"]:
        shares = splits.shares or SHARES
        words = ", ".join(f"{split} {100 * share:.0f} %" for split, share in shares.items())
        yield f"{facts['dealt']:,} rows were dealt by their images: {words}"
    if facts["repeats"]:
        yield f"{facts['repeats']:,} rows left out that repeat one of their split"
    for change, count in facts["changed"].items():
        yield f"{count:,} rows with images encoded anew: {change}"
    missing = [split for split in SPLITS if not counts.get(split)]
    if missing and facts["dealt"] < facts["rows"]:
        yield (
            f"No {' and no '.join(missing)}: a run needs all three. To deal rows by content: "
            "--split train=80,dev=10,test=10"
        )


@group.command()
def inspect(
    address: Annotated[
        str | None, typer.Argument(help="A data set's address; the embedded one by default.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also write a contact sheet: F.html or F.png.")
    ] = None,
    force: ForceOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count a data set's queries, and prove that its splits are disjoint by content."""
    where = open_place(store)
    address = (address or synth_spec("synth:embedded").address).strip("/")
    with Counting() as screen:
        facts = look(where, address, sheet, screen.hear, force)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        splits = facts["splits"]
        grades = sorted({g for split in splits.values() for g in split["by_family_and_difficulty"]})
        rows = [
            [name, split["queries"], *(split["by_family_and_difficulty"].get(g) for g in grades)]
            for name, split in splits.items()
        ]
        table(facts["address"], ["split", "queries", *grades], rows)
        table(
            "",
            ["", *splits],
            [
                [
                    fact.replace("_", " "),
                    *(
                        ", ".join(f"{k}: {v}" for k, v in each[fact].items())
                        for each in splits.values()
                    ),
                ]
                for fact in (
                    *("answer_kinds", "question_characters", "answer_characters"),
                    *("images_per_query", "image_sizes", "image_modes"),
                )
            ],
        )
        for pair, count in facts["overlaps"].items():
            typer.echo(f"{pair}: {count} queries in both")
        for pair, count in facts["shared_images"].items():
            typer.echo(f"{pair}: {count} images in both")
        typer.echo(f"queries that repeat another of their split: {facts['duplicates']}")
        typer.echo(f"questions with several answers: {facts['contradictions']}")
        typer.echo(f"queries whose id is not their content's: {facts['wrong_ids']}")
        if sheet:
            typer.echo(f"Contact sheet: {sheet.resolve()}")
    if any(facts["overlaps"].values()) or facts["wrong_ids"]:
        raise typer.Exit(3)
