"""`si-ctl verify`: judge the responses of a file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from si.answers import MathPool, Policy, Tolerance
from si.cli.console import Counting, say
from si.cli.options import (
    EncodingOption,
    ForceOption,
    JsonOption,
    MapOption,
    SkipBadOption,
    mapping,
)
from si.errors import DataError, OutputError, RecipeError
from si.machine.files import check, check_folder
from si.readers.files import KINDS
from si.readers.reading import check_encoding
from si.report.tables import percent, percents
from si.rollouts.chunks import is_rollouts
from si.rollouts.judged import Judged
from si.rollouts.opinions import Opinions
from si.rollouts.verify import judge_file

ProfileOption = Annotated[
    str,
    typer.Option(
        help="strict: only answers after a mark. lenient: also the last number or option named."
    ),
]
ChoicesOption = Annotated[
    str | None, typer.Option(help="Column of the options' texts; found by name if there.")
]
AbsoluteOption = Annotated[float, typer.Option(min=0, help="Tolerance: largest difference.")]
RelativeOption = Annotated[
    float, typer.Option(min=0, help="Tolerance as a share of the reference: 0.05 is 5 %.")
]
DecimalsOption = Annotated[
    int | None, typer.Option(min=0, help="Compare after rounding to so many decimals.")
]
UnitsOption = Annotated[
    str,
    typer.Option(help="strict: units must agree where both have one. ignore: they need not."),
]
ConvertOption = Annotated[
    bool,
    typer.Option("--convert", help="Compare units of one dimension by value: 1 m, 100 cm."),
]
TruthOption = Annotated[
    str | None,
    typer.Option(help="Column of human verdicts: print agreement by kind and by rule."),
]
CompareOption = Annotated[str | None, typer.Option(help="Ask for a second opinion: math-verify.")]
SampleOption = Annotated[
    tuple[int, str],
    typer.Option(
        help="Show so many rejected responses whose last line has the reference, or so many "
        "accepted ones whose last line does not: 20 rejected."
    ),
]
ExplainOption = Annotated[
    str | None, typer.Option(help="Show how the response with this id was judged.")
]
JudgeOption = Annotated[
    str, typer.Option(help="answers, or a custom verifier: package.module:function.")
]
TimeoutOption = Annotated[
    float, typer.Option(min=0.1, help="Processor seconds for comparing one answer.")
]


ResponsesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE",
        help="Responses with references (JSON lines, JSON, CSV, Parquet, Arrow), or folders.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        help="File to write, with all rows and their verdicts; for several files a folder."
    ),
]


def verify(
    files: ResponsesArgument,
    columns: MapOption = None,
    profile: ProfileOption = "strict",
    choices: ChoicesOption = None,
    absolute: AbsoluteOption = 0.0,
    relative: RelativeOption = 0.0,
    decimals: DecimalsOption = None,
    units: UnitsOption = "strict",
    convert: ConvertOption = False,
    truth: TruthOption = None,
    compare: CompareOption = None,
    sample: SampleOption = (0, "rejected"),
    explain: ExplainOption = None,
    judge: JudgeOption = "answers",
    timeout: TimeoutOption = 5.0,
    skip_bad: SkipBadOption = False,
    encoding: EncodingOption = "",
    out: OutOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Judge responses against reference answers.

    Final answers are extracted and compared as a run does. Columns are recognised as by diagnose;
    name others with --map response=COLUMN,answer=COLUMN.
    """
    _known("profile", profile, ("strict", "lenient"))
    _known("units", units, ("strict", "ignore"))
    _known("compare", compare, (None, "math-verify"))
    _known("sample", sample[1], ("rejected", "accepted"))
    tolerance = Tolerance(absolute, relative, decimals)
    policy = Policy(_literal(profile), tolerance, _literal(units), convert)
    named = {"choices": choices, "truth": truth}
    given = mapping(columns) | {name: column for name, column in named.items() if column}
    plain = MathPool(timeout, plain=True) if compare else None
    results: list[tuple[Judged, Path | None]] = []
    for file, target in _targets(files, out, force):
        opinions = Opinions(sample[0], _literal(sample[1]), explain, plain)
        with Counting() as counting:
            judged = judge_file(
                file,
                given,
                target,
                judge=judge,
                policy=policy,
                opinions=opinions,
                timeout=timeout,
                skip_bad=skip_bad,
                force=force,
                encoding=check_encoding(encoding),
                on_event=counting.hear,
            )
        results.append((judged, target))
    if plain is not None:
        plain.close()
    _show(results, as_json)


def _targets(files: list[Path], out: Path | None, force: bool) -> list[tuple[Path, Path | None]]:
    """Each file to judge, those in folders included, and where to write its verdicts.

    Raises:
        DataError: if a folder has no such file.
        OutputError: if `out` cannot take the verdicts of all files.
    """
    found: list[Path] = []
    for path in files:
        inside = sorted(p for p in path.rglob("*") if is_rollouts(p)) if path.is_dir() else [path]
        if not inside:
            detail = f"looked for {', '.join(KINDS)}, also with .gz"
            raise DataError(f"No files of rows in {path}", detail)
        found += inside
    if out is None:
        return [(path, None) for path in found]
    if len(found) == 1 and not files[0].is_dir():
        return [(found[0], out)]
    names = [path.name for path in found]
    if len(set(names)) < len(names):
        raise OutputError(
            "Two of the files have the same name", f"wanted: one file each in {out}", "Omit --out."
        )
    check_folder(out)
    for name in names:
        check(out / name, force)
    return [(path, out / path.name) for path in found]


def _show(results: list[tuple[Judged, Path | None]], as_json: bool) -> None:
    if as_json:
        figures = [judged.to_json() for judged, _ in results]
        typer.echo(json.dumps(figures[0] if len(figures) == 1 else figures, indent=2))
        return
    for judged, target in results:
        if len(results) > 1:
            say(f"{judged.file}:")
        for line in (*_lines(judged, target), *_opinions(judged)):
            say(line)
    if len(results) > 1:
        right = sum(judged.right for judged, _ in results)
        responses = sum(judged.responses for judged, _ in results)
        share = percent(right / responses if responses else 0.0)
        say(f"All {len(results)} files: {right:,} of {responses:,} correct: {share}")


def _known(name: str, value: str | None, known: tuple[str | None, ...]) -> None:
    if value not in known:
        words = ", ".join(filter(None, known))
        raise RecipeError(f"--{name} does not know {value!r}", f"known: {words}")


def _literal(value: str) -> Any:
    return value


def _lines(judged: Judged, out: Path | None) -> Iterator[str]:
    columns = ", ".join(f"{name} {path}" for name, path in judged.columns.items())
    yield (
        f"{judged.right:,} of {judged.responses:,} correct: {percent(judged.accuracy)}, "
        f"95 % interval {percents(judged.interval)}"
    )
    yield f"Read {columns}"
    for title, counts in (
        ("Kinds", judged.kinds),
        ("Found by", judged.found),
        ("Decided by", judged.rules),
        ("Incorrect because", judged.reasons),
    ):
        if counts:
            yield f"{title}: " + ", ".join(f"{name} {n:,}" for name, n in counts.most_common())
    if judged.disagreement:
        there, here = judged.disagreement
        name = judged.columns["reward"]
        yield f"The file's own {name} differs: {there:,} correct there only, {here:,} here only"
    if judged.unread:
        yield from judged.unread.lines()
    if judged.bad:
        yield f"{len(judged.bad):,} rows left out, the first: {judged.bad[0]}"
    if out is not None:
        yield f"Written: {out.resolve()}"


def _opinions(judged: Judged) -> Iterator[str]:
    opinions = judged.opinions
    agreement = opinions.agreement
    if agreement:
        yield f"{'':22}{'responses':>10}{'agreement':>11}{'found':>9}{'wrongly accepted':>18}"
        rows = [("all", agreement["all"])]
        rows += [(f"kind {name}", row) for name, row in agreement["by_kind"].items()]
        rows += [(f"rule {name}", row) for name, row in agreement["by_rule"].items()]
        for name, row in rows:
            wrong = f"{row['accepted']} of {row['incorrect']}"
            yield (
                f"{name:22}{row['responses']:>10,}{_share(row['agreement']):>11}"
                f"{_share(row['found']):>9}{wrong:>18}"
            )
    if opinions.compared:
        differ = sum(opinions.disagreed.values())
        yield f"math-verify disagrees on {differ:,} of {opinions.compared:,}"
        yield from (f"  {n:,} {name}" for name, n in opinions.disagreed.most_common())
        yield from (f"  {shown.line()}" for shown in opinions.differing[:20])
    if opinions.sample:
        yield f"{len(opinions.sampled)} {opinions.which} to read:"
        yield from (f"  {shown.line()}" for shown in opinions.sampled)
    if opinions.explain is not None:
        yield from opinions.explained or [f"No response has the id {opinions.explain!r}"]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
