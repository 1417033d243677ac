"""`si-ctl verify`: responses judged against reference answers."""

import json
from pathlib import Path
from typing import Annotated

import typer

from si.cli.console import Counting, say
from si.cli.options import ForceOption, JsonOption, MapOption, SkipBadOption, mapping
from si.report.tables import percent, percents
from si.rollouts.verify import judge_file


def verify(
    file: Annotated[
        Path, typer.Argument(help="Responses and reference answers: JSON lines, JSON or Parquet.")
    ],
    columns: MapOption = None,
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
    with Counting() as counting:
        judged = judge_file(
            file,
            mapping(columns),
            out,
            judge=judge,
            timeout=timeout,
            skip_bad=skip_bad,
            force=force,
            on_event=counting.hear,
        )
    if as_json:
        typer.echo(json.dumps(judged.to_json(), indent=2))
        return
    columns_read = ", ".join(f"{name} {path}" for name, path in judged.columns.items())
    methods = ", ".join(f"{name} {count:,}" for name, count in judged.methods.most_common())
    said = [
        f"{judged.right:,} of {judged.responses:,} correct: {percent(judged.accuracy)}, "
        f"95 % interval {percents(judged.interval)}",
        f"Read {columns_read}",
        f"Decided by {methods}",
    ]
    if judged.disagreement:
        there, here = judged.disagreement
        name = judged.columns["reward"]
        said.append(
            f"The file's own {name} differs: {there:,} correct there only, {here:,} here only"
        )
    if judged.bad:
        said.append(f"{len(judged.bad):,} rows left out, the first: {judged.bad[0]}")
    if out is not None:
        said.append(f"Written: {out.resolve()}")
    for line in said:
        say(line)
