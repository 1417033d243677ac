"""The command line: one module per verb, and the only place where errors become text.

A verb's module is imported when the verb is called, so that `si-ctl --help` is about as fast as
an empty typer program.
"""

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from si import __version__
from si.errors import RETRY, SiError
from si.events import last_words


class Verb(NamedTuple):
    """A verb in the list of verbs; `help` is the first sentence of its own help."""

    panel: str
    help: str


VERBS = {
    "demo": Verb(
        "Runs", "Show plain self-improvement and guided resampling side by side, on this machine."
    ),
    "iterate": Verb("Runs", "Improve a policy on its own correct answers, iteration by iteration."),
    "study": Verb(
        "Runs", "Run several strategies with several K and seeds, and answer what they show."
    ),
    "estimate": Verb("Runs", "Estimate what a run will cost before it starts."),
    "status": Verb("Runs", "Show a run as a tree of iterations and stages, or list all runs."),
    "logs": Verb("Runs", "Show the logs of a run's stages."),
    "report": Verb("Runs", "Write a run's report as HTML, with Markdown and JSON beside it."),
    "compare": Verb("Runs", "Compare held-out accuracy and shares by level between runs."),
    "replay": Verb("Runs", "Show what another strategy would do with a run's samples."),
    "export": Verb("Runs", "Export a run's policy as a Hugging Face folder with a model card."),
    "track": Verb("Runs", "Send a run's metrics to TensorBoard, MLflow or W&B."),
    "rm": Verb("Runs", "Remove runs from the store; their artefacts stay."),
    "check": Verb(
        "Runs", "Read everything that a run refers to, and compare it with what was committed."
    ),
    "gc": Verb("Runs", "Show or delete what the store holds for no run."),
    "diagnose": Verb("Rollouts", "Show how imbalanced a set of rollouts is."),
    "rebalance": Verb("Rollouts", "Turn rollouts into balanced training rows, or into draws."),
    "verify": Verb("Rollouts", "Judge responses against reference answers."),
    "data": Verb("Data and recipes", "Import, generate, list and inspect data sets."),
    "init": Verb(
        "Data and recipes",
        "Write a recipe for your model, data set and GPUs, and estimate its cost.",
    ),
    "fetch": Verb("Data and recipes", "Copy a recipe's data set and policy 0 into the store."),
    "config": Verb("Data and recipes", "Show and check recipes and settings."),
    "doctor": Verb("Data and recipes", "Check that this machine has what a run needs."),
    "cancel": Verb("Cluster", "Stop a run on a cluster and remove its Jobs."),
    "control": Verb("", "Run the controller of a run, inside the cluster."),
}


def load(name: str) -> Any:
    """The command of a verb: its module's function of that name, or its `group` of commands."""
    module = import_module(f"si.cli.{name}")
    command: Any
    if group := getattr(module, "group", None):
        command = typer.main.get_group(group)
    else:
        app = typer.Typer(add_completion=False)
        app.command(name)(getattr(module, name))
        command = typer.main.get_command(app)
    for each in (command, *getattr(command, "commands", {}).values()):
        # One line a paragraph: a docstring's line breaks do not fit every terminal.
        each.help = "\n\n".join(" ".join(part.split()) for part in each.help.split("\n\n"))
    return command


class Verbs(TyperGroup):
    """Lists the verbs from the table, and loads the one that is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (panel, words) in VERBS.items():
            listed = TyperCommand(name, help=words, rich_help_panel=panel, hidden=not panel)
            self.add_command(listed)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, name and load(name), rest


app = typer.Typer(
    cls=Verbs,
    name="si-ctl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Self-improvement of vision-language models with head-tail re-balancing.",
)


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit with a code that says whether trying again makes sense."""
    if os.getpid() == 1:  # in a pod, where SIGTERM does nothing unless it is handled
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(RETRY))
    try:
        app(arguments)
    except SiError as error:
        from si.cli.console import show_error  # needs rich, which the list of verbs does not

        last_words(error)
        show_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output left (`| head`); nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
