"""The command line: one file per verb, and the only place where errors become words.

Nothing heavy is imported here: a verb imports what it needs when it runs, so that
`si-ctl --help` is about as fast as an empty typer program.
"""

import os
import signal
import sys
from typing import Annotated

import typer

from si import __version__
from si.cli import (
    cancel,
    compare,
    config,
    control,
    data,
    diagnose,
    estimate,
    export,
    fetch,
    iterate,
    logs,
    rebalance,
    replay,
    report,
    status,
    track,
    verify,
)
from si.cli.options import printable
from si.errors import RETRY, SiError
from si.events import last_words

app = typer.Typer(
    name="si-ctl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Self-improvement of vision-language models with head-tail re-balancing.",
)
for verb in (
    iterate,
    estimate,
    status,
    report,
    compare,
    replay,
    export,
    track,
    logs,
    cancel,
    diagnose,
    rebalance,
    verify,
    data,
    fetch,
    config,
    control,
):
    verb.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"si-ctl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command; end with an exit code that says whether trying again makes sense."""
    if os.getpid() == 1:  # in a pod, where SIGTERM does nothing unless it is told what
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(RETRY))
    try:
        app()
    except SiError as error:
        last_words(error)
        typer.secho(f"\n{printable(error.headline)}", fg="red", bold=True, err=True)
        for line in error.detail.splitlines():
            typer.echo(f"  {printable(line)}", err=True)
        if error.ways_out:
            typer.echo("What to try:", err=True)
        for way in error.ways_out:
            typer.echo(f"  - {printable(way)}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output left (`| head`); nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
