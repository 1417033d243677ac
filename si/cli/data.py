"""`si-ctl data`: import, generate, list and inspect data sets."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from si.cli.console import Counting, plural, say, table
from si.cli.options import (
    EncodingOption,
    ForceOption,
    JsonOption,
    StoreOption,
    open_place,
    resolve,
    writing_store,
)
from si.clusters.local import local_folder
from si.config.recipe import AnswerKind
from si.datasets.columns import parse_map
from si.datasets.find import SPLIT_NAMES
from si.datasets.hub import NAME, download
from si.datasets.import_source import Input, Reading
from si.datasets.importing import SHOWN, Imported, Source, import_data
from si.datasets.sources import synth as synthesize
from si.datasets.sources import synth_spec
from si.datasets.splits import SHARES, Splits
from si.errors import RETRY, ArtifactDamaged, ArtifactMissing, DataError, RecipeError, SiError
from si.machine import gpus
from si.machine.files import errors
from si.readers.reading import check_encoding
from si.records import SPLITS
from si.report.dataset import inspect as inspected
from si.store.commit import Manifest, load_manifest
from si.store.keys import Spec
from si.store.port import Store
from si.untrusted import one_line, slug

DEFAULT = "synth:puzzles"
LONGEST = 300  # characters of a name on the screen
FEW = 20  # queries of a split, below which a note says that it is small
RECIPE = "qwen2-vl-7b-k8"  # suits the images of any data set
TINY = (
    "--strategy vanilla --k 2 --iterations 1 --set model.source=Qwen/Qwen2-VL-2B-Instruct "
    "--set levels.k=2 --set data.schedule=fixed --set evaluate.limit=8 --set evaluate.samples=1 "
    "--set train.lr=1e-5 --set train.epochs=1"
)

ColumnsOption = Annotated[
    str,
    typer.Option(
        "--map",
        metavar="FIELD=COLUMN",
        show_default=False,
        help="Map fields to columns: question=problem,answer=solution.",
    ),
]
SplitOption = Annotated[
    str,
    typer.Option(
        show_default=False,
        help="train=80,dev=10,test=10 divides rows; testmini=test maps a name; test takes all.",
    ),
]
AnswerKindOption = Annotated[
    AnswerKind | None,
    typer.Option(help="Kind of all answers.  \\[default: inferred for each row]"),
]

ImagesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--images",
        metavar="FOLDER",
        help="Folder or zip archive that image paths may start from; repeatable.",
    ),
]
RowsOption = Annotated[
    str,
    typer.Option(
        metavar="MODULE:FUNCTION",
        show_default=False,
        help="Your function from the source's path to rows, for other layouts.",
    ),
]

group = typer.Typer(no_args_is_help=True, help="Import, generate, list and inspect data sets.")


@group.command("import")
def import_(
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="A file, a folder, a zip archive, or a data set on the hub (owner/name). Several "
            "are joined; train=FILE names the split of one.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="The data set's name.  \\[default: the source's]")
    ] = None,
    columns: ColumnsOption = "",
    split: SplitOption = "",
    answer_kind: AnswerKindOption = None,
    images: ImagesOption = None,
    encoding: EncodingOption = "",
    rows: RowsOption = "",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out bad rows, and count and list them.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import your data into the store, and print the data set's address.

    The same command again resumes: rows that were checked or committed are not read again.
    """
    where = writing_store(resolve(None, None, {"place.store": store})[1])
    notes = local_folder(where) / "imports"
    mapped, splits = parse_map(columns), Splits.parse(split)
    inputs, origin = _inputs(sources)
    how = Reading(
        answer_kind,
        confined=origin.startswith("hf:"),
        images=tuple(images or ()),
        encoding=check_encoding(encoding),
        rows=rows,
        scratch=notes,
    )
    opened = Source.open(inputs, mapped, splits, None, origin, how)
    # Progress goes to the error stream: standard output is the address alone.
    with Counting() as screen:
        for line in _opened(opened, origin):
            screen.line(line)
        slug = _slug(name or (origin.split("@")[0] if how.confined else _name(inputs[0][1])))
        try:
            with errors(notes):
                made = import_data(where, opened, slug, notes, skip_bad, screen.hear)
        except KeyboardInterrupt:
            screen.line("\nInterrupted. Resume with the same command.")
            raise typer.Exit(130) from None
    again = _dividing(context.params, splits, _splits(made.manifest))
    for line in (*_summary(made, splits, again), *next_steps(made.manifest, store)):
        screen.line(line)
    if as_json:
        typer.echo(json.dumps(_facts(made), indent=2))
    else:
        say(made.manifest.spec.address)


def _inputs(sources: list[str]) -> tuple[list[Input], str]:
    """The files and folders to import, each with its split if one was given; and their origin."""
    if len(sources) == 1 and not Path(sources[0]).exists() and NAME.fullmatch(sources[0]):
        path, origin = download(sources[0])
        return [(None, path)], origin
    inputs: list[Input] = []
    for source in sources:
        split, equals, path_ = source.partition("=")
        named = bool(equals) and not Path(source).exists()
        if named and split.lower() not in SPLIT_NAMES:
            raise RecipeError(
                f"{split!r} is not a split",
                f"in {source!r}; splits: {', '.join(SPLITS)}",
                f"For example: train={path_}",
            )
        inputs.append(
            (SPLIT_NAMES[split.lower()] if named else None, Path(path_ if named else source))
        )
    return inputs, " ".join(sources)


def _dividing(given: dict[str, Any], splits: Splits, counts: dict[str, int]) -> str:
    """The command that imports the same source and divides its rows by content.

    Rows of test and dev stay there if there are rows of train to divide.

    Args:
        given: the command's parameters.
        counts: split -> queries, as the source has them.
    """
    others = [name for name in SPLITS[1:] if not (counts.get("train") and counts.get(name))]
    shares = [f"train={100 - 10 * len(others)}", *(f"{name}=10" for name in others)]
    names = (f"{name}={split}" for name, split in splits.names.items())
    options = {
        "--name": [given["name"]],
        "--map": [given["columns"]],
        "--answer-kind": [given["answer_kind"]],
        "--images": given["images"] or [],
        "--encoding": [given["encoding"]],
        "--rows": [given["rows"]],
        "--split": [",".join((*names, *shares))],
        "--store": [given["store"]],
    }
    words = ["si-ctl", "data", "import", *given["sources"]]
    words += [word for o, values in options.items() for v in values if v for word in (o, str(v))]
    return shlex.join([*words, *(["--skip-bad"] if given["skip_bad"] else [])])


def next_steps(made: Manifest, store: str | None) -> Iterator[str]:
    """The commands to run next with a data set, ready to paste: with a recipe that suits real
    images. No run starts without all splits."""
    address = made.spec.address
    where = f" --store {shlex.quote(store)}" if store else ""
    run = f"--recipe {RECIPE} --set data.source={address}{where}"
    yield f"Look at it: si-ctl data inspect {address}{where} --sheet sheet.html"
    if not all(map(_splits(made).get, SPLITS)):
        return
    if gpus.count():
        yield f"Train on it: si-ctl iterate {run}"
        return
    yield "No GPU was found here. The embedded model reads only its own puzzles, not these images."
    yield f"Preview a run with a real model: si-ctl iterate {run} --dry-run"
    yield f"Estimate its cost: si-ctl estimate {run}"
    tiny = f"{TINY} --set data.source={address}{where}"
    yield f"Try a small model on this CPU, which is slow: si-ctl iterate {tiny}"


def _opened(source: Source, origin: str) -> Iterator[str]:
    """What an import found in its source, line by line."""
    files, rows = plural(len(source.files), "file"), plural(source.rows, "row")
    yield f"{files}, {rows}: {one_line(origin, LONGEST)}"
    yield from source.notes
    for taken in dict.fromkeys(tuple(each.items()) for each in source.columns.values()):
        pairs = (f"{field} <- {one_line(column, LONGEST)}" for field, column in taken)
        yield "  " + ", ".join(pairs)


def _facts(made: Imported) -> dict[str, Any]:
    """What `data import --json` prints."""
    return {
        "address": made.manifest.spec.address,
        "content": made.manifest.content,
        "splits": _splits(made.manifest),
        "rows": made.rows,
        "dealt": made.dealt,
        "filled": made.filled,
        "bad": [row._asdict() for row in made.bad],
        "repeats": made.repeats,
        "overlaps": [list(lost) for lost in made.overlaps],
        "changed": dict(made.changed),
    }


def _splits(manifest: Manifest) -> dict[str, int]:
    """Split -> number of queries of a data set."""
    counts: dict[str, int] = {}
    for shard in manifest.shards:
        if split := shard.facts.get("split"):
            counts[split] = counts.get(split, 0) + shard.rows
    return counts


def _name(path: Path) -> str:
    """The name of a data set by that of its file or folder."""
    return path.resolve().name if path.is_dir() else path.name.partition(".")[0]


def _slug(name: str) -> str:
    """A name as it can be part of an address."""
    return slug(name.rpartition("/")[2], 30) or "data"


def _summary(made: Imported, splits: Splits, again: str) -> Iterator[str]:
    """The result of an import, line by line.

    Args:
        again: the command that divides the rows by content.
    """
    counts = _splits(made.manifest)
    words = ", ".join(f"{split} {counts.get(split, 0):,}" for split in SPLITS)
    kept = " (already in the store)" if made.kept else ""
    yield f"{sum(counts.values()):,} queries: {words}{kept}"
    if made.dealt:
        shares = splits.shares or SHARES
        words = ", ".join(f"{split} {100 * share:.0f} %" for split, share in shares.items())
        yield f"{made.dealt:,} rows were divided by their images: {words}"
    if made.repeats:
        yield f"{made.repeats:,} rows left out that repeat another of their split"
    for change, count in made.changed.items():
        yield f"{count:,} rows with re-encoded images: {change}"
    yield from _about_splits(made, counts, again)
    bad = list(map(str, made.bad))
    yield from _listed("bad rows left out", bad)
    lost = [f"{place}: in {first}, so not in {later}" for first, later, place in made.overlaps]
    yield from _listed("rows left out that are also in an earlier split", lost)


def _about_splits(made: Imported, counts: dict[str, int], again: str) -> Iterator[str]:
    """Splits that are empty or small, and what to do about it."""
    if made.filled:
        words = " and ".join(made.filled)
        yield f"{words} would have been empty: it got the rows of one image of another split."
    missing = [split for split in SPLITS if not counts.get(split)]
    if missing:
        yield f"No {' and no '.join(missing)} queries: a run needs all three splits."
        if made.dealt < made.rows:
            yield f"Divide its rows by content: {again}"
            yield "Or name a file for each: si-ctl data import train=FILE dev=FILE test=FILE"
        else:
            yield "There are fewer images than splits, and rows with one image share a split."
    small = [f"{split} {counts[split]}" for split in SPLITS if 0 < counts.get(split, 0) < FEW]
    if small:
        yield f"Few queries: {', '.join(small)}. Differences in accuracy will not be significant."


def _listed(title: str, lines: list[str]) -> Iterator[str]:
    """The first lines under a title, and how many more there are."""
    if lines:
        yield f"{len(lines):,} {title}:"
        yield from (f"  {line}" for line in lines[:SHOWN])
    if len(lines) > SHOWN:
        yield f"  ... and {len(lines) - SHOWN:,} more (--json lists all)"


@group.command()
def synth(
    source: Annotated[str, typer.Argument(help="The generator.")] = DEFAULT,
    store: StoreOption = None,
) -> None:
    """Generate a synthetic data set in the store, and print its address."""
    where = writing_store(resolve(None, None, {"place.store": store})[1])
    say(synthesize(where, source).spec.address)


@group.command("list")
def list_(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the data sets in the store, with their addresses."""
    where = open_place(store)
    sets, damaged = data_sets(where)
    found: list[dict[str, Any]] = [
        {"address": made.spec.address, "made_by": made.spec.stage, "splits": _splits(made)}
        for made in sets
    ]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    elif found:
        rows = [
            [each["address"], *map(each["splits"].get, SPLITS), each["made_by"]] for each in found
        ]
        table(f"data sets in {where.url}", ["address", *SPLITS, "made by"], rows)
    elif not damaged:
        say(f"No data sets in {where.url}. Import one: si-ctl data import FOLDER")
    for address, error in damaged.items():
        say(f"{address} is damaged: {error.headline}", err=True)
    if damaged:
        say("The other data sets are not affected. Import the damaged ones again.", err=True)
        raise typer.Exit(RETRY)


def data_sets(store: Store) -> tuple[list[Manifest], dict[str, SiError]]:
    """The manifests of all complete data sets in the store, by address; and what is damaged."""
    listed = (address.rpartition("/") for address in store.list("data"))
    found: list[Manifest] = []
    damaged: dict[str, SiError] = {}
    for folder in sorted(folder for folder, _, name in listed if name == "spec.json"):
        try:
            manifest = load_manifest(store, Spec.load(store, folder))
        except (ArtifactDamaged, ArtifactMissing) as error:
            damaged[folder] = error
            continue
        found += [manifest] if manifest else []
    return found, damaged


def find_data(store: Store, wanted: str) -> str:
    """The address of a data set in the store, by its address or by a name that only one has.

    Raises:
        DataError: with the addresses that exist.
    """
    wanted = synth_spec(wanted).address if wanted.startswith("synth:") else wanted.strip("/")
    sets, damaged = data_sets(store)
    if wanted in damaged:
        raise damaged[wanted]
    found = {made.spec.address: made.spec.name for made in sets}
    same = [wanted] if wanted in found else [a for a, name in found.items() if name == wanted]
    if len(same) == 1:
        return same[0]
    raise DataError(
        f"{len(same)} data sets are called {wanted}" if same else f"No data set {wanted}",
        f"data sets in {store.url}: {', '.join(same or found) or 'none'}",
        ("List them: si-ctl data list", "Create a synthetic one: si-ctl data synth"),
    )


@group.command()
def inspect(
    address: Annotated[
        str | None,
        typer.Argument(help="A data set's address or name.  \\[default: synth:puzzles]"),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Contact sheet to write: FILE.html or FILE.png.")
    ] = None,
    force: ForceOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count a data set's queries, and check by content that its splits are disjoint.

    Exits with 3 if two splits share a query.
    """
    where = open_place(store)
    address = find_data(where, address or DEFAULT)
    with Counting() as screen:
        facts = inspected(where, address, sheet, screen.hear, force)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _show_facts(facts)
        if sheet:
            say(f"Contact sheet: {sheet.resolve()}")
    if any(facts["overlaps"].values()) or facts["wrong_ids"]:
        raise typer.Exit(3)


ROWS = (
    *("answer_kinds", "question_characters", "answer_characters"),
    *("images_per_query", "image_sizes", "image_modes"),
)


def _show_facts(facts: dict[str, Any]) -> None:
    """Print what `inspect` has counted."""
    splits = facts["splits"]
    grades = sorted({g for split in splits.values() for g in split["by_family_and_difficulty"]})
    rows = [
        [name, split["queries"], *(split["by_family_and_difficulty"].get(g) for g in grades)]
        for name, split in splits.items()
    ]
    table(facts["address"], ["split", "queries", *grades], rows)

    def cell(split: dict[str, Any], row: str) -> str:
        return ", ".join(f"{key}: {value}" for key, value in split[row].items())

    by_row = [[r.replace("_", " "), *(cell(each, r) for each in splits.values())] for r in ROWS]
    table("", ["", *splits], by_row)
    for pair, count in facts["overlaps"].items():
        say(f"{pair}: {count} queries in both")
    for pair, count in facts["shared_images"].items():
        say(f"{pair}: {count} images in both")
    say(f"queries that repeat another of their split: {facts['duplicates']}")
    say(f"questions with several answers: {facts['contradictions']}")
    say(f"queries whose id does not match their content: {facts['wrong_ids']}")
