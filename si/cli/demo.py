"""`si-ctl demo`: two runs of the default recipe side by side, vanilla and gr, and one page."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from si.cli.compare import compared_runs
from si.cli.console import safe, say, span
from si.cli.iterate import local_cluster, resume_command
from si.cli.options import StoreOption, resolve, shown, writing_store
from si.clusters.local import exclusive, local_folder
from si.entry import Entry
from si.events import Event
from si.loop import conclude
from si.machine.files import create_folder, write_files
from si.records import HEAD, TAIL
from si.report.compare import page
from si.report.summary import Iteration
from si.report.tables import percent
from si.run import Run
from si.runs.record import begin
from si.store.artifact import Artifact
from si.store.port import Store

STRATEGIES = ("vanilla", "gr")
# Seconds of each step on two idle cores, measured on 2026-11-28: the first guess of the time left.
SECONDS = {
    "explore": 11.0,
    "explore-2": 7.0,
    "train": 30.0,
    "evaluate-explore": 12.0,
    "report": 4.0,
}
OTHER = 2.5  # seconds of any other step


def demo(
    store: StoreOption = None,
    iterations: Annotated[
        int, typer.Option(min=1, help="Iterations of each run.  \\[default: 2]", show_default=False)
    ] = 2,
    seed: Annotated[int | None, typer.Option(help=shown("Random seed.", "seed"))] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.")] = None,
) -> None:
    """Show plain self-improvement and guided resampling side by side, on this machine.

    Runs `vanilla` and `gr` with the default recipe and writes one page. The runs share what they
    have in common. The same command again resumes.
    """
    flags: dict[str, Any] = {"iterations": iterations, "seed": seed}
    flags |= {"place.store": store, "place.workers": workers}
    recipe, place = resolve(None, None, flags)
    where = writing_store(place)
    recipes = [recipe.model_copy(update={"strategy": strategy}) for strategy in STRATEGIES]
    runs = {each.run_name: each for each in recipes}
    board = Board(iterations)
    say(
        "Two runs of a tiny vision-language model that improves itself on puzzles: vanilla (plain "
        f"self-improvement) and gr (guided resampling), {iterations} iterations each.\n"
        f"Nothing is downloaded. On two idle cores it takes about {span(board.left())}."
    )
    started = time.monotonic()
    with ExitStack() as stack:
        scratch = [stack.enter_context(exclusive(where.url, name)) for name in runs]
        cluster = local_cluster(where, place, recipe, "demo", scratch[0])
        stack.enter_context(board.shown())
        try:
            for name, each in runs.items():
                generation = begin(where, name, each)
                run = Run(name, each, where, cluster, generation)
                run.on_event = partial(board.hear, run)
                conclude(run)
        except KeyboardInterrupt:
            say(f"\nInterrupted. Resume with the same command:\n  {resume_command(False)}")
            raise typer.Exit(130) from None
    said, path = _page(where, list(runs))
    say(f"\n{said}\n\nPage: {path}    ({span(time.monotonic() - started)})")
    for name in runs:
        say(f"Report of a run: si-ctl report {name}")


def _page(where: Store, names: list[str]) -> tuple[str, Path]:
    """The comparison's page, beside the runs' reports, and its first sentence."""
    found = compared_runs(where, names)
    path = local_folder(where) / "reports" / "demo.html"
    create_folder(path.parent)
    write_files({path: page(found).encode()}, force=True)
    return found.plain, path.resolve()


# --- the table while it runs -----------------------------------------------------------------


class Row(NamedTuple):
    """What is known of a policy: accuracy on test, shares of the data that it was trained on."""

    run: str
    t: int
    head: float | None = None
    tail: float | None = None
    accuracy: float | None = None


class Board:
    """Both runs as one live table with the time left; without a terminal, a line a policy."""

    def __init__(self, iterations: int):
        self.rows: dict[tuple[str, int], Row] = {}
        self.todo: dict[tuple[str, str], float] = {}  # (strategy, entry) -> guess of its seconds
        for strategy in STRATEGIES:
            for entry, seconds in _steps(strategy, iterations):
                self.todo[strategy, entry] = seconds
        self.guessed, self.spent = 0.0, 0.0  # seconds of the steps done so far
        self.now = ""
        self.begun: dict[tuple[str, str], float] = {}  # (run, entry) -> when
        self.console = Console(highlight=False)
        self.live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the table, if there is a terminal, while the block runs."""
        if not self.console.is_terminal:
            yield
            return
        with Live(
            get_renderable=self.draw, console=self.console, refresh_per_second=2
        ) as self.live:
            try:
                yield
            finally:
                self.now = ""

    def hear(self, run: Run, event: Event) -> None:
        """Take in an event of one of the runs."""
        if event["event"] == "begin":
            self.begun[run.name, event["entry"]] = time.monotonic()
            self.now = f"{run.recipe.strategy}, {event['entry']}"
        elif event["event"] == "done":
            self._done(run, event, self.begun.get((run.name, event["entry"])))

    def _done(self, run: Run, event: Event, begun: float | None) -> None:
        strategy = run.recipe.strategy
        guess = self.todo.pop((strategy, event["entry"]), 0.0)
        if begun is not None:  # else an earlier run had done it
            self.guessed += guess
            self.spent += time.monotonic() - begun
        entry = Entry.parse(event["entry"])
        row = self.rows.get((strategy, entry.t), Row(strategy, entry.t))
        if entry.step == "rebalance":
            made = Artifact(run.store, run.stages[entry])
            found = Iteration(entry.t, {}, {}, made.json("metrics.json"))
            head, tail = (found.share("examples", levels) for levels in (HEAD, TAIL))
            row = row._replace(head=head, tail=tail)
        elif entry.step == "evaluate":
            row = row._replace(accuracy=event["facts"].get("accuracy_test"))
            if not self.live:
                line = f"{_words(row)}; about {span(self.left())} left"
                self.console.print(safe(line), soft_wrap=True)
        else:
            return
        self.rows[strategy, entry.t] = row

    def left(self) -> float:
        """Seconds that the rest will take, from the guesses and how right they were so far."""
        pace = (self.spent + 5) / (self.guessed + 5)
        return sum(self.todo.values()) * pace

    def draw(self) -> Group:
        grid = Table(header_style="bold")
        for column in ("policy", "head of its data", "tail of its data", "accuracy on test"):
            grid.add_column(column, justify="left" if column == "policy" else "right")
        for row in self.rows.values():
            cells = (percent(value) for value in (row.head, row.tail, row.accuracy))
            grid.add_row(safe(f"{row.run}, {_policy(row)}"), *cells)
        last = f"{self.now}; about {span(self.left())} left" if self.now else ""
        return Group(grid, safe(last))


def _steps(strategy: str, iterations: int) -> list[tuple[str, float]]:
    """(entry, seconds) of everything that a run has to do; what both runs share is vanilla's."""
    steps = []
    for t in range(iterations + 1):
        names = ["explore", "verify", "rebalance", "train"] if t else []
        if t and strategy == "gr":
            names[2:2] = ["resample", "explore-2", "verify-2"]
        names += ["evaluate-explore", "evaluate-verify", "evaluate"]
        if strategy == "gr":
            shared = ["explore", "verify"] if t == 1 else names if t == 0 else []
            names = [name for name in names if name not in shared]
        steps += [(str(Entry(t, name)), SECONDS.get(name, OTHER)) for name in names]
    return [*steps, (str(Entry(iterations, "report")), SECONDS["report"])]


def _policy(row: Row) -> str:
    return f"iteration {row.t}" if row.t else "policy 0"


def _words(row: Row) -> str:
    shares = "" if row.head is None else f", head {percent(row.head)}, tail {percent(row.tail)}"
    return f"{row.run}, {_policy(row)}: accuracy {percent(row.accuracy)}{shares}"
