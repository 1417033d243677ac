"""`si-ctl verify`: judge the responses of a file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from si.answers import MathPool, Policy, Tolerance
from si.cli.console import Counting, say
from si.cli.options import ForceOption, JsonOption, MapOption, SkipBadOption, mapping
from si.errors import RecipeError
from si.report.tables import percent, percents
from si.rollouts.judged import Judged
from si.rollouts.opinions import Opinions
from si.rollouts.verify import judge_file


def verify(
    file: Annotated[
        Path, typer.Argument(help="Responses and reference answers: JSON lines, JSON or Parquet.")
    ],
    columns: MapOption = None,
    profile: Annotated[
        str,
        typer.Option(
            help="strict: only answers after a mark. lenient: also the last number or option named."
        ),
    ] = "strict",
    choices: Annotated[
        str | None, typer.Option(help="Column of the options' texts; found by name if there.")
    ] = None,
    absolute: Annotated[float, typer.Option(min=0, help="Tolerance: largest difference.")] = 0.0,
    relative: Annotated[
        float, typer.Option(min=0, help="Tolerance as a share of the reference: 0.05 is 5 %.")
    ] = 0.0,
    decimals: Annotated[
        int | None, typer.Option(min=0, help="Compare after rounding to so many decimals.")
    ] = None,
    units: Annotated[
        str,
        typer.Option(help="strict: units must agree where both have one. ignore: they need not."),
    ] = "strict",
    convert: Annotated[
        bool,
        typer.Option("--convert", help="Compare units of one dimension by value: 1 m, 100 cm."),
    ] = False,
    truth: Annotated[
        str | None,
        typer.Option(help="Column of human verdicts: print agreement by kind and by rule."),
    ] = None,
    compare: Annotated[
        str | None, typer.Option(help="Ask for a second opinion: math-verify.")
    ] = None,
    sample: Annotated[
        tuple[int, str],
        typer.Option(
            help="Show so many rejected responses whose last line has the reference, or so many "
            "accepted ones whose last line does not: 20 rejected."
        ),
    ] = (0, "rejected"),
    explain: Annotated[
        str | None, typer.Option(help="Show how the response with this id was judged.")
    ] = None,
    judge: Annotated[
        str, typer.Option(help="answers, or a custom verifier: package.module:function.")
    ] = "answers",
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Processor seconds for comparing one answer.")
    ] = 5.0,
    skip_bad: SkipBadOption = False,
    out: Annotated[
        Path | None, typer.Option(help="File to write, with all rows and their verdicts.")
    ] = None,
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
    given = mapping(columns) | {
        name: column for name, column in (("choices", choices), ("truth", truth)) if column
    }
    plain = MathPool(timeout, plain=True) if compare else None
    opinions = Opinions(sample[0], _literal(sample[1]), explain, plain)
    with Counting() as counting:
        judged = judge_file(
            file,
            given,
            out,
            judge=judge,
            policy=policy,
            opinions=opinions,
            timeout=timeout,
            skip_bad=skip_bad,
            force=force,
            on_event=counting.hear,
        )
    if plain is not None:
        plain.close()
    if as_json:
        typer.echo(json.dumps(judged.to_json(), indent=2))
        return
    for line in (*_lines(judged, out), *_opinions(judged)):
        say(line)


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
